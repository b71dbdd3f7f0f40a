//! TCP allocations: connections to peers, begun by either side, joined with connections of the client (RFC 6062).
//!
//! `requests` has checked who asks. The bytes that flow are the shell's; here it is decided which two connections belong
//! together, and `connections` remembers it. A peer that connects needs a permission (RFC 6062 §5.3).

use std::net::{IpAddr, SocketAddr};

use rand_core::RngCore;

use super::Relay;
use super::addresses::{Family, Protocol, RelayedAddr};
use super::connections::Stage;
use super::io::{ClientAddr, Output, PeerConnectionId};
use super::ledger::WorkerId;
use super::requests::Request;
use crate::allocation::Allocation;
use crate::auth::Proof;
use crate::metrics::DropReason;
use crate::peer_policy::canonical;
use crate::routes::AllocationId;
use crate::stun::attributes::{ErrorCode, Kind};
use crate::stun::header::{Class, Method, TransactionId};
use crate::stun::{Message, Writer};

impl Relay {
    /// What a TCP allocation may not be asked for with (RFC 6062 §5.1).
    pub(super) fn check_tcp_allocate(&self, request: &Request<'_>) -> Result<(), ErrorCode> {
        let message = &request.message;
        let datagrams_only = [Kind::EVEN_PORT, Kind::RESERVATION_TOKEN, Kind::DONT_FRAGMENT];
        if !self.tcp_relay {
            Err(ErrorCode::UNSUPPORTED_TRANSPORT)
        } else if !request.client.transport.is_stream()
            || datagrams_only.iter().any(|kind| message.attribute(*kind).is_some())
        {
            Err(ErrorCode::BAD_REQUEST)
        } else {
            Ok(())
        }
    }

    /// Connect (RFC 6062 §5.2). The answer waits for the connection.
    pub(super) fn connect(&mut self, request: &Request<'_>) -> Result<(), ErrorCode> {
        let id = self.ready(&request.client).filter(|id| is_tcp(self.allocation(*id)));
        let id = id.ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let message = &request.message;
        let peer = message.xor_address(Kind::XOR_PEER_ADDRESS).filter(|peer| peer.port() != 0);
        let peer = peer.ok_or(ErrorCode::BAD_REQUEST)?;
        let own = self.own_relayed(peer, Protocol::Tcp);
        self.check_peer(id, peer.ip())?;
        // From our own address, even a public one, a connection could reach services that trust it.
        if own.is_none() && self.is_own_ip(peer.ip()) && !self.policy.is_listed(peer.ip()) {
            return Err(ErrorCode::FORBIDDEN);
        }
        if self.connections.has_peer(id, peer) {
            return Err(ErrorCode::CONNECTION_ALREADY_EXISTS);
        }
        let from = self.allocation(id).relayed(Family::of(peer.ip()));
        let from = from.filter(|_| self.connections.has_room(id)).ok_or(ErrorCode::INSUFFICIENT_CAPACITY)?;
        let connection = self.new_connection_id();
        let stage = Stage::Connecting {
            transaction_id: message.transaction_id(),
            fingerprint: request.has_fingerprint(),
        };
        self.connections.add(connection, id, peer, stage, self.now);
        let (bind, to) = (self.ips.bound(from), own.map_or(peer, |own| self.ips.bound(own)));
        self.outputs.push_back(Output::ConnectPeer { connection, bind, to });
        Ok(())
    }

    /// ConnectionBind (RFC 6062 §5.4): from here on the client's connection carries bytes of the peer and nothing else.
    pub(super) fn connection_bind(&mut self, request: &Request<'_>) -> Result<(), ErrorCode> {
        let client = request.client;
        let connection = connection_of(&request.message).ok_or(ErrorCode::BAD_REQUEST)?;
        let waiting = self.connections.get(connection).filter(|found| found.stage == Stage::Unbound);
        let is_own = waiting
            .is_some_and(|found| self.allocation(found.owner).proof.username() == request.proof.username());
        let is_free = !self.by_client.contains_key(&client) && self.connections.of_client(&client).is_none();
        if !is_own || !is_free || !client.transport.is_stream() {
            return Err(ErrorCode::BAD_REQUEST);
        }
        self.connections.bind(connection, client);
        self.answer(request, request.success());
        self.outputs.push_back(Output::Splice { client, connection });
        Ok(())
    }

    /// Whose credentials a ConnectionBind is likely made with: its allocation's outlive their expiry.
    pub(super) fn proof_of_connection(&self, message: &Message<'_>) -> Option<&Proof> {
        let connection = connection_of(message).filter(|_| message.method() == Method::CONNECTION_BIND)?;
        Some(&self.allocation(self.connections.get(connection)?.owner).proof)
    }

    pub(super) fn on_peer_connected(&mut self, connection: PeerConnectionId) {
        let Some((owner, transaction_id, fingerprint)) = self.connecting(connection) else {
            return self.outputs.push_back(Output::ClosePeer { connection });
        };
        self.connections.connected(connection, self.now);
        let mut answer = Writer::new(Class::Success, Method::CONNECT, transaction_id);
        answer.number(Kind::CONNECTION_ID, connection.0);
        self.answer_connect(owner, answer, fingerprint);
    }

    pub(super) fn on_peer_connect_failed(&mut self, connection: PeerConnectionId) {
        let Some((owner, transaction_id, fingerprint)) = self.connecting(connection) else { return };
        self.connections.remove(connection);
        let code = ErrorCode::CONNECTION_TIMEOUT_OR_FAILURE;
        self.metrics.refuse(code);
        let mut answer = Writer::new(Class::Error, Method::CONNECT, transaction_id);
        answer.error(code);
        self.answer_connect(owner, answer, fingerprint);
    }

    /// A peer has connected to a relay socket (RFC 6062 §5.3).
    pub(super) fn on_peer_accepted(&mut self, relayed: RelayedAddr, from: SocketAddr) {
        let Some(&id) = self.by_relayed.get(&relayed).filter(|id| self.allocation(**id).is_ready()) else {
            return self.drop(DropReason::NoAllocation);
        };
        // Another of our own relayed addresses is known by what it shows.
        let peer = self.own_relayed(from, Protocol::Tcp).map_or(from, |own| self.ips.shown(own));
        if self.routes.permitted_until(relayed, peer.ip(), self.now).is_none() {
            return self.drop(DropReason::NoPermission);
        }
        if self.connections.has_peer(id, peer) || !self.connections.has_room(id) {
            return self.drop(DropReason::QueueFull);
        }
        let connection = self.new_connection_id();
        self.connections.add(connection, id, peer, Stage::Unbound, self.now);
        let mut attempt =
            Writer::new(Class::Indication, Method::CONNECTION_ATTEMPT, self.new_transaction_id());
        attempt.number(Kind::CONNECTION_ID, connection.0).xor_address(Kind::XOR_PEER_ADDRESS, peer);
        self.outputs.push_back(Output::KeepPeer { connection });
        self.reply(self.allocation(id).client, attempt.finish());
    }

    pub(super) fn on_peer_gone(&mut self, connection: PeerConnectionId) {
        self.connections.remove(connection);
    }

    /// A client's connection has ended: whatever it was, and what hung on it.
    pub(super) fn on_client_gone(&mut self, client: &ClientAddr) {
        if let Some(connection) = self.connections.of_client(client) {
            self.close_connection(connection);
        }
        if let Some(&id) = self.by_client.get(client) {
            self.remove(id);
        }
    }

    /// Ends the connections of an allocation's address with it (RFC 6062 §5.1).
    pub(super) fn close_connections_of(&mut self, id: AllocationId, family: Family) {
        while let Some(connection) = self.connections.any_of(id, family) {
            self.close_connection(connection);
        }
    }

    /// Those that took too long.
    pub(super) fn expire_connections(&mut self) {
        while let Some(connection) = self.connections.ended(self.now) {
            self.outputs.push_back(Output::ClosePeer { connection });
            self.on_peer_connect_failed(connection); // if it has not come about
            self.connections.remove(connection);
        }
    }

    fn is_own_ip(&self, ip: IpAddr) -> bool {
        let ip = canonical(ip);
        self.ips.contains(ip)
            || self.own_only.contains(&ip)
            || self.own_media.iter().any(|own| own.ip() == ip)
    }

    fn close_connection(&mut self, connection: PeerConnectionId) {
        self.connections.remove(connection);
        self.outputs.push_back(Output::ClosePeer { connection });
    }

    fn connecting(&self, connection: PeerConnectionId) -> Option<(AllocationId, TransactionId, bool)> {
        let found = self.connections.get(connection)?;
        match found.stage {
            Stage::Connecting { transaction_id, fingerprint } => {
                Some((found.owner, transaction_id, fingerprint))
            }
            Stage::Unbound | Stage::Bound { .. } => None,
        }
    }

    fn answer_connect(&mut self, owner: AllocationId, answer: Writer, fingerprint: bool) {
        let allocation = self.allocation(owner);
        let (client, data) = (allocation.client, self.sealed(answer, &allocation.proof, fingerprint));
        self.reply(client, data);
    }

    /// Unpredictable, as nothing but the credentials keeps it from strangers; its remainder says which worker has it.
    fn new_connection_id(&mut self) -> PeerConnectionId {
        let workers = u32::from(self.ledger.workers());
        loop {
            let random = self.rng.next_u32();
            let id = (random - random % workers).checked_add(self.worker.0.into()).map(PeerConnectionId);
            if let Some(id) = id.filter(|id| self.connections.get(*id).is_none()) {
                return id;
            }
        }
    }

    /// The other worker that a client's message is for: a ConnectionBind goes where the connection is, before anything is
    /// looked at that only that worker knows. A connection with an allocation stays.
    pub fn home_of(&self, client: &ClientAddr, data: &[u8]) -> Option<WorkerId> {
        let is_stun = data.first().is_some_and(|first| first >> 6 == 0);
        if !is_stun || self.ledger.workers() == 1 {
            return None; // most of what comes
        }
        let message = Message::parse(data).ok()?;
        let may_go = (message.class(), message.method()) == (Class::Request, Method::CONNECTION_BIND)
            && client.transport.is_stream()
            && !self.has_allocation(client);
        let connection = connection_of(&message).filter(|_| may_go)?;
        let home = WorkerId((connection.0 % u32::from(self.ledger.workers())) as u8);
        (home != self.worker).then_some(home)
    }

    pub(super) fn new_transaction_id(&mut self) -> TransactionId {
        let mut id = [0; 12];
        self.rng.fill_bytes(&mut id);
        TransactionId(id)
    }
}

fn connection_of(message: &Message<'_>) -> Option<PeerConnectionId> {
    message.number(Kind::CONNECTION_ID).map(PeerConnectionId)
}

/// Whether an allocation's peers are reached over connections.
pub(super) fn is_tcp(allocation: &Allocation) -> bool {
    allocation.sides().any(|side| side.relayed.protocol == Protocol::Tcp)
}
