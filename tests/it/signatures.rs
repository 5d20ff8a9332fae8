//! Zendesk Support's webhooks: only what a configured secret has signed within the last five minutes is taken.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use time::{Duration as Span, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::support::{
    SOON, Scene, eventually,
    webhooks::{Answer, post},
};

const PATH: &str = "/webhooks/zendesk";
const SIGNATURE: &str = "x-zendesk-webhook-signature";
const TIMESTAMP: &str = "x-zendesk-webhook-signature-timestamp";
const INVOCATION: &str = "x-zendesk-webhook-invocation-id";

/// One sample of a signed webhook.
struct Vector {
    name: String,
    secret: String,
    timestamp: String,
    signature: String,
    body: Vec<u8>,
    valid: bool,
}

fn vectors() -> Vec<Vector> {
    let file: Value = serde_json::from_str(include_str!("../samples/support-vectors.json")).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let vector = |told: &Value| Vector {
        name: text(&told["name"]),
        secret: text(&told["secret"]),
        timestamp: text(&told["headers"]["X-Zendesk-Webhook-Signature-Timestamp"]),
        signature: text(&told["headers"]["X-Zendesk-Webhook-Signature"]),
        body: STANDARD.decode(text(&told["body_base64"])).unwrap(),
        valid: told["valid"].as_bool().unwrap(),
    };
    file["vectors"].as_array().unwrap().iter().map(vector).collect()
}

fn mac(key: &[u8], timestamp: &str, body: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(timestamp.as_bytes());
    mac.update(body);
    mac.finalize().into_bytes().to_vec()
}

fn sign(secret: &str, timestamp: &str, body: &[u8]) -> String {
    STANDARD.encode(mac(secret.as_bytes(), timestamp, body))
}

/// A timestamp of now and the signature of a body.
pub fn signed(secret: &str, body: &[u8]) -> (String, String) {
    let timestamp = now();
    let signature = sign(secret, &timestamp, body);
    (timestamp, signature)
}

/// The time so far from now, as Zendesk writes it.
fn at(offset: Span) -> String {
    (OffsetDateTime::now_utc() + offset).replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap()
}

fn now() -> String {
    at(Span::ZERO)
}

async fn trusting(secrets: &[&str]) -> Scene {
    let secrets: Vec<String> = secrets.iter().map(|secret| format!("'{secret}'")).collect();
    Scene::with(&format!("[zendesk]\nsupport_webhook_secrets = [{}]\n", secrets.join(", "))).await
}

async fn send(scene: &Scene, invocation: &str, timestamp: &str, signature: &str, body: &[u8]) -> Answer {
    let headers = [(SIGNATURE, signature), (TIMESTAMP, timestamp), (INVOCATION, invocation)];
    post(&scene.daemon, PATH, &headers, body.to_vec()).await
}

/// The rule by which these tests sign is Zendesk's: it makes the signatures of the samples.
#[test]
fn the_samples_are_signed_by_the_rule_that_is_tested_here() {
    for vector in vectors() {
        let signed = sign(&vector.secret, &vector.timestamp, &vector.body) == vector.signature;
        assert_eq!(signed, vector.valid, "{}", vector.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_that_is_signed_afresh_is_taken_and_none_that_is_old() {
    let secret = vectors().remove(0).secret;
    let scene = trusting(&["another-secret", &secret]).await;
    for (number, vector) in vectors().into_iter().enumerate() {
        let old = send(&scene, "old", &vector.timestamp, &vector.signature, &vector.body).await;
        assert_eq!(old.status, 401, "{}", vector.name);
        let timestamp = now();
        let signature = sign(&vector.secret, &timestamp, &vector.body);
        let fresh = send(&scene, &format!("i{number}"), &timestamp, &signature, &vector.body).await;
        assert_eq!(fresh.status, 200, "{}: {fresh:?}", vector.name);
        assert_eq!(fresh.counts(), [0, 0, 0, 0, 1], "{}", vector.name);
        let again = send(&scene, &format!("i{number}"), &timestamp, &signature, &vector.body).await;
        assert_eq!(again.counts(), [0, 1, 0, 0, 0], "{}: a second copy is known", vector.name);
        let path = format!("/admin/messages/support:i{number}");
        eventually("it ends", SOON, async || scene.daemon.admin(&path).await["state"] == "ended").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_signed_wrongly_is_refused() {
    let secret = vectors().remove(0).secret;
    let body: &[u8] = br#"{"id":"1","type":"zen:event-type:ticket.created"}"#;
    let scene = trusting(&[&secret]).await;
    let timestamp = now();
    let right = sign(&secret, &timestamp, body);
    let decoded = STANDARD.decode(&secret).unwrap();
    let hex: String = mac(secret.as_bytes(), &timestamp, body).iter().map(|byte| format!("{byte:02x}")).collect();
    let without_body = sign(&secret, &timestamp, b"");
    let behind = sign(&secret, "", &[body, timestamp.as_bytes()].concat());
    let short = STANDARD.encode(&mac(secret.as_bytes(), &timestamp, body)[..16]);
    let table: [(&str, &str, &[u8]); 11] = [
        ("another body", &right, br#"{"id": "1", "type": "zen:event-type:ticket.created"}"#),
        ("a newline more", &right, b"{\"id\":\"1\",\"type\":\"zen:event-type:ticket.created\"}\n"),
        ("no body", &right, b""),
        ("the secret decoded before use", &STANDARD.encode(mac(&decoded, &timestamp, body)), body),
        ("hex", &hex, body),
        ("the timestamp alone", &without_body, body),
        ("the timestamp behind the body", &behind, body),
        ("cut off", &short, body),
        ("another secret", &sign("secret", &timestamp, body), body),
        ("no base64", "!!!", body),
        ("empty", "", body),
    ];
    for (name, signature, sent) in table {
        let answer = send(&scene, "wrong", &timestamp, signature, sent).await;
        assert_eq!(answer.status, 401, "{name}: {answer:?}");
    }
    let moved = at(Span::seconds(-30));
    assert_eq!(send(&scene, "wrong", &moved, &right, body).await.status, 401, "another timestamp than the signed one");
    for headers in [vec![(SIGNATURE, right.as_str())], vec![(TIMESTAMP, timestamp.as_str())], vec![]] {
        assert_eq!(post(&scene.daemon, PATH, &headers, body.to_vec()).await.status, 401, "{headers:?}");
    }
    let right = send(&scene, "right", &timestamp, &right, body).await;
    assert_eq!(right.counts(), [0, 0, 0, 0, 1], "what is right is taken: {right:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_good_for_five_minutes() {
    let scene = trusting(&["s"]).await;
    let table = [(-290, 200), (-310, 401), (290, 200), (310, 401), (-86_400, 401)];
    for (number, (seconds, status)) in table.into_iter().enumerate() {
        let timestamp = at(Span::seconds(seconds));
        let signature = sign("s", &timestamp, b"{}");
        let answer = send(&scene, &format!("w{number}"), &timestamp, &signature, b"{}").await;
        assert_eq!(answer.status, status, "{seconds} s away: {answer:?}");
    }
    for odd in ["soon", "", "1773479722", "2026-03-14"] {
        let answer = send(&scene, "odd", odd, &sign("s", odd, b"{}"), b"{}").await;
        assert_eq!(answer.status, 401, "{odd}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_an_empty_secret_let_nobody_in() {
    let timestamp = now();
    let scene = Scene::with("").await;
    for secret in ["", "s"] {
        let signature = sign(secret, &timestamp, b"{}");
        assert_eq!(send(&scene, "i", &timestamp, &signature, b"{}").await.status, 401, "secret {secret:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_secrets_count_during_a_rotation() {
    let scene = trusting(&["new", "old"]).await;
    for secret in ["new", "old"] {
        let timestamp = now();
        let answer = send(&scene, secret, &timestamp, &sign(secret, &timestamp, b"{}"), b"{}").await;
        assert_eq!(answer.counts(), [0, 0, 0, 0, 1], "{secret}: {answer:?}");
    }
}
