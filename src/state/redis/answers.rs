//! The answers of the fleet in Redis: an entry and the turn to make it, side by side in one slot. All of it expires.
//!
//! The numbers of erasures lie with the state: the cache's Redis may drop what it likes, and then erased answers would
//! be found again.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fred::types::{Value, scripts::Script};

use super::Link;
use crate::{
    domain::time,
    state::{
        Error,
        cache::{Answers, Look},
    },
};

static LOOK: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("scripts/cache_look.lua")));
static KEEP: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("scripts/cache_keep.lua")));
/// A counter that is not there is begun at the clock: one that was lost would else be a number again under which what was
/// erased is still kept.
static ERASED: LazyLock<Script> = LazyLock::new(|| {
    Script::from_lua(
        "local time = redis.call('TIME')\n\
         local now = time[1] * 1000 + math.floor(time[2] / 1000)\n\
         redis.call('SET', KEYS[1], string.format('%.0f', now), 'NX')\n\
         return tonumber(redis.call('GET', KEYS[1]))",
    )
});
/// Never starts again at a number that was used, also when the counter was lost: it follows the clock.
static ERASE: LazyLock<Script> = LazyLock::new(|| {
    Script::from_lua(
        "local time = redis.call('TIME')\n\
         local now = time[1] * 1000 + math.floor(time[2] / 1000)\n\
         local next = math.max(now, tonumber(redis.call('GET', KEYS[1]) or '0') + 1)\n\
         redis.call('SET', KEYS[1], string.format('%.0f', next))\n\
         return next",
    )
});

/// The answers in Redis.
pub struct RedisAnswers {
    link: Arc<Link>,
    /// Names this node among those who take turns.
    node: String,
}

impl RedisAnswers {
    /// Keeps them over `link`. `node` names this process.
    pub fn new(link: Arc<Link>, node: String) -> Self {
        Self { link, node }
    }

    fn keys(&self, name: &str) -> Vec<String> {
        let tag = format!("a:{name}");
        vec![self.link.key(&tag, "entry"), self.link.key(&tag, "turn")]
    }

    fn counter(&self, tenant: &str) -> Vec<String> {
        vec![self.link.key(&format!("t:{tenant}"), "erased")]
    }
}

fn millis(span: Duration) -> String {
    time::millis(span).max(1).to_string()
}

#[async_trait]
impl Answers for RedisAnswers {
    async fn look(&self, name: &str, turn: Duration, spoiled: bool) -> Result<Look, Error> {
        let args = vec![self.node.clone(), millis(turn), u8::from(spoiled).to_string()];
        let found: Vec<Value> = self.link.cache().run(&LOOK, self.keys(name), args).await?;
        let mut found = found.into_iter();
        let word = found.next().and_then(|word| word.into_string());
        match (word.as_deref(), found.next()) {
            (Some("entry"), Some(entry)) => {
                let entry = entry.into_bytes().ok_or_else(|| Error::Failed("a cache entry is no string".into()))?;
                Ok(Look::Entry(Bytes::from(entry.to_vec())))
            }
            (Some("ours"), _) => Ok(Look::Ours),
            _ => Ok(Look::Theirs),
        }
    }

    async fn keep(&self, name: &str, entry: Option<(Vec<u8>, Duration)>) -> Result<(), Error> {
        let (bytes, lifetime) =
            entry.map_or_else(|| (Vec::new(), "0".into()), |(bytes, lifetime)| (bytes, millis(lifetime)));
        let args: Vec<Value> = vec![self.node.clone().into(), lifetime.into(), Value::Bytes(bytes.into())];
        self.link.cache().run::<i64, _>(&KEEP, self.keys(name), args).await.map(drop)
    }

    async fn erased(&self, tenant: &str) -> Result<u64, Error> {
        self.link.run(&ERASED, self.counter(tenant), Vec::<String>::new()).await
    }

    async fn erase(&self, tenant: &str) -> Result<u64, Error> {
        self.link.run(&ERASE, self.counter(tenant), Vec::<String>::new()).await
    }
}
