//! A bound on answers to strangers: so many per second and network, in memory that no flood grows.

use std::net::IpAddr;
use std::time::Instant;

/// Buckets of [`StrangerLimit`]. Sources that share one share its rate: bounded memory is worth that.
const BUCKETS: usize = 4096;

/// How many answers strangers get per source network (/24 or /64), so that a spoofed flood is not passed on.
#[derive(Debug)]
pub struct StrangerLimit {
    per_second: u32,
    salt: u64,
    buckets: Vec<Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
}

impl StrangerLimit {
    /// `per_second` answers, and twice as many in a burst.
    pub fn new(per_second: u32, salt: u64, now: Instant) -> Self {
        let full = Bucket { tokens: per_second.saturating_mul(2), refilled: now };
        Self { per_second, salt, buckets: vec![full; BUCKETS] }
    }

    /// Whether one more answer may go there.
    pub fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        let burst = self.per_second.saturating_mul(2);
        let bucket = &mut self.buckets[index(source, self.salt)];
        let elapsed = now.saturating_duration_since(bucket.refilled).as_millis().min(10_000) as u64;
        let earned = (elapsed * u64::from(self.per_second) / 1000) as u32;
        if earned > 0 {
            bucket.tokens = bucket.tokens.saturating_add(earned).min(burst);
            bucket.refilled = now;
        }
        let allowed = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        allowed
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
        let mut limit = StrangerLimit::new(10, 1, start);
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!((0..100).filter(|_| limit.take(ip("203.0.113.5"), start)).count(), 20);
        assert!(!limit.take(ip("203.0.113.77"), start));
        assert!(limit.take(ip("198.51.100.1"), start));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| limit.take(ip("203.0.113.5"), later)).count(), 10);
    }
}
