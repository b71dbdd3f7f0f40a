//! `/v1`: TURN credentials, the call log, rooms, draining (`docs/protocol.md` §4).

use std::time::Duration;

use common::ids::{PeerId, RoomId, UserId};
use common::token::Claims;
use common::turn_credentials;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::problem::{Body, Problem, json_reply, reply};
use super::query::param;
use super::route::{get, ok};
use super::{Shared, auth};
use crate::hub::{AdminError, AdminRequest};
use crate::store::{CallQuery, StoreError};

/// Answers what stands below `/v1/`; `path` is already split and decoded.
pub(super) async fn answer<B>(
    request: Request<B>,
    path: &[&str],
    shared: &Shared,
) -> Result<Response<Body>, Problem> {
    match path {
        ["ice-servers"] => ice_servers(&request, shared),
        ["calls"] => calls(&request, shared).await,
        ["calls", id] => call(&request, id, shared).await,
        ["rooms"] => rooms(&request, shared).await,
        ["rooms", room] => one_room(&request, room, shared).await,
        ["rooms", room, "peers", peer] => one_peer(&request, room, peer, shared).await,
        ["drain"] => drain(&request, shared).await,
        _ => Err(Problem::not_found("Resource")),
    }
}

/// The claims of an administrator's token.
pub(super) fn admin<B>(request: &Request<B>, shared: &Shared) -> Result<Claims, Problem> {
    let claims = user(request, shared)?;
    if !claims.admin {
        return Err(Problem::forbidden("This needs a token with admin:true"));
    }
    Ok(claims)
}

fn user<B>(request: &Request<B>, shared: &Shared) -> Result<Claims, Problem> {
    auth::api_claims(&shared.verifier, request, shared.unix_secs())
}

/// As `RTCPeerConnection` takes it, or with `?service=turn` as draft-uberti-behave-turn-rest-00 §2.2 has it.
fn ice_servers<B>(request: &Request<B>, shared: &Shared) -> Result<Response<Body>, Problem> {
    get(request)?;
    let claims = user(request, shared)?;
    let now = super::hub::unix_time();
    if param(request.uri().query(), "service").as_deref() != Some("turn") {
        return Ok(ok(&shared.ice.for_user(&claims.sub, now)));
    }
    let ttl = shared.ice.ttl.as_secs();
    let (username, password) =
        turn_credentials::mint(&shared.ice.secret, claims.sub.as_str(), now.as_secs() + ttl);
    Ok(ok(&json!({ "username": username, "password": password, "ttl": ttl, "uris": shared.ice.urls })))
}

/// A page of the call log, newest first. Who is no administrator sees the own calls.
async fn calls<B>(request: &Request<B>, shared: &Shared) -> Result<Response<Body>, Problem> {
    get(request)?;
    let claims = user(request, shared)?;
    let query = request.uri().query();
    let asked = param(query, "user")
        .map(|id| UserId::new(&id).map_err(|error| Problem::bad_request(format!("user: {error}"))))
        .transpose()?;
    let user = match asked {
        None if claims.admin => None,
        Some(other) if !claims.admin && other != claims.sub => {
            return Err(Problem::forbidden("Only an administrator sees the calls of others"));
        }
        Some(user) => Some(user),
        None => Some(claims.sub),
    };
    let page = shared
        .call_log
        .list(&CallQuery {
            user,
            since: seconds(query, "since")?,
            until: seconds(query, "until")?,
            cursor: param(query, "cursor").map(|cursor| cursor.into_owned()),
            ..CallQuery::default()
        })
        .await
        .map_err(store_problem)?;
    Ok(ok(&json!({ "calls": page.calls, "cursor": page.cursor })))
}

/// Seconds since the Unix epoch.
fn seconds(query: Option<&str>, name: &str) -> Result<Option<Duration>, Problem> {
    let Some(text) = param(query, name) else { return Ok(None) };
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.map(Some).ok_or_else(|| Problem::bad_request(format!("{name}: expected seconds since 1970")))
}

/// One record; of others' calls only an administrator learns that they exist.
async fn call<B>(request: &Request<B>, id: &str, shared: &Shared) -> Result<Response<Body>, Problem> {
    get(request)?;
    let claims = user(request, shared)?;
    let record = shared.call_log.get(id).await.map_err(store_problem)?;
    let shown = record.filter(|record| {
        claims.admin
            || record.initiator == claims.sub
            || record.participants.iter().any(|part| part.user == claims.sub)
    });
    let record = shown.ok_or_else(|| Problem::not_found("Call"))?;
    Ok(ok(&json!(record)))
}

fn store_problem(error: StoreError) -> Problem {
    match error {
        StoreError::BadCursor => Problem::bad_request("cursor: not one of ours"),
        error => {
            tracing::debug!(%error, "the call log cannot be read"); // its writer warns, once an outage
            Problem::unavailable("The call log cannot be read now")
        }
    }
}

async fn rooms<B>(request: &Request<B>, shared: &Shared) -> Result<Response<Body>, Problem> {
    get(request)?;
    admin(request, shared)?;
    ask(shared, AdminRequest::Rooms).await
}

async fn one_room<B>(request: &Request<B>, room: &str, shared: &Shared) -> Result<Response<Body>, Problem> {
    let claims = admin(request, shared)?;
    let room = RoomId::new(room).map_err(|_| Problem::not_found("Room"))?;
    match *request.method() {
        Method::GET | Method::HEAD => ask(shared, AdminRequest::Room(room)).await,
        Method::DELETE => ask(shared, AdminRequest::CloseRoom { room, by: claims.sub }).await,
        _ => Err(Problem::method_not_allowed("GET, HEAD, DELETE")),
    }
}

async fn one_peer<B>(
    request: &Request<B>,
    room: &str,
    peer: &str,
    shared: &Shared,
) -> Result<Response<Body>, Problem> {
    let claims = admin(request, shared)?;
    if *request.method() != Method::DELETE {
        return Err(Problem::method_not_allowed("DELETE"));
    }
    let room = RoomId::new(room).map_err(|_| Problem::not_found("Room"))?;
    let peer = PeerId::new(peer).map_err(|_| Problem::not_found("Peer"))?;
    ask(shared, AdminRequest::RemovePeer { room, peer, by: claims.sub }).await
}

/// Puts a question to the hub; no news is 204.
async fn ask(shared: &Shared, request: AdminRequest) -> Result<Response<Body>, Problem> {
    let result = shared.hub.admin(request).await.map_err(|error| Problem::unavailable(error.to_string()))?;
    match result {
        Ok(value) if value.is_null() => Ok(reply(StatusCode::NO_CONTENT, "application/json", "")),
        Ok(value) => Ok(ok(&value)),
        Err(error) => Err(admin_problem(&error)),
    }
}

fn admin_problem(error: &AdminError) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, error.code(), error.to_string())
}

async fn drain<B>(request: &Request<B>, shared: &Shared) -> Result<Response<Body>, Problem> {
    admin(request, shared)?;
    if *request.method() != Method::POST {
        return Err(Problem::method_not_allowed("POST"));
    }
    shared.drain().await;
    Ok(json_reply(StatusCode::ACCEPTED, &json!({ "draining": true })))
}
