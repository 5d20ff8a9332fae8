//! A chat completion request as a request of the Messages API.
//!
//! Passed on under another name or in another form: `messages`, `max_completion_tokens` or `max_tokens`, `stop`,
//! `tools`, `tool_choice`, `parallel_tool_calls`, `user`, `stream`, a `response_format` with a schema (`output_config`);
//! as it is: `top_p`, and `top_k`, `thinking` and `cache_control`, which are Anthropic's own. `temperature` goes up to 1
//! there, so more than 1 becomes 1; beside it `top_p` is left out, because newer models take one of both only.
//!
//! Refused, because the answer would be another one than was asked for: `n` above 1, `logprobs`, `logit_bias`,
//! penalties, a `response_format` of JSON without a schema, a `stop` of blanks alone, `audio`, `web_search_options`, the
//! old `functions`.
//!
//! Left out without a word, because nobody relies on it or it is only a hint: `seed`, `metadata`, `store`,
//! `service_tier`, `prediction`, `reasoning_effort`, `verbosity`, `prompt_cache_key`, `safety_identifier`,
//! `stream_options` (the tokens are always told), `strict` of a tool, the `name` of who speaks, the `detail` of an image,
//! and other fields that are no part of OpenAI's API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::messages::{self, Turn};
use crate::domain::completion::{Invalid, Request};

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    max_tokens: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    system: String,
    messages: Vec<Turn>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ToolChoice>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop_sequences: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
}

#[derive(Serialize)]
struct Metadata {
    user_id: String,
}

#[derive(Serialize)]
struct Tool<'a> {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    input_schema: Schema<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Schema<'a> {
    Given(&'a RawValue),
    Completed(BTreeMap<String, &'a RawValue>),
    Empty(Value),
}

#[derive(Serialize)]
struct ToolChoice {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Deserialize)]
struct GivenTool<'a> {
    r#type: String,
    #[serde(borrow)]
    function: Option<GivenFunction<'a>>,
}

#[derive(Deserialize)]
struct GivenFunction<'a> {
    name: String,
    description: Option<String>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

/// Writes the request for this model; an error names the field that cannot be asked for here. `max_tokens`: of the
/// answer, when the client does not say.
pub(in crate::client::ai) fn translate(request: &Request, model: &str, max_tokens: u32) -> Result<Vec<u8>, Invalid> {
    refuse_what_would_be_lost(request)?;
    let spoken = field(request, "messages").ok_or_else(|| invalid("messages", "`messages` is missing"))?;
    let (system, messages) = messages::translate(spoken)?;
    let asked = read::<u64>(request, "max_completion_tokens", "a whole number")?;
    let asked = asked.or(read::<u64>(request, "max_tokens", "a whole number")?);
    let tools = tools(request)?;
    let choice = tool_choice(request, !tools.is_empty())?;
    // Calls of tools are read only where the tools are known.
    let called = if tools.is_empty() { messages::called(&messages) } else { Vec::new() };
    let nothing_to_call = (!called.is_empty()).then_some(ToolChoice::NONE);
    let temperature = read::<f64>(request, "temperature", "a number")?;
    let question = Question {
        model,
        max_tokens: asked.unwrap_or(max_tokens.into()),
        system,
        messages,
        tool_choice: choice.or(nothing_to_call),
        tools: tools.into_iter().chain(called.into_iter().map(Tool::unknown)).collect(),
        stop_sequences: stop(request)?,
        temperature: temperature.map(|temperature| temperature.min(1.0)),
        top_p: read(request, "top_p", "JSON")?.filter(|_| temperature.is_none()),
        top_k: read(request, "top_k", "JSON")?,
        thinking: read(request, "thinking", "JSON")?,
        cache_control: read(request, "cache_control", "JSON")?,
        output_config: output_config(request)?,
        metadata: read::<String>(request, "user", "a string")?.map(|user_id| Metadata { user_id }),
        stream: request.stream,
    };
    Ok(serde_json::to_vec(&question).expect("a request is plain data"))
}

pub(super) fn invalid(param: &'static str, message: impl Into<String>) -> Invalid {
    Invalid { message: message.into(), param: Some(param) }
}

/// A field that is there and not null.
fn field<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.field(name).filter(|value| *value != "null")
}

fn read<'a, T: Deserialize<'a>>(request: &'a Request, name: &'static str, kind: &str) -> Result<Option<T>, Invalid> {
    let Some(value) = field(request, name) else { return Ok(None) };
    serde_json::from_str(value).map(Some).map_err(|_| invalid(name, format!("`{name}` is not {kind}")))
}

fn refuse_what_would_be_lost(request: &Request) -> Result<(), Invalid> {
    // The number at which nothing is asked for.
    let neutral = [
        ("n", 1.0),
        ("logprobs", 0.0),
        ("top_logprobs", 0.0),
        ("logit_bias", 0.0),
        ("presence_penalty", 0.0),
        ("frequency_penalty", 0.0),
        ("functions", 0.0),
        ("function_call", 0.0),
        ("audio", 0.0),
        ("web_search_options", 0.0),
    ];
    for (name, number) in neutral {
        let asks = match read::<Value>(request, name, "JSON")? {
            None | Some(Value::Null) => false,
            Some(Value::Bool(on)) => on,
            Some(Value::Number(given)) => given.as_f64() != Some(number),
            Some(Value::Array(list)) => !list.is_empty(),
            // Even an empty object asks for a search.
            Some(Value::Object(map)) => !map.is_empty() || name == "web_search_options",
            Some(Value::String(_)) => true,
        };
        if asks {
            return Err(invalid(
                name,
                format!("`{name}` with this value is not offered by the provider of this model"),
            ));
        }
    }
    let modalities = read::<Vec<String>>(request, "modalities", "a list of strings")?.unwrap_or_default();
    if modalities.iter().any(|modality| modality != "text") {
        return Err(invalid("modalities", "the provider of this model answers in text only"));
    }
    Ok(())
}

/// The form of the answer (Anthropic, "Structured outputs").
fn output_config(request: &Request) -> Result<Option<Value>, Invalid> {
    let Some(mut format) = read::<Value>(request, "response_format", "JSON")? else { return Ok(None) };
    let schema = format.pointer_mut("/json_schema/schema").map(Value::take);
    match (format["type"].as_str(), schema) {
        (Some("text"), _) => Ok(None),
        (Some("json_schema"), Some(schema @ Value::Object(_))) => {
            Ok(Some(json!({ "format": { "type": "json_schema", "schema": schema } })))
        }
        _ => {
            let message =
                "the provider of this model takes a `response_format` of text, or a json_schema with a schema";
            Err(invalid("response_format", message))
        }
    }
}

fn tools(request: &Request) -> Result<Vec<Tool<'_>>, Invalid> {
    let given: Option<Vec<GivenTool<'_>>> = read(request, "tools", "a list of functions")?;
    given.unwrap_or_default().into_iter().map(tool).collect()
}

fn tool(given: GivenTool<'_>) -> Result<Tool<'_>, Invalid> {
    let (true, Some(function)) = (given.r#type == "function", given.function) else {
        return Err(invalid("tools", "the provider of this model takes no other tools than functions"));
    };
    let input_schema = function.parameters.map_or_else(Schema::nothing, Schema::of);
    Ok(Tool { name: function.name, description: function.description, input_schema })
}

impl Tool<'_> {
    /// One that was called before, and is not to be called again.
    fn unknown(name: String) -> Self {
        Self { name, description: None, input_schema: Schema::nothing() }
    }
}

impl<'a> Schema<'a> {
    fn nothing() -> Self {
        Self::Empty(json!({ "type": "object", "properties": {} }))
    }

    /// Arguments are an object, which has to be said there.
    fn of(given: &'a RawValue) -> Self {
        let fields: Option<BTreeMap<String, &'a RawValue>> = serde_json::from_str(given.get()).ok();
        match fields {
            Some(mut fields) if !fields.contains_key("type") => {
                fields.insert("type".into(), serde_json::from_str("\"object\"").expect("a text is JSON"));
                Self::Completed(fields)
            }
            _ => Self::Given(given),
        }
    }
}

impl ToolChoice {
    const NONE: Self = Self { r#type: "none", name: None, disable_parallel_tool_use: None };
}

fn tool_choice(request: &Request, has_tools: bool) -> Result<Option<ToolChoice>, Invalid> {
    let one_at_a_time = read::<bool>(request, "parallel_tool_calls", "a boolean")? == Some(false);
    let wrong = || invalid("tool_choice", "`tool_choice` is none of `auto`, `none`, `required` and a function's name");
    let (kind, name) = match read::<Value>(request, "tool_choice", "JSON")? {
        // There would be nothing to choose from, and Anthropic refuses the choice then.
        _ if !has_tools => return Ok(None),
        None if one_at_a_time => ("auto", None),
        None => return Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => ("auto", None),
            "none" => ("none", None),
            "required" => ("any", None),
            _ => return Err(wrong()),
        },
        Some(choice) if choice["type"] == "function" => {
            let name = choice["function"]["name"].as_str().ok_or_else(wrong)?;
            ("tool", Some(name.to_owned()))
        }
        Some(_) => return Err(wrong()),
    };
    let disable_parallel_tool_use = (one_at_a_time && kind != "none").then_some(true);
    Ok(Some(ToolChoice { r#type: kind, name, disable_parallel_tool_use }))
}

fn stop(request: &Request) -> Result<Vec<String>, Invalid> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stop {
        One(String),
        Many(Vec<String>),
    }
    let texts = match read::<Stop>(request, "stop", "a string or a list of strings")? {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text],
        Some(Stop::Many(texts)) => texts,
    };
    if texts.iter().any(|text| text.trim().is_empty()) {
        return Err(invalid("stop", "the provider of this model stops at no text of blanks alone"));
    }
    Ok(texts)
}

#[cfg(test)]
#[path = "question_tests.rs"]
mod tests;
