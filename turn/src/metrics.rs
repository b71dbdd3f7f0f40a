//! What the relay counts. One handle per metric, so that counting is one relaxed addition.

use common::metrics::{Counter, Counters, Gauge, Registry};

use crate::relay::Transport;
use crate::stun::attributes::ErrorCode;

/// Why a datagram or a message went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// Neither STUN nor ChannelData, or broken.
    Malformed,
    /// FINGERPRINT is wrong.
    Fingerprint,
    /// A message that is not for a server, or of an unknown method.
    Unexpected,
    /// Too many answers to strangers of one network.
    StrangerLimit,
    /// ChannelData or Send without an allocation, or a peer's datagram to none.
    NoAllocation,
    /// The channel is not bound.
    NoChannel,
    /// The peer has no permission.
    NoPermission,
    /// The peer's address is denied.
    DeniedPeer,
    /// The payload does not fit the header before it.
    TooLong,
    /// A bounded queue or a socket was full.
    QueueFull,
    /// The network did not take it.
    Network,
    /// What was asked for is switched off.
    SwitchedOff,
    /// Above `max_bps` or `bps_capacity`.
    Bandwidth,
}

impl DropReason {
    /// In the order of declaration.
    const ALL: [Self; 13] = [
        Self::Malformed,
        Self::Fingerprint,
        Self::Unexpected,
        Self::StrangerLimit,
        Self::NoAllocation,
        Self::NoChannel,
        Self::NoPermission,
        Self::DeniedPeer,
        Self::TooLong,
        Self::QueueFull,
        Self::Network,
        Self::SwitchedOff,
        Self::Bandwidth,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Fingerprint => "fingerprint",
            Self::Unexpected => "unexpected",
            Self::StrangerLimit => "stranger_limit",
            Self::NoAllocation => "no_allocation",
            Self::NoChannel => "no_channel",
            Self::NoPermission => "no_permission",
            Self::DeniedPeer => "denied_peer",
            Self::TooLong => "too_long",
            Self::QueueFull => "queue_full",
            Self::Network => "network",
            Self::SwitchedOff => "switched_off",
            Self::Bandwidth => "bandwidth",
        }
    }
}

/// What was relayed one way for clients of one transport.
#[derive(Debug, Clone)]
pub struct Relayed {
    /// Of payload, on connections to peers too.
    pub bytes: Counter,
    packets: Counter,
}

impl Relayed {
    /// Counts a datagram's payload.
    pub fn packet(&self, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
        self.packets.inc();
    }
}

/// One for each kind of [`Transport`].
type PerTransport<T> = [T; Transport::NAMES.len()];

/// The relay's metrics. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Allocations there are.
    pub allocations: Gauge,
    allocated: PerTransport<Counter>,
    auth_failures: PerTransport<Counter>,
    to_peers: PerTransport<Relayed>,
    to_clients: PerTransport<Relayed>,
    /// Requests of users that were refused, by STUN's error code.
    refused: Counters,
    /// By [`DropReason`].
    drops: [Counter; DropReason::ALL.len()],
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Self {
        let bytes = registry.counters("turn_relayed_bytes", "Payload bytes relayed", "to");
        let packets = registry.counters("turn_relayed_packets", "Datagrams relayed", "to");
        let relayed = |to| {
            Transport::NAMES.map(|name| {
                let [bytes, packets] = [&bytes, &packets].map(|all| all.with_also(to, ("transport", name)));
                Relayed { bytes, packets }
            })
        };
        let by_transport = |name, help| {
            let counters = registry.counters(name, help, "transport");
            Transport::NAMES.map(|transport| counters.with(transport))
        };
        let drops = registry.counters("turn_drops", "Datagrams that the relay dropped", "reason");
        Self {
            allocations: registry.gauge("turn_allocations", "TURN allocations"),
            allocated: by_transport("turn_allocated", "TURN allocations that were made"),
            auth_failures: by_transport(
                "turn_auth_failures",
                "TURN requests with wrong or stale credentials",
            ),
            to_peers: relayed("peer"),
            to_clients: relayed("client"),
            refused: registry.counters(
                "turn_refused",
                "TURN requests with good credentials that were refused",
                "code",
            ),
            drops: DropReason::ALL.map(|reason| drops.with(reason.as_str())),
        }
    }

    /// From clients of this transport to peers.
    pub fn to_peers(&self, client: Transport) -> &Relayed {
        &self.to_peers[client.index()]
    }

    /// From peers to clients of this transport.
    pub fn to_clients(&self, client: Transport) -> &Relayed {
        &self.to_clients[client.index()]
    }

    /// Counts an allocation that is made; its end is told to [`Self::allocations`].
    pub fn allocate(&self, client: Transport) {
        self.allocations.inc();
        self.allocated[client.index()].inc();
    }

    /// Counts a request that proved no password although it tried, or with a stale nonce.
    pub fn fail_auth(&self, client: Transport) {
        self.auth_failures[client.index()].inc();
    }

    /// How many of these there were.
    pub fn auth_failures(&self) -> u64 {
        self.auth_failures.iter().map(Counter::get).sum()
    }

    /// Counts the refusal of a request whose sender had proved who it is.
    pub fn refuse(&self, code: ErrorCode) {
        self.refused.inc(match code {
            ErrorCode::TRY_ALTERNATE => "300",
            ErrorCode::BAD_REQUEST => "400",
            ErrorCode::FORBIDDEN => "403",
            ErrorCode::UNKNOWN_ATTRIBUTE => "420",
            ErrorCode::ALLOCATION_MISMATCH => "437",
            ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED => "440",
            ErrorCode::WRONG_CREDENTIALS => "441",
            ErrorCode::UNSUPPORTED_TRANSPORT => "442",
            ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH => "443",
            ErrorCode::CONNECTION_ALREADY_EXISTS => "446",
            ErrorCode::CONNECTION_TIMEOUT_OR_FAILURE => "447",
            ErrorCode::ALLOCATION_QUOTA_REACHED => "486",
            ErrorCode::INSUFFICIENT_CAPACITY => "508",
            _ => "other",
        });
    }

    /// Counts a drop.
    pub fn drop(&self, reason: DropReason) {
        self.drops[reason as usize].inc();
    }

    /// How often something was dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry);
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(index, reason as usize);
            (0..=index).for_each(|_| metrics.drop(reason));
            let line = format!("turn_drops_total{{reason=\"{}\"}} {}", reason.as_str(), index + 1);
            assert!(registry.encode().contains(&line), "{line}");
        }
    }
}
