//! How one source is received: loss and jitter for reports (RFC 3550 §6.4.1, appendix A), gaps worth a NACK, and the
//! packets themselves for retransmission. One per encoding of a producer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::codec::Frame;
use crate::feedback::ReportBlock;

/// Further gaps are a lost connection, not lost packets: they are given up (mediasoup's window is 1000).
pub const MISSING_MAX: usize = 500;
/// mediasoup's NACK timer and retries (contract §4.4).
pub const NACK_INTERVAL: Duration = Duration::from_millis(40);
const NACK_RETRIES_MAX: u8 = 10;
/// Kept packets per video encoding: four seconds at 1.2 Mb/s. mediasoup keeps two seconds.
pub const KEPT_MAX: usize = 512;

#[derive(Debug, Clone, Copy)]
struct Missing {
    asked: Option<Instant>,
    times: u8,
}

/// What is known of one source.
#[derive(Debug, Default)]
pub struct Reception {
    first: Option<u64>,
    newest: u64,
    received: u64,
    expected_before: u64,
    received_before: u64,
    /// In clock ticks, times 16 (RFC 3550 A.8).
    jitter: u32,
    transit: Option<u32>,
    missing: BTreeMap<u64, Missing>,
    sender_report: Option<SenderReport>,
    /// When a packet last came.
    pub last_heard: Option<Instant>,
    /// Payload bytes.
    pub octets: u64,
}

/// The publisher's clock: NTP and media time at one moment, and when we heard of it.
#[derive(Debug, Clone, Copy)]
pub struct SenderReport {
    /// 32.32.
    pub ntp: u64,
    /// Media time.
    pub timestamp: u32,
    /// Arrival.
    pub at: Instant,
}

impl SenderReport {
    /// What added to a timestamp of this source gives the timestamp of `other` for the same moment.
    pub fn alignment(&self, other: &Self, clock_rate_hz: u32) -> u32 {
        let since = i128::from(self.ntp.wrapping_sub(other.ntp) as i64);
        let ticks = (since * i128::from(clock_rate_hz) + (1 << 31)) >> 32;
        other.timestamp.wrapping_sub(self.timestamp).wrapping_add(ticks as u32)
    }
}

impl Reception {
    /// Packets that are waited for.
    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    /// The first packet that is waited for.
    pub fn oldest_missing(&self) -> Option<u64> {
        self.missing.keys().next().copied()
    }

    /// Whether this packet is waited for.
    pub fn misses(&self, sequence: u64) -> bool {
        self.missing.contains_key(&sequence)
    }

    /// The newest extended sequence number.
    pub fn newest(&self) -> Option<u64> {
        self.first.map(|_| self.newest)
    }

    /// Packets received.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Packets lost for good so far.
    pub fn lost(&self) -> u64 {
        self.expected().saturating_sub(self.received)
    }

    /// A packet came, by itself or as a retransmission; with `nack` its gaps are remembered. `arrival` is the arrival in
    /// clock ticks.
    pub fn on_packet(&mut self, now: Instant, sequence: u64, timestamp: u32, arrival: u32, nack: bool) {
        self.last_heard = Some(now);
        self.received += 1;
        if self.first.is_none() {
            self.first = Some(sequence);
            self.newest = sequence;
        }
        self.missing.remove(&sequence);
        if sequence > self.newest {
            if nack {
                self.note_gap(sequence);
            }
            self.newest = sequence;
            let transit = arrival.wrapping_sub(timestamp);
            if let Some(before) = self.transit.replace(transit) {
                let difference = (transit.wrapping_sub(before) as i32).unsigned_abs().min(1 << 24);
                self.jitter = (self.jitter + difference).saturating_sub((self.jitter + 8) >> 4);
            }
        }
    }

    fn note_gap(&mut self, sequence: u64) {
        if sequence - self.newest > MISSING_MAX as u64 {
            self.missing.clear();
            return;
        }
        for lost in self.newest + 1..sequence {
            self.missing.insert(lost, Missing { asked: None, times: 0 });
        }
        while self.missing.len() > MISSING_MAX {
            self.missing.pop_first();
        }
    }

    /// What to ask for now, ascending, into `out`; each at most once per `interval`.
    pub fn due_nacks(&mut self, now: Instant, interval: Duration, out: &mut Vec<u16>) {
        if self.missing.is_empty() {
            return;
        }
        self.missing.retain(|_, missing| missing.times < NACK_RETRIES_MAX);
        for (sequence, missing) in &mut self.missing {
            if missing.asked.is_none_or(|at| now.saturating_duration_since(at) >= interval) {
                missing.asked = Some(now);
                missing.times += 1;
                out.push(*sequence as u16);
            }
        }
    }

    /// The publisher's SR.
    pub fn on_sender_report(&mut self, now: Instant, ntp: u64, timestamp: u32) {
        self.sender_report = Some(SenderReport { ntp, timestamp, at: now });
    }

    /// The newest SR.
    pub fn sender_report(&self) -> Option<SenderReport> {
        self.sender_report
    }

    /// Jitter in clock ticks.
    pub fn jitter(&self) -> u32 {
        self.jitter >> 4
    }

    fn expected(&self) -> u64 {
        self.first.map_or(0, |first| self.newest + 1 - first.min(self.newest))
    }

    /// The block of the next receiver report.
    pub fn report(&mut self, now: Instant, ssrc: u32) -> Option<ReportBlock> {
        self.first?;
        let expected = self.expected() - self.expected_before.min(self.expected());
        let lost = expected.saturating_sub(self.received - self.received_before);
        self.expected_before = self.expected();
        self.received_before = self.received;
        let fraction_lost = (lost * 256).checked_div(expected).unwrap_or(0).min(255) as u8;
        let sr = self.sender_report;
        let delay = sr.map_or(0, |sr| (now.saturating_duration_since(sr.at).as_secs_f64() * 65_536.0) as u32);
        Some(ReportBlock {
            ssrc,
            fraction_lost,
            cumulative_lost: self.lost().min(0x007f_ffff) as u32,
            highest_sequence: self.newest as u32,
            jitter: self.jitter(),
            last_sr: sr.map_or(0, |sr| (sr.ntp >> 16) as u32),
            delay_since_last_sr: delay,
        })
    }
}

/// A packet that is kept.
#[derive(Debug, Default)]
pub struct Kept {
    sequence: u64,
    /// RTP media time of the source.
    pub timestamp: u32,
    /// M bit.
    pub marker: bool,
    /// What its descriptors say.
    pub frame: Frame,
    /// Of what goes to subscribers of the header extensions: the dependency descriptor, in front of the payload.
    descriptor_len: u8,
    bytes: Vec<u8>,
}

impl Kept {
    /// The dependency descriptor, or nothing.
    pub fn descriptor(&self) -> &[u8] {
        &self.bytes[..self.descriptor_len.into()]
    }

    /// Without header and padding.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.descriptor_len.into()..]
    }
}

/// The newest packets of a source. Memory grows to the largest packets once and is used again.
#[derive(Debug, Default)]
pub struct Store {
    slots: Vec<Option<Kept>>,
    newest: u64,
}

impl Store {
    /// Keeps a packet. `false` when it is there already, or so old that it may have been: nothing that a consumer was
    /// sent may be sealed for it again.
    pub fn keep(
        &mut self,
        sequence: u64,
        timestamp: u32,
        marker: bool,
        frame: Frame,
        descriptor: &[u8],
        payload: &[u8],
    ) -> bool {
        if sequence + KEPT_MAX as u64 <= self.newest {
            return false;
        }
        self.newest = self.newest.max(sequence);
        if self.slots.is_empty() {
            self.slots.resize_with(KEPT_MAX, || None);
        }
        let slot = self.slots[(sequence % KEPT_MAX as u64) as usize].get_or_insert_default();
        // A fresh slot has sequence 0 and no payload.
        if slot.sequence == sequence && !slot.bytes.is_empty() {
            return false;
        }
        slot.sequence = sequence;
        slot.timestamp = timestamp;
        slot.marker = marker;
        slot.frame = frame;
        slot.bytes.clear();
        // An element has at most 255 bytes.
        slot.descriptor_len = u8::try_from(descriptor.len()).unwrap_or_default();
        slot.bytes.extend_from_slice(&descriptor[..slot.descriptor_len.into()]);
        slot.bytes.extend_from_slice(payload);
        true
    }

    /// A packet that is still there.
    pub fn find(&self, sequence: u64) -> Option<&Kept> {
        let slot = self.slots.get((sequence % KEPT_MAX as u64) as usize)?.as_ref()?;
        (slot.sequence == sequence).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_asked_for_until_they_close() {
        let now = Instant::now();
        let mut reception = Reception::default();
        let ask = |reception: &mut Reception, at: Instant| {
            let mut lost = Vec::new();
            reception.due_nacks(at, NACK_INTERVAL, &mut lost);
            lost
        };
        reception.on_packet(now, 65_534, 0, 0, true);
        reception.on_packet(now, 65_537, 0, 0, true);
        assert_eq!(ask(&mut reception, now), [65_535, 0]);
        assert!(ask(&mut reception, now).is_empty());
        reception.on_packet(now, 65_535, 0, 0, true);
        assert_eq!(ask(&mut reception, now + NACK_INTERVAL), [0]);
        let report = reception.report(now, 7).expect("heard of");
        assert_eq!((report.cumulative_lost, report.fraction_lost, report.highest_sequence), (1, 64, 65_537));
        assert_eq!(reception.report(now, 7).expect("heard of").fraction_lost, 0);
    }

    #[test]
    fn two_sources_are_aligned_by_what_their_reports_say() {
        let at = Instant::now();
        let one = SenderReport { ntp: 10 << 32, timestamp: 500, at };
        let other = SenderReport { ntp: 9 << 32 | 1 << 31, timestamp: u32::MAX - 99, at };
        // Half a second after the other's report: 45,000 ticks.
        assert_eq!(500u32.wrapping_add(one.alignment(&other, 90_000)), 44_900);
        assert_eq!(other.timestamp.wrapping_add(other.alignment(&one, 90_000)), 500u32.wrapping_sub(45_000));
    }

    #[test]
    fn kept_packets_are_found_until_others_take_their_place() {
        let mut store = Store::default();
        assert!(store.keep(0, 5, true, Frame::default(), b"", b"zero"));
        assert!(!store.keep(0, 5, true, Frame::default(), b"", b"zero"));
        assert_eq!(store.find(0).map(Kept::payload), Some(&b"zero"[..]));
        assert!(store.keep(KEPT_MAX as u64, 6, false, Frame::default(), b"", b"next"));
        assert!(store.find(0).is_none());
        assert!(
            !store.keep(0, 5, true, Frame::default(), b"", b"zero"),
            "too old to be told from a repetition"
        );
    }
}
