//! Clocks: what a machine takes the time to be, while the world's own goes on steadily.

use std::time::{Duration, Instant};

/// The clock of one machine: an `Instant` for whoever lives there.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
    /// Parts per million that it runs too fast, or too slow.
    ppm: i32,
}

impl Clock {
    /// A perfect clock.
    pub fn new(origin: Instant) -> Self {
        Self { origin, ppm: 0 }
    }

    /// One that is wrong: `ppm` too fast, and showing `ahead` too much from the beginning.
    pub fn skewed(origin: Instant, ppm: i32, ahead: Duration) -> Self {
        Self { origin: origin + ahead, ppm }
    }

    /// What has passed here since the beginning.
    pub fn elapsed(&self, now: Duration) -> Duration {
        let nanos = now.as_nanos() as i128;
        Duration::from_nanos((nanos + nanos * i128::from(self.ppm) / 1_000_000) as u64)
    }

    /// What is read here.
    pub fn read(&self, now: Duration) -> Instant {
        self.origin + self.elapsed(now)
    }

    /// When this will be read here, or a little later.
    pub fn due(&self, at: Instant) -> Duration {
        let nanos = at.saturating_duration_since(self.origin).as_nanos() as i128;
        let steady = nanos * 1_000_000 / (1_000_000 + i128::from(self.ppm));
        // Rounded up, so that nobody is woken before the time has come.
        Duration::from_nanos((steady + i128::from(self.ppm != 0) * 2) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_woken_when_it_is_due_finds_that_it_is() {
        #[allow(clippy::disallowed_methods)]
        let origin = Instant::now();
        for ppm in [-500, -1, 0, 1, 500] {
            let clock = Clock::skewed(origin, ppm, Duration::from_secs(7));
            for nanos in [1u64, 999, 1_000_000_007, 700_000_000_001] {
                let at = clock.read(Duration::ZERO) + Duration::from_nanos(nanos);
                assert!(clock.read(clock.due(at)) >= at, "{ppm} {nanos}");
            }
        }
        assert_eq!(
            Clock::skewed(origin, 500, Duration::ZERO).elapsed(Duration::from_secs(600)).as_millis(),
            600_300
        );
    }
}
