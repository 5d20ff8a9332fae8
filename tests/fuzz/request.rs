//! Whatever a client sends: it is refused, or passed on as the same request. Whatever a service answers: it has a size.
#![no_main]

use completion::{Kind, Request, tokens_said};
use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the targets need a part of it")]
#[path = "../../src/domain/completion/mod.rs"]
mod completion;

fuzz_target!(|body: &[u8]| {
    assert!(tokens_said(body) <= body.len() as u64);
    for kind in [Kind::Chat, Kind::Embeddings] {
        match Request::parse(kind, body) {
            Ok(request) => is_passed_on(&request),
            Err(invalid) => assert!(!invalid.message.is_empty()),
        }
    }
});

fn is_passed_on(request: &Request) {
    let read = |body: &[u8]| Request::parse(request.kind, body).expect("what is passed on can be read");
    let theirs = read(&request.body("theirs"));
    assert_eq!((theirs.model.as_str(), theirs.stream), ("theirs", request.stream));
    assert!(theirs.wants_usage || !request.stream, "a stream tells what it used");
    let same = read(&request.body(&request.model));
    assert_eq!(same.canonical(), request.canonical());
    assert_eq!(same.tokens(), request.tokens());
}
