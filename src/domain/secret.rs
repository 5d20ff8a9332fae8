//! A value that opens doors and is never shown.
//!
//! Whatever prints it - `Debug`, `Display`, serialization, an error while reading it - shows `***`, so that a
//! configuration can be logged and a wrong one explained without giving anything away.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use subtle::ConstantTimeEq;

/// What is shown instead of a secret.
const MASK: &str = "***";

/// Holds a password, key or token; empty means "not set" and opens nothing.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the value itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Says whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares with what somebody presented, in a time that does not depend on where they differ; an empty secret
    /// matches nothing.
    pub fn matches(&self, presented: &str) -> bool {
        let equal: bool = self.0.as_bytes().ct_eq(presented.as_bytes()).into();
        equal && !self.is_empty()
    }

    fn masked(&self) -> &'static str {
        if self.is_empty() { "" } else { MASK }
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.masked())
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.masked())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.masked())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Asked for a string, some formats would refuse by themselves, and repeat the value.
        deserializer.deserialize_any(Visitor)
    }
}

/// Reads a secret; serde's own visitor would repeat a number or a boolean in its error.
struct Visitor;

impl Visitor {
    fn refuse<E: de::Error>() -> E {
        E::custom("is not a string; write the secret in quotes")
    }
}

impl de::Visitor<'_> for Visitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret in quotes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        match text {
            // A printed configuration that is read again would otherwise turn the mask into a password.
            MASK => Err(E::custom("is `***`, which only hides a secret; write the secret itself")),
            text => Ok(Secret::new(text)),
        }
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        Err(Self::refuse())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
        Err(Self::refuse())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
        Err(Self::refuse())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        Err(Self::refuse())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        let json = serde_json::to_string(&secret).unwrap();
        for shown in [format!("{secret:?}"), format!("{secret:#?}"), format!("{secret}"), json] {
            assert_eq!(shown.trim_matches('"'), "***");
        }
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn an_empty_secret_is_shown_as_empty_and_matches_nothing() {
        let secret = Secret::default();
        assert_eq!(format!("{secret:?}{secret}"), "");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"\"");
        assert!(!secret.matches(""));
        assert_eq!(secret, Secret::new(""));
    }

    #[test]
    fn only_the_same_value_matches() {
        let secret = Secret::new("hunter2");
        assert!(secret.matches("hunter2"));
        assert_eq!(secret, Secret::new("hunter2"));
        for other in ["", "hunter", "hunter3", "hunter22", "Hunter2"] {
            assert!(!secret.matches(other), "{other}");
            assert_ne!(secret, Secret::new(other));
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_without_being_repeated() {
        for wrong in ["4711", "-4711", "47.11", "true", "[4711]", "{\"a\": 4711}"] {
            let error = serde_json::from_str::<Secret>(wrong).unwrap_err().to_string();
            assert!(!error.contains("47") && !error.contains("true"), "{error}");
        }
    }

    #[test]
    fn the_mask_is_no_secret() {
        assert!(serde_json::from_str::<Secret>("\"***\"").is_err());
        assert_eq!(serde_json::from_str::<Secret>("\"****\"").unwrap().expose(), "****");
    }
}
