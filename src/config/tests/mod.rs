//! The configuration as a whole.

mod loading;
mod old_stack;
mod reference;
mod rules;

use toml::{Table, Value};

use super::*;

/// The documented default.
const DOCUMENTED: &str = include_str!("../../../config.toml");

fn file(text: &str) -> Option<File> {
    Some(File { name: "test.toml".into(), text: text.into() })
}

/// Loads with these sources; flags are TOML.
fn loading(text: &str, environment: &[(&str, &str)], flags: &str) -> Result<Loaded, Refused> {
    load(file(text), environment.iter().copied(), flags.parse().unwrap())
}

/// Loads and returns the lines of the refusal.
fn refusal(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let refused = loading(text, environment, "").unwrap_err();
    refused.to_string().lines().map(str::to_owned).collect()
}

fn keys(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Table(table) => table.iter().for_each(|(key, child)| keys(child, &format!("{at}.{key}"), found)),
        Value::Array(list) => list.iter().for_each(|child| keys(child, at, found)),
        _ => found.push(at.into()),
    }
    found.push(at.into());
}

#[test]
fn the_documented_default_is_the_default() {
    assert_eq!(toml::from_str::<Config>(DOCUMENTED).unwrap(), Config::default());
    assert_eq!(loading(DOCUMENTED, &[], "").unwrap().config, Config::default());
}

#[test]
fn every_key_is_documented_with_a_comment() {
    let (mut expected, mut documented) = (Vec::new(), Vec::new());
    keys(&Value::try_from(Config::default()).unwrap(), "", &mut expected);
    keys(&Value::Table(DOCUMENTED.parse::<Table>().unwrap()), "", &mut documented);
    assert!(expected.len() > 120, "{expected:?}");
    for key in expected {
        assert!(documented.contains(&key), "{key}");
    }
    for line in DOCUMENTED.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')) {
        let speaks_for_itself = ["username", "password", "tls", "enabled"].iter().any(|key| line.starts_with(key));
        assert!(speaks_for_itself || line.contains(" # "), "{line}");
    }
}

#[test]
fn the_effective_configuration_is_read_back_as_it_was() {
    let config = loading("[api]\nkeys = [{ name = 'a', key = '' }]", &[], "");
    assert!(config.is_err(), "an API key without a key is refused");
    let text = "[chat]\nmerge_quiet = '1s 250ms'\n[http]\nwebhook_body_limit = '1500KiB'\nlisten = '[::1]:1'\n\
                [[ai.services]]\nname = 'a'\nlimits = { windows = [{ requests = 1, per = '10s' }] }\n\
                [[ai.services]]\nname = 'b'\nprovider = 'azure'\nmodels = { 'x.y' = 'z' }\nprice = { input = 2.5 }\n[retention]\nparked = '365d'";
    let config = loading(text, &[], "").unwrap().config;
    assert_ne!(config, Config::default());
    assert_eq!(toml::from_str::<Config>(&config.effective()).unwrap(), config);
}

/// Every key that holds a secret, with `@` for it.
const SECRETS: &str = "
    [admin]\ntokens = [{ name = 'a', token = @ }]
    [api]\nkeys = [{ name = 'a', key = @ }]
    [zendesk]\nwebhook_secrets = [@]\nkey_secret = @\nsupport_webhook_secrets = [@]
    [broker.rabbitmq]\npassword = @
    [state.redis]\npassword = @
    [[ai.services]]\napi_key = @";

#[test]
fn a_secret_is_never_printed() {
    let loaded = loading(&SECRETS.replace('@', "'hunter'"), &[], "").unwrap();
    assert_eq!(loaded.config.zendesk.webhook_secrets[0].expose(), "hunter");
    for shown in [format!("{loaded:?}"), format!("{:#?}", loaded.config), loaded.config.effective()] {
        assert!(!shown.contains("hunter"), "{shown}");
        assert_eq!(shown.matches("***").count(), 8, "{shown}");
    }
    assert!(!Config::default().effective().contains("***"));
}

#[test]
fn a_secret_of_the_wrong_type_is_never_repeated() {
    for wrong in ["4711", "47.11", "[4711]", "{ hunter = 4711 }", "['hunter']", "1979-05-27"] {
        let lines = refusal(&SECRETS.replace('@', wrong), &[]);
        assert_eq!(lines.len(), 8, "{lines:?}");
        for line in lines {
            assert!(["47", "hunter", "1979"].iter().all(|part| !line.contains(part)), "{line}");
        }
    }
}

#[test]
fn a_secret_beside_an_error_is_never_repeated() {
    let broken = refusal("[zendesk]\nkey_secret = 'hunter4' oops", &[]);
    assert_eq!(broken.len(), 1);
    assert!(broken[0].contains("line 2") && !broken[0].contains("hunter"), "{broken:?}");
    let masked = refusal("[zendesk]\nkey_secret = '***'", &[]);
    assert!(masked[0].contains("zendesk.key_secret: is `***`"), "{masked:?}");
}

const NO_VARIABLES: [(&str, &str); 0] = [];

#[test]
fn a_secret_in_an_old_address_is_never_repeated() {
    for (name, text) in [
        ("RABBITMQ_URL", "http://user:hunter1@host"),
        ("RABBITMQ_URL", "amqp://user:hunter1@host:port"),
        ("REDIS_CLUSTER_NODES", "redis://:hunter1@host,ftp://:hunter2@host"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://user:hunter1@host"),
        ("TIDEGATE__ZENDESK__API_URL", "ftp://user:hunter1@host"),
        ("TIDEGATE__BROKER__RABBITMQ__NODES", "user:hunter1@host:1"),
        ("TIDEGATE__ZENDESK__WEBHOOK_SECRETS", "[\"hunter1\", 2]"),
        ("TIDEGATE__ZENDESK__SECRET", "hunter1"),
    ] {
        let refused = refusal("", &[(name, text)]);
        assert!(!refused.is_empty() && refused.iter().all(|line| !line.contains("hunter")), "{refused:?}");
        assert!(refused.iter().all(|line| line.contains(name)), "{refused:?}");
    }
}
