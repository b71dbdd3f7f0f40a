//! What each layer of an encoding costs: bytes by spatial and temporal layer over the last intervals.

use std::time::{Duration, Instant};

/// Spatial and temporal layers that are told apart; higher ones count to the highest (VP9: RFC 9628 §4.2 has eight, browsers
/// send three of each).
pub const LAYERS: usize = 4;
const WINDOW: Duration = Duration::from_millis(500);
/// RTP header, extensions and authentication tag of a forwarded packet.
const OVERHEAD_BYTES: u64 = 44;

/// Rates of one encoding.
#[derive(Debug, Default)]
pub struct Rates {
    begun: Option<Instant>,
    bytes: [[u64; LAYERS]; LAYERS],
    /// Bits per second; absent before the first window is over.
    bps: Option<[[f32; LAYERS]; LAYERS]>,
}

impl Rates {
    /// A packet came.
    pub fn note(&mut self, now: Instant, (spatial, temporal): (u8, u8), payload_bytes: usize) {
        let begun = *self.begun.get_or_insert(now);
        let since = now.saturating_duration_since(begun);
        if since >= WINDOW {
            self.turn(since.as_secs_f32());
            self.begun = Some(now);
        }
        let layer = |layer: u8| usize::from(layer).min(LAYERS - 1);
        self.bytes[layer(spatial)][layer(temporal)] += payload_bytes as u64 + OVERHEAD_BYTES;
    }

    /// The encoding was silent and comes back: what it costs is what it did cost, and the silence counts for nothing.
    pub fn resume(&mut self) {
        self.begun = None;
        self.bytes = Default::default();
    }

    /// A window is weighed as half of what is known.
    fn turn(&mut self, seconds: f32) {
        let known = self.bps;
        let mut bps = [[0.0; LAYERS]; LAYERS];
        for (spatial, row) in self.bytes.iter_mut().enumerate() {
            for (temporal, bytes) in row.iter_mut().enumerate() {
                let new = std::mem::take(bytes) as f32 * 8.0 / seconds;
                bps[spatial][temporal] = known.map_or(new, |known| (known[spatial][temporal] + new) / 2.0);
            }
        }
        self.bps = Some(bps);
    }

    /// Bits per second of everything up to a layer; `None` when too little has come.
    pub fn up_to(&self, (spatial, temporal): (u8, u8)) -> Option<u64> {
        let rows = self.bps.as_ref()?.iter().take(usize::from(spatial) + 1);
        let sum: f32 = rows.flat_map(|row| row.iter().take(usize::from(temporal) + 1)).sum();
        Some(sum as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_add_up() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        assert_eq!(rates.up_to((0, 0)), None);
        for n in 0..=100u32 {
            let temporal = (n % 2) as u8;
            rates.note(start + n * Duration::from_millis(10), (0, temporal), 956);
        }
        let (base, all) = (rates.up_to((0, 0)).expect("known"), rates.up_to((3, 3)).expect("known"));
        assert!((380_000..420_000).contains(&base), "{base}");
        assert!((780_000..820_000).contains(&all), "{all}");
        rates.resume();
        rates.note(start + Duration::from_secs(30), (0, 0), 956);
        assert_eq!(rates.up_to((3, 3)), Some(all), "a silence does not make it cheaper");
    }
}
