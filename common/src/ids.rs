//! Names of users, rooms and media objects.
//!
//! Every id is a cheap-to-clone string of 1–128 characters. The types keep a room from being taken for a peer.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest id that is accepted from anybody, in bytes (`docs/protocol.md` §2).
pub const ID_BYTES_MAX: usize = 128;

/// Why a string is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id has 1 to 128 characters of [A-Za-z0-9._@:#-]")]
pub struct InvalidId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks length and alphabet.
            pub fn new(id: &str) -> Result<Self, InvalidId> {
                let ok = (1..=ID_BYTES_MAX).contains(&id.len())
                    && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@:#-".contains(&b));
                if ok { Ok(Self(id.into())) } else { Err(InvalidId) }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(id: String) -> Result<Self, InvalidId> {
                Self::new(&id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

id!(
    /// An authenticated user: the `sub` of the token.
    UserId
);
id!(
    /// A room.
    RoomId
);
id!(
    /// A member of a room: the user id, or `user#2` for a second session of the same user.
    PeerId
);
id!(
    /// A call between users.
    CallId
);
id!(
    /// One device or tab of a user, for as long as it may resume.
    SessionId
);
id!(
    /// A WebRTC transport of one peer.
    TransportId
);
id!(
    /// A stream of media that a peer publishes.
    ProducerId
);
id!(
    /// A producer as one subscriber receives it.
    ConsumerId
);
id!(
    /// A data channel that a peer publishes.
    DataProducerId
);
id!(
    /// A data producer as one subscriber receives it.
    DataConsumerId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_bounded_and_printable() {
        assert!(UserId::new("alice@example.org").is_ok());
        assert!(PeerId::new("alice#2").is_ok());
        assert!(UserId::new("").is_err());
        assert!(UserId::new(&"a".repeat(129)).is_err());
        assert!(UserId::new("a\nb").is_err());
        assert!(serde_json::from_str::<RoomId>("\"a b\"").is_err());
    }
}
