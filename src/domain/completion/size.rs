//! How many tokens a request is likely to take, by its size alone.

use std::borrow::Cow;

use serde_json::{Value, value::RawValue};

/// Tokens that an answer is expected to have at most, whatever the client allows: else a large number would take a whole
/// window of the service's limit for one call.
const ANSWER_TOKENS_MAX: u64 = 4096;

/// Answers to one question that are counted.
const ANSWERS_MAX: u64 = 128;

/// Of what is written, by the rule of thumb of OpenAI's tokenizer guide.
const BYTES_PER_TOKEN: u64 = 4;

/// An image, a sound or a document that lies in the question, of whatever size. An image of 1024 x 1024 takes 765 tokens
/// (OpenAI, guide "Images and vision") to 1,400 (Anthropic, "Vision").
const PACKED_TOKENS: u64 = 1000;

/// Texts of this length without a space are something packed.
const PACKED_BYTES_MIN: usize = 1024;

/// Tokens, roughly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Of the question.
    pub asked: u64,
    /// That the answer may have, if the client says so; of several answers that of all.
    pub answer_max: u64,
}

impl Size {
    /// Of a request with these fields.
    pub fn of(fields: &[(Cow<'_, str>, &RawValue)]) -> Self {
        let (mut asked, mut newer, mut older, mut answers) = (0, None, None, 1);
        for (name, value) in fields {
            match &**name {
                "messages" | "input" | "tools" | "prompt" => asked += tokens(value.get()),
                "max_completion_tokens" => newer = value.get().parse::<u64>().ok(),
                "max_tokens" => older = value.get().parse().ok(),
                "n" => answers = value.get().parse().unwrap_or(1),
                _ => {}
            }
        }
        let answer = newer.or(older).unwrap_or(0).min(ANSWER_TOKENS_MAX);
        Self { asked, answer_max: answer * answers.clamp(1, ANSWERS_MAX) }
    }
}

/// Tokens that a whole answer is likely to hold: of what is said in it, and not of what stands around that.
pub fn tokens_said(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let choices = answer["choices"].as_array().into_iter().flatten();
    let bytes: usize = choices.map(|choice| bytes_said(&choice["message"])).sum();
    bytes as u64 / BYTES_PER_TOKEN
}

fn bytes_said(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(all) => all.iter().map(bytes_said).sum(),
        Value::Object(fields) => {
            let said = fields.iter().filter(|(name, _)| !["role", "type", "id"].contains(&name.as_str()));
            said.map(|(_, value)| bytes_said(value)).sum()
        }
        _ => 0,
    }
}

fn tokens(json: &str) -> u64 {
    let (mut packed, mut packed_bytes) = (0, 0);
    if json.len() > PACKED_BYTES_MIN {
        for text in json.split('"').filter(|text| is_packed(text)) {
            packed += 1;
            packed_bytes += text.len();
        }
    }
    (json.len() - packed_bytes) as u64 / BYTES_PER_TOKEN + packed * PACKED_TOKENS
}

/// Base64 (RFC 4648), by itself or in a `data:` URL (RFC 2397); the slash may be escaped.
fn is_packed(text: &str) -> bool {
    let data = if text.starts_with("data:") { text.split_once(',').map_or("", |(_, data)| data) } else { text };
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_=\\".contains(&byte);
    data.len() >= PACKED_BYTES_MIN && data.bytes().all(is_base64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::completion::{Kind, Request};

    fn size(content: Value, more: Value) -> (u64, u64) {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": content }] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request = Request::parse(Kind::Chat, body.to_string().as_bytes()).unwrap();
        (request.tokens_asked(), request.tokens())
    }

    #[test]
    fn the_estimate_counts_the_question_and_the_answer_it_may_have() {
        let answer = |more: Value| {
            let (asked, all) = size(json!("a word ".repeat(57)), more);
            assert!((100..120).contains(&asked), "{asked}");
            all - asked
        };
        for (more, expected) in [
            (json!({}), 0),
            (json!({ "max_tokens": 1000 }), 1000),
            (json!({ "max_tokens": 1000, "max_completion_tokens": 7 }), 7),
            (json!({ "max_tokens": null }), 0),
            (json!({ "max_tokens": 999_999_999 }), ANSWER_TOKENS_MAX),
            (json!({ "max_tokens": 1000, "n": 3 }), 3000),
            (json!({ "max_tokens": u64::MAX, "n": u64::MAX }), ANSWER_TOKENS_MAX * ANSWERS_MAX),
        ] {
            assert_eq!(answer(more.clone()), expected, "{more}");
        }
    }

    #[test]
    fn of_an_answer_counts_what_is_said_in_it() {
        let call =
            json!({ "id": "call_1", "type": "function", "function": { "name": "look", "arguments": "{\"a\":1}" } });
        for (message, expected) in [
            (json!({ "role": "assistant", "content": "a word ".repeat(40), "refusal": null }), 70),
            (json!({ "role": "assistant", "content": null, "tool_calls": [call] }), 2),
            (json!(null), 0),
        ] {
            let answer = json!({ "id": "chatcmpl-1234567890", "choices": [{ "index": 0, "message": message }] });
            assert_eq!(tokens_said(answer.to_string().as_bytes()), expected, "{answer}");
        }
        let two = json!({ "choices": [{ "message": { "content": "four" } }, { "message": { "content": "five" } }] });
        assert_eq!(tokens_said(two.to_string().as_bytes()), 2);
        assert_eq!(tokens_said(b"{"), 0);
    }

    #[test]
    fn what_is_packed_into_a_question_is_not_read_letter_by_letter() {
        let packed = "QUJD/+==".repeat(1 << 16);
        let escaped = packed.replace('/', "\\/");
        let image = |url: &str| json!([{ "type": "image_url", "image_url": { "url": url } }]);
        let asked = |content: Value| size(content, json!({})).0;
        for content in [
            image(&format!("data:image/png;base64,{packed}")),
            image(&format!("data:image/png;base64,{escaped}")),
            json!([{ "type": "input_audio", "input_audio": { "data": packed, "format": "mp3" } }]),
        ] {
            assert!((1000..1050).contains(&asked(content)));
        }
        assert!((2000..2050).contains(&asked(json!([image(&packed)[0], image(&packed)[0]]))));
        let text = "a word and another one. ".repeat(10_000);
        assert!(asked(json!(text)) >= text.len() as u64 / 4, "what is written counts as it is");
        assert!(asked(image("https://example.com/a.png")) < 50);
    }
}
