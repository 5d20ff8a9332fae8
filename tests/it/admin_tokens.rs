//! Who may look at a node, and who may act on it.

use reqwest::{Client, Method};
use serde_json::Value;

use crate::support::Scene;

const TOKENS: &str = "[admin]\ntokens = [{ name = 'ada', token = 'looks', role = 'viewer' }, \
                      { name = 'bob', token = 'acts', role = 'operator' }, { name = 'eve', token = 'default' }]\n";

const CRASH: &str = "/admin/actors/node/retry/crash";

/// Asks with these headers; the status, and the type of the problem if it is one.
async fn ask(scene: &Scene, method: Method, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = Client::new().request(method, scene.daemon.admin_url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let problem = answer.json::<Value>().await.unwrap_or_default();
    let kind = problem["type"].as_str().and_then(|kind| kind.rsplit_once(':')).map_or("", |(_, kind)| kind);
    (status, kind.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_look_operators_act_and_strangers_do_neither() {
    let scene = Scene::with(TOKENS).await;
    let (get, post) = (Method::GET, Method::POST);
    let unauthorized = (401, "unauthorized");
    let cases: [(&Method, &str, &str, (u16, &str)); 18] = [
        (&get, "/admin/queues", "", unauthorized),
        (&get, "/admin/queues", "Bearer wrong", unauthorized),
        (&get, "/admin/queues", "Bearer ", unauthorized),
        (&get, "/admin/queues", "Basic looks", unauthorized),
        (&get, "/admin/queues", "looks", unauthorized),
        (&get, "/admin/queues", "Bearer looks", (200, "")),
        (&get, "/admin/queues", "Bearer acts", (200, "")),
        (&get, "/admin/queues", "Bearer default", (200, "")),
        (&get, "/metrics", "", unauthorized),
        (&get, "/metrics", "Bearer looks", (200, "")),
        (&post, CRASH, "", unauthorized),
        (&post, CRASH, "Bearer wrong", unauthorized),
        (&post, CRASH, "Bearer looks", (403, "not-an-operator")),
        (&post, CRASH, "Bearer default", (403, "not-an-operator")),
        (&post, CRASH, "Bearer acts", (202, "")),
        (&get, "/livez", "", (200, "")),
        (&get, "/readyz", "", (200, "")),
        (&get, "/admin/actors/node/nobody", "", unauthorized),
    ];
    for (method, path, token, told) in cases {
        let headers = [("authorization", token)];
        let headers = if token.is_empty() { &[][..] } else { &headers };
        let answered = ask(&scene, method.clone(), path, headers).await;
        assert_eq!((answered.0, answered.1.as_str()), told, "{method} {path} with {token:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_can_be_public_and_nothing_else_is_then() {
    let scene = Scene::with(&format!("{TOKENS}metrics_public = true\n")).await;
    assert_eq!(ask(&scene, Method::GET, "/metrics", &[]).await.0, 200);
    for path in ["/admin/queues", "/admin/actors", "/metrics/"] {
        assert_ne!(ask(&scene, Method::GET, path, &[]).await.0, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_site_cannot_act_through_an_operators_browser() {
    let scene = Scene::with(TOKENS).await;
    let host = scene.daemon.admin_url("");
    let bearer = ("authorization", "Bearer acts");
    for origin in ["https://evil.example", "null", ""] {
        let answered = ask(&scene, Method::POST, CRASH, &[bearer, ("origin", origin)]).await;
        assert_eq!(answered, (403, "foreign-origin".to_owned()), "{origin:?}");
    }
    assert_eq!(ask(&scene, Method::POST, CRASH, &[bearer, ("origin", &host)]).await.0, 202, "our own page may");
    let answer = Client::new().get(scene.daemon.admin_url("/admin/queues")).bearer_auth("looks").send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_tokens_is_not_listened_to_and_every_refusal_is_counted() {
    let scene = Scene::with(TOKENS).await;
    let ask_with = async |token: &str| ask(&scene, Method::GET, "/admin/queues", &[("authorization", token)]).await;
    for _ in 0..10 {
        assert_eq!(ask_with("Bearer guess").await, (401, "unauthorized".to_owned()));
    }
    assert_eq!(ask_with("Bearer guess").await, (429, "too-many-failures".to_owned()));
    assert_eq!(ask_with("Bearer looks").await.0, 429, "nothing more is looked at from there for a while");
    let evil = [("origin", "https://evil.example")];
    assert_eq!(ask(&scene, Method::POST, CRASH, &evil).await.0, 403);
    let scene = Scene::with("").await;
    let strange = [("host", "rebound.evil.example")];
    assert_eq!(ask(&scene, Method::GET, "/admin/queues", &strange).await, (403, "foreign-host".to_owned()));
    assert_eq!(ask(&scene, Method::POST, CRASH, &evil).await.0, 403);
    for reason in ["foreign_host", "foreign_origin"] {
        let counted = scene.daemon.metric(&format!("tidegate_admin_refusals_total{{reason=\"{reason}\"}}")).await;
        assert_eq!(counted, 1.0, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_is_open_holds_nothing_and_may_load_nothing_from_elsewhere() {
    let scene = Scene::with(TOKENS).await;
    for (path, kind) in [("/", "text/html"), ("/assets/app.js", "text/javascript"), ("/assets/style.css", "text/css")] {
        let answer = reqwest::get(scene.daemon.admin_url(path)).await.unwrap();
        let headers = answer.headers();
        assert_eq!(answer.status(), 200, "{path}");
        assert!(headers["content-type"].to_str().unwrap().starts_with(kind), "{path}");
        assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"), "{path}");
        for (name, value) in
            [("x-frame-options", "DENY"), ("x-content-type-options", "nosniff"), ("cache-control", "no-store")]
        {
            assert_eq!(headers[name], value, "{path}");
        }
        assert!(!headers.contains_key("access-control-allow-origin"), "{path}");
    }
    assert_eq!(reqwest::get(scene.daemon.admin_url("/assets/../config.toml")).await.unwrap().status(), 404);
}
