//! Operators look at dead letters, replay them and discard them.

use reqwest::{Client, Method};
use serde_json::Value;
use tidegate::simulate::{ai, zendesk::Holder};

use crate::support::{SOON, Scene, eventually, in_rabbitmq};

const QUICK: &str = "[retry]\nbase = '10ms'\n";
const TOKENS: &str = "[admin]\ntokens = [{ name = 'ada', token = 'looks', role = 'viewer' }, \
                      { name = 'bob', token = 'acts', role = 'operator' }]\n";

async fn ask(scene: &Scene, method: Method, path: &str, token: &str) -> (u16, Value) {
    let request = Client::new().request(method, scene.daemon.admin_url(&format!("/admin/dead-letters{path}")));
    let answer = request.bearer_auth(token).send().await.expect("the node answers");
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

async fn message(scene: &Scene, id: &str) -> Value {
    let request = Client::new().get(scene.daemon.admin_url(&format!("/admin/messages/{id}")));
    request.bearer_auth("looks").send().await.expect("the node answers").json().await.unwrap_or_default()
}

async fn ends(scene: &Scene, id: &str, outcome: &str) -> Value {
    eventually(outcome, SOON, async || message(scene, id).await["outcome"] == outcome).await;
    message(scene, id).await
}

fn stages(told: &Value) -> Vec<String> {
    let entries = told["timeline"].as_array().cloned().unwrap_or_default();
    let mut stages: Vec<String> =
        entries.iter().filter_map(|entry| Some(entry["stage"].as_str()?.to_owned())).collect();
    stages.retain(|stage| stage != "waited" && stage != "asked");
    stages
}

/// One message that fails for good, while its service refuses everything.
async fn parked(scene: &Scene, conversation: &str, text: &str) -> String {
    scene.ai.behave(ai::Behaviour { status: 400, ..ai::Behaviour::default() });
    let message = scene.say(conversation, text).await;
    ends(scene, &message, "parked").await;
    scene.ai.behave(ai::Behaviour::default());
    message
}

async fn letters_are_seen_replayed_and_discarded(config: &str) {
    let scene = Scene::with(&format!("{config}{QUICK}{TOKENS}")).await;
    let again = parked(&scene, "a", "my secret words").await;
    let gone = parked(&scene, "b", "other words").await;
    let (status, list) = ask(&scene, Method::GET, "?cause=rejected&lane=chat", "looks").await;
    let ids: Vec<&str> =
        list["letters"].as_array().into_iter().flatten().filter_map(|it| it["message_id"].as_str()).collect();
    assert_eq!((status, ids), (200, vec![&*again, &*gone]), "{list}");
    assert!(!list.to_string().contains("words"), "no customer's words: {list}");
    let (_, of_one) = ask(&scene, Method::GET, "?conversation=b&limit=1", "looks").await;
    assert_eq!(of_one["letters"][0]["message_id"], *gone, "{of_one}");
    let (_, hidden) = ask(&scene, Method::GET, &format!("/{again}"), "looks").await;
    assert!(!hidden.to_string().contains("words"), "the words are hidden until they are asked for: {hidden}");
    let (_, shown) = ask(&scene, Method::GET, &format!("/{again}?text=true"), "looks").await;
    let text = shown["message"]["text"].as_str().unwrap_or_default();
    assert!(text.starts_with("my secret words"), "{shown}");
    assert_eq!((&shown["tries"], &shown["replay"]), (&4.into(), &0.into()));
    for (method, path) in [(Method::POST, format!("/{again}/replay")), (Method::DELETE, format!("/{again}"))] {
        assert_eq!(ask(&scene, method, &path, "looks").await.0, 403, "a viewer looks, and does not act");
    }
    let unknown = [(Method::GET, "/none"), (Method::POST, "/none/replay"), (Method::DELETE, "/none")];
    for (method, path) in unknown {
        let (status, problem) = ask(&scene, method, path, "acts").await;
        assert_eq!((status, &problem["type"]), (404, &"urn:tidegate:problem:no-such-letter".into()), "{path}");
    }
    assert_eq!(ask(&scene, Method::GET, "?after=nonsense", "looks").await.0, 400);
    // It was handed to a human, who gives it back.
    scene.zendesk.control("a", Some(Holder::Bot)).await;
    let (status, replayed) = ask(&scene, Method::POST, &format!("/{again}/replay"), "acts").await;
    assert_eq!((status, &replayed["replay"]), (202, &1.into()), "{replayed}");
    let told = ends(&scene, &again, "replied").await;
    assert_eq!(stages(&told)[..2], ["accepted", "taken"], "the story of its first life goes before: {told}");
    let last: Vec<String> = stages(&told).into_iter().skip_while(|stage| stage != "replayed").collect();
    assert_eq!(last, ["replayed", "taken", "intended", "posted", "ended"], "{told}");
    assert_eq!(scene.replies("a").iter().filter(|reply| reply.starts_with("Answer")).count(), 1);
    assert_eq!(ask(&scene, Method::DELETE, &format!("/{gone}"), "acts").await.0, 204);
    let told = ends(&scene, &gone, "discarded").await;
    assert_eq!(told["cause"], "an operator discarded it", "{told}");
    let (_, list) = ask(&scene, Method::GET, "", "looks").await;
    assert_eq!(list["letters"], Value::Array(Vec::new()), "{list}");
    assert!(!scene.daemon.log().contains("words"), "no customer's words in the log");
    scene.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_the_embedded_queue_are_seen_replayed_and_discarded() {
    letters_are_seen_replayed_and_discarded("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_in_rabbitmq_are_seen_replayed_and_discarded() {
    letters_are_seen_replayed_and_discarded(&in_rabbitmq()).await;
}
