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

/// The bound; absent as long as loss limits nothing.
#[derive(Debug, Default)]
pub(super) struct LossBound {
    bps: Option<f64>,
    arrived: u32,
    lost: u32,
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

    /// Bits per second.
    pub fn bps(&self) -> Option<f64> {
        self.bps
    }

    /// What became of packets, while so much was allowed by `delay_bps` and `acked_bps` arrived.
    pub fn on_feedback(
        &mut self,
        (arrived, lost): (u32, u32),
        delay_bps: f64,
        acked_bps: Option<f64>,
        round_trip_us: u64,
        now_us: u64,
    ) {
        self.arrived += arrived;
        self.lost += lost;
        let count = self.arrived + self.lost;
        if count < PACKETS_MIN {
            return;
        }
        self.fraction = f64::from(self.lost) / f64::from(count);
        (self.arrived, self.lost) = (0, 0);
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

    #[test]
    fn much_loss_lowers_it_some_keeps_it_and_none_lifts_it() {
        let mut loss = LossBound::default();
        loss.on_feedback((95, 5), 1e6, None, 50_000, 0);
        assert_eq!(loss.bps(), None);
        loss.on_feedback((80, 20), 1e6, None, 50_000, 1_000_000);
        assert_eq!(loss.bps(), Some(9e5));
        loss.on_feedback((80, 20), 1e6, None, 50_000, 1_100_000);
        assert_eq!(loss.bps(), Some(9e5), "the same congestion");
        loss.on_feedback((19, 1), 1e6, None, 50_000, 1_200_000);
        assert_eq!(loss.bps(), Some(9e5));
        for n in 2..5 {
            loss.on_feedback((100, 0), 1e6, None, 50_000, n * 1_000_000);
        }
        assert_eq!(loss.bps(), None);
    }
}
