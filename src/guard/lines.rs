//! Those who wait for a limiter's permits: a line for each class, in the order of coming.
//!
//! The classes share permits, not tokens. A permit is what is handed out, one at a time and to one who waits; how many
//! tokens it will have taken is known only after the call, and a share that is settled afterwards would be a debt or a
//! credit, which nobody is to have. The head of the class whose turn it is waits for its tokens before anybody else is
//! served: who needs much would never get it if others went past.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{
    fair::{Class, PerClass, Shares, Turns},
    permits::Permit,
};

/// One who waits.
pub(super) struct Asking {
    /// The tokens it is estimated to use.
    pub tokens: u64,
    /// Where it waits.
    pub answer: oneshot::Sender<Permit>,
}

/// All who wait.
#[derive(Default)]
pub(super) struct Lines {
    lines: PerClass<VecDeque<Asking>>,
    turns: Turns,
}

impl Lines {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(VecDeque::is_empty)
    }

    /// From now on the classes share so.
    pub fn set_shares(&mut self, shares: Shares) {
        self.turns = Turns::new(shares);
    }

    /// Somebody comes.
    pub fn push(&mut self, class: Class, asking: Asking) {
        self.lines[class].push_back(asking);
    }

    /// Whose turn it is, and the tokens of the one at the head; those who have left are forgotten.
    pub fn first(&mut self) -> Option<(Class, u64)> {
        for class in Class::ALL {
            let line = &mut self.lines[class];
            while line.front().is_some_and(|asking| asking.answer.is_closed()) {
                line.pop_front();
            }
        }
        let class = self.turns.next(|class| !self.lines[class].is_empty())?;
        Some((class, self.lines[class].front()?.tokens))
    }

    /// Serves the head of a class.
    pub fn serve(&mut self, class: Class) -> Option<Asking> {
        let asking = self.lines[class].pop_front()?;
        self.turns.granted(class);
        Some(asking)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use parking_lot::Mutex;
    use tokio::task::{AbortHandle, JoinSet};

    use crate::{
        guard::{
            Class::{self, Api, Chat},
            Permits, Shares,
            limiter::{Limits, WindowLimit},
        },
        store::calls::{Calls, Past},
        telemetry::Clock,
    };

    /// A limiter, and those who ask it.
    struct Scene {
        permits: Arc<Permits>,
        clock: Clock,
        callers: JoinSet<()>,
        /// Whose permits came, in order.
        came: Arc<Mutex<Vec<(Class, u64)>>>,
        _folder: tempfile::TempDir,
    }

    impl Scene {
        fn new(limits: Limits) -> Self {
            let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
            let calls = Calls::open(&folder.path().join("calls"), Duration::ZERO, clock.now()).unwrap().0;
            let permits = Permits::new("s", limits, clock.clone(), Arc::new(calls), &Past::default());
            Self { permits, clock, callers: JoinSet::new(), came: Arc::default(), _folder: folder }
        }

        /// One more waits in line.
        async fn comes(&mut self, class: Class, tokens: u64) -> AbortHandle {
            let (permits, came) = (self.permits.clone(), self.came.clone());
            let before = self.permits.waiting();
            let caller = self.callers.spawn(async move {
                let permit = permits.acquire(tokens, class).await;
                came.lock().push((class, tokens));
                drop(permit.used_now());
            });
            while self.permits.waiting() == before {
                tokio::task::yield_now().await;
            }
            caller
        }

        /// Hands out permits until nobody waits; who got them, in order.
        async fn serve(&mut self) -> Vec<(Class, u64)> {
            while let Some(due) = self.permits.serve() {
                tokio::time::sleep_until(self.clock.instant(due)).await;
            }
            while self.callers.join_next().await.is_some() {}
            std::mem::take(&mut self.came.lock())
        }
    }

    /// One permit at a time; the first is taken.
    fn one_at_a_time() -> Scene {
        let windows = vec![WindowLimit { requests: 1, per: Duration::from_millis(500) }];
        let scene = Scene::new(Limits { windows, ..Limits::NONE });
        drop(scene.permits.at_once(1).expect("the first is free").used_now());
        scene
    }

    #[tokio::test(start_paused = true)]
    async fn classes_that_both_wait_share_permits_and_not_tokens() {
        for (shares, wanted) in [((1, 1), "cacacacaaaaa"), ((3, 1), "cacccaaaaaaa"), ((1, 2), "caacaacaacaa")] {
            let mut scene = one_at_a_time();
            scene.permits.set_shares(Shares { chat: shares.0, api: shares.1 });
            for n in 0..8 {
                scene.comes(Api, 1_000 * n).await;
            }
            for _ in 0..4 {
                scene.comes(Chat, 1).await;
            }
            let came = scene.serve().await;
            let names: String = came.iter().map(|(class, _)| if *class == Chat { 'c' } else { 'a' }).collect();
            let tokens: Vec<u64> = came.iter().filter(|(class, _)| *class == Api).map(|(_, tokens)| *tokens).collect();
            assert_eq!(names.len(), 12);
            assert_eq!(names, wanted, "{shares:?}");
            assert!(tokens.is_sorted(), "within a class in the order of coming: {tokens:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_of_one_who_has_left_is_the_next_ones() {
        let mut scene = one_at_a_time();
        let left = [scene.comes(Chat, 1).await, scene.comes(Chat, 2).await, scene.comes(Api, 1).await];
        for (class, tokens) in [(Chat, 3), (Api, 2), (Api, 3)] {
            scene.comes(class, tokens).await;
        }
        left.iter().for_each(AbortHandle::abort);
        assert_eq!(scene.serve().await, [(Chat, 3), (Api, 2), (Api, 3)], "who has left has had no turn");
        assert_eq!(scene.permits.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_goes_past_one_who_waits_for_many_tokens() {
        let mut scene = Scene::new(Limits { tokens_per_minute: 100, ..Limits::NONE });
        drop(scene.permits.at_once(60).expect("nothing is used yet").used_now());
        scene.comes(Chat, 50).await;
        scene.comes(Api, 40).await;
        assert!(scene.permits.at_once(1).is_none(), "nor one who only looks in");
        assert_eq!(scene.serve().await, [(Chat, 50), (Api, 40)]);
    }
}
