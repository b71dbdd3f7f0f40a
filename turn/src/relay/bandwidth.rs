//! How many bytes per second an allocation may relay, and all of them together: token buckets, one for each way.
//!
//! A bucket is the time at which it will be full again (the virtual scheduling of ITU-T I.371's GCRA): one word, exact at
//! any rate. It holds what passes in a second. `forward` asks for each payload, when there is a limit at all. The bucket of
//! all allocations is every worker's; each draws from it in slices, so that it is not asked for each payload.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// What a worker draws from the shared bucket at once: this part of what a second holds.
const SLICES_PER_SECOND: u64 = 100;

/// The buckets of all allocations of all workers.
#[derive(Debug)]
pub(super) struct Capacity {
    /// Bytes per second; 0 is unlimited.
    rate: u64,
    start: Instant,
    /// Nanoseconds from the start to when it is full, one for each [`Direction`].
    full_at: [AtomicU64; 2],
}

impl Capacity {
    pub(super) fn new(rate: u64, start: Instant) -> Self {
        Self { rate, start, full_at: Default::default() }
    }

    fn take(&self, way: Direction, bytes: usize, now: Instant) -> bool {
        let drawn =
            self.full_at[way as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                let full_at = self.start + Duration::from_nanos(full_at);
                let after = after(full_at, self.rate, bytes, now)?;
                Some(after.saturating_duration_since(self.start).as_nanos() as u64) // 584 years
            });
        drawn.is_ok()
    }
}

/// Limits and what has been used of them.
#[derive(Debug)]
pub(super) struct Bandwidth {
    /// Bytes per second; 0 is unlimited.
    per_allocation: u64,
    all: Arc<Capacity>,
    /// Bytes that are drawn from `all` and not used yet, one for each [`Direction`].
    drawn: [usize; 2],
    /// By [`AllocationId`], which are small and used again.
    allocations: Vec<Buckets>,
}

impl Bandwidth {
    /// `None` when neither is limited.
    pub(super) fn new(per_allocation: u64, all: &Arc<Capacity>) -> Option<Self> {
        (per_allocation != 0 || all.rate != 0).then(|| Self {
            per_allocation,
            all: Arc::clone(all),
            drawn: [0; 2],
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
        let own = self.allocations[id.0 as usize].0[way as usize];
        let Some(own) = after(own, self.per_allocation, bytes, now) else { return false };
        if self.all.rate != 0 && !self.draw(way, bytes, now) {
            return false;
        }
        self.allocations[id.0 as usize].0[way as usize] = own;
        true
    }

    /// Takes bytes of what all may use: from the slice at hand, or else from a new one, or what is missing alone.
    fn draw(&mut self, way: Direction, bytes: usize, now: Instant) -> bool {
        let drawn = &mut self.drawn[way as usize];
        if let Some(missing) = bytes.checked_sub(*drawn).filter(|missing| *missing > 0) {
            let slice = usize::try_from(self.all.rate / SLICES_PER_SECOND).unwrap_or(usize::MAX).max(missing);
            match [slice, missing].into_iter().find(|size| self.all.take(way, *size, now)) {
                Some(size) => *drawn += size,
                None => return false,
            }
        }
        *drawn -= bytes;
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
        let mut bandwidth = Bandwidth::new(10_000, &Arc::new(Capacity::new(0, start))).expect("limited");
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
        let mut bandwidth = Bandwidth::new(10_000, &Arc::new(Capacity::new(15_000, start))).expect("limited");
        bandwidth.start(ID, start);
        bandwidth.start(OTHER, start);
        assert_eq!(passed(&mut bandwidth, ID, Direction::Up, start), 10_000);
        assert_eq!(passed(&mut bandwidth, OTHER, Direction::Up, start), 5_000);
        assert!(Bandwidth::new(0, &Arc::new(Capacity::new(0, start))).is_none());
    }

    #[test]
    fn workers_share_the_capacity_up_to_a_slice() {
        let start = Instant::now();
        let all = Arc::new(Capacity::new(1_000_000, start));
        let [mut one, mut other] = [0; 2].map(|_| Bandwidth::new(0, &all).expect("limited"));
        [&mut one, &mut other].into_iter().for_each(|bandwidth| bandwidth.start(OTHER, start));
        assert!(other.take(OTHER, Direction::Up, 100, start), "draws a slice of 10 000");
        assert_eq!(passed(&mut one, OTHER, Direction::Up, start), 990_000);
        assert_eq!(passed(&mut other, OTHER, Direction::Up, start), 9_900);
        assert_eq!(passed(&mut other, OTHER, Direction::Down, start), 1_000_000);
    }

    #[test]
    fn a_datagram_above_the_burst_passes_alone() {
        let start = Instant::now();
        let mut bandwidth = Bandwidth::new(1000, &Arc::new(Capacity::new(0, start))).expect("limited");
        bandwidth.start(ID, start);
        let mut take = |at| bandwidth.take(ID, Direction::Up, 1500, start + Duration::from_millis(at));
        assert_eq!([0, 1, 1499, 1500].map(&mut take), [true, false, false, true]);
    }
}
