//! Boards in Redis: one hash each, without an end of life, changed by compare-and-set.
//!
//! What is announced carries the whole document, so that hearing of a change is knowing it.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use fred::types::{Message, Value, scripts::Script};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::{
    broadcast::{Receiver, error::RecvError},
    watch,
};

use super::Link;
use crate::state::{
    Error,
    board::{Board, Boards, Draft, News, Written},
};

static READ: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("scripts/board_read.lua")));
static WRITE: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("scripts/board_write.lua")));

/// A server that does not let us listen is asked again after this pause.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Boards in one Redis.
pub struct RedisBoards {
    link: Arc<Link>,
}

impl RedisBoards {
    /// Boards behind a connection.
    pub fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    fn key(&self, name: &str) -> String {
        self.link.key(name, "board")
    }

    fn channel(link: &Link, name: &str) -> String {
        link.channel(&format!("board:{name}"))
    }

    /// Asks at once or not at all: what cannot be asked now is decided without the board.
    async fn run(&self, script: &Script, name: &str, args: Vec<Value>) -> Result<Vec<Value>, Error> {
        if !self.link.is_up() {
            return Err(Error::Away("not connected".into()));
        }
        self.link.run(script, vec![self.key(name)], args).await
    }
}

#[async_trait]
impl Boards for RedisBoards {
    async fn read(&self, name: &str) -> Result<Board, Error> {
        board(&self.run(&READ, name, Vec::new()).await?)
    }

    async fn write(&self, name: &str, draft: Draft) -> Result<Written, Error> {
        let channel = if draft.announce { Self::channel(&self.link, name) } else { String::new() };
        let at = u64::try_from(draft.at.as_millis()).unwrap_or(u64::MAX);
        let args = vec![
            Value::from(draft.expected.to_string()),
            Value::Bytes(draft.body),
            Value::from(at.to_string()),
            Value::from(channel),
        ];
        let answer = self.run(&WRITE, name, args).await?;
        match answer.split_first() {
            Some((done, rest)) if done.as_i64() == Some(1) => {
                let Board { version, now, .. } = board(rest)?;
                Ok(Written::Done { version, now })
            }
            Some((_, rest)) => board(rest).map(Written::Conflict),
            None => Err(Error::Failed("a board says nothing".into())),
        }
    }

    fn news(&self, name: &str) -> BoxStream<'static, News> {
        let ear = Ear {
            connections: self.link.connections(),
            channel: Self::channel(&self.link, name),
            link: self.link.clone(),
            messages: None,
        };
        stream::unfold(ear, async |mut ear| Some((ear.next().await, ear))).boxed()
    }
}

/// Listens to one board.
struct Ear {
    link: Arc<Link>,
    connections: watch::Receiver<u64>,
    channel: String,
    messages: Option<Receiver<Message>>,
}

impl Ear {
    async fn next(&mut self) -> News {
        loop {
            let Some(messages) = &mut self.messages else {
                match self.link.listen(&self.channel).await {
                    Ok(messages) => self.messages = Some(messages),
                    Err(_) => tokio::time::sleep(LISTEN_AGAIN).await,
                }
                continue;
            };
            tokio::select! {
                message = messages.recv() => match message {
                    Ok(message) if *message.channel == *self.channel => return announcement(message.value),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return News::Unknown,
                    Err(RecvError::Closed) => {
                        self.messages = None;
                        tokio::time::sleep(LISTEN_AGAIN).await;
                    }
                },
                Ok(()) = self.connections.changed() => return News::Unknown,
            }
        }
    }
}

/// `version clock body`, as the script publishes it.
fn announcement(value: Value) -> News {
    let read = || {
        let text = value.into_bytes()?;
        let mut parts = text.splitn(3, |byte| *byte == b' ');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
        let (version, now) = (number()?, number()?);
        let body = Some(text.slice_ref(parts.next()?));
        Some(Board { version, body, now: Duration::from_millis(now) })
    };
    read().map_or(News::Unknown, News::Says)
}

fn board(answer: &[Value]) -> Result<Board, Error> {
    let number = |index: usize| answer.get(index).and_then(Value::as_u64);
    let (Some(version), Some(now)) = (number(0), number(1)) else {
        return Err(Error::Failed("what a board says cannot be understood".into()));
    };
    let body = answer.get(2).and_then(|body| body.clone().into_bytes());
    Ok(Board { version, body, now: Duration::from_millis(now) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::redis::{opened_to, private::Redis};

    fn draft(expected: u64, body: &'static str, at: Duration) -> Draft {
        Draft { expected, body: body.into(), at, announce: true }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_of_two_changes_is_made_and_announced_and_neither_clock_nor_version_goes_back() {
        let mut redis = Redis::start();
        let link = opened_to(&redis).await;
        let mut connections = link.connections();
        let boards = RedisBoards::new(link);
        let empty = boards.read("ai").await.unwrap();
        assert_eq!((empty.version, &empty.body), (0, &None));

        let ahead = empty.now + Duration::from_secs(100);
        let Written::Done { version, now } = boards.write("ai", draft(0, "one", ahead)).await.unwrap() else {
            panic!("nobody else writes");
        };
        assert!(version > 0 && now >= ahead);
        let Written::Conflict(board) = boards.write("ai", draft(0, "two", empty.now)).await.unwrap() else {
            panic!("it was decided on an older version");
        };
        assert_eq!((board.version, board.body.as_deref()), (version, Some(b"one".as_slice())));
        assert!(boards.read("ai").await.unwrap().now >= ahead, "the clock does not go back");
        assert_eq!(boards.read("other").await.unwrap().version, 0);

        let mut news = boards.news("ai");
        let mut version = version;
        let says = loop {
            // Whoever is not listening yet hears the next one.
            let Written::Done { version: next, .. } = boards.write("ai", draft(version, "three", ahead)).await.unwrap()
            else {
                panic!("nobody else writes");
            };
            version = next;
            let heard = tokio::time::timeout(Duration::from_millis(200), news.next()).await;
            if let Ok(Some(News::Says(board))) = heard {
                break board;
            }
        };
        assert_eq!((says.body.as_deref(), says.version <= version), (Some(b"three".as_slice()), true));

        redis.restart();
        connections.wait_for(|count| *count > 1).await.unwrap();
        let lost = boards.read("ai").await.unwrap();
        assert_eq!((lost.version, lost.body), (0, None));
        // A node that writes what it remembers has a clock that went on meanwhile.
        let later = says.now + Duration::from_secs(1);
        let Written::Done { version: anew, .. } = boards.write("ai", draft(0, "four", later)).await.unwrap() else {
            panic!("nobody else writes");
        };
        assert!(anew > version, "an old version does not come again with other contents");
    }
}
