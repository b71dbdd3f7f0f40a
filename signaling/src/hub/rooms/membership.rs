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
        if !self.rooms.contains_key(&id) {
            self.open_room(id.clone(), create);
        }
        let name = name.or(claims.name).unwrap_or_else(|| claims.sub.to_string());
        let name: String = name.chars().take(TEXT_BYTES_MAX / 2).collect();
        let Some(room) = self.rooms.get_mut(&id) else { return Ok(()) };
        let peer = free_peer_id(&room.peers, &claims.sub)?;
        room.workers.insert(worker);
        let codecs = room.codecs.clone();
        room.peers.insert(
            peer.clone(),
            Member {
                session: session.clone(),
                worker,
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

    /// Where a newcomer of this room is to be; none that is held back.
    fn worker_for(&mut self, id: &RoomId) -> Option<usize> {
        let mut peers = vec![0; self.config.workers];
        for member in self.rooms.values().flat_map(|room| room.peers.values()) {
            if let Some(peers) = peers.get_mut(member.worker) {
                *peers += 1;
            }
        }
        let backlog = &self.backlog;
        let takes = |worker: usize| !backlog.holds_back(worker);
        let of_room = self.rooms.get(id).into_iter().flat_map(|room| room.peers.values());
        let present: BTreeSet<usize> = of_room.map(|member| member.worker).collect();
        self.placement.choose(self.now, &peers, &present, takes)
    }

    fn open_room(&mut self, id: RoomId, create: Option<CreateRoom>) {
        let asked = create.as_ref().and_then(|create| create.max_peers).unwrap_or(usize::MAX);
        let room = Room {
            workers: BTreeSet::new(),
            codecs: create.as_ref().and_then(|create| create.codecs.clone()),
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
        let member = self.rooms.get_mut(id).and_then(|room| room.peers.remove(peer));
        if let Some(member) = member {
            self.give_up_pending(id, Some(peer));
            self.forget_peer(id, peer, &member, reason);
        }
    }

    /// Takes along what a peer that has left the room published.
    pub(super) fn forget_peer(&mut self, id: &RoomId, peer: &PeerId, member: &Member, reason: &str) {
        if let Some(session) = self.sessions.get_mut(&member.session) {
            session.room = None;
        }
        let Some(room) = self.rooms.get_mut(id) else { return };
        let mut workers = BTreeSet::from([member.worker]);
        let (mut closed, mut data) = (Vec::new(), Vec::new());
        room.producers.retain(|producer, published| {
            let theirs = published.peer == *peer;
            if theirs {
                closed.push(producer.clone());
                workers.extend(&published.pipe.to);
            }
            !theirs
        });
        room.data_producers.retain(|producer, published| {
            let theirs = published.peer == *peer;
            if theirs {
                data.push(producer.clone());
                workers.extend(&published.pipe.to);
            }
            !theirs
        });
        if room.peers.is_empty() {
            return self.end_room(id, peer);
        }
        for worker in workers {
            self.command_to(worker, id, peer, Action::RemovePeer, Pending::Nothing);
        }
        self.leave_workers(id, peer);
        for producer in closed {
            let told = json!({ "type": "producer-closed", "producerId": producer, "peerId": peer });
            self.notify(id, None, &told);
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
    pub(super) fn give_up_pending(&mut self, id: &RoomId, left: Option<&PeerId>) {
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
        let Some(room) = self.rooms.get_mut(id) else { return };
        let members = std::mem::take(&mut room.peers);
        self.give_up_pending(id, None);
        for member in members.values() {
            if let Some(session) = self.sessions.get_mut(&member.session) {
                session.room = None;
            }
        }
        match members.keys().next() {
            Some(peer) => self.end_room(id, peer),
            None => _ = self.rooms.remove(id),
        }
    }

    /// Nobody is in the room any more. `peer` fills the place of somebody who asks.
    fn end_room(&mut self, id: &RoomId, peer: &PeerId) {
        let Some(room) = self.rooms.remove(id) else { return };
        for worker in room.workers {
            self.command_to(worker, id, peer, Action::CloseRoom, Pending::Nothing);
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
