//! The commands that ask a running node, as somebody types them at 3 a.m.

use serde_json::Value;
use tidegate::simulate::{ai, zendesk::Holder};

use crate::support::{
    SOON, Scene,
    command::{Said, tidegate},
    eventually,
};

/// A command, against the scene's node; `{}` in the line stands for nothing.
async fn says(scene: &Scene, line: &str) -> Said {
    run(&scene.daemon.admin_url(""), line, &[]).await
}

async fn run(admin: &str, line: &str, variables: &[(&str, &str)]) -> Said {
    let arguments: Vec<&str> = line.split(' ').collect();
    tidegate(&arguments, &[&[("TIDEGATE_ADMIN_URL", admin)], variables].concat()).await
}

async fn prints(scene: &Scene, line: &str, words: &[&str]) -> String {
    let said = says(scene, line).await;
    assert_eq!(said.code, 0, "{line}: {}{}", said.out, said.err);
    for word in words {
        assert!(said.out.contains(word), "{line} does not say `{word}`: {}", said.out);
    }
    assert!(!said.out.contains("secret words"), "{line}: a customer's words: {}", said.out);
    said.out
}

/// Two customers: the message of one was answered, the other's was given up.
async fn one_answered_and_one_given_up() -> (Scene, String, String) {
    let scene = Scene::with("[retry]\nmax_retries = 0\n").await;
    let answered = scene.say("calm", "secret words").await;
    scene.settles().await;
    scene.ai.behave(ai::Behaviour { status: 400, ..ai::Behaviour::default() });
    let letter = scene.say("refused", "secret words").await;
    eventually("it is parked", SOON, async || outcome(&scene, &letter).await == "parked").await;
    scene.ai.behave(ai::Behaviour::default());
    (scene, answered, letter)
}

async fn outcome(scene: &Scene, message: &str) -> Value {
    scene.daemon.admin(&format!("/admin/messages/{message}")).await["outcome"].take()
}

async fn prints_json(scene: &Scene, line: &str) {
    let said = says(scene, line).await;
    assert!(serde_json::from_str::<Value>(&said.out).is_ok_and(|told| !told.is_null()), "{line}: {}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_finds_and_replays_what_was_given_up() {
    let (scene, answered, letter) = one_answered_and_one_given_up().await;
    scene.zendesk.control("refused", Some(Holder::Bot)).await;
    prints(&scene, &format!("explain {answered}"), &["it was answered", "asked primary: ok", "posted in 1 parts"])
        .await;
    prints(&scene, "explain calm", &["held by: us", &answered, "it was answered"]).await;
    prints(&scene, &format!("explain {letter}"), &["it was given up", "rejected: status 400"]).await;
    prints(&scene, "dead groups", &["rejected: status #"]).await;
    prints(&scene, "dead list --cause rejected", &["refused", "rejected: status 400"]).await;
    prints_json(&scene, "dead list --json").await;
    prints(&scene, &format!("dead show {letter}"), &["can_be_replayed", "true"]).await;
    let shown = says(&scene, &format!("dead show {letter} --text")).await;
    assert!(shown.out.contains("secret words"), "asked for: {}", shown.out);
    let written = says(&scene, "dead export --cause rejected").await;
    assert!(written.code == 0 && written.out.lines().count() == 1, "{}{}", written.out, written.err);
    assert!(written.out.contains("secret words") && written.out.contains("rejected: status 400"), "{}", written.out);
    prints(&scene, "dead replay --all --dry-run", &["1 letters", "1 would be answered"]).await;
    prints(&scene, &format!("dead replay {letter}"), &["job 1 is ordered"]).await;
    eventually("it is answered", SOON, async || outcome(&scene, &letter).await == "replied").await;
    eventually("the job is done", SOON, async || scene.daemon.admin("/admin/jobs").await[0]["stage"] == "done").await;
    prints(&scene, "dead jobs", &["replay", "done"]).await;
    prints(&scene, "audit", &["letter.read", "letters.replay", "loopback"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_and_steers_a_node() {
    let (scene, ..) = one_answered_and_one_given_up().await;
    prints(&scene, "actors", &["node  running", "conversations", "guards", "primary"]).await;
    prints(&scene, "actors calm", &["calm  running"]).await;
    prints(&scene, "actors node/guards/limiter/primary", &["node/guards/limiter/primary"]).await;
    prints(&scene, "queues", &["LANE", "chat", "events"]).await;
    prints(&scene, "breaker open primary", &["open"]).await;
    prints(&scene, "breaker list", &["primary", "open"]).await;
    prints(&scene, "breaker auto primary", &["auto"]).await;
    prints(&scene, "limits set primary --per-minute 7 --concurrency 3", &["done"]).await;
    prints(&scene, "limits list", &["7 requests in", "0/3", "COST", "the chat"]).await;
    prints(&scene, "limits reset primary", &["done"]).await;
    prints(&scene, "pause chat", &["chat is paused"]).await;
    prints(&scene, "resume chat", &["chat works again"]).await;
    prints(&scene, "resume chat", &["it was so already"]).await;
    prints(&scene, "mute --conversation calm", &["muted"]).await;
    prints(&scene, "explain calm", &["the bot is muted here"]).await;
    prints(&scene, "unmute --conversation calm --then answer", &["speaks there again", "job 1"]).await;
    prints(&scene, "restart node/guards/breaker/primary", &["is restarted"]).await;
    let nodes = prints(&scene, "nodes", &["NODE", "ingress,api,chat"]).await;
    let id =
        nodes.lines().nth(1).and_then(|line| line.split_whitespace().nth(1)).expect("the node has an id").to_owned();
    prints(&scene, &format!("drain {id}"), &["is drained"]).await;
    prints(&scene, &format!("resume {id}"), &["works again"]).await;
    prints(&scene, "audit", &["breaker.open", "mute.begin", "node.drain", "loopback"]).await;
    for line in ["queues --json", "actors --json", "breaker list --json", "audit --json"] {
        prints_json(&scene, line).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said_with_a_hint() {
    let scene = Scene::with("[admin]\ntokens = [{ name = 'ada', token = 'looks', role = 'viewer' }]\n").await;
    let admin = scene.daemon.admin_url("");
    let table = [
        ("queues", &[][..], "give it by --token or TIDEGATE_ADMIN_TOKEN"),
        ("queues", &[("TIDEGATE_ADMIN_TOKEN", "wrong")], "this is no token of admin.tokens"),
        ("pause chat", &[("TIDEGATE_ADMIN_TOKEN", "looks")], "this token may look, not act"),
        ("explain nothing", &[("TIDEGATE_ADMIN_TOKEN", "looks")], "neither a message, an event nor a conversation"),
        ("actors node/nobody", &[("TIDEGATE_ADMIN_TOKEN", "looks")], "no actor at `node/nobody`"),
        ("dead discard", &[("TIDEGATE_ADMIN_TOKEN", "looks")], "name a letter, a filter, or --all"),
        ("top", &[("TIDEGATE_ADMIN_TOKEN", "looks")], "top needs a terminal"),
        ("queues --admin 127.0.0.1:1", &[], "is it running?"),
    ];
    for (line, variables, hint) in table {
        let said = run(&admin, line, variables).await;
        assert!(said.code == 1 && said.err.contains(hint), "{line}: {} {}", said.code, said.err);
    }
    let other = run(&scene.zendesk.url(), "queues", &[]).await;
    assert!(other.code == 1 && other.err.contains("does not answer like a node"), "{}", other.err);
    let viewer = run(&admin, "queues", &[("TIDEGATE_ADMIN_TOKEN", "looks")]).await;
    assert_eq!(viewer.code, 0, "{}", viewer.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_is_erased_from_everywhere_and_that_is_proven() {
    let scene = Scene::with("[retry]\nmax_retries = 0\n").await;
    scene.ai.behave(ai::Behaviour { status: 400, ..ai::Behaviour::default() });
    let outcome = async |id: &str| scene.daemon.admin(&format!("/admin/messages/{id}")).await["outcome"].clone();
    let mut letters = Vec::new();
    for conversation in ["gone", "stays"] {
        let letter = scene.say(conversation, "secret words").await;
        eventually("it is parked", SOON, async || outcome(&letter).await == "parked").await;
        letters.push(letter);
    }
    let customer = scene.daemon.admin("/admin/conversations/gone").await["customer_id"].clone();
    let customer = customer.as_str().expect("its customer is known").to_owned();
    prints(&scene, &format!("erase --user {customer}"), &["nothing of theirs waits, is in hand, or is kept"]).await;
    assert_eq!((outcome(&letters[0]).await, outcome(&letters[1]).await), ("discarded".into(), "parked".into()));
    let left = scene.daemon.admin("/admin/dead-letters").await["letters"].clone();
    assert_eq!(
        (left.as_array().map(Vec::len), &left[0]["message_id"]),
        (Some(1), &letters[1].clone().into()),
        "{left}"
    );
    let audit = says(&scene, "audit").await.out;
    assert!(audit.contains("customer.erase") && !audit.contains(&customer), "the log forgets them, too: {audit}");
    let said = says(&scene, "completions bash").await;
    assert!(said.code == 0 && said.out.contains("tidegate"), "{}", said.err);
}
