//! The fields of a request: read once out of its text, and found in it again by their places.

use std::{borrow::Cow, fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Fields of one request; OpenAI knows some 40.
const FIELDS_MAX: usize = 256;

/// Where a field stands in the text.
#[derive(Debug)]
pub(super) struct Field {
    name: Name,
    value: Range<usize>,
}

#[derive(Debug)]
enum Name {
    Sent(Range<usize>),
    /// With escapes, so that it does not stand there as it reads.
    Escaped(String),
}

impl Field {
    /// A field that was read from this text.
    pub fn within(text: &str, (name, value): (Cow<'_, str>, &RawValue)) -> Self {
        let place = |part: &str| {
            let begin = part.as_ptr().addr() - text.as_ptr().addr();
            begin..begin + part.len()
        };
        let name = match name {
            Cow::Borrowed(name) => Name::Sent(place(name)),
            Cow::Owned(name) => Name::Escaped(name),
        };
        Self { name, value: place(value.get()) }
    }

    /// Its name, and its JSON as it was sent, in that text.
    pub fn of<'a>(&'a self, text: &'a str) -> (&'a str, &'a str) {
        let name = match &self.name {
            Name::Sent(place) => &text[place.clone()],
            Name::Escaped(name) => name,
        };
        (name, &text[self.value.clone()])
    }
}

/// A text that lies in what is read, unless it has escapes.
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

/// The fields of an object, in their order, each once: two readers of one body must not see two requests in it.
pub(super) struct Fields<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                while let Some((Borrowed(name), value)) = map.next_entry()? {
                    let is_known = fields.iter().any(|(known, _)| *known == name);
                    if is_known || fields.len() == FIELDS_MAX {
                        return Err(serde::de::Error::custom("a field twice, or too many"));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Each)
    }
}
