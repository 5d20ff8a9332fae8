//! What can be wrong between a node and RabbitMQ, in words for people and with what to do.
//!
//! Nothing here repeats what was sent, so no text can hold the password.

use std::{error::Error as StdError, io};

use lapin::{ErrorKind, protocol::AMQPError};
use rustls::{AlertDescription, CertificateError, Error as TlsError};

/// AMQP's codes for what concerns us.
const ACCESS_REFUSED: u16 = 403;
/// There is no such queue or exchange.
pub const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

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
    /// There is no virtual host of this name.
    #[error("{node} has no virtual host `{vhost}`")]
    NoVhost {
        /// Who.
        node: String,
        /// Which.
        vhost: String,
    },
    /// The user may not enter the virtual host.
    #[error("{node} does not let this user into the virtual host `{vhost}`")]
    Barred {
        /// Who.
        node: String,
        /// Which.
        vhost: String,
    },
    /// The user may not declare what is needed.
    #[error("{node} does not let this user declare what is needed: {said}")]
    NoRights {
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
    /// It wants a certificate of ours, or another one.
    #[error("{node} does not accept our TLS certificate, or misses one: {why}")]
    WrongClient {
        /// Who.
        node: String,
        /// What it says.
        why: String,
    },
    /// We speak TLS and it does not.
    #[error("{node} does not speak TLS, but broker.rabbitmq.tls is true")]
    NoTls {
        /// Who.
        node: String,
    },
    /// It speaks TLS and we do not.
    #[error("{node} does not speak AMQP without TLS, and broker.rabbitmq.tls is false")]
    NeedsTls {
        /// Who.
        node: String,
    },
    /// Something is there under our name that is not ours, or was made with other numbers.
    #[error("{what}")]
    Mismatch {
        /// Which object, and the difference.
        what: String,
        /// What to do.
        remedy: String,
    },
}

impl Trouble {
    /// Whether it lasts until somebody changes the configuration, here or there.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Mismatch { .. } | Self::NoRights { .. })
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "start it, or correct broker.rabbitmq.nodes; check the way there",
            Self::Silent { .. } => "it hangs, or something between drops the packets; look at that machine",
            Self::Blocked { .. } => "free memory or disk there; see rabbitmq-diagnostics alarms",
            Self::Refused { .. } => "look at its log, and whether broker.rabbitmq.nodes names a RabbitMQ",
            Self::WrongPassword { .. } => "correct broker.rabbitmq.username and broker.rabbitmq.password",
            Self::NoVhost { .. } => "correct broker.rabbitmq.vhost, or add it: rabbitmqctl add_vhost",
            Self::Barred { .. } => {
                "rabbitmqctl set_permissions for broker.rabbitmq.username, or correct broker.rabbitmq.vhost"
            }
            Self::NoRights { .. } => {
                "let broker.rabbitmq.username configure, write and read all under broker.rabbitmq.prefix: \
                 rabbitmqctl set_permissions"
            }
            Self::WrongName { .. } => {
                "name the servers in broker.rabbitmq.nodes as their certificate does, or renew it"
            }
            Self::Untrusted { .. } => "set broker.rabbitmq.ca_file to the certificate of the authority that signed it",
            Self::WrongClient { .. } => {
                "set broker.rabbitmq.client_cert and client_key to a certificate that it trusts"
            }
            Self::NoTls { .. } => "set broker.rabbitmq.tls = false, or name the port that speaks TLS (5671)",
            Self::NeedsTls { .. } => "set broker.rabbitmq.tls = true, or name the port without TLS (5672)",
            Self::Mismatch { remedy, .. } => remedy,
        }
    }

    pub(super) fn of_connecting(node: String, error: &lapin::Error, vhost: &str, tls: bool) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(error) => Self::of_refusal(node, error, vhost),
            ErrorKind::IOError(error) => match tls_error(error) {
                Some(error) => Self::of_tls(node, error),
                None => Self::Unreachable { node, why: error.to_string() },
            },
            // What TLS answers to AMQP is a short alert that makes no frame.
            ErrorKind::ParsingError(_) if !tls => Self::NeedsTls { node },
            _ => Self::Refused { node, said: error.to_string() },
        }
    }

    fn of_refusal(node: String, error: &AMQPError, vhost: &str) -> Self {
        let said = error.get_message().to_string();
        match error.get_id() {
            ACCESS_REFUSED => Self::WrongPassword { node },
            NOT_ALLOWED if said.contains("refused for user") => Self::Barred { node, vhost: vhost.to_owned() },
            NOT_ALLOWED if said.contains("not found") => Self::NoVhost { node, vhost: vhost.to_owned() },
            _ => Self::Refused { node, said },
        }
    }

    fn of_tls(node: String, error: &TlsError) -> Self {
        match error {
            TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Self::WrongName { node },
            TlsError::InvalidCertificate(error) => Self::Untrusted { node, why: error.to_string() },
            TlsError::InvalidMessage(_) => Self::NoTls { node },
            TlsError::AlertReceived(alert) if is_about_us(*alert) => {
                Self::WrongClient { node, why: format!("{alert:?}") }
            }
            _ => Self::Refused { node, said: error.to_string() },
        }
    }

    /// Only what the server compares and refuses lasts; anything else may be over with the next attempt.
    pub fn of_declaring(node: String, error: &lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(error) => {
                let said = error.get_message().to_string();
                match error.get_id() {
                    // Whatever it does not like about what is there (`inequivalent arg`, and others since 4.0).
                    PRECONDITION_FAILED => mismatch(&said),
                    ACCESS_REFUSED => Self::NoRights { node, said },
                    _ => Self::Refused { node, said },
                }
            }
            _ => Self::Unreachable { node, why: error.to_string() },
        }
    }
}

/// AMQP's code of an error, if it has one.
pub fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// The server found no certificate of ours, or one it does not like.
fn is_about_us(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::HandshakeFailure
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::UnsupportedCertificate
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
    )
}

/// What rustls says, however deep.
fn tls_error<'a>(error: &'a io::Error) -> Option<&'a TlsError> {
    let mut cause: Option<&'a (dyn StdError + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<TlsError>() {
            return Some(found);
        }
        cause = match error.downcast_ref::<io::Error>() {
            Some(wrapped) => wrapped.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    None
}

/// Reads `inequivalent arg 'A' for queue 'Q' in vhost 'V': received X but current is Y`.
fn mismatch(said: &str) -> Trouble {
    let Some((argument, kind, name, ours, theirs)) = read(said) else {
        let remedy = "give this installation a broker.rabbitmq.prefix of its own, or remove what is there";
        return Trouble::Mismatch { what: said.to_owned(), remedy: remedy.into() };
    };
    let key = match argument {
        "x-max-length" if name.ends_with(".fleet") => Some("broker.rabbitmq.partitions"),
        "x-max-length-bytes" if name.ends_with(".fleet") => Some("broker.rabbitmq.prefetch"),
        _ => None,
    };
    if let Some(key) = key {
        return Trouble::Mismatch {
            what: format!("{key} is {ours} here, but {theirs} on the nodes that were first (queue `{name}`)"),
            remedy: format!("set {key} = {theirs}, or begin anew under another broker.rabbitmq.prefix"),
        };
    }
    Trouble::Mismatch {
        what: format!("the {kind} `{name}` is there with other settings: {argument} is {theirs}, we need {ours}"),
        remedy: format!(
            "give this installation a broker.rabbitmq.prefix of its own, or delete the {kind} `{name}` once it is empty"
        ),
    }
}

fn read(said: &str) -> Option<(&str, &str, &str, &str, &str)> {
    let (_, rest) = said.split_once("inequivalent arg '")?;
    let (argument, rest) = rest.split_once("' for ")?;
    let (kind, rest) = rest.split_once(" '")?;
    let (name, rest) = rest.split_once("' in vhost ")?;
    let (_, rest) = rest.split_once(": received ")?;
    let (ours, theirs) = rest.split_once(" but current is ")?;
    Some((argument, kind, name, value(ours), value(theirs)))
}

/// `'8'`, `the value '8' of type 'long'`, `none`.
fn value(text: &str) -> &str {
    text.split('\'').nth(1).unwrap_or(text)
}

#[cfg(test)]
#[path = "trouble_tests.rs"]
mod tests;
