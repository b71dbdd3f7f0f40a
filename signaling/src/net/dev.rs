//! Dev mode's sign-in: a token for whoever asks, on this machine only.

use std::time::Duration;

use common::ids::UserId;
use common::token::{self, Claims};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::problem::{Body, Problem};
use super::route::ok;
use super::{Shared, auth};

/// A request's body: a few names.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A working day, so that a tab that stays open goes on working.
const TTL_SECS: u64 = 24 * 3600;

/// Who wants to be who, and may do what; the claims of `docs/protocol.md` §1.
#[derive(Debug, Deserialize)]
struct SignIn {
    user: UserId,
    name: Option<String>,
    room: Option<String>,
    call: Option<bool>,
    publish: Option<bool>,
    subscribe: Option<bool>,
    admin: Option<bool>,
}

impl SignIn {
    fn claims(self, now: u64) -> Claims {
        Claims {
            sub: self.user,
            exp: now + TTL_SECS,
            nbf: None,
            name: self.name,
            call: self.call.unwrap_or(true),
            room: self.room.unwrap_or_else(|| "*".into()),
            publish: self.publish.unwrap_or(true),
            subscribe: self.subscribe.unwrap_or(true),
            admin: self.admin.unwrap_or(false),
        }
    }
}

/// `POST /dev/token`. Pages from elsewhere, and names that only resolve to this machine, get nothing.
pub(super) async fn token(request: Request<Incoming>, shared: &Shared) -> Result<Response<Body>, Problem> {
    if *request.method() != Method::POST {
        return Err(Problem::method_not_allowed("POST"));
    }
    let here = auth::host(request.headers()).is_some_and(auth::is_loopback_host);
    if !here || !shared.origins.allows(request.headers()) {
        return Err(Problem::forbidden("Dev mode signs in from this machine only"));
    }
    let body = read(request).await?;
    let sign_in: SignIn =
        serde_json::from_slice(&body).map_err(|error| Problem::bad_request(error.to_string()))?;
    let claims = sign_in.claims(shared.unix_secs());
    let token = token::mint_for(&shared.auth, &claims)
        .map_err(|error| Problem::unavailable(format!("auth: {error}")))?;
    Ok(ok(&json!({ "token": token, "expiresAt": claims.exp })))
}

async fn read(request: Request<Incoming>) -> Result<bytes::Bytes, Problem> {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    match timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => {
            Err(Problem::bad_request(format!("The body is broken or above {BODY_BYTES_MAX} bytes")))
        }
        Err(_) => Err(Problem::bad_request("The body took too long")),
    }
}
