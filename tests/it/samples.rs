//! Webhook bodies: the samples, each answered as `tests/samples/index.json` says.

use std::{fs, path::PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tidegate::{
    domain::{
        control::Ours,
        event::{Circumstances, Verdict, judge, open},
        job::Kind,
        time::Timestamp,
    },
    simulate::reference::Reference,
};

use crate::support::{
    SOON, Scene, eventually, metric,
    webhooks::{delivery, message, post},
};

const OURS: &str = "[zendesk]\nintegration = 'mavi-bot'\n";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples")
}

fn index() -> Value {
    serde_json::from_slice(&fs::read(folder().join("index.json")).unwrap()).unwrap()
}

/// The body of a sample. The one over the limit is made here, as it was made when the samples were.
fn sample(name: &str) -> Vec<u8> {
    if name == "84-oversize.json" {
        return delivery(&[message("e-over", "m-over", "c-over", &"A".repeat(5 << 19))]).into_bytes();
    }
    fs::read(folder().join(name)).unwrap()
}

fn list<'a>(case: &'a Value, key: &str) -> &'a [Value] {
    case[key].as_array().map_or(&[], Vec::as_slice)
}

fn count(case: &Value, key: &str) -> u64 {
    case[key].as_u64().unwrap()
}

/// Whether a status is the one expected or as good.
fn is_right(case: &Value, status: u16) -> bool {
    case["http_status"] == status || list(case, "http_status_also_ok").contains(&json!(status))
}

/// Forgets everything the daemon has stored.
async fn forget(scene: &mut Scene) {
    scene.daemon.kill();
    fs::remove_dir_all(scene.daemon.data()).unwrap();
    scene.daemon.restart("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_is_answered_as_the_index_says() {
    let mut scene = Scene::with(OURS).await;
    let index = index();
    let cases = list(&index, "cases");
    assert!(cases.len() > 35);
    for case in cases {
        if case.get("step").is_none_or(|step| step == 1) {
            forget(&mut scene).await;
        }
        answered_as_told(&scene, case).await;
    }
}

async fn answered_as_told(scene: &Scene, case: &Value) {
    let name = case["file"].as_str().unwrap();
    let before = scene.daemon.metrics().await;
    let answer = scene.deliver(sample(name)).await;
    assert!(is_right(case, answer.status), "{name}: {answer:?}");
    if answer.status != 200 {
        assert!(
            answer.body["type"].as_str().is_some_and(|kind| kind.starts_with("urn:tidegate:problem:")),
            "{answer:?}"
        );
        return;
    }
    let reasons = |key: &str, known: bool| {
        let reasons = list(case, key).iter().filter_map(|entry| entry["reason"].as_str());
        reasons.filter(|reason| reason.starts_with("duplicate") == known).map(str::to_owned).collect::<Vec<_>>()
    };
    let told = [
        count(case, "accepted_messages") + count(case, "accepted_postbacks"),
        reasons("ignored", true).len() as u64,
        reasons("ignored", false).len() as u64,
        list(case, "rejected").len() as u64,
        list(case, "control_events").len() as u64,
    ];
    if case["http_status"] != 200 {
        // Two ways are good: the whole is refused, or the one event is taken or rejected.
        let [accepted, _, _, rejected, _] = answer.counts();
        assert_eq!(accepted + rejected, 1, "{name}: {answer:?}");
        return;
    }
    assert_eq!(answer.counts(), told, "{name}");
    let after = scene.daemon.metrics().await;
    for (family, key) in [("ignored", "ignored"), ("rejected", "rejected")] {
        for reason in reasons(key, false) {
            let series = format!("tidegate_events_{family}_total{{reason=\"{reason}\"}}");
            let (had, has) = (metric(&before, &series), metric(&after, &series));
            let times = reasons(key, false).iter().filter(|other| **other == reason).count();
            assert!((has - had - times as f64).abs() < 0.5, "{name}: {series} went from {had} to {has}");
        }
    }
    for rejected in list(case, "rejected") {
        let position = rejected["event_index"].as_u64().unwrap() as usize;
        let body = sample(name);
        let raw = open(&body).unwrap().events[position].get().to_owned();
        is_kept(scene, &raw, rejected["reason"].as_str().unwrap()).await;
    }
}

/// The raw bytes of an event lie among the parked, under the name that its digest gives.
pub async fn is_kept(scene: &Scene, raw: &str, reason: &str) {
    let digest: String = Sha256::digest(raw.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = scene.daemon.admin(&format!("/admin/messages/unusable:{digest}")).await;
    assert_eq!((shown["standing"].as_str(), shown["reason"].as_str()), (Some("parked"), Some(reason)), "{shown}");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let queue = Connection::open_with_flags(scene.daemon.data().join("queue.db"), flags).unwrap();
    let sql = "SELECT CAST(body AS TEXT) FROM job WHERE standing = 3 AND conversation = ?1";
    let body: String = queue.query_row(sql, [format!("unusable:{digest}")], |row| row.get(0)).unwrap();
    let job: Value = serde_json::from_str(&body).unwrap();
    assert!(holds(&job, raw), "the raw event is not in {job}");
}

/// Whether some text in here is exactly this.
fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(own) => own == text,
        Value::Array(all) => all.iter().any(|one| holds(one, text)),
        Value::Object(all) => all.values().any(|one| holds(one, text)),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_authenticate_is_answered_as_the_index_says() {
    let (new, old) = ("a-secret-of-tests", "the-secret-before");
    let secrets = format!("webhook_secrets = ['{new}', '{old}']\n");
    let scene = Scene::with(&format!("{OURS}{secrets}")).await;
    let index = index();
    for case in list(&index, "auth_cases") {
        let name = case["name"].as_str().unwrap();
        if name == "queue down" {
            // tests/it/ingress.rs fills queue and disk for that.
            continue;
        }
        let headers = headers(&case["headers"], new, old);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let status = if case["method"] == "GET" {
            reqwest::get(scene.daemon.url("/webhooks/sunshine")).await.unwrap().status().as_u16()
        } else {
            let body = sample(case["file"].as_str().unwrap());
            post(&scene.daemon, "/webhooks/sunshine", &headers, body).await.status
        };
        assert!(is_right(case, status), "{name}: {status}");
    }
}

fn headers(told: &Value, new: &str, old: &str) -> Vec<(String, String)> {
    let filled = |value: &str| value.replace("<secret>", new).replace("<old secret>", old);
    let pair = |name: &str, value: &Value| Some((name.to_owned(), filled(value.as_str()?)));
    match told {
        Value::Object(all) => all.iter().filter_map(|(name, value)| pair(name, value)).collect(),
        all => {
            let pairs = all.as_array().into_iter().flatten();
            pairs.filter_map(|both| pair(both[0].as_str()?, &both[1])).collect()
        }
    }
}

#[test]
fn the_words_of_a_message_are_those_that_the_index_expects() {
    let index = index();
    let mut compared = 0;
    for case in list(&index, "cases") {
        let Some(wanted) = case["text_expected"].as_str() else { continue };
        let body = sample(case["file"].as_str().unwrap());
        let envelope = open(&body).unwrap();
        let ours = Ours { integration: "mavi-bot".into() };
        let around = Circumstances { ours: &ours, now: Timestamp(0), position: 0, app: None };
        let Verdict::Answer(job) = judge(envelope.events[0], &around).verdict else { panic!("{case}") };
        let Kind::Message { text, .. } = job.kind else { panic!("{case}") };
        // What has no words of its own is described by a line in brackets.
        let described = wanted.is_empty() && text.starts_with("[The customer sent an image");
        assert!(text == wanted || described, "{case}: {text}");
        compared += 1;
    }
    assert!(compared >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_events_of_one_body_are_taken_once_and_answered_in_their_order() {
    let scene = Scene::with("").await;
    let conversations = ["c0", "c1", "c2", "c3", "c4"];
    for conversation in conversations {
        scene.say(conversation, "hello").await;
    }
    scene.settles().await;
    let events: Vec<Value> = (0..200)
        .map(|n| {
            let reference = scene.zendesk.next_reference();
            message(&format!("e{n}"), &format!("m{n}"), conversations[n % 5], &format!("number {n} {reference}"))
        })
        .collect();
    let body = delivery(&events);
    assert_eq!(scene.deliver(body.clone()).await.counts(), [200, 0, 0, 0, 0]);
    assert_eq!(scene.deliver(body).await.counts(), [0, 200, 0, 0, 0], "a second copy is known");
    for conversation in conversations {
        let replies = async || scene.replies(conversation);
        eventually("all are answered", SOON, async || replies().await.len() > 40).await;
        let answered: Vec<Reference> = replies().await.iter().flat_map(|text| Reference::find_all(text)).collect();
        assert!(answered.is_sorted() && answered.len() == 41, "{conversation}: {answered:?}");
    }
}
