//! One consumer's numbering: sequence numbers, timestamps and VP8 picture ids that stay continuous when the source is
//! switched and when packets are left out on purpose, while real losses stay visible as gaps.
//!
//! `select` decides what is forwarded; here a packet of the source gets its numbers. A packet gets the same numbers each
//! time it is asked for, so that a retransmission equals the original.

use std::collections::VecDeque;

use crate::codec::Frame;

/// Deliberate drops that can still be told from losses when a late packet comes; older late packets are dropped.
const STEPS_MAX: usize = 64;
/// A publisher whose numbers leap further has lost its count, or means harm: a few such leaps, some of them lost, and a
/// subscriber's rollover counter is wrong for ever (RFC 3711 §3.3.1). So many lost packets nobody asks for again either.
const LEAP_MAX: u64 = 1000;
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
    /// VP8 KEYIDX.
    pub key_index: u8,
}

/// What is known of the media time between the last forwarded packet and the first of the next source.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gap {
    /// By our clock.
    pub elapsed_ticks: u32,
    /// By the publisher's: what added to the new source's timestamps gives the former's.
    pub alignment: Option<u32>,
    /// Clocks that are further apart are not comparable, and ours counts.
    pub trusted_ticks: u32,
}

/// From `from` on, `sequence_offset` and `picture_offset` apply.
#[derive(Debug, Clone, Copy)]
struct Step {
    from: u64,
    sequence_offset: i64,
    picture_offset: u16,
}

impl Step {
    fn sequence(&self, source: u64) -> Option<u64> {
        source.checked_add_signed(self.sequence_offset)
    }
}

/// The state of one consumer.
#[derive(Debug)]
pub struct Rewriter {
    steps: VecDeque<Step>,
    newest_in: u64,
    newest_out: Option<u64>,
    first_out: u64,
    timestamp_offset: u32,
    /// How much later than their capture the timestamps are since the last switch, so that they did not run back.
    timestamp_lead: u32,
    last_timestamp: u32,
    tl0_offset: u8,
    key_offset: u8,
    last_picture_id: u16,
    last_tl0: u8,
    last_key: u8,
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
            timestamp_lead: 0,
            last_timestamp: 0,
            tl0_offset: 0,
            key_offset: 0,
            last_picture_id: (random >> 16) as u16 & 0x7fff,
            last_tl0: 0,
            last_key: 0,
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

    /// The source changes (or starts): `sequence` is the first packet of it, `gap` the media time since the last
    /// forwarded one.
    pub fn switch(&mut self, sequence: u64, timestamp: u32, frame: &Frame, gap: Gap) {
        let next = self.newest_out.map_or(self.first_out, |newest| newest + 1);
        if self.newest_out.is_some() {
            self.align(timestamp, gap);
        }
        let picture = frame.vp8.picture.map_or(0, |(_, id)| id);
        self.tl0_offset = self.last_tl0.wrapping_add(1).wrapping_sub(frame.vp8.tl0.map_or(0, |(_, tl0)| tl0));
        self.key_offset = self.last_key.wrapping_add(1).wrapping_sub(frame.vp8.key.map_or(0, |(_, key)| key));
        self.steps.clear();
        self.steps.push_back(Step {
            from: sequence,
            sequence_offset: next as i64 - sequence as i64,
            picture_offset: self.last_picture_id.wrapping_add(1).wrapping_sub(picture),
        });
        self.newest_in = sequence;
        self.last_dropped_picture = None;
    }

    fn align(&mut self, timestamp: u32, gap: Gap) {
        let by_clock = self.last_timestamp.wrapping_add(gap.elapsed_ticks.max(1));
        let true_offset = self.timestamp_offset.wrapping_sub(self.timestamp_lead);
        let captured =
            gap.alignment.map(|alignment| timestamp.wrapping_add(alignment).wrapping_add(true_offset));
        let out = match captured {
            Some(captured) if distance(by_clock, captured).unsigned_abs() <= gap.trusted_ticks => {
                // A layer's keyframe may be older than what was last sent of another.
                let lead = (1 - distance(self.last_timestamp, captured)).max(0);
                self.timestamp_lead = lead as u32;
                captured.wrapping_add(self.timestamp_lead)
            }
            _ => {
                self.timestamp_lead = 0;
                by_clock
            }
        };
        self.timestamp_offset = out.wrapping_sub(timestamp);
    }

    /// The numbers of a packet of the current source; `None` when it is older than the source's first forwarded packet, or
    /// was left out: the packet behind it has its number, and a number is a nonce (RFC 7714 §8.1).
    pub fn map(&mut self, sequence: u64, timestamp: u32, frame: &Frame) -> Option<Numbers> {
        if sequence > self.newest_in + LEAP_MAX {
            self.bridge(sequence);
        }
        let at = self.steps.iter().rposition(|step| step.from <= sequence)?;
        let step = self.steps[at];
        let out = step.sequence(sequence)?;
        let taken_from = self.steps.get(at + 1).and_then(|next| next.sequence(next.from));
        if taken_from.is_some_and(|taken| out >= taken) {
            return None;
        }
        let numbers = Numbers {
            sequence: out,
            timestamp: self.timestamp(timestamp),
            picture_id: frame.vp8.picture.map_or(0, |(_, id)| id.wrapping_add(step.picture_offset) & 0x7fff),
            tl0: frame.vp8.tl0.map_or(0, |(_, tl0)| tl0.wrapping_add(self.tl0_offset)),
            key_index: frame.vp8.key.map_or(0, |(_, key)| key.wrapping_add(self.key_offset) & 0x1f),
        };
        self.newest_in = self.newest_in.max(sequence);
        if self.newest_out.is_none_or(|newest| out > newest) {
            self.newest_out = Some(out);
            self.last_timestamp = numbers.timestamp;
            self.last_picture_id = numbers.picture_id;
            self.last_tl0 = numbers.tl0;
            self.last_key = numbers.key_index;
        }
        Some(numbers)
    }

    /// Of a leap one missing packet is left, so that decoders without picture ids notice it.
    #[cold]
    #[inline(never)]
    fn bridge(&mut self, sequence: u64) {
        let Some(last) = self.steps.back().copied() else { return };
        // What was lost before it may still come, under its own number.
        let newest = last.sequence(self.newest_in).max(self.newest_out);
        if let Some(newest) = newest {
            let sequence_offset = (newest + 2) as i64 - sequence as i64;
            self.add_step(Step { from: sequence, sequence_offset, ..last });
        }
    }

    fn add_step(&mut self, step: Step) {
        if self.steps.len() == STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back(step);
    }

    /// A packet of the current source is left out on purpose: the next one closes the gap. A late one leaves its gap.
    pub fn skip(&mut self, sequence: u64, frame: &Frame) {
        if sequence <= self.newest_in {
            return;
        }
        if sequence > self.newest_in + LEAP_MAX {
            self.bridge(sequence);
        }
        let Some(last) = self.steps.back().copied() else { return };
        let picture = frame.vp8.picture.map(|(_, id)| id);
        let new_picture = picture.is_some() && picture != self.last_dropped_picture;
        self.newest_in = sequence;
        // Padding between two packets of a picture is no picture.
        self.last_dropped_picture = picture.or(self.last_dropped_picture);
        let step = Step {
            from: sequence + 1,
            sequence_offset: last.sequence_offset - 1,
            picture_offset: last.picture_offset.wrapping_sub(u16::from(new_picture)),
        };
        self.add_step(step);
    }
}

/// From one timestamp to another, across the wrap.
fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from) as i32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::Vp8Ids;

    fn frame(picture: u16) -> Frame {
        let vp8 = Vp8Ids { picture: Some((2, picture)), long: true, tl0: Some((4, 0)), key: None };
        Frame { vp8, ..Frame::default() }
    }

    #[test]
    fn drops_close_and_losses_stay() {
        let mut rewriter = Rewriter::new(0);
        rewriter.switch(100, 0, &frame(5), Gap::default());
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
        rewriter.switch(100, 1000, &frame(5), Gap::default());
        let before = rewriter.map(100, 1000, &frame(5)).expect("mapped");
        rewriter.switch(60_000, 777, &frame(900), Gap { elapsed_ticks: 3000, ..Gap::default() });
        let after = rewriter.map(60_000, 777, &frame(900)).expect("mapped");
        assert_eq!(after.sequence, before.sequence + 1);
        assert_eq!(after.timestamp, before.timestamp.wrapping_add(3000));
        assert_eq!(after.picture_id, (before.picture_id + 1) & 0x7fff);
        assert_eq!(rewriter.map(59_999, 777, &frame(900)), None);
    }

    #[test]
    fn short_ids_continue_through_wraps_and_switches() {
        let frame = |picture: u16, key: u8| {
            let vp8 = Vp8Ids {
                picture: Some((2, picture % 128)),
                long: false,
                tl0: None,
                key: Some((3, key % 32)),
            };
            Frame { vp8, ..Frame::default() }
        };
        let mut rewriter = Rewriter::new(3 << 16);
        let mut last: Option<Numbers> = None;
        let mut check = |rewriter: &mut Rewriter, sequence, picture, key, new_key: u8| {
            let now = rewriter.map(sequence, 0, &frame(picture, key)).expect("mapped");
            if let Some(last) = last.replace(now) {
                assert_eq!(now.picture_id % 128, (last.picture_id + 1) % 128);
                assert_eq!(now.key_index, (last.key_index + new_key) % 32);
            }
        };
        rewriter.switch(100, 0, &frame(100, 30), Gap::default());
        (0..300).for_each(|at| check(&mut rewriter, 100 + u64::from(at), 100 + at, 30, 0));
        check(&mut rewriter, 400, 400, 31, 1);
        rewriter.switch(7, 0, &frame(5, 12), Gap::default());
        check(&mut rewriter, 7, 5, 12, 1);
        (1..200).for_each(|at| check(&mut rewriter, 7 + u64::from(at), 5 + at, 12, 0));
    }

    #[test]
    fn what_was_left_out_has_no_number() {
        let mut rewriter = Rewriter::new(0);
        rewriter.switch(100, 0, &frame(5), Gap::default());
        rewriter.map(100, 0, &frame(5)).expect("mapped");
        rewriter.skip(101, &Frame::default());
        rewriter.skip(103, &Frame::default());
        let behind = rewriter.map(104, 10, &frame(7)).expect("mapped");
        for left_out in [101, 103] {
            assert_eq!(rewriter.map(left_out, 10, &frame(6)), None);
        }
        let late = rewriter.map(102, 10, &frame(6)).expect("it was lost, not left out");
        assert_eq!(late.sequence + 1, behind.sequence);
    }

    #[test]
    fn padding_within_a_dropped_picture_is_no_picture() {
        let mut rewriter = Rewriter::new(0);
        rewriter.switch(100, 0, &frame(5), Gap::default());
        let before = rewriter.map(100, 0, &frame(5)).expect("mapped");
        rewriter.skip(101, &frame(6));
        rewriter.skip(102, &Frame::default());
        rewriter.skip(103, &frame(6));
        let after = rewriter.map(104, 10, &frame(7)).expect("mapped");
        assert_eq!(after.picture_id, before.picture_id + 1);
    }

    /// What becomes of a packet of the source.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        Forwarded,
        LeftOut,
        Lost,
        /// Lost, then repeated when so many others have passed.
        Late(usize),
        /// Left out, then repeated by a publisher who means harm.
        Returns(usize),
        /// Numbers leap, as those of an honest publisher never do.
        Leap(u64),
        /// The first of another source, whose numbers are this far on.
        Switch(u64),
    }

    fn fates() -> impl Strategy<Value = Vec<Fate>> {
        let fate = prop_oneof![
            8 => Just(Fate::Forwarded),
            3 => Just(Fate::LeftOut),
            2 => Just(Fate::Lost),
            2 => (1usize..100).prop_map(Fate::Late),
            1 => (1usize..100).prop_map(Fate::Returns),
            1 => (LEAP_MAX..33_000).prop_map(Fate::Leap),
            1 => (0u64..200_000).prop_map(Fate::Switch),
        ];
        proptest::collection::vec(fate, 1..400)
    }

    proptest! {
        #[test]
        fn numbers_never_repeat_and_gaps_are_the_sources(fates in fates(), random in any::<u64>()) {
            let mut rewriter = Rewriter::new(random);
            let mut sequence = 65_500;
            rewriter.switch(sequence, 0, &frame(0), Gap::default());
            let mut newest = rewriter.map(sequence, 0, &frame(0)).expect("the first").sequence;
            let mut given = std::collections::HashSet::from([newest]);
            let (mut gap, mut pending) = (0, Vec::new());
            for (at, fate) in fates.into_iter().enumerate() {
                sequence += 1;
                match fate {
                    Fate::LeftOut => rewriter.skip(sequence, &frame(0)),
                    Fate::Lost => gap += 1,
                    Fate::Leap(further) => {
                        sequence += further;
                        let out = rewriter.map(sequence, 0, &frame(0)).expect("the newest").sequence;
                        prop_assert!((newest + 2..=newest + 2 + gap).contains(&out), "{} after {}", out, newest);
                        prop_assert!(given.insert(out));
                        (newest, gap) = (out, 0);
                    }
                    Fate::Late(after) => {
                        gap += 1;
                        pending.push((at + after, sequence));
                    }
                    Fate::Returns(after) => {
                        rewriter.skip(sequence, &frame(0));
                        pending.push((at + after, sequence));
                    }
                    Fate::Forwarded | Fate::Switch(_) => {
                        if let Fate::Switch(further) = fate {
                            sequence += further;
                            pending.clear();
                            gap = 0;
                            rewriter.switch(sequence, 0, &frame(0), Gap::default());
                        }
                        let out = rewriter.map(sequence, 0, &frame(0)).expect("the newest").sequence;
                        prop_assert_eq!(out, newest + 1 + gap);
                        prop_assert!(given.insert(out));
                        (newest, gap) = (out, 0);
                    }
                }
                for (_, late) in pending.extract_if(.., |(due, _)| *due <= at) {
                    if let Some(numbers) = rewriter.map(late, 0, &frame(0)) {
                        prop_assert!(given.insert(numbers.sequence), "{} twice", numbers.sequence);
                        if numbers.sequence > newest {
                            gap -= numbers.sequence - newest;
                            newest = numbers.sequence;
                        }
                    }
                }
            }
        }

        #[test]
        fn timestamps_go_on_over_a_switch(before in any::<u32>(), after in any::<u32>(), elapsed in 0u32..1 << 30) {
            let mut rewriter = Rewriter::new(1);
            rewriter.switch(1, before, &frame(0), Gap::default());
            let last = rewriter.map(1, before, &frame(0)).expect("mapped").timestamp;
            // The publisher's clocks disagree with ours by more than can be.
            let alignment = Some(last.wrapping_sub(after).wrapping_add(elapsed ^ 1 << 30));
            let gap = Gap { elapsed_ticks: elapsed, alignment, trusted_ticks: 900_000 };
            rewriter.switch(9, after, &frame(0), gap);
            let next = rewriter.map(9, after, &frame(0)).expect("mapped").timestamp;
            prop_assert_eq!(next.wrapping_sub(last), elapsed.max(1));
        }

        /// Two layers of one camera with timestamps of their own; frames of one arrive up to a frame later than the other's.
        #[test]
        fn timestamps_follow_the_capture_through_any_number_of_switches(
            starts in any::<[u32; 2]>(),
            stays in proptest::collection::vec((1u64..20, -1i64..=1), 1..60),
        ) {
            const FRAME: u32 = 3000;
            let timestamp = |layer: usize, captured: u64| starts[layer].wrapping_add(FRAME.wrapping_mul(captured as u32));
            let mut rewriter = Rewriter::new(5);
            let (mut captured, mut sequence, mut layer) = (100u64, 0, 0);
            let mut first_and_last = None;
            for (stay, lag) in stays {
                let gap = Gap {
                    // Our clock sees the network's jitter.
                    elapsed_ticks: (i64::from(FRAME) + 2000 * lag) as u32,
                    alignment: Some(starts[1 - layer].wrapping_sub(starts[layer])),
                    trusted_ticks: 90_000,
                };
                captured = captured.checked_add_signed(lag).expect("far from zero");
                rewriter.switch(sequence, timestamp(layer, captured), &frame(0), gap);
                for _ in 0..stay {
                    let out = rewriter.map(sequence, timestamp(layer, captured), &frame(0)).expect("mapped").timestamp;
                    let (first, last) = *first_and_last.get_or_insert((out.wrapping_sub(FRAME * captured as u32), out.wrapping_sub(1)));
                    prop_assert!(distance(last, out) > 0);
                    let late = distance(first.wrapping_add(FRAME.wrapping_mul(captured as u32)), out);
                    prop_assert!((0..=2 * FRAME as i32).contains(&late), "{late} ticks late");
                    first_and_last = Some((first, out));
                    (captured, sequence) = (captured + 1, sequence + 1);
                }
                layer = 1 - layer;
            }
        }
    }
}
