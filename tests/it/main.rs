//! The integration tests: the real daemon as a process of its own, between the two simulators.

mod chaos;
mod chat_bursts;
mod chat_control;
mod chat_outage;
mod chat_posts;
mod chat_zendesk;
mod crashes;
mod inspection;
mod recorder;
mod support;
