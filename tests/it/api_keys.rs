//! What API keys may use: their limiters and budgets stand among the guards.

use crate::support::{SOON, Scene, eventually};

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
    assert!(limiters.get("key:free").is_none() && limiters.get("zendesk").is_some(), "{limiters}");
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
