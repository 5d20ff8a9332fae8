//! Identities that come from Zendesk. They are opaque: nothing is read out of them but equality and a hash.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest identity taken, in bytes. Zendesk's are 24 hexadecimal characters; channels bring longer ones.
pub const ID_BYTES_MAX: usize = 256;

/// Says that a text cannot be an identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an id is 1 to {ID_BYTES_MAX} bytes without control characters")]
pub struct Invalid;

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text as an identity; empty, overlong or unprintable ones are refused.
            pub fn new(text: &str) -> Result<Self, Invalid> {
                let usable = !text.is_empty() && text.len() <= ID_BYTES_MAX && !text.chars().any(char::is_control);
                if usable { Ok(Self(text.into())) } else { Err(Invalid) }
            }

            /// The identity as it was received.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                Self::new(&text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

identity! {
    /// Identifies one webhook event; the same event delivered twice has the same id.
    EventId
}
identity! {
    /// Identifies one message in Zendesk; two webhooks on one app bring it under different event ids.
    MessageId
}
identity! {
    /// Identifies one conversation.
    ConversationId
}
identity! {
    /// Identifies one customer.
    UserId
}

impl ConversationId {
    /// The partition of this conversation among `count`: FNV-1a over the id, the same on every node and in every version.
    pub fn partition(&self, count: u32) -> u32 {
        let hash = self
            .0
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        // The high bits of FNV-1a mix better than the low ones for ids that differ in their last characters.
        ((hash ^ (hash >> 32)) % u64::from(count.max(1))) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_refused_when_empty_overlong_or_unprintable() {
        assert!(EventId::new("66f0a1b2c3d4e5f6000003ea").is_ok());
        for wrong in ["", "a\nb", "a\0b", &"x".repeat(ID_BYTES_MAX + 1)] {
            assert_eq!(EventId::new(wrong), Err(Invalid));
        }
        assert!(serde_json::from_str::<EventId>("\"\"").is_err());
    }

    #[test]
    fn partitions_are_stable_and_even() {
        let mut counts = [0_u32; 16];
        for n in 0..16_000 {
            let id = ConversationId::new(&format!("66f0a1b2c3d4e5f6{n:08x}")).unwrap();
            counts[id.partition(16) as usize] += 1;
        }
        assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
        assert_eq!(
            ConversationId::new("66f0a1b2c3d4e5f600000064").unwrap().partition(16),
            6,
            "on every node, in every version"
        );
    }
}
