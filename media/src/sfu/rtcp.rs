//! RTCP in and out, keyframe requests, and the review of what each consumer gets.

use std::time::{Duration, Instant};

use common::control::EventKind;
use common::rtp_parameters::MediaKind;

use super::Sfu;
use crate::feedback::{self, Item, ReportBlock};
use crate::parcel::Saying;
use crate::reception::NACK_INTERVAL;

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
        self.transports[slot].items.refill(now);
        feedback::parse(&data[..length], |item| self.on_rtcp_item(now, slot, item));
    }

    fn on_rtcp_item(&mut self, now: Instant, slot: usize, item: Item<'_>) {
        let count = match &item {
            Item::TransportFeedback(feedback) => 1 + feedback.count() as u32,
            _ => 1,
        };
        if !self.transports[slot].items.take(count) {
            self.counters.feedback_dropped += 1;
            return;
        }
        match item {
            Item::SenderReport { ssrc, ntp, timestamp } => {
                let route = self.transports[slot].sources.get(&ssrc).copied();
                if let Some(route) = route.filter(|route| !route.rtx) {
                    let encoding = &mut self.producers[route.producer].encodings[route.encoding];
                    encoding.reception.on_sender_report(now, ntp, timestamp);
                    let encoding = route.encoding;
                    self.export(route.producer, &Saying::SenderReport { encoding, ntp, timestamp });
                }
            }
            Item::Report(block) => self.on_report(now, slot, &block),
            Item::Nack { ssrc, entries } => {
                if let Some(consumer) = self.transports[slot].sinks.get(&ssrc).copied() {
                    self.on_nack(now, slot, consumer, entries);
                }
            }
            Item::KeyframeRequest { ssrc } => {
                if let Some(consumer) = self.transports[slot].sinks.get(&ssrc).copied() {
                    self.request_keyframe_for(now, consumer);
                }
            }
            Item::TransportFeedback(feedback) => self.on_transport_feedback(now, slot, &feedback),
            Item::Remb(bitrate) => self.on_remb(now, slot, bitrate),
        }
    }

    fn on_nack(&mut self, now: Instant, slot: usize, consumer: usize, entries: &[u8]) {
        for wire in feedback::nacked(entries) {
            if !self.transports[slot].items.take(1) {
                self.counters.feedback_dropped += 1;
                return;
            }
            self.retransmit(now, consumer, wire);
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
        let Some(encoding) = encoding.filter(|_| consumer.takes()) else { return };
        self.request_keyframe(now, consumer.producer, encoding);
    }

    /// Asks a producer, or the worker that has it.
    pub(super) fn request_keyframe(&mut self, now: Instant, producer: usize, encoding: usize) {
        let known = &mut self.producers[producer];
        if known.kind != MediaKind::Video || known.paused {
            return;
        }
        if known.is_imported() {
            return self.request_keyframe_afar(now, producer, encoding);
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
        self.elect_speaker(now, slot);
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
        self.review_downlink(now, slot);
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
                encoding.reception.due_nacks(now, NACK_INTERVAL, &mut lost);
                if let Some(ssrc) = encoding.ssrc {
                    let parts = lost.chunks(NACK_NUMBERS_MAX);
                    parts.for_each(|lost| feedback::write_nack(&mut compound, sender, ssrc, lost));
                }
                lost.clear();
            }
        }
        for part in feedback::split_compound(&compound) {
            transport.send_rtcp(&mut self.outbox, part);
        }
        self.scratch = compound;
    }

    /// Chooses a consumer's layer again, asks for the keyframe that it needs, and tells the hub what has changed.
    pub(super) fn review_layers(&mut self, now: Instant, key: usize) {
        let consumer = &mut self.consumers[key];
        let producer = &self.producers[consumer.producer];
        if consumer.paused || producer.paused || producer.kind != MediaKind::Video {
            return;
        }
        if producer.encodings.len() > 1 {
            consumer.selector.choose(producer.encodings.iter().map(|it| it.flows(now)));
        }
        let current = consumer.selector.current().filter(|_| consumer.takes());
        let flows = current.filter(|current| producer.encodings[*current].flows(now));
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
                let block = encoding.reception.report(now, ssrc);
                encoding.fraction_lost = block.as_ref().map_or(0, |block| block.fraction_lost);
                blocks.extend(block);
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
        let parts = feedback::split_compound(&compound);
        for part in parts {
            self.transports[slot].send_rtcp(&mut self.outbox, part);
        }
        self.tell_reception(slot);
        self.tell_downlink(slot);
        for producer in self.transports[slot].producers.clone() {
            self.review_wanted(now, producer);
        }
        self.tell_producer_scores(now, slot);
        self.tell_consumer_scores(slot);
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
}

/// REMB when the configuration sets no bound: enough for any camera.
const REMB_DEFAULT: u64 = 5_000_000;
/// Each may need four bytes, and one packet of RTCP is not cut.
const NACK_NUMBERS_MAX: usize = 256;
