//! Coming and going: who is let into a room, what leaves with a peer, and the end of a room.

use std::time::Duration;

use super::*;
use crate::message::CreateRoom;

const MINUTE: Duration = Duration::from_secs(60);

impl Hub {
    pub(super) fn join(
        &mut self,
        session: &SessionId,
        request_id: &Value,
        id: RoomId,
        name: Option<String>,
        create: Option<CreateRoom>,
    ) -> Result<(), Refusal> {
        let Some(claims) = self.sessions.get(session).map(|session| session.claims.clone()) else {
            return Ok(());
        };
        let is_of_a_call = self.calls.values().any(|call| call.leads_to(&id, &claims.sub, session));
        if claims.room != "*" && claims.room != id.as_str() && !is_of_a_call {
            return Err(forbidden());
        }
        self.takes_room(&id, is_of_a_call)?;
        let worker = self.worker_for(&id).ok_or(MediaError::Overloaded)?;
        self.count_join(&claims.sub)?;
        let full = self.rooms.get(&id).is_some_and(|room| {
            let others = room.peers.values().filter(|member| member.session != *session);
            others.count() >= room.max_peers
        });
        if full {
            return Err(Refusal::new("room-full", "The room is full").beyond("peers-in-room"));
        }
        self.placement.joins(worker, self.now);
        self.leave_room(session, "left");
        let codecs = create.as_ref().and_then(|create| create.codecs.clone());
        if !self.rooms.contains_key(&id) {
            self.open_room(id.clone(), worker, create);
        }
        let name = name.or(claims.name).unwrap_or_else(|| claims.sub.to_string());
        let name: String = name.chars().take(TEXT_BYTES_MAX / 2).collect();
        let Some(room) = self.rooms.get_mut(&id) else { return Ok(()) };
        let peer = free_peer_id(&room.peers, &claims.sub)?;
        room.peers.insert(
            peer.clone(),
            Member {
                session: session.clone(),
                name,
                quality: PeerQuality::default(),
                joined: false,
                transports: BTreeSet::new(),
            },
        );
        if let Some(session) = self.sessions.get_mut(session) {
            session.room = Some(id.clone());
        }
        self.command(&id, &peer, Action::OpenRoom { codecs }, Pending::Open(id.clone()));
        let pending = Pending::Request {
            session: session.clone(),
            room: id.clone(),
            peer: peer.clone(),
            request_id: request_id.clone(),
            then: Then::Joined,
        };
        self.command(&id, &peer, Action::AddPeer, pending);
        Ok(())
    }

    fn count_join(&mut self, user: &UserId) -> Result<(), Refusal> {
        let (now, max) = (self.now, self.config.joins_per_minute_per_user as usize);
        self.joins.retain(|_, times| times.back().is_some_and(|last| now.duration_since(*last) < MINUTE));
        let times = self.joins.entry(user.clone()).or_default();
        times.retain(|at| now.duration_since(*at) < MINUTE);
        if times.len() >= max {
            return Err(Refusal::new("rate-limited", "Too many joins in a minute").beyond("joins"));
        }
        times.push_back(now);
        Ok(())
    }

    /// Where the room is, or the worker that is least busy; none that is held back.
    fn worker_for(&mut self, id: &RoomId) -> Option<usize> {
        let backlog = &self.backlog;
        let takes = |worker: usize| !backlog.holds_back(worker);
        if let Some(room) = self.rooms.get(id) {
            return Some(room.worker).filter(|worker| takes(*worker));
        }
        let mut peers = vec![0; self.config.workers];
        for room in self.rooms.values() {
            if let Some(peers) = peers.get_mut(room.worker) {
                *peers += room.peers.len();
            }
        }
        self.placement.least_busy(self.now, &peers, takes)
    }

    fn open_room(&mut self, id: RoomId, worker: usize, create: Option<CreateRoom>) {
        let asked = create.as_ref().and_then(|create| create.max_peers).unwrap_or(usize::MAX);
        let room = Room {
            worker,
            max_peers: asked.min(self.config.max_peers_per_room).max(1),
            e2ee: create.is_some_and(|create| create.e2ee),
            capabilities: None,
            refused: None,
            peers: BTreeMap::new(),
            producers: BTreeMap::new(),
            data_producers: BTreeMap::new(),
        };
        self.rooms.insert(id, room);
    }

    pub(in crate::hub) fn leave_room(&mut self, session: &SessionId, reason: &'static str) {
        if let Ok((room, peer)) = self.place(session) {
            self.remove_peer(&room, &peer, reason);
        }
        if let Some(session) = self.sessions.get_mut(session) {
            session.room = None;
        }
    }

    pub(super) fn remove_peer(&mut self, id: &RoomId, peer: &PeerId, reason: &str) {
        let Some(room) = self.rooms.get_mut(id) else { return };
        let Some(member) = room.peers.remove(peer) else { return };
        let closed: Vec<ProducerId> =
            room.producers.iter().filter(|(_, of)| of.peer == *peer).map(|(id, _)| id.clone()).collect();
        room.producers.retain(|_, published| published.peer != *peer);
        let data: Vec<DataProducerId> =
            room.data_producers.iter().filter(|(_, of)| of.peer == *peer).map(|(id, _)| id.clone()).collect();
        room.data_producers.retain(|_, published| published.peer != *peer);
        let (worker, empty) = (room.worker, room.peers.is_empty());
        self.give_up_pending(id, Some(peer));
        if let Some(session) = self.sessions.get_mut(&member.session) {
            session.room = None;
        }
        if empty {
            self.rooms.remove(id);
            return self.command_to(worker, id, peer, Action::CloseRoom, Pending::Nothing);
        }
        self.command_to(worker, id, peer, Action::RemovePeer, Pending::Nothing);
        for producer in closed {
            self.notify(
                id,
                None,
                &json!({ "type": "producer-closed", "producerId": producer, "peerId": peer }),
            );
        }
        for producer in data {
            let told = json!({ "type": "data-producer-closed", "dataProducerId": producer, "peerId": peer });
            self.notify(id, None, &told);
        }
        if member.joined {
            self.notify(id, None, &json!({ "type": "peer-left", "peerId": peer, "reason": reason }));
        }
    }

    /// What was asked for a peer that has left (`None`: for everybody in the room) is answered now. Media's reply comes to
    /// nothing: what it would tell of has gone with the peer, who may be back under the same id by then.
    fn give_up_pending(&mut self, id: &RoomId, left: Option<&PeerId>) {
        let concerned = |pending: &Pending| {
            matches!(pending, Pending::Request { room, peer, .. }
                if room == id && left.is_none_or(|left| peer == left))
        };
        let tokens: Vec<Token> =
            self.pending.iter().filter(|(_, pending)| concerned(pending)).map(|(token, _)| *token).collect();
        for token in tokens {
            if let Some(Pending::Request { session, request_id, then, .. }) =
                self.pending.insert(token, Pending::Nothing)
            {
                let refusal = match then {
                    Then::Muted { .. } => MediaError::ProducerNotFound.into(),
                    _ => room_not_found(),
                };
                self.respond(&session, &request_id, Err(refusal));
            }
        }
    }

    pub(super) fn close_room(&mut self, id: &RoomId, reason: &str) {
        self.notify(id, None, &json!({ "type": "room-closed", "reason": reason }));
        self.end_room(id);
    }

    /// The room's worker has failed. Everybody is told of what was lost: the transports, or the room itself where there were
    /// none yet.
    pub(super) fn lose_room(&mut self, id: &RoomId) {
        let Some(room) = self.rooms.get_mut(id) else { return };
        let joined = room.peers.values_mut().filter(|member| member.joined);
        let lost: Vec<(SessionId, BTreeSet<TransportId>)> =
            joined.map(|member| (member.session.clone(), std::mem::take(&mut member.transports))).collect();
        for (session, transports) in lost {
            if transports.is_empty() {
                self.send(&session, &json!({ "type": "room-closed", "reason": "failed" }));
            }
            for id in transports {
                let told =
                    json!({ "type": "transport-closed", "transportId": id, "reason": "worker-failed" });
                self.send(&session, &told);
            }
        }
        self.end_room(id);
    }

    fn end_room(&mut self, id: &RoomId) {
        let Some(room) = self.rooms.remove(id) else { return };
        self.give_up_pending(id, None);
        for member in room.peers.values() {
            if let Some(session) = self.sessions.get_mut(&member.session) {
                session.room = None;
            }
        }
        if let Some(peer) = room.peers.keys().next() {
            self.command_to(room.worker, id, peer, Action::CloseRoom, Pending::Nothing);
        }
    }
}

/// The user's id, or `user#2` for a second session.
fn free_peer_id(peers: &BTreeMap<PeerId, Member>, user: &UserId) -> Result<PeerId, Refusal> {
    let numbered = (2..1000).map(|number| format!("{user}#{number}"));
    std::iter::once(user.to_string())
        .chain(numbered)
        .filter_map(|id| PeerId::new(&id).ok())
        .find(|id| !peers.contains_key(id))
        .ok_or_else(|| Refusal::new("limit-reached", "Too many sessions in the room"))
}
