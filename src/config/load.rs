//! Loading: reads the sources, lays them over each other and judges the result.

use std::{collections::BTreeMap, ffi::OsString, io, path::Path as FilePath, time::Duration};

use toml::{Table, Value};

use super::{
    Config,
    check::{self, Finding},
    layers::{Layers, Path},
    old_names,
    problem::{Origin, Problem, Refused, Warning},
    schema::Schema,
};
use crate::{
    client::ModelPrice,
    guard::limiter::WindowLimit,
    http::{AdminToken, ApiKey},
};

/// Starts the name of each variable that sets a key.
const PREFIX: &str = "TIDEGATE__";

/// A configuration file that was read; its text has secrets in it, so it cannot be printed.
#[derive(Clone)]
pub struct File {
    /// Name for messages.
    pub name: String,
    /// Its text, TOML.
    pub text: String,
}

impl File {
    /// Reads a file; the error is the system's.
    pub fn read(path: &FilePath) -> io::Result<Self> {
        Ok(Self { name: path.display().to_string(), text: std::fs::read_to_string(path)? })
    }
}

/// A configuration that makes sense, and what to say about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective values.
    pub config: Config,
    /// Who set each key, such as `ai.services[0].timeout`.
    pub origins: BTreeMap<String, Origin>,
    /// What was accepted and has no effect; for the log, once.
    pub notices: Vec<String>,
    /// What the node can start with but is hardly meant; for the log, once.
    pub warnings: Vec<Warning>,
}

/// Loads the configuration: defaults, then `file`, then `environment`, then `flags`.
///
/// `environment` is usually `std::env::vars_os()`. The error lists everything that is wrong.
pub fn load<N, V>(
    file: Option<File>,
    environment: impl IntoIterator<Item = (N, V)>,
    flags: Table,
) -> Result<Loaded, Refused>
where
    N: Into<OsString>,
    V: Into<OsString>,
{
    let mut layers = Layers::new(schema());
    if let Some(file) = file {
        lay_file(&mut layers, file);
    }
    let variables = variables(environment, &mut layers.problems);
    lay_variables(&mut layers, &variables);
    layers.lay(flags, &Origin::Flag);
    let mut notes = old_names::lay(&mut layers, &variables);

    let config = layers.config();
    judge(&mut layers, check::problems(&config));
    if !layers.problems.is_empty() {
        return Err(Refused(layers.problems));
    }
    notes.warnings.extend(check::warnings(&config));
    let origins = layers.all_origins(&value(&config));
    Ok(Loaded { config, origins, notices: notes.notices, warnings: notes.warnings })
}

/// Adds what does not fit together to what was refused, but not what only follows from it.
fn judge(layers: &mut Layers, findings: Vec<Finding>) {
    let broken: Vec<String> = layers.problems.iter().map(|problem| problem.key.clone()).collect();
    for Finding { problem, with } in findings {
        let follows = broken.iter().any(|key| *key == problem.key || with.contains(key));
        if !follows {
            let setters = std::iter::once(&problem.key).chain(&with).map(|key| layers.origin(key));
            let origin = setters.max_by_key(Origin::rank).unwrap_or_default();
            layers.problems.push(problem.from(&origin));
        }
    }
}

fn lay_file(layers: &mut Layers, file: File) {
    let origin = Origin::File(file.name);
    match file.text.parse::<Table>() {
        Ok(table) => layers.lay(table, &origin),
        Err(error) => {
            // The error's own text repeats the line, and with it perhaps a secret.
            let line =
                error.span().map(|span| file.text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
            let place = line.map_or_else(String::new, |line| format!("line {line}: "));
            let wrong = format!("{place}this is not TOML: {}", error.message());
            layers.problems.push(Problem::new("", wrong, "correct the line").from(&origin));
        }
    }
}

fn variables<N: Into<OsString>, V: Into<OsString>>(
    environment: impl IntoIterator<Item = (N, V)>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, text) in environment {
        let Ok(name) = name.into().into_string() else { continue };
        match text.into().into_string() {
            Ok(text) => {
                variables.insert(name, text);
            }
            Err(_) if name.starts_with(PREFIX) => {
                problems.push(Problem::new(name, "is not UTF-8", "write text in UTF-8"));
            }
            Err(_) => {}
        }
    }
    variables
}

/// Lays the variables `TIDEGATE__...`, whole sections before their parts and elements in their order.
fn lay_variables(layers: &mut Layers, variables: &BTreeMap<String, String>) {
    let ours = variables.iter().filter_map(|(name, text)| {
        let path = Path::of(name.strip_prefix(PREFIX)?.split("__"));
        Some((path, name, text))
    });
    let mut ours: Vec<_> = ours.collect();
    ours.sort();
    for (path, name, text) in ours {
        let origin = Origin::Variable(name.clone());
        let known = layers.lay_text(&path, text, &origin);
        if !known {
            let wrong = format!("names no key (`{path}`)");
            let remedy = "write TIDEGATE__SECTION__KEY, with a number for each element of a list of sections";
            layers.problems.push(Problem::new(name, wrong, remedy));
        }
    }
}

/// Learns the keys from a default configuration with one element in each list of sections.
fn schema() -> Schema {
    let mut specimen = Config::default();
    let window = WindowLimit { requests: 1, per: Duration::from_secs(1) };
    let mut key = ApiKey::default();
    key.limits.windows.push(window.clone());
    specimen.api.keys.push(key);
    specimen.admin.tokens.push(AdminToken::default());
    for service in &mut specimen.ai.services {
        service.limits.windows.push(window.clone());
        service.prices.push(ModelPrice::default());
    }
    Schema::learn(&value(&specimen), Some(&value(&Config::default())))
}

fn value(config: &Config) -> Value {
    Value::try_from(config).expect("every value of a configuration has a form in TOML")
}
