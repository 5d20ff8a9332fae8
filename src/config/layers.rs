//! Lays the sources of a configuration over each other, remembering who set what.
//!
//! Each value is tried alone before it is taken, so that one wrong value does not hide the next.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;
use toml::{Table, Value};

use super::{
    Config,
    problem::{Origin, Problem},
    schema::Schema,
};

/// One step into the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Segment {
    Index(usize),
    Key(String),
}

/// The way to one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path(Vec<Segment>);

impl Path {
    /// Reads `section.key`, with numbers for elements.
    pub(super) fn parse(dotted: &str) -> Self {
        Self::of(dotted.split('.'))
    }

    /// Puts segments together; a number is an index.
    pub(super) fn of<'a>(segments: impl Iterator<Item = &'a str>) -> Self {
        let segment = |text: &str| text.parse().map_or_else(|_| Segment::Key(text.to_lowercase()), Segment::Index);
        Self(segments.map(segment).collect())
    }

    fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.into()))
    }

    fn with(&self, segment: Segment) -> Self {
        let mut longer = self.clone();
        longer.0.push(segment);
        longer
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if position == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The layers so far: what was set, by whom, and what was refused.
#[derive(Debug)]
pub(super) struct Layers {
    schema: Schema,
    merged: Value,
    origins: BTreeMap<String, Origin>,
    /// What was refused so far.
    pub(super) problems: Vec<Problem>,
}

impl Layers {
    /// Starts with the defaults alone.
    pub(super) fn new(schema: Schema) -> Self {
        Self { schema, merged: Value::Table(Table::new()), origins: BTreeMap::new(), problems: Vec::new() }
    }

    /// Lays a whole table on top.
    pub(super) fn lay(&mut self, table: Table, origin: &Origin) {
        self.set(&Path::default(), Value::Table(table), origin);
    }

    /// Takes the text of an environment variable for the value at `path`; says whether there is such a key.
    pub(super) fn lay_text(&mut self, path: &Path, text: &str, origin: &Origin) -> bool {
        let Some(value) = find(&self.schema, &path.0).map(|schema| schema.read(text)) else { return false };
        self.set(path, value, origin);
        true
    }

    /// Lays one value, or a section of values, on top; says whether nothing of it was refused or outranked.
    pub(super) fn set(&mut self, path: &Path, value: Value, origin: &Origin) -> bool {
        let Some(schema) = find(&self.schema, &path.0) else {
            self.problems.push(Problem::new(path.to_string(), "is not a key", "remove it").from(origin));
            return false;
        };
        let mut flat = Flat::default();
        flat.spread(schema, path.clone(), value);
        let mut whole = flat.problems.is_empty();
        self.problems.extend(flat.problems.into_iter().map(|problem| problem.from(origin)));
        for (path, value) in flat.values {
            whole &= self.set_leaf(&path, value, origin);
        }
        whole
    }

    /// Returns the number of elements that the list of sections at `path` has so far.
    pub(super) fn len(&self, path: &Path) -> usize {
        let default_len = match find(&self.schema, &path.0) {
            Some(Schema::Sections { default_len, .. }) => *default_len,
            _ => 0,
        };
        get(&self.merged, &path.0).and_then(Value::as_array).map_or(default_len, Vec::len)
    }

    /// Returns the string that was set at `path`.
    pub(super) fn text(&self, path: &Path) -> Option<&str> {
        get(&self.merged, &path.0).and_then(Value::as_str)
    }

    /// Returns who set the value of this key.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or_default()
    }

    /// Makes the configuration of what was accepted.
    pub(super) fn config(&mut self) -> Config {
        Config::deserialize(self.merged.clone()).unwrap_or_else(|error| {
            // Each value was accepted alone, so a key is missing; the error ends with "in `the.section`".
            let shown = error.to_string();
            let section = shown.rsplit_once("in `").and_then(|(_, section)| section.split('`').next());
            self.problems.push(refusal(section.unwrap_or_default(), &error));
            Config::default()
        })
    }

    /// Returns every key of `config` with who set it.
    pub(super) fn all_origins(&self, config: &Value) -> BTreeMap<String, Origin> {
        let mut flat = Flat::default();
        flat.spread(&self.schema, Path::default(), config.clone());
        let is_leaf = |path: &Path, value: &Value| {
            !value.is_table() || matches!(find(&self.schema, &path.0), Some(Schema::Names))
        };
        let leaves = flat.values.into_iter().filter(|(path, value)| is_leaf(path, value));
        leaves.map(|(path, _)| path.to_string()).map(|key| (key.clone(), self.origin(&key))).collect()
    }

    fn set_leaf(&mut self, path: &Path, value: Value, origin: &Origin) -> bool {
        let key = path.to_string();
        if self.origin(&key).rank() > origin.rank() {
            return false;
        }
        let alone = alone(&self.schema, &path.0, value.clone());
        if let Err(error) = Config::deserialize(alone) {
            self.problems.push(refusal(&key, &error).from(origin));
            return false;
        }
        if value.as_array().is_some_and(Vec::is_empty) {
            self.origins.retain(|other, _| !other.starts_with(&format!("{key}[")));
        }
        if place(&self.schema, &mut self.merged, &path.0, value).is_none() {
            let wrong = "leaves a gap in the list before it";
            self.problems.push(Problem::new(key, wrong, "number the elements from 0 without gaps").from(origin));
            return false;
        }
        self.origins.insert(key, origin.clone());
        true
    }
}

/// A section taken apart into single values.
#[derive(Default)]
struct Flat {
    values: Vec<(Path, Value)>,
    problems: Vec<Problem>,
}

impl Flat {
    /// A list of sections begins with an empty list, each element with an empty table: so a whole list replaces the
    /// one before, and an element without keys counts too.
    fn spread(&mut self, schema: &Schema, path: Path, value: Value) {
        if let Some((wrong, remedy)) = schema.mismatch(&value) {
            return self.problems.push(Problem::new(path.to_string(), wrong, remedy));
        }
        match (schema, value) {
            (Schema::Section(keys), Value::Table(table)) => {
                for (key, child) in table {
                    match keys.get(&key) {
                        Some(schema) => self.spread(schema, path.key(&key), child),
                        None => self.problems.push(unknown(&path, &key, keys)),
                    }
                }
            }
            (Schema::Sections { element, .. }, Value::Array(elements)) => {
                self.values.push((path.clone(), Value::Array(Vec::new())));
                for (index, child) in elements.into_iter().enumerate() {
                    let path = path.with(Segment::Index(index));
                    self.values.push((path.clone(), Value::Table(Table::new())));
                    self.spread(element, path, child);
                }
            }
            (_, value) => self.values.push((path, value)),
        }
    }
}

fn unknown(section: &Path, key: &str, keys: &BTreeMap<String, Schema>) -> Problem {
    let known = keys.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    Problem::new(section.key(key).to_string(), "is not a key", format!("write one of {known}"))
}

/// Turns serde's words into ours.
fn refusal(key: &str, error: &toml::de::Error) -> Problem {
    let message = error.message();
    if let Some((wrong, remedy)) = message.split_once("; ") {
        return Problem::new(key, wrong, remedy);
    }
    let (wrong, expected) = message.split_once(", expected ").unwrap_or((message, "it as well"));
    let wrong = wrong.strip_prefix("unknown variant ").map(|value| format!("{value} is not known here"));
    let wrong = wrong.or_else(|| message.starts_with("invalid value").then(|| "is out of range".into()));
    let remedy = match expected {
        "u16" => "write a whole number from 0 to 65535",
        "u32" => "write a whole number from 0 to 4294967295",
        "u64" | "usize" => "write a whole number from 0 up",
        expected => return Problem::new(key, wrong.unwrap_or_else(|| message.into()), format!("write {expected}")),
    };
    Problem::new(key, wrong.unwrap_or_else(|| message.into()), remedy)
}

fn find<'a>(schema: &'a Schema, path: &[Segment]) -> Option<&'a Schema> {
    match (path, schema) {
        ([], schema) => Some(schema),
        ([Segment::Key(key), rest @ ..], Schema::Section(keys)) => find(keys.get(key)?, rest),
        ([Segment::Index(_), rest @ ..], Schema::Sections { element, .. }) => find(element, rest),
        _ => None,
    }
}

fn get<'a>(value: &'a Value, path: &[Segment]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, segment| match segment {
        Segment::Key(key) => value.get(key),
        Segment::Index(index) => value.get(*index),
    })
}

/// Builds a configuration in which only this value is set; the rest of a list's element is a specimen.
fn alone(schema: &Schema, path: &[Segment], value: Value) -> Value {
    match (path, schema) {
        ([Segment::Key(key), rest @ ..], Schema::Section(keys)) => {
            let child = keys.get(key).map_or(Value::Boolean(false), |schema| alone(schema, rest, value));
            Value::Table(Table::from_iter([(key.clone(), child)]))
        }
        ([Segment::Index(_), rest @ ..], Schema::Sections { element, specimen, .. }) => {
            let mut whole = specimen.clone();
            if let Value::Table(part) = alone(element, rest, value) {
                whole.extend(part);
            }
            Value::Array(vec![Value::Table(whole)])
        }
        _ => value,
    }
}

/// Writes a value, making what is missing on the way; nothing when an index leaves a gap.
fn place(schema: &Schema, node: &mut Value, path: &[Segment], value: Value) -> Option<()> {
    match (path, schema) {
        ([Segment::Key(key), rest @ ..], Schema::Section(keys)) => {
            let schema = keys.get(key)?;
            let child = node.as_table_mut()?.entry(key.clone()).or_insert_with(|| schema.vacant());
            place(schema, child, rest, value)
        }
        ([Segment::Index(index), rest @ ..], Schema::Sections { element, .. }) => {
            let elements = node.as_array_mut()?;
            if *index == elements.len() {
                elements.push(element.vacant());
            }
            place(element, elements.get_mut(*index)?, rest, value)
        }
        _ => {
            *node = value;
            Some(())
        }
    }
}
