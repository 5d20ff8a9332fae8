//! What a node can start with, though it is hardly meant.

use humantime::format_duration;

use crate::{
    broker,
    config::{Config, Role},
    guard::{
        VALIDITY,
        limiter::{Limits, SlowBurst},
    },
    state,
};

/// Returns what is missing or hardly meant, each with what follows from it.
pub(in crate::config) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |applies: bool, text: &str| {
        if applies {
            warnings.push(text.to_owned());
        }
    };
    let does = |role: Role| config.node.roles.contains(&role);
    let zendesk = &config.zendesk;
    warn(
        does(Role::Ingress) && zendesk.webhook_secrets.iter().all(|secret| secret.is_empty()),
        "zendesk.webhook_secrets is empty: every webhook is refused",
    );
    warn(
        (does(Role::Chat) || does(Role::Retry)) && zendesk.key_id.is_empty(),
        "zendesk.key_id is empty: no reply can be posted, messages wait",
    );
    warn(
        !zendesk.key_id.is_empty() && zendesk.key_secret.is_empty(),
        "zendesk.key_secret is empty: Zendesk will refuse zendesk.key_id",
    );
    let rabbitmq = config.broker.kind == broker::Kind::Rabbitmq;
    let redis = config.state.kind == state::Kind::Redis;
    warn(
        rabbitmq && config.broker.rabbitmq.password.is_empty() && config.broker.rabbitmq.client_cert.is_empty(),
        "broker.rabbitmq.password is empty: RabbitMQ will refuse the connection",
    );
    warn(
        rabbitmq && !redis && does(Role::Chat),
        "broker.kind is rabbitmq and state.kind is local: this is for one node with the role chat",
    );
    warn(
        redis && !rabbitmq && does(Role::Chat),
        "broker.kind is embedded and state.kind is redis: with several nodes, replies are in order per node only",
    );
    warn(does(Role::Chat) && config.chat.shadow, "chat.shadow is on: answers are recorded and nothing is posted");
    warn(config.admin.fault_injection, "admin.fault_injection is on: an operator can make actors fail");
    if does(Role::Chat) || does(Role::Api) {
        for (index, service) in config.ai.services.iter().enumerate() {
            let absent = service.base_url.is_empty();
            warn(
                absent,
                &format!(
                    "ai.services[{index}].base_url is empty: the service is not asked; without any, messages wait"
                ),
            );
            let nameless = !absent && service.model.is_empty();
            warn(nameless, &format!("ai.services[{index}].model is empty: most services refuse such a request"));
        }
    }
    warnings.extend(slow_bursts(config));
    warnings.extend(shared_time(config));
    warnings
}

/// On the synchronous road a service has less than its time, so that the next one can still answer.
fn shared_time(config: &Config) -> Option<String> {
    let [first, next, ..] = &config.ai.services[..] else { return None };
    let request = config.http.request_timeout;
    let enough = first.timeout + next.timeout / 2;
    let shares = config.node.roles.contains(&Role::Api) && config.api.stand_in && !config.api.keys.is_empty();
    let left = request.saturating_sub(next.timeout.min(request) / 2);
    (shares && left < first.timeout).then(|| {
        let [request, left, all, enough] = [request, left, first.timeout, enough].map(format_duration);
        format!(
            "http.request_timeout is {request}: on /v1 it leaves ai.services[0] {left} of its {all}, so that the next service has time where it hangs; write {enough} or more if its whole answers take longer"
        )
    })
}

fn slow_bursts(config: &Config) -> Vec<String> {
    let does = |role: Role| config.node.roles.contains(&role);
    let services = config.ai.services.iter().filter(|_| does(Role::Chat) || does(Role::Api));
    let keys = config.api.keys.iter().filter(|_| does(Role::Api));
    let services = services.enumerate().map(|(index, service)| (format!("ai.services[{index}]"), &service.limits));
    let keys = keys.enumerate().map(|(index, key)| (format!("api.keys[{index}]"), &key.limits));
    services.chain(keys).filter_map(|(whose, limits)| slow_burst(&whose, limits)).collect()
}

/// A burst that holds calls up before the other limits do.
fn slow_burst(whose: &str, limits: &Limits) -> Option<String> {
    let SlowBurst { enough, per_minute, others_per_minute } = limits.slow_burst(VALIDITY)?;
    let burst = limits.burst;
    let rate = |rate: f64| if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") };
    let (through, allowed) = (rate(per_minute), rate(others_per_minute));
    Some(format!(
        "{whose}.limits.burst is {burst}: it lets {through} calls a minute through, of {allowed} that the other limits allow; write {enough} or more"
    ))
}
