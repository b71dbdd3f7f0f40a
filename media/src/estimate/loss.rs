//! The rate that loss allows (draft-ietf-rmcat-gcc-02 §6): above a tenth it falls by half the loss, below two hundredths it
//! rises again, in between it stays. Loss that a link has by itself is told from congestion by nothing else.

use super::MIN_BPS;

const HIGH: f64 = 0.10;
const LOW: f64 = 0.02;
/// Fewer packets are no statistics.
const PACKETS_MIN: u32 = 20;
/// The same feedback shows one congestion for a while.
const REDUCE_AGAIN_US: u64 = 300_000;
/// Share of what arrives below which the bound does not fall.
const CARRIED: f64 = 0.85;
const GROWTH_PER_SECOND: f64 = 1.08;

/// What feedback says of packets.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// Came.
    pub arrived: u32,
    /// Had not come when the feedback was written.
    pub lost: u32,
    /// Of those that came: were said to be lost before. Jitter and overtaking do that.
    pub late: u32,
}

impl Seen {
    fn count(&self) -> u32 {
        self.arrived + self.lost
    }

    /// Takes back what was taken for lost; what is more than that is left over.
    fn forgive(&mut self, late: u32) -> u32 {
        let forgiven = late.min(self.lost);
        self.lost -= forgiven;
        late - forgiven
    }
}

/// The bound; absent as long as loss limits nothing.
#[derive(Debug, Default)]
pub(super) struct LossBound {
    bps: Option<f64>,
    /// The interval that is over, whose late packets come in the next one.
    before: Seen,
    now: Seen,
    /// Of the last interval.
    fraction: f64,
    reduced_us: Option<u64>,
    changed_us: u64,
}

impl LossBound {
    /// Lost share of the last interval.
    pub fn fraction(&self) -> f64 {
        self.fraction
    }

    /// Whether so much is lost that less should be sent.
    pub fn is_high(&self) -> bool {
        self.fraction > HIGH
    }

    /// Bits per second.
    pub fn bps(&self) -> Option<f64> {
        self.bps
    }

    /// What became of packets, while so much was allowed by `delay_bps` and `acked_bps` arrived.
    pub fn on_feedback(
        &mut self,
        seen: Seen,
        delay_bps: f64,
        acked_bps: Option<f64>,
        round_trip_us: u64,
        now_us: u64,
    ) {
        self.now.arrived += seen.arrived;
        self.now.lost += seen.lost;
        let late = self.before.forgive(seen.late);
        self.now.forgive(late);
        if self.now.count() < PACKETS_MIN {
            return;
        }
        let over = std::mem::replace(&mut self.before, std::mem::take(&mut self.now));
        if over == Seen::default() {
            return;
        }
        self.fraction = f64::from(over.lost) / f64::from(over.count());
        let since_us = now_us.saturating_sub(std::mem::replace(&mut self.changed_us, now_us));
        let now_bps = self.bps.map_or(delay_bps, |bps| bps.min(delay_bps));
        if self.fraction > HIGH {
            let pause_us = REDUCE_AGAIN_US + round_trip_us;
            if self.reduced_us.is_none_or(|at| now_us.saturating_sub(at) >= pause_us) {
                // Streams that cannot be made smaller go on losing: what arrives is carried all the same.
                let floor_bps = (CARRIED * acked_bps.unwrap_or(MIN_BPS)).max(MIN_BPS).min(now_bps);
                self.bps = Some((now_bps * (1.0 - 0.5 * self.fraction)).max(floor_bps));
                self.reduced_us = Some(now_us);
            }
        } else if self.fraction < LOW {
            let seconds = (since_us as f64 / 1e6).min(1.0);
            self.bps =
                self.bps.map(|bps| bps * GROWTH_PER_SECOND.powf(seconds)).filter(|bps| *bps < delay_bps);
        }
    }

    /// A probe has shown that so much arrives.
    pub fn on_probe(&mut self, bps: f64) {
        self.bps = self.bps.filter(|bound| *bound > bps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seen(arrived: u32, lost: u32, late: u32) -> Seen {
        Seen { arrived, lost, late }
    }

    #[test]
    fn much_loss_lowers_it_some_keeps_it_and_none_lifts_it() {
        let mut loss = LossBound::default();
        let mut bps = |arrived, lost, now_us| {
            loss.on_feedback(seen(arrived, lost, 0), 1e6, None, 50_000, now_us);
            loss.bps()
        };
        assert_eq!(bps(95, 5, 0), None);
        assert_eq!(bps(80, 20, 500_000), None, "of that something may be late only");
        assert_eq!(bps(80, 20, 1_000_000), Some(9e5));
        assert_eq!(bps(19, 1, 1_100_000), Some(9e5), "the same congestion");
        assert_eq!(bps(100, 0, 1_200_000), Some(9e5));
        let last = (2..6).map(|n| bps(100, 0, n * 1_000_000)).last();
        assert_eq!(last, Some(None));
    }

    #[test]
    fn what_is_late_is_not_lost() {
        let mut loss = LossBound::default();
        for n in 0..50 {
            // A third of each interval comes in the next one.
            loss.on_feedback(seen(30, 10, if n > 0 { 10 } else { 0 }), 1e6, None, 50_000, n * 100_000);
            assert_eq!((loss.bps(), loss.fraction()), (None, 0.0), "interval {n}");
        }
    }
}
