//! Who holds a conversation: as events told, or else as Zendesk tells when asked.

use super::Parts;
use crate::{
    client::Error,
    domain::{
        control::{Control, Holder},
        ids::ConversationId,
    },
};

/// Who holds `target`, where posts go: of conversations that were merged only the surviving one has a holder. Asks
/// Zendesk when nothing is known, or nothing that can be believed after an absence.
pub(super) async fn holder(parts: &Parts, app: Option<&str>, target: &ConversationId) -> Result<Holder, Error> {
    if let Ok(Some(control)) = parts.state.control(target).await
        && parts.reconciler.believes(control)
    {
        return Ok(control.holder);
    }
    // An event that comes while Zendesk answers is newer than the answer.
    let asked_at = parts.clock.now();
    let asked = parts.sunshine.active(app, target).await;
    parts.heard_of_zendesk(asked.as_ref().err());
    let holder = match asked {
        Ok(active) => parts.ours.holder(active.as_ref()),
        // A conversation that Zendesk does not know: posting will say what is wrong with it.
        Err(Error::Refused(_)) => return Ok(Holder::Nobody),
        Err(error) => return Err(error),
    };
    if let Err(error) = parts.state.note_control(target, Control { holder, at: asked_at }).await {
        tracing::warn!(%error, "the holder of a conversation could not be noted");
    }
    Ok(holder)
}
