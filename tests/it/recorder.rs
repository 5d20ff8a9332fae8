//! Stands before a simulator and keeps what passes: who asked what, when, and how it was answered.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet, time::Instant};

use crate::support::ANYWHERE;

/// One call and its answer.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub path: String,
    pub authorization: String,
    pub body: Value,
    /// When it arrived.
    pub at: Instant,
    /// When it was answered.
    pub answered: Instant,
    pub status: u16,
    /// The `Retry-After` of the answer.
    pub retry_after: Option<Duration>,
}

struct Shared {
    upstream: ArcSwapOption<String>,
    client: reqwest::Client,
    calls: Mutex<Vec<Call>>,
    /// Answers to paths that end so are held back for so long.
    held: Mutex<Option<(String, Duration)>>,
    /// Calls to paths that end so are not passed on but answered with this status.
    refused: Mutex<Option<(String, StatusCode)>>,
    /// So many calls of this method to paths that end so are still answered 500 and not passed on.
    failing: Mutex<Option<(Method, String, usize)>>,
}

/// Passes calls on until it is dropped.
pub struct Recorder {
    shared: Arc<Shared>,
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl Recorder {
    /// Listens; calls are passed on from [`Recorder::aim`] on.
    pub async fn start() -> Self {
        tidegate::cli::tls();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client can be made");
        let shared = Arc::new(Shared {
            upstream: ArcSwapOption::empty(),
            client,
            calls: Mutex::default(),
            held: Mutex::default(),
            refused: Mutex::default(),
            failing: Mutex::default(),
        });
        let listener = TcpListener::bind(ANYWHERE).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let router = Router::new().fallback(pass).with_state(shared.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { drop(axum::serve(listener, router).await) });
        Self { shared, address, _server: server }
    }

    /// Passes calls on to this base URL.
    pub fn aim(&self, upstream: &str) {
        self.shared.upstream.store(Some(Arc::new(upstream.to_owned())));
    }

    /// Holds back the answers to paths that end so; what was asked has its effect at once.
    pub fn hold_back(&self, end: &str, answers: Duration) {
        *self.shared.held.lock() = Some((end.to_owned(), answers));
    }

    /// Answers calls to paths that end so with this status and passes none of them on; `None`: no more.
    pub fn refuse(&self, end: &str, status: Option<StatusCode>) {
        *self.shared.refused.lock() = status.map(|status| (end.to_owned(), status));
    }

    /// Answers 500 to the next calls of a method to paths that end so, without passing them on.
    pub fn fail(&self, method: Method, end: &str, times: usize) {
        *self.shared.failing.lock() = Some((method, end.to_owned(), times));
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The calls answered so far whose path ends so, in the order of their answers.
    pub fn calls(&self, end: &str) -> Vec<Call> {
        self.shared.calls.lock().iter().filter(|call| call.path.ends_with(end)).cloned().collect()
    }

    /// The posted messages.
    pub fn posts(&self) -> Vec<Call> {
        self.calls("/messages").into_iter().filter(|call| call.method == "POST").collect()
    }
}

impl Shared {
    fn fails(&self, method: &Method, path: &str) -> bool {
        let mut failing = self.failing.lock();
        let Some((which, end, left)) = &mut *failing else { return false };
        let fails = *left > 0 && which == method && path.ends_with(end.as_str());
        *left -= usize::from(fails);
        fails
    }
}

/// Calls that arrived while a wait told by an earlier 429 lasted, beyond `slack` for those on the way by then.
pub fn too_early(calls: &[Call], slack: Duration) -> Vec<String> {
    let told = |call: &&Call| call.status == 429 && call.retry_after.is_some();
    let mut found = Vec::new();
    for refused in calls.iter().filter(told) {
        let over = refused.answered + refused.retry_after.unwrap_or_default();
        let early = calls.iter().filter(|call| call.at > refused.answered + slack && call.at < over);
        found.extend(early.map(|call| format!("{:?} too early", over - call.at)));
    }
    found
}

async fn pass(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let at = Instant::now();
    let Some(upstream) = shared.upstream.load_full() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let refused = shared.refused.lock().clone().filter(|(end, _)| uri.path().ends_with(end.as_str()));
    if let Some((_, status)) = refused {
        return status.into_response();
    }
    if shared.fails(&method, uri.path()) {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let path_and_query = uri.path_and_query().map_or("/", |it| it.as_str());
    let mut request = shared.client.request(method.clone(), format!("{upstream}{path_and_query}")).body(body.clone());
    for name in [header::AUTHORIZATION, header::CONTENT_TYPE] {
        if let Some(value) = headers.get(&name) {
            request = request.header(name, value);
        }
    }
    let text = |name| headers.get(name).and_then(|it: &header::HeaderValue| it.to_str().ok()).unwrap_or_default();
    let Ok(answer) = request.send().await else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, answer_headers) = (answer.status(), answer.headers().clone());
    let Ok(answer_body) = answer.bytes().await else { return StatusCode::BAD_GATEWAY.into_response() };
    let seconds = answer_headers.get(header::RETRY_AFTER).and_then(|it| it.to_str().ok()?.parse().ok());
    shared.calls.lock().push(Call {
        method: method.to_string(),
        path: uri.path().to_owned(),
        authorization: text(header::AUTHORIZATION).to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        at,
        answered: Instant::now(),
        status: status.as_u16(),
        retry_after: seconds.map(Duration::from_secs),
    });
    let held = shared.held.lock().clone().filter(|(end, _)| uri.path().ends_with(end.as_str()));
    if let Some((_, answers)) = held {
        tokio::time::sleep(answers).await;
    }
    let mut response = Response::new(Body::from(answer_body));
    *response.status_mut() = status;
    for (name, value) in &answer_headers {
        if name != header::TRANSFER_ENCODING && name != header::CONTENT_LENGTH {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
    response
}
