//! How much arrives: bytes per window, weighed by how far a window is from what is believed (libwebrtc's `BitrateEstimator`,
//! M120).

const FIRST_WINDOW_US: i64 = 500_000;
const WINDOW_US: i64 = 150_000;
/// How much less a window is believed that is far away from the estimate.
const UNCERTAINTY: f64 = 10.0;
/// By how much belief fades per window.
const FADING: f64 = 5.0;

/// The estimator.
#[derive(Debug, Default)]
pub(super) struct Acked {
    begun_us: Option<i64>,
    bytes: u64,
    bps: Option<f64>,
    variance: f64,
    /// Of the last window alone.
    window_bps: f64,
}

impl Acked {
    /// Bits per second, once a first window is over. What one window carried, the link carries: a stream that has just become
    /// larger counts at once, one that has become smaller by and by.
    pub fn bps(&self) -> Option<f64> {
        self.bps.map(|bps| bps.max(self.window_bps))
    }

    /// A packet arrived, by the receiver's clock.
    pub fn on_packet(&mut self, arrival_us: i64, bytes: u64) {
        let begun_us = *self.begun_us.get_or_insert(arrival_us);
        let since_us = arrival_us - begun_us;
        let window_us = if self.bps.is_some() { WINDOW_US } else { FIRST_WINDOW_US };
        if since_us < 0 {
            return; // late
        }
        if since_us >= window_us {
            // A silence says nothing about the link: it counts as one window at most.
            let sample = self.bytes as f64 * 8e6 / since_us.min(2 * window_us) as f64;
            self.sample(sample);
            (self.begun_us, self.bytes) = (Some(arrival_us), 0);
        }
        self.bytes += bytes;
    }

    fn sample(&mut self, bps: f64) {
        self.window_bps = bps;
        let Some(believed) = self.bps else {
            (self.bps, self.variance) = (Some(bps), 50.0);
            return;
        };
        let sample_variance = (UNCERTAINTY * (believed - bps).abs() / (believed + 1.0)).powi(2).max(0.01);
        let variance = self.variance + FADING;
        self.bps = Some((sample_variance * believed + variance * bps) / (sample_variance + variance));
        self.variance = sample_variance * variance / (sample_variance + variance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_arrives() {
        let mut acked = Acked::default();
        for n in 0..100 {
            acked.on_packet(n * 10_000, 1250);
        }
        let bps = acked.bps().expect("a window is over");
        assert!((0.95e6..1.05e6).contains(&bps), "{bps}");
        for n in 100..400 {
            acked.on_packet(n * 10_000, 250);
        }
        let bps = acked.bps().expect("a window is over");
        assert!((1.9e5..2.5e5).contains(&bps), "{bps}");
    }
}
