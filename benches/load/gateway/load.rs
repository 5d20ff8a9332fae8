//! Questions sent to one gateway: at even times, or each as soon as the one before is answered.
//!
//! At even times, a question is counted from when it was due, so that a slow answer does not hide the wait of those
//! behind it. The sleeping is done by threads, because tokio's timer knows whole milliseconds only, which is more than
//! what is measured.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Barrier, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::Instant,
};

use super::target::{Questions, Target};
use crate::http::Answer;

/// Connections that send at even times: enough that one is free when a question is due, unless the gateway stands still.
const SENDERS: usize = 32;

/// An answer that takes longer has failed.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// What a load brought; spans in microseconds, sorted.
#[derive(Default)]
pub struct Timed {
    /// To the first byte of the body.
    pub first: Vec<u32>,
    /// To the last.
    pub whole: Vec<u32>,
    /// Questions asked, those before the measurement too.
    pub asked: u64,
    pub failed: u64,
    pub per_second: f64,
}

impl Timed {
    fn count(&mut self, outcome: io::Result<Spans>) -> bool {
        self.asked += 1;
        let Ok(spans) = outcome else {
            self.failed += 1;
            return false;
        };
        self.first.push(micros(spans.first));
        self.whole.push(micros(spans.whole));
        true
    }

    fn sum(parts: impl IntoIterator<Item = Self>, took: Duration) -> Self {
        let mut sum = Self::default();
        for part in parts {
            sum.first.extend(part.first);
            sum.whole.extend(part.whole);
            sum.asked += part.asked;
            sum.failed += part.failed;
        }
        sum.per_second = sum.whole.len() as f64 / took.as_secs_f64();
        sum.first.sort_unstable();
        sum.whole.sort_unstable();
        sum
    }
}

struct Spans {
    first: Duration,
    whole: Duration,
}

fn micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

/// How exactly the main thread sleeps, in nanoseconds; 0 is the system's default, which is 50 us. Threads inherit it.
const TIMER_SLACK: &str = "/proc/self/timerslack_ns";

/// Sends so many a second, at even times. Blocks; called on the main thread.
pub fn paced(target: &Target, per_second: f64, within: Duration, is_stream: bool) -> Timed {
    let questions = target.questions(is_stream);
    let total = (per_second * within.as_secs_f64()) as u64;
    let (next, ready, began) = (AtomicU64::new(0), Barrier::new(SENDERS), OnceLock::new());
    let send = || {
        let mut caller = Caller::new(target.address, questions.clone());
        // Connected and warm before the first is due.
        let is_cold = caller.ask(0, Instant::now()).is_err();
        let mut timed = Timed { asked: 1, failed: is_cold.into(), ..Timed::default() };
        ready.wait();
        let began = *began.get_or_init(Instant::now);
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= total {
                return timed;
            }
            let due = began + Duration::from_secs_f64(n as f64 / per_second);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            timed.count(caller.ask(n, due));
        }
    };
    // Without it they sleep less exactly, before all targets alike.
    let _ = std::fs::write(TIMER_SLACK, "1");
    let parts: Vec<Timed> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(send)).collect();
        senders.into_iter().map(|sender| sender.join().expect("a sender does not panic")).collect()
    });
    let _ = std::fs::write(TIMER_SLACK, "0");
    let took = began.get().map_or(within, Instant::elapsed);
    Timed::sum(parts, took)
}

/// One connection that blocks; made anew after a failure.
struct Caller {
    to: SocketAddr,
    questions: Questions,
    connection: Option<TcpStream>,
    answer: Answer,
    buffer: Vec<u8>,
}

impl Caller {
    fn new(to: SocketAddr, questions: Questions) -> Self {
        Self { to, questions, connection: None, answer: Answer::default(), buffer: vec![0; 16 << 10] }
    }

    /// Asks and hears the answer; the spans count from when it was due.
    fn ask(&mut self, n: u64, due: Instant) -> io::Result<Spans> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(self.to)?,
        };
        connection.write_all(&self.questions.question(n))?;
        self.answer.clear();
        let mut first = None;
        loop {
            let read = connection.read(&mut self.buffer)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let is_whole = self.answer.take(&self.buffer[..read]);
            if first.is_none() && !self.answer.body.is_empty() {
                first = Some(due.elapsed());
            }
            if is_whole {
                break;
            }
        }
        let whole = due.elapsed();
        if !self.answer.is_well(self.questions.is_stream) {
            return Err(invalid());
        }
        self.connection = Some(connection);
        Ok(Spans { first: first.unwrap_or(whole), whole })
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let connection = TcpStream::connect(to)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(ANSWERS_WITHIN))?;
    Ok(connection)
}

/// Each connection asks as soon as it has its answer, for so long; what is under way then is still heard. They begin
/// evenly spread over `spread`, so that streams do not keep step.
pub async fn closed(target: &Target, connections: usize, within: Duration, spread: Duration, is_stream: bool) -> Timed {
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for sender in 0..connections {
        let (to, questions) = (target.address, target.questions(is_stream));
        let from = began + spread.mul_f64(sender as f64 / connections as f64);
        senders.spawn(async move {
            tokio::time::sleep_until(from).await;
            let mut wire = Wire { to, connection: None, answer: Answer::default(), buffer: vec![0; 16 << 10] };
            let mut timed = Timed::default();
            let mut n = sender as u64;
            while began.elapsed() < within {
                let outcome = wire.ask(&questions.question(n)).await;
                let is_well = wire.answer.is_well(is_stream);
                let outcome = outcome.and_then(|spans| if is_well { Ok(spans) } else { Err(invalid()) });
                if !timed.count(outcome) {
                    wire.connection = None;
                }
                n += connections as u64;
            }
            timed
        });
    }
    let parts = senders.join_all().await;
    Timed::sum(parts, began.elapsed())
}

/// Asks once; the answer, well or not.
pub async fn once(to: SocketAddr, question: &[u8]) -> io::Result<Answer> {
    let mut wire = Wire { to, connection: None, answer: Answer::default(), buffer: vec![0; 16 << 10] };
    wire.ask(question).await?;
    Ok(wire.answer)
}

/// An answer that is not what was asked for.
fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// One connection that does not block; made anew after a failure.
struct Wire {
    to: SocketAddr,
    connection: Option<tokio::net::TcpStream>,
    answer: Answer,
    buffer: Vec<u8>,
}

impl Wire {
    /// Asks and hears the answer.
    async fn ask(&mut self, question: &[u8]) -> io::Result<Spans> {
        tokio::time::timeout(ANSWERS_WITHIN, self.exchange(question)).await?
    }

    async fn exchange(&mut self, question: &[u8]) -> io::Result<Spans> {
        if self.connection.is_none() {
            let connection = tokio::net::TcpStream::connect(self.to).await?;
            connection.set_nodelay(true)?;
            self.connection = Some(connection);
        }
        let Some(connection) = &mut self.connection else { return Err(io::ErrorKind::NotConnected.into()) };
        self.answer.clear();
        let began = Instant::now();
        connection.write_all(question).await?;
        let mut first = None;
        loop {
            let read = connection.read(&mut self.buffer).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let is_whole = self.answer.take(&self.buffer[..read]);
            if first.is_none() && !self.answer.body.is_empty() {
                first = Some(began.elapsed());
            }
            if is_whole {
                let whole = began.elapsed();
                return Ok(Spans { first: first.unwrap_or(whole), whole });
            }
        }
    }
}
