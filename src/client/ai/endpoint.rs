//! Where a provider is asked, with which headers, and how it wants to be asked.
//!
//! | | address | key |
//! |---|---|---|
//! | OpenAI and all who speak it | `{base_url}/chat/completions`, `/embeddings` | `authorization: Bearer` |
//! | Azure OpenAI | `{base_url}/openai/deployments/{model}/...?api-version=` | `api-key` |
//! | Anthropic | `{base_url}/v1/messages`, or without `/v1` if the address ends with it | `x-api-key` |
//!
//! Azure OpenAI REST API reference, "Data plane inference"; Anthropic API reference, "Create a Message".

use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use reqwest::{
    Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT},
};

use super::{
    AiService,
    anthropic::{self, question::translate},
    refusal::Refusal,
    stream::Reader,
};
use crate::{
    client::{Provider, http},
    domain::{
        completion::{Invalid, Kind, Request},
        time::Timestamp,
    },
};

/// The version of Anthropic's API that is spoken here (API reference, "Versioning").
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// One provider as it is set up.
pub(super) struct Endpoint {
    pub(super) provider: Provider,
    /// `None` when the address is no URL: nobody can be asked then, and the configuration has to be mended.
    base: Option<Url>,
    /// Where each kind is asked, by its place, if that is the same for all models.
    fixed: [Option<Url>; 2],
    api_version: String,
    max_output_tokens: u32,
    pub(super) headers: HeaderMap,
}

impl Endpoint {
    pub(super) fn new<L, B>(service: &AiService<L, B>) -> Self {
        let base = Url::parse(service.base_url.trim_end_matches('/')).ok();
        let mut base = base.filter(|base| !base.cannot_be_a_base());
        let mut headers = headers(service);
        // A key of the service's own goes before a password in its address.
        if let Some(basic) = base.as_mut().and_then(password)
            && !headers.contains_key(AUTHORIZATION)
        {
            headers.insert(AUTHORIZATION, basic);
        }
        if let Some(host) = base.as_ref().and_then(host) {
            headers.insert(HOST, host);
        }
        let mut endpoint = Self {
            provider: service.provider,
            base,
            fixed: [None, None],
            api_version: service.api_version.clone(),
            max_output_tokens: service.max_output_tokens,
            headers,
        };
        if service.provider != Provider::Azure {
            endpoint.fixed = [Kind::Chat, Kind::Embeddings].map(|kind| endpoint.address(kind, ""));
        }
        endpoint
    }

    /// Where it is.
    pub(super) fn host(&self) -> Option<&str> {
        self.base.as_ref()?.host_str()
    }

    /// Whether it can be asked anything.
    pub(super) fn has_address(&self) -> bool {
        self.base.is_some()
    }

    /// Where this is asked of this model.
    pub(super) fn url(&self, kind: Kind, model: &str) -> Option<Url> {
        self.fixed[kind as usize].clone().or_else(|| self.address(kind, model))
    }

    /// Where it lists its models.
    pub(super) fn models(&self) -> Option<Url> {
        match self.provider {
            Provider::Azure => self.below(&["openai", "models"]),
            Provider::Openai => self.below(&["models"]),
            Provider::Anthropic => {
                let mut url = self.below(&["models"])?;
                // Otherwise it lists the first 20.
                url.query_pairs_mut().append_pair("limit", "1000");
                Some(url)
            }
        }
    }

    fn address(&self, kind: Kind, model: &str) -> Option<Url> {
        let operation: &[&str] = match kind {
            Kind::Chat => &["chat", "completions"],
            Kind::Embeddings => &["embeddings"],
        };
        match self.provider {
            Provider::Openai => self.below(operation),
            Provider::Azure => self.below(&[&["openai", "deployments", model], operation].concat()),
            Provider::Anthropic => self.below(&["messages"]),
        }
    }

    fn below(&self, steps: &[&str]) -> Option<Url> {
        let mut url = self.base.clone()?;
        let version = (self.provider == Provider::Anthropic && !url.path().ends_with("/v1")).then_some("v1");
        url.path_segments_mut().ok()?.pop_if_empty().extend(version).extend(steps);
        if self.provider == Provider::Azure {
            url.query_pairs_mut().append_pair("api-version", &self.api_version);
        }
        Some(url)
    }

    /// The request as the provider gets it; an error if it cannot be asked so.
    pub(super) fn body(&self, request: &Request, model: &str) -> Result<Vec<u8>, Refusal> {
        let wrong = match (self.provider, request.kind) {
            (Provider::Openai | Provider::Azure, _) => return Ok(request.body(model)),
            (Provider::Anthropic, Kind::Embeddings) => {
                Invalid { message: "this provider offers no embeddings".into(), param: Some("model") }
            }
            (Provider::Anthropic, Kind::Chat) => match translate(request, model, self.max_output_tokens) {
                Ok(body) => return Ok(body),
                Err(wrong) => wrong,
            },
        };
        Err(Refusal::untranslatable(&wrong))
    }

    /// Who reads the events of a stream.
    pub(super) fn reader(&self, now: Timestamp) -> Reader {
        match self.provider {
            Provider::Openai | Provider::Azure => Reader::Openai,
            Provider::Anthropic => Reader::Anthropic(Box::new(anthropic::events::Reader::new(now))),
        }
    }
}

/// Takes the name and the password out of an address, as the header they are sent by (RFC 7617).
fn password(base: &mut Url) -> Option<HeaderValue> {
    if base.username().is_empty() && base.password().is_none() {
        return None;
    }
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let pair = [decoded(base.username()), decoded(base.password().unwrap_or_default())].join(&b':');
    // An address with a host can be without both.
    let _ = (base.set_username(""), base.set_password(None));
    let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The header that says who is asked (RFC 9110, section 7.2): with the port, unless it is the scheme's own.
fn host(base: &Url) -> Option<HeaderValue> {
    let host = base.host_str()?;
    let host = base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    HeaderValue::from_str(&host).ok()
}

/// All that a call says of itself, so that nothing of it is worked out again at each.
fn headers<L, B>(service: &AiService<L, B>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(USER_AGENT, HeaderValue::from_static(http::USER_AGENT));
    let key = service.api_key.expose();
    let (name, value) = match service.provider {
        Provider::Openai => (AUTHORIZATION, format!("Bearer {key}")),
        Provider::Azure => (HeaderName::from_static("api-key"), key.to_owned()),
        Provider::Anthropic => (HeaderName::from_static("x-api-key"), key.to_owned()),
    };
    if let (false, Ok(mut value)) = (key.is_empty(), HeaderValue::from_str(&value)) {
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    if service.provider == Provider::Anthropic {
        headers.insert("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::secret::Secret;

    fn endpoint(provider: Provider, base_url: &str) -> Endpoint {
        let service = AiService::<(), ()> {
            provider,
            base_url: base_url.into(),
            api_key: Secret::new("k"),
            api_version: "2024-10-21".into(),
            ..AiService::default()
        };
        Endpoint::new(&service)
    }

    #[test]
    fn each_provider_is_asked_where_it_listens() {
        let url = |provider, base: &str, kind| endpoint(provider, base).url(kind, "m 1/ü").map(String::from);
        let (openai, azure, anthropic) = (Provider::Openai, Provider::Azure, Provider::Anthropic);
        for (provider, base, kind, expected) in [
            (openai, "http://h/v1", Kind::Chat, Some("http://h/v1/chat/completions")),
            (openai, "http://h/v1//", Kind::Embeddings, Some("http://h/v1/embeddings")),
            (openai, "http://h", Kind::Chat, Some("http://h/chat/completions")),
            (
                azure,
                "https://r.openai.azure.com/",
                Kind::Chat,
                Some(
                    "https://r.openai.azure.com/openai/deployments/m%201%2F%C3%BC/chat/completions?api-version=2024-10-21",
                ),
            ),
            (
                azure,
                "https://r.openai.azure.com",
                Kind::Embeddings,
                Some("https://r.openai.azure.com/openai/deployments/m%201%2F%C3%BC/embeddings?api-version=2024-10-21"),
            ),
            (anthropic, "http://h", Kind::Chat, Some("http://h/v1/messages")),
            (anthropic, "http://h/v1/", Kind::Chat, Some("http://h/v1/messages")),
            (anthropic, "http://h/proxy", Kind::Chat, Some("http://h/proxy/v1/messages")),
            (openai, "", Kind::Chat, None),
            (openai, "mailto:a@b", Kind::Chat, None),
        ] {
            assert_eq!(url(provider, base, kind).as_deref(), expected, "{base}");
        }
    }

    #[test]
    fn each_provider_gets_the_key_in_its_own_header_and_nobody_sees_it() {
        for (provider, name, value) in [
            (Provider::Openai, "authorization", "Bearer k"),
            (Provider::Azure, "api-key", "k"),
            (Provider::Anthropic, "x-api-key", "k"),
        ] {
            let headers = endpoint(provider, "http://h").headers;
            assert_eq!(headers[name], value);
            assert!(headers[name].is_sensitive());
            assert_eq!(headers.contains_key("anthropic-version"), provider == Provider::Anthropic);
        }
    }

    #[test]
    fn the_one_who_is_asked_is_named_by_host_and_port() {
        for (base, expected) in [
            ("http://h/v1", "h"),
            ("http://h:80/v1", "h"),
            ("https://H:8443", "h:8443"),
            ("http://[::1]:8080/v1", "[::1]:8080"),
            ("http://u:p@127.0.0.1:9/", "127.0.0.1:9"),
        ] {
            assert_eq!(endpoint(Provider::Openai, base).headers[HOST], expected, "{base}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_sent_as_a_header_unless_there_is_a_key_for_it() {
        for (provider, expected) in [
            (Provider::Openai, "Bearer k"),
            (Provider::Azure, "Basic dTpww7xAcA=="),
            (Provider::Anthropic, "Basic dTpww7xAcA=="),
        ] {
            let endpoint = endpoint(provider, "http://u:p%C3%BC%40p@h/v1");
            assert_eq!(
                (&endpoint.headers[AUTHORIZATION], endpoint.headers[AUTHORIZATION].is_sensitive()),
                (&expected.parse().unwrap(), true)
            );
            let url = endpoint.url(Kind::Chat, "m").unwrap();
            assert_eq!((url.host_str(), url.username(), url.password()), (Some("h"), "", None));
        }
    }
}
