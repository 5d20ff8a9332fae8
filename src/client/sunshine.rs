//! Zendesk's messaging API (Sunshine Conversations v2): posts, looks, typing, control.

use std::collections::HashSet;

use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    SunshineConfig, http,
    sunshine_error::{Error, network, of_status},
    sunshine_span as span,
    sunshine_wire::{Conversation, Page},
};
use crate::{
    domain::{
        control::Integration,
        ids::ConversationId,
        reply::{Mark, Purpose},
        retry_after,
        secret::Secret,
        time::Timestamp,
    },
    telemetry::{Clock, span::Span},
};

/// Pages of messages searched for a mark: 5 x 100 messages, more than a conversation gains in minutes.
const PAGES_MAX: usize = 5;

/// What is asked of a conversation, as its path ends.
const MESSAGES: &str = "/messages";
const ACTIVITY: &str = "/activity";
const PASS_CONTROL: &str = "/passControl";

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// `zendesk.api_url` is no URL.
    #[error("zendesk.api_url is no URL")]
    Address,
    /// TLS could not be set up.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

/// A message as Zendesk gives it back.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its id.
    pub id: String,
    /// When Zendesk received it.
    pub received: Option<Timestamp>,
    /// Whether a customer wrote it.
    pub from_customer: bool,
    /// Its text, or the line that stands for what is no text; none when it was deleted.
    pub text: Option<String>,
    /// Where an image lies.
    pub image: Option<String>,
    /// The customer who wrote it.
    pub user: Option<String>,
    /// Our mark, if it carries one.
    pub mark: Option<Found>,
}

/// How a conversation stands.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Who is active in the switchboard.
    pub active: Option<Integration>,
    /// The brand, if it is named.
    pub brand: Option<String>,
}

/// A mark found in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The ledger's name for the reply.
    pub key: String,
    /// The part, as `1/3`.
    pub part: String,
    /// The messages answered, comma separated.
    pub ids: String,
    /// The purpose.
    pub kind: String,
}

impl Found {
    /// Whether among these are all parts of an answer, rather than a word of patience or a part only.
    pub fn is_whole_answer(marks: &[Self]) -> bool {
        marks.iter().filter(|mark| mark.kind == Purpose::Answer.as_str()).any(|one| {
            let parts: HashSet<&str> =
                marks.iter().filter(|mark| mark.key == one.key).map(|mark| mark.part.as_str()).collect();
            let total = one.part.split_once('/').and_then(|(_, total)| total.parse().ok()).unwrap_or(1);
            parts.len() >= total
        })
    }
}

/// A client of one Zendesk installation.
pub struct Sunshine {
    base: Url,
    app: String,
    client: reqwest::Client,
    headers: HeaderMap,
    clock: Clock,
}

#[derive(Serialize)]
struct Post<'a> {
    author: Author,
    content: Text<'a>,
    metadata: &'a Mark,
}

#[derive(Serialize)]
struct Author {
    r#type: &'static str,
}

#[derive(Serialize)]
struct Text<'a> {
    r#type: &'static str,
    text: &'a str,
}

impl Sunshine {
    /// Makes a client. `api_url` may have a path, such as `https://example.zendesk.com/sc`.
    pub fn new(config: &SunshineConfig, clock: Clock) -> Result<Self, Unusable> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(mut basic) = HeaderValue::from_str(&basic(&config.key_id, &config.key_secret)) {
            basic.set_sensitive(true);
            headers.insert(AUTHORIZATION, basic);
        }
        Ok(Self {
            base: Url::parse(&config.api_url).map_err(|_| Unusable::Address)?,
            app: config.app_id.clone(),
            client: http::client(config.timeout)?,
            headers,
            clock,
        })
    }

    /// The app that is configured, if one is.
    pub fn app(&self) -> Option<&str> {
        (!self.app.is_empty()).then_some(self.app.as_str())
    }

    /// Posts one part of a reply. There is no idempotency key, so an unknown outcome has to be looked for.
    pub async fn post(&self, app: Option<&str>, to: &ConversationId, text: &str, mark: &Mark) -> Result<(), Error> {
        let post =
            Post { author: Author { r#type: "business" }, content: Text { r#type: "text", text }, metadata: mark };
        let body = serde_json::to_vec(&post).expect("a post is plain data");
        self.call(Method::POST, self.url(app, to, MESSAGES), MESSAGES, Some(body)).await.map(drop)
    }

    /// The newest messages, newest last, back to the first one received before `since`.
    pub async fn messages(
        &self,
        app: Option<&str>,
        of: &ConversationId,
        since: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        let mut found: Vec<Message> = Vec::new();
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let mut url = self.url(app, of, MESSAGES);
            url.set_query(cursor.as_deref());
            let page: Page = self.read(url, MESSAGES).await?;
            let mut older: Vec<Message> = page.messages.into_iter().map(Message::from).collect();
            older.sort_by_key(|message| message.received);
            let reached = older.first().and_then(|message| message.received).is_some_and(|received| received < since);
            older.append(&mut found);
            found = older;
            match page.meta.before_cursor {
                Some(before) if page.meta.has_more && !reached => cursor = Some(format!("page[before]={before}")),
                _ => break,
            }
        }
        Ok(found)
    }

    /// The marks of ours that name the message `id`, among what was posted since `since`.
    pub async fn look(
        &self,
        app: Option<&str>,
        of: &ConversationId,
        id: &str,
        since: Timestamp,
    ) -> Result<Vec<Found>, Error> {
        let messages = self.messages(app, of, since).await?;
        let marks = messages.into_iter().filter_map(|message| message.mark);
        Ok(marks.filter(|mark| mark.ids.split(',').any(|covered| covered == id)).collect())
    }

    /// Who is active in the switchboard.
    pub async fn active(&self, app: Option<&str>, of: &ConversationId) -> Result<Option<Integration>, Error> {
        Ok(self.standing(app, of).await?.active)
    }

    /// Who is active in the switchboard, and the brand.
    pub async fn standing(&self, app: Option<&str>, of: &ConversationId) -> Result<Standing, Error> {
        let conversation: Conversation = self.read(self.url(app, of, ""), "").await?;
        Ok(conversation.into())
    }

    /// Shows the customer that an answer is being written.
    pub async fn typing(&self, app: Option<&str>, to: &ConversationId) -> Result<(), Error> {
        let body = br#"{"author":{"type":"business"},"type":"typing:start"}"#.to_vec();
        self.call(Method::POST, self.url(app, to, ACTIVITY), ACTIVITY, Some(body)).await.map(drop)
    }

    /// Hands the conversation to `target` (id, name or type of a switchboard integration). Idempotent for a target
    /// given so, and therefore safe to repeat. `first_message` begins the ticket; without it an agent sees ten messages.
    pub async fn pass_control(
        &self,
        app: Option<&str>,
        of: &ConversationId,
        target: &str,
        first_message: &str,
        summary: &str,
    ) -> Result<(), Error> {
        let body = json!({
            "switchboardIntegration": target,
            "metadata": {
                "first_message_id": first_message,
                "dataCapture.systemField.tags": "tidegate_handoff",
                "tidegate_summary": summary,
            },
        });
        let body = body.to_string().into_bytes();
        self.call(Method::POST, self.url(app, of, PASS_CONTROL), PASS_CONTROL, Some(body)).await.map(drop)
    }

    fn url(&self, app: Option<&str>, conversation: &ConversationId, end: &str) -> Url {
        let app = if self.app.is_empty() { app.unwrap_or_default() } else { &self.app };
        let base = self.base.path().trim_end_matches('/');
        let path = format!("{base}/v2/apps/{}/conversations/{}{end}", segment(app), segment(conversation.as_str()));
        // Parsed once, at the start; a host is dear to parse.
        let mut url = self.base.clone();
        url.set_path(&path);
        url
    }

    async fn read<T: DeserializeOwned>(&self, url: Url, operation: &'static str) -> Result<T, Error> {
        let body = self.call(Method::GET, url, operation, None).await?;
        serde_json::from_slice(&body).map_err(|_| Error::Unknown("answer"))
    }

    /// Calls Zendesk, as part of a trace.
    async fn call(
        &self,
        method: Method,
        url: Url,
        operation: &'static str,
        body: Option<Vec<u8>>,
    ) -> Result<bytes::Bytes, Error> {
        let span = span::of(&method, &url, operation);
        let called = span.over(self.send(method, url, body, &span)).await;
        if let Err(error) = &called {
            span.fail(error.kind());
        }
        called
    }

    async fn send(&self, method: Method, url: Url, body: Option<Vec<u8>>, span: &Span) -> Result<bytes::Bytes, Error> {
        let request = self.client.request(method, url).headers(self.headers.clone());
        let request = match body {
            Some(body) => request.body(body),
            None => request,
        };
        let response = request.send().await.map_err(|error| network(&error))?;
        let status = response.status().as_u16();
        span.set("http.response.status_code", i64::from(status));
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let advice = retry_after::parse(header, self.clock.now().0);
        let failed = of_status(status, advice.retry_after);
        let body = http::body(response).await;
        match (failed, body) {
            // The status decides; a 2xx whose body broke off has had its effect.
            (Some(error), _) => Err(error),
            (None, Ok(body)) => Ok(body),
            (None, Err(_)) => Err(Error::Unknown("body")),
        }
    }
}

fn basic(id: &str, secret: &Secret) -> String {
    use base64::Engine as _;
    let pair = format!("{id}:{}", secret.expose());
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// Ids come from outside; nothing in them may change the path.
fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
            // A dot by itself would climb; encoded it means the same and stays.
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{Router, http::StatusCode};
    use tokio::{net::TcpListener, task::JoinSet};

    use super::*;

    #[tokio::test]
    async fn a_retry_after_that_is_a_date_is_a_wait_until_then() {
        // The date of RFC 9110's example, and 37 seconds before it.
        let refusal = || async { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api_url = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, Router::new().fallback(refusal)).await });
        http::tls();
        let clock = Clock::with_wall(|| Timestamp(784_111_740_000));
        let client = Sunshine::new(&SunshineConfig { api_url, ..SunshineConfig::default() }, clock).unwrap();
        let asked = client.typing(Some("app"), &ConversationId::new("c").unwrap()).await;
        assert_eq!(asked, Err(Error::Throttled(Some(Duration::from_secs(37)))));
    }

    #[test]
    fn an_id_cannot_leave_its_place_in_the_path() {
        assert_eq!(segment("../x?y#z"), "%2E%2E%2Fx%3Fy%23z");
        assert_eq!(segment("66f0a1"), "66f0a1");
    }
}
