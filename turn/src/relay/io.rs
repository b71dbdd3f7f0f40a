//! What goes into the relay and what comes out. Payloads never do: outputs point into the shell's buffer.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::addresses::RelayedAddr;
use super::icmp::Icmp;
use super::ledger::WorkerId;
use crate::channel_data;
use crate::routes::hash_address;
use crate::stun::attributes::ADDRESS_BYTES_MAX;
use crate::stun::header::HEADER_BYTES;

/// A TCP connection, numbered by the shell and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// How a client talks to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Framed in a stream; ChannelData is padded to 4 bytes there.
    Tcp(ConnectionId),
    /// The same within TLS.
    Tls(ConnectionId),
    /// Datagrams within DTLS.
    Dtls,
}

impl Transport {
    /// Whether messages are framed in a stream.
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Tls(_))
    }

    /// Labels of metrics, by [`Self::index`].
    pub const NAMES: [&'static str; 4] = ["udp", "tcp", "tls", "dtls"];

    /// Of the kind, whichever connection it is.
    pub fn index(self) -> usize {
        match self {
            Self::Udp => 0,
            Self::Tcp(_) => 1,
            Self::Tls(_) => 2,
            Self::Dtls => 3,
        }
    }

    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

/// The 5-tuple that an allocation belongs to (RFC 8656 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientAddr {
    /// UDP, DTLS, or a connection.
    pub transport: Transport,
    /// The client's address as we see it.
    pub remote: SocketAddr,
    /// Our address that it talks to.
    pub local: SocketAddr,
}

impl Hash for ClientAddr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_address(self.remote, 0, state);
        hash_address(self.local, 0, state);
        match self.transport {
            Transport::Udp => {}
            Transport::Tcp(ConnectionId(connection)) | Transport::Tls(ConnectionId(connection)) => {
                state.write_u64(connection);
            }
            Transport::Dtls => state.write_u8(1), // the same addresses may talk UDP too
        }
    }
}

/// A connection to a peer of a TCP allocation: the value of CONNECTION-ID (RFC 6062 §6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerConnectionId(pub u32);

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A datagram, or one framed message of a stream, from a client.
    FromClient {
        /// From whom.
        client: ClientAddr,
        /// STUN or ChannelData.
        data: &'a [u8],
    },
    /// A datagram at a relay socket.
    FromPeer {
        /// At which.
        relayed: RelayedAddr,
        /// From whom.
        peer: SocketAddr,
        /// All of it is payload.
        data: &'a [u8],
    },
    /// A datagram that our own media, or another worker's client, sends to a relayed address, in memory.
    FromMedia {
        /// The relayed address.
        relayed: SocketAddr,
        /// Where it comes from: the media's address, or the other relayed address.
        media: SocketAddr,
        /// All of it is payload.
        data: &'a [u8],
    },
    /// The network said something about a datagram that a relay socket had sent.
    Icmp {
        /// Which socket.
        relayed: RelayedAddr,
        /// To whom.
        peer: SocketAddr,
        /// What.
        icmp: Icmp,
    },
    /// [`Output::OpenRelay`] went well.
    RelayBound {
        /// Its address.
        relayed: RelayedAddr,
    },
    /// [`Output::OpenRelay`] failed: the port is taken.
    RelayBindFailed {
        /// Its address.
        relayed: RelayedAddr,
    },
    /// A client's connection or DTLS session ended.
    ClientGone {
        /// Whose.
        client: ClientAddr,
    },
    /// No new allocations from now on: 300 when there is another server, 508 otherwise. What there is lives on.
    Drain,
    /// [`Output::ConnectPeer`] went well.
    PeerConnected {
        /// Which.
        connection: PeerConnectionId,
    },
    /// [`Output::ConnectPeer`] failed.
    PeerConnectFailed {
        /// Which.
        connection: PeerConnectionId,
    },
    /// A peer has connected to a relay socket. [`Output::KeepPeer`] names the connection; without it, it is closed.
    PeerAccepted {
        /// At which.
        relayed: RelayedAddr,
        /// From whom.
        peer: SocketAddr,
    },
    /// A connection to a peer ended, and the client's with it.
    PeerGone {
        /// Which.
        connection: PeerConnectionId,
    },
    /// The wall clock, which may have been set: credentials end by it. Whatever is granted lasts by the other clock.
    WallClock {
        /// Since the Unix epoch.
        unix_time: Duration,
    },
    /// The time of the last [`Output::Timeout`] has come.
    Timeout,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this message to a client.
    Reply {
        /// To whom.
        client: ClientAddr,
        /// A whole STUN message.
        data: Vec<u8>,
    },
    /// Send a part of the last input's data on.
    Forward {
        /// Where, and with what before it.
        to: Destination,
        /// The part.
        payload: Range<usize>,
    },
    /// Bind a UDP socket, or listen with a TCP one, then say [`Input::RelayBound`] or [`Input::RelayBindFailed`].
    OpenRelay {
        /// Its address.
        relayed: RelayedAddr,
        /// What to bind it to.
        bind: SocketAddr,
    },
    /// Take over the open socket of a redeemed reservation from another worker, then say as after [`Self::OpenRelay`].
    FetchRelay {
        /// Its address.
        relayed: RelayedAddr,
        /// Who has it.
        from: WorkerId,
    },
    /// Close that socket.
    CloseRelay {
        /// Its address.
        relayed: RelayedAddr,
    },
    /// Connect to a peer, then say [`Input::PeerConnected`] or [`Input::PeerConnectFailed`].
    ConnectPeer {
        /// What it is called from now on.
        connection: PeerConnectionId,
        /// From the relay socket's address.
        bind: SocketAddr,
        /// To the peer's.
        to: SocketAddr,
    },
    /// Keep the connection of the last [`Input::PeerAccepted`], and read nothing of it yet.
    KeepPeer {
        /// What it is called from now on.
        connection: PeerConnectionId,
    },
    /// From here on the client's connection carries the bytes of this peer, and nothing else.
    Splice {
        /// The client's data connection.
        client: ClientAddr,
        /// The peer's.
        connection: PeerConnectionId,
    },
    /// Close a connection to a peer, or give up connecting, and close the client's data connection with it.
    ClosePeer {
        /// Which.
        connection: PeerConnectionId,
    },
    /// Nothing more; call again then, or with the next input.
    Timeout(Instant),
}

/// Where a payload goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Out of a relay socket.
    Peer {
        /// The socket.
        from: RelayedAddr,
        /// The peer.
        peer: SocketAddr,
    },
    /// To a client, with a header before it.
    Client {
        /// The client.
        client: ClientAddr,
        /// ChannelData's header, or a Data indication up to its payload.
        prefix: Prefix,
        /// Zero bytes after the payload.
        padding: usize,
    },
    /// To another worker's relayed address, in memory: [`Input::FromMedia`] there.
    Worker {
        /// The worker.
        worker: WorkerId,
        /// The relayed address that it comes from.
        from: SocketAddr,
        /// The one that it goes to.
        to: SocketAddr,
    },
    /// To our own media, in memory.
    Media {
        /// The relayed address.
        from: SocketAddr,
        /// The media's address.
        to: SocketAddr,
    },
}

/// Longest [`Prefix`]: a header, XOR-PEER-ADDRESS of IPv6, and DATA's type and length.
pub const PREFIX_BYTES_MAX: usize = HEADER_BYTES + 4 + ADDRESS_BYTES_MAX + 4;

/// The bytes before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    bytes: [u8; PREFIX_BYTES_MAX],
    length: usize,
}

impl Prefix {
    pub(super) fn channel(header: [u8; channel_data::HEADER_BYTES]) -> Self {
        Self::of(&[&header])
    }

    pub(super) fn of(parts: &[&[u8]]) -> Self {
        let mut prefix = Self { bytes: [0; PREFIX_BYTES_MAX], length: 0 };
        for part in parts {
            prefix.bytes[prefix.length..prefix.length + part.len()].copy_from_slice(part);
            prefix.length += part.len();
        }
        prefix
    }
}

impl std::ops::Deref for Prefix {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
