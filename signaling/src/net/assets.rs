//! The web app's files, as the binary embeds them, over HTTP.

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};

use super::problem::{Body, Problem};

/// One file of the web app.
#[derive(Debug, Clone)]
pub struct Asset {
    /// Its bytes.
    pub body: Cow<'static, [u8]>,
    /// For example `text/html`.
    pub content_type: String,
    /// Changes when the bytes do; printable ASCII without quotes.
    pub version: String,
    /// Its name changes when its bytes do, so that it may be cached for ever.
    pub immutable: bool,
}

/// Finds a file by its path below `/`; `index.html` is what `/` shows.
pub type Assets = fn(path: &str) -> Option<Asset>;

/// Our own scripts only; media and pictures also from what the page itself made; any signaling server by WebSocket.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:; media-src 'self' blob:; \
     style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'self'; \
     frame-ancestors 'none'",
);

/// Answers a GET for a path that is no route of ours.
pub(super) fn serve(assets: Assets, path: &str, request: &HeaderMap) -> Result<Response<Body>, Problem> {
    let name = if path == "/" { "index.html" } else { path.trim_start_matches('/') };
    let asset = assets(name).ok_or_else(|| Problem::not_found("Page"))?;
    let etag = format!("\"{}\"", asset.version);
    let known = request
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| matches!(tag.trim(), "*") || tag.trim().trim_start_matches("W/") == etag);
    let body = if known { Bytes::new() } else { bytes(asset.body) };
    let mut response = Response::new(Full::new(body));
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    let text = |value: &str| HeaderValue::from_str(value).map_err(|_| Problem::not_found("Page"));
    headers.insert(ETAG, text(&etag)?);
    headers.insert(CONTENT_TYPE, text(&with_charset(&asset.content_type))?);
    headers.insert(CACHE_CONTROL, cache_control(asset.immutable));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

fn bytes(body: Cow<'static, [u8]>) -> Bytes {
    match body {
        Cow::Borrowed(embedded) => Bytes::from_static(embedded),
        Cow::Owned(read) => Bytes::from(read),
    }
}

fn with_charset(content_type: &str) -> String {
    match content_type {
        "text/html" | "text/css" | "text/javascript" => format!("{content_type}; charset=utf-8"),
        other => other.to_owned(),
    }
}

fn cache_control(immutable: bool) -> HeaderValue {
    HeaderValue::from_static(if immutable { "public, max-age=31536000, immutable" } else { "no-cache" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assets(path: &str) -> Option<Asset> {
        let asset = |content_type: &str, immutable| Asset {
            body: Cow::Borrowed(b"x"),
            content_type: content_type.to_owned(),
            version: "v1".to_owned(),
            immutable,
        };
        match path {
            "index.html" => Some(asset("text/html", false)),
            "assets/app-1a2b.js" => Some(asset("text/javascript", true)),
            _ => None,
        }
    }

    #[test]
    fn the_root_is_the_app_and_nothing_else_falls_back_to_it() {
        let page = serve(assets, "/", &HeaderMap::new()).expect("index.html");
        assert_eq!(page.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(page.headers()[CACHE_CONTROL], "no-cache");
        assert!(page.headers().contains_key(CONTENT_SECURITY_POLICY));
        assert!(serve(assets, "/deep/link", &HeaderMap::new()).is_err());
    }

    #[test]
    fn hashed_files_are_cached_for_ever_and_known_ones_not_sent() {
        let script = serve(assets, "/assets/app-1a2b.js", &HeaderMap::new()).expect("the script");
        assert_eq!(script.headers()[CACHE_CONTROL], "public, max-age=31536000, immutable");
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("\"v0\", W/\"v1\""));
        let again = serve(assets, "/assets/app-1a2b.js", &headers).expect("the script");
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    }
}
