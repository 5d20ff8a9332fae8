//! The limiter of one service as callers meet it: they queue, and are handed permits in order, each class by its share
//! ([`super::lines`]).
//!
//! The bookkeeping lies in a pure machine ([`super::limiter`]); the queue is served by the limiter's actor
//! (`actors/limiter.rs`), which sleeps until the next permit is due. A permit that nobody uses goes back.
//! Where nodes share a quota, permits come out of a stock that the actor fills ([`super::fleet`]), and from the machine
//! only while the quota is away.

mod permit;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::permit::Right;
pub use self::permit::{Call, Permit};
use super::{
    bell::Bell,
    fair::{Class, Shares},
    fleet::{Fleet, Sharing, Standing},
    limiter::{Limiter, Limits, PAUSE_MAX, Reservation, WindowUse},
    lines::{Asking, Lines},
    machine::Machine,
    slow_start::SlowStart,
};
use crate::{
    store::calls::{Calls, Past},
    telemetry::Clock,
};

/// The windows are longer by this, so the limit holds at the service and not only in our books: within it a permit is
/// used and the call arrives.
pub const VALIDITY: Duration = Duration::from_millis(300);

/// The part of it that is left for the way: a permit is used before. Two calls count as far apart as they arrive.
pub(super) const ON_THE_WAY: Duration = Duration::from_millis(100);

/// How soon a slow start is looked at again when no call ends.
const SLOW_START_POLL: Duration = Duration::from_millis(500);

/// What is due now is looked at again no sooner than this, whatever a clock says.
const SOON: Duration = Duration::from_millis(1);

/// With more turns to take than fit into this, the actor is told to come again: who works on one message for long is
/// held to be stuck.
const ATTEND_MAX: Duration = Duration::from_secs(1);

/// The limiter of one service.
pub struct Permits {
    name: &'static str,
    clock: Clock,
    calls: Arc<Calls>,
    machine: Mutex<Machine>,
    lines: Mutex<Lines>,
    waiting: AtomicUsize,
    slow_start: Mutex<SlowStart>,
    /// As configured.
    configured: Limits,
    /// In force, as far as nothing was learned of the service.
    limits: ArcSwap<Limits>,
    pub(super) fleet: Option<Fleet>,
    /// Rings for the actor.
    pub bell: Bell,
}

impl Permits {
    /// Makes a limiter that takes account of what was done and asked for before the start.
    pub fn new(name: &'static str, limits: Limits, clock: Clock, calls: Arc<Calls>, past: &Past) -> Arc<Self> {
        Self::among(name, limits, clock, calls, past, None)
    }

    /// The same as one of the nodes that share a quota. Without limits there is nothing to share.
    pub fn among(
        name: &'static str,
        limits: Limits,
        clock: Clock,
        calls: Arc<Calls>,
        past: &Past,
        sharing: Option<Sharing>,
    ) -> Arc<Self> {
        let (wall, monotonic) = (clock.now(), clock.monotonic());
        let mut limiter = Limiter::new(limits.clone(), VALIDITY);
        let made = past.calls.iter().filter(|call| call.limiter == name);
        let made: Vec<_> = made.map(|call| (monotonic.saturating_sub(wall.since(call.at)), call.tokens)).collect();
        for (at, tokens) in &made {
            limiter.made(*at, *tokens);
        }
        for pause in past.pauses.iter().filter(|pause| pause.limiter == name) {
            limiter.pause(monotonic, monotonic + pause.until.since(wall).min(PAUSE_MAX));
        }
        let sharing = sharing.filter(|_| limits.limits_anything());
        let paused_until = limiter.paused_until(monotonic).unwrap_or_default();
        let fleet = sharing.map(|sharing| Fleet::new(name, &limits, VALIDITY, sharing, made, paused_until));
        Arc::new(Self {
            name,
            clock,
            calls,
            machine: Mutex::new(Machine::new(limiter)),
            lines: Mutex::default(),
            waiting: AtomicUsize::new(0),
            slow_start: Mutex::default(),
            configured: limits.clone(),
            limits: ArcSwap::from_pointee(limits),
            fleet,
            bell: Bell::default(),
        })
    }

    /// From now on the classes share so, when both wait; in the beginning evenly.
    pub fn set_shares(&self, shares: Shares) {
        self.lines.lock().set_shares(shares);
    }

    /// Other limits hold from now on, until others are set or the process ends; permits that are not used yet are void.
    pub fn set_limits(&self, limits: Limits) {
        self.limits.store(Arc::new(limits.clone()));
        match &self.fleet {
            // The machine has this node's share, which is worked out anew.
            Some(fleet) => fleet.set_limits(&limits),
            None => self.machine.lock().limiter.set_limits(self.clock.monotonic(), limits),
        }
        self.bell.ring();
    }

    /// The limits as configured.
    pub fn configured(&self) -> &Limits {
        &self.configured
    }

    /// The limits in force, as far as nothing was learned of the service.
    pub fn limits(&self) -> Limits {
        Limits::clone(&self.limits.load())
    }

    /// Gives a permit if one is free and nobody waits before us. It counts for no class: there is nothing to share.
    pub fn at_once(self: &Arc<Self>, tokens: u64) -> Option<Permit> {
        let lines = self.lines.lock();
        if lines.is_empty() { self.reserve(tokens).ok() } else { None }
    }

    /// When (monotonic) a permit is free, as things are; those who wait in line may take it before.
    pub fn free_at(&self, tokens: u64) -> Duration {
        let now = self.clock.monotonic();
        if let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.standing() != Standing::Alone) {
            return fleet.free_at(now);
        }
        let limiter = &mut self.machine.lock().limiter;
        match limiter.reserve(now, tokens, Duration::ZERO) {
            Reservation::Granted { seq, .. } => {
                limiter.void(seq);
                now
            }
            Reservation::Refused { at } => at,
        }
    }

    /// Waits in the line of its class for a permit. Dropping the future leaves the line.
    pub async fn acquire(self: &Arc<Self>, tokens: u64, class: Class) -> Permit {
        if let Some(permit) = self.at_once(tokens) {
            return permit;
        }
        loop {
            let (answer, answered) = oneshot::channel();
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let _waiting = Count(&self.waiting);
            self.lines.lock().push(class, Asking { tokens, answer });
            self.bell.ring();
            if let Ok(permit) = answered.await {
                return permit;
            }
        }
    }

    /// Hands out what can be handed out; returns when (monotonic) the next permit is due if anybody waits. For the
    /// actor.
    pub fn serve(self: &Arc<Self>) -> Option<Duration> {
        loop {
            let mut lines = self.lines.lock();
            let (class, tokens) = lines.first()?;
            match self.reserve(tokens) {
                Ok(permit) => {
                    let asking = lines.serve(class)?;
                    drop(lines);
                    // One who has left meanwhile drops the permit, which gives it back.
                    let _ = asking.answer.send(permit);
                }
                Err(at) => return Some(at),
            }
        }
    }

    /// Does what is due: tells the quota, asks it for what is waited for, hands out what there is. Returns when
    /// (monotonic) to look again. For the actor.
    pub async fn attend(self: &Arc<Self>) -> Option<Duration> {
        let Some(fleet) = &self.fleet else { return self.serve() };
        let began = self.clock.monotonic();
        loop {
            let due = self.serve();
            let now = self.clock.monotonic();
            if now >= began + ATTEND_MAX {
                return Some(now);
            }
            let has_room = self.slow_start.lock().has_room();
            let first = self.lines.lock().first().filter(|_| has_room);
            let Some(turn) = fleet.turn(now, first.map(|(_, tokens)| (self.waiting(), tokens))) else {
                return Some(due.unwrap_or(Duration::MAX).min(fleet.look_at()).max(now + SOON));
            };
            let told = fleet.sharing.quotas.turn(self.name, &fleet.terms().policy, &turn.ask).await;
            let now = self.clock.monotonic();
            if fleet.take_in(now, turn, told).paused {
                self.slow_start.lock().limit = Some(1);
            }
            if let Some(share) = fleet.share(now, &self.limits.load()) {
                self.machine.lock().give_way(now, share);
            }
        }
    }

    /// Listens to what other nodes announce, as long as that is possible; for ever where nothing is shared.
    pub async fn listen(self: &Arc<Self>) {
        let Some(fleet) = &self.fleet else { return std::future::pending().await };
        let permits = self.clone();
        let heard = move |birth: &str, epoch| {
            let is_news = permits.fleet.as_ref().is_some_and(|fleet| fleet.heard(birth, epoch));
            if is_news {
                permits.bell.ring();
            }
        };
        let error = fleet.sharing.quotas.hear(self.name, Arc::new(heard)).await;
        tracing::debug!(limiter = self.name, %error, "pauses of other nodes are learned by looking");
    }

    fn reserve(self: &Arc<Self>, tokens: u64) -> Result<Permit, Duration> {
        let now = self.clock.monotonic();
        let mut slow_start = self.slow_start.lock();
        if !slow_start.has_room() {
            // The end of a call rings; this is for one that never ends.
            return Err(now + SLOW_START_POLL);
        }
        let standing = self.fleet.as_ref().map(|fleet| (fleet, fleet.standing()));
        let right = match standing {
            Some((fleet, Standing::Shared)) => Right::Quota(fleet.take(now, tokens)?),
            Some((fleet, Standing::Waits)) => return Err(fleet.look_at()),
            Some((_, Standing::Alone)) | None => {
                let mut machine = self.machine.lock();
                match machine.limiter.reserve(now, tokens, Duration::ZERO) {
                    Reservation::Granted { until, seq, epoch, .. } => {
                        Right::Machine { until: until.saturating_sub(ON_THE_WAY), seq, epoch, life: machine.life }
                    }
                    Reservation::Refused { at } => return Err(at.max(now + SOON)),
                }
            }
        };
        slow_start.outstanding += 1;
        Ok(Permit { permits: self.clone(), right, tokens, used: false })
    }

    /// The service answered 429.
    pub fn throttled(&self, retry_after: Option<Duration>) {
        let now = self.clock.monotonic();
        let paused_until = {
            let limiter = &mut self.machine.lock().limiter;
            limiter.throttled(now, retry_after, rand::random());
            limiter.paused_until(now)
        };
        if let Some(until) = paused_until {
            let wall = self.clock.now();
            self.calls.note_pause(self.name, wall, wall.after(until - now));
        }
        self.slow_start.lock().limit = Some(1);
        if let Some(fleet) = &self.fleet {
            fleet.throttled(now, retry_after, paused_until);
            self.bell.ring();
        }
    }

    /// The service answered.
    pub fn succeeded(&self) {
        self.slow_start.lock().succeeded();
        if let Some(fleet) = &self.fleet {
            fleet.succeeded();
        }
        self.machine.lock().limiter.succeeded(self.clock.monotonic());
    }

    /// What the headers of an answer say of the service's own limit of requests a minute, if they do.
    pub fn hear_limit(&self, limit: Option<u64>) {
        // A limit told without a unit can only be compared with one of ours per minute.
        let Some(limit) = limit.filter(|_| self.limits.load().per_minute > 0) else { return };
        if let Some(fleet) = &self.fleet {
            fleet.hear_limit(limit);
        }
        self.machine.lock().limiter.limit_header(self.clock.monotonic(), limit);
    }

    /// A call has ended, or a permit has gone back.
    fn ended(&self) {
        let mut slow_start = self.slow_start.lock();
        slow_start.outstanding = slow_start.outstanding.saturating_sub(1);
        let slow = slow_start.limit.is_some();
        drop(slow_start);
        if slow {
            self.bell.ring();
        }
    }

    /// How full each window is.
    pub fn used(&self) -> Vec<WindowUse> {
        if let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.standing() != Standing::Alone) {
            return fleet.used();
        }
        self.machine.lock().limiter.used(self.clock.monotonic())
    }

    /// Permits that are given and calls that are under way.
    pub fn in_use(&self) -> u32 {
        self.slow_start.lock().outstanding
    }

    /// How many wait in line.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

struct Count<'a>(&'a AtomicUsize);

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
