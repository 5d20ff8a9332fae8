//! Who holds which conversation, as this node has heard; so that looking right before a post costs no round trip.
//!
//! Each change is published by the script that writes it. Whatever may have been missed is forgotten, and asked again.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use parking_lot::Mutex;
use tokio::{sync::broadcast::error::RecvError, task::AbortHandle};

use super::{Link, shared::parsed};
use crate::domain::{control::Control, ids::ConversationId, time::Timestamp};

const CONTROLS_MAX: u64 = 100_000;

/// A published change that was lost without a sign is noticed after this long.
const BELIEVED_FOR: Duration = Duration::from_secs(300);

/// Pause before subscribing is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// What was heard of a holder, and whether Redis was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    pub control: Control,
    pub written: bool,
}

/// The holders heard of.
pub(super) struct Controls {
    known: Cache<ConversationId, Heard>,
    listener: Mutex<Option<AbortHandle>>,
}

impl Controls {
    /// Begins to listen.
    pub fn listen(link: &Arc<Link>) -> Arc<Self> {
        let known = Cache::builder().max_capacity(CONTROLS_MAX).time_to_live(BELIEVED_FOR).build();
        let controls = Arc::new(Self { known, listener: Mutex::default() });
        let (here, link) = (Arc::downgrade(&controls), Arc::downgrade(link));
        let task = tokio::spawn(async move {
            while let Some(link_now) = link.upgrade() {
                let mut connections = link_now.published_connections();
                let Ok(mut published) = link_now.listen(&channel(&link_now)).await else {
                    drop(link_now);
                    tokio::time::sleep(AGAIN).await;
                    continue;
                };
                drop(link_now);
                loop {
                    let heard = tokio::select! {
                        message = published.recv() => message,
                        changed = connections.changed() => if changed.is_ok() { Err(RecvError::Lagged(0)) } else { return },
                    };
                    let Some(controls) = here.upgrade() else { return };
                    match heard {
                        Ok(message) => {
                            if let Some((id, control)) = message.value.as_string().and_then(|text| read(&text)) {
                                controls.hear(&id, Heard { control, written: true }).await;
                            }
                        }
                        Err(RecvError::Lagged(_)) => controls.forget_what_is_written().await,
                        Err(RecvError::Closed) => break,
                    }
                }
            }
        });
        *controls.listener.lock() = Some(task.abort_handle());
        controls
    }

    pub async fn get(&self, conversation: &ConversationId) -> Option<Heard> {
        self.known.get(conversation).await
    }

    /// Takes over what was heard, unless something newer is known; what counts now.
    pub async fn hear(&self, conversation: &ConversationId, heard: Heard) -> Heard {
        let newer = |before: Option<moka::Entry<ConversationId, Heard>>| {
            let before = before.map(moka::Entry::into_value);
            std::future::ready(match before {
                Some(before) if before.control.at > heard.control.at => before,
                Some(before) if before.control == heard.control => {
                    Heard { written: before.written || heard.written, ..heard }
                }
                _ => heard,
            })
        };
        self.known.entry_by_ref(conversation).and_upsert_with(newer).await.into_value()
    }

    pub async fn forget(&self, conversation: &ConversationId) {
        self.known.invalidate(conversation).await;
    }

    /// Changes may have been missed. What Redis was not told yet is newer than what it would say.
    async fn forget_what_is_written(&self) {
        let written: Vec<ConversationId> =
            self.known.iter().filter(|(_, heard)| heard.written).map(|(id, _)| (*id).clone()).collect();
        for id in written {
            self.known.invalidate(&id).await;
        }
    }
}

impl Drop for Controls {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.lock().take() {
            listener.abort();
        }
    }
}

/// Where changes are published.
pub(super) fn channel(link: &Link) -> String {
    link.channel("control")
}

/// A holder in a script's words.
pub(super) fn control(holder: &str, at: &str) -> Option<Control> {
    Some(Control { holder: parsed(&format!("\"{holder}\""))?, at: Timestamp(at.parse().ok()?) })
}

fn read(text: &str) -> Option<(ConversationId, Control)> {
    let mut lines = text.splitn(3, '\n');
    let control = control(lines.next()?, lines.next()?)?;
    Some((ConversationId::new(lines.next()?).ok()?, control))
}
