//! Where a span stands in a trace, as services tell each other (W3C "Trace Context", section 3.2, `traceparent`).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A span of a trace, whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Names the trace; not all zeros.
    pub trace: [u8; 16],
    /// Names the span; not all zeros.
    pub span: [u8; 8],
    /// Whether the trace is recorded for good.
    pub sampled: bool,
}

/// The only flag that version 00 knows.
const SAMPLED: u8 = 1;

impl TraceContext {
    /// The header's name.
    pub const HEADER: &'static str = "traceparent";

    /// Reads a `traceparent`; `None` when it is none, so that a new trace begins. Of a version that is not known the part
    /// is read that version 00 has (section 3.2.4).
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.trim().split('-');
        let mut next = |length: usize| fields.next().filter(|field| field.len() == length);
        let version = bytes::<1>(next(2)?)?[0];
        let (trace, span) = (bytes::<16>(next(32)?)?, bytes::<8>(next(16)?)?);
        let flags = bytes::<1>(next(2)?)?[0];
        let is_whole = version != 0 || fields.next().is_none();
        let names_both = trace != [0; 16] && span != [0; 8];
        (version != 0xff && is_whole && names_both).then_some(Self { trace, span, sampled: flags & SAMPLED != 0 })
    }

    /// The span's name, 16 hexadecimal digits.
    pub fn span_id(&self) -> String {
        format!("{:016x}", u64::from_be_bytes(self.span))
    }

    /// The trace's name, 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace))
    }
}

/// Lower case only (section 3.2.2).
fn bytes<const N: usize>(field: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(field.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace_id(), self.span_id(), u8::from(self.sampled))
    }
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads one that is stored beside something else, which is worth more: what cannot be read is left out.
pub fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TraceContext>, D::Error> {
    let stored = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(stored.as_ref().and_then(serde_json::Value::as_str).and_then(TraceContext::parse))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_read_is_written_alike() {
        for text in [EXAMPLE, "00-0000000000000000000000000000000a-000000000000000b-00"] {
            assert_eq!(TraceContext::parse(text).unwrap().to_string(), text);
        }
        assert!(TraceContext::parse(EXAMPLE).unwrap().sampled);
    }

    #[test]
    fn what_is_no_traceparent_begins_a_new_trace() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
        let newer = format!("cc{}-what-comes-later", &EXAMPLE[2..]);
        assert_eq!(TraceContext::parse(&newer), TraceContext::parse(EXAMPLE));
    }
}
