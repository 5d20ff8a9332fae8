//! Rules for what the node listens on, connects to and writes to.

use std::{net::SocketAddr, time::Duration};

use super::Rules;
use crate::{
    actors::{KEY_LIMITERS, Service},
    broker,
    client::{Price, Provider},
    config::{Config, address::is_node},
    guard::{breaker, limiter::Limits},
    http::{ApiKey, HASHED},
    state,
};

/// Partition numbers have two digits in RabbitMQ's names.
const PARTITIONS_MAX: u64 = 100;

/// AMQP's heartbeat is in whole seconds; beyond a minute a dead broker is found too late.
const HEARTBEAT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Connections of one listener; a process has rarely more files.
const CONNECTIONS_MAX: u64 = 1_000_000;

/// Calls of one node to one service; beyond it the number is a slip of the pen.
const CONCURRENCY_MAX: u64 = 100_000;

/// The limiter and the quota of the posts have this name, among those of the services.
const POSTS: &str = "zendesk";

/// Shares further apart than this are meant as never.
const SHARE_MAX: u64 = 1_000;

pub(super) fn check(config: &Config, rules: &mut Rules) {
    listeners(config, rules);
    api_keys(&config.api.keys, rules);
    embedded(config, rules);
    rabbitmq(&config.broker.rabbitmq, rules);
    redis(&config.state.redis, rules);
    services(config, rules);
    rules.url(&config.zendesk.api_url, "zendesk.api_url");
    rules.some_time(config.zendesk.timeout, "zendesk.timeout");
    rules.present(&config.zendesk.handoff_to, "zendesk.handoff_to", "write an integration such as zd:agentWorkspace");
    if !config.telemetry.otlp_endpoint.is_empty() {
        rules.url(&config.telemetry.otlp_endpoint, "telemetry.otlp_endpoint");
    }
    if !config.telemetry.trace_url.is_empty() {
        rules.url(&config.telemetry.trace_url, "telemetry.trace_url");
        let names_it = config.telemetry.trace_url.contains("{trace_id}");
        let remedy = "write it where the trace's name stands, like http://127.0.0.1:16686/trace/{trace_id}";
        rules.holds(names_it, "telemetry.trace_url", "has no {trace_id} in it".to_owned(), remedy);
    }
}

fn listeners(config: &Config, rules: &mut Rules) {
    let (http, admin) = (&config.http, &config.admin);
    let wrong = format!("{} is taken by http.listen as well", admin.listen);
    let apart = !collide(http.listen, admin.listen);
    rules.together(apart, "admin.listen", &["http.listen"], wrong, "write another port");
    let guarded = admin.listen.ip().is_loopback() || !admin.tokens.is_empty();
    let wrong = format!("is empty, but admin.listen = {} can be reached from outside", admin.listen);
    let remedy = "add an [[admin.tokens]] with name, token and role, or listen on 127.0.0.1";
    rules.together(guarded, "admin.tokens", &["admin.listen"], wrong, remedy);
    rules.names(admin.tokens.iter().map(|token| token.name.as_str()), "admin.tokens", "name");
    for (index, token) in admin.tokens.iter().enumerate() {
        rules.present(token.token.expose(), &format!("admin.tokens[{index}].token"), "write a long random string");
    }
    rules.count(http.webhook_body_limit, "http.webhook_body_limit", 1024..=1 << 30);
    rules.count(http.api_body_limit, "http.api_body_limit", 1024..=1 << 30);
    rules.some_time(http.request_timeout, "http.request_timeout");
    rules.count(http.connections as u64, "http.connections", 1..=CONNECTIONS_MAX);
    rules.count(admin.connections as u64, "admin.connections", 1..=CONNECTIONS_MAX);
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let same_host = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    let free_port = one.port() == 0;
    same_host && one.port() == other.port() && !free_port
}

fn api_keys(keys: &[ApiKey], rules: &mut Rules) {
    rules.names(keys.iter().map(|key| key.name.as_str()), "api.keys", "name");
    let digests: Vec<Option<String>> = keys.iter().map(ApiKey::digest).collect();
    for (index, key) in keys.iter().enumerate() {
        let (at, digest) = (format!("api.keys[{index}].key"), &digests[index]);
        rules.present(key.key.expose(), &at, "write a long random string");
        let start = key.key.expose().get(..HASHED.len()).unwrap_or_default();
        let misspelt = start != HASHED && start.eq_ignore_ascii_case(HASHED);
        let remedy = "write sha256: in small letters, and the 64 hex digits that `printf %s KEY | sha256sum` prints";
        rules.holds(!misspelt && digest.is_some(), &at, "begins with sha256: and is no SHA-256", remedy);
        let first = digests[..index].iter().position(|other| other.is_some() && other == digest);
        if let Some(first) = first.filter(|_| !key.key.is_empty()) {
            let other = format!("api.keys[{first}].key");
            rules.together(false, &at, &[&other], format!("is the same as {other}"), "write another one");
        }
        windows(&key.limits, &format!("api.keys[{index}].limits"), rules);
    }
}

fn embedded(config: &Config, rules: &mut Rules) {
    let (embedded, spool) = (&config.broker.embedded, &config.broker.spool);
    rules.present(&embedded.path, "broker.embedded.path", "write a folder");
    rules.present(&spool.path, "broker.spool.path", "write a folder");
    let apart = embedded.path != spool.path;
    let wrong = "is the same as broker.embedded.path";
    rules.together(apart, "broker.spool.path", &["broker.embedded.path"], wrong, "write another folder");
    rules.count(embedded.max_messages, "broker.embedded.max_messages", 1..=u64::MAX);
    rules.count(embedded.max_bytes, "broker.embedded.max_bytes", 1 << 20..=u64::MAX);
    rules.count(spool.max_messages, "broker.spool.max_messages", 1..=u64::MAX);
    rules.count(spool.max_bytes, "broker.spool.max_bytes", 1 << 20..=u64::MAX);
    rules.some_time(spool.confirm_within, "broker.spool.confirm_within");
    if spool.enabled {
        let in_time = spool.confirm_within < config.http.request_timeout;
        let wrong = "is not shorter than http.request_timeout, so nobody waits for the spool";
        let key = "broker.spool.confirm_within";
        rules.together(in_time, key, &["http.request_timeout"], wrong, "write a shorter time");
    }
}

fn rabbitmq(rabbitmq: &broker::RabbitmqConfig, rules: &mut Rules) {
    nodes(&rabbitmq.nodes, "broker.rabbitmq.nodes", rules);
    rules.holds(!rabbitmq.nodes.is_empty(), "broker.rabbitmq.nodes", "is empty", "write [\"host:5672\"]");
    prefix(&rabbitmq.prefix, "broker.rabbitmq.prefix", rules);
    rules.present(&rabbitmq.username, "broker.rabbitmq.username", "write a user of the broker");
    rules.present(&rabbitmq.vhost, "broker.rabbitmq.vhost", "write / or the name of a virtual host");
    rules.span(rabbitmq.heartbeat, "broker.rabbitmq.heartbeat", HEARTBEAT.0..=HEARTBEAT.1);
    rules.some_time(rabbitmq.confirm_timeout, "broker.rabbitmq.confirm_timeout");
    rules.some_time(rabbitmq.consumer_timeout, "broker.rabbitmq.consumer_timeout");
    rules.count(rabbitmq.partitions.into(), "broker.rabbitmq.partitions", 1..=PARTITIONS_MAX);
    // One conversation may hold a quarter of its partition's window.
    rules.count(rabbitmq.prefetch.into(), "broker.rabbitmq.prefetch", 4..=u16::MAX.into());
    if !rabbitmq.management_url.is_empty() {
        rules.url(&rabbitmq.management_url, "broker.rabbitmq.management_url");
    }
    let pair = rabbitmq.client_cert.is_empty() == rabbitmq.client_key.is_empty();
    let (key, with) = ("broker.rabbitmq.client_key", ["broker.rabbitmq.client_cert"]);
    rules.together(pair, key, &with, "and client_cert are only one set", "write both or none");
    let plain = rabbitmq.client_cert.is_empty() && rabbitmq.ca_file.is_empty();
    let (wrong, with) = ("is off, but certificates are given", ["broker.rabbitmq.ca_file", with[0]]);
    rules.together(rabbitmq.tls || plain, "broker.rabbitmq.tls", &with, wrong, "write true, or remove them");
}

fn redis(redis: &state::RedisConfig, rules: &mut Rules) {
    nodes(&redis.nodes, "state.redis.nodes", rules);
    nodes(&redis.cache_nodes, "state.redis.cache_nodes", rules);
    rules.holds(!redis.nodes.is_empty(), "state.redis.nodes", "is empty", "write [\"host:6379\"]");
    prefix(&redis.prefix, "state.redis.prefix", rules);
    let named = redis.mode != state::RedisMode::Sentinel || !redis.sentinel_master.is_empty();
    let (key, wrong) = ("state.redis.sentinel_master", "is empty, but state.redis.mode is sentinel");
    rules.together(named, key, &["state.redis.mode"], wrong, "write the name of the master");
    let wrong = "is off, but ca_file is given";
    let holds = redis.tls || redis.ca_file.is_empty();
    rules.together(holds, "state.redis.tls", &["state.redis.ca_file"], wrong, "write true, or remove it");
}

fn services(config: &Config, rules: &mut Rules) {
    let services = &config.ai.services;
    rules.holds(!services.is_empty(), "ai.services", "is empty", "add an [[ai.services]]");
    for (share, key) in [(config.ai.shares.chat, "ai.shares.chat"), (config.ai.shares.api, "ai.shares.api")] {
        rules.count(share.into(), key, 1..=SHARE_MAX);
    }
    rules.names(services.iter().map(|service| service.name.as_str()), "ai.services", "name");
    for (index, service) in services.iter().enumerate() {
        let at = format!("ai.services[{index}]");
        let wrong = format!("{POSTS} is what the posts to Zendesk are called, and would share their limits");
        rules.holds(service.name != POSTS, &format!("{at}.name"), wrong, "write another name");
        let wrong = format!("begins with {KEY_LIMITERS}, as what is counted for API keys does");
        rules.holds(!service.name.starts_with(KEY_LIMITERS), &format!("{at}.name"), wrong, "write another name");
        service_alone(service, &at, rules);
        let in_time = service.timeout < config.chat.soft_time_limit;
        let wrong = "is not shorter than chat.soft_time_limit, which would cut every slow call";
        let remedy = "write a shorter time, or raise chat.soft_time_limit";
        rules.together(in_time, &format!("{at}.timeout"), &["chat.soft_time_limit"], wrong, remedy);
    }
}

fn service_alone(service: &Service, at: &str, rules: &mut Rules) {
    if !service.base_url.is_empty() {
        rules.url(&service.base_url, &format!("{at}.base_url"));
    }
    rules.some_time(service.timeout, &format!("{at}.timeout"));
    rules.count(service.concurrency as u64, &format!("{at}.concurrency"), 1..=CONCURRENCY_MAX);
    rules.count(service.max_output_tokens.into(), &format!("{at}.max_output_tokens"), 1..=u32::MAX.into());
    let versioned = service.provider != Provider::Azure || !service.api_version.trim().is_empty();
    let (key, with) = (format!("{at}.api_version"), format!("{at}.provider"));
    rules.together(versioned, &key, &[&with], "is empty, but provider is azure", "write a version like 2024-10-21");
    let named = service.models.iter().all(|(ours, theirs)| !ours.trim().is_empty() && !theirs.trim().is_empty());
    rules.holds(named, &format!("{at}.models"), "has an empty name in it", "write both names of each model");
    prices(service, at, rules);
    windows(&service.limits, &format!("{at}.limits"), rules);
    breaker(&service.breaker, &format!("{at}.breaker"), rules);
}

fn prices(service: &Service, at: &str, rules: &mut Rules) {
    price(service.price, &format!("{at}.price"), rules);
    for (index, priced) in service.prices.iter().enumerate() {
        let at = format!("{at}.prices[{index}]");
        price(priced.price(), &at, rules);
        let key = format!("{at}.model");
        let asked = priced.model == service.model || service.models.values().any(|model| *model == priced.model);
        let wrong = "is no model that this service is asked for";
        let remedy = "write the provider's name of one, as in `model` or behind the = in `models`";
        rules.holds(asked, &key, wrong, remedy);
        let first = service.prices[..index].iter().all(|earlier| earlier.model != priced.model);
        rules.holds(first, &key, "has a price already", "remove one of the two");
    }
}

fn price(price: Price, at: &str, rules: &mut Rules) {
    let Price { input, cached_input, output } = price;
    for (name, amount) in [("input", input), ("cached_input", cached_input), ("output", output)] {
        let sound = amount.is_finite() && amount >= 0.0;
        rules.holds(sound, &format!("{at}.{name}"), format!("{amount} is no price"), "write a number from 0 up");
    }
    let (key, with) = (format!("{at}.cached_input"), format!("{at}.input"));
    let wrong = format!("{cached_input} is more than what the other tokens of a question cost");
    rules.together(!(input >= 0.0 && cached_input > input), &key, &[&with], wrong, "write at most the price of input");
}

fn windows(limits: &Limits, at: &str, rules: &mut Rules) {
    for (index, window) in limits.windows.iter().enumerate() {
        rules.count(window.requests, &format!("{at}.windows[{index}].requests"), 1..=u32::MAX.into());
        rules.some_time(window.per, &format!("{at}.windows[{index}].per"));
    }
}

fn breaker(breaker: &breaker::Config, at: &str, rules: &mut Rules) {
    rules.count(breaker.failure_threshold.into(), &format!("{at}.failure_threshold"), 1..=u32::MAX.into());
    rules.count(breaker.minimum_calls.into(), &format!("{at}.minimum_calls"), 1..=u32::MAX.into());
    rules.count(breaker.probes.into(), &format!("{at}.probes"), 1..=u32::MAX.into());
    rules.rate(breaker.failure_rate, &format!("{at}.failure_rate"));
    rules.rate(breaker.slow_rate, &format!("{at}.slow_rate"));
    rules.some_time(breaker.recovery_timeout, &format!("{at}.recovery_timeout"));
    rules.some_time(breaker.slow_call, &format!("{at}.slow_call"));
    let some = !breaker.failures.is_empty();
    rules.holds(some, &format!("{at}.failures"), "is empty", "write some of connect, timeout and 5xx");
}

fn nodes(nodes: &[String], key: &str, rules: &mut Rules) {
    let sound = nodes.iter().all(|node| is_node(node));
    rules.holds(
        sound,
        key,
        "has something in it that is not host:port",
        "write it like [\"host-1:5672\", \"host-2:5672\"]",
    );
}

fn prefix(prefix: &str, key: &str, rules: &mut Rules) {
    let letters = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let sound = !prefix.is_empty() && prefix.chars().all(letters);
    rules.holds(sound, key, "is empty or has other signs than letters, digits, -, _ and .", "write a short name");
}
