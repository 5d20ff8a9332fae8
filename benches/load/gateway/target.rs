//! What is asked: an address, what a question to it looks like, and the processes behind it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    load::once,
    process::{Process, Usage},
};
use crate::{client::find, daemon::Daemon};

/// The bearer key that every gateway is given; LiteLLM wants it to begin like this.
pub const KEY: &str = "sk-bench";

/// The model by the name that everybody knows.
pub const MODEL: &str = "simulated";

/// As long as the instructions of a small support bot.
const INSTRUCTIONS: &str = "You answer customers of a shop for kitchen goods. Be short and friendly. Parcels take three \
    working days; returns are free for thirty days, the label lies in the parcel. Never promise a date, never speak of \
    other customers, never give a discount. Who is angry, or asks for a person, is handed over to a colleague. Answer \
    in the language of the customer, in at most five sentences.";

/// How every answer of the simulator begins, in one piece or in parts.
const ANSWER: &[u8] = b"Answer to";

/// Somebody who answers `POST /v1/chat/completions`.
pub struct Target {
    pub name: String,
    pub address: SocketAddr,
    /// Header lines beyond the usual ones.
    more: Arc<str>,
    kept: Kept,
}

/// What ends with the target.
enum Kept {
    Nothing,
    Daemon(Daemon),
    Process(Process),
}

/// Makes questions.
#[derive(Clone)]
pub struct Questions {
    more: Arc<str>,
    pub is_stream: bool,
}

impl Questions {
    /// Question `n`, as bytes on the wire. No two of one load are the same, so that nobody can answer two with one call.
    pub fn question(&self, n: u64) -> Vec<u8> {
        self.with(&format!("Hi, my parcel number {n} has not arrived yet, what can I do?"))
    }

    /// The question with this text.
    pub fn with(&self, text: &str) -> Vec<u8> {
        // Whoever passes on a stream may need the tokens used, which cost a part of their own; so all ask for them.
        let stream = r#""stream":true,"stream_options":{"include_usage":true},"#;
        let stream = if self.is_stream { stream } else { "" };
        let body = format!(
            r#"{{"model":"{MODEL}",{stream}"temperature":0.3,"max_tokens":400,"messages":[{{"role":"system","content":"{INSTRUCTIONS}"}},{{"role":"user","content":"{text}"}}]}}"#
        );
        let more = &self.more;
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {KEY}\r\n{more}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

impl Target {
    /// Somebody who is there anyway.
    pub fn at(name: &str, address: SocketAddr) -> Self {
        Self { name: name.to_owned(), address, more: "".into(), kept: Kept::Nothing }
    }

    /// The daemon.
    pub fn daemon(name: &str, daemon: Daemon) -> Self {
        Self { name: name.to_owned(), address: daemon.public, more: "".into(), kept: Kept::Daemon(daemon) }
    }

    /// A process and its children; `more` are header lines it wants.
    pub fn process(name: &str, address: SocketAddr, more: &str, process: Process) -> Self {
        Self { name: name.to_owned(), address, more: more.into(), kept: Kept::Process(process) }
    }

    /// Makes its questions.
    pub fn questions(&self, is_stream: bool) -> Questions {
        Questions { more: self.more.clone(), is_stream }
    }

    /// What it has used; nothing is known of somebody who was there anyway.
    pub fn usage(&self) -> Usage {
        match &self.kept {
            Kept::Nothing => Usage::default(),
            Kept::Daemon(daemon) => Usage { cpu_seconds: daemon.cpu_seconds(), mib: daemon.resident_mib() },
            Kept::Process(process) => process.usage(),
        }
    }

    /// Waits until it answers.
    pub async fn ready(&mut self, within: Duration) -> Result<(), String> {
        let began = Instant::now();
        while let Err(problem) = self.tried(false).await {
            let is_late = began.elapsed() > within;
            match &mut self.kept {
                Kept::Process(process) => match process.has_ended() {
                    Some(end) => return Err(end),
                    None if is_late => return Err(format!("{problem}; {}", process.last_words())),
                    None => {}
                },
                _ if is_late => return Err(problem),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Asks once; what is wrong with the answer.
    pub async fn tried(&self, is_stream: bool) -> Result<(), String> {
        let question = self.questions(is_stream).question(0);
        let answer = once(self.address, &question).await.map_err(|error| format!("it does not answer: {error}"))?;
        if answer.is_well(is_stream) && find(&answer.body, ANSWER).is_some() {
            return Ok(());
        }
        let body: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
        Err(format!("it answers {} {body}", answer.status))
    }
}
