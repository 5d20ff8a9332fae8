//! What people do in the simulated Zendesk, by the id of the conversation.

use std::sync::Arc;

use super::control::Holder;
use super::conversation::Conversation;
use super::draft::{Draft, Writer};
use super::refusal::Refusal;
use super::world::{Opening, World};

impl World {
    /// The customer writes; an unknown conversation begins with it. Tells the message's id.
    ///
    /// # Errors
    /// 429 when there are too many conversations.
    pub async fn say(&self, conversation: &str, text: &str) -> Result<String, Refusal> {
        let conversation = self.known_or_new(conversation).await?;
        let room = self.room().await;
        let stored = self.store(&conversation, &Draft::spoken(Writer::Customer, text), Some(room))?;
        Ok(stored.id.clone())
    }

    /// A human writes from the agent workspace. Tells the message's id.
    ///
    /// # Errors
    /// 404 when the conversation is unknown.
    pub async fn agent_says(&self, conversation: &str, text: &str) -> Result<String, Refusal> {
        let conversation = self.known(conversation)?;
        let room = self.room().await;
        let stored = self.store(&conversation, &Draft::spoken(Writer::Agent, text), Some(room))?;
        Ok(stored.id.clone())
    }

    /// The customer presses a postback button. Tells the event's id.
    ///
    /// # Errors
    /// 429 when there are too many conversations.
    pub async fn postback(&self, conversation: &str, payload: &str) -> Result<String, Refusal> {
        let conversation = self.known_or_new(conversation).await?;
        let room = self.room().await;
        Ok(self.press(&conversation, payload, room))
    }

    /// Gives control to a holder or to nobody.
    ///
    /// # Errors
    /// 404 when the conversation is unknown.
    pub async fn control(&self, conversation: &str, to: Option<Holder>) -> Result<(), Refusal> {
        self.take_control(&self.known(conversation)?, to).await;
        Ok(())
    }

    /// The conversation with this id.
    ///
    /// # Errors
    /// 404 when it is unknown.
    pub fn known(&self, id: &str) -> Result<Arc<Conversation>, Refusal> {
        self.conversation(id).ok_or_else(Refusal::no_conversation)
    }

    async fn known_or_new(&self, id: &str) -> Result<Arc<Conversation>, Refusal> {
        if let Some(known) = self.conversation(id) {
            return Ok(known);
        }
        let id = Some(id.to_owned());
        self.begin(Opening { id, user_id: None, kind: "personal", metadata: None, reason: "startConversation" }).await
    }
}
