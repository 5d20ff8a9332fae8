//! What is kept, for how long, and how it is forgotten.

use futures_util::{StreamExt, stream};

use super::{BEGIN, DAY_MS, Factory, RETENTION, answer, conversation, later, message, recall, record, user};
use crate::{
    domain::{
        control::{Control, Holder},
        prompt::{History, Role},
        reply::{Purpose, Reply},
        timeline::Outcome,
    },
    state::{Away, Claim, Recall, Remembered, Shared},
};

fn words(text: &str) -> History {
    let mut said = History::default();
    said.add(Role::User, text, 20);
    said
}

/// A message answered in the ordinary way.
async fn answered(state: &Shared, id: &str, of: &str, at: crate::domain::time::Timestamp) {
    let reply = answer(of, &[id], &format!("answer to {id}"), at);
    assert_eq!(state.intend(&reply, None).await.unwrap(), Claim::Ours);
    let ended = record(id, of, Outcome::Replied, at, Some(&reply));
    state.conclude(vec![ended], Some(words(&format!("answered {id}"))), None).await.unwrap();
}

/// Noted on receipt, and again in its turn.
async fn held_by_us(state: &Shared, of: &str) {
    for _ in 0..2 {
        state.note_control(&conversation(of), Control { holder: Holder::Us, at: BEGIN }).await.unwrap();
    }
}

async fn text_of(state: &Shared, id: &str) -> Option<String> {
    state.record(id).await.unwrap().and_then(|record| record.text)
}

pub(in crate::state) async fn the_messages_of_a_conversation_are_told_newest_first(factory: &dyn Factory) {
    let state = factory.fresh().await;
    assert_eq!(state.messages_of(&conversation("c"), 9).await.unwrap(), []);
    let mut ended = Vec::new();
    for n in 1..=4 {
        let reply = answer("c", &[&format!("m{n}")], "hello", later(n));
        state.intend(&reply, None).await.unwrap();
        ended.push(record(&format!("m{n}"), "c", Outcome::Replied, later(n), Some(&reply)));
        state.conclude(vec![ended[n as usize - 1].clone()], None, None).await.unwrap();
    }
    state.conclude(vec![record("other", "d", Outcome::Replied, later(9), None)], None, None).await.unwrap();
    state.intend(&answer("c", &["open"], "not said yet", later(8)), None).await.unwrap();
    ended.reverse();
    assert_eq!(state.messages_of(&conversation("c"), 9).await.unwrap(), ended);
    assert_eq!(state.messages_of(&conversation("c"), 2).await.unwrap(), ended[..2]);
    state.forget_conversation(&conversation("c")).await.unwrap();
    assert_eq!(state.messages_of(&conversation("c"), 9).await.unwrap(), [], "forgotten with its customer");
}

pub(in crate::state) async fn a_record_is_found_by_message_and_by_event(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    answered(&state, "m", "c", BEGIN).await;
    // An event that came without an id is named like its message.
    let mut nameless = record("n", "c", Outcome::Ignored, BEGIN, None);
    nameless.id = crate::domain::ids::EventId::new("n").unwrap();
    state.conclude(vec![nameless.clone()], None, None).await.unwrap();
    let by_message = state.record("m").await.unwrap().expect("by message");
    assert_eq!(by_message.text.as_deref(), Some("answer to m"));
    assert_eq!(state.record("event of m").await.unwrap(), Some(by_message));
    assert_eq!(state.record("n").await.unwrap(), Some(nameless));
    state.intend(&answer("c", &["meant"], "hello", BEGIN), None).await.unwrap();
    for unknown in ["unheard of", "meant"] {
        assert_eq!(state.record(unknown).await.unwrap(), None, "{unknown} has not ended");
    }
}

pub(in crate::state) async fn tidying_takes_texts_first_then_all_and_never_what_has_not_ended(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let meant = answer("c", &["meant"], "not posted yet", BEGIN);
    state.intend(&meant, None).await.unwrap();
    answered(&state, "old", "old", BEGIN).await;
    answered(&state, "young", "young", later(5 * DAY_MS)).await;
    let tidy = async |days: i64, ms: i64| state.tidy(later(days * DAY_MS + ms)).await.unwrap();
    tidy(1, -1).await;
    assert_eq!(text_of(&state, "old").await.as_deref(), Some("answer to old"), "too early");
    tidy(1, 1).await;
    assert_eq!(text_of(&state, "old").await, None);
    assert_eq!(recall(&state, "old", "old", 0).await, Recall::Ended(Outcome::Replied), "without its text");
    assert_eq!(text_of(&state, "young").await.as_deref(), Some("answer to young"));
    tidy(7, -1).await;
    assert!(state.record("old").await.unwrap().is_some(), "too early");
    tidy(7, 1).await;
    assert_eq!(state.record("old").await.unwrap(), None);
    assert_eq!(state.remembered(&conversation("old")).await.unwrap().history, None);
    assert!(state.remembered(&conversation("young")).await.unwrap().history.is_some());
    tidy(100, 0).await;
    assert_eq!(state.record("young").await.unwrap(), None);
    assert_eq!(recall(&state, "c", "meant", 0).await, Recall::Intended(meant), "however old it is");
}

pub(in crate::state) async fn however_much_is_old_one_tidying_takes_it_all(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let ids: Vec<String> = (0..5_000).map(|n| format!("m{n}")).collect();
    let all = stream::iter(&ids).for_each_concurrent(16, |id| answered(&state, id, "c", BEGIN));
    all.await;
    state.tidy(later(2 * DAY_MS)).await.unwrap();
    assert_eq!((text_of(&state, "m0").await, text_of(&state, "m4999").await), (None, None));
    state.tidy(later(8 * DAY_MS)).await.unwrap();
    assert_eq!((state.record("m0").await.unwrap(), state.record("m4999").await.unwrap()), (None, None));
}

pub(in crate::state) async fn a_forgotten_conversation_keeps_nothing_but_how_its_messages_ended(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    for of in ["gone", "stays"] {
        let id = |name: &str| format!("{name} {of}");
        state.note_user(&conversation(of), &user(of), BEGIN).await.unwrap();
        held_by_us(&state, of).await;
        answered(&state, &id("answered"), of, BEGIN).await;
        state.conclude(vec![record(&id("parked"), of, Outcome::Parked, BEGIN, None)], None, None).await.unwrap();
        state.intend(&answer(of, &[&id("meant")], "not posted yet", BEGIN), None).await.unwrap();
        for purpose in [Purpose::Holding, Purpose::Failure, Purpose::Handoff] {
            let said = Reply { purpose, ..answer(of, &[&id("parked")], "personal words", BEGIN) };
            state.intend(&said, None).await.unwrap();
        }
    }
    assert_eq!(state.conversations_of(&user("gone")).await.unwrap(), [conversation("gone")]);
    let stays = state.remembered(&conversation("stays")).await.unwrap();
    state.forget_conversation(&conversation("gone")).await.unwrap();
    for restarted in [false, true] {
        let state = if restarted { factory.open(RETENTION, later(1)).await } else { state.clone() };
        assert_eq!(state.remembered(&conversation("gone")).await.unwrap(), Remembered::default());
        assert!(state.conversations_of(&user("gone")).await.unwrap().is_empty());
        for (name, outcome) in
            [("answered", Outcome::Replied), ("parked", Outcome::Parked), ("meant", Outcome::Discarded)]
        {
            let id = format!("{name} gone");
            assert_eq!(recall(&state, "gone", &id, 0).await, Recall::Ended(outcome), "{id}");
            let left = state.record(&id).await.unwrap().expect("that it ended stays known");
            assert_eq!((left.outcome, left.cause, left.text), (outcome, None, None), "{id}");
        }
        assert_eq!(state.remembered(&conversation("stays")).await.unwrap(), stays);
        assert_eq!(text_of(&state, "answered stays").await.as_deref(), Some("answer to answered stays"));
    }
}

pub(in crate::state) async fn a_merged_conversation_is_remembered_where_it_went(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let (old, new) = (conversation("old"), conversation("new"));
    state.note_user(&old, &user("u"), BEGIN).await.unwrap();
    answered(&state, "m", "old", BEGIN).await;
    held_by_us(&state, "new").await;
    state.merge(&old, &new).await.unwrap();
    let state = factory.open(RETENTION, later(1)).await;
    let merged = state.remembered(&new).await.unwrap();
    assert_eq!((merged.history, merged.alias), (Some(words("answered m")), None));
    assert_eq!(merged.control.map(|control| control.holder), Some(Holder::Us));
    let ceased = state.remembered(&old).await.unwrap();
    assert_eq!((ceased.alias, ceased.history, ceased.control), (Some(new.clone()), None, None));
    let mut theirs = state.conversations_of(&user("u")).await.unwrap();
    theirs.sort_unstable();
    assert_eq!(theirs, [new.clone(), old.clone()], "both are forgotten with the customer");
    let newest = conversation("newest");
    state.merge(&new, &newest).await.unwrap();
    for ceased in [&old, &new] {
        assert_eq!(state.remembered(ceased).await.unwrap().alias.as_ref(), Some(&newest), "{ceased}");
    }
}

pub(in crate::state) async fn a_merged_conversation_is_kept_as_long_as_the_younger_of_the_two(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    for (into, into_days, from_days) in [("unheard of", None, 0), ("older", Some(0), 5), ("younger", Some(5), 0)] {
        let (from, into) = (conversation(&format!("into {into}")), conversation(into));
        match into_days {
            Some(days) => state.note_user(&into, &user("u"), later(days * DAY_MS)).await.unwrap(),
            None => state.note_away(&into, None).await.unwrap(),
        }
        state.note_user(&from, &user("u"), later(from_days * DAY_MS)).await.unwrap();
        state.merge(&from, &into).await.unwrap();
    }
    let kept = async |days: i64| {
        state.tidy(later(days * DAY_MS + 1)).await.unwrap();
        let mut kept = Vec::new();
        for id in ["unheard of", "older", "younger"] {
            kept.extend(state.remembered(&conversation(id)).await.unwrap().user.map(|_| id));
        }
        kept
    };
    assert_eq!(kept(6).await, ["unheard of", "older", "younger"]);
    assert_eq!(kept(8).await, ["older", "younger"]);
    assert!(kept(13).await.is_empty());
}

pub(in crate::state) async fn a_head_that_is_away_is_remembered_until_it_is_back(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let id = conversation("c");
    let away = Away { head: message("m"), until: later(1_000) };
    state.note_away(&id, Some(away.clone())).await.unwrap();
    state.tidy(later(100 * DAY_MS)).await.unwrap();
    let state = factory.open(RETENTION, later(1)).await;
    assert_eq!(state.remembered(&id).await.unwrap().away, Some(away));
    state.note_away(&id, None).await.unwrap();
    assert_eq!(state.remembered(&id).await.unwrap().away, None);
}

pub(in crate::state) async fn what_was_open_is_known_newest_first(factory: &dyn Factory) {
    let state = factory.fresh().await;
    assert_eq!(state.alive(BEGIN).await.unwrap(), None);
    assert_eq!(state.alive(later(5)).await.unwrap(), Some(BEGIN));
    for (n, id) in ["a", "b", "c", "human", "merged"].into_iter().enumerate() {
        answered(&state, id, id, later(n as i64)).await;
    }
    // First sight of a customer is something said.
    state.note_user(&conversation("asked"), &user("u"), later(10)).await.unwrap();
    for (id, holder) in [("human", Holder::Us), ("human", Holder::Other), ("c", Holder::Us)] {
        state.note_control(&conversation(id), Control { holder, at: later(20) }).await.unwrap();
    }
    state.merge(&conversation("merged"), &conversation("c")).await.unwrap();
    let open = async |since, limit| {
        let open = state.open_since(later(since), limit).await.unwrap();
        open.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(open(1, 10).await, ["asked", "c", "b"]);
    assert_eq!(open(0, 2).await, ["asked", "c"]);
}
