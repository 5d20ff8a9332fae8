//! `[node]`: the process as a whole.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::units;

/// What this node is called, what it does and how it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Name among the nodes; empty: the host's.
    pub name: String,
    /// What this node does.
    pub roles: Vec<Role>,
    /// Time from SIGTERM to the end of the process, more than 5 s.
    #[serde(with = "units::duration")]
    pub shutdown_grace: Duration,
    /// Time at one thing after which an actor that is no conversation's is killed and started again.
    #[serde(with = "units::duration")]
    pub actor_time_limit: Duration,
    /// Threads of the actors, and as many for `/v1`; 0 = one per core.
    pub worker_threads: usize,
}

impl NodeConfig {
    /// Whether this node does that.
    pub fn does(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            roles: vec![Role::Ingress, Role::Api, Role::Chat, Role::Events, Role::Retry],
            shutdown_grace: Duration::from_secs(30),
            // Storing, the longest thing they do, is a matter of milliseconds; a disk may stall for seconds.
            actor_time_limit: Duration::from_secs(30),
            worker_threads: 0,
        }
    }
}

/// Names a part of the work that a node may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes webhooks.
    Ingress,
    /// Serves `/v1`.
    Api,
    /// Answers conversations.
    Chat,
    /// Works off what belongs to no conversation.
    Events,
    /// Brings failed messages back or parks them.
    Retry,
}
