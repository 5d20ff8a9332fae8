//! A request's fields in a form that is the same for the same request: in one order, texts escaped in one way, nothing
//! between the parts.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{fields::Fields, quoted};

/// Levels of a request within which the order of fields does not matter for the cache; each is read once more.
const NESTED_MAX: usize = 16;

/// Writes fields by name.
pub(super) fn write(to: &mut Vec<u8>, fields: Vec<(Cow<'_, str>, &RawValue)>) {
    write_fields(to, fields, NESTED_MAX);
}

fn write_fields(to: &mut Vec<u8>, mut fields: Vec<(Cow<'_, str>, &RawValue)>, levels: usize) {
    fields.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    to.push(b'{');
    for (name, value) in fields {
        to.extend_from_slice(quoted(&name).as_bytes());
        to.push(b':');
        write_value(to, value, levels);
        to.push(b',');
    }
    to.push(b'}');
}

fn write_value(to: &mut Vec<u8>, value: &RawValue, levels: usize) {
    let raw = value.get();
    match (raw.as_bytes()[0], levels.checked_sub(1)) {
        (b'{', Some(levels)) => {
            if let Ok(Fields(fields)) = serde_json::from_str(raw) {
                return write_fields(to, fields, levels);
            }
        }
        (b'[', Some(levels)) => {
            if let Ok(values) = serde_json::from_str::<Vec<&RawValue>>(raw) {
                to.push(b'[');
                for value in values {
                    write_value(to, value, levels);
                    to.push(b',');
                }
                return to.push(b']');
            }
        }
        (b'"', _) => {
            if let Ok(text) = serde_json::from_str::<String>(raw) {
                return to.extend_from_slice(quoted(&text).as_bytes());
            }
        }
        _ => {}
    }
    to.extend_from_slice(raw.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(value: &str) -> Vec<u8> {
        let mut canonical = Vec::new();
        write(&mut canonical, vec![("x".into(), serde_json::from_str(value).unwrap())]);
        canonical
    }

    #[test]
    fn what_means_the_same_looks_the_same() {
        for (x, y) in [(r#"{"a":[1, {"c":"\u00fc","b":2}]}"#, r#"{ "a": [1,{"b":2,"c":"ü"}] }"#), ("null", " null ")] {
            assert_eq!(canonical(x), canonical(y), "{x}");
        }
    }

    #[test]
    fn what_may_mean_something_else_looks_different() {
        let deep = |innermost: &str| format!("{}{innermost}{}", "[".repeat(500), "]".repeat(500));
        for (x, y) in [
            ("18446744073709551617", "18446744073709551618"),
            (r#"{"a":{"b":1,"b":2}}"#, r#"{"a":{"b":2,"b":1}}"#),
            (r#"{"a":{"b":1,"b":2}}"#, r#"{"a":{"b":2}}"#),
            ("[1,2]", "[2,1]"),
            ("[[1],2]", "[[1,2]]"),
            (r#""1""#, "1"),
            (r#"["a,b"]"#, r#"["a","b"]"#),
            (&deep("1"), &deep("2")),
        ] {
            assert_ne!(canonical(x), canonical(y), "{x}");
        }
    }
}
