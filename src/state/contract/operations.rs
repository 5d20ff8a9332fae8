//! What operators have set, and what they have done.

use serde_json::json;

use super::{BEGIN, Factory, RETENTION, later};
use crate::state::{Shared, audit::Entry, settings::Setting};

fn setting(name: &str, value: u64) -> Setting {
    Setting { name: name.into(), value: json!({ "n": value }), by: "ada".into(), at: BEGIN, ends_with: None }
}

async fn all(state: &Shared) -> (u64, Vec<Setting>) {
    let all = state.settings(None).await.unwrap().expect("whoever knows nothing is told all");
    (all.version, all.settings)
}

pub(in crate::state) async fn what_is_set_holds_until_it_is_taken_back(factory: &dyn Factory) {
    let state = factory.fresh().await;
    assert_eq!(all(&state).await, (0, Vec::new()), "nothing was ever set");
    assert_eq!(state.settings(Some(0)).await.unwrap(), None, "that is known");
    let mut versions = vec![0];
    for (name, value) in [("pause/chat", 1), ("a: {b} \"c\"\nd", 2), ("pause/chat", 3)] {
        state.set(&setting(name, value)).await.unwrap();
        let (version, _) = all(&state).await;
        assert!(!versions.contains(&version), "{version} is no news after {versions:?}");
        assert!(state.settings(versions.last().copied()).await.unwrap().is_some());
        assert_eq!(state.settings(Some(version)).await.unwrap(), None);
        versions.push(version);
    }
    let both = [setting("a: {b} \"c\"\nd", 2), setting("pause/chat", 3)];
    assert_eq!(all(&state).await.1, both);
    assert!(!state.unset("pause").await.unwrap(), "no such name");
    assert_eq!(all(&state).await.0, versions[3], "nothing has changed");
    assert!(state.unset("pause/chat").await.unwrap());
    assert!(!versions.contains(&all(&state).await.0));
    assert_eq!(all(&state).await.1, both[..1]);
    let timed = Setting { ends_with: Some("0007".into()), ..setting("drain", 1) };
    state.set(&timed).await.unwrap();
    let before = all(&state).await;
    for (name, run) in [("drain", "0006"), ("drain", ""), ("a: {b} \"c\"\nd", "0007"), ("none", "0007")] {
        state.end(name, run).await.unwrap();
        assert_eq!(all(&state).await, before, "{name} does not end with {run}");
    }
    state.end("drain", "0007").await.unwrap();
    let after = all(&state).await;
    assert!(after.0 != before.0 && after.1 == both[..1], "{after:?}");
}

pub(in crate::state) async fn what_is_set_survives(factory: &dyn Factory) {
    let state = factory.open(RETENTION, BEGIN).await;
    let timed = Setting { ends_with: Some("0007".into()), ..setting("limits/primary", 1) };
    state.set(&timed).await.unwrap();
    let before = all(&state).await;
    drop(state);
    let state = factory.open(RETENTION, later(1)).await;
    state.tidy(later(1)).await.unwrap();
    assert_eq!(all(&state).await, before);
    assert!(before.1.contains(&timed));
}

pub(in crate::state) async fn what_was_done_is_told_newest_first_as_long_as_it_is_kept(factory: &dyn Factory) {
    let state = factory.fresh().await;
    let entry = |ms: i64, n: u64| Entry {
        id: Entry::id(later(ms), "00ab", n),
        at: later(ms),
        who: "ada \"the\" operator".into(),
        node: "node".into(),
        action: "breaker.open".into(),
        subject: "primary".into(),
        detail: json!({ "mode": "open" }),
    };
    let entries = [entry(0, 0), entry(5, 1), entry(5, 2), entry(9, 3), entry(1_000_000, 4)];
    for index in [3, 0, 4, 2, 1, 2] {
        state.note(&entries[index]).await.unwrap();
    }
    let mut newest_first = entries.to_vec();
    newest_first.reverse();
    assert_eq!(state.audit(None, 10).await.unwrap(), newest_first, "twice is once");
    let mut told = state.audit(None, 2).await.unwrap();
    while let Some(last) = told.last().cloned() {
        let next = state.audit(Some(&last.id), 2).await.unwrap();
        if next.is_empty() {
            break;
        }
        told.extend(next);
    }
    assert_eq!(told, newest_first, "page by page");
    state.tidy(later(6).after(RETENTION.audit)).await.unwrap();
    assert_eq!(state.audit(None, 10).await.unwrap(), newest_first[..2]);
}
