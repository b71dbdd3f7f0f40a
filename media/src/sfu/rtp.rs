//! The packet path: a publisher's SRTP packet in, one sealed packet per consumer out.
//!
//! Demultiplexing is contract §4.3: SSRC, else MID, else RID, each remembered as an SSRC. Nothing here allocates per
//! packet once buffers have grown; `tests/it/packet_path.rs` counts.

use std::time::{Duration, Instant};

use common::rtp_parameters::MediaKind;

use super::{Counters, Sfu};
use crate::codec::{self, Frame};
use crate::consumer::{Consumer, Sent};
use crate::estimate::Estimator;
use crate::framing::FRAME_BYTES_MAX;
use crate::outbox::Outbox;
use crate::parcel::{PlainPacket, Saying};
use crate::producer::{Producer, Span};
use crate::rewrite::{Gap, Numbers};
use crate::rtp::{
    self, Extensions, HEADER_LEN_MAX, HeaderExtensions, HeaderFields, RtpHeader, abs_send_time,
};
use crate::select::Decision;
use crate::srtp::OVERHEAD_MAX;
use crate::transport::{SSRCS_MAX, SourceRoute, Transport};

/// A packet of the source, plain, its retransmission wrapping removed.
struct Incoming<'a> {
    encoding: usize,
    sequence: u64,
    /// No later one has come.
    newest: bool,
    timestamp: u32,
    marker: bool,
    payload: &'a [u8],
    extensions: Extensions<'a>,
    descriptor: &'a [u8],
    frame: Frame,
}

impl Sfu {
    pub(super) fn on_rtp(&mut self, now: Instant, slot: usize, data: &mut [u8]) {
        let transport = &mut self.transports[slot];
        if data.len() > FRAME_BYTES_MAX {
            // Fragments of IP: each would be kept for retransmissions, and be too much for subscribers' links.
            self.counters.malformed_rtp += 1;
            return;
        }
        let Some(srtp) = &mut transport.srtp else {
            self.counters.bad_srtp += 1;
            return;
        };
        let Ok(opened) = srtp.inbound.open_rtp(data) else {
            self.counters.bad_srtp += 1;
            return;
        };
        self.counters.received += 1;
        transport.packets.0 += 1;
        let packet = &data[..opened.len];
        let Some(header) = RtpHeader::parse(packet) else {
            self.counters.malformed_rtp += 1;
            return;
        };
        let Some(route) = self.route(slot, &header) else {
            self.counters.unknown_source += 1;
            return;
        };
        let producer = &mut self.producers[route.producer];
        if let Some(id) = producer.extensions.transport_cc
            && let Some(&[high, low]) = header.extensions.find(id)
        {
            let arrivals =
                self.transports[slot].twcc.get_or_insert_with(|| crate::arrivals::Arrivals::new(self.start));
            arrivals.record(now, u16::from_be_bytes([high, low]), header.ssrc);
        }
        let mut payload = header.payload(packet);
        let encoding = &producer.encodings[route.encoding];
        let mut sequence = opened.index;
        if route.rtx && !producer.nack {
            // Nothing was asked for, and without a store a repetition could not be told.
            return;
        }
        if route.rtx {
            // RFC 4588 §4: the original sequence number comes first. Without one it is a bandwidth probe.
            let (Some((original, rest)), Some(newest)) =
                (payload.split_first_chunk::<2>(), encoding.reception.newest())
            else {
                return;
            };
            // What was sent before the first packet that we know would be taken for one far ahead.
            let Some(original) = rtp::extend_sequence(newest, u16::from_be_bytes(*original)) else { return };
            sequence = original;
            payload = rest;
            if payload.is_empty() {
                return;
            }
        }
        let plain = PlainPacket {
            encoding: route.encoding,
            sequence,
            timestamp: header.timestamp,
            marker: header.marker,
            payload,
            extensions: header.extensions,
        };
        self.on_plain(now, route.producer, &plain);
    }

    /// A packet of a producer, ours or another worker's.
    pub(super) fn on_plain(&mut self, now: Instant, key: usize, plain: &PlainPacket<'_>) {
        let PlainPacket { sequence, timestamp, marker, payload, extensions, .. } = *plain;
        let producer = &mut self.producers[key];
        let Some(encoding) = producer.encodings.get_mut(plain.encoding) else { return };
        let arrival = ticks(now, self.start, producer.clock_rate_hz);
        // What another worker misses is asked for there.
        let asks = producer.nack && !matches!(producer.span, Span::Imported { .. });
        if payload.is_empty() {
            // Padding only: it counts as received, and closes no consumer's gap.
            encoding.reception.on_packet(now, sequence, timestamp, arrival, asks);
            self.skip_everywhere(key, plain.encoding, sequence);
            return self.export(key, &Saying::Packet(*plain));
        }
        let mut frame = codec::inspect(producer.codec, payload);
        let mut descriptor = &[][..];
        if let Some(found) = producer.extensions.dependencies.and_then(|id| extensions.find(id)) {
            descriptor = found;
            let newest = encoding.reception.newest().is_none_or(|newest| sequence > newest);
            codec::describe(&mut frame, descriptor, &mut encoding.structure, newest);
        }
        if producer.nack && !encoding.store.keep(sequence, timestamp, marker, frame, descriptor, payload) {
            return;
        }
        let returns = encoding.reception.last_heard.is_some() && !encoding.flows(now);
        if returns {
            encoding.rates.resume();
        }
        encoding.reception.on_packet(now, sequence, timestamp, arrival, asks);
        encoding.reception.octets += payload.len() as u64;
        encoding.layers.note(&frame);
        encoding.rates.note(now, (frame.spatial, frame.temporal), payload.len());
        if frame.keyframe {
            encoding.keyframes.on_keyframe();
        }
        let newest = encoding.reception.newest() == Some(sequence);
        if producer.paused {
            return;
        }
        if let Some(id) = producer.extensions.audio_level
            && let Some(&[level, ..]) = extensions.find(id)
        {
            producer.voice.hear(level);
            if self.config.max_speakers > 0 && !self.has_floor(now, key, level) {
                self.counters.voices_left_out += 1;
                return self.export(key, &Saying::Packet(*plain));
            }
        }
        let producer = &self.producers[key];
        if returns && producer.encodings.len() > 1 {
            self.encoding_returns(now, key, plain.encoding, frame.keyframe);
        }
        let encoding = plain.encoding;
        let incoming = Incoming {
            encoding,
            sequence,
            newest,
            timestamp,
            marker,
            payload,
            extensions,
            descriptor,
            frame,
        };
        self.export(key, &Saying::Packet(*plain));
        let send_time = abs_send_time(self.unix_start + now.saturating_duration_since(self.start));
        let Self { producers, consumers, transports, outbox, counters, timers, .. } = self;
        let producer = &producers[key];
        for key in &producer.consumers {
            let consumer = &mut consumers[*key];
            if consumer.takes() {
                let transport = &mut transports[consumer.transport];
                let entered =
                    forward(now, send_time, producer, consumer, transport, &incoming, outbox, counters);
                if entered && !incoming.newest {
                    catch_up(now, send_time, producer, consumer, transport, &incoming, outbox, counters);
                }
                // Somebody has begun to wait.
                if let Some(next) = transport.pacer.next()
                    && transport.wake.is_none_or(|wake| wake > next)
                {
                    transport.wake = timers.arm(consumer.transport, transport.wake, Some(next));
                }
            }
        }
    }

    fn skip_everywhere(&mut self, producer: usize, encoding: usize, sequence: u64) {
        for key in &self.producers[producer].consumers {
            let consumer = &mut self.consumers[*key];
            if consumer.selector.current() == Some(encoding) {
                consumer.rewriter.skip(sequence, &Frame::default());
            }
        }
    }

    /// Whose packet this is.
    fn route(&mut self, slot: usize, header: &RtpHeader<'_>) -> Option<SourceRoute> {
        let transport = &mut self.transports[slot];
        if let Some(route) = transport.sources.get(&header.ssrc) {
            return Some(*route);
        }
        let producers = &mut self.producers;
        let by_mid = transport.producers.iter().copied().find(|key| {
            let producer = &producers[*key];
            let found = producer.extensions.mid.and_then(|id| header.extensions.find(id));
            found.is_some() && found == producer.mid.as_deref().map(str::as_bytes)
        });
        let has_mid = transport
            .producers
            .iter()
            .any(|key| producers[*key].extensions.mid.is_some_and(|id| header.extensions.find(id).is_some()));
        let by_rid = || {
            let rids = transport.producers.iter().copied();
            rids.filter(|_| !has_mid).find(|key| rid_of(&producers[*key], header).is_some())
        };
        let key = by_mid.or_else(by_rid)?;
        let producer = &mut producers[key];
        let (encoding, rtx) = match rid_of(producer, header) {
            Some(found) => found,
            None if producer.encodings.len() == 1 => {
                (0, producer.rtx_payload_type == Some(header.payload_type))
            }
            None => return None,
        };
        if transport.sources.len() >= SSRCS_MAX {
            return None;
        }
        let known = &mut producer.encodings[encoding];
        let source = if rtx { &mut known.rtx_ssrc } else { &mut known.ssrc };
        // Two sources under one name would be two numberings in one stream.
        if source.is_some_and(|known| known != header.ssrc) {
            return None;
        }
        *source = Some(header.ssrc);
        let route = SourceRoute { producer: key, encoding, rtx };
        transport.sources.insert(header.ssrc, route);
        if let Some(srtp) = &mut transport.srtp {
            srtp.inbound.keep(header.ssrc);
        }
        Some(route)
    }

    /// Sends a packet of padding in the retransmission stream of a consumer that has sent something (RFC 4588 has no rule
    /// for it; libwebrtc does the same and skips what has no payload).
    pub(super) fn send_padding(&mut self, now: Instant, key: usize) -> bool {
        let send_time = abs_send_time(self.unix_time(now));
        let consumer = &mut self.consumers[key];
        let (Some(payload_type), Some(ssrc)) = (consumer.rtx_payload_type, consumer.rtx_ssrc) else {
            return false;
        };
        let Some(numbers) = consumer.newest_sent().map(|sent| sent.numbers) else { return false };
        let sequence = consumer.rtx_sequence;
        consumer.rtx_sequence += 1;
        let fields = HeaderFields {
            payload_type,
            marker: false,
            sequence_number: sequence as u16,
            timestamp: numbers.timestamp,
            ssrc,
        };
        let out =
            Outgoing { fields, sequence, original: None, numbers, descriptor: &[], sort: Sort::Padding };
        let transport = &mut self.transports[consumer.transport];
        let (frame, source) = (Frame::default(), Extensions::default());
        write(now, send_time, consumer, transport, &out, &PADDING, &frame, source, &mut self.outbox)
    }

    /// Sends of a transport's waiting video what its link has room for now.
    pub(super) fn send_waiting(&mut self, now: Instant, slot: usize) {
        let send_time = abs_send_time(self.unix_time(now));
        let transport = &mut self.transports[slot];
        while let Some(mut waiting) = transport.pacer.pop(now) {
            let number = waiting.transport_cc.map(|id| {
                let number = transport.next_twcc();
                rtp::replace_element(&mut waiting.packet, id, &number.to_be_bytes());
                number
            });
            if let Some(id) = waiting.abs_send_time {
                rtp::replace_element(&mut waiting.packet, id, &send_time.to_be_bytes()[1..]);
            }
            seal(now, transport, waiting.sequence, number, true, &mut self.outbox, |bytes| {
                bytes.extend_from_slice(&waiting.packet);
                true
            });
            transport.pacer.done(waiting);
        }
    }

    /// Sends a packet again that a subscriber misses.
    pub(super) fn retransmit(&mut self, now: Instant, key: usize, wire: u16) {
        let send_time = abs_send_time(self.unix_time(now));
        let consumer = &mut self.consumers[key];
        let (Some(payload_type), Some(ssrc)) = (consumer.rtx_payload_type, consumer.rtx_ssrc) else { return };
        let transport = &mut self.transports[consumer.transport];
        let Some(sent) = consumer.sent_mut(wire) else { return };
        let round_trip = transport.round_trip.unwrap_or_default().clamp(RESEND_INTERVAL.0, RESEND_INTERVAL.1);
        if sent.resent.is_some_and(|at| now.saturating_duration_since(at) < round_trip) {
            return;
        }
        if !transport.repairs.allows(now, transport.bytes.1) {
            self.counters.repairs_refused += 1;
            return;
        }
        sent.resent = Some(now);
        let sent = *sent;
        let producer = &self.producers[consumer.producer];
        let Some(kept) = producer.encodings[usize::from(sent.encoding)].store.find(sent.sequence) else {
            return;
        };
        let sequence = consumer.rtx_sequence;
        consumer.rtx_sequence += 1;
        let fields = HeaderFields {
            payload_type,
            marker: sent.marker,
            sequence_number: sequence as u16,
            timestamp: sent.numbers.timestamp,
            ssrc,
        };
        let out = Outgoing {
            fields,
            sequence,
            original: Some(wire),
            numbers: sent.numbers,
            descriptor: kept.descriptor(),
            sort: Sort::Repeated,
        };
        let before = transport.bytes.1;
        if write(
            now,
            send_time,
            consumer,
            transport,
            &out,
            kept.payload(),
            &kept.frame,
            Extensions::default(),
            &mut self.outbox,
        ) {
            let link_bps = transport.estimator.as_ref().and_then(Estimator::bitrate);
            transport.repairs.on_sent(now, transport.bytes.1 - before, link_bps);
            consumer.retransmitted += 1;
            self.counters.retransmitted += 1;
        }
    }
}

/// The longest padding (RFC 3550 §5.1).
const PADDING: [u8; 255] = {
    let mut padding = [0; 255];
    padding[254] = 255;
    padding
};

/// The same packet is not sent again sooner than a round trip: NACKs are repeated faster. At least and at most.
const RESEND_INTERVAL: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(500));

/// Sender reports that put a switch further from where our own clock does are wrong: layers of one camera arrive within less.
const REPORT_ERROR_SECONDS_MAX: u32 = 2;

/// Arrival in media ticks, for jitter.
fn ticks(now: Instant, start: Instant, clock_rate_hz: u32) -> u32 {
    let micros = now.saturating_duration_since(start).as_micros();
    (micros * u128::from(clock_rate_hz) / 1_000_000) as u32
}

/// The encoding that a packet's RID (or repaired RID) names, and whether it is a retransmission.
fn rid_of(producer: &Producer, header: &RtpHeader<'_>) -> Option<(usize, bool)> {
    let text = |id: Option<u8>| header.extensions.find(id?);
    let by = |rid: &[u8]| {
        producer.encodings.iter().position(|encoding| encoding.rid.as_deref().map(str::as_bytes) == Some(rid))
    };
    match text(producer.extensions.repaired_rid) {
        Some(rid) => by(rid).map(|encoding| (encoding, true)),
        None => by(text(producer.extensions.rid)?)
            .map(|encoding| (encoding, producer.rtx_payload_type == Some(header.payload_type))),
    }
}

/// Whether the consumer has entered the encoding with this packet.
#[allow(clippy::too_many_arguments)] // disjoint parts of the core, so that the loop over consumers can hold them all
fn forward(
    now: Instant,
    send_time: u32,
    producer: &Producer,
    consumer: &mut Consumer,
    transport: &mut Transport,
    incoming: &Incoming<'_>,
    outbox: &mut Outbox,
    counters: &mut Counters,
) -> bool {
    if transport.srtp.is_none() {
        return false;
    }
    let decision =
        consumer.selector.decide(incoming.encoding, incoming.sequence, &incoming.frame, incoming.newest);
    match decision {
        Decision::Ignore => return false,
        Decision::Skip => {
            consumer.rewriter.skip(incoming.sequence, &incoming.frame);
            return false;
        }
        Decision::Switch => {
            let entered = consumer.entered.replace(incoming.encoding);
            let gap = Gap {
                elapsed_ticks: consumer.last_sent.map_or(0, |last| ticks(now, last, producer.clock_rate_hz)),
                alignment: entered.and_then(|from| producer.alignment(from, incoming.encoding)),
                trusted_ticks: producer.clock_rate_hz.saturating_mul(REPORT_ERROR_SECONDS_MAX),
            };
            consumer.rewriter.switch(incoming.sequence, incoming.timestamp, &incoming.frame, gap);
        }
        Decision::Forward => {}
    }
    let Some(numbers) = consumer.rewriter.map(incoming.sequence, incoming.timestamp, &incoming.frame) else {
        return false;
    };
    let marker = incoming.marker || consumer.selector.cuts_behind(&incoming.frame);
    let fields = HeaderFields {
        payload_type: consumer.payload_type,
        marker,
        sequence_number: numbers.sequence as u16,
        timestamp: numbers.timestamp,
        ssrc: consumer.ssrc,
    };
    let sort = if producer.kind == MediaKind::Video { Sort::Paced } else { Sort::Urgent };
    let descriptor = incoming.descriptor;
    let out = Outgoing { fields, sequence: numbers.sequence, original: None, numbers, descriptor, sort };
    if write(
        now,
        send_time,
        consumer,
        transport,
        &out,
        incoming.payload,
        &incoming.frame,
        incoming.extensions,
        outbox,
    ) {
        let encoding = incoming.encoding as u8;
        consumer.remember(Sent { numbers, sequence: incoming.sequence, encoding, marker, resent: None });
        consumer.last_sent = Some(now);
        consumer.packets += 1;
        consumer.octets += incoming.payload.len() as u64;
        counters.forwarded += 1;
    } else if sort == Sort::Paced {
        counters.video_dropped += 1;
    }
    decision == Decision::Switch
}

/// The first packet of a keyframe was late or had to be repeated: what came behind it and was of no use then follows from
/// the store, without header extensions other than the dependency descriptor.
#[allow(clippy::too_many_arguments)] // as above
fn catch_up(
    now: Instant,
    send_time: u32,
    producer: &Producer,
    consumer: &mut Consumer,
    transport: &mut Transport,
    first: &Incoming<'_>,
    outbox: &mut Outbox,
    counters: &mut Counters,
) {
    let encoding = &producer.encodings[first.encoding];
    let newest = encoding.reception.newest().unwrap_or(first.sequence);
    for sequence in first.sequence + 1..=newest {
        let Some(kept) = encoding.store.find(sequence) else { continue };
        let incoming = Incoming {
            encoding: first.encoding,
            sequence,
            newest: sequence == newest,
            timestamp: kept.timestamp,
            marker: kept.marker,
            payload: kept.payload(),
            extensions: Extensions::default(),
            descriptor: kept.descriptor(),
            frame: kept.frame,
        };
        forward(now, send_time, producer, consumer, transport, &incoming, outbox, counters);
    }
}

/// A packet to write: its header, its extended number in its own stream, and for a retransmission the original's number.
struct Outgoing<'a> {
    fields: HeaderFields,
    sequence: u64,
    original: Option<u16>,
    numbers: Numbers,
    descriptor: &'a [u8],
    sort: Sort,
}

/// What may wait and what may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// Audio.
    Urgent,
    /// Video.
    Paced,
    /// Of a retransmission stream.
    Repeated,
    /// Likewise; the payload is padding, whose last byte says how much.
    Padding,
}

#[allow(clippy::too_many_arguments)] // as above
fn write(
    now: Instant,
    send_time: u32,
    consumer: &Consumer,
    transport: &mut Transport,
    out: &Outgoing<'_>,
    payload: &[u8],
    frame: &Frame,
    source: Extensions<'_>,
    outbox: &mut Outbox,
) -> bool {
    let has_room = out.sort != Sort::Paced || !transport.is_paced() || !transport.pacer.is_full(now);
    if !has_room {
        return wait(consumer, transport, out, payload, frame, source);
    }
    let transport_cc = consumer.extensions.transport_cc.map(|id| (id, transport.next_twcc()));
    let extensions = HeaderExtensions {
        mid: consumer.extensions.mid.map(|id| (id, consumer.mid.as_bytes())),
        abs_send_time: consumer.extensions.abs_send_time.map(|id| (id, send_time)),
        transport_cc,
        descriptor: consumer.extensions.descriptor.map(|id| (id, out.descriptor)),
        translate: &consumer.extensions.translate,
        source,
    };
    let sequence = transport_cc.map(|(_, sequence)| sequence);
    seal(now, transport, out.sequence, sequence, out.sort == Sort::Paced, outbox, |bytes| {
        compose(bytes, out, &extensions, payload, frame)
    })
}

/// Lets a packet wait until the link has room again.
fn wait(
    consumer: &Consumer,
    transport: &mut Transport,
    out: &Outgoing<'_>,
    payload: &[u8],
    frame: &Frame,
    source: Extensions<'_>,
) -> bool {
    if transport.pacer.is_overfull() || transport.srtp.is_none() {
        return false;
    }
    let ids = &consumer.extensions;
    let extensions = HeaderExtensions {
        mid: ids.mid.map(|id| (id, consumer.mid.as_bytes())),
        abs_send_time: ids.abs_send_time.map(|id| (id, 0)),
        transport_cc: ids.transport_cc.map(|id| (id, 0)),
        descriptor: ids.descriptor.map(|id| (id, out.descriptor)),
        translate: &ids.translate,
        source,
    };
    transport.pacer.push(|waiting| {
        (waiting.sequence, waiting.transport_cc) = (out.sequence, ids.transport_cc);
        waiting.abs_send_time = ids.abs_send_time;
        compose(&mut waiting.packet, out, &extensions, payload, frame)
    })
}

/// Appends a plain packet.
fn compose(
    bytes: &mut Vec<u8>,
    out: &Outgoing<'_>,
    extensions: &HeaderExtensions<'_>,
    payload: &[u8],
    frame: &Frame,
) -> bool {
    let start = bytes.len();
    bytes.resize(start + HEADER_LEN_MAX + 2 + payload.len(), 0);
    let slot = &mut bytes[start..];
    let Some(mut at) = rtp::write_header(slot, &out.fields, extensions) else { return false };
    if out.sort == Sort::Padding {
        slot[0] |= 0x20;
    }
    if let Some(original) = out.original {
        slot[at..at + 2].copy_from_slice(&original.to_be_bytes());
        at += 2;
    }
    let body = &mut slot[at..at + payload.len()];
    body.copy_from_slice(payload);
    let numbers = &out.numbers;
    codec::patch_vp8(body, &frame.vp8, numbers.picture_id, numbers.tl0, numbers.key_index);
    bytes.truncate(start + at + payload.len());
    true
}

/// Seals what `write` appends, sends it and keeps the books.
fn seal(
    now: Instant,
    transport: &mut Transport,
    sequence: u64,
    transport_cc: Option<u16>,
    is_paced: bool,
    outbox: &mut Outbox,
    write: impl FnOnce(&mut Vec<u8>) -> bool,
) -> bool {
    let Some((srtp, to)) = transport.open_path() else { return false };
    let mut sealed = 0;
    let sent = outbox.push_with(to, |bytes| {
        let start = bytes.len();
        if !write(bytes) {
            return false;
        }
        let plain = bytes.len() - start;
        bytes.resize(start + plain + OVERHEAD_MAX, 0);
        let Ok(length) = srtp.seal_rtp(&mut bytes[start..], plain, sequence) else { return false };
        bytes.truncate(start + length);
        sealed = length;
        true
    });
    if sent {
        transport.bytes.1 += sealed as u64;
        transport.packets.1 += 1;
        if let Some(number) = transport_cc {
            transport.estimator.get_or_insert_with(|| Estimator::new(now)).on_sent(now, number, sealed);
        }
        if is_paced && let Some(bitrate) = transport.estimator.as_ref().and_then(Estimator::bitrate) {
            transport.pacer.on_sent(now, sealed, bitrate.max(transport.allocated_cost));
        }
    }
    sent
}
