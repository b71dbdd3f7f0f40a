//! One allocation: its permissions, its channels, and when each of them ends (RFC 8656 §3, §9, §12).
//!
//! Expiry is a time inside each entry, looked at when a packet asks for it, so nothing here needs a timer;
//! what has expired is swept when the client adds something. `relay.rs` owns allocations and knows their clients.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::auth::Proof;
use crate::channel_data::ChannelNumber;
use crate::relay::{ClientAddr, RelayedPort};
use crate::stun::header::TransactionId;

/// RFC 8656 §9.
pub const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// RFC 8656 §12.
pub const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
/// RFC 8656 §7.2.
pub const LIFETIME_DEFAULT: Duration = Duration::from_secs(600);
/// RFC 8656 §7.2 recommends an hour.
pub const LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// Peers of one client, far above what ICE needs; one more is refused with 508.
pub const PERMISSIONS_MAX: usize = 256;
/// As [`PERMISSIONS_MAX`].
pub const CHANNELS_MAX: usize = 256;

/// The lifetime that a client gets for the one it asked for (RFC 8656 §7.2: never below the default).
pub fn granted_lifetime(requested_seconds: Option<u32>) -> Duration {
    let requested = requested_seconds.map_or(LIFETIME_DEFAULT, |s| Duration::from_secs(s.into()));
    requested.clamp(LIFETIME_DEFAULT, LIFETIME_MAX)
}

/// Why a permission or a channel is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The channel has another peer, or the peer another channel.
    #[error("channel or peer is bound otherwise")]
    Mismatch,
    /// Too many already.
    #[error("too many")]
    Full,
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
        answer: Vec<u8>,
    },
}

/// What is needed to answer an Allocate request later.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    /// Granted lifetime.
    pub lifetime: Duration,
    /// Whether the request had FINGERPRINT.
    pub fingerprint: bool,
    /// Whether the client wants an even port.
    pub even_port: bool,
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    peer: SocketAddr,
    expires: Instant,
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
    permissions: BTreeMap<IpAddr, Instant>,
    channels: BTreeMap<ChannelNumber, Channel>,
    channel_of_peer: BTreeMap<SocketAddr, ChannelNumber>,
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
        Self {
            client,
            port,
            proof,
            transaction_id,
            state: State::Binding { failures: 0, pending },
            expires,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            channel_of_peer: BTreeMap::new(),
        }
    }

    /// Whether packets may flow.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// Installs or refreshes permissions, all or none (RFC 8656 §10.2).
    pub fn permit(&mut self, peers: &[IpAddr], now: Instant) -> Result<(), Refusal> {
        self.permissions.retain(|_, expires| *expires > now);
        let new = peers.iter().filter(|peer| !self.permissions.contains_key(peer)).count();
        if self.permissions.len() + new > PERMISSIONS_MAX {
            return Err(Refusal::Full);
        }
        self.permissions.extend(peers.iter().map(|peer| (*peer, now + PERMISSION_LIFETIME)));
        Ok(())
    }

    /// Binds or refreshes a channel, and its permission with it (RFC 8656 §12.2).
    pub fn bind(&mut self, number: ChannelNumber, peer: SocketAddr, now: Instant) -> Result<(), Refusal> {
        self.channels.retain(|_, channel| channel.expires > now);
        self.channel_of_peer.retain(|_, number| self.channels.contains_key(number));
        let peer_of_number = self.channels.get(&number).map(|channel| channel.peer);
        if peer_of_number.is_some_and(|bound| bound != peer)
            || self.channel_of_peer.get(&peer).is_some_and(|bound| *bound != number)
        {
            return Err(Refusal::Mismatch);
        }
        if peer_of_number.is_none() && self.channels.len() >= CHANNELS_MAX {
            return Err(Refusal::Full);
        }
        self.permit(&[peer.ip()], now)?;
        self.channels.insert(number, Channel { peer, expires: now + CHANNEL_LIFETIME });
        self.channel_of_peer.insert(peer, number);
        Ok(())
    }

    /// Whether the peer's address may send and be sent to.
    pub fn permits(&self, peer: IpAddr, now: Instant) -> bool {
        self.permissions.get(&peer).is_some_and(|expires| *expires > now)
    }

    /// The peer behind a channel.
    pub fn peer_of(&self, number: ChannelNumber, now: Instant) -> Option<SocketAddr> {
        self.channels.get(&number).filter(|channel| channel.expires > now).map(|channel| channel.peer)
    }

    /// The channel of a peer.
    pub fn channel_of(&self, peer: SocketAddr, now: Instant) -> Option<ChannelNumber> {
        let number = *self.channel_of_peer.get(&peer)?;
        self.peer_of(number, now).map(|_| number)
    }
}
