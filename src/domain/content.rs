//! A message's content as one text that a language model can read.

use super::{
    fields::{Raw, lenient, raw_object, strict},
    reason::Reject,
};

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// Something to answer.
    Usable(Words),
    /// Nothing to answer.
    Empty,
    /// A type that did not exist, or only goes out.
    Unsupported,
}

/// The words of a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Words {
    /// The text, or the line that stands for what is no text.
    pub text: String,
    /// Where an image lies.
    pub image: Option<String>,
}

raw_object! { RawContent {
    kind: "type", text: "text", html: "htmlText", markdown: "markdownText", payload: "payload",
    media_url: "mediaUrl", media_type: "mediaType", alt_text: "altText",
    fields: "fields", text_fallback: "textFallback", location: "location", coordinates: "coordinates",
} }
raw_object! { RawPlace { name: "name", address: "address" } }
raw_object! { RawCoordinates { lat: "lat", long: "long" } }
raw_object! { RawField { label: "label", name: "name", text: "text", email: "email", select: "select" } }

/// Reads `message.content`.
pub fn read(raw: Raw<'_>) -> Result<Content, Reject> {
    let raw = raw.ok_or(Reject::MissingContent)?;
    if !raw.get().starts_with('{') {
        return Err(Reject::WrongType);
    }
    let content: RawContent<'_> = serde_json::from_str(raw.get()).map_err(|_| Reject::Malformed)?;
    let kind: String = strict(content.kind)?.ok_or(Reject::MissingContent)?;
    let words = match kind.as_str() {
        "text" => Words { text: text(&content)?, image: None },
        "image" => Words { text: media("image", &content), image: lenient(content.media_url) },
        "file" => Words { text: media("file", &content), image: None },
        "location" => Words { text: location(&content), image: None },
        "formResponse" => Words { text: form(&content), image: None },
        _ => return Ok(Content::Unsupported),
    };
    if words.text.trim().is_empty() { Ok(Content::Empty) } else { Ok(Content::Usable(words)) }
}

/// A pressed button as text: its title and what it stands for.
pub fn postback(title: Option<String>, payload: Option<String>) -> String {
    match (title.filter(|title| !title.is_empty()), payload) {
        (Some(title), Some(payload)) if payload != title => format!("{title} [{payload}]"),
        (Some(title), _) => title,
        (None, payload) => payload.unwrap_or_default(),
    }
}

fn text(content: &RawContent<'_>) -> Result<String, Reject> {
    let text: Option<String> = strict(content.text)?;
    let said = [text, lenient(content.markdown), lenient(content.html)]
        .into_iter()
        .flatten()
        .find(|text| !text.trim().is_empty());
    // A reply button sends its title as text and what it stands for as payload; the text is what the customer saw.
    Ok(said.or_else(|| lenient(content.payload)).unwrap_or_default())
}

fn media(noun: &str, content: &RawContent<'_>) -> String {
    let caption = [content.text, content.alt_text]
        .into_iter()
        .find_map(|field| lenient::<String>(field).filter(|it| !it.is_empty()));
    let kind: Option<String> = lenient(content.media_type);
    let kind = kind.map(|kind| format!(" ({kind})")).unwrap_or_default();
    match caption {
        Some(caption) => format!("[The customer sent an {noun}{kind}: {caption}]").replace("an file", "a file"),
        None => format!("[The customer sent an {noun}{kind}]").replace("an file", "a file"),
    }
}

fn location(content: &RawContent<'_>) -> String {
    let place: RawPlace<'_> = lenient(content.location).unwrap_or_default();
    let named: Vec<String> = [lenient(place.name), lenient(place.address)].into_iter().flatten().collect();
    let position = lenient::<RawCoordinates<'_>>(content.coordinates)
        .and_then(|it| Some(format!("{}, {}", lenient::<f64>(it.lat)?, lenient::<f64>(it.long)?)));
    let fallback: Option<String> = lenient(content.text);
    let parts: Vec<String> = named.into_iter().chain(position).collect();
    let described = if parts.is_empty() { fallback.unwrap_or_default() } else { parts.join("; ") };
    if described.is_empty() { String::new() } else { format!("[The customer sent a location: {described}]") }
}

fn form(content: &RawContent<'_>) -> String {
    if let Some(fallback) = lenient::<String>(content.text_fallback).filter(|text| !text.is_empty()) {
        return fallback;
    }
    let fields: Vec<RawField<'_>> = lenient(content.fields).unwrap_or_default();
    fields.into_iter().filter_map(field_line).collect::<Vec<_>>().join("\n")
}

fn field_line(field: RawField<'_>) -> Option<String> {
    let label: String = lenient(field.label).or_else(|| lenient(field.name))?;
    let chosen = || {
        let options: Vec<RawField<'_>> = lenient(field.select)?;
        let names: Vec<String> =
            options.into_iter().filter_map(|it| lenient(it.label).or_else(|| lenient(it.name))).collect();
        Some(names.join(", "))
    };
    let value: String = lenient(field.text).or_else(|| lenient(field.email)).or_else(chosen)?;
    Some(format!("{label}: {value}"))
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn words(json: &str) -> Result<Content, Reject> {
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        read(Some(&raw))
    }

    fn usable(json: &str) -> String {
        match words(json) {
            Ok(Content::Usable(words)) => words.text,
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn each_type_becomes_a_line_of_text() {
        for (json, line) in [
            (r#"{"type":"text","text":"hi"}"#, "hi"),
            (r#"{"type":"text","text":"","markdownText":"*hi*"}"#, "*hi*"),
            (r#"{"type":"text","text":"Yes","payload":"YES"}"#, "Yes"),
            (
                r#"{"type":"image","mediaUrl":"https://x/y.png","mediaType":"image/png"}"#,
                "[The customer sent an image (image/png)]",
            ),
            (r#"{"type":"file","mediaUrl":"u","text":"my bill"}"#, "[The customer sent a file: my bill]"),
            (r#"{"type":"location","coordinates":{"lat":1.5,"long":2}}"#, "[The customer sent a location: 1.5, 2]"),
            (r#"{"type":"formResponse","fields":[{"label":"Topic","select":[{"label":"Refund"}]}]}"#, "Topic: Refund"),
        ] {
            assert_eq!(usable(json), line);
        }
    }

    #[test]
    fn what_cannot_be_answered_is_told_from_what_cannot_be_read() {
        assert_eq!(words(r#"{"type":"text","text":"  "}"#), Ok(Content::Empty));
        assert_eq!(words(r#"{"type":"hologram","text":"hi"}"#), Ok(Content::Unsupported));
        assert_eq!(words(r#"{"type":"text","text":5}"#), Err(Reject::WrongType));
        assert_eq!(words(r#"{"text":"hi"}"#), Err(Reject::MissingContent));
        assert_eq!(words("[]"), Err(Reject::WrongType));
    }

    #[test]
    fn a_postback_shows_its_title_and_its_meaning() {
        assert_eq!(postback(Some("Returns".into()), Some("SHOW".into())), "Returns [SHOW]");
        assert_eq!(postback(None, Some("SHOW".into())), "SHOW");
        assert_eq!(postback(Some("Returns".into()), None), "Returns");
    }
}
