//! On which media worker somebody goes who joins: the one that has the room, the least busy one for a new room, and another one
//! when those that have the room are full: it spans several then (`rooms/span`).
//!
//! Workers tell once a second how busy they were ([`FromMedia::Load`](common::control::FromMedia)). Somebody who joins is felt
//! there only when media flows, some seconds later; until then a typical figure stands for it, so that a crowd that comes at
//! once does not all go to the worker that was idle before. Where there is no difference the one with the fewest peers is taken.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What somebody who joins is taken to cost: a place in a call of seven with sound and picture, six streams of some 150
/// packets per second at 6 µs each.
const JOIN_PERMILLE: u32 = 5;
/// What is expected halves in this time, and what is measured takes its place.
const EXPECTED_HALVES_IN: Duration = Duration::from_secs(2);
/// A worker that is busier takes newcomers of its rooms only when no other is much less so: what the room goes on to need has to
/// fit, too.
const FULL_PERMILLE: u32 = 700;
/// What another worker has to have more to give, since a room that spans workers is more work in all.
const SPAN_GAIN_PERMILLE: u32 = 200;
/// Smaller differences are none.
const STEP_PERMILLE: u32 = 50;

#[derive(Debug, Clone, Copy)]
struct Worker {
    busy_permille: u32,
    expected_permille: u32,
    expected_since: Instant,
}

impl Worker {
    /// Takes away what time has made of the expectation.
    fn settle(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.expected_since);
        let halvings = (elapsed.as_nanos() / EXPECTED_HALVES_IN.as_nanos()).min(31) as u32;
        self.expected_permille >>= halvings;
        self.expected_since += EXPECTED_HALVES_IN * halvings;
        if self.expected_permille == 0 {
            self.expected_since = now;
        }
    }
}

/// How busy each worker is.
#[derive(Debug)]
pub(super) struct Placement(Vec<Worker>);

impl Placement {
    pub(super) fn new(workers: usize, now: Instant) -> Self {
        Self(vec![Worker { busy_permille: 0, expected_permille: 0, expected_since: now }; workers])
    }

    /// A worker has measured itself, or begins again with nothing to do.
    pub(super) fn measured(&mut self, worker: usize, busy_permille: u16) {
        if let Some(worker) = self.0.get_mut(worker) {
            worker.busy_permille = u32::from(busy_permille);
        }
    }

    /// Somebody joins a room there.
    pub(super) fn joins(&mut self, worker: usize, now: Instant) {
        if let Some(worker) = self.0.get_mut(worker) {
            worker.settle(now);
            worker.expected_permille += JOIN_PERMILLE;
        }
    }

    /// Where somebody goes who joins a room that is `present` on some workers, or on none yet.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        peers: &[usize],
        present: &BTreeSet<usize>,
        takes: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let inside = self.least_busy(now, peers, |worker| present.contains(&worker) && takes(worker));
        let Some(inside) = inside else {
            // Those that have it are held back: the room is not torn apart for that.
            return if present.is_empty() { self.least_busy(now, peers, takes) } else { None };
        };
        if self.load(inside) < FULL_PERMILLE {
            return Some(inside);
        }
        let outside = self.least_busy(now, peers, |worker| !present.contains(&worker) && takes(worker));
        let gain = |worker: &usize| self.load(*worker) + SPAN_GAIN_PERMILLE <= self.load(inside);
        outside.filter(gain).or(Some(inside))
    }

    fn load(&self, worker: usize) -> u32 {
        self.0.get(worker).map_or(u32::MAX, |worker| worker.busy_permille + worker.expected_permille)
    }

    /// The best of those that `takes` does not leave out. `peers` are how many each of them has.
    fn least_busy(&mut self, now: Instant, peers: &[usize], takes: impl Fn(usize) -> bool) -> Option<usize> {
        let workers = self.0.iter_mut().enumerate().filter(|(index, _)| takes(*index));
        let by_load = workers.map(|(index, worker)| {
            worker.settle(now);
            let load = (worker.busy_permille + worker.expected_permille) / STEP_PERMILLE;
            (load, peers.get(index).copied().unwrap_or_default(), index)
        });
        by_load.min().map(|(.., index)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_load_counts_before_peers() {
        let now = Instant::now();
        let mut placement = Placement::new(3, now);
        let anywhere = |_: usize| true;
        assert_eq!(placement.least_busy(now, &[2, 1, 1], anywhere), Some(1));
        placement.measured(1, 300);
        assert_eq!(placement.least_busy(now, &[2, 1, 1], anywhere), Some(2));
        placement.measured(2, 40);
        assert_eq!(placement.least_busy(now, &[2, 1, 1], anywhere), Some(2), "4 % is no difference");
        placement.measured(2, 200);
        assert_eq!(placement.least_busy(now, &[2, 1, 1], anywhere), Some(0), "few peers may be much work");
        assert_eq!(placement.least_busy(now, &[2, 1, 1], |worker| worker != 0), Some(2));
        assert_eq!(placement.least_busy(now, &[2, 1, 1], |_| false), None);
        placement.measured(7, 1000); // no such worker
    }

    #[test]
    fn a_room_stays_together_until_its_worker_is_full() {
        let now = Instant::now();
        let mut placement = Placement::new(3, now);
        let peers = [50, 0, 0];
        let mut choose = |loads: [u16; 3], present: &[usize]| {
            loads.iter().enumerate().for_each(|(worker, load)| placement.measured(worker, *load));
            placement.choose(now, &peers, &present.iter().copied().collect(), |worker| worker != 2)
        };
        assert_eq!(choose([650, 0, 0], &[0]), Some(0));
        assert_eq!(choose([720, 0, 0], &[0]), Some(1));
        assert_eq!(choose([720, 600, 0], &[0]), Some(0), "it would gain little");
        assert_eq!(choose([720, 600, 0], &[0, 1]), Some(1), "there it is already");
        assert_eq!(choose([900, 650, 0], &[0, 2]), Some(1), "one of its workers takes nothing");
        assert_eq!(choose([0, 0, 0], &[2]), None, "nor does the only one");
    }

    #[test]
    fn a_crowd_is_expected_until_it_is_measured() {
        let start = Instant::now();
        let mut placement = Placement::new(2, start);
        placement.measured(0, 200);
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut placed = [0, 0];
        for _ in 0..80 {
            let worker = placement.least_busy(at(0), &placed, |_| true).expect("two of them");
            placement.joins(worker, at(0));
            placed[worker] += 1;
        }
        assert!(placed[0] > 10 && placed[1] > placed[0], "{placed:?}");
        // They all turned out to be silent.
        placement.measured(0, 200);
        assert_eq!(placement.least_busy(at(30), &placed, |_| true), Some(1));
    }
}
