//! The packet path: client to peer, peer to client, and both ends in this process (RFC 8656 §11, §12.5–12.7).
//!
//! A peer that is our own media, or another client's relayed address, is reached without a socket; permissions are
//! checked on both sides all the same.

use std::net::SocketAddr;
use std::ops::Range;

use rand_core::RngCore;

use super::Relay;
use super::io::{ClientAddr, Destination, Output, Prefix, RelayedPort, Transport};
use crate::channel_data;
use crate::metrics::DropReason;
use crate::peer_policy::canonical;
use crate::stun::Message;
use crate::stun::attributes::{ADDRESS_BYTES_MAX, Kind, write_xor_address};
use crate::stun::header::{Class, Header, Method, TransactionId};

/// Type and length of an attribute.
const ATTRIBUTE_HEADER_BYTES: usize = 4;

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
        let Some(id) = self.ready(&client) else { return self.drop(DropReason::NoAllocation) };
        let Some(peer) = self.allocations[id].peer_of(number, self.now) else {
            return self.drop(DropReason::NoChannel);
        };
        self.forward_to_peer(id, peer, payload);
    }

    /// Send (RFC 8656 §11.2). An unknown attribute that must be understood, such as DONT-FRAGMENT, discards it.
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
        self.forward_to_peer(id, peer, payload);
    }

    pub(super) fn on_peer(&mut self, port: RelayedPort, peer: SocketAddr, payload_bytes: usize) {
        match self.by_port.get(&port) {
            Some(&id) => self.forward_to_client(id, peer, 0..payload_bytes),
            None => self.drop(DropReason::NoAllocation),
        }
    }

    pub(super) fn on_media(&mut self, relayed: SocketAddr, media: SocketAddr, payload_bytes: usize) {
        if !self.is_relay_ip(relayed.ip()) {
            return self.drop(DropReason::NoAllocation);
        }
        self.on_peer(RelayedPort(relayed.port()), media, payload_bytes);
    }

    fn forward_to_peer(&mut self, id: usize, peer: SocketAddr, payload: Range<usize>) {
        let allocation = &self.allocations[id];
        if !allocation.permits(peer.ip(), self.now) {
            return self.drop(DropReason::NoPermission);
        }
        let (port, from) = (allocation.port, self.relayed_address(allocation.port));
        let bytes = payload.len() as u64;
        if self.own_media.contains(&peer) {
            self.metrics.bytes_to_peers.inc_by(bytes);
            let to = Destination::Media { from, to: peer };
            return self.outputs.push_back(Output::Forward { to, payload });
        }
        if self.is_relay_ip(peer.ip())
            && let Some(&other) = self.by_port.get(&RelayedPort(peer.port()))
        {
            self.metrics.bytes_to_peers.inc_by(bytes);
            return self.forward_to_client(other, from, payload);
        }
        if peer.port() == 0 || self.own_only.contains(&canonical(peer.ip())) {
            return self.drop(DropReason::DeniedPeer);
        }
        self.metrics.bytes_to_peers.inc_by(bytes);
        self.outputs.push_back(Output::Forward { to: Destination::Peer { from: port, peer }, payload });
    }

    fn forward_to_client(&mut self, id: usize, peer: SocketAddr, payload: Range<usize>) {
        let allocation = &self.allocations[id];
        if !allocation.is_ready() || !allocation.permits(peer.ip(), self.now) {
            return self.drop(DropReason::NoPermission);
        }
        let client = allocation.client;
        let padding = payload.len().next_multiple_of(4) - payload.len();
        let (prefix, padding) = match allocation.channel_of(peer, self.now) {
            Some(number) => {
                let prefix = channel_data::header(number, payload.len()).map(Prefix::channel);
                (prefix, if client.transport == Transport::Udp { 0 } else { padding })
            }
            None => (self.data_indication(peer, payload.len()), padding),
        };
        let Some(prefix) = prefix else { return self.drop(DropReason::TooLong) };
        self.metrics.bytes_to_clients.inc_by(payload.len() as u64);
        let to = Destination::Client { client, prefix, padding };
        self.outputs.push_back(Output::Forward { to, payload });
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
