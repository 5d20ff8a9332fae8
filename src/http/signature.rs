//! The signature of Zendesk Support's webhooks ("Verifying and authenticating webhooks", Zendesk developer docs):
//! base64 of HMAC-SHA256 over the timestamp header followed by the raw body, keyed with the secret as text.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::domain::{secret::Secret, time::Timestamp};

/// A signature is good for this long; what is older may be a replay.
pub const WINDOW: Duration = Duration::from_secs(300);

/// Whether one of the secrets signed this. Takes the same time whichever is right. No secret: nothing is.
pub fn is_valid(secrets: &[Secret], timestamp: &str, body: &[u8], signature: &str) -> bool {
    let Ok(given) = STANDARD.decode(signature) else { return false };
    secrets.iter().filter(|secret| !secret.is_empty()).fold(false, |valid, secret| {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes keys of any length");
        mac.update(timestamp.as_bytes());
        mac.update(body);
        // `verify_slice` compares in constant time.
        valid | mac.verify_slice(&given).is_ok()
    })
}

/// Whether a signature made at `timestamp` may still be used at `now`; clocks may differ both ways.
pub fn is_fresh(timestamp: &str, now: Timestamp) -> bool {
    Timestamp::parse(timestamp).is_some_and(|at| now.since(at) <= WINDOW && at.since(now) <= WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(secret: &str, text: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(text);
        STANDARD.encode(mac.finalize().into_bytes())
    }

    #[test]
    fn only_the_secret_as_text_over_timestamp_and_body_is_valid() {
        let secrets = [Secret::new("old"), Secret::new("c2VjcmV0")];
        let signature = sign("c2VjcmV0", b"2026-03-14T09:15:22Z{}\n");
        assert!(is_valid(&secrets, "2026-03-14T09:15:22Z", b"{}\n", &signature));
        assert!(!is_valid(&secrets, "2026-03-14T09:15:22Z", b"{}", &signature), "the trailing newline counts");
        assert!(!is_valid(&secrets, "2026-03-14T09:15:23Z", b"{}\n", &signature));
        assert!(!is_valid(&[], "2026-03-14T09:15:22Z", b"{}\n", &signature));
        assert!(!is_valid(&[Secret::new("")], "", b"", &sign("", b"")), "an empty secret never means open");
    }

    #[test]
    fn a_signature_is_good_for_five_minutes_both_ways() {
        let at = "2026-03-14T09:15:22Z";
        let signed = Timestamp::parse(at).unwrap();
        for (offset, fresh) in [(0, true), (299_000, true), (301_000, false), (-299_000, true), (-301_000, false)] {
            assert_eq!(is_fresh(at, Timestamp(signed.0 + offset)), fresh, "{offset}");
        }
        assert!(!is_fresh("soon", signed));
    }
}
