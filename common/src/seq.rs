//! RTP sequence numbers and timestamps that wrap around (RFC 3550 §5.1, appendix A.1).
//!
//! The wire carries 16 and 32 bits; inside, positions are 64 bits wide and never wrap. A position starts one full cycle
//! above zero, so that what is older than the first packet has a position too.

/// A sequence number's position in its stream: the wire's 16 bits and, above them, the number of wraps plus one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNo(pub u64);

impl SeqNo {
    /// The 16 bits of the wire.
    pub fn wire(self) -> u16 {
        self.0 as u16
    }

    /// The rollover counter of SRTP (RFC 3711 §3.3.1), counted from the first packet's cycle; `None` for a packet from
    /// before that cycle.
    pub fn rollover(self) -> Option<u32> {
        (self.0 >> 16).checked_sub(1).map(|cycles| cycles as u32)
    }
}

/// Whether sequence number `a` comes after `b`, at most half a cycle apart. Exactly half a cycle is not newer.
pub fn seq_newer_than(a: u16, b: u16) -> bool {
    a.wrapping_sub(b) as i16 > 0
}

/// Whether timestamp `a` comes after `b`, at most half a cycle apart. Exactly half a cycle is not newer.
pub fn timestamp_newer_than(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

/// Turns wire sequence numbers into positions: each is taken to be the nearest to the newest one so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct SeqUnwrapper {
    newest: Option<SeqNo>,
}

impl SeqUnwrapper {
    /// The position that [`unwrap`](Self::unwrap) would give, without moving on. For packets that are not authenticated yet.
    pub fn peek(&self, wire: u16) -> SeqNo {
        let Some(SeqNo(newest)) = self.newest else { return SeqNo((1 << 16) + u64::from(wire)) };
        let ahead = wire.wrapping_sub(newest as u16) as i16;
        SeqNo(newest.wrapping_add_signed(i64::from(ahead)))
    }

    /// The position of a sequence number, which becomes the newest one if it is ahead.
    pub fn unwrap(&mut self, wire: u16) -> SeqNo {
        let seq = self.peek(wire);
        self.newest = self.newest.max(Some(seq));
        seq
    }

    /// The newest position so far.
    pub fn newest(&self) -> Option<SeqNo> {
        self.newest
    }
}

/// Turns wire timestamps into a media time that does not wrap, in units of the stream's clock rate.
#[derive(Debug, Clone, Copy, Default)]
pub struct TimestampUnwrapper {
    newest: Option<u64>,
}

impl TimestampUnwrapper {
    /// The media time that [`unwrap`](Self::unwrap) would give, without moving on.
    pub fn peek(&self, wire: u32) -> u64 {
        let Some(newest) = self.newest else { return (1 << 32) + u64::from(wire) };
        let ahead = wire.wrapping_sub(newest as u32) as i32;
        newest.wrapping_add_signed(i64::from(ahead))
    }

    /// The media time of a timestamp, which becomes the newest one if it is ahead.
    pub fn unwrap(&mut self, wire: u32) -> u64 {
        let time = self.peek(wire);
        self.newest = self.newest.max(Some(time));
        time
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn newer_wraps_around() {
        assert!(seq_newer_than(1, 0));
        assert!(seq_newer_than(0, 65535));
        assert!(!seq_newer_than(65535, 0));
        assert!(!seq_newer_than(7, 7));
        assert!(!seq_newer_than(0x8000, 0));
        assert!(timestamp_newer_than(5, u32::MAX));
        assert!(!timestamp_newer_than(u32::MAX, 5));
    }

    #[test]
    fn packets_from_before_the_first_have_a_position() {
        let mut unwrapper = SeqUnwrapper::default();
        let first = unwrapper.unwrap(2);
        let late = unwrapper.unwrap(65535);
        assert_eq!(late.0, first.0 - 3);
        assert_eq!((first.rollover(), late.rollover()), (Some(0), None));
        assert_eq!(unwrapper.newest(), Some(first));
    }

    #[test]
    fn peeking_changes_nothing() {
        let mut unwrapper = SeqUnwrapper::default();
        assert_eq!(unwrapper.peek(9), SeqNo(0x1_0009));
        assert_eq!(unwrapper.newest(), None);
        assert_eq!(unwrapper.unwrap(65535), SeqNo(0x1_ffff));
        assert_eq!(unwrapper.peek(0), SeqNo(0x2_0000));
        assert_eq!(unwrapper.newest(), Some(SeqNo(0x1_ffff)));
        assert_eq!(unwrapper.unwrap(0).rollover(), Some(1));
    }

    proptest! {
        #[test]
        fn steps_below_half_a_cycle_are_followed(start: u16, steps in prop::collection::vec(-32767i64..=32767, 1..200)) {
            let mut unwrapper = SeqUnwrapper::default();
            let mut newest = unwrapper.unwrap(start).0 as i64;
            for step in steps {
                let truth = newest + step;
                let seq = unwrapper.unwrap(truth as u16);
                prop_assert_eq!(seq.0 as i64, truth);
                prop_assert_eq!(seq.wire(), truth as u16);
                newest = newest.max(truth);
            }
        }

        #[test]
        fn timestamps_too(start: u32, steps in prop::collection::vec(i32::MIN + 1..=i32::MAX, 1..200)) {
            let mut unwrapper = TimestampUnwrapper::default();
            let mut newest = unwrapper.unwrap(start) as i64;
            for step in steps {
                let truth = newest + i64::from(step);
                prop_assert_eq!(unwrapper.unwrap(truth as u32) as i64, truth);
                newest = newest.max(truth);
            }
        }

        #[test]
        fn of_two_numbers_at_most_one_is_newer(a: u16, b: u16, c: u32, d: u32) {
            prop_assert!(!(seq_newer_than(a, b) && seq_newer_than(b, a)));
            prop_assert!(!(timestamp_newer_than(c, d) && timestamp_newer_than(d, c)));
        }
    }
}
