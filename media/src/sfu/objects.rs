//! Producers' and consumers' lives: made, paused, resumed, closed; and which layers a client prefers.

use std::time::Instant;

use common::control::{ConsumerInfo, Done, EventKind, MediaError, TransportDirection};
use common::ids::{ConsumerId, ProducerId, TransportId};
use common::rtp_parameters::{MediaKind, RtpCapabilities, RtpParameters};
use rand_core::RngCore;

use super::Sfu;
use super::control::{
    CONSUMERS_PER_PEER_MAX, CONSUMERS_PER_TRACK_MAX, ENCODINGS_PER_PEER_MAX, Owner, PRODUCERS_PER_PEER_MAX,
};
use crate::consumer::Consumer;
use crate::ortc::{self, ConsumerIdentity};
use crate::producer::{Producer, Span};
use crate::transport::{SSRCS_MAX, SourceRoute};

/// Mapped SSRCs only fill a field of the consumable parameters: consumers have SSRCs of their own.
pub(super) const MAPPED_SSRC: u32 = 1;

impl Sfu {
    pub(super) fn produce(
        &mut self,
        owner: &Owner<'_>,
        transport: &TransportId,
        kind: MediaKind,
        rtp: RtpParameters,
        paused: bool,
    ) -> Result<Done, MediaError> {
        let slot = self.transport_towards(owner, transport, TransportDirection::Send)?;
        if self.peer(owner)?.producers.len() >= PRODUCERS_PER_PEER_MAX {
            return Err(MediaError::LimitReached("producers"));
        }
        let own = self.peer(owner)?.producers.values().map(|key| self.producers[*key].encodings.len());
        if own.sum::<usize>() + rtp.encodings.len().max(1) > ENCODINGS_PER_PEER_MAX {
            return Err(MediaError::LimitReached("encodings"));
        }
        let invalid = |text: &str| Err(MediaError::InvalidParameters(text.into()));
        let room = self.rooms.get(owner.room).ok_or(MediaError::RoomNotFound)?;
        if self.transports[slot].cname.is_none() {
            // Contract §4.2: the first name that is not empty is the transport's, for all its producers.
            let named = rtp.rtcp.cname.clone().filter(|name| !name.is_empty() && name.len() < 256);
            self.transports[slot].cname =
                Some(named.unwrap_or_else(|| format!("{:08x}", self.rng.next_u32())));
        }
        let refused = |error: ortc::OrtcError| MediaError::InvalidParameters(error.to_string());
        ortc::validate(kind, &rtp).map_err(refused)?;
        let cname = self.transports[slot].cname.clone().unwrap_or_default();
        let mapping =
            ortc::map_producer(kind, &rtp, &room.capabilities, &cname, MAPPED_SSRC).map_err(refused)?;
        let known = &self.transports[slot];
        if known.producers.iter().any(|key| rtp.mid.is_some() && self.producers[*key].mid == rtp.mid) {
            return invalid("mid is in use");
        }
        let ssrcs = |rtp: &RtpParameters| -> Vec<(u32, usize, bool)> {
            let encodings = rtp.encodings.iter().enumerate();
            let each = encodings.flat_map(|(at, it)| {
                let media = it.ssrc.map(|ssrc| (ssrc, at, false));
                media.into_iter().chain(it.rtx.as_ref().map(|rtx| (rtx.ssrc, at, true)))
            });
            each.collect()
        };
        let ssrcs = ssrcs(&rtp);
        if ssrcs.iter().any(|(ssrc, _, _)| known.sources.contains_key(ssrc)) {
            return invalid("ssrc is in use");
        }
        if known.sources.len() + ssrcs.len() > SSRCS_MAX {
            return Err(MediaError::LimitReached("SSRCs"));
        }
        let id = ProducerId::new(&self.new_id()).expect("hexadecimal is an id");
        let names = (owner.room.clone(), owner.peer.clone(), id.clone());
        let producer = self.producers.insert(Producer::new(names, slot, kind, &rtp, mapping, paused));
        for (ssrc, encoding, rtx) in ssrcs {
            let transport = &mut self.transports[slot];
            transport.sources.insert(ssrc, SourceRoute { producer, encoding, rtx });
            if let Some(srtp) = &mut transport.srtp {
                srtp.inbound.keep(ssrc);
            }
        }
        self.transports[slot].producers.push(producer);
        self.peer_mut(owner)?.producers.insert(id.clone(), producer);
        Ok(Done::Producer { id })
    }

    pub(super) fn pause_producer(
        &mut self,
        now: Instant,
        owner: &Owner<'_>,
        id: &ProducerId,
        paused: bool,
    ) -> Result<Done, MediaError> {
        let key = self.producer_of(owner, id)?;
        self.set_paused(now, key, paused);
        Ok(Done::Ok)
    }

    pub(super) fn set_paused(&mut self, now: Instant, key: usize, paused: bool) {
        let was = std::mem::replace(&mut self.producers[key].paused, paused);
        if paused {
            self.leave_floor(key);
        }
        if was && !paused {
            for consumer in self.producers[key].consumers.clone() {
                self.consumers[consumer].selector.restart();
                self.request_keyframe_for(now, consumer);
            }
            self.review_wanted(now, key);
        }
    }

    /// Closes a producer and its consumers, whose owners are told when `tell`.
    pub(super) fn close_producer(&mut self, key: usize, tell: bool) {
        let Some(producer) = self.producers.get(key) else { return };
        for consumer in producer.consumers.clone() {
            self.close_consumer(consumer, tell);
        }
        self.leave_floor(key);
        let Some(producer) = self.producers.try_remove(key) else { return };
        if let Span::Exported { pipe, .. } | Span::Imported { pipe, .. } = producer.span {
            self.pipes.remove(&pipe);
        }
        if let Some(transport) = self.transports.get_mut(producer.transport) {
            transport.producers.retain(|it| *it != key);
            let inbound = &mut transport.srtp.as_mut().map(|srtp| &mut srtp.inbound);
            transport.sources.retain(|ssrc, route| {
                let stays = route.producer != key;
                if let Some(inbound) = inbound.as_mut().filter(|_| !stays) {
                    inbound.retire(*ssrc);
                }
                stays
            });
        }
        if let Some(peer) =
            self.rooms.get_mut(&producer.room).and_then(|room| room.peers.get_mut(&producer.peer))
        {
            peer.producers.remove(&producer.id);
        }
    }

    pub(super) fn consume(
        &mut self,
        now: Instant,
        owner: &Owner<'_>,
        transport: &TransportId,
        producer: &ProducerId,
        capabilities: &RtpCapabilities,
    ) -> Result<Done, MediaError> {
        let slot = self.transport_towards(owner, transport, TransportDirection::Recv)?;
        if self.peer(owner)?.consumers.len() >= CONSUMERS_PER_PEER_MAX {
            return Err(MediaError::LimitReached("consumers"));
        }
        let room = self.rooms.get(owner.room).ok_or(MediaError::RoomNotFound)?;
        let found = room.peers.values().find_map(|peer| peer.producers.get(producer).copied());
        let key = found.ok_or(MediaError::ProducerNotFound)?;
        let own = self.peer(owner)?.consumers.values().filter(|it| self.consumers[**it].producer == key);
        if own.count() >= CONSUMERS_PER_TRACK_MAX {
            return Err(MediaError::LimitReached("consumers of one track"));
        }
        let ssrc = loop {
            let ssrc = self.new_ssrc();
            let sinks = &self.transports[slot].sinks;
            if !sinks.contains_key(&ssrc) && !sinks.contains_key(&(ssrc + 1)) {
                break ssrc;
            }
        };
        let source = &self.producers[key];
        let mid = self.transports[slot].next_mid.to_string();
        let identity = ConsumerIdentity { mid: &mid, ssrc };
        let mut rtp = ortc::consumer_parameters(source.kind, &source.consumable, capabilities, identity)
            .map_err(|_| MediaError::CannotConsume)?;
        if source.passes_descriptors()
            && let Some(room) = self.rooms.get(owner.room)
        {
            ortc::add_descriptor(&mut rtp, &room.capabilities);
        }
        self.transports[slot].next_mid += 1;
        let random = self.rng.next_u64();
        let id = ConsumerId::new(&self.new_id()).expect("hexadecimal is an id");
        let source = &self.producers[key];
        let info = ConsumerInfo {
            id: id.clone(),
            producer: producer.clone(),
            kind: source.kind,
            rtp: rtp.clone(),
            consumer_type: source.consumer_type,
            producer_paused: source.paused,
        };
        let names = (owner.room.clone(), owner.peer.clone(), id.clone());
        let mut consumer = Consumer::new(names, (key, slot), &rtp, source, random);
        consumer.selector.choose(source.encodings.iter().map(|it| it.flows(now)));
        let rtx_ssrc = consumer.rtx_ssrc;
        let consumer = self.consumers.insert(consumer);
        self.producers[key].consumers.push(consumer);
        let transport = &mut self.transports[slot];
        transport.consumers.push(consumer);
        transport.sinks.insert(ssrc, consumer);
        if let Some(rtx_ssrc) = rtx_ssrc {
            transport.sinks.insert(rtx_ssrc, consumer);
        }
        self.peer_mut(owner)?.consumers.insert(id, consumer);
        Ok(Done::Consumer(Box::new(info)))
    }

    pub(super) fn pause_consumer(
        &mut self,
        now: Instant,
        owner: &Owner<'_>,
        id: &ConsumerId,
        paused: bool,
    ) -> Result<Done, MediaError> {
        let key = self.consumer_of(owner, id)?;
        let was = std::mem::replace(&mut self.consumers[key].paused, paused);
        if was && !paused {
            self.consumers[key].selector.restart();
            self.review_layers(now, key);
            self.review_wanted(now, self.consumers[key].producer);
        }
        Ok(Done::Ok)
    }

    pub(super) fn set_preferred_layers(
        &mut self,
        now: Instant,
        owner: &Owner<'_>,
        id: &ConsumerId,
        spatial: u8,
        temporal: Option<u8>,
    ) -> Result<Done, MediaError> {
        let key = self.consumer_of(owner, id)?;
        let consumer = &mut self.consumers[key];
        consumer.preferred = (spatial, temporal);
        consumer.selector.prefer(spatial, temporal);
        let slot = consumer.transport;
        self.review_downlink(now, slot);
        self.review_layers(now, key);
        self.review_wanted(now, self.consumers[key].producer);
        Ok(Done::Ok)
    }

    pub(super) fn close_consumer(&mut self, key: usize, tell: bool) {
        let Some(consumer) = self.consumers.try_remove(key) else { return };
        if let Some(producer) = self.producers.get_mut(consumer.producer) {
            producer.consumers.retain(|it| *it != key);
        }
        if let Some(transport) = self.transports.get_mut(consumer.transport) {
            transport.consumers.retain(|it| *it != key);
            transport.sinks.retain(|_, sink| *sink != key);
        }
        if let Some(peer) =
            self.rooms.get_mut(&consumer.room).and_then(|room| room.peers.get_mut(&consumer.peer))
        {
            peer.consumers.remove(&consumer.id);
        }
        if tell {
            self.tell(&consumer.room, &consumer.peer, EventKind::ConsumerClosed(consumer.id));
        }
    }
}
