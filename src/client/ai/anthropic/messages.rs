//! The messages of a chat completion request as the turns of the Messages API.
//!
//! Instructions stand apart there, wherever they stood; the results of tools are said by the user; neighbouring turns
//! of one speaker become one, results first as they came, since all results must follow their calls in one turn. Empty
//! texts are left out, because they are refused there.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::question::invalid;
use crate::domain::completion::Invalid;

/// One turn.
#[derive(Serialize)]
pub(super) struct Turn {
    role: &'static str,
    content: Vec<Block>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        text: String,
    },
    Image {
        source: Source,
    },
    ToolUse {
        id: String,
        name: String,
        input: Box<RawValue>,
    },
    ToolResult {
        tool_use_id: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        content: Vec<Block>,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Source {
    Url { url: String },
    Base64 { media_type: String, data: String },
}

#[derive(Deserialize)]
struct Given<'a> {
    role: String,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    refusal: Option<String>,
    tool_calls: Option<Vec<Call>>,
    tool_call_id: Option<String>,
    audio: Option<IgnoredAny>,
    function_call: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Call {
    id: String,
    function: Option<Called>,
}

#[derive(Deserialize)]
struct Called {
    name: String,
    arguments: String,
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
    refusal: Option<String>,
    image_url: Option<Image>,
}

#[derive(Deserialize)]
struct Image {
    url: String,
}

/// The instructions in one text, and the turns.
pub(super) fn translate(messages: &str) -> Result<(String, Vec<Turn>), Invalid> {
    let given: Vec<Given<'_>> =
        serde_json::from_str(messages).map_err(|_| wrong("one of the messages is not as OpenAI has them"))?;
    let (mut system, mut turns) = (Vec::new(), Vec::new());
    for message in given {
        if message.audio.is_some() || message.function_call.is_some() {
            return Err(wrong("`audio` and `function_call` of a message are not taken by the provider of this model"));
        }
        let said = blocks(message.content)?;
        match message.role.as_str() {
            "system" | "developer" => system.extend(texts(said)?),
            "user" => add(&mut turns, "user", said),
            "assistant" => {
                let refused = message.refusal.filter(|text| !text.is_empty()).map(|text| Block::Text { text });
                add(&mut turns, "assistant", said.into_iter().chain(refused));
                let calls: Result<Vec<_>, _> = message.tool_calls.unwrap_or_default().into_iter().map(call).collect();
                add(&mut turns, "assistant", calls?);
            }
            "tool" => {
                let answers = message.tool_call_id.ok_or_else(|| wrong("a `tool` message has no `tool_call_id`"))?;
                add(&mut turns, "user", [Block::ToolResult { tool_use_id: answers, content: said }]);
            }
            _ => return Err(wrong("a message has another role than system, developer, user, assistant and tool")),
        }
    }
    if turns.is_empty() {
        return Err(wrong("the messages hold nothing but instructions"));
    }
    Ok((system.join("\n"), turns))
}

/// The names of the tools that were called, each once.
pub(super) fn called(turns: &[Turn]) -> Vec<String> {
    let blocks = turns.iter().flat_map(|turn| &turn.content);
    let names =
        blocks.filter_map(|block| if let Block::ToolUse { name, .. } = block { Some(name.clone()) } else { None });
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

fn wrong(message: &str) -> Invalid {
    invalid("messages", message)
}

fn add(turns: &mut Vec<Turn>, role: &'static str, blocks: impl IntoIterator<Item = Block>) {
    let mut blocks = blocks.into_iter().peekable();
    if blocks.peek().is_none() {
        return;
    }
    match turns.last_mut() {
        Some(last) if last.role == role => last.content.extend(blocks),
        _ => turns.push(Turn { role, content: blocks.collect() }),
    }
}

/// A content that is a text or a list of parts.
fn blocks(content: Option<&RawValue>) -> Result<Vec<Block>, Invalid> {
    let Some(content) = content else { return Ok(Vec::new()) };
    let unreadable = |_| wrong("the `content` of a message is neither a string nor a list of parts");
    if content.get().starts_with('"') {
        let text: String = serde_json::from_str(content.get()).map_err(unreadable)?;
        return Ok(text_block(text).into_iter().collect());
    }
    let parts: Vec<Part> = serde_json::from_str(content.get()).map_err(unreadable)?;
    let mut blocks = Vec::with_capacity(parts.len());
    for part in parts {
        match (part.r#type.as_str(), part.text, part.refusal, part.image_url) {
            ("text", Some(text), ..) | ("refusal", _, Some(text), _) => blocks.extend(text_block(text)),
            ("image_url", .., Some(image)) => blocks.push(Block::Image { source: source(image.url)? }),
            _ => return Err(wrong("the provider of this model takes no other parts than `text` and `image_url`")),
        }
    }
    Ok(blocks)
}

fn text_block(text: String) -> Option<Block> {
    (!text.is_empty()).then_some(Block::Text { text })
}

/// An image by its address, or itself in a `data:` URL (RFC 2397).
fn source(url: String) -> Result<Source, Invalid> {
    let Some(inline) = url.strip_prefix("data:") else {
        let is_address = url.starts_with("https://") || url.starts_with("http://");
        return if is_address { Ok(Source::Url { url }) } else { Err(wrong("the `url` of an image is no address")) };
    };
    let packed = inline.split_once(',').and_then(|(kind, data)| Some((kind.strip_suffix(";base64")?, data)));
    let (media_type, data) = packed.ok_or_else(|| wrong("an image in a data: URL is not in base64"))?;
    Ok(Source::Base64 { media_type: media_type.to_owned(), data: data.to_owned() })
}

fn texts(blocks: Vec<Block>) -> Result<Vec<String>, Invalid> {
    let text = |block| match block {
        Block::Text { text } => Ok(text),
        _ => Err(wrong("an instruction holds something else than text")),
    };
    blocks.into_iter().map(text).collect()
}

fn call(call: Call) -> Result<Block, Invalid> {
    let called = call.function.ok_or_else(|| wrong("a tool call is not one of a function"))?;
    let arguments = if called.arguments.trim().is_empty() { "{}" } else { called.arguments.as_str() };
    let input: Option<Box<RawValue>> = serde_json::from_str(arguments).ok();
    let input = input.filter(|input| input.get().starts_with('{'));
    let input = input.ok_or_else(|| wrong("the `arguments` of a tool call are not a JSON object"))?;
    Ok(Block::ToolUse { id: call.id, name: called.name, input })
}
