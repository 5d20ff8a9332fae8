//! What is read of answers in OpenAI's shape: the tokens, whether it is an answer at all, and where a stream ends.
//!
//! The answer itself passes untouched. Whole answers are skimmed without building a tree of them; of the events of a
//! stream only those are read that tell the tokens or an error.

use bytes::Bytes;
use memchr::memmem;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::{Value, value::RawValue};

use super::{
    refusal::{self, Refusal},
    sse::Event,
    stream::{Chunk, Step},
};
use crate::domain::{answer::Tokens, completion::Kind, verdict::Failure};

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    choices: Option<Vec<IgnoredAny>>,
    data: Option<Vec<IgnoredAny>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Usage {
    prompt_tokens: Value,
    prompt_tokens_details: Value,
    completion_tokens: Value,
}

/// The tokens of a whole answer; an error if it is none. What the model says (also that it refuses, or was cut off by a
/// filter) is for the client to judge: of that the answer's own fields tell.
pub(super) fn tokens(kind: Kind, body: &Bytes) -> Result<Tokens, Refusal> {
    let garbled = || Refusal::of(Failure::Garbled);
    let told: Told<'_> = serde_json::from_slice(body).map_err(|_| garbled())?;
    let said = match kind {
        Kind::Chat => told.choices,
        Kind::Embeddings => told.data,
    };
    if said.is_none_or(|said| said.is_empty()) {
        return Err(garbled());
    }
    Ok(told.usage.map(used).unwrap_or_default())
}

/// The tokens that a `usage` tells; whatever else stands there spoils no answer.
pub(super) fn used<'de>(usage: impl Deserializer<'de>) -> Tokens {
    let Ok(usage) = Usage::deserialize(usage) else { return Tokens::default() };
    Tokens {
        input: count(&usage.prompt_tokens),
        cached_input: count(&usage.prompt_tokens_details["cached_tokens"]),
        output: count(&usage.completion_tokens),
    }
}

fn count(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_f64().map(|count| count.max(0.0) as u64)).unwrap_or(0)
}

/// Reads one event of a stream.
pub(super) fn read(event: Event) -> Result<Step, Refusal> {
    if event.data.trim_ascii() == b"[DONE]" {
        return Ok(Step::Done);
    }
    let (mut tokens, mut usage_only) = (None, false);
    if tells(&event.data, b"\"usage\"") || event.name == "error" || memmem::find(&event.data, b"\"error\"").is_some() {
        // What cannot be read is the client's to judge: it passes as it is.
        if let Ok(told) = serde_json::from_slice::<Told<'_>>(&event.data) {
            if told.error.is_some() {
                return Err(refusal::within_stream(&event.data));
            }
            tokens = told.usage.map(used);
            usage_only = tokens.is_some() && told.choices.is_none_or(|choices| choices.is_empty());
        }
        if event.name == "error" {
            return Err(refusal::within_stream(&event.data));
        }
    }
    Ok(Step::Chunk(Chunk { bytes: event.into_bytes(), tokens, usage_only }))
}

/// Whether the answer is complete after an event, as it was before if that says nothing of it. Some services leave out the
/// `[DONE]` after it, which OpenAI's own clients do not miss. Of several answers at once the last to be told of counts.
pub(super) fn is_finished(event: &Event, before: bool) -> bool {
    const NAME: &[u8] = b"\"finish_reason\"";
    if memmem::find(&event.data, NAME).is_some() { tells(&event.data, NAME) } else { before }
}

/// Whether there is a field of this name, in its quotes, that is neither null nor an empty text. Most events of a stream
/// have a `usage` and a `finish_reason` of null (OpenAI's API reference, "The chat completion chunk object"), and need
/// not be read.
fn tells(data: &[u8], name: &[u8]) -> bool {
    memmem::find_iter(data, name).any(|at| {
        let rest = data[at + name.len()..].trim_ascii_start();
        let value = rest.strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        value.is_some_and(|value| !value.starts_with(b"null") && !value.starts_with(b"\"\""))
    })
}

#[cfg(test)]
mod tests {
    use super::{super::sse::Parser, *};

    fn of(kind: Kind, body: &str) -> Option<(u64, u64)> {
        let tokens = tokens(kind, &Bytes::copy_from_slice(body.as_bytes())).ok()?;
        Some((tokens.input, tokens.output))
    }

    #[test]
    fn the_tokens_of_a_whole_answer_are_read_whatever_else_is_in_it() {
        for (body, expected) in [
            (
                r#"{"choices":[{"message":{"content":"\"usage\":1"}}],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#,
                Some((3, 5)),
            ),
            (r#"{"usage":{"prompt_tokens":3.0,"completion_tokens":null,"x":[]},"choices":[{}]}"#, Some((3, 0))),
            (r#"{"usage":null,"choices":[{"finish_reason":"content_filter"}]}"#, Some((0, 0))),
            (r#"{"usage":"much","choices":[{}]}"#, Some((0, 0))),
            (r#"{"choices":[{}]}"#, Some((0, 0))),
            (r#"{"choices":[]}"#, None),
            (r#"{"choices":null}"#, None),
            (r#"{"error":{"message":"m"}}"#, None),
            (r#"{"choices":[{"mess"#, None),
            ("", None),
        ] {
            assert_eq!(of(Kind::Chat, body), expected, "{body}");
        }
        let embeddings = r#"{"data":[{"embedding":[0.5]}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#;
        assert_eq!(of(Kind::Embeddings, embeddings), Some((3, 0)));
        assert_eq!(of(Kind::Chat, embeddings), None);
    }

    #[test]
    fn of_a_question_some_tokens_may_come_from_a_cache() {
        for (details, cached_input) in
            [(r#"{"cached_tokens":3,"audio_tokens":0}"#, 3), ("{}", 0), ("null", 0), (r#"{"cached_tokens":"3"}"#, 0)]
        {
            let usage = format!(r#"{{"prompt_tokens":7,"prompt_tokens_details":{details},"completion_tokens":2}}"#);
            let body = format!(r#"{{"choices":[{{}}],"usage":{usage}}}"#);
            let told = tokens(Kind::Chat, &Bytes::from(body)).ok();
            assert_eq!(told, Some(Tokens { input: 7, cached_input, output: 2 }), "{details}");
        }
    }

    fn event(stream: &str) -> Event {
        let mut parser = Parser::default();
        parser.push(stream.as_bytes());
        parser.next().unwrap().unwrap()
    }

    #[test]
    fn an_event_passes_as_it_came_and_tells_what_it_must() {
        for (data, tokens, usage_only) in [
            (r#"{"choices":[{"delta":{"content":"a"}}]}"#, None, false),
            (r#"{"choices":[{"delta":{"content":"a"}}],"usage":null}"#, None, false),
            (r#"{"usage" : null,"choices":[{"delta":{"content":"\"usage\": {}, \"error\""}}]}"#, None, false),
            (r#"{"choices":[{"delta":{"arguments":{"error":1,"usage":2}}}]}"#, None, false),
            (r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#, Some((1, 2)), true),
            (r#"{"choices":[{}],"usage":{"prompt_tokens":1}}"#, Some((1, 0)), false),
            (r#"{"choices":[],"prompt_filter_results":[],"usage":null}"#, None, false),
            (r#"{"usage":null,"x":{"usage":1},"error":null}"#, None, false),
            (r#"{"usage":{"#, None, false),
            ("", None, false),
        ] {
            let came = format!("data: {data}\n\n");
            let Ok(Step::Chunk(chunk)) = read(event(&came)) else { panic!("{data}") };
            assert_eq!(chunk.bytes, came);
            assert_eq!(
                (chunk.tokens.map(|tokens| (tokens.input, tokens.output)), chunk.usage_only),
                (tokens, usage_only),
                "{data}"
            );
        }
    }

    #[test]
    fn an_answer_is_complete_after_the_last_word_of_its_last_choice() {
        let choice =
            |index: u8, reason: &str| format!(r#"{{"choices":[{{"index":{index},"finish_reason":{reason}}}]}}"#);
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":1}}"#.to_owned();
        for (events, complete) in [
            (vec![choice(0, "null"), choice(0, r#""stop""#)], true),
            (vec![choice(0, r#""stop""#), usage], true),
            (vec![choice(0, "null")], false),
            (vec![choice(0, r#""""#)], false),
            (vec![choice(0, r#""stop""#), choice(1, "null")], false),
            (vec![choice(0, r#""stop""#), choice(1, "null"), choice(1, r#""length""#)], true),
        ] {
            let told = events.iter().map(|data| event(&format!("data: {data}\n\n")));
            assert_eq!(told.fold(false, |before, event| is_finished(&event, before)), complete, "{events:?}");
        }
    }

    #[test]
    fn the_end_and_an_error_are_no_chunks() {
        assert!(matches!(read(event("data: [DONE]\n\n")), Ok(Step::Done)));
        assert!(matches!(read(event("data:[DONE] \r\n\r\n")), Ok(Step::Done)));
        for came in [
            "data: {\"error\":{\"message\":\"m\",\"code\":502}}\n\n",
            "event: error\ndata: {\"error\":{\"code\":502,\"message\":\"m\"}}\n\n",
        ] {
            let refusal = read(event(came)).err().map(|refusal| refusal.failure);
            assert_eq!(refusal, Some(Failure::Unavailable(502)), "{came}");
        }
        let refusal = read(event("event: error\ndata: oops\n\n")).err();
        assert_eq!(refusal, Some(Refusal::of(Failure::Unavailable(500))));
    }
}
