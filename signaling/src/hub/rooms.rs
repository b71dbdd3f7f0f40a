//! Rooms: who is in, who publishes what, and the requests that become media commands (`docs/protocol.md` §3).
//!
//! Media answers every command once and in order per room; [`Pending`] remembers what the answer is for.

mod actions;

use std::collections::BTreeMap;
use std::time::Duration;

use common::control::{Action, Command, Done, Event, EventKind, FromMedia, MediaError, StatsOf, Token};
use common::ids::{DataProducerId, PeerId, ProducerId, RoomId, SessionId, UserId};
use common::rtp_parameters::{MediaKind, RtpCapabilities};
use serde_json::{Value, json};

use super::{AdminError, AdminRequest, AdminResult, Hub, Refusal};
use crate::message::{CreateRoom, RoomRequest};

/// Free text in signaling: labels, sources and reasons, in bytes; application data as JSON.
const TEXT_BYTES_MAX: usize = 256;
const APP_DATA_BYTES_MAX: usize = 4096;

/// Requests of one session that media has not answered yet.
const PENDING_MAX: usize = 256;

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Room {
    worker: usize,
    max_peers: usize,
    e2ee: bool,
    capabilities: Option<RtpCapabilities>,
    /// Why media did not open it.
    refused: Option<MediaError>,
    peers: BTreeMap<PeerId, Member>,
    producers: BTreeMap<ProducerId, Published>,
    data_producers: BTreeMap<DataProducerId, PublishedData>,
}

#[derive(Debug)]
struct Member {
    session: SessionId,
    name: String,
}

#[derive(Debug, Clone)]
pub(super) struct Published {
    peer: PeerId,
    kind: MediaKind,
    source: String,
    paused: bool,
    app_data: Value,
}

#[derive(Debug, Clone)]
pub(super) struct PublishedData {
    peer: PeerId,
    label: String,
    protocol: String,
    app_data: Value,
}

/// What a command's answer is for.
#[derive(Debug)]
pub(super) enum Pending {
    /// Nobody waits.
    Nothing,
    /// The room's capabilities.
    Open(RoomId),
    /// A session's request.
    Request { session: SessionId, room: RoomId, peer: PeerId, request_id: Value, then: Then },
}

/// What changes here once media has done its part.
#[derive(Debug)]
pub(super) enum Then {
    Nothing,
    Joined,
    Published(Published),
    PublishedData(PublishedData),
    Paused(ProducerId, bool),
    Unpublished(ProducerId),
    UnpublishedData(DataProducerId),
    Muted { producer: ProducerId, by: PeerId },
}

/// Whether `kind` is a request of a room.
pub(super) fn is_request(kind: &str) -> bool {
    [
        "join-room",
        "leave-room",
        "create-transport",
        "connect-transport",
        "restart-ice",
        "close-transport",
        "produce",
        "pause-producer",
        "resume-producer",
        "close-producer",
        "consume",
        "pause-consumer",
        "resume-consumer",
        "close-consumer",
        "set-preferred-layers",
        "set-priority",
        "request-key-frame",
        "produce-data",
        "consume-data",
        "close-data-producer",
        "close-data-consumer",
        "get-stats",
        "mute-peer",
        "remove-peer",
        "close-room",
    ]
    .contains(&kind)
}

fn room_not_found() -> Refusal {
    Refusal::new("room-not-found", "Room not found")
}

fn forbidden() -> Refusal {
    Refusal::new("forbidden", "This token does not allow it")
}

impl Room {
    fn producers_json(&self, but: &PeerId) -> Vec<Value> {
        let others = self.producers.iter().filter(|(_, published)| published.peer != *but);
        others.map(|(id, published)| published.json(id)).collect()
    }

    fn data_producers_json(&self, but: &PeerId) -> Vec<Value> {
        let others = self.data_producers.iter().filter(|(_, published)| published.peer != *but);
        others.map(|(id, published)| published.json(id)).collect()
    }

    fn peers_json(&self, but: Option<&PeerId>) -> Vec<Value> {
        let others = self.peers.iter().filter(|(id, _)| Some(*id) != but);
        others.map(|(id, member)| json!({ "peerId": id, "name": member.name })).collect()
    }
}

impl Published {
    fn json(&self, id: &ProducerId) -> Value {
        json!({
            "producerId": id, "peerId": self.peer, "kind": self.kind, "source": self.source,
            "paused": self.paused, "appData": self.app_data,
        })
    }
}

impl PublishedData {
    fn json(&self, id: &DataProducerId) -> Value {
        json!({
            "dataProducerId": id, "peerId": self.peer, "label": self.label, "protocol": self.protocol,
            "appData": self.app_data,
        })
    }
}

impl Hub {
    pub(super) fn request(&mut self, session: &SessionId, message: &Value) {
        let request_id = message.get("requestId").filter(|id| super::is_short(id)).cloned();
        let Some(request_id) = request_id else {
            let refusal = Refusal::new("invalid-message", "Invalid message format: requestId is missing");
            return self.refuse(session, refusal, message);
        };
        let parsed = serde_json::from_value::<RoomRequest>(message.clone())
            .map_err(|error| Refusal::new("invalid-message", format!("Invalid message format: {error}")));
        let done = parsed.and_then(|request| self.handle_request(session, &request_id, request));
        match done {
            Ok(Some(data)) => self.respond(session, &request_id, Ok(data)),
            Ok(None) => {}
            Err(refusal) => self.respond(session, &request_id, Err(refusal)),
        }
    }

    fn respond(&mut self, session: &SessionId, request_id: &Value, result: Result<Value, Refusal>) {
        let response = match result {
            Ok(data) => json!({ "type": "response", "requestId": request_id, "ok": true, "data": data }),
            Err(refusal) => json!({
                "type": "response", "requestId": request_id, "ok": false,
                "error": refusal.error, "code": refusal.code,
            }),
        };
        self.send(session, &response);
    }

    /// `Some` is answered at once; `None` when media answers.
    fn handle_request(
        &mut self,
        session: &SessionId,
        request_id: &Value,
        request: RoomRequest,
    ) -> Result<Option<Value>, Refusal> {
        match request {
            RoomRequest::JoinRoom { room_id, name, create } => {
                self.join(session, request_id, room_id, name, create).map(|()| None)
            }
            RoomRequest::LeaveRoom {} => {
                self.leave_room(session, "left");
                Ok(Some(json!({})))
            }
            RoomRequest::MutePeer { .. } | RoomRequest::RemovePeer { .. } | RoomRequest::CloseRoom {} => {
                self.moderate(session, request_id, request)
            }
            media => self.media_request(session, request_id, media).map(|()| None),
        }
    }

    fn join(
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
        let is_of_a_call = || self.calls.values().any(|call| call.leads_to(&id, &claims.sub, session));
        if claims.room != "*" && claims.room != id.as_str() && !is_of_a_call() {
            return Err(forbidden());
        }
        if self.config.workers == 0 {
            return Err(MediaError::Overloaded.into());
        }
        self.count_join(&claims.sub)?;
        let full = self.rooms.get(&id).is_some_and(|room| {
            let others = room.peers.values().filter(|member| member.session != *session);
            others.count() >= room.max_peers
        });
        if full {
            return Err(Refusal::new("room-full", "The room is full"));
        }
        self.leave_room(session, "left");
        let codecs = create.as_ref().and_then(|create| create.codecs.clone());
        if !self.rooms.contains_key(&id) {
            self.open_room(id.clone(), create);
        }
        let name = name.or(claims.name).unwrap_or_else(|| claims.sub.to_string());
        let name: String = name.chars().take(TEXT_BYTES_MAX / 2).collect();
        let Some(room) = self.rooms.get_mut(&id) else { return Ok(()) };
        let peer = free_peer_id(&room.peers, &claims.sub)?;
        room.peers.insert(peer.clone(), Member { session: session.clone(), name });
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
            return Err(Refusal::new("rate-limited", "Too many joins in a minute"));
        }
        times.push_back(now);
        Ok(())
    }

    /// On the worker that has the fewest peers.
    fn open_room(&mut self, id: RoomId, create: Option<CreateRoom>) {
        let mut load = vec![0; self.config.workers];
        for room in self.rooms.values() {
            if let Some(peers) = load.get_mut(room.worker) {
                *peers += room.peers.len();
            }
        }
        let worker = load.iter().enumerate().min_by_key(|(_, peers)| **peers).map_or(0, |(worker, _)| worker);
        let asked = create.as_ref().and_then(|create| create.max_peers).unwrap_or(usize::MAX);
        let room = Room {
            worker,
            max_peers: asked.clamp(1, self.config.max_peers_per_room),
            e2ee: create.is_some_and(|create| create.e2ee),
            capabilities: None,
            refused: None,
            peers: BTreeMap::new(),
            producers: BTreeMap::new(),
            data_producers: BTreeMap::new(),
        };
        self.rooms.insert(id, room);
    }

    /// Where a session is: its room and its name there.
    pub(super) fn place(&self, session: &SessionId) -> Result<(RoomId, PeerId), Refusal> {
        let id =
            self.sessions.get(session).and_then(|session| session.room.clone()).ok_or_else(room_not_found)?;
        let room = self.rooms.get(&id).ok_or_else(room_not_found)?;
        let peer = room.peers.iter().find(|(_, member)| member.session == *session);
        let peer = peer.map(|(peer, _)| peer.clone()).ok_or_else(room_not_found)?;
        Ok((id, peer))
    }

    fn media_request(
        &mut self,
        session: &SessionId,
        request_id: &Value,
        request: RoomRequest,
    ) -> Result<(), Refusal> {
        let (room, peer) = self.place(session)?;
        let waiting = self
            .pending
            .values()
            .filter(|pending| matches!(pending, Pending::Request { session: waits, .. } if waits == session));
        if waiting.count() >= PENDING_MAX {
            return Err(Refusal::new("rate-limited", "Too many requests at once"));
        }
        let claims = self.sessions.get(session).map(|session| &session.claims);
        let (publish, subscribe) = claims.map_or((false, false), |claims| (claims.publish, claims.subscribe));
        let allowed = match request {
            RoomRequest::Produce { .. } | RoomRequest::ProduceData { .. } => publish,
            RoomRequest::Consume { .. } | RoomRequest::ConsumeData { .. } => subscribe,
            _ => true,
        };
        if !allowed {
            return Err(forbidden());
        }
        let (action, then) = actions::action_of(request, &peer)?;
        let pending = Pending::Request {
            session: session.clone(),
            room: room.clone(),
            peer: peer.clone(),
            request_id: request_id.clone(),
            then,
        };
        self.command(&room, &peer, action, pending);
        Ok(())
    }

    fn command(&mut self, room: &RoomId, peer: &PeerId, action: Action, pending: Pending) {
        let Some(worker) = self.rooms.get(room).map(|room| room.worker) else { return };
        self.command_to(worker, room, peer, action, pending);
    }

    fn command_to(&mut self, worker: usize, room: &RoomId, peer: &PeerId, action: Action, pending: Pending) {
        let token = self.next_token;
        self.next_token += 1;
        self.pending.insert(token, pending);
        self.command_worker(worker, Command { token, room: room.clone(), peer: peer.clone(), action });
    }

    pub(super) fn leave_room(&mut self, session: &SessionId, reason: &'static str) {
        if let Ok((room, peer)) = self.place(session) {
            self.remove_peer(&room, &peer, reason);
        }
        if let Some(session) = self.sessions.get_mut(session) {
            session.room = None;
        }
    }

    fn remove_peer(&mut self, id: &RoomId, peer: &PeerId, reason: &str) {
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
        self.notify(id, None, &json!({ "type": "peer-left", "peerId": peer, "reason": reason }));
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

    fn close_room(&mut self, id: &RoomId, reason: &str) {
        self.notify(id, None, &json!({ "type": "room-closed", "reason": reason }));
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

    pub(super) fn notify(&mut self, id: &RoomId, but: Option<&PeerId>, message: &Value) {
        let Some(room) = self.rooms.get(id) else { return };
        let text: std::sync::Arc<str> = message.to_string().into();
        let others = room.peers.iter().filter(|(peer, _)| Some(*peer) != but);
        let sessions: Vec<SessionId> = others.map(|(_, member)| member.session.clone()).collect();
        for session in sessions {
            self.send_text(&session, text.clone());
        }
    }

    fn tell(&mut self, room: &RoomId, peer: &PeerId, message: &Value) {
        let member = self.rooms.get(room).and_then(|room| room.peers.get(peer));
        if let Some(session) = member.map(|member| member.session.clone()) {
            self.send(&session, message);
        }
    }

    fn moderate(
        &mut self,
        session: &SessionId,
        request_id: &Value,
        request: RoomRequest,
    ) -> Result<Option<Value>, Refusal> {
        let (room, by) = self.place(session)?;
        if !self.sessions.get(session).is_some_and(|session| session.claims.admin) {
            return Err(forbidden());
        }
        match request {
            RoomRequest::CloseRoom {} => self.close_room(&room, "closed"),
            RoomRequest::RemovePeer { peer_id, reason } => {
                let reason: String =
                    reason.unwrap_or_else(|| "removed".into()).chars().take(TEXT_BYTES_MAX).collect();
                self.send_away(&room, &peer_id, by.as_str(), &reason)
                    .map_err(|error| Refusal::new(error.code(), error.to_string()))?;
            }
            RoomRequest::MutePeer { peer_id, producer_id } => {
                let theirs = self.rooms.get(&room).and_then(|room| room.producers.get(&producer_id));
                if theirs.is_none_or(|published| published.peer != peer_id) {
                    return Err(MediaError::ProducerNotFound.into());
                }
                let pending = Pending::Request {
                    session: session.clone(),
                    room: room.clone(),
                    peer: peer_id.clone(),
                    request_id: request_id.clone(),
                    then: Then::Muted { producer: producer_id.clone(), by },
                };
                self.command(&room, &peer_id, Action::PauseProducer { producer: producer_id }, pending);
                return Ok(None);
            }
            _ => {}
        }
        Ok(Some(json!({})))
    }

    fn send_away(&mut self, room: &RoomId, peer: &PeerId, by: &str, reason: &str) -> Result<(), AdminError> {
        let found = self.rooms.get(room).ok_or(AdminError::RoomNotFound)?;
        if !found.peers.contains_key(peer) {
            return Err(AdminError::PeerNotFound);
        }
        self.tell(room, peer, &json!({ "type": "removed", "by": by, "reason": reason }));
        self.remove_peer(room, peer, "removed");
        Ok(())
    }

    pub(super) fn admin(&mut self, request: AdminRequest) -> AdminResult {
        match request {
            AdminRequest::Rooms => {
                let rooms: Vec<Value> = self
                    .rooms
                    .iter()
                    .map(|(id, room)| json!({ "roomId": id, "peers": room.peers.len(), "producers": room.producers.len() }))
                    .collect();
                Ok(json!({ "rooms": rooms }))
            }
            AdminRequest::Room(id) => {
                let room = self.rooms.get(&id).ok_or(AdminError::RoomNotFound)?;
                let producers: Vec<Value> = room.producers.iter().map(|(id, of)| of.json(id)).collect();
                Ok(json!({ "roomId": id, "peers": room.peers_json(None), "producers": producers }))
            }
            AdminRequest::CloseRoom { room, .. } => {
                if !self.rooms.contains_key(&room) {
                    return Err(AdminError::RoomNotFound);
                }
                self.close_room(&room, "closed");
                Ok(Value::Null)
            }
            AdminRequest::RemovePeer { room, peer, by } => {
                self.send_away(&room, &peer, by.as_str(), "removed").map(|()| Value::Null)
            }
        }
    }

    pub(super) fn overloaded(&mut self, token: Token) {
        self.reply(token, Err(MediaError::Overloaded));
    }

    pub(super) fn on_media(&mut self, worker: usize, message: FromMedia) {
        match message {
            FromMedia::Reply(reply) => self.reply(reply.token, reply.result),
            FromMedia::Event(event) => {
                if self.rooms.get(&event.room).is_some_and(|room| room.worker == worker) {
                    self.event(event);
                }
            }
        }
    }

    fn reply(&mut self, token: Token, result: Result<Done, MediaError>) {
        match self.pending.remove(&token) {
            None | Some(Pending::Nothing) => {}
            Some(Pending::Open(id)) => match (result, self.rooms.get_mut(&id)) {
                (Ok(Done::Room { capabilities }), Some(room)) => room.capabilities = Some(capabilities),
                (Err(error), Some(room)) => room.refused = Some(error),
                _ => {}
            },
            Some(Pending::Request { session, room, peer, request_id, then }) => {
                let answer = match result {
                    Ok(done) => Ok(self.done(&session, &room, &peer, done, then)),
                    Err(error) if matches!(then, Then::Joined) => {
                        // A room that was not opened has no peers: the reason is the opening's.
                        let refused = self.rooms.get_mut(&room).and_then(|room| room.refused.take());
                        self.remove_peer(&room, &peer, "failed");
                        Err(refused.unwrap_or(error).into())
                    }
                    Err(error) => Err(error.into()),
                };
                self.respond(&session, &request_id, answer);
            }
        }
    }

    /// Media has done its part: ours, and what the client is told.
    fn done(&mut self, session: &SessionId, room: &RoomId, peer: &PeerId, done: Done, then: Then) -> Value {
        match then {
            Then::Joined => return self.joined(room, peer),
            Then::Published(published) => {
                if let Done::Producer { id } = &done {
                    let mut told = published.json(id);
                    told["type"] = json!("new-producer");
                    if let Some(room) = self.rooms.get_mut(room) {
                        room.producers.insert(id.clone(), published);
                    }
                    self.notify(room, Some(peer), &told);
                }
            }
            Then::PublishedData(published) => {
                if let Done::DataProducer { id } = &done {
                    let mut told = published.json(id);
                    told["type"] = json!("new-data-producer");
                    if let Some(room) = self.rooms.get_mut(room) {
                        room.data_producers.insert(id.clone(), published);
                    }
                    self.notify(room, Some(peer), &told);
                }
            }
            Then::Paused(producer, paused) => self.paused(room, peer, &producer, paused),
            Then::Muted { producer, by } => {
                self.paused(room, peer, &producer, true);
                self.tell(room, peer, &json!({ "type": "muted", "producerId": producer, "by": by }));
            }
            Then::Unpublished(producer) => self.unpublished(room, peer, &producer),
            Then::UnpublishedData(producer) => self.unpublished_data(room, peer, &producer),
            Then::Nothing => {}
        }
        self.data_of(session, room, done)
    }

    fn joined(&mut self, id: &RoomId, peer: &PeerId) -> Value {
        let Some(room) = self.rooms.get(id) else { return json!({}) };
        let data = json!({
            "rtpCapabilities": room.capabilities, "peerId": peer, "peers": room.peers_json(Some(peer)),
            "producers": room.producers_json(peer), "dataProducers": room.data_producers_json(peer),
            "recording": false, "e2ee": room.e2ee,
        });
        let name = room.peers.get(peer).map(|member| member.name.clone());
        self.notify(id, Some(peer), &json!({ "type": "peer-joined", "peerId": peer, "name": name }));
        data
    }

    fn paused(&mut self, room: &RoomId, peer: &PeerId, producer: &ProducerId, paused: bool) {
        let entry = self.rooms.get_mut(room).and_then(|room| room.producers.get_mut(producer));
        let Some(published) = entry else { return };
        published.paused = paused;
        let kind = if paused { "producer-paused" } else { "producer-resumed" };
        self.notify(room, Some(peer), &json!({ "type": kind, "producerId": producer, "peerId": peer }));
    }

    fn unpublished(&mut self, id: &RoomId, peer: &PeerId, producer: &ProducerId) {
        if self.rooms.get_mut(id).and_then(|room| room.producers.remove(producer)).is_some() {
            let told = json!({ "type": "producer-closed", "producerId": producer, "peerId": peer });
            self.notify(id, Some(peer), &told);
        }
    }

    fn unpublished_data(&mut self, id: &RoomId, peer: &PeerId, producer: &DataProducerId) {
        if self.rooms.get_mut(id).and_then(|room| room.data_producers.remove(producer)).is_some() {
            let told = json!({ "type": "data-producer-closed", "dataProducerId": producer, "peerId": peer });
            self.notify(id, Some(peer), &told);
        }
    }

    fn data_of(&self, session: &SessionId, room: &RoomId, done: Done) -> Value {
        match done {
            Done::Ok | Done::Room { .. } => json!({}),
            Done::Transport(made) => {
                let user = self.sessions.get(session).map(|session| &session.claims.sub);
                let ice = user.map(|user| self.config.ice.for_user(user, self.unix_now()));
                json!({
                    "id": made.id, "iceParameters": made.ice_parameters, "iceCandidates": made.ice_candidates,
                    "dtlsParameters": made.dtls_parameters, "sctpParameters": made.sctp_parameters,
                    "iceServers": ice,
                })
            }
            Done::Ice(ice) => json!({ "iceParameters": ice }),
            Done::Producer { id } => json!({ "id": id }),
            Done::DataProducer { id } => json!({ "id": id }),
            Done::Consumer(made) => {
                let published = self.rooms.get(room).and_then(|room| room.producers.get(&made.producer));
                json!({
                    "id": made.id, "producerId": made.producer, "peerId": published.map(|of| &of.peer),
                    "kind": made.kind, "rtpParameters": made.rtp, "type": made.consumer_type,
                    "producerPaused": made.producer_paused, "source": published.map(|of| &of.source),
                })
            }
            Done::DataConsumer(made) => json!({
                "id": made.id, "dataProducerId": made.data_producer, "sctpStreamParameters": made.sctp,
                "label": made.label, "protocol": made.protocol,
            }),
            Done::Stats(stats) => json!(stats),
        }
    }

    fn event(&mut self, event: Event) {
        let Event { room, peer, kind } = event;
        let told = match kind {
            EventKind::ProducerClosed(id) => return self.unpublished(&room, &peer, &id),
            EventKind::DataProducerClosed(id) => return self.unpublished_data(&room, &peer, &id),
            EventKind::Reception { .. } => return,
            EventKind::ConsumerClosed(id) => json!({ "type": "consumer-closed", "consumerId": id }),
            EventKind::DataConsumerClosed(id) => {
                json!({ "type": "data-consumer-closed", "dataConsumerId": id })
            }
            EventKind::ConsumerLayers { consumer, layers } => json!({
                "type": "consumer-layers", "consumerId": consumer,
                "spatialLayer": layers.map(|(spatial, _)| spatial),
                "temporalLayer": layers.map(|(_, temporal)| temporal),
            }),
            EventKind::TransportClosed { transport, reason } => {
                json!({ "type": "transport-closed", "transportId": transport, "reason": reason })
            }
        };
        self.tell(&room, &peer, &told);
    }
}

impl From<MediaError> for Refusal {
    fn from(error: MediaError) -> Self {
        Self::new(error.code(), error.to_string())
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
