//! What can be wrong between a node and RabbitMQ, in words for people and with what to do.
//!
//! Nothing here repeats what was sent, so no text can hold the password.

use lapin::ErrorKind;

/// Why there is no connection, or none that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody is there.
    #[error("no connection to {node}: {why}")]
    Unreachable {
        /// Who.
        node: String,
        /// What the system says.
        why: String,
    },
    /// It accepts the connection, and that is all.
    #[error("{node} accepts the connection and does not answer")]
    Silent {
        /// Who.
        node: String,
    },
    /// It takes no more messages for the moment.
    #[error("RabbitMQ takes no messages now: {why}")]
    Blocked {
        /// What it says.
        why: String,
    },
    /// Something is there under our name that is not ours, or was made with other numbers.
    #[error("{what}")]
    Mismatch {
        /// Which object, and the difference.
        what: String,
    },
}

impl Trouble {
    /// Whether it lasts until somebody changes the configuration, here or there.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Mismatch { .. })
    }

    pub(super) fn of_connecting(node: String, error: &lapin::Error, _vhost: &str) -> Self {
        match error.kind() {
            ErrorKind::IOError(error) => Self::Unreachable { node, why: error.to_string() },
            _ => Self::Unreachable { node, why: error.to_string() },
        }
    }

    pub(super) fn of_declaring(error: &lapin::Error) -> Self {
        Self::Mismatch { what: error.to_string() }
    }
}
