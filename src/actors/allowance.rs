//! The one who tells the state what an API key has used, and learns what all nodes have used, so that nobody who makes a
//! call waits for that.
//!
//! Tells every second, and what is left when it stops. Supervised by `guards`.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::timeout;

use super::roster::Card;
use crate::{
    guard::{Allowance, BudgetUse},
    state::{self, Shared},
    telemetry::{Clock, series::label},
};

/// How often it tells; what a budget may be overdrawn by (see [`Allowance`]) depends on it.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// At the start, a state that is away is asked again after this long: Redis is being connected to.
const AGAIN: Duration = Duration::from_millis(50);

/// At the start and at the end nobody waits longer for the state than this.
const AT_MOST: Duration = Duration::from_secs(2);

/// The actor of one key's allowance.
pub(super) struct AllowanceActor {
    pub state: Shared,
    pub card: Arc<Card>,
    pub clock: Clock,
    pub allowance: Arc<Allowance>,
}

/// What it is told.
pub(super) enum Message {
    /// A second has passed.
    Due,
    /// Look whether a failure was ordered.
    Bell,
}

/// What it knows.
pub(super) struct State {
    /// The state takes nothing, which was said.
    failing: bool,
}

impl Actor for AllowanceActor {
    type Msg = Message;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<State, ActorProcessingErr> {
        Ok(State { failing: false })
    }

    async fn post_start(&self, myself: ActorRef<Message>, _: &mut State) -> Result<(), ActorProcessingErr> {
        let bell = myself.clone();
        self.card.bell.connect(move || drop(bell.cast(Message::Bell)));
        myself.send_interval(TELL_EVERY, || Message::Due);
        Ok(myself.cast(Message::Due)?)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        self.card.meet_fault().await?;
        if let Message::Due = message {
            let _in_hand = self.card.begin("telling what a key has used");
            self.card.handled(1);
            self.card.stamp.wakes_at(Some(self.clock.monotonic() + TELL_EVERY));
            let told = self.allowance.tell(&*self.state).await;
            self.note(state, told);
        }
        Ok(())
    }

    /// Calls have ended by now.
    async fn post_stop(&self, _: ActorRef<Message>, _: &mut State) -> Result<(), ActorProcessingErr> {
        let told = timeout(AT_MOST, self.allowance.tell(&*self.state)).await;
        if !matches!(told, Ok(Ok(()))) {
            let api_key = self.allowance.name();
            tracing::warn!(api_key, "what the key has used last could not be told, and is not counted");
        }
        Ok(())
    }
}

impl AllowanceActor {
    /// The state is away or back: said once. An absence is no fault of the actor's.
    fn note(&self, state: &mut State, told: Result<(), state::Error>) {
        let api_key = self.allowance.name();
        match told {
            Ok(()) if state.failing => tracing::info!(api_key, "what the key has used is counted by all nodes again"),
            Err(ref error) if !state.failing => {
                tracing::warn!(api_key, %error, "what the key has used is counted by this node alone for now");
            }
            _ => {}
        }
        state.failing = told.is_err();
    }
}

/// Learns what was used before the start; for when the connections are being kept up, and before calls are let in. A
/// state that does not answer in time is asked again by the actors; until then each key goes by what it has used here.
pub(super) async fn learn(state: &Shared, allowances: &[Arc<Allowance>]) {
    let learnt = allowances.iter().map(|allowance| async move {
        while allowance.tell(&**state).await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
    });
    if timeout(AT_MOST, join_all(learnt)).await.is_err() {
        tracing::warn!("what API keys have used before is not known yet; each goes by what it uses here");
    }
}

/// `tidegate_api_budget_tokens{key}` and `tidegate_api_budget_used_tokens{key}`, read when scraped.
struct Standings(Vec<Arc<Allowance>>);

impl std::fmt::Debug for Standings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("allowance::Standings")
    }
}

/// Has the metrics show of each key with a budget how much of it is used.
pub(super) fn register(registry: &mut Registry, allowances: &[Arc<Allowance>]) {
    registry.register_collector(Box::new(Standings(allowances.to_vec())));
}

impl Collector for Standings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut show = |name, help, tokens: fn(BudgetUse) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            self.0.iter().try_for_each(|allowance| {
                let gauge = ConstGauge::new(tokens(allowance.standing()));
                gauge.encode(family.encode_family(&[("key", label(allowance.name()))])?)
            })
        };
        show("tidegate_api_budget_tokens", "Tokens that a key may use in a month", |of| of.budget)?;
        show("tidegate_api_budget_used_tokens", "Those used in this month on all nodes", |of| of.used)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        actors::roster::Roster,
        domain::month::Month,
        state::{Budgets, Error, Local, RetentionConfig},
    };

    const SOON: Duration = Duration::from_secs(20);

    fn local(folder: &TempDir) -> Arc<Local> {
        Arc::new(Local::open(folder.path(), RetentionConfig::default(), Clock::system().now()).unwrap())
    }

    async fn counted(local: &Local) -> Result<u64, Error> {
        local.spend("shop", &Month::of(Clock::system().now()).to_string(), 0).await
    }

    fn actor(local: &Arc<Local>, allowance: &Arc<Allowance>) -> AllowanceActor {
        let clock = Clock::system();
        let card = Roster::new(clock.clone()).card("node/guards/allowance/shop", "allowance");
        AllowanceActor { state: local.clone(), card, clock, allowance: allowance.clone() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_key_uses_is_told_every_second_and_when_the_actor_stops() {
        let folder = tempfile::tempdir().unwrap();
        let (local, allowance) = (local(&folder), Arc::new(Allowance::new("shop".into(), 100, Clock::system())));
        let (running, ended) = Actor::spawn(None, actor(&local, &allowance), ()).await.unwrap();
        let deadline = Instant::now() + SOON;
        for tokens in [5, 12] {
            allowance.used(tokens - counted(&local).await.unwrap());
            while counted(&local).await.unwrap() != tokens {
                assert!(Instant::now() < deadline, "not told");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        // The round that was due is over: the next is a second away.
        allowance.used(88);
        running.stop(None);
        ended.await.unwrap();
        assert_eq!(counted(&local).await.unwrap(), 100, "told at the end");
        assert!(allowance.admit().is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_used_before_the_start_is_learnt_before_anybody_is_admitted() {
        let folder = tempfile::tempdir().unwrap();
        let month = Month::of(Clock::system().now()).to_string();
        let before = local(&folder);
        before.spend("shop", &month, 100).await.unwrap();
        before.close();
        let allowance = Arc::new(Allowance::new("shop".into(), 100, Clock::system()));
        assert!(allowance.admit().is_ok());
        let state: Shared = local(&folder);
        learn(&state, std::slice::from_ref(&allowance)).await;
        assert!(allowance.admit().is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_state_that_takes_nothing_does_not_end_the_actor() {
        let folder = tempfile::tempdir().unwrap();
        let (local, allowance) = (local(&folder), Arc::new(Allowance::new("shop".into(), 100, Clock::system())));
        local.close();
        allowance.used(5);
        let mut state = State { failing: false };
        let actor = actor(&local, &allowance);
        let told = allowance.tell(&*actor.state).await;
        assert!(told.is_err());
        actor.note(&mut state, told);
        assert!(state.failing, "said once");
        actor.note(&mut state, Ok(()));
        assert!(!state.failing);
    }
}
