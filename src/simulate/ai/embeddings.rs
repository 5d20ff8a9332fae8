//! Embeddings: vectors that depend only on the text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Dimensions when none are asked for; a digest of 32 bytes gives them at once.
const DIMENSIONS: usize = 8;
/// The most dimensions that can be asked for (those of OpenAI's large model).
const DIMENSIONS_MAX: usize = 3072;

#[derive(Deserialize)]
struct Body {
    model: Option<String>,
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

/// The answer to a request for embeddings, as plain numbers or in base64; `deployment` is the model that the address
/// names.
///
/// # Errors
/// The reason why the body is unusable.
pub fn answer(body: &[u8], deployment: Option<&str>) -> Result<Value, String> {
    let body: Body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let model = deployment.map(str::to_owned).or(body.model).ok_or("model must be named")?;
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
    Ok(json!({ "object": "list", "data": data, "model": model, "usage": usage }))
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
