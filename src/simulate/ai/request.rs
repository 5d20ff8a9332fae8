//! A request for an answer, and the triggers a customer's text can carry into the AI service.

use serde::Deserialize;
use serde_json::Value;

use super::behaviour::Behaviour;

/// What is asked, as far as it matters here.
#[derive(Debug)]
pub struct Request {
    /// The model asked for.
    pub model: String,
    /// All that was said, instructions included.
    pub messages: Vec<Spoken>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a stream ends with a chunk that tells the usage.
    pub wants_usage: bool,
    /// The names of the tools.
    pub tools: Vec<String>,
    /// The schema that the answer is to have, if it is to be JSON ("Structured model outputs").
    pub schema: Option<Value>,
}

/// One message.
#[derive(Debug, Deserialize)]
pub struct Spoken {
    /// Who.
    pub role: String,
    /// What: a text or a list of parts.
    #[serde(default)]
    pub content: Value,
}

/// The body of `POST /v1/chat/completions`.
#[derive(Debug, Deserialize)]
struct Body {
    model: Option<String>,
    messages: Vec<Spoken>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    tools: Vec<Tool>,
    #[serde(default)]
    response_format: Value,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Deserialize)]
struct Tool {
    function: Function,
}

#[derive(Debug, Deserialize)]
struct Function {
    name: String,
}

impl Request {
    /// Parses the body; `deployment` is the model that the address names.
    ///
    /// # Errors
    /// The reason why it is unusable.
    pub fn parse(body: &[u8], deployment: Option<String>) -> Result<Self, String> {
        let body: Body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if body.messages.is_empty() {
            return Err("messages must not be empty".to_owned());
        }
        Ok(Self {
            model: deployment.or(body.model).ok_or("model must be named")?,
            messages: body.messages,
            stream: body.stream,
            schema: body.response_format.pointer("/json_schema/schema").cloned(),
            wants_usage: body.stream_options.is_some_and(|options| options.include_usage),
            tools: body.tools.into_iter().map(|tool| tool.function.name).collect(),
        })
    }

    /// The text of the last message of the user.
    pub fn last_user_text(&self) -> String {
        let last = self.messages.iter().rfind(|message| message.role == "user");
        last.map(|message| text(&message.content)).unwrap_or_default()
    }

    /// Whether the user's last words are not followed by the result of a tool, which is called once.
    fn awaits_answer(&self) -> bool {
        self.messages.last().is_none_or(|last| last.role != "tool")
    }

    /// Words in all messages.
    pub fn words(&self) -> usize {
        self.messages.iter().map(|message| text(&message.content).split_whitespace().count()).sum()
    }

    /// The behaviour for this one request: `[[ai:...]]` in the last user message changes what is in force.
    ///
    /// `[[ai:500]]` any status, `[[ai:hang]]`, `[[ai:refuse]]` (content filter), `[[ai:slow:2000]]` (milliseconds),
    /// `[[ai:handoff]]` (a call of the request's first tool), `[[ai:long:9000]]` (characters).
    pub fn triggered(&self, user_text: &str, behaviour: &mut Behaviour) {
        for rest in user_text.split("[[ai:").skip(1) {
            let Some((trigger, _)) = rest.split_once("]]") else { continue };
            let (name, number) = trigger.split_once(':').unwrap_or((trigger, ""));
            match name {
                "hang" => behaviour.hang = true,
                "refuse" => behaviour.finish_reason = "content_filter".to_owned(),
                "slow" => behaviour.latency_ms = number.parse().unwrap_or(behaviour.latency_ms),
                "long" => behaviour.reply_chars = number.parse().unwrap_or(behaviour.reply_chars),
                "handoff" if self.awaits_answer() => behaviour.tool_call = self.tools.first().cloned(),
                "handoff" => {}
                status => behaviour.status = status.parse().unwrap_or(behaviour.status),
            }
        }
    }
}

/// The text of a content that is a string or a list of parts.
pub fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<_> = parts.iter().filter_map(|part| part.get("text")?.as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(content: &Value) -> Request {
        let tools = json!([{ "type": "function", "function": { "name": "to_human" } }]);
        let messages = json!([{ "role": "user", "content": "old" }, { "role": "user", "content": content },
            { "role": "assistant", "content": null }]);
        let body = json!({ "model": "m", "messages": messages, "tools": tools });
        Request::parse(body.to_string().as_bytes(), None).unwrap()
    }

    #[test]
    fn the_last_user_message_counts_as_text_or_parts() {
        assert_eq!(request(&json!("new")).last_user_text(), "new");
        let parts = json!([{ "type": "text", "text": "a" }, { "type": "image_url" }, { "type": "text", "text": "b" }]);
        assert_eq!(request(&parts).last_user_text(), "a\nb");
    }

    #[test]
    fn triggers_change_the_behaviour_of_one_request() {
        let with = |change: fn(&mut Behaviour)| {
            let mut wanted = Behaviour::default();
            change(&mut wanted);
            wanted
        };
        let table = [
            ("plain", with(|_| ())),
            ("[[ai:500]]", with(|wanted| wanted.status = 500)),
            ("x [[ai:400]] y", with(|wanted| wanted.status = 400)),
            ("[[ai:hang]]", with(|wanted| wanted.hang = true)),
            ("[[ai:refuse]]", with(|wanted| wanted.finish_reason = "content_filter".into())),
            ("[[ai:slow:2000]]", with(|wanted| wanted.latency_ms = 2000)),
            ("[[ai:long:9000]]", with(|wanted| wanted.reply_chars = 9000)),
            ("[[ai:handoff]]", with(|wanted| wanted.tool_call = Some("to_human".into()))),
            ("[[ai:slow:5]] [[ai:503]]", with(|wanted| (wanted.latency_ms, wanted.status) = (5, 503))),
            ("[[ai:500", with(|_| ())),
        ];
        for (text, wanted) in table {
            let mut behaviour = Behaviour::default();
            request(&json!(text)).triggered(text, &mut behaviour);
            assert_eq!(behaviour, wanted, "{text}");
        }
    }

    #[test]
    fn a_request_without_messages_is_unusable() {
        for body in ["", "[]", r#"{"model":"m"}"#, r#"{"model":"m","messages":[]}"#] {
            assert!(Request::parse(body.as_bytes(), None).is_err(), "{body}");
        }
    }

    #[test]
    fn the_model_is_named_by_the_address_or_the_body() {
        let model = |body: &str, deployment: Option<&str>| {
            Request::parse(body.as_bytes(), deployment.map(str::to_owned)).map(|request| request.model)
        };
        let (named, bare) = (r#"{"model":"m","messages":[{"role":"user"}]}"#, r#"{"messages":[{"role":"user"}]}"#);
        assert_eq!(model(named, None).as_deref(), Ok("m"));
        assert_eq!(model(named, Some("d")).as_deref(), Ok("d"));
        assert_eq!(model(bare, Some("d")).as_deref(), Ok("d"));
        assert!(model(bare, None).is_err());
    }
}
