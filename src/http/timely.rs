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

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware::from_fn_with_state, routing::get};
    use tower_service::Service;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_answered_in_time_is_given_up() {
        let routes = Router::new().route("/now", get(async || "now")).route("/never", get(std::future::pending::<()>));
        let mut routes = routes.route_layer(from_fn_with_state(Duration::from_secs(10), answer));
        for (path, status) in [("/now", 200), ("/never", 503)] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = routes.call(request).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(response.headers().contains_key("retry-after"), status == 503, "{path}");
        }
    }
}
