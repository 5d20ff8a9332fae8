//! What stands before every API call: authentication and the faults that were asked for.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::sleep;

use super::refusal::Refusal;
use super::world::World;
use crate::simulate::chance;
use crate::simulate::server::Wire;

/// Lets a call through, or does to it what the behaviour says.
pub async fn gate(
    State(world): State<Arc<World>>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    request: Request,
    next: Next,
) -> Response {
    world.counters.api_requests.fetch_add(1, Relaxed);
    let behaviour = world.dial.get();
    if behaviour.drop_connection {
        world.injected();
        wire.cut();
        return Refusal::injected(503).into_response();
    }
    if behaviour.down {
        world.injected();
        return Refusal::injected(503).into_response();
    }
    let authorized = request.headers().get(AUTHORIZATION).is_some_and(|value| value == world.authorization.as_str());
    if !authorized {
        return Refusal::new(401, "unauthorized", "Authorization is required").into_response();
    }
    if chance(behaviour.hang_rate) {
        world.injected();
        pending::<()>().await;
    }
    if behaviour.latency_ms > 0 {
        sleep(Duration::from_millis(behaviour.latency_ms)).await;
    }
    if chance(behaviour.error_rate) {
        world.injected();
        return Refusal::injected(behaviour.error_status).into_response();
    }
    next.run(request).await
}

impl World {
    /// Counts a fault that was asked for.
    pub fn injected(&self) {
        self.counters.api_errors_injected.fetch_add(1, Relaxed);
    }

    /// Counts a posted message against the quota.
    ///
    /// # Errors
    /// 429 when it is used up.
    pub fn throttled(&self) -> Result<(), Refusal> {
        let behaviour = self.dial.get();
        let Some(quota) = behaviour.throttle else { return Ok(()) };
        let arrived = {
            let mut quotas = self.throttle.lock();
            quotas.arrive(&[quota], self.now_us())
        };
        arrived.map(|_| ()).map_err(|wait_us| {
            self.counters.throttled.fetch_add(1, Relaxed);
            Refusal::throttled(behaviour.retry_after.then(|| wait_us.div_ceil(1_000_000)))
        })
    }
}
