//! What a node can start with, though it is hardly meant.

use crate::{
    broker,
    config::{Config, Role},
    state, telemetry,
};

/// Returns what was set and has no effect in this version.
pub(in crate::config) fn notices(config: &Config) -> Vec<String> {
    let (set, default) = (&config.telemetry, telemetry::Config::default());
    let traces = "no traces are sent in this version";
    let keys = [
        ("otlp_endpoint", set.otlp_endpoint != default.otlp_endpoint, traces),
        ("sample_rate", set.sample_rate != default.sample_rate, traces),
        ("service_name", set.service_name != default.service_name, "logs carry no name in this version"),
        ("environment", set.environment != default.environment, "logs carry no name in this version"),
    ];
    let without_effect = keys.into_iter().filter(|(_, is_set, _)| *is_set);
    without_effect.map(|(key, _, why)| format!("telemetry.{key} is accepted and has no effect: {why}")).collect()
}

/// Returns what is missing for a node that does all it is told to; until then messages wait and callers are refused.
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
    warnings
}
