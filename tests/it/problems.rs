//! Whatever is refused is refused in one shape, on both listeners (RFC 9457).

use reqwest::{Method, Response};
use serde_json::Value;

use crate::support::{KEY, Scene};

/// Listener, method, path and body; then status, type and `Allow` of the answer.
type Case<'a> = (&'a str, Method, &'a str, &'a str, u16, &'a str, Option<&'a str>);

/// Asks, and reads the problem that is answered; the header `Allow` beside it.
async fn problem(answer: Response, what: &str) -> (u16, String, Option<String>) {
    let status = answer.status().as_u16();
    let header = |name: &str| Some(answer.headers().get(name)?.to_str().unwrap().to_owned());
    let (allow, kind) = (header("allow"), header("content-type"));
    assert_eq!(kind.as_deref(), Some("application/problem+json"), "{what}: {status}");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["status"], status, "{what}");
    assert!(body["title"].is_string() && body["detail"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    let kind = body["type"].as_str().unwrap().strip_prefix("urn:tidegate:problem:").unwrap().to_owned();
    (status, kind, allow)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_a_problem_with_a_type() {
    let scene = Scene::with("").await;
    let (public, admin) = (scene.daemon.url(""), scene.daemon.admin_url(""));
    let crash = "/admin/actors/node/retry/crash";
    let long = "x".repeat(100_000);
    let cases: [Case<'_>; 19] = [
        (&public, Method::GET, "/", "", 404, "no-such-route", None),
        (&public, Method::POST, "/webhooks/sunshine/", "{}", 404, "no-such-route", None),
        (&public, Method::GET, "/metrics", "", 404, "no-such-route", None),
        (&public, Method::GET, "/webhooks/sunshine", "", 405, "method-not-allowed", Some("POST")),
        (&public, Method::PUT, "/webhooks/zendesk", "{}", 405, "method-not-allowed", Some("POST")),
        (&public, Method::DELETE, "/livez", "", 405, "method-not-allowed", Some("GET,HEAD")),
        (&public, Method::POST, "/webhooks/sunshine", "{}", 401, "unauthorized", None),
        (&public, Method::GET, "/v1/tasks/no-such-task", "", 404, "no-such-task", None),
        (&public, Method::GET, "/v1/tasks/%FF", "", 400, "unusable-path", None),
        (&admin, Method::GET, "/nowhere", "", 404, "no-such-route", None),
        (&admin, Method::POST, "/admin/queues", "", 405, "method-not-allowed", Some("GET,HEAD")),
        (&admin, Method::GET, "/admin/actors?limit=many", "", 400, "unusable-query", None),
        (&admin, Method::GET, "/admin/messages/%FF", "", 400, "unusable-path", None),
        (&admin, Method::GET, "/admin/messages/none", "", 404, "no-such-message", None),
        (&admin, Method::GET, "/admin/actors/node/nobody", "", 404, "no-such-actor", None),
        (&admin, Method::POST, "/admin/actors/node/retry/dance", "", 404, "no-such-action", None),
        (&admin, Method::POST, crash, "{\"mode\":", 400, "unusable-body", None),
        (&admin, Method::POST, crash, "{\"mode\":\"sulk\"}", 400, "unusable-body", None),
        (&admin, Method::POST, crash, &long, 413, "too-large", None),
    ];
    let client = reqwest::Client::new();
    for (at, method, path, body, status, kind, allow) in cases {
        let what = format!("{method} {path}");
        let request = client.request(method, format!("{at}{path}")).bearer_auth(KEY).body(body.to_owned());
        let told = problem(request.send().await.unwrap(), &what).await;
        assert_eq!(told, (status, kind.to_owned(), allow.map(str::to_owned)), "{what}");
    }
}
