//! Webhook bodies of the samples' kind, invented: what is good is taken, what is not spoils nothing else.

use serde_json::{Value, json};

use crate::{
    samples::is_kept,
    support::{
        Scene,
        webhooks::{delivery, event, message},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_unusable_as_a_whole_is_refused_for_good() {
    let scene = Scene::with("").await;
    let good = delivery(&[message("e", "m", "c", "hello")]);
    let mut invalid = good.clone().into_bytes();
    invalid.push(0xff);
    let bodies: [(&str, Vec<u8>); 15] = [
        ("nothing", b"".to_vec()),
        ("events null", br#"{"app":{"id":"a"},"events":null}"#.to_vec()),
        ("events text", br#"{"events":"[]"}"#.to_vec()),
        ("no events", br#"{"app":{"id":"a"}}"#.to_vec()),
        ("an array", format!("[{good}]").into_bytes()),
        ("null", b"null".to_vec()),
        ("a number", b"42".to_vec()),
        ("a text", b"\"events\"".to_vec()),
        ("something behind it", format!("{good}{good}").into_bytes()),
        ("cut off", good.as_bytes()[..good.len() - 1].to_vec()),
        ("not UTF-8", invalid),
        ("a byte order mark before it", format!("\u{feff}{good}").into_bytes()),
        ("more events than anybody sends", format!(r#"{{"events":[{}0]}}"#, "0,".repeat(10_000)).into_bytes()),
        ("brackets", b"[".repeat(100_000)),
        ("braces", br#"{"a":"#.repeat(100_000)),
    ];
    for (name, body) in bodies {
        let answer = scene.deliver(body).await;
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
    }
    assert_eq!(scene.deliver(good).await.counts(), [1, 0, 0, 0, 0], "none of these has left a trace");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_event_is_judged_alone_and_its_neighbours_are_taken() {
    let scene = Scene::with("").await;
    for (number, (name, odd, told)) in oddities().into_iter().enumerate() {
        let neighbour = |place: &str| {
            let id = format!("{place}{number}");
            message(&format!("e-{id}"), &format!("m-{id}"), &format!("c-{id}"), "hello").to_string()
        };
        let body = format!(r#"{{"events":[{},{odd},{}]}}"#, neighbour("before"), neighbour("after"));
        let answer = scene.deliver(body).await;
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        let [accepted, duplicate, ignored, rejected, control] = told.counts();
        assert_eq!(answer.counts(), [accepted + 2, duplicate, ignored, rejected, control], "{name}");
        if let Told::Rejected(reason) = told {
            is_kept(&scene, &odd, reason).await;
        }
    }
}

/// What becomes of an odd event.
enum Told {
    Accepted,
    Ignored,
    Rejected(&'static str),
    Control,
}

impl Told {
    fn counts(&self) -> [u64; 5] {
        match self {
            Self::Accepted => [1, 0, 0, 0, 0],
            Self::Ignored => [0, 0, 1, 0, 0],
            Self::Rejected(_) => [0, 0, 0, 1, 0],
            Self::Control => [0, 0, 0, 0, 1],
        }
    }
}

fn oddities() -> Vec<(String, String, Told)> {
    let mut all = not_events();
    all.extend(changed_messages());
    all.extend(other_types());
    all
}

fn not_events() -> Vec<(String, String, Told)> {
    let table = [
        ("7", "wrong_type"),
        ("null", "wrong_type"),
        ("\"conversation:message\"", "wrong_type"),
        ("[{}]", "wrong_type"),
        ("true", "wrong_type"),
        ("{}", "missing_type"),
        (r#"{"id":"x1","type":null}"#, "missing_type"),
        (r#"{"id":"x2","type":7,"payload":{}}"#, "wrong_type"),
        (r#"{"id":"x3","type":"conversation:message","payload":7}"#, "wrong_type"),
        (r#"{"id":"x4","type":"conversation:message"}"#, "missing_payload"),
    ];
    table.into_iter().map(|(raw, reason)| (raw.to_owned(), raw.to_owned(), Told::Rejected(reason))).collect()
}

/// A good message in which one thing is different.
fn changed_messages() -> Vec<(String, String, Told)> {
    use Told::{Accepted, Ignored, Rejected};
    let nested = "[".repeat(20_000) + &"]".repeat(20_000);
    let table: [(&str, &str, Value, Told); 26] = [
        ("numeric event id", "/id", json!(7), Accepted),
        ("event id null", "/id", Value::Null, Accepted),
        ("numeric message id", "/payload/message/id", json!(7), Accepted),
        ("no message id", "/payload/message/id", Value::Null, Accepted),
        ("no conversation", "/payload/conversation", Value::Null, Rejected("missing_conversation")),
        (
            "conversation without id",
            "/payload/conversation",
            json!({ "type": "personal" }),
            Rejected("missing_conversation"),
        ),
        ("conversation a text", "/payload/conversation", json!("c"), Rejected("wrong_type")),
        ("no author", "/payload/message/author", Value::Null, Rejected("missing_author")),
        ("author without type", "/payload/message/author", json!({ "userId": "u" }), Rejected("missing_author")),
        ("author of a new type", "/payload/message/author/type", json!("bot"), Ignored),
        ("no message", "/payload/message", Value::Null, Rejected("missing_message")),
        ("no content", "/payload/message/content", Value::Null, Rejected("missing_content")),
        ("content without type", "/payload/message/content", json!({ "text": "x" }), Rejected("missing_content")),
        ("content a text", "/payload/message/content", json!("x"), Rejected("wrong_type")),
        ("text an object", "/payload/message/content/text", json!({ "en": "x" }), Rejected("wrong_type")),
        ("text of spaces", "/payload/message/content/text", json!(" \n\t "), Ignored),
        ("text with a NUL", "/payload/message/content/text", json!("a\u{0}b"), Accepted),
        ("half a megabyte", "/payload/message/content/text", json!("x".repeat(1 << 19)), Accepted),
        ("a new content type", "/payload/message/content/type", json!("hologram"), Ignored),
        ("odd time", "/payload/message/received", json!("yesterday"), Accepted),
        ("numeric time", "/payload/message/received", json!(1_700_000_000), Accepted),
        ("no creation", "/createdAt", Value::Null, Accepted),
        ("unknown fields", "/payload/message/source", json!({ "x": [1, { "y": null }] }), Accepted),
        ("metadata with our mark", "/payload/message/metadata", json!({ "tidegate_ids": 7 }), Accepted),
        ("empty conversation id", "/payload/conversation/id", json!(""), Rejected("wrong_type")),
        ("deeply nested", "/payload/message/source", json!("NESTED"), Accepted),
    ];
    let mut changed: Vec<_> = table
        .into_iter()
        .enumerate()
        .map(|(number, (name, at, value, told))| {
            let id = format!("odd{number}");
            let mut event = message(&format!("e-{id}"), &format!("m-{id}"), &format!("c-{id}"), "odd");
            set(&mut event, at, value);
            (name.to_owned(), event.to_string().replace("\"NESTED\"", &nested), told)
        })
        .collect();
    let surrogate = message("e-sur", "m-sur", "c-sur", "SURROGATE").to_string().replace("SURROGATE", "\\ud800");
    changed.push(("a lone surrogate".to_owned(), surrogate, Rejected("wrong_type")));
    changed
}

fn set(event: &mut Value, at: &str, value: Value) {
    let (parent, name) = at.rsplit_once('/').unwrap();
    let parent = event.pointer_mut(parent).unwrap_or_else(|| panic!("nothing at {at}"));
    parent[name] = value;
}

fn other_types() -> Vec<(String, String, Told)> {
    use Told::{Control, Ignored, Rejected};
    let conversation = json!({ "conversation": { "id": "c-types" } });
    let user = json!({ "user": { "id": "u-gone" } });
    let report =
        json!({ "conversation": { "id": "c-types" }, "message": { "id": "m-ours" }, "error": { "code": "x" } });
    let table = [
        ("conversation:message:delivery:channel", &report, Ignored),
        ("conversation:message:delivery:user", &report, Ignored),
        ("conversation:message:delivery:failure", &report, Ignored),
        ("conversation:message:delivery:failure", &user, Rejected("missing_conversation")),
        ("conversation:remove", &conversation, Control),
        ("user:remove", &user, Control),
        ("user:remove", &conversation, Rejected("no_identity")),
        ("user:update", &user, Ignored),
        ("client:add", &user, Ignored),
        ("conversation:join", &conversation, Ignored),
        ("conversation:read", &conversation, Ignored),
        ("switchboard:passControl", &conversation, Control),
        ("switchboard:passControl:failure", &conversation, Control),
        ("switchboard:offerControl", &conversation, Control),
        ("switchboard:acceptControl", &conversation, Control),
        ("switchboard:releaseControl", &conversation, Control),
        ("switchboard:passControl", &user, Rejected("missing_conversation")),
        ("conversation:postback", &conversation, Rejected("missing_content")),
        ("conversation:hologram", &conversation, Ignored),
    ];
    let named = |(number, (kind, payload, told)): (usize, (&str, &Value, Told))| {
        (format!("{kind} {payload}"), event(&format!("e-type{number}"), kind, payload).to_string(), told)
    };
    table.into_iter().enumerate().map(named).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubled_key_takes_nothing_twice() {
    let scene = Scene::with("").await;
    let one = message("e", "m", "c", "hello");
    let body = format!(r#"{{"events":[{one}],"events":[{one}]}}"#);
    let answer = scene.deliver(body).await;
    let taken = if answer.status == 200 { answer.counts()[0] } else { 0 };
    assert!(taken <= 1 && [200, 400].contains(&answer.status), "{answer:?}");
    let twice = one.to_string().replacen('{', r#"{"id":"other","#, 1);
    let answer = scene.deliver(format!(r#"{{"events":[{twice}]}}"#)).await;
    assert_eq!(answer.status, 200);
    let [accepted, duplicate, _, rejected, _] = answer.counts();
    assert_eq!(accepted + duplicate + rejected, 1, "{answer:?}");
}
