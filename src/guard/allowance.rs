//! The monthly budget of an API key, as this node knows it.
//!
//! ```text
//! call --admit--> memory: total of all nodes + what is not told yet      no I/O
//!      --used---> not told yet --every second (actors/allowance.rs)--> state::Budgets --> total of all nodes
//! ```
//! So a budget is overdrawn by what all nodes use within a second, and by the calls under way when it is used up. Of a
//! process that is killed, what it has not told is lost: what it used within the last second or, while Redis is away,
//! since then. Months are counted by UTC; a call counts in the month in which it ends.

use std::{collections::BTreeMap, future::Future};

use parking_lot::Mutex;

use crate::{
    domain::{month::Month, time::Timestamp},
    state::{self, Budgets},
    telemetry::Clock,
};

/// What one API key may use in a month.
pub struct Allowance {
    name: String,
    budget: u64,
    clock: Clock,
    /// The present month, and those of which something is left to tell.
    months: Mutex<BTreeMap<Month, Used>>,
}

/// What was used in a month.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    /// By all nodes, as far as it was told.
    total: u64,
    /// By this node since.
    untold: u64,
}

impl Used {
    fn all(self) -> u64 {
        self.total.saturating_add(self.untold)
    }
}

/// A budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {} tokens of this month are used up; the next month begins at {}", .0.budget, .0.until.to_rfc3339())]
pub struct Spent(pub BudgetUse);

/// How much of a budget is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetUse {
    /// When the next month begins.
    pub until: Timestamp,
    /// Tokens that may be used in a month.
    pub budget: u64,
    /// Tokens used in this one, as far as this node knows.
    pub used: u64,
}

impl Allowance {
    /// The budget of the key of that name. Until it is told for the first time, it goes by what this process has used.
    pub fn new(name: String, monthly_budget_tokens: u64, clock: Clock) -> Self {
        Self { name, budget: monthly_budget_tokens, clock, months: Mutex::default() }
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the key may make a call, as long as anything of its budget is left.
    pub fn admit(&self) -> Result<(), Spent> {
        let standing = self.standing();
        if standing.used < standing.budget { Ok(()) } else { Err(Spent(standing)) }
    }

    /// How much of the budget is used.
    pub fn standing(&self) -> BudgetUse {
        let month = self.month();
        let used = self.months.lock().get(&month).copied().unwrap_or_default().all();
        BudgetUse { until: month.next().begins(), budget: self.budget, used }
    }

    /// A call has used so many tokens.
    pub fn used(&self, tokens: u64) {
        let month = self.month();
        let mut months = self.months.lock();
        let used = months.entry(month).or_default();
        used.untold = used.untold.saturating_add(tokens);
    }

    /// Tells what was used since it was last told, and learns what all nodes have used. After an error, and when the
    /// future is dropped, what is left is told the next time. For the actor, which does one such thing after the other.
    pub async fn tell(&self, budgets: &(impl Budgets + ?Sized)) -> Result<(), state::Error> {
        self.tell_with(|month, untold| async move { budgets.spend(&self.name, &month.to_string(), untold).await }).await
    }

    async fn tell_with<F>(&self, spend: impl Fn(Month, u64) -> F) -> Result<(), state::Error>
    where
        F: Future<Output = Result<u64, state::Error>>,
    {
        for (month, untold) in self.to_tell() {
            let total = spend(month, untold).await?;
            self.was_told(month, untold, total);
        }
        Ok(())
    }

    /// What is to be told; of the present month also if that is nothing, for the others may have used something.
    fn to_tell(&self) -> Vec<(Month, u64)> {
        let now = self.month();
        let mut months = self.months.lock();
        months.entry(now).or_default();
        // One that is over and told is over; a clock that was set back asks for it again.
        months.retain(|month, used| *month == now || used.untold > 0);
        months.iter().map(|(month, used)| (*month, used.untold)).collect()
    }

    fn was_told(&self, month: Month, told: u64, total: u64) {
        let mut months = self.months.lock();
        let used = months.entry(month).or_default();
        used.untold = used.untold.saturating_sub(told);
        // A state that has forgotten makes nobody richer as long as somebody remembers.
        used.total = used.total.saturating_add(told).max(total);
    }

    fn month(&self) -> Month {
        Month::of(self.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    const BUDGET: u64 = 100;

    /// Nodes with clocks that are set by hand, and what the state counts.
    struct Scene {
        wall: Arc<AtomicI64>,
        nodes: Vec<Allowance>,
        counted: Mutex<BTreeMap<Month, u64>>,
    }

    impl Scene {
        fn new(now: &str) -> Self {
            let wall = Arc::new(AtomicI64::new(at(now).0));
            let shown = wall.clone();
            let clock = Clock::with_wall(move || Timestamp(shown.load(Ordering::Relaxed)));
            let nodes = (0..2).map(|_| Allowance::new("shop".into(), BUDGET, clock.clone())).collect();
            Self { wall, nodes, counted: Mutex::default() }
        }

        fn set(&self, now: &str) {
            self.wall.store(at(now).0, Ordering::Relaxed);
        }

        /// A node tells, unless the state is away.
        fn tell(&self, node: usize, is_away: bool) -> bool {
            let spend = |month, tokens| {
                let mut counted = self.counted.lock();
                let total = counted.entry(month).or_insert(0);
                *total += if is_away { 0 } else { tokens };
                std::future::ready(if is_away { Err(state::Error::Away("gone".into())) } else { Ok(*total) })
            };
            self.nodes[node].tell_with(spend).now_or_never().expect("nothing is waited for").is_ok()
        }

        fn counted(&self, month: &str) -> u64 {
            self.counted.lock().iter().find(|(of, _)| of.to_string() == month).map_or(0, |(_, total)| *total)
        }
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn a_budget_is_used_up_by_all_nodes_together_and_begins_anew_with_the_month() {
        let scene = Scene::new("2026-11-30T23:59:00Z");
        let [one, other] = [&scene.nodes[0], &scene.nodes[1]];
        one.used(BUDGET - 1);
        assert_eq!(one.admit(), Ok(()), "something is left");
        other.used(1);
        assert_eq!(other.admit(), Ok(()), "it does not know of the other yet");
        assert!(scene.tell(0, false) && scene.tell(1, false));
        let until = at("2026-12-01T00:00:00Z");
        assert_eq!(other.admit(), Err(Spent(BudgetUse { until, budget: BUDGET, used: BUDGET })));
        assert_eq!(one.admit(), Ok(()), "told before the other");
        assert!(scene.tell(0, false));
        assert_eq!(one.admit(), Err(Spent(BudgetUse { until, budget: BUDGET, used: BUDGET })));
        let said = one.admit().unwrap_err().to_string();
        assert_eq!(said, "the 100 tokens of this month are used up; the next month begins at 2026-12-01T00:00:00Z");
        scene.set("2026-12-01T00:00:00Z");
        assert_eq!((one.admit(), other.admit()), (Ok(()), Ok(())));
    }

    #[test]
    fn what_was_not_told_when_the_month_turned_counts_where_it_was_used() {
        let scene = Scene::new("2026-11-30T23:59:59Z");
        let node = &scene.nodes[0];
        node.used(30);
        assert!(!scene.tell(0, true));
        scene.set("2026-12-01T00:00:01Z");
        node.used(7);
        assert!(!scene.tell(0, true));
        scene.set("2027-01-01T00:00:00Z");
        assert!(scene.tell(0, false));
        assert_eq!(["2026-11", "2026-12", "2027-01"].map(|month| scene.counted(month)), [30, 7, 0]);
        assert!(scene.tell(0, false));
        assert_eq!(node.months.lock().len(), 1, "what is over and told is forgotten");
        scene.set("2026-11-30T23:59:59Z");
        node.used(1);
        assert!(scene.tell(0, false));
        assert_eq!(node.months.lock().first_key_value().map(|(_, used)| used.all()), Some(31), "a clock set back");
    }

    #[test]
    fn while_the_state_is_away_a_node_goes_on_with_what_it_knows() {
        let scene = Scene::new("2026-11-05T00:00:00Z");
        let node = &scene.nodes[0];
        scene.nodes[1].used(60);
        assert!(scene.tell(1, false) && scene.tell(0, false));
        node.used(39);
        assert!(!scene.tell(0, true));
        assert!(node.admit().is_ok());
        node.used(1);
        assert!(!scene.tell(0, true) && node.admit().is_err(), "60 of the other and 40 of its own");
        assert!(scene.tell(0, false));
        assert_eq!(scene.counted("2026-11"), 100);
        let restarted = Allowance::new("shop".into(), BUDGET, node.clock.clone());
        assert!(restarted.admit().is_ok());
        restarted.tell_with(|_, _| std::future::ready(Ok(100))).now_or_never().unwrap().unwrap();
        assert!(restarted.admit().is_err(), "one that is started again reads first");
        restarted.tell_with(|_, _| std::future::ready(Ok(0))).now_or_never().unwrap().unwrap();
        assert!(restarted.admit().is_err(), "and remembers what the state forgets");
    }

    #[test]
    fn a_budget_of_nothing_admits_nobody_and_sums_do_not_overflow() {
        let clock = Clock::with_wall(|| Timestamp(0));
        assert!(Allowance::new("none".into(), 0, clock.clone()).admit().is_err());
        let endless = Allowance::new("endless".into(), u64::MAX, clock);
        assert!(endless.admit().is_ok());
        (0..3).for_each(|_| endless.used(u64::MAX - 1));
        assert!(endless.admit().is_err());
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Use(usize, u64),
        Tell(usize, bool),
        Pass(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..2_usize, 0..40_u64).prop_map(|(node, tokens)| Step::Use(node, tokens)),
            4 => (0..2_usize, any::<bool>()).prop_map(|(node, is_away)| Step::Tell(node, is_away)),
            1 => (0..40_i64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn every_token_counts_once_in_its_month_and_none_is_admitted_that_is_known_to_be_too_much(
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let scene = Scene::new("2026-11-01T00:00:00Z");
            let mut used: BTreeMap<Month, [u64; 2]> = BTreeMap::new();
            for step in steps {
                let month = scene.nodes[0].month();
                match step {
                    Step::Use(node, tokens) => {
                        scene.nodes[node].used(tokens);
                        used.entry(month).or_default()[node] += tokens;
                        let own = used[&month][node];
                        prop_assert!(own < BUDGET || scene.nodes[node].admit().is_err(), "its own use is known at once");
                    }
                    Step::Tell(node, is_away) => {
                        prop_assert_eq!(scene.tell(node, is_away), !is_away);
                        let known = scene.counted(&month.to_string());
                        prop_assert!(is_away || (scene.nodes[node].admit().is_err() == (known >= BUDGET)));
                    }
                    Step::Pass(days) => drop(scene.wall.fetch_add(days * 24 * 3_600_000, Ordering::Relaxed)),
                }
            }
            prop_assert!(scene.tell(0, false) && scene.tell(1, false));
            for (month, tokens) in used {
                prop_assert_eq!(scene.counted(&month.to_string()), tokens.iter().sum::<u64>());
            }
        }
    }
}
