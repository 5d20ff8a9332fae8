//! The breaker of one service as callers meet it: a state machine behind a lock held for nanoseconds, an atomic that
//! says *closed* without the lock, and a signal for those who wait.
//!
//! Its actor (`actors/breaker.rs`) owns the transitions: it lets the recovery come due, records and announces.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    bell::Bell,
    breaker::{Admission, Breaker, Caller, Config, Mode, Outcome, Report, Snapshot, State, Transition},
};
use crate::telemetry::Clock;

/// Transitions kept for the actor; it is slower than that only if it is dead.
const TRANSITIONS_MAX: usize = 64;

/// The breaker of one service.
pub struct Gate {
    clock: Clock,
    call_timeout: Duration,
    machine: Mutex<Breaker>,
    closed: AtomicBool,
    waiting: AtomicUsize,
    changes: watch::Sender<u64>,
    transitions: Mutex<VecDeque<Transition>>,
    /// Rings for the actor.
    pub bell: Bell,
}

/// Leave to make one call; reports *neutral* when dropped without an outcome, so that a cancelled probe is not missed.
#[must_use = "a pass that is dropped counts as a cancelled call"]
pub struct Pass<'a> {
    gate: &'a Gate,
    conversation: &'a str,
    message: &'a str,
    generation: u64,
    lease: Option<u64>,
    reported: bool,
}

impl Gate {
    /// Makes a closed one. `call_timeout` bounds the lease of a probe.
    pub fn new(config: Config, call_timeout: Duration, clock: Clock) -> Self {
        Self {
            clock,
            call_timeout,
            machine: Mutex::new(Breaker::new(config)),
            closed: AtomicBool::new(true),
            waiting: AtomicUsize::new(0),
            changes: watch::Sender::new(0),
            transitions: Mutex::new(VecDeque::new()),
            bell: Bell::default(),
        }
    }

    /// Whether calls pass freely. One atomic read.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Asks to make a call, or says when (monotonic) to ask again. Does not commit anybody: [`Gate::admit`] does.
    pub fn look(&self, caller: Caller<'_>) -> Result<(), Duration> {
        if self.is_closed() {
            return Ok(());
        }
        let (looked, transition) = {
            let mut machine = self.machine.lock();
            let (admission, transition) = self.ask(&mut machine, caller);
            // Given back at once and under the same lock, so that nobody is woken for it; it is asked for again right
            // before the call.
            let looked = match admission {
                Admission::Pass { .. } => Ok(()),
                Admission::Probe { generation, lease } => {
                    let report = Report { caller, generation, lease: Some(lease), outcome: Outcome::Neutral };
                    machine.record(self.clock.monotonic(), report, 0.0);
                    Ok(())
                }
                Admission::Refuse { retry_at } => Err(retry_at),
            };
            (looked, transition)
        };
        self.changed(transition);
        looked
    }

    /// Asks to make a call now, or says when (monotonic) to ask again.
    pub fn admit<'a>(&'a self, caller: Caller<'a>) -> Result<Pass<'a>, Duration> {
        let (admission, transition) = self.ask(&mut self.machine.lock(), caller);
        self.changed(transition);
        let (generation, lease) = match admission {
            Admission::Pass { generation } => (generation, None),
            Admission::Probe { generation, lease } => (generation, Some(lease)),
            Admission::Refuse { retry_at } => return Err(retry_at),
        };
        let Caller { conversation, message } = caller;
        Ok(Pass { gate: self, conversation, message, generation, lease, reported: false })
    }

    /// Counts the changes so far, for [`Gate::wait`].
    pub fn version(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Waits until the breaker has changed since `version` was asked, or `retry_at` (monotonic) has come.
    pub async fn wait(&self, version: u64, retry_at: Duration) {
        let _waiting = Waiting::new(&self.waiting);
        let mut changes = self.changes.subscribe();
        if *changes.borrow_and_update() != version {
            return;
        }
        // Either way the breaker is asked again.
        let _ = tokio::time::timeout_at(self.clock.instant(retry_at), changes.changed()).await;
    }

    /// Holds it open or closed by hand, or lets it decide again.
    pub fn force(&self, mode: Mode) {
        let transition = self.machine.lock().force(self.clock.monotonic(), mode);
        self.changed(transition);
    }

    /// Lets the recovery come due.
    pub fn poll(&self) {
        let transition = self.machine.lock().poll(self.clock.monotonic());
        self.changed(transition);
    }

    /// What it is now.
    pub fn snapshot(&self) -> Snapshot {
        self.machine.lock().snapshot(self.clock.monotonic())
    }

    /// When (monotonic) the recovery comes due, while it is open by itself.
    pub fn recovery_due(&self) -> Option<Duration> {
        let snapshot = self.snapshot();
        if snapshot.state == State::Open { snapshot.until_ms.map(Duration::from_millis) } else { None }
    }

    /// Whether the service has answered anybody in the last minute.
    pub fn answered_lately(&self) -> bool {
        let window = self.snapshot().window;
        window.calls > window.failures
    }

    /// The transitions since the last call; for the actor.
    pub fn transitions(&self) -> Vec<Transition> {
        self.transitions.lock().drain(..).collect()
    }

    fn ask(&self, machine: &mut Breaker, caller: Caller<'_>) -> (Admission, Option<Transition>) {
        let now = self.clock.monotonic();
        let transition = machine.poll(now);
        let others_waiting = self.waiting.load(Ordering::Relaxed) > 1;
        (machine.admit(now, caller, self.call_timeout, others_waiting), transition)
    }

    fn report(&self, report: Report<'_>) {
        let transition = {
            let mut machine = self.machine.lock();
            machine.record(self.clock.monotonic(), report, rand::random())
        };
        let lease_freed = report.lease.is_some();
        self.changed(transition);
        if lease_freed {
            self.changes.send_modify(|version| *version += 1);
        }
    }

    fn changed(&self, transition: Option<Transition>) {
        let Some(transition) = transition else { return };
        self.closed.store(self.machine.lock().state() == State::Closed, Ordering::Release);
        let mut transitions = self.transitions.lock();
        if transitions.len() == TRANSITIONS_MAX {
            transitions.pop_front();
        }
        transitions.push_back(transition);
        drop(transitions);
        self.changes.send_modify(|version| *version += 1);
        self.bell.ring();
    }
}

impl Pass<'_> {
    /// Reports how the call ended.
    pub fn report(mut self, outcome: Outcome) {
        self.send(outcome);
    }

    fn send(&mut self, outcome: Outcome) {
        self.reported = true;
        let caller = Caller { conversation: self.conversation, message: self.message };
        self.gate.report(Report { caller, generation: self.generation, lease: self.lease, outcome });
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.reported {
            self.send(Outcome::Neutral);
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
