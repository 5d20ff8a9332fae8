//! Wakes an actor that may have been replaced since: the actor installs itself when it starts.

use std::sync::Arc;

use parking_lot::Mutex;

/// What ringing does.
type Ringer = Arc<dyn Fn() + Send + Sync>;

/// A bell.
#[derive(Default)]
pub struct Bell(Mutex<Option<Ringer>>);

impl Bell {
    /// Connects the bell; whoever was connected before is not rung any more.
    pub fn connect(&self, ringer: impl Fn() + Send + Sync + 'static) {
        *self.0.lock() = Some(Arc::new(ringer));
    }

    /// Rings, if anybody is connected. Whoever connects looks for work first, so a ring before that is not missed.
    pub fn ring(&self) {
        let ringer = self.0.lock().clone();
        if let Some(ringer) = ringer {
            ringer();
        }
    }
}
