//! Asks a service that speaks OpenAI's `POST /chat/completions` (API reference "Create chat completion").

use reqwest::{
    Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AiService, http};
use crate::domain::{
    answer::{Answer, Tokens},
    prompt::{Prompt, Role},
    retry_after,
    time::Timestamp,
    verdict::Failure,
};

/// A client of one AI service.
pub struct Ai {
    /// `None` when the address is no URL: nobody can be asked then, and the configuration has to be mended.
    url: Option<Url>,
    model: String,
    images: bool,
    handoff_tool: String,
    client: reqwest::Client,
    headers: HeaderMap,
}

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: Role,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: ImageUrl<'a> },
}

#[derive(Serialize)]
struct ImageUrl<'a> {
    url: &'a str,
}

#[derive(Serialize)]
struct Tool<'a> {
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    description: &'static str,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Value,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Deserialize)]
struct ToolCall {
    function: Called,
}

#[derive(Deserialize)]
struct Called {
    name: String,
}

#[derive(Deserialize)]
struct Refused {
    error: RefusedBody,
}

#[derive(Deserialize)]
struct RefusedBody {
    #[serde(default)]
    code: Option<String>,
}

impl Ai {
    /// Makes a client; `handoff_tool` names the tool by which the model asks for a human, empty for none.
    pub fn new<L, B>(service: &AiService<L, B>, handoff_tool: &str) -> Result<Self, reqwest::Error> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let bearer = HeaderValue::from_str(&format!("Bearer {}", service.api_key.expose()));
        if let (false, Ok(mut bearer)) = (service.api_key.is_empty(), bearer) {
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        Ok(Self {
            url: Url::parse(&format!("{}/chat/completions", service.base_url.trim_end_matches('/'))).ok(),
            model: service.model.clone(),
            images: service.images,
            handoff_tool: handoff_tool.to_owned(),
            client: http::client(service.timeout)?,
            headers,
        })
    }

    /// Asks one question. `now`: the wall clock, for a `Retry-After` that is a date.
    pub async fn ask(&self, prompt: &Prompt, now: Timestamp) -> Result<Answer, Failure> {
        let Some(url) = self.url.clone() else { return Err(Failure::Unusable(0)) };
        let body = serde_json::to_vec(&self.request(prompt)).expect("a request is plain data");
        let sent = self.client.post(url).headers(self.headers.clone()).body(body).send().await;
        let response = sent.map_err(|error| failure(&error))?;
        let status = response.status().as_u16();
        let advice = retry_after::parse(|name| response.headers().get(name).and_then(|v| v.to_str().ok()), now.0);
        let body = http::body(response).await.map_err(|broken| match broken {
            http::Broken::Network(error) => failure(&error),
            http::Broken::TooLong => Failure::UnusableAnswer,
        })?;
        match Failure::of_status(status, advice.retry_after) {
            Some(Failure::Rejected(_)) if refuses_content(&body) => Err(Failure::ContentRefused),
            Some(failure) => Err(failure),
            None => self.answer(&body, advice.limit_requests),
        }
    }

    fn request<'a>(&'a self, prompt: &'a Prompt) -> Request<'a> {
        let last = prompt.turns.len().saturating_sub(1);
        let message = |(index, turn): (usize, &'a crate::domain::prompt::Turn)| {
            let with_images = self.images && index == last && !prompt.images.is_empty();
            let content = if with_images {
                let images = prompt.images.iter().map(|url| Part::ImageUrl { image_url: ImageUrl { url } });
                Content::Parts(std::iter::once(Part::Text { text: &turn.text }).chain(images).collect())
            } else {
                Content::Text(&turn.text)
            };
            Message { role: turn.role, content }
        };
        let tool = || Tool {
            r#type: "function",
            function: Function {
                name: &self.handoff_tool,
                description: "Hands the conversation over to a human of the support team.",
            },
        };
        let tools = (!self.handoff_tool.is_empty()).then(tool).into_iter().collect();
        Request { model: &self.model, messages: prompt.turns.iter().enumerate().map(message).collect(), tools }
    }

    fn answer(&self, body: &[u8], limit_requests: Option<u64>) -> Result<Answer, Failure> {
        let completion: Completion = serde_json::from_slice(body).map_err(|_| Failure::UnusableAnswer)?;
        let choice = completion.choices.into_iter().next().ok_or(Failure::UnusableAnswer)?;
        let refused = choice.finish_reason.as_deref() == Some("content_filter") || choice.message.refusal.is_some();
        if refused {
            return Err(Failure::ContentRefused);
        }
        let calls = choice.message.tool_calls.unwrap_or_default();
        let handoff = !self.handoff_tool.is_empty() && calls.iter().any(|call| call.function.name == self.handoff_tool);
        let text = choice.message.content.unwrap_or_default();
        if text.trim().is_empty() && !handoff {
            return Err(Failure::UnusableAnswer);
        }
        let tokens = Tokens {
            input: count(&completion.usage["prompt_tokens"]),
            output: count(&completion.usage["completion_tokens"]),
        };
        Ok(Answer { text, handoff, tokens, limit_requests })
    }
}

/// A number of tokens; whatever else stands there spoils no answer.
fn count(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_f64().map(|count| count.max(0.0) as u64)).unwrap_or(0)
}

/// Some services refuse content by a 400 whose code says so (Azure OpenAI: `content_filter`).
fn refuses_content(body: &[u8]) -> bool {
    let code = serde_json::from_slice::<Refused>(body).ok().and_then(|refused| refused.error.code);
    matches!(code.as_deref(), Some("content_filter" | "content_policy_violation"))
}

fn failure(error: &reqwest::Error) -> Failure {
    // The client's own time limit counts as a timeout also while the body is read.
    if error.is_timeout() { Failure::Timeout } else { Failure::Connect }
}
