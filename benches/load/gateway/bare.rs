//! A gateway that only passes on: axum takes the body, reqwest forwards it, what comes back is returned. The measure
//! beside which ours is set, in a process of its own like ours.

use std::net::SocketAddr;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
    serve::ListenerExt,
};
use tokio::net::TcpListener;

/// Idle connections it keeps, as many as the daemon.
const IDLE_MAX: usize = 256;

/// Serves for ever, at the first address, what it gets from the second, which goes up to `/chat/completions`.
pub async fn serve(addresses: &[String]) {
    let [listen, service] = addresses else { panic!("where to listen, and whom to ask") };
    let listen: SocketAddr = listen.parse().expect("an address with a port");
    tidegate::cli::tls();
    let client = reqwest::Client::builder().pool_max_idle_per_host(IDLE_MAX).tcp_nodelay(true).build();
    let forward = Forward { client: client.expect("a client can be made"), to: format!("{service}/chat/completions") };
    let router = Router::new().route("/v1/chat/completions", post(pass)).with_state(forward);
    let listener = TcpListener::bind(listen).await.expect("the port is free");
    // Waiting to fill a packet only delays the parts of a stream.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    axum::serve(listener, router).await.expect("it serves for ever");
}

#[derive(Clone)]
struct Forward {
    client: reqwest::Client,
    to: String,
}

async fn pass(State(forward): State<Forward>, body: Bytes) -> Response {
    let asked = forward.client.post(&forward.to).header(header::CONTENT_TYPE, "application/json").body(body);
    let Ok(answer) = asked.send().await else { return StatusCode::BAD_GATEWAY.into_response() };
    let status = answer.status();
    let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
    let is_stream = kind.as_ref().is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let body = if is_stream {
        Body::from_stream(answer.bytes_stream())
    } else {
        match answer.bytes().await {
            Ok(whole) => Body::from(whole),
            Err(_) => return StatusCode::BAD_GATEWAY.into_response(),
        }
    };
    let mut response = (status, body).into_response();
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}
