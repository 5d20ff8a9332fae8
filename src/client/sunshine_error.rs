//! How a call to Zendesk failed.

use std::time::Duration;

/// How a call failed, by what may be done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It never left: no connection.
    #[error("zendesk: no connection")]
    Unreachable,
    /// It may or may not have had its effect: time ran out, the connection broke, or a 5xx.
    #[error("zendesk: outcome unknown ({0})")]
    Unknown(&'static str),
    /// 429; how long to wait, if told.
    #[error("zendesk: 429")]
    Throttled(Option<Duration>),
    /// 401: our key is wrong or was revoked. Nothing is the message's fault.
    #[error("zendesk: 401, the key is not accepted")]
    Unauthorized,
    /// 423: the conversation is full (30,000 messages).
    #[error("zendesk: 423, the conversation is full")]
    Locked,
    /// Any other 4xx: this call will never work.
    #[error("zendesk: status {0}")]
    Refused(u16),
}

impl Error {
    /// The kind of failure, as label value.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown",
            Self::Unreachable => "unreachable",
            Self::Throttled(_) => "throttled",
            Self::Unauthorized => "unauthorized",
            Self::Locked | Self::Refused(_) => "refused",
        }
    }
}

/// Of a call that got no answer.
pub(super) fn network(error: &reqwest::Error) -> Error {
    if error.is_connect() {
        Error::Unreachable
    } else if error.is_timeout() {
        Error::Unknown("timeout")
    } else {
        Error::Unknown("connection")
    }
}

/// Of a status; `None`: it went well.
pub(super) fn of_status(status: u16, retry_after: Option<Duration>) -> Option<Error> {
    match status {
        200..=299 => None,
        401 => Some(Error::Unauthorized),
        423 => Some(Error::Locked),
        429 => Some(Error::Throttled(retry_after)),
        408 => Some(Error::Unknown("timeout")),
        400..=499 => Some(Error::Refused(status)),
        _ => Some(Error::Unknown("5xx")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_never_work_is_refused() {
        for status in [500, 502, 503, 504, 302, 408] {
            assert!(matches!(of_status(status, None), Some(Error::Unknown(_))), "{status}");
        }
        for status in [400, 403, 404, 413] {
            assert_eq!(of_status(status, None), Some(Error::Refused(status)));
        }
        assert_eq!(of_status(423, None), Some(Error::Locked));
        assert_eq!(of_status(401, None), Some(Error::Unauthorized));
        assert_eq!(of_status(201, None), None);
    }
}
