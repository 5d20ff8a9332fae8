//! Who may use the admin listener.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;

use super::{Admin, AdminRole, listener::Peer, problem::Problem};

/// Wrong tokens from one address within [`WINDOW`]; after that it is not listened to until the window is over.
const FAILURES_MAX: u32 = 10;

const WINDOW: Duration = Duration::from_secs(60);

/// Addresses remembered; beyond that all that are not remembered share one count.
const ADDRESSES_MAX: usize = 10_000;

/// Who acts where no token is needed.
const NOBODY: &str = "loopback";

/// Why requests are refused, as label values.
pub const REFUSALS: [&str; 6] =
    ["no_token", "wrong_token", "too_many_failures", "not_an_operator", "foreign_origin", "foreign_host"];

/// Whose request it is.
#[derive(Debug, Clone)]
pub struct Who {
    /// The name of the token.
    pub name: String,
    /// What may be done.
    pub role: AdminRole,
}

/// Wrong tokens by address.
#[derive(Default)]
pub struct Failures(Mutex<HashMap<Option<IpAddr>, (u32, Duration)>>);

impl Failures {
    /// For how long an address is not listened to.
    fn silenced_for(&self, address: IpAddr, now: Duration) -> Option<Duration> {
        let counts = self.0.lock();
        let key = if counts.contains_key(&Some(address)) { Some(address) } else { None };
        let (count, since) = counts.get(&key)?;
        let left = (*since + WINDOW).saturating_sub(now);
        (*count >= FAILURES_MAX && !left.is_zero()).then_some(left)
    }

    fn count(&self, address: IpAddr, now: Duration) {
        let mut counts = self.0.lock();
        counts.retain(|_, (_, since)| *since + WINDOW > now);
        let is_known = counts.contains_key(&Some(address)) || counts.len() < ADDRESSES_MAX;
        counts.entry(is_known.then_some(address)).or_insert((0, now)).0 += 1;
    }
}

/// Why a request is refused.
struct Refusal {
    reason: &'static str,
    problem: Problem,
}

/// Lets a request pass if its sender may do what it asks. Tokens are needed off loopback, and wherever some are
/// configured.
pub async fn admit(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    let public_metrics = admin.config.metrics_public && request.uri().path() == "/metrics";
    if !public_metrics {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        match may(&admin, request.method(), request.headers(), peer) {
            Ok(who) => drop(request.extensions_mut().insert(who)),
            Err(refusal) => {
                admin.metrics.admin_refused(refusal.reason);
                return refusal.problem.into_response();
            }
        }
    }
    next.run(request).await
}

fn may(admin: &Admin, method: &Method, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Who, Refusal> {
    let is_change = !matches!(*method, Method::GET | Method::HEAD);
    if is_change && is_foreign(headers) {
        return Err(refused("foreign_origin", StatusCode::FORBIDDEN, "the request comes from another site"));
    }
    let open = admin.config.listen.ip().is_loopback() && admin.config.tokens.is_empty();
    if open {
        // A name that leads here may be anybody's: a site whose name is made to lead to this machine must not read.
        if !is_own_host(headers) {
            let detail = "ask by an address or as localhost; names need tokens (admin.tokens)";
            return Err(refused("foreign_host", StatusCode::FORBIDDEN, detail));
        }
        return Ok(Who { name: NOBODY.into(), role: AdminRole::Operator });
    }
    let now = admin.parts.clock.monotonic();
    let address = peer.unwrap_or(IpAddr::from([0, 0, 0, 0]));
    if let Some(left) = admin.failures.silenced_for(address, now) {
        let detail = "too many wrong tokens came from this address; try again later";
        let mut refusal = refused("too_many_failures", StatusCode::TOO_MANY_REQUESTS, detail);
        refusal.problem = refusal.problem.retry_after(left);
        return Err(refusal);
    }
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let Some(given) = given.filter(|given| !given.is_empty()) else {
        let detail = "a token of admin.tokens is needed as bearer token";
        return Err(refused("no_token", StatusCode::UNAUTHORIZED, detail));
    };
    // All are compared, so that the time taken does not tell which one is near.
    let tokens = admin.config.tokens.iter();
    let found = tokens.fold(None, |found, token| if token.token.matches(given) { Some(token) } else { found });
    let Some(token) = found else {
        admin.failures.count(address, now);
        return Err(refused("wrong_token", StatusCode::UNAUTHORIZED, "this is no token of admin.tokens"));
    };
    if is_change && token.role == AdminRole::Viewer {
        return Err(refused("not_an_operator", StatusCode::FORBIDDEN, "this token may look, not act"));
    }
    Ok(Who { name: token.name.clone(), role: token.role })
}

fn refused(reason: &'static str, status: StatusCode, detail: &str) -> Refusal {
    let kind = match reason {
        "no_token" | "wrong_token" => "unauthorized",
        "too_many_failures" => "too-many-failures",
        "not_an_operator" => "not-an-operator",
        "foreign_origin" => "foreign-origin",
        _ => "foreign-host",
    };
    Refusal { reason, problem: Problem::new(status, kind, detail) }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A browser says where a request comes from; programs say nothing.
fn is_foreign(headers: &HeaderMap) -> bool {
    let (Some(origin), Some(host)) = (text(headers, header::ORIGIN), text(headers, header::HOST)) else {
        return headers.contains_key(header::ORIGIN);
    };
    origin.split_once("://").is_none_or(|(_, site)| site != host)
}

/// An address, or the one name that always leads to this machine.
fn is_own_host(headers: &HeaderMap) -> bool {
    let Some(host) = text(headers, header::HOST) else { return true };
    let bare = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let bare = bare.map_or(host, |(bare, _)| bare).trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// What every answer of the admin listener tells browsers: nothing of it is kept, framed, or taken for something else,
/// and the dashboard loads nothing from elsewhere.
pub async fn seal(request: Request, next: Next) -> Response {
    const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src \
                       'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_guesses_is_not_listened_to_for_a_while_and_others_are() {
        let (failures, second) = (Failures::default(), Duration::from_secs(1));
        let (guesser, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for n in 0..FAILURES_MAX {
            assert_eq!(failures.silenced_for(guesser, second * n), None);
            failures.count(guesser, second * n);
        }
        assert_eq!(failures.silenced_for(guesser, second * 20), Some(second * 40));
        assert_eq!(failures.silenced_for(other, second * 20), None);
        assert_eq!(failures.silenced_for(guesser, WINDOW), None);
    }

    #[test]
    fn however_many_addresses_guess_little_is_remembered() {
        let failures = Failures::default();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..(ADDRESSES_MAX as u32 + FAILURES_MAX) {
            failures.count(address(n), Duration::ZERO);
        }
        assert_eq!(failures.0.lock().len(), ADDRESSES_MAX + 1);
        assert!(failures.silenced_for(address(u32::MAX), Duration::ZERO).is_some(), "the rest counts together");
        assert!(failures.silenced_for(address(7), Duration::ZERO).is_none());
    }

    #[test]
    fn without_tokens_only_addresses_and_localhost_lead_here() {
        let own = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            is_own_host(&headers)
        };
        for host in ["127.0.0.1:9090", "localhost", "LOCALHOST:1", "[::1]:9090", "10.0.0.1"] {
            assert!(own(host), "{host}");
        }
        for host in ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert!(!own(host), "{host}");
        }
        assert!(is_own_host(&HeaderMap::new()), "HTTP/1.0");
    }
}
