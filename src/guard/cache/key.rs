//! The name of a question.

use sha2::{Digest, Sha256};

use crate::domain::prompt::{Prompt, Role};

/// Whoever asks the same of the same model for the same tenant and brand gets the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub(super) tenant: Tenant,
    pub(super) question: [u8; 32],
}

/// Whose answers they are: the Zendesk app's, or the API key's. Nobody else gets them, and they are erased together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tenant(pub(super) [u8; 32]);

/// Hashes parts so that no two lists of parts are alike.
struct Parts(Sha256);

impl Parts {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn add(&mut self, text: &str) {
        self.add_bytes(text.as_bytes());
    }

    fn add_bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn hash(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

impl Tenant {
    /// The tenant of this name.
    pub fn new(name: &str) -> Self {
        let mut parts = Parts::new();
        parts.add(name);
        Self(parts.hash())
    }
}

impl Key {
    /// Names a question that was asked of a model for a brand of the tenant's; empty: of none.
    pub fn new(tenant: Tenant, brand: &str, model: &str, prompt: &Prompt) -> Self {
        let mut parts = Parts::new();
        parts.add(brand);
        parts.add(model);
        for turn in &prompt.turns {
            parts.add(match turn.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            });
            parts.add(turn.text.trim());
        }
        prompt.images.iter().for_each(|url| parts.add(url));
        Self { tenant, question: parts.hash() }
    }

    /// Names a whole request of this kind, in its canonical form.
    pub fn of_request(tenant: Tenant, kind: &str, canonical: &[u8]) -> Self {
        let mut parts = Parts::new();
        parts.add("request");
        parts.add(kind);
        parts.add_bytes(canonical);
        Self { tenant, question: parts.hash() }
    }
}
