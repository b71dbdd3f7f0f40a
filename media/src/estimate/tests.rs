//! The estimator on a link with a queue, fed through real feedback packets.

use std::time::{Duration, Instant};

use super::Estimator;
use crate::arrivals::Arrivals;
use crate::feedback::{self, Item};

/// A link with a queue of one second, 20 ms away.
struct Link {
    now: Instant,
    bps: f64,
    free: Instant,
    estimator: Estimator,
    arrivals: Arrivals,
    sequence: u16,
    /// Every so many packets is lost.
    lost_each: u16,
}

impl Link {
    fn new(bps: f64) -> Self {
        let now = Instant::now();
        let (estimator, arrivals) = (Estimator::new(now), Arrivals::new(now));
        Self { now, bps, free: now, estimator, arrivals, sequence: 65_000, lost_each: u16::MAX }
    }

    fn send(&mut self, bytes: usize) {
        self.sequence = self.sequence.wrapping_add(1);
        self.estimator.on_sent(self.now, self.sequence, bytes);
        if self.free > self.now + Duration::from_secs(1) || self.sequence.is_multiple_of(self.lost_each) {
            return;
        }
        self.free = self.free.max(self.now) + Duration::from_secs_f64(bytes as f64 * 8.0 / self.bps);
        self.arrivals.record(self.free + Duration::from_millis(20), self.sequence, 1);
    }

    /// Sends what `rate` says of the estimate, in milliseconds, with feedback each 50 of them.
    fn run(&mut self, time: Duration, wanted: u64, rate: impl Fn(Option<u64>) -> u64) {
        let mut due = 0.0;
        for ms in 1..=time.as_millis() {
            self.now += Duration::from_millis(1);
            due += rate(self.estimator.bitrate()) as f64 / 8000.0;
            while due >= 1000.0 {
                due -= 1000.0;
                self.send(1000);
            }
            self.estimator.begin_probe(self.now, wanted);
            while self.estimator.probe_bytes(self.now).is_some_and(|bytes| bytes > 0) {
                self.send(280);
            }
            if ms % 50 == 0 {
                let mut compound = Vec::new();
                self.arrivals.write(&mut compound, 1);
                let (estimator, now) = (&mut self.estimator, self.now);
                feedback::parse(&compound, |item| {
                    if let Item::TransportFeedback(feedback) = item {
                        estimator.on_feedback(now, &feedback);
                    }
                });
            }
        }
    }

    fn estimate(&self) -> u64 {
        self.estimator.bitrate().expect("something is known")
    }
}

#[test]
fn traffic_at_the_estimate_uses_the_link_and_no_more() {
    for bps in [300e3, 1e6, 3e6] {
        let mut link = Link::new(bps);
        link.run(Duration::from_secs(20), 0, |estimate| estimate.unwrap_or(600_000));
        let share = link.estimate() as f64 / bps;
        println!("link {:>4.0} kb/s: estimate {:>3.0} %", bps / 1000.0, 100.0 * share);
        assert!((0.6..1.2).contains(&share), "{bps}: {share}");
    }
}

#[test]
fn little_traffic_leaves_the_estimate_and_probes_raise_it() {
    let mut link = Link::new(3e6);
    link.run(Duration::from_secs(5), 0, |_| 200_000);
    assert_eq!(link.estimate(), 600_000);
    link.run(Duration::from_secs(5), 2_500_000, |_| 200_000);
    assert!((1_800_000..=3_200_000).contains(&link.estimate()), "{}", link.estimate());
}

#[test]
fn a_link_that_shrinks_is_noticed_within_a_second_and_its_return_within_ten() {
    let mut link = Link::new(3e6);
    let rate = |estimate: Option<u64>| estimate.unwrap_or(600_000).min(2_500_000);
    link.run(Duration::from_secs(10), 2_500_000, rate);
    link.bps = 300e3;
    link.run(Duration::from_secs(1), 2_500_000, rate);
    assert!(link.estimate() < 500_000, "{}", link.estimate());
    link.run(Duration::from_secs(10), 2_500_000, rate);
    assert!(link.estimate() < 400_000, "{}", link.estimate());
    link.bps = 3e6;
    link.run(Duration::from_secs(8), 2_500_000, rate);
    assert!(link.estimate() > 2_000_000, "{}", link.estimate());
}

#[test]
fn some_random_loss_is_no_congestion_and_much_is() {
    let mut link = Link::new(3e6);
    link.lost_each = 20;
    link.run(Duration::from_secs(10), 2_000_000, |estimate| estimate.unwrap_or(600_000).min(1_500_000));
    assert!(link.estimate() > 1_000_000, "{}", link.estimate());
    link.lost_each = 4;
    link.run(Duration::from_secs(10), 2_000_000, |estimate| estimate.unwrap_or(600_000).min(1_500_000));
    assert!(link.estimate() < 800_000, "{}", link.estimate());
}

#[test]
fn without_feedback_nothing_is_known_and_remb_is_believed() {
    let mut estimator = Estimator::new(Instant::now());
    assert_eq!(estimator.bitrate(), None);
    assert!(!estimator.begin_probe(Instant::now(), 1_000_000));
    estimator.on_remb(750_000);
    assert_eq!(estimator.bitrate(), Some(750_000));
}
