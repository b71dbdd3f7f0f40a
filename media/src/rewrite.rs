//! One consumer's numbering: sequence numbers, timestamps and VP8 picture ids that stay continuous when the source is
//! switched and when packets are left out on purpose, while real losses stay visible as gaps.
//!
//! `select` decides what is forwarded; here a packet of the source gets its numbers. A packet gets the same numbers each
//! time it is asked for, so that a retransmission equals the original.

use std::collections::VecDeque;

use crate::codec::Frame;

/// Deliberate drops that can still be told from losses when a late packet comes; older late packets are dropped.
const STEPS_MAX: usize = 64;
/// Where a stream may begin: half of the space, so that early losses cannot be taken for a rollover (RFC 3711 §3.3.1).
const FIRST_SEQUENCE_MAX: u64 = 0x7fff;

/// Numbers of one forwarded packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Extended; the wire has its low 16 bits.
    pub sequence: u64,
    /// RTP media time.
    pub timestamp: u32,
    /// VP8 picture id.
    pub picture_id: u16,
    /// VP8 TL0PICIDX.
    pub tl0: u8,
}

/// From `from` on, `sequence_offset` and `picture_offset` apply.
#[derive(Debug, Clone, Copy)]
struct Step {
    from: u64,
    sequence_offset: i64,
    picture_offset: u16,
}

/// The state of one consumer.
#[derive(Debug)]
pub struct Rewriter {
    steps: VecDeque<Step>,
    newest_in: u64,
    newest_out: Option<u64>,
    first_out: u64,
    timestamp_offset: u32,
    last_timestamp: u32,
    tl0_offset: u8,
    last_picture_id: u16,
    last_tl0: u8,
    last_dropped_picture: Option<u16>,
}

impl Rewriter {
    /// A stream that starts at a number derived from `random`.
    pub fn new(random: u64) -> Self {
        Self {
            steps: VecDeque::new(),
            newest_in: 0,
            newest_out: None,
            first_out: 1 + random % FIRST_SEQUENCE_MAX,
            timestamp_offset: (random >> 32) as u32,
            last_timestamp: 0,
            tl0_offset: 0,
            last_picture_id: (random >> 16) as u16 & 0x7fff,
            last_tl0: 0,
            last_dropped_picture: None,
        }
    }

    /// What `timestamp` of the source becomes.
    pub fn timestamp(&self, timestamp: u32) -> u32 {
        timestamp.wrapping_add(self.timestamp_offset)
    }

    /// The newest extended sequence number that was given out.
    pub fn newest(&self) -> Option<u64> {
        self.newest_out
    }

    /// The source changes (or starts): `sequence` is the first packet of it, `elapsed_ticks` the media time since the last
    /// forwarded one.
    pub fn switch(&mut self, sequence: u64, timestamp: u32, frame: &Frame, elapsed_ticks: u32) {
        let next = self.newest_out.map_or(self.first_out, |newest| newest + 1);
        if self.newest_out.is_some() {
            self.timestamp_offset =
                self.last_timestamp.wrapping_add(elapsed_ticks.max(1)).wrapping_sub(timestamp);
        }
        let picture = frame.vp8.picture.map_or(0, |(_, id)| id);
        self.tl0_offset = self.last_tl0.wrapping_add(1).wrapping_sub(frame.vp8.tl0.map_or(0, |(_, tl0)| tl0));
        self.steps.clear();
        self.steps.push_back(Step {
            from: sequence,
            sequence_offset: next as i64 - sequence as i64,
            picture_offset: self.last_picture_id.wrapping_add(1).wrapping_sub(picture),
        });
        self.newest_in = sequence;
        self.last_dropped_picture = None;
    }

    /// The numbers of a packet of the current source; `None` when it is older than the source's first forwarded packet.
    pub fn map(&mut self, sequence: u64, timestamp: u32, frame: &Frame) -> Option<Numbers> {
        let step = self.steps.iter().rev().find(|step| step.from <= sequence)?;
        let out = sequence.checked_add_signed(step.sequence_offset)?;
        let numbers = Numbers {
            sequence: out,
            timestamp: self.timestamp(timestamp),
            picture_id: frame.vp8.picture.map_or(0, |(_, id)| id.wrapping_add(step.picture_offset) & 0x7fff),
            tl0: frame.vp8.tl0.map_or(0, |(_, tl0)| tl0.wrapping_add(self.tl0_offset)),
        };
        self.newest_in = self.newest_in.max(sequence);
        if self.newest_out.is_none_or(|newest| out > newest) {
            self.newest_out = Some(out);
            self.last_timestamp = numbers.timestamp;
            self.last_picture_id = numbers.picture_id;
            self.last_tl0 = numbers.tl0;
        }
        Some(numbers)
    }

    /// A packet of the current source is left out on purpose: the next one closes the gap. A late one leaves its gap.
    pub fn skip(&mut self, sequence: u64, frame: &Frame) {
        let Some(last) = self.steps.back().copied() else { return };
        if sequence <= self.newest_in {
            return;
        }
        let picture = frame.vp8.picture.map(|(_, id)| id);
        let new_picture = picture.is_some() && picture != self.last_dropped_picture;
        self.newest_in = sequence;
        self.last_dropped_picture = picture;
        let step = Step {
            from: sequence + 1,
            sequence_offset: last.sequence_offset - 1,
            picture_offset: last.picture_offset.wrapping_sub(u16::from(new_picture)),
        };
        if self.steps.len() == STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Vp8Ids;

    fn frame(picture: u16) -> Frame {
        Frame { vp8: Vp8Ids { picture: Some((2, picture)), tl0: Some((4, 0)) }, ..Frame::default() }
    }

    #[test]
    fn drops_close_and_losses_stay() {
        let mut rewriter = Rewriter::new(0);
        rewriter.switch(100, 0, &frame(5), 0);
        let first = rewriter.map(100, 0, &frame(5)).expect("mapped");
        rewriter.skip(101, &frame(6));
        rewriter.skip(102, &frame(6));
        let second = rewriter.map(103, 10, &frame(7)).expect("mapped");
        assert_eq!(second.sequence, first.sequence + 1);
        assert_eq!(second.picture_id, first.picture_id + 1);
        let after_loss = rewriter.map(106, 20, &frame(8)).expect("mapped");
        assert_eq!(after_loss.sequence, second.sequence + 3);
        assert_eq!(rewriter.map(105, 20, &frame(8)).expect("late").sequence, second.sequence + 2);
        assert_eq!(rewriter.map(100, 0, &frame(5)), Some(first), "asked again, the same");
    }

    #[test]
    fn a_switch_continues() {
        let mut rewriter = Rewriter::new(7);
        rewriter.switch(100, 1000, &frame(5), 0);
        let before = rewriter.map(100, 1000, &frame(5)).expect("mapped");
        rewriter.switch(60_000, 777, &frame(900), 3000);
        let after = rewriter.map(60_000, 777, &frame(900)).expect("mapped");
        assert_eq!(after.sequence, before.sequence + 1);
        assert_eq!(after.timestamp, before.timestamp.wrapping_add(3000));
        assert_eq!(after.picture_id, (before.picture_id + 1) & 0x7fff);
        assert_eq!(rewriter.map(59_999, 777, &frame(900)), None);
    }
}
