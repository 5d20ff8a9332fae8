//! A turn at the quota: what a node tells and asks for, and what it makes of the answer.

use std::{sync::Arc, time::Duration};

use super::{super::permits::ON_THE_WAY, Fleet, Held, Inner, LOOK_EVERY, RETRY, Standing};
use crate::state::{
    Error,
    quota::{Ask, Note, Told, micros},
};

/// A turn under way.
pub struct Turn {
    pub ask: Ask,
    sent: Duration,
    generation: u64,
    own_told: u64,
}

/// What a turn has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The service has been paused since the last turn.
    pub paused: bool,
}

impl Fleet {
    /// The turn that is due, if one is; `wanted`: how many wait for permits, and the tokens of the first.
    pub fn turn(&self, now: Duration, wanted: Option<(usize, u64)>) -> Option<Turn> {
        let mut inner = self.inner.lock();
        while inner.stock.front().is_some_and(|held| held.until < now) {
            inner.void_first();
        }
        if wanted.is_none() && self.lease == 1 {
            inner.void_all();
        }
        let is_shared = inner.standing == Standing::Shared;
        let in_need = wanted.filter(|_| is_shared && inner.stock.is_empty() && now >= inner.free_at);
        let is_due = now >= inner.look_at || is_shared && (inner.urgent || in_need.is_some());
        if !is_due {
            return None;
        }
        if !is_shared {
            // Only asks whether anybody is there: a server that hangs may yet do all that it was ever sent.
            let ask = inner.ask();
            return Some(Turn { ask, sent: now, generation: inner.generation, own_told: 0 });
        }
        let (want, tokens) = in_need.map_or((0, 0), |(waiting, tokens)| (self.lease.min(waiting as u64), tokens));
        let unknown: Vec<(u64, u64)> = inner
            .own
            .iter()
            .filter(|own| !own.known)
            .map(|own| (micros(now.saturating_sub(own.at)), own.tokens))
            .collect();
        let mut notes = std::mem::take(&mut inner.notes);
        if !unknown.is_empty() {
            notes.insert(0, Note::Made(unknown));
        }
        if std::mem::take(&mut inner.succeeded) {
            notes.push(Note::Succeeded(1));
        }
        inner.urgent = false;
        let look = now >= inner.looked_at + LOOK_EVERY;
        let want = u32::try_from(want).unwrap_or(u32::MAX);
        let ask = Ask { notes, want, tokens, max_wait: micros(Duration::MAX), look, ..inner.ask() };
        Some(Turn { ask, sent: now, generation: inner.generation, own_told: inner.next_own })
    }

    /// Takes in what came of a turn.
    pub fn take_in(&self, now: Duration, turn: Turn, told: Result<Told, Error>) -> Change {
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                self.lost(now, turn, &error);
                return Change::default();
            }
        };
        let mut inner = self.inner.lock();
        inner.look_at = now + LOOK_EVERY;
        if inner.standing != Standing::Shared {
            (inner.standing, inner.urgent) = (Standing::Shared, true);
            tracing::info!(limiter = self.name, "the quota is shared by all nodes again");
        }
        if told.lost {
            inner.begin_anew(now, told.birth, turn);
            return Change::default();
        }
        let is_new = inner.birth != told.birth;
        inner.own.iter_mut().filter(|own| own.id < turn.own_told).for_each(|own| own.known = true);
        let is_over = inner.generation != turn.generation || (told.epoch < inner.epoch && !is_new);
        let renewed = told.epoch > inner.epoch;
        if renewed || is_new {
            inner.begin_generation();
        }
        if is_new {
            (inner.birth, inner.epoch, inner.next) = (told.birth, 0, 0);
        }
        (inner.epoch, inner.next) = (inner.epoch.max(told.epoch), inner.next.max(told.next));
        inner.paused_until = now + Duration::from_micros(told.pause);
        inner.free_at = now + Duration::from_micros(told.free);
        if !told.uses.is_empty() {
            (inner.uses, inner.looked_at) = (told.uses, turn.sent);
        }
        let (generation, birth) = (inner.generation, Arc::from(inner.birth.as_str()));
        for (wait, seq) in told.grants {
            let wait = Duration::from_micros(wait);
            // The server's clock was read between sending and now: not before the one, not after the other.
            let (at, until) = (now + wait, turn.sent + wait + self.validity - ON_THE_WAY);
            inner.stock.push_back(Held { at, until, seq, tokens: told.tokens, generation, birth: Arc::clone(&birth) });
            if is_over || until < at {
                inner.void_last();
            }
        }
        Change { paused: renewed && told.pause > 0 }
    }

    /// The quota did not answer: what was asked for is lost.
    fn lost(&self, now: Duration, turn: Turn, error: &Error) {
        let mut inner = self.inner.lock();
        inner.look_at = now + RETRY;
        // Twice is no more than once for these, and for the others unknown is lost.
        let lessons =
            turn.ask.notes.into_iter().filter(|note| matches!(note, Note::Throttled(..) | Note::LimitHeader(_)));
        let newer = std::mem::take(&mut inner.notes);
        inner.notes = lessons.chain(newer).collect();
        if inner.standing == Standing::Shared {
            inner.stock.clear();
            inner.standing = Standing::Waits;
            tracing::warn!(limiter = self.name, %error, on_loss = ?self.sharing.on_loss, "the quota of all nodes is away");
        }
    }
}

impl Inner {
    /// Says which quota is known, and how far.
    fn ask(&self) -> Ask {
        Ask { birth: self.birth.clone(), epoch: self.epoch, next: self.next, ..Ask::default() }
    }

    /// The quota remembers nothing, or not what we know: it is told all we have done, and numbers of before mean nothing.
    fn begin_anew(&mut self, now: Duration, birth: String, turn: Turn) {
        self.generation += 1;
        self.stock.clear();
        (self.birth, self.epoch, self.next) = (birth, 0, 0);
        self.own.iter_mut().for_each(|own| own.known = false);
        let lessons = turn.ask.notes.into_iter().chain(std::mem::take(&mut self.notes));
        let lessons = lessons.filter(|note| !matches!(note, Note::Void(_) | Note::Settle(..) | Note::Made(_)));
        self.notes = lessons.collect();
        if self.paused_until > now {
            self.notes.push(Note::Pause(micros(self.paused_until - now)));
        }
        self.notes.extend(self.header.map(Note::LimitHeader));
        (self.urgent, self.free_at) = (true, now);
    }
}
