//! One allocation: whose it is, how it was asked for, and when it ends (RFC 8656 §3.2, §7).
//!
//! Its permissions and channels are in `routes`, where packets find them. `relay` owns allocations.

use std::time::{Duration, Instant};

use crate::auth::Proof;
use crate::relay::{ClientAddr, RelayedPort};
use crate::routes::Share;
use crate::stun::header::TransactionId;

/// RFC 8656 §7.2.
pub const LIFETIME_DEFAULT: Duration = Duration::from_secs(600);
/// RFC 8656 §7.2 recommends an hour.
pub const LIFETIME_MAX: Duration = Duration::from_secs(3600);

/// The lifetime that a client gets for the one it asked for (RFC 8656 §7.2: never below the default).
pub fn granted_lifetime(requested_seconds: Option<u32>) -> Duration {
    let requested = requested_seconds.map_or(LIFETIME_DEFAULT, |s| Duration::from_secs(s.into()));
    requested.clamp(LIFETIME_DEFAULT, LIFETIME_MAX)
}

/// Whether the relay socket is there.
#[derive(Debug, Clone)]
pub enum State {
    /// Waits for its socket; holds how many ports were tried and the lifetime to grant.
    Binding {
        /// Ports that could not be bound.
        failures: u32,
        /// The answer waits for this.
        pending: Pending,
    },
    /// Relays. Holds the answer to the Allocate request, for its retransmissions.
    Ready {
        /// The answer as sent.
        answer: Box<[u8]>,
    },
}

/// What is needed to answer an Allocate request later.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    /// Granted lifetime.
    pub lifetime: Duration,
    /// Whether the request had FINGERPRINT.
    pub fingerprint: bool,
    /// What EVEN-PORT asked for.
    pub wish: PortWish,
}

/// Which ports a client takes (EVEN-PORT, RFC 8656 §18.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortWish {
    /// Any.
    Any,
    /// An even one.
    Even,
    /// An even one, and the next one reserved for an allocation to come.
    EvenAndNext,
}

/// A client's relayed address.
#[derive(Debug)]
pub struct Allocation {
    /// Whose.
    pub client: ClientAddr,
    /// Its relayed address's port.
    pub port: RelayedPort,
    /// Credentials it was made with.
    pub proof: Proof,
    /// The Allocate request.
    pub transaction_id: TransactionId,
    /// Socket there, or on its way.
    pub state: State,
    /// When it ends.
    pub expires: Instant,
    /// Its permissions and channels.
    pub share: Share,
}

impl Allocation {
    /// A new one without permissions.
    pub fn new(
        client: ClientAddr,
        port: RelayedPort,
        proof: Proof,
        transaction_id: TransactionId,
        pending: Pending,
        expires: Instant,
    ) -> Self {
        let state = State::Binding { failures: 0, pending };
        Self { client, port, proof, transaction_id, state, expires, share: Share::default() }
    }

    /// Whether packets may flow.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }
}
