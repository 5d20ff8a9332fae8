//! The limiter of one service as callers meet it: they queue, and are handed permits in order.
//!
//! The bookkeeping lies in a pure machine ([`super::limiter`]); the queue is served by the limiter's actor
//! (`actors/limiter.rs`), which sleeps until the next permit is due. A permit that nobody uses goes back.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    bell::Bell,
    limiter::{Limiter, Limits, PAUSE_MAX, Reservation, WindowUse},
};
use crate::{
    store::calls::{Calls, Past},
    telemetry::Clock,
};

/// How long a permit may be used after it was given: the windows are longer by this, so the limit holds at the
/// service and not only in our books. Covers scheduling and the way there.
pub const VALIDITY: Duration = Duration::from_millis(300);

/// How soon a slow start is looked at again when no call ends.
const SLOW_START_POLL: Duration = Duration::from_millis(500);

/// The limiter of one service.
pub struct Permits {
    name: &'static str,
    clock: Clock,
    calls: Arc<Calls>,
    machine: Mutex<Limiter>,
    queue: Mutex<VecDeque<Asking>>,
    waiting: AtomicUsize,
    slow_start: Mutex<SlowStart>,
    /// Rings for the actor.
    pub bell: Bell,
}

struct Asking {
    tokens: u64,
    answer: oneshot::Sender<Permit>,
}

/// After a 429 one call shows whether the service answers again, then two, four and so on: those who waited out its
/// pause must not all run into the next one.
#[derive(Default)]
struct SlowStart {
    /// Calls and unused permits outstanding.
    outstanding: u32,
    /// How many may be; `None`: no matter.
    limit: Option<u32>,
}

/// From so many calls at once on the start is over.
const FULL_SPEED: u32 = 64;

impl SlowStart {
    fn has_room(&self) -> bool {
        self.limit.is_none_or(|limit| self.outstanding < limit)
    }

    fn succeeded(&mut self) {
        self.limit = self.limit.map(|limit| limit * 2).filter(|limit| *limit < FULL_SPEED);
    }
}

/// A call that has begun under a permit; lives until it has ended.
#[must_use = "the call lasts as long as this lives"]
pub struct Call {
    permits: Arc<Permits>,
    /// The permit's number, for [`Permits::settle`].
    pub seq: u64,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.permits.ended();
    }
}

/// Leave to make one call within `VALIDITY`; given back when dropped unused.
#[must_use = "a permit that is dropped goes back"]
pub struct Permit {
    permits: Arc<Permits>,
    until: Duration,
    seq: u64,
    epoch: u64,
    tokens: u64,
    used: bool,
}

impl Permits {
    /// Makes a limiter that takes account of what was done and asked for before the start.
    pub fn new(name: &'static str, limits: Limits, clock: Clock, calls: Arc<Calls>, past: &Past) -> Arc<Self> {
        let (wall, monotonic) = (clock.now(), clock.monotonic());
        let mut machine = Limiter::new(limits, VALIDITY);
        for call in past.calls.iter().filter(|call| call.limiter == name) {
            let at = monotonic.saturating_sub(wall.since(call.at));
            machine.made(at, call.tokens);
        }
        for pause in past.pauses.iter().filter(|pause| pause.limiter == name) {
            machine.pause(monotonic, monotonic + pause.until.since(wall).min(PAUSE_MAX));
        }
        Arc::new(Self {
            name,
            clock,
            calls,
            machine: Mutex::new(machine),
            queue: Mutex::default(),
            waiting: AtomicUsize::new(0),
            slow_start: Mutex::default(),
            bell: Bell::default(),
        })
    }

    /// Gives a permit if one is free and nobody waits before us.
    pub fn at_once(self: &Arc<Self>, tokens: u64) -> Option<Permit> {
        let queue = self.queue.lock();
        if queue.is_empty() { self.reserve(tokens).ok() } else { None }
    }

    /// When (monotonic) a permit is free, as things are; those who wait in line may take it before.
    pub fn free_at(&self, tokens: u64) -> Duration {
        let now = self.clock.monotonic();
        let mut machine = self.machine.lock();
        match machine.reserve(now, tokens, Duration::ZERO) {
            Reservation::Granted { seq, .. } => {
                machine.void(seq);
                now
            }
            Reservation::Refused { at } => at,
        }
    }

    /// Waits in line for a permit. Dropping the future leaves the line.
    pub async fn acquire(self: &Arc<Self>, tokens: u64) -> Permit {
        if let Some(permit) = self.at_once(tokens) {
            return permit;
        }
        loop {
            let (answer, answered) = oneshot::channel();
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let _waiting = Count(&self.waiting);
            self.queue.lock().push_back(Asking { tokens, answer });
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
            let mut queue = self.queue.lock();
            let gone = |asking: &Asking| asking.answer.is_closed();
            while queue.front().is_some_and(gone) {
                queue.pop_front();
            }
            let tokens = queue.front()?.tokens;
            match self.reserve(tokens) {
                Ok(permit) => {
                    let asking = queue.pop_front()?;
                    drop(queue);
                    // One who has left meanwhile drops the permit, which gives it back.
                    let _ = asking.answer.send(permit);
                }
                Err(at) => return Some(at),
            }
        }
    }

    fn reserve(self: &Arc<Self>, tokens: u64) -> Result<Permit, Duration> {
        let now = self.clock.monotonic();
        let mut slow_start = self.slow_start.lock();
        if !slow_start.has_room() {
            // The end of a call rings; this is for one that never ends.
            return Err(now + SLOW_START_POLL);
        }
        match self.machine.lock().reserve(now, tokens, Duration::ZERO) {
            Reservation::Granted { until, seq, epoch, .. } => {
                slow_start.outstanding += 1;
                Ok(Permit { permits: self.clone(), until, seq, epoch, tokens, used: false })
            }
            Reservation::Refused { at } => Err(at.max(now + Duration::from_millis(1))),
        }
    }

    /// The service answered 429.
    pub fn throttled(&self, retry_after: Option<Duration>) {
        let now = self.clock.monotonic();
        let paused_until = {
            let mut machine = self.machine.lock();
            machine.throttled(now, retry_after, rand::random());
            machine.paused_until(now)
        };
        if let Some(until) = paused_until {
            let wall = self.clock.now();
            self.calls.note_pause(self.name, wall, wall.after(until - now));
        }
        self.slow_start.lock().limit = Some(1);
    }

    /// The service answered; `limit` is what its headers say of its own limit of requests a minute.
    pub fn succeeded(&self, limit: Option<u64>) {
        self.slow_start.lock().succeeded();
        let mut machine = self.machine.lock();
        let now = self.clock.monotonic();
        machine.succeeded(now);
        // A limit told without a unit can only be compared with one of ours per minute.
        if let Some(limit) = limit.filter(|_| machine.limits().per_minute > 0) {
            machine.limit_header(now, limit);
        }
    }

    /// The call used so many tokens; `seq` is the permit's.
    pub fn settle(&self, seq: u64, tokens: u64) {
        self.machine.lock().settle(seq, tokens);
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
        self.machine.lock().used(self.clock.monotonic())
    }

    /// How many wait in line.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Permit {
    /// Uses the permit for a call that begins now; `None` when it has become invalid:
    /// too late, or the service has asked for a pause since. Then it goes back, and another has to be asked for.
    pub fn used_now(mut self) -> Option<Call> {
        let now = self.permits.clock.monotonic();
        let (valid, limited) = {
            let machine = self.permits.machine.lock();
            (now <= self.until && machine.is_valid(self.epoch), machine.limits().limits_anything())
        };
        self.used = valid;
        if valid && limited {
            self.permits.calls.note(self.permits.name, self.permits.clock.now(), self.tokens);
        }
        valid.then(|| Call { permits: self.permits.clone(), seq: self.seq })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.used {
            self.permits.machine.lock().void(self.seq);
            self.permits.ended();
            self.permits.bell.ring();
        }
    }
}

struct Count<'a>(&'a AtomicUsize);

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
