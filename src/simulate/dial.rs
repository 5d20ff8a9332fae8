//! A behaviour that can be changed while the simulator runs, from inside and over HTTP (GET, PUT, PATCH).

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Json;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Holds the behaviour in force; reading it takes no lock.
pub struct Dial<B>(ArcSwap<B>);

impl<B: Default> Default for Dial<B> {
    fn default() -> Self {
        Self(ArcSwap::from_pointee(B::default()))
    }
}

impl<B: Clone + Default + Serialize + DeserializeOwned> Dial<B> {
    /// The behaviour in force.
    pub fn get(&self) -> Arc<B> {
        self.0.load_full()
    }

    /// Replaces the behaviour.
    pub fn set(&self, behaviour: B) {
        self.0.store(Arc::new(behaviour));
    }

    /// Serves one request: GET reads, PUT replaces (what is left out becomes the default), PATCH changes single keys.
    pub fn serve(&self, method: &Method, body: &[u8]) -> Response {
        let changed = match method.as_str() {
            "PUT" => serde_json::from_slice(body),
            "PATCH" => self.patched(body),
            _ => return Json(&*self.get()).into_response(),
        };
        match changed {
            Ok(behaviour) => {
                self.set(behaviour);
                Json(&*self.get()).into_response()
            }
            Err(error) => refused(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }

    fn patched(&self, body: &[u8]) -> serde_json::Result<B> {
        let changes: serde_json::Map<String, Value> = serde_json::from_slice(body)?;
        let mut whole = serde_json::to_value(&*self.get())?;
        if let Value::Object(keys) = &mut whole {
            keys.extend(changes);
        }
        serde_json::from_value(whole)
    }
}

/// The answer of a `/sim` route that cannot do what it was asked.
pub fn refused(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Mood {
        slow_ms: u64,
        down: bool,
    }

    #[test]
    fn a_patch_keeps_what_it_does_not_name_and_a_put_does_not() {
        let dial = Dial::<Mood>::default();
        dial.serve(&Method::PATCH, br#"{"slow_ms":5}"#);
        dial.serve(&Method::PATCH, br#"{"down":true}"#);
        assert_eq!(*dial.get(), Mood { slow_ms: 5, down: true });
        dial.serve(&Method::PUT, br#"{"slow_ms":7}"#);
        assert_eq!(*dial.get(), Mood { slow_ms: 7, down: false });
    }

    #[test]
    fn an_unknown_key_is_refused_and_changes_nothing() {
        let dial = Dial::<Mood>::default();
        for method in [Method::PUT, Method::PATCH] {
            assert_eq!(dial.serve(&method, br#"{"slow":5}"#).status(), StatusCode::BAD_REQUEST);
        }
        assert_eq!(*dial.get(), Mood::default());
    }
}
