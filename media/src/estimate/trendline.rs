//! Whether a queue grows on the way: one-way delay between groups of packets, its slope, and a threshold that adapts
//! (draft-ietf-rmcat-gcc-02 §5.1–5.4; the slope by least squares over a window in place of the draft's Kalman filter, with
//! the constants of libwebrtc's `TrendlineEstimator` and `InterArrivalDelta`, M120).

use std::collections::VecDeque;

/// Packets sent within this belong to one group (draft §5.2).
const GROUP_US: u64 = 5_000;
/// A burst that arrives in one go counts as one group for so long.
const BURST_US: i64 = 100_000;
const WINDOW: usize = 20;
const SMOOTHING: f64 = 0.9;
const GAIN: f64 = 4.0;
const DELTAS_MAX: u32 = 60;
const THRESHOLD_START_MS: f64 = 12.5;
const THRESHOLD_MS: (f64, f64) = (6.0, 600.0);
const THRESHOLD_UP: f64 = 0.0087;
const THRESHOLD_DOWN: f64 = 0.039;
/// A jump beyond the threshold by more than this does not move it.
const OUTLIER_MS: f64 = 15.0;
const ADAPT_MS_MAX: f64 = 100.0;
/// Above the threshold for longer is overuse (draft §5.3).
const OVERUSE_MS: f64 = 10.0;

/// What the queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Usage {
    /// Nothing.
    #[default]
    Normal,
    /// It grows.
    Over,
    /// It drains.
    Under,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    first_sent_us: u64,
    last_sent_us: u64,
    first_arrival_us: i64,
    last_arrival_us: i64,
}

impl Group {
    fn takes(&self, sent_us: u64, arrival_us: i64) -> bool {
        if sent_us - self.first_sent_us <= GROUP_US {
            return true;
        }
        let apart_us = arrival_us - self.last_arrival_us;
        let growth_us = apart_us - (sent_us as i64 - self.last_sent_us as i64);
        growth_us < 0 && apart_us <= GROUP_US as i64 && arrival_us - self.first_arrival_us < BURST_US
    }
}

/// The detector.
#[derive(Debug)]
pub(super) struct Trendline {
    before: Option<Group>,
    current: Option<Group>,
    /// Arrival and smoothed delay, both in milliseconds.
    points: VecDeque<(f64, f64)>,
    first_arrival_us: Option<i64>,
    accumulated_ms: f64,
    smoothed_ms: f64,
    deltas: u32,
    threshold_ms: f64,
    adapted_ms: Option<f64>,
    over_ms: Option<f64>,
    over_count: u32,
    slope_before: f64,
    usage: Usage,
}

impl Default for Trendline {
    fn default() -> Self {
        Self {
            before: None,
            current: None,
            points: VecDeque::with_capacity(WINDOW + 1),
            first_arrival_us: None,
            accumulated_ms: 0.0,
            smoothed_ms: 0.0,
            deltas: 0,
            threshold_ms: THRESHOLD_START_MS,
            adapted_ms: None,
            over_ms: None,
            over_count: 0,
            slope_before: 0.0,
            usage: Usage::Normal,
        }
    }
}

impl Trendline {
    /// What the queue does now.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// A packet arrived, in the order of sending. Only differences of either clock count.
    pub fn on_packet(&mut self, sent_us: u64, arrival_us: i64) {
        let Some(current) = &mut self.current else {
            self.current = Some(Group::new(sent_us, arrival_us));
            return;
        };
        if sent_us < current.first_sent_us {
            return; // reordered on the way
        }
        if current.takes(sent_us, arrival_us) {
            current.last_sent_us = current.last_sent_us.max(sent_us);
            current.last_arrival_us = current.last_arrival_us.max(arrival_us);
            return;
        }
        let done = *current;
        *current = Group::new(sent_us, arrival_us);
        if let Some(before) = self.before.replace(done) {
            let sent_ms = (done.last_sent_us as f64 - before.last_sent_us as f64) / 1000.0;
            let arrival_ms = (done.last_arrival_us - before.last_arrival_us) as f64 / 1000.0;
            if arrival_ms >= 0.0 {
                self.on_delta(sent_ms, arrival_ms, done.last_arrival_us);
            }
        }
    }

    fn on_delta(&mut self, sent_ms: f64, arrival_ms: f64, at_us: i64) {
        let first_us = *self.first_arrival_us.get_or_insert(at_us);
        let now_ms = (at_us - first_us) as f64 / 1000.0;
        self.deltas = (self.deltas + 1).min(1000);
        self.accumulated_ms += arrival_ms - sent_ms;
        self.smoothed_ms = SMOOTHING * self.smoothed_ms + (1.0 - SMOOTHING) * self.accumulated_ms;
        self.points.push_back((now_ms, self.smoothed_ms));
        if self.points.len() > WINDOW {
            self.points.pop_front();
        }
        let slope = if self.points.len() == WINDOW {
            slope(&self.points).unwrap_or(self.slope_before)
        } else {
            self.slope_before
        };
        self.detect(slope, sent_ms, now_ms);
    }

    fn detect(&mut self, slope: f64, sent_ms: f64, now_ms: f64) {
        if self.deltas < 2 {
            return;
        }
        let trend_ms = f64::from(self.deltas.min(DELTAS_MAX)) * slope * GAIN;
        if trend_ms > self.threshold_ms {
            let over_ms = self.over_ms.map_or(sent_ms / 2.0, |over| over + sent_ms);
            self.over_ms = Some(over_ms);
            self.over_count += 1;
            if over_ms > OVERUSE_MS && self.over_count > 1 && slope >= self.slope_before {
                (self.over_ms, self.over_count) = (Some(0.0), 0);
                self.usage = Usage::Over;
            }
        } else {
            (self.over_ms, self.over_count) = (None, 0);
            self.usage = if trend_ms < -self.threshold_ms { Usage::Under } else { Usage::Normal };
        }
        self.slope_before = slope;
        self.adapt(trend_ms.abs(), now_ms);
    }

    /// Draft §5.4: so that flows that fill queues do not starve ours.
    fn adapt(&mut self, trend_ms: f64, now_ms: f64) {
        let since_ms = (now_ms - self.adapted_ms.replace(now_ms).unwrap_or(now_ms)).clamp(0.0, ADAPT_MS_MAX);
        if trend_ms > self.threshold_ms + OUTLIER_MS {
            return;
        }
        let speed = if trend_ms < self.threshold_ms { THRESHOLD_DOWN } else { THRESHOLD_UP };
        self.threshold_ms += speed * (trend_ms - self.threshold_ms) * since_ms;
        self.threshold_ms = self.threshold_ms.clamp(THRESHOLD_MS.0, THRESHOLD_MS.1);
    }
}

impl Group {
    fn new(sent_us: u64, arrival_us: i64) -> Self {
        Self {
            first_sent_us: sent_us,
            last_sent_us: sent_us,
            first_arrival_us: arrival_us,
            last_arrival_us: arrival_us,
        }
    }
}

/// Least squares; `None` when all points stand at one time.
fn slope(points: &VecDeque<(f64, f64)>) -> Option<f64> {
    let count = points.len() as f64;
    let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    let mean = (sum.0 / count, sum.1 / count);
    let (mut above, mut below) = (0.0, 0.0);
    for (x, y) in points {
        above += (x - mean.0) * (y - mean.1);
        below += (x - mean.0) * (x - mean.0);
    }
    (below > 0.0).then(|| above / below)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets every 10 ms whose delay changes by `growth_us` each.
    fn run(trendline: &mut Trendline, from: u64, count: u64, growth_us: i64) -> Usage {
        for n in from..from + count {
            let sent_us = n * 10_000;
            let delay_us = 50_000 + (n - from) as i64 * growth_us;
            trendline.on_packet(sent_us, sent_us as i64 + delay_us);
        }
        trendline.usage()
    }

    #[test]
    fn a_growing_queue_is_overuse_and_a_draining_one_underuse() {
        let mut trendline = Trendline::default();
        assert_eq!(run(&mut trendline, 0, 100, 0), Usage::Normal);
        assert_eq!(run(&mut trendline, 100, 40, 2_000), Usage::Over);
        let mut trendline = Trendline::default();
        run(&mut trendline, 0, 40, 0);
        assert_eq!(run(&mut trendline, 40, 40, -1_000), Usage::Under);
    }

    #[test]
    fn jitter_is_no_queue() {
        let mut trendline = Trendline::default();
        for n in 0..500u64 {
            let jitter_us = (n * 7919 % 11) as i64 * 500;
            trendline.on_packet(n * 20_000, (n * 20_000) as i64 + jitter_us);
            assert_ne!(trendline.usage(), Usage::Over, "packet {n}");
        }
    }

    #[test]
    fn any_order_and_any_clock_is_survived() {
        let mut trendline = Trendline::default();
        for n in 0..2000u64 {
            let sent_us = n.wrapping_mul(2_654_435_761) % 1_000_000;
            trendline.on_packet(sent_us, (n.wrapping_mul(40_503) % 70_000) as i64 * 1000 - 35_000_000);
        }
        assert!(trendline.threshold_ms.is_finite());
    }
}
