//! What no order of calls, crashes, conflicts, lost announcements and lost boards may break, over several nodes.

use std::collections::HashSet;

use proptest::prelude::*;

use super::{fleet::Digest, *};

const TIMEOUT: Duration = Duration::from_secs(10);
const NODES: usize = 3;
const FAST: Outcome = Outcome::Success { took: Duration::from_millis(5) };
const DOWN: Outcome = Outcome::Failure { kind: FailureKind::ServerError };

#[derive(Clone, Debug)]
enum Step {
    Ask {
        node: usize,
        conversation: u8,
    },
    End {
        which: usize,
        outcome: Outcome,
    },
    /// A node begins a turn, or goes on with the one it has begun.
    Turn {
        node: usize,
    },
    /// The board does not answer; whether it heard is another matter.
    NoAnswer {
        node: usize,
        heard: bool,
    },
    Deliver {
        which: usize,
    },
    Miss {
        which: usize,
    },
    Crash {
        node: usize,
    },
    /// A turn ends without a word; whether the board heard is another matter.
    BreakOff {
        node: usize,
        heard: bool,
    },
    Flush,
    Pass {
        ms: u64,
    },
    Force {
        node: usize,
        mode: Mode,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![4 => Just(DOWN), 2 => Just(FAST), 1 => Just(Outcome::Neutral)];
    let mode = prop_oneof![2 => Just(Mode::Auto), 1 => Just(Mode::Open), 1 => Just(Mode::Closed)];
    let node = 0..NODES;
    prop_oneof![
        12 => (node.clone(), 0..9u8).prop_map(|(node, conversation)| Step::Ask { node, conversation }),
        12 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::End { which, outcome }),
        24 => node.clone().prop_map(|node| Step::Turn { node }),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, heard)| Step::NoAnswer { node, heard }),
        8 => any::<usize>().prop_map(|which| Step::Deliver { which }),
        2 => any::<usize>().prop_map(|which| Step::Miss { which }),
        1 => node.clone().prop_map(|node| Step::Crash { node }),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, heard)| Step::BreakOff { node, heard }),
        1 => Just(Step::Flush),
        6 => (0..20_000u64).prop_map(|ms| Step::Pass { ms }),
        1 => (node, mode).prop_map(|(node, mode)| Step::Force { node, mode }),
    ]
}

struct Call {
    node: usize,
    name: String,
    given: Given,
    /// When its lease ends.
    expires: Duration,
}

struct World {
    config: Config,
    seats: Vec<Seat>,
    turns: Vec<Option<Turn>>,
    board: Option<Vec<u8>>,
    version: u64,
    mail: Vec<(usize, u64, Vec<u8>)>,
    calls: Vec<Call>,
    now: Duration,
    /// The board is never away nor lost; then promises are exact.
    reliable: bool,
    made: u64,
}

impl World {
    fn new(config: Config, reliable: bool) -> Self {
        let mut world = Self {
            config,
            seats: Vec::new(),
            turns: (0..NODES).map(|_| None).collect(),
            board: None,
            version: 0,
            mail: Vec::new(),
            calls: Vec::new(),
            now: Duration::from_secs(1_000),
            reliable,
            made: 0,
        };
        world.seats = (0..NODES).map(|_| world.seat()).collect();
        world
    }

    fn seat(&mut self) -> Seat {
        self.made += 1;
        Seat::new(self.made, self.config.clone(), TIMEOUT)
    }

    fn read(&self, body: &[u8]) -> Fleet {
        Fleet::read(body, &self.config).unwrap()
    }

    fn on_board(&self) -> Option<Fleet> {
        self.board.as_deref().map(|body| self.read(body))
    }

    fn take(&mut self, step: Step) {
        let before: Vec<u64> = self.seats.iter().map(Seat::generation).collect();
        let mut crashed = None;
        match step {
            Step::Ask { node, conversation } => self.ask(node, format!("c{conversation}")),
            Step::End { which, outcome } => self.end(which, outcome),
            Step::Turn { node } => self.turn(node),
            Step::NoAnswer { node, heard } if !self.reliable => self.no_answer(node, heard),
            Step::Deliver { which } => self.deliver(which),
            Step::Miss { which } => drop(pick(&mut self.mail, which)),
            Step::Crash { node } => {
                crashed = Some(node);
                self.seats[node] = self.seat();
                self.turns[node] = None;
                self.calls.retain(|call| call.node != node || call.given.lease.is_some());
            }
            Step::BreakOff { node, heard } => {
                if let Some(turn) = self.turns[node].take().filter(|turn| heard && turn.expected == self.version) {
                    self.write(node, &turn);
                }
            }
            Step::Flush if !self.reliable => (self.board, self.version) = (None, 0),
            Step::NoAnswer { .. } | Step::Flush => {}
            Step::Pass { ms } => self.now += Duration::from_millis(ms),
            Step::Force { node, mode } => self.seats[node].order(mode),
        }
        for (node, seat) in self.seats.iter().enumerate() {
            assert!(crashed == Some(node) || seat.generation() >= before[node], "a node forgets");
        }
        self.probes_are_few();
    }

    /// The calls of the present generation whose leases are in force, vanished probers' included.
    fn probes_are_few(&self) {
        let Some(fleet) = self.on_board() else { return };
        assert!(fleet.probes(self.now) <= u64::from(self.config.probes), "more leases than probes");
        let out = |call: &&Call| {
            let current = call.given.generation == fleet.generation();
            current && call.given.lease.is_some() && call.expires > self.now
        };
        let out = self.calls.iter().filter(out).count();
        assert!(!self.reliable || out <= self.config.probes as usize, "{out} probes under way");
    }

    fn ask(&mut self, node: usize, name: String) {
        let caller = Caller { conversation: &name, message: &name };
        let seat = &mut self.seats[node];
        let expires = self.now + TIMEOUT + LEASE_EXTRA;
        if seat.state() == State::Closed {
            let given = seat.pass();
            self.calls.push(Call { node, name, given, expires });
            return;
        }
        match seat.refused_until(self.now, caller) {
            Some(retry_at) => assert!(retry_at > self.now, "asking again at once would spin"),
            None => match seat.take(self.now, caller) {
                Some(given) => self.calls.push(Call { node, name, given, expires }),
                None => seat.wish(caller),
            },
        }
    }

    fn end(&mut self, which: usize, outcome: Outcome) {
        let Some(call) = pick(&mut self.calls, which) else { return };
        let caller = Caller { conversation: &call.name, message: &call.name };
        self.seats[call.node].note(call.given, caller, outcome);
    }

    fn turn(&mut self, node: usize) {
        let mut chance = chance(self.made);
        self.made += 1;
        match self.turns[node].take() {
            None => {
                self.turns[node] = self.seats[node].begin(self.now, Counts::default(), &mut chance);
                if self.turns[node].is_none() {
                    let board = self.on_board();
                    self.seats[node].heard(self.version, board);
                }
            }
            Some(turn) if turn.expected == self.version => {
                self.write(node, &turn);
                let version = self.version;
                self.seats[node].commit(turn, version);
            }
            Some(turn) => {
                let board = self.on_board();
                self.turns[node] = self.seats[node].redo(turn, self.version, board, self.now, &mut chance);
            }
        }
    }

    fn no_answer(&mut self, node: usize, heard: bool) {
        let Some(turn) = self.turns[node].take() else { return };
        if heard && turn.expected == self.version {
            self.write(node, &turn);
        }
        self.seats[node].alone(turn);
    }

    fn write(&mut self, node: usize, turn: &Turn) {
        let body = turn.body();
        let generation = self.read(&body).generation();
        assert!(self.on_board().is_none_or(|board| generation >= board.generation()), "the board forgets");
        // Rises over a loss of the board, as a clock does.
        self.made += 1;
        self.version = self.made;
        if turn.is_news {
            self.mail.extend((0..NODES).filter(|to| *to != node).map(|to| (to, self.version, body.clone())));
        }
        self.board = Some(body);
    }

    fn deliver(&mut self, which: usize) {
        let Some((node, version, body)) = pick(&mut self.mail, which) else { return };
        let fleet = self.read(&body);
        self.seats[node].announced(version, Some(fleet));
    }

    /// Everybody tells and reads until nobody has anything to tell.
    fn settles(&mut self) {
        for _ in 0..3 {
            for node in (0..NODES).flat_map(|node| [node; 3]) {
                self.turn(node);
            }
        }
        let board = self.on_board();
        for seat in &self.seats {
            let told = board.as_ref().map_or((State::Closed, 0), |fleet| (fleet.state(), fleet.generation()));
            assert_eq!((seat.state(), seat.generation()), told, "all know what is on the board");
        }
    }

    /// The service is well again, but the first probers vanish.
    fn heals(&mut self, mut vanishing: usize) {
        self.mail.clear();
        self.seats.iter_mut().for_each(|seat| seat.order(Mode::Auto));
        for attempt in 0..300_usize {
            self.settles();
            let (node, name) = (attempt % NODES, format!("m{attempt}"));
            let caller = Caller { conversation: &name, message: &name };
            if self.seats.iter().all(|seat| seat.state() == State::Closed) {
                return;
            }
            if let Some(retry_at) = self.seats[node].refused_until(self.now, caller) {
                self.now = retry_at;
                continue;
            }
            self.seats[node].wish(caller);
            self.settles();
            let Some(given) = self.seats[node].take(self.now, caller) else { continue };
            if vanishing > 0 {
                vanishing -= 1;
            } else {
                self.seats[node].note(given, caller, FAST);
            }
        }
        panic!("wedged");
    }
}

fn pick<T>(of: &mut Vec<T>, which: usize) -> Option<T> {
    let count = of.len();
    (count > 0).then(|| of.swap_remove(which % count))
}

fn chance(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn config() -> impl Strategy<Value = Config> {
    (1..7u32, 1..3u32, 1..60u64).prop_map(|(failure_threshold, probes, seconds)| Config {
        failure_threshold,
        probes,
        recovery_timeout: Duration::from_secs(seconds),
        ..Config::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn probes_are_few_nobody_forgets_and_the_fleet_never_wedges(
        config in config(),
        steps in prop::collection::vec(step(), 0..200),
        reliable in any::<bool>(),
        vanishing in 0..4usize,
    ) {
        let mut world = World::new(config, reliable);
        for step in steps {
            world.take(step);
        }
        for node in 0..NODES {
            world.turns[node] = None;
        }
        world.heals(vanishing);
    }

    /// Each report is of one outcome; the oracle looks at the whole history.
    #[test]
    fn it_opens_when_the_failures_say_so_and_no_fresh_success_is_overruled(
        reports in prop::collection::vec((0..3u64, prop_oneof![1 => Just(None), 4 => (0..6u64).prop_map(Some)], 0..4_000u64), 1..120),
    ) {
        let config = Config { minimum_calls: u32::MAX, ..Config::default() };
        let (mut fleet, mut now) = (Fleet::new(config), Duration::from_secs(1_000));
        let mut history: Vec<(Duration, u64, Option<u64>)> = Vec::new();
        for (node, failed, pause_ms) in reports {
            now += Duration::from_millis(pause_ms);
            let mut digest = Digest::of(fleet.generation());
            match failed {
                Some(conversation) => digest.fail(conversation),
                None => digest.succeed(false),
            }
            fleet.learn(now, node, &digest, 0.0);
            history.push((now, node, failed));
            let in_a_row = history.iter().rev().take_while(|(_, _, failed)| failed.is_some()).count();
            let vetoes = (0..3).any(|node| {
                let of_node = || history.iter().rev().filter(|(_, of, _)| *of == node);
                let fresh = of_node().find(|(_, _, failed)| failed.is_none()).is_some_and(|(at, ..)| *at + VETO_WITHIN > now);
                let since: HashSet<u64> = of_node().map_while(|(_, _, failed)| *failed).collect();
                fresh && since.len() < 2
            });
            prop_assert_eq!(fleet.state() == State::Open, in_a_row >= 5 && !vetoes);
            if fleet.state() == State::Open {
                break;
            }
        }
    }
}
