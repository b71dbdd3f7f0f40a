//! Rooms: who is in, who publishes what (`docs/protocol.md` §3).
//!
//! `requests` takes in what clients ask, `actions` says what that asks of media, `membership` and `moderation` do what needs
//! no media, `news` is what media says. Media answers every command once and in order per room; [`Pending`] remembers what
//! the answer is for.

mod actions;
mod membership;
mod moderation;
mod news;
mod requests;
mod span;

use std::collections::{BTreeMap, BTreeSet};

use common::control::{Action, Command, Done, MediaError, StatsOf, Token};
use common::ids::{DataProducerId, PeerId, ProducerId, RoomId, SessionId, TransportId, UserId};
use common::rtp_parameters::{MediaKind, RtpCapabilities, RtpParameters, SctpStreamParameters};
use serde_json::{Value, json};

use super::quality::PeerQuality;
use super::{Hub, Refusal};
use crate::message::RoomRequest;

/// Free text in signaling: labels, sources and reasons, in bytes; application data as JSON.
const TEXT_BYTES_MAX: usize = 256;
const APP_DATA_BYTES_MAX: usize = 4096;

/// Requests of one session that media has not answered yet.
const PENDING_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Room {
    /// The workers that have been asked to open it and not to close it; its peers are spread over them.
    workers: BTreeSet<usize>,
    /// As whoever opened it wanted.
    codecs: Option<Vec<String>>,
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
    /// Where its transports are.
    worker: usize,
    name: String,
    quality: PeerQuality,
    /// Media has taken it in. Until then nobody is told of it, and it is told of nobody.
    joined: bool,
    /// What it is told of when their worker fails.
    transports: BTreeSet<TransportId>,
}

#[derive(Debug, Clone)]
pub(super) struct Published {
    peer: PeerId,
    pipe: Pipe,
    kind: MediaKind,
    /// As the publisher described it, for other workers.
    rtp: RtpParameters,
    source: String,
    paused: bool,
    app_data: Value,
}

#[derive(Debug, Clone)]
pub(super) struct PublishedData {
    peer: PeerId,
    pipe: Pipe,
    sctp: SctpStreamParameters,
    label: String,
    protocol: String,
    app_data: Value,
}

/// Which workers have what is published on another one, and what they call it among themselves.
#[derive(Debug, Clone, Default)]
pub(super) struct Pipe {
    name: Option<u64>,
    to: BTreeSet<usize>,
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
    Published(Box<Published>),
    PublishedData(Box<PublishedData>),
    Paused(ProducerId, bool),
    Unpublished(ProducerId),
    UnpublishedData(DataProducerId),
    Disconnected(TransportId),
    Muted { producer: ProducerId, by: PeerId },
}

fn room_not_found() -> Refusal {
    Refusal::new("room-not-found", "Room not found")
}

fn forbidden() -> Refusal {
    Refusal::new("forbidden", "This token does not allow it")
}

impl Room {
    /// The worker that speaks for the room, of those on which somebody is.
    fn home(&self) -> Option<usize> {
        self.peers.values().map(|member| member.worker).min()
    }

    fn producers_json(&self, but: &PeerId) -> Vec<Value> {
        let others = self.producers.iter().filter(|(_, published)| published.peer != *but);
        others.map(|(id, published)| published.json(id)).collect()
    }

    fn data_producers_json(&self, but: &PeerId) -> Vec<Value> {
        let others = self.data_producers.iter().filter(|(_, published)| published.peer != *but);
        others.map(|(id, published)| published.json(id)).collect()
    }

    fn peers_json(&self, but: Option<&PeerId>) -> Vec<Value> {
        let others = self.peers.iter().filter(|(id, member)| member.joined && Some(*id) != but);
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
    /// Where a session is: its room and its name there.
    pub(super) fn place(&self, session: &SessionId) -> Result<(RoomId, PeerId), Refusal> {
        let id =
            self.sessions.get(session).and_then(|session| session.room.clone()).ok_or_else(room_not_found)?;
        let room = self.rooms.get(&id).ok_or_else(room_not_found)?;
        let peer = room.peers.iter().find(|(_, member)| member.session == *session);
        let peer = peer.map(|(peer, _)| peer.clone()).ok_or_else(room_not_found)?;
        Ok((id, peer))
    }

    /// What is known of a peer's connection.
    pub(super) fn quality_of(&mut self, room: &RoomId, peer: &PeerId) -> Option<&mut PeerQuality> {
        self.rooms.get_mut(room)?.peers.get_mut(peer).map(|member| &mut member.quality)
    }

    fn command(&mut self, room: &RoomId, peer: &PeerId, action: Action, pending: Pending) {
        let member = self.rooms.get(room).and_then(|room| room.peers.get(peer));
        let Some(worker) = member.map(|member| member.worker) else { return };
        self.command_to(worker, room, peer, action, pending);
    }

    fn command_to(&mut self, worker: usize, room: &RoomId, peer: &PeerId, action: Action, pending: Pending) {
        let token = self.next_token;
        self.next_token += 1;
        self.pending.insert(token, pending);
        self.command_worker(worker, Command { token, room: room.clone(), peer: peer.clone(), action });
    }

    pub(super) fn notify(&mut self, id: &RoomId, but: Option<&PeerId>, message: &Value) {
        let Some(room) = self.rooms.get(id) else { return };
        let text: std::sync::Arc<str> = message.to_string().into();
        let others = room.peers.iter().filter(|(peer, member)| member.joined && Some(*peer) != but);
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
}

impl From<MediaError> for Refusal {
    fn from(error: MediaError) -> Self {
        let refusal = Self::new(error.code(), error.to_string());
        match error {
            MediaError::LimitReached(_) => refusal.beyond("media-objects"),
            MediaError::Overloaded => refusal.beyond("media-queue"),
            _ => refusal,
        }
    }
}
