//! What operators have set: Redis knows it, and the node's file has a copy, in case Redis is away, or has lost it.

use async_trait::async_trait;

use super::Bridge;
use crate::state::{
    Error, Settings,
    settings::{All, Setting},
};

#[async_trait]
impl Settings for Bridge {
    /// The file keeps a copy: a node that starts while Redis is away does what was set before.
    async fn settings(&self, known: Option<u64>) -> Result<Option<All>, Error> {
        let Some(told) = self.on_redis(self.redis.settings(known)).await else {
            return self.local.settings(known).await;
        };
        let Some(all) = told? else { return Ok(None) };
        if all.version == 0
            && let Some(copy) = self.remind().await?
        {
            // What Redis knows now is copied by the next who asks.
            return Ok(Some(copy).filter(|copy| known != Some(copy.version)));
        }
        self.local.copy_settings(&all).await?;
        Ok(Some(all))
    }

    /// An order may come before anybody has seen that Redis has lost what was set: it would pass for all there is.
    async fn set(&self, setting: &Setting) -> Result<(), Error> {
        let set = async {
            self.remind().await?;
            self.redis.set(setting).await
        };
        self.only_redis(set).await
    }

    async fn unset(&self, name: &str) -> Result<bool, Error> {
        let unset = async {
            self.remind().await?;
            self.redis.unset(name).await
        };
        self.only_redis(unset).await
    }

    async fn end(&self, name: &str, ends_with: &str) -> Result<(), Error> {
        self.only_redis(self.redis.end(name, ends_with)).await
    }
}

impl Bridge {
    /// Tells Redis what the file knows to be set, which counts only if Redis knows of nothing that was ever set. Also
    /// that nothing is set is told: else one who was away for long would set what it remembers.
    async fn remind(&self) -> Result<Option<All>, Error> {
        let copy = self.local.settings(None).await?.filter(|copy| copy.version > 0);
        if let Some(copy) = &copy {
            self.redis.restore_settings(&copy.settings).await?;
        }
        Ok(copy)
    }
}
