//! Bytes as people and names write them.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Two lower-case digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    hex_after("", bytes)
}

/// The same behind a text.
pub fn hex_after(before: &str, bytes: &[u8]) -> String {
    let mut text = String::with_capacity(before.len() + bytes.len() * 2);
    text.push_str(before);
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    text.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    text
}

#[cfg(test)]
mod tests {
    use super::{hex, hex_after};

    #[test]
    fn each_byte_has_two_digits() {
        assert_eq!((hex(&[]), hex(&[0, 10, 255])), (String::new(), "000aff".to_owned()));
        assert_eq!(hex_after("id-", &[1, 171]), "id-01ab");
    }
}
