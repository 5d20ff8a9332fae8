//! What the simulated Zendesk counted, and the names of those who were wronged.

use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use super::judge::{Offence, Tally};
use super::world::World;
use crate::simulate::reference::Reference;

/// Offences named in a report; the counts are complete anyway.
const NAMED_MAX: usize = 200;

/// Counts since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// What the judge counted.
    #[serde(flatten)]
    pub judged: Tally,
    /// Conversations known.
    pub conversations: u64,
    /// Attempts to deliver a webhook.
    pub webhook_attempts: u64,
    /// Attempts that were not answered 2xx and not refused for good.
    pub webhook_failed_attempts: u64,
    /// Events given up: a final status, or no attempt left.
    pub webhook_failures_final: u64,
    /// Echoes not sent because the queue of webhooks was full.
    pub webhooks_dropped: u64,
    /// Webhooks waiting or being tried.
    pub webhooks_queued: u64,
    /// Business messages stored by API.
    pub posts: u64,
    /// Those stored while a human was in control.
    pub posts_while_human: u64,
    /// Typing and read signals.
    pub activities: u64,
    /// Control passed by API.
    pub passes: u64,
    /// API calls of any outcome.
    pub api_requests: u64,
    /// API calls that met a fault which was asked for.
    pub api_errors_injected: u64,
    /// Posts answered 429.
    pub throttled: u64,
    /// Half of the first replies came within this many milliseconds.
    pub p50_ms: f64,
    /// 99 % of the first replies came within this many milliseconds.
    pub p99_ms: f64,
}

/// Counts and the offences behind them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The counts.
    #[serde(flatten)]
    pub stats: Stats,
    /// The first offences found, in no order.
    pub offences: Vec<Named>,
}

/// One offence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// What happened.
    pub offence: Offence,
    /// To which message, by token.
    pub reference: Reference,
    /// To which message, by id.
    pub message_id: String,
    /// In which conversation.
    pub conversation: String,
}

impl World {
    /// What the judge counted over all conversations.
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        self.conversations().iter().for_each(|conversation| sum += conversation.state.lock().judge.tally());
        sum
    }

    /// All counts.
    pub fn stats(&self) -> Stats {
        let counters = &self.counters;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
        Stats {
            judged: self.tally(),
            conversations: self.conversations().len() as u64,
            webhook_attempts: read(&counters.webhook_attempts),
            webhook_failed_attempts: read(&counters.webhook_failed_attempts),
            webhook_failures_final: read(&counters.webhook_failures_final),
            webhooks_dropped: read(&counters.webhooks_dropped),
            webhooks_queued: self.queued() as u64,
            posts: read(&counters.posts),
            posts_while_human: read(&counters.posts_while_human),
            activities: read(&counters.activities),
            passes: read(&counters.passes),
            api_requests: read(&counters.api_requests),
            api_errors_injected: read(&counters.api_errors_injected),
            throttled: read(&counters.throttled),
            p50_ms: self.latency.percentile_ms(0.5),
            p99_ms: self.latency.percentile_ms(0.99),
        }
    }

    /// All counts, and offences by name.
    pub fn report(&self) -> Report {
        let mut offences = Vec::new();
        for conversation in self.conversations() {
            let state = conversation.state.lock();
            let named = state.judge.offences().map(|(offence, reference, message_id)| Named {
                offence,
                reference,
                message_id: message_id.to_owned(),
                conversation: conversation.id.clone(),
            });
            offences.extend(named.take(NAMED_MAX - offences.len()));
        }
        Report { stats: self.stats(), offences }
    }
}
