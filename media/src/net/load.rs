//! How busy a worker is: its thread's CPU time against the clock, a second at a time.
//!
//! The hub places new rooms by it. Time that the core waits for something else does not count, and neither does what other
//! threads take of the core.

use std::time::{Duration, Instant};

use common::metrics::Counter;

/// How often a worker looks.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// A change that is worth telling.
const TOLD_STEP_PERMILLE: u16 = 10;

/// One worker's.
#[derive(Debug)]
pub(super) struct LoadMeter {
    since: Instant,
    cpu_then: Duration,
    told_permille: u16,
    /// Milliseconds.
    busy: Counter,
}

impl LoadMeter {
    pub(super) fn new(now: Instant, cpu: Duration, busy: Counter) -> Self {
        Self { since: now, cpu_then: cpu, told_permille: 0, busy }
    }

    /// `cpu` is what the thread has used by now. Thousandths of the time since the last look, when the hub should hear of it.
    pub(super) fn measure(&mut self, now: Instant, cpu: Duration) -> Option<u16> {
        let elapsed = now.saturating_duration_since(self.since);
        let used = cpu.saturating_sub(self.cpu_then);
        if elapsed < INTERVAL / 2 {
            return None; // too short to mean anything
        }
        (self.since, self.cpu_then) = (now, cpu);
        self.busy.inc_by(used.as_millis() as u64);
        let permille = (used.as_nanos() * 1000 / elapsed.as_nanos()).min(1000) as u16;
        if permille.abs_diff(self.told_permille) < TOLD_STEP_PERMILLE {
            return None;
        }
        self.told_permille = permille;
        Some(permille)
    }
}

/// What this thread has used of its core since it began.
pub(super) fn thread_cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_in_thousandths_of_the_core() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let (cpu, busy) = (Duration::from_millis, Counter::default());
        let mut meter = LoadMeter::new(start, cpu(500), busy.clone());
        assert_eq!(meter.measure(at(100), cpu(600)), None, "too soon");
        assert_eq!(meter.measure(at(1000), cpu(750)), Some(250));
        assert_eq!(meter.measure(at(2000), cpu(1005)), None, "much the same");
        assert_eq!(meter.measure(at(4000), cpu(1005)), Some(0));
        assert_eq!(meter.measure(at(5000), cpu(2100)), Some(1000), "and not more");
        assert_eq!(busy.get(), 1600);
    }

    #[test]
    fn a_thread_that_works_uses_time() {
        let before = thread_cpu_time();
        while thread_cpu_time() == before {
            std::hint::spin_loop();
        }
    }
}
