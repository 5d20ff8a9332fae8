//! A client's request to a model, as it passes through: what has to be known of it is read, the rest stays untouched.
//!
//! OpenAI's API reference: "Create chat completion", "Create embeddings".

mod canonical;
mod fields;
mod size;

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

pub use self::size::tokens_said;
use self::{
    fields::{Field, Fields},
    size::Size,
};

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
    /// All of it, as it was sent.
    text: String,
    fields: Vec<Field>,
    size: Size,
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
        let text =
            str::from_utf8(body).map_err(|_| Invalid { message: "the body is not UTF-8".into(), param: None })?;
        let Fields(fields) = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
        let field = |name| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.get());
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
            Kind::Embeddings => field("input").is_some_and(|input| input != "null"),
        };
        if !subject_is_there {
            return Err(Invalid::of(subject, format!("`{subject}` is missing or empty")));
        }
        let size = Size::of(&fields);
        let fields = fields.into_iter().map(|field| Field::within(text, field)).collect();
        Ok(Self { kind, model, stream: stream.unwrap_or(false), wants_usage, text: text.to_owned(), fields, size })
    }

    /// The JSON of a field as it was sent.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Bytes of all of it.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// All fields in their order, with their JSON as it was sent.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|field| field.of(&self.text))
    }

    /// The request as a service gets it: its own name for the model, the tokens used told at the end of a stream, and
    /// all else byte for byte as it came.
    pub fn body(&self, model: &str) -> Vec<u8> {
        if self.model == model && !self.stream {
            return self.text.clone().into_bytes();
        }
        let mut body = Vec::with_capacity(self.text.len() + model.len() + 64);
        body.push(b'{');
        for (name, value) in self.fields() {
            match name {
                "stream_options" if self.stream => {}
                "model" => write(&mut body, name, &quoted(model)),
                _ => write(&mut body, name, value),
            }
        }
        if self.stream {
            write(&mut body, "stream_options", &self.stream_options());
        }
        body.push(b'}');
        body
    }

    fn stream_options(&self) -> String {
        let given = self.field("stream_options").and_then(|given| serde_json::from_str(given).ok());
        let mut options: Options = given.unwrap_or_default();
        options.insert("include_usage".into(), RawValue::TRUE.to_owned());
        serde_json::to_string(&options).expect("JSON is written as it was read")
    }

    /// The same for whatever asks for the same: without what only says how the answer is to come, in one order. What
    /// is read in two ways, as numbers of many digits and fields that come twice, stands as it was sent.
    pub fn canonical(&self) -> Vec<u8> {
        let Fields(mut fields) = serde_json::from_str(&self.text).expect("JSON is read as it was read");
        fields.retain(|(name, _)| name != "stream" && name != "stream_options");
        let mut canonical = Vec::with_capacity(self.bytes());
        canonical::write(&mut canonical, fields);
        canonical
    }

    /// A rough count of the tokens it will use: those of the question, and as many for the answer as it may have, if it
    /// says so, within reason.
    pub fn tokens(&self) -> u64 {
        self.size.asked.saturating_add(self.size.answer_max)
    }

    /// A rough count of the tokens of the question.
    pub fn tokens_asked(&self) -> u64 {
        self.size.asked
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

fn read<'a, T: Deserialize<'a>>(value: Option<&'a str>, param: &'static str, kind: &str) -> Result<Option<T>, Invalid> {
    let Some(value) = value else { return Ok(None) };
    serde_json::from_str(value).map_err(|_| Invalid::of(param, format!("`{param}` is not {kind}")))
}

/// Whether there is at least one message; each is an object that names its role.
fn has_messages(value: Option<&str>) -> Result<bool, Invalid> {
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
        let unchanged = chat(sent).unwrap().body("m");
        assert_eq!(String::from_utf8(unchanged).unwrap(), sent);
    }

    #[test]
    fn a_field_is_known_by_its_name_however_that_is_written() {
        let sent = r#"{"mod\u0065l":"m","":1,"\u00fc":[ 2 ],"messages":[{"role":"user"}]}"#;
        let request = chat(sent).unwrap();
        let fields: Vec<_> = request.fields().collect();
        assert_eq!(fields, [("model", r#""m""#), ("", "1"), ("ü", "[ 2 ]"), ("messages", r#"[{"role":"user"}]"#)]);
        assert_eq!(
            (request.field("model"), request.field("ü"), request.field("z")),
            (Some(r#""m""#), Some("[ 2 ]"), None)
        );
        assert!(chat(r#"{"mod\u0065l":"m","model":"n","messages":[{"role":"user"}]}"#).is_err());
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
        let wrong = Request::parse(Kind::Chat, b"{\"model\":\"\xff\"}").unwrap_err();
        assert_eq!((wrong.param, wrong.message.as_str()), (None, "the body is not UTF-8"));
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
