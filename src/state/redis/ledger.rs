//! Claims, intents and ends, each in one round trip.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    controls::{Heard, channel, control},
    nodes,
    shared::{CLAIM, CONCLUDE, INTEND, KEEPING, MEMORY, Redis, args, field, given, json, parsed},
};
use crate::{
    domain::{
        ids::{ConversationId, MessageId, UserId},
        prompt::History,
        reply::{Purpose, Reply},
        timeline::Outcome,
    },
    state::{Claim, Claimed, Error, Fence, Ledger, Life, Ours, Recall, Record, Remembered, Turn, nodes::EXPIRES_AFTER},
};

/// Fields of an answer to a claim before what is known of each message.
const CLAIM_FIELDS: usize = 10;

impl Redis {
    /// Asks for a conversation; `dead`: whose claim does not count any more, and its fence.
    async fn try_claim(&self, turn: &Turn, dead: (&str, &str)) -> Result<Vec<String>, Error> {
        let heard = self.controls.get(&turn.conversation).await.map(|heard| heard.control);
        let mut args = args![
            turn.conversation,
            self.owner,
            turn.now.0,
            turn.user.as_ref().map(UserId::as_str).unwrap_or_default(),
            heard.map(|control| holder(&control)).unwrap_or_default(),
            heard.map(|control| control.at.0).unwrap_or_default(),
            dead.0,
            dead.1,
            self.kept(),
            channel(&self.link),
        ];
        for life in &turn.lives {
            args.extend(args![life.message, life.replay]);
        }
        self.ask(&CLAIM, &turn.conversation, args).await
    }

    /// Whether a claim made so long ago by this process does not count any more: it was the one before us here, or says
    /// no longer that it lives. Who has claimed a moment ago lives, also when he is not on the roll yet, or any more
    /// because Redis has lost it.
    async fn is_dead(&self, owner: &str, age: Duration) -> Result<bool, Error> {
        if self.predecessor.as_deref() == Some(owner) {
            return Ok(true);
        }
        if age < EXPIRES_AFTER {
            return Ok(false);
        }
        nodes::lives(&self.link, owner).await.map(|lives| !lives)
    }

    fn recalled(&self, answer: (&str, &str), born: &str, life: &Life) -> Recall {
        let (word, body) = answer;
        let nothing = if self.proves(born, life.first_seen) { Recall::New } else { Recall::Unknown };
        match word {
            "ended" => parsed(body).map_or(nothing, Recall::Ended),
            "intended" => parsed(body).map_or(Recall::Ended(Outcome::Discarded), Recall::Intended),
            "told" => parsed(body).map_or(nothing, Recall::Told),
            _ => nothing,
        }
    }

    async fn ours(&self, turn: &Turn, answer: &[String]) -> Result<Ours, Error> {
        let (born, known) = (field(answer, 3), &answer[4..CLAIM_FIELDS.min(answer.len())]);
        let remembered = remembered(known);
        if let Some(control) = remembered.control {
            self.controls.hear(&turn.conversation, Heard { control, written: true }).await;
        }
        let recalls = turn.lives.iter().enumerate().map(|(index, life)| {
            let at = CLAIM_FIELDS + 2 * index;
            self.recalled((field(answer, at), field(answer, at + 1)), born, life)
        });
        let fence = field(answer, 1).parse().map_err(|_| Error::Failed("a claim without a fence".into()))?;
        let inherited = field(answer, 2) == "1";
        Ok(Ours { fence: Fence(fence), inherited, recalls: recalls.collect(), remembered: Some(remembered) })
    }
}

#[async_trait]
impl Ledger for Redis {
    async fn claim(&self, turn: &Turn) -> Result<Claimed, Error> {
        let asked = self.try_claim(turn, ("", ""));
        // Both at once: a death in between leaves a message that comes again, and with it its customer.
        let (answer, noted) = match &turn.user {
            Some(user) => tokio::join!(asked, self.index_user(&turn.conversation, user)),
            None => (asked.await, Ok(())),
        };
        noted?;
        let mut answer = answer?;
        if field(&answer, 0) == "held" {
            let (by, fence) = (field(&answer, 1).to_owned(), field(&answer, 2).to_owned());
            let age = field(&answer, 3).parse().map_err(|_| Error::Failed("a claim without an age".into()))?;
            // Who cannot be asked about lives: the claim has been seen.
            if !self.is_dead(&by, Duration::from_millis(age)).await.unwrap_or(false) {
                return Ok(Claimed::Held { by });
            }
            tracing::warn!(conversation.id = %turn.conversation, by, "a conversation is taken over from a node that has ended");
            answer = self.try_claim(turn, (&by, &fence)).await?;
            if field(&answer, 0) == "held" {
                // Somebody was faster.
                return Ok(Claimed::Held { by: field(&answer, 1).to_owned() });
            }
        }
        self.ours(turn, &answer).await.map(Claimed::Ours)
    }

    async fn is_ours(&self, conversation: &ConversationId, fence: Fence) -> Result<bool, Error> {
        let args = args!["is_ours", conversation, self.owner, fence.0];
        Ok(field(&self.ask(&MEMORY, conversation, args).await?, 0) == "1")
    }

    async fn release(&self, conversation: &ConversationId, fence: Option<Fence>) -> Result<(), Error> {
        let args = args!["release", conversation, self.owner, fence_text(fence)];
        self.ask(&MEMORY, conversation, args).await.map(drop)
    }

    async fn recall(&self, conversation: &ConversationId, life: &Life) -> Result<Recall, Error> {
        let args = args!["recall", conversation, life.message, life.replay, self.clock.now().0];
        let answer = self.ask(&MEMORY, conversation, args).await?;
        Ok(self.recalled((field(&answer, 0), field(&answer, 1)), field(&answer, 2), life))
    }

    async fn intend(&self, reply: &Reply, fence: Option<Fence>) -> Result<Claim, Error> {
        let is_answer = reply.purpose == Purpose::Answer;
        let fence = if is_answer { fence_text(fence) } else { String::new() };
        let mut args = args![
            reply.conversation,
            self.owner,
            fence,
            u8::from(is_answer),
            reply.key(),
            reply.replay,
            json(reply),
            json(&(&reply.parts, &reply.covers)),
            reply.at.0,
            self.open_for(),
            self.kept(),
        ];
        args.extend(reply.covers.iter().map(ToString::to_string));
        let answer = self.ask(&INTEND, &reply.conversation, args).await?;
        let what = field(&answer, 1);
        match field(&answer, 0) {
            "ours" => Ok(Claim::Ours),
            "lost" => Ok(Claim::Lost),
            "taken" => Ok(Claim::Taken(MessageId::new(what).unwrap_or_else(|_| reply.covers[0].clone()))),
            "human" => {
                let control = control("other", what).ok_or_else(|| Error::Failed("a holder without a time".into()))?;
                self.controls.hear(&reply.conversation, Heard { control, written: true }).await;
                Ok(Claim::Human(control))
            }
            word => Err(Error::Failed(format!("an intent is answered with {word:?}"))),
        }
    }

    async fn revoke(&self, reply: &Reply) -> Result<(), Error> {
        let mut args = args!["revoke", reply.key(), reply.conversation, reply.replay];
        args.extend(reply.covers.iter().map(ToString::to_string));
        self.ask(&KEEPING, &reply.conversation, args).await.map(drop)
    }

    async fn conclude(&self, records: Vec<Record>, said: Option<History>, fence: Option<Fence>) -> Result<(), Error> {
        let Some(first) = records.first() else { return Ok(()) };
        let (conversation, now) = (&first.conversation, first.at);
        let history = said.as_ref().map(json).unwrap_or_default();
        let mut args = args![conversation, self.owner, fence_text(fence), history, now.0, self.kept()];
        for record in &records {
            let reply = record.reply.as_deref().unwrap_or_default();
            args.extend(args![record.message, record.replay, record.id, json(&record.outcome), record.at.0, reply]);
            args.push(json(record));
        }
        // The index only says where to look, so it may be there without the record.
        let ended = async {
            self.link
                .run::<i64, _>(&CONCLUDE, vec![self.birth_key(conversation)], args)
                .await
                .and_then(|written| if written == 1 { Ok(()) } else { Err(Error::Fenced) })
        };
        let (ended, indexed) = tokio::join!(ended, self.index_records(&records));
        ended.and(indexed)
    }
}

pub(super) fn holder(control: &crate::domain::control::Control) -> String {
    json(&control.holder).trim_matches('"').to_owned()
}

fn fence_text(fence: Option<Fence>) -> String {
    fence.map(|fence| fence.0.to_string()).unwrap_or_default()
}

/// What a script says is remembered.
pub(super) fn remembered(known: &[String]) -> Remembered {
    Remembered {
        control: control(field(known, 0), field(known, 1)),
        history: parsed(field(known, 2)),
        away: parsed(field(known, 3)),
        alias: given(field(known, 4)).and_then(|id| ConversationId::new(id).ok()),
        user: given(field(known, 5)).and_then(|id| UserId::new(id).ok()),
    }
}
