//! On which media worker a new room goes: the one that is least busy.
//!
//! Workers tell once a second how busy they were ([`FromMedia::Load`](common::control::FromMedia)). Somebody who joins is felt
//! there only when media flows, some seconds later; until then a typical figure stands for it, so that a crowd that comes at
//! once does not all go to the worker that was idle before. Where there is no difference the one with the fewest peers is taken.

use std::time::{Duration, Instant};

/// What somebody who joins is taken to cost: a place in a call of seven with sound and picture, six streams of some 150
/// packets per second at 6 µs each.
const JOIN_PERMILLE: u32 = 5;
/// What is expected halves in this time, and what is measured takes its place.
const EXPECTED_HALVES_IN: Duration = Duration::from_secs(2);
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

    /// The best of those that `takes` does not leave out. `peers` are how many each of them has.
    pub(super) fn least_busy(
        &mut self,
        now: Instant,
        peers: &[usize],
        takes: impl Fn(usize) -> bool,
    ) -> Option<usize> {
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
