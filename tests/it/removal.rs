//! A customer is removed: their words are nowhere any more, wherever they were, and others' are untouched.

use std::{fs, path::Path};

use rusqlite::Connection;
use tidegate::simulate::zendesk::Holder;

use crate::support::{SOON, Scene, eventually, in_rabbitmq};

/// One message for each place where words can lie, of customers who are removed and of customers who stay.
/// How it gets there, and how that shows.
const PLACES: [(&str, &str, &str, &str); 5] = [
    ("parked", "[[ai:refuse]]", "outcome", "parked"),
    ("delayed", "[[ai:400]]", "standing", "delayed"),
    ("answered", "", "outcome", "replied"),
    ("handed over", "speak to a person", "outcome", "handed_over"),
    ("in hand", "[[ai:slow:4000]]", "phase", "ai"),
];

fn words(who: &str, place: &str) -> String {
    format!("swordfish of {who} who is {place}")
}

/// Says a message for each place; their ids in the order of the places. What is in hand comes last.
async fn say_everywhere(scene: &Scene) -> [Vec<String>; 2] {
    let mut messages = [Vec::new(), Vec::new()];
    for (place, how, pointer, expected) in PLACES {
        for (who, messages) in ["stays", "gone"].into_iter().zip(&mut messages) {
            messages.push(scene.say(&format!("{who} {place}"), &format!("{how} {}", words(who, place))).await);
        }
        for message in messages.iter().filter_map(|messages| messages.last()) {
            eventually(&format!("a message is {place}"), SOON, async || {
                scene.daemon.admin(&format!("/admin/messages/{message}")).await[pointer] == expected
            })
            .await;
        }
    }
    messages
}

/// Whether a text lies anywhere in a folder's files.
fn lies_in(folder: &Path, text: &str) -> bool {
    let holds = |path: &Path| fs::read(path).unwrap().windows(text.len()).any(|bytes| bytes == text.as_bytes());
    fs::read_dir(folder).unwrap().any(|entry| holds(&entry.unwrap().path()))
}

/// What is still known of what was said about a message.
fn said_about(data: &Path, message: &str) -> u32 {
    let state = Connection::open(data.join("state.db")).unwrap();
    let said = "SELECT count(*) FROM reply WHERE body IS NOT NULL AND (key = ?1 OR key LIKE ?1 || '#%')";
    state.query_row(said, [message], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_a_removed_customer_are_nowhere_and_others_are_untouched() {
    let config = "[chat]\nhandoff_phrases = ['speak to a person']\n[retry]\nbase = '300s'\n";
    let mut scene = Scene::with(config).await;
    let [staying, gone] = say_everywhere(&scene).await;
    for (place, ..) in PLACES {
        assert!(scene.zendesk.remove_user(&format!("gone {place}")).await);
    }
    for (message, outcome) in gone.iter().zip(["discarded", "discarded", "replied", "handed_over", "ignored"]) {
        eventually(&format!("{message} has ended"), SOON, async || {
            let told = scene.daemon.admin(&format!("/admin/messages/{message}")).await;
            let (_, task) = scene.daemon.task(message).await;
            told["outcome"] == outcome
                && told["timeline"].as_array().is_none_or(Vec::is_empty)
                && task["result"].is_null()
        })
        .await;
    }
    assert!(scene.replies("gone in hand").is_empty(), "a removed customer is not answered");
    assert_eq!(scene.zendesk.holder("stays parked"), Some(Holder::Agent));
    eventually("the one in hand who stays is answered", SOON, async || scene.replies("stays in hand").len() == 1).await;
    // The parked one was counted when it was parked, and is not counted again.
    let discarded = scene.daemon.metric("tidegate_messages_total{lane=\"chat\",outcome=\"discarded\"}").await;
    assert!((discarded - 1.0).abs() < 0.5, "{discarded}");
    let queues = scene.daemon.admin("/admin/queues").await;
    assert_eq!((&queues["chat"]["parked"], &queues["chat"]["delayed"]), (&1.into(), &1.into()), "{queues}");
    scene.daemon.terminate();
    eventually("it ends", SOON, async || scene.daemon.ended().is_some()).await;
    let data = scene.daemon.data();
    for (place, ..) in PLACES {
        assert!(!lies_in(&data, &words("gone", place)), "{place}");
    }
    assert!(gone.iter().all(|message| said_about(&data, message) == 0));
    for place in ["parked", "delayed", "answered"] {
        assert!(lies_in(&data, &words("stays", place)), "{place}");
    }
    assert!(staying.iter().any(|message| said_about(&data, message) > 0));
    // What stays delayed is delivered after all.
    scene.daemon.restart("").await;
    let delayed = scene.daemon.admin(&format!("/admin/messages/{}", staying[1])).await;
    assert_eq!((&delayed["standing"], &delayed["tries"]), (&"delayed".into(), &1.into()), "{delayed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_customer_is_removed_from_rabbitmq_and_others_are_untouched() {
    let config = format!("[retry]\nbase = '300s'\n{}", in_rabbitmq());
    let scene = Scene::with(&config).await;
    let mut messages = Vec::new();
    // Parked, and waiting for its next try.
    for (place, how, pointer, expected) in
        [("parked", "[[ai:refuse]]", "outcome", "parked"), ("tried", "[[ai:400]]", "", "")]
    {
        for who in ["stays", "gone"] {
            let message = scene.say(&format!("{who} {place}"), &format!("{how} {}", words(who, place))).await;
            if !pointer.is_empty() {
                eventually("it is parked", SOON, async || {
                    scene.daemon.admin(&format!("/admin/messages/{message}")).await[pointer] == expected
                })
                .await;
            }
            messages.push(message);
        }
    }
    let delayed = async || scene.daemon.admin("/admin/queues").await["chat"]["delayed"] == 2;
    eventually("both wait for their next try", SOON, delayed).await;
    for place in ["parked", "tried"] {
        assert!(scene.zendesk.remove_user(&format!("gone {place}")).await);
    }
    for gone in [&messages[1], &messages[3]] {
        eventually("it is discarded", SOON, async || {
            scene.daemon.admin(&format!("/admin/messages/{gone}")).await["outcome"] == "discarded"
        })
        .await;
    }
    let left = scene.daemon.admin("/admin/dead-letters").await;
    let left: Vec<_> = left["letters"].as_array().into_iter().flatten().map(|it| it["message_id"].clone()).collect();
    assert_eq!(left, [messages[0].as_str()]);
    let counted = async || {
        let chat = scene.daemon.admin("/admin/queues").await["chat"].clone();
        (&chat["parked"], &chat["delayed"]) == (&1.into(), &1.into())
    };
    eventually("the one who stays is where they were", SOON, counted).await;
}
