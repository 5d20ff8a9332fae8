//! Why a delivery or an event is not taken.

/// Why a body is unusable as a whole: Zendesk gets 400 and does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Not JSON, or not a JSON object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// Made by a webhook of API v1 or v1.1.
    #[error("this webhook has schema v1; create it with API v2, whose body has an `events` array")]
    OldSchema,
    /// No `events` array.
    #[error("the body has no `events` array")]
    NoEvents,
}

/// Why an event is left alone; nothing is queued for it and it is no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The label values say it.
pub enum Ignore {
    Activity,
    BusinessAuthor,
    Deleted,
    Delivery,
    EmptyText,
    Lifecycle,
    NotInControl,
    UnknownType,
    UnsupportedContent,
}

/// Why an event is unusable; its bytes go to the dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The label values say it.
pub enum Reject {
    Malformed,
    MissingAuthor,
    MissingContent,
    MissingConversation,
    MissingMessage,
    MissingPayload,
    MissingType,
    NoIdentity,
    WrongType,
}

impl Ignore {
    /// The reason as label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Activity => "activity",
            Self::BusinessAuthor => "business_author",
            Self::Deleted => "deleted",
            Self::Delivery => "delivery",
            Self::EmptyText => "empty_text",
            Self::Lifecycle => "lifecycle",
            Self::NotInControl => "not_in_control",
            Self::UnknownType => "unknown_type",
            Self::UnsupportedContent => "unsupported_content",
        }
    }
}

impl Reject {
    /// The reason as label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::MissingAuthor => "missing_author",
            Self::MissingContent => "missing_content",
            Self::MissingConversation => "missing_conversation",
            Self::MissingMessage => "missing_message",
            Self::MissingPayload => "missing_payload",
            Self::MissingType => "missing_type",
            Self::NoIdentity => "no_identity",
            Self::WrongType => "wrong_type",
        }
    }
}

/// The cause of what is parked because an operator has muted the bot.
pub const MUTED: &str = "muted";

/// The cause of a failure as label value: one of a fixed set, whatever the text says.
pub fn cause(reason: &str) -> &'static str {
    let contains = |text: &str| reason.contains(text);
    if reason.starts_with("muted: ") {
        MUTED
    } else if contains("panic: ") {
        "panic"
    } else if contains("time limit") {
        "time_limit"
    } else if contains("process died") {
        "crash"
    } else if contains("content refused") {
        "content_refused"
    } else if contains("while it answered others") {
        "service_failed_on_it"
    } else if contains("zendesk") {
        "zendesk_refused"
    } else if contains("rejected") || contains("unusable") {
        "rejected"
    } else {
        "error"
    }
}

/// The longest fingerprint, in characters.
const FINGERPRINT_CHARS_MAX: usize = 200;

/// What reasons of the same kind have in common: the text with every number and every id in it left open.
pub fn fingerprint(reason: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in reason.split_whitespace() {
        let is_id = word.len() >= 8 && word.bytes().any(|byte| byte.is_ascii_digit());
        let open = if is_id {
            "#".to_owned()
        } else {
            word.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect()
        };
        words.push(open);
    }
    let mut text = words.join(" ");
    while text.contains("##") {
        text = text.replace("##", "#");
    }
    text.chars().take(FINGERPRINT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_one_kind_have_one_fingerprint() {
        let table = [
            ("panic: index 17 out of bounds", "panic: index 4 out of bounds"),
            (
                "time limit: it took more than 5m, the last of it in ai",
                "time limit: it took more than 300m, the last of it in ai",
            ),
            ("muted: conversation 66f0a1b2c3d4e5f6000003ea", "muted: conversation 66f0a1b2c3d4e5f6000003eb"),
        ];
        for (one, other) in table {
            assert_eq!(fingerprint(one), fingerprint(other));
        }
        assert_ne!(fingerprint("primary: 503"), fingerprint("primary: refused"));
        assert_eq!(fingerprint(&"é ".repeat(5_000)).chars().count(), FINGERPRINT_CHARS_MAX);
    }

    #[test]
    fn what_is_kept_while_the_bot_is_muted_has_a_cause_of_its_own() {
        assert_eq!(cause("muted: all"), MUTED);
        assert_eq!(cause("primary: panic: muted: all"), "panic");
    }
}
