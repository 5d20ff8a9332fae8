//! The breaker of one service as callers meet it: a state machine behind a lock held for nanoseconds, an atomic that
//! says *closed* without the lock, and a signal for those who wait.
//!
//! Its actor (`actors/breaker.rs`) owns the transitions: it lets the recovery come due, records and announces.
//!
//! In a fleet (`fleet.rs`) there are two machines: the node's own, which opens at once when this node alone fails, and
//! the fleet's, of which the gate knows the last document. Calls pass freely while both are closed.

mod fleet;
#[cfg(test)]
mod fleet_tests;

use std::{
    collections::VecDeque,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use self::fleet::{Fleet, OfFleet};
use super::{
    bell::Bell,
    breaker::{Admission, Breaker, Caller, Cause, Config, Given, Mode, Outcome, Report, Snapshot, State, Transition},
};
use crate::{state::board::Boards, telemetry::Clock};

/// Transitions kept for the actor; it is slower than that only if it is dead.
const TRANSITIONS_MAX: usize = 64;

/// The breaker of one service.
pub struct Gate {
    clock: Clock,
    call_timeout: Duration,
    machines: Mutex<Machines>,
    fleet: Option<Fleet>,
    closed: AtomicBool,
    /// It refuses us as it is set up, and has not answered since.
    misconfigured: AtomicBool,
    waiting: AtomicUsize,
    changes: watch::Sender<u64>,
    transitions: Mutex<VecDeque<Transition>>,
    /// Rings for the actor.
    pub bell: Bell,
}

struct Machines {
    own: Breaker,
    of_fleet: Option<OfFleet>,
}

/// Leave to make one call; reports *neutral* when dropped without an outcome, so that a cancelled probe is not missed.
#[must_use = "a pass that is dropped counts as a cancelled call"]
pub struct Pass<'a> {
    gate: &'a Gate,
    conversation: &'a str,
    message: &'a str,
    generation: u64,
    lease: Option<u64>,
    in_fleet: Option<Given>,
    reported: bool,
}

impl Gate {
    /// Makes a closed one. `call_timeout` bounds the lease of a probe.
    pub fn new(config: Config, call_timeout: Duration, clock: Clock) -> Self {
        Self::with(Machines { own: Breaker::new(config), of_fleet: None }, None, call_timeout, clock)
    }

    /// Makes one that is closed as far as is known, and shares its state under `name` with those of other nodes.
    pub fn shared(
        config: Config,
        call_timeout: Duration,
        clock: Clock,
        name: &'static str,
        boards: Arc<dyn Boards>,
    ) -> Self {
        let of_fleet = OfFleet::new(config.clone(), call_timeout, &clock);
        let fleet = Fleet::new(config.clone(), name, boards);
        Self::with(Machines { own: Breaker::new(config), of_fleet: Some(of_fleet) }, Some(fleet), call_timeout, clock)
    }

    fn with(machines: Machines, fleet: Option<Fleet>, call_timeout: Duration, clock: Clock) -> Self {
        Self {
            clock,
            call_timeout,
            machines: Mutex::new(machines),
            fleet,
            closed: AtomicBool::new(true),
            misconfigured: AtomicBool::new(false),
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
        let now = self.clock.monotonic();
        let mut machines = self.machines.lock();
        if let Some(of_fleet) = machines.of_fleet.as_ref().filter(|of_fleet| !of_fleet.is_closed()) {
            return of_fleet.refused_until(now, caller).map_or(Ok(()), Err);
        }
        let (admission, transition) = self.ask(&mut machines.own, now, caller);
        // Given back at once and under the same lock, so that nobody is woken for it; it is asked for again right
        // before the call.
        let looked = match admission {
            Admission::Pass { .. } => Ok(()),
            Admission::Probe { generation, lease } => {
                let report = Report { caller, generation, lease: Some(lease), outcome: Outcome::Neutral };
                machines.own.record(now, report, 0.0);
                Ok(())
            }
            Admission::Refuse { retry_at } => Err(retry_at),
        };
        self.changed(&machines, transition);
        looked
    }

    /// Asks to make a call now, or says when (monotonic) to ask again.
    pub fn admit<'a>(&'a self, caller: Caller<'a>) -> Result<Pass<'a>, Duration> {
        let now = self.clock.monotonic();
        let mut machines = self.machines.lock();
        let Caller { conversation, message } = caller;
        let pass = |generation, lease, in_fleet| {
            Ok(Pass { gate: self, conversation, message, generation, lease, in_fleet, reported: false })
        };
        let in_fleet = machines.of_fleet.as_mut().map(|of_fleet| of_fleet.admit(now, caller)).transpose()?;
        if in_fleet.is_some_and(Given::is_probe) {
            return pass(machines.own.generation(), None, in_fleet);
        }
        let (admission, transition) = self.ask(&mut machines.own, now, caller);
        self.changed(&machines, transition);
        match admission {
            Admission::Pass { generation } => pass(generation, None, in_fleet),
            Admission::Probe { generation, lease } => pass(generation, Some(lease), in_fleet),
            Admission::Refuse { retry_at } => Err(retry_at),
        }
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

    /// Holds it open or closed by hand, or lets it decide again; in a fleet on all nodes.
    pub fn force(&self, mode: Mode) {
        let mut machines = self.machines.lock();
        if let Some(of_fleet) = &mut machines.of_fleet {
            of_fleet.seat.order(mode);
            drop(machines);
            return self.ring();
        }
        let transition = machines.own.force(self.clock.monotonic(), mode);
        self.changed(&machines, transition);
    }

    /// Lets the node's own recovery come due.
    pub fn poll(&self) {
        let mut machines = self.machines.lock();
        let transition = machines.own.poll(self.clock.monotonic());
        self.changed(&machines, transition);
    }

    /// What it is now: the fleet's, unless only this node's own is not closed.
    pub fn snapshot(&self) -> Snapshot {
        let (now, machines) = (self.clock.monotonic(), self.machines.lock());
        match &machines.of_fleet {
            Some(of_fleet) if !of_fleet.is_closed() || machines.own.state() == State::Closed => of_fleet.snapshot(now),
            _ => machines.own.snapshot(now),
        }
    }

    /// When (monotonic) the node's own recovery comes due, while it is open by itself. The fleet's comes due when
    /// somebody wants to probe.
    pub fn recovery_due(&self) -> Option<Duration> {
        let snapshot = self.machines.lock().own.snapshot(self.clock.monotonic());
        if snapshot.state == State::Open { snapshot.until_ms.map(Duration::from_millis) } else { None }
    }

    /// Whether the service has answered anybody in the last minute.
    pub fn answered_lately(&self) -> bool {
        let window = self.snapshot().window;
        window.calls > window.failures
    }

    /// The service refuses us as it is set up; whether that is news.
    pub fn note_misconfigured(&self) -> bool {
        !self.misconfigured.swap(true, Ordering::Relaxed)
    }

    /// Whether the service has refused us as it is set up, and answered nobody since.
    pub fn is_misconfigured(&self) -> bool {
        self.misconfigured.load(Ordering::Relaxed)
    }

    /// The service answers.
    pub fn note_well(&self) {
        // Hardly ever so, and written to by every call it would be slow to read.
        if self.is_misconfigured() {
            self.misconfigured.store(false, Ordering::Relaxed);
        }
    }

    /// The transitions since the last call; for the actor.
    pub fn transitions(&self) -> Vec<Transition> {
        self.transitions.lock().drain(..).collect()
    }

    fn ask(&self, own: &mut Breaker, now: Duration, caller: Caller<'_>) -> (Admission, Option<Transition>) {
        let transition = own.poll(now);
        let others_waiting = self.waiting.load(Ordering::Relaxed) > 1;
        (own.admit(now, caller, self.call_timeout, others_waiting), transition)
    }

    fn report(&self, report: Report<'_>, in_fleet: Option<Given>) {
        let mut machines = self.machines.lock();
        let tells_fleet = match (&mut machines.of_fleet, in_fleet) {
            (Some(of_fleet), Some(given)) => of_fleet.note(self.clock.monotonic(), given, report),
            _ => false,
        };
        let is_probe_of_fleet = in_fleet.is_some_and(Given::is_probe);
        if !is_probe_of_fleet {
            let transition = machines.own.record(self.clock.monotonic(), report, rand::random());
            self.changed(&machines, transition);
        }
        drop(machines);
        if report.lease.is_some() {
            self.changes.send_modify(|version| *version += 1);
        }
        if tells_fleet {
            self.ring();
        }
    }

    /// After every change of a machine, under its lock.
    fn changed(&self, machines: &Machines, transition: Option<Transition>) {
        let Some(transition) = transition else { return };
        let of_fleet_is_closed = machines.of_fleet.as_ref().is_none_or(OfFleet::is_closed);
        let is_closed = of_fleet_is_closed && machines.own.state() == State::Closed;
        self.closed.store(is_closed, Ordering::Release);
        let mut transitions = self.transitions.lock();
        if transitions.len() == TRANSITIONS_MAX {
            transitions.pop_front();
        }
        transitions.push_back(transition);
        drop(transitions);
        self.changes.send_modify(|version| *version += 1);
        self.ring();
    }

    fn ring(&self) {
        match &self.fleet {
            Some(fleet) => fleet.ring(&self.bell),
            None => self.bell.ring(),
        }
    }
}

impl Pass<'_> {
    /// Whether the breaker's state hangs on this call.
    pub fn is_probe(&self) -> bool {
        self.lease.is_some() || self.in_fleet.is_some_and(Given::is_probe)
    }

    /// Reports how the call ended.
    pub fn report(mut self, outcome: Outcome) {
        self.send(outcome);
    }

    fn send(&mut self, outcome: Outcome) {
        self.reported = true;
        let caller = Caller { conversation: self.conversation, message: self.message };
        let report = Report { caller, generation: self.generation, lease: self.lease, outcome };
        self.gate.report(report, self.in_fleet);
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
