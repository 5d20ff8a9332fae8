//! Whose failure decides where several services were asked, and who is asked at all.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_message_is_not_carried_to_the_next_service() {
    let chain = Chain::new(&[("first", NO_LIMITS), ("second", NO_LIMITS)]);
    let failed = chain.ask("c", |_| Err(Failure::Rejected(400))).await.unwrap_err();
    assert_eq!((failed.service, chain.asked().as_slice()), ("first", ["first"].as_slice()));
}

fn with_stand_ins<'a>(chain: &Chain, stand_ins: &'a [usize]) -> Question<'a> {
    Question { stand_ins, ..chain.question("c") }
}

#[tokio::test(start_paused = true)]
async fn what_one_refuses_in_anothers_place_is_no_verdict() {
    for refusal in [Failure::Rejected(400), Failure::ContentRefused] {
        let chain = Chain::new(&[("first", NO_LIMITS), ("second", NO_LIMITS), ("third", NO_LIMITS)]);
        let answers = |index: usize| Err([Failure::Unavailable(500), refusal.clone(), refusal.clone()][index].clone());
        let failed = chain.put(with_stand_ins(&chain, &[1, 2]), answers).await.unwrap_err();
        assert_eq!((failed.service, failed.failure), ("first", Failure::Unavailable(500)));
        assert_eq!(chain.asked(), ["first", "second", "third"], "the third may take what the second does not");
        let failed = chain.put(with_stand_ins(&chain, &[2]), answers).await.unwrap_err();
        assert_eq!((failed.service, failed.failure), ("second", refusal.clone()), "what it offers itself it can judge");
    }
    let chain = Chain::new(&[("first", NO_LIMITS), ("second", NO_LIMITS)]);
    let gate = &chain.stack.services()[0].gate;
    gate.force(breaker::Mode::Open);
    let first_is_back = |index| if index == 0 { fine() } else { Err(Failure::Rejected(400)) };
    let comes_back = async {
        tokio::time::sleep(Duration::from_secs(90)).await;
        gate.force(breaker::Mode::Closed);
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = chain.put(with_stand_ins(&chain, &[1]), first_is_back) => answer,
        () = comes_back => unreachable!(),
    };
    assert!(answer.is_ok());
    assert_eq!(chain.asked(), ["second", "first"], "who has refused is not asked the same again");
}

#[tokio::test(start_paused = true)]
async fn of_several_failures_the_one_decides_that_says_most() {
    use Failure::{GivenUp, Rejected, Throttled, Unavailable, Unusable, UnusableAnswer};
    for (failures, decides) in [
        ([Unavailable(500), Unavailable(503)], 0),
        ([Throttled(None), Unavailable(500)], 1),
        ([Unavailable(500), Throttled(None)], 0),
        ([Unusable(401), Throttled(None)], 1),
        ([Unusable(401), Unavailable(500)], 1),
        ([UnusableAnswer, Unavailable(500)], 0),
        ([GivenUp, Unavailable(500)], 1),
        // A service that is not set up takes no verdict from another one.
        ([Unusable(401), Rejected(400)], 1),
    ] {
        let chain = Chain::new(&[("first", NO_LIMITS), ("second", NO_LIMITS)]);
        let failed = chain.ask("c", |index| Err(failures[index].clone())).await.unwrap_err();
        assert_eq!((failed.failure, chain.asked().len()), (failures[decides].clone(), 2), "{failures:?}");
    }
}

/// Of time there is never more: it is not asked for again and again, each time with a permit.
#[tokio::test(start_paused = true)]
async fn whoever_has_too_little_time_left_is_passed_over_once() {
    let chain = Chain::new(&[("first", NO_LIMITS), ("second", NO_LIMITS)]);
    chain.stack.services()[0].gate.force(breaker::Mode::Open);
    let patience = Duration::from_secs(2);
    let question = Question { patience: Some(patience), ..chain.question("c") };
    let second = |_| std::future::ready(Err::<Answer, _>(Failure::OutOfTime));
    let back = async {
        // As when a probe that was not made is given back: whoever waits looks again.
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            chain.stack.services()[1].gate.force(breaker::Mode::Auto);
        }
    };
    let refused = tokio::select! {
        asked = chain.stack.ask_anew(question, &chain, second) => asked.unwrap_err(),
        () = back => unreachable!(),
    };
    assert!(matches!(refused, Refused::Busy(Busy { on: Wait::Breaker, .. })), "{refused:?}");
    assert_eq!(chain.asked(), ["second"]);
}

#[tokio::test(start_paused = true)]
async fn what_brought_no_answer_is_asked_of_the_next_and_proves_no_more_than_it_can() {
    for (failure, calls, failures) in [
        (Failure::Garbled, 2, 2),
        (Failure::UnusableAnswer, 2, 0),
        (Failure::GivenUp, 0, 0),
        (Failure::OutOfTime, 0, 0),
    ] {
        let chain = Chain::new(&[("first", NO_LIMITS), ("second", NO_LIMITS)]);
        assert!(chain.ask("c", |index| if index == 0 { Err(failure.clone()) } else { fine() }).await.is_ok());
        let failed = chain.ask("d", |_| Err(failure.clone())).await.unwrap_err();
        assert_eq!((failed.service, &failed.failure, chain.asked().len()), ("first", &failure, 4));
        let window = chain.stack.services()[0].gate.snapshot().window;
        assert_eq!((window.calls, window.failures), (calls, failures), "{failure:?}");
    }
}
