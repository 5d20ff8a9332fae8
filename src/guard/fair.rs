//! Whose turn it is when two classes of callers wait for the same thing.
//!
//! Start-time fair queueing (P. Goyal, H. Vin, H. Cheng, "Start-time Fair Queuing: A Scheduling Algorithm for Integrated
//! Services Packet Switching Networks", SIGCOMM 1996) with two flows and grants of one size. Virtual time is where the
//! last grant began. A class's next grant begins where its last one ended, but never before virtual time, so that one
//! who was idle has saved nothing up; the one whose grant would begin first is next. While both wait, either has had
//! its share to within one grant, whichever moment one counts from (theorem 1 there).

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// A conversation is to be answered; its customer waits for minutes if need be.
    Chat,
    /// A program on the synchronous road waits for its response.
    Api,
}

impl Class {
    /// All classes; of two whose turn it is the first goes first.
    pub const ALL: [Self; 2] = [Self::Chat, Self::Api];
}

/// `[ai] shares`: how the classes share what both wait for. Only the ratio counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shares {
    /// Of the conversations.
    pub chat: u32,
    /// Of the synchronous road.
    pub api: u32,
}

impl Default for Shares {
    fn default() -> Self {
        Self { chat: 1, api: 1 }
    }
}

/// One of each class.
#[derive(Debug, Clone, Default)]
pub(super) struct PerClass<T> {
    chat: T,
    api: T,
}

impl<T> PerClass<T> {
    /// Those of all classes.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.chat, &self.api].into_iter()
    }
}

impl<T> Index<Class> for PerClass<T> {
    type Output = T;

    fn index(&self, class: Class) -> &T {
        match class {
            Class::Chat => &self.chat,
            Class::Api => &self.api,
        }
    }
}

impl<T> IndexMut<Class> for PerClass<T> {
    fn index_mut(&mut self, class: Class) -> &mut T {
        match class {
            Class::Chat => &mut self.chat,
            Class::Api => &mut self.api,
        }
    }
}

/// Decides whose turn it is.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    /// How far a grant takes each class: the inverse of its share, on a scale without fractions.
    strides: PerClass<u64>,
    /// Where the last grant of each ended.
    ends: PerClass<u64>,
    /// Where the last grant of all began: virtual time.
    now: u64,
}

impl Default for Turns {
    fn default() -> Self {
        Self::new(Shares::default())
    }
}

impl Turns {
    /// Begins; a share of nothing is the smallest there is.
    pub fn new(shares: Shares) -> Self {
        let strides = PerClass { chat: u64::from(shares.api.max(1)), api: u64::from(shares.chat.max(1)) };
        Self { strides, ends: PerClass::default(), now: 0 }
    }

    /// Whose turn it is among the classes that wait; `None`: none does.
    pub fn next(&self, waits: impl Fn(Class) -> bool) -> Option<Class> {
        Class::ALL.into_iter().filter(|class| waits(*class)).min_by_key(|class| self.begins(*class))
    }

    /// One who waited was served.
    pub fn granted(&mut self, class: Class) {
        self.now = self.begins(class);
        self.ends[class] = self.now.saturating_add(self.strides[class]);
    }

    /// Where the next grant of a class would begin. A class that begins to wait is served before virtual time passes
    /// this, so it need not be noted when that was.
    fn begins(&self, class: Class) -> u64 {
        self.ends[class].max(self.now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Grants to so many who wait, in order.
    fn grants(turns: &mut Turns, waiting: [usize; 2], count: usize) -> String {
        let mut left = waiting;
        let names = (0..count).map_while(|_| {
            let class = turns.next(|class| left[class as usize] > 0)?;
            left[class as usize] -= 1;
            turns.granted(class);
            Some(if class == Class::Chat { 'c' } else { 'a' })
        });
        names.collect()
    }

    #[test]
    fn those_who_both_wait_are_served_by_their_shares() {
        let table = [((1, 1), "cacacacaca"), ((3, 1), "cacccaccca"), ((1, 3), "caaacaaaca"), ((0, 2), "caacaacaac")];
        for ((chat, api), wanted) in table {
            let mut turns = Turns::new(Shares { chat, api });
            assert_eq!(grants(&mut turns, [99, 99], 10), wanted, "{chat}:{api}");
        }
    }

    #[test]
    fn who_is_alone_gets_everything_and_who_was_idle_has_nothing_saved_up() {
        for shares in [Shares { chat: 1, api: 1 }, Shares { chat: 1, api: 50 }, Shares { chat: 50, api: 1 }] {
            let mut turns = Turns::new(shares);
            assert_eq!(grants(&mut turns, [500, 0], 1000).len(), 500);
            let mut fresh = Turns::new(shares);
            fresh.granted(Class::Chat);
            assert_eq!(grants(&mut turns, [99, 99], 99), grants(&mut fresh, [99, 99], 99), "500 count as one");
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Come(Class),
        GiveUp(Class),
        Grant,
    }

    fn step() -> impl Strategy<Value = Step> {
        let class = || prop_oneof![Just(Class::Chat), Just(Class::Api)];
        prop_oneof![
            4 => class().prop_map(Step::Come),
            1 => class().prop_map(Step::GiveUp),
            4 => Just(Step::Grant),
        ]
    }

    /// What both have had since both wait: their difference, on the scale on which a grant of either class counts as
    /// much as the other's share, and how far it has swung.
    #[derive(Default)]
    struct Balance {
        at: i64,
        least: i64,
        most: i64,
    }

    impl Balance {
        fn add(&mut self, by: i64) {
            self.at += by;
            (self.least, self.most) = (self.least.min(self.at), self.most.max(self.at));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_comes_both_have_their_share_to_within_one_grant_and_nobody_starves(
            (chat, api) in (1..12_u32, 1..12_u32),
            // Some who wait from the beginning, so that both wait for long.
            first in 0..60_usize,
            steps in prop::collection::vec(step(), 0..400),
        ) {
            let mut turns = Turns::new(Shares { chat, api });
            let mut waiting = [first; 2];
            let mut balance = Balance::default();
            // Grants to the other, one after another, while a class waits.
            let mut passed_over = [0_u32; 2];
            for step in steps {
                match step {
                    Step::Come(class) => waiting[class as usize] += 1,
                    Step::GiveUp(class) => waiting[class as usize] = waiting[class as usize].saturating_sub(1),
                    Step::Grant => {
                        let class = turns.next(|class| waiting[class as usize] > 0);
                        prop_assert_eq!(class.is_some(), waiting != [0, 0], "it is idle while somebody waits");
                        let Some(class) = class else { continue };
                        prop_assert!(waiting[class as usize] > 0, "granted to nobody");
                        turns.granted(class);
                        let (own, other) = (class as usize, 1 - class as usize);
                        passed_over[own] = 0;
                        if waiting[other] > 0 {
                            passed_over[other] += 1;
                            balance.add(if class == Class::Chat { i64::from(api) } else { -i64::from(chat) });
                        }
                        waiting[own] -= 1;
                    }
                }
                for class in Class::ALL {
                    let index = class as usize;
                    if waiting[index] == 0 {
                        (passed_over[index], balance) = (0, Balance::default());
                    }
                }
                // One grant too many for one is one too few for the other: together they are worth both shares.
                prop_assert!(balance.most - balance.least <= i64::from(chat + api), "{}", balance.at);
                prop_assert!(passed_over[0] * chat <= chat + api && passed_over[1] * api <= chat + api);
            }
        }
    }
}
