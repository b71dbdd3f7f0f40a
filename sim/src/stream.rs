//! One direction of a TCP connection: every byte arrives, once and in order, in pieces that are cut anywhere. What a path
//! loses, cuts or queues is only late; what it damages is thrown away by the checksum, and so late too.

use std::collections::VecDeque;
use std::time::Duration;

use crate::dice::Dice;
use crate::link::Weather;

/// What waits at most, as in the shells' outboxes: a message that does not fit is lost whole.
const WAITING_BYTES_MAX: usize = 256 * 1024;
/// A segment (1500 bytes less headers).
const PIECE_BYTES_MAX: usize = 1440;
/// RFC 6298 says a second; systems take 200 ms.
const RETRANSMIT_AFTER: Duration = Duration::from_millis(200);

/// What a sender does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing waits.
    Rest,
    /// It tries again at this moment.
    Again(Duration),
    /// A piece arrives at the first moment; the next one leaves at the second.
    Piece(Duration, Vec<u8>, Duration),
}

/// Bytes on their way.
#[derive(Debug)]
pub struct Stream {
    waiting: VecDeque<u8>,
    /// Somebody will call [`Stream::step`].
    is_moving: bool,
    arrived: Duration,
    dice: Dice,
}

impl Stream {
    /// Nothing is under way.
    pub fn new(dice: Dice) -> Self {
        Self { waiting: VecDeque::new(), is_moving: false, arrived: Duration::ZERO, dice }
    }

    /// Takes a message; `true` when [`Stream::step`] is to be called for it.
    pub fn write(&mut self, message: &[u8]) -> bool {
        if self.waiting.len() + message.len() > WAITING_BYTES_MAX {
            return false;
        }
        self.waiting.extend(message);
        !std::mem::replace(&mut self.is_moving, true)
    }

    /// Sends the next piece, if the path lets it.
    pub fn step(&mut self, now: Duration, weather: &Weather) -> Step {
        if self.waiting.is_empty() {
            self.is_moving = false;
            return Step::Rest;
        }
        let is_lost = weather.cut || self.dice.chance(weather.loss + weather.burst + weather.corrupt);
        if is_lost {
            return Step::Again(now + RETRANSMIT_AFTER);
        }
        let bytes = (1 + self.dice.below(PIECE_BYTES_MAX.min(weather.mtu))).min(self.waiting.len());
        let takes = weather.rate.map_or(0, |rate| bytes as u64 * 1_000_000 / rate);
        let next = now + Duration::from_micros(takes);
        let jitter = if weather.jitter.is_zero() {
            Duration::ZERO
        } else {
            self.dice.between(Duration::ZERO, weather.jitter)
        };
        self.arrived = self.arrived.max(next + weather.delay + jitter);
        Step::Piece(self.arrived, self.waiting.drain(..bytes).collect(), next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_arrives_in_order_and_what_is_lost_is_late() {
        let mut stream = Stream::new(Dice::new(1, "stream"));
        let message: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        assert!(stream.write(&message), "somebody must begin");
        assert!(!stream.write(b"more"), "who has begun goes on");
        let bad = Weather { loss: 0.5, jitter: Duration::from_millis(50), ..Weather::default() };
        let (mut now, mut last, mut got, mut again) = (Duration::ZERO, Duration::ZERO, Vec::new(), 0);
        loop {
            match stream.step(now, &bad) {
                Step::Rest => break,
                Step::Again(at) => (now, again) = (at, again + 1),
                Step::Piece(at, bytes, next) => {
                    assert!(at >= last, "no piece overtakes another");
                    (last, now) = (at, next);
                    got.extend(bytes);
                }
            }
        }
        assert_eq!(got, [&message[..], b"more"].concat());
        assert!(again > 0 && last > RETRANSMIT_AFTER);
        assert!(!stream.write(&vec![0; WAITING_BYTES_MAX + 1]), "does not fit");
        assert_eq!(stream.step(now, &bad), Step::Rest);
    }
}
