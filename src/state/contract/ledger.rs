//! The reply ledger: what was meant, what was made of it, and that both outlive the process.

use super::{BEGIN, Factory, RETENTION, answer, conversation, later, message, record};
use crate::{
    domain::{
        ids::EventId,
        job::{Job, Kind},
        reply::{Purpose, Reply},
        timeline::{Outcome, Timeline},
    },
    state::{Claim, Recall},
};

pub(in crate::state) async fn an_intent_is_ours_again_with_the_same_words_and_taken_with_others(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let meant = answer("c", &["m1", "m2"], "hello|world", BEGIN);
    assert_eq!(state.recall(&message("m1"), 0).await.unwrap(), Recall::Unknown);
    assert_eq!(state.intend(&meant).await.unwrap(), Claim::Ours);
    drop(state);
    let state = factory.open(RETENTION, later(1)).await;
    for id in ["m1", "m2"] {
        assert_eq!(state.recall(&message(id), 0).await.unwrap(), Recall::Intended(meant.clone()), "{id}");
        assert_eq!(state.recall(&message(id), 1).await.unwrap(), Recall::Unknown, "another life of {id}");
    }
    assert_eq!(state.intend(&meant).await.unwrap(), Claim::Ours, "posted again after a crash");
    // The words and what they cover are frozen: they may have been posted.
    for other in [
        answer("c", &["m1", "m2"], "other words", BEGIN),
        answer("c", &["m1", "m2"], "hello|wor|ld", BEGIN),
        answer("c", &["m1"], "hello|world", BEGIN),
        answer("c", &["m1", "m2", "m3"], "hello|world", BEGIN),
    ] {
        assert_eq!(state.intend(&other).await.unwrap(), Claim::Taken(message("m1")), "{other:?}");
    }
    let overlapping = answer("c", &["m0", "m2"], "hello|world", BEGIN);
    assert_eq!(state.intend(&overlapping).await.unwrap(), Claim::Taken(message("m2")));
    for free in ["m0", "m3"] {
        assert_eq!(state.recall(&message(free), 0).await.unwrap(), Recall::Unknown, "a claim is whole or not at all");
    }
    assert_eq!(state.recall(&message("m2"), 0).await.unwrap(), Recall::Intended(meant));
}

pub(in crate::state) async fn an_intent_that_is_revoked_leaves_nothing_behind(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let meant = answer("c", &["m1", "m2"], "hello", BEGIN);
    let neighbour = answer("c", &["n"], "hello", BEGIN);
    state.intend(&meant).await.unwrap();
    state.intend(&neighbour).await.unwrap();
    state.revoke(&meant).await.unwrap();
    for restarted in [false, true] {
        let state = if restarted { factory.open(RETENTION, later(1)).await } else { state.clone() };
        for id in ["m1", "m2"] {
            assert_eq!(state.recall(&message(id), 0).await.unwrap(), Recall::Unknown, "{id}");
        }
        assert_eq!(state.recall(&message("n"), 0).await.unwrap(), Recall::Intended(neighbour.clone()));
    }
    let state = factory.open(RETENTION, later(2)).await;
    let other = answer("c", &["m2", "m3"], "other words", BEGIN);
    assert_eq!(state.intend(&other).await.unwrap(), Claim::Ours, "free for another reply");
    // What has ended is not undone.
    state.conclude(vec![record("n", "c", Outcome::Replied, later(3), Some(&neighbour))], None).await.unwrap();
    state.revoke(&neighbour).await.unwrap();
    assert_eq!(state.recall(&message("n"), 0).await.unwrap(), Recall::Ended(Outcome::Replied));
    assert_eq!(state.record("n").await.unwrap().unwrap().text.as_deref(), Some("hello"));
}

pub(in crate::state) async fn what_is_said_beside_an_answer_is_said_once(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let answered = answer("c", &["m1"], "hello", BEGIN);
    assert_eq!(state.intend(&answered).await.unwrap(), Claim::Ours);
    for purpose in [Purpose::Holding, Purpose::Failure, Purpose::Handoff] {
        let said = Reply { purpose, ..answer("c", &["m1"], "one moment", BEGIN) };
        assert_eq!(state.intend(&said).await.unwrap(), Claim::Ours, "{purpose:?}");
        assert_eq!(state.intend(&said).await.unwrap(), Claim::Taken(message("m1")), "{purpose:?}");
        let reworded = Reply { purpose, ..answer("c", &["m1"], "other words", BEGIN) };
        assert_eq!(state.intend(&reworded).await.unwrap(), Claim::Taken(message("m1")), "{purpose:?}");
    }
    assert_eq!(state.recall(&message("m1"), 0).await.unwrap(), Recall::Intended(answered), "it covers nothing");
    drop(state);
    let state = factory.open(RETENTION, later(1)).await;
    let said = Reply { purpose: Purpose::Failure, ..answer("c", &["m1"], "one moment", BEGIN) };
    assert_eq!(state.intend(&said).await.unwrap(), Claim::Taken(message("m1")), "also after a restart");
}

pub(in crate::state) async fn who_was_told_is_known_as_told_also_after_a_failed_try(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    for (id, failed_before) in [("fresh", false), ("tried", true)] {
        if failed_before {
            let job = Job {
                v: Job::VERSION,
                id: EventId::new(&format!("e{id}")).unwrap(),
                message: message(id),
                conversation: conversation("c"),
                app: None,
                brand: None,
                kind: Kind::ConversationRemoved,
                received: BEGIN,
                position: 0,
                first_seen: BEGIN,
            };
            state.note_story(&job, &Timeline::default()).await.unwrap();
        }
        let told = Reply { purpose: Purpose::Handoff, ..answer("c", &[id], "a colleague comes", BEGIN) };
        assert_eq!(state.recall(&message(id), 0).await.unwrap(), Recall::Unknown);
        state.intend(&told).await.unwrap();
        assert_eq!(state.recall(&message(id), 0).await.unwrap(), Recall::Told(told), "{id}");
    }
}

pub(in crate::state) async fn an_outcome_survives_and_ends_the_claim(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let meant = answer("c", &["m1", "m2"], "hello", BEGIN);
    state.intend(&meant).await.unwrap();
    let ends =
        [("m1", Outcome::Replied, Some(&meant)), ("m2", Outcome::Merged, Some(&meant)), ("m3", Outcome::Ignored, None)];
    let records: Vec<_> = ends.map(|(id, outcome, reply)| record(id, "c", outcome, later(1), reply)).into();
    state.conclude(records.clone(), None).await.unwrap();
    for restarted in [false, true] {
        let state = if restarted { factory.open(RETENTION, later(2)).await } else { state.clone() };
        for (record, (id, outcome, reply)) in records.iter().zip(ends) {
            assert_eq!(state.recall(&message(id), 0).await.unwrap(), Recall::Ended(outcome));
            let text = reply.map(Reply::text);
            assert_eq!(state.record(id).await.unwrap().unwrap(), crate::state::Record { text, ..record.clone() });
            let again = answer("c", &["m0", id], "hello", BEGIN);
            assert_eq!(state.intend(&again).await.unwrap(), Claim::Taken(message(id)));
        }
    }
}

pub(in crate::state) async fn the_birth_of_the_ledger_is_remembered(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    assert_eq!(state.born(), BEGIN);
    drop(state);
    for n in 1..3 {
        assert_eq!(factory.open(RETENTION, later(n)).await.born(), BEGIN);
    }
}
