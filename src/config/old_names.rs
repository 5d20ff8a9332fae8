//! The variables of the stack that Tidegate replaces, and those of OpenTelemetry.
//!
//! An old `.env.production` is used as it is: each name sets the key that means the same today. An empty variable
//! counts as unset, as it did there. Names beginning with `TIDEGATE__` win, whatever comes from the file loses.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use toml::Value;

use super::{
    address::Address,
    layers::{Layers, Path},
    problem::{Origin, Problem, Warning},
};
use crate::http::AdminConfig;

/// What to tell about old names that were taken.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) notices: Vec<String>,
    pub(super) warnings: Vec<Warning>,
}

/// How the text of an old variable is read.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Whole,
    Number,
    /// A number of seconds, for a key that holds a span of time.
    Seconds,
    Level,
}

/// Old name, key (`*` = every service), form.
const NAMES: [(&str, &str, Form); 20] = [
    ("APP_NAME", "telemetry.service_name", Form::Text),
    ("ENVIRONMENT", "telemetry.environment", Form::Text),
    ("LOG_LEVEL", "telemetry.log_level", Form::Level),
    ("TRACE_SAMPLE_RATE", "telemetry.sample_rate", Form::Number),
    ("GUNICORN_WORKERS", "node.worker_threads", Form::Whole),
    ("GUNICORN_TIMEOUT", "http.request_timeout", Form::Seconds),
    ("CACHE_TTL", "cache.ttl", Form::Seconds),
    ("RABBITMQ_USERNAME", "broker.rabbitmq.username", Form::Text),
    ("RABBITMQ_PASSWORD", "broker.rabbitmq.password", Form::Text),
    ("REDIS_PASSWORD", "state.redis.password", Form::Text),
    ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "ai.services.*.breaker.failure_threshold", Form::Whole),
    ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "ai.services.*.breaker.recovery_timeout", Form::Seconds),
    ("RATE_LIMIT_PER_MINUTE", "ai.services.*.limits.per_minute", Form::Whole),
    ("RATE_LIMIT_PER_HOUR", "ai.services.*.limits.per_hour", Form::Whole),
    ("RATE_LIMIT_BURST", "ai.services.*.limits.burst", Form::Whole),
    ("AI_SERVICE_TIMEOUT", "ai.services.*.timeout", Form::Seconds),
    ("AI_SERVICE_MAX_RETRIES", "api.max_retries", Form::Whole),
    ("AI_SERVICE_BACKOFF_FACTOR", "api.backoff_factor", Form::Number),
    ("OTEL_SERVICE_NAME", "telemetry.service_name", Form::Text),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint", Form::Text),
];

/// Each old name with the key it sets (`*` = every service), those that are read in ways of their own too.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    const APART: [(&str, &str); 9] = [
        ("DEBUG", "telemetry.log_level"),
        ("PROMETHEUS_PORT", "admin.listen"),
        ("REDIS_CLUSTER_NODES", "state.redis.nodes"),
        ("RABBITMQ_CLUSTER_NODES", "broker.rabbitmq.nodes"),
        ("RABBITMQ_URL", "broker.rabbitmq.nodes"),
        ("RABBITMQ_HEARTBEAT", "broker.rabbitmq.heartbeat"),
        ("JAEGER_AGENT_HOST", "telemetry.otlp_endpoint"),
        ("CIRCUIT_BREAKER_EXPECTED_EXCEPTION", "ai.services.*.breaker.failures"),
        ("OTEL_TRACES_SAMPLER_ARG", "telemetry.sample_rate"),
    ];
    NAMES.iter().map(|(name, key, _)| (*name, *key)).chain(APART)
}

/// Old names without a meaning today, and why.
const WITHOUT_EFFECT: [(&str, &str); 4] = [
    ("GUNICORN_THREADS", "one process serves all requests, see node.worker_threads"),
    ("GUNICORN_MAX_REQUESTS", "workers are not recycled"),
    ("REDIS_MAX_CONNECTIONS", "connections are shared, not pooled"),
    ("RABBITMQ_CONNECTION_RETRIES", "a lost connection is retried for ever"),
];

/// RabbitMQ notices a dead peer within two heartbeats; beyond a minute that is an outage of its own.
const HEARTBEAT_MAX: u64 = 60;

/// Lays the old names and OpenTelemetry's over the file, under all else; to be called last, since it asks what is there.
pub(super) fn lay(layers: &mut Layers, variables: &BTreeMap<String, String>) -> Notes {
    let set = variables.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let set = set.filter(|(_, text)| !text.trim().is_empty());
    let mut old = Old { layers, set: set.collect(), notes: Notes::default() };
    old.rabbitmq();
    old.redis();
    for (name, key, form) in NAMES {
        old.simple(name, key, form);
    }
    old.simple("OTEL_TRACES_SAMPLER_ARG", "telemetry.sample_rate", Form::Number);
    old.debug();
    old.jaeger();
    old.prometheus_port();
    old.expected_exception();
    for (name, why) in WITHOUT_EFFECT {
        if old.set.contains_key(name) {
            old.notes.notices.push(format!("{name} is accepted and has no effect: {why}"));
        }
    }
    old.notes
}

struct Old<'a> {
    layers: &'a mut Layers,
    set: BTreeMap<&'a str, &'a str>,
    notes: Notes,
}

impl Old<'_> {
    fn simple(&mut self, name: &str, key: &str, form: Form) {
        let Some(text) = self.set.get(name).copied() else { return };
        match form.read(text) {
            Ok(value) => {
                self.put(name, key, value);
            }
            Err((wrong, remedy)) => self.refuse(name, key, wrong, remedy),
        }
    }

    /// Sets a key, of every service if it says so; says whether it took effect.
    fn put(&mut self, name: &str, key: &str, value: impl Into<Value>) -> bool {
        let value = value.into();
        let origin = origin(name);
        let count = if key.contains('*') { self.layers.len(&Path::parse("ai.services")) } else { 1 };
        let mut took = false;
        for index in 0..count {
            let path = Path::parse(&key.replace('*', &index.to_string()));
            took |= self.layers.set(&path, value.clone(), &origin);
        }
        took
    }

    fn refuse(&mut self, name: &str, key: &str, wrong: &str, remedy: &str) {
        let key = key.replace(".*", "[0]");
        self.layers.problems.push(Problem::new(key, wrong, remedy).from(&origin(name)));
    }

    fn debug(&mut self) {
        let Some(text) = self.set.get("DEBUG").copied() else { return };
        let key = "telemetry.log_level";
        match text.trim().to_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => {
                self.put("DEBUG", key, "debug");
            }
            "false" | "0" | "no" | "off" => {}
            _ => self.refuse("DEBUG", key, "is neither on nor off", "write true or false"),
        }
    }

    fn jaeger(&mut self) {
        let Some(host) = self.set.get("JAEGER_AGENT_HOST").copied() else {
            if self.set.contains_key("JAEGER_AGENT_PORT") {
                self.notes.notices.push("JAEGER_AGENT_PORT is accepted and has no effect: no host is given".into());
            }
            return;
        };
        let key = "telemetry.otlp_endpoint";
        // A port in the host is the agent's too: the protocol behind it is gone.
        let Some(address) = Address::parse(host, 4318, 4318) else {
            return self.refuse("JAEGER_AGENT_HOST", key, "is not a host", "write a name or an address");
        };
        let host = address.node.rsplit_once(':').map_or("", |(host, _)| host);
        let endpoint = format!("http://{host}:4318");
        if self.put("JAEGER_AGENT_HOST", key, endpoint.as_str()) {
            self.notes.warnings.push(Warning::doubtful(format!(
                "JAEGER_AGENT_HOST: the agent's protocol is gone, traces go to {endpoint} by OTLP; \
                 set OTEL_EXPORTER_OTLP_ENDPOINT"
            )));
        }
    }

    fn prometheus_port(&mut self) {
        let Some(text) = self.set.get("PROMETHEUS_PORT").copied() else { return };
        let Ok(port) = text.trim().parse::<u16>() else {
            return self.refuse("PROMETHEUS_PORT", "admin.listen", "is not a port", "write a number from 0 to 65535");
        };
        let listen = self.layers.text(&Path::parse("admin.listen")).and_then(|text| text.parse::<SocketAddr>().ok());
        let mut listen = listen.unwrap_or(AdminConfig::default().listen);
        listen.set_port(port);
        self.put("PROMETHEUS_PORT", "admin.listen", listen.to_string());
    }

    fn expected_exception(&mut self) {
        let name = "CIRCUIT_BREAKER_EXPECTED_EXCEPTION";
        let Some(text) = self.set.get(name).copied() else { return };
        let failures: &[&str] = match text.trim().rsplit('.').next().unwrap_or(text) {
            "ConnectionError" => &["connect"],
            "Timeout" | "TimeoutError" => &["timeout"],
            "HTTPError" => &["5xx"],
            other => {
                if !["RequestException", "Exception"].contains(&other) {
                    let warning = format!("{name}: unknown exception, so connect, timeout and 5xx count as failures");
                    self.notes.warnings.push(Warning::doubtful(warning));
                }
                &["connect", "timeout", "5xx"]
            }
        };
        self.put(name, "ai.services.*.breaker.failures", failures.to_vec());
    }

    fn redis(&mut self) {
        let name = "REDIS_CLUSTER_NODES";
        let Some(addresses) = self.addresses(name, "state.redis.nodes", (6379, 6379)) else { return };
        self.put(name, "state.kind", "redis");
        self.put(name, "state.redis.nodes", nodes(&addresses));
        self.credentials(name, "state.redis", &addresses);
    }

    fn rabbitmq(&mut self) {
        for name in ["RABBITMQ_URL", "RABBITMQ_CLUSTER_NODES"] {
            let Some(addresses) = self.addresses(name, "broker.rabbitmq.nodes", (5672, 5671)) else { continue };
            self.put(name, "broker.kind", "rabbitmq");
            self.put(name, "broker.rabbitmq.nodes", nodes(&addresses));
            self.credentials(name, "broker.rabbitmq", &addresses);
            if let Some(vhost) = addresses.iter().find_map(|address| address.path.clone()) {
                self.put(name, "broker.rabbitmq.vhost", vhost);
            }
            if let Some(text) = addresses.iter().find_map(|address| address.heartbeat.clone()) {
                self.heartbeat(name, &text);
            }
        }
        if let Some(text) = self.set.get("RABBITMQ_HEARTBEAT").copied() {
            self.heartbeat("RABBITMQ_HEARTBEAT", text);
        }
    }

    fn heartbeat(&mut self, name: &str, text: &str) {
        let key = "broker.rabbitmq.heartbeat";
        let Ok(asked) = text.trim().parse::<u64>() else {
            return self.refuse(name, key, "is not a number of seconds", "write a number from 1 to 60");
        };
        // To AMQP, 0 means "none", which is longer than anything.
        let beyond = asked == 0 || asked > HEARTBEAT_MAX;
        let seconds = if beyond { HEARTBEAT_MAX } else { asked };
        if self.put(name, key, format!("{seconds}s")) && beyond {
            self.notes.warnings.push(Warning::doubtful(format!(
                "{name}: a heartbeat of {asked} s finds a dead broker too late, {HEARTBEAT_MAX} s is used"
            )));
        }
    }

    fn addresses(&mut self, name: &str, key: &str, (port, tls_port): (u16, u16)) -> Option<Vec<Address>> {
        let text = self.set.get(name)?;
        // Some wrote a list in JSON; square brackets without quotes are an IPv6 address.
        let quoted = text.trim().strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let list = quoted.filter(|inner| inner.contains(['"', '\''])).unwrap_or(text).split([',', ';']);
        let parts = list.map(|part| part.trim().trim_matches(['"', '\''])).filter(|part| !part.is_empty());
        let addresses: Option<Vec<_>> = parts.map(|part| Address::parse(part, port, tls_port)).collect();
        let addresses = addresses.filter(|addresses| !addresses.is_empty());
        if addresses.is_none() {
            self.refuse(name, key, "has something in it that is not an address", "write host:port,host:port");
        }
        addresses
    }

    fn credentials(&mut self, name: &str, section: &str, addresses: &[Address]) {
        if let Some(username) = addresses.iter().find_map(|address| address.username.clone()) {
            self.put(name, &format!("{section}.username"), username);
        }
        if let Some(password) = addresses.iter().find_map(|address| address.password.clone()) {
            self.put(name, &format!("{section}.password"), password);
        }
        if addresses.iter().any(|address| address.tls) {
            self.put(name, &format!("{section}.tls"), true);
        }
    }
}

fn nodes(addresses: &[Address]) -> Vec<String> {
    addresses.iter().map(|address| address.node.clone()).collect()
}

fn origin(name: &str) -> Origin {
    if name.starts_with("OTEL_") { Origin::OtelVariable(name.into()) } else { Origin::OldVariable(name.into()) }
}

impl Form {
    fn read(self, text: &str) -> Result<Value, (&'static str, &'static str)> {
        let exact = text;
        let text = text.trim();
        match self {
            // A password may begin or end with a space.
            Self::Text => Ok(exact.into()),
            Self::Whole => {
                let number: Result<i64, _> = text.parse();
                number.map(Value::from).map_err(|_| ("is not a whole number", "write a whole number"))
            }
            Self::Number => {
                let number: Result<f64, _> = text.parse();
                number.map(Value::from).map_err(|_| ("is not a number", "write a number like 0.5"))
            }
            Self::Seconds => {
                let span = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                let span = span.map(|span| Value::from(humantime::format_duration(span).to_string()));
                span.ok_or(("is not a number of seconds", "write a number like 30"))
            }
            Self::Level => match text.to_lowercase().as_str() {
                "notset" => Ok("trace".into()),
                "warning" => Ok("warn".into()),
                "critical" | "fatal" => Ok("error".into()),
                level => Ok(level.into()),
            },
        }
    }
}
