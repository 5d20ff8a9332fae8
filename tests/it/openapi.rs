//! The OpenAPI document is true: a fuzzer that knows nothing else finds no server error and no answer of another shape.

use std::process::Command;

use serde_json::Value;

use crate::{
    official_client::python,
    support::{KEY, Scene},
};

/// Asks as the document says, with sound and unsound values; `paths` is a regular expression.
async fn conforms(scene: &Scene, base: &str, paths: &str, headers: &[String]) {
    let mut fuzzer = Command::new(python().with_file_name("schemathesis"));
    fuzzer.args(["run", &scene.daemon.admin_url("/admin/openapi.json"), "--url", base, "--include-path-regex", paths]);
    fuzzer.args([
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    ]);
    // The same cases each time: every value that the document allows and those just beside it.
    fuzzer.args(["--seed", "7", "--phases", "examples,coverage", "--no-color"]);
    for header in headers {
        fuzzer.args(["--header", header]);
    }
    fuzzer.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    let ended = tokio::task::spawn_blocking(move || fuzzer.output()).await.unwrap().expect("schemathesis starts");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}{}\n{}", String::from_utf8_lossy(&ended.stderr), scene.daemon.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_answer_as_the_document_says() {
    let scene = Scene::with("").await;
    scene.say("c", "hello").await;
    scene.settles().await;
    // What would keep the node from answering is tried elsewhere.
    let admin = "^/(admin/(?!events|nodes/.*|pools)|metrics|livez|readyz)";
    conforms(&scene, &scene.daemon.admin_url(""), admin, &[]).await;
    let keys =
        [format!("Authorization: Bearer {KEY}"), format!("X-API-Key: {}", scene.zendesk.options().webhook_secret)];
    conforms(&scene, &scene.daemon.url(""), "^/(webhooks|v1)/", &keys).await;
    let alive = scene.daemon.admin("/admin/overview").await;
    assert!(alive["verdict"].is_array(), "{alive}");
}

/// Every route of the document is there, by the method it says.
#[tokio::test(flavor = "multi_thread")]
async fn every_documented_route_exists() {
    let scene = Scene::with("").await;
    let document = scene.daemon.admin("/admin/openapi.json").await;
    let paths = document["paths"].as_object().expect("a document has paths");
    assert!(paths.len() > 30, "{}", paths.len());
    let client = reqwest::Client::new();
    for (path, item) in paths {
        for method in item.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase()) {
            let asked = path.replace(['{', '}'], "");
            let is_public = asked.starts_with("/v1") || asked.starts_with("/webhooks");
            let url = if is_public { scene.daemon.url(&asked) } else { scene.daemon.admin_url(&asked) };
            let answer = client.request(method.parse().unwrap(), url).send().await.unwrap();
            let (status, problem) = (answer.status().as_u16(), answer.headers()["content-type"].clone());
            if path == "/admin/events" {
                continue;
            }
            let body: Value = answer.json().await.unwrap_or_default();
            let is_there = status != 405 && body["type"] != "urn:tidegate:problem:no-such-route";
            assert!(is_there, "{method} {path}: {status} {problem:?} {body}");
        }
    }
}
