//! Whose fault a failure is (design rule 11): the one place that decides it.

use std::time::Duration;

/// How asking the AI service failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No connection, or it broke before an answer was complete.
    #[error("connect")]
    Connect,
    /// No answer in time.
    #[error("timeout")]
    Timeout,
    /// No answer in the time that its caller had for it, which is too short to prove anything against the service.
    #[error("given up early")]
    GivenUp,
    /// The service answered with this status (5xx).
    #[error("status {0}")]
    Unavailable(u16),
    /// The service answered 429; how long it asks to wait, if it says so.
    #[error("429")]
    Throttled(Option<Duration>),
    /// The service cannot be used as configured: 401, 402 (its account), 403, 404 (unknown model), 407, no address.
    #[error("unusable: status {0}")]
    Unusable(u16),
    /// The service refuses this request: 400, 413, 422 and other 4xx.
    #[error("rejected: status {0}")]
    Rejected(u16),
    /// The service declines to answer this content.
    #[error("content refused")]
    ContentRefused,
    /// The question has too little time left for a call; nobody was asked.
    #[error("out of time")]
    OutOfTime,
    /// What came is no answer at all, such as a page for maintenance with the status 200.
    #[error("garbled answer")]
    Garbled,
    /// The answer holds no text.
    #[error("unusable answer")]
    UnusableAnswer,
}

/// Who is to blame, and so what happens to the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The service: the message waits and no try is spent.
    Service,
    /// The way the service is set up: the next one of the chain is asked, or the message waits; somebody is alerted.
    Setup,
    /// The message: it goes to the dead letters and a try is spent.
    Message,
    /// The message, beyond hope: it is parked at once.
    Hopeless,
}

/// Says whose fault a failure is.
pub fn blame(failure: &Failure) -> Blame {
    match failure {
        Failure::Connect
        | Failure::Timeout
        | Failure::GivenUp
        | Failure::Unavailable(_)
        | Failure::Throttled(_)
        | Failure::Garbled => Blame::Service,
        Failure::Unusable(_) => Blame::Setup,
        Failure::Rejected(_) | Failure::UnusableAnswer => Blame::Message,
        Failure::ContentRefused | Failure::OutOfTime => Blame::Hopeless,
    }
}

/// After so many failures of the service on one message, while the service answered others, the message itself is
/// taken for the cause (G5).
pub const SERVICE_FAILURES_MAX: u32 = 10;

impl Failure {
    /// The failure a status stands for; `None` for 2xx.
    pub fn of_status(status: u16, retry_after: Option<Duration>) -> Option<Self> {
        match status {
            200..=299 => None,
            408 => Some(Self::Timeout),
            429 => Some(Self::Throttled(retry_after)),
            401..=404 | 407 => Some(Self::Unusable(status)),
            400..=499 => Some(Self::Rejected(status)),
            _ => Some(Self::Unavailable(status)),
        }
    }

    /// The kind as label value (`error_type` of `ai_service_errors_total`).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::GivenUp => "given_up",
            Self::Unavailable(_) => "5xx",
            Self::Throttled(_) => "429",
            Self::Unusable(_) => "unusable",
            Self::Rejected(_) => "4xx",
            Self::ContentRefused => "content_refused",
            Self::OutOfTime => "out_of_time",
            Self::Garbled => "garbled",
            Self::UnusableAnswer => "unusable_answer",
        }
    }

    /// Every kind, for metrics that start at zero.
    pub const KINDS: [&'static str; 11] = [
        "connect",
        "timeout",
        "given_up",
        "5xx",
        "429",
        "unusable",
        "4xx",
        "content_refused",
        "out_of_time",
        "garbled",
        "unusable_answer",
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blame_follows_the_table_of_rule_11() {
        for (status, expected) in [
            (500, Blame::Service),
            (502, Blame::Service),
            (503, Blame::Service),
            (429, Blame::Service),
            (408, Blame::Service),
            (401, Blame::Setup),
            (402, Blame::Setup),
            (407, Blame::Setup),
            (403, Blame::Setup),
            (404, Blame::Setup),
            (400, Blame::Message),
            (413, Blame::Message),
            (422, Blame::Message),
        ] {
            let failure = Failure::of_status(status, None).unwrap();
            assert_eq!(blame(&failure), expected, "{status}");
            assert!(Failure::KINDS.contains(&failure.kind()));
        }
        assert_eq!(blame(&Failure::ContentRefused), Blame::Hopeless);
        assert_eq!(blame(&Failure::UnusableAnswer), Blame::Message);
        assert_eq!(blame(&Failure::Garbled), Blame::Service, "an outage that answers parks nobody's message");
        assert_eq!(Failure::of_status(201, None), None);
    }
}
