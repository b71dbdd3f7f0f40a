//! How much a subscriber's link carries, seen from us, the sender. It follows draft-ietf-rmcat-gcc-02, with the parts and
//! constants that libwebrtc's goog_cc added by milestone M120: the trendline in place of the Kalman filter, the acknowledged
//! rate, application-limited regions, probes; `collapse` is ours. REMB is believed where a client sends nothing else.
//!
//! `sfu/rtp` tells what is sent, `sfu/rtcp` what came back, `allocate` uses the figure. str0m has an estimator of this kind,
//! which only its own sessions can use.

mod acked;
mod alr;
mod collapse;
mod history;
mod loss;
mod probe;
mod rate;
mod trendline;

use std::time::{Duration, Instant};

use crate::feedback::TransportFeedback;
use acked::Acked;
use alr::Alr;
use collapse::Collapse;
use history::History;
use loss::{LossBound, Seen};
use probe::Prober;
use rate::DelayRate;
use trendline::{Trendline, Usage};

/// Bits per second; below there is no conversation.
const MIN_BPS: f64 = 30_000.0;
/// Above it nobody asks.
const MAX_BPS: f64 = 1e9;
/// What a link is taken for at least as long as it shows no congestion; mediasoup's initialAvailableOutgoingBitrate.
const START_BPS: f64 = 600_000.0;
/// After such a silence delays are not comparable any more (libwebrtc's stream timeout).
const SILENCE_US: u64 = 2_000_000;
/// Of the receiver's clock, in units of 64 ms: its microseconds fit 64 bits.
const UNROLLED_MAX: u64 = 1 << 40;
const SENDING_WINDOW_US: u64 = 300_000;
const ROUND_TRIP_START_US: u64 = 200_000;

/// The estimator of one transport.
#[derive(Debug)]
pub struct Estimator {
    start: Instant,
    history: History,
    trendline: Trendline,
    collapse: Collapse,
    acked: Acked,
    alr: Alr,
    loss: LossBound,
    prober: Prober,
    /// Once something is known.
    delay: Option<DelayRate>,
    remb_bps: Option<f64>,
    round_trip_us: u64,
    heard_us: Option<u64>,
    clock: ReceiverClock,
    sending: Sending,
}

/// How much is sent, by our clock.
#[derive(Debug, Default)]
struct Sending {
    begun_us: u64,
    bytes: u64,
    bps: f64,
}

impl Sending {
    fn on_sent(&mut self, bytes: usize, now_us: u64) {
        let since_us = now_us.saturating_sub(self.begun_us);
        if since_us >= SENDING_WINDOW_US {
            self.bps = self.bytes as f64 * 8e6 / since_us as f64;
            (self.begun_us, self.bytes) = (now_us, 0);
        }
        self.bytes += bytes as u64;
    }
}

/// The receiver's clock of 24 bits, unrolled.
#[derive(Debug, Default)]
struct ReceiverClock {
    last: Option<u32>,
    unrolled: i64,
}

impl ReceiverClock {
    /// The reference time of a feedback packet, in units of 250 µs.
    fn ticks(&mut self, reference: u32) -> i64 {
        let before = self.last.replace(reference).unwrap_or(reference);
        // Sign extension of the 24-bit difference.
        let step = ((reference.wrapping_sub(before) << 8) as i32) >> 8;
        self.unrolled += i64::from(step);
        if self.unrolled.unsigned_abs() > UNROLLED_MAX {
            self.unrolled = 0; // nobody's clock has gone so far
        }
        self.unrolled * 256
    }
}

impl Estimator {
    /// Nothing is known.
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            history: History::default(),
            trendline: Trendline::default(),
            collapse: Collapse::default(),
            acked: Acked::default(),
            alr: Alr::default(),
            loss: LossBound::default(),
            prober: Prober::default(),
            delay: None,
            remb_bps: None,
            round_trip_us: ROUND_TRIP_START_US,
            heard_us: None,
            clock: ReceiverClock::default(),
            sending: Sending::default(),
        }
    }

    fn us(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_micros() as u64
    }

    /// Bits per second, when anything is known.
    pub fn bitrate(&self) -> Option<u64> {
        self.bps().map(|bps| bps as u64)
    }

    fn bps(&self) -> Option<f64> {
        let delay = self.delay.as_ref().map(DelayRate::bps);
        let bps = delay.map(|delay| self.loss.bps().map_or(delay, |loss| delay.min(loss)));
        bps.or(self.remb_bps)
    }

    /// Whether a queue grows on the way.
    pub fn is_overused(&self) -> bool {
        self.trendline.usage() == Usage::Over
    }

    /// A packet left under this transport-wide sequence number; `bytes` of the datagram.
    pub fn on_sent(&mut self, now: Instant, sequence: u16, bytes: usize) {
        let now_us = self.us(now);
        let cluster = self.prober.on_sent(bytes);
        self.history.sent(sequence, bytes, cluster, now_us);
        self.sending.on_sent(bytes, now_us);
        if let Some(bps) = self.bps().filter(|_| cluster == 0) {
            self.alr.on_sent(bytes, bps, now_us);
        }
    }

    /// The receiver says what came. Whether any of it was news.
    pub fn on_feedback(&mut self, now: Instant, feedback: &TransportFeedback<'_>) -> bool {
        let now_us = self.us(now);
        if self.heard_us.replace(now_us).is_some_and(|at| now_us.saturating_sub(at) > SILENCE_US) {
            self.trendline = Trendline::default();
            self.collapse = Collapse::default();
        }
        let (mut seen, mut newest_us) = (Seen::default(), None);
        let mut ticks = self.clock.ticks(feedback.reference());
        for (wire, delta) in feedback.packets() {
            let Some(delta) = delta else {
                seen.lost += u32::from(self.history.missing(wire));
                continue;
            };
            ticks += i64::from(delta);
            let Some((sent, was_missing)) = self.history.arrived(wire) else { continue };
            let arrival_us = ticks * 250;
            seen.arrived += 1;
            seen.late += u32::from(was_missing);
            newest_us = newest_us.max(Some(sent.at_us));
            self.trendline.on_packet(sent.at_us, arrival_us);
            self.collapse.on_packet(sent.at_us, arrival_us, u64::from(sent.bytes));
            self.acked.on_packet(arrival_us, u64::from(sent.bytes));
            self.prober.on_arrival(&sent, arrival_us);
        }
        if seen == Seen::default() {
            return false;
        }
        if let Some(newest_us) = newest_us {
            let round_trip_us = now_us.saturating_sub(newest_us);
            self.round_trip_us = (7 * self.round_trip_us + round_trip_us) / 8;
        }
        self.update(seen, now_us);
        true
    }

    fn update(&mut self, seen: Seen, now_us: u64) {
        let (usage, acked, limited) = (self.trendline.usage(), self.acked.bps(), self.alr.is_limited());
        let Some(delay) = &mut self.delay else {
            self.loss.on_feedback(seen, MAX_BPS, acked, self.round_trip_us, now_us);
            let congested = usage == Usage::Over || self.loss.bps().is_some();
            if let Some(acked) = acked {
                let bps = if congested { acked } else { acked.max(START_BPS) };
                self.loss = LossBound::default();
                self.delay = Some(DelayRate::new(bps, now_us));
            }
            return;
        };
        if let Some(carried_bps) = self.collapse.take() {
            delay.on_collapse(carried_bps, now_us);
        }
        let may_rise = usage != Usage::Over && !self.loss.is_high();
        let shown = self.prober.result(now_us).filter(|_| may_rise);
        if let Some(bps) = shown {
            delay.on_probe(bps, now_us);
            self.loss.on_probe(bps);
        }
        delay.update(usage, (self.sending.bps, acked), self.round_trip_us, limited, now_us);
        self.loss.on_feedback(seen, delay.bps(), acked, self.round_trip_us, now_us);
    }

    /// The receiver's own estimate, for clients without transport-wide feedback.
    pub fn on_remb(&mut self, bitrate: u64) {
        self.remb_bps = Some((bitrate as f64).clamp(MIN_BPS, MAX_BPS));
    }

    /// Share of packets that was lost lately, 0–1.
    pub fn loss(&self) -> f64 {
        self.loss.fraction()
    }

    /// From sending to feedback.
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip_us)
    }

    /// Begins a probe when `wanted` bits per second could be used and are not known to be there.
    pub fn begin_probe(&mut self, now: Instant, wanted: u64) -> bool {
        let now_us = self.us(now);
        let (Some(bps), Some(delay)) = (self.bps(), &self.delay) else { return false };
        let silent = self.heard_us.is_none_or(|at| now_us.saturating_sub(at) > SILENCE_US);
        let may_rise = !silent && !self.is_overused() && !self.loss.is_high();
        may_rise && self.prober.begin(bps, wanted as f64, delay.reduced_us(), now_us)
    }

    /// Bytes that a running probe wants on the wire now; `None` when none is running.
    pub fn probe_bytes(&self, now: Instant) -> Option<u64> {
        self.prober.wants(self.us(now))
    }
}

#[cfg(test)]
mod tests;
