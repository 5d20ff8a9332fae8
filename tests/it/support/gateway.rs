//! A client of the gateway that shows everything an answer holds.

use std::sync::LazyLock;

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{SOON, Scene, daemon::KEY, eventually};

/// What is asked.
pub static QUESTION: LazyLock<Value> = LazyLock::new(|| json!([{ "role": "user", "content": "what is a tide?" }]));

/// A question to a model.
pub fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": QUESTION.clone() })
}

/// The same, to be answered in parts.
pub fn stream(model: &str) -> Value {
    json!({ "model": model, "messages": QUESTION.clone(), "stream": true })
}

/// Asks a daemon's gateway.
#[derive(Clone)]
pub struct Gateway {
    client: reqwest::Client,
    url: String,
    key: String,
}

/// An answer, read to its end.
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Gateway {
    /// Of a scene's daemon.
    pub fn of(scene: &Scene) -> Self {
        Self::with_key(scene, KEY)
    }

    /// The same through whatever stands before the daemon.
    pub fn at(scene: &Scene, url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::of(scene) }
    }

    /// The same with another key.
    pub fn with_key(scene: &Scene, key: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client can be made");
        Self { client, url: scene.daemon.url(""), key: key.to_owned() }
    }

    /// Asks and reads the answer to its end.
    pub async fn post(&self, path: &str, body: &Value) -> Answered {
        self.post_to(&format!("{}{path}", self.url), &self.key, body).await
    }

    /// The same at any address.
    pub async fn post_to(&self, url: &str, key: &str, body: &Value) -> Answered {
        Answered::of(self.client.post(url).bearer_auth(key).json(body).send().await.expect("it is answered")).await
    }

    /// Asks for a completion with these very bytes.
    pub async fn send(&self, key: &str, body: &str, headers: &[(&str, &str)]) -> Answered {
        let mut request = self.request(body).bearer_auth(key);
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        Answered::of(request.send().await.expect("it is answered")).await
    }

    /// Asks for a completion; the answer is still to be read.
    pub async fn begin(&self, body: &Value) -> reqwest::Response {
        self.request(&body.to_string()).bearer_auth(&self.key).send().await.expect("it is answered")
    }

    /// Reads something.
    pub async fn get(&self, path: &str) -> Answered {
        let request = self.client.get(format!("{}{path}", self.url)).bearer_auth(&self.key);
        Answered::of(request.send().await.expect("it is answered")).await
    }

    fn request(&self, body: &str) -> reqwest::RequestBuilder {
        let request = self.client.post(format!("{}/v1/chat/completions", self.url));
        request.header("content-type", "application/json").body(body.to_owned())
    }
}

/// What is left of an answer that is being read, until it ends or breaks off.
pub async fn rest_of(mut answer: reqwest::Response) -> String {
    let mut said = Vec::new();
    while let Ok(Some(part)) = answer.chunk().await {
        said.extend_from_slice(&part);
    }
    String::from_utf8(said).expect("it is text")
}

impl Answered {
    async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, body: response.bytes().await.expect("the answer comes to its end") }
    }

    /// A header, empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("it is text")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// What the events of a stream say.
    pub fn events(&self) -> Vec<&str> {
        self.text().split_terminator("\n\n").map(|event| event.strip_prefix("data: ").expect("it is data")).collect()
    }
}

/// Slots and permits that are taken, of all services and keys, and those who wait for one.
pub async fn taken(scene: &Scene) -> [u64; 4] {
    let limiters = scene.daemon.admin("/admin/limiters").await;
    let shown = limiters.as_object().expect("they have names").iter();
    let counts = shown.map(|(name, shown)| {
        let count = |of: &Value, what: &str| of[what].as_u64().unwrap_or_else(|| panic!("{name} shows no {what}"));
        // Only services have slots.
        let slots = |what| if shown["slots"].is_null() { 0 } else { count(&shown["slots"], what) };
        [slots("in_use"), count(shown, "in_use"), slots("waiting"), count(shown, "waiting")]
    });
    assert!(limiters["primary"]["slots"].is_object(), "{limiters}");
    counts.fold([0; 4], |sum, counts| std::array::from_fn(|at| sum[at] + counts[at]))
}

/// Waits until none is.
pub async fn all_slots_are_free(scene: &Scene) {
    eventually("every slot and permit is free", SOON, async || taken(scene).await == [0; 4]).await;
}
