//! Replay protection and the 48-bit packet index of one source (RFC 3711 §3.3.1, §3.3.2).
//!
//! Nothing here is trusted input: `srtp` asks [`ReplayWindow::check`] before it authenticates, and calls
//! [`ReplayWindow::accept`] only after.

/// How far behind the newest packet one may still arrive. RFC 3711 asks for 64; a NACKed packet without RTX comes late.
pub const WINDOW_PACKETS: u64 = 1024;

const WORDS: usize = (WINDOW_PACKETS / 64) as usize;

/// Which of the newest [`WINDOW_PACKETS`] indices have been seen.
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    /// The highest accepted index; `None` before the first.
    highest: Option<u64>,
    /// Bit `index % WINDOW_PACKETS` is set when `index` was seen.
    seen: [u64; WORDS],
}

/// Why an index cannot be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// Seen before.
    Replayed,
    /// Older than the window remembers.
    TooOld,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { highest: None, seen: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// The index that `seq` most probably belongs to (RFC 3711 §3.3.1). In rollover 0 there is nothing before, so a high
    /// number there is a jump ahead, as in libsrtp.
    pub fn estimate(&self, seq: u16) -> u64 {
        let Some(highest) = self.highest else { return u64::from(seq) };
        let (roc, newest, seq) = (highest >> 16, highest & 0xffff, u64::from(seq));
        let roc = if newest < 0x8000 {
            if seq > newest + 0x8000 { roc.saturating_sub(1) } else { roc }
        } else if newest - 0x8000 > seq {
            roc + 1
        } else {
            roc
        };
        (roc << 16) | seq
    }

    /// Whether `index` would be accepted.
    pub fn check(&self, index: u64) -> Result<(), Rejected> {
        match self.highest {
            Some(highest) if index > highest => Ok(()),
            Some(highest) if highest - index >= WINDOW_PACKETS => Err(Rejected::TooOld),
            Some(_) if self.is_seen(index) => Err(Rejected::Replayed),
            _ => Ok(()),
        }
    }

    /// Marks `index` as seen; call it only with what [`ReplayWindow::check`] let pass.
    pub fn accept(&mut self, index: u64) {
        let from = match self.highest {
            Some(highest) if index <= highest => return self.mark(index),
            Some(highest) if index - highest < WINDOW_PACKETS => highest + 1,
            _ => {
                self.seen = [0; WORDS];
                index
            }
        };
        for skipped in from..index {
            self.clear(skipped);
        }
        self.mark(index);
        self.highest = Some(index);
    }

    fn is_seen(&self, index: u64) -> bool {
        self.seen[word(index)] & bit(index) != 0
    }

    fn mark(&mut self, index: u64) {
        self.seen[word(index)] |= bit(index);
    }

    fn clear(&mut self, index: u64) {
        self.seen[word(index)] &= !bit(index);
    }
}

fn word(index: u64) -> usize {
    ((index % WINDOW_PACKETS) / 64) as usize
}

fn bit(index: u64) -> u64 {
    1 << (index % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window_at(index: u64) -> ReplayWindow {
        let mut window = ReplayWindow::default();
        window.accept(index);
        window
    }

    #[test]
    fn the_rollover_is_estimated_from_the_nearer_side() {
        let check = |highest: u64, seq: u16, expected: u64| {
            assert_eq!(window_at(highest).estimate(seq), expected, "{highest:#x} then {seq:#x}");
        };
        check(0x0000_fff0, 0x0005, 0x0001_0005);
        check(0x0001_0005, 0xfff0, 0x0000_fff0);
        check(0x0001_0005, 0x0006, 0x0001_0006);
        check(0x0000_0005, 0xfff0, 0x0000_fff0);
        check(0x0007_8000, 0x0000, 0x0007_0000);
        check(0x0007_8001, 0x0000, 0x0008_0000);
    }

    #[test]
    fn the_window_has_two_ends() {
        let window = window_at(5000);
        assert_eq!(window.check(5000), Err(Rejected::Replayed));
        assert_eq!(window.check(5001), Ok(()));
        assert_eq!(window.check(5000 - WINDOW_PACKETS + 1), Ok(()));
        assert_eq!(window.check(5000 - WINDOW_PACKETS), Err(Rejected::TooOld));
    }

    proptest! {
        #[test]
        fn no_index_is_accepted_twice(indices in proptest::collection::vec(0u64..4000, 1..400)) {
            let mut window = ReplayWindow::default();
            let mut seen = std::collections::HashSet::new();
            for index in indices {
                if window.check(index).is_ok() {
                    prop_assert!(seen.insert(index));
                    window.accept(index);
                } else {
                    let highest = *seen.iter().max().expect("a first index always passes");
                    prop_assert!(seen.contains(&index) || highest - index >= WINDOW_PACKETS);
                }
            }
        }
    }
}
