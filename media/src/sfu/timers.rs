//! When which transport wants to be woken: one ordered set, and a bound on how often one input can wake the same transport.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// No transport is woken again sooner: str0m may name a deadline that has passed again and again.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Deadlines by time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    deadlines: BTreeSet<(Instant, usize)>,
    /// Nothing is woken before it.
    floor: Option<Instant>,
}

impl Timers {
    /// Replaces `old` of a transport by `new`, or by the next moment when `new` has passed already. Returns what stands.
    pub(super) fn arm(&mut self, slot: usize, old: Option<Instant>, new: Option<Instant>) -> Option<Instant> {
        let new = new.map(|at| self.floor.map_or(at, |floor| at.max(floor)));
        if old != new {
            self.disarm(slot, old);
            self.deadlines.extend(new.map(|at| (at, slot)));
        }
        new
    }

    /// How many deadlines stand.
    pub(super) fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// Forgets a deadline.
    pub(super) fn disarm(&mut self, slot: usize, old: Option<Instant>) {
        if let Some(old) = old {
            self.deadlines.remove(&(old, slot));
        }
    }

    /// The next transport whose time has come. What is armed after this call comes later than `now`, so that a loop over
    /// it ends.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        let (at, slot) = self.deadlines.first().copied().filter(|(at, _)| *at <= now)?;
        self.deadlines.remove(&(at, slot));
        self.floor = Some(now + PAUSE_MIN);
        Some(slot)
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_in_the_past_wake_once_per_input() {
        let start = Instant::now();
        let now = start + Duration::from_secs(1);
        let mut timers = Timers::default();
        for slot in 0..3 {
            assert_eq!(timers.arm(slot, None, Some(start)), Some(start));
        }
        let mut woken = Vec::new();
        while let Some(slot) = timers.pop_due(now) {
            woken.push(slot);
            assert_eq!(timers.arm(slot, None, Some(start)), Some(now + PAUSE_MIN));
        }
        assert_eq!(woken, [0, 1, 2]);
        assert_eq!(timers.next(), Some(now + PAUSE_MIN));
    }

    #[test]
    fn a_transport_stands_there_once() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut timers = Timers::default();
        let wake = timers.arm(7, None, Some(later));
        let wake = timers.arm(7, wake, Some(now));
        assert_eq!((wake, timers.next()), (Some(now), Some(now)));
        let wake = timers.arm(7, wake, None);
        assert_eq!((wake, timers.next(), timers.pop_due(later)), (None, None, None));
    }
}
