//! What is remembered of conversations.

use async_trait::async_trait;

use super::{
    controls::{Heard, channel},
    ledger::{holder, remembered},
    shared::{MEMORY, Redis, args, field, json},
};
use crate::{
    domain::{control::Control, ids::ConversationId, prompt::History, time::Timestamp},
    state::{Away, Error, Memory, Remembered},
};

impl Redis {
    /// Writes who holds a conversation, and publishes it; whether that is another one than Redis knew.
    pub(crate) async fn write_control(&self, conversation: &ConversationId, control: Control) -> Result<bool, Error> {
        let channel = channel(&self.link);
        let args = args!["hear", conversation, holder(&control), control.at.0, channel, self.kept()];
        let answer = self.ask(&MEMORY, conversation, args).await?;
        if let Some(control) = super::controls::control(field(&answer, 1), field(&answer, 2)) {
            self.controls.hear(conversation, Heard { control, written: true }).await;
        }
        Ok(field(&answer, 0) == "1")
    }

    /// Notes what was said, as words that were written elsewhere before.
    pub(crate) async fn note_said(
        &self,
        conversation: &ConversationId,
        said: &History,
        at: Timestamp,
    ) -> Result<(), Error> {
        let args = args!["said", conversation, json(said), at.0, self.kept()];
        self.ask(&MEMORY, conversation, args).await.map(drop)
    }

    /// Who holds a conversation, as far as this node has heard.
    pub(crate) async fn heard(&self, conversation: &ConversationId) -> Option<Control> {
        self.controls.get(conversation).await.map(|heard| heard.control)
    }

    /// Takes over what was heard and could not be written.
    pub(crate) async fn hear(&self, conversation: &ConversationId, control: Control) {
        self.controls.hear(conversation, Heard { control, written: false }).await;
    }
}

#[async_trait]
impl Memory for Redis {
    async fn remembered(&self, conversation: &ConversationId) -> Result<Remembered, Error> {
        let answer = self.ask(&MEMORY, conversation, args!["remembered", conversation]).await?;
        let mut known = remembered(&answer);
        if let Some(control) = known.control {
            self.controls.hear(conversation, Heard { control, written: true }).await;
        }
        // What Redis was not told yet is newer.
        known.control = self.controls.get(conversation).await.map(|heard| heard.control).or(known.control);
        Ok(known)
    }

    async fn claimed_by(&self, conversation: &ConversationId) -> Result<Option<String>, Error> {
        let owner = self.ask(&MEMORY, conversation, args!["owner", conversation]).await?.into_iter().next();
        Ok(owner.filter(|owner| !owner.is_empty()))
    }

    async fn control(&self, conversation: &ConversationId) -> Result<Option<Control>, Error> {
        match self.controls.get(conversation).await {
            Some(heard) => Ok(Some(heard.control)),
            None => Ok(self.remembered(conversation).await?.control),
        }
    }

    /// That we hold a conversation of which nothing was heard is written by the turn that follows, or when it is noted
    /// in its turn; a change is written and published at once.
    async fn note_control(&self, conversation: &ConversationId, control: Control) -> Result<bool, Error> {
        let known = self.controls.get(conversation).await;
        let is_news = known.is_none_or(|known| known.control.at <= control.at);
        let is_repeated = known.is_some_and(|known| known.control.holder == control.holder);
        let may_wait = known.is_none() && control.holder.lets_us_answer();
        if !is_news {
            return Ok(false);
        }
        let was_written = known.is_some_and(|known| known.written);
        if may_wait || (is_repeated && was_written) {
            self.controls.hear(conversation, Heard { control, written: !may_wait }).await;
            return Ok(false);
        }
        let changed_there = self.write_control(conversation, control).await?;
        let is_newest = self.control(conversation).await? == Some(control);
        let changed_here = known.is_some_and(|known| known.control.holder != control.holder);
        Ok(is_newest && (changed_there || changed_here))
    }

    async fn note_away(&self, conversation: &ConversationId, away: Option<Away>) -> Result<(), Error> {
        let away = away.as_ref().map(json).unwrap_or_default();
        self.ask(&MEMORY, conversation, args!["away", conversation, away, self.open_for()]).await.map(drop)
    }
}
