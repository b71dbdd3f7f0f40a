//! From a request to its answer: the routes of `docs/protocol.md` §4, and the door to the WebSocket.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::ids::SessionId;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use hyper::{Method, Request, Response, StatusCode};
use hyper_tungstenite::{HyperWebsocket, is_upgrade_request};
use tokio::time::timeout;

use super::listener::Client;
use super::problem::{Body, Problem, json_reply, reply};
use super::query::{decode_path, param};
use super::{Shared, api, assets, auth, dev, websocket};
use crate::hub::ConnId;

/// The 101 must reach the client before the WebSocket begins.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// OpenMetrics 1.0, which Prometheus asks for.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers one request. Errors are answers too.
pub(super) async fn handle(
    request: Request<Incoming>,
    client: Client,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Infallible> {
    let counted = Arc::clone(&shared);
    let response = answer(request, client, shared).await.unwrap_or_else(Problem::into_response);
    counted.metrics.requests.inc(class(response.status()));
    Ok(response)
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}

async fn answer(
    request: Request<Incoming>,
    client: Client,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Problem> {
    if is_upgrade_request(&request) {
        return upgrade(request, client, &shared);
    }
    let path = decode_path(request.uri().path())
        .ok_or_else(|| Problem::bad_request("The path is not valid percent-encoding"))?
        .into_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments.as_slice() {
        ["healthz"] => get(&request).map(|()| plain(StatusCode::OK, "ok\n")),
        ["readyz"] => get(&request).map(|()| readiness(&shared)),
        ["metrics"] if shared.metrics_here => metrics(&request, &client, &shared),
        ["dev", "token"] if shared.dev => dev::token(request, &shared).await,
        ["v1", rest @ ..] => api::answer(request, rest, &shared).await,
        _ => get(&request).and_then(|()| assets::serve(shared.assets, &path, request.headers())),
    }
}

/// Only GET and HEAD (hyper leaves out the body of the answer to HEAD).
pub(super) fn get<B>(request: &Request<B>) -> Result<(), Problem> {
    match *request.method() {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Problem::method_not_allowed("GET, HEAD")),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    reply(status, "text/plain; charset=utf-8", text)
}

fn readiness(shared: &Shared) -> Response<Body> {
    if shared.draining() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    plain(StatusCode::OK, "ready\n")
}

fn metrics(request: &Request<Incoming>, client: &Client, shared: &Shared) -> Result<Response<Body>, Problem> {
    get(request)?;
    if !auth::is_local(client.address, request.headers()) {
        api::admin(request, shared)?;
    }
    Ok(metrics_text(shared))
}

/// All metrics of the process.
pub(super) fn metrics_text(shared: &Shared) -> Response<Body> {
    shared.metrics.connections.set(i64::try_from(shared.gate.total()).unwrap_or(i64::MAX));
    reply(StatusCode::OK, METRICS_TYPE, shared.registry.encode())
}

/// The separate listener of `metrics.listen`: who can reach it may read.
pub(super) async fn handle_metrics(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Infallible> {
    let answer = match request.uri().path() {
        "/metrics" => get(&request).map(|()| metrics_text(&shared)),
        _ => Err(Problem::not_found("Page")),
    };
    Ok(answer.unwrap_or_else(Problem::into_response))
}

/// Completes the handshake whatever the token is worth: a browser shows its page nothing but a close code.
fn upgrade(
    mut request: Request<Incoming>,
    client: Client,
    shared: &Arc<Shared>,
) -> Result<Response<Body>, Problem> {
    if !matches!(request.uri().path(), "/" | "/ws") {
        return Err(Problem::not_found("WebSocket"));
    }
    if !shared.origins.allows(request.headers()) {
        shared.metrics.refused.inc("origin");
        return Err(Problem::forbidden("This web page may not connect here"));
    }
    let claims = auth::claims(&shared.verifier, &request, shared.unix_secs());
    let resume = param(request.uri().query(), "session").and_then(|id| SessionId::new(&id).ok());
    let echo = auth::offers_subprotocol(request.headers());
    let limits = websocket::config(shared.max_message);
    let (mut response, socket) = hyper_tungstenite::upgrade(&mut request, Some(limits))
        .map_err(|error| Problem::bad_request(error.to_string()))?;
    if echo {
        let name = HeaderValue::from_static(auth::SUBPROTOCOL);
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
    }
    let connection = Connection { client, shared: Arc::clone(shared), resume };
    shared.tasks.spawn(connection.run(socket, claims));
    Ok(response)
}

/// A WebSocket between its handshake and its life with the hub.
struct Connection {
    client: Client,
    shared: Arc<Shared>,
    resume: Option<SessionId>,
}

impl Connection {
    async fn run(self, socket: HyperWebsocket, claims: Option<common::token::Claims>) {
        let Self { client, shared, resume } = self;
        let Ok(Ok(socket)) = timeout(UPGRADE_TIMEOUT, socket).await else { return };
        match claims {
            Some(claims) => {
                let conn: ConnId = shared.next_connection();
                let pace = websocket::Pace::new(shared.max_message, Instant::now());
                websocket::run(socket, conn, claims, resume, shared.hub.clone(), pace).await;
            }
            None => {
                shared.metrics.refused.inc("token");
                websocket::refuse(socket, 1008, "Authentication failed").await;
            }
        }
        drop(client.pass);
    }
}

/// A JSON answer with status 200.
pub(super) fn ok(body: &serde_json::Value) -> Response<Body> {
    json_reply(StatusCode::OK, body)
}
