//! Two HTTP simulators that prove the daemon: Zendesk messaging and an OpenAI-compatible AI service.
//!
//! They import nothing from the rest of the crate, because a judge who shares the code of the judged shares its
//! mistakes. They run in-process (tests, `tidegate demo`) and alone (`tidegate simulate zendesk|ai`); a handle ends
//! its tasks and cuts its connections when its last clone is dropped.
//!
//! ```text
//! Customers --say--> Zendesk --webhook--> the daemon --chat/completions--> Ai
//!                       ^------- reply, control ----------'
//! ```
//! What was lost, answered twice or answered out of order is counted by [`zendesk::judge`].

pub mod ai;
pub mod customers;
pub mod dial;
pub mod latency;
pub mod quota;
pub mod reference;
pub mod server;
pub mod zendesk;

pub use ai::Ai;
pub use customers::Customers;
pub use zendesk::Zendesk;

/// Whether an event of this probability (0 to 1) happens now.
fn chance(rate: f64) -> bool {
    rate > 0.0 && rand::random::<f64>() < rate
}
