//! Connections to peers of TCP allocations, from the first attempt to the client's data connection (RFC 6062 §5).
//!
//! Each belongs to an allocation and ends with it. `tcp` decides; here they are kept, counted and timed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::addresses::Family;
use super::io::{ClientAddr, PeerConnectionId};
use crate::routes::AllocationId;
use crate::stun::header::TransactionId;

/// RFC 6062 §5.2, §5.3: what has not come about, or was not bound, by then is closed.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Connections of one allocation that no data connection belongs to yet: what peers, who need no credentials, can fill.
const UNBOUND_MAX: usize = 16;
/// Connections of one allocation, far above what ICE needs; one more is refused.
const OF_ALLOCATION_MAX: usize = 64;
/// Connections of all allocations: each is a file, and another one with its client's.
pub(super) const CONNECTIONS_MAX: usize = 4096;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// We connect; the client's request waits for its answer.
    Connecting { transaction_id: TransactionId, fingerprint: bool },
    /// It is there, and the client has been told its number.
    Unbound,
    /// Bytes flow between it and a connection of the client.
    Bound { client: ClientAddr },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct PeerConnection {
    pub(super) owner: AllocationId,
    /// As the client names it.
    pub(super) peer: SocketAddr,
    pub(super) stage: Stage,
    /// Until when it has to be bound.
    until: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct PeerConnections {
    by_id: BTreeMap<PeerConnectionId, PeerConnection>,
    by_peer: BTreeMap<(AllocationId, SocketAddr), PeerConnectionId>,
    by_client: BTreeMap<ClientAddr, PeerConnectionId>,
    ends: BTreeSet<(Instant, PeerConnectionId)>,
}

impl PeerConnections {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: PeerConnectionId) -> Option<&PeerConnection> {
        self.by_id.get(&id)
    }

    pub(super) fn has_peer(&self, owner: AllocationId, peer: SocketAddr) -> bool {
        self.by_peer.contains_key(&(owner, plain(peer)))
    }

    /// Whether this allocation may have one more.
    pub(super) fn has_room(&self, owner: AllocationId) -> bool {
        let all = self.ids_of(owner).count();
        let is_unbound = |id: &PeerConnectionId| !matches!(self.by_id[id].stage, Stage::Bound { .. });
        let unbound = self.ids_of(owner).filter(is_unbound).count();
        all < OF_ALLOCATION_MAX && unbound < UNBOUND_MAX && self.by_id.len() < CONNECTIONS_MAX
    }

    pub(super) fn add(
        &mut self,
        id: PeerConnectionId,
        owner: AllocationId,
        peer: SocketAddr,
        stage: Stage,
        now: Instant,
    ) {
        let (peer, until) = (plain(peer), now + PATIENCE);
        self.by_id.insert(id, PeerConnection { owner, peer, stage, until });
        self.by_peer.insert((owner, peer), id);
        self.ends.insert((until, id));
    }

    /// A connection that we began is there; it waits for its client as long as another does.
    pub(super) fn connected(&mut self, id: PeerConnectionId, now: Instant) {
        let Some(connection) = self.by_id.get_mut(&id) else { return };
        self.ends.remove(&(connection.until, id));
        connection.stage = Stage::Unbound;
        connection.until = now + PATIENCE;
        self.ends.insert((connection.until, id));
    }

    pub(super) fn bind(&mut self, id: PeerConnectionId, client: ClientAddr) {
        let Some(connection) = self.by_id.get_mut(&id) else { return };
        self.ends.remove(&(connection.until, id));
        connection.stage = Stage::Bound { client };
        self.by_client.insert(client, id);
    }

    /// The connection that a client's data connection belongs to.
    pub(super) fn of_client(&self, client: &ClientAddr) -> Option<PeerConnectionId> {
        self.by_client.get(client).copied()
    }

    pub(super) fn remove(&mut self, id: PeerConnectionId) -> Option<PeerConnection> {
        let connection = self.by_id.remove(&id)?;
        self.by_peer.remove(&(connection.owner, connection.peer));
        self.ends.remove(&(connection.until, id));
        if let Stage::Bound { client } = connection.stage {
            self.by_client.remove(&client);
        }
        Some(connection)
    }

    /// One of this allocation's, to a peer of this family.
    pub(super) fn any_of(&self, owner: AllocationId, family: Family) -> Option<PeerConnectionId> {
        self.ids_of(owner).find(|id| Family::of(self.by_id[id].peer.ip()) == family)
    }

    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// One that nobody waits for any longer.
    pub(super) fn ended(&self, now: Instant) -> Option<PeerConnectionId> {
        self.ends.first().filter(|(until, _)| *until <= now).map(|(_, id)| *id)
    }

    fn ids_of(&self, owner: AllocationId) -> impl Iterator<Item = PeerConnectionId> + '_ {
        let least = SocketAddr::from(([0; 4], 0));
        let from_here = self.by_peer.range((owner, least)..);
        from_here.take_while(move |((of, _), _)| *of == owner).map(|(_, id)| *id)
    }
}

/// Without what a `SocketAddr` has beside address and port.
fn plain(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip(), peer.port())
}
