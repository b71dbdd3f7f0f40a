//! One direction of a network path: what it does to a datagram, decided at the moment it is sent.
//!
//! Not `str0m-netem` (0.4.0, MIT or Apache-2.0, seeded). Its queue is ordered by arrival number before time, so that jitter
//! never lets one datagram overtake another and a late one holds up all behind it; it reorders every n-th datagram, not some;
//! a change of configuration begins its random numbers again; it knows no corruption, no MTU and no cut; and it wants
//! str0m-proto 0.7 beside the 0.8 of our str0m.

use std::time::Duration;

use crate::dice::Dice;

/// How bad a path is. The default is a clean one of 10 ms.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// One-way delay.
    pub delay: Duration,
    /// Up to so much more.
    pub jitter: Duration,
    /// Part of the datagrams lost, 0–1.
    pub loss: f64,
    /// Chance per datagram that a burst of losses begins; it ends with chance 0.2 (Gilbert–Elliott).
    pub burst: f64,
    /// Part that is delayed by 60 ms, so that others overtake it.
    pub reorder: f64,
    /// Part that arrives twice.
    pub duplicate: f64,
    /// Part in which one byte is another.
    pub corrupt: f64,
    /// Bytes per second through a queue of 64 kB.
    pub rate: Option<u64>,
    /// Larger datagrams are lost.
    pub mtu: usize,
    /// Nothing gets through.
    pub cut: bool,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0.0,
            burst: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            rate: None,
            mtu: 1500,
            cut: false,
        }
    }
}

const QUEUE_BYTES: u64 = 64 * 1024;
const BURST_ENDS: f64 = 0.2;
const OVERTAKEN: Duration = Duration::from_millis(60);

/// A path with its queue.
#[derive(Debug)]
pub struct Link {
    /// What is done to the next datagram.
    pub weather: Weather,
    dice: Dice,
    in_burst: bool,
    free_at: Duration,
    /// What went into the path, with IP and UDP.
    pub carried_bytes: u64,
}

/// IPv4 and UDP.
const OVERHEAD_BYTES: usize = 28;

impl Link {
    /// A clean path.
    pub fn new(dice: Dice) -> Self {
        Self { weather: Weather::default(), dice, in_burst: false, free_at: Duration::ZERO, carried_bytes: 0 }
    }

    /// When copies of this datagram arrive, and what they are then.
    pub fn send(&mut self, now: Duration, datagram: &[u8]) -> Vec<(Duration, Vec<u8>)> {
        let weather = self.weather;
        let goes_on = self.in_burst && !self.dice.chance(BURST_ENDS);
        self.in_burst = weather.burst > 0.0 && (goes_on || self.dice.chance(weather.burst));
        let lost = weather.cut || self.in_burst || self.dice.chance(weather.loss);
        if lost || datagram.len() + OVERHEAD_BYTES > weather.mtu {
            return Vec::new();
        }
        let Some(sent) = self.through_queue(now, datagram.len() as u64) else { return Vec::new() };
        self.carried_bytes += (datagram.len() + OVERHEAD_BYTES) as u64;
        let copies = 1 + usize::from(self.dice.chance(weather.duplicate));
        (0..copies).map(|_| self.arrival(sent, datagram)).collect()
    }

    fn arrival(&mut self, sent: Duration, datagram: &[u8]) -> (Duration, Vec<u8>) {
        let mut at = sent + self.weather.delay;
        if !self.weather.jitter.is_zero() {
            at += self.dice.between(Duration::ZERO, self.weather.jitter);
        }
        if self.dice.chance(self.weather.reorder) {
            at += OVERTAKEN;
        }
        let mut bytes = datagram.to_vec();
        if self.dice.chance(self.weather.corrupt) && !bytes.is_empty() {
            let at = self.dice.below(bytes.len());
            bytes[at] ^= 1 << self.dice.below(8);
        }
        (at, bytes)
    }

    /// When the last byte has left the queue, unless it is full.
    fn through_queue(&mut self, now: Duration, bytes: u64) -> Option<Duration> {
        let Some(rate) = self.weather.rate else { return Some(now) };
        let begins = self.free_at.max(now);
        let waiting = (begins - now).as_micros() as u64 * rate / 1_000_000;
        if waiting + bytes > QUEUE_BYTES {
            return None;
        }
        self.free_at = begins + Duration::from_micros(bytes * 1_000_000 / rate);
        Some(self.free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_path_delivers_once_and_a_cut_one_never() {
        let mut link = Link::new(Dice::new(1, "link"));
        assert_eq!(link.send(Duration::ZERO, b"x"), [(Duration::from_millis(10), b"x".to_vec())]);
        link.weather.cut = true;
        assert!(link.send(Duration::ZERO, b"x").is_empty());
    }

    #[test]
    fn a_rate_delays_and_its_queue_is_bounded() {
        let mut link = Link::new(Dice::new(1, "link"));
        link.weather.rate = Some(100_000);
        let arrivals: Vec<_> = (0..100).filter_map(|_| link.send(Duration::ZERO, &[0; 1000]).pop()).collect();
        assert_eq!(arrivals[9].0, Duration::from_millis(110), "10 kB at 100 kB/s, and 10 ms of path");
        assert_eq!(arrivals.len(), 65, "64 KiB wait, the rest is lost");
    }
}
