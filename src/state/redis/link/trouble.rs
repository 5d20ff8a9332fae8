//! What can be wrong between a node and Redis, in words for people and with what to do.
//!
//! Nothing here repeats what was sent, so no text can hold the password.

use fred::error::{Error as FredError, ErrorKind};

use crate::state::Error;

/// Why there is no connection.
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
    /// It is there and breaks off, or says what nobody can use.
    #[error("{node} cannot be used: {said}")]
    Refused {
        /// Who.
        node: String,
        /// What it says.
        said: String,
    },
    /// The password is wrong, or nobody has this name.
    #[error("{node} does not accept this user or password")]
    WrongPassword {
        /// Who.
        node: String,
    },
    /// It asks for a password and none is set.
    #[error("{node} asks for a password, and none is set")]
    NoPassword {
        /// Who.
        node: String,
    },
    /// The user may not do what is needed.
    #[error("{node} does not let this user do what is needed: {said}")]
    NotAllowed {
        /// Who.
        node: String,
        /// What it says.
        said: String,
    },
    /// The certificate is for another name.
    #[error("the TLS certificate of {node} is for another name")]
    WrongName {
        /// Who.
        node: String,
    },
    /// The certificate is not trusted.
    #[error("the TLS certificate of {node} is not trusted: {why}")]
    Untrusted {
        /// Who.
        node: String,
        /// What is wrong with it.
        why: String,
    },
    /// We speak TLS and it does not.
    #[error("{node} does not speak TLS, but state.redis.tls is true")]
    NoTls {
        /// Who.
        node: String,
    },
    /// It speaks TLS and we do not.
    #[error("{node} speaks TLS, but state.redis.tls is false")]
    NeedsTls {
        /// Who.
        node: String,
    },
    /// It is older than what we speak.
    #[error("{node} runs Redis {version}; 6.0 or newer is needed")]
    Old {
        /// Who.
        node: String,
        /// Its version.
        version: String,
    },
    /// It is of another kind than configured.
    #[error("state.redis.mode is {mode}, but {node} is {is}")]
    WrongMode {
        /// Who.
        node: String,
        /// What was configured.
        mode: &'static str,
        /// What it is.
        is: &'static str,
    },
    /// It follows a master.
    #[error("{node} is a replica and takes no writes")]
    Replica {
        /// Who.
        node: String,
    },
    /// It is a member of a Cluster that does not work.
    #[error("{node} says that its Cluster is down")]
    ClusterDown {
        /// Who.
        node: String,
    },
    /// The Sentinels do not know the master.
    #[error("the Sentinel {node} knows no master named `{name}`")]
    UnknownMaster {
        /// Who.
        node: String,
        /// What we call the master.
        name: String,
    },
}

impl Trouble {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "start it, or correct state.redis.nodes; check the way there",
            Self::Silent { .. } => "it hangs, or something between drops the packets; look at that machine",
            Self::Refused { .. } => "look at its log, and whether state.redis.nodes names a Redis",
            Self::WrongPassword { .. } => "correct state.redis.username and state.redis.password",
            Self::NoPassword { .. } => "set state.redis.password (and state.redis.username, if it has users)",
            Self::NotAllowed { .. } => "let the user do +@all -@dangerous +info on the keys and channels of the prefix",
            Self::WrongName { .. } => "name the servers in state.redis.nodes as their certificate does, or renew it",
            Self::Untrusted { .. } => "set state.redis.ca_file to the certificate of the authority that signed it",
            Self::NoTls { .. } => "set state.redis.tls = false, or name the port that speaks TLS",
            Self::NeedsTls { .. } => "set state.redis.tls = true, or name the port without TLS",
            Self::Old { .. } => "install a newer Redis (6.2 or later)",
            Self::WrongMode { .. } => "correct state.redis.mode (\"auto\" asks the servers), or state.redis.nodes",
            Self::Replica { .. } => "name the master in state.redis.nodes, or its Sentinels",
            Self::ClusterDown { .. } => "see CLUSTER INFO and CLUSTER NODES there: slots without a master?",
            Self::UnknownMaster { .. } => "correct state.redis.sentinel_master; SENTINEL MASTERS lists the names",
        }
    }

    /// Of several troubles the one that tells most is told.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => 0,
            Self::Silent { .. } => 1,
            Self::ClusterDown { .. } | Self::Replica { .. } => 2,
            _ => 3,
        }
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        Self::Away(trouble.to_string())
    }
}

/// What an error that a server sends begins with when it cannot work now, or not for us.
const AWAY: [&str; 13] = [
    "LOADING",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "READONLY",
    "OOM",
    "MISCONF",
    "NOAUTH",
    "WRONGPASS",
    "NOREPLICAS",
    "TRYAGAIN",
    "MOVED",
    "ASK",
    "UNBLOCKED",
];

/// Errors after which the connection is of no use: the server has become another one's replica, or knows us no more.
const LOST: [&str; 3] = ["READONLY", "NOAUTH", "MASTERDOWN"];

/// What a call that failed tells.
pub(super) struct Judged {
    pub error: Error,
    /// The connection should be looked at.
    pub suspect: bool,
    /// The connection should be made anew.
    pub lost: bool,
}

/// Tells a server that is away from one that refuses.
pub(super) fn judge(error: &FredError) -> Judged {
    let said = error.details();
    let begins = |list: &[&str]| list.iter().any(|word| said.starts_with(word));
    match error.kind() {
        ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Tls | ErrorKind::Routing => {
            Judged { error: Error::Away(said.to_owned()), suspect: true, lost: false }
        }
        ErrorKind::Auth | ErrorKind::Cluster | ErrorKind::Sentinel | ErrorKind::Backpressure => {
            Judged { error: Error::Away(said.to_owned()), suspect: true, lost: begins(&LOST) }
        }
        _ if begins(&AWAY) || is_redirected(error) || said.starts_with("Client is not initialized") => {
            Judged { error: Error::Away(said.to_owned()), suspect: true, lost: begins(&LOST) }
        }
        _ => Judged { error: Error::Failed(said.to_owned()), suspect: false, lost: false },
    }
}

/// Another node has the keys: the client has learnt that, the call did not run, and with a single attempt it is not
/// sent again by itself.
pub(super) fn is_redirected(error: &FredError) -> bool {
    error.details().starts_with("Too many failed write attempts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_now_is_away_and_one_that_refuses_has_failed() {
        let table = [
            (ErrorKind::IO, "Connection closed.", true, false),
            (ErrorKind::Timeout, "Request timed out.", true, false),
            (ErrorKind::Unknown, "LOADING Redis is loading the dataset in memory", true, false),
            (ErrorKind::Cluster, "CLUSTERDOWN The cluster is down", true, false),
            (ErrorKind::Unknown, "READONLY You can't write against a read only replica.", true, true),
            (ErrorKind::Unknown, "MISCONF Redis is configured to save RDB snapshots", true, false),
            (ErrorKind::Unknown, "OOM command not allowed when used memory > 'maxmemory'.", true, false),
            (ErrorKind::Auth, "NOAUTH Authentication required.", true, true),
            (ErrorKind::Unknown, "Too many failed write attempts.", true, false),
            (ErrorKind::Unknown, "ERR Error running script", false, false),
            (ErrorKind::InvalidArgument, "WRONGTYPE Operation against a key", false, false),
            (ErrorKind::Unknown, "CROSSSLOT Keys in request don't hash to the same slot", false, false),
            (ErrorKind::Parse, "Cannot convert to number.", false, false),
        ];
        for (kind, said, away, lost) in table {
            let judged = judge(&FredError::new(kind, said));
            assert_eq!((matches!(judged.error, Error::Away(_)), judged.lost), (away, lost), "{said}");
        }
    }
}
