//! A message before it is stored: parsed from the body of `POST messages` and checked by Zendesk's rules.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::refusal::Refusal;

/// The longest text in characters (Zendesk's specification of `textMessage`).
const TEXT_CHARS_MAX: usize = 4096;
/// The largest metadata in bytes (Zendesk's specification: 4 kB, flat).
const METADATA_BYTES_MAX: usize = 4096;
const CONTENT_TYPES: [&str; 9] =
    ["text", "image", "file", "location", "carousel", "list", "form", "formResponse", "template"];

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The customer.
    Customer,
    /// The business by API: the daemon under test.
    Api,
    /// A human in the agent workspace.
    Agent,
}

/// A checked message.
#[derive(Debug)]
pub struct Draft {
    /// Who wrote it.
    pub writer: Writer,
    /// The author object without what the simulator adds.
    pub author: Author,
    /// The content object as it was sent.
    pub content: Map<String, Value>,
    /// Flat metadata, given back everywhere.
    pub metadata: Option<Map<String, Value>>,
    /// The channel it came by.
    pub source: &'static str,
}

/// The author of a message, as posted.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Author {
    /// `user` or `business`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The user's id; only for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The name shown to the customer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The picture shown to the customer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// The user's external id, accepted in place of `userId`.
    #[serde(default, skip_serializing)]
    user_external_id: Option<String>,
    #[serde(default, skip_serializing)]
    subtypes: Vec<String>,
}

#[derive(Deserialize)]
struct Body {
    author: Author,
    content: Map<String, Value>,
    metadata: Option<Map<String, Value>>,
}

impl Draft {
    /// A text of a customer or of an agent.
    pub fn spoken(writer: Writer, text: &str) -> Self {
        let (kind, source) =
            if writer == Writer::Customer { ("user", "web") } else { ("business", "zd:agentWorkspace") };
        let content = Map::from_iter([("type".to_owned(), "text".into()), ("text".to_owned(), text.into())]);
        Self { writer, author: Author { kind: kind.to_owned(), ..Author::default() }, content, metadata: None, source }
    }

    /// Parses and checks the body of `POST messages`.
    ///
    /// # Errors
    /// 400 with the first rule that is broken.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let Body { author, content, metadata } =
            serde_json::from_slice(body).map_err(|error| Refusal::bad(format!("Invalid body: {error}")))?;
        let writer = writer(&author)?;
        check_content(&content)?;
        check_metadata(metadata.as_ref())?;
        Ok(Self { writer, author, content, metadata, source: "api:conversations" })
    }

    /// The text, empty when there is none.
    pub fn text(&self) -> &str {
        self.content.get("text").and_then(Value::as_str).unwrap_or_default()
    }

    /// A metadata value that is a string.
    pub fn metadata_text(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(key)?.as_str()
    }
}

/// Checks the author of a message or an activity.
///
/// # Errors
/// 400 when the type is unknown or a user has no id.
pub fn writer(author: &Author) -> Result<Writer, Refusal> {
    if author.subtypes.iter().any(|subtype| subtype != "AI" && subtype != "activity") {
        return Err(Refusal::bad("author.subtypes must be AI or activity"));
    }
    let identified = author.user_id.is_some() || author.user_external_id.is_some();
    match author.kind.as_str() {
        "business" => Ok(Writer::Api),
        "user" if identified => Ok(Writer::Customer),
        "user" => Err(Refusal::bad("author.userId or author.userExternalId is required")),
        _ => Err(Refusal::bad("author.type must be user or business")),
    }
}

fn check_content(content: &Map<String, Value>) -> Result<(), Refusal> {
    let kind = content.get("type").and_then(Value::as_str).unwrap_or_default();
    if !CONTENT_TYPES.contains(&kind) {
        return Err(Refusal::bad("content.type is unknown"));
    }
    for key in ["text", "htmlText", "markdownText"] {
        let Some(value) = content.get(key) else { continue };
        let Some(text) = value.as_str() else { return Err(Refusal::bad(format!("content.{key} must be a string"))) };
        // Characters are at most as many as bytes, so a short text needs no counting.
        if text.len() > TEXT_CHARS_MAX && text.chars().count() > TEXT_CHARS_MAX {
            return Err(Refusal::bad(format!("content.{key} must be at most {TEXT_CHARS_MAX} characters")));
        }
    }
    let said = |key: &str| content.get(key).is_some_and(|value| value.as_str().is_none_or(|text| !text.is_empty()));
    if kind == "text" && !["text", "htmlText", "markdownText", "actions"].into_iter().any(said) {
        return Err(Refusal::bad("content.text is required"));
    }
    let needed = match kind {
        "image" | "file" => "mediaUrl",
        "location" => "coordinates",
        "carousel" | "list" => "items",
        "form" | "formResponse" => "fields",
        "template" => "template",
        _ => "type",
    };
    if content.contains_key(needed) { Ok(()) } else { Err(Refusal::bad(format!("content.{needed} is required"))) }
}

/// Checks that metadata is flat and small.
///
/// # Errors
/// 400 when it is not.
pub fn check_metadata(metadata: Option<&Map<String, Value>>) -> Result<(), Refusal> {
    let Some(metadata) = metadata else { return Ok(()) };
    let flat = metadata.values().all(|value| value.is_string() || value.is_number() || value.is_boolean());
    if !flat {
        return Err(Refusal::bad("metadata must be flat: strings, numbers and booleans"));
    }
    let bytes = serde_json::to_vec(metadata).map_or(usize::MAX, |json| json.len());
    if bytes > METADATA_BYTES_MAX { Err(Refusal::bad("metadata is limited to 4KB")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn accepted(body: &Value) -> bool {
        Draft::parse(body.to_string().as_bytes()).is_ok()
    }

    #[test]
    fn bodies_are_checked_by_the_rules() {
        let business = json!({"type": "business", "subtypes": ["AI"]});
        let text = |text: &str| json!({"type": "text", "text": text});
        let table = [
            (true, json!({"author": business, "content": text("hi")})),
            (true, json!({"author": business, "content": text(&"ö".repeat(4096))})),
            (false, json!({"author": business, "content": text(&"ö".repeat(4097))})),
            (false, json!({"author": business, "content": text("")})),
            (false, json!({"author": business, "content": {"type": "text", "text": 5}})),
            (false, json!({"author": business, "content": {"type": "dance"}})),
            (false, json!({"author": business})),
            (false, json!({"content": text("hi")})),
            (false, json!({"author": {"type": "bot"}, "content": text("hi")})),
            (false, json!({"author": {"type": "user"}, "content": text("hi")})),
            (true, json!({"author": {"type": "user", "userId": "u"}, "content": text("hi")})),
            (true, json!({"author": business, "content": {"type": "image", "mediaUrl": "https://x.test/a.png"}})),
            (false, json!({"author": business, "content": {"type": "image"}})),
            (true, json!({"author": business, "content": text("hi"), "metadata": {"a": 1, "b": true, "c": "d"}})),
            (false, json!({"author": business, "content": text("hi"), "metadata": {"a": {"b": 1}}})),
            (false, json!({"author": business, "content": text("hi"), "metadata": {"a": "x".repeat(4096)}})),
            (false, json!([1])),
        ];
        for (wanted, body) in table {
            assert_eq!(accepted(&body), wanted, "{body:.120}");
        }
    }
}
