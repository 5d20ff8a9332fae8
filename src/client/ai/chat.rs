//! A conversation's question and its answer, as OpenAI's `POST /chat/completions` has them (API reference "Create chat
//! completion").

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::openai;
use crate::domain::{
    answer::{Answer, Tokens},
    prompt::{Prompt, Role},
    verdict::Failure,
};

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: Role,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: ImageUrl<'a> },
}

#[derive(Serialize)]
struct ImageUrl<'a> {
    url: &'a str,
}

#[derive(Serialize)]
struct Tool<'a> {
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    description: &'static str,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Value,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Deserialize)]
struct ToolCall {
    function: Called,
}

#[derive(Deserialize)]
struct Called {
    name: String,
}

/// The body of the request; by a `handoff_tool` that is not empty the model may ask for a human.
pub(super) fn question(prompt: &Prompt, model: &str, images: bool, handoff_tool: &str) -> Vec<u8> {
    let last = prompt.turns.len().saturating_sub(1);
    let messages = prompt.turns.iter().enumerate().map(|(index, turn)| {
        let with_images = images && index == last && !prompt.images.is_empty();
        let content = if with_images {
            let images = prompt.images.iter().map(|url| Part::ImageUrl { image_url: ImageUrl { url } });
            Content::Parts(std::iter::once(Part::Text { text: &turn.text }).chain(images).collect())
        } else {
            Content::Text(&turn.text)
        };
        Message { role: turn.role, content }
    });
    let tool = || Tool {
        r#type: "function",
        function: Function {
            name: handoff_tool,
            description: "Hands the conversation over to a human of the support team.",
        },
    };
    let tools = (!handoff_tool.is_empty()).then(tool).into_iter().collect();
    serde_json::to_vec(&Request { model, messages: messages.collect(), tools }).expect("a request is plain data")
}

/// Reads the answer, and the tokens used, which are paid for whatever is said.
pub(super) fn answer(body: &[u8], handoff_tool: &str) -> (Tokens, Result<Answer, Failure>) {
    let Ok(Completion { choices, usage }) = serde_json::from_slice(body) else {
        return (Tokens::default(), Err(Failure::Garbled));
    };
    let tokens = openai::used(usage);
    (tokens, said(choices, tokens, handoff_tool))
}

fn said(choices: Vec<Choice>, tokens: Tokens, handoff_tool: &str) -> Result<Answer, Failure> {
    let choice = choices.into_iter().next().ok_or(Failure::Garbled)?;
    let refused = choice.finish_reason.as_deref() == Some("content_filter") || choice.message.refusal.is_some();
    if refused {
        return Err(Failure::ContentRefused);
    }
    let calls = choice.message.tool_calls.unwrap_or_default();
    let handoff = !handoff_tool.is_empty() && calls.iter().any(|call| call.function.name == handoff_tool);
    let text = choice.message.content.unwrap_or_default();
    if text.trim().is_empty() && !handoff {
        return Err(Failure::UnusableAnswer);
    }
    Ok(Answer { text, handoff, tokens, ..Answer::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::prompt::{History, Turn};

    #[test]
    fn a_question_is_written_as_openai_reads_it() {
        let history = History::new(vec![Turn { role: Role::Assistant, text: "hello".into() }]);
        let prompt = Prompt::new("be kind", &history, &["hi", "there"], vec!["http://i/1.png".into()]);
        let said = |images, tool: &str| serde_json::from_slice::<Value>(&question(&prompt, "m", images, tool)).unwrap();
        let turns = |last: Value| {
            json!([{ "role": "system", "content": "be kind" }, { "role": "assistant", "content": "hello" },
                { "role": "user", "content": last }])
        };
        assert_eq!(said(false, ""), json!({ "model": "m", "messages": turns(json!("hi\nthere")) }));
        let parts = json!([{ "type": "text", "text": "hi\nthere" },
            { "type": "image_url", "image_url": { "url": "http://i/1.png" } }]);
        let function =
            json!({ "name": "human", "description": "Hands the conversation over to a human of the support team." });
        let expected =
            json!({ "model": "m", "messages": turns(parts), "tools": [{ "type": "function", "function": function }] });
        assert_eq!(said(true, "human"), expected);
    }

    #[test]
    fn an_answer_is_told_from_what_is_none() {
        let fine = |text: &str, handoff, tokens: (u64, u64)| {
            let tokens = Tokens { input: tokens.0, output: tokens.1, ..Tokens::default() };
            Ok(Answer { text: text.into(), handoff, tokens, ..Answer::default() })
        };
        let call = r#""tool_calls":[{"function":{"name":"human"}}]"#;
        for (body, expected) in [
            (r#"{"choices":[{"message":{"content":"a"}}]}"#.to_owned(), fine("a", false, (0, 0))),
            (
                r#"{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":1,"completion_tokens":2.0}}"#
                    .to_owned(),
                fine("a", false, (1, 2)),
            ),
            (format!(r#"{{"choices":[{{"message":{{"content":null,{call}}}}}]}}"#), fine("", true, (0, 0))),
            (r#"{"choices":[{"message":{"content":" "}}]}"#.to_owned(), Err(Failure::UnusableAnswer)),
            (r#"{"choices":[]}"#.to_owned(), Err(Failure::Garbled)),
            ("{".to_owned(), Err(Failure::Garbled)),
            (
                r#"{"choices":[{"message":{"content":"a"},"finish_reason":"content_filter"}]}"#.to_owned(),
                Err(Failure::ContentRefused),
            ),
            (r#"{"choices":[{"message":{"content":"a","refusal":"no"}}]}"#.to_owned(), Err(Failure::ContentRefused)),
        ] {
            assert_eq!(answer(body.as_bytes(), "human").1, expected, "{body}");
        }
    }

    #[test]
    fn tokens_are_counted_also_of_what_is_no_answer() {
        for said in [r#"{"content":" "}"#, r#"{"content":"a","refusal":"no"}"#] {
            let usage = r#"{"prompt_tokens":3,"completion_tokens":5}"#;
            let body = format!(r#"{{"choices":[{{"message":{said}}}],"usage":{usage}}}"#);
            let (tokens, answer) = answer(body.as_bytes(), "");
            assert!(answer.is_err() && (tokens.input, tokens.output) == (3, 5), "{said}");
        }
    }
}
