//! The integration tests: the real daemon as a process of its own, between the two simulators.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod absence;
mod admin_tokens;
mod bounds;
mod chaos;
mod chat_answers;
mod chat_bursts;
mod chat_cache;
mod chat_control;
mod chat_manners;
mod chat_order;
mod chat_outage;
mod chat_posts;
mod chat_zendesk;
mod command_line;
mod crashes;
mod delivery_reports;
mod fleet_breaker;
mod fleet_cache;
mod fleet_faults;
mod fleet_ledger;
mod fleet_limits;
mod handoffs;
mod ingress;
mod inspection;
mod last_moment;
mod metrics;
mod oddities;
mod official_client;
mod problems;
mod quarantine;
mod rabbitmq;
mod rabbitmq_check;
mod recorder;
mod redis_link;
mod removal;
mod samples;
mod signatures;
mod simulators_ai;
mod simulators_webhooks;
mod simulators_zendesk;
mod storage;
mod stories;
mod support;
mod watchdog;
