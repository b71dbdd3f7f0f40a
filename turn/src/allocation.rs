//! One allocation: whose it is, how it was asked for, and when it ends (RFC 8656 §3.2, §7).
//!
//! Its permissions and channels are in `routes`, where packets find them. `relay` owns allocations.

use std::time::{Duration, Instant};

use crate::auth::Proof;
use crate::relay::{ClientAddr, Family, RelayedAddr};
use crate::routes::{AllocationId, Owner, Share};
use crate::stun::attributes::ErrorCode;
use crate::stun::header::TransactionId;

/// Whether the relay sockets are there.
#[derive(Debug, Clone)]
pub enum State {
    /// Waits for its sockets.
    Binding {
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
    /// The token of the port that was reserved beside its own.
    pub token: Option<[u8; 8]>,
    /// The family of two that is not to be had, and why.
    pub missing: Option<(Family, ErrorCode)>,
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

/// One of a client's relayed addresses. Each ends by itself (RFC 8656 §8.1).
#[derive(Debug, Clone, Copy)]
pub struct Side {
    /// The address.
    pub relayed: RelayedAddr,
    /// When it ends.
    pub expires: Instant,
    /// Whether its socket is there.
    pub is_bound: bool,
    /// Ports that could not be bound before this one.
    pub failures: u8,
}

impl Side {
    /// One whose socket is not there yet.
    pub fn new(relayed: RelayedAddr, expires: Instant) -> Self {
        Self { relayed, expires, is_bound: false, failures: 0 }
    }
}

/// What a client has of the relay: an address, or one of each family.
#[derive(Debug)]
pub struct Allocation {
    /// Whose.
    pub client: ClientAddr,
    /// By family; never both `None` while the relay has it.
    sides: [Option<Side>; 2],
    /// Credentials it was made with.
    pub proof: Proof,
    /// The Allocate request.
    pub transaction_id: TransactionId,
    /// Sockets there, or on their way.
    pub state: State,
    /// Its permissions and channels.
    pub share: Share,
}

impl Allocation {
    /// A new one without permissions.
    pub fn new(
        client: ClientAddr,
        sides: impl IntoIterator<Item = Side>,
        proof: Proof,
        transaction_id: TransactionId,
        pending: Pending,
    ) -> Self {
        let state = State::Binding { pending };
        let mut allocation =
            Self { client, sides: [None; 2], proof, transaction_id, state, share: Share::default() };
        sides.into_iter().for_each(|side| allocation.put(side));
        allocation
    }

    /// Whether packets may flow.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// Its address of this family.
    pub fn side(&self, family: Family) -> Option<&Side> {
        self.sides[family as usize].as_ref()
    }

    /// Its addresses, IPv4 first.
    pub fn sides(&self) -> impl Iterator<Item = &Side> {
        self.sides.iter().flatten()
    }

    /// As [`Allocation::sides`].
    pub fn sides_mut(&mut self) -> impl Iterator<Item = &mut Side> {
        self.sides.iter_mut().flatten()
    }

    /// Its relayed address of this family.
    pub fn relayed(&self, family: Family) -> Option<RelayedAddr> {
        self.side(family).map(|side| side.relayed)
    }

    /// Adds an address, or replaces the one of its family.
    pub fn put(&mut self, side: Side) {
        self.sides[side.relayed.family as usize] = Some(side);
    }

    /// Takes an address away.
    pub fn take(&mut self, family: Family) -> Option<Side> {
        self.sides[family as usize].take()
    }

    /// When the first of its addresses ends.
    pub fn expires(&self) -> Option<Instant> {
        self.sides().map(|side| side.expires).min()
    }

    /// Who holds its share of the route table.
    pub fn owner(&self, id: AllocationId) -> Owner {
        Owner { id, sockets: self.sides.map(|side| side.map(|side| side.relayed)) }
    }
}
