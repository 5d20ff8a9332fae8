//! Gathers a burst: waits for an absent head, for more fragments, for a paused pool, and takes in hand what is complete.

use std::time::Duration;

use crate::{
    actors::{Parts, conversation::State, inbox::Inner, settings::Pool},
    domain::{
        burst::{self, Gather, Merging},
        time::millis,
        timeline::{Stage, Wait},
    },
};

/// A head that has not come back this long after it was expected is not waited for any longer; it comes late then.
pub(super) const HEAD_SLACK: Duration = Duration::from_secs(30);

/// What an inbox takes to be looked into; a message that lies there for less has not waited for its turn.
const PACE: Duration = Duration::from_millis(10);

/// A shorter wait is none.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// What there is to do.
enum Waiting {
    Nothing,
    Ready,
    /// Look again then (monotonic), or when something arrives.
    Until(Duration, Wait),
    /// An operator has paused the pool.
    Paused,
}

/// What gathering a burst has waited for.
#[derive(Clone, Copy, Default)]
struct Spent {
    on_head: Duration,
    on_merge: Duration,
    on_pause: Duration,
}

/// Waits until a burst is complete and takes it in hand; `false` when there is nothing to take.
pub(super) async fn gather(parts: &Parts, state: &State) -> bool {
    let mut spent = Spent::default();
    loop {
        let arrived = state.cell.arrived.notified();
        let waiting = {
            let mut inner = state.cell.lock();
            // Looked at under the lock, so that one who drains and sees no hand can rely on it.
            if !inner.is_current(state.generation) || parts.draining.is_cancelled() {
                return false;
            }
            inner.let_go();
            let waiting = look_into(parts, &inner);
            if let Waiting::Ready = waiting {
                let count = ready_count(parts, &inner);
                inner.take(count, parts.clock.monotonic());
                note_gathering(parts, &mut inner, spent);
            }
            waiting
        };
        match waiting {
            Waiting::Nothing => return false,
            Waiting::Ready => return true,
            Waiting::Paused => {
                let began = parts.clock.monotonic();
                tokio::select! {
                    () = parts.draining.cancelled() => return false,
                    () = parts.settings.free(Pool::Chat) => {}
                }
                spent.on_pause += parts.clock.monotonic().saturating_sub(began);
            }
            Waiting::Until(until, on) => {
                let began = parts.clock.monotonic();
                tokio::select! {
                    () = parts.draining.cancelled() => return false,
                    () = tokio::time::sleep_until(parts.clock.instant(until)) => {}
                    () = arrived => {}
                }
                let waited = parts.clock.monotonic().saturating_sub(began);
                *(if on == Wait::Head { &mut spent.on_head } else { &mut spent.on_merge }) += waited;
            }
        }
    }
}

fn merging(parts: &Parts) -> Merging {
    Merging { quiet: parts.chat.merge_quiet, cap: parts.chat.merge_cap }
}

fn look_into(parts: &Parts, inner: &Inner) -> Waiting {
    if inner.inbox.is_empty() {
        return Waiting::Nothing;
    }
    if parts.settings.holds(Pool::Chat) {
        return Waiting::Paused;
    }
    let now = parts.clock.now();
    if let Some(away) = &inner.away {
        let given_up_at = away.until.after(HEAD_SLACK);
        let is_back = inner.inbox.iter().any(|item| item.delivery.job.message == away.head);
        let left = given_up_at.since(now);
        // A wait longer than any pause between tries means that the wall clock was set back.
        let is_expected = now < given_up_at && left <= parts.retry.longest_pause() + HEAD_SLACK;
        if !is_back && is_expected {
            return Waiting::Until(parts.clock.monotonic() + left, Wait::Head);
        }
    }
    match burst::gather(&inner.fragments(), now, merging(parts)) {
        Gather::Take(_) => Waiting::Ready,
        Gather::Until(until) => Waiting::Until(parts.clock.monotonic() + until.since(now), Wait::Merge),
    }
}

fn ready_count(parts: &Parts, inner: &Inner) -> usize {
    match burst::gather(&inner.fragments(), parts.clock.now(), merging(parts)) {
        Gather::Take(count) => count,
        Gather::Until(_) => 1,
    }
}

/// Notes what each message has waited for since it was last heard of: earlier messages, then a paused pool, then an
/// absent head, then more fragments.
fn note_gathering(parts: &Parts, inner: &mut Inner, spent: Spent) {
    inner.away = None;
    let now = parts.clock.now();
    let Some(hand) = &mut inner.hand else { return };
    let fragments = hand.items.len();
    for item in &mut hand.items {
        let idle = item.timeline.entries().last().map_or(Duration::ZERO, |entry| now.since(entry.at));
        let on_merge = spent.on_merge.min(idle);
        let on_head = spent.on_head.min(idle - on_merge);
        let on_pause = spent.on_pause.min(idle - on_merge - on_head);
        let on_turn = idle - on_merge - on_head - on_pause;
        let waits = [(Wait::Turn, on_turn), (Wait::Paused, on_pause), (Wait::Head, on_head), (Wait::Merge, on_merge)];
        for (on, waited) in waits {
            let least = if on == Wait::Turn { PACE } else { WAIT_MIN };
            if waited >= least {
                item.timeline.note(now, Stage::Waited { on, ms: millis(waited) });
            }
        }
        if fragments > 1 {
            item.timeline.note(now, Stage::Merged { fragments });
        }
    }
}
