//! What a node can start with, though it is hardly meant.

use humantime::format_duration;

use crate::{
    actors::Service,
    broker,
    config::{Config, Role, Warning},
    domain::secret::Secret,
    guard::{
        VALIDITY,
        limiter::{Limits, SlowBurst},
    },
    state,
};

const SEVERAL_NODES: &str = "with several nodes use RabbitMQ and Redis; with one all is well";

/// Returns what is missing or hardly meant, each with what follows from it.
pub(in crate::config) fn warnings(config: &Config) -> Vec<Warning> {
    let mut warnings = zendesk(config);
    warnings.extend(stores(config));
    warnings.extend(trials(config));
    warnings.extend(services(config));
    warnings.extend(gateway(config));
    warnings.extend(left_alone(config));
    warnings.extend(slow_bursts(config).map(Warning::doubtful));
    warnings.extend(shared_time(config).map(Warning::doubtful));
    warnings
}

fn zendesk(config: &Config) -> Vec<Warning> {
    let zendesk = &config.zendesk;
    let every_webhook_is_refused =
        config.node.does(Role::Ingress) && zendesk.webhook_secrets.iter().all(|secret| secret.is_empty());
    let rules = [
        (every_webhook_is_refused, "zendesk.webhook_secrets is empty: every webhook is refused"),
        (
            (config.node.does(Role::Chat) || config.node.does(Role::Retry)) && zendesk.key_id.is_empty(),
            "zendesk.key_id is empty: no reply can be posted, messages wait",
        ),
        (
            !zendesk.key_id.is_empty() && zendesk.key_secret.is_empty(),
            "zendesk.key_secret is empty: Zendesk will refuse zendesk.key_id",
        ),
    ];
    applying(rules, Warning::missing)
}

/// What is switched on for a while.
fn trials(config: &Config) -> Vec<Warning> {
    let shadow = "chat.shadow is on: answers are recorded and nothing is posted";
    let faults = "admin.fault_injection is on: an operator can make actors fail";
    let shadows = config.node.does(Role::Chat) && config.chat.shadow;
    applying([(shadows, shadow), (config.admin.fault_injection, faults)], Warning::doubtful)
}

/// The queue and the state: a pair that fits one node only is no mistake where there is one, and whether a user without
/// a password is let in RabbitMQ tells itself.
fn stores(config: &Config) -> Vec<Warning> {
    let rabbitmq = config.broker.kind == broker::Kind::Rabbitmq;
    let redis = config.state.kind == state::Kind::Redis;
    let without_password =
        rabbitmq && config.broker.rabbitmq.password.is_empty() && config.broker.rabbitmq.client_cert.is_empty();
    let password = "broker.rabbitmq.password is empty: RabbitMQ will refuse the connection";
    let mut warnings = applying([(without_password, password)], |text| {
        Warning::doubtful(text).with_remedy("set it in the file or as TIDEGATE__BROKER__RABBITMQ__PASSWORD")
    });
    let chats = config.node.does(Role::Chat);
    let pairs = [
        (
            chats && rabbitmq && !redis,
            "broker.kind is rabbitmq and state.kind is local: this is for one node with the role chat",
        ),
        (
            chats && redis && !rabbitmq,
            "broker.kind is embedded and state.kind is redis: with several nodes, replies are in order per node only",
        ),
    ];
    warnings.extend(applying(pairs, |text| Warning::doubtful(text).with_remedy(SEVERAL_NODES)));
    warnings
}

fn services(config: &Config) -> Vec<Warning> {
    let asks = config.node.does(Role::Chat) || config.node.does(Role::Api);
    let services = config.ai.services.iter().enumerate().filter(|_| asks);
    let warning = |(index, service): (usize, &Service)| {
        let whose = format!("ai.services[{index}]");
        if service.base_url.is_empty() {
            let text = "base_url is empty: the service is not asked; without any, messages wait";
            Some(Warning::missing(format!("{whose}.{text}")))
        } else if service.model.is_empty() {
            Some(Warning::missing(format!("{whose}.model is empty: most services refuse such a request")))
        } else {
            None
        }
    };
    services.filter_map(warning).collect()
}

/// Who may use `/v1`, and what for.
fn gateway(config: &Config) -> Vec<Warning> {
    if !config.node.does(Role::Api) {
        return Vec::new();
    }
    let keys = &config.api.keys;
    let is_all_there_is = keys.is_empty() && !config.node.does(Role::Chat) && !config.node.does(Role::Ingress);
    let mut warnings = applying([(is_all_there_is, "api.keys is empty: everyone is refused on /v1")], Warning::missing);
    let offered = |model: &String| {
        let mut services = config.ai.services.iter();
        services.any(|service| service.model == *model || service.models.contains_key(model))
    };
    for (index, key) in keys.iter().enumerate() {
        for model in key.models.iter().filter(|model| !offered(model)) {
            let text = format!("api.keys[{index}].models has `{model}`, which no service offers as model or in models");
            warnings.push(Warning::doubtful(text));
        }
    }
    warnings
}

/// Secrets that were to be put in by somebody else.
fn left_alone<'a>(config: &'a Config) -> Vec<Warning> {
    let zendesk = &config.zendesk;
    let several = |list: &str, field: &str, secrets: &mut dyn Iterator<Item = &'a Secret>| {
        let named = secrets.enumerate();
        named.map(|(index, secret)| (format!("{list}[{index}]{field}"), secret)).collect::<Vec<_>>()
    };
    let (keys, tokens) = (config.api.keys.iter(), config.admin.tokens.iter());
    let services = config.ai.services.iter();
    let secrets = [
        vec![
            ("zendesk.key_secret".to_owned(), &zendesk.key_secret),
            ("broker.rabbitmq.password".to_owned(), &config.broker.rabbitmq.password),
            ("state.redis.password".to_owned(), &config.state.redis.password),
        ],
        several("zendesk.webhook_secrets", "", &mut zendesk.webhook_secrets.iter()),
        several("zendesk.support_webhook_secrets", "", &mut zendesk.support_webhook_secrets.iter()),
        several("admin.tokens", ".token", &mut tokens.map(|token| &token.token)),
        several("api.keys", ".key", &mut keys.map(|key| &key.key)),
        several("ai.services", ".api_key", &mut services.map(|service| &service.api_key)),
    ];
    let literal = secrets.into_iter().flatten().filter(|(_, secret)| secret.expose().starts_with("${"));
    let warning = |(key, _): (String, &Secret)| {
        Warning::doubtful(format!("{key} begins with ${{: nothing is put in here, it is taken as it stands"))
            .with_remedy("leave it out and set the variable TIDEGATE__SECTION__KEY")
    };
    literal.map(warning).collect()
}

fn applying<const N: usize>(rules: [(bool, &'static str); N], warning: fn(&'static str) -> Warning) -> Vec<Warning> {
    rules.into_iter().filter(|(applies, _)| *applies).map(|(_, text)| warning(text)).collect()
}

/// On the synchronous road a service has less than its time, so that the next one can still answer.
fn shared_time(config: &Config) -> Option<String> {
    let [first, next, ..] = &config.ai.services[..] else { return None };
    let request = config.http.request_timeout;
    let enough = first.timeout + next.timeout / 2;
    let shares = config.node.does(Role::Api) && config.api.stand_in && !config.api.keys.is_empty();
    let left = request.saturating_sub(next.timeout.min(request) / 2);
    (shares && left < first.timeout).then(|| {
        let [request, left, all, enough] = [request, left, first.timeout, enough].map(format_duration);
        format!(
            "http.request_timeout is {request}: on /v1 it leaves ai.services[0] {left} of its {all}, so that the next service has time where it hangs; write {enough} or more if its whole answers take longer"
        )
    })
}

fn slow_bursts(config: &Config) -> impl Iterator<Item = String> {
    let asks = config.node.does(Role::Chat) || config.node.does(Role::Api);
    let services = config.ai.services.iter().filter(move |_| asks);
    let keys = config.api.keys.iter().filter(|_| config.node.does(Role::Api));
    let services = services.enumerate().map(|(index, service)| (format!("ai.services[{index}]"), &service.limits));
    let keys = keys.enumerate().map(|(index, key)| (format!("api.keys[{index}]"), &key.limits));
    services.chain(keys).filter_map(|(whose, limits)| slow_burst(&whose, limits))
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
