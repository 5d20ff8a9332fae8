//! What operators set while the nodes run: seen on all nodes, kept over a restart, written down.

use reqwest::Method;
use serde_json::{Value, json};
use tidegate::simulate::{ai, quota::Quota, zendesk};

use crate::support::{Daemon, Fleet, SOON, Scene, eventually};

async fn done(daemon: &Daemon, method: Method, path: &str, body: Value) -> Value {
    let (status, answer) = daemon.order(method, path, body).await;
    assert!(status < 300, "{path}: {status} {answer}");
    answer
}

/// What was done, the newest first.
async fn deeds(daemon: &Daemon) -> Vec<String> {
    let page = daemon.admin("/admin/audit").await;
    let entries = page["entries"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| format!("{} {}", entry["action"], entry["subject"]).replace('"', "")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pool_takes_nothing_keeps_everything_and_goes_on_where_it_stopped() {
    let mut scene = Scene::with("").await;
    done(&scene.daemon, Method::POST, "/admin/pools/chat/pause", Value::Null).await;
    let message = scene.say("c", "hello").await;
    let told = async |daemon: &Daemon| daemon.admin(&format!("/admin/messages/{message}")).await;
    eventually("it is told why it waits", SOON, async || {
        told(&scene.daemon).await["explanation"].as_str().is_some_and(|said| said.contains("paused the pool chat"))
    })
    .await;
    assert_eq!(scene.ai.stats().calls, 0);
    scene.daemon.restart("").await;
    eventually("it is still paused", SOON, async || {
        told(&scene.daemon).await["explanation"].as_str().is_some_and(|said| said.contains("paused the pool chat"))
    })
    .await;
    assert_eq!((scene.ai.stats().calls, scene.replies("c").len()), (0, 0));
    done(&scene.daemon, Method::POST, "/admin/pools/chat/resume", Value::Null).await;
    scene.settles().await;
    scene.assert_sound();
    // One that was taken already waits in its conversation, and says for how long.
    scene.ai.behave(ai::Behaviour { latency_ms: 1_500, ..ai::Behaviour::default() });
    scene.say("d", "first").await;
    eventually("the first is in the AI's hands", SOON, async || scene.ai.stats().calls == 2).await;
    let second = scene.say("d", "second").await;
    done(&scene.daemon, Method::POST, "/admin/pools/chat/pause", Value::Null).await;
    eventually("what was in hand is finished", SOON, async || scene.replies("d").len() == 1).await;
    eventually("the second waits for the pool", SOON, async || {
        let told = scene.daemon.admin(&format!("/admin/messages/{second}")).await;
        told["explanation"].as_str().is_some_and(|said| said.starts_with("it waits: ") && said.contains("paused"))
    })
    .await;
    assert_eq!(scene.ai.stats().calls, 2, "nobody is asked meanwhile");
    done(&scene.daemon, Method::POST, "/admin/pools/chat/resume", Value::Null).await;
    let ended = scene.daemon.settled(&second).await;
    assert_eq!(ended["outcome"], "replied", "{ended}");
    scene.settles().await;
    assert_eq!(deeds(&scene.daemon).await[..2], ["pool.resume chat", "pool.pause chat"]);
    for (path, status) in [("/admin/pools/none/pause", 404), ("/admin/pools/chat/none", 404)] {
        assert_eq!(scene.daemon.order(Method::POST, path, Value::Null).await.0, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_held_by_hand_is_held_on_all_nodes_and_let_go_on_all() {
    let fleet = Fleet::with(2, "").await;
    let [one, other] = &fleet.daemons[..] else { panic!("two nodes") };
    let state = async |daemon: &Daemon| {
        let told = daemon.admin("/admin/breakers").await["primary"].clone();
        format!("{} {}", told["mode"].as_str().unwrap_or_default(), told["state"].as_str().unwrap_or_default())
    };
    done(one, Method::PUT, "/admin/breakers/primary", json!({ "mode": "open" })).await;
    for daemon in [one, other] {
        eventually("it is held open", SOON, async || state(daemon).await == "open open").await;
    }
    let message = fleet.zendesk.say("c", "hello").await;
    let explained = async || {
        for daemon in [one, other] {
            let told = daemon.admin(&format!("/admin/messages/{message}")).await;
            if told["explanation"].as_str().is_some_and(|said| said.contains("held open by an operator")) {
                return true;
            }
        }
        false
    };
    eventually("it says what it waits for", SOON, explained).await;
    assert_eq!(fleet.ai.stats().calls, 0);
    done(other, Method::PUT, "/admin/breakers/primary", json!({ "mode": "auto" })).await;
    for daemon in [one, other] {
        eventually("it decides again", SOON, async || state(daemon).await.starts_with("auto")).await;
    }
    fleet.settles().await;
    fleet.assert_sound();
    for daemon in [one, other] {
        assert_eq!(deeds(daemon).await, ["breaker.auto primary", "breaker.open primary"], "one log for all");
    }
    for body in [json!({}), json!({ "mode": "ajar" }), json!({ "mode": "open", "for": 7 })] {
        assert_eq!(one.order(Method::PUT, "/admin/breakers/primary", body.clone()).await.0, 400, "{body}");
    }
    assert_eq!(one.order(Method::PUT, "/admin/breakers/none", json!({ "mode": "open" })).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_for_a_process_ends_with_it_and_what_is_kept_does_not() {
    let mut scene = Scene::with("").await;
    let limits = async |daemon: &Daemon| daemon.admin("/admin/limiters").await["primary"]["used"].clone();
    let mode = async |daemon: &Daemon| daemon.admin("/admin/breakers").await["primary"]["mode"].clone();
    done(&scene.daemon, Method::PUT, "/admin/breakers/primary", json!({ "mode": "closed" })).await;
    done(&scene.daemon, Method::PUT, "/admin/limiters/primary", json!({ "per_minute": 7, "keep": true })).await;
    assert_eq!(
        (mode(&scene.daemon).await, limits(&scene.daemon).await[0]["limit"].clone()),
        ("closed".into(), 7.into())
    );
    scene.daemon.restart("").await;
    eventually("the breaker decides again", SOON, async || mode(&scene.daemon).await == "auto").await;
    assert_eq!(limits(&scene.daemon).await[0]["limit"], 7, "kept");
    eventually("what has ended is not told any more", SOON, async || {
        scene.daemon.admin("/admin/settings").await.as_array().map(Vec::len) == Some(1)
    })
    .await;
    done(&scene.daemon, Method::DELETE, "/admin/limiters/primary", Value::Null).await;
    assert_eq!(limits(&scene.daemon).await, json!([]), "as configured");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_limits_hold_at_once() {
    let scene = Scene::with("").await;
    done(&scene.daemon, Method::PUT, "/admin/limiters/primary", json!({ "per_minute": 2, "concurrency": 1 })).await;
    for n in 0..4 {
        scene.say(&format!("c{n}"), "hello").await;
    }
    let waiting = async || scene.daemon.admin("/admin/limiters").await["primary"]["waiting"].as_u64() >= Some(1);
    eventually("two are answered and another waits", SOON, async || scene.ai.stats().calls == 2 && waiting().await)
        .await;
    let shown = scene.daemon.admin("/admin/limiters").await;
    assert_eq!(shown["primary"]["slots"]["limit"], 1, "{shown}");
    done(&scene.daemon, Method::PUT, "/admin/limiters/primary", json!({ "per_minute": 100 })).await;
    scene.settles().await;
    scene.assert_sound();
    for body in [json!({}), json!({ "keep": true }), json!({ "concurrency": 0 }), json!({ "per_second": 1 }), json!(7)]
    {
        assert_eq!(scene.daemon.order(Method::PUT, "/admin/limiters/primary", body.clone()).await.0, 400, "{body}");
    }
}

/// Where the bot is muted, what is kept, and what becomes of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_muted_bot_says_nothing_and_what_came_meanwhile_is_answered_dropped_or_handed_over() {
    let scene = Scene::with("").await;
    let outcome = async |id: &str| scene.daemon.admin(&format!("/admin/messages/{id}")).await["outcome"].clone();
    let ends = [("answer", "replied"), ("drop", "discarded"), ("hand_over", "handed_over"), ("keep", "parked")];
    for (then, ended) in ends {
        let (muted, other) = (format!("muted-{then}"), format!("other-{then}"));
        let mute = json!({ "conversation": muted });
        done(&scene.daemon, Method::POST, "/admin/mutes", json!({ "mute": mute })).await;
        let (kept, answered) = (scene.say(&muted, "are you there?").await, scene.say(&other, "hello").await);
        eventually("the other is answered", SOON, async || outcome(&answered).await == "replied").await;
        eventually("the muted one is kept", SOON, async || outcome(&kept).await == "parked").await;
        assert_eq!(scene.replies(&muted), Vec::<String>::new(), "nothing is said, not even that nothing is said");
        let told = scene.daemon.admin(&format!("/admin/conversations/{muted}")).await;
        assert!(told["explanation"].as_str().is_some_and(|said| said.contains("muted")), "{told}");
        let end = done(&scene.daemon, Method::POST, "/admin/mutes/end", json!({ "mute": mute, "then": then })).await;
        assert_eq!((end["changed"].as_bool(), end["job"].is_null()), (Some(true), then == "keep"), "{end}");
        eventually(ended, SOON, async || outcome(&kept).await == ended).await;
        let answers = scene.replies(&muted).iter().filter(|reply| reply.starts_with("Answer")).count();
        assert_eq!(answers, usize::from(then == "answer"), "{then}");
    }
    assert_eq!(scene.daemon.metric(r#"tidegate_dead_letters_total{lane="chat",cause="muted"}"#).await, 4.0);
    done(&scene.daemon, Method::POST, "/admin/mutes", json!({ "mute": "all" })).await;
    let kept = scene.say("c", "hello").await;
    eventually("everywhere", SOON, async || outcome(&kept).await == "parked").await;
    done(&scene.daemon, Method::POST, "/admin/mutes/end", json!({ "mute": "all", "then": "answer" })).await;
    eventually("and answered then", SOON, async || outcome(&kept).await == "replied").await;
    for body in [json!({}), json!({ "mute": "some" }), json!({ "mute": { "conversation": "" } })] {
        assert_eq!(scene.daemon.order(Method::POST, "/admin/mutes", body.clone()).await.0, 400, "{body}");
    }
    assert_eq!(scene.daemon.order(Method::POST, "/admin/jobs/999/cancel", Value::Null).await.0, 404);
    assert_eq!(deeds(&scene.daemon).await[..2], ["job.cancel.failed 999", "job.cancel 999"]);
}

/// It was tried, and Zendesk had refused it: it can be taken back all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_zendesk_does_not_take_yet_is_not_posted_once_the_bot_is_muted() {
    let scene = Scene::with("").await;
    let none = Some(Quota { requests: 0, per_ms: 1_000 });
    scene.zendesk.behave(zendesk::Behaviour { throttle: none, ..zendesk::Behaviour::default() });
    let message = scene.say("c", "hello").await;
    let told = async || scene.daemon.admin(&format!("/admin/messages/{message}")).await;
    eventually("it is meant, and refused", SOON, async || {
        let refused = scene.daemon.metric(r#"tidegate_posts_total{outcome="throttled"}"#).await;
        refused > 0.0 && told().await.to_string().contains("intended")
    })
    .await;
    done(&scene.daemon, Method::POST, "/admin/mutes", json!({ "mute": "all" })).await;
    scene.zendesk.behave(zendesk::Behaviour::default());
    eventually("it is kept", SOON, async || told().await["outcome"] == "parked").await;
    assert_eq!(scene.replies("c"), Vec::<String>::new());
    done(&scene.daemon, Method::POST, "/admin/mutes/end", json!({ "mute": "all", "then": "answer" })).await;
    eventually("and answered later", SOON, async || told().await["outcome"] == "replied").await;
    assert_eq!(scene.replies("c").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_is_unready_and_takes_nothing_until_it_is_resumed() {
    let scene = Scene::with("").await;
    let nodes = scene.daemon.admin("/admin/nodes").await;
    let id = nodes[0]["id"].as_str().expect("a node has an id").to_owned();
    let ready = async || scene.daemon.admin("/readyz").await["status"].clone();
    assert_eq!(ready().await, "ready");
    done(&scene.daemon, Method::POST, &format!("/admin/nodes/{id}/drain"), Value::Null).await;
    assert_eq!(ready().await, "unready");
    let message = scene.say("c", "hello").await;
    eventually("it is kept", SOON, async || {
        let told = scene.daemon.admin(&format!("/admin/messages/{message}")).await;
        told["explanation"].as_str().is_some_and(|said| said.contains("drained"))
    })
    .await;
    assert_eq!(scene.ai.stats().calls, 0);
    done(&scene.daemon, Method::POST, &format!("/admin/nodes/{id}/resume"), Value::Null).await;
    scene.settles().await;
    assert_eq!(ready().await, "ready");
    assert_eq!(scene.daemon.order(Method::POST, "/admin/nodes/none/drain", Value::Null).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_is_restarted_loses_nothing() {
    let scene = Scene::with("").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 2_000, ..ai::Behaviour::default() });
    let message = scene.say("c", "hello").await;
    eventually("it is in the AI's hands", SOON, async || scene.ai.stats().calls == 1).await;
    scene.ai.behave(ai::Behaviour::default());
    done(&scene.daemon, Method::POST, "/admin/actors/node/conversations/c/restart", Value::Null).await;
    done(&scene.daemon, Method::POST, "/admin/actors/node/guards/breaker/primary/restart", Value::Null).await;
    let ended = scene.daemon.settled(&message).await;
    assert_eq!(ended["outcome"], "replied", "{ended}");
    assert!(ended.to_string().contains("restarted by loopback"), "{ended}");
    let actor = async |path: &str| scene.daemon.admin(&format!("/admin/actors/{path}")).await;
    let conversation = actor("node/conversations/c").await;
    assert_eq!(conversation["last_failure"]["message_id"], *message, "{conversation}");
    assert!(conversation["generation"].as_u64() >= Some(2), "{conversation}");
    let breaker = actor("node/guards/breaker/primary").await;
    assert_eq!((&breaker["restarts"], &breaker["generation"]), (&1.into(), &2.into()), "{breaker}");
    scene.settles().await;
    scene.assert_sound();
    for (path, status) in [("node", 409), ("node/nobody", 404), ("node/conversations/nobody", 404)] {
        let path = format!("/admin/actors/{path}/restart");
        assert_eq!(scene.daemon.order(Method::POST, &path, Value::Null).await.0, status, "{path}");
    }
}

/// FLUSHALL: what was set is set again by those who remember it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_survives_the_loss_of_redis() {
    let fleet = Fleet::with(2, "").await;
    done(&fleet.daemons[0], Method::POST, "/admin/pools/events/pause", Value::Null).await;
    let paused = async |daemon: &Daemon| daemon.admin("/admin/settings").await[0]["name"] == "pause/events";
    eventually("the other knows", SOON, async || paused(&fleet.daemons[1]).await).await;
    assert_eq!(fleet.redis.command(&["FLUSHALL"]), "OK");
    eventually("Redis knows again", SOON, async || {
        fleet.redis.command(&["HKEYS", "tidegate:{settings}:all"]).contains("pause/events")
    })
    .await;
    for daemon in &fleet.daemons {
        assert!(paused(daemon).await);
    }
    done(&fleet.daemons[1], Method::POST, "/admin/pools/events/resume", Value::Null).await;
    eventually("and the first hears", SOON, async || !paused(&fleet.daemons[0]).await).await;
}
