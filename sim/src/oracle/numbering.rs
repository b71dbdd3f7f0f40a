//! `isolation` and `sequence`: whose packets a consumer gets, and how they are numbered.
//!
//! Every packet is compared with its neighbours in the consumer's numbering. Between two packets of one encoding there are
//! at least as many numbers as the source has packets of its lowest temporal layer there, and at most as many as it has at
//! all. Another encoding, and what follows a pause, begins with a keyframe at the next number.

use std::collections::{BTreeMap, BTreeSet};

use super::{Violation, broken};
use crate::far_end::{Received, Tag};

/// Where clocks or paths were bad, timestamps go by what the SFU saw: stalls, queues and jitter together are shorter.
const SWITCH_ERROR_MS: i64 = 10_000;
const PICTURE_ID_MASK: u16 = 0x7fff;

/// All consumers that there were.
#[derive(Debug, Default)]
pub struct Consumers {
    seen: BTreeMap<(u16, String), Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    stream: Option<u32>,
    by_sequence: BTreeMap<u64, Packet>,
    /// Packets behind a pause.
    jumps: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Packet {
    sequence: u64,
    timestamp: u32,
    audio: bool,
    picture: u16,
    keyframe: bool,
    tag: Tag,
}

impl Consumers {
    /// A packet reached a subscriber. `may_skip` says that a pause explains a jump of the source; whether there was one is
    /// the answer.
    pub fn got(
        &mut self,
        (person, room): (u16, u16),
        received: &Received,
        may_skip: bool,
    ) -> Result<bool, Violation> {
        let Some(tag) = received.tag else {
            return broken("isolation", format!("p{person} got a packet that nobody published"));
        };
        if tag.room != room || tag.person == person {
            return broken("isolation", format!("p{person} in room {room} got {tag:?}"));
        }
        let numbers = self.seen.entry((person, received.consumer.clone())).or_default();
        if *numbers.stream.get_or_insert(tag.stream) != tag.stream {
            return broken(
                "isolation",
                format!("p{person}'s consumer {} changed its source", received.consumer),
            );
        }
        let Received { sequence, timestamp, audio, picture, keyframe, .. } = *received;
        numbers.place(Packet { sequence, timestamp, audio, picture, keyframe, tag }, may_skip).map_err(
            |mut violation| {
                violation.what = format!("p{person}: {}", violation.what);
                violation
            },
        )
    }
}

impl Numbers {
    fn place(&mut self, packet: Packet, may_skip: bool) -> Result<bool, Violation> {
        let sequence = packet.sequence;
        if let Some(before) = self.by_sequence.insert(sequence, packet) {
            let same = before.tag == packet.tag && before.timestamp == packet.timestamp;
            return if same {
                Ok(false)
            } else {
                broken("sequence", format!("{before:?} became {packet:?}"))
            };
        }
        let below = self.by_sequence.range(..sequence).next_back().map(|(_, packet)| *packet);
        let above = self.by_sequence.range(sequence + 1..).next().map(|(_, packet)| *packet);
        // The jump above may be one that this packet turns out to be behind.
        let known = above.is_some_and(|above| self.jumps.contains(&above.sequence));
        let mut fresh = false;
        for (below, above) in [(below, Some(packet)), (Some(packet), above)] {
            let (Some(below), Some(above)) = (below, above) else { continue };
            if below.leads_to(&above, may_skip)? || known {
                continue;
            }
            if !may_skip {
                return broken("sequence", format!("no pause explains {below:?} before {above:?}"));
            }
            self.jumps.insert(above.sequence);
            fresh = true;
        }
        if known {
            self.jumps.insert(sequence);
        }
        Ok(fresh)
    }
}

impl Packet {
    fn layered(&self) -> bool {
        self.tag.layer > 0 || self.tag.temporal > 0 || self.tag.base != self.tag.number
    }

    /// Whether `next` may follow in the consumer's numbering without a pause between them.
    fn leads_to(&self, next: &Self, may_skip: bool) -> Result<bool, Violation> {
        let wrong = |what: &str| broken("sequence", format!("{what}: {self:?}, then {next:?}"));
        let adjacent = next.sequence == self.sequence + 1;
        let same_layer = self.tag.layer == next.tag.layer;
        let same_frame = same_layer && self.tag.captured_ms == next.tag.captured_ms;
        let ticks = i64::from(next.timestamp.wrapping_sub(self.timestamp) as i32);
        if ticks < 0 || (ticks == 0) != same_frame {
            return wrong("timestamps do not rise");
        }
        let captured = i64::from(next.tag.captured_ms) - i64::from(self.tag.captured_ms);
        let late_ms = ticks / if self.audio { 48 } else { 90 } - captured;
        if late_ms.abs() > SWITCH_ERROR_MS {
            return wrong("media time ran off");
        }
        if adjacent && !self.audio {
            let step = u16::from(!same_frame);
            if next.picture != self.picture.wrapping_add(step) & PICTURE_ID_MASK {
                return wrong("picture ids are not continuous");
            }
            if next.tag.temporal & Tag::LEANS != 0 && next.tag.number != self.tag.number + 1 {
                return wrong("a picture came without the one that it refers to");
            }
        }
        if !same_layer {
            return if adjacent && !next.keyframe { wrong("a switch without a keyframe") } else { Ok(true) };
        }
        if next.tag.number <= self.tag.number {
            return wrong("a packet of the source is out of place");
        }
        let step = next.sequence - self.sequence;
        let most = next.tag.number - self.tag.number;
        let least = next.tag.base - self.tag.base + u64::from(next.tag.temporal != 0);
        let fits = (least..=most).contains(&step);
        let hidden = next.layered() && !adjacent;
        if fits && !hidden && !may_skip && late_ms != 0 {
            return wrong("media time jumped");
        }
        if !fits && adjacent && !self.audio && !next.keyframe {
            return wrong("a pause ended without a keyframe");
        }
        // Between packets that are missing, another encoding may have come and gone. And a layer that the link could not bear is
        // left at once (`sfu/downlink`): it may be entered again before another has come.
        let entered_again = !fits && adjacent && !self.audio && next.keyframe;
        Ok(fits || hidden || entered_again)
    }
}
