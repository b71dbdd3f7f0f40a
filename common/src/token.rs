//! Who may do what: the claims of an access token (`docs/protocol.md` §1).

use serde::{Deserialize, Serialize};

use crate::ids::UserId;

/// The claims that Causeway reads. Unknown claims are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// The user id: 1–128 characters of `[A-Za-z0-9._@:-]`.
    pub sub: UserId,
    /// Expiry, seconds since the Unix epoch.
    pub exp: u64,
    /// Not before, seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// May place calls.
    #[serde(default = "yes")]
    pub call: bool,
    /// The one room that may be joined, or `"*"`.
    #[serde(default = "any")]
    pub room: String,
    /// May publish in rooms.
    #[serde(default = "yes")]
    pub publish: bool,
    /// May subscribe in rooms.
    #[serde(default = "yes")]
    pub subscribe: bool,
    /// May mute, remove, record, close.
    #[serde(default)]
    pub admin: bool,
}

fn yes() -> bool {
    true
}

fn any() -> String {
    "*".into()
}
