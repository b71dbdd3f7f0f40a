//! A link that carries all at once much less: seen in the spacing of a handful of packets, long before a trend is one.
//!
//! What fills a queue ten times as fast as it drains has a second of it there within a tenth of a second, so this may not wait
//! for the trendline's window and threshold. Packets that one after the other took longer, and arrived spread over much more
//! time than they were sent in, came out of a queue that is never empty: the rate at which they arrived is the link's. Under
//! jitter others arrive between them. Ours; libwebrtc (M120) waits for the trendline.

use std::collections::VecDeque;

/// Packets that are looked at.
const WINDOW: usize = 32;
/// Fewer are chance.
const PACKETS_MIN: usize = 4;
/// So much longer takes the last than the first, where there is no jitter.
const GROWTH_US: i64 = 60_000;
/// What one packet may add to it: another path is longer by one step.
const STEP_US_MAX: i64 = 30_000;
/// And so many times the mean by which delays fall again, which they do only under jitter.
const JITTERS: i64 = 8;
/// Packets over which that is a mean.
const MEMORY: i64 = 16;
/// What counts of one: a stall that is over is not jitter.
const FALL_US_MAX: i64 = 200_000;
/// The receiver's clock is told in units of 250 µs (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1.5).
const ROUNDING_US: i64 = 1_000;
/// So many times less arrives than was sent: slower falls are the trendline's.
const SLOWER: f64 = 2.0;

#[derive(Debug, Clone, Copy)]
struct Packet {
    sent_us: u64,
    arrival_us: i64,
    bytes: u64,
}

impl Packet {
    /// Of the two clocks only differences count.
    fn delay_us(&self) -> i64 {
        self.arrival_us - self.sent_us as i64
    }
}

/// The detector.
#[derive(Debug, Default)]
pub(super) struct Collapse {
    packets: VecDeque<Packet>,
    /// Mean by which a packet was quicker than the one before, slower ones counting as 0.
    falls_us: i64,
}

impl Collapse {
    /// A packet arrived, in the order of sending.
    pub fn on_packet(&mut self, sent_us: u64, arrival_us: i64, bytes: u64) {
        let packet = Packet { sent_us, arrival_us, bytes };
        if let Some(last) = self.packets.back() {
            if last.sent_us > sent_us {
                return; // reported late
            }
            let fall_us = (last.delay_us() - packet.delay_us()).clamp(0, FALL_US_MAX);
            self.falls_us += (fall_us - self.falls_us) / MEMORY;
        }
        if self.packets.len() == WINDOW {
            self.packets.pop_front();
        }
        self.packets.push_back(packet);
    }

    /// What the link carries, in bits per second, when it has collapsed. Tells it once.
    pub fn take(&mut self) -> Option<f64> {
        let first = self.slowed_since()?;
        let last = *self.packets.back()?;
        let arrived = |it: &&Packet| (first.arrival_us + 1..=last.arrival_us).contains(&it.arrival_us);
        let arrived_bytes: u64 = self.packets.iter().filter(arrived).map(|it| it.bytes).sum();
        let sent_bytes: u64 =
            self.packets.iter().filter(|it| it.sent_us > first.sent_us).map(|it| it.bytes).sum();
        let arrived_bps = arrived_bytes as f64 * 8e6 / (last.arrival_us - first.arrival_us) as f64;
        let sent_bps = sent_bytes as f64 * 8e6 / (last.sent_us - first.sent_us).max(1) as f64;
        self.packets.clear();
        (SLOWER * arrived_bps <= sent_bps).then_some(arrived_bps)
    }

    /// The newest packet before which all later ones took ever longer, up to the last.
    fn slowed_since(&self) -> Option<Packet> {
        let needed_us = GROWTH_US + JITTERS * self.falls_us;
        let mut next = self.packets.back()?;
        let mut growth_us = 0;
        for (count, packet) in self.packets.iter().rev().enumerate().skip(1) {
            let step_us = next.delay_us() - packet.delay_us();
            if step_us < -ROUNDING_US {
                return None;
            }
            growth_us += step_us.min(STEP_US_MAX);
            next = packet;
            if count + 1 >= PACKETS_MIN && growth_us >= needed_us {
                return Some(*packet);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets of 1000 bytes every 4 ms, 2 Mb/s, over a link whose packets take `each_us`; what is seen after each packet.
    fn seen(each_us: i64, count: u64) -> Vec<f64> {
        let (mut collapse, mut free_us) = (Collapse::default(), 0);
        let mut step = |n: u64| {
            free_us = (n as i64 * 4000).max(free_us) + each_us;
            collapse.on_packet(n * 4000, free_us, 1000);
            collapse.take()
        };
        (0..count).filter_map(&mut step).collect()
    }

    #[test]
    fn a_tenth_of_the_rate_is_seen_in_a_handful_of_packets() {
        let seen = seen(27_000, 5);
        assert!(matches!(seen[..], [bps, ..] if (2.8e5..3.1e5).contains(&bps)), "{seen:?}");
    }

    #[test]
    fn what_is_a_little_too_much_is_left_to_the_trend() {
        assert!(seen(3_900, 200).is_empty());
        assert!(seen(5_000, 200).is_empty());
    }

    #[test]
    fn jitter_a_stall_and_a_longer_path_are_no_collapse() {
        let (mut jittery, mut sparse, mut moved) =
            (Collapse::default(), Collapse::default(), Collapse::default());
        for n in 0..2000u64 {
            let jitter_us = (n * 7919 % 101) as i64 * 1000;
            let stall_us = if n % 100 < 25 { 100_000 - (n % 100) as i64 * 4000 } else { 0 };
            jittery.on_packet(n * 4000, n as i64 * 4000 + jitter_us.max(stall_us), 1000);
            sparse.on_packet(n * 25_000, n as i64 * 25_000 + jitter_us, 1000);
            moved.on_packet(n * 4000, n as i64 * 4000 + if n < 1000 { 0 } else { 150_000 }, 1000);
            assert_eq!([jittery.take(), sparse.take(), moved.take()], [None; 3], "packet {n}");
        }
    }
}
