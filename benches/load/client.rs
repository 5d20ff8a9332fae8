//! A lean load generator: keep-alive connections, prepared requests, exact percentiles.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::http::Answer;

/// The secret of the webhooks.
pub const SECRET: &str = "bench-secret";

/// What one load brought.
pub struct Load {
    pub per_second: f64,
    /// Latencies in microseconds, sorted.
    pub latencies: Vec<u32>,
    /// When each webhook was due, by its number.
    pub sent: Vec<(u64, Instant)>,
    pub failed: u64,
}

/// Makes the webhook of message `n`: a text message of one of `conversations`.
pub fn webhook(n: u64, conversations: u64) -> Vec<u8> {
    let at = 1_773_478_800_000 + n as i64;
    let received = tidegate::domain::time::Timestamp(at).to_rfc3339();
    let body = format!(
        r#"{{"app":{{"id":"66f0a1b2c3d4e5f600000001"}},"webhook":{{"id":"66f0a1b2c3d4e5f600000002","version":"v2"}},"events":[{{"id":"66f0a1b2c3d4e5{:010x}","createdAt":"{received}","type":"conversation:message","payload":{{"conversation":{{"id":"66f0a1b2c3d4c0{:010x}","type":"personal","activeSwitchboardIntegration":{{"id":"66f0a1b2c3d4e5f60000000a","name":"tidegate","integrationId":"66f0a1b2c3d4e5f60000000b","integrationType":"custom"}}}},"message":{{"id":"66f0a1b2c3d4e6{n:010x}","received":"{received}","author":{{"type":"user","userId":"66f0a1b2c3d4c1{:010x}","displayName":"Ayla Demir","user":{{"id":"66f0a1b2c3d4e5f6000000c8","authenticated":false}}}},"content":{{"type":"text","text":"Hi, my parcel number {n} has not arrived yet. [ref:{n:08x}]"}},"source":{{"type":"web","integrationId":"66f0a1b2c3d4e5f600000014"}}}}}}}}]}}"#,
        n,
        n % conversations,
        n % conversations,
    );
    let head = format!(
        "POST /webhooks/sunshine HTTP/1.1\r\nhost: bench\r\nx-api-key: {SECRET}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

/// What is sent.
#[derive(Clone, Copy)]
pub struct Plan {
    pub connections: usize,
    pub conversations: u64,
    /// The number of the first webhook.
    pub first: u64,
    /// How many at the most.
    pub total: u64,
    /// For how long at the most.
    pub within: Duration,
    /// Webhooks a second, at even times; `None`: each connection sends as soon as it has its answer.
    pub pace: Option<f64>,
}

/// Sends numbered webhooks. At a pace, latencies count from the time a webhook was due, so that a slow answer does not
/// hide the wait of those behind it.
pub async fn load(to: SocketAddr, plan: Plan) -> Load {
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..plan.connections {
        senders.spawn(send(to, plan, next.clone(), began));
    }
    let (mut sent, mut latencies, mut failed) = (Vec::new(), Vec::new(), 0);
    while let Some(done) = senders.join_next().await {
        let (some, errors) = done.expect("a sender does not panic");
        failed += errors;
        for (n, at, micros) in some {
            sent.push((n, at));
            latencies.push(micros);
        }
    }
    let per_second = latencies.len() as f64 / began.elapsed().as_secs_f64();
    latencies.sort_unstable();
    Load { per_second, latencies, sent, failed }
}

/// One connection; each webhook's number, when it was due, and how long the answer took in microseconds.
async fn send(to: SocketAddr, plan: Plan, next: Arc<AtomicU64>, began: Instant) -> (Vec<(u64, Instant, u32)>, u64) {
    let mut connection = TcpStream::connect(to).await.expect("it listens");
    connection.set_nodelay(true).expect("it is a socket");
    let (mut sent, mut failed) = (Vec::new(), 0);
    let (mut answer, mut buffer) = (Answer::default(), vec![0; 8_192]);
    while began.elapsed() < plan.within {
        let place = next.fetch_add(1, Ordering::Relaxed);
        if place >= plan.total {
            break;
        }
        let due = plan.pace.map(|pace| began + Duration::from_secs_f64(place as f64 / pace));
        if let Some(due) = due {
            tokio::time::sleep_until(due).await;
        }
        let n = plan.first + place;
        let request = webhook(n, plan.conversations);
        let due = due.unwrap_or_else(Instant::now);
        connection.write_all(&request).await.expect("it takes requests");
        failed += u64::from(hear(&mut connection, &mut answer, &mut buffer).await != 200);
        sent.push((n, due, u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX)));
    }
    (sent, failed)
}

/// Reads one answer; its status.
async fn hear(connection: &mut TcpStream, answer: &mut Answer, buffer: &mut [u8]) -> u16 {
    answer.clear();
    loop {
        let read = connection.read(buffer).await.expect("it answers");
        assert!(read > 0, "the connection was closed");
        if answer.take(&buffer[..read]) {
            return answer.status;
        }
    }
}

/// Where a sequence begins.
pub fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}
