//! The dashboard in a real browser, against a real daemon under trouble.

use std::{path::Path, process::Command};

use serde_json::json;
use tidegate::simulate::{ai, zendesk::Holder};

use crate::{
    official_client::tools,
    support::{SOON, Scene, eventually},
};

const CONFIG: &str = "[admin]\ntokens = [{ name = 'ada', token = 'looks', role = 'viewer' }, \
                      { name = 'bob', token = 'acts', role = 'operator' }]\n[retry]\nmax_retries = 0\n";

/// What a customer writes who means harm, or only quotes a web page.
const MARKUP: &str = "<img src=x onerror=\"globalThis.owned=1\"><script>globalThis.owned=1</script>";

async fn told(scene: &Scene, path: &str) -> serde_json::Value {
    let request = reqwest::Client::new().get(scene.daemon.admin_url(path)).bearer_auth("looks");
    request.send().await.expect("the node answers").json().await.unwrap_or_default()
}

async fn parked(scene: &Scene, message: &str) {
    let path = format!("/admin/messages/{message}");
    eventually("it is parked", SOON, async || told(scene, &path).await["outcome"] == "parked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_finds_the_trouble_and_mends_it_in_the_browser() {
    let folder = tools().join("node");
    let installed = ["playwright-core", "axe-core"].iter().all(|name| folder.join("node_modules").join(name).exists());
    assert!(installed, "run scripts/test, or: npm install --prefix {} playwright-core axe-core", folder.display());
    let scene = Scene::with(CONFIG).await;
    for n in 0..8 {
        scene.say(&format!("customer-{n}"), "hello").await;
    }
    scene.say("quiet", "hello").await;
    scene.settles().await;
    scene.ai.behave(ai::Behaviour { status: 400, ..ai::Behaviour::default() });
    let letter = scene.say("refused", MARKUP).await;
    parked(&scene, &letter).await;
    scene.ai.behave(ai::Behaviour { latency_ms: 3_000, ..ai::Behaviour::default() });
    let calls = scene.ai.stats().calls;
    scene.say("crashed", "first").await;
    eventually("it is alive", SOON, async || scene.ai.stats().calls == calls + 1).await;
    let order = reqwest::Client::new()
        .post(scene.daemon.admin_url("/admin/actors/node/conversations/crashed/crash"))
        .bearer_auth("acts");
    assert_eq!(order.send().await.expect("the node answers").status(), 202);
    let crashed = scene.say("crashed", MARKUP).await;
    parked(&scene, &crashed).await;
    scene.ai.behave(ai::Behaviour::default());
    // Both were handed to humans; this one gives it back.
    scene.zendesk.control("crashed", Some(Holder::Bot)).await;
    let facts = json!({
        "base": scene.daemon.admin_url(""), "viewer": "looks", "operator": "acts",
        "crashed": "crashed", "letter": letter, "muted": "quiet", "shots": std::env::var("TIDEGATE_SCREENSHOTS").ok(),
    });
    let mut browser = Command::new("node");
    browser.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/dashboard.mjs"));
    browser.arg(facts.to_string()).arg(folder);
    let output = tokio::task::spawn_blocking(move || browser.output()).await.unwrap().expect("node can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", scene.daemon.log_tail());
}
