//! Writes down what people do, before it is done: who, what and when.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::Parts;
use crate::state::{self, audit::Entry};

/// Counts the deeds of this run of the process.
#[derive(Default)]
pub struct Deeds(AtomicU64);

/// Notes a deed; durable when it returns. Without that nothing is to be done.
pub async fn note(parts: &Parts, who: &str, action: &str, subject: &str, detail: Value) -> Result<(), state::Error> {
    let at = parts.clock.now();
    let n = parts.deeds.0.fetch_add(1, Ordering::Relaxed);
    let entry = Entry {
        id: Entry::id(at, parts.nodes.id(), n),
        at,
        who: who.to_owned(),
        node: parts.nodes.name(),
        action: action.to_owned(),
        subject: subject.to_owned(),
        detail,
    };
    parts.state.note(&entry).await?;
    tracing::info!(who, action, subject, "an operator acts");
    Ok(())
}
