//! `POST /v1/embeddings`: vectors that depend only on the text.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::answer::error;
use super::service::Service;
use crate::simulate::server::Wire;

/// Dimensions when none are asked for; a digest of 32 bytes gives them at once.
const DIMENSIONS: usize = 8;
/// The most dimensions that can be asked for (those of OpenAI's large model).
const DIMENSIONS_MAX: usize = 3072;

#[derive(Deserialize)]
struct Body {
    model: String,
    input: Input,
    dimensions: Option<usize>,
    encoding_format: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    One(String),
    Many(Vec<String>),
}

/// Answers a request for embeddings, as plain numbers or in base64.
pub async fn embeddings(
    State(service): State<Arc<Service>>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(refused) = service.authenticate(&headers) {
        return refused;
    }
    if service.dial.get().down {
        wire.cut();
        return error(503, "simulated", "the simulator was told to fail");
    }
    let body: Body = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(why) => return error(400, "invalid_request", &why.to_string()),
    };
    let texts = match body.input {
        Input::One(text) => vec![text],
        Input::Many(texts) => texts,
    };
    let dimensions = body.dimensions.unwrap_or(DIMENSIONS).min(DIMENSIONS_MAX);
    let packed = body.encoding_format.as_deref() == Some("base64");
    let one = |(index, text): (usize, &String)| {
        let vector = vector(text, dimensions);
        let embedding = if packed { json!(pack(&vector)) } else { json!(vector) };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    };
    let data: Vec<Value> = texts.iter().enumerate().map(one).collect();
    let words: usize = texts.iter().map(|text| text.split_whitespace().count()).sum();
    let usage = json!({ "prompt_tokens": words, "total_tokens": words });
    Json(json!({ "object": "list", "data": data, "model": body.model, "usage": usage })).into_response()
}

fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let digest = Sha256::digest(text.as_bytes());
    let numbers = digest.chunks_exact(4).map(|four| f32::from(u16::from_le_bytes([four[0], four[1]])) / 65536.0);
    numbers.collect::<Vec<_>>().into_iter().cycle().take(dimensions).collect()
}

fn pack(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_depend_on_the_text_alone() {
        assert_eq!(vector("a", 20), vector("a", 20));
        assert_ne!(vector("a", 20), vector("b", 20));
        assert_eq!((vector("a", 20).len(), STANDARD.decode(pack(&vector("a", 20))).unwrap().len()), (20, 80));
    }
}
