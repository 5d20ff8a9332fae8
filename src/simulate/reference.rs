//! The tokens by which the judge recognises which reply answers which message: `[ref:00001a2b]`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a customer's message, unique within one simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reference(pub u32);

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "[ref:{:08x}]", self.0)
    }
}

impl Reference {
    /// All tokens of a text in their order, each once.
    pub fn find_all(text: &str) -> Vec<Reference> {
        let mut found = Vec::new();
        for rest in text.split("[ref:").skip(1) {
            let Some(reference) = rest.split_once(']').and_then(|(digits, _)| parse(digits)) else { continue };
            if !found.contains(&reference) {
                found.push(reference);
            }
        }
        found
    }
}

fn parse(digits: &str) -> Option<Reference> {
    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !plain || digits.len() > 8 {
        return None;
    }
    u32::from_str_radix(digits, 16).ok().map(Reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_order_and_once() {
        let table: [(&str, &[u32]); 7] = [
            ("no token", &[]),
            ("a [ref:00001a2b] b", &[0x1a2b]),
            ("[ref:2][ref:1] [ref:2]", &[2, 1]),
            ("[ref:] [ref:xyz] [ref:+1]", &[]),
            ("[ref:123456789]", &[]),
            ("cut off [ref:0000", &[]),
            ("[ref:[ref:ff]", &[255]),
        ];
        for (text, wanted) in table {
            let found: Vec<u32> = Reference::find_all(text).into_iter().map(|reference| reference.0).collect();
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn a_written_token_is_found_again() {
        let reference = Reference(0xdead_beef);
        assert_eq!(Reference::find_all(&format!("hello {reference}!")), [reference]);
    }
}
