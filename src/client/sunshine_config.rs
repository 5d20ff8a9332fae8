//! `[zendesk]`: the conversations' side.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{secret::Secret, units};

/// How Zendesk reaches us and how we reach Zendesk (Sunshine Conversations v2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SunshineConfig {
    /// Id of the app; empty: any, taken from each webhook.
    pub app_id: String,
    /// Shared secrets of which `X-API-Key` must equal one; none: every webhook is refused.
    pub webhook_secrets: Vec<Secret>,
    /// Address of the API, with the path before `/v2`, such as `https://example.zendesk.com/sc`.
    pub api_url: String,
    /// Id of the API key.
    pub key_id: String,
    /// Secret of the API key.
    pub key_secret: Secret,
    /// Id or name of our integration in the switchboard; a message is ours while it is the active one.
    pub integration: String,
    /// Switchboard integration that takes over when a human is wanted.
    pub handoff_to: String,
    /// Signing secrets of Zendesk Support webhooks; none: every one is refused.
    pub support_webhook_secrets: Vec<Secret>,
    /// Calls a second at most, over all nodes together; 0 = no such limit.
    pub posts_per_second: u32,
    /// Time one call to the API may take; beyond it the outcome of a post is unknown and is looked for.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// Shows the customer that an answer is being written.
    pub typing: bool,
}

impl Default for SunshineConfig {
    fn default() -> Self {
        Self {
            app_id: String::new(),
            webhook_secrets: Vec::new(),
            api_url: "https://api.smooch.io".into(),
            key_id: String::new(),
            key_secret: Secret::default(),
            integration: String::new(),
            handoff_to: "zd:agentWorkspace".into(),
            support_webhook_secrets: Vec::new(),
            posts_per_second: 0,
            timeout: Duration::from_secs(15),
            typing: true,
        }
    }
}
