//! Video waits here when a subscriber's link has been given enough for the moment: a keyframe leaves over some tens of
//! milliseconds, so that it builds no queue on the way in front of the audio, and is not taken for congestion. Audio,
//! retransmissions and probes pass by.
//!
//! Packets wait in plain form: what says when and in which order they left is written when they leave.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much faster than the estimate a burst may leave (libwebrtc: 2.5, for encoders that are told their rate; here layers
/// already fill most of the estimate, and twice the link's rate would be a queue on it).
const FACTOR: f64 = 1.1;
/// So much may leave at once.
const BURST: Duration = Duration::from_millis(10);
/// A queue is gone after this, however low the estimate.
const DRAINED_WITHIN: Duration = Duration::from_millis(500);
/// Longer queues drop what comes: 600 kB, some keyframes.
const QUEUED_MAX: usize = 512;
/// Buffers that are kept for the next burst.
const SPARE_MAX: usize = 64;

/// A packet that waits.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Header and payload.
    pub packet: Vec<u8>,
    /// Its extended number.
    pub sequence: u64,
    /// Id of its transport-wide sequence number.
    pub transport_cc: Option<u8>,
    /// Id of its time of sending.
    pub abs_send_time: Option<u8>,
}

/// One transport's.
#[derive(Debug, Default)]
pub struct Pacer {
    queue: VecDeque<Waiting>,
    queued_bytes: usize,
    spare: Vec<Waiting>,
    /// When all that has left is through at the pace.
    free: Option<Instant>,
}

impl Pacer {
    /// Whether a packet that comes now has to wait.
    pub fn is_full(&self, now: Instant) -> bool {
        !self.queue.is_empty() || self.free.is_some_and(|free| free > now + BURST)
    }

    /// Whether the queue takes no more.
    pub fn is_overfull(&self) -> bool {
        self.queue.len() >= QUEUED_MAX
    }

    /// Lets a packet that `write` makes wait.
    pub fn push(&mut self, write: impl FnOnce(&mut Waiting) -> bool) -> bool {
        let mut waiting = self.spare.pop().unwrap_or_default();
        waiting.packet.clear();
        let written = write(&mut waiting);
        if written {
            self.queued_bytes += waiting.packet.len();
            self.queue.push_back(waiting);
        }
        written
    }

    /// Video of so many bytes leaves; `rate_bps` is the estimate, or what streams without a choice need.
    pub fn on_sent(&mut self, now: Instant, bytes: usize, rate_bps: u64) {
        let drain_bps = self.queued_bytes as f64 * 8.0 / DRAINED_WITHIN.as_secs_f64();
        let bps = (FACTOR * rate_bps as f64).max(drain_bps).max(1.0);
        let free = self.free.map_or(now, |free| free.max(now));
        self.free = Some(free + Duration::from_secs_f64(bytes as f64 * 8.0 / bps));
    }

    /// The next packet whose time has come; to be given back to [`Self::done`].
    pub fn pop(&mut self, now: Instant) -> Option<Waiting> {
        if self.free.is_some_and(|free| free > now + BURST) {
            return None;
        }
        let waiting = self.queue.pop_front()?;
        self.queued_bytes -= waiting.packet.len();
        Some(waiting)
    }

    /// Takes the buffer back.
    pub fn done(&mut self, waiting: Waiting) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(waiting);
        }
    }

    /// When [`Self::pop`] has something next.
    pub fn next(&self) -> Option<Instant> {
        let free = self.free.filter(|_| !self.queue.is_empty())?;
        Some(free.checked_sub(BURST).unwrap_or(free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_leaves_at_the_pace_and_in_order() {
        let start = Instant::now();
        let (mut pacer, mut left) = (Pacer::default(), Vec::new());
        for number in 0..40u8 {
            if pacer.is_full(start) {
                assert!(pacer.push(|waiting| {
                    waiting.packet.resize(1000, number);
                    true
                }));
            } else {
                pacer.on_sent(start, 1000, 1_000_000);
                left.push((0, number));
            }
        }
        assert!((2..5).contains(&left.len()), "{left:?}");
        while let Some(at) = pacer.next() {
            let waiting = pacer.pop(at).expect("its time has come");
            left.push((at.saturating_duration_since(start).as_millis() as u64, waiting.packet[0]));
            pacer.on_sent(at, 1000, 1_000_000);
            pacer.done(waiting);
        }
        assert!(left.windows(2).all(|pair| pair[0].1 + 1 == pair[1].1), "{left:?}");
        // 320 kbit at 1.1 Mb/s.
        assert!(left.last().is_some_and(|(ms, _)| (250..300).contains(ms)), "{left:?}");
    }

    #[test]
    fn a_long_queue_drains_faster() {
        let start = Instant::now();
        let mut pacer = Pacer::default();
        pacer.on_sent(start, 1000, 30_000);
        while !pacer.is_overfull() {
            pacer.push(|waiting| {
                waiting.packet.resize(1000, 0);
                true
            });
        }
        let mut last = start;
        while let Some(at) = pacer.next() {
            last = at;
            let waiting = pacer.pop(at).expect("its time has come");
            pacer.on_sent(at, waiting.packet.len(), 30_000);
        }
        assert!(last - start < Duration::from_secs(6), "{:?}", last - start);
        assert!(pacer.queued_bytes == 0 && pacer.next().is_none());
    }
}
