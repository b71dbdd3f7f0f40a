//! A subscriber's downlink: so many bits per second, a queue of half a second, and a way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Longer queues drop at the tail.
const QUEUE_MAX: Duration = Duration::from_millis(500);
const WAY: Duration = Duration::from_millis(20);
/// IPv4 and UDP.
const OVERHEAD_BYTES: usize = 28;

pub struct Link {
    pub bps: f64,
    free: Instant,
    flying: VecDeque<(Instant, Vec<u8>)>,
    pub bytes: usize,
    pub dropped: usize,
    /// Longest wait in the queue.
    pub waited: Duration,
}

impl Link {
    pub fn new(bps: f64, now: Instant) -> Self {
        Self { bps, free: now, flying: VecDeque::new(), bytes: 0, dropped: 0, waited: Duration::ZERO }
    }

    pub fn push(&mut self, now: Instant, datagram: Vec<u8>) {
        let wait = self.free.saturating_duration_since(now);
        if wait > QUEUE_MAX {
            self.dropped += 1;
            return;
        }
        self.waited = self.waited.max(wait);
        let bytes = datagram.len() + OVERHEAD_BYTES;
        self.bytes += bytes;
        self.free = self.free.max(now) + Duration::from_secs_f64(bytes as f64 * 8.0 / self.bps);
        self.flying.push_back((self.free + WAY, datagram));
    }

    pub fn pop(&mut self, now: Instant) -> Option<(Instant, Vec<u8>)> {
        if self.flying.front().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        self.flying.pop_front()
    }
}
