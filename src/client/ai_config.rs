//! `[[ai.services]]`: the AI services, in the order in which they are tried.
//!
//! The guards in front of a service are set beside it in the file, but belong to another part; their types are
//! parameters here, so that this part knows nothing of them.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::domain::{answer::Tokens, secret::Secret, units};

/// `[ai]`: the chain of services, with how callers share them, `S`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[serde(bound(
    deserialize = "L: Deserialize<'de> + Default, B: Deserialize<'de> + Default, S: Deserialize<'de> + Default"
))]
pub struct AiConfig<L, B, S> {
    /// How conversations and the synchronous road share each service when both wait for it.
    pub shares: S,
    /// The services; the first answers, the others stand in for it.
    pub services: Vec<AiService<L, B>>,
}

impl<L: Default, B: Default, S: Default> Default for AiConfig<L, B, S> {
    fn default() -> Self {
        Self { shares: S::default(), services: vec![AiService::default()] }
    }
}

/// Whose API a service speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// OpenAI's, which vLLM, Ollama and many others speak too.
    #[default]
    Openai,
    /// Azure OpenAI's, with the model as a deployment in the address.
    Azure,
    /// Anthropic's Messages API.
    Anthropic,
}

/// What a million tokens cost, in the operator's currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    /// Of the question.
    pub input: f64,
    /// Of what the provider had of the question in its own cache; 0: as much as of the question.
    pub cached_input: f64,
    /// Of the answer.
    pub output: f64,
}

/// The price of one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// The model, by the provider's name.
    pub model: String,
    /// Of a million tokens of the question.
    #[serde(default)]
    pub input: f64,
    /// Of a million tokens that the provider had of the question in its own cache; 0: as much as of the question.
    #[serde(default)]
    pub cached_input: f64,
    /// Of a million tokens of the answer.
    #[serde(default)]
    pub output: f64,
}

impl ModelPrice {
    /// The price alone.
    pub fn price(&self) -> Price {
        Price { input: self.input, cached_input: self.cached_input, output: self.output }
    }
}

impl Price {
    /// What so many tokens cost.
    pub fn of(&self, tokens: Tokens) -> f64 {
        let cached_input = if self.cached_input > 0.0 { self.cached_input } else { self.input };
        let cached = tokens.cached_input.min(tokens.input);
        let parts = [(tokens.input - cached, self.input), (cached, cached_input), (tokens.output, self.output)];
        parts.iter().map(|(tokens, price)| *tokens as f64 * price).sum::<f64>() / 1e6
    }

    /// Whether nothing is known of what tokens cost.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// One AI service, with its limits `L` and its breaker `B`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[serde(bound(deserialize = "L: Deserialize<'de> + Default, B: Deserialize<'de> + Default"))]
pub struct AiService<L, B> {
    /// Name in metrics, routes and commands; unique.
    pub name: String,
    /// Whose API it speaks.
    pub provider: Provider,
    /// Address up to and without `/chat/completions` (Azure: `/openai`, Anthropic: `/v1/messages`); empty: the service
    /// is not used.
    pub base_url: String,
    /// Key, sent as the provider wants it; empty: none is sent.
    pub api_key: Secret,
    /// Model asked for; of Azure the name of the deployment.
    pub model: String,
    /// Version of Azure's API; others have none.
    pub api_version: String,
    /// Tokens an answer may have when nobody says how many; Anthropic demands a number, others are not told.
    pub max_output_tokens: u32,
    /// Whether the model takes images; then it is shown their addresses.
    pub images: bool,
    /// Time one call may take, answer included.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// Calls in flight at most, on this node.
    pub concurrency: usize,
    /// The models clients may ask for, beside `model`: their name for it, and the provider's.
    pub models: BTreeMap<String, String>,
    /// What tokens cost.
    pub price: Price,
    /// What those of single models cost, where that is something else.
    pub prices: Vec<ModelPrice>,
    /// What the provider allows, over all nodes together.
    pub limits: L,
    /// When calls stop because the service is broken.
    pub breaker: B,
}

impl<L: Default, B: Default> Default for AiService<L, B> {
    fn default() -> Self {
        Self {
            name: "primary".into(),
            provider: Provider::default(),
            base_url: String::new(),
            api_key: Secret::default(),
            model: String::new(),
            // The latest version that is no preview (Azure OpenAI REST API reference, "API specs").
            api_version: "2024-10-21".into(),
            max_output_tokens: 4096,
            images: false,
            timeout: Duration::from_secs(30),
            concurrency: 32,
            models: BTreeMap::new(),
            price: Price::default(),
            prices: Vec::new(),
            limits: L::default(),
            breaker: B::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_from_the_providers_cache_cost_what_they_are_said_to_cost_or_like_others() {
        let tokens = |input, cached_input| Tokens { input, cached_input, output: 1 };
        let price = |cached_input| Price { input: 4e6, cached_input, output: 8e6 };
        for (cached_input, tokens, cost) in [
            (0.0, tokens(10, 5), 48.0),
            (1e6, tokens(10, 5), 33.0),
            (1e6, tokens(10, 0), 48.0),
            (1e6, tokens(0, 0), 8.0),
            (1e6, tokens(2, 5), 10.0),
        ] {
            assert_eq!(price(cached_input).of(tokens), cost, "{tokens:?} at {cached_input}");
        }
    }
}
