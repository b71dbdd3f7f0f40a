//! Which encoding a consumer gets: the best one that flows and is wanted, entered at a keyframe only.
//!
//! `sfu` reports what each encoding does and asks for keyframes of [`Selector::target`]; `rewrite` numbers what is let
//! through.

use std::time::{Duration, Instant};

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
    target: usize,
}

impl Selector {
    /// Wants the best of `encodings`.
    pub fn new(encodings: usize) -> Self {
        Self {
            preferred_spatial: encodings.saturating_sub(1),
            preferred_temporal: u8::MAX,
            current: None,
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
    pub fn decide(&mut self, encoding: usize, keyframe: bool, temporal: u8) -> Decision {
        if encoding == self.target && self.current != Some(encoding) && keyframe {
            self.current = Some(encoding);
            return Decision::Switch;
        }
        if self.current != Some(encoding) {
            return Decision::Ignore;
        }
        if temporal > self.preferred_temporal { Decision::Skip } else { Decision::Forward }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_enters_at_a_keyframe_and_falls_away_from_silence() {
        let now = Instant::now();
        let mut selector = Selector::new(3);
        assert_eq!(selector.decide(2, false, 0), Decision::Ignore);
        assert_eq!(selector.decide(2, true, 0), Decision::Switch);
        assert_eq!(selector.decide(2, false, 0), Decision::Forward);
        let later = now + Duration::from_secs(2);
        assert!(selector.choose(later, [Some(later), Some(later), Some(now)].into_iter()));
        assert_eq!((selector.target(), selector.current()), (Some(1), Some(2)));
        selector.prefer(0, Some(0));
        selector.choose(later, [Some(later); 3].into_iter());
        assert_eq!(selector.target(), Some(0));
        assert_eq!(selector.decide(0, true, 0), Decision::Switch);
        assert_eq!(selector.decide(0, false, 1), Decision::Skip);
    }
}
