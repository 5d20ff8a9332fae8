//! Rules for how messages are worked on, kept and reported.

use std::time::Duration;

use super::Rules;
use crate::{
    actors::{ChatConfig, FaultsConfig},
    config::Config,
};

/// AI calls without an intent are cancelled this long before the grace ends.
const SHUTDOWN_TAIL: Duration = Duration::from_secs(5);

/// More retries than this, with doubling pauses, outlast every deadline.
const RETRIES_MAX: u64 = 20;

/// More threads than this are a slip of the pen.
const THREADS_MAX: u64 = 1024;

/// Messages of history sent with a request; beyond it no model's window is large enough.
const HISTORY_MAX: u64 = 1000;

/// What a directive of a log filter ends with.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

pub(super) fn check(config: &Config, rules: &mut Rules) {
    node(config, rules);
    chat(&config.chat, rules);
    retries(config, rules);
    keeping(config, rules);
    telemetry(config, rules);
    faults(config, rules);
}

fn node(config: &Config, rules: &mut Rules) {
    let node = &config.node;
    rules.holds(!node.roles.is_empty(), "node.roles", "is empty", "write some of ingress, api, chat, events, retry");
    rules.count(node.worker_threads as u64, "node.worker_threads", 0..=THREADS_MAX);
    rules.some_time(node.actor_time_limit, "node.actor_time_limit");
    rules.any_time(node.shutdown_grace, "node.shutdown_grace");
    let wrong = "is not longer than 5s, the time in which work is handed back";
    rules.holds(node.shutdown_grace > SHUTDOWN_TAIL, "node.shutdown_grace", wrong, "write a longer time, such as 30s");
}

fn chat(chat: &ChatConfig, rules: &mut Rules) {
    rules.any_time(chat.merge_quiet, "chat.merge_quiet");
    rules.any_time(chat.merge_cap, "chat.merge_cap");
    rules.some_time(chat.deadline, "chat.deadline");
    rules.some_time(chat.time_limit, "chat.time_limit");
    rules.some_time(chat.soft_time_limit, "chat.soft_time_limit");
    rules.any_time(chat.holding_after, "chat.holding_after");
    rules.any_time(chat.typing_after, "chat.typing_after");
    rules.count(chat.history as u64, "chat.history", 0..=HISTORY_MAX);
    let wrong = "is longer than chat.merge_cap, so that no quiet period ever ends";
    let holds = chat.merge_quiet <= chat.merge_cap;
    rules.together(holds, "chat.merge_quiet", &["chat.merge_cap"], wrong, "write a shorter time");
    let wrong = "is not shorter than chat.time_limit, the hard one";
    let holds = chat.soft_time_limit < chat.time_limit;
    rules.together(holds, "chat.soft_time_limit", &["chat.time_limit"], wrong, "write a shorter time");
    let wrong = "is not shorter than chat.deadline, so that it is never said";
    let holds = chat.holding_after < chat.deadline;
    rules.together(holds, "chat.holding_after", &["chat.deadline"], wrong, "write a shorter time, or 0s");
    let said = chat.holding_after.is_zero() || !chat.holding_message.is_empty();
    let (key, with) = ("chat.holding_message", ["chat.holding_after"]);
    rules.together(said, key, &with, "is empty, but chat.holding_after is set", "write a text");
    let no_blank = chat.handoff_phrases.iter().all(|phrase| !phrase.trim().is_empty());
    let wrong = "has an empty phrase in it, which every message contains";
    rules.holds(no_blank, "chat.handoff_phrases", wrong, "remove it");
    // OpenAI's rule for the name of a function.
    let letters = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let callable = chat.handoff_tool.len() <= 64 && chat.handoff_tool.chars().all(letters);
    let wrong = "is not the name of a tool";
    rules.holds(callable, "chat.handoff_tool", wrong, "write up to 64 letters, digits, - and _, or nothing");
}

fn retries(config: &Config, rules: &mut Rules) {
    let retry = &config.retry;
    rules.count(retry.max_retries.into(), "retry.max_retries", 0..=RETRIES_MAX);
    rules.some_time(retry.base, "retry.base");
    let grows = retry.factor.is_finite() && retry.factor >= 1.0;
    rules.holds(grows, "retry.factor", format!("{} would shorten the pauses", retry.factor), "write 1 or more");
    let wrong = format!("{} is not a share below 1", retry.jitter);
    rules.holds((0.0..1.0).contains(&retry.jitter), "retry.jitter", wrong, "write a number from 0 to 0.99");
    rules.count(config.api.max_retries.into(), "api.max_retries", 0..=RETRIES_MAX);
    let factor = config.api.backoff_factor;
    let wrong = format!("{factor} is not a number of seconds");
    rules.holds((0.0..=3600.0).contains(&factor), "api.backoff_factor", wrong, "write a number from 0 to 3600");
    rules.rate(config.api.retry_budget, "api.retry_budget");
}

fn keeping(config: &Config, rules: &mut Rules) {
    let (cache, retention) = (&config.cache, &config.retention);
    rules.some_time(cache.ttl, "cache.ttl");
    rules.count(cache.max_value, "cache.max_value", 1..=1 << 30);
    rules.some_time(retention.parked, "retention.parked");
    rules.some_time(retention.history, "retention.history");
    rules.some_time(retention.results, "retention.results");
    let holds = retention.history >= config.chat.deadline;
    let wrong = "is shorter than chat.deadline, so that a waiting message would lose its timeline";
    rules.together(holds, "retention.history", &["chat.deadline"], wrong, "write a longer time");
}

fn telemetry(config: &Config, rules: &mut Rules) {
    let telemetry = &config.telemetry;
    let levels = telemetry.log_level.split(',').map(|directive| directive.rsplit('=').next().unwrap_or(directive));
    let known = levels.map(|level| level.trim().to_lowercase()).all(|level| LEVELS.contains(&level.as_str()));
    let remedy = "write error, warn, info, debug or trace, or a filter like info,tidegate=debug";
    let wrong = format!("`{}` is no level", telemetry.log_level);
    rules.holds(known, "telemetry.log_level", wrong, remedy);
    let known = ["auto", "text", "json"].contains(&telemetry.log_format.as_str());
    let wrong = format!("`{}` is not known here", telemetry.log_format);
    rules.holds(known, "telemetry.log_format", wrong, "write auto, text or json");
    rules.rate(telemetry.sample_rate, "telemetry.sample_rate");
    rules.present(&telemetry.service_name, "telemetry.service_name", "write a name such as tidegate");
}

fn faults(config: &Config, rules: &mut Rules) {
    let faults = &config.faults;
    let chances = [("panic", faults.panic), ("error", faults.error), ("hang", faults.hang), ("block", faults.block)];
    for (name, chance) in chances {
        rules.rate(chance, &format!("faults.{name}"));
    }
    let sum: f64 = chances.iter().map(|(_, chance)| chance).sum();
    let with = ["faults.error", "faults.hang", "faults.block"];
    // A little more than 1 is what 0.1 + 0.2 + 0.7 gives.
    rules.together(sum < 1.000_001, "faults.panic", &with, "and the others add up to more than 1", "write less");
    let wanted = *faults != FaultsConfig::default();
    let holds = !wanted || config.admin.fault_injection;
    let wrong = "is set, but admin.fault_injection is off";
    rules.together(holds, "faults", &["admin.fault_injection"], wrong, "remove the section, or switch it on");
}
