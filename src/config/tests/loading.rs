//! Layers, names and types.

use std::time::Duration;

use super::*;

#[test]
fn a_later_layer_wins() {
    let (text, old) = ("[telemetry]\nservice_name = 'file'", ("APP_NAME", "old"));
    let (otel, own) = (("OTEL_SERVICE_NAME", "otel"), ("TIDEGATE__TELEMETRY__SERVICE_NAME", "own"));
    let flags = "telemetry.service_name = 'flag'";
    let cases = [
        ("", &[][..], "", "tidegate", "default"),
        (text, &[], "", "file", "test.toml"),
        (text, &[old], "", "old", "APP_NAME"),
        (text, &[old, otel], "", "otel", "OTEL_SERVICE_NAME"),
        (text, &[own, old, otel], "", "own", "TIDEGATE__TELEMETRY__SERVICE_NAME"),
        (text, &[own, old, otel], flags, "flag", "command line"),
    ];
    for (text, environment, flags, expected, origin) in cases {
        let loaded = loading(text, environment, flags).unwrap();
        assert_eq!(loaded.config.telemetry.service_name, expected);
        assert_eq!(loaded.origins["telemetry.service_name"].to_string(), origin);
    }
}

#[test]
fn origins_name_every_key() {
    let loaded = loading("[[ai.services]]\nname = 'a'\n[[ai.services]]\nname = 'b'", &[], "").unwrap();
    assert_eq!(loaded.origins["ai.services[1].name"], Origin::File("test.toml".into()));
    assert_eq!(loaded.origins["ai.services[1].limits.burst"], Origin::Default);
    assert_eq!(loaded.origins["node.roles"], Origin::Default);
    assert!(loaded.origins.len() > 130, "{}", loaded.origins.len());
}

#[test]
fn a_variable_takes_the_type_of_its_key() {
    let environment = [
        ("TIDEGATE__HTTP__LISTEN", "127.0.0.1:1"),
        ("TIDEGATE__NODE__WORKER_THREADS", "3"),
        ("TIDEGATE__NODE__ROLES", "chat, api"),
        ("TIDEGATE__CHAT__SHADOW", "true"),
        ("TIDEGATE__CHAT__DEADLINE", "2h"),
        ("TIDEGATE__CHAT__SYSTEM_PROMPT", ""),
        ("TIDEGATE__CHAT__FAILURE_MESSAGE", "12"),
        ("TIDEGATE__RETRY__FACTOR", "3"),
        ("TIDEGATE__ZENDESK__WEBHOOK_SECRETS", "[\"a,b\", \"c\"]"),
        ("TIDEGATE__ZENDESK__KEY_SECRET", "4711"),
        ("TIDEGATE__API__KEYS", "[{ name = \"a\", key = \"k\" }]"),
        ("TIDEGATE__AI__SERVICES__0__MODELS", "{ \"GPT-4o\" = \"llama3\" }"),
        ("TIDEGATE__AI__SERVICES__0__PRICE__INPUT", "2"),
    ];
    let config = loading("", &environment, "").unwrap().config;
    assert_eq!(config.http.listen.port(), 1);
    assert_eq!(config.node.worker_threads, 3);
    assert_eq!(config.node.roles, [Role::Chat, Role::Api]);
    assert!(config.chat.shadow);
    assert_eq!(config.chat.deadline, Duration::from_secs(7200));
    assert_eq!(config.chat.system_prompt, "");
    assert_eq!(config.chat.failure_message, "12");
    assert_eq!(config.retry.factor, 3.0);
    assert_eq!(config.zendesk.webhook_secrets[0].expose(), "a,b");
    assert_eq!(config.zendesk.key_secret.expose(), "4711");
    assert_eq!(config.api.keys[0].key.expose(), "k");
    assert_eq!(config.ai.services[0].models["GPT-4o"], "llama3");
    assert_eq!((config.ai.services[0].price.input, config.ai.services[0].price.output), (2.0, 0.0));
}

#[test]
fn names_of_the_operators_own_are_one_value() {
    let text = "[[ai.services]]\nmodels = { 'gpt-4o' = 'a', b = 'c' }";
    let loaded = loading(text, &[], "").unwrap();
    assert_eq!(loaded.config.ai.services[0].models.len(), 2);
    assert_eq!(loaded.origins["ai.services[0].models"], Origin::File("test.toml".into()));
    let other = [("TIDEGATE__AI__SERVICES__0__MODELS", "{ d = \"e\" }")];
    let models = loading(text, &other, "").unwrap().config.ai.services[0].models.clone();
    assert_eq!(models.into_iter().collect::<Vec<_>>(), [("d".to_owned(), "e".to_owned())]);
}

#[test]
fn a_number_in_a_variable_names_an_element_of_a_list() {
    let environment = [
        ("TIDEGATE__AI__SERVICES__1__NAME", "second"),
        ("TIDEGATE__AI__SERVICES__1__LIMITS__BURST", "7"),
        ("TIDEGATE__AI__SERVICES__0__BASE_URL", "http://a"),
        ("TIDEGATE__ADMIN__TOKENS__0__NAME", "ada"),
        ("TIDEGATE__ADMIN__TOKENS__0__TOKEN", "t"),
        ("TIDEGATE__API__KEYS__0__NAME", "shop"),
        ("TIDEGATE__API__KEYS__0__KEY", "k"),
        ("TIDEGATE__API__KEYS__0__LIMITS__WINDOWS__0__REQUESTS", "5"),
        ("TIDEGATE__API__KEYS__0__LIMITS__WINDOWS__0__PER", "10s"),
    ];
    let config = loading("", &environment, "").unwrap().config;
    assert_eq!(config.ai.services.len(), 2);
    assert_eq!((config.ai.services[0].name.as_str(), config.ai.services[0].base_url.as_str()), ("primary", "http://a"));
    assert_eq!((config.ai.services[1].name.as_str(), config.ai.services[1].limits.burst), ("second", 7));
    assert_eq!(config.ai.services[1].limits.per_minute, 100);
    assert_eq!(config.admin.tokens[0].name, "ada");
    assert_eq!(config.api.keys[0].limits.burst, 0);
    assert_eq!(config.api.keys[0].limits.windows[0].per, Duration::from_secs(10));
}

#[test]
fn ten_elements_are_taken_in_the_order_of_their_numbers() {
    let names: Vec<_> = (0..12).map(|index| format!("TIDEGATE__AI__SERVICES__{index}__NAME")).collect();
    let environment: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let config = loading("", &environment, "").unwrap().config;
    assert_eq!(config.ai.services.len(), 12);
    assert!(config.ai.services[11].name.ends_with("__11__NAME"));
}

#[test]
fn a_variable_changes_one_element_of_the_file_and_a_whole_list_replaces_it() {
    let text = "[[ai.services]]\nname = 'a'\nmodel = 'm'\n[[ai.services]]\nname = 'b'";
    let element = [("TIDEGATE__AI__SERVICES__0__BASE_URL", "http://a")];
    let services = loading(text, &element, "").unwrap().config.ai.services;
    assert_eq!(services.len(), 2);
    assert_eq!((services[0].model.as_str(), services[0].base_url.as_str()), ("m", "http://a"));
    let whole = [("TIDEGATE__AI__SERVICES", "[{ name = \"c\" }]"), element[0]];
    let services = loading(text, &whole, "").unwrap().config.ai.services;
    assert_eq!(services.len(), 1);
    assert_eq!((services[0].name.as_str(), services[0].model.as_str()), ("c", ""));
    assert_eq!(services[0].base_url, "http://a");
    let services = loading(text, &whole, "[[ai.services]]\nname = 'd'").unwrap().config.ai.services;
    assert_eq!((services.len(), services[0].name.as_str(), services[0].base_url.as_str()), (1, "d", ""));
}

#[test]
fn an_element_without_keys_is_an_element() {
    let services = loading("[[ai.services]]\n", &[], "").unwrap().config.ai.services;
    assert_eq!(services, Config::default().ai.services);
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = "[chat]\ndeadline = 30\nmerge_quit = '1s'\nsoft_time_limit = '400s'\n[broker]\nkind = 'kafka'\n\
                [http]\nlisten = 'localhost'\n[broker.rabbitmq]\nprefetch = 70000\n[nodes]\n[telemetry]\nsample_rate = 2\n\
                [[ai.services]]\nurl = 'http://a'\n[[ai.services]]\nlimits = { burst = -1 }\n[retry]\njitter = 'some'";
    let environment = [
        ("TIDEGATE__CACHE__TTL", "soon"),
        ("TIDEGATE__CACHE__TTTL", "1s"),
        ("TIDEGATE__AI__SERVICES__7__NAME", "far"),
        ("TIDEGATE__ZENDESK__WEBHOOK_SECRETS__0", "a"),
        ("CACHE_TTL", "soon"),
    ];
    let expected = [
        "ai.services[0].url: is not a key; write one of api_key, api_version, base_url, breaker, concurrency, images, limits, max_output_tokens, model, models, name, price, prices, provider, timeout (set by test.toml)",
        "ai.services[1].limits.burst: is out of range; write a whole number from 0 to 4294967295 (set by test.toml)",
        "ai.services[1].name: is the same as ai.services[0].name; write another one",
        "ai.services[7].name: leaves a gap in the list before it; number the elements from 0 without gaps (set by TIDEGATE__AI__SERVICES__7__NAME)",
        "broker.kind: `kafka` is not known here; write `embedded` or `rabbitmq` (set by test.toml)",
        "broker.rabbitmq.prefetch: is out of range; write a whole number from 0 to 65535 (set by test.toml)",
        "cache.ttl: `soon` is not a span of time; write it like 800ms, 30s or 1h (set by TIDEGATE__CACHE__TTL)",
        "cache.ttl: is not a number of seconds; write a number like 30 (set by CACHE_TTL)",
        "chat.deadline: is a whole number; write a string in quotes, like \"1h\" (set by test.toml)",
        "chat.merge_quit: is not a key; write one of deadline, failure_message, handoff_phrases, handoff_tool, history, holding_after, holding_message, merge_cap, merge_quiet, shadow, soft_time_limit, system_prompt, time_limit, typing_after (set by test.toml)",
        "chat.soft_time_limit: is not shorter than chat.time_limit, the hard one; write a shorter time (set by test.toml)",
        "http.listen: `localhost` is not an address with a port; write it like 127.0.0.1:8000 or [::1]:8000 (set by test.toml)",
        "nodes: is not a key; write one of admin, ai, api, broker, cache, chat, faults, http, node, retention, retry, state, telemetry, zendesk (set by test.toml)",
        "retry.jitter: is a string; write a number (set by test.toml)",
        "telemetry.sample_rate: 2 is not a share; write a number from 0 to 1 (set by test.toml)",
        "TIDEGATE__CACHE__TTTL: names no key (`cache.tttl`); write TIDEGATE__SECTION__KEY, with a number for each element of a list of sections",
        "TIDEGATE__ZENDESK__WEBHOOK_SECRETS__0: names no key (`zendesk.webhook_secrets[0]`); write TIDEGATE__SECTION__KEY, with a number for each element of a list of sections",
    ];
    let mut lines = refusal(text, &environment);
    lines.sort_by_key(|line| line.to_lowercase());
    let mut expected = expected.map(str::to_owned);
    expected.sort_by_key(|line| line.to_lowercase());
    assert_eq!(lines, expected);
}

#[test]
fn a_file_that_is_not_toml_does_not_hide_the_variables() {
    let lines = refusal("[http]\nlisten = \n", &[("TIDEGATE__CACHE__TTL", "soon")]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("line 2: this is not TOML"), "{lines:?}");
}

#[test]
fn wrong_types_of_whole_sections_are_refused() {
    let cases = [
        ("chat = 1", "chat: is a whole number; write a section"),
        ("[ai.services]\nname = 'a'", "ai.services: is a section; write a list of sections"),
        ("ai.services = ['a']", "ai.services[0]: is a string; write a section"),
        ("node.roles = 'chat'", "node.roles: is a string; write a list of strings"),
        ("node.roles = [1]", "node.roles: has a whole number in it; write strings"),
        ("node.roles = ['cook']", "node.roles: `cook` is not known here; write one of `ingress`"),
        ("http.listen = { a = 1 }", "http.listen: is a section; write a string"),
        ("chat.deadline = 1979-05-27", "chat.deadline: is a date; write a string"),
        ("chat.shadow = 'yes'", "chat.shadow: is a string; write true or false"),
        ("chat.history = -1", "chat.history: is out of range; write a whole number from 0 up"),
        (
            "[[ai.services]]\nlimits.windows = [{ requests = 1 }]",
            "ai.services.limits.windows: missing field `per`; write it",
        ),
    ];
    for (text, expected) in cases {
        let lines = refusal(text, &[]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with(expected), "{lines:?}");
    }
}

#[test]
fn names_of_variables_are_taken_in_any_case_and_must_name_a_key() {
    let loaded = loading("", &[("TIDEGATE__cache__TTL", "2h"), ("TIDEGATE_PORT", "tcp://1"), ("PATH", "/bin")], "");
    assert_eq!(loaded.unwrap().config.cache.ttl, Duration::from_secs(7200));
    for name in
        ["TIDEGATE__", "TIDEGATE__CACHE__", "TIDEGATE__CACHE__TTL__X", "TIDEGATE__0", "TIDEGATE__AI__SERVICES__X"]
    {
        let lines = refusal("", &[(name, "1")]);
        assert!(lines.len() == 1 && lines[0].starts_with(&format!("{name}: names no key")), "{lines:?}");
    }
    let section = refusal("", &[("TIDEGATE__CACHE", "1h")]);
    assert!(section[0].starts_with("cache: is a string; write a section"), "{section:?}");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_refused_only_if_it_is_ours() {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};
    let bad = OsString::from_vec(vec![0xff]);
    let other = [(OsString::from("OTHER"), bad.clone())];
    assert!(load(None, other, Table::new()).is_ok());
    let ours = [(OsString::from("TIDEGATE__NODE__NAME"), bad)];
    let refused = load(None, ours, Table::new()).unwrap_err().to_string();
    assert_eq!(refused, "TIDEGATE__NODE__NAME: is not UTF-8; write text in UTF-8");
}

#[test]
fn a_file_is_read_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tidegate.toml");
    assert!(File::read(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound));
    std::fs::write(&path, "[node]\nname = 'a'").unwrap();
    let loaded = load(Some(File::read(&path).unwrap()), NO_VARIABLES, Table::new()).unwrap();
    assert_eq!(loaded.config.node.name, "a");
    assert_eq!(loaded.origins["node.name"], Origin::File(path.display().to_string()));
}
