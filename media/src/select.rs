//! Which encoding a consumer gets: the best one that flows and is wanted, entered at a keyframe only.
//!
//! `sfu` reports what each encoding does and asks for keyframes of [`Selector::target`]; `rewrite` numbers what is let
//! through.

use std::time::{Duration, Instant};

use crate::codec::Frame;

/// Without a packet for so long an encoding counts as stopped (contract §6: 1.5 s).
pub const ENCODING_SILENT: Duration = Duration::from_millis(1500);

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
    preferred_spatial: usize,
    preferred_temporal: u8,
    current: Option<usize>,
    /// Highest temporal layer that is let through; follows the preferred one when a decoder can follow.
    temporal: u8,
    target: usize,
}

impl Selector {
    /// Wants the best of `encodings`.
    pub fn new(encodings: usize) -> Self {
        Self {
            preferred_spatial: encodings.saturating_sub(1),
            preferred_temporal: u8::MAX,
            current: None,
            temporal: u8::MAX,
            target: encodings.saturating_sub(1),
        }
    }

    /// What the client asked for; takes effect at the next [`Selector::choose`].
    pub fn prefer(&mut self, spatial: u8, temporal: Option<u8>) {
        self.preferred_spatial = usize::from(spatial);
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

    /// Chooses again from when each encoding was last heard. Returns whether the target has changed.
    pub fn choose(&mut self, now: Instant, last_heard: impl Iterator<Item = Option<Instant>>) -> bool {
        let flows =
            |at: &Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < ENCODING_SILENT);
        let mut best = None;
        for (encoding, _) in last_heard.enumerate().filter(|(_, at)| flows(at)) {
            // The highest that is not above what is wanted; failing that, the lowest above it.
            if encoding <= self.preferred_spatial || best.is_none() {
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

    /// Decides about one packet.
    pub fn decide(&mut self, encoding: usize, frame: &Frame) -> Decision {
        if encoding == self.target && self.current != Some(encoding) && frame.keyframe {
            self.current = Some(encoding);
            self.temporal = self.preferred_temporal;
            return Decision::Switch;
        }
        if self.current != Some(encoding) {
            return Decision::Ignore;
        }
        if frame.start {
            self.follow_preferred_temporal(frame);
        }
        if frame.temporal > self.temporal { Decision::Skip } else { Decision::Forward }
    }

    /// Down at the start of any frame, so that none is cut; up one layer at a time, at a frame that does not refer to what
    /// was left out (RFC 7741 §4.2, Y).
    fn follow_preferred_temporal(&mut self, frame: &Frame) {
        if self.preferred_temporal < self.temporal {
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
        Frame { keyframe, start, temporal, sync, vp8: crate::codec::Vp8Ids { picture: None, tl0: None } }
    }

    #[test]
    fn it_enters_at_a_keyframe_and_falls_away_from_silence() {
        let now = Instant::now();
        let mut selector = Selector::new(3);
        assert_eq!(selector.decide(2, &DELTA), Decision::Ignore);
        assert_eq!(selector.decide(2, &KEYFRAME), Decision::Switch);
        assert_eq!(selector.decide(2, &DELTA), Decision::Forward);
        let later = now + Duration::from_secs(2);
        assert!(selector.choose(later, [Some(later), Some(later), Some(now)].into_iter()));
        assert_eq!((selector.target(), selector.current()), (Some(1), Some(2)));
        selector.prefer(0, Some(0));
        selector.choose(later, [Some(later); 3].into_iter());
        assert_eq!(selector.target(), Some(0));
        assert_eq!(selector.decide(0, &KEYFRAME), Decision::Switch);
        assert_eq!(selector.decide(0, &vp8(false, true, 1, false)), Decision::Skip);
    }

    #[test]
    fn an_encoding_that_never_comes_is_not_waited_for() {
        let now = Instant::now();
        let mut selector = Selector::new(3);
        assert!(selector.choose(now, [Some(now), Some(now), None].into_iter()));
        assert_eq!(selector.target(), Some(1));
        selector.choose(now, [None, None, Some(now)].into_iter());
        selector.prefer(0, None);
        selector.choose(now, [None, None, Some(now)].into_iter());
        assert_eq!(selector.target(), Some(2), "the lowest above what is wanted");
    }

    #[test]
    fn temporal_layers_change_between_frames_and_rise_where_a_decoder_can_follow() {
        let mut selector = Selector::new(1);
        selector.prefer(0, Some(0));
        assert_eq!(selector.decide(0, &KEYFRAME), Decision::Switch);
        let mut check = |preferred, start, temporal, sync, expected| {
            selector.prefer(0, Some(preferred));
            assert_eq!(selector.decide(0, &vp8(false, start, temporal, sync)), expected);
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
}
