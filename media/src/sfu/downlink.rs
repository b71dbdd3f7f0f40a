//! A subscriber's link: what its client says of it, how it is shared among what the client watches (`allocate`), when more of
//! it is looked for (probes), and what the hub is told.

use std::time::{Duration, Instant};

use common::control::EventKind;

use super::Sfu;
use crate::allocate::{self, Step, Stream};
use crate::consumer::Consumer;
use crate::estimate::Estimator;
use crate::feedback::TransportFeedback;
use crate::producer::Producer;

/// Smaller changes are not told.
const TOLD_CHANGE: f64 = 0.1;
/// An estimate that falls below this share of what was allocated is acted upon at once.
const FALLEN: f64 = 0.9;
/// Layers that were taken away do not come back sooner.
const CALM: Duration = Duration::from_secs(2);
/// A layer that costs so many times the stream's share is left at once, without waiting for the lower one's keyframe: it would
/// fill the queue in front of the audio.
const UNBEARABLE: u64 = 2;
/// Between two bursts of a probe (libwebrtc's min_probe_delta).
const PROBE_BURST_INTERVAL: Duration = Duration::from_millis(2);
/// Padding packets of one burst: 2 ms at 20 Mb/s.
const PROBE_BURST_PACKETS_MAX: usize = 20;

impl Sfu {
    pub(super) fn on_transport_feedback(
        &mut self,
        now: Instant,
        slot: usize,
        feedback: &TransportFeedback<'_>,
    ) {
        let transport = &mut self.transports[slot];
        let Some(estimator) = &mut transport.estimator else { return };
        if !estimator.on_feedback(now, feedback) {
            return;
        }
        let fallen = |bitrate: u64| (bitrate as f64) < FALLEN * transport.allocated_bitrate as f64;
        if estimator.bitrate().is_some_and(fallen) {
            self.review_downlink(now, slot);
            for consumer in self.transports[slot].consumers.clone() {
                self.review_layers(now, consumer);
            }
        }
    }

    pub(super) fn on_remb(&mut self, now: Instant, slot: usize, bitrate: u64) {
        let transport = &mut self.transports[slot];
        // Of a publisher it means nothing.
        if !transport.consumers.is_empty() {
            transport.estimator.get_or_insert_with(|| Estimator::new(now)).on_remb(bitrate);
        }
    }

    /// Shares the estimate among the transport's consumers, and probes when more could be used.
    pub(super) fn review_downlink(&mut self, now: Instant, slot: usize) {
        let Some(estimate) = self.transports[slot].estimator.as_ref().and_then(Estimator::bitrate) else {
            return;
        };
        let (mut reserved, mut streams) = (0, Vec::new());
        for key in &self.transports[slot].consumers {
            let consumer = &self.consumers[*key];
            let producer = &self.producers[consumer.producer];
            if consumer.paused || producer.paused {
                continue;
            }
            let steps = steps(now, producer, consumer.preferred);
            match steps[..] {
                [] => {}
                [only] => reserved += only.bps,
                _ => streams.push(stream(*key, consumer, steps)),
            }
        }
        let wanted = reserved + allocate::wanted_bps(&streams);
        allocate::allocate(estimate.saturating_sub(reserved), &mut streams);
        let transport = &mut self.transports[slot];
        transport.allocated_bitrate = estimate;
        let is_calm = transport.reduced.is_none_or(|at| now.saturating_duration_since(at) >= CALM);
        if streams.iter().any(|stream| stream.given < stream.held) {
            transport.reduced = Some(now);
        }
        for stream in streams.iter_mut().filter(|stream| !is_calm && stream.held > 0) {
            stream.given = stream.given.min(stream.held);
        }
        transport.allocated_cost = reserved + allocate::given_bps(&streams);
        streams.iter().for_each(|stream| self.give(stream));
        self.begin_probe(now, slot, wanted);
    }

    fn give(&mut self, stream: &Stream) {
        let consumer = &mut self.consumers[stream.key];
        let before = std::mem::replace(&mut consumer.allocated, stream.layers());
        let Some((spatial, temporal)) = stream.layers() else { return };
        if stream.given == stream.steps.len() {
            // What is not there yet will be taken when it comes.
            consumer.selector.prefer(consumer.preferred.0, consumer.preferred.1);
        } else {
            consumer.selector.prefer(spatial, Some(temporal));
        }
        let cost = |steps: usize| steps.checked_sub(1).map_or(0, |at| stream.steps[at].bps);
        let is_unbearable = cost(stream.held) > UNBEARABLE * cost(stream.given);
        let is_other = consumer.selector.current().is_some_and(|current| current > usize::from(spatial));
        let is_simulcast = self.producers[consumer.producer].encodings.len() > 1;
        if before.is_none() || is_simulcast && is_other && is_unbearable {
            consumer.selector.restart();
        }
    }

    /// A probe needs somebody who has sent something in a stream with retransmissions.
    fn begin_probe(&mut self, now: Instant, slot: usize, wanted: u64) {
        if self.prober_of(slot).is_none() {
            return;
        }
        let transport = &mut self.transports[slot];
        if transport.estimator.as_mut().is_some_and(|estimator| estimator.begin_probe(now, wanted)) {
            transport.next_probe = Some(now);
            self.send_probe(now, slot);
            self.arm(slot);
        }
    }

    fn prober_of(&self, slot: usize) -> Option<usize> {
        self.transports[slot].consumers.iter().copied().find(|key| {
            let consumer = &self.consumers[*key];
            let can = consumer.rtx_ssrc.is_some() && consumer.extensions.transport_cc.is_some();
            can && !consumer.paused && consumer.newest_sent().is_some()
        })
    }

    /// What the running probe wants on the wire now.
    pub(super) fn send_probe(&mut self, now: Instant, slot: usize) {
        self.transports[slot].next_probe = None;
        let Some(key) = self.prober_of(slot) else { return };
        let mut packets = 0;
        loop {
            let estimator = self.transports[slot].estimator.as_ref();
            match estimator.and_then(|estimator| estimator.probe_bytes(now)) {
                None => return,
                Some(bytes) if bytes > 0 && packets < PROBE_BURST_PACKETS_MAX => {}
                Some(_) => break,
            }
            if !self.send_padding(now, key) {
                return;
            }
            packets += 1;
        }
        self.transports[slot].next_probe = Some(now + PROBE_BURST_INTERVAL);
    }

    /// Once per report interval, and only news.
    pub(super) fn tell_downlink(&mut self, slot: usize) {
        let transport = &mut self.transports[slot];
        let Some(estimator) = &transport.estimator else { return };
        let Some(available_bitrate) = estimator.bitrate() else { return };
        let change = |told: u64| available_bitrate.abs_diff(told) as f64 > TOLD_CHANGE * told as f64;
        if !transport.told_bitrate.is_none_or(change) {
            return;
        }
        transport.told_bitrate = Some(available_bitrate);
        let (loss, by_feedback) = (estimator.loss() as f32, estimator.round_trip());
        // A report's round trip does not contain the wait for feedback.
        let round_trip = transport.round_trip.unwrap_or(by_feedback);
        let (room, peer) = (transport.room.clone(), transport.peer.clone());
        self.tell(&room, &peer, EventKind::Downlink { available_bitrate, loss, round_trip });
    }
}

fn stream(key: usize, consumer: &Consumer, steps: Vec<Step>) -> Stream {
    let held = consumer
        .allocated
        .map_or(0, |allocated| steps.iter().take_while(|step| step.layers <= allocated).count());
    Stream { key, priority: consumer.priority, steps, held, given: 0 }
}

/// What can be had of a producer up to the preferred layers, ascending in cost: temporal layers within spatial ones. A layer
/// that costs no more than a lower one takes its place.
fn steps(now: Instant, producer: &Producer, (spatial, temporal): (u8, Option<u8>)) -> Vec<Step> {
    let temporal = temporal.unwrap_or(u8::MAX);
    let mut steps: Vec<Step> = Vec::new();
    let mut add = |layers: (u8, u8), bps: Option<u64>| {
        let Some(bps) = bps else { return };
        while steps.last().is_some_and(|last| last.bps >= bps) {
            steps.pop();
        }
        steps.push(Step { layers, bps });
    };
    let mut is_first = true;
    for (at, encoding) in producer.encodings.iter().enumerate().filter(|(_, it)| it.flows(now)) {
        let highest = encoding.layers.highest();
        let top = highest.1.min(temporal);
        if let [_] = producer.encodings[..] {
            for within in 0..=highest.0.min(spatial) {
                (0..=top).for_each(|layer| add((within, layer), encoding.rates.up_to((within, layer))));
            }
        } else if is_first || at <= usize::from(spatial) {
            is_first = false;
            (0..=top).for_each(|layer| add((at as u8, layer), encoding.rates.up_to((u8::MAX, layer))));
        }
    }
    steps
}
