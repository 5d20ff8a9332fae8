//! What API keys may use: their limiters and budgets stand among the guards, and share the services with the chat.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tidegate::simulate::{
    Ai, Zendesk,
    ai::{self, Behaviour},
    zendesk,
};
use tokio::task::JoinSet;

use crate::support::{
    ANYWHERE, Daemon, Fleet, SOON, Scene, eventually,
    gateway::{Gateway, chat, stream},
    redis::Redis,
};

/// Two keys, one of them limited; a node has the keys of its configuration and no others.
const KEYS: &str = "[api]\nkeys = [\n\
    { name = 'shop', key = 'one', limits = { per_minute = 7, windows = [{ requests = 20, per = '2h' }] }, \
      monthly_budget = 1000 },\n\
    { name = 'free', key = 'two' },\n]\n";

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_budgets_of_keys_have_actors_of_their_own_and_are_shown() {
    let scene = Scene::with(KEYS).await;
    let limiters = scene.daemon.admin("/admin/limiters").await;
    let shop = &limiters["key:shop"];
    let limits: Vec<_> = shop["used"].as_array().into_iter().flatten().map(|window| window["limit"].clone()).collect();
    assert_eq!(limits, [7, 20], "{limiters}");
    assert_eq!(shop["waiting"], 0, "{limiters}");
    assert_eq!((&shop["budget"]["tokens"], &shop["budget"]["used"]), (&json!(1000), &json!(0)), "{limiters}");
    assert_eq!(limiters["key:free"], json!({ "used": [], "waiting": 0, "in_use": 0 }), "{limiters}");
    assert!(limiters.get("zendesk").is_some(), "{limiters}");
    for path in ["node/guards/limiter/key:shop", "node/guards/allowance/shop"] {
        let works = async || {
            let actor = scene.daemon.admin(&format!("/admin/actors/{path}")).await;
            actor["state"] == "running" && actor["handled"].as_u64() >= Some(1)
        };
        eventually(path, SOON, works).await;
    }
    let guards = scene.daemon.admin("/admin/actors/node/guards").await;
    assert!(!guards.to_string().contains("free"), "{guards}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_set_other_limits_for_a_key_while_it_is_used() {
    let scene = Scene::with(KEYS).await;
    let gateway = Gateway::with_key(&scene, "one");
    let order =
        async |method, key: &str, body| scene.daemon.order(method, &format!("/admin/limiters/key:{key}"), body).await.0;
    assert_eq!(order(Method::PUT, "shop", json!({ "concurrency": 1 })).await, 400);
    assert_eq!(order(Method::PUT, "free", json!({ "per_minute": 1 })).await, 404, "it has no limits");
    assert_eq!(order(Method::DELETE, "free", Value::Null).await, 404);
    assert_eq!(gateway.post("/v1/chat/completions", &chat("simulated")).await.status, 200);
    assert_eq!(order(Method::PUT, "shop", json!({ "per_minute": 1 })).await, 200);
    let limiters = scene.daemon.admin("/admin/limiters").await;
    let minute = &limiters["key:shop"]["used"][0];
    assert_eq!((&minute["limit"], &minute["used"], &minute["configured"]), (&json!(1), &json!(1), &json!(1)));
    let refused = gateway.post("/v1/chat/completions", &chat("simulated")).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["code"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("rate_limit_exceeded"))
    );
    assert_eq!(order(Method::DELETE, "shop", Value::Null).await, 200);
    assert_eq!(gateway.post("/v1/chat/completions", &chat("simulated")).await.status, 200);
    let audit = scene.daemon.admin("/admin/audit").await;
    assert!(audit.to_string().contains("key:shop"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_limits_of_a_key_hold_on_all_nodes_and_outlive_the_key() {
    let key = "[api]\nkeys = [{ name = 'shop', key = 'one', limits = { per_minute = 7 } }]\n";
    let mut fleet = Fleet::with(2, key).await;
    let order = async |daemon: &Daemon, method, body| daemon.order(method, "/admin/limiters/key:shop", body).await.0;
    let [one, other] = &fleet.daemons[..] else { panic!("there are two") };
    assert_eq!(order(one, Method::PUT, json!({ "per_hour": 20 })).await, 400, "of more than a minute nothing is known");
    assert_eq!(order(one, Method::PUT, json!({ "per_minute": 1, "keep": true })).await, 200);
    let minute = async |daemon: &Daemon| daemon.admin("/admin/limiters").await["key:shop"]["used"][0].clone();
    eventually("the other has heard of it", SOON, async || minute(other).await["limit"] == 1).await;
    let ask = async |daemon: &Daemon| {
        let asked = reqwest::Client::new().post(daemon.url("/v1/chat/completions")).bearer_auth("one");
        asked.json(&chat("simulated")).send().await.unwrap().status()
    };
    assert_eq!(ask(one).await, StatusCode::OK);
    eventually("what one let through counts for the other", SOON, async || minute(other).await["used"] == 1).await;
    assert_eq!(ask(other).await, StatusCode::TOO_MANY_REQUESTS);
    fleet.daemons[0].restart("").await;
    eventually("it holds after a restart", SOON, async || minute(&fleet.daemons[0]).await["limit"] == 1).await;
    fleet.daemons[0].restart("api.keys = []").await;
    let [one, other] = &fleet.daemons[..] else { panic!("there are two") };
    eventually("it is taken back where the key is gone", SOON, async || {
        order(one, Method::DELETE, Value::Null).await == 200
    })
    .await;
    assert_eq!(order(one, Method::DELETE, Value::Null).await, 404, "once");
    eventually("the configured ones hold again", SOON, async || minute(other).await["limit"] == 7).await;
}

/// A token of a question costs 1, or half of that where the provider has it in its cache, and one of an answer 2; of the
/// other model ten times as much.
const PRICES: &str = "[[ai.services]]\nmodels = { small = 'theirs' }\n\
    price = { input = 1e6, cached_input = 5e5, output = 2e6 }\n\
    prices = [{ model = 'theirs', input = 1e7, cached_input = 5e6, output = 2e7 }]\n";

/// What tokens of the first model cost; the simulator has a quarter of a question in its cache.
fn cost(input: u64, output: u64) -> f64 {
    (input - input / 4) as f64 + (input / 4) as f64 / 2.0 + (2 * output) as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_and_cost_is_told_by_service_model_and_who_asked() {
    let scene = Scene::with(&format!("{KEYS}{PRICES}")).await;
    let gateway = Gateway::with_key(&scene, "one");
    let mut expected = Vec::new();
    for (asked, model, times) in [("simulated", "simulated", 1.0), ("small", "theirs", 10.0)] {
        let answer = gateway.post("/v1/chat/completions", &chat(asked)).await;
        let usage = &answer.json()["usage"];
        let [input, output] = ["prompt_tokens", "completion_tokens"].map(|kind| usage[kind].as_u64().unwrap());
        assert_eq!((usage["prompt_tokens_details"]["cached_tokens"].as_u64(), input > 3), (Some(input / 4), true));
        let cost = cost(input, output) * times;
        assert_eq!(answer.header("x-tidegate-cost"), format!("{cost:.6}"));
        expected.push(json!({ "service": "primary", "model": model, "key": "shop", "input_tokens": input,
            "output_tokens": output, "cost": cost }));
    }
    scene.say("c", "hello").await;
    scene.settles().await;
    let limiters = scene.daemon.admin("/admin/limiters").await;
    let shop = &limiters["key:shop"];
    assert_eq!(shop["accounts"], json!(expected), "{limiters}");
    let used: u64 =
        expected.iter().flat_map(|of| [&of["input_tokens"], &of["output_tokens"]]).filter_map(Value::as_u64).sum();
    assert_eq!(shop["budget"]["used"], used, "{limiters}");
    let metrics = scene.daemon.metrics().await;
    for (series, tokens) in [("used_tokens", used), ("tokens", 1000)] {
        let line = format!("tidegate_api_budget_{series}{{key=\"shop\"}} {tokens}");
        assert!(metrics.lines().any(|told| told == line), "{line}");
    }
    assert_eq!(limiters["key:free"].get("accounts"), None, "{limiters}");
    let primary = limiters["primary"]["accounts"].as_array().unwrap();
    let (chat, keys): (Vec<_>, Vec<_>) = primary.iter().cloned().partition(|account| account.get("key").is_none());
    assert_eq!(keys, expected, "{limiters}");
    assert_eq!((chat.len(), &chat[0]["model"]), (1, &json!("simulated")), "{limiters}");
    let [input, output] = ["input_tokens", "output_tokens"].map(|kind| chat[0][kind].as_u64().unwrap());
    assert!(output > 0 && chat[0]["cost"] == cost(input, output), "{limiters}");
    for (series, value) in [
        ("tidegate_api_cost_total{key=\"shop\",service=\"primary\",model=\"theirs\"}", &expected[1]["cost"]),
        ("tidegate_chat_cost_total{service=\"primary\",model=\"simulated\"}", &chat[0]["cost"]),
    ] {
        assert_eq!(Some(scene.daemon.metric(series).await), value.as_f64(), "{series}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_before_the_tokens_are_told_pays_an_estimate() {
    let scene = Scene::with(&format!("{KEYS}{PRICES}")).await;
    let gateway = Gateway::with_key(&scene, "one");
    let paid = async |model: &str| {
        let limiters = scene.daemon.admin("/admin/limiters").await;
        let accounts = limiters["key:shop"]["accounts"].as_array().cloned().unwrap_or_default();
        let of_model =
            accounts.iter().find(|account| account["model"] == model).map(|account| account["cost"].as_f64());
        of_model.flatten().unwrap_or_default()
    };
    scene.ai.behave(Behaviour { chunk_gap_ms: 20, reply_chars: 24 * 500, ..Behaviour::default() });
    drop(gateway.begin(&stream("small")).await);
    eventually("the beginning of a stream is paid for", SOON, async || paid("theirs").await > 0.0).await;
    scene.ai.behave(Behaviour { hang: true, ..Behaviour::default() });
    let texts = json!({ "model": "simulated", "input": ["a tide"] });
    let calls = scene.ai.stats().calls;
    let leaves = async {
        tokio::select! {
            answer = gateway.post("/v1/embeddings", &texts) => panic!("{}", answer.text()),
            () = eventually("it is asked", SOON, async || scene.ai.stats().calls > calls) => {}
        }
    };
    leaves.await;
    eventually("the texts are paid for", SOON, async || paid("simulated").await > 0.0).await;
    let before = paid("simulated").await;
    scene.ai.behave(Behaviour { status: 400, ..Behaviour::default() });
    assert_eq!(gateway.post("/v1/chat/completions", &chat("simulated")).await.status, 400);
    assert_eq!(paid("simulated").await, before, "a call that failed is not paid for");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_the_cache_costs_a_key_no_tokens() {
    let key = "{ name = 'a', key = 'k', cache = true, limits = { tokens_per_minute = 1500 } }";
    let scene = Scene::with(&format!("[api]\nwait = '0s'\nkeys = [{key}]\n")).await;
    let gateway = Gateway::with_key(&scene, "k");
    let mut body = chat("simulated");
    // So many count until it is known how many it used.
    body["max_tokens"] = json!(1000);
    for cache in ["miss", "hit", "hit", "hit"] {
        let answer = gateway.post("/v1/chat/completions", &body).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-tidegate-cache")), (200, cache), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_key_has_used_what_it_used_and_not_what_was_estimated() {
    let key = "{ name = 'a', key = 'k', limits = { tokens_per_minute = 1500 } }";
    let mut scene = Scene::with(&format!("[api]\nwait = '0s'\nkeys = [{key}]\n")).await;
    let mut body = chat("simulated");
    body["max_tokens"] = json!(1000);
    assert_eq!(Gateway::with_key(&scene, "k").post("/v1/chat/completions", &body).await.status, 200);
    scene.daemon.kill();
    scene.daemon.restart("").await;
    let after = Gateway::with_key(&scene, "k").post("/v1/chat/completions", &body).await;
    assert_eq!(after.status, 200, "{}", after.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_one_node_uses_up_is_used_up_on_all() {
    let redis = Redis::start();
    let (zendesk, ai) = (Zendesk::start(ANYWHERE, zendesk::Options::default()).await.unwrap(), ai().await);
    let config = format!(
        "[api]\nkeys = [{{ name = 'poor', key = 'poor', monthly_budget = 1 }}]\n\
         [state]\nkind = 'redis'\n[state.redis]\nnodes = ['{}']\n",
        redis.address()
    );
    let first = Scene { daemon: Daemon::start(&config, &zendesk, &ai).await, zendesk, ai };
    let body = chat("simulated");
    let gateway = Gateway::with_key(&first, "poor");
    let asked = gateway.post("/v1/chat/completions", &body).await;
    assert_eq!(asked.status, 200, "{}", asked.text());
    let told = async || redis.command(&["KEYS", "*:budget:*:poor"]).contains("poor");
    eventually("Redis is told", SOON, told).await;
    let second = Daemon::start(&config, &first.zendesk, &first.ai).await;
    let refused = gateway.post_to(&second.url("/v1/chat/completions"), "poor", &body).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["code"]), (429, &"insufficient_quota".into()));
}

async fn ai() -> Ai {
    Ai::start(ANYWHERE, ai::Options::default()).await.unwrap()
}

/// Ten calls a second, for a chat with a long backlog and as many programs as always leave some waiting; what both had
/// while the chat had so many.
async fn shared(shares: &str, of_chat: u64) -> (u64, u64) {
    let scene = Scene::with(&format!(
        "[api]\nwait = '20s'\n[cache]\nenabled = false\n[ai]\nshares = {shares}\n[[ai.services]]\nconcurrency = 8\n\
         limits = {{ windows = [{{ requests = 10, per = '1s' }}] }}\n",
    ))
    .await;
    for n in 0..60 {
        scene.say(&format!("c{n}"), "hello").await;
    }
    let replied = || scene.zendesk.tally().answered;
    eventually("the chat is at work", SOON, async || replied() >= 4).await;
    let gateway = Gateway::of(&scene);
    let (mut programs, answered) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
    for _ in 0..16 {
        let (gateway, answered) = (gateway.clone(), answered.clone());
        programs.spawn(async move {
            loop {
                let answer = gateway.post("/v1/chat/completions", &chat("simulated")).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // Before that, those who were there first have all slots.
    eventually("the programs have their first", SOON, async || answered.load(Ordering::Relaxed) >= 4).await;
    let (chat_before, api_before) = (replied(), answered.load(Ordering::Relaxed));
    eventually("the chat has had its share", SOON, async || replied() >= chat_before + of_chat).await;
    let had = (replied() - chat_before, answered.load(Ordering::Relaxed) - api_before);
    programs.shutdown().await;
    scene.settles().await;
    had
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_the_chat_leaves_the_api_its_share() {
    let (chat, api) = shared("{ chat = 1, api = 1 }", 30).await;
    // In the order of coming they would wait for the whole backlog.
    assert!(api * 3 >= chat * 2 && api * 2 <= chat * 3, "{chat} of the chat, {api} of the API");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shares_are_those_of_the_configuration() {
    let (chat, api) = shared("{ chat = 1, api = 3 }", 15).await;
    assert!(api >= chat * 2 && api <= chat * 4, "{chat} of the chat, {api} of the API");
}
