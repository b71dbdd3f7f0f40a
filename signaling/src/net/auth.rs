//! Who asks, and from which web page: the token of a request and its Origin (`docs/protocol.md` §1).

use std::net::IpAddr;

use common::token::{Claims, TokenVerifier};
use hyper::HeaderMap;
use hyper::Request;
use hyper::header::{AUTHORIZATION, FORWARDED, HOST, HeaderName, ORIGIN, SEC_WEBSOCKET_PROTOCOL, VIA};

use super::problem::Problem;
use super::query::param;

/// The subprotocol that carries a token as its neighbour, so that the token stands in no access log.
pub(super) const SUBPROTOCOL: &str = "causeway";

/// What proxies add. Whoever comes through one is not on this machine, wherever the proxy is.
const PROXIED: [HeaderName; 4] =
    [FORWARDED, VIA, HeaderName::from_static("x-forwarded-for"), HeaderName::from_static("x-real-ip")];

/// The claims of a request's token, from wherever it is; `None` when there is none or it is not good.
pub(super) fn claims<B>(verifier: &TokenVerifier, request: &Request<B>, unix_secs: u64) -> Option<Claims> {
    let headers = request.headers();
    let query = param(request.uri().query(), "token");
    let token = bearer(headers).or_else(|| subprotocol_token(headers)).or(query.as_deref())?;
    match verifier.verify(token, unix_secs) {
        Ok(claims) => Some(claims),
        Err(error) => {
            tracing::debug!(%error, "token refused");
            None
        }
    }
}

/// For the API: the token comes as `Authorization: Bearer` only, so that no link can act for who follows it.
pub(super) fn api_claims<B>(
    verifier: &TokenVerifier,
    request: &Request<B>,
    unix_secs: u64,
) -> Result<Claims, Problem> {
    bearer(request.headers())
        .and_then(|token| verifier.verify(token, unix_secs).ok())
        .ok_or_else(Problem::unauthorized)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether the client offered our subprotocol, which is then to be echoed (RFC 6455 §4.2.2).
pub(super) fn offers_subprotocol(headers: &HeaderMap) -> bool {
    subprotocols(headers).any(|offered| offered == SUBPROTOCOL)
}

/// What stands after `causeway` in the list of subprotocols.
fn subprotocol_token(headers: &HeaderMap) -> Option<&str> {
    let mut offered = subprotocols(headers);
    offered.find(|name| *name == SUBPROTOCOL)?;
    offered.next()
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Which web pages may open a WebSocket here. A browser always says where its page is from; other programs say nothing.
#[derive(Debug, Clone)]
pub(super) struct OriginPolicy {
    /// The origin of `http.public_url`.
    public: Option<String>,
    /// Dev mode: any page of this machine.
    loopback: bool,
}

impl OriginPolicy {
    pub(super) fn new(public_url: Option<&str>, dev: bool) -> Self {
        Self { public: public_url.and_then(origin_of), loopback: dev }
    }

    pub(super) fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        let Some((_, authority)) = origin.split_once("://") else { return false };
        self.same_host(authority, headers)
            || self.public.as_deref().is_some_and(|public| public.eq_ignore_ascii_case(origin))
            || (self.loopback && is_loopback_host(authority))
    }

    /// In dev mode a name that resolves to loopback (DNS rebinding) is not the same host as this machine.
    fn same_host(&self, authority: &str, headers: &HeaderMap) -> bool {
        host(headers).is_some_and(|host| {
            host.eq_ignore_ascii_case(authority) && (!self.loopback || is_loopback_host(host))
        })
    }
}

/// The `Host` header.
pub(super) fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST)?.to_str().ok()
}

/// Whether an authority (`host[:port]`) names this machine without asking the DNS.
pub(super) fn is_loopback_host(authority: &str) -> bool {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => authority,
    };
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Whether a request comes from this machine itself, not through a proxy on it.
pub(super) fn is_local(peer: IpAddr, headers: &HeaderMap) -> bool {
    peer.to_canonical().is_loopback() && !PROXIED.iter().any(|name| headers.contains_key(name))
}

/// `scheme://authority` of a URL.
fn origin_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(format!("{scheme}://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("ascii")))
            .collect()
    }

    fn allowed(policy: &OriginPolicy, host: &'static str, origin: &'static str) -> bool {
        policy.allows(&headers(&[("host", host), ("origin", origin)]))
    }

    #[test]
    fn only_our_own_pages_and_programs_may_connect() {
        let policy = OriginPolicy::new(Some("https://call.example.org/app"), false);
        assert!(policy.allows(&headers(&[("host", "10.0.0.1")])));
        assert!(allowed(&policy, "10.0.0.1:8080", "https://call.example.org"));
        assert!(allowed(&policy, "call.example.net", "https://call.example.net"));
        assert!(!allowed(&policy, "call.example.org", "https://evil.example"));
        assert!(!allowed(&policy, "call.example.org", "https://call.example.org.evil.example"));
        assert!(!allowed(&policy, "call.example.org", "null"));
        assert!(!allowed(&policy, "10.0.0.1:8080", "http://localhost:3000"));
    }

    #[test]
    fn dev_mode_takes_any_page_of_this_machine_and_no_rebound_name() {
        let policy = OriginPolicy::new(None, true);
        assert!(allowed(&policy, "127.0.0.1:8080", "http://localhost:5173"));
        assert!(allowed(&policy, "127.0.0.1:8080", "http://[::1]:5173"));
        assert!(!allowed(&policy, "127.0.0.1:8080", "https://evil.example"));
        assert!(!allowed(&policy, "evil.example:8080", "http://evil.example:8080"));
    }

    #[test]
    fn a_token_is_found_beside_the_subprotocol() {
        let offered = headers(&[("sec-websocket-protocol", "other, causeway, a.b.c")]);
        assert!(offers_subprotocol(&offered));
        assert_eq!(subprotocol_token(&offered), Some("a.b.c"));
        assert_eq!(subprotocol_token(&headers(&[("sec-websocket-protocol", "causeway")])), None);
        assert_eq!(bearer(&headers(&[("authorization", "bearer  x.y.z ")])), Some("x.y.z"));
        assert_eq!(bearer(&headers(&[("authorization", "Basic x")])), None);
    }

    #[test]
    fn loopback_hosts() {
        for yes in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "127.9.9.9", "[::1]", "[::1]:8080"] {
            assert!(is_loopback_host(yes), "{yes}");
        }
        for no in ["", "localhost.evil.example", "127.0.0.1.evil.example:80", "10.0.0.1", "[2001:db8::1]:80"]
        {
            assert!(!is_loopback_host(no), "{no}");
        }
    }

    #[test]
    fn who_comes_through_a_proxy_is_not_local() {
        let loopback: IpAddr = "127.0.0.1".parse().expect("literal");
        assert!(is_local(loopback, &headers(&[])));
        assert!(!is_local(loopback, &headers(&[("x-forwarded-for", "192.0.2.1")])));
        assert!(!is_local("192.0.2.1".parse().expect("literal"), &headers(&[])));
    }
}
