//! Who may use `/v1`: bearer keys, compared in a time that tells nothing.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    domain::{hex::hex, secret::Secret},
    http::{ApiKey, HASHED},
};

/// The place of the key that was presented. All keys are compared, so that the time does not tell which it is.
pub fn find(keys: &[ApiKey], headers: &HeaderMap) -> Option<usize> {
    let bearer = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, given) = bearer.split_once(' ')?;
    // RFC 9110, section 11.1: the scheme's case does not matter.
    let given = given.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || given.is_empty() {
        return None;
    }
    let is_any_hashed = keys.iter().any(|key| key.key.expose().starts_with(HASHED));
    let digest = if is_any_hashed { hex(&Sha256::digest(given.as_bytes())) } else { String::new() };
    let places = keys.iter().enumerate();
    places.fold(None, |found, (place, key)| if opens(&key.key, given, &digest) { Some(place) } else { found })
}

fn opens(key: &Secret, given: &str, digest: &str) -> bool {
    match key.expose().strip_prefix(HASHED) {
        Some(hashed) => hashed.to_ascii_lowercase().as_bytes().ct_eq(digest.as_bytes()).into(),
        None => key.matches(given),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_plain_or_hashed_and_nothing_else_does() {
        let digest = hex(&Sha256::digest(b"second"));
        let key = |key: &str| ApiKey { key: Secret::new(key), ..ApiKey::default() };
        let keys = [key("first"), key(&format!("sha256:{digest}")), key(""), key("sha256:")];
        let find = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            super::find(&keys, &headers)
        };
        assert_eq!(find("Bearer first"), Some(0));
        assert_eq!(find("bearer  second"), Some(1));
        let hash_itself = format!("Bearer sha256:{digest}");
        for wrong in ["Bearer", "Bearer ", "first", "Basic first", "Bearer firs", "Bearer sha256:", &hash_itself] {
            assert_eq!(find(wrong), None, "{wrong}");
        }
        assert_eq!(super::find(&keys, &HeaderMap::new()), None);
    }
}
