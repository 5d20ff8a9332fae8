//! The tier that all nodes share, and one call for those who ask the same at once on several of them.
//!
//! An error of Redis is a miss: the question is asked, as if there were no cache.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{Key, Tenant, entry::Sealer};
use crate::{
    domain::answer::Answer,
    state::cache::{Answers, Look},
    telemetry::Clock,
};

/// How long nobody else makes an answer while its maker does not renew his turn: so long the others wait when he dies.
const TURN: Duration = Duration::from_secs(3);

/// Those who wait for another node's answer look for it with these pauses, doubling from the first to the second, give or
/// take a share.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(50);
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Whoever has waited so long asks himself: the maker may only be waiting, for his node's breaker or limits.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The numbers of erasures are read again after so long: so long what was erased may still be served.
const ERASED_EVERY: Duration = Duration::from_secs(1);

/// Tenants whose number is remembered.
const TENANTS_MAX: usize = 10_000;

/// The tier.
pub struct Fleet {
    answers: Arc<dyn Answers>,
    sealer: Sealer,
    clock: Clock,
    /// The number of each tenant's last erasure, and when (monotonic) that was read.
    erased: Mutex<HashMap<Tenant, (u64, Duration)>>,
}

/// What is kept, and for how long.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub value_bytes_max: u64,
    pub lifetime: Duration,
}

impl Terms {
    /// Whether an answer may be kept at all: a wish for a human belongs to one customer, and who asks later may get the
    /// model that was asked for.
    pub fn allow(self, answer: &Answer) -> bool {
        !answer.handoff && !answer.stands_in && answer.text.len() as u64 <= self.value_bytes_max
    }
}

impl Fleet {
    /// Shares what `answers` keeps with all who have the same secret.
    pub fn new(answers: Arc<dyn Answers>, sealer: Sealer, clock: Clock) -> Self {
        Self { answers, sealer, clock, erased: Mutex::default() }
    }

    /// The number of a tenant's last erasure, as far as is known; `None`: nothing is, so nothing may be served.
    pub(super) async fn erased(&self, tenant: Tenant) -> Option<u64> {
        let now = self.clock.monotonic();
        let known = self.erased.lock().get(&tenant).copied();
        if let Some((number, read_at)) = known
            && now.saturating_sub(read_at) < ERASED_EVERY
        {
            return Some(number);
        }
        let read = self.answers.erased(&self.sealer.tenant(&tenant)).await.ok();
        let number = read.or(known.map(|(number, _)| number))?;
        Some(self.note(tenant, number, now))
    }

    /// Erases what is kept for a tenant, on all nodes.
    pub(super) async fn erase(&self, tenant: Tenant) -> Result<(), crate::state::Error> {
        let number = self.answers.erase(&self.sealer.tenant(&tenant)).await?;
        self.note(tenant, number, self.clock.monotonic());
        Ok(())
    }

    fn note(&self, tenant: Tenant, number: u64, now: Duration) -> u64 {
        let mut erased = self.erased.lock();
        if erased.len() >= TENANTS_MAX && !erased.contains_key(&tenant) {
            erased.clear();
        }
        let noted = erased.entry(tenant).or_insert((0, now));
        // A number that was lost with Redis does not bring back what was erased.
        *noted = (noted.0.max(number), now);
        noted.0
    }

    /// The answer that the fleet has, or what `ask` brings, which is kept; the flag says that it was there already.
    pub(super) async fn get_or<E, F>(
        &self,
        key: &Key,
        erased: u64,
        terms: Terms,
        ask: impl FnOnce() -> F + Send,
    ) -> Result<(Answer, bool), E>
    where
        F: Future<Output = Result<Answer, E>> + Send,
    {
        let name = self.sealer.name(key, erased);
        let until = self.clock.monotonic() + WAIT_MAX;
        let (mut spoiled, mut pause) = (false, LOOK_PAUSE_MIN);
        loop {
            match self.answers.look(&name, TURN, spoiled).await {
                Ok(Look::Entry(entry)) => match self.sealer.open(&name, &entry, terms.value_bytes_max) {
                    Some(answer) => return Ok((answer, true)),
                    None if spoiled => break,
                    None => {
                        tracing::warn!("an entry of the cache is good for nothing and was thrown away");
                        spoiled = true;
                    }
                },
                Ok(Look::Theirs) => {
                    let left = until.saturating_sub(self.clock.monotonic());
                    if left.is_zero() {
                        break;
                    }
                    tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>()).min(left)).await;
                    pause = (pause * 2).min(LOOK_PAUSE_MAX);
                }
                Ok(Look::Ours) => return Ok((self.make(&name, terms, ask()).await?, false)),
                Err(_) => break,
            }
        }
        Ok((ask().await?, false))
    }

    async fn make<E>(
        &self,
        name: &str,
        terms: Terms,
        asking: impl Future<Output = Result<Answer, E>> + Send,
    ) -> Result<Answer, E> {
        let renewing = async {
            loop {
                tokio::time::sleep(TURN / 3).await;
                // One that fails is made up for by the next; at the worst two nodes ask.
                let _ = self.answers.look(name, TURN, false).await;
            }
        };
        let made = tokio::select! {
            made = asking => made,
            () = renewing => unreachable!("renewing never ends"),
        };
        let kept = made.as_ref().ok().filter(|answer| terms.allow(answer));
        let entry = kept.map(|answer| (self.sealer.seal(name, answer), terms.lifetime));
        // What cannot be kept is asked again.
        let _ = self.answers.keep(name, entry).await;
        made
    }
}
