//! The quotas of a fleet: one script call a turn, decided by the server's clock.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use fred::types::scripts::Script;
use tokio::sync::broadcast::error::RecvError;

use super::Link;
use crate::state::{
    Error,
    quota::{Ask, Heard, Policy, Quotas, Told},
};

static TURN: LazyLock<Script> = LazyLock::new(|| {
    Script::from_lua(concat!(include_str!("scripts/quota_log.lua"), include_str!("scripts/quota.lua")))
});

/// On which every pause is announced, as `name birth epoch`.
const CHANNEL: &str = "quota";

/// The quotas in Redis.
pub struct RedisQuotas {
    link: Arc<Link>,
}

impl RedisQuotas {
    /// Quotas over a link.
    pub fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    /// A turn at a time of one's own in microseconds; `None`: the server's.
    pub(crate) async fn turn_at(&self, at: Option<u64>, name: &str, policy: &Policy, ask: &Ask) -> Result<Told, Error> {
        let failed = |error: serde_json::Error| Error::Failed(error.to_string());
        let args = vec![
            at.map(|at| at.to_string()).unwrap_or_default(),
            serde_json::to_string(policy).map_err(failed)?,
            serde_json::to_string(ask).map_err(failed)?,
            self.link.channel(CHANNEL),
            name.to_owned(),
        ];
        // All that is remembered is in a form of this version; another form gets other names.
        let keys = vec![self.link.key(name, "quota:v1"), self.link.key(name, "quota:v1:log")];
        let told: String = self.link.run(&TURN, keys, args).await?;
        serde_json::from_str(&told).map_err(failed)
    }
}

#[async_trait]
impl Quotas for RedisQuotas {
    async fn turn(&self, name: &str, policy: &Policy, ask: &Ask) -> Result<Told, Error> {
        if !self.link.is_up() {
            return Err(Error::Away("not connected".into()));
        }
        self.turn_at(None, name, policy, ask).await
    }

    async fn hear(&self, name: &str, heard: Heard) -> Error {
        let channel = self.link.channel(CHANNEL);
        let mut published = match self.link.listen(&channel).await {
            Ok(published) => published,
            Err(error) => return error,
        };
        loop {
            let message = match published.recv().await {
                Ok(message) => message,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return Error::Away("the link is closed".into()),
            };
            if *message.channel != *channel {
                continue;
            }
            let text = message.value.as_string().unwrap_or_default();
            if let Some((birth, epoch)) = announced(&text, name) {
                heard(birth, epoch);
            }
        }
    }
}

/// The birth and the epoch, if this quota is meant.
fn announced<'a>(text: &'a str, name: &str) -> Option<(&'a str, u64)> {
    let (rest, epoch) = text.rsplit_once(' ')?;
    let (whose, birth) = rest.rsplit_once(' ')?;
    (whose == name).then_some((birth, epoch.parse().ok()?))
}
