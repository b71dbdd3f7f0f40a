//! How many bytes per second an allocation may relay, and all of them together: token buckets, one for each way.
//!
//! A bucket is the time at which it will be full again (the virtual scheduling of ITU-T I.371's GCRA): one word, exact at
//! any rate. It holds what passes in a second. `forward` asks for each payload, when there is a limit at all.

use std::time::{Duration, Instant};

use crate::routes::AllocationId;

/// What a full bucket lets pass at once, in time. A datagram that is larger than that passes when the bucket is full.
const BURST: Duration = Duration::from_secs(1);

/// The way of a payload. Each has its own limit, as with coturn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Client to peer.
    Up,
    /// Peer to client.
    Down,
}

/// Full at that time, one for each [`Direction`].
#[derive(Debug, Clone, Copy)]
struct Buckets([Instant; 2]);

/// Limits and what has been used of them.
#[derive(Debug)]
pub(super) struct Bandwidth {
    /// Bytes per second; 0 is unlimited.
    per_allocation: u64,
    in_all: u64,
    all: Buckets,
    /// By [`AllocationId`], which are small and used again.
    allocations: Vec<Buckets>,
}

impl Bandwidth {
    /// `None` when neither is limited.
    pub(super) fn new(per_allocation: u64, in_all: u64, now: Instant) -> Option<Self> {
        let all = Buckets([now; 2]);
        (per_allocation != 0 || in_all != 0).then(|| Self {
            per_allocation,
            in_all,
            all,
            allocations: Vec::new(),
        })
    }

    /// A new allocation has full buckets.
    pub(super) fn start(&mut self, id: AllocationId, now: Instant) {
        let index = id.0 as usize;
        if self.allocations.len() <= index {
            self.allocations.resize(index + 1, Buckets([now; 2]));
        }
        self.allocations[index] = Buckets([now; 2]);
    }

    /// Whether so many bytes may pass. What is refused uses nothing up.
    pub(super) fn take(&mut self, id: AllocationId, way: Direction, bytes: usize, now: Instant) -> bool {
        let own = &mut self.allocations[id.0 as usize].0[way as usize];
        let all = &mut self.all.0[way as usize];
        let (Some(own_after), Some(all_after)) =
            (after(*own, self.per_allocation, bytes, now), after(*all, self.in_all, bytes, now))
        else {
            return false;
        };
        (*own, *all) = (own_after, all_after);
        true
    }
}

/// When the bucket will be full again after these bytes; `None` when it does not hold so much.
fn after(full_at: Instant, rate: u64, bytes: usize, now: Instant) -> Option<Instant> {
    if rate == 0 {
        return Some(full_at);
    }
    let nanoseconds = (bytes as u128 * 1_000_000_000 / u128::from(rate)).min(u64::MAX.into());
    let cost = Duration::from_nanos(nanoseconds as u64);
    let missing = full_at.saturating_duration_since(now);
    let fits = missing.is_zero() || missing + cost <= BURST;
    fits.then(|| full_at.max(now) + cost.min(MEMORY))
}

/// A datagram of 64 kB at one byte per second closes its bucket for no longer than this.
const MEMORY: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    const ID: AllocationId = AllocationId(3);
    const OTHER: AllocationId = AllocationId(0);

    fn passed(bandwidth: &mut Bandwidth, id: AllocationId, way: Direction, at: Instant) -> usize {
        (0..100_000).take_while(|_| bandwidth.take(id, way, 100, at)).count() * 100
    }

    #[test]
    fn an_allocation_gets_its_rate_each_way_and_a_second_of_it_at_once() {
        let start = Instant::now();
        let mut bandwidth = Bandwidth::new(10_000, 0, start).expect("limited");
        bandwidth.start(ID, start);
        bandwidth.start(OTHER, start);
        assert_eq!(passed(&mut bandwidth, ID, Direction::Up, start), 10_000);
        assert_eq!(passed(&mut bandwidth, ID, Direction::Down, start), 10_000);
        assert_eq!(passed(&mut bandwidth, OTHER, Direction::Up, start), 10_000);
        let mut total = 0;
        for tenth in 1..=100 {
            total += passed(&mut bandwidth, ID, Direction::Up, start + Duration::from_millis(100 * tenth));
        }
        assert_eq!(total, 100_000, "ten seconds at its rate");
        bandwidth.start(ID, start);
        assert_eq!(passed(&mut bandwidth, ID, Direction::Down, start), 10_000, "a new one in its place");
    }

    #[test]
    fn all_together_share_the_capacity() {
        let start = Instant::now();
        let mut bandwidth = Bandwidth::new(10_000, 15_000, start).expect("limited");
        bandwidth.start(ID, start);
        bandwidth.start(OTHER, start);
        assert_eq!(passed(&mut bandwidth, ID, Direction::Up, start), 10_000);
        assert_eq!(passed(&mut bandwidth, OTHER, Direction::Up, start), 5_000);
        assert!(Bandwidth::new(0, 0, start).is_none());
    }

    #[test]
    fn a_datagram_above_the_burst_passes_alone() {
        let start = Instant::now();
        let mut bandwidth = Bandwidth::new(1000, 0, start).expect("limited");
        bandwidth.start(ID, start);
        let mut take = |at| bandwidth.take(ID, Direction::Up, 1500, start + Duration::from_millis(at));
        assert_eq!([0, 1, 1499, 1500].map(&mut take), [true, false, false, true]);
    }
}
