//! What is kept of messages and customers, and when a node was last alive.

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};

use super::shared::{BUCKETS, KEEPING, MEMORY, Redis, args, bucket, field, given, parsed};
use crate::{
    domain::{
        ids::{ConversationId, EventId, MessageId, UserId},
        job::Job,
        reply::Reply,
        time::Timestamp,
        timeline::Timeline,
    },
    state::{Error, Keeping, Presence, Record},
};

/// Rows thrown away at once, so that tidying never holds up a reply for long.
const TIDY_ROWS: usize = 500;

/// Buckets tidied at once.
const TIDY_AT_ONCE: usize = 8;

impl Redis {
    pub(super) fn birth_key(&self, conversation: &ConversationId) -> String {
        self.link.key(&format!("c{}", bucket(conversation.as_str())), "born")
    }

    /// Notes where records are found, by message and by event.
    pub(super) async fn index_records(&self, records: &[Record]) -> Result<(), Error> {
        let names = records.iter().flat_map(|record| {
            let event = (record.id.as_str() != record.message.as_str()).then_some(record.id.as_str());
            event.into_iter().chain([record.message.as_str()]).map(move |id| (id, record))
        });
        let noted = names.map(|(id, record)| self.index(id, &record.conversation, &record.message, self.kept()));
        try_join_all(noted).await.map(drop)
    }

    async fn index(
        &self,
        id: &str,
        conversation: &ConversationId,
        message: &MessageId,
        seconds: String,
    ) -> Result<(), Error> {
        self.slot("id", id, args!["set", format!("{conversation}\n{message}"), seconds]).await.map(drop)
    }

    /// Where a message is kept, by its id or its event's.
    async fn whereabouts(&self, id: &str) -> Result<Option<(ConversationId, MessageId)>, Error> {
        let answer = self.slot("id", id, args!["get"]).await?;
        let found = field(&answer, 0).split_once('\n');
        Ok(found.and_then(|(conversation, message)| {
            Some((ConversationId::new(conversation).ok()?, MessageId::new(message).ok()?))
        }))
    }

    /// Notes a conversation of a customer's.
    pub(super) async fn index_user(&self, conversation: &ConversationId, user: &UserId) -> Result<(), Error> {
        self.slot("user", user.as_str(), args!["add", conversation, self.open_for()]).await.map(drop)
    }
}

#[async_trait]
impl Keeping for Redis {
    async fn record(&self, id: &str) -> Result<Option<Record>, Error> {
        let Some((conversation, message)) = self.whereabouts(id).await? else { return Ok(None) };
        let answer = self.ask(&KEEPING, &conversation, args!["record", message]).await?;
        let [outcome, at, event, _, body, said, replay] = answer.as_slice() else { return Ok(None) };
        if let Some(mut record) = parsed::<Record>(body) {
            // What was meant and not posted was not said.
            record.text = record.reply.as_ref().and_then(|_| parsed::<Reply>(said)).map(|said| said.text());
            return Ok(Some(record));
        }
        let (Some(outcome), Ok(at)) = (parsed(outcome), at.parse()) else { return Ok(None) };
        // An event's id is noted at the end; until then the message names it.
        let Ok(id) = EventId::new(given(event).unwrap_or(message.as_str())) else { return Ok(None) };
        let (timeline, at, replay) = (Timeline::default(), Timestamp(at), replay.parse().unwrap_or_default());
        Ok(Some(Record {
            id,
            message,
            conversation,
            replay,
            outcome,
            at,
            cause: None,
            timeline,
            reply: None,
            text: None,
        }))
    }

    async fn messages_of(&self, conversation: &ConversationId, limit: usize) -> Result<Vec<Record>, Error> {
        let bodies = self.ask(&KEEPING, conversation, args!["messages", conversation, limit]).await?;
        Ok(bodies.iter().filter_map(|body| parsed(body)).collect())
    }

    async fn note_story(&self, job: &Job, replay: u32, story: &Timeline) -> Result<(), Error> {
        let story = super::shared::json(story);
        let args = args!["note_story", job.message, job.conversation, job.received.0, story, self.open_for(), replay];
        let kept = self.ask(&KEEPING, &job.conversation, args);
        let indexed = self.index(job.message.as_str(), &job.conversation, &job.message, self.open_for());
        tokio::try_join!(kept, indexed).map(drop)
    }

    async fn story(&self, message: &str) -> Result<Option<Timeline>, Error> {
        let Some((conversation, message)) = self.whereabouts(message).await? else { return Ok(None) };
        let answer = self.ask(&KEEPING, &conversation, args!["story", message]).await?;
        Ok(parsed(field(&answer, 0)))
    }

    async fn note_user(&self, conversation: &ConversationId, user: &UserId, at: Timestamp) -> Result<(), Error> {
        // First the index: a death in between leaves a conversation there that is not theirs, which is seen.
        self.index_user(conversation, user).await?;
        self.ask(&MEMORY, conversation, args!["user", conversation, user, at.0, self.kept()]).await.map(drop)
    }

    /// The two lie in different slots, so it takes steps, in an order in which a death between two of them is harmless:
    /// first `into` learns everything, and would learn nothing new a second time; then `from` forgets it, which is what
    /// makes it merged; last those that were merged into it before. The event that orders it comes again until all is
    /// done; `from` names those before until then, in what `into` has learnt.
    async fn merge(&self, from: &ConversationId, into: &ConversationId) -> Result<(), Error> {
        let known = self.ask(&MEMORY, from, args!["peek", from]).await?;
        let [history, user, touched, before @ ..] = known.as_slice() else {
            return Err(Error::Failed("a conversation to be merged is answered with too little".into()));
        };
        if let Some(user) = given(user).and_then(|user| UserId::new(user).ok()) {
            self.slot("user", user.as_str(), args!["add", into, self.open_for()]).await?;
        }
        if [history, user, touched].into_iter().any(|known| !known.is_empty()) {
            self.ask(&MEMORY, into, args!["absorb", into, history, user, touched, self.kept()]).await?;
        }
        let mut gone = args!["gather", into, self.open_for(), from];
        gone.extend_from_slice(before);
        self.ask(&MEMORY, into, gone).await?;
        for earlier in before.iter().filter_map(|id| ConversationId::new(id).ok()) {
            self.ask(&MEMORY, &earlier, args!["follow", earlier, into, from]).await?;
        }
        self.ask(&MEMORY, from, args!["cease", from, into, self.open_for()]).await?;
        self.controls.forget(from).await;
        Ok(())
    }

    async fn conversations_of(&self, user: &UserId) -> Result<Vec<ConversationId>, Error> {
        let noted = self.slot("user", user.as_str(), args!["members"]).await?;
        let mut theirs = Vec::new();
        for conversation in noted.iter().filter_map(|id| ConversationId::new(id).ok()) {
            let answer = self.ask(&MEMORY, &conversation, args!["remembered", conversation]).await?;
            if field(&answer, 5) == user.as_str() {
                theirs.push(conversation);
            }
        }
        Ok(theirs)
    }

    async fn forget_conversation(&self, conversation: &ConversationId) -> Result<(), Error> {
        let discarded = self.ask(&KEEPING, conversation, args!["forget", conversation, self.kept()]).await?;
        // That they ended stays known.
        for message in discarded.iter().filter_map(|id| MessageId::new(id).ok()) {
            self.index(message.as_str(), conversation, &message, self.kept()).await?;
        }
        self.controls.forget(conversation).await;
        Ok(())
    }

    async fn tidy(&self, now: Timestamp) -> Result<(), Error> {
        let (texts, all) = (now.before(self.retention.results).0, now.before(self.retention.history).0);
        let tidied = stream::iter(0..=BUCKETS).map(|bucket| async move {
            loop {
                let args = args!["tidy", texts, all, TIDY_ROWS];
                if field(&self.ask_bucket(&KEEPING, bucket, args).await?, 0) != "1" {
                    return Ok::<(), Error>(());
                }
            }
        });
        tidied.buffer_unordered(TIDY_AT_ONCE).try_collect::<()>().await?;
        self.tidy_audit(now).await
    }
}

#[async_trait]
impl Presence for Redis {
    async fn last_alive(&self) -> Result<Option<Timestamp>, Error> {
        let answer = self.slot("presence", "alive", args!["get"]).await?;
        Ok(field(&answer, 0).parse().ok().map(Timestamp))
    }

    /// Of any node: as long as one takes webhooks nothing is missed.
    async fn alive(&self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let answer = self.slot("presence", "alive", args!["latest", now.0]).await?;
        Ok(field(&answer, 0).parse().ok().map(Timestamp))
    }

    async fn open_since(&self, since: Timestamp, limit: usize) -> Result<Vec<ConversationId>, Error> {
        let asked = stream::iter(0..=BUCKETS)
            .map(|bucket| self.ask_bucket(&KEEPING, bucket, args!["open", since.0, limit]))
            .buffer_unordered(TIDY_AT_ONCE);
        let answers: Vec<Vec<String>> = asked.try_collect().await?;
        let mut open: Vec<(i64, ConversationId)> = answers
            .iter()
            .flat_map(|answer| answer.chunks_exact(2))
            .filter_map(|pair| Some((pair[1].parse().ok()?, ConversationId::new(&pair[0]).ok()?)))
            .collect();
        open.sort_by_key(|(touched, _)| std::cmp::Reverse(*touched));
        open.truncate(limit);
        Ok(open.into_iter().map(|(_, id)| id).collect())
    }
}
