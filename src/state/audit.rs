//! What people have done to the nodes: who, what and when.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Error;
use crate::domain::time::{Timestamp, rfc3339};

/// One deed. Written down before it is done, so that nothing is done that is not here; what came of it, if it failed,
/// is a second entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct Entry {
    /// Begins with the time, so that entries are ordered by it ([`Entry::id`]). The first field: Redis sorts by it.
    pub id: String,
    /// When, RFC 3339.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Name of the token, or of the door where none is needed.
    pub who: String,
    /// Name of the node that was told.
    pub node: String,
    /// What was done, such as `breaker.open`.
    pub action: String,
    /// To what, such as the service's name.
    pub subject: String,
    /// What belongs to it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

impl Entry {
    /// Names the `n`th entry of a run of a process.
    pub fn id(at: Timestamp, run: &str, n: u64) -> String {
        format!("{}.{run}.{n:06}", Self::from(at))
    }

    /// Where the entries of a time begin, among the ids.
    pub fn from(at: Timestamp) -> String {
        format!("{:014}", at.0.max(0))
    }
}

/// Where deeds are written down.
#[async_trait]
pub trait Audit {
    /// Writes one down; durable when it returns. Twice is once.
    async fn note(&self, entry: &Entry) -> Result<(), Error>;

    /// The newest, at most `limit` of those before the entry of that id.
    async fn audit(&self, before: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error>;
}
