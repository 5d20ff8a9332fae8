//! The APIs the service speaks, and what they do not have in common.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::answer::{self, Reply};
use super::anthropic;
use super::request::Request;
use crate::simulate::quota::Left;

/// Whose API a call speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `POST /v1/chat/completions`.
    Openai,
    /// `POST /openai/deployments/{deployment}/chat/completions`.
    Azure {
        /// The model that the address names.
        deployment: String,
    },
    /// `POST /v1/messages`.
    Anthropic,
}

impl Dialect {
    /// The key that a call shows. Anthropic's reference demands `x-api-key`, its newer Python clients send a bearer key.
    pub fn key<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let bearer = || text("authorization")?.strip_prefix("Bearer ");
        match self {
            Self::Openai => bearer(),
            Self::Azure { .. } => text("api-key"),
            Self::Anthropic => text("x-api-key").or_else(bearer),
        }
    }

    /// Reads what is asked.
    ///
    /// # Errors
    /// The reason why it is unusable.
    pub fn request(&self, body: &[u8]) -> Result<Request, String> {
        match self {
            Self::Openai => Request::parse(body, None),
            Self::Azure { deployment } => Request::parse(body, Some(deployment.clone())),
            Self::Anthropic => anthropic::parse(body),
        }
    }

    /// The answer in one piece.
    pub fn whole(&self, reply: &Reply) -> Response {
        match self {
            Self::Openai | Self::Azure { .. } => reply.whole(),
            Self::Anthropic => anthropic::whole(reply),
        }
    }

    /// The answer as server-sent events.
    pub fn chunks(&self, reply: &Reply) -> Vec<Bytes> {
        match self {
            Self::Openai | Self::Azure { .. } => reply.chunks(),
            Self::Anthropic => anthropic::chunks(reply),
        }
    }

    /// An error.
    pub fn error(&self, status: u16, code: &str, message: &str) -> Response {
        match self {
            Self::Openai | Self::Azure { .. } => answer::error(status, code, message),
            Self::Anthropic => anthropic::error(status, message),
        }
    }

    /// An error that comes instead of the next chunk.
    pub fn error_event(&self) -> Bytes {
        match self {
            Self::Openai | Self::Azure { .. } => answer::error_event(),
            Self::Anthropic => anthropic::error_event(),
        }
    }

    /// Tells in the headers how much of the quota is left.
    pub fn tell(&self, left: Left, headers: &mut HeaderMap) {
        let (name, reset): (fn(&str) -> String, _) = match self {
            Self::Openai | Self::Azure { .. } => (|what| format!("x-ratelimit-{what}-requests"), span(left.reset_us)),
            Self::Anthropic => (|what| format!("anthropic-ratelimit-requests-{what}"), moment(left.reset_us)),
        };
        let values = [("limit", left.limit.to_string()), ("remaining", left.remaining.to_string()), ("reset", reset)];
        for (what, value) in values {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name(what)), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
    }
}

/// A span as OpenAI writes it.
fn span(us: u64) -> String {
    if us < 1_000_000 { format!("{}ms", us.div_ceil(1000)) } else { format!("{}s", us as f64 / 1e6) }
}

/// A moment as Anthropic writes it.
fn moment(us_ahead: u64) -> String {
    let moment = OffsetDateTime::now_utc() + std::time::Duration::from_micros(us_ahead);
    moment.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_tells_the_quota_in_its_own_headers() {
        let told = |dialect: &Dialect| {
            let mut headers = HeaderMap::new();
            dialect.tell(Left { limit: 5, remaining: 4, reset_us: 1_500_000 }, &mut headers);
            headers
        };
        let openai = told(&Dialect::Openai);
        assert_eq!(openai["x-ratelimit-limit-requests"], "5");
        assert_eq!(openai["x-ratelimit-reset-requests"], "1.5s");
        assert_eq!(told(&Dialect::Azure { deployment: "d".into() }), openai);
        let anthropic = told(&Dialect::Anthropic);
        assert_eq!(anthropic["anthropic-ratelimit-requests-limit"], "5");
        assert_eq!(anthropic["anthropic-ratelimit-requests-remaining"], "4");
        assert!(anthropic["anthropic-ratelimit-requests-reset"].to_str().unwrap().ends_with('Z'));
    }
}
