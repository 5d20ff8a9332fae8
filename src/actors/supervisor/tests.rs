//! Real actors under a real supervisor, most on a paused clock.
//!
//! The tree itself is one_for_one throughout: what its actors need lies outside them, so nobody has to begin anew with a
//! neighbour. The other strategies belong to the supervisor all the same, for children that will lean on each other
//! (a broker's link, its publisher, its forwarder), and are held to their word here.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::{task::JoinHandle, time::Instant};

use super::*;
use crate::{actors::roster, telemetry::Clock};

const CALM: Backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(1), jitter: 0.0 };
const MANY: Intensity = Intensity { max_restarts: 1_000, within: Duration::from_secs(10) };
const NAMES: [&str; 3] = ["a", "b", "c"];

/// What a child can be told to do.
enum Act {
    Panic,
    Quit,
    Dawdle(Duration),
}

/// Where children report, and from where they are reached.
#[derive(Default)]
struct Stage {
    log: Mutex<Vec<String>>,
    actors: Mutex<HashMap<&'static str, ActorRef<Act>>>,
    /// Starts that fail before one works.
    refusals: Mutex<usize>,
}

struct Probe {
    name: &'static str,
    stage: Arc<Stage>,
}

impl Actor for Probe {
    type Msg = Act;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Act>, (): ()) -> Result<(), ActorProcessingErr> {
        let mut refusals = self.stage.refusals.lock();
        if *refusals > 0 {
            *refusals -= 1;
            return Err("not yet".into());
        }
        self.stage.actors.lock().insert(self.name, myself);
        self.stage.log.lock().push(format!("{} up", self.name));
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Act>, act: Act, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match act {
            Act::Panic => panic!("on purpose"),
            Act::Quit => myself.stop(None),
            Act::Dawdle(time) => tokio::time::sleep(time).await,
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Act>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.stage.log.lock().push(format!("{} down", self.name));
        Ok(())
    }
}

/// A supervisor with the children a, b and c.
struct Scene {
    stage: Arc<Stage>,
    roster: Arc<Roster>,
    root: ActorRef<Message>,
    ended: JoinHandle<()>,
}

fn plan(roster: &Roster, path: &str, stage: &Arc<Stage>, restarts: [Restart; 3]) -> Plan {
    let children = NAMES.into_iter().zip(restarts).map(|(name, restart)| {
        let stage = stage.clone();
        let start: Start = Arc::new(move |above| {
            let probe = Probe { name, stage: stage.clone() };
            Box::pin(async move { Ok(Actor::spawn_linked(None, probe, (), above).await?.0.get_cell()) })
        });
        Child { card: roster.card(&format!("{path}/{name}"), "link"), restart, start }
    });
    let card = roster.card(path, "supervisor");
    Plan { card, strategy: Strategy::OneForOne, intensity: MANY, backoff: CALM, children: children.collect() }
}

impl Scene {
    async fn with(restarts: [Restart; 3], change: impl FnOnce(&mut Plan)) -> Self {
        let (stage, roster) = (Arc::<Stage>::default(), Arc::new(Roster::new(Clock::system())));
        let mut plan = plan(&roster, "top", &stage, restarts);
        change(&mut plan);
        Self::of(stage, roster, plan).await
    }

    async fn of(stage: Arc<Stage>, roster: Arc<Roster>, plan: Plan) -> Self {
        let metrics = Metrics::register(&mut Registry::default());
        let (root, ended) = Supervisor::root(&roster, &metrics, plan).await.unwrap();
        let scene = Self { stage, roster, root, ended };
        scene.until("all are up", || scene.stage.actors.lock().len() == 3).await;
        scene.stage.log.lock().clear();
        scene
    }

    async fn permanent(strategy: Strategy) -> Self {
        Self::with([Restart::Permanent; 3], |plan| plan.strategy = strategy).await
    }

    fn actor(&self, name: &str) -> ActorRef<Act> {
        self.stage.actors.lock()[name].clone()
    }

    fn tell(&self, name: &str, act: Act) {
        self.actor(name).cast(act).unwrap();
    }

    fn card(&self, name: &str) -> roster::Snapshot {
        self.roster.find(&format!("top/{name}")).unwrap().snapshot()
    }

    fn log(&self) -> Vec<String> {
        self.stage.log.lock().clone()
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < deadline, "not in time: {what}; {:?}", self.log());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Whatever is still to happen has time to.
    async fn calm(&self) {
        tokio::time::sleep(Duration::from_secs(20)).await;
    }

    /// Lets a child panic and waits for its successor; how long that took.
    async fn panics(&self, name: &'static str) -> Duration {
        let (old, began) = (self.actor(name).get_id(), Instant::now());
        self.tell(name, Act::Panic);
        self.until("a successor", || self.actor(name).get_id() != old).await;
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn each_strategy_restarts_exactly_its_children_in_order() {
    for (strategy, expected) in [
        (Strategy::OneForOne, vec!["b up"]),
        (Strategy::RestForOne, vec!["c down", "b up", "c up"]),
        (Strategy::OneForAll, vec!["c down", "a down", "a up", "b up", "c up"]),
    ] {
        let scene = Scene::permanent(strategy).await;
        scene.tell("b", Act::Panic);
        scene.calm().await;
        assert_eq!(scene.log(), expected, "{strategy:?}");
        let failures = NAMES.map(|name| scene.card(name).failed);
        assert_eq!(failures, [0, 1, 0], "{strategy:?}: the others did not fail");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_goes_in_reverse_order() {
    let scene = Scene::permanent(Strategy::OneForOne).await;
    scene.root.stop(None);
    scene.ended.await.unwrap();
    assert_eq!(scene.stage.log.lock().clone(), ["c down", "b down", "a down"]);
    for card in scene.roster.all() {
        assert_eq!(card.snapshot().state, roster::State::Stopped, "{}", card.path);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kill_is_abnormal_a_normal_end_of_a_transient_child_is_final_and_a_temporary_one_never_returns() {
    let scene = Scene::with([Restart::Transient, Restart::Transient, Restart::Temporary], |_| ()).await;
    scene.tell("a", Act::Quit);
    scene.actor("b").kill();
    scene.actor("c").kill();
    scene.calm().await;
    assert_eq!(scene.log(), ["a down", "b up"]);
    let states = NAMES.map(|name| scene.card(name).state);
    assert_eq!(states, [roster::State::Stopped, roster::State::Running, roster::State::Stopped]);
    assert_eq!(scene.card("b").last_failure.unwrap().reason, "killed");
}

#[tokio::test(start_paused = true)]
async fn a_temporary_child_that_goes_with_another_does_not_return_either() {
    let restarts = [Restart::Permanent, Restart::Temporary, Restart::Permanent];
    let scene = Scene::with(restarts, |plan| plan.strategy = Strategy::OneForAll).await;
    scene.tell("a", Act::Panic);
    scene.calm().await;
    assert_eq!(scene.log(), ["c down", "b down", "a up", "c up"]);
    assert_eq!(scene.card("b").state, roster::State::Stopped);
}

#[tokio::test(start_paused = true)]
async fn the_late_end_of_an_outlived_incarnation_is_not_taken_for_its_successors() {
    let scene = Scene::permanent(Strategy::RestForOne).await;
    let outlived = scene.actor("c").get_id();
    // It does not stop in time, so it is killed, and its end is told when nobody asks any more.
    scene.tell("c", Act::Dawdle(Duration::from_secs(3_600)));
    scene.panics("b").await;
    scene.calm().await;
    assert_eq!(scene.log(), ["b up", "c up"]);
    // Nor does an order about the old one hit the new one.
    scene.root.cast(Message::Stuck(outlived, Order::Kill("late".into()))).unwrap();
    scene.root.cast(Message::Stuck(outlived, Order::Replace("late".into()))).unwrap();
    scene.calm().await;
    assert_eq!(scene.log(), ["b up", "c up"]);
    assert_eq!((scene.card("c").failed, scene.card("c").state), (0, roster::State::Running));
}

#[tokio::test(start_paused = true)]
async fn a_stuck_child_is_killed_and_its_card_says_why() {
    let scene = Scene::permanent(Strategy::OneForOne).await;
    scene.tell("b", Act::Dawdle(Duration::from_secs(3_600)));
    let card = scene.roster.find("top/b").unwrap();
    let _in_hand = card.begin("dawdling");
    tokio::time::sleep(Duration::from_secs(31)).await;
    let (keeper, order) = card.stamp.examine(Duration::from_secs(30)).expect("it is over its limit");
    keeper(order);
    scene.calm().await;
    assert_eq!(scene.log(), ["b up"]);
    assert_eq!(scene.card("b").last_failure.unwrap().reason, "time limit: dawdling took more than 30s");
}

#[tokio::test(start_paused = true)]
async fn restarts_within_the_intensity_pass_one_more_escalates_and_the_window_slides() {
    let narrow = |plan: &mut Plan| plan.intensity = Intensity { max_restarts: 3, within: Duration::from_secs(10) };
    let scene = Scene::with([Restart::Permanent; 3], narrow).await;
    for name in ["a", "b", "c"] {
        scene.panics(name).await;
    }
    tokio::time::sleep(Duration::from_secs(11)).await;
    for name in ["a", "a", "b"] {
        scene.panics(name).await;
    }
    assert!(!scene.ended.is_finished(), "six in all, but never four within ten seconds");
    scene.tell("c", Act::Panic);
    tokio::time::timeout(Duration::from_secs(5), scene.ended).await.expect("it gives up").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_gives_up_is_started_again_by_the_one_above() {
    let (stage, roster) = (Arc::<Stage>::default(), Arc::new(Roster::new(Clock::system())));
    let mut below = plan(&roster, "top/below", &stage, [Restart::Permanent; 3]);
    below.intensity = Intensity { max_restarts: 1, within: Duration::from_secs(10) };
    let metrics = Metrics::register(&mut Registry::default());
    let children = vec![Supervisor::child(&roster, &metrics, below)];
    let card = roster.card("top", "supervisor");
    let top = Plan { card, strategy: Strategy::OneForOne, intensity: MANY, backoff: CALM, children };
    let scene = Scene::of(stage, roster, top).await;
    scene.panics("a").await;
    scene.panics("a").await;
    scene.calm().await;
    assert_eq!(scene.card("below").restarts, 1);
    assert_eq!(scene.log(), ["a up", "a up", "b up", "c up"]);
    assert!(scene.card("below").last_failure.unwrap().reason.contains("too many restarts"));
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_with_the_failures_of_one_child_and_vary() {
    let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(4), jitter: 0.5 };
    let scene = Scene::with([Restart::Permanent; 3], |plan| {
        plan.backoff = backoff;
        plan.intensity.within = Duration::from_secs(600);
    })
    .await;
    let mut longest = Vec::new();
    for base in [1, 2, 4, 4, 4, 4] {
        let pause = scene.panics("a").await;
        let base = Duration::from_secs(base);
        assert!(pause >= base && pause < base.mul_f64(1.5) + Duration::from_millis(10), "{pause:?} for {base:?}");
        longest.extend((base == backoff.longest).then_some(pause));
    }
    longest.dedup();
    assert!(longest.len() > 1, "the pauses vary: {longest:?}");
    let other = scene.panics("b").await;
    assert!(other < Duration::from_millis(1_510), "a child that fails for the first time does not wait: {other:?}");
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_start_fails_is_tried_again() {
    let scene = Scene::permanent(Strategy::OneForOne).await;
    *scene.stage.refusals.lock() = 2;
    scene.panics("b").await;
    scene.calm().await;
    assert_eq!(scene.log(), ["b up"]);
    assert_eq!((scene.card("b").failed, scene.card("b").state), (3, roster::State::Running));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_actor_is_back_at_once() {
    let scene = Scene::with([Restart::Permanent; 3], |plan| plan.backoff = BACKOFF).await;
    let mut waits = Vec::new();
    for name in NAMES {
        waits.push(scene.panics(name).await);
    }
    waits.sort();
    // A millisecond's pause and a spawn; the machine may be busy, but not with every one of them.
    assert!(waits[0] < Duration::from_millis(25), "{waits:?}");
}
