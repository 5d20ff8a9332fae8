//! G7 at Zendesk's side, seen on the wire: what is posted when its API throttles, hangs, cuts connections or lies.

use std::time::Duration;

use tidegate::simulate::{quota::Quota, zendesk::Behaviour};

use crate::{
    recorder::{Recorder, too_early},
    support::{SOON, Scene, eventually},
};

/// A scene whose calls to Zendesk are recorded; `zendesk` is what stands under `[zendesk]`.
async fn recorded(zendesk: &str) -> (Scene, Recorder) {
    let recorder = Recorder::start().await;
    let scene = Scene::with(&format!("[zendesk]\napi_url = '{}/sc'\n{zendesk}\n", recorder.url())).await;
    recorder.aim(&scene.zendesk.url());
    (scene, recorder)
}

async fn say_in_each_of(scene: &Scene, conversations: usize, text: &str) {
    for n in 0..conversations {
        scene.say(&format!("c{n}"), text).await;
    }
}

async fn answered(scene: &Scene, count: u64) {
    scene.settles().await;
    scene.assert_sound();
    assert_eq!(scene.zendesk.stats().judged.answered, count);
    assert_eq!(scene.ai.stats().asked_more_than_once, 0, "the AI is asked once per reply");
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_carry_basic_authentication_and_keep_the_path_of_the_address() {
    let (scene, recorder) = recorded("").await;
    say_in_each_of(&scene, 1, "hello?").await;
    answered(&scene, 1).await;
    eventually("the post is recorded", SOON, async || recorder.posts().len() == 1).await;
    let post = &recorder.posts()[0];
    assert!(post.path.starts_with("/sc/v2/apps/"), "{}", post.path);
    assert_eq!(post.authorization, "Basic YXBwX3NpbXVsYXRlZDpzaW11bGF0ZWQta2V5LXNlY3JldA==");
    assert_eq!(post.body["author"]["type"], "business");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_posted_before_a_retry_after_is_over() {
    let (scene, recorder) = recorded("").await;
    let throttle = Some(Quota { requests: 5, per_ms: 3_000 });
    scene.zendesk.behave(Behaviour { throttle, ..Behaviour::default() });
    say_in_each_of(&scene, 20, "hello?").await;
    answered(&scene, 20).await;
    let posts = recorder.posts();
    assert!(posts.iter().any(|post| post.status == 429), "the quota is too large for this test");
    let early = too_early(&posts, Duration::from_millis(300));
    assert!(early.is_empty(), "{early:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zendesk_that_hangs_gets_no_second_copy() {
    let (scene, _recorder) = recorded("timeout = '500ms'").await;
    scene.zendesk.behave(Behaviour { hang_rate: 0.4, ..Behaviour::default() });
    say_in_each_of(&scene, 12, "hello?").await;
    answered(&scene, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zendesk_that_cuts_connections_for_a_while_is_waited_for() {
    let (scene, _recorder) = recorded("").await;
    scene.zendesk.behave(Behaviour { drop_connection: true, ..Behaviour::default() });
    say_in_each_of(&scene, 6, "hello?").await;
    eventually("all are asked", SOON, async || scene.ai.stats().ok == 6).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.zendesk.behave(Behaviour::default());
    answered(&scene, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_long_reply_stay_whole_and_in_order_whatever_befalls_their_posts() {
    let scene = Scene::with("").await;
    scene.zendesk.behave(Behaviour { store_then_fail_rate: 0.3, error_rate: 0.2, ..Behaviour::default() });
    for n in 0..5 {
        scene.say(&format!("c{n}"), "[[ai:long:9000]]").await;
    }
    eventually("all parts are there", SOON, async || (0..5).all(|n| scene.replies(&format!("c{n}")).len() >= 3)).await;
    scene.settles().await;
    // A copy would come within the time after which an unknown post counts as absent.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for n in 0..5 {
        let posted = scene.zendesk.messages(&format!("c{n}"));
        let parts = posted.iter().filter(|message| message.author == "business");
        let marks: Vec<_> = parts.clone().filter_map(|part| part.metadata.get("tidegate_part")?.as_str()).collect();
        assert_eq!(marks, ["1/3", "2/3", "3/3"], "c{n}");
        let characters: usize = parts.map(|part| part.text.chars().count()).sum();
        // At a cut the white space goes.
        assert!((8_990..=9_000).contains(&characters), "{characters} of 9000 characters");
    }
}
