//! Which simulcast layers of a producer anybody watches, so that its publisher can turn the others off.
//!
//! A layer that is wanted is told at once; one that is not, only after it has been unwanted for a while, so that subscribers
//! who come and go do not switch a camera's encodings on and off. `sfu/watched` counts the subscribers and tells the hub.

use std::time::{Duration, Instant};

/// How long a layer must have been unwanted: longer than a subscriber needs who resizes its window or reloads its page.
const LINGER: Duration = Duration::from_secs(5);
/// What a browser needs to begin with a layer that it was told to: a round trip, and the encoder's first picture.
const RETURN: Duration = Duration::from_secs(2);

/// What the publisher was told of one producer.
#[derive(Debug)]
pub struct LayersWanted {
    /// The highest layer that it is to send; in the beginning it sends all.
    told: u8,
    /// Since when less is wanted, and the highest that was wanted since.
    less: Option<(Instant, u8)>,
    /// When it was last told to send more.
    raised: Option<Instant>,
}

impl LayersWanted {
    /// Of a producer with so many encodings.
    pub fn new(encodings: usize) -> Self {
        Self { told: encodings.saturating_sub(1) as u8, less: None, raised: None }
    }

    /// `wanted` is the highest layer that somebody watches now. Returns what the publisher is to be told.
    pub fn review(&mut self, now: Instant, wanted: u8) -> Option<u8> {
        if wanted >= self.told {
            self.less = None;
            if wanted == self.told {
                return None;
            }
            self.raised = Some(now);
        } else {
            let (since, highest) = self.less.get_or_insert((now, wanted));
            *highest = wanted.max(*highest);
            if now.saturating_duration_since(*since) < LINGER {
                return None;
            }
        }
        self.told = self.less.take().map_or(wanted, |(_, highest)| highest);
        Some(self.told)
    }

    /// Whether nothing has to come of an encoding: its publisher was told to stop it, or only just to begin with it again.
    pub fn excuses(&self, now: Instant, encoding: usize) -> bool {
        let is_returning = self.raised.is_some_and(|at| now.saturating_duration_since(at) < RETURN);
        encoding > usize::from(self.told) || is_returning
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_told_at_once_and_less_when_it_has_lasted() {
        let start = Instant::now();
        let mut layers = LayersWanted::new(3);
        let mut check = |seconds: u64, wanted: u8, told: Option<u8>| {
            assert_eq!(layers.review(start + Duration::from_secs(seconds), wanted), told, "at {seconds}");
        };
        check(0, 2, None);
        check(1, 0, None);
        check(5, 0, None);
        check(6, 0, Some(0));
        check(20, 0, None);
        check(21, 2, Some(2));
        check(22, 0, None);
        check(24, 1, None);
        check(25, 0, None);
        check(27, 0, Some(1));
        check(28, 0, None);
        check(30, 1, None);
        check(34, 0, None);
        check(39, 0, Some(0));
    }

    #[test]
    fn what_was_told_to_stop_or_to_begin_is_excused() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut layers = LayersWanted::new(2);
        assert!(!layers.excuses(start, 1));
        layers.review(start, 0);
        layers.review(at(5), 0);
        assert_eq!([0, 1].map(|encoding| layers.excuses(at(9), encoding)), [false, true]);
        layers.review(at(10), 1);
        assert_eq!([11, 12].map(|second| layers.excuses(at(second), 1)), [true, false]);
    }
}
