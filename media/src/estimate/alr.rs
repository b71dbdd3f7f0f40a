//! Whether less is sent than may be: then what arrives says nothing about the link (libwebrtc's `AlrDetector`, M120).

/// Share of the estimate that has to be used.
const USAGE: f64 = 0.65;
/// Unused share of a window at which it begins and ends.
const BEGINS: f64 = 0.8;
const ENDS: f64 = 0.5;
const WINDOW_SECONDS: f64 = 0.5;

/// The detector.
#[derive(Debug, Default)]
pub(super) struct Alr {
    budget_bits: f64,
    refilled_us: Option<u64>,
    limited: bool,
}

impl Alr {
    /// Whether the application is what limits.
    pub fn is_limited(&self) -> bool {
        self.limited
    }

    /// Something was sent while so much was allowed.
    pub fn on_sent(&mut self, bytes: usize, estimate_bps: f64, now_us: u64) {
        let since_us = now_us.saturating_sub(self.refilled_us.replace(now_us).unwrap_or(now_us));
        let most = USAGE * estimate_bps * WINDOW_SECONDS;
        self.budget_bits += USAGE * estimate_bps * since_us as f64 / 1e6 - 8.0 * bytes as f64;
        self.budget_bits = self.budget_bits.clamp(-most, most);
        let unused = self.budget_bits / most.max(1.0);
        self.limited = if self.limited { unused > ENDS } else { unused > BEGINS };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_use_is_noticed_and_full_use_ends_it() {
        let mut alr = Alr::default();
        let run = |alr: &mut Alr, from: u64, bytes: usize| {
            (from..from + 200).for_each(|n| alr.on_sent(bytes, 1e6, n * 10_000));
            alr.is_limited()
        };
        assert!(run(&mut alr, 0, 250));
        assert!(!run(&mut alr, 200, 1250));
    }
}
