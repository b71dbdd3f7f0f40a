//! The rate that the delay allows: up by a factor far from the link's capacity and by a packet per round trip near it, down
//! to 0.85 of what arrives (draft-ietf-rmcat-gcc-02 §5.5; constants of libwebrtc's `AimdRateControl`, M120).

use super::trendline::Usage;
use super::{MAX_BPS, MIN_BPS};

/// Draft §5.5: beta.
const BACKOFF: f64 = 0.85;
/// Draft §5.5: eta, per second.
const GROWTH_PER_SECOND: f64 = 1.08;
/// The estimate does not run away from what is really sent.
const AHEAD: f64 = 1.5;
const AHEAD_BPS: f64 = 10_000.0;
/// What a queue adds to the round trip before it is noticed.
const RESPONSE_US: u64 = 100_000;
/// Share of what is sent that arrives when nothing is in the way.
const ARRIVES: f64 = 0.8;
const PACKET_BITS: f64 = 1200.0 * 8.0;
const ADDITIVE_BPS_MIN: f64 = 4_000.0;
const REDUCE_AGAIN_US: (u64, u64) = (10_000, 200_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Hold,
    Increase,
}

/// Where the link was seen to be full: mean and deviation of what arrived then.
#[derive(Debug, Default)]
struct Capacity {
    kbps: Option<f64>,
    deviation: f64,
}

impl Capacity {
    fn sample(&mut self, kbps: f64, weight: f64) {
        let mean = self.kbps.map_or(kbps, |mean| (1.0 - weight) * mean + weight * kbps);
        self.kbps = Some(mean);
        let error = mean - kbps;
        self.deviation = (1.0 - weight) * self.deviation + weight * error * error / mean.max(1.0);
        self.deviation = self.deviation.clamp(0.4, 2.5);
    }

    /// Further away than three deviations it is another link.
    fn forget_when_wrong(&mut self, kbps: f64) {
        if let Some(mean) = self.kbps
            && (kbps - mean).abs() > 3.0 * (self.deviation * mean).sqrt()
        {
            *self = Self::default();
        }
    }
}

/// The rate.
#[derive(Debug)]
pub(super) struct DelayRate {
    bps: f64,
    state: State,
    capacity: Capacity,
    changed_us: u64,
    reduced_us: Option<u64>,
}

impl DelayRate {
    /// Begins at `bps`.
    pub fn new(bps: f64, now_us: u64) -> Self {
        Self {
            bps: bps.clamp(MIN_BPS, MAX_BPS),
            state: State::Increase,
            capacity: Capacity::default(),
            changed_us: now_us,
            reduced_us: None,
        }
    }

    /// Bits per second.
    pub fn bps(&self) -> f64 {
        self.bps
    }

    /// When it was last reduced.
    pub fn reduced_us(&self) -> Option<u64> {
        self.reduced_us
    }

    /// A probe has shown that so much arrives.
    pub fn on_probe(&mut self, bps: f64, now_us: u64) {
        if bps > self.bps {
            self.bps = bps.min(MAX_BPS);
            self.capacity.forget_when_wrong(bps / 1000.0);
            self.changed_us = now_us;
        }
    }

    /// The link carries `bps` now, much less than before, and what was sent too much stands in a queue.
    pub fn on_collapse(&mut self, bps: f64, now_us: u64) {
        let wanted = BACKOFF * bps;
        if wanted < self.bps {
            self.bps = wanted.max(MIN_BPS);
            self.capacity = Capacity::default();
            (self.state, self.changed_us, self.reduced_us) = (State::Hold, now_us, Some(now_us));
        }
    }

    /// Feedback has come. `acked_bps` is what arrives, `alr` that less is sent than may be.
    ///
    /// `sent_bps` tells a burst from congestion: when nearly all that is sent arrives, a queue is a keyframe on its way, and
    /// what arrives (less than is allowed) does not bound the link.
    pub fn update(
        &mut self,
        usage: Usage,
        (sent_bps, acked_bps): (f64, Option<f64>),
        round_trip_us: u64,
        alr: bool,
        now_us: u64,
    ) {
        match usage {
            Usage::Over => self.decrease(sent_bps, acked_bps, round_trip_us, now_us),
            Usage::Under => (self.state, self.changed_us) = (State::Hold, now_us),
            Usage::Normal if self.state == State::Hold => {
                (self.state, self.changed_us) = (State::Increase, now_us);
            }
            Usage::Normal => self.increase(acked_bps, round_trip_us, alr, now_us),
        }
    }

    fn increase(&mut self, acked_bps: Option<f64>, round_trip_us: u64, alr: bool, now_us: u64) {
        let since_us = now_us.saturating_sub(std::mem::replace(&mut self.changed_us, now_us));
        let limit = acked_bps.map_or(MAX_BPS, |acked| AHEAD * acked + AHEAD_BPS);
        if alr || self.bps >= limit {
            return;
        }
        if let Some(acked) = acked_bps
            && self.capacity.kbps.is_some_and(|mean| acked / 1000.0 > mean)
        {
            self.capacity.forget_when_wrong(acked / 1000.0);
        }
        let seconds = (since_us as f64 / 1e6).min(1.0);
        let step = if self.capacity.kbps.is_some() {
            let response_seconds = (round_trip_us + RESPONSE_US) as f64 / 1e6;
            (PACKET_BITS / response_seconds).max(ADDITIVE_BPS_MIN) * seconds
        } else {
            (self.bps * (GROWTH_PER_SECOND.powf(seconds) - 1.0)).max(1000.0 * seconds)
        };
        self.bps = (self.bps + step).min(limit).clamp(MIN_BPS, MAX_BPS);
    }

    fn decrease(&mut self, sent_bps: f64, acked_bps: Option<f64>, round_trip_us: u64, now_us: u64) {
        let acked = acked_bps.unwrap_or(self.bps);
        let pause_us = round_trip_us.clamp(REDUCE_AGAIN_US.0, REDUCE_AGAIN_US.1);
        let again = self.reduced_us.is_none_or(|at| now_us.saturating_sub(at) >= pause_us);
        if !again && acked > 0.5 * self.bps {
            return;
        }
        let mut wanted = BACKOFF * acked;
        if wanted > self.bps {
            wanted = self.capacity.kbps.map_or(wanted, |kbps| BACKOFF * kbps * 1000.0);
        }
        if acked >= ARRIVES * sent_bps {
            wanted = wanted.max(BACKOFF * self.bps);
        }
        self.bps = self.bps.min(wanted).max(MIN_BPS);
        self.capacity.forget_when_wrong(acked / 1000.0);
        self.capacity.sample(acked / 1000.0, 0.05);
        (self.state, self.changed_us, self.reduced_us) = (State::Hold, now_us, Some(now_us));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_by_eight_percent_a_second_and_falls_below_what_arrives() {
        let mut rate = DelayRate::new(1e6, 0);
        for n in 1..=20u64 {
            rate.update(Usage::Normal, (1e6, Some(1e6)), 50_000, false, n * 50_000);
        }
        assert!((1.07e6..1.09e6).contains(&rate.bps()), "{}", rate.bps());
        rate.update(Usage::Over, (1e6, Some(4e5)), 50_000, false, 1_050_000);
        assert!((rate.bps() - 3.4e5).abs() < 1.0);
        rate.update(Usage::Over, (1e6, Some(4e5)), 50_000, false, 1_060_000);
        assert!((rate.bps() - 3.4e5).abs() < 1.0, "not twice in a round trip");
    }

    #[test]
    fn it_does_not_run_away_from_what_is_sent() {
        let mut rate = DelayRate::new(1e6, 0);
        for n in 1..1000u64 {
            rate.update(Usage::Normal, (1e6, Some(1e5)), 50_000, false, n * 100_000);
        }
        assert!((rate.bps() - 1e6).abs() < 1.0, "and is not lowered either");
        rate.on_probe(2e6, 0);
        assert!((rate.bps() - 2e6).abs() < 1.0);
    }
}
