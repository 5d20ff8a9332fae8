//! "Why has this customer no answer?": each message, each conversation and the node say it in words.

use reqwest::Method;
use serde_json::{Value, json};
use tidegate::simulate::{
    ai,
    zendesk::{Behaviour, Holder},
};

use crate::support::{Fleet, SOON, Scene, eventually, in_rabbitmq};

/// Waits until a message, its conversation and nothing else says so.
async fn says(scene: &Scene, message: &str, conversation: &str, words: &str) {
    for path in [format!("/admin/messages/{message}"), format!("/admin/conversations/{conversation}")] {
        eventually(&format!("{path} says `{words}`"), SOON, async || {
            scene.daemon.admin(&path).await["explanation"].as_str().is_some_and(|said| said.contains(words))
        })
        .await;
    }
}

async fn verdict_says(scene: &Scene, words: &str) {
    eventually(&format!("the node says `{words}`"), SOON, async || {
        scene.daemon.admin("/admin/overview").await["verdict"].to_string().contains(words)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_the_limiter_and_for_the_breaker_is_explained() {
    let scene = Scene::with("[[ai.services]]\n[ai.services.limits]\nper_minute = 1\n").await;
    verdict_says(&scene, "all is well").await;
    scene.say("first", "hello").await;
    eventually("the quota is used", SOON, async || scene.ai.stats().calls == 1).await;
    let second = scene.say("second", "hello").await;
    says(&scene, &second, "second", "1 of 1 requests").await;
    verdict_says(&scene, "limiter of primary").await;
    let (status, _) = scene.daemon.order(Method::DELETE, "/admin/limiters/none", Value::Null).await;
    assert_eq!(status, 404);
    scene.daemon.order(Method::PUT, "/admin/limiters/primary", json!({ "per_minute": 1_000 })).await;
    scene.settles().await;
    scene.ai.behave(ai::Behaviour { status: 503, ..ai::Behaviour::default() });
    let mut waiting = Vec::new();
    for n in 0..6 {
        waiting.push(scene.say(&format!("w{n}"), "hello").await);
    }
    verdict_says(&scene, "failures in a row").await;
    says(&scene, &waiting[0], "w0", "primary: ").await;
    scene.ai.behave(ai::Behaviour::default());
    scene.settles().await;
    verdict_says(&scene, "all is well").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_human_a_merge_and_a_parked_letter_are_explained() {
    let scene = Scene::with("[chat]\nmerge_quiet = '300ms'\nmerge_cap = '2s'\n[retry]\nmax_retries = 0\n").await;
    let burst = [scene.say("merged", "hi").await, scene.say("merged", "my order").await];
    says(&scene, &burst[0], "merged", "was answered").await;
    eventually("the second was answered with it", SOON, async || {
        let told = scene.daemon.admin(&format!("/admin/messages/{}", burst[1])).await;
        told["explanation"].as_str().is_some_and(|said| said.contains("together with other messages"))
    })
    .await;
    scene.zendesk.control("merged", Some(Holder::Agent)).await;
    scene.say("merged", "are you human?").await;
    let told = async || scene.daemon.admin("/admin/conversations/merged").await["explanation"].clone();
    eventually("a human holds it", SOON, async || {
        told().await.as_str().is_some_and(|said| said.contains("a human holds it"))
    })
    .await;
    scene.ai.behave(ai::Behaviour { status: 400, ..ai::Behaviour::default() });
    let parked = scene.say("parked", "hello").await;
    eventually("it is parked", SOON, async || {
        let told = scene.daemon.admin(&format!("/admin/messages/{parked}")).await;
        told["explanation"].as_str().is_some_and(|said| said.contains("lies among the dead letters"))
    })
    .await;
    verdict_says(&scene, "was given up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zendesk_that_is_away_is_explained() {
    let scene = Scene::with("").await;
    scene.say("c", "hello").await;
    scene.settles().await;
    scene.ai.behave(ai::Behaviour { latency_ms: 500, ..ai::Behaviour::default() });
    let message = scene.say("c", "are you there?").await;
    eventually("it is in the AI's hands", SOON, async || scene.ai.stats().calls == 2).await;
    scene.zendesk.behave(Behaviour { down: true, ..Behaviour::default() });
    says(&scene, &message, "c", "Zendesk's API does not answer").await;
    scene.zendesk.behave(Behaviour::default());
    scene.settles().await;
    says(&scene, &message, "c", "was answered").await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_found_page_by_page_and_by_a_part_of_their_id() {
    let scene = Scene::with("").await;
    for n in 0..25 {
        scene.say(&format!("c{n:02}"), "hello").await;
    }
    scene.settles().await;
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let page = scene.daemon.admin(&format!("/admin/conversations?limit=10&after={after}")).await;
        let ids = page["conversations"].as_array().cloned().unwrap_or_default();
        found.extend(ids.iter().filter_map(|it| it["id"].as_str().map(str::to_owned)));
        assert_eq!(page["total"], 25, "{page}");
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    let all: Vec<String> = (0..25).map(|n| format!("c{n:02}")).collect();
    assert_eq!(found, all);
    let part = scene.daemon.admin("/admin/conversations?q=c1").await;
    assert_eq!(part["total"], 10, "{part}");
    let tree = scene.daemon.admin("/admin/actors?limit=3&q=c2").await;
    let node = tree["children"].as_array().into_iter().flatten().find(|it| it["path"] == "node/conversations");
    let node = node.expect("it is there");
    assert_eq!((node["children"].as_array().map(Vec::len), &node["children_total"]), (Some(3), &5.into()), "{node}");
    let known = scene.daemon.admin("/admin/conversations/c07").await;
    assert_eq!((known["ended"].as_array().map(Vec::len), &known["holder"]), (Some(1), &"us".into()), "{known}");
    let (status, _) = scene.daemon.order(Method::GET, "/admin/conversations/nobody", Value::Null).await;
    assert_eq!(status, 404);
}

/// What the dashboard lives on: the same overview, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_brings_the_overview_every_second() {
    let scene = Scene::with("").await;
    let mut answer = reqwest::get(scene.daemon.admin_url("/admin/events")).await.expect("the node answers");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    while text.matches("\n\n").count() < 2 {
        text +=
            std::str::from_utf8(&answer.chunk().await.expect("it goes on").expect("it does not end")).expect("text");
    }
    let event = text.split("\n\n").next().expect("one is there");
    let data = event.strip_prefix("event: overview\ndata: ").unwrap_or_else(|| panic!("{event}"));
    let overview: Value = serde_json::from_str(data).expect("JSON");
    for field in ["level", "verdict", "node", "waiting", "now", "queues", "breakers", "limiters", "settings", "health"]
    {
        assert!(overview.get(field).is_some(), "{field}: {overview}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_crashed_with_a_message_in_hand_is_explained_by_another() {
    let mut fleet = Fleet::with(2, &in_rabbitmq()).await;
    fleet.ai.behave(ai::Behaviour { hang: true, ..ai::Behaviour::default() });
    fleet.zendesk.say("c", &format!("hello {}", fleet.zendesk.next_reference())).await;
    eventually("it is in the AI's hands", SOON, async || fleet.ai.stats().calls > 0).await;
    let lives_at = fleet.daemons[0].admin("/admin/conversations?q=c").await["total"].as_u64();
    let (holder, other) = if lives_at == Some(1) { (0, 1) } else { (1, 0) };
    let says = async |fleet: &Fleet, words: &[&str]| {
        let told = fleet.daemons[other].admin("/admin/conversations/c").await;
        words.iter().any(|words| told["explanation"].as_str().is_some_and(|said| said.contains(words)))
    };
    eventually("the other one says who has it", SOON, async || says(&fleet, &["has it in hand"]).await).await;
    fleet.daemons[holder].kill();
    // It may be quick in taking it over.
    let words = ["is gone; another one takes it over", "the AI service has been asked"];
    eventually("it says what has become of it", SOON, async || says(&fleet, &words).await).await;
    fleet.ai.behave(ai::Behaviour::default());
    fleet.daemons[holder].restart("").await;
    fleet.settles().await;
    fleet.assert_sound();
}
