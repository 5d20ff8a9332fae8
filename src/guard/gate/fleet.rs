//! The gate's part in the fleet's breaker: callers meet what is known here; the actor takes turns with the board.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::watch;

use super::{Cause, Gate, Given, Machines, Report, State, Transition};
use crate::{
    guard::{
        bell::Bell,
        breaker::{self, Caller, Config, Mode, Seat, Snapshot, Turn},
    },
    state::board::{Board, Boards, Draft, News, Written},
    telemetry::Clock,
};

/// A caller who wants to probe waits this long for the lease. He has his permit of the limiter already, and the quota
/// lets that lie unused for 200 ms: half of them are left for whatever else is slow.
const LEASE_WITHIN: Duration = Duration::from_millis(100);

/// A lease that was not given for another reason than the breaker is asked for again after this.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Conflicts in one turn; the nodes that win do not have anything to say for ever.
const CONFLICTS_MAX: usize = 16;

/// How the gate reaches the others.
pub(super) struct Fleet {
    boards: Arc<dyn Boards>,
    name: &'static str,
    config: Config,
    /// The actor was rung for and has not looked yet.
    rung: AtomicBool,
    /// Counts the turns, for those who wait for a lease.
    turns: watch::Sender<u64>,
}

/// What is known of the fleet's breaker.
pub(super) struct OfFleet {
    pub seat: Seat,
    /// The board's clock is so far ahead of ours.
    ahead: Duration,
    /// Whether the board has told its time; before that nothing is written to it.
    has_heard: bool,
    /// When (monotonic) the last turn began.
    last_turn: Duration,
}

/// What the breaker was before a change.
struct Before {
    effective: State,
    of_fleet: State,
    mode: Mode,
    generation: u64,
    probes: usize,
}

impl Fleet {
    pub fn new(config: Config, name: &'static str, boards: Arc<dyn Boards>) -> Self {
        Self { boards, name, config, rung: AtomicBool::new(false), turns: watch::Sender::new(0) }
    }

    /// Rings once for all that comes before the actor looks.
    pub fn ring(&self, bell: &Bell) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            bell.ring();
        }
    }

    fn read(&self, board: &Board) -> Option<breaker::Fleet> {
        breaker::Fleet::read(board.body.as_deref()?, &self.config)
    }
}

impl OfFleet {
    pub fn new(config: Config, call_timeout: Duration, clock: &Clock) -> Self {
        let wall = Duration::from_millis(u64::try_from(clock.now().0).unwrap_or_default());
        Self {
            seat: Seat::new(rand::random(), config, call_timeout),
            ahead: wall.saturating_sub(clock.monotonic()),
            has_heard: false,
            last_turn: Duration::ZERO,
        }
    }

    pub fn is_closed(&self) -> bool {
        self.seat.state() == State::Closed
    }

    /// Until when (monotonic) a caller is refused; `None`: he may pass, or ask for a probe.
    pub fn refused_until(&self, now: Duration, caller: Caller<'_>) -> Option<Duration> {
        self.seat.refused_until(self.on_board(now), caller).map(|at| self.here(at).max(now + Duration::from_millis(1)))
    }

    /// Lets a caller pass while it is closed, or probe with the lease that was asked for him.
    pub fn admit(&mut self, now: Duration, caller: Caller<'_>) -> Result<Given, Duration> {
        if self.is_closed() {
            return Ok(self.seat.pass());
        }
        let lease = self.seat.take(self.on_board(now), caller);
        lease.ok_or_else(|| self.refused_until(now, caller).unwrap_or(now + ASK_AGAIN))
    }

    /// Notes how a call ended; `true` when the actor must look.
    pub fn note(&mut self, now: Duration, given: Given, report: Report<'_>) -> bool {
        self.seat.note(given, report.caller, report.outcome);
        self.seat.is_urgent(self.on_board(now)) || self.due() <= now
    }

    /// What is known, with its times on our clock.
    pub fn snapshot(&self, now: Duration) -> Snapshot {
        let mut snapshot = self.seat.snapshot(self.on_board(now));
        let ahead = u64::try_from(self.ahead.as_millis()).unwrap_or(u64::MAX);
        for at in [&mut snapshot.opened_at_ms, &mut snapshot.until_ms].into_iter().flatten() {
            *at = at.saturating_sub(ahead);
        }
        snapshot
    }

    fn due(&self) -> Duration {
        self.last_turn.saturating_add(self.seat.patience())
    }

    fn on_board(&self, now: Duration) -> Duration {
        Duration::from_millis(u64::try_from((now + self.ahead).as_millis()).unwrap_or(u64::MAX))
    }

    fn here(&self, at: Duration) -> Duration {
        at.saturating_sub(self.ahead)
    }

    pub fn heard_time(&mut self, board_now: Duration, now: Duration) {
        self.ahead = board_now.saturating_sub(now);
        self.has_heard = true;
    }
}

impl Gate {
    /// Whether the breaker is shared with other nodes.
    pub fn is_shared(&self) -> bool {
        self.fleet.is_some()
    }

    /// When (monotonic) the next turn with the board is due; `None` on a node of its own.
    pub fn turn_due(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        let machines = self.machines.lock();
        let of_fleet = machines.of_fleet.as_ref()?;
        Some(if of_fleet.seat.is_urgent(of_fleet.on_board(now)) { now } else { of_fleet.due() })
    }

    /// The actor looks: whatever comes from now on rings again.
    pub fn looked(&self) {
        if let Some(fleet) = &self.fleet {
            fleet.rung.store(false, Ordering::Release);
        }
    }

    /// What the board announces, for the actor's ear.
    pub fn news(&self) -> Option<BoxStream<'static, News>> {
        self.fleet.as_ref().map(|fleet| fleet.boards.news(fleet.name))
    }

    /// Hears what the board announces.
    pub fn hear(&self, news: News) {
        let Some(fleet) = &self.fleet else { return };
        match news {
            News::Says(board) => {
                let document = fleet.read(&board);
                self.on_seat(|seat| seat.announced(board.version, document));
            }
            News::Unknown => {
                if let Some(of_fleet) = &mut self.machines.lock().of_fleet {
                    of_fleet.last_turn = Duration::ZERO;
                }
                self.ring();
            }
        }
    }

    /// Right before [`Gate::admit`]: a caller who may probe gets the fleet's lease for it, if there is one.
    pub async fn lease(&self, caller: Caller<'_>) {
        let Some(fleet) = self.fleet.as_ref().filter(|_| !self.is_closed()) else { return };
        let mut turns = fleet.turns.subscribe();
        let leave = Leave { gate: self, caller, done: false };
        if !self.wish(caller) {
            return leave.done();
        }
        self.ring();
        // If it takes longer, the caller asks again.
        let _ = tokio::time::timeout(LEASE_WITHIN, async {
            // A turn that had begun before carries somebody else's wish, or none.
            while turns.changed().await.is_ok() && self.wishes(caller) {}
        })
        .await;
        leave.done();
    }

    /// Tells the board what is new here, or reads it. For the actor; one turn at a time.
    pub async fn turn(&self) {
        let Some(fleet) = &self.fleet else { return };
        let began = self.begin_turn();
        match began {
            Some(turn) => self.tell(fleet, turn).await,
            None => {
                if let Ok(board) = fleet.boards.read(fleet.name).await {
                    self.hear_board(fleet, &board);
                    // It knew less than we do, or we could not write before we had read.
                    if let Some(turn) = self.begin_turn() {
                        self.tell(fleet, turn).await;
                    }
                } else if let Some(turn) = self.begin(false) {
                    self.on_seat(|seat| seat.alone(turn));
                }
            }
        }
        fleet.turns.send_modify(|turns| *turns += 1);
    }

    async fn tell(&self, fleet: &Fleet, mut turn: Turn) {
        for _ in 0..CONFLICTS_MAX {
            // What was decided by a clock that is ahead comes due when the board's has come there; so that goes along.
            let at = self.now_on_board().max(turn.seen());
            let body = Bytes::from(turn.body());
            let draft = Draft { expected: turn.expected, body, at, announce: turn.is_news };
            match fleet.boards.write(fleet.name, draft).await {
                Ok(Written::Done { version, now }) => {
                    self.heard_time(now);
                    return self.on_seat(|seat| seat.commit(turn, version));
                }
                Ok(Written::Conflict(board)) => {
                    self.heard_time(board.now);
                    let (document, now) = (fleet.read(&board), self.now_on_board());
                    let mut again = None;
                    self.on_seat(|seat| again = seat.redo(turn, board.version, document, now, &mut rand::random));
                    let Some(redone) = again else { return };
                    turn = redone;
                }
                Err(error) => {
                    tracing::debug!(%error, ai.service = fleet.name, "the breaker goes on by itself");
                    return self.on_seat(|seat| seat.alone(turn));
                }
            }
        }
        self.on_seat(|seat| seat.put_off(turn));
    }

    fn hear_board(&self, fleet: &Fleet, board: &Board) {
        self.heard_time(board.now);
        let document = fleet.read(board);
        self.on_seat(|seat| seat.heard(board.version, document));
    }

    /// Begins a turn, unless nothing is new or the board has not told its time yet.
    fn begin_turn(&self) -> Option<Turn> {
        self.begin(true)
    }

    fn begin(&self, needs_time: bool) -> Option<Turn> {
        let now = self.clock.monotonic();
        let mut machines = self.machines.lock();
        let own = machines.own.snapshot(now).window;
        let of_fleet = machines.of_fleet.as_mut()?;
        of_fleet.last_turn = now;
        let at = of_fleet.on_board(now);
        let may_begin = of_fleet.has_heard || !needs_time;
        if may_begin { of_fleet.seat.begin(at, own, &mut rand::random) } else { None }
    }

    /// `true`: the caller may probe, his wish is noted or his lease is there.
    fn wish(&self, caller: Caller<'_>) -> bool {
        let now = self.clock.monotonic();
        let mut machines = self.machines.lock();
        let Some(of_fleet) = machines.of_fleet.as_mut().filter(|of_fleet| !of_fleet.is_closed()) else { return false };
        let may_probe = of_fleet.refused_until(now, caller).is_none();
        if may_probe {
            of_fleet.seat.wish(caller);
        }
        may_probe
    }

    fn wishes(&self, caller: Caller<'_>) -> bool {
        self.machines.lock().of_fleet.as_ref().is_some_and(|of_fleet| of_fleet.seat.wishes(caller))
    }

    fn now_on_board(&self) -> Duration {
        let now = self.clock.monotonic();
        self.machines.lock().of_fleet.as_ref().map_or(now, |of_fleet| of_fleet.on_board(now))
    }

    fn heard_time(&self, board_now: Duration) {
        let now = self.clock.monotonic();
        if let Some(of_fleet) = &mut self.machines.lock().of_fleet {
            of_fleet.heard_time(board_now, now);
        }
    }

    /// Changes the seat; the node's own machine follows, and whoever waits is told.
    fn on_seat(&self, change: impl FnOnce(&mut Seat)) {
        let now = self.clock.monotonic();
        let mut machines = self.machines.lock();
        let Some(before) = Before::of(&machines, now) else { return };
        if let Some(of_fleet) = &mut machines.of_fleet {
            change(&mut of_fleet.seat);
        }
        let Some(after) = Before::of(&machines, now) else { return };
        let has_changed = after.of_fleet != before.of_fleet || after.mode != before.mode;
        if has_changed {
            machines.own.follow(now, after.mode);
            let to = Before::of(&machines, now).map_or(after.effective, |after| after.effective);
            let (generation, mode) = (after.generation, after.mode);
            self.changed(
                &machines,
                Some(Transition { from: before.effective, to, generation, mode, cause: Cause::Fleet }),
            );
        } else if after.generation != before.generation || after.probes != before.probes {
            self.changes.send_modify(|version| *version += 1);
        }
    }
}

impl Before {
    fn of(machines: &Machines, now: Duration) -> Option<Self> {
        let of_fleet = machines.of_fleet.as_ref()?;
        let state = of_fleet.seat.state();
        Some(Self {
            effective: if state == State::Closed { machines.own.state() } else { state },
            of_fleet: state,
            mode: of_fleet.seat.mode(),
            generation: of_fleet.seat.generation(),
            probes: of_fleet.seat.snapshot(of_fleet.on_board(now)).probes_in_flight,
        })
    }
}

/// A caller who wants to probe; when he goes away meanwhile, nobody waits for him.
struct Leave<'a> {
    gate: &'a Gate,
    caller: Caller<'a>,
    done: bool,
}

impl Leave<'_> {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some(of_fleet) = &mut self.gate.machines.lock().of_fleet {
            of_fleet.seat.leave(self.caller);
        }
        self.gate.ring();
    }
}
