//! Who holds a conversation: the newest event says so, in whatever order events arrive.

use proptest::{prelude::*, test_runner::TestRunner};
use tokio::runtime::Handle;

use super::{BEGIN, Factory, RETENTION, conversation, later, record};
use crate::domain::{
    control::{Control, Holder},
    prompt::{History, Role},
    timeline::Outcome,
};

const HOLDERS: [Holder; 3] = [Holder::Us, Holder::Other, Holder::Nobody];

pub(in crate::state) async fn the_newest_event_says_who_holds_a_conversation(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let id = conversation("c");
    let control = |holder, ms| Control { holder, at: later(ms) };
    assert_eq!(state.control(&id).await.unwrap(), None);
    assert!(!state.note_control(&id, control(Holder::Us, 10)).await.unwrap(), "nobody held it before");
    let mut said = History::default();
    said.add(Role::Assistant, "hello", 20);
    let ended = record("m", "c", Outcome::Replied, later(11), None);
    state.conclude(vec![ended], Some(said.clone()), None).await.unwrap();
    assert_eq!(state.remembered(&id).await.unwrap().history, Some(said));
    assert!(!state.note_control(&id, control(Holder::Other, 5)).await.unwrap(), "older news");
    assert_eq!(state.control(&id).await.unwrap(), Some(control(Holder::Us, 10)));
    assert!(state.note_control(&id, control(Holder::Other, 20)).await.unwrap());
    assert_eq!(state.remembered(&id).await.unwrap().history, None, "the other has spoken");
    assert_eq!(state.control(&conversation("d")).await.unwrap(), None, "its neighbour's is not known");
    drop(state);
    let state = factory.open(RETENTION, later(30)).await;
    assert_eq!(state.control(&id).await.unwrap(), Some(control(Holder::Other, 20)));
    assert!(!state.note_control(&id, control(Holder::Us, 15)).await.unwrap(), "older news");
    assert_eq!(state.remembered(&id).await.unwrap().control, Some(control(Holder::Other, 20)));
}

/// Events of one conversation in any order, each at a time of its own; `None` restarts.
pub(in crate::state) async fn who_holds_a_conversation_follows_the_newest_event_in_any_order(factory: &dyn Factory) {
    let events = prop::collection::btree_map(0_i64..1_000, 0_usize..3, 1..10);
    let script = events.prop_flat_map(|events| {
        let steps: Vec<_> = events.into_iter().map(Some).chain([None]).collect();
        Just(steps).prop_shuffle()
    });
    let mut runner = TestRunner::new(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() });
    let scripts = std::sync::atomic::AtomicUsize::new(0);
    let outcome = tokio::task::block_in_place(|| {
        runner.run(&script, |steps| {
            let id = format!("c{}", scripts.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            Handle::current().block_on(follow(factory, &id, steps));
            Ok(())
        })
    });
    outcome.unwrap();
}

async fn follow(factory: &dyn Factory, id: &str, steps: Vec<Option<(i64, usize)>>) {
    let id = conversation(id);
    let mut state = factory.open(RETENTION, BEGIN).await;
    let mut newest: Option<Control> = None;
    for step in steps {
        let Some((ms, holder)) = step else {
            drop(state);
            state = factory.open(RETENTION, BEGIN).await;
            // What the state itself remembers of the time counts from now on; the holder must be the newest one's.
            let remembered = state.control(&id).await.unwrap();
            assert_eq!(remembered.map(|it| it.holder), newest.map(|it| it.holder), "after a restart");
            newest = remembered;
            continue;
        };
        let control = Control { holder: HOLDERS[holder], at: later(ms) };
        let is_newest = newest.is_none_or(|known| known.at <= control.at);
        let changes = is_newest && newest.is_some_and(|known| known.holder != control.holder);
        assert_eq!(state.note_control(&id, control).await.unwrap(), changes, "{control:?} after {newest:?}");
        // On receipt, and in its turn: then it is durable.
        assert!(!state.note_control(&id, control).await.unwrap(), "{control:?} again");
        if is_newest {
            newest = Some(control);
        }
        assert_eq!(state.control(&id).await.unwrap(), newest);
    }
}
