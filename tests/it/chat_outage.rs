//! G4 and G5: a service that fails or refuses costs waiting time and nothing else.

use std::time::Duration;

use tidegate::simulate::{Customers, ai, customers::Plan, quota::Quota};
use tokio::time::Instant;

use crate::support::{SOON, Scene, eventually, figure};

/// Times are a sixtieth of the defaults, so that 90 s become 1.5 s; a trial runs with 60, which are the defaults.
fn scale() -> u32 {
    u32::try_from(figure("TIDEGATE_SCALE", 1)).expect("it is small")
}

fn scaled() -> String {
    let (base, recovery, deadline) = (scale() * 1_000 / 60, scale(), scale() * 60);
    format!(
        "[retry]\nbase = '{base}ms'\n[chat]\ndeadline = '{deadline}s'\n[[ai.services]]\nbreaker = {{ recovery_timeout = '{recovery}s' }}\n"
    )
}

const FAILURE_THRESHOLD: u64 = 5;

fn failing() -> ai::Behaviour {
    ai::Behaviour { status: 503, ..ai::Behaviour::default() }
}

async fn no_try_was_spent(scene: &Scene) {
    let metrics = scene.daemon.metrics().await;
    for series in ["tidegate_dead_letters_total", "tidegate_retries_total"] {
        assert!(crate::support::metric(&metrics, series) < 0.5, "{series}");
    }
    scene.assert_sound();
    assert_eq!(scene.zendesk.stats().judged.handed_off, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_under_load_dead_letters_nothing_and_is_probed_not_stormed() {
    let scene = Scene::with(&scaled()).await;
    scene.ai.behave(ai::Behaviour { latency_ms: 10, ..ai::Behaviour::default() });
    let plan = Plan { conversations: 50, per_second: 80.0, ..Plan::default() };
    let customers = Customers::start(&scene.zendesk, plan);
    eventually("some are answered", SOON, async || scene.zendesk.stats().judged.answered > 20).await;
    let outage = Duration::from_millis(figure("TIDEGATE_OUTAGE_MS", 4_500));
    scene.ai.behave(failing());
    let in_flight = scene.ai.stats().in_flight;
    let (began, before) = (Instant::now(), scene.ai.stats().calls);
    tokio::time::sleep(outage).await;
    let during = scene.ai.stats().calls - before;
    let outage = began.elapsed();
    scene.ai.behave(ai::Behaviour { latency_ms: 10, ..ai::Behaviour::default() });
    // The recovery doubles; besides its probes, each further conversation may probe until the threshold is named.
    let probes = FAILURE_THRESHOLD + outage.as_millis() as u64 / 1_000 / u64::from(scale());
    let allowed = FAILURE_THRESHOLD + in_flight.max(8) + probes;
    println!("{during} calls during {outage:?}, {allowed} allowed");
    assert!(during <= allowed, "{during} calls during the outage, {allowed} allowed");
    customers.stop().await;
    scene.settles().await;
    no_try_was_spent(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_with_one_lone_conversation_dead_letters_nothing() {
    let scene = Scene::with(&scaled()).await;
    scene.ai.behave(failing());
    scene.say("lonely", "is anybody there?").await;
    tokio::time::sleep(Duration::from_millis(figure("TIDEGATE_OUTAGE_MS", 3_500))).await;
    let calls = scene.ai.stats().calls;
    let allowed = FAILURE_THRESHOLD + 1 + figure("TIDEGATE_OUTAGE_MS", 3_500) / 1_000 / u64::from(scale());
    println!("{calls} calls, {allowed} allowed");
    assert!((2..=allowed).contains(&calls), "{calls} calls");
    scene.ai.behave(ai::Behaviour::default());
    scene.settles().await;
    no_try_was_spent(&scene).await;
    assert_eq!(scene.replies("lonely").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_or_closes_connections_is_an_outage_too() {
    let scene = Scene::with(&format!("{}timeout = '300ms'\n", scaled())).await;
    for broken in [
        ai::Behaviour { hang: true, ..ai::Behaviour::default() },
        ai::Behaviour { down: true, ..ai::Behaviour::default() },
    ] {
        scene.ai.behave(broken);
        for n in 0..10 {
            scene.say(&format!("c{n}"), "hello?").await;
        }
        eventually("the breaker opens", SOON, async || {
            scene.daemon.metric("tidegate_breaker_state{service=\"primary\",state=\"closed\"}").await < 0.5
        })
        .await;
        scene.ai.behave(ai::Behaviour::default());
        scene.settles().await;
    }
    no_try_was_spent(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_the_calls_ramp_up() {
    let scene = Scene::with(&scaled()).await;
    scene.ai.behave(failing());
    for n in 0..40 {
        scene.say(&format!("c{n}"), "hello?").await;
    }
    eventually("the breaker opens", SOON, async || {
        scene.daemon.metric("tidegate_breaker_state{service=\"primary\",state=\"open\"}").await > 0.5
    })
    .await;
    scene.ai.reset();
    scene.ai.behave(ai::Behaviour { latency_ms: 150, ..ai::Behaviour::default() });
    scene.settles().await;
    let calls = scene.ai.calls_at_ms();
    let first = calls.first().copied().unwrap_or_default();
    let soon_after = calls.iter().filter(|at| **at < first + 140).count();
    assert!(soon_after <= 2, "{soon_after} calls before the first one was answered");
    assert!(scene.ai.stats().in_flight_max >= 4, "{:?}", scene.ai.stats());
    no_try_was_spent(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_is_obeyed_by_all() {
    let scene = Scene::with("").await;
    let quota = vec![Quota { requests: 1, per_ms: 3_000 }];
    scene.ai.behave(ai::Behaviour { quota, ..ai::Behaviour::default() });
    scene.say("first", "hello?").await;
    scene.settles().await;
    scene.say("second", "hello?").await;
    eventually("it is told to wait", SOON, async || scene.ai.stats().status_429 == 1).await;
    for n in 0..5 {
        scene.say(&format!("c{n}"), "hello?").await;
    }
    eventually("the wait is over", SOON, async || scene.ai.stats().ok >= 2).await;
    let calls = scene.ai.calls_at_ms();
    let waited = calls[2] - calls[0];
    assert!(waited >= 3_000, "the third call came {waited} ms after the first: {calls:?}");
    scene.ai.behave(ai::Behaviour::default());
    scene.settles().await;
    no_try_was_spent(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_never_sees_more_calls_than_configured_also_over_a_restart() {
    let limits = "[[ai.services]]\nlimits = { windows = [{ requests = 20, per = '2s' }] }\n";
    let mut scene = Scene::with(limits).await;
    scene
        .ai
        .behave(ai::Behaviour { quota: vec![Quota { requests: 100_000, per_ms: 2_000 }], ..ai::Behaviour::default() });
    for n in 0..70 {
        scene.say(&format!("c{n}"), "hello?").await;
    }
    eventually("some calls are made", SOON, async || scene.ai.stats().calls >= 25).await;
    scene.daemon.restart("").await;
    scene.settles().await;
    let peak = scene.ai.stats().max_in_window[0];
    assert!(peak.max_in_window <= 20, "{peak:?}");
    no_try_was_spent(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_on_which_the_service_always_fails_is_parked_alone() {
    let scene = Scene::with("[retry]\nbase = '5ms'\nmax_retries = 2\n").await;
    let plan = Plan { conversations: 20, per_second: 40.0, ..Plan::default() };
    let customers = Customers::start(&scene.zendesk, plan);
    eventually("some are answered", SOON, async || scene.zendesk.stats().judged.answered > 10).await;
    let poison = scene.say("poisoned", "[[ai:500]] tell me everything").await;
    eventually("it is parked", SOON, async || {
        scene.daemon.admin(&format!("/admin/messages/{poison}")).await["outcome"] == "parked"
    })
    .await;
    customers.stop().await;
    scene.settles().await;
    scene.assert_sound();
    let told = scene.daemon.admin(&format!("/admin/messages/{poison}")).await;
    assert!(told["cause"].as_str().is_some_and(|cause| cause.contains("10 times while it answered others")), "{told}");
    assert_eq!(scene.replies("poisoned").len(), 1, "the customer is told");
    let metrics = scene.daemon.metrics().await;
    assert!(crate::support::metric(&metrics, "tidegate_breaker_transitions_total") < 0.5, "the breaker stayed closed");
    assert_eq!(scene.zendesk.stats().judged.handed_off, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_content_is_parked_at_once_and_a_bad_request_after_its_tries() {
    let scene = Scene::with("[retry]\nbase = '10ms'\n").await;
    let refused = scene.say("a", "[[ai:refuse]]").await;
    let bad = scene.say("b", "[[ai:400]]").await;
    for (message, calls) in [(&refused, 0.0), (&bad, 3.0)] {
        eventually("it is parked", SOON, async || {
            scene.daemon.admin(&format!("/admin/messages/{message}")).await["outcome"] == "parked"
        })
        .await;
        if calls > 0.0 {
            let metrics = scene.daemon.metrics().await;
            assert!((crate::support::metric(&metrics, "tidegate_retries_total") - calls).abs() < 0.5);
        }
    }
    scene.settles().await;
    assert_eq!(scene.ai.stats().calls, 1 + 4);
}
