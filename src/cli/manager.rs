//! What the service manager is told, where there is one (systemd, `sd_notify(3)`): that the node runs, that it ends, and
//! that it is alive.
//!
//! The sign of life comes from the runtime on which messages are worked off: when all of its threads are blocked, none
//! comes, and the manager starts the process again (`WatchdogSec=`).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinSet;

/// Signs of life come no faster.
const SHORTEST: Duration = Duration::from_millis(10);

/// Tells that the node runs, and from then on that it is alive, until what it returns is dropped.
pub(super) fn ready(public: &str, admin: &str) -> JoinSet<()> {
    let status = format!("webhooks at {public}, admin at {admin}");
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    let mut alive = JoinSet::new();
    if let Some(within) = sd_notify::watchdog_enabled() {
        alive.spawn(async move {
            let mut ticks = tokio::time::interval((within / 3).max(SHORTEST));
            loop {
                ticks.tick().await;
                tell(&[NotifyState::Watchdog]);
            }
        });
    }
    alive
}

/// Tells that the node ends.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("finishes what is in hand")]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be told (NOTIFY_SOCKET)");
    }
}
