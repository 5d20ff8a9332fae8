//! When a quota gives nothing: after its birth, and after it was away.

use super::{RedisQuotas, opened_to, private::Redis};
use crate::state::quota::{Ask, Note, Policy, Told};

/// A quota in virtual time.
struct Quota {
    quotas: RedisQuotas,
    policy: Policy,
    _redis: Redis,
}

impl Quota {
    async fn of(policy: Policy) -> Self {
        let redis = Redis::start();
        let link = opened_to(&redis).await;
        Self { quotas: RedisQuotas::new(link), policy, _redis: redis }
    }

    async fn turn(&self, ms: u64, ask: Ask) -> Told {
        let ask = Ask { max_wait: 1_000_000_000, ..ask };
        self.quotas.turn_at(Some((1_700_000_000_000 + ms) * 1_000), "s", &self.policy, &ask).await.unwrap()
    }

    async fn granted(&self, ms: u64, told: &Told) -> usize {
        let ask = Ask { birth: told.birth.clone(), want: 9, ..Ask::default() };
        self.turn(ms, ask).await.grants.iter().filter(|(wait, _)| *wait == 0).count()
    }
}

fn a_minute(minute: u64, burst: u32) -> Policy {
    let (windows, validity, entries) = (Vec::new(), 300_000, 1_000);
    Policy { minute, hour: 0, windows, tokens: 0, burst, pace_hour: false, validity, entries }
}

fn made(birth: &str, calls: &[(u64, u64, u64)]) -> Ask {
    let note = Note::Made { run: "a".into(), calls: calls.to_vec() };
    Ask { birth: birth.into(), notes: vec![note], look: true, ..Ask::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_use_is_held_briefly_and_longer_when_somebody_remembers() {
    let quota = Quota::of(a_minute(60, 5)).await;
    let first = quota.turn(0, Ask { want: 1, ..Ask::default() }).await;
    assert_eq!((first.grants.len(), first.free), (0, 1_200_000));
    let remembers = quota.turn(1_000, Ask { birth: "another".into(), ..Ask::default() }).await;
    assert!(remembers.lost);
    assert_eq!(quota.granted(1_300, &first).await, 0, "those who remember have not told yet");
    quota.turn(1_500, made(&first.birth, &[])).await;
    assert_eq!(quota.granted(4_400, &first).await, 0);
    let burst = quota.granted(4_600, &first).await;
    assert!((1..5).contains(&burst), "the bucket was empty, and {burst} are regained");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_use_that_nobody_objects_to_begins_with_a_full_bucket() {
    let quota = Quota::of(a_minute(60, 5)).await;
    let first = quota.turn(0, Ask::default()).await;
    assert_eq!(quota.granted(1_200, &first).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_back_waits_for_all_and_one_that_was_not_away_for_nobody() {
    let quota = Quota::of(a_minute(60, 0)).await;
    let told = quota.turn(0, Ask::default()).await;
    for second in 1..20 {
        quota.turn(second * 1_000, Ask { birth: told.birth.clone(), ..Ask::default() }).await;
    }
    quota.turn(19_500, made(&told.birth, &[(1_000_000, 1, 0)])).await;
    assert!(quota.granted(19_600, &told).await > 0, "one node was alone, the others were not");
    quota.turn(25_000, made(&told.birth, &[])).await;
    assert_eq!(quota.granted(27_900, &told).await, 0, "others may have been alone too");
    assert!(quota.granted(28_100, &told).await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_told_twice_count_once() {
    let quota = Quota::of(a_minute(60, 0)).await;
    let birth = quota.turn(0, Ask::default()).await.birth;
    let used = async |calls: &[(u64, u64, u64)]| quota.turn(1_000, made(&birth, calls)).await.uses[0].used;
    assert_eq!(used(&[(900_000, 1, 0), (800_000, 1, 4)]).await, 2);
    assert_eq!(used(&[(900_000, 1, 0), (800_000, 1, 4), (700_000, 1, 5)]).await, 3);
}
