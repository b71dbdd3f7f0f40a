//! Wall time in a core: what its shell has told it last, going on steadily since.
//!
//! Steps of the system's clock (a machine that boots with a wrong one, or wakes after a pause) reach a core only in this
//! way, so that it decides itself what follows them and what does not.

use std::time::{Duration, Instant};

/// How often shells tell; a step is noticed that late.
pub const TOLD_EVERY: Duration = Duration::from_secs(1);

/// A wall clock.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    told: Instant,
    unix: Duration,
}

impl WallClock {
    /// One that shows `unix` since the Unix epoch at `now`.
    pub fn new(now: Instant, unix: Duration) -> Self {
        Self { told: now, unix }
    }

    /// What it shows, since the Unix epoch.
    pub fn at(&self, now: Instant) -> Duration {
        self.unix + now.saturating_duration_since(self.told)
    }

    /// Whether it is time to tell again.
    pub fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.told) >= TOLD_EVERY
    }
}
