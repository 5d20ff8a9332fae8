//! Tidegate keeps an AI support chat answering while the AI service rate-limits, slows down or fails.
//!
//! # The walk of a message
//!
//! ```text
//! Zendesk --POST /webhooks/sunshine--> http::webhook    authenticate, open the envelope, judge each event alone
//!    -> actors::ingress         many deliveries, one sync
//!    -> broker.publish          durable, and only now 200; duplicates are known in the same transaction
//! broker -> actors::consumer    takes only what it can hold
//!    -> actors::conversation    one per live conversation; actors::turn is its burst from beginning to end:
//!         gather -> prepare -> ask -> last look -> intent -> post -> conclude
//!    -> guard                   cache > single flight > breaker's look > slot > permit > breaker's pass > client::ai
//!    -> client::sunshine        posted with our mark (actors::posting); unknown outcome: looked for by the mark
//!    -> delivery.ack
//! a failure of the message -> delivery.bury -> actors::retry -> comes again after 2^n s, or is parked
//! a failure of the service -> the message waits where it is, the breaker learns
//! the synchronous road: a client of OpenAI's API -> http::gateway -> guard -> client::ai -> the answer, whole or in parts
//! ```
//!
//! A module imports only from those above it: `domain < telemetry, tls < store < broker, state < guard, client < actors <
//! http < node, config, simulate < cli` (`tests/layering.rs`).

#![forbid(unsafe_code)]

pub mod domain;
pub mod telemetry;
pub mod tls;

pub mod store;

pub mod broker;
pub mod state;

pub mod client;
pub mod guard;

pub mod actors;

pub mod http;

pub mod config;
pub mod node;
pub mod simulate;

pub mod cli;

#[cfg(test)]
#[path = "../tests/it/ports.rs"]
mod ports;
