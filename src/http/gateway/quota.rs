//! What a key may use: its tokens of the month, and its own rate limits.
//!
//! A request that is refused later, by a service, has been counted: "unsuccessful requests contribute to your per-minute
//! limit" (OpenAI, guide "Rate limits").

use std::sync::Arc;

use super::{Gateway, deadline::Deadline, refusal::Refusal};
use crate::{
    actors::{Budget, Parts, limiter_of},
    domain::completion::Request,
    guard::{Allowance, Call, Class, Permits, ask_again_at},
    telemetry::series::label,
};

/// What a key may use, found once.
pub(super) struct Purse {
    /// The key's name as label value.
    pub label: &'static str,
    /// How the names of what is asked with it begin, for the breakers' evidence.
    pub subject: String,
    /// Room for the bodies of its requests.
    pub bodies: Budget,
    permits: Option<Arc<Permits>>,
    allowance: Option<Arc<Allowance>>,
}

impl Purse {
    /// Of the key of this name.
    pub fn of(name: &str, parts: &Parts, bodies: Budget) -> Self {
        let limiter = limiter_of(name);
        let permits = parts.key_limits.iter().find(|(limited, _)| *limited == limiter);
        let allowance = parts.allowances.iter().find(|allowance| allowance.name() == name);
        let permits = permits.map(|(_, permits)| permits.clone());
        Self { label: label(name), subject: format!("{name}/"), bodies, permits, allowance: allowance.cloned() }
    }
}

/// Leave to make one request with a key; what it used is told at its end.
pub struct Right {
    limited: Option<Call>,
    allowance: Option<Arc<Allowance>>,
}

impl Right {
    /// Nobody was asked for the request.
    pub fn unused(&self) {
        if let Some(call) = &self.limited {
            call.settle(0);
        }
    }

    /// The request used so many tokens.
    pub fn used(&self, tokens: u64) {
        if let Some(call) = &self.limited
            && tokens > 0
        {
            call.settle(tokens);
        }
        if let Some(allowance) = &self.allowance {
            allowance.used(tokens);
        }
    }
}

/// Waits for what the key may use, within the bounds of any wait.
pub(super) async fn admit(
    gateway: &Gateway,
    key: usize,
    request: &Request,
    deadline: Deadline,
) -> Result<Right, Refusal> {
    let clock = &gateway.parts.clock;
    let Purse { permits, allowance, .. } = &gateway.purses[key];
    let allowance = allowance.clone();
    if let Some(allowance) = &allowance {
        allowance.admit().map_err(|spent| Refusal::budget_spent(spent, clock.now()))?;
    }
    let Some(permits) = permits else { return Ok(Right { limited: None, allowance }) };
    let tokens = request.tokens();
    let until = deadline.at.min(clock.monotonic() + gateway.config.wait);
    let refused = || {
        let now = clock.monotonic();
        Refusal::key_limited(ask_again_at(permits.free_at(tokens), now) - now)
    };
    loop {
        // Also who does not wait takes what is there.
        if permits.free_at(tokens) > until.max(clock.monotonic()) {
            return Err(refused());
        }
        let permit = clock.by(|| until, permits.acquire(tokens, Class::Api)).await.ok_or_else(refused)?;
        if let Some(call) = permit.used_now() {
            return Ok(Right { limited: Some(call), allowance });
        }
    }
}
