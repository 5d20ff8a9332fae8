//! The OpenAI-compatible gateway: what passes through it, and what it refuses.

use axum::http::StatusCode;
use serde_json::{Value, json};
use tidegate::simulate::ai::Behaviour;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    KEY, Scene,
    gateway::{Gateway, QUESTION, chat, stream},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_the_services_own_byte_for_byte() {
    let scene = Scene::with("").await;
    let gateway = Gateway::of(&scene);
    let body = json!({ "model": "simulated", "messages": QUESTION.clone(), "temperature": 0.5, "x_unknown": [1] });
    let direct = gateway.post_to(&format!("{}/v1/chat/completions", scene.ai.url()), "", &body).await;
    let through = gateway.post("/v1/chat/completions", &body).await;
    assert_eq!(through.status, StatusCode::OK, "{}", through.text());
    let without_id = |mut answer: Value| {
        answer.as_object_mut().unwrap().remove("id");
        answer
    };
    assert_eq!(without_id(through.json()), without_id(direct.json()));
    assert_eq!(through.header("x-tidegate-service"), "primary");
    assert_eq!(through.header("x-tidegate-cache"), "miss");
    assert!(through.header("x-tidegate-wait-ms").parse::<u64>().unwrap() < 1000);
    let tokens = through.header("x-tidegate-tokens-output").parse::<u64>().unwrap();
    assert_eq!(Some(tokens), through.json()["usage"]["completion_tokens"].as_u64());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_the_services_own_event_for_event_and_tells_usage_only_to_who_asks() {
    let scene = Scene::with("").await;
    let gateway = Gateway::of(&scene);
    for usage in [false, true] {
        let mut body = chat("simulated");
        body["stream"] = json!(true);
        if usage {
            body["stream_options"] = json!({ "include_usage": true });
        }
        let through = gateway.post("/v1/chat/completions", &body).await;
        assert_eq!(through.header("content-type"), "text/event-stream");
        let events = through.events();
        assert_eq!(events.last(), Some(&"[DONE]"));
        let chunks: Vec<Value> =
            events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        let said: String =
            chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta/content")?.as_str()).collect();
        assert!(said.starts_with("Answer to"), "{said}");
        let told = chunks.iter().filter(|chunk| chunk["usage"].is_object()).count();
        assert_eq!(told, usize::from(usage), "{chunks:?}");
    }
    let used = scene
        .daemon
        .metric("tidegate_api_tokens_total{key=\"test\",service=\"primary\",model=\"simulated\",type=\"output\"}")
        .await;
    assert!(used > 0.5, "what a stream used is counted, also when its client did not ask for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_and_models_are_served() {
    let scene = Scene::with("[[ai.services]]\nmodels = { small = 'theirs' }\n").await;
    let gateway = Gateway::of(&scene);
    let body = json!({ "model": "small", "input": ["a", "b"] });
    let answer = gateway.post("/v1/embeddings", &body).await;
    assert_eq!((answer.status, answer.json()["data"].as_array().map(Vec::len)), (StatusCode::OK, Some(2)));
    assert_eq!(answer.json()["model"], "theirs", "the service is asked by its own name");
    let models = gateway.get("/v1/models").await.json();
    let ids: Vec<&str> = models["data"].as_array().unwrap().iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(ids, ["simulated", "small"]);
    assert_eq!(gateway.get("/v1/models/small").await.json()["owned_by"], "primary");
    assert_eq!(gateway.get("/v1/models/other").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_in_openais_shape_and_never_as_our_failure() {
    let config = "[http]\napi_body_limit = '4KiB'\n[api]\nkeys = [{ name = 'a', key = 'k', models = ['allowed'] }]\n\
                  [[ai.services]]\nmodels = { allowed = 'x' }\n";
    let scene = Scene::with(config).await;
    let gateway = Gateway::with_key(&scene, "k");
    let allowed = chat("allowed").to_string();
    assert_eq!(gateway.send("k", &allowed, &[]).await.status, StatusCode::OK);
    let long = json!({ "model": "allowed", "messages": [{ "role": "user", "content": "x".repeat(5000) }] }).to_string();
    for (key, body, status, code) in [
        ("k", "{", 400, "invalid_request"),
        ("k", "null", 400, "invalid_request"),
        ("k", "\u{0}", 400, "invalid_request"),
        ("k", "", 400, "invalid_request"),
        ("k", &"[".repeat(4000), 400, "invalid_request"),
        ("k", &format!(r#"{{"model":"allowed","messages":{}"#, "[".repeat(3000)), 400, "invalid_request"),
        ("k", r#"{"model":"allowed","messages":[{"role":"user"}],"stream":"yes"}"#, 400, "invalid_request"),
        ("k", r#"{"model":"allowed","messages":"hi"}"#, 400, "invalid_request"),
        ("k", r#"{"model":["allowed"],"messages":[{"role":"user"}]}"#, 400, "invalid_request"),
        ("k", r#"{"model":"allowed","model":"simulated","messages":[{"role":"user"}]}"#, 400, "invalid_request"),
        ("k", &long, 413, "request_too_large"),
        ("k", &chat("simulated").to_string(), 404, "model_not_found"),
        ("k", &chat("a\r\nx-injected: 1").to_string(), 404, "model_not_found"),
        ("wrong", &allowed, 401, "invalid_api_key"),
        ("", &allowed, 401, "invalid_api_key"),
    ] {
        let answer = gateway.send(key, body, &[]).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], code, "{}", answer.text());
        assert!(answer.json()["error"]["message"].is_string() && answer.json()["error"]["type"].is_string());
        assert!(answer.headers.get("x-injected").is_none());
    }
    for (name, value, status) in
        [("x-request-timeout", "soon", 400), ("content-encoding", "gzip", 415), ("content-encoding", "identity", 200)]
    {
        let answer = gateway.send("k", &allowed, &[(name, value)]).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
        assert_eq!(answer.json()["error"].is_object(), status != 200);
    }
    for (gateway, status) in [(&gateway, 404), (&Gateway::with_key(&scene, "wrong"), 401)] {
        let answer = gateway.get("/v1/models/%FF").await;
        assert_eq!((answer.status.as_u16(), answer.json()["error"]["code"].is_string()), (status, true));
    }
    assert_eq!(scene.ai.stats().calls, 2, "nothing of what was refused was asked");
    let failed = scene.daemon.metric("tidegate_api_requests_total{key=\"a\",outcome=\"failed\"}").await;
    assert!(failed < 0.5);
}

/// What comes back for a request's head as it is, up to the end of the connection.
async fn told_for(scene: &Scene, lines: &str) -> String {
    let body = chat("simulated").to_string();
    let head =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {}\r\n{lines}\r\n\r\n{body}", body.len());
    let mut connection = TcpStream::connect(scene.daemon.url("").trim_start_matches("http://")).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    // What is cut off was refused, too.
    let _ = connection.read_to_end(&mut told).await;
    String::from_utf8_lossy(&told).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_smuggles_lines_is_refused_and_never_passed_on() {
    let scene = Scene::with("").await;
    let key = format!("authorization: Bearer {KEY}");
    assert!(told_for(&scene, &key).await.starts_with("HTTP/1.1 200 "));
    for lines in [
        format!("{key}\rx-injected: 1"),
        format!("{key}\u{0}"),
        format!("{key}\r\n x-injected: 1"),
        format!("{key}\r\nx-request-timeout: 5\r\r\nx-injected: 1"),
        format!("{key}\r\nx injected: 1"),
        format!("{key}\r\ncontent-length: 3"),
        format!("{key}\r\nx-long: {}", "x".repeat(1 << 20)),
    ] {
        let told = told_for(&scene, &lines).await;
        let shown = &lines[..lines.len().min(80)];
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 4"), "{shown:?}: {told}");
        assert!(told.matches("HTTP/1.1").count() <= 1 && !told.contains("x-injected"), "{shown:?}: {told}");
    }
    assert_eq!(scene.ai.stats().calls, 1, "nothing of this was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_question_is_answered_from_the_cache_of_its_key_only() {
    let keys =
        "{ name = 'a', key = 'a', cache = true }, { name = 'b', key = 'b', cache = true }, { name = 'c', key = 'c' }";
    let scene = Scene::with(&format!("[api]\nkeys = [{keys}]\n")).await;
    let gateway = Gateway::of(&scene);
    let body = chat("simulated").to_string();
    let mut told = Vec::new();
    for (key, control) in
        [("a", ""), ("a", ""), ("b", ""), ("a", "no-cache"), ("c", ""), ("c", "max-age=86400"), ("c", "max-age=86400")]
    {
        let answer = gateway.send(key, &body, &[("cache-control", control)]).await;
        assert_eq!(answer.status, StatusCode::OK);
        told.push(answer.header("x-tidegate-cache").to_owned());
    }
    assert_eq!(told, ["miss", "hit", "miss", "miss", "miss", "miss", "hit"]);
    assert_eq!(scene.ai.stats().calls, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_rejects_a_request_is_quoted() {
    let scene = Scene::with("").await;
    let gateway = Gateway::of(&scene);
    let body = json!({ "model": "simulated", "messages": [{ "role": "user", "content": "[[ai:400]]" }] });
    let direct = gateway.post_to(&format!("{}/v1/chat/completions", scene.ai.url()), "", &body).await;
    let through = gateway.post("/v1/chat/completions", &body).await;
    assert_eq!((through.status, through.text()), (StatusCode::BAD_REQUEST, direct.text()));
    assert_eq!(scene.ai.stats().calls, 2, "and not asked again");
}

/// Some services that speak OpenAI's API tell no tokens, and end a stream without a word.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_terse_service_leaves_out_is_made_up_for() {
    let scene = Scene::with("").await;
    let gateway = Gateway::of(&scene);
    scene.ai.behave(Behaviour { terse: true, reply_chars: 4000, ..Behaviour::default() });
    let whole = gateway.post("/v1/chat/completions", &chat("simulated")).await;
    assert_eq!((whole.status, &whole.json()["usage"]), (StatusCode::OK, &Value::Null));
    let told = ["x-tidegate-tokens-input", "x-tidegate-tokens-output"].map(|name| whole.header(name).parse::<u64>());
    let [Ok(input), Ok(output)] = told else { panic!("{:?}", whole.headers) };
    assert!((1..100).contains(&input) && (1000..1100).contains(&output), "an estimate: {input}, {output}");
    let counted = async |kind: &str| {
        let series = format!(
            "tidegate_api_tokens_total{{key=\"test\",service=\"primary\",model=\"simulated\",type=\"{kind}\"}}"
        );
        scene.daemon.metric(&series).await
    };
    assert_eq!((counted("input").await, counted("output").await), (input as f64, output as f64));
    let streamed = gateway.post("/v1/chat/completions", &stream("simulated")).await;
    let events = streamed.events();
    assert_eq!(events.last(), Some(&"[DONE]"), "an answer that is complete: {:?}", events.iter().rev().take(3));
    assert!(counted("output").await > output as f64);
}
