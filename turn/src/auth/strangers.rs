//! A bound on answers to strangers: so many per second and network, in memory that no flood grows.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Buckets of [`StrangerLimit`]. Sources that share one share its rate: bounded memory is worth that.
const BUCKETS: usize = 4096;

/// How many answers strangers get per source network (/24 or /64), so that a spoofed flood is not passed on. Clones, one at
/// each worker, share the rate.
#[derive(Debug, Clone)]
pub struct StrangerLimit {
    per_second: u32,
    salt: u64,
    start: Instant,
    buckets: Arc<[AtomicU64]>,
}

/// Packed into one word: tokens high, the time of the last refill low.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: u32,
    /// Milliseconds since the start; wraps after 49 days.
    refilled_ms: u32,
}

impl Bucket {
    fn pack(self) -> u64 {
        u64::from(self.tokens) << 32 | u64::from(self.refilled_ms)
    }

    fn unpack(word: u64) -> Self {
        Self { tokens: (word >> 32) as u32, refilled_ms: word as u32 }
    }
}

impl StrangerLimit {
    /// `per_second` answers, and twice as many in a burst.
    pub fn new(per_second: u32, salt: u64, now: Instant) -> Self {
        let full = Bucket { tokens: per_second.saturating_mul(2), refilled_ms: 0 };
        let buckets = (0..BUCKETS).map(|_| AtomicU64::new(full.pack())).collect();
        Self { per_second, salt, start: now, buckets }
    }

    /// Whether one more answer may go there.
    pub fn take(&self, source: IpAddr, now: Instant) -> bool {
        let now_ms = now.saturating_duration_since(self.start).as_millis() as u32;
        let mut allowed = false;
        let bucket = &self.buckets[index(source, self.salt)];
        let taken = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let mut bucket = self.refilled(Bucket::unpack(word), now_ms);
            allowed = bucket.tokens > 0;
            bucket.tokens = bucket.tokens.saturating_sub(1);
            Some(bucket.pack())
        });
        debug_assert!(taken.is_ok(), "there is always a next value");
        allowed
    }

    fn refilled(&self, bucket: Bucket, now_ms: u32) -> Bucket {
        let elapsed = now_ms.wrapping_sub(bucket.refilled_ms);
        // Another worker's clock reading may be a moment later than ours.
        let elapsed = if elapsed > u32::MAX - 10_000 { 0 } else { elapsed.min(10_000) };
        let earned = (u64::from(elapsed) * u64::from(self.per_second) / 1000) as u32;
        if earned == 0 {
            return bucket;
        }
        let burst = self.per_second.saturating_mul(2);
        Bucket { tokens: bucket.tokens.saturating_add(earned).min(burst), refilled_ms: now_ms }
    }
}

fn index(source: IpAddr, salt: u64) -> usize {
    let network = match source {
        IpAddr::V4(ip) => u64::from(ip.to_bits() >> 8),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    };
    // Fibonacci hashing of a salted value: the high bits are well mixed.
    let mixed = (network ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> (64 - BUCKETS.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn strangers_of_one_network_share_a_rate() {
        let start = Instant::now();
        let limit = StrangerLimit::new(10, 1, start);
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!((0..100).filter(|_| limit.take(ip("203.0.113.5"), start)).count(), 20);
        assert!(!limit.take(ip("203.0.113.77"), start));
        assert!(limit.take(ip("198.51.100.1"), start));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| limit.take(ip("203.0.113.5"), later)).count(), 10);
    }
}
