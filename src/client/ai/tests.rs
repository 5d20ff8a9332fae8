//! Against a server that answers as each test says.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request as HttpRequest},
    http::StatusCode,
    response::{IntoResponse, Response as Answered},
};
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};

use super::*;
use crate::domain::{prompt::History, secret::Secret};

const NOW: Timestamp = Timestamp(1_767_225_600_000);
/// Longer than anything that does not hang.
const LONG: Duration = Duration::from_secs(10);
const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";

/// One request as it came.
#[derive(Clone, Debug)]
struct Came {
    path: String,
    headers: HeaderMap,
    body: Bytes,
    peer: SocketAddr,
}

struct Server {
    address: SocketAddr,
    came: Arc<Mutex<Vec<Came>>>,
    _task: JoinSet<()>,
}

impl Server {
    async fn answering(answer: impl Fn() -> Answered + Clone + Send + Sync + 'static) -> Self {
        let came = Arc::new(Mutex::new(Vec::new()));
        let seen = came.clone();
        let handler = move |ConnectInfo(peer): ConnectInfo<SocketAddr>, request: HttpRequest| {
            let (answer, seen) = (answer.clone(), seen.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                let path = parts.uri.path_and_query().unwrap().to_string();
                seen.lock().push(Came { path, headers: parts.headers, body, peer });
                answer()
            }
        };
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let router = Router::new().fallback(handler).into_make_service_with_connect_info::<SocketAddr>();
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(tcp, router).await.unwrap() });
        Self { address, came, _task: task }
    }

    /// A server whose one stream is what the test sends.
    async fn streaming() -> (Self, mpsc::Sender<io::Result<Bytes>>) {
        let (sender, receiver) = mpsc::channel(16);
        let receiver = Arc::new(Mutex::new(Some(receiver)));
        let server = Self::answering(move || {
            let pieces: mpsc::Receiver<io::Result<Bytes>> = receiver.lock().take().unwrap();
            let next = |mut pieces: mpsc::Receiver<_>| async move { pieces.recv().await.map(|piece| (piece, pieces)) };
            ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(stream::unfold(pieces, next))).into_response()
        });
        (server.await, sender)
    }

    fn service(&self, provider: Provider) -> AiService<(), ()> {
        AiService {
            provider,
            base_url: format!("http://{}", self.address),
            api_key: Secret::new("k"),
            model: "theirs".into(),
            timeout: LONG,
            ..AiService::default()
        }
    }

    fn ai(&self, provider: Provider) -> Ai {
        Ai::new(&self.service(provider), "").unwrap()
    }

    fn only_call(&self) -> Came {
        let came = self.came.lock();
        assert_eq!(came.len(), 1);
        came[0].clone()
    }
}

fn chat(stream: bool) -> Request {
    let body = json!({ "model": "ours", "messages": [{ "role": "user", "content": "hi" }], "stream": stream });
    Request::parse(Kind::Chat, body.to_string().as_bytes()).unwrap()
}

async fn complete(ai: &Ai, within: Duration) -> Result<Completion, Refusal> {
    ai.complete(&chat(false), "theirs", within, NOW).await
}

async fn streamed(ai: &Ai, first_within: Duration) -> Result<Stream, Refusal> {
    ai.stream(&chat(true), "theirs", first_within, NOW).await
}

#[test]
fn models_are_offered_by_the_names_clients_know() {
    let models = [("gpt-4o", "llama3"), ("m", "m-large")].map(|(ours, theirs)| (ours.into(), theirs.into()));
    let service = |model: &str| AiService::<(), ()> {
        model: model.into(),
        models: models.clone().into(),
        ..AiService::default()
    };
    let ai = Ai::new(&service("default"), "").unwrap();
    let offered = ["gpt-4o", "default", "llama3", ""].map(|asked| ai.offers(asked));
    assert_eq!(offered, [Some("llama3"), Some("default"), None, None]);
    assert_eq!((ai.model(), ai.models().collect::<Vec<_>>()), ("default", vec!["default", "gpt-4o", "m"]));
    let ai = Ai::new(&service("m"), "").unwrap();
    assert_eq!((ai.offers("m"), ai.models().count()), (Some("m-large"), 2));
    let ai = Ai::new(&service(""), "").unwrap();
    assert_eq!((ai.offers(""), ai.models().count()), (None, 2));
}

#[tokio::test]
async fn a_whole_answer_passes_byte_for_byte() {
    const BODY: &str =
        "{ \"choices\": [{}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}, \"x\": \"\\u00fc\"}\n";
    let server = Server::answering(|| ([("x-ratelimit-limit-requests", "60")], BODY).into_response()).await;
    let completion = complete(&server.ai(Provider::Openai), LONG).await.unwrap();
    assert_eq!(completion.body, BODY);
    assert_eq!(
        (completion.tokens, completion.limit_requests),
        (Tokens { input: 3, output: 4, ..Tokens::default() }, Some(60))
    );
    let came = server.only_call();
    assert_eq!(
        (came.path.as_str(), &came.headers["authorization"]),
        ("/chat/completions", &"Bearer k".parse().unwrap())
    );
    assert_eq!(came.body, chat(false).body("theirs"));
}

#[tokio::test]
async fn embeddings_are_asked_where_they_are() {
    const BODY: &str = r#"{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#;
    let server = Server::answering(|| BODY.into_response()).await;
    let request = Request::parse(Kind::Embeddings, br#"{"model":"e","input":"a","dimensions":3}"#).unwrap();
    let completion = server.ai(Provider::Openai).complete(&request, "theirs", LONG, NOW).await.unwrap();
    assert_eq!((&completion.body[..], completion.tokens.input), (BODY.as_bytes(), 3));
    let came = server.only_call();
    assert_eq!(
        (came.path.as_str(), &came.body[..]),
        ("/embeddings", &br#"{"model":"theirs","input":"a","dimensions":3}"#[..])
    );
    let refusal = server.ai(Provider::Anthropic).complete(&request, "theirs", LONG, NOW).await.unwrap_err();
    assert_eq!((refusal.failure, refusal.status), (Failure::Rejected(400), Some(400)));
    let body: Value = serde_json::from_slice(&refusal.body.unwrap()).unwrap();
    assert_eq!((&body["error"]["type"], &body["error"]["param"]), (&json!("invalid_request_error"), &json!("model")));
    assert_eq!(server.came.lock().len(), 1, "nobody was asked");
}

#[tokio::test]
async fn every_status_is_told_apart_on_every_road() {
    for (status, failure) in [
        (400, Failure::Rejected(400)),
        (401, Failure::Unusable(401)),
        (404, Failure::Unusable(404)),
        (408, Failure::Timeout),
        (422, Failure::Rejected(422)),
        (429, Failure::Throttled(Some(Duration::from_secs(7)))),
        (500, Failure::Unavailable(500)),
        (302, Failure::Unavailable(302)),
        (529, Failure::Unavailable(529)),
    ] {
        for (provider, body) in [
            (Provider::Openai, r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#),
            (Provider::Azure, r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#),
            (Provider::Anthropic, r#"{"type":"error","error":{"message":"m","type":"t"}}"#),
        ] {
            let status_code = StatusCode::from_u16(status).unwrap();
            let server = Server::answering(move || (status_code, [("retry-after", "7")], body).into_response()).await;
            let ai = server.ai(provider);
            let refusals = [complete(&ai, LONG).await.err(), streamed(&ai, LONG).await.err()];
            for refusal in refusals.map(Option::unwrap) {
                assert_eq!((&refusal.failure, refusal.status), (&failure, Some(status)), "{provider:?}");
                let message =
                    refusal.body.map(|body| serde_json::from_slice::<Value>(&body).unwrap()["error"]["message"].take());
                assert_eq!(message, (status != 401).then(|| json!("m")), "{provider:?} {status}");
            }
            let prompt = Prompt::new("", &History::default(), &["hi"], Vec::new());
            assert_eq!(ai.ask(&prompt, NOW).await.1, Err(failure.clone()), "{provider:?}");
        }
    }
}

#[tokio::test]
async fn refused_content_is_no_fault_of_the_service() {
    const BODY: &str = r#"{"error":{"code":"content_filter","message":"m","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#;
    let server = Server::answering(|| (StatusCode::BAD_REQUEST, BODY).into_response()).await;
    let refusal = complete(&server.ai(Provider::Azure), LONG).await.unwrap_err();
    assert_eq!((refusal.failure, refusal.body), (Failure::ContentRefused, Some(Bytes::from_static(BODY.as_bytes()))));
    assert_eq!(server.only_call().path, "/openai/deployments/theirs/chat/completions?api-version=2024-10-21");
}

#[tokio::test]
async fn what_is_no_answer_is_told_apart_from_no_answer() {
    let server = Server::answering(|| "{\"choices\": [{\"mess".into_response()).await;
    let ai = server.ai(Provider::Openai);
    assert_eq!(complete(&ai, LONG).await, Err(Refusal::of(Failure::Garbled)));
    let server =
        Server::answering(|| ([(CONTENT_TYPE, "application/json")], "{\"choices\":[{}]}").into_response()).await;
    assert_eq!(streamed(&server.ai(Provider::Openai), LONG).await.err(), Some(Refusal::of(Failure::Garbled)));
    let address = server.address;
    drop(server);
    let service = AiService::<(), ()> { base_url: format!("http://{address}"), ..AiService::default() };
    let ai = Ai::new(&service, "").unwrap();
    assert_eq!(complete(&ai, LONG).await, Err(Refusal::of(Failure::Connect)));
    assert_eq!(streamed(&ai, LONG).await.err(), Some(Refusal::of(Failure::Connect)));
    let ai = Ai::new(&AiService::<(), ()>::default(), "").unwrap();
    assert_eq!(complete(&ai, LONG).await, Err(Refusal::of(Failure::Unusable(0))));
}

#[tokio::test]
async fn a_call_has_the_time_its_caller_gives_it() {
    let (server, _sender) = Server::streaming().await;
    let ai = server.ai(Provider::Openai);
    let within = Duration::from_millis(80);
    let begun = Instant::now();
    assert_eq!(complete(&ai, within).await, Err(Refusal::of(Failure::Timeout)), "its body never ends");
    let (server, _sender) = Server::streaming().await;
    let ai = server.ai(Provider::Openai);
    assert_eq!(streamed(&ai, within).await.err(), Some(Refusal::of(Failure::Timeout)), "its first event never comes");
    assert!((within * 2..LONG).contains(&begun.elapsed()));
}

#[tokio::test]
async fn each_part_is_there_as_soon_as_it_came_and_the_last_ends_it() {
    let (server, sender) = Server::streaming().await;
    let ai = server.ai(Provider::Openai);
    let send = |text: &'static str| sender.send(Ok(Bytes::from_static(text.as_bytes())));
    send(": hello\n\n").await.unwrap();
    let (stream, sent) = tokio::join!(streamed(&ai, LONG), send(EVENT));
    sent.unwrap();
    let mut stream = stream.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().bytes, EVENT);
    send("data: {\"choices\":[{}],\"usage\":null}\n").await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(30), stream.next()).await;
    assert!(waiting.is_err(), "half an event is none");
    send("\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DO")
        .await
        .unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().tokens, None);
    let last = stream.next().await.unwrap().unwrap();
    assert_eq!((last.tokens, last.usage_only), (Some(Tokens { input: 1, output: 2, ..Tokens::default() }), true));
    send("NE]\n\n").await.unwrap();
    drop(sender);
    assert_eq!((stream.next().await, stream.next().await), (Ok(None), Ok(None)));
}

#[tokio::test]
async fn a_stream_that_stops_short_has_failed() {
    let broken = || Err(io::ErrorKind::ConnectionReset.into());
    for (last, failure) in [
        (None, Failure::Connect),
        (Some(broken()), Failure::Connect),
        (Some(Ok(Bytes::from_static(b"data: [DONE]\n"))), Failure::Connect),
        (
            Some(Ok(Bytes::from_static(b"data: {\"error\":{\"message\":\"m\",\"code\":503}}\n\n"))),
            Failure::Unavailable(503),
        ),
        (Some(Ok(Bytes::from(vec![b'x'; 2 << 20]))), Failure::Garbled),
    ] {
        let (server, sender) = Server::streaming().await;
        let ai = server.ai(Provider::Openai);
        sender.send(Ok(Bytes::from_static(EVENT.as_bytes()))).await.unwrap();
        let mut stream = streamed(&ai, LONG).await.unwrap();
        if let Some(last) = last {
            sender.send(last).await.unwrap();
        }
        drop(sender);
        assert_eq!(stream.next().await.unwrap().unwrap().bytes, EVENT);
        assert_eq!(stream.next().await, Err(failure));
    }
}

#[tokio::test]
async fn a_complete_answer_needs_no_word_after_it_but_a_proper_end() {
    const COMPLETE: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let event = |text: &'static str| Some(Ok(Bytes::from_static(text.as_bytes())));
    for (end, expected) in [
        (None, Ok(None)),
        (event("data: [DONE]\n"), Ok(None)),
        (Some(Err(io::ErrorKind::ConnectionReset.into())), Err(Failure::Connect)),
    ] {
        let (server, sender) = Server::streaming().await;
        sender.send(Ok(Bytes::from_static(COMPLETE.as_bytes()))).await.unwrap();
        let mut stream = streamed(&server.ai(Provider::Openai), LONG).await.unwrap();
        if let Some(end) = end {
            sender.send(end).await.unwrap();
        }
        drop(sender);
        assert_eq!(stream.next().await.unwrap().unwrap().bytes, COMPLETE);
        assert_eq!(stream.next().await, expected);
    }
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_part_is_refused() {
    for (first, failure) in [
        (&b"data: {\"error\":{\"message\":\"m\",\"type\":\"rate_limit_error\"}}\n\n"[..], Failure::Throttled(None)),
        (b"data: [DONE]\n\n", Failure::Garbled),
        (b"<html>\n\n", Failure::Connect),
        (b"", Failure::Connect),
    ] {
        let (server, sender) = Server::streaming().await;
        sender.send(Ok(Bytes::from_static(first))).await.unwrap();
        drop(sender);
        let refusal = streamed(&server.ai(Provider::Openai), LONG).await.err().unwrap();
        assert_eq!((&refusal.failure, refusal.status), (&failure, None));
        assert_eq!(refusal.body.is_some(), failure == Failure::Throttled(None));
    }
}

#[tokio::test]
async fn silence_within_a_stream_is_a_timeout_and_comments_are_silence() {
    let (server, sender) = Server::streaming().await;
    let silence = Duration::from_millis(100);
    let ai = Ai::new(&AiService { timeout: silence, ..server.service(Provider::Openai) }, "").unwrap();
    sender.send(Ok(Bytes::from_static(EVENT.as_bytes()))).await.unwrap();
    let mut stream = streamed(&ai, LONG).await.unwrap();
    stream.next().await.unwrap().unwrap();
    let begun = Instant::now();
    let comments = async {
        loop {
            if sender.send(Ok(Bytes::from_static(b": still there\n\n"))).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // A wait that is given up and begun anew is one wait.
    let heard = async {
        loop {
            match tokio::time::timeout(silence / 12, stream.next()).await {
                Ok(heard) => break heard,
                Err(_) => assert!(begun.elapsed() < silence * 10, "each wait is a new one"),
            }
        }
    };
    let heard = tokio::select! {
        heard = heard => heard,
        () = comments => panic!("the stream was given up"),
    };
    assert_eq!(heard, Err(Failure::Timeout));
    assert!(begun.elapsed() >= silence);
}

#[tokio::test]
async fn a_call_that_is_dropped_is_given_up_at_the_provider() {
    let (server, sender) = Server::streaming().await;
    let ai = server.ai(Provider::Openai);
    sender.send(Ok(Bytes::from_static(EVENT.as_bytes()))).await.unwrap();
    let stream = streamed(&ai, LONG).await.unwrap();
    assert!(!sender.is_closed());
    drop(stream);
    tokio::time::timeout(LONG, sender.closed()).await.unwrap();
    let (server, sender) = Server::streaming().await;
    let ai = server.ai(Provider::Openai);
    assert!(tokio::time::timeout(Duration::from_millis(100), complete(&ai, LONG)).await.is_err());
    tokio::time::timeout(LONG, sender.closed()).await.unwrap();
}

#[tokio::test]
async fn a_connection_serves_the_next_call_after_a_stream_too() {
    let server = Server::answering(|| {
        let pieces = [EVENT, "data: [DONE]\n\n"].map(|text| Ok::<_, io::Error>(Bytes::from_static(text.as_bytes())));
        ([(CONTENT_TYPE, "text/event-stream; charset=utf-8")], Body::from_stream(stream::iter(pieces))).into_response()
    })
    .await;
    let ai = server.ai(Provider::Openai);
    for _ in 0..3 {
        let mut stream = streamed(&ai, LONG).await.unwrap();
        while stream.next().await.unwrap().is_some() {}
    }
    let came = server.came.lock();
    assert!(came.len() == 3 && came.iter().all(|call| call.peer == came[0].peer), "{came:?}");
}
