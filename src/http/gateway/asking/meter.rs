//! What the calls of a request use.

use super::Asking;
use crate::{
    actors::Payer,
    domain::{answer::Tokens, completion::Kind},
    http::gateway::models,
};

/// Of a stream's bytes that hold one token: a part has about 250 of them around it.
const STREAM_BYTES_PER_TOKEN: u64 = 250;

/// What a call that is under way has used so far.
#[derive(Default)]
pub(super) struct Meter {
    /// The service, while its call is under way and not counted yet.
    pub service: Option<usize>,
    pub stream_bytes: usize,
    /// Of a whole answer whose tokens the service does not tell, a guess.
    pub answer_tokens: u64,
}

impl Meter {
    /// A guess, where the service does not tell. Vectors are no tokens.
    fn answer_tokens(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Chat => self.stream_bytes as u64 / STREAM_BYTES_PER_TOKEN + self.answer_tokens,
            Kind::Embeddings => 0,
        }
    }
}

/// What a request has used.
#[derive(Default)]
pub struct Used {
    /// Tokens.
    pub tokens: Tokens,
    /// What they cost, if the configuration has a price.
    pub cost: Option<f64>,
}

impl Asking {
    /// Counts what was used: that, and what it cost, if that is known. Of what a service does not tell an estimate is
    /// counted; whoever calls nobody uses nothing.
    pub fn used(&self, told: Tokens) -> Used {
        let meter = std::mem::take(&mut *self.meter.lock());
        let Some(service) = meter.service else {
            self.right.unused();
            return Used::default();
        };
        let estimate = || {
            let (input, output) = (self.request.tokens_asked(), meter.answer_tokens(self.request.kind));
            Tokens { input, output, ..Tokens::default() }
        };
        let tokens = if told.total() == 0 { estimate() } else { told };
        self.right.used(tokens.total());
        let parts = &self.visit.gateway.parts;
        let model = models::model_at(&parts.ai[service], &self.request);
        Used { tokens, cost: parts.charge(Payer::Key(self.visit.key), service, model, tokens) }
    }
}
