//! The two services outside: the AI services and Zendesk's messaging API.

mod ai;
mod ai_config;
mod http;
mod sunshine;
mod sunshine_config;
mod sunshine_error;
mod sunshine_span;
mod sunshine_wire;

pub use ai::{Ai, Chunk, Completion, Listing, Refusal, Stream};
pub use ai_config::{AiConfig, AiService, ModelPrice, Price, Provider};
pub use http::tls;
pub use sunshine::{Found, Message, Standing, Sunshine};
pub use sunshine_config::SunshineConfig;
pub use sunshine_error::Error;
