//! Commands from the hub: each is looked up under (room, peer), done, and answered exactly once.
//!
//! What is created here is torn down here, so that closing a room, a peer, a transport or a producer always takes the
//! same path and leaves no entry in any table.

use std::time::Instant;

use common::control::{
    Action, Command, Done, EventKind, FromMedia, MediaError, Reply, TransportDirection, TransportInfo,
};
use common::ids::{ConsumerId, PeerId, ProducerId, RoomId, TransportId};
use common::rtp_parameters::{DtlsParameters, DtlsRole, IceCandidate, SctpParameters};
use rand_core::RngCore;

use super::{Peer, Room, Sfu};
use crate::connection::{ConnectError, Connection, MESSAGE_BYTES_MAX};
use crate::ice::IceLite;
use crate::ortc;
use crate::transport::Transport;

/// A client needs one to send and one to receive; the rest is for reconnecting.
const TRANSPORTS_PER_PEER_MAX: usize = 8;
pub(super) const PRODUCERS_PER_PEER_MAX: usize = 64;
/// Each video encoding keeps its newest packets, up to a megabyte.
pub(super) const ENCODINGS_PER_PEER_MAX: usize = 128;
pub(super) const CONSUMERS_PER_PEER_MAX: usize = 1024;
/// A peer needs one of a track, and another while it moves to a new transport: each is a packet more for each packet.
/// `benches/forward` has 50.
pub(super) const CONSUMERS_PER_TRACK_MAX: usize = 64;
/// 24 bits of a ufrag name the slot.
const TRANSPORTS_PER_WORKER_MAX: usize = 1 << 20;

/// (room, peer): under which every id is looked up.
pub(super) struct Owner<'a> {
    pub room: &'a RoomId,
    pub peer: &'a PeerId,
}

impl Sfu {
    pub(super) fn on_command(&mut self, now: Instant, command: Command) {
        let Command { token, room, peer, action } = command;
        let result = self.act(now, &Owner { room: &room, peer: &peer }, action);
        self.messages.push_back(FromMedia::Reply(Reply { token, result }));
    }

    fn act(&mut self, now: Instant, owner: &Owner<'_>, action: Action) -> Result<Done, MediaError> {
        match action {
            Action::OpenRoom { codecs } => self.open_room(owner.room, codecs),
            Action::CloseRoom => self.close_room(now, owner.room),
            Action::AddPeer => self.add_peer(owner),
            Action::RemovePeer => self.remove_peer(now, owner),
            Action::CreateTransport { direction, force_tcp } => {
                self.create_transport(now, owner, direction, force_tcp)
            }
            Action::ConnectTransport { transport, dtls } => {
                self.connect_transport(now, owner, &transport, &dtls)
            }
            Action::RestartIce { transport } => {
                let slot = self.transport_of(owner, &transport)?;
                Ok(Done::Ice(self.transports[slot].ice.restart(&mut self.rng)))
            }
            Action::CloseTransport { transport } => {
                let slot = self.transport_of(owner, &transport)?;
                self.close_transport(now, slot, true);
                Ok(Done::Ok)
            }
            Action::Produce { transport, kind, rtp, paused } => {
                self.produce(owner, &transport, kind, rtp, paused)
            }
            Action::PauseProducer { producer } => self.pause_producer(now, owner, &producer, true),
            Action::ResumeProducer { producer } => self.pause_producer(now, owner, &producer, false),
            Action::CloseProducer { producer } => {
                let key = self.producer_of(owner, &producer)?;
                self.close_producer(key, true);
                Ok(Done::Ok)
            }
            Action::Consume { transport, producer, capabilities } => {
                self.consume(now, owner, &transport, &producer, &capabilities)
            }
            Action::PauseConsumer { consumer } => self.pause_consumer(now, owner, &consumer, true),
            Action::ResumeConsumer { consumer } => self.pause_consumer(now, owner, &consumer, false),
            Action::CloseConsumer { consumer } => {
                let key = self.consumer_of(owner, &consumer)?;
                self.close_consumer(key, false);
                Ok(Done::Ok)
            }
            Action::SetPreferredLayers { consumer, spatial, temporal } => {
                self.set_preferred_layers(now, owner, &consumer, spatial, temporal)
            }
            Action::SetPriority { consumer, priority } => {
                let key = self.consumer_of(owner, &consumer)?;
                if priority == 0 {
                    return Err(MediaError::InvalidParameters("priority is 1 to 255".into()));
                }
                self.consumers[key].priority = priority;
                self.review_downlink(now, self.consumers[key].transport);
                Ok(Done::Ok)
            }
            Action::RequestKeyFrame { consumer } => {
                let key = self.consumer_of(owner, &consumer)?;
                self.request_keyframe_for(now, key);
                Ok(Done::Ok)
            }
            Action::ProduceData { transport, sctp, label, protocol } => {
                self.produce_data(now, owner, &transport, sctp, label, protocol)
            }
            Action::ConsumeData { transport, data_producer } => {
                self.consume_data(now, owner, &transport, &data_producer)
            }
            Action::CloseDataProducer { data_producer } => {
                let key = self.data_producer_of(owner, &data_producer)?;
                self.close_data_producer(now, key, true);
                Ok(Done::Ok)
            }
            Action::CloseDataConsumer { data_consumer } => {
                let key = self.data_consumer_of(owner, &data_consumer)?;
                self.close_data_consumer(now, key, false);
                Ok(Done::Ok)
            }
            Action::Stats(of) => self.stats(now, owner, &of),
            Action::Export { published, pipe, to } => self.begin_export(owner, &published, pipe, to),
            Action::EndExport { published, to } => self.end_export(owner, &published, to),
            Action::Import { pipe, from, published } => self.import(owner, pipe, from, *published),
            Action::PauseImport { producer, paused } => {
                let key = self.producer_of(owner, &producer)?;
                self.set_paused(now, key, paused);
                Ok(Done::Ok)
            }
            Action::CloseImport { published } => self.close_import(now, owner, &published),
        }
    }

    fn open_room(&mut self, id: &RoomId, codecs: Option<Vec<String>>) -> Result<Done, MediaError> {
        if let Some(room) = self.rooms.get(id) {
            return Ok(Done::Room { capabilities: room.capabilities.clone() });
        }
        let names = codecs.as_ref().unwrap_or(&self.config.codecs);
        let capabilities = ortc::router_capabilities(names)
            .map_err(|error| MediaError::InvalidParameters(error.to_string()))?;
        self.rooms.insert(
            id.clone(),
            Room {
                capabilities: capabilities.clone(),
                peers: Default::default(),
                election: Default::default(),
                floor: Default::default(),
            },
        );
        Ok(Done::Room { capabilities })
    }

    fn close_room(&mut self, now: Instant, id: &RoomId) -> Result<Done, MediaError> {
        let room = self.rooms.get(id).ok_or(MediaError::RoomNotFound)?;
        let peers: Vec<PeerId> = room.peers.keys().cloned().collect();
        let before = self.messages.len();
        for peer in &peers {
            self.remove_peer(now, &Owner { room: id, peer })?;
        }
        // Nobody is told about a room that the hub itself closes.
        self.messages.truncate(before);
        self.rooms.remove(id);
        Ok(Done::Ok)
    }

    fn add_peer(&mut self, owner: &Owner<'_>) -> Result<Done, MediaError> {
        let room = self.rooms.get_mut(owner.room).ok_or(MediaError::RoomNotFound)?;
        room.peers.entry(owner.peer.clone()).or_default();
        Ok(Done::Ok)
    }

    fn remove_peer(&mut self, now: Instant, owner: &Owner<'_>) -> Result<Done, MediaError> {
        let slots: Vec<usize> = self.peer(owner)?.transports.values().copied().collect();
        for slot in slots {
            self.close_transport(now, slot, true);
        }
        self.close_imports_of(now, owner);
        if let Some(room) = self.rooms.get_mut(owner.room) {
            room.peers.remove(owner.peer);
        }
        Ok(Done::Ok)
    }

    fn create_transport(
        &mut self,
        now: Instant,
        owner: &Owner<'_>,
        direction: TransportDirection,
        force_tcp: bool,
    ) -> Result<Done, MediaError> {
        if self.peer(owner)?.transports.len() >= TRANSPORTS_PER_PEER_MAX
            || self.transports.len() >= TRANSPORTS_PER_WORKER_MAX
        {
            return Err(MediaError::LimitReached("transports"));
        }
        if force_tcp && !self.config.tcp {
            return Err(MediaError::InvalidParameters("ICE-TCP is switched off".into()));
        }
        let id = TransportId::new(&self.new_id()).expect("hexadecimal is an id");
        let rtcp_ssrc = self.new_ssrc();
        let slot = self.transports.vacant_key();
        let ice = IceLite::new(self.config.worker, slot as u32, &mut self.rng);
        let info = TransportInfo {
            id: id.clone(),
            ice_parameters: ice.parameters(),
            ice_candidates: self.candidates(force_tcp),
            dtls_parameters: DtlsParameters {
                role: DtlsRole::Auto,
                fingerprints: vec![self.identity.fingerprint()],
            },
            sctp_parameters: SctpParameters {
                port: 5000,
                max_send_message_size: MESSAGE_BYTES_MAX,
                max_receive_message_size: MESSAGE_BYTES_MAX,
                is_data_channel: true,
                os: u16::MAX,
                mis: u16::MAX,
                max_message_size: MESSAGE_BYTES_MAX,
            },
        };
        let (room, peer) = (owner.room.clone(), owner.peer.clone());
        let connection = Connection::new(now, &self.identity);
        self.transports.insert(Transport::new(room, peer, id.clone(), direction, ice, connection, rtcp_ssrc));
        self.peer_mut(owner)?.transports.insert(id, slot);
        Ok(Done::Transport(Box::new(info)))
    }

    fn candidates(&self, force_tcp: bool) -> Vec<IceCandidate> {
        let candidate = |protocol: &str, priority: u32, tcp_type: Option<&str>| IceCandidate {
            foundation: format!("{protocol}candidate"),
            priority,
            ip: self.config.announced.ip().to_string(),
            address: self.config.announced.ip().to_string(),
            protocol: protocol.into(),
            port: self.config.announced.port(),
            kind: "host".into(),
            tcp_type: tcp_type.map(Into::into),
        };
        // mediasoup's priorities (contract §2.1): UDP before TCP.
        let udp = (!force_tcp).then(|| candidate("udp", 1_076_302_079, None));
        let tcp = self.config.tcp.then(|| candidate("tcp", 1_076_276_479, Some("passive")));
        udp.into_iter().chain(tcp).collect()
    }

    fn connect_transport(
        &mut self,
        now: Instant,
        owner: &Owner<'_>,
        id: &TransportId,
        dtls: &DtlsParameters,
    ) -> Result<Done, MediaError> {
        let slot = self.transport_of(owner, id)?;
        self.transports[slot].connection.connect(now, dtls).map_err(|error| match error {
            ConnectError::Already => MediaError::AlreadyConnected,
            ConnectError::Fingerprint => MediaError::InvalidParameters(error.to_string()),
        })?;
        self.drain_connection(now, slot);
        Ok(Done::Ok)
    }

    /// A transport failed: its owner is told, then it is closed.
    pub(super) fn lose_transport(&mut self, now: Instant, slot: usize, reason: &'static str) {
        let Some(transport) = self.transports.get(slot) else { return };
        let (room, peer, id) = (transport.room.clone(), transport.peer.clone(), transport.id.clone());
        tracing::debug!(transport = %id, reason, "transport lost");
        self.tell(&room, &peer, EventKind::TransportClosed { transport: id, reason });
        self.close_transport(now, slot, true);
    }

    /// Closes a transport with all that is on it. `tell` says whether the producers' owner hears of them.
    fn close_transport(&mut self, now: Instant, slot: usize, tell: bool) {
        let Some(transport) = self.transports.get(slot) else { return };
        let (producers, consumers) = (transport.producers.clone(), transport.consumers.clone());
        for key in producers {
            if tell && let Some(producer) = self.producers.get(key) {
                let (room, peer, id) = (producer.room.clone(), producer.peer.clone(), producer.id.clone());
                self.tell(&room, &peer, EventKind::ProducerClosed(id));
            }
            self.close_producer(key, true);
        }
        for key in consumers {
            self.close_consumer(key, tell);
        }
        self.close_data_on(now, slot, tell);
        let Some(transport) = self.transports.try_remove(slot) else { return };
        self.timers.disarm(slot, transport.wake);
        for remote in transport.ice.remotes() {
            self.demux.forget(remote, slot);
        }
        if let Some(peer) =
            self.rooms.get_mut(&transport.room).and_then(|room| room.peers.get_mut(&transport.peer))
        {
            peer.transports.remove(&transport.id);
        }
    }

    pub(super) fn peer(&self, owner: &Owner<'_>) -> Result<&Peer, MediaError> {
        let room = self.rooms.get(owner.room).ok_or(MediaError::RoomNotFound)?;
        room.peers.get(owner.peer).ok_or(MediaError::PeerNotFound)
    }

    pub(super) fn peer_mut(&mut self, owner: &Owner<'_>) -> Result<&mut Peer, MediaError> {
        let room = self.rooms.get_mut(owner.room).ok_or(MediaError::RoomNotFound)?;
        room.peers.get_mut(owner.peer).ok_or(MediaError::PeerNotFound)
    }

    pub(super) fn transport_of(&self, owner: &Owner<'_>, id: &TransportId) -> Result<usize, MediaError> {
        self.peer(owner)?.transports.get(id).copied().ok_or(MediaError::TransportNotFound)
    }

    /// A transport of this peer in this direction: producers live on send transports, consumers on receive transports.
    pub(super) fn transport_towards(
        &self,
        owner: &Owner<'_>,
        id: &TransportId,
        direction: TransportDirection,
    ) -> Result<usize, MediaError> {
        let slot = self.transport_of(owner, id)?;
        if self.transports[slot].direction != direction {
            return Err(MediaError::InvalidParameters("the transport has the other direction".into()));
        }
        Ok(slot)
    }

    pub(super) fn producer_of(&self, owner: &Owner<'_>, id: &ProducerId) -> Result<usize, MediaError> {
        self.peer(owner)?.producers.get(id).copied().ok_or(MediaError::ProducerNotFound)
    }

    pub(super) fn consumer_of(&self, owner: &Owner<'_>, id: &ConsumerId) -> Result<usize, MediaError> {
        self.peer(owner)?.consumers.get(id).copied().ok_or(MediaError::ConsumerNotFound)
    }

    /// Not one that the client's probator uses (contract §5.2 g), nor zero, which libwebrtc probes with.
    pub(super) fn new_ssrc(&mut self) -> u32 {
        loop {
            let ssrc = self.rng.next_u32();
            if ssrc > 10_000 && ssrc < u32::MAX - 1 {
                return ssrc;
            }
        }
    }
}
