//! What fits together and what does not.

use super::*;

/// Text, and the keys that are refused.
const SENSELESS: [(&str, &[&str]); 76] = [
    ("node.roles = []", &["node.roles"]),
    ("node.shutdown_grace = '5s'", &["node.shutdown_grace"]),
    ("node.actor_time_limit = '0s'", &["node.actor_time_limit"]),
    ("node.worker_threads = 100000", &["node.worker_threads"]),
    ("http.listen = '127.0.0.1:9090'", &["admin.listen"]),
    ("http.listen = '0.0.0.0:9090'", &["admin.listen"]),
    ("http.request_timeout = '0s'", &["http.request_timeout", "broker.spool.confirm_within"]),
    ("http.webhook_body_limit = '0B'", &["http.webhook_body_limit"]),
    ("http.api_body_limit = '8GiB'", &["http.api_body_limit"]),
    ("admin.listen = '0.0.0.0:9090'", &["admin.tokens"]),
    ("admin.tokens = [{}]", &["admin.tokens[0].name", "admin.tokens[0].token"]),
    ("admin.tokens = [{name='a',token='t'},{name='a',token='u'}]", &["admin.tokens[1].name"]),
    ("api.keys = [{}]", &["api.keys[0].name", "api.keys[0].key"]),
    ("api.keys = [{name='a',key='k'},{name='b',key='k'}]", &["api.keys[1].key"]),
    // The same once more: the SHA-256 of `k`.
    (
        "api.keys = [{name='a',key='k'},{name='b',key='sha256:8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a'}]",
        &["api.keys[1].key"],
    ),
    (
        "api.keys = [{name='a',key='SHA256:8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a'}]",
        &["api.keys[0].key"],
    ),
    ("api.keys = [{name='a',key='sha256:abc'}]", &["api.keys[0].key"]),
    ("api.max_retries = 100", &["api.max_retries"]),
    ("api.retry_budget = 1.5", &["api.retry_budget"]),
    ("api.backoff_factor = -1", &["api.backoff_factor"]),
    ("zendesk.api_url = 'api.smooch.io'", &["zendesk.api_url"]),
    ("zendesk.timeout = '0s'", &["zendesk.timeout"]),
    ("zendesk.handoff_to = ''", &["zendesk.handoff_to"]),
    ("broker.embedded.path = ''", &["broker.embedded.path"]),
    ("broker.spool.path = 'data'", &["broker.spool.path"]),
    ("broker.spool.max_messages = 0", &["broker.spool.max_messages"]),
    ("broker.embedded.max_bytes = '1KiB'", &["broker.embedded.max_bytes"]),
    ("broker.spool.confirm_within = '1m'", &["broker.spool.confirm_within"]),
    ("broker.rabbitmq.nodes = []", &["broker.rabbitmq.nodes"]),
    ("broker.rabbitmq.nodes = ['h']", &["broker.rabbitmq.nodes"]),
    ("broker.rabbitmq.heartbeat = '10m'", &["broker.rabbitmq.heartbeat"]),
    ("broker.rabbitmq.partitions = 0", &["broker.rabbitmq.partitions"]),
    ("broker.rabbitmq.prefetch = 3", &["broker.rabbitmq.prefetch"]),
    ("broker.rabbitmq.prefix = 'a b'", &["broker.rabbitmq.prefix"]),
    ("broker.rabbitmq = { tls = true, client_cert = 'c' }", &["broker.rabbitmq.client_key"]),
    ("broker.rabbitmq.management_url = 'host:15672'", &["broker.rabbitmq.management_url"]),
    ("broker.rabbitmq.ca_file = 'c'", &["broker.rabbitmq.tls"]),
    ("state.redis.nodes = []", &["state.redis.nodes"]),
    ("state.redis.cache_nodes = ['redis://h:1']", &["state.redis.cache_nodes"]),
    ("state.redis.mode = 'sentinel'", &["state.redis.sentinel_master"]),
    ("ai.services = []", &["ai.services"]),
    ("ai.services = [{ name = '' }]", &["ai.services[0].name"]),
    ("ai.services = [{}, {}]", &["ai.services[1].name"]),
    ("ai.services = [{ name = 'zendesk' }]", &["ai.services[0].name"]),
    ("ai.services = [{ name = 'key:shop' }]", &["ai.services[0].name"]),
    ("ai.shares = { chat = 0, api = 1001 }", &["ai.shares.api", "ai.shares.chat"]),
    ("ai.services = [{ base_url = 'host/v1' }]", &["ai.services[0].base_url"]),
    ("ai.services = [{ concurrency = 0 }]", &["ai.services[0].concurrency"]),
    ("ai.services = [{ timeout = '240s' }]", &["ai.services[0].timeout"]),
    ("ai.services = [{ provider = 'cohere' }]", &["ai.services[0].provider"]),
    ("ai.services = [{ provider = 'azure', api_version = '' }]", &["ai.services[0].api_version"]),
    ("ai.services = [{ max_output_tokens = 0 }]", &["ai.services[0].max_output_tokens"]),
    ("ai.services = [{ models = { a = '' } }]", &["ai.services[0].models"]),
    ("ai.services = [{ models = { a = 1 } }]", &["ai.services[0].models"]),
    (
        "ai.services = [{ price = { input = -0.1, cached_input = -1, output = nan } }]",
        &["ai.services[0].price.input", "ai.services[0].price.cached_input", "ai.services[0].price.output"],
    ),
    ("ai.services = [{ price = { input = 1, cached_input = 2 } }]", &["ai.services[0].price.cached_input"]),
    (
        "ai.services = [{ models = { ours = 'theirs' }, prices = [{ model = 'theirs', input = -1 }, { model = 'ours' }, { model = 'theirs' }] }]",
        &["ai.services[0].prices[0].input", "ai.services[0].prices[1].model", "ai.services[0].prices[2].model"],
    ),
    (
        "ai.services = [{ limits.windows = [{ requests = 0, per = '0s' }] }]",
        &["ai.services[0].limits.windows[0].requests", "ai.services[0].limits.windows[0].per"],
    ),
    (
        "ai.services = [{ breaker = { failure_threshold = 0, failures = [] } }]",
        &["ai.services[0].breaker.failure_threshold", "ai.services[0].breaker.failures"],
    ),
    (
        "ai.services = [{ breaker = { failure_rate = 1.1, slow_rate = nan } }]",
        &["ai.services[0].breaker.failure_rate", "ai.services[0].breaker.slow_rate"],
    ),
    ("chat.merge_quiet = '5s'", &["chat.merge_quiet"]),
    ("chat.soft_time_limit = '300s'", &["chat.soft_time_limit"]),
    ("chat = { holding_after = '2h', holding_message = 'm' }", &["chat.holding_after"]),
    ("chat.holding_after = '1m'", &["chat.holding_message"]),
    ("chat.handoff_phrases = [' ']", &["chat.handoff_phrases"]),
    ("chat.handoff_tool = 'hand over'", &["chat.handoff_tool"]),
    ("chat.deadline = '1000years'", &["chat.deadline", "retention.history"]),
    ("retry = { factor = 0.5, jitter = 1 }", &["retry.factor", "retry.jitter"]),
    ("retry.factor = inf", &["retry.factor"]),
    ("cache = { ttl = '0s', max_value = '0B' }", &["cache.ttl", "cache.max_value"]),
    ("retention.history = '59m'", &["retention.history"]),
    (
        "telemetry = { sample_rate = -0.1, otlp_endpoint = 'jaeger:4317' }",
        &["telemetry.otlp_endpoint", "telemetry.sample_rate"],
    ),
    ("telemetry = { log_level = 'loud', log_format = 'xml' }", &["telemetry.log_format", "telemetry.log_level"]),
    ("telemetry.log_level = 'info,tidegate'", &["telemetry.log_level"]),
    ("faults.kill_at = 'after_post'", &["faults"]),
    (
        "admin.fault_injection = true\nfaults = { panic = 0.6, hang = 0.6, block = 2 }",
        &["faults.block", "faults.panic"],
    ),
];

#[test]
fn what_makes_no_sense_is_refused_and_nothing_else() {
    for (text, expected) in SENSELESS {
        let refused = loading(text, &[], "").unwrap_err();
        let mut keys: Vec<_> = refused.0.iter().map(|problem| problem.key.as_str()).collect();
        let mut expected = expected.to_vec();
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected, "{text}");
    }
}

#[test]
fn what_makes_sense_is_accepted() {
    let cases = [
        "chat.merge_quiet = '0s'\nchat.merge_cap = '0s'",
        "chat.handoff_tool = ''",
        "retry = { factor = 1, jitter = 0, max_retries = 0 }",
        "http.listen = '127.0.0.1:0'\nadmin.listen = '127.0.0.1:0'",
        "http.listen = '0.0.0.0:80'\nadmin.listen = '[::1]:9090'",
        "admin = { listen = '0.0.0.0:9090', tokens = [{ name = 'a', token = 't', role = 'operator' }] }",
        "admin.fault_injection = true\nfaults = { panic = 0.1, error = 0.2, hang = 0.7, kill_at = 'after_post' }",
        "state.redis = { mode = 'sentinel', sentinel_master = 'm', on_loss = 'wait' }",
        "broker.rabbitmq = { tls = true, ca_file = 'a', client_cert = 'c', client_key = 'k' }",
        "telemetry = { sample_rate = 1, otlp_endpoint = 'https://collector:4318', log_level = 'WARN,tidegate=trace' }",
        "api.keys = [{ name = 'a', key = 'k', limits = { burst = 0 } }]",
        "ai.services = [{ provider = 'anthropic', api_version = '', price = { input = 3, output = 0.5 } }]",
        "[[ai.services]]\nprovider = 'azure'\n[ai.services.models]\n'gpt-4o' = 'x'\n'a.b/c:d' = 'y'",
    ];
    for text in cases {
        assert_eq!(loading(text, &[], "").map(|_| ()), Ok(()), "{text}");
    }
}

#[test]
fn a_rule_is_silent_about_a_value_that_was_refused_before() {
    let lines = refusal("[chat]\ntime_limit = '9'\nsoft_time_limit = '400s'", &[]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("chat.time_limit: `9` is not a span of time"), "{lines:?}");
}

#[test]
fn a_rule_over_two_keys_names_who_set_them() {
    let lines = refusal("[chat]\nsoft_time_limit = '200s'", &[("TIDEGATE__CHAT__TIME_LIMIT", "100s")]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("chat.soft_time_limit: ") && lines[0].ends_with("(set by TIDEGATE__CHAT__TIME_LIMIT)")
    );
}

fn offering(more: &str) -> String {
    let services = "ai.services = [{ name = 'a', model = 'x', models = { y = 'theirs' } }]";
    format!("{services}\napi.keys = [{{ name = 'k', key = 'k', {more} }}]")
}

fn two_services(request_timeout: &str) -> String {
    let services = "ai.services = [{ name = 'a' }, { name = 'b' }]\napi.keys = [{ name = 'k', key = 'k' }]";
    format!("http.request_timeout = '{request_timeout}'\n{services}")
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    let warned = |text: &str, key: &str| {
        loading(text, &[], "").unwrap().warnings.iter().any(|warning| warning.text.starts_with(key))
    };
    let cases = [
        ("", "zendesk.webhook_secrets", true),
        ("zendesk.webhook_secrets = ['']", "zendesk.webhook_secrets", true),
        ("zendesk.webhook_secrets = ['s']", "zendesk.webhook_secrets", false),
        ("node.roles = ['chat']", "zendesk.webhook_secrets", false),
        ("", "zendesk.key_id", true),
        ("zendesk.key_id = 'k'", "zendesk.key_id", false),
        ("node.roles = ['ingress']", "zendesk.key_id", false),
        ("", "zendesk.key_secret", false),
        ("zendesk.key_id = 'k'", "zendesk.key_secret", true),
        ("", "ai.services[0].base_url", true),
        ("ai.services = [{ base_url = 'http://a' }]", "ai.services[0].base_url", false),
        ("ai.services = [{ base_url = 'http://a' }]", "ai.services[0].model", true),
        ("node.roles = ['ingress']", "ai.services[0].base_url", false),
        ("broker.kind = 'rabbitmq'", "broker.kind is rabbitmq", true),
        ("broker.kind = 'rabbitmq'\nstate.kind = 'redis'", "broker.kind", false),
        ("state.kind = 'redis'", "broker.kind is embedded", true),
        ("broker.kind = 'rabbitmq'", "broker.rabbitmq.password", true),
        ("admin.fault_injection = true", "admin.fault_injection", true),
        ("node.roles = ['api']", "api.keys is empty", true),
        ("node.roles = ['api']\napi.keys = [{ name = 'k', key = 'k' }]", "api.keys", false),
        ("", "api.keys", false),
        (&offering("models = ['x', 'y', 'z']"), "api.keys[0].models has `z`", true),
        (&offering("models = ['x', 'y']"), "api.keys[0].models", false),
        ("ai.services = [{ api_key = '${KEY}' }]", "ai.services[0].api_key begins with ${", true),
        ("api.keys = [{ name = 'k', key = '${KEY}' }]", "api.keys[0].key begins with ${", true),
        ("zendesk.support_webhook_secrets = ['${S}']", "zendesk.support_webhook_secrets[0] begins with ${", true),
        ("zendesk.webhook_secrets = ['s', '${S}']", "zendesk.webhook_secrets[1] begins with ${", true),
        (&two_services("30s"), "http.request_timeout is 30s: on /v1 it leaves ai.services[0] 15s of its 30s", true),
        (&two_services("45s"), "http.request_timeout", false),
        (
            "ai.services = [{ limits = { per_minute = 10000 } }]",
            "ai.services[0].limits.burst is 20: it lets 3922 calls a minute through, of 5000",
            true,
        ),
        ("ai.services = [{ limits = { per_minute = 10000, burst = 26 } }]", "ai.services[0].limits", false),
        (
            "node.roles = ['ingress']\nai.services = [{ limits = { per_minute = 10000 } }]",
            "ai.services[0].limits",
            false,
        ),
        (
            "api.keys = [{ name = 'a', key = 'k', limits = { per_minute = 100, burst = 1 } }]",
            "api.keys[0].limits.burst is 1: it lets 66.7",
            true,
        ),
    ];
    for (text, key, expected) in cases {
        assert_eq!(warned(text, key), expected, "{text}: {key}");
    }
}
