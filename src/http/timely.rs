//! An answer comes in time, or the sender hears that it does not.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::problem::Problem;

/// When the sender may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Gives a request up that is not answered within the time.
pub async fn answer(State(within): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(within, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = "the answer was not ready in time; try again";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-slow", detail);
            problem.retry_after(RETRY_AFTER).into_response()
        }
    }
}
