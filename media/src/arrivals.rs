//! Arrival times of a client's packets by transport-wide sequence number, for its bandwidth estimate
//! (draft-holmer-rmcat-transport-wide-cc-extensions).

use std::time::Instant;

use crate::feedback;
use crate::rtp::extend_sequence;

/// Numbers that one feedback packet reports on: its size stays below one datagram.
const REPORTED_MAX: u64 = 400;

/// A number and when it came, in units of 250 µs, the smallest of the feedback's deltas.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    number: u64,
    tick: u64,
}

/// What has arrived since the last feedback.
#[derive(Debug)]
pub struct Arrivals {
    start: Instant,
    /// Everything before it has been reported. A late one is told with all behind it once more, as libwebrtc does: its sender
    /// took it for lost.
    next: Option<u64>,
    newest: u64,
    /// Ring by number.
    ring: Box<[Arrival]>,
    count: u8,
    ssrc: u32,
}

impl Arrivals {
    /// Times are reported relative to `start`.
    pub fn new(start: Instant) -> Self {
        // No number is zero: the first one is at least 1 << 16.
        let ring = vec![Arrival { number: 0, tick: 0 }; REPORTED_MAX as usize].into();
        Self { start, next: None, newest: 0, ring, count: 0, ssrc: 0 }
    }

    /// A packet of `ssrc` came with this number.
    pub fn record(&mut self, now: Instant, wire: u16, ssrc: u32) {
        let number = if self.next.is_none() {
            Some(u64::from(wire) + (1 << 16))
        } else {
            extend_sequence(self.newest, wire)
        };
        let Some(number) = number else { return };
        let next = self.next.get_or_insert(number);
        let at = (number % REPORTED_MAX) as usize;
        if number + REPORTED_MAX <= self.newest || self.ring[at].number == number {
            return;
        }
        *next = number.min(*next);
        self.newest = self.newest.max(number);
        self.ssrc = ssrc;
        let tick = now.saturating_duration_since(self.start).as_micros() as u64 / 250;
        self.ring[at] = Arrival { number, tick };
    }

    fn find(&self, number: u64) -> Option<u64> {
        let arrival = self.ring[(number % REPORTED_MAX) as usize];
        (arrival.number == number).then_some(arrival.tick)
    }

    /// Appends feedback on everything new, if there is any.
    pub fn write(&mut self, out: &mut Vec<u8>, sender: u32) {
        let Some(next) = self.next.filter(|next| *next <= self.newest) else { return };
        // Numbers that were lost long ago are not worth reporting.
        let base = next.max((self.newest + 1).saturating_sub(REPORTED_MAX));
        let arrivals: Vec<Option<u64>> = (base..=self.newest).map(|number| self.find(number)).collect();
        let mut reported = 0;
        while reported < arrivals.len() {
            let base = (base + reported as u64) as u16;
            let rest = &arrivals[reported..];
            reported += feedback::write_transport_cc(out, sender, self.ssrc, self.count, base, rest);
            self.count = self.count.wrapping_add(1);
        }
        self.next = Some(self.newest + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn feedback_is_written_once_per_news() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        let mut out = Vec::new();
        arrivals.write(&mut out, 1);
        assert!(out.is_empty());
        arrivals.record(now, 65_535, 7);
        arrivals.record(now, 1, 7);
        arrivals.write(&mut out, 1);
        assert_eq!(out[12..16], [0xff, 0xff, 0, 3], "base and count");
        out.clear();
        arrivals.record(now, 1, 7);
        arrivals.write(&mut out, 1);
        assert!(out.is_empty(), "it came before");
        arrivals.record(now, 0, 7);
        arrivals.write(&mut out, 1);
        assert_eq!(out[12..16], [0, 0, 0, 2], "the late one, and what came before it");
    }

    #[test]
    fn what_came_too_long_ago_is_not_reported() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        for wire in [10, 11, 10 + REPORTED_MAX as u16, 10] {
            arrivals.record(now, wire, 7);
        }
        let mut out = Vec::new();
        arrivals.write(&mut out, 1);
        assert_eq!(out[12..16], [0, 11, 1, 0x90], "base and count");
        assert_eq!(arrivals.find((1 << 16) + 10), None);
    }

    #[test]
    fn a_long_silence_begins_another_packet_with_its_own_reference() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start);
        arrivals.record(start + Duration::from_millis(64), 10, 7);
        arrivals.record(start + Duration::from_secs(64), 12, 7);
        let mut out = Vec::new();
        arrivals.write(&mut out, 1);
        // Reference times are in units of 64 ms.
        assert_eq!(out[12..20], [0, 10, 0, 2, 0, 0, 1, 0]);
        let second = &out[4 * (usize::from(out[3]) + 1)..];
        assert_eq!(second[12..20], [0, 12, 0, 1, 0, 3, 0xe8, 1]);
        assert_eq!(second.len(), 4 * (usize::from(second[3]) + 1), "nothing follows");
    }
}
