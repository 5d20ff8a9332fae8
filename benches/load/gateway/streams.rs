//! Many streams at once, alone and with one reader among them who is slow.
//!
//! The slow one asks for far more than it reads, and what it asks for comes at once: whoever does not stop reading
//! there either keeps it all in memory or lets the others wait.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    task::JoinSet,
};

use super::{
    load::{Timed, closed},
    simulator::Simulator,
    target::Target,
};

/// The pause of the service between two parts of a stream.
const PART_EVERY: Duration = Duration::from_millis(40);

/// A stream of 400 characters has 21 parts; it lasts about so long.
const STREAM_LASTS: Duration = Duration::from_millis(840);

/// Characters the slow one asks for: 18 MB of parts.
const LONG: usize = 2_000_000;

/// What it reads at a time, and how often; its kernel takes little more.
const SIP_BYTES: usize = 1 << 10;
const SIP_EVERY: Duration = Duration::from_millis(50);
const WINDOW_BYTES: u32 = 4 << 10;

/// What the others saw, without the slow one and with it, and the gateway's memory after each.
pub struct Beside {
    pub alone: Timed,
    pub alone_mib: f64,
    pub beside: Timed,
    pub beside_mib: f64,
    /// Whether the slow one was still served in the end.
    pub is_served: bool,
}

/// Runs so many streams at once for so long, twice.
pub async fn beside_slow(target: &Target, simulator: &Simulator, streams: usize, within: Duration) -> Beside {
    let slowly = json!({ "chunk_gap_ms": PART_EVERY.as_millis() as u64 });
    simulator.behave(&slowly).await;
    let alone = closed(target, streams, within, STREAM_LASTS, true).await;
    let alone_mib = target.usage().mib;
    simulator.behave(&json!({ "chunk_gap_ms": 0 })).await;
    let slow = SlowReader::start(target).await;
    simulator.behave(&slowly).await;
    let beside = closed(target, streams, within, STREAM_LASTS, true).await;
    let beside_mib = target.usage().mib;
    let is_served = match slow {
        Ok(slow) => slow.goes_on().await,
        Err(_) => false,
    };
    simulator.behave(&json!({ "chunk_gap_ms": 0 })).await;
    Beside { alone, alone_mib, beside, beside_mib, is_served }
}

/// Reads a long stream in sips, until dropped.
struct SlowReader {
    bytes: Arc<AtomicU64>,
    _reading: JoinSet<()>,
}

impl SlowReader {
    /// Returns once the stream has begun.
    async fn start(target: &Target) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(WINDOW_BYTES)?;
        let mut connection = socket.connect(target.address).await?;
        let question = target.questions(true).with(&format!("Tell me everything. [[ai:long:{LONG}]]"));
        connection.write_all(&question).await?;
        let mut buffer = [0; SIP_BYTES];
        let read = connection.read(&mut buffer).await?;
        if !buffer[..read].starts_with(b"HTTP/1.1 200") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let bytes = Arc::new(AtomicU64::new(0));
        let (mut reading, counted) = (JoinSet::new(), bytes.clone());
        reading.spawn(async move {
            loop {
                tokio::time::sleep(SIP_EVERY).await;
                match connection.read(&mut buffer).await {
                    Ok(read) if read > 0 => counted.fetch_add(read as u64, Ordering::Relaxed),
                    _ => return,
                };
            }
        });
        Ok(Self { bytes, _reading: reading })
    }

    /// Whether more of it comes.
    async fn goes_on(&self) -> bool {
        let before = self.bytes.load(Ordering::Relaxed);
        tokio::time::sleep(SIP_EVERY * 4).await;
        self.bytes.load(Ordering::Relaxed) > before
    }
}
