//! Random scripts against the model.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::{prelude::*, test_runner::TestRunner};
use tokio::runtime::Handle;

use super::{
    Factory,
    model::{CONVERSATIONS, MESSAGES, Step, World},
};

fn step() -> impl Strategy<Value = Step> {
    let (of, n, two) = (0..CONVERSATIONS, 0..MESSAGES, 0..2_usize);
    prop_oneof![
        6 => (of.clone(), n.clone(), 1..4_usize, two.clone())
            .prop_map(|(of, first, count, words)| Step::Intend { of, first, count, words }),
        2 => (of.clone(), n.clone(), two.clone()).prop_map(|(of, first, words)| Step::Say { of, first, words }),
        2 => any::<usize>().prop_map(|which| Step::Revoke { which }),
        3 => any::<usize>().prop_map(|which| Step::Post { which }),
        2 => (of.clone(), n).prop_map(|(of, first)| Step::End { of, first }),
        2 => (of.clone(), two).prop_map(|(of, user)| Step::NoteUser { of, user }),
        1 => (of.clone(), any::<bool>()).prop_map(|(of, away)| Step::NoteAway { of, away }),
        1 => (of.clone(), of.clone()).prop_map(|(from, into)| Step::Merge { from, into }),
        1 => of.prop_map(|of| Step::Forget { of }),
        2 => prop_oneof![Just(0), Just(1), Just(8)].prop_map(|days| Step::Tidy { days }),
        1 => Just(Step::Reopen),
    ]
}

pub(in crate::state) async fn whatever_is_done_the_state_is_what_the_model_says(factory: &dyn Factory) {
    let scripts = AtomicUsize::new(0);
    let mut runner = TestRunner::new(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() });
    let outcome = tokio::task::block_in_place(|| {
        runner.run(&prop::collection::vec(step(), 1..40), |steps| {
            let script = scripts.fetch_add(1, Ordering::Relaxed);
            Handle::current().block_on(async {
                let mut world = World::new(factory, script).await;
                for step in steps {
                    world.run(step).await;
                    world.compare().await;
                }
            });
            Ok(())
        })
    });
    outcome.unwrap();
}
