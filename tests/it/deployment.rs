//! What is shipped beside the binary speaks of this binary: every metric, key and port that `deploy/` and `docs/` name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tidegate::config::Config;

use crate::support::{Scene, command::tidegate};

/// Beginnings of the names of our metrics.
const OURS: [&str; 4] = ["tidegate_", "http_request", "ai_service_", "process_"];

/// What looks like one and is none: fields of our mark in Zendesk, names of NGINX's upstreams.
const NONE: [&str; 9] = [
    "tidegate_kind",
    "tidegate_key",
    "tidegate_part",
    "tidegate_ids",
    "tidegate_handoff",
    "tidegate_summary",
    "tidegate_webhooks",
    "tidegate_api",
    "process_",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder, by path.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("it can be read").path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

/// The texts of `deploy/` and `docs/`, with their places.
fn texts() -> Vec<(PathBuf, String)> {
    let paths = ["deploy", "docs"].into_iter().flat_map(|folder| files(&root().join(folder)));
    paths.filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?))).collect()
}

/// The words of a text that are made of these characters.
fn words(text: &str, is_part: impl Fn(char) -> bool) -> BTreeSet<&str> {
    text.split(|c| !is_part(c)).filter(|word| !word.is_empty()).collect()
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_is_named_exists() {
    let scene = Scene::with("").await;
    let metrics = scene.daemon.metrics().await;
    let known: BTreeSet<&str> = metrics
        .lines()
        .flat_map(|line| match line.strip_prefix("# TYPE ") {
            Some(family) => family.split(' ').next(),
            None => line.split(['{', ' ']).next().filter(|_| !line.starts_with('#')),
        })
        .collect();
    let mut named = 0;
    for (path, text) in texts() {
        // Names with a colon are recorded by rules, which Prometheus checks.
        for word in words(&text, |c| is_of_name(c) || c == ':') {
            let is_ours = OURS.iter().any(|begins| word.starts_with(begins)) && !word.contains(':');
            if is_ours && !NONE.contains(&word) {
                named += 1;
                assert!(known.contains(word), "{} names the metric {word}, which does not exist", path.display());
            }
        }
    }
    assert!(named > 100, "only {named} names were found");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_variable_that_is_named_sets_a_key() {
    let mut named = BTreeSet::new();
    for (path, text) in texts() {
        for word in words(&text, is_of_name) {
            let is_whole = word.starts_with("TIDEGATE__") && !word.ends_with("__") && word != "TIDEGATE__SECTION__KEY";
            if is_whole {
                named.insert((word.to_owned(), path.clone()));
            }
        }
    }
    assert!(named.len() > 20, "only {} names were found", named.len());
    const NONE_SUCH: &str = "TIDEGATE__NODE__NO_SUCH_KEY";
    let all = named.iter().map(|(name, _)| (name.as_str(), "x")).chain([(NONE_SUCH, "x")]);
    let all: Vec<(&str, &str)> = all.collect();
    // All problems are told at once; a value of the wrong kind is none here.
    let said = tidegate(&["run", "--print-config"], &all).await;
    let unknown: Vec<&str> = said.err.lines().filter(|line| line.contains("names no key")).collect();
    assert!(unknown.len() == 1 && unknown[0].contains("no_such_key"), "{unknown:?}\n{named:?}");
}

/// Whether the configuration has such a key, as far as its lists tell.
fn has_key(of: &toml::Value, path: &[&str]) -> bool {
    match (of, path) {
        (_, []) => true,
        (toml::Value::Table(table), [key, rest @ ..]) => table.get(*key).is_some_and(|below| has_key(below, rest)),
        // Of a list the first element is looked into; what is empty by default says nothing.
        (toml::Value::Array(list), _) => list.first().is_none_or(|first| has_key(first, path)),
        _ => false,
    }
}

#[test]
fn every_key_that_a_guide_names_exists() {
    let config = toml::Value::try_from(Config::default()).expect("a configuration is TOML");
    let sections: BTreeSet<&str> = config.as_table().expect("it has sections").keys().map(String::as_str).collect();
    let mut named = 0;
    for (path, text) in texts().iter().filter(|(path, _)| path.extension().is_some_and(|kind| kind == "md")) {
        for quoted in text.split('`').skip(1).step_by(2) {
            let key = quoted.split([' ', '=', '[']).next().unwrap_or_default();
            let parts: Vec<&str> = key.split('.').collect();
            let is_key = parts.len() > 1
                && sections.contains(parts[0])
                && key.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.')
                && !["toml", "md", "yml", "yaml", "rs", "db", "json"].contains(parts.last().unwrap_or(&""));
            if is_key {
                named += 1;
                assert!(has_key(&config, &parts), "{} names the key {key}, which does not exist", path.display());
            }
        }
    }
    assert!(named > 50, "only {named} keys were found");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_configuration_that_is_shipped_can_be_used() {
    let secrets = [
        ("TIDEGATE__ADMIN__TOKENS__0__NAME", "test"),
        ("TIDEGATE__ADMIN__TOKENS__0__TOKEN", "token"),
        ("TIDEGATE__ADMIN__TOKENS__0__ROLE", "operator"),
        ("TIDEGATE__AI__SERVICES__0__BASE_URL", "https://ai.example/v1"),
    ];
    let shipped: Vec<PathBuf> = files(&root().join("deploy"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "toml"))
        .collect();
    assert!(shipped.len() >= 3, "{shipped:?}");
    for path in shipped {
        let said = tidegate(&["run", "--print-config", "--config", path.to_str().expect("it is text")], &secrets).await;
        assert_eq!(said.code, 0, "{}: {}", path.display(), said.err);
        let table: toml::Table = said.out.parse().expect("it is TOML");
        let port = |section: &str| {
            let listen = table[section]["listen"].as_str().expect("it listens");
            listen.rsplit_once(':').expect("it has a port").1.to_owned()
        };
        assert_eq!((port("http"), port("admin")), ("8000".into(), "9090".into()), "{}", path.display());
    }
}

#[test]
fn every_port_that_is_shipped_is_one_that_something_listens_on() {
    let config = Config::default();
    let ours = [config.http.listen.port().to_string(), config.admin.listen.port().to_string()];
    let mut found = BTreeSet::new();
    for (path, text) in texts() {
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            // Names in YAML: what the container of a node listens on has the name of its listener.
            for name in ["name: http,", "name: admin,"] {
                let Some((_, port)) = line.split_once("containerPort:").filter(|_| line.contains(name)) else {
                    continue;
                };
                let port: String = port.trim().chars().take_while(char::is_ascii_digit).collect();
                assert!(ours.contains(&port), "{}: {line}", path.display());
                found.insert(port);
            }
        }
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ours, "the container's ports");
}
