//! Which encoding a consumer gets: the best one that flows and is wanted, entered at a keyframe only; and which of its
//! layers, which are left out between pictures and come back where a decoder can follow.
//!
//! `sfu` reports what each encoding does and asks for keyframes of [`Selector::target`]; `rewrite` numbers what is let
//! through.

use crate::codec::Frame;

/// What to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send it.
    Forward,
    /// Send it; it is the first of another encoding.
    Switch,
    /// Leave it out and close the gap.
    Skip,
    /// It is not of the current encoding.
    Ignore,
}

/// One consumer's choice.
#[derive(Debug)]
pub struct Selector {
    /// The encoding of several, or the layer of one encoding that has several.
    preferred_spatial: u8,
    preferred_temporal: u8,
    encodings: usize,
    current: Option<usize>,
    /// Highest layers that are let through; they follow the preferred ones when a decoder can follow.
    spatial: u8,
    temporal: u8,
    /// The newest ones, of the current encoding.
    rises: [Option<Rise>; RISES],
    target: usize,
}

/// A packet that was repeated for the SFU is at most a store's length late; nobody rises more often meanwhile.
const RISES: usize = 4;

/// From this packet on more is let through.
#[derive(Debug, Clone, Copy)]
struct Rise {
    sequence: u64,
    /// The highest layers before.
    spatial: u8,
    temporal: u8,
}

impl Selector {
    /// Wants the best of `encodings`.
    pub fn new(encodings: usize) -> Self {
        Self {
            preferred_spatial: u8::MAX,
            preferred_temporal: u8::MAX,
            encodings,
            current: None,
            spatial: u8::MAX,
            temporal: u8::MAX,
            rises: [None; RISES],
            target: encodings.saturating_sub(1),
        }
    }

    /// What the client asked for; takes effect at the next [`Selector::choose`].
    pub fn prefer(&mut self, spatial: u8, temporal: Option<u8>) {
        self.preferred_spatial = spatial;
        self.preferred_temporal = temporal.unwrap_or(u8::MAX);
    }

    /// The encoding that flows to the consumer.
    pub fn current(&self) -> Option<usize> {
        self.current
    }

    /// The encoding that is waited for, when it is another.
    pub fn target(&self) -> Option<usize> {
        (self.current != Some(self.target)).then_some(self.target)
    }

    /// Chooses again from whether each encoding flows. Returns whether the target has changed.
    pub fn choose(&mut self, flows: impl Iterator<Item = bool>) -> bool {
        let mut best = None;
        for (encoding, _) in flows.enumerate().filter(|(_, flows)| *flows) {
            // The highest that is not above what is wanted; failing that, the lowest above it.
            if encoding <= usize::from(self.preferred_spatial) || best.is_none() {
                best = Some(encoding);
            }
        }
        let target = best.unwrap_or(self.target);
        std::mem::replace(&mut self.target, target) != target
    }

    /// After a pause the decoder needs a keyframe again.
    pub fn restart(&mut self) {
        self.current = None;
    }

    /// Spatial and temporal layer that the consumer gets of an encoding in which `highest` are there.
    pub fn layers(&self, encoding: usize, highest: (u8, u8)) -> (u8, u8) {
        let spatial = if self.encodings > 1 { encoding as u8 } else { self.spatial.min(highest.0) };
        (spatial, self.temporal.min(highest.1))
    }

    /// Whether a higher spatial layer of the current encoding is wanted, where `highest` is there: it is entered at a
    /// keyframe.
    pub fn waits_for_layer(&self, highest: u8) -> bool {
        self.encodings == 1 && self.current.is_some() && self.spatial < self.preferred_spatial.min(highest)
    }

    /// Whether the picture ends with this packet because the layers above are left out.
    pub fn cuts_behind(&self, frame: &Frame) -> bool {
        frame.end && frame.spatial == self.spatial
    }

    /// Decides about one packet; `newest` when no later one of its encoding has come.
    pub fn decide(&mut self, encoding: usize, sequence: u64, frame: &Frame, newest: bool) -> Decision {
        if encoding == self.target && self.current != Some(encoding) && frame.keyframe {
            self.current = Some(encoding);
            (self.spatial, self.temporal) = (self.preferred_spatial, self.preferred_temporal);
            self.rises = [None; RISES];
            return Decision::Switch;
        }
        if self.current != Some(encoding) {
            return Decision::Ignore;
        }
        let has_all = (self.spatial, self.temporal) == (self.preferred_spatial, self.preferred_temporal);
        if newest && !has_all {
            self.follow(sequence, frame);
        }
        let (spatial, temporal) =
            if newest { (self.spatial, self.temporal) } else { self.limits_at(sequence) };
        if frame.temporal > temporal || frame.spatial > spatial { Decision::Skip } else { Decision::Forward }
    }

    /// Other layers are wanted than are let through.
    fn follow(&mut self, sequence: u64, frame: &Frame) {
        let before = (self.spatial, self.temporal);
        if frame.start {
            self.follow_preferred(frame);
        }
        if frame.opens && self.is_highest_wanted(frame) && frame.temporal <= self.temporal {
            self.temporal = self.preferred_temporal;
        }
        if self.spatial > before.0 || self.temporal > before.1 {
            self.rises.rotate_right(1);
            self.rises[0] = Some(Rise { sequence, spatial: before.0, temporal: before.1 });
        }
    }

    /// What is late refers to what came before a rise, and was left out if it was above the limits of that time.
    fn limits_at(&self, sequence: u64) -> (u8, u8) {
        let later = self.rises.iter().flatten().filter(|rise| rise.sequence > sequence);
        later.fold((self.spatial, self.temporal), |(spatial, temporal), rise| {
            (spatial.min(rise.spatial), temporal.min(rise.temporal))
        })
    }

    /// Whether a frame of this spatial layer is the last that the consumer gets of its picture.
    fn is_highest_wanted(&self, frame: &Frame) -> bool {
        frame.spatial == self.spatial || frame.is_top && frame.spatial < self.spatial
    }

    /// Down at the start of any picture, so that none is cut. Up at a keyframe; temporally also where what follows does not
    /// refer to what was left out: one layer at a time at VP8's Y bit (RFC 7741 §4.2), to any behind VP9's U bit (RFC 9628
    /// §4.2). AV1 says so at the last frame of a picture, see [`Selector::decide`].
    fn follow_preferred(&mut self, frame: &Frame) {
        self.spatial = self.spatial.min(self.preferred_spatial);
        if frame.keyframe {
            (self.spatial, self.temporal) = (self.preferred_spatial, self.preferred_temporal);
        } else if self.preferred_temporal < self.temporal
            || frame.up && frame.temporal <= self.temporal.min(self.preferred_temporal)
        {
            self.temporal = self.preferred_temporal;
        } else if frame.sync
            && frame.temporal <= self.preferred_temporal
            && frame.temporal.checked_sub(1) == Some(self.temporal)
        {
            self.temporal = frame.temporal;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYFRAME: Frame = vp8(true, true, 0, false);
    const DELTA: Frame = vp8(false, true, 0, false);

    const fn vp8(keyframe: bool, start: bool, temporal: u8, sync: bool) -> Frame {
        let vp8 = crate::codec::Vp8Ids { picture: None, long: false, tl0: None, key: None };
        Frame {
            keyframe,
            start,
            end: false,
            spatial: 0,
            temporal,
            sync,
            up: false,
            opens: false,
            is_top: false,
            vp8,
        }
    }

    /// The first packet of a VP9 layer frame.
    const fn vp9(keyframe: bool, spatial: u8, temporal: u8, up: bool) -> Frame {
        let keyframe = keyframe && spatial == 0;
        Frame { start: spatial == 0, spatial, up, ..vp8(keyframe, true, temporal, false) }
    }

    #[test]
    fn it_enters_at_a_keyframe_and_falls_away_from_silence() {
        let mut selector = Selector::new(3);
        assert_eq!(selector.decide(2, 0, &DELTA, true), Decision::Ignore);
        assert_eq!(selector.decide(2, 0, &KEYFRAME, true), Decision::Switch);
        assert_eq!(selector.decide(2, 0, &DELTA, true), Decision::Forward);
        assert!(selector.choose([true, true, false].into_iter()));
        assert_eq!((selector.target(), selector.current()), (Some(1), Some(2)));
        selector.prefer(0, Some(0));
        selector.choose([true; 3].into_iter());
        assert_eq!(selector.target(), Some(0));
        assert_eq!(selector.decide(0, 0, &KEYFRAME, true), Decision::Switch);
        assert_eq!(selector.decide(0, 0, &vp8(false, true, 1, false), true), Decision::Skip);
    }

    #[test]
    fn an_encoding_that_never_comes_is_not_waited_for() {
        let mut selector = Selector::new(3);
        assert!(selector.choose([true, true, false].into_iter()));
        assert_eq!(selector.target(), Some(1));
        selector.choose([false, false, true].into_iter());
        selector.prefer(0, None);
        selector.choose([false, false, true].into_iter());
        assert_eq!(selector.target(), Some(2), "the lowest above what is wanted");
    }

    #[test]
    fn temporal_layers_change_between_frames_and_rise_where_a_decoder_can_follow() {
        let mut selector = Selector::new(1);
        selector.prefer(0, Some(0));
        assert_eq!(selector.decide(0, 0, &KEYFRAME, true), Decision::Switch);
        let mut check = |preferred, start, temporal, sync, expected| {
            selector.prefer(0, Some(preferred));
            assert_eq!(selector.decide(0, 0, &vp8(false, start, temporal, sync), true), expected);
        };
        check(2, true, 2, true, Decision::Skip); // layer 1, to which later frames of 2 refer, is not there
        check(2, true, 1, false, Decision::Skip); // refers to what was left out
        check(2, false, 1, true, Decision::Skip); // half a frame
        check(2, true, 1, true, Decision::Forward);
        check(2, true, 2, false, Decision::Skip);
        check(2, true, 2, true, Decision::Forward);
        check(0, false, 2, true, Decision::Forward); // the rest of a frame
        check(0, true, 1, false, Decision::Skip);
    }

    #[test]
    fn a_keyframe_lets_every_preferred_layer_in_unless_it_is_late() {
        let mut selector = Selector::new(1);
        selector.prefer(0, Some(0));
        assert_eq!(selector.decide(0, 0, &KEYFRAME, true), Decision::Switch);
        selector.prefer(0, Some(2));
        assert_eq!(selector.decide(0, 0, &KEYFRAME, false), Decision::Forward);
        assert_eq!(selector.decide(0, 0, &vp8(false, true, 2, false), true), Decision::Skip);
        assert_eq!(selector.decide(0, 0, &KEYFRAME, true), Decision::Forward);
        assert_eq!(selector.decide(0, 0, &vp8(false, true, 2, false), true), Decision::Forward);
    }

    #[test]
    fn what_is_late_is_let_through_as_in_its_time() {
        let mut selector = Selector::new(1);
        selector.prefer(0, Some(0));
        assert_eq!(selector.decide(0, 1, &KEYFRAME, true), Decision::Switch);
        assert_eq!(selector.decide(0, 2, &vp8(false, true, 1, true), true), Decision::Skip);
        selector.prefer(0, None);
        assert_eq!(selector.decide(0, 5, &KEYFRAME, true), Decision::Forward);
        let mut late =
            |sequence, temporal| selector.decide(0, sequence, &vp8(false, true, temporal, false), false);
        assert_eq!(late(3, 2), Decision::Skip, "the second packet, which it refers to, was left out");
        assert_eq!(late(4, 0), Decision::Forward);
        assert_eq!(late(6, 2), Decision::Forward);
    }

    #[test]
    fn av1_goes_up_at_the_last_frame_of_a_picture_that_opens_its_layer() {
        let frame = |spatial: u8, temporal, opens| Frame {
            start: spatial == 0,
            end: true,
            spatial,
            opens,
            is_top: spatial == 2,
            ..vp8(false, false, temporal, false)
        };
        let mut selector = Selector::new(1);
        selector.choose(std::iter::once(true));
        let key = Frame { keyframe: true, ..frame(0, 0, true) };
        assert_eq!(selector.decide(0, 0, &key, true), Decision::Switch);
        selector.prefer(1, Some(0));
        let forwarded = |selector: &mut Selector, frame: Frame| {
            let decision = selector.decide(0, 0, &frame, true);
            (decision == Decision::Forward, selector.cuts_behind(&frame))
        };
        assert_eq!(forwarded(&mut selector, frame(0, 1, false)), (false, false), "down at once");
        assert_eq!(forwarded(&mut selector, frame(0, 0, true)), (true, false));
        assert_eq!(forwarded(&mut selector, frame(1, 0, true)), (true, true), "the picture ends here");
        assert_eq!(forwarded(&mut selector, frame(2, 0, true)), (false, false));
        selector.prefer(1, None);
        assert_eq!(forwarded(&mut selector, frame(0, 0, true)), (true, false));
        assert_eq!(forwarded(&mut selector, frame(1, 0, false)), (true, true));
        assert_eq!(forwarded(&mut selector, frame(0, 1, false)), (false, false), "nothing has opened it");
        assert_eq!(
            forwarded(&mut selector, frame(0, 0, true)),
            (true, false),
            "nor does a lower layer's frame"
        );
        assert_eq!(forwarded(&mut selector, frame(0, 1, false)), (false, false));
        assert_eq!(forwarded(&mut selector, frame(1, 0, true)), (true, true));
        assert_eq!(forwarded(&mut selector, frame(0, 1, false)), (true, false), "open");
    }

    #[test]
    fn spatial_layers_of_one_encoding_go_between_pictures_and_come_at_a_keyframe() {
        let mut selector = Selector::new(1);
        selector.prefer(2, None);
        assert_eq!(selector.decide(0, 0, &vp9(true, 0, 0, false), true), Decision::Switch);
        assert_eq!(selector.layers(0, (2, 1)), (2, 1));
        let mut check = |preferred, frame: Frame, expected| {
            selector.prefer(preferred, None);
            assert_eq!(selector.decide(0, 0, &frame, true), expected);
            let cut = selector.cuts_behind(&Frame { end: true, ..frame });
            assert_eq!(cut, expected == Decision::Forward && preferred == frame.spatial, "{frame:?}");
        };
        check(2, vp9(true, 2, 0, false), Decision::Forward);
        check(1, vp9(false, 0, 0, false), Decision::Forward);
        check(1, vp9(false, 1, 0, false), Decision::Forward);
        check(1, vp9(false, 2, 0, false), Decision::Skip);
        selector.prefer(2, None);
        assert!(selector.waits_for_layer(2) && !selector.waits_for_layer(1));
        assert_eq!(selector.decide(0, 0, &vp9(false, 2, 0, false), true), Decision::Skip);
        assert_eq!(selector.decide(0, 0, &vp9(true, 0, 0, false), true), Decision::Forward);
        assert_eq!(selector.decide(0, 0, &vp9(true, 2, 0, false), true), Decision::Forward);
        assert!(!selector.waits_for_layer(2));
    }

    #[test]
    fn vp9_names_the_pictures_behind_which_temporal_layers_may_rise() {
        let mut selector = Selector::new(1);
        selector.prefer(0, Some(0));
        assert_eq!(selector.decide(0, 0, &vp9(true, 0, 0, false), true), Decision::Switch);
        selector.prefer(0, Some(2));
        let mut check = |temporal, up, expected| {
            assert_eq!(selector.decide(0, 0, &vp9(false, 0, temporal, up), true), expected);
        };
        check(0, false, Decision::Forward);
        check(1, true, Decision::Skip); // what follows may refer to pictures of layer 1 that were left out
        check(2, false, Decision::Skip);
        check(0, true, Decision::Forward);
        check(2, false, Decision::Forward);
    }
}
