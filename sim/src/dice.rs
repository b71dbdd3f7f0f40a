//! Chance, all of it from one seed.

use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore, SeedableRng};

/// A stream of random numbers of its own, so that one part's draws do not move another's.
#[derive(Debug)]
pub struct Dice(ChaCha12Rng);

impl Dice {
    /// The stream called `name` of the run `seed`.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        for (at, byte) in name.bytes().enumerate() {
            key[8 + at % 24] = key[8 + at % 24].wrapping_mul(31).wrapping_add(byte);
        }
        Self(ChaCha12Rng::from_seed(key))
    }

    /// 32 bytes, to seed a core with.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.0.fill_bytes(&mut seed);
        seed
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound as u64) as usize
    }

    /// True this often, 0–1.
    pub fn chance(&mut self, probability: f64) -> bool {
        (self.0.next_u32() as f64) < probability * f64::from(u32::MAX)
    }

    /// Between two durations.
    pub fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = high.saturating_sub(low).as_micros().max(1) as u64;
        low + Duration::from_micros(self.0.next_u64() % span)
    }

    /// One of them; there is at least one.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}
