//! The reply ledger: what was meant, what was made of it, and that both outlive the process.

use super::{BEGIN, Factory, RETENTION, answer, conversation, later, life, message, recall, record, user};
use crate::{
    domain::{
        control::{Control, Holder},
        ids::EventId,
        job::{Job, Kind},
        reply::{Purpose, Reply},
        timeline::{Outcome, Stage, Timeline},
    },
    state::{Claim, Claimed, Life, Ours, Recall, Shared, Turn},
};

pub(in crate::state) async fn an_intent_is_ours_again_with_the_same_words_and_taken_with_others(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let meant = answer("c", &["m1", "m2"], "hello|world", BEGIN);
    assert_eq!(recall(&state, "c", "m1", 0).await, Recall::New);
    assert_eq!(state.intend(&meant, None).await.unwrap(), Claim::Ours);
    drop(state);
    let state = factory.open(RETENTION, later(1)).await;
    for id in ["m1", "m2"] {
        assert_eq!(recall(&state, "c", id, 0).await, Recall::Intended(meant.clone()), "{id}");
        assert_eq!(recall(&state, "c", id, 1).await, Recall::New, "another life of {id}");
    }
    assert_eq!(state.intend(&meant, None).await.unwrap(), Claim::Ours, "posted again after a crash");
    // The words and what they cover are frozen: they may have been posted.
    for other in [
        answer("c", &["m1", "m2"], "other words", BEGIN),
        answer("c", &["m1", "m2"], "hello|wor|ld", BEGIN),
        answer("c", &["m1"], "hello|world", BEGIN),
        answer("c", &["m1", "m2", "m3"], "hello|world", BEGIN),
    ] {
        assert_eq!(state.intend(&other, None).await.unwrap(), Claim::Taken(message("m1")), "{other:?}");
    }
    let overlapping = answer("c", &["m0", "m2"], "hello|world", BEGIN);
    assert_eq!(state.intend(&overlapping, None).await.unwrap(), Claim::Taken(message("m2")));
    for free in ["m0", "m3"] {
        assert_eq!(recall(&state, "c", free, 0).await, Recall::New, "a claim is whole or not at all");
    }
    assert_eq!(recall(&state, "c", "m2", 0).await, Recall::Intended(meant));
}

pub(in crate::state) async fn an_intent_that_is_revoked_leaves_nothing_behind(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let meant = answer("c", &["m1", "m2"], "hello", BEGIN);
    let neighbour = answer("c", &["n"], "hello", BEGIN);
    state.intend(&meant, None).await.unwrap();
    state.intend(&neighbour, None).await.unwrap();
    state.revoke(&meant).await.unwrap();
    for restarted in [false, true] {
        let state = if restarted { factory.open(RETENTION, later(1)).await } else { state.clone() };
        for id in ["m1", "m2"] {
            assert_eq!(recall(&state, "c", id, 0).await, Recall::New, "{id}");
        }
        assert_eq!(recall(&state, "c", "n", 0).await, Recall::Intended(neighbour.clone()));
    }
    let state = factory.open(RETENTION, later(2)).await;
    let other = answer("c", &["m2", "m3"], "other words", BEGIN);
    assert_eq!(state.intend(&other, None).await.unwrap(), Claim::Ours, "free for another reply");
    // What has ended is not undone.
    state.conclude(vec![record("n", "c", Outcome::Replied, later(3), Some(&neighbour))], None, None).await.unwrap();
    state.revoke(&neighbour).await.unwrap();
    assert_eq!(recall(&state, "c", "n", 0).await, Recall::Ended(Outcome::Replied));
    assert_eq!(state.record("n").await.unwrap().unwrap().text.as_deref(), Some("hello"));
}

pub(in crate::state) async fn what_is_said_beside_an_answer_is_said_once(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let answered = answer("c", &["m1"], "hello", BEGIN);
    assert_eq!(state.intend(&answered, None).await.unwrap(), Claim::Ours);
    for purpose in [Purpose::Holding, Purpose::Failure, Purpose::Handoff] {
        let said = Reply { purpose, ..answer("c", &["m1"], "one moment", BEGIN) };
        assert_eq!(state.intend(&said, None).await.unwrap(), Claim::Ours, "{purpose:?}");
        assert_eq!(state.intend(&said, None).await.unwrap(), Claim::Taken(message("m1")), "{purpose:?}");
        let reworded = Reply { purpose, ..answer("c", &["m1"], "other words", BEGIN) };
        assert_eq!(state.intend(&reworded, None).await.unwrap(), Claim::Taken(message("m1")), "{purpose:?}");
    }
    assert_eq!(recall(&state, "c", "m1", 0).await, Recall::Intended(answered), "it covers nothing");
    drop(state);
    let state = factory.open(RETENTION, later(1)).await;
    let said = Reply { purpose: Purpose::Failure, ..answer("c", &["m1"], "one moment", BEGIN) };
    assert_eq!(state.intend(&said, None).await.unwrap(), Claim::Taken(message("m1")), "also after a restart");
}

fn job(id: &str) -> Job {
    let event = EventId::new(&format!("event of {id}")).unwrap();
    Job::new(event, message(id), conversation("c"), Kind::ConversationRemoved, BEGIN)
}

pub(in crate::state) async fn a_new_life_has_an_end_of_its_own(factory: &dyn Factory) {
    let mut state = factory.open(RETENTION, BEGIN).await;
    let ended = |replay, outcome, reply: Option<&Reply>| crate::state::Record {
        replay,
        ..record("m", "c", outcome, later(i64::from(replay)), reply)
    };
    let parked = ended(0, Outcome::Parked, None);
    state.conclude(vec![parked], None, None).await.unwrap();
    assert_eq!(recall(&state, "c", "m", 1).await, Recall::New, "the first life's end is not the second's");
    let mut story = Timeline::default();
    story.note(later(1), Stage::Replayed { replay: 1 });
    state.note_story(&job("m"), 1, &story).await.unwrap();
    for id in ["m", "event of m"] {
        assert_eq!(state.record(id).await.unwrap(), None, "it lives again: {id}");
    }
    assert_eq!(state.story("m").await.unwrap(), Some(story));
    let answer = Reply { replay: 1, ..answer("c", &["m"], "after all", later(2)) };
    assert_eq!(state.intend(&answer, None).await.unwrap(), Claim::Ours);
    let replied = ended(1, Outcome::Replied, Some(&answer));
    state.conclude(vec![replied.clone()], None, None).await.unwrap();
    for restarted in [false, true] {
        if restarted {
            state = factory.open(RETENTION, later(3)).await;
        }
        assert_eq!(recall(&state, "c", "m", 0).await, Recall::Ended(Outcome::Parked));
        assert_eq!(recall(&state, "c", "m", 1).await, Recall::Ended(Outcome::Replied), "a second copy is none");
        let told = crate::state::Record { text: Some("after all".into()), ..replied.clone() };
        for id in ["m", "event of m"] {
            assert_eq!(state.record(id).await.unwrap(), Some(told.clone()), "{id}");
        }
    }
    state.forget_conversation(&conversation("c")).await.unwrap();
    let left = state.record("m").await.unwrap().unwrap();
    assert_eq!((left.replay, left.outcome, left.text), (1, Outcome::Replied, None));
}

pub(in crate::state) async fn who_was_told_is_known_as_told_also_after_a_failed_try(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    for (id, failed_before) in [("fresh", false), ("tried", true)] {
        if failed_before {
            let job = job(id);
            state.note_story(&job, 0, &Timeline::default()).await.unwrap();
        }
        let told = Reply { purpose: Purpose::Handoff, ..answer("c", &[id], "a colleague comes", BEGIN) };
        assert_eq!(recall(&state, "c", id, 0).await, Recall::New);
        state.intend(&told, None).await.unwrap();
        assert_eq!(recall(&state, "c", id, 0).await, Recall::Told(told), "{id}");
    }
}

pub(in crate::state) async fn an_outcome_survives_and_ends_the_claim(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let meant = answer("c", &["m1", "m2"], "hello", BEGIN);
    state.intend(&meant, None).await.unwrap();
    let ends =
        [("m1", Outcome::Replied, Some(&meant)), ("m2", Outcome::Merged, Some(&meant)), ("m3", Outcome::Ignored, None)];
    let records: Vec<_> = ends.map(|(id, outcome, reply)| record(id, "c", outcome, later(1), reply)).into();
    state.conclude(records.clone(), None, None).await.unwrap();
    for restarted in [false, true] {
        let state = if restarted { factory.open(RETENTION, later(2)).await } else { state.clone() };
        for (record, (id, outcome, reply)) in records.iter().zip(ends) {
            assert_eq!(recall(&state, "c", id, 0).await, Recall::Ended(outcome));
            let text = reply.map(Reply::text);
            assert_eq!(state.record(id).await.unwrap().unwrap(), crate::state::Record { text, ..record.clone() });
            let again = answer("c", &["m0", id], "hello", BEGIN);
            assert_eq!(state.intend(&again, None).await.unwrap(), Claim::Taken(message(id)));
        }
    }
}

pub(in crate::state) async fn absence_proves_nothing_about_what_is_older_than_the_ledger(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let first_seen = |ms| Life { first_seen: later(ms), ..life("m", 0) };
    let known = async |state: &Shared, ms| state.recall(&conversation("c"), &first_seen(ms)).await.unwrap();
    assert_eq!(known(&state, -1).await, Recall::Unknown);
    assert_eq!(known(&state, 60_000).await, Recall::New);
    drop(state);
    // Its birth is remembered.
    let state = factory.open(RETENTION, later(100_000)).await;
    assert_eq!(known(&state, 60_000).await, Recall::New);
    let meant = answer("c", &["m"], "hello", BEGIN);
    state.intend(&meant, None).await.unwrap();
    assert_eq!(known(&state, -1).await, Recall::Intended(meant), "what is there is there");
}

fn turn(of: &str, ids: &[&str], ms: i64) -> Turn {
    let lives = ids.iter().map(|id| life(id, 0)).collect();
    Turn { conversation: conversation(of), lives, user: Some(user("u")), recalled: false, now: later(ms) }
}

async fn ours(state: &Shared, turn: &Turn) -> Ours {
    match state.claim(turn).await.unwrap() {
        Claimed::Ours(ours) => ours,
        held => panic!("{held:?}"),
    }
}

pub(in crate::state) async fn a_conversation_is_claimed_with_all_that_there_is_to_know(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let meant = answer("c", &["meant"], "hello", BEGIN);
    state.intend(&meant, None).await.unwrap();
    state.conclude(vec![record("ended", "c", Outcome::Ignored, BEGIN, None)], None, None).await.unwrap();
    let control = Control { holder: Holder::Us, at: BEGIN };
    state.note_control(&conversation("c"), control).await.unwrap();
    let claimed = ours(&state, &turn("c", &["ended", "new", "meant"], 1)).await;
    let expected = [Recall::Ended(Outcome::Ignored), Recall::New, Recall::Intended(meant.clone())];
    assert_eq!(claimed.recalls, expected);
    let remembered = claimed.remembered.expect("it was not recalled before");
    assert_eq!(
        (remembered.control, remembered.user),
        (Some(control), Some(user("u"))),
        "the customer is noted with it"
    );
    assert_eq!(state.conversations_of(&user("u")).await.unwrap(), [conversation("c")]);
    assert!(state.is_ours(&conversation("c"), claimed.fence).await.unwrap());
    let next = answer("c", &["new"], "hello", later(2));
    assert_eq!(state.intend(&next, Some(claimed.fence)).await.unwrap(), Claim::Ours);
    let ended = record("new", "c", Outcome::Replied, later(3), Some(&next));
    state.conclude(vec![ended], None, Some(claimed.fence)).await.unwrap();
    let again = ours(&state, &turn("c", &["new"], 4)).await;
    assert_eq!((again.recalls, again.inherited), (vec![Recall::Ended(Outcome::Replied)], false));
    state.release(&conversation("c"), Some(again.fence)).await.unwrap();
}

pub(in crate::state) async fn a_human_who_holds_the_conversation_keeps_a_reply_from_being_meant(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let claimed = ours(&state, &turn("c", &["m"], 0)).await;
    let control = Control { holder: Holder::Other, at: later(5) };
    state.note_control(&conversation("c"), control).await.unwrap();
    // Older news, which come late.
    state.note_control(&conversation("c"), Control { holder: Holder::Us, at: later(4) }).await.unwrap();
    let meant = answer("c", &["m"], "hello", later(6));
    assert_eq!(state.intend(&meant, Some(claimed.fence)).await.unwrap(), Claim::Human(control));
    assert_eq!(recall(&state, "c", "m", 0).await, Recall::New, "nothing was entered");
    let farewell = Reply { purpose: Purpose::Handoff, ..meant };
    assert_eq!(state.intend(&farewell, None).await.unwrap(), Claim::Ours, "a farewell is no answer");
}
