//! Answers to questions that were asked before, word for word, and one call for those who ask the same at once.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use moka::{Expiry, future::Cache as Moka};
use sha2::{Digest, Sha256};

use super::CacheConfig;
use crate::domain::{
    answer::Answer,
    prompt::{Prompt, Role},
};

/// All cached answers together, in bytes.
const BYTES_MAX: u64 = 64 << 20;

/// Share of the lifetime by which an entry may die earlier, so that entries made together do not die together.
const JITTER: f64 = 0.1;

/// The name of a question: whoever asks the same of the same model in the same tenant gets the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// Names a question. `tenant` keeps answers apart: the Zendesk app and brand, or the API key.
    pub fn new(tenant: &[&str], model: &str, prompt: &Prompt) -> Self {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        tenant.iter().for_each(|name| part(name));
        part(model);
        for turn in &prompt.turns {
            part(match turn.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            });
            part(turn.text.trim());
        }
        prompt.images.iter().for_each(|url| part(url));
        Self(hash.finalize().into())
    }
}

/// The cache.
pub struct Cache {
    answers: Moka<Key, Arc<Answer>>,
    value_bytes_max: u64,
    enabled: bool,
}

struct Lifetime(Duration);

impl Expiry<Key, Arc<Answer>> for Lifetime {
    #[expect(clippy::disallowed_types, reason = "the trait's own signature")]
    fn expire_after_create(&self, key: &Key, _: &Arc<Answer>, _: std::time::Instant) -> Option<Duration> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let unit = (hasher.finish() % 1_000) as f64 / 1_000.0;
        Some(self.0.mul_f64(1.0 - JITTER * unit))
    }
}

impl Cache {
    /// Makes an empty one.
    pub fn new(config: &CacheConfig) -> Self {
        let answers = Moka::builder()
            .max_capacity(BYTES_MAX)
            .weigher(|_: &Key, answer: &Arc<Answer>| u32::try_from(answer.text.len() + 128).unwrap_or(u32::MAX))
            .expire_after(Lifetime(config.ttl))
            .build();
        Self { answers, value_bytes_max: config.max_value, enabled: config.enabled }
    }

    /// The answer kept for `key`, or what `ask` brings; those who ask for the same key meanwhile wait for that one
    /// call. Without a key nothing is kept. The flag says whether the answer was there already.
    pub async fn get_or<E, F>(&self, key: Option<Key>, ask: impl Fn() -> F + Send + Sync) -> Result<(Answer, bool), E>
    where
        E: Clone + Send + Sync + 'static,
        F: Future<Output = Result<Answer, E>> + Send,
    {
        let Some(key) = key.filter(|_| self.enabled) else { return Ok((ask().await?, false)) };
        let entry = self.answers.entry(key).or_try_insert_with(async { ask().await.map(Arc::new) }).await;
        let entry = entry.map_err(|error: Arc<E>| (*error).clone())?;
        let fresh = entry.is_fresh();
        let answer = entry.into_value();
        let too_large = answer.text.len() as u64 > self.value_bytes_max;
        if fresh && (too_large || answer.handoff) {
            self.answers.invalidate(&key).await;
        }
        // A wish for a human belongs to one customer; whoever waited for that call asks for himself.
        if !fresh && answer.handoff {
            return Ok((ask().await?, false));
        }
        Ok(((*answer).clone(), !fresh))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::domain::prompt::History;

    fn prompt(text: &str) -> Prompt {
        Prompt::new("", &History::default(), &[text], Vec::new())
    }

    fn answer(text: &str) -> Answer {
        Answer { text: text.into(), ..Answer::default() }
    }

    #[tokio::test]
    async fn the_same_question_asked_at_once_is_one_call() {
        let cache = Arc::new(Cache::new(&CacheConfig::default()));
        let calls = Arc::new(AtomicUsize::new(0));
        let key = Key::new(&["app"], "m", &prompt("hi"));
        let asking: Vec<_> = (0..50)
            .map(|_| {
                let (cache, calls) = (cache.clone(), calls.clone());
                tokio::spawn(async move {
                    let ask = || async {
                        calls.fetch_add(1, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                        Ok::<_, ()>(answer("hello"))
                    };
                    cache.get_or(Some(key), ask).await.unwrap().0.text
                })
            })
            .collect();
        for one in asking {
            assert_eq!(one.await.unwrap(), "hello");
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_wish_for_a_human_is_no_other_customers() {
        let cache = Arc::new(Cache::new(&CacheConfig::default()));
        let calls = Arc::new(AtomicUsize::new(0));
        let key = Key::new(&["app"], "m", &prompt("hi"));
        let asking: Vec<_> = (0..10)
            .map(|_| {
                let (cache, calls) = (cache.clone(), calls.clone());
                tokio::spawn(async move {
                    let ask = || async {
                        let handoff = calls.fetch_add(1, Ordering::Relaxed) == 0;
                        tokio::task::yield_now().await;
                        Ok::<_, ()>(Answer { handoff, ..answer("hello") })
                    };
                    cache.get_or(Some(key), ask).await.unwrap().0.handoff
                })
            })
            .collect();
        let mut handed_over = 0;
        for one in asking {
            handed_over += usize::from(one.await.unwrap());
        }
        assert_eq!(handed_over, 1);
    }

    #[tokio::test]
    async fn failures_long_answers_and_other_tenants_are_not_served() {
        let cache = Cache::new(&CacheConfig { max_value: 10, ..CacheConfig::default() });
        let key = |tenant| Key::new(&[tenant], "m", &prompt("hi"));
        assert_eq!(cache.get_or(Some(key("a")), || async { Err("down") }).await, Err("down"));
        let (_, kept) =
            cache.get_or::<&str, _>(Some(key("a")), || async { Ok(answer("a long answer")) }).await.unwrap();
        assert!(!kept);
        let (said, kept) = cache.get_or::<&str, _>(Some(key("a")), || async { Ok(answer("short")) }).await.unwrap();
        assert_eq!((said.text.as_str(), kept), ("short", false));
        assert!(cache.get_or::<&str, _>(Some(key("a")), || async { Ok(answer("x")) }).await.unwrap().1);
        assert!(!cache.get_or::<&str, _>(Some(key("b")), || async { Ok(answer("x")) }).await.unwrap().1);
        assert_ne!(Key::new(&["ab", "c"], "m", &prompt("hi")), Key::new(&["a", "bc"], "m", &prompt("hi")));
    }
}
