//! What was sent under which transport-wide sequence number, until feedback tells what became of it.

use crate::rtp::extend_sequence;

/// Packets that are remembered: 1.5 s at 15 Mb/s and 1.2 kB. What is older counts neither as received nor as lost.
const KEPT_MAX: usize = 2048;

/// A packet that was sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sent {
    number: u32,
    /// Bytes of the datagram.
    pub bytes: u16,
    /// The probe that it belongs to, 0 for none.
    pub cluster: u8,
    state: State,
    /// When, on the estimator's time line.
    pub at_us: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unused,
    Flying,
    Missing,
    Arrived,
}

/// The ring.
#[derive(Debug, Default)]
pub(super) struct History {
    slots: Vec<Sent>,
    newest: u64,
}

impl History {
    /// A packet left.
    pub fn sent(&mut self, wire: u16, bytes: usize, cluster: u8, at_us: u64) {
        if self.slots.is_empty() {
            self.slots.resize(KEPT_MAX, Sent::default());
            self.newest = u64::from(wire) + (1 << 16);
        }
        let number = extend_sequence(self.newest, wire).unwrap_or(self.newest);
        self.newest = self.newest.max(number);
        let bytes = bytes.min(usize::from(u16::MAX)) as u16;
        self.slots[number as usize % KEPT_MAX] =
            Sent { number: number as u32, bytes, cluster, state: State::Flying, at_us };
    }

    fn slot(&mut self, wire: u16) -> Option<&mut Sent> {
        let number = extend_sequence(self.newest, wire)?;
        let slot = self.slots.get_mut(number as usize % KEPT_MAX)?;
        (slot.number == number as u32 && slot.state != State::Unused).then_some(slot)
    }

    /// A packet arrived, and whether it had been reported missing. `None` when that is known, or the packet is not.
    pub fn arrived(&mut self, wire: u16) -> Option<(Sent, bool)> {
        let slot = self.slot(wire)?;
        let before = std::mem::replace(&mut slot.state, State::Arrived);
        (before != State::Arrived).then_some((*slot, before == State::Missing))
    }

    /// A packet is reported missing. `true` the first time.
    pub fn missing(&mut self, wire: u16) -> bool {
        let Some(slot) = self.slot(wire).filter(|slot| slot.state == State::Flying) else { return false };
        slot.state = State::Missing;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_arrives_once() {
        let mut history = History::default();
        for (at, wire) in [65_534u16, 65_535, 0].into_iter().enumerate() {
            history.sent(wire, 100 + at, 0, at as u64);
        }
        assert!(history.missing(65_535) && !history.missing(65_535));
        assert_eq!(
            history.arrived(65_535).map(|(sent, late)| (sent.bytes, late)),
            Some((101, true)),
            "late, not lost"
        );
        assert!(!history.missing(65_535) && history.arrived(65_535).is_none());
        assert!(history.arrived(1).is_none(), "never sent");
        for wire in 1..=KEPT_MAX as u16 {
            history.sent(wire, 1, 0, 9);
        }
        assert!(history.arrived(0).is_none(), "forgotten");
    }
}
