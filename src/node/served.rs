//! What the two listeners serve, and within which limits.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::{
    actors::{Budget, Desk, Inspector, Parts},
    config::{Config, Role},
    http::{
        self, Gateway, Health, Metrics,
        listener::{Answers, Limits},
    },
};

/// Bytes of webhooks in memory at the most, from the first byte read until they are stored; while they are, each is
/// there up to three times. At full speed a second's worth.
const WEBHOOK_BYTES_MAX: u64 = 32 << 20;

/// What the routes of both listeners work with.
pub(super) struct Served<'a> {
    pub config: &'a Config,
    pub parts: &'a Arc<Parts>,
    pub health: &'a Arc<Health>,
    pub inspector: &'a Inspector,
    pub metrics: &'a Metrics,
}

impl Served<'_> {
    /// The public routes.
    pub fn public(&self, desks: Arc<[Arc<Desk>]>, gateway: Arc<Gateway>) -> impl Answers + use<> {
        let &Self { config, parts, health, inspector, metrics } = self;
        let has = |role| config.node.does(role);
        http::public(http::Public {
            parts: parts.clone(),
            desks,
            budget: webhook_budget(config),
            ingress: has(Role::Ingress),
            webhook_secrets: config.zendesk.webhook_secrets.clone().into(),
            support_secrets: config.zendesk.support_webhook_secrets.clone().into(),
            config: config.http.clone(),
            gateway,
            api: has(Role::Api),
            health: health.clone(),
            inspector: inspector.clone(),
            metrics: metrics.clone(),
        })
    }

    /// The admin routes; `registry` holds everything that is counted.
    pub fn admin(&self, registry: Registry) -> impl Answers + use<> {
        let &Self { config, parts, health, inspector, metrics } = self;
        http::admin(http::Admin {
            parts: parts.clone(),
            inspector: inspector.clone(),
            config: config.admin.clone(),
            health: health.clone(),
            registry: Arc::new(registry),
            metrics: metrics.clone(),
            effective: config.effective().into(),
            failures: Arc::default(),
            watched: Arc::default(),
            app: unless_empty(&config.zendesk.app_id),
            trace_url: unless_empty(&config.telemetry.trace_url),
        })
    }

    pub fn public_limits(&self) -> Limits {
        let http = &self.config.http;
        Limits { connections: http.connections, head_within: http.request_timeout, tells_peer: false }
    }

    pub fn admin_limits(&self) -> Limits {
        let Config { http, admin, .. } = self.config;
        Limits { connections: admin.connections, head_within: http.request_timeout, tells_peer: true }
    }
}

/// Takes an address; `key` is where it is configured.
pub(super) async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; change {key} or free the port"))
}

/// A text that may be empty, which stands for none.
fn unless_empty(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

/// One webhook of the largest size must fit.
fn webhook_budget(config: &Config) -> Budget {
    Budget::new(usize::try_from(config.http.webhook_body_limit.max(WEBHOOK_BYTES_MAX)).unwrap_or(usize::MAX))
}
