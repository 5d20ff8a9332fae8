//! A client's request to a model, as it passes through: what has to be known of it is read, the rest stays untouched.
//!
//! OpenAI's API reference: "Create chat completion", "Create embeddings".

mod canonical;

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, json, value::RawValue};

/// Fields of one request; OpenAI knows some 40.
const FIELDS_MAX: usize = 256;

/// Tokens that an answer is expected to have at most, whatever the client allows: else a large number would take a whole
/// window of the service's limit for one call.
const ANSWER_TOKENS_MAX: u64 = 4096;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `POST /chat/completions`.
    Chat,
    /// `POST /embeddings`.
    Embeddings,
}

/// An error as clients of OpenAI's API expect it (API reference, "Error codes").
pub fn error(message: &str, kind: &str, param: Option<&str>, code: impl Into<Value>) -> String {
    json!({ "error": { "message": message, "type": kind, "param": param, "code": code.into() } }).to_string()
}

/// A request whose own fields are sound.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub kind: Kind,
    /// The model by the name the client knows.
    pub model: String,
    /// Whether the answer is to come in parts.
    pub stream: bool,
    /// Whether the client wants the tokens used at the end of a stream.
    pub wants_usage: bool,
    fields: Vec<(String, Box<RawValue>)>,
}

/// What is wrong with a request, and with which field; holds no text of the client's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// What to change.
    pub message: String,
    /// The field.
    pub param: Option<&'static str>,
}

impl Request {
    /// Reads a body.
    pub fn parse(kind: Kind, body: &[u8]) -> Result<Self, Invalid> {
        let Fields(fields) = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
        let field = |name| find(&fields, name);
        let (subject, stream) = match kind {
            Kind::Chat => ("messages", read(field("stream"), "stream", "a boolean")?),
            Kind::Embeddings => ("input", None),
        };
        let model: Option<String> = read(field("model"), "model", "a string")?;
        let model = model.filter(|model| !model.is_empty());
        let model = model.ok_or_else(|| Invalid::of("model", "`model` is missing; name the model to ask"))?;
        let options: Option<Options> = read(field("stream_options"), "stream_options", "an object")?;
        let wants_usage =
            options.is_some_and(|options| options.get("include_usage").is_some_and(|it| it.get() == "true"));
        let subject_is_there = match kind {
            Kind::Chat => has_messages(field("messages"))?,
            Kind::Embeddings => field("input").is_some_and(|input| input.get() != "null"),
        };
        if !subject_is_there {
            return Err(Invalid::of(subject, format!("`{subject}` is missing or empty")));
        }
        Ok(Self { kind, model, stream: stream.unwrap_or(false), wants_usage, fields })
    }

    /// A field as it was sent.
    pub fn field(&self, name: &str) -> Option<&RawValue> {
        find(&self.fields, name)
    }

    /// Bytes of all values together.
    pub fn bytes(&self) -> usize {
        self.fields.iter().map(|(_, value)| value.get().len()).sum()
    }

    /// All fields as they were sent, in their order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), &**value))
    }

    /// The request as a service gets it: its own name for the model, the tokens used told at the end of a stream, and
    /// all else byte for byte as it came.
    pub fn body(&self, model: &str) -> Vec<u8> {
        let mut body = Vec::with_capacity(
            self.fields.iter().map(|(name, value)| name.len() + value.get().len() + 4).sum::<usize>() + 64,
        );
        body.push(b'{');
        for (name, value) in &self.fields {
            match name.as_str() {
                "stream_options" if self.stream => {}
                "model" => write(&mut body, name, &quoted(model)),
                _ => write(&mut body, name, value.get()),
            }
        }
        if self.stream {
            write(&mut body, "stream_options", &self.stream_options());
        }
        body.push(b'}');
        body
    }

    fn stream_options(&self) -> String {
        let given = self.field("stream_options").and_then(|given| serde_json::from_str(given.get()).ok());
        let mut options: Options = given.unwrap_or_default();
        options.insert("include_usage".into(), RawValue::TRUE.to_owned());
        serde_json::to_string(&options).expect("JSON is written as it was read")
    }

    /// The same for whatever asks for the same: without what only says how the answer is to come, in one order. What
    /// is read in two ways, as numbers of many digits and fields that come twice, stands as it was sent.
    pub fn canonical(&self) -> Vec<u8> {
        let told = self.fields().filter(|(name, _)| *name != "stream" && *name != "stream_options");
        let mut canonical = Vec::with_capacity(self.bytes());
        canonical::write(&mut canonical, told.collect());
        canonical
    }

    /// A rough count of the tokens it will use: those of the question, and as many for the answer as it may have, if it
    /// says so, within reason.
    pub fn tokens(&self) -> u64 {
        let answer = ["max_completion_tokens", "max_tokens"].into_iter().filter_map(|name| self.field(name));
        let answer = answer.filter_map(|value| value.get().parse::<u64>().ok()).next().unwrap_or(0);
        self.tokens_asked().saturating_add(answer.min(ANSWER_TOKENS_MAX))
    }

    /// A rough count of the tokens of the question: four bytes each (the rule of thumb of OpenAI's tokenizer guide).
    pub fn tokens_asked(&self) -> u64 {
        let asked = ["messages", "input", "tools", "prompt"].into_iter().filter_map(|name| self.field(name));
        let bytes: usize = asked.map(|value| value.get().len()).sum();
        bytes as u64 / 4
    }
}

impl Invalid {
    fn of(param: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param) }
    }
}

/// Named values that are passed on as they came.
type Options = BTreeMap<String, Box<RawValue>>;

/// The parser's own words may repeat what was sent; only the place is told.
fn unreadable(error: &serde_json::Error) -> Invalid {
    let place = format!("line {}, column {}", error.line(), error.column());
    let message = match error.classify() {
        serde_json::error::Category::Data => {
            format!("the body is not one JSON object with each field once (at {place})")
        }
        _ => format!("the body is not JSON (at {place})"),
    };
    Invalid { message, param: None }
}

fn find<'a>(fields: &'a [(String, Box<RawValue>)], name: &str) -> Option<&'a RawValue> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
}

fn read<'a, T: Deserialize<'a>>(
    value: Option<&'a RawValue>,
    param: &'static str,
    kind: &str,
) -> Result<Option<T>, Invalid> {
    let Some(value) = value else { return Ok(None) };
    serde_json::from_str(value.get()).map_err(|_| Invalid::of(param, format!("`{param}` is not {kind}")))
}

/// Whether there is at least one message; each is an object that names its role.
fn has_messages(value: Option<&RawValue>) -> Result<bool, Invalid> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(rename = "role", borrow)]
        _role: Cow<'a, str>,
    }
    let messages: Option<Vec<Message<'_>>> = read(value, "messages", "a list of objects that each name a `role`")?;
    Ok(messages.is_some_and(|messages| !messages.is_empty()))
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn write(body: &mut Vec<u8>, name: &str, value: &str) {
    if body.len() > 1 {
        body.push(b',');
    }
    serde_json::to_writer(&mut *body, name).expect("a text is JSON, and a vector takes everything");
    body.push(b':');
    body.extend_from_slice(value.as_bytes());
}

/// The fields of an object, in their order, each once: two readers of one body must not see two requests in it.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    let is_known = fields.iter().any(|(known, _)| *known == name);
                    if is_known || fields.len() == FIELDS_MAX {
                        return Err(serde::de::Error::custom("a field twice, or too many"));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chat(body: &str) -> Result<Request, Invalid> {
        Request::parse(Kind::Chat, body.as_bytes())
    }

    #[test]
    fn what_is_not_ours_passes_byte_for_byte() {
        let sent = r#"{"z":  1.50, "messages":[{"role":"user","content":"ü \u00fc"}],"model":"m","seed":12345678901234567890123,"x":{"b":1,"a":[ ]}}"#;
        let passed = chat(sent).unwrap().body("theirs");
        let expected = r#"{"z":1.50,"messages":[{"role":"user","content":"ü \u00fc"}],"model":"theirs","seed":12345678901234567890123,"x":{"b":1,"a":[ ]}}"#;
        assert_eq!(String::from_utf8(passed).unwrap(), expected);
    }

    #[test]
    fn a_stream_tells_the_tokens_whatever_the_client_asked_for() {
        let ask = |options: &str| {
            let body = format!(r#"{{"model":"m",{options}"messages":[{{"role":"user"}}],"stream":true}}"#);
            let request = chat(&body).unwrap();
            let passed: Value = serde_json::from_slice(&request.body("m")).unwrap();
            (request.wants_usage, passed["stream_options"].clone())
        };
        assert_eq!(ask(""), (false, json!({ "include_usage": true })));
        assert_eq!(ask(r#""stream_options":null,"#), (false, json!({ "include_usage": true })));
        let other = r#""stream_options":{"include_usage":false,"x":1},"#;
        assert_eq!(ask(other), (false, json!({ "include_usage": true, "x": 1 })));
        assert!(ask(r#""stream_options":{"include_usage":true},"#).0);
        let whole = chat(r#"{"model":"m","messages":[{"role":"user"}]}"#).unwrap();
        assert!(!String::from_utf8(whole.body("m")).unwrap().contains("stream_options"));
    }

    #[test]
    fn a_wrong_request_is_told_which_field_to_change() {
        let messages = r#""messages":[{"role":"user","content":"secret words"}]"#;
        for (body, param) in [
            ("", None),
            ("[]", None),
            ("{", None),
            (r#"{"model":"m","model":"n"}"#, None),
            (&format!("{{{messages}}}"), Some("model")),
            (&format!(r#"{{"model":"",{messages}}}"#), Some("model")),
            (&format!(r#"{{"model":7,{messages}}}"#), Some("model")),
            (&format!(r#"{{"model":"m","stream":"yes",{messages}}}"#), Some("stream")),
            (&format!(r#"{{"model":"m","stream_options":[],{messages}}}"#), Some("stream_options")),
            (r#"{"model":"m"}"#, Some("messages")),
            (r#"{"model":"m","messages":null}"#, Some("messages")),
            (r#"{"model":"m","messages":[]}"#, Some("messages")),
            (r#"{"model":"m","messages":"secret words"}"#, Some("messages")),
            (r#"{"model":"m","messages":[{"content":"secret words"}]}"#, Some("messages")),
        ] {
            let wrong = chat(body).unwrap_err();
            assert_eq!(wrong.param, param, "{body}: {wrong}");
            assert!(!wrong.message.contains("secret"), "{wrong}");
        }
        let embeddings = |body: &str| Request::parse(Kind::Embeddings, body.as_bytes()).map_err(|wrong| wrong.param);
        assert!(embeddings(r#"{"model":"m","input":"a"}"#).is_ok());
        assert_eq!(embeddings(r#"{"model":"m","input":null}"#).unwrap_err(), Some("input"));
    }

    #[test]
    fn the_same_question_has_the_same_canonical_form() {
        let one = chat(r#"{"model":"m","messages":[{"role":"user","content":"a"}],"stream":true}"#).unwrap();
        let two = chat(r#"{ "messages":[{"content":"a","role":"user"}],"stream_options":null,"model":"m"}"#).unwrap();
        let other = chat(r#"{"model":"m","messages":[{"role":"user","content":"b"}]}"#).unwrap();
        assert_eq!(one.canonical(), two.canonical());
        assert_ne!(one.canonical(), other.canonical());
    }

    #[test]
    fn the_estimate_counts_the_question_and_the_answer_it_may_have() {
        let tokens = |more: &str| {
            chat(&format!(r#"{{"model":"m"{more},"messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(400)))
                .unwrap()
                .tokens()
        };
        assert!((100..120).contains(&tokens("")));
        assert_eq!(tokens(r#","max_tokens":1000"#), tokens("") + 1000);
        assert_eq!(tokens(r#","max_tokens":null"#), tokens(""));
        assert_eq!(tokens(r#","max_tokens":999999999"#), tokens("") + ANSWER_TOKENS_MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_parser(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::parse(Kind::Chat, &body);
        }

        #[test]
        fn whatever_is_let_in_is_passed_on_as_json(name in "\\PC{1,12}", value in "\\PC{0,40}", model in "\\PC{1,20}") {
            let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": value }] });
            if body.get(&name).is_none() {
                body[&name] = json!(value);
            }
            if let Ok(request) = chat(&body.to_string()) {
                let mut passed: Value = serde_json::from_slice(&request.body(&model)).unwrap();
                prop_assert_eq!(&passed["model"], &json!(model));
                passed["model"] = json!("m");
                if !request.stream {
                    prop_assert_eq!(passed, body);
                }
            }
        }
    }
}
