//! Tells the fleet that this process lives: whoever stops saying so loses the conversations it works on.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use fred::types::scripts::Script;
use tokio::task::AbortHandle;

use super::Link;
use crate::state::Error;

const BEAT_EVERY: Duration = Duration::from_secs(2);

/// Five beats may be missed.
const ALIVE_FOR_MS: u64 = 10_000;

static BEAT: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua("return redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])"));
static LIVES: LazyLock<Script> = LazyLock::new(|| Script::from_lua("return redis.call('EXISTS', KEYS[1])"));

/// Beats as long as it is there.
pub(super) struct Heart(AbortHandle);

impl Heart {
    pub fn beat(link: &Arc<Link>, owner: &str) -> Self {
        let (here, owner) = (Arc::downgrade(link), owner.to_owned());
        let mut connections = link.connections();
        let task = tokio::spawn(async move {
            while let Some(link) = here.upgrade() {
                // One that is missed is made up for by the next.
                let _ = link.run::<String, _>(&BEAT, vec![key(&link, &owner)], ALIVE_FOR_MS.to_string()).await;
                drop(link);
                tokio::select! {
                    () = tokio::time::sleep(BEAT_EVERY) => {}
                    _ = connections.changed() => {}
                }
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn key(link: &Link, owner: &str) -> String {
    link.key(&format!("node:{owner}"), "alive")
}

/// Whether a process has said lately that it lives.
pub(super) async fn lives(link: &Link, owner: &str) -> Result<bool, Error> {
    link.run::<i64, _>(&LIVES, vec![key(link, owner)], Vec::<String>::new()).await.map(|count| count > 0)
}
