//! The keys that exist, learnt from a serialized default configuration.
//!
//! Learning them from the types themselves keeps them from being listed twice.

use std::{collections::BTreeMap, fmt};

use toml::{Table, Value};

/// What may stand at one place of the configuration.
#[derive(Debug)]
pub(super) enum Schema {
    /// A section with its keys.
    Section(BTreeMap<String, Schema>),
    /// A list of sections, such as `[[ai.services]]`.
    Sections { element: Box<Schema>, specimen: Table, default_len: usize },
    /// A list of strings.
    Strings,
    /// A section whose keys are the operator's own, each with a string; by default there are none.
    Names,
    /// A string, with the default as an example.
    Text { example: String },
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// `true` or `false`.
    Switch,
}

impl Schema {
    /// Learns the keys from `specimen`, in which each list of sections has one element, and the lengths of these lists
    /// from `default`.
    pub(super) fn learn(specimen: &Value, default: Option<&Value>) -> Self {
        match specimen {
            Value::Table(table) if table.is_empty() => Self::Names,
            Value::Table(table) => Self::Section(
                table
                    .iter()
                    .map(|(key, child)| (key.clone(), Self::learn(child, default.and_then(|value| value.get(key)))))
                    .collect(),
            ),
            Value::Array(elements) => match elements.first() {
                Some(first @ Value::Table(table)) => {
                    let defaults = default.and_then(Value::as_array);
                    Self::Sections {
                        element: Box::new(Self::learn(first, defaults.and_then(|elements| elements.first()))),
                        specimen: table.clone(),
                        default_len: defaults.map_or(0, Vec::len),
                    }
                }
                _ => Self::Strings,
            },
            Value::Integer(_) => Self::Integer,
            Value::Float(_) => Self::Float,
            Value::Boolean(_) => Self::Switch,
            Value::String(text) => Self::Text { example: text.clone() },
            Value::Datetime(_) => Self::Text { example: String::new() },
        }
    }

    /// Returns what a layer's value becomes that is not there yet.
    pub(super) fn vacant(&self) -> Value {
        match self {
            Self::Sections { default_len, .. } => Value::Array(vec![Value::Table(Table::new()); *default_len]),
            _ => Value::Table(Table::new()),
        }
    }

    /// Takes a value from the text of an environment variable; one of the wrong type is left for [`Self::mismatch`].
    pub(super) fn read(&self, text: &str) -> Value {
        let parsed = text.trim().parse::<Value>().ok().filter(|value| self.mismatch(value).is_none());
        parsed.unwrap_or_else(|| match self {
            Self::Strings if !text.trim_start().starts_with('[') => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Value::Array(parts.map(|part| Value::String(part.into())).collect())
            }
            _ => Value::String(text.into()),
        })
    }

    /// Says in words what is wrong with the type of `value` and what to write; the value itself may be a secret and is
    /// not repeated.
    pub(super) fn mismatch(&self, value: &Value) -> Option<(String, String)> {
        let fits = match (self, value) {
            (Self::Strings, Value::Array(elements)) => {
                let stranger = elements.iter().find(|element| !element.is_str())?;
                return Some((format!("has {} in it", kind(stranger)), "write strings in quotes only".into()));
            }
            (Self::Names, Value::Table(table)) => {
                let stranger = table.values().find(|value| !value.is_str())?;
                return Some((format!("has {} in it", kind(stranger)), "write strings in quotes only".into()));
            }
            (Self::Section(_), Value::Table(_))
            | (Self::Sections { .. }, Value::Array(_))
            | (Self::Text { .. }, Value::String(_))
            | (Self::Integer, Value::Integer(_))
            | (Self::Float, Value::Float(_) | Value::Integer(_))
            | (Self::Switch, Value::Boolean(_)) => true,
            _ => false,
        };
        (!fits).then(|| (format!("is {}", kind(value)), format!("write {self}")))
    }
}

/// Says what is to be written, to go on after "write".
impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section(_) => f.write_str("a section with keys in it"),
            Self::Sections { .. } => f.write_str("a list of sections, each under its own [[...]]"),
            Self::Names => f.write_str("a section with strings in it, like { \"one\" = \"two\" }"),
            Self::Strings => f.write_str("a list of strings, like [\"one\", \"two\"]"),
            Self::Text { example } if example.is_empty() => f.write_str("a string in quotes"),
            Self::Text { example } => write!(f, "a string in quotes, like \"{example}\""),
            Self::Integer => f.write_str("a whole number"),
            Self::Float => f.write_str("a number"),
            Self::Switch => f.write_str("true or false"),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_text_becomes_the_type_of_the_default() {
        let text = || Schema::Text { example: String::new() };
        let cases = [
            (text(), "12", Value::String("12".into())),
            (text(), "true", Value::String("true".into())),
            (text(), "\"quoted\"", Value::String("quoted".into())),
            (text(), "a \"b", Value::String("a \"b".into())),
            (text(), "", Value::String(String::new())),
            (Schema::Integer, "12", Value::Integer(12)),
            (Schema::Integer, " 12 ", Value::Integer(12)),
            (Schema::Integer, "twelve", Value::String("twelve".into())),
            (Schema::Float, "2", Value::Integer(2)),
            (Schema::Float, "0.5", Value::Float(0.5)),
            (Schema::Switch, "true", Value::Boolean(true)),
            (Schema::Switch, "1", Value::String("1".into())),
            (Schema::Strings, "a, b,", Value::Array(vec!["a".into(), "b".into()])),
            (Schema::Strings, "[\"a,b\"]", Value::Array(vec!["a,b".into()])),
            (Schema::Strings, "12", Value::Array(vec!["12".into()])),
            (Schema::Strings, "", Value::Array(Vec::new())),
            (Schema::Strings, "[1]", Value::String("[1]".into())),
            (Schema::Names, "{ a = \"b\" }", Value::Table(Table::from_iter([("a".into(), Value::String("b".into()))]))),
            (Schema::Names, "{ a = 1 }", Value::String("{ a = 1 }".into())),
            (Schema::Names, "a", Value::String("a".into())),
        ];
        for (schema, written, expected) in cases {
            assert_eq!(schema.read(written), expected, "{schema:?} {written}");
        }
    }

    #[test]
    fn a_wrong_type_is_named_and_its_value_is_not() {
        let (wrong, remedy) = Schema::Integer.mismatch(&Value::String("hunter2".into())).unwrap();
        assert_eq!((wrong.as_str(), remedy.as_str()), ("is a string", "write a whole number"));
        let (wrong, _) = Schema::Strings.mismatch(&Value::Array(vec![Value::Integer(4711)])).unwrap();
        assert_eq!(wrong, "has a whole number in it");
        assert!(Schema::Float.mismatch(&Value::Integer(1)).is_none());
    }
}
