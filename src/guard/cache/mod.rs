//! Answers to questions that were asked before, word for word, and one call for those who ask the same at once.
//!
//! ```text
//! in this process (moka) > one of its askers goes on > in Redis > one node's asker goes on > the AI is asked
//! ```

mod entry;
mod fleet;
mod key;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use moka::{Expiry, future::Cache as Moka};

pub use entry::Sealer;
pub use fleet::Fleet;
use fleet::Terms;
pub use key::{Key, Tenant};

use super::CacheConfig;
use crate::{domain::answer::Answer, state};

/// All cached answers together, in bytes.
const BYTES_MAX: u64 = 64 << 20;

/// Share of the lifetime by which an entry may die earlier, so that entries made together do not die together.
const JITTER: f64 = 0.1;

/// In a fleet an answer lives in a process no longer than this; the others have it from Redis.
const IN_PROCESS_MAX: Duration = Duration::from_secs(60);

/// The cache.
pub struct Cache {
    answers: Moka<Name, Arc<Answer>>,
    fleet: Option<Fleet>,
    terms: Terms,
    enabled: bool,
}

/// A question, and how often its tenant's answers had been erased when it was asked.
type Name = (Key, u64);

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It was asked for.
    Asked,
    /// It was in this process.
    Process,
    /// Another asker's call brought it, which was under way.
    Coalesced,
    /// It was in Redis, or another node's call brought it.
    Fleet,
}

struct Lifetime(Duration);

/// A random part of a lifetime, less than all of it.
fn jittered(lifetime: Duration) -> Duration {
    lifetime.mul_f64(1.0 - JITTER * rand::random::<f64>())
}

impl Expiry<Name, Arc<Answer>> for Lifetime {
    #[expect(clippy::disallowed_types, reason = "the trait's own signature")]
    fn expire_after_create(&self, _: &Name, _: &Arc<Answer>, _: std::time::Instant) -> Option<Duration> {
        Some(jittered(self.0))
    }
}

impl Cache {
    /// Makes an empty one; in a fleet with the tier that all nodes share.
    pub fn new(config: &CacheConfig, fleet: Option<Fleet>) -> Self {
        let in_process = if fleet.is_some() { config.ttl.min(IN_PROCESS_MAX) } else { config.ttl };
        let answers = Moka::builder()
            .max_capacity(BYTES_MAX)
            .weigher(|_: &Name, answer: &Arc<Answer>| u32::try_from(answer.text.len() + 128).unwrap_or(u32::MAX))
            .expire_after(Lifetime(in_process))
            .build();
        let terms = Terms { value_bytes_max: config.max_value, lifetime: config.ttl };
        Self { answers, fleet, terms, enabled: config.enabled }
    }

    /// The answer kept for `key`, or what `ask` brings; those who ask for the same key meanwhile wait for that one
    /// call, and share its failure unless `is_callers_own` says that it is one of whoever made the call: then the next
    /// of them makes it. Without a key nothing is kept.
    pub async fn get_or<E, F>(
        &self,
        key: Option<Key>,
        is_callers_own: impl Fn(&E) -> bool + Send + Sync,
        ask: impl Fn() -> F + Send + Sync,
    ) -> Result<(Answer, Source), E>
    where
        E: Clone + Send + Sync + 'static,
        F: Future<Output = Result<Answer, E>> + Send,
    {
        let Some(key) = key.filter(|_| self.enabled) else { return Ok((ask().await?, Source::Asked)) };
        let erased = match &self.fleet {
            Some(fleet) => fleet.erased(key.tenant).await,
            None => Some(0),
        };
        let name = (key, erased.unwrap_or_default());
        loop {
            let (mut is_ours, mut was_in_fleet) = (false, false);
            let make = async {
                is_ours = true;
                let (answer, found) = self.make(&key, erased, &ask).await?;
                was_in_fleet = found;
                Ok(Arc::new(answer))
            };
            let was_there = self.answers.contains_key(&name);
            let made = self.answers.entry(name).or_try_insert_with(make).await;
            let entry = match made {
                Ok(entry) => entry,
                Err(error) if !is_ours && is_callers_own(&error) => continue,
                Err(error) => return Err((*error).clone()),
            };
            let fresh = entry.is_fresh();
            let answer = entry.into_value();
            if fresh && !self.terms.allow(&answer) {
                self.answers.invalidate(&name).await;
            }
            // A wish for a human belongs to one customer; whoever waited for that call asks for himself.
            if !fresh && answer.handoff {
                return Ok((ask().await?, Source::Asked));
            }
            let source = match (fresh, was_in_fleet) {
                (false, _) if was_there => Source::Process,
                (false, _) => Source::Coalesced,
                (true, true) => Source::Fleet,
                (true, false) => Source::Asked,
            };
            return Ok(((*answer).clone(), source));
        }
    }

    /// The answer that the fleet has, or what `ask` brings; the flag says that it was there already.
    async fn make<E, F>(
        &self,
        key: &Key,
        erased: Option<u64>,
        ask: impl Fn() -> F + Send + Sync,
    ) -> Result<(Answer, bool), E>
    where
        F: Future<Output = Result<Answer, E>> + Send,
    {
        match (&self.fleet, erased) {
            (Some(fleet), Some(erased)) => {
                let terms = Terms { lifetime: jittered(self.terms.lifetime), ..self.terms };
                fleet.get_or(key, erased, terms, ask).await
            }
            _ => Ok((ask().await?, false)),
        }
    }

    /// How long an answer is kept at most.
    pub fn lifetime(&self) -> Duration {
        self.terms.lifetime
    }

    /// Whether there is a tier that all nodes share.
    pub fn is_shared(&self) -> bool {
        self.fleet.is_some()
    }

    /// Erases what is kept for a tenant: here at once, on the other nodes of a fleet within a second.
    pub async fn erase(&self, tenant: Tenant) -> Result<(), state::Error> {
        let theirs: Vec<Name> =
            self.answers.iter().map(|(name, _)| *name).filter(|(key, _)| key.tenant == tenant).collect();
        for name in theirs {
            self.answers.invalidate(&name).await;
        }
        match &self.fleet {
            Some(fleet) => fleet.erase(tenant).await,
            None => Ok(()),
        }
    }
}
