//! The old stack's environment and OpenTelemetry's.

use super::*;

/// What a production environment of the old stack looks like.
const PRODUCTION: [(&str, &str); 30] = [
    ("APP_NAME", "ai-chat"),
    ("ENVIRONMENT", "production"),
    ("DEBUG", "false"),
    ("LOG_LEVEL", "WARNING"),
    ("GUNICORN_WORKERS", "8"),
    ("GUNICORN_TIMEOUT", "120"),
    ("GUNICORN_THREADS", "4"),
    ("GUNICORN_MAX_REQUESTS", "1000"),
    ("REDIS_CLUSTER_NODES", "redis-1:6379,redis-2:6380"),
    ("REDIS_PASSWORD", "hunter1"),
    ("REDIS_MAX_CONNECTIONS", "100"),
    ("CACHE_TTL", "1800"),
    ("RABBITMQ_CLUSTER_NODES", "rabbit-1:5672,rabbit-2"),
    ("RABBITMQ_USERNAME", "chat"),
    ("RABBITMQ_PASSWORD", " hunter2"),
    ("RABBITMQ_HEARTBEAT", "600"),
    ("RABBITMQ_CONNECTION_RETRIES", "3"),
    ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "7"),
    ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "90"),
    ("CIRCUIT_BREAKER_EXPECTED_EXCEPTION", "RequestException"),
    ("RATE_LIMIT_PER_MINUTE", "200"),
    ("RATE_LIMIT_PER_HOUR", "9000"),
    ("RATE_LIMIT_BURST", "40"),
    ("PROMETHEUS_PORT", "9100"),
    ("JAEGER_AGENT_HOST", "jaeger"),
    ("JAEGER_AGENT_PORT", "6831"),
    ("TRACE_SAMPLE_RATE", "0.25"),
    ("AI_SERVICE_TIMEOUT", "45"),
    ("AI_SERVICE_MAX_RETRIES", "3"),
    ("AI_SERVICE_BACKOFF_FACTOR", "2"),
];

/// The values that `PRODUCTION` stands for, as a file says them.
const MEANING: &str = "
    [telemetry]\nservice_name = 'ai-chat'\nenvironment = 'production'\nlog_level = 'warn'\nsample_rate = 0.25
    otlp_endpoint = 'http://jaeger:4318'
    [node]\nworker_threads = 8
    [http]\nrequest_timeout = '120s'
    [state]\nkind = 'redis'
    [state.redis]\nnodes = ['redis-1:6379', 'redis-2:6380']\npassword = 'hunter1'
    [cache]\nttl = '30m'
    [broker]\nkind = 'rabbitmq'
    [broker.rabbitmq]\nnodes = ['rabbit-1:5672', 'rabbit-2:5672']\nusername = 'chat'\npassword = ' hunter2'\nheartbeat = '60s'
    [[ai.services]]\ntimeout = '45s'
    [ai.services.breaker]\nfailure_threshold = 7\nrecovery_timeout = '90s'\nfailures = ['connect', 'timeout', '5xx']
    [ai.services.limits]\nper_minute = 200\nper_hour = 9000\nburst = 40
    [admin]\nlisten = '127.0.0.1:9100'
    [api]\nmax_retries = 3\nbackoff_factor = 2";

#[test]
fn an_old_production_environment_is_used_as_it_is() {
    let loaded = loading("", &PRODUCTION, "").unwrap();
    assert_eq!(loaded.config, loading(MEANING, &[], "").unwrap().config);
    assert_eq!(loaded.origins["cache.ttl"], Origin::OldVariable("CACHE_TTL".into()));
}

#[test]
fn what_has_no_effect_or_another_meaning_is_said_once() {
    let loaded = loading("", &PRODUCTION, "").unwrap();
    for name in ["GUNICORN_THREADS", "GUNICORN_MAX_REQUESTS", "REDIS_MAX_CONNECTIONS", "RABBITMQ_CONNECTION_RETRIES"] {
        let said = loaded.notices.iter().filter(|notice| notice.starts_with(&format!("{name} is accepted")));
        assert_eq!(said.count(), 1, "{name}");
    }
    assert_eq!(loaded.notices.len(), 4, "{:?}", loaded.notices);
    for name in ["RABBITMQ_HEARTBEAT", "JAEGER_AGENT_HOST"] {
        let said = loaded.warnings.iter().filter(|warning| warning.text.starts_with(name));
        assert_eq!(said.count(), 1, "{name}");
    }
}

#[test]
fn each_old_name_changes_something_by_itself() {
    let without_effect = ["DEBUG", "GUNICORN_THREADS", "GUNICORN_MAX_REQUESTS", "REDIS_MAX_CONNECTIONS"];
    let without_effect = [&without_effect[..], &["RABBITMQ_CONNECTION_RETRIES", "JAEGER_AGENT_PORT"]].concat();
    for (name, text) in PRODUCTION {
        let text = if name == "CIRCUIT_BREAKER_EXPECTED_EXCEPTION" { "requests.Timeout" } else { text };
        let loaded = loading("", &[(name, text)], "").unwrap();
        assert_eq!(loaded.config == Config::default(), without_effect.contains(&name), "{name}");
        let empty = loading("", &[(name, " ")], "").unwrap();
        assert_eq!(empty.config, Config::default(), "an empty {name} counts as unset");
        assert_eq!(empty.notices.len(), 0, "{name}");
    }
}

#[test]
fn old_names_lose_to_new_ones_and_win_over_the_file() {
    let text = "[[ai.services]]\nname = 'a'\ntimeout = '1s'\n[[ai.services]]\nname = 'b'\ntimeout = '2s'";
    let environment = [("AI_SERVICE_TIMEOUT", "3"), ("TIDEGATE__AI__SERVICES__1__TIMEOUT", "4s")];
    let services = loading(text, &environment, "").unwrap().config.ai.services;
    assert_eq!(services.iter().map(|service| service.timeout.as_secs()).collect::<Vec<_>>(), [3, 4]);
    let own = [("AI_SERVICE_TIMEOUT", "3"), ("TIDEGATE__AI__SERVICES__1__NAME", "second")];
    let services = loading("", &own, "").unwrap().config.ai.services;
    assert_eq!(services.iter().map(|service| service.timeout.as_secs()).collect::<Vec<_>>(), [3, 3]);
    let loaded = loading("", &[("JAEGER_AGENT_HOST", "old"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://new:4318")], "");
    let loaded = loaded.unwrap();
    assert_eq!(loaded.config.telemetry.otlp_endpoint, "http://new:4318");
    assert!(loaded.warnings.iter().all(|warning| !warning.text.contains("JAEGER")), "{:?}", loaded.warnings);
}

#[test]
fn levels_of_python_have_a_counterpart() {
    let cases = [
        (("LOG_LEVEL", "DEBUG"), "debug"),
        (("LOG_LEVEL", "info"), "info"),
        (("LOG_LEVEL", "WARNING"), "warn"),
        (("LOG_LEVEL", "ERROR"), "error"),
        (("LOG_LEVEL", "CRITICAL"), "error"),
        (("DEBUG", "True"), "debug"),
        (("DEBUG", "0"), "error"),
    ];
    for (variable, expected) in cases {
        let level = loading("[telemetry]\nlog_level = 'error'", &[variable], "").unwrap().config.telemetry.log_level;
        assert_eq!(level, expected, "{variable:?}");
    }
    let both = loading("", &[("DEBUG", "1"), ("LOG_LEVEL", "ERROR")], "").unwrap();
    assert_eq!(both.config.telemetry.log_level, "debug");
}

#[test]
fn the_port_of_prometheus_keeps_the_address_of_the_file() {
    let text = "[admin]\nlisten = '0.0.0.0:1'\ntokens = [{ name = 'a', token = 't' }]";
    let config = loading(text, &[("PROMETHEUS_PORT", "9100")], "").unwrap().config;
    assert_eq!(config.admin.listen.to_string(), "0.0.0.0:9100");
    let own = [("PROMETHEUS_PORT", "9100"), ("TIDEGATE__ADMIN__LISTEN", "127.0.0.1:2")];
    assert_eq!(loading(text, &own, "").unwrap().config.admin.listen.to_string(), "127.0.0.1:2");
}

#[test]
fn an_address_of_rabbitmq_brings_everything_with_it() {
    let url = ("RABBITMQ_URL", "amqps://us%40er:hunter%31@rabbit-1/chat?heartbeat=20");
    let rabbitmq = loading("", &[url], "").unwrap().config.broker;
    assert_eq!(rabbitmq.kind, broker::Kind::Rabbitmq);
    let rabbitmq = rabbitmq.rabbitmq;
    assert_eq!(rabbitmq.nodes, ["rabbit-1:5671"]);
    assert_eq!((rabbitmq.username.as_str(), rabbitmq.password.expose()), ("us@er", "hunter1"));
    assert_eq!((rabbitmq.vhost.as_str(), rabbitmq.tls, rabbitmq.heartbeat.as_secs()), ("chat", true, 20));
    let more = [url, ("RABBITMQ_CLUSTER_NODES", "a:1, b:2"), ("RABBITMQ_USERNAME", "x"), ("RABBITMQ_HEARTBEAT", "5")];
    let rabbitmq = loading("", &more, "").unwrap().config.broker.rabbitmq;
    assert_eq!((rabbitmq.nodes, rabbitmq.username.as_str()), (vec!["a:1".into(), "b:2".into()], "x"));
    assert_eq!((rabbitmq.password.expose(), rabbitmq.heartbeat.as_secs()), ("hunter1", 5));
    for (path, vhost) in [("", "/"), ("/", "/"), ("//", "/"), ("/%2F", "/"), ("/%2Fv", "/v")] {
        let url = format!("amqp://h{path}");
        let rabbitmq = loading("", &[("RABBITMQ_URL", &url)], "").unwrap().config.broker.rabbitmq;
        assert_eq!(rabbitmq.vhost, vhost, "{url}");
    }
}

#[test]
fn lists_of_nodes_are_taken_in_all_their_forms() {
    for text in ["a:1,b:6379", " a:1 , b ", "redis://a:1;redis://b/0", "[\"a:1\", \"b\"]", "redis://a:1,b:6379,"] {
        let redis = loading("", &[("REDIS_CLUSTER_NODES", text)], "").unwrap().config.state.redis;
        assert_eq!(
            (redis.mode, redis.nodes),
            (crate::state::RedisMode::Auto, vec!["a:1".into(), "b:6379".into()]),
            "{text}"
        );
    }
    let redis = loading("", &[("REDIS_CLUSTER_NODES", "rediss://:hunter1@a,[::1]")], "").unwrap().config.state.redis;
    assert_eq!((redis.nodes, redis.tls), (vec!["a:6379".into(), "[::1]:6379".into()], true));
    assert_eq!(redis.password.expose(), "hunter1");
}

#[test]
fn heartbeats_are_capped() {
    for (text, seconds) in [("30", 30), ("60", 60), ("61", 60), ("0", 60)] {
        let loaded = loading("", &[("RABBITMQ_HEARTBEAT", text)], "").unwrap();
        assert_eq!(loaded.config.broker.rabbitmq.heartbeat.as_secs(), seconds, "{text}");
        let warned = loaded.warnings.iter().any(|warning| warning.text.starts_with("RABBITMQ_HEARTBEAT"));
        assert_eq!(warned, !["30", "60"].contains(&text), "{text}");
    }
}

#[test]
fn exceptions_of_python_have_a_counterpart() {
    use crate::guard::breaker::FailureKind::{Connect, ServerError, Timeout};
    let cases = [
        ("RequestException", vec![Connect, Timeout, ServerError], false),
        ("requests.exceptions.ConnectionError", vec![Connect], false),
        ("Timeout", vec![Timeout], false),
        ("HTTPError", vec![ServerError], false),
        ("MyError", vec![Connect, Timeout, ServerError], true),
    ];
    for (text, failures, warned) in cases {
        let loaded = loading("", &[("CIRCUIT_BREAKER_EXPECTED_EXCEPTION", text)], "").unwrap();
        assert_eq!(loaded.config.ai.services[0].breaker.failures, failures, "{text}");
        assert_eq!(loaded.warnings.iter().any(|warning| warning.text.starts_with("CIRCUIT")), warned, "{text}");
    }
}

#[test]
fn a_wrong_old_value_is_refused_under_both_names() {
    let cases = [
        ("GUNICORN_WORKERS", "many", "node.worker_threads: "),
        ("GUNICORN_WORKERS", "-1", "node.worker_threads: "),
        ("CACHE_TTL", "-1", "cache.ttl: "),
        ("CACHE_TTL", "0", "cache.ttl: 0s is out of range"),
        ("TRACE_SAMPLE_RATE", "2", "telemetry.sample_rate: "),
        ("OTEL_TRACES_SAMPLER_ARG", "x", "telemetry.sample_rate: "),
        ("RATE_LIMIT_BURST", "1.5", "ai.services[0].limits.burst: "),
        ("PROMETHEUS_PORT", "99999", "admin.listen: "),
        ("RABBITMQ_HEARTBEAT", "often", "broker.rabbitmq.heartbeat: "),
        ("DEBUG", "maybe", "telemetry.log_level: "),
        ("LOG_LEVEL", "LOUD", "telemetry.log_level: "),
        ("JAEGER_AGENT_HOST", "a b", "telemetry.otlp_endpoint: "),
        ("REDIS_CLUSTER_NODES", ",", "state.redis.nodes: "),
    ];
    for (name, text, expected) in cases {
        let lines = refusal("", &[(name, text)]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with(expected) && lines[0].ends_with(&format!("(set by {name})")), "{lines:?}");
    }
}
