//! How things stand, on one page: a verdict in words, who has been waiting longest, what happens in a second, breakers,
//! limits, queues. Asked once, or as a stream that brings it every second.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    response::{Sse, sse},
};
use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Admin,
    views::{self, BreakerView, LaneView, LimiterView, Named},
};
use crate::{
    actors::{
        AliveView, explain,
        pulse::{self, Beat},
        settings::Pool,
    },
    broker::Standing,
    guard::breaker,
    http::health::Report,
    state::settings::Setting,
};

/// How often a stream brings it; those who watch share what was looked up.
const EVERY: Duration = Duration::from_secs(1);

/// Those who have been waiting longest are named, so many.
const WAITING: usize = 5;

/// A customer who waits longer than this is worth a word.
const LONG_WAIT_MS: u64 = 30_000;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// All is well.
    Ok,
    /// Customers wait, or somebody has set something.
    Warn,
    /// Customers are not served.
    Bad,
}

/// How things stand.
#[derive(Debug, Serialize, ToSchema)]
pub struct Overview {
    /// How bad it is.
    level: Level,
    /// In words, the worst first.
    verdict: Vec<String>,
    /// This node's name.
    node: String,
    /// Its version.
    version: &'static str,
    /// How many nodes live.
    nodes: usize,
    /// Conversations that are alive here.
    conversations: usize,
    /// Those whose customers have been waiting longest.
    waiting: Vec<AliveView>,
    /// Counts since the process began.
    now: Beat,
    /// The same of the last minutes, oldest first; a stream leaves it out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    history: Vec<Beat>,
    /// Queues by lane.
    #[schema(value_type = BTreeMap<String, LaneView>)]
    queues: Named<LaneView>,
    /// Breakers by service.
    #[schema(value_type = BTreeMap<String, BreakerView>)]
    breakers: Named<BreakerView>,
    /// Limiters by service.
    #[schema(value_type = BTreeMap<String, LimiterView>)]
    limiters: Named<LimiterView>,
    /// What operators have set.
    settings: Vec<Setting>,
    /// Dependencies.
    health: Report,
}

/// What those who watch share.
#[derive(Default)]
pub struct Watched(Mutex<Option<(Duration, Arc<str>)>>);

/// `GET /admin/overview`
#[utoipa::path(get, path = "/admin/overview", tag = "overview", responses((status = 200, body = Overview)))]
pub async fn once(State(admin): State<Admin>) -> Json<Overview> {
    let mut overview = look(&admin).await;
    overview.history = admin.parts.pulse.beats();
    Json(overview)
}

/// `GET /admin/events`: the same every second, as server-sent events named `overview`.
#[utoipa::path(get, path = "/admin/events", tag = "overview", responses((status = 200, content_type = "text/event-stream", body = String)))]
pub async fn watch(State(admin): State<Admin>) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let looks = stream::unfold((admin, ticks), |(admin, mut ticks)| async {
        ticks.tick().await;
        let text = shared(&admin).await;
        Some((text, (admin, ticks)))
    });
    Sse::new(looks.map(|text| Ok(sse::Event::default().event("overview").data(text))))
}

/// What was looked up less than a second ago, or is now.
async fn shared(admin: &Admin) -> Arc<str> {
    let now = admin.parts.clock.monotonic();
    let fresh = admin.watched.0.lock().clone().filter(|(at, _)| now.saturating_sub(*at) < EVERY * 9 / 10);
    if let Some((_, text)) = fresh {
        return text;
    }
    let text: Arc<str> = serde_json::to_string(&look(admin).await).expect("an overview is plain data").into();
    *admin.watched.0.lock() = Some((now, text.clone()));
    text
}

async fn look(admin: &Admin) -> Overview {
    let parts = &admin.parts;
    let health = admin.health.report().await;
    let waiting = admin.inspector.longest_waiting(WAITING);
    let (level, verdict) = verdict(admin, &health, &waiting);
    Overview {
        level,
        verdict,
        node: parts.nodes.name(),
        version: env!("CARGO_PKG_VERSION"),
        nodes: parts.nodes.all().len(),
        conversations: parts.directory.len(),
        waiting,
        now: pulse::now(parts),
        history: Vec::new(),
        queues: views::of_queues(admin),
        breakers: views::of_breakers(admin),
        limiters: views::of_limiters(admin),
        settings: parts.settings.all(),
        health,
    }
}

/// What is worth a word, the worst first.
fn verdict(admin: &Admin, health: &Report, waiting: &[AliveView]) -> (Level, Vec<String>) {
    let mut words: Vec<(Level, String)> = Vec::new();
    if let Some(reason) = health.reason() {
        words.push((Level::Bad, format!("this node is unready: {reason}")));
    }
    words.extend(health.down().map(|name| (Level::Bad, format!("{name} is away"))));
    if admin.parts.chat.shadow {
        words.push((Level::Warn, "shadow mode: answers are recorded and nothing is posted (chat.shadow)".to_owned()));
    }
    for service in admin.parts.stack.services() {
        let snapshot = service.gate.snapshot();
        if snapshot.state != breaker::State::Closed || snapshot.mode != breaker::Mode::Auto {
            let level = if snapshot.state == breaker::State::Open { Level::Bad } else { Level::Warn };
            words.push((level, format!("breaker of {}", explain::breaker(&admin.parts, service))));
        }
        if service.permits.waiting() > 0 {
            words.push((Level::Warn, format!("limiter of {}", explain::limiter(&admin.parts, service))));
        }
    }
    let paused = Pool::ALL.into_iter().filter(|pool| admin.parts.settings.holds(*pool));
    words.extend(paused.map(|pool| (Level::Bad, explain::paused(&admin.parts, pool))));
    let mutes = admin.parts.settings.all().into_iter().filter(|setting| setting.name.starts_with("mute/"));
    words
        .extend(mutes.map(|mute| {
            (Level::Warn, format!("{} muted the bot: {}", mute.by, mute.name.trim_start_matches("mute/")))
        }));
    if let Some(longest) = waiting.first().filter(|one| one.waiting_ms.is_some_and(|ms| ms > LONG_WAIT_MS)) {
        let since = explain::span(Duration::from_millis(longest.waiting_ms.unwrap_or_default()));
        words.push((Level::Warn, format!("the customer of {} has been waiting for {since}", longest.id)));
    }
    let parked: u64 =
        admin.parts.broker.counts().iter().filter(|of| of.standing == Standing::Parked).map(|of| of.messages).sum();
    if parked > 0 {
        words.push((Level::Warn, given_up(parked)));
    }
    words.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    let level = words.first().map_or(Level::Ok, |(level, _)| *level);
    let all_is_well = || vec!["all is well: every customer is being answered".to_owned()];
    let verdict: Vec<String> = words.into_iter().map(|(_, said)| said).collect();
    (level, if verdict.is_empty() { all_is_well() } else { verdict })
}

fn given_up(parked: u64) -> String {
    match parked {
        1 => "1 message was given up and lies among the dead letters".into(),
        _ => format!("{parked} messages were given up and lie among the dead letters"),
    }
}
