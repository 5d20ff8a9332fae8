//! A turn at the quota: what a node tells and asks for, and what it makes of the answer.

use std::{sync::Arc, time::Duration};

use super::{
    super::permits::ON_THE_WAY, Fleet, Held, Inner, LATE_MAX, LOOK_EVERY, MADE_MAX, Own, RETRY, Refused, Standing,
};
use crate::state::{
    Error, OnLoss,
    quota::{Ask, Note, Told, micros},
};

/// A turn under way.
pub struct Turn {
    pub ask: Ask,
    sent: Duration,
    generation: u64,
    own_told: u64,
    refused: Option<Refused>,
    pause: Duration,
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
        let lease = self.terms.load().lease;
        let mut inner = self.inner.lock();
        while inner.stock.front().is_some_and(|held| held.until < now) {
            inner.void_first();
        }
        if wanted.is_none() && lease == 1 {
            inner.void_all();
        }
        let is_shared = inner.standing == Standing::Shared;
        let in_need = wanted.filter(|_| is_shared && inner.stock.is_empty() && now >= inner.free_at);
        let is_due = now >= inner.look_at || is_shared && (inner.urgent || in_need.is_some());
        if !is_due {
            return None;
        }
        let (ask, generation) = (inner.ask(), inner.generation);
        let turn = Turn { ask, sent: now, generation, own_told: 0, refused: None, pause: Duration::ZERO };
        if !is_shared {
            // Only asks whether anybody is there: a server that hangs may yet do all that it was ever sent.
            return Some(turn);
        }
        let (want, tokens) = in_need.map_or((0, 0), |(waiting, tokens)| (lease.min(waiting as u64), tokens));
        let (notes, own_told) = self.told_now(&mut inner, now);
        // As long as the quota does not know all, it can neither give rightly nor tell how much is used.
        let is_all = own_told == inner.next_own;
        inner.urgent = !is_all;
        let look = is_all && now >= inner.looked_at + LOOK_EVERY;
        let want = if is_all { u32::try_from(want).unwrap_or(u32::MAX) } else { 0 };
        let ask = Ask { notes, want, tokens, max_wait: micros(Duration::MAX), look, ..turn.ask };
        Some(Turn { ask, own_told, refused: inner.refused, pause: inner.untold_pause, ..turn })
    }

    /// What is to be told, and up to which of this node's calls.
    fn told_now(&self, inner: &mut Inner, now: Duration) -> (Vec<Note>, u64) {
        inner.put_back();
        let ago = |own: &Own| micros(now.saturating_sub(own.at));
        let mut unknown = inner.own.iter().filter(|own| !own.known);
        let calls: Vec<_> = unknown.by_ref().take(MADE_MAX).map(|own| (ago(own), own.tokens, own.id)).collect();
        let own_told = unknown.next().map_or(inner.next_own, |rest| rest.id);
        let may_have_made = inner.was_away && self.sharing.on_loss == OnLoss::LocalShare;
        let is_news = may_have_made || !calls.is_empty();
        let made = is_news.then(|| Note::Made { run: self.run.clone(), calls });
        inner.under_way = std::mem::take(&mut inner.notes);
        let mut notes: Vec<Note> = made.into_iter().chain(inner.under_way.iter().cloned()).collect();
        notes.extend(inner.lessons(now));
        if std::mem::take(&mut inner.succeeded) {
            notes.push(Note::Succeeded(1));
        }
        (notes, own_told)
    }

    /// Takes in what came of a turn.
    pub fn take_in(&self, now: Duration, turn: Turn, told: Result<Told, Error>) -> Change {
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                self.lost(now, &error);
                return Change::default();
            }
        };
        let mut inner = self.inner.lock();
        // Whatever it grants would be over before it is here.
        let is_late = now.saturating_sub(turn.sent) + ON_THE_WAY > self.validity;
        let is_away = inner.standing != Standing::Shared;
        inner.look_at = now + if is_away && is_late { RETRY } else { LOOK_EVERY };
        if is_away && is_late {
            return Change::default();
        }
        if is_away {
            (inner.standing, inner.urgent, inner.was_away, inner.late) = (Standing::Shared, true, true, 0);
            tracing::info!(limiter = self.name, "the quota is shared by all nodes again");
        }
        if told.lost {
            inner.begin_anew(now, told.birth);
            return Change::default();
        }
        inner.was_told(&turn, is_away);
        let is_new = inner.birth != told.birth;
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
        let granted = !told.grants.is_empty();
        self.stock(&mut inner, now, &turn, told.grants, told.tokens);
        if is_over {
            inner.void_all();
        }
        if granted {
            inner.late = if is_late { inner.late + 1 } else { 0 };
        }
        if inner.late >= LATE_MAX {
            self.miss(&mut inner, now, "it answers too late");
        }
        Change { paused: renewed && told.pause > 0 }
    }

    fn stock(&self, inner: &mut Inner, now: Duration, turn: &Turn, grants: Vec<(u64, u64)>, tokens: u64) {
        let (generation, birth) = (inner.generation, Arc::from(inner.birth.as_str()));
        for (wait, seq) in grants {
            let wait = Duration::from_micros(wait);
            // The server's clock was read between sending and now: not before the one, not after the other.
            let (at, until) = (now + wait, turn.sent + wait + self.validity - ON_THE_WAY);
            inner.stock.push_back(Held { at, until, seq, tokens, generation, birth: Arc::clone(&birth) });
            if until < at {
                inner.void_last();
            }
        }
    }

    /// The quota did not answer: what was asked for is lost.
    fn lost(&self, now: Duration, error: &Error) {
        let mut inner = self.inner.lock();
        inner.put_back();
        // If it was told after all, that was the incident; what is left of the pause is asked for.
        inner.refused.iter_mut().for_each(|refused| refused.is_asked = true);
        if inner.standing == Standing::Shared {
            inner.stock.clear();
        }
        self.miss(&mut inner, now, &error.to_string());
    }

    fn miss(&self, inner: &mut Inner, now: Duration, why: &str) {
        inner.look_at = now + RETRY;
        if inner.standing == Standing::Shared {
            inner.standing = Standing::Waits;
            tracing::warn!(limiter = self.name, why, on_loss = ?self.sharing.on_loss, "the quota of all nodes is away");
        }
    }
}

impl Inner {
    /// Says which quota is known, and how far.
    fn ask(&self) -> Ask {
        Ask { birth: self.birth.clone(), epoch: self.epoch, next: self.next, ..Ask::default() }
    }

    /// What was told is told again: twice is no more than once.
    fn put_back(&mut self) {
        self.urgent |= !self.under_way.is_empty();
        let newer = std::mem::take(&mut self.notes);
        self.notes = std::mem::take(&mut self.under_way);
        self.notes.extend(newer);
    }

    /// Pauses that are not over, with what is left of them.
    fn lessons(&mut self, now: Duration) -> Vec<Note> {
        self.refused = self.refused.filter(|refused| refused.until > now);
        // A span of nothing would be a 429 that names no time.
        let left = |until: Duration| micros(until - now).max(1);
        let refused = self.refused.map(|of| Note::Throttled(if of.is_asked { left(of.until) } else { 0 }, of.chance));
        let pause = (self.untold_pause > now).then(|| Note::Pause(left(self.untold_pause)));
        refused.into_iter().chain(pause).collect()
    }

    /// The quota has taken in what a turn told; one that only asked whether it is there told nothing.
    fn was_told(&mut self, turn: &Turn, only_asked: bool) {
        if only_asked {
            return;
        }
        self.under_way.clear();
        self.was_away = false;
        self.own.iter_mut().filter(|own| own.id < turn.own_told).for_each(|own| own.known = true);
        // What has come since is still to be told.
        self.refused = self.refused.filter(|refused| Some(*refused) != turn.refused);
        if self.untold_pause == turn.pause {
            self.untold_pause = Duration::ZERO;
        }
    }

    /// The quota remembers nothing, or not what we know: it is told all we have done, and numbers of before mean nothing.
    fn begin_anew(&mut self, now: Duration, birth: String) {
        self.generation += 1;
        self.stock.clear();
        (self.birth, self.epoch, self.next) = (birth, 0, 0);
        self.own.iter_mut().for_each(|own| own.known = false);
        (self.notes, self.under_way) = (Vec::new(), Vec::new());
        self.untold_pause = self.paused_until.max(self.asked_until);
        self.notes.extend(self.header.map(Note::LimitHeader));
        (self.urgent, self.free_at) = (true, now);
    }
}
