//! Data producers and consumers: messages from one client's SCTP stream to others' (contract §8).
//!
//! All streams are agreed on in signaling. A consumer whose client reads too slowly loses messages, which are counted;
//! nobody else waits for it.

use std::time::Instant;

use common::control::{DataConsumerInfo, Done, EventKind, MediaError, TransportDirection};
use common::ids::{DataConsumerId, DataProducerId, PeerId, RoomId, TransportId};
use common::rtp_parameters::SctpStreamParameters;

use super::Sfu;
use super::control::Owner;
use crate::producer::Span;

const DATA_PRODUCERS_PER_PEER_MAX: usize = 64;
const DATA_CONSUMERS_PER_PEER_MAX: usize = 1024;
/// Stream 65535 does not exist (contract §8).
const STREAM_ID_MAX: u16 = 65_534;
/// Longer labels and protocols only cost memory.
const TEXT_BYTES_MAX: usize = 1024;

/// A stream that a client publishes.
#[derive(Debug)]
pub(super) struct DataProducer {
    room: RoomId,
    peer: PeerId,
    id: DataProducerId,
    transport: usize,
    sctp: SctpStreamParameters,
    label: String,
    protocol: String,
    consumers: Vec<usize>,
    /// What other workers have to do with it.
    pub(super) span: Span,
}

/// A data producer as one subscriber receives it.
#[derive(Debug)]
pub(super) struct DataConsumer {
    room: RoomId,
    peer: PeerId,
    id: DataConsumerId,
    producer: usize,
    transport: usize,
    stream_id: u16,
}

impl Sfu {
    pub(super) fn produce_data(
        &mut self,
        now: Instant,
        owner: &Owner<'_>,
        transport: &TransportId,
        sctp: SctpStreamParameters,
        label: String,
        protocol: String,
    ) -> Result<Done, MediaError> {
        let slot = self.transport_towards(owner, transport, TransportDirection::Send)?;
        if self.peer(owner)?.data_producers.len() >= DATA_PRODUCERS_PER_PEER_MAX {
            return Err(MediaError::LimitReached("data producers"));
        }
        let invalid = |text: &str| Err(MediaError::InvalidParameters(text.into()));
        let limited = sctp.max_packet_life_time.is_some() || sctp.max_retransmits.is_some();
        if sctp.max_packet_life_time.is_some() && sctp.max_retransmits.is_some() {
            return invalid("maxPacketLifeTime excludes maxRetransmits");
        }
        if limited && sctp.ordered == Some(true) {
            return invalid("a reliability limit implies unordered");
        }
        if sctp.stream_id > STREAM_ID_MAX || label.len() > TEXT_BYTES_MAX || protocol.len() > TEXT_BYTES_MAX {
            return invalid("streamId, label or protocol is too large");
        }
        if self.transports[slot].connection.has_stream(sctp.stream_id) {
            return invalid("streamId is in use");
        }
        self.transports[slot].connection.open_stream(&sctp);
        let id = DataProducerId::new(&self.new_id()).expect("hexadecimal is an id");
        self.add_data_producer(owner, slot, id.clone(), sctp, [label, protocol], Span::None)?;
        self.wake_connection(now, slot);
        Ok(Done::DataProducer { id })
    }

    /// One that is published here, or on another worker.
    pub(super) fn add_data_producer(
        &mut self,
        owner: &Owner<'_>,
        transport: usize,
        id: DataProducerId,
        sctp: SctpStreamParameters,
        [label, protocol]: [String; 2],
        span: Span,
    ) -> Result<usize, MediaError> {
        let (room, peer) = (owner.room.clone(), owner.peer.clone());
        let known = id.clone();
        let consumers = Vec::new();
        let key = self.data_producers.insert(DataProducer {
            room,
            peer,
            id,
            transport,
            sctp,
            label,
            protocol,
            consumers,
            span,
        });
        self.peer_mut(owner)?.data_producers.insert(known, key);
        Ok(key)
    }

    pub(super) fn consume_data(
        &mut self,
        now: Instant,
        owner: &Owner<'_>,
        transport: &TransportId,
        data_producer: &DataProducerId,
    ) -> Result<Done, MediaError> {
        let slot = self.transport_towards(owner, transport, TransportDirection::Recv)?;
        if self.peer(owner)?.data_consumers.len() >= DATA_CONSUMERS_PER_PEER_MAX {
            return Err(MediaError::LimitReached("data consumers"));
        }
        let room = self.rooms.get(owner.room).ok_or(MediaError::RoomNotFound)?;
        let key = room.peers.values().find_map(|peer| peer.data_producers.get(data_producer).copied());
        let key = key.ok_or(MediaError::DataProducerNotFound)?;
        let stream_id =
            self.transports[slot].connection.free_stream().ok_or(MediaError::LimitReached("streams"))?;
        let id = DataConsumerId::new(&self.new_id()).expect("hexadecimal is an id");
        let producer = &mut self.data_producers[key];
        let sctp = SctpStreamParameters { stream_id, ..producer.sctp.clone() };
        let info = DataConsumerInfo {
            id: id.clone(),
            data_producer: data_producer.clone(),
            sctp: sctp.clone(),
            label: producer.label.clone(),
            protocol: producer.protocol.clone(),
        };
        self.transports[slot].connection.open_stream(&sctp);
        let (room, peer) = (owner.room.clone(), owner.peer.clone());
        let consumer = DataConsumer { room, peer, id: id.clone(), producer: key, transport: slot, stream_id };
        let consumer = self.data_consumers.insert(consumer);
        self.data_producers[key].consumers.push(consumer);
        self.peer_mut(owner)?.data_consumers.insert(id, consumer);
        self.wake_connection(now, slot);
        Ok(Done::DataConsumer(Box::new(info)))
    }

    /// A message arrived: every consumer of its stream gets it.
    pub(super) fn on_message(
        &mut self,
        now: Instant,
        slot: usize,
        stream_id: u16,
        binary: bool,
        data: &[u8],
    ) {
        // Of this peer's own, which are few; the worker's are many.
        let transport = &self.transports[slot];
        let peer = self.rooms.get(&transport.room).and_then(|room| room.peers.get(&transport.peer));
        let mut own = peer.into_iter().flat_map(|peer| peer.data_producers.values().copied());
        let found = own.find(|key| {
            let producer = &self.data_producers[*key];
            producer.transport == slot && producer.sctp.stream_id == stream_id
        });
        let Some(key) = found else { return };
        self.pass_message(now, key, binary, data);
        self.export_message(key, binary, data);
    }

    pub(super) fn pass_message(&mut self, now: Instant, key: usize, binary: bool, data: &[u8]) {
        for consumer in self.data_producers[key].consumers.clone() {
            let (to, stream) =
                (self.data_consumers[consumer].transport, self.data_consumers[consumer].stream_id);
            if self.transports[to].connection.send(stream, binary, data) {
                self.wake_connection(now, to);
            } else {
                self.counters.data_dropped += 1;
            }
        }
    }

    /// Lets str0m act on what it was just told, if it may send at all.
    fn wake_connection(&mut self, now: Instant, slot: usize) {
        if let Some(transport) = self.transports.get_mut(slot) {
            transport.connection.handle_timeout(now);
            self.drain_connection(now, slot);
        }
    }

    pub(super) fn data_producer_of(
        &self,
        owner: &Owner<'_>,
        id: &DataProducerId,
    ) -> Result<usize, MediaError> {
        self.peer(owner)?.data_producers.get(id).copied().ok_or(MediaError::DataProducerNotFound)
    }

    pub(super) fn data_consumer_of(
        &self,
        owner: &Owner<'_>,
        id: &DataConsumerId,
    ) -> Result<usize, MediaError> {
        self.peer(owner)?.data_consumers.get(id).copied().ok_or(MediaError::DataConsumerNotFound)
    }

    pub(super) fn close_data_producer(&mut self, now: Instant, key: usize, reset_stream: bool) {
        let Some(producer) = self.data_producers.try_remove(key) else { return };
        if let Span::Exported { pipe, .. } | Span::Imported { pipe, .. } = producer.span {
            self.pipes.remove(&pipe);
        }
        for consumer in producer.consumers {
            self.close_data_consumer(now, consumer, true);
        }
        if let Some(peer) =
            self.rooms.get_mut(&producer.room).and_then(|room| room.peers.get_mut(&producer.peer))
        {
            peer.data_producers.remove(&producer.id);
        }
        if reset_stream && let Some(transport) = self.transports.get_mut(producer.transport) {
            transport.connection.close_stream(producer.sctp.stream_id);
            self.wake_connection(now, producer.transport);
        }
    }

    pub(super) fn close_data_consumer(&mut self, now: Instant, key: usize, tell: bool) {
        let Some(consumer) = self.data_consumers.try_remove(key) else { return };
        if let Some(producer) = self.data_producers.get_mut(consumer.producer) {
            producer.consumers.retain(|it| *it != key);
        }
        if let Some(peer) =
            self.rooms.get_mut(&consumer.room).and_then(|room| room.peers.get_mut(&consumer.peer))
        {
            peer.data_consumers.remove(&consumer.id);
        }
        if let Some(transport) = self.transports.get_mut(consumer.transport) {
            transport.connection.close_stream(consumer.stream_id);
            self.wake_connection(now, consumer.transport);
        }
        if tell {
            self.tell(&consumer.room, &consumer.peer, EventKind::DataConsumerClosed(consumer.id));
        }
    }

    /// The transport is going away; its connection is not used any more.
    pub(super) fn close_data_on(&mut self, now: Instant, slot: usize, tell: bool) {
        let producers: Vec<usize> =
            self.data_producers.iter().filter(|(_, it)| it.transport == slot).map(|(key, _)| key).collect();
        for key in producers {
            let Some(producer) = self.data_producers.get(key) else { continue };
            let (room, peer, id) = (producer.room.clone(), producer.peer.clone(), producer.id.clone());
            if tell {
                self.tell(&room, &peer, EventKind::DataProducerClosed(id));
            }
            self.close_data_producer(now, key, false);
        }
        let consumers: Vec<usize> =
            self.data_consumers.iter().filter(|(_, it)| it.transport == slot).map(|(key, _)| key).collect();
        for key in consumers {
            self.close_data_consumer(now, key, tell);
        }
    }
}
