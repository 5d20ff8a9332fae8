//! A node's part in a quota that the fleet shares: its stock of permits, what it has to tell, and what it does alone.
//!
//! The limiter's actor is the node's only reserver and has at most one reservation ahead, so a node with many callers
//! gets no more than its neighbours. While the quota cannot be asked, the node goes on in its own machine with a share
//! of what was left; what it did alone it tells first when the quota is back.

#[cfg(test)]
mod loss_tests;
mod share;
#[cfg(test)]
mod tests;
mod turn;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::limiter::{Limiter, Limits, PAUSE_MAX, WindowUse};
use crate::state::{
    OnLoss,
    quota::{Ask, Note, Policy, Quotas, Use},
};

/// The quota is looked at so often even if nobody asks: what is left is to be known when it is lost, and a pause whose
/// announcement was missed is seen.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The pause between attempts while the quota is away.
const RETRY: Duration = Duration::from_millis(500);
/// Calls told in one turn at most: the quota's server does nothing else meanwhile.
const MADE_MAX: usize = 1_000;
/// When the permits of so many turns in a row have come too late, a quota that answers is as good as away.
const LATE_MAX: u32 = 3;
/// Permits taken in one turn at most.
const LEASE_MAX: u64 = 256;

/// What is shared, and what happens without it.
#[derive(Clone)]
pub struct Sharing {
    /// The quotas of the fleet.
    pub quotas: Arc<dyn Quotas>,
    /// What a node does while these are away.
    pub on_loss: OnLoss,
    /// How many nodes were alive when that was last known; 0: never known.
    pub live_nodes: Arc<dyn Fn() -> usize + Send + Sync>,
}

/// A node's part in one quota.
pub(super) struct Fleet {
    name: &'static str,
    /// Names this run of the node's limiter to the quota, which tells by it what it was told before.
    run: String,
    pub sharing: Sharing,
    terms: ArcSwap<Terms>,
    validity: Duration,
    inner: Mutex<Inner>,
}

/// What follows from the limits; changed when an operator sets others.
pub(super) struct Terms {
    pub policy: Policy,
    longest: Duration,
    lease: u64,
}

#[derive(Default)]
struct Inner {
    standing: Standing,
    /// Permits of an earlier one are invalid.
    generation: u64,
    birth: String,
    epoch: u64,
    /// The number that was to be given next.
    next: u64,
    stock: VecDeque<Held>,
    notes: Vec<Note>,
    /// What a turn under way tells; told again if nobody takes in what comes of it.
    under_way: Vec<Note>,
    /// A 429 of which the quota may not know.
    refused: Option<Refused>,
    /// The end (monotonic) of a pause of which the quota may not know.
    untold_pause: Duration,
    /// The end (monotonic) of what the service has asked of this node.
    asked_until: Duration,
    /// The quota was away, and has not been told what was made meanwhile.
    was_away: bool,
    /// Turns in a row whose permits came too late.
    late: u32,
    /// Something is to be told at once.
    urgent: bool,
    /// Since the last turn the service has answered.
    succeeded: bool,
    header: Option<u64>,
    /// What this node has called within the longest window.
    own: VecDeque<Own>,
    next_own: u64,
    uses: Vec<Use>,
    looked_at: Duration,
    paused_until: Duration,
    free_at: Duration,
    look_at: Duration,
}

/// How a node stands to the quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// It takes part.
    #[default]
    Shared,
    /// The quota is away: the node goes on with its share.
    Alone,
    /// The quota is away, and nothing may be done.
    Waits,
}

/// A permit of the quota.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub at: Duration,
    pub until: Duration,
    pub seq: u64,
    pub tokens: u64,
    generation: u64,
    birth: Arc<str>,
}

/// Calls of an earlier life: when (monotonic), and with how many tokens.
pub(super) type Past = Vec<(Duration, u64)>;

/// A 429 that is to be told.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Refused {
    /// When (monotonic) its pause ends.
    until: Duration,
    /// The service has named the end, or it was told before.
    is_asked: bool,
    chance: f64,
}

/// A call of this node.
struct Own {
    id: u64,
    at: Duration,
    tokens: u64,
    /// The quota knows of it.
    known: bool,
}

impl Fleet {
    /// `past`: the calls of an earlier life of this node, and when (monotonic) they were made; `paused_until`: the end of
    /// a pause that was asked for then.
    pub fn new(
        name: &'static str,
        limits: &Limits,
        validity: Duration,
        sharing: Sharing,
        past: Past,
        paused_until: Duration,
    ) -> Self {
        let terms = ArcSwap::from_pointee(Terms::of(limits, validity));
        let birth = if past.is_empty() { "" } else { Ask::REMEMBERS }.to_owned();
        let own: VecDeque<Own> =
            (0..).zip(past).map(|(id, (at, tokens))| Own { id, at, tokens, known: true }).collect();
        let (next_own, untold_pause) = (own.len() as u64, paused_until);
        let inner = Inner { birth, next_own, own, untold_pause, asked_until: paused_until, ..Inner::default() };
        let run = format!("{:016x}", rand::random::<u64>());
        Self { name, run, sharing, terms, validity, inner: Mutex::new(inner) }
    }

    /// Other limits hold from now on: what is in stock goes back, and the quota hears of them with the next turn.
    pub fn set_limits(&self, limits: &Limits) {
        let before = self.terms.load_full();
        let mut terms = Terms::of(limits, self.validity);
        // What has been done is remembered also while less is allowed, and counts when more is again.
        terms.policy.entries = terms.policy.entries.max(before.policy.entries);
        terms.longest = terms.longest.max(before.longest);
        self.terms.store(Arc::new(terms));
        let mut inner = self.inner.lock();
        inner.begin_generation();
        inner.urgent = true;
        if inner.standing == Standing::Alone {
            (inner.standing, inner.look_at) = (Standing::Waits, Duration::ZERO);
        }
    }

    /// The limits as the quota is told them.
    pub fn terms(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    pub fn standing(&self) -> Standing {
        self.inner.lock().standing
    }

    /// Takes a permit for a request of so many tokens from the stock, or says when (monotonic) to look again.
    pub fn take(&self, now: Duration, tokens: u64) -> Result<Held, Duration> {
        let limit = self.terms.load().policy.tokens;
        let mut inner = self.inner.lock();
        while inner.stock.front().is_some_and(|held| held.until < now) {
            inner.void_first();
        }
        let needed = tokens.min(limit);
        let too_small = |held: &Held| limit > 0 && held.tokens < needed;
        match inner.stock.front().cloned() {
            // It was reserved for somebody who wanted less and has left.
            Some(held) if held.at <= now && too_small(&held) => inner.void_first(),
            Some(held) if held.at <= now => {
                inner.stock.pop_front();
                return Ok(held);
            }
            Some(held) => return Err(held.at),
            None => {}
        }
        Err(inner.free_at)
    }

    /// When (monotonic) a permit is free, as things are.
    pub fn free_at(&self, now: Duration) -> Duration {
        let inner = self.inner.lock();
        match inner.standing {
            Standing::Waits => now + RETRY,
            _ => inner.stock.front().map_or(inner.free_at, |held| held.at).max(now),
        }
    }

    /// A permit was not used: the next in line takes it, or the quota gets it back.
    pub fn give_back(&self, now: Duration, held: Held) {
        let mut inner = self.inner.lock();
        let is_over = held.until < now || held.generation != inner.generation;
        inner.stock.push_front(held);
        if is_over {
            inner.void_first();
        }
    }

    /// Whether a permit may be used now.
    pub fn is_valid(&self, now: Duration, held: &Held) -> bool {
        held.at <= now && now <= held.until && held.generation == self.inner.lock().generation
    }

    /// A call begins, with a permit of the quota or without its knowledge.
    pub fn called(&self, now: Duration, tokens: u64, known: bool) {
        let longest = self.terms.load().longest;
        let mut inner = self.inner.lock();
        let id = inner.next_own;
        inner.next_own += 1;
        inner.own.push_back(Own { id, at: now, tokens, known });
        while inner.own.front().is_some_and(|oldest| oldest.at + longest + self.validity <= now) {
            inner.own.pop_front();
        }
    }

    /// A request has really used so many tokens.
    pub fn settle(&self, held: &Held, tokens: u64) {
        let limit = self.terms.load().policy.tokens;
        let mut inner = self.inner.lock();
        let is_of_interest = limit > 0 && tokens != held.tokens;
        if is_of_interest && inner.birth == *held.birth {
            inner.notes.push(Note::Settle(held.seq, tokens));
        }
    }

    /// The service answered 429: whatever is held is invalid from now on, here; and soon everywhere. `paused_until`: as the
    /// machine in here decided.
    pub fn throttled(&self, now: Duration, retry_after: Option<Duration>, paused_until: Option<Duration>) {
        let mut inner = self.inner.lock();
        inner.begin_generation();
        let asked = retry_after.filter(|asked| !asked.is_zero()).map(|asked| now + asked.min(PAUSE_MAX));
        let until = asked.or(paused_until).unwrap_or(now);
        let mut refused = Refused { until, is_asked: asked.is_some(), chance: rand::random() };
        // However many there are before they can be told, they are one incident.
        if let Some(before) = inner.refused {
            refused.until = until.max(before.until);
            refused.is_asked |= before.is_asked;
        }
        (inner.refused, inner.asked_until) = (Some(refused), inner.asked_until.max(until));
        inner.urgent = true;
    }

    /// The service answered.
    pub fn succeeded(&self) {
        self.inner.lock().succeeded = true;
    }

    /// The service's own limit of requests a minute, as an answer tells it.
    pub fn hear_limit(&self, limit: u64) {
        let mut inner = self.inner.lock();
        if inner.header != Some(limit) {
            inner.header = Some(limit);
            inner.notes.push(Note::LimitHeader(limit));
        }
    }

    /// Another node has announced an epoch; returns whether that is news. A line may still hang on a master whose life
    /// is over: what is said of another birth means nothing.
    pub fn heard(&self, birth: &str, epoch: u64) -> bool {
        let mut inner = self.inner.lock();
        let is_news = birth == inner.birth && epoch > inner.epoch;
        if is_news {
            inner.epoch = epoch;
            inner.begin_generation();
            inner.urgent = true;
        }
        is_news
    }

    /// The machine to go on with alone, if that is allowed and not done yet.
    pub fn share(&self, now: Duration, limits: &Limits) -> Option<Limiter> {
        let mut inner = self.inner.lock();
        if inner.standing != Standing::Waits || self.sharing.on_loss == OnLoss::Wait {
            return None;
        }
        let own: Vec<(Duration, u64)> = inner.own.iter().map(|own| (own.at, own.tokens)).collect();
        let left = share::Left { uses: &inner.uses, looked_at: inner.looked_at, own: &own };
        let share = left.share(now, limits, self.validity, (self.sharing.live_nodes)())?;
        let mut machine = Limiter::new(share, self.validity);
        for (at, tokens) in own {
            machine.made(at, tokens);
        }
        machine.pause(now, inner.paused_until.max(inner.asked_until));
        inner.standing = Standing::Alone;
        Some(machine)
    }

    /// When (monotonic) the quota is to be looked at next.
    pub fn look_at(&self) -> Duration {
        self.inner.lock().look_at
    }

    /// How full each window was when that was last looked at.
    pub fn used(&self) -> Vec<WindowUse> {
        self.inner.lock().uses.iter().map(share::shown).collect()
    }
}

impl Inner {
    fn void_first(&mut self) {
        let first = self.stock.pop_front();
        self.void(first);
    }

    fn void_last(&mut self) {
        let last = self.stock.pop_back();
        self.void(last);
    }

    fn void_all(&mut self) {
        while !self.stock.is_empty() {
            self.void_first();
        }
    }

    fn void(&mut self, held: Option<Held>) {
        // A number of another life names somebody else's permit.
        if let Some(held) = held.filter(|held| *held.birth == *self.birth) {
            self.notes.push(Note::Void(held.seq));
            self.urgent = true;
        }
    }

    /// Makes all that is held invalid.
    fn begin_generation(&mut self) {
        self.generation += 1;
        self.void_all();
    }
}

impl Terms {
    fn of(limits: &Limits, validity: Duration) -> Self {
        let policy = limits.policy(validity);
        Self { longest: share::longest(limits), lease: lease(&policy), policy }
    }
}

/// How many permits a turn takes: what the tightest window allows in a tenth of V, so that only a service with many calls
/// a second shares its quota in larger pieces.
fn lease(policy: &Policy) -> u64 {
    let windows = [(policy.minute, 60_000_000), (policy.hour, 3_600_000_000)];
    let limits = windows.iter().chain(&policy.windows).filter(|(requests, per)| *requests > 0 && *per > 0);
    let within =
        limits.map(|(requests, per)| u128::from(*requests) * u128::from(policy.validity) / 10 / u128::from(*per));
    let tightest = within.min().unwrap_or(1).clamp(1, LEASE_MAX as u128);
    // Estimates of tokens differ from caller to caller.
    if policy.tokens > 0 { 1 } else { tightest as u64 }
}
