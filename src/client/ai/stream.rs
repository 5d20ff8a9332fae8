//! An answer in parts, each handed on as soon as it is there.
//!
//! ```text
//! response's bytes -> sse::Parser -> one event -> the provider's reader -> chunks in OpenAI's shape
//! ```
//! Dropping the stream closes the connection, by which the provider learns that nobody listens any more.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};

use super::{anthropic, failure, openai, refusal::Refusal, span, sse};
use crate::{
    domain::{answer::Tokens, verdict::Failure},
    telemetry::span::Span,
};

/// After its last event an answer's body ends at once, or its connection is not worth waiting for.
const END_WITHIN: Duration = Duration::from_millis(50);

/// One part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// A whole server-sent event with its blank line, in OpenAI's shape.
    pub bytes: Bytes,
    /// The tokens used so far, if this part tells them; a later one replaces an earlier one.
    pub tokens: Option<Tokens>,
    /// Whether it carries nothing but the tokens, as asked for by `stream_options.include_usage`.
    pub usage_only: bool,
}

/// What an event of the provider's comes to.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing to hand on; it lives.
    Nothing,
    /// A part of the answer.
    Chunk(Chunk),
    /// The last part, and the end.
    Last(Chunk),
    /// The end.
    Done,
}

/// Who makes chunks of events.
pub(super) enum Reader {
    /// OpenAI's own: events pass as they come.
    Openai,
    /// Anthropic's: events are translated.
    Anthropic(Box<anthropic::events::Reader>),
}

/// An answer that is coming in.
pub struct Stream {
    /// The provider's own limit of requests a minute, if its headers tell it.
    pub limit_requests: Option<u64>,
    response: reqwest::Response,
    parser: sse::Parser,
    reader: Reader,
    /// What was read and not asked for yet.
    ready: VecDeque<Chunk>,
    /// The answer is complete, if nothing more comes.
    finished: bool,
    done: bool,
    /// Between two events.
    silence_max: Duration,
    /// Since when an event is waited for; kept here, so that a wait that is given up and begun anew is one wait.
    waiting: Option<Instant>,
    /// Ends with the stream.
    span: Span,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.span.touch();
    }
}

impl Stream {
    /// Reads from a response whose body has not been touched.
    pub(super) fn new(
        response: reqwest::Response,
        reader: Reader,
        limit_requests: Option<u64>,
        silence_max: Duration,
    ) -> Self {
        let (parser, ready) = (sse::Parser::default(), VecDeque::new());
        Self {
            limit_requests,
            response,
            parser,
            reader,
            ready,
            finished: false,
            done: false,
            silence_max,
            waiting: None,
            span: Span::default(),
        }
    }

    /// Tells the span of its call how it goes on.
    pub(super) fn within(mut self, span: Span) -> Self {
        self.span = span;
        self
    }

    /// The next part; `None` after the provider has said that this was all, or has ended a complete answer.
    ///
    /// # Errors
    /// `Connect` when the connection breaks or the stream ends before that, `Timeout` when no event comes for
    /// `service.timeout`, `Garbled` when what comes is no stream of events, and what an error within the stream says
    /// (`Unavailable`, `Throttled`, `ContentRefused`). After an error the stream is over: drop it.
    pub async fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                span::used(&self.span, chunk.tokens.unwrap_or_default());
                return Ok(Some(chunk));
            }
            if self.done {
                self.end().await;
                return Ok(None);
            }
            let since = *self.waiting.get_or_insert_with(Instant::now);
            let heard = timeout_at(since + self.silence_max, self.hear()).await;
            self.waiting = None;
            let heard = heard.map_err(|_| Failure::Timeout).and_then(|heard| heard.map_err(|refusal| refusal.failure));
            heard.inspect_err(|failure| self.span.fail(failure.kind()))?;
        }
    }

    /// Waits for the first part without handing it out.
    pub(super) async fn begin(&mut self) -> Result<(), Refusal> {
        while self.ready.is_empty() {
            if self.done {
                return Err(Refusal::of(Failure::Garbled));
            }
            self.hear().await?;
        }
        Ok(())
    }

    /// Waits for one event and notes what it comes to. May be given up at any moment without loss.
    async fn hear(&mut self) -> Result<(), Refusal> {
        let event = loop {
            match self.parser.next() {
                Ok(Some(event)) => break event,
                Ok(None) => {}
                Err(sse::TooLong) => return Err(Refusal::of(Failure::Garbled)),
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.parser.push(&bytes),
                Ok(None) if self.finished => {
                    self.done = true;
                    return Ok(());
                }
                Ok(None) => return Err(Refusal::of(Failure::Connect)),
                Err(error) => return Err(Refusal::of(failure(&error))),
            }
        };
        let step = match &mut self.reader {
            Reader::Openai => {
                self.finished = openai::is_finished(&event, self.finished);
                openai::read(event)?
            }
            Reader::Anthropic(reader) => reader.read(&event.data)?,
        };
        match step {
            Step::Nothing => {}
            Step::Chunk(chunk) => self.ready.push_back(chunk),
            Step::Last(chunk) => {
                self.ready.push_back(chunk);
                self.done = true;
            }
            Step::Done => self.done = true,
        }
        Ok(())
    }

    /// Reads the end of the body: only then the connection serves further calls. Whatever else comes is thrown away
    /// with the connection.
    async fn end(&mut self) {
        let _ = timeout(END_WITHIN, self.response.chunk()).await;
    }
}
