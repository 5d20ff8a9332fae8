//! Commands that ask a running node over its admin listener: tables for people, `--json` for programs.

pub(super) mod actors;
pub(super) mod audit;
pub(super) mod breaker;
pub(super) mod dead;
pub(super) mod erase;
pub(super) mod explain;
pub(super) mod health;
pub(super) mod limits;
pub(super) mod mute;
pub(super) mod nodes;
pub(super) mod pools;
pub(super) mod queues;
mod table;
pub(super) mod top;

use std::{io::Write, process::ExitCode};

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

use super::{failed, runtime};

/// Where a node's admin listener is looked for.
const ADMIN: &str = "http://127.0.0.1:9090";

/// How long a node may take to answer.
const WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// How long it may take to tell all of something long.
const COPIES_WITHIN: std::time::Duration = std::time::Duration::from_secs(3600);

/// Which node is asked, and how its answer is printed.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Reach {
    /// The node's admin listener; else $TIDEGATE_ADMIN_URL, else http://127.0.0.1:9090.
    #[arg(long, value_name = "URL", global = true)]
    admin: Option<String>,
    /// A token of admin.tokens; else $TIDEGATE_ADMIN_TOKEN, which others on this machine cannot read.
    #[arg(long, value_name = "TOKEN", global = true)]
    token: Option<String>,
    /// Prints JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// Why a command did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Nobody is there.
    #[error("no node answers at {0}: is it running? its admin listener is given by --admin or TIDEGATE_ADMIN_URL")]
    Away(String),
    /// It refuses.
    #[error("{0}")]
    Refused(String),
    /// It cannot do it now.
    #[error("{0}")]
    Unavailable(String),
    /// Something is not there.
    #[error("{0}")]
    Unknown(String),
    /// It answers something else.
    #[error("{0} does not answer like a node's admin listener")]
    Strange(String),
}

/// A node that can be asked.
pub(super) struct Node {
    url: String,
    token: Option<String>,
    client: reqwest::Client,
    /// Whether its answers are printed as they are.
    pub json: bool,
}

impl Reach {
    fn node(&self) -> anyhow::Result<Node> {
        let or = |given: &Option<String>, name: &str| given.clone().or_else(|| std::env::var(name).ok());
        let url = or(&self.admin, "TIDEGATE_ADMIN_URL").unwrap_or_else(|| ADMIN.to_owned());
        let url = if url.contains("://") { url } else { format!("http://{url}") };
        super::tls();
        let client = reqwest::Client::builder().timeout(WITHIN).build()?;
        let token = or(&self.token, "TIDEGATE_ADMIN_TOKEN").filter(|token| !token.is_empty());
        Ok(Node { url: url.trim_end_matches('/').to_owned(), token, client, json: self.json })
    }

    /// Runs a command against the node.
    pub fn run(&self, command: impl AsyncFnOnce(&Node) -> Result<(), Error>) -> ExitCode {
        let (node, runtime) = match (self.node(), runtime(1)) {
            (Ok(node), Ok(runtime)) => (node, runtime),
            (Err(error), _) => return failed(&error),
            (_, Err(error)) => return failed(&error.into()),
        };
        match runtime.block_on(command(&node)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error.into()),
        }
    }
}

impl Node {
    /// Asks.
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.ask(Method::GET, path, None).await
    }

    /// Asks how it is; that it is not well is an answer, too.
    pub async fn report(&self, path: &str) -> Result<Value, Error> {
        let away = |_| Error::Away(self.url.clone());
        let answer = self.request(Method::GET, path).send().await.map_err(away)?;
        answer.json().await.map_err(|_| self.strange())
    }

    /// What is there is no node.
    pub fn strange(&self) -> Error {
        Error::Strange(self.url.clone())
    }

    /// Asks for something long, and writes it as it comes.
    pub async fn copy(&self, path: &str, to: &mut (dyn Write + Send)) -> Result<(), Error> {
        let away = |_| Error::Away(self.url.clone());
        let mut answer = self.request(Method::GET, path).timeout(COPIES_WITHIN).send().await.map_err(away)?;
        if !answer.status().is_success() {
            return Err(self.refused(answer.status(), &answer.text().await.map_err(away)?));
        }
        let broken = |why: String| Error::Refused(format!("it is not all: {why}"));
        while let Some(part) = answer.chunk().await.map_err(|_| broken("the node broke it off".into()))? {
            to.write_all(&part).map_err(|error| broken(error.to_string()))?;
        }
        to.flush().map_err(|error| broken(error.to_string()))
    }

    /// Orders.
    pub async fn order(&self, method: Method, path: &str, body: Value) -> Result<Value, Error> {
        self.ask(method, path, Some(body)).await
    }

    /// Orders, with a text.
    pub async fn send(&self, method: Method, path: &str, text: String) -> Result<Value, Error> {
        self.answer(self.request(method, path).body(text)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Error> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        self.answer(request).await
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Value, Error> {
        let away = |_| Error::Away(self.url.clone());
        let answer = request.send().await.map_err(away)?;
        let status = answer.status();
        let text = answer.text().await.map_err(away)?;
        if !status.is_success() {
            return Err(self.refused(status, &text));
        }
        let is_empty = text.is_empty();
        Ok(serde_json::from_str(&text).unwrap_or(if is_empty { Value::Null } else { Value::String(text) }))
    }

    fn refused(&self, status: StatusCode, text: &str) -> Error {
        let told: Value = serde_json::from_str(text).unwrap_or_default();
        let Some(detail) = told["detail"].as_str() else { return self.strange() };
        match status {
            StatusCode::UNAUTHORIZED => Error::Refused(format!("{detail}; give it by --token or TIDEGATE_ADMIN_TOKEN")),
            StatusCode::NOT_FOUND => Error::Unknown(detail.to_owned()),
            StatusCode::SERVICE_UNAVAILABLE => Error::Unavailable(detail.to_owned()),
            _ => Error::Refused(detail.to_owned()),
        }
    }

    /// Prints an answer as JSON, if that is wanted.
    pub fn printed(&self, told: &Value) -> bool {
        if self.json {
            println!("{}", serde_json::to_string_pretty(told).expect("JSON can be written"));
        }
        self.json
    }
}

/// A part of a path that may hold anything.
pub(super) fn part(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A text out of an answer, without what a terminal would obey; what is missing is empty.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        other => other.to_string(),
    }
}

/// The items of a list.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A span of milliseconds as people say it.
pub(super) fn span(value: &Value) -> String {
    value.as_u64().map(|ms| crate::actors::explain::span(std::time::Duration::from_millis(ms))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_part_of_a_path_and_no_text_moves_the_cursor() {
        assert_eq!(part("a/b ?ü%"), "a%2Fb%20%3F%C3%BC%25");
        assert_eq!(text(&Value::String("a\u{1b}[2Jb\n".into())), "a [2Jb ");
    }
}
