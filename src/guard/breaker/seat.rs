//! A node's seat at the fleet's breaker: the last document known, what the board is still to be told, and a lease that
//! waits for its caller. Pure; the gate asks the board and tells the seat what it said.
//!
//! ```text
//!   outcomes, orders, a wish to probe -> begin -> Turn -- written ----> commit
//!                                                  |  \-- conflict --> redo, on the document that was there
//!                                                  +----- away ------> alone: the same change, kept by this node
//! ```
//! When the board is back, the higher generation wins: a board that knows more is believed, one that knows less (it
//! was flushed, or lost its last writes) is written anew.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::{
    Config, Counts, Mode, Outcome, Snapshot, State,
    fleet::{Digest, Ended, Fleet},
    report::{Caller, Fingerprint},
};

/// A lease is taken this soon, or given back: its caller is gone. A call begun that late ends before its lease does.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);

/// Successes wait this long at most to be reported, and a node with nothing to report reads the board as often.
const SUCCESSES_MAX_AGE: Duration = Duration::from_secs(1);

/// Successes wait this long to be reported while somebody reports failures.
const SUCCESSES_MAX_AGE_IN_DOUBT: Duration = Duration::from_millis(100);

/// The seat; times are the board's.
pub struct Seat {
    /// Names this process among the nodes.
    me: u64,
    config: Config,
    call_timeout: Duration,
    known: Fleet,
    /// The board's, when `known` was read or written.
    version: u64,
    /// The board knows less than we do.
    is_behind: bool,
    work: Work,
    /// Of the turn that is under way: what must not be lost with whoever takes it.
    telling: Work,
    held: Option<Held>,
}

/// What the board is still to be told.
#[derive(Clone, Debug, Default)]
struct Work {
    digest: Digest,
    ended: Vec<Ended>,
    order: Option<Mode>,
    want: Option<Fingerprint>,
}

/// A lease that waits for its caller.
#[derive(Clone, Copy, Debug)]
struct Held {
    given: Given,
    who: Fingerprint,
    until: Duration,
}

/// Names a call among the fleet's: its generation, and the lease of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The fleet's generation at the time.
    pub generation: u64,
    /// The lease of a probe.
    pub lease: Option<u64>,
}

impl Given {
    /// Whether the fleet's state hangs on this call.
    pub fn is_probe(self) -> bool {
        self.lease.is_some()
    }
}

/// One change of the document, to be written where `expected` is the version.
#[must_use = "what a turn carries is lost with it"]
pub struct Turn {
    /// The version it builds on.
    pub expected: u64,
    /// Whether others must hear of it at once.
    pub is_news: bool,
    next: Fleet,
    work: Work,
    /// The lease that it takes out.
    lent: Option<Held>,
}

impl Turn {
    /// The document.
    pub fn body(&self) -> Vec<u8> {
        self.next.write()
    }

    /// The latest time that the document has seen.
    pub fn seen(&self) -> Duration {
        self.next.seen()
    }
}

impl Seat {
    /// A seat at a breaker of which nothing is known yet. `me` is another for each process.
    pub fn new(me: u64, config: Config, call_timeout: Duration) -> Self {
        Self {
            me,
            call_timeout,
            known: Fleet::new(config.clone()),
            config,
            version: 0,
            is_behind: false,
            work: Work::default(),
            telling: Work::default(),
            held: None,
        }
    }

    /// Closed, open or half-open, as far as is known here.
    pub fn state(&self) -> State {
        self.known.state()
    }

    /// Who decides.
    pub fn mode(&self) -> Mode {
        self.known.mode()
    }

    /// The number of the last change known.
    pub fn generation(&self) -> u64 {
        self.known.generation()
    }

    /// What is known of it.
    pub fn snapshot(&self, now: Duration) -> Snapshot {
        self.known.snapshot(now)
    }

    /// Until when a caller is refused; `None`: it is closed, or he may ask for a probe.
    pub fn refused_until(&self, now: Duration, caller: Caller<'_>) -> Option<Duration> {
        let who = Fingerprint::from(caller);
        if self.held(now, who).is_some() {
            return None;
        }
        self.known.refused_until(now, who)
    }

    /// Wishes for a probe on behalf of a caller, who is among those that wait; one at a time.
    pub fn wish(&mut self, caller: Caller<'_>) {
        self.work.want.get_or_insert(caller.into());
    }

    /// Whether the board is still to be asked for this caller.
    pub fn wishes(&self, caller: Caller<'_>) -> bool {
        self.work.want == Some(caller.into())
    }

    /// Takes the lease that was asked for this caller.
    pub fn take(&mut self, now: Duration, caller: Caller<'_>) -> Option<Given> {
        let held = self.held(now, caller.into())?;
        self.held = None;
        Some(held.given)
    }

    /// The caller is gone: his wish is forgotten, his lease goes back.
    pub fn leave(&mut self, caller: Caller<'_>) {
        let who = Fingerprint::from(caller);
        self.work.want.take_if(|want| *want == who);
        if let Some(held) = self.held.take_if(|held| held.who == who) {
            self.give_back(held);
        }
    }

    /// What a call is named that passes while the breaker is closed.
    pub fn pass(&self) -> Given {
        Given { generation: self.generation(), lease: None }
    }

    /// Notes how a call ended.
    pub fn note(&mut self, given: Given, caller: Caller<'_>, outcome: Outcome) {
        let failed = self.config.failed(outcome);
        if let Some(lease) = given.lease {
            self.work.ended.push(Ended { generation: given.generation, lease, who: caller.into(), failed });
            return;
        }
        if given.generation != self.generation() || self.state() != State::Closed {
            return;
        }
        if self.work.digest.generation != given.generation {
            self.work.digest = Digest::of(given.generation);
        }
        match failed {
            Some(true) => self.work.digest.fail(Fingerprint::from(caller).conversation),
            Some(false) => self.work.digest.succeed(self.config.slow(outcome)),
            None => {}
        }
    }

    /// Orders the fleet's breaker to be held open or closed, or to decide again.
    pub fn order(&mut self, mode: Mode) {
        self.work.order = Some(mode);
    }

    /// Whether the board is to be told at once; successes alone can wait, but for the first.
    pub fn is_urgent(&self, now: Duration) -> bool {
        let work = &self.work;
        let has_lapsed = self.held.is_some_and(|held| held.until <= now);
        let telling = &self.telling;
        let of_work = work.digest.has_failures()
            || [work, telling].iter().any(|work| !work.ended.is_empty() || work.order.is_some());
        // Its veto must be there before others fail; what comes after the first success only renews it.
        let is_first_success = work.digest.has_success() && !self.known.has_veto_of(now, self.me);
        of_work || is_first_success || work.want.is_some() || has_lapsed || self.is_behind
    }

    /// How long after the last turn the next is due, when nothing is urgent.
    pub fn patience(&self) -> Duration {
        let is_news = !self.work.digest.is_empty() && self.known.is_in_doubt();
        if is_news { SUCCESSES_MAX_AGE_IN_DOUBT } else { SUCCESSES_MAX_AGE }
    }

    /// Begins to tell the board what is new here; `None` when nothing is. `own` is the node's own last minute.
    pub fn begin(&mut self, now: Duration, own: Counts, random: &mut impl FnMut() -> f64) -> Option<Turn> {
        if let Some(held) = self.held.take_if(|held| held.until <= now) {
            self.give_back(held);
        }
        // Of a turn that was broken off. It may have been written all the same, and this bears to be told twice.
        let left = std::mem::take(&mut self.telling);
        self.put_back(left);
        let mut work = std::mem::take(&mut self.work);
        work.digest.own = own;
        let turn = self.plan(work, now, random)?;
        self.telling = Work { ended: turn.work.ended.clone(), order: turn.work.order, ..Work::default() };
        Some(turn)
    }

    /// The turn was written, as this version.
    pub fn commit(&mut self, turn: Turn, version: u64) {
        self.version = version;
        self.is_behind = !self.keep(turn);
        self.telling = Work::default();
    }

    /// Somebody else was quicker, this is what he wrote; the same turn on top of it, if there is still something to do.
    pub fn redo(
        &mut self,
        turn: Turn,
        version: u64,
        board: Option<Fleet>,
        now: Duration,
        random: &mut impl FnMut() -> f64,
    ) -> Option<Turn> {
        self.heard(version, board);
        let again = self.plan(turn.work, now, random);
        if again.is_none() {
            self.telling = Work::default();
        }
        again
    }

    /// Puts a turn off: the next one carries what it carried.
    pub fn put_off(&mut self, turn: Turn) {
        self.telling = Work::default();
        self.put_back(turn.work);
    }

    fn put_back(&mut self, work: Work) {
        let Work { digest, mut ended, order, want } = work;
        ended.append(&mut self.work.ended);
        self.work.ended = ended;
        self.work.order = self.work.order.or(order);
        self.work.want = self.work.want.or(want);
        // What came meanwhile is younger and matters more.
        if self.work.digest.is_empty() {
            self.work.digest = digest;
        }
    }

    /// The board is away, or may not have heard it: the node goes on by itself with the same change.
    pub fn alone(&mut self, turn: Turn) {
        // What was overtaken by an announcement decides nothing any more. Whether the board is behind is seen again
        // when it can be read.
        let _ = self.keep(turn);
        self.is_behind = false;
        self.telling = Work::default();
    }

    /// Hears what the board says, of a version that is not older than one heard before, unless the board was lost.
    pub fn heard(&mut self, version: u64, board: Option<Fleet>) {
        self.version = version;
        match board {
            Some(board) if board.generation() >= self.generation() => {
                self.is_behind = false;
                self.adopt(board);
            }
            // An empty board that knows less than nothing need not be written.
            board => self.is_behind = board.is_some() || self.generation() > 0,
        }
    }

    /// Hears what was announced. Announcements may come late, and then say nothing.
    pub fn announced(&mut self, version: u64, board: Option<Fleet>) {
        if version > self.version {
            self.heard(version, board);
        }
    }

    fn held(&self, now: Duration, who: Fingerprint) -> Option<Held> {
        self.held.filter(|held| held.who == who && now < held.until && held.given.generation == self.generation())
    }

    fn give_back(&mut self, held: Held) {
        let Given { generation, lease } = held.given;
        let lease = lease.expect("what is held is a probe's");
        self.work.ended.push(Ended { generation, lease, who: held.who, failed: None });
    }

    fn plan(&mut self, work: Work, now: Duration, random: &mut impl FnMut() -> f64) -> Option<Turn> {
        let mut next = self.known.clone();
        if let Some(mode) = work.order {
            next.force(now, mode);
        }
        for ended in &work.ended {
            next.end(now, ended, random());
        }
        // Only then: that a veto has run out does not make old failures new. A node that fails alone in a quiet fleet
        // has opened by itself, and opens for all only with another failure.
        if !work.digest.is_empty() {
            next.learn(now, self.me, &work.digest, random());
        }
        let lent = work.want.and_then(|who| self.lend(&mut next, now, who, random));
        let digest_counts = !work.digest.is_empty() && work.digest.generation == self.generation();
        let is_news = next.is_news_after(&self.known);
        // An order that changes nothing here may change what is on the board.
        let has_something_to_tell = digest_counts || is_news || self.is_behind || work.order.is_some();
        let is_news = is_news || self.is_behind;
        has_something_to_tell.then_some(Turn { expected: self.version, is_news, next, work, lent })
    }

    fn lend(
        &self,
        next: &mut Fleet,
        now: Duration,
        who: Fingerprint,
        random: &mut impl FnMut() -> f64,
    ) -> Option<Held> {
        // Two draws of 32 bits each: no two leases of a fleet are called alike.
        let half = |unit: f64| (unit * f64::from(u32::MAX)) as u64;
        let token = half(random()) << 32 | half(random());
        let lent = self.held.is_none() && next.acquire(now, who, self.call_timeout, token);
        let given = Given { generation: next.generation(), lease: Some(token) };
        lent.then_some(Held { given, who, until: now.saturating_add(TAKEN_WITHIN) })
    }

    /// Takes over what the turn made of it, unless something newer was announced meanwhile.
    fn keep(&mut self, turn: Turn) -> bool {
        let is_current = turn.next.generation() >= self.generation();
        if is_current {
            // One that waited when the turn began may be taken by now.
            self.held = turn.lent.or(self.held);
            self.adopt(turn.next);
        }
        is_current
    }

    fn adopt(&mut self, known: Fleet) {
        self.known = known;
        // A lease of another generation decides nothing any more; it is over for the board as well when it expires.
        let generation = self.generation();
        if let Some(held) = self.held.take_if(|held| held.given.generation != generation) {
            self.give_back(held);
        }
    }
}
