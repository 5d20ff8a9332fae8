//! Looks at a service without asking it anything: which models it lists (OpenAI's API reference, "List models").

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use tokio::time::timeout;

use super::{Ai, read};
use crate::{client::http, domain::verdict::Failure};

/// What a service says when it is asked for its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// These are there.
    Models(Vec<String>),
    /// It answers, but not with a list; with this status.
    Answers(u16),
}

#[derive(Deserialize)]
struct List {
    data: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
}

impl Ai {
    /// Where the list of models is asked for.
    pub fn lists_at(&self) -> String {
        let Some(mut url) = self.endpoint.models() else { return String::new() };
        url.set_query(None);
        url.into()
    }

    /// Asks for the list of models.
    ///
    /// # Errors
    /// `Connect`, and `Timeout` after `within`.
    pub async fn list(&self, within: Duration) -> Result<Listing, Failure> {
        timeout(within, self.listed()).await.unwrap_or(Err(Failure::Timeout))
    }

    async fn listed(&self) -> Result<Listing, Failure> {
        let Some(url) = self.endpoint.models() else { return Err(Failure::Connect) };
        let mut call = reqwest::Request::new(Method::GET, url);
        *call.headers_mut() = self.endpoint.headers.clone();
        let client = self.client.here().map_err(|_| Failure::Connect)?;
        let response = client.execute(call).await.map_err(|_| Failure::Connect)?;
        let status = response.status();
        if !status.is_success() {
            return Ok(Listing::Answers(status.as_u16()));
        }
        let body = read(response, http::BODY_BYTES_MAX).await?;
        let list = serde_json::from_slice::<List>(&body);
        Ok(list.map_or(Listing::Answers(status.as_u16()), |list| {
            Listing::Models(list.data.into_iter().map(|listed| listed.id).collect())
        }))
    }
}
