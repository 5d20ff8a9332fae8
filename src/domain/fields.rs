//! Reads single fields out of loosely typed JSON.
//!
//! Zendesk's schema promises little: fields come unknown, null, or with another type than published. So a field that
//! is needed is read strictly and one that is not is read leniently; neither spoils its neighbours, because each stays
//! raw until it is asked for.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::reason::Reject;

/// A field as it stands in the body; absent and `null` are the same.
pub type Raw<'a> = Option<&'a RawValue>;

/// Reads a field that must have the type `T` if it is there.
pub fn strict<'a, T: Deserialize<'a>>(raw: Raw<'a>) -> Result<Option<T>, Reject> {
    raw.map(|raw| serde_json::from_str(raw.get()).map_err(|_| Reject::WrongType)).transpose()
}

/// Reads a field that we can do without: of another type, it counts as absent.
pub fn lenient<'a, T: Deserialize<'a>>(raw: Raw<'a>) -> Option<T> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
}

/// Declares a JSON object whose fields stay raw; unknown fields are skipped without recursion.
macro_rules! raw_object {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $key:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(serde::Deserialize, Clone, Copy, Default)]
        pub(super) struct $name<'a> {
            $(#[serde(borrow, default, rename = $key)] pub(super) $field: $crate::domain::fields::Raw<'a>,)*
        }
    };
}
pub(super) use raw_object;
