//! G3 and G6: actors panic, fail, hang and block; only the message they held is harmed.

use std::time::Duration;

use serde_json::Value;
use tidegate::simulate::{Customers, Zendesk, ai, customers::Plan, zendesk::Message};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::support::{SOON, Scene, eventually, figure, metric};

const TIMES: &str = "[chat]\nsoft_time_limit = '600ms'\ntime_limit = '900ms'\n[[ai.services]]\ntimeout = '500ms'\n[retry]\nbase = '20ms'\n";

const SUPERVISOR_RESTARTS: &str = "tidegate_actor_restarts_total{kind=\"conversations\"";

#[tokio::test(flavor = "multi_thread")]
async fn panics_errors_hangs_and_a_crashing_supervisor_harm_only_the_message_in_hand() {
    let faults = "[faults]\npanic = 0.01\nerror = 0.01\nhang = 0.003\nblock = 0.0005\n";
    let scene = Scene::with(&format!("{TIMES}{faults}")).await;
    scene.ai.behave(ai::Behaviour { latency_ms: 5, ..ai::Behaviour::default() });
    let total = figure("TIDEGATE_CHAOS_MESSAGES", 1_500);
    let plan = Plan {
        conversations: usize::try_from(total / 20).expect("it is small"),
        per_second: 250.0,
        total: Some(total),
        ..Plan::default()
    };
    let customers = Customers::start(&scene.zendesk, plan);
    for (crash, answered) in [(1.0, 200), (2.0, 500), (3.0, 800)] {
        eventually("the work goes on", SOON, async || scene.zendesk.stats().judged.answered >= answered).await;
        assert_eq!(scene.daemon.crash("node/conversations", r#"{"mode":"panic"}"#).await, 202);
        // One that was ordered while the last is being made up for would be no second one.
        eventually("the supervisor is started again", SOON, async || {
            metric(&scene.daemon.metrics().await, SUPERVISOR_RESTARTS) >= crash
        })
        .await;
    }
    assert!(customers.finished(SOON).await);
    scene.settles().await;
    scene.assert_sound();
    let metrics = scene.daemon.metrics().await;
    for cause in ["panic", "error"] {
        let series = format!("tidegate_dead_letters_total{{lane=\"chat\",cause=\"{cause}\"}}");
        assert!(metric(&metrics, &series) > 0.5, "no dead letter of {cause}");
    }
    assert!(metric(&metrics, "tidegate_actor_restarts_total{kind=\"conversation\"") > 5.0);
    let queues = scene.daemon.admin("/admin/queues").await;
    assert_eq!((&queues["chat"]["ready"], &queues["chat"]["in_hand"]), (&Value::from(0), &Value::from(0)), "{queues}");
    let judged = scene.zendesk.stats().judged;
    println!("{judged:?}");
    assert_eq!(judged.answered + judged.handed_off, total, "{judged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_hangs_is_killed_and_one_that_blocks_is_replaced() {
    let scene = Scene::with(TIMES).await;
    for (conversation, mode, cause) in [("hang", "hang", "took more than"), ("block", "block", "time limit")] {
        scene.say(conversation, "first").await;
        scene.settles().await;
        let body = format!("{{\"mode\":\"{mode}\",\"ms\":6000}}");
        let path = format!("node/conversations/{conversation}");
        assert_eq!(scene.daemon.crash(&path, &body).await, 202, "{path}");
        scene.say(conversation, "second").await;
        scene.say("neighbour", "hello").await;
        eventually("the neighbour is answered", Duration::from_secs(20), async || {
            !scene.replies("neighbour").is_empty()
        })
        .await;
        scene.settles().await;
        let shown = scene.daemon.admin(&format!("/admin/actors/{path}")).await;
        let reason = shown["last_failure"]["reason"].as_str().unwrap_or_default().to_owned();
        assert!(reason.contains(cause), "{mode}: {shown}");
        assert!(shown["restarts"].as_u64().is_some_and(|restarts| restarts >= 1), "{shown}");
    }
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_actor_comes_back_and_the_work_goes_on() {
    let scene = Scene::with("").await;
    let actors = [
        "node/guards",
        "node/guards/breaker/primary",
        "node/guards/limiter/primary",
        "node/ingress/0",
        "node/ingress/1",
        "node/chat/0",
        "node/events",
        "node/retry",
        "node/watchdog",
        "node/broker-link",
        "node/state-link",
        "node/conversations",
    ];
    for (n, actor) in actors.iter().enumerate() {
        assert_eq!(scene.daemon.crash(actor, r#"{"mode":"panic"}"#).await, 202, "{actor}");
        scene.say(&format!("c{n}"), "still there?").await;
        scene.settles().await;
    }
    scene.assert_sound();
    let tree = scene.daemon.admin("/admin/actors").await;
    for actor in ["node/guards/breaker/primary", "node/ingress/0", "node/watchdog", "node/conversations"] {
        let shown = scene.daemon.admin(&format!("/admin/actors/{actor}")).await;
        assert!(shown["restarts"].as_u64().is_some_and(|restarts| restarts >= 1), "{shown}");
        assert!(shown["last_failure"]["reason"].as_str().is_some_and(|reason| reason.contains("ordered")), "{shown}");
    }
    assert_eq!(tree["path"], "node");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_restarts_end_the_process() {
    let mut scene = Scene::with("").await;
    for _ in 0..200 {
        if scene.daemon.ended().is_some() {
            break;
        }
        let url = scene.daemon.admin_url("/admin/actors/node/broker-link/crash");
        // The listener goes with the process.
        let _ = reqwest::Client::new().post(url).send().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut daemon = scene.daemon;
    eventually("the process ends", SOON, async || daemon.ended().is_some()).await;
    assert_eq!(daemon.ended().and_then(|status| status.code()), Some(70));
}

/// The pace at which the neighbours of a hot conversation write, each once: a few are in flight at any time.
const PACE: Duration = Duration::from_millis(10);

/// While a neighbour waits, the hot conversation gets as many answers as it has turns in that time; behind its messages
/// he would wait for hundreds. However slow the machine, both are as slow.
const TURNS_MAX: usize = 5;

/// A customer's word and our post, as the simulator saw them.
struct Wait {
    asked: OffsetDateTime,
    answered: OffsetDateTime,
}

impl Wait {
    fn took(&self) -> Duration {
        (self.answered - self.asked).unsigned_abs()
    }
}

/// What is so long or so much for so many percent of all at most.
fn at_most<T: Ord>(percent: usize, all: impl IntoIterator<Item = T>) -> T {
    let mut all: Vec<T> = all.into_iter().collect();
    all.sort();
    let place = (all.len() * percent).div_ceil(100) - 1;
    all.swap_remove(place)
}

/// The waits for each answer in a conversation.
fn waits(zendesk: &Zendesk, conversation: &str) -> Vec<Wait> {
    let at = |message: &Message| OffsetDateTime::parse(&message.received, &Rfc3339).expect("it is Zendesk's form");
    let messages = zendesk.messages(conversation);
    let (ours, theirs): (Vec<_>, Vec<_>) = messages.iter().partition(|message| message.author == "business");
    let asked_for = |reply: &Message| {
        let mut asked = theirs.iter();
        asked.find(|asked| asked.text.split_whitespace().last().is_some_and(|reference| reply.text.contains(reference)))
    };
    ours.iter().filter_map(|reply| Some(Wait { asked: at(asked_for(reply)?), answered: at(reply) })).collect()
}

/// Lets neighbours write at a steady pace, and tells how they waited.
async fn waits_of_neighbours(scene: &Scene, name: &str, samples: u64) -> Vec<Wait> {
    let mut pace = tokio::time::interval(PACE);
    for n in 0..samples {
        pace.tick().await;
        scene.say(&format!("{name}{n}"), "quick one").await;
    }
    let all = || (0..samples).flat_map(|n| waits(&scene.zendesk, &format!("{name}{n}"))).collect::<Vec<_>>();
    let count = usize::try_from(samples).expect("it is small");
    eventually("the neighbours are answered", SOON, async || all().len() >= count).await;
    all()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_conversation_does_not_delay_its_neighbours() {
    let samples = figure("TIDEGATE_HOT_SAMPLES", 100);
    let hot = usize::try_from(figure("TIDEGATE_HOT_MESSAGES", 500)).expect("it is small");
    let scene = Scene::with("").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 20, ..ai::Behaviour::default() });
    waits_of_neighbours(&scene, "first", 40).await;
    let quiet = waits_of_neighbours(&scene, "quiet", samples).await;
    for n in 0..hot {
        scene.say("hot", &format!("number {n}")).await;
    }
    eventually("all of it waits", SOON, async || scene.zendesk.tally().undelivered == 0).await;
    let beside_hot = waits_of_neighbours(&scene, "beside", samples).await;
    let left = hot - scene.replies("hot").len();
    let answers = waits(&scene.zendesk, "hot");
    let meanwhile =
        |wait: &Wait| answers.iter().filter(|hot| (wait.asked..wait.answered).contains(&hot.answered)).count();
    let turns = at_most(95, beside_hot.iter().map(meanwhile));
    let p99 = [&quiet, &beside_hot].map(|waits| at_most(99, waits.iter().map(Wait::took)));
    println!("p99 {:?} alone, {:?} beside {left} messages of a hot one, which had {turns} turns", p99[0], p99[1]);
    assert!(turns <= TURNS_MAX, "the hot one had {turns} turns while a neighbour waited");
    assert!(left > hot / 4, "the hot conversation was not hot for long enough: {left} left");
    // Exact times are for the trial, where nothing else happens.
    let slack = Duration::from_millis(figure("TIDEGATE_HOT_SLACK_MS", 5_000));
    assert!(p99[1] <= p99[0].mul_f64(1.2) + slack, "p99 {:?} alone, {:?} beside a hot one", p99[0], p99[1]);
    scene.settles().await;
    scene.assert_sound();
}
