//! The packet path: client to peer, peer to client, and both ends in this process (RFC 8656 §11, §12.5–12.7).
//!
//! A peer that is our own media, or another client's relayed address, is reached without a socket; permissions are
//! checked on both sides all the same. `routes` says who may; the last answer of each direction is kept, so that a train
//! of packets asks once. Nothing here allocates.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::Relay;
use super::addresses::{Family, Protocol, RelayedAddr};
use super::bandwidth::Direction;
use super::io::{ClientAddr, Destination, Output, Prefix};
use super::ledger::WorkerId;
use crate::channel_data::{self, ChannelNumber};
use crate::metrics::DropReason;
use crate::peer_policy::canonical;
use crate::routes::AllocationId;
use crate::stun::Message;
use crate::stun::attributes::{ADDRESS_BYTES_MAX, Kind, write_xor_address};
use crate::stun::header::{Class, Header, Method, TransactionId};

/// Type and length of an attribute.
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// How long a route to one of our own addresses is kept that other workers may open and close unseen.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// The last route of each direction. Whatever changes an allocation, a permission or a channel forgets it.
#[derive(Debug, Default)]
pub(super) struct LastRoutes {
    up: Option<(ClientAddr, ChannelNumber, Way)>,
    down: Option<(RelayedAddr, ToClient)>,
}

/// How a client's packets go on.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Whose packets.
    id: AllocationId,
    hop: Hop,
    until: Instant,
}

#[derive(Debug, Clone, Copy)]
enum Hop {
    Peer {
        from: RelayedAddr,
        peer: SocketAddr,
    },
    Media {
        from: SocketAddr,
        to: SocketAddr,
    },
    /// Another client, by its relayed address.
    Client(ToClient),
    /// Another worker's client.
    Worker {
        worker: WorkerId,
        from: SocketAddr,
        to: SocketAddr,
    },
}

/// How a peer's packets reach a client.
#[derive(Debug, Clone, Copy)]
struct ToClient {
    id: AllocationId,
    peer: SocketAddr,
    channel: Option<ChannelNumber>,
    until: Instant,
}

impl Relay {
    /// The first two bits tell STUN from ChannelData (RFC 8656 §12.5).
    pub(super) fn on_client(&mut self, client: ClientAddr, data: &[u8]) {
        match data.first().map(|first| first >> 6) {
            Some(0) => self.on_stun(client, data),
            Some(1) => self.on_channel_data(client, data),
            _ => self.drop(DropReason::Malformed),
        }
    }

    fn on_channel_data(&mut self, client: ClientAddr, data: &[u8]) {
        let Some((number, payload)) = channel_data::parse(data) else {
            return self.drop(DropReason::Malformed);
        };
        match self.way_of_channel(client, number) {
            Ok(way) => self.forward(way, payload),
            Err(reason) => self.drop(reason),
        }
    }

    fn way_of_channel(&mut self, client: ClientAddr, number: ChannelNumber) -> Result<Way, DropReason> {
        if let Some((last_client, last_number, way)) = &self.last_routes.up
            && *last_number == number
            && *last_client == client
            && way.until > self.now
        {
            return Ok(*way);
        }
        let id = self.ready(&client).ok_or(DropReason::NoAllocation)?;
        let up = self.routes.up(id, number, self.now)?;
        let way = self.way_to(id, up.peer, up.until)?;
        self.last_routes.up = Some((client, number, way));
        Ok(way)
    }

    /// Send (RFC 8656 §11.2). An unknown attribute that must be understood discards it.
    pub(super) fn on_send(&mut self, client: ClientAddr, message: &Message<'_>) {
        let Some(id) = self.ready(&client) else { return self.drop(DropReason::NoAllocation) };
        let (Some(peer), Some(payload)) =
            (message.xor_address(Kind::XOR_PEER_ADDRESS), message.value_range(Kind::DATA))
        else {
            return self.drop(DropReason::Malformed);
        };
        if message.attributes().any(|a| a.kind.is_comprehension_required() && !a.kind.is_known()) {
            return self.drop(DropReason::Unexpected);
        }
        match self.way_of_send(id, peer) {
            Ok(way) => self.forward(way, payload),
            Err(reason) => self.drop(reason),
        }
    }

    fn way_of_send(&self, id: AllocationId, peer: SocketAddr) -> Result<Way, DropReason> {
        let from = self.allocation(id).relayed(Family::of(peer.ip())).ok_or(DropReason::NoPermission)?;
        let until = self.routes.permitted_until(from, peer.ip(), self.now).ok_or(DropReason::NoPermission)?;
        self.way_to(id, peer, until)
    }

    pub(super) fn on_peer(&mut self, relayed: RelayedAddr, peer: SocketAddr, payload_bytes: usize) {
        if let Some((last, to)) = &self.last_routes.down
            && *last == relayed
            && to.peer == peer
            && to.until > self.now
        {
            let to = *to;
            return self.send_to_client(to, 0..payload_bytes);
        }
        match self.way_to_client(relayed, peer) {
            Ok(to) => {
                self.last_routes.down = Some((relayed, to));
                self.send_to_client(to, 0..payload_bytes);
            }
            Err(reason) => self.drop(reason),
        }
    }

    pub(super) fn on_media(&mut self, relayed: SocketAddr, media: SocketAddr, payload_bytes: usize) {
        match self.own_relayed(relayed, Protocol::Udp) {
            Some(relayed) => self.on_peer(relayed, media, payload_bytes),
            None => self.drop(DropReason::NoAllocation),
        }
    }

    /// The allocated address that this one is, at whichever worker.
    pub(super) fn own_relayed(&self, address: SocketAddr, protocol: Protocol) -> Option<RelayedAddr> {
        let is_allocated = |relayed: &RelayedAddr| {
            self.by_relayed.contains_key(relayed) || self.other_owner(*relayed).is_some()
        };
        self.ips.named(address, protocol).find(is_allocated)
    }

    /// The other worker that has this port.
    fn other_owner(&self, relayed: RelayedAddr) -> Option<WorkerId> {
        self.ledger.owner(relayed).filter(|owner| *owner != self.worker)
    }

    /// The way to a peer that this allocation may send to until then.
    fn way_to(&self, id: AllocationId, peer: SocketAddr, until: Instant) -> Result<Way, DropReason> {
        let relayed = self.allocation(id).relayed(Family::of(peer.ip())).ok_or(DropReason::NoPermission)?;
        if relayed.protocol == Protocol::Tcp {
            return Err(DropReason::Unexpected); // its data goes over connections
        }
        let from = self.ips.shown(relayed);
        if self.own_media.contains(&peer) {
            return Ok(Way { id, hop: Hop::Media { from, to: peer }, until });
        }
        if let Some(other) = self.own_relayed(peer, Protocol::Udp) {
            if let Some(worker) = self.other_owner(other) {
                let until = until.min(self.now + ELSEWHERE);
                let to = self.ips.shown(other);
                return Ok(Way { id, hop: Hop::Worker { worker, from, to }, until });
            }
            let to = self.way_to_client(other, from)?;
            return Ok(Way { id, hop: Hop::Client(to), until: until.min(to.until) });
        }
        if peer.port() == 0 || self.own_only.contains(&canonical(peer.ip())) {
            return Err(DropReason::DeniedPeer);
        }
        let until = if self.ips.contains(peer.ip()) { until.min(self.now + ELSEWHERE) } else { until };
        Ok(Way { id, hop: Hop::Peer { from: relayed, peer }, until })
    }

    fn way_to_client(&self, relayed: RelayedAddr, peer: SocketAddr) -> Result<ToClient, DropReason> {
        let id = *self.by_relayed.get(&relayed).ok_or(DropReason::NoAllocation)?;
        let down = self.routes.down(relayed, peer, self.now).ok_or(DropReason::NoPermission)?;
        Ok(ToClient { id, peer, channel: down.channel, until: down.until })
    }

    fn forward(&mut self, way: Way, payload: Range<usize>) {
        if !self.within_bandwidth(way.id, Direction::Up, payload.len()) {
            return self.drop(DropReason::Bandwidth);
        }
        let transport = self.allocation(way.id).client.transport;
        self.metrics.to_peers(transport).packet(payload.len());
        let to = match way.hop {
            Hop::Peer { from, peer } => Destination::Peer { from, peer },
            Hop::Media { from, to } => Destination::Media { from, to },
            Hop::Worker { worker, from, to } => Destination::Worker { worker, from, to },
            Hop::Client(to) => return self.send_to_client(to, payload),
        };
        self.outputs.push_back(Output::Forward { to, payload });
    }

    fn send_to_client(&mut self, to: ToClient, payload: Range<usize>) {
        if !self.within_bandwidth(to.id, Direction::Down, payload.len()) {
            return self.drop(DropReason::Bandwidth);
        }
        let client = self.allocation(to.id).client;
        let padding = payload.len().next_multiple_of(4) - payload.len();
        let (prefix, padding) = match to.channel {
            Some(number) => {
                let prefix = channel_data::header(number, payload.len()).map(Prefix::channel);
                (prefix, if client.transport.is_stream() { padding } else { 0 })
            }
            None => (self.data_indication(to.peer, payload.len()), padding),
        };
        let Some(prefix) = prefix else { return self.drop(DropReason::TooLong) };
        self.metrics.to_clients(client.transport).packet(payload.len());
        let to = Destination::Client { client, prefix, padding };
        self.outputs.push_back(Output::Forward { to, payload });
    }

    fn within_bandwidth(&mut self, id: AllocationId, direction: Direction, payload_bytes: usize) -> bool {
        let now = self.now;
        self.bandwidth.as_mut().is_none_or(|bandwidth| bandwidth.take(id, direction, payload_bytes, now))
    }

    /// A Data indication up to its payload (RFC 8656 §11.3).
    fn data_indication(&mut self, peer: SocketAddr, payload_bytes: usize) -> Option<Prefix> {
        let mut id = [0; 12];
        self.rng.fill_bytes(&mut id);
        let transaction_id = TransactionId(id);
        let mut address = [0; ADDRESS_BYTES_MAX];
        let address_bytes = write_xor_address(&mut address, peer, transaction_id);
        let length = 2 * ATTRIBUTE_HEADER_BYTES + address_bytes + payload_bytes.next_multiple_of(4);
        u16::try_from(length).ok()?;
        let header = Header { class: Class::Indication, method: Method::DATA, transaction_id, length };
        let attribute = |kind: Kind, bytes: usize| {
            let [k0, k1] = kind.0.to_be_bytes();
            let [l0, l1] = (bytes as u16).to_be_bytes();
            [k0, k1, l0, l1]
        };
        Some(Prefix::of(&[
            &header.to_bytes(),
            &attribute(Kind::XOR_PEER_ADDRESS, address_bytes),
            &address[..address_bytes],
            &attribute(Kind::DATA, payload_bytes),
        ]))
    }
}
