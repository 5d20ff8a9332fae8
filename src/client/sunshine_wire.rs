//! Zendesk's answers as they come: almost nothing in them is promised, so almost nothing is demanded.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::sunshine::{Found, Message, Standing};
use crate::domain::{
    content::{self, Content, Words},
    control::Integration,
    time::Timestamp,
};

#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    pub messages: Vec<RawMessage>,
    #[serde(default)]
    pub meta: Meta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub has_more: bool,
    pub before_cursor: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct RawMessage {
    #[serde(default)]
    id: String,
    received: Option<String>,
    author: Option<RawAuthor>,
    content: Option<Box<RawValue>>,
    deleted: Option<bool>,
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawAuthor {
    r#type: Option<String>,
    user_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Conversation {
    pub conversation: RawConversation,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawConversation {
    active_switchboard_integration: Option<RawIntegration>,
    brand_id: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawIntegration {
    id: Option<String>,
    name: Option<String>,
    integration_id: Option<String>,
    integration_type: Option<String>,
}

impl From<RawMessage> for Message {
    fn from(raw: RawMessage) -> Self {
        let field = |name: &str| {
            let value = raw.metadata.as_ref()?.get(name)?;
            value.as_str().map(str::to_owned)
        };
        let mark = field("tidegate_key").map(|key| Found {
            key,
            part: field("tidegate_part").unwrap_or_default(),
            ids: field("tidegate_ids").unwrap_or_default(),
            kind: field("tidegate_kind").unwrap_or_default(),
        });
        let author = raw.author.as_ref();
        let words = if raw.deleted == Some(true) { None } else { raw.content.as_deref().and_then(words) };
        let (text, image) = words.map_or((None, None), |words| (Some(words.text), words.image));
        Self {
            received: raw.received.as_deref().and_then(Timestamp::parse),
            from_customer: author.and_then(|author| author.r#type.as_deref()) == Some("user"),
            user: author.and_then(|author| author.user_id.clone()),
            text,
            image,
            id: raw.id,
            mark,
        }
    }
}

/// What a message says, read as in webhooks (design 5.2, non-text).
fn words(content: &RawValue) -> Option<Words> {
    match content::read(Some(content)) {
        Ok(Content::Usable(words)) => Some(words),
        // Carousels and the like only go out; their text, if any, was said all the same.
        _ => serde_json::from_str(content.get()).ok().map(|Outgoing { text }| Words { text, image: None }),
    }
}

#[derive(Deserialize)]
struct Outgoing {
    text: String,
}

impl From<Conversation> for Standing {
    fn from(Conversation { conversation }: Conversation) -> Self {
        let active = conversation.active_switchboard_integration.map(|raw| Integration {
            id: raw.id,
            name: raw.name,
            integration_id: raw.integration_id,
            integration_type: raw.integration_type,
        });
        Self { active, brand: conversation.brand_id.and_then(|id| id.as_str().map(str::to_owned)) }
    }
}
