//! What the AI services' answers have used and cost: by who asked, by service, and by model.
//!
//! It is what this node has seen since it began. Whoever collects the metrics has it of all nodes, and from before.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::Parts;
use crate::{
    client::Ai,
    domain::answer::Tokens,
    telemetry::series::{Counters, Labels, label},
};

/// The accounts of all who may ask.
#[derive(Default)]
pub struct Accounts {
    chat: Vec<Account>,
    /// By the place of the key.
    keys: Vec<(&'static str, Vec<Account>)>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer {
    /// The conversations.
    Chat,
    /// The API key at this place of the configuration.
    Key(usize),
}

/// What one payer has used of one model of one service.
pub struct Account {
    /// The service.
    pub service: &'static str,
    /// The model, by the provider's name.
    pub model: &'static str,
    /// The service's place.
    place: usize,
    input: Counter,
    output: Counter,
    cost: Sum,
}

/// A sum of money.
type Sum = Counter<f64, AtomicU64>;

/// The same by `N` labels.
type Sums<const N: usize> = Family<Labels<N>, Sum>;

impl Account {
    /// Tokens used.
    pub fn tokens(&self) -> Tokens {
        Tokens { input: self.input.get(), output: self.output.get(), ..Tokens::default() }
    }

    /// What they cost, in the currency of the prices.
    pub fn cost(&self) -> f64 {
        self.cost.get()
    }
}

impl Accounts {
    /// Opens them, all at zero. `services`: in their order, by name; `keys`: the names of the API keys that this node
    /// serves.
    pub fn register(registry: &mut Registry, services: &[(&str, &Ai)], keys: &[&str]) -> Self {
        let (chat_tokens, chat_costs) = (Counters::<3>::default(), Sums::<2>::default());
        let (key_tokens, key_costs) = (Counters::<4>::default(), Sums::<3>::default());
        let money = "in the currency of the prices";
        registry.register("tidegate_chat_tokens", "Tokens used by conversations", chat_tokens.clone());
        registry.register("tidegate_chat_cost", format!("Cost of conversations, {money}"), chat_costs.clone());
        registry.register("tidegate_api_tokens", "Tokens used by key", key_tokens.clone());
        registry.register("tidegate_api_cost", format!("Cost by key, {money}"), key_costs.clone());
        let chat = open(services, |service, model| {
            let tokens = |kind| chat_tokens.get_or_create(&[service, model, ("type", kind)]).clone();
            (tokens("input"), tokens("output"), chat_costs.get_or_create(&[service, model]).clone())
        });
        let of_key = |name: &&str| {
            let name = label(name);
            let key = ("key", name);
            let accounts = open(services, |service, model| {
                let tokens = |kind| key_tokens.get_or_create(&[key, service, model, ("type", kind)]).clone();
                (tokens("input"), tokens("output"), key_costs.get_or_create(&[key, service, model]).clone())
            });
            (name, accounts)
        };
        Self { chat, keys: keys.iter().map(of_key).collect() }
    }

    /// Those of the conversations.
    pub fn chat(&self) -> &[Account] {
        &self.chat
    }

    /// Those of the API keys, by their names.
    pub fn keys(&self) -> impl Iterator<Item = (&'static str, &[Account])> {
        self.keys.iter().map(|(name, accounts)| (*name, accounts.as_slice()))
    }

    fn of(&self, payer: Payer, place: usize, model: &str) -> Option<&Account> {
        let accounts = match payer {
            Payer::Chat => &self.chat,
            Payer::Key(key) => &self.keys.get(key)?.1,
        };
        accounts.iter().find(|account| account.place == place && account.model == model)
    }
}

/// A label and its value.
type Pair = (&'static str, &'static str);

/// Opens one account for each model of each service; `counters`: for the tokens of questions and answers, and for the cost.
fn open(services: &[(&str, &Ai)], counters: impl Fn(Pair, Pair) -> (Counter, Counter, Sum)) -> Vec<Account> {
    let account = |place, service, model| {
        let (input, output, cost) = counters(("service", service), ("model", model));
        Account { service, model, place, input, output, cost }
    };
    let all = services.iter().enumerate();
    all.flat_map(|(place, (name, ai))| ai.own_models().map(move |model| account(place, label(name), label(model))))
        .collect()
}

impl Parts {
    /// Counts what a call used of a model, by the provider's name; what it cost, if the price is known.
    pub fn charge(&self, payer: Payer, service: usize, model: &str, tokens: Tokens) -> Option<f64> {
        let cost = self.ai[service].price(model).map(|price| price.of(tokens));
        if let Some(account) = self.accounts.of(payer, service, model) {
            account.input.inc_by(tokens.input);
            account.output.inc_by(tokens.output);
            account.cost.inc_by(cost.unwrap_or_default());
        }
        cost
    }
}
