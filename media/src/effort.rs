//! What a client's feedback may make us do. One datagram can name thousands of packets, sources and statuses, and a few bytes
//! of NACK a packet of 1.2 kB: what is read of it is bounded in time, what is sent again by what was sent.
//!
//! `sfu/rtcp` asks before it acts; what is refused is counted, and a client that meant it asks again.

use std::time::{Duration, Instant};

/// Items that are read at once: four times what the largest feedback says that is read at all (`feedback::REPORTED_MAX`).
pub const ITEMS_BURST: u32 = 8192;
/// And per second: four statuses for each packet to a client that is sent 200 Mb/s.
pub const ITEMS_PER_SECOND: u32 = 1 << 16;
const NANOS_PER_SECOND: u128 = 1_000_000_000;
/// Bytes that are sent again at once: a whole store of one camera's packets (`reception::KEPT_MAX`).
pub const REPAIR_BYTES_BURST: u64 = 600_000;
/// Of a link whose rate is known, so much of it: what is repeated into a full queue makes it fuller, and is lost again.
const REPAIR_SHARE: f64 = 0.5;
/// What that comes to in so long may leave at once.
const REPAIR_WINDOW: Duration = Duration::from_millis(500);

/// Items of RTCP packets: a report, a request for a keyframe, a number that is missed, the status of a packet.
#[derive(Debug)]
pub struct Items {
    left: u32,
    at: Option<Instant>,
}

impl Default for Items {
    fn default() -> Self {
        Self { left: ITEMS_BURST, at: None }
    }
}

impl Items {
    /// A datagram has come: what has become free since the last one.
    pub fn refill(&mut self, now: Instant) {
        let at = *self.at.get_or_insert(now);
        let since = now.saturating_duration_since(at).as_nanos();
        let more = since * u128::from(ITEMS_PER_SECOND) / NANOS_PER_SECOND;
        // What does not make a whole item counts for the next one.
        let rest = since - (more * NANOS_PER_SECOND).div_ceil(ITEMS_PER_SECOND.into());
        self.at = now.checked_sub(Duration::from_nanos(rest as u64));
        self.left = u128::from(self.left).saturating_add(more).min(ITEMS_BURST.into()) as u32;
    }

    /// Whether so many are to be read.
    pub fn take(&mut self, count: u32) -> bool {
        let left = self.left.checked_sub(count);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

/// Bytes of retransmissions: in the long run as many as are sent otherwise, which repairs a loss of half, and no more than a
/// share of the link.
#[derive(Debug)]
pub struct Repairs {
    /// When all that was sent again is through at the link's share.
    free: Option<Instant>,
    left: u64,
    /// Bytes that have counted, or are retransmissions.
    counted: u64,
}

impl Default for Repairs {
    fn default() -> Self {
        Self { free: None, left: REPAIR_BYTES_BURST, counted: 0 }
    }
}

impl Repairs {
    /// Whether anything may be sent again after `sent` bytes of all sorts.
    pub fn allows(&mut self, now: Instant, sent: u64) -> bool {
        let more = sent.saturating_sub(self.counted);
        self.left = self.left.saturating_add(more).min(REPAIR_BYTES_BURST);
        self.counted = sent;
        self.left > 0 && self.free.is_none_or(|free| free <= now + REPAIR_WINDOW)
    }

    /// A packet of so many bytes was sent again, over a link that carries so many bits per second, if that is known.
    pub fn on_sent(&mut self, now: Instant, bytes: u64, link_bps: Option<u64>) {
        if let Some(bps) = link_bps {
            let free = self.free.map_or(now, |free| free.max(now));
            self.free =
                Some(free + Duration::from_secs_f64(bytes as f64 * 8.0 / (REPAIR_SHARE * bps.max(1) as f64)));
        }
        self.left = self.left.saturating_sub(bytes);
        self.counted += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back_with_time() {
        let start = Instant::now();
        let mut items = Items::default();
        items.refill(start);
        assert!(items.take(ITEMS_BURST) && !items.take(1));
        // Datagrams that come faster than items lose none of them.
        (1..=100u32).for_each(|at| items.refill(start + at * Duration::from_micros(10)));
        assert!(items.take(ITEMS_PER_SECOND / 1000 - 1) && !items.take(2));
        items.refill(start + Duration::from_secs(3600));
        assert!(items.take(ITEMS_BURST) && !items.take(1), "a silence saves no more than a burst");
    }

    #[test]
    fn as_much_is_sent_again_as_is_sent() {
        let now = Instant::now();
        let (mut repairs, mut sent, mut repaired) = (Repairs::default(), 0, 0);
        for _ in 0..10_000 {
            sent += 1200;
            for _ in 0..5 {
                if repairs.allows(now, sent) {
                    repairs.on_sent(now, 1200, None);
                    (sent, repaired) = (sent + 1200, repaired + 1200);
                }
            }
        }
        let others = sent - repaired;
        assert!((others..=others + REPAIR_BYTES_BURST + 1200).contains(&repaired), "{repaired} for {others}");
    }

    #[test]
    fn of_a_link_that_is_known_a_share_is_sent_again() {
        let start = Instant::now();
        let (mut repairs, mut repaired) = (Repairs::default(), 0);
        for ms in 0..10_000u64 {
            let now = start + Duration::from_millis(ms);
            while repairs.allows(now, 10_000_000 + 1000 * ms) {
                repairs.on_sent(now, 1200, Some(1_000_000));
                repaired += 1200;
            }
        }
        // 10 s of 500 kb/s, and half a second at once.
        assert!((640_000..670_000).contains(&repaired), "{repaired}");
    }
}
