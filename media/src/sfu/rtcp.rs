//! Control of media: RTCP in and out, producers' and consumers' lives, keyframes, layers, statistics.

use std::time::{Duration, Instant};

use common::control::{ConsumerInfo, Done, EventKind, MediaError, TransportDirection};
use common::ids::{ConsumerId, ProducerId, TransportId};
use common::rtp_parameters::{MediaKind, RtpCapabilities, RtpParameters};
use rand_core::RngCore;
use serde_json::{Value, json};

use super::Sfu;
use super::control::{CONSUMERS_PER_PEER_MAX, Owner, PRODUCERS_PER_PEER_MAX};
use crate::consumer::Consumer;
use crate::feedback::{self, Item, ReportBlock};
use crate::ortc::{self, ConsumerIdentity};
use crate::producer::Producer;
use crate::transport::{SSRCS_MAX, SourceRoute};

/// Mapped SSRCs only fill a field of the consumable parameters: consumers have SSRCs of their own.
const MAPPED_SSRC: u32 = 1;

/// NACKs beyond so many sequence numbers per packet are a subscriber's trick, not a loss.
const RETRANSMITTED_PER_NACK_MAX: usize = 256;

impl Sfu {
    pub(super) fn on_rtcp(&mut self, now: Instant, slot: usize, data: &mut [u8]) {
        let Some(srtp) = &mut self.transports[slot].srtp else {
            self.counters.bad_srtp += 1;
            return;
        };
        let Ok(length) = srtp.inbound.open_rtcp(data) else {
            self.counters.bad_srtp += 1;
            return;
        };
        feedback::parse(&data[..length], |item| self.on_rtcp_item(now, slot, item));
    }

    fn on_rtcp_item(&mut self, now: Instant, slot: usize, item: Item<'_>) {
        match item {
            Item::SenderReport { ssrc, ntp, timestamp } => {
                if let Some(route) = self.transports[slot].sources.get(&ssrc).filter(|route| !route.rtx) {
                    let encoding = &mut self.producers[route.producer].encodings[route.encoding];
                    encoding.reception.on_sender_report(now, ntp, timestamp);
                }
            }
            Item::Report(block) => self.on_report(now, slot, &block),
            Item::Nack { ssrc, entries } => {
                if let Some(consumer) = self.transports[slot].sinks.get(&ssrc).copied() {
                    for wire in feedback::nacked(entries).take(RETRANSMITTED_PER_NACK_MAX) {
                        self.retransmit(now, consumer, wire);
                    }
                }
            }
            Item::KeyframeRequest { ssrc } => {
                if let Some(consumer) = self.transports[slot].sinks.get(&ssrc).copied() {
                    self.request_keyframe_for(now, consumer);
                }
            }
        }
    }

    fn on_report(&mut self, now: Instant, slot: usize, block: &ReportBlock) {
        let Some(key) = self.transports[slot].sinks.get(&block.ssrc).copied() else { return };
        if block.ssrc != self.consumers[key].ssrc {
            return;
        }
        self.consumers[key].fraction_lost = block.fraction_lost;
        self.transports[slot].has_reported = true;
        // RFC 3550 §6.4.1, with the moment of sending in place of the NTP time, which is the publisher's clock.
        if let Some((ntp, sent)) = self.consumers[key].last_report
            && ntp == block.last_sr
        {
            let held = Duration::from_secs_f64(f64::from(block.delay_since_last_sr) / 65_536.0);
            let round_trip = now.saturating_duration_since(sent).checked_sub(held);
            self.transports[slot].round_trip = round_trip.or(self.transports[slot].round_trip);
        }
    }

    /// Asks the producer of a consumer for what the consumer waits for.
    pub(super) fn request_keyframe_for(&mut self, now: Instant, consumer: usize) {
        let Some(consumer) = self.consumers.get(consumer) else { return };
        let encoding = consumer.selector.target().or(consumer.selector.current());
        let Some(encoding) = encoding.filter(|_| !consumer.paused) else { return };
        let producer = consumer.producer;
        let known = &mut self.producers[producer];
        if known.kind != MediaKind::Video || known.paused {
            return;
        }
        // Before the first packet of a simulcast layer its SSRC is unknown; the request waits for a tick.
        if let Some(wanted) = known.encodings.get_mut(encoding)
            && let Some(ssrc) = wanted.ssrc
            && wanted.keyframes.request(now)
        {
            self.send_pli(producer, ssrc);
        }
    }

    fn send_pli(&mut self, producer: usize, ssrc: u32) {
        let transport = &mut self.transports[self.producers[producer].transport];
        let mut compound = std::mem::take(&mut self.scratch);
        compound.clear();
        feedback::write_receiver_report(&mut compound, transport.rtcp_ssrc, &[]);
        feedback::write_pli(&mut compound, transport.rtcp_ssrc, ssrc);
        transport.send_rtcp(&mut self.outbox, &compound);
        self.scratch = compound;
    }

    /// Every few tens of milliseconds: NACKs, keyframe retries and transport-cc for publishers; layers for subscribers.
    pub(super) fn tick(&mut self, now: Instant, slot: usize) {
        self.send_feedback(now, slot);
        for producer in self.transports[slot].producers.clone() {
            for encoding in 0..self.producers[producer].encodings.len() {
                let known = &mut self.producers[producer].encodings[encoding];
                if let Some(ssrc) = known.ssrc
                    && known.keyframes.poll(now)
                {
                    self.send_pli(producer, ssrc);
                }
            }
        }
        for consumer in self.transports[slot].consumers.clone() {
            self.review_layers(now, consumer);
        }
    }

    fn send_feedback(&mut self, now: Instant, slot: usize) {
        let transport = &mut self.transports[slot];
        let sender = transport.rtcp_ssrc;
        let mut compound = std::mem::take(&mut self.scratch);
        compound.clear();
        if let Some(arrivals) = &mut transport.twcc {
            arrivals.write(&mut compound, sender);
        }
        let mut lost = Vec::new();
        for producer in &transport.producers {
            let producer = &mut self.producers[*producer];
            if !producer.nack {
                continue;
            }
            for encoding in &mut producer.encodings {
                encoding.reception.due_nacks(now, &mut lost);
                if let Some(ssrc) = encoding.ssrc.filter(|_| !lost.is_empty()) {
                    feedback::write_nack(&mut compound, sender, ssrc, &lost);
                }
                lost.clear();
            }
        }
        for part in split_compound(&compound) {
            transport.send_rtcp(&mut self.outbox, part);
        }
        self.scratch = compound;
    }

    /// Chooses a consumer's layer again, asks for the keyframe that it needs, and tells the hub what has changed.
    fn review_layers(&mut self, now: Instant, key: usize) {
        let consumer = &mut self.consumers[key];
        let producer = &self.producers[consumer.producer];
        if consumer.paused || producer.paused || producer.kind != MediaKind::Video {
            return;
        }
        if producer.encodings.len() > 1 {
            consumer.selector.choose(producer.encodings.iter().map(|it| it.flows(now)));
        }
        let flows = consumer.selector.current().filter(|current| producer.encodings[*current].flows(now));
        let layers = flows.map(|encoding| {
            consumer.selector.layers(encoding, producer.encodings[encoding].layers.highest())
        });
        let current = consumer.selector.current().and_then(|current| producer.encodings.get(current));
        let waits = consumer.selector.target().is_some()
            || current.is_some_and(|it| consumer.selector.waits_for_layer(it.layers.highest().0));
        if producer.has_layers() && layers != consumer.told_layers {
            consumer.told_layers = layers;
            let (room, peer, consumer) = (consumer.room.clone(), consumer.peer.clone(), consumer.id.clone());
            self.tell(&room, &peer, EventKind::ConsumerLayers { consumer, layers });
        }
        if waits {
            self.request_keyframe_for(now, key);
        }
    }

    /// Once a second: reports to publishers, sender reports to subscribers, and what they told us to the hub.
    pub(super) fn report(&mut self, now: Instant, slot: usize) {
        let mut compound = Vec::new();
        let transport = &self.transports[slot];
        let sender = transport.rtcp_ssrc;
        let mut blocks = Vec::new();
        let mut remb = Vec::new();
        for producer in &transport.producers {
            let producer = &mut self.producers[*producer];
            for encoding in &mut producer.encodings {
                encoding.layers.turn();
                let Some(ssrc) = encoding.ssrc else { continue };
                blocks.extend(encoding.reception.report(now, ssrc));
                if producer.remb {
                    remb.push(ssrc);
                }
            }
        }
        if !transport.producers.is_empty() {
            feedback::write_receiver_report(&mut compound, sender, &blocks);
            if let Some(bitrate) = self.config.max_bitrate.or(Some(REMB_DEFAULT)).filter(|_| !remb.is_empty())
            {
                feedback::write_remb(&mut compound, sender, bitrate, &remb);
            }
        }
        for at in 0..self.transports[slot].consumers.len() {
            self.write_sender_report(now, self.transports[slot].consumers[at], &mut compound);
        }
        let parts = split_compound(&compound);
        for part in parts {
            self.transports[slot].send_rtcp(&mut self.outbox, part);
        }
        self.tell_reception(slot);
    }

    fn write_sender_report(&mut self, now: Instant, key: usize, out: &mut Vec<u8>) {
        let consumer = &mut self.consumers[key];
        let producer = &self.producers[consumer.producer];
        let encoding = consumer.selector.current().and_then(|current| producer.encodings.get(current));
        let Some(report) = encoding.and_then(|encoding| encoding.reception.sender_report()) else { return };
        let since = now.saturating_duration_since(report.at);
        let ticks = (since.as_micros() * u128::from(producer.clock_rate_hz) / 1_000_000) as u32;
        let timestamp = consumer.rewriter.timestamp(report.timestamp.wrapping_add(ticks));
        // The publisher's own clock, carried on: audio and video of one publisher stay comparable.
        let elapsed = (since.as_secs() << 32) + ((u64::from(since.subsec_nanos()) << 32) / 1_000_000_000);
        let ntp = report.ntp.wrapping_add(elapsed);
        consumer.last_report = Some(((ntp >> 16) as u32, now));
        let (packets, octets) = (consumer.packets as u32, consumer.octets as u32);
        feedback::write_sender_report(out, consumer.ssrc, ntp, timestamp, packets, octets);
        feedback::write_cname(out, consumer.ssrc, &consumer.cname);
    }

    /// At most once per report interval, and only news: what a silent client said last is not its reception now.
    fn tell_reception(&mut self, slot: usize) {
        let transport = &mut self.transports[slot];
        let Some(round_trip) = transport.round_trip else { return };
        if !std::mem::take(&mut transport.has_reported) {
            return;
        }
        let running = transport.consumers.iter().map(|key| &self.consumers[*key]).filter(|it| !it.paused);
        let worst = running.map(|consumer| consumer.fraction_lost).max();
        let Some(worst) = worst else { return };
        let (room, peer) = (transport.room.clone(), transport.peer.clone());
        self.tell(&room, &peer, EventKind::Reception { loss: f32::from(worst) / 256.0, round_trip });
    }

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
            self.transports[slot].sources.insert(ssrc, SourceRoute { producer, encoding, rtx });
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
        let was = std::mem::replace(&mut self.producers[key].paused, paused);
        if was && !paused {
            for consumer in self.producers[key].consumers.clone() {
                self.consumers[consumer].selector.restart();
                self.request_keyframe_for(now, consumer);
            }
        }
        Ok(Done::Ok)
    }

    /// Closes a producer and its consumers, whose owners are told when `tell`.
    pub(super) fn close_producer(&mut self, key: usize, tell: bool) {
        let Some(producer) = self.producers.get(key) else { return };
        for consumer in producer.consumers.clone() {
            self.close_consumer(consumer, tell);
        }
        let Some(producer) = self.producers.try_remove(key) else { return };
        if let Some(transport) = self.transports.get_mut(producer.transport) {
            transport.producers.retain(|it| *it != key);
            transport.sources.retain(|_, route| route.producer != key);
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
        let rtp = ortc::consumer_parameters(source.kind, &source.consumable, capabilities, identity)
            .map_err(|_| MediaError::CannotConsume)?;
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
        let mut consumer =
            Consumer::new(names, (key, slot), &rtp, &source.extension_ids, source.encodings.len(), random);
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
        self.consumers[key].selector.prefer(spatial, temporal);
        self.review_layers(now, key);
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

    fn timestamp_ms(&self, now: Instant) -> f64 {
        self.unix_time(now).as_secs_f64() * 1000.0
    }

    pub(super) fn transport_stats(&self, now: Instant, slot: usize) -> Value {
        let transport = &self.transports[slot];
        json!({
            "id": transport.id.as_str(), "type": "transport", "timestamp": self.timestamp_ms(now),
            "dtlsState": if transport.srtp.is_some() { "connected" } else { "new" },
            "bytesReceived": transport.bytes.0, "bytesSent": transport.bytes.1,
            "packetsReceived": transport.packets.0, "packetsSent": transport.packets.1,
            "currentRoundTripTime": transport.round_trip.map(|it| it.as_secs_f64()),
        })
    }

    pub(super) fn producer_stats(&self, now: Instant, key: usize) -> Vec<Value> {
        let producer = &self.producers[key];
        let encodings = producer.encodings.iter().enumerate().map(|(at, encoding)| {
            let reception = &encoding.reception;
            json!({
                "id": format!("{}-{at}", producer.id), "type": "inbound-rtp", "timestamp": self.timestamp_ms(now),
                "producerId": producer.id.as_str(), "kind": producer.kind, "ssrc": encoding.ssrc, "rid": encoding.rid,
                "packetsReceived": reception.received(), "packetsLost": reception.lost(),
                "bytesReceived": reception.octets,
                "jitter": f64::from(reception.jitter()) / f64::from(producer.clock_rate_hz),
            })
        });
        encodings.collect()
    }

    pub(super) fn consumer_stats(&self, now: Instant, key: usize) -> Value {
        let consumer = &self.consumers[key];
        json!({
            "id": consumer.id.as_str(), "type": "outbound-rtp", "timestamp": self.timestamp_ms(now),
            "kind": self.producers[consumer.producer].kind, "ssrc": consumer.ssrc,
            "packetsSent": consumer.packets, "bytesSent": consumer.octets,
            "retransmittedPacketsSent": consumer.retransmitted,
            "fractionLost": f64::from(consumer.fraction_lost) / 256.0,
            "currentLayer": consumer.selector.current(),
        })
    }
}

/// REMB when the configuration sets no bound: enough for any camera.
const REMB_DEFAULT: u64 = 5_000_000;
/// A compound packet stays below the smallest usual MTU.
const COMPOUND_BYTES_MAX: usize = 1200;

/// Cuts a long compound packet between its packets into parts that fit a datagram.
fn split_compound(compound: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at + 4 <= compound.len() {
        let length = 4 * (usize::from(u16::from_be_bytes([compound[at + 2], compound[at + 3]])) + 1);
        if at > start && at + length - start > COMPOUND_BYTES_MAX {
            parts.push(&compound[start..at]);
            start = at;
        }
        at += length;
    }
    if at > start {
        parts.push(&compound[start..at.min(compound.len())]);
    }
    parts
}
