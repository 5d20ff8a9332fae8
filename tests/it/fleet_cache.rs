//! The cache that several daemons share.

use std::time::Duration;

use tidegate::simulate::ai;

use crate::support::{Fleet, SOON, eventually};

/// The same words each time; with a reference no two texts would be equal.
const WORDS: &str = "what are your opening hours?";

#[tokio::test(flavor = "multi_thread")]
async fn the_same_question_asked_200_times_at_once_on_three_nodes_is_one_call() {
    let fleet = Fleet::with(3, "").await;
    // Long enough for all of them to ask before the first is answered. They come over two seconds: at one moment they would
    // try how long three nodes on one small machine let Redis wait.
    fleet.ai.behave(ai::Behaviour { latency_ms: 3_000, ..ai::Behaviour::default() });
    let conversations: Vec<String> = (0..200).map(|n| format!("c{n}")).collect();
    for some in conversations.chunks(20) {
        futures_util::future::join_all(some.iter().map(|id| fleet.zendesk.say(id, WORDS))).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    eventually("all are answered", SOON, async || {
        let answered = |id: &&String| fleet.zendesk.messages(id).iter().any(|message| message.author == "business");
        conversations.iter().filter(answered).count() == conversations.len()
    })
    .await;
    assert_eq!(fleet.ai.stats().calls, 1, "{}", fleet.logs());
    for daemon in &fleet.daemons {
        let asked = daemon.metric("tidegate_cache_requests_total{tier=\"local\"").await;
        assert!(asked > 10.0, "a node had no part in it: {asked}");
    }
}
