//! RTCP in plain form: what is read from compound packets and what is written into them (RFC 3550 §6, RFC 4585, RFC 5104,
//! REMB and transport-wide congestion control drafts). `sfu/rtcp.rs` decides, `srtp` seals.
//!
//! ```text
//! |V=2|P| count/FMT |  packet type  |  length in words - 1  | SSRC of sender | ...
//! ```

use std::time::Duration;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SDES: u8 = 202;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
/// Between the NTP era (1900) and the Unix epoch (RFC 5905 §6).
const NTP_UNIX_OFFSET_SECS: u64 = 2_208_988_800;

/// One item of a compound packet that means something to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// The publisher's clock.
    SenderReport {
        /// Its source.
        ssrc: u32,
        /// 32.32 fixed point.
        ntp: u64,
        /// The same moment in media time.
        timestamp: u32,
    },
    /// How a source of ours is received.
    Report(ReportBlock),
    /// Lost packets, as (PID, BLP) words.
    Nack {
        /// Our source.
        ssrc: u32,
        /// Four bytes each.
        entries: &'a [u8],
    },
    /// PLI or FIR.
    KeyframeRequest {
        /// Our source.
        ssrc: u32,
    },
    /// What became of packets by their transport-wide sequence numbers.
    TransportFeedback(TransportFeedback<'a>),
    /// Receiver estimated maximum bitrate, in bits per second.
    Remb(u64),
}

/// More packets than that are not in flight: what a feedback packet says beyond them is not read.
const REPORTED_MAX: usize = 2048;

/// Transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions §3.1), from the base sequence number on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportFeedback<'a> {
    body: &'a [u8],
}

impl<'a> TransportFeedback<'a> {
    /// `body` follows the SSRCs.
    fn new(body: &'a [u8]) -> Option<Self> {
        (body.len() >= 8).then_some(Self { body })
    }

    /// The receiver's clock, 24 bits in units of 64 ms.
    pub fn reference(&self) -> u32 {
        word(self.body, 4) >> 8
    }

    /// How many packets it is read for.
    pub fn count(&self) -> usize {
        usize::from(u16::from_be_bytes([self.body[2], self.body[3]])).min(REPORTED_MAX)
    }

    /// Sequence numbers, each with its arrival after the one before it (the first after the reference) in units of 250 µs
    /// when it has arrived. Ends where the packet is malformed.
    pub fn packets(&self) -> impl Iterator<Item = (u16, Option<i16>)> + 'a {
        let base = u16::from_be_bytes([self.body[0], self.body[1]]);
        let count = usize::from(u16::from_be_bytes([self.body[2], self.body[3]]));
        let symbols = Symbols { chunks: &self.body[8..], chunk: 0, at: 0, length: 0 };
        let mut deltas = symbols.behind(count);
        symbols.take(count.min(REPORTED_MAX)).enumerate().map_while(move |(at, symbol)| {
            let delta = match symbol {
                1 => {
                    let (delta, rest) = deltas.split_first()?;
                    deltas = rest;
                    Some(i16::from(*delta))
                }
                2 => {
                    let (delta, rest) = deltas.split_first_chunk::<2>()?;
                    deltas = rest;
                    Some(i16::from_be_bytes(*delta))
                }
                _ => None,
            };
            Some((base.wrapping_add(at as u16), delta))
        })
    }
}

/// The two-bit symbols of status chunks: 0 lost, 1 and 2 arrived with a small or large delta.
#[derive(Clone)]
struct Symbols<'a> {
    chunks: &'a [u8],
    chunk: u16,
    at: u16,
    length: u16,
}

impl<'a> Symbols<'a> {
    fn open_chunk(&mut self) -> Option<()> {
        let (chunk, rest) = self.chunks.split_first_chunk::<2>()?;
        (self.chunks, self.chunk, self.at) = (rest, u16::from_be_bytes(*chunk), 0);
        self.length = match self.chunk >> 14 {
            0 | 1 => self.chunk & 0x1fff,
            2 => 14,
            _ => 7,
        };
        Some(())
    }

    /// What follows the chunks of `count` symbols.
    fn behind(&self, mut count: usize) -> &'a [u8] {
        let mut symbols = self.clone();
        while count > 0 && symbols.open_chunk().is_some() {
            count = count.saturating_sub(symbols.length.into());
        }
        symbols.chunks
    }
}

impl Iterator for Symbols<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        while self.at == self.length {
            self.open_chunk()?;
        }
        self.at += 1;
        Some(match self.chunk >> 14 {
            0 | 1 => self.chunk >> 13 & 3,
            2 => self.chunk >> (14 - self.at) & 1,
            _ => self.chunk >> (14 - 2 * self.at) & 3,
        })
    }
}

/// RFC 3550 §6.4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReportBlock {
    /// The source that is reported on.
    pub ssrc: u32,
    /// Of 256.
    pub fraction_lost: u8,
    /// 24 bits.
    pub cumulative_lost: u32,
    /// Extended.
    pub highest_sequence: u32,
    /// In clock ticks.
    pub jitter: u32,
    /// Middle 32 bits of the last SR's NTP time.
    pub last_sr: u32,
    /// Since then, in 1/65536 s.
    pub delay_since_last_sr: u32,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// Reads a compound packet up to the first malformed part.
pub fn parse<'a>(mut compound: &'a [u8], mut handle: impl FnMut(Item<'a>)) {
    while compound.len() >= 8 && compound[0] >> 6 == 2 {
        let length = 4 * (usize::from(u16::from_be_bytes([compound[2], compound[3]])) + 1);
        let Some(packet) = compound.get(..length) else { return };
        let (count, kind) = (packet[0] & 0x1f, packet[1]);
        match kind {
            SENDER_REPORT if packet.len() >= 28 => {
                let ntp = u64::from(word(packet, 8)) << 32 | u64::from(word(packet, 12));
                handle(Item::SenderReport { ssrc: word(packet, 4), ntp, timestamp: word(packet, 16) });
                blocks(&packet[28..], count, &mut handle);
            }
            RECEIVER_REPORT if packet.len() >= 8 => blocks(&packet[8..], count, &mut handle),
            TRANSPORT_FEEDBACK if count == 1 && packet.len() >= 12 => {
                handle(Item::Nack { ssrc: word(packet, 8), entries: &packet[12..] });
            }
            TRANSPORT_FEEDBACK if count == 15 => {
                if let Some(feedback) = packet.get(12..).and_then(TransportFeedback::new) {
                    handle(Item::TransportFeedback(feedback));
                }
            }
            PAYLOAD_FEEDBACK if count == 15 && packet.get(12..16) == Some(b"REMB") && packet.len() >= 20 => {
                let mantissa = u64::from(word(packet, 16) & 0x3ffff);
                let exponent = u32::from(packet[17] >> 2);
                handle(Item::Remb(mantissa.saturating_mul(1u64.checked_shl(exponent).unwrap_or(u64::MAX))));
            }
            PAYLOAD_FEEDBACK if count == 1 && packet.len() >= 12 => {
                handle(Item::KeyframeRequest { ssrc: word(packet, 8) });
            }
            PAYLOAD_FEEDBACK if count == 4 && packet.len() >= 12 => {
                for entry in packet[12..].chunks_exact(8) {
                    handle(Item::KeyframeRequest { ssrc: word(entry, 0) });
                }
            }
            _ => {}
        }
        compound = &compound[length..];
    }
}

fn blocks<'a>(bytes: &[u8], count: u8, handle: &mut impl FnMut(Item<'a>)) {
    for block in bytes.chunks_exact(24).take(count.into()) {
        handle(Item::Report(ReportBlock {
            ssrc: word(block, 0),
            fraction_lost: block[4],
            cumulative_lost: word(block, 4) & 0x00ff_ffff,
            highest_sequence: word(block, 8),
            jitter: word(block, 12),
            last_sr: word(block, 16),
            delay_since_last_sr: word(block, 20),
        }));
    }
}

/// The sequence numbers of a NACK (RFC 4585 §6.2.1).
pub fn nacked(entries: &[u8]) -> impl Iterator<Item = u16> + '_ {
    entries.chunks_exact(4).flat_map(|entry| {
        let first = u16::from_be_bytes([entry[0], entry[1]]);
        let mask = u16::from_be_bytes([entry[2], entry[3]]);
        let more =
            (0..16).filter(move |bit| mask & (1 << bit) != 0).map(move |bit| first.wrapping_add(bit + 1));
        std::iter::once(first).chain(more)
    })
}

/// Wall-clock time as NTP 32.32 fixed point.
pub fn ntp(unix: Duration) -> u64 {
    let fraction = (u64::from(unix.subsec_nanos()) << 32) / 1_000_000_000;
    ((unix.as_secs() + NTP_UNIX_OFFSET_SECS) << 32) | fraction
}

fn begin(out: &mut Vec<u8>, count: u8, kind: u8, ssrc: u32) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0x80 | count, kind, 0, 0]);
    out.extend_from_slice(&ssrc.to_be_bytes());
    start
}

/// Pads to whole words and fills in the length.
fn end(out: &mut Vec<u8>, start: usize) {
    while !(out.len() - start).is_multiple_of(4) {
        out.push(0);
    }
    let words = ((out.len() - start) / 4 - 1) as u16;
    out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
}

/// Receiver reports: one, also without blocks, and one for each 31 blocks more (RFC 3550 §6.4.2).
pub fn write_receiver_report(out: &mut Vec<u8>, sender: u32, blocks: &[ReportBlock]) {
    let (blocks, more) = blocks.split_at(blocks.len().min(31));
    let start = begin(out, blocks.len() as u8, RECEIVER_REPORT, sender);
    for block in blocks {
        out.extend_from_slice(&block.ssrc.to_be_bytes());
        let lost = u32::from(block.fraction_lost) << 24 | block.cumulative_lost & 0x00ff_ffff;
        for value in [lost, block.highest_sequence, block.jitter, block.last_sr, block.delay_since_last_sr] {
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
    end(out, start);
    if !more.is_empty() {
        write_receiver_report(out, sender, more);
    }
}

/// Sender report without blocks.
pub fn write_sender_report(
    out: &mut Vec<u8>,
    ssrc: u32,
    ntp: u64,
    timestamp: u32,
    packets: u32,
    octets: u32,
) {
    let start = begin(out, 0, SENDER_REPORT, ssrc);
    out.extend_from_slice(&ntp.to_be_bytes());
    for value in [timestamp, packets, octets] {
        out.extend_from_slice(&value.to_be_bytes());
    }
    end(out, start);
}

/// Source description with one CNAME, which is at most 255 bytes.
pub fn write_cname(out: &mut Vec<u8>, ssrc: u32, cname: &str) {
    let cname = &cname.as_bytes()[..cname.len().min(255)];
    let start = begin(out, 1, SDES, ssrc);
    out.extend_from_slice(&[1, cname.len() as u8]);
    out.extend_from_slice(cname);
    // The list of items ends with a zero byte (RFC 3550 §6.5).
    out.push(0);
    end(out, start);
}

/// Picture loss indication.
pub fn write_pli(out: &mut Vec<u8>, sender: u32, ssrc: u32) {
    let start = begin(out, 1, PAYLOAD_FEEDBACK, sender);
    out.extend_from_slice(&ssrc.to_be_bytes());
    end(out, start);
}

/// Generic NACK for ascending sequence numbers.
pub fn write_nack(out: &mut Vec<u8>, sender: u32, ssrc: u32, lost: &[u16]) {
    let start = begin(out, 1, TRANSPORT_FEEDBACK, sender);
    out.extend_from_slice(&ssrc.to_be_bytes());
    let mut rest = lost;
    while let Some((first, more)) = rest.split_first() {
        let within = more.iter().take_while(|seq| (1..=16).contains(&seq.wrapping_sub(*first))).count();
        let mask = more[..within].iter().fold(0u16, |mask, seq| mask | 1 << (seq.wrapping_sub(*first) - 1));
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&mask.to_be_bytes());
        rest = &more[within..];
    }
    end(out, start);
}

/// Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb §2.2).
pub fn write_remb(out: &mut Vec<u8>, sender: u32, bitrate: u64, ssrcs: &[u32]) {
    let start = begin(out, 15, PAYLOAD_FEEDBACK, sender);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(b"REMB");
    let exponent = (64 - bitrate.leading_zeros()).saturating_sub(18);
    let mantissa = (bitrate >> exponent) as u32;
    let ssrcs = &ssrcs[..ssrcs.len().min(255)];
    out.extend_from_slice(&[ssrcs.len() as u8, (exponent << 2) as u8 | (mantissa >> 16) as u8]);
    out.extend_from_slice(&(mantissa as u16).to_be_bytes());
    ssrcs.iter().for_each(|ssrc| out.extend_from_slice(&ssrc.to_be_bytes()));
    end(out, start);
}

/// Transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions §3.1): `arrivals` has one entry per sequence
/// number from `base` on, the arrival in units of 250 µs since the start of time, at most 65535 of them.
///
/// Returns how many entries are reported on: a delta has 16 bits, so the first arrival that is 8.192 s away from the one
/// before it begins a packet of its own, which the caller writes.
pub fn write_transport_cc(
    out: &mut Vec<u8>,
    sender: u32,
    ssrc: u32,
    count: u8,
    base: u16,
    arrivals: &[Option<u64>],
) -> usize {
    let Some(reference) = arrivals.iter().flatten().next().map(|first| first / 256) else {
        return arrivals.len();
    };
    let (deltas, reported) = arrival_deltas(reference * 256, arrivals);
    let start = begin(out, 15, TRANSPORT_FEEDBACK, sender);
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(&base.to_be_bytes());
    out.extend_from_slice(&(reported as u16).to_be_bytes());
    out.extend_from_slice(&(((reference as u32) & 0x00ff_ffff) << 8 | u32::from(count)).to_be_bytes());
    // Two-bit status vectors of seven: 0 lost, 1 small delta, 2 large or negative delta.
    for chunk in deltas.chunks(7) {
        let mut vector = 0xc000u16;
        for (at, delta) in chunk.iter().enumerate() {
            let symbol = delta.map_or(0, |delta| if (0..=255).contains(&delta) { 1 } else { 2 });
            vector |= symbol << (12 - 2 * at);
        }
        out.extend_from_slice(&vector.to_be_bytes());
    }
    for delta in deltas.into_iter().flatten() {
        match u8::try_from(delta) {
            Ok(small) => out.push(small),
            Err(_) => out.extend_from_slice(&delta.to_be_bytes()),
        }
    }
    end(out, start);
    reported
}

/// Differences between arrivals, up to the first that does not fit, and how many entries that is.
fn arrival_deltas(reference: u64, arrivals: &[Option<u64>]) -> (Vec<Option<i16>>, usize) {
    let mut last = reference;
    let mut deltas = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        let delta = match arrival {
            Some(at) => match i16::try_from(*at as i64 - last as i64) {
                Ok(delta) => {
                    last = *at;
                    Some(delta)
                }
                Err(_) => break,
            },
            None => None,
        };
        deltas.push(delta);
    }
    let reported = deltas.len();
    (deltas, reported)
}

/// A compound packet stays below the smallest usual MTU.
const COMPOUND_BYTES_MAX: usize = 1200;

/// Cuts a long compound packet between its packets into parts that fit a datagram.
pub fn split_compound(compound: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at + 4 <= compound.len() {
        let length = 4 * (usize::from(u16::from_be_bytes([compound[at + 2], compound[at + 3]])) + 1);
        if at > start && at + length - start > COMPOUND_BYTES_MAX {
            parts.push(&compound[start..at]);
            start = at;
        }
        at += length;
    }
    if at > start {
        parts.push(&compound[start..at.min(compound.len())]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(compound: &[u8]) -> Vec<Item<'_>> {
        let mut items = Vec::new();
        parse(compound, |item| items.push(item));
        items
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Vec::new();
        let block = ReportBlock {
            ssrc: 9,
            fraction_lost: 3,
            cumulative_lost: 7,
            highest_sequence: 70_000,
            ..Default::default()
        };
        write_sender_report(&mut out, 1, 5 << 32, 77, 2, 3);
        write_cname(&mut out, 1, "someone");
        write_receiver_report(&mut out, 1, &[block]);
        write_pli(&mut out, 1, 42);
        write_nack(&mut out, 1, 43, &[65_535, 0, 15, 40]);
        let read = items(&out);
        assert_eq!(read.len(), 4);
        assert_eq!(read[0], Item::SenderReport { ssrc: 1, ntp: 5 << 32, timestamp: 77 });
        assert_eq!(read[1], Item::Report(block));
        assert_eq!(read[2], Item::KeyframeRequest { ssrc: 42 });
        let Item::Nack { ssrc: 43, entries } = read[3] else { panic!("{read:?}") };
        assert_eq!(nacked(entries).collect::<Vec<_>>(), [65_535, 0, 15, 40]);
        assert_eq!(entries.len(), 8);
    }

    #[test]
    fn transport_feedback_is_as_the_draft_draws_it() {
        let mut out = Vec::new();
        write_transport_cc(
            &mut out,
            1,
            2,
            3,
            65_530,
            &[Some(1000), None, Some(1004), Some(1003), Some(9000)],
        );
        let reference = 3; // 1000 / 256
        let expected = [0x8f, 205, 0, 6, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xfa, 0, 5, 0, 0, reference, 3];
        assert_eq!(out[..20], expected);
        // Small, lost, small, large (negative), large.
        assert_eq!(out[20..22], [0b1101_0001, 0b1010_0000]);
        assert_eq!(out[22..24], [(1000 - 768) as u8, 4]);
        assert_eq!(out[24..28], [0xff, 0xff, 0x1f, 0x3d]);
    }

    #[test]
    fn transport_feedback_and_remb_are_read_back() {
        let arrivals = [Some(1000), None, Some(1004), Some(1003), Some(9000)];
        let mut out = Vec::new();
        write_transport_cc(&mut out, 1, 2, 3, 65_530, &arrivals);
        // A run of 300 lost packets and seven more behind it.
        let many: Vec<Option<u64>> = (0..307).map(|at| (at == 0 || at > 300).then_some(5000 + at)).collect();
        write_transport_cc(&mut out, 1, 2, 4, 7, &many);
        write_remb(&mut out, 1, 2_500_000, &[5]);
        let read = items(&out);
        let [Item::TransportFeedback(first), Item::TransportFeedback(second), Item::Remb(bitrate)] = read[..]
        else {
            panic!("{read:?}")
        };
        let times = |feedback: TransportFeedback<'_>| -> Vec<Option<u64>> {
            let mut time = i64::from(feedback.reference()) * 256;
            let each = feedback.packets().map(|(_, delta)| {
                delta.map(|delta| {
                    time += i64::from(delta);
                    time as u64
                })
            });
            each.collect()
        };
        assert_eq!(times(first), arrivals);
        assert_eq!(first.packets().last().map(|(number, _)| number), Some(65_534));
        assert_eq!(times(second), many);
        assert_eq!(bitrate / 1000, 2_500);
    }

    #[test]
    fn any_transport_feedback_is_survived() {
        let mut state = 1u32;
        for _ in 0..2000 {
            let mut packet = vec![0x8f, 205, 0, 7];
            packet.extend((0..28).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            }));
            let Item::TransportFeedback(feedback) = items(&packet)[0] else { panic!("feedback") };
            assert!(feedback.packets().count() <= 65_535);
        }
    }

    #[test]
    fn an_arrival_too_far_away_is_left_to_the_next_packet() {
        let report = |arrivals: &[Option<u64>]| {
            let mut out = Vec::new();
            let reported = write_transport_cc(&mut out, 1, 2, 0, 0, arrivals);
            assert_eq!(usize::from(u16::from_be_bytes([out[14], out[15]])), reported);
            reported
        };
        assert_eq!(report(&[Some(256), None, Some(256 + 32_767)]), 3);
        assert_eq!(report(&[Some(256), None, Some(256 + 32_768)]), 2);
        assert_eq!(report(&[Some(40_960), Some(40_960 - 32_768)]), 2);
        assert_eq!(report(&[Some(40_960), Some(40_960 - 32_769), None]), 1);
    }

    /// Chromium's receiver reference time and a DLRR block (RFC 3611 §4.4, §4.5), and reports on its probe SSRC 1234.
    #[test]
    fn extended_reports_and_strange_sources_are_passed_over() {
        let reference_time = [0x80, 207, 0, 4, 0, 0, 0, 1, 4, 0, 0, 2, 0xe9, 0x1a, 0x2b, 0x3c, 0x80, 0, 0, 0];
        let delay = [0x80, 207, 0, 5, 0, 0, 0, 1, 5, 0, 0, 3, 0, 0, 0x1b, 0x58, 1, 2, 3, 4, 0, 0, 1, 0];
        let mut out = Vec::new();
        write_receiver_report(&mut out, 1, &[ReportBlock { ssrc: 1234, ..Default::default() }]);
        out.extend_from_slice(&reference_time);
        out.extend_from_slice(&delay);
        write_pli(&mut out, 1, 42);
        let read = items(&out);
        assert!(matches!(read[0], Item::Report(block) if block.ssrc == 1234), "{read:?}");
        assert_eq!(read[1..], [Item::KeyframeRequest { ssrc: 42 }]);
    }

    #[test]
    fn a_packet_that_claims_to_be_only_a_header_is_survived() {
        for kind in 192..=223 {
            for count in 0..32 {
                items(&[0x80 | count, kind, 0, 0, 0x80 | count, kind, 0, 1, 0, 0, 0, 1]);
            }
        }
    }

    #[test]
    fn any_cut_is_survived() {
        let mut out = Vec::new();
        write_sender_report(&mut out, 1, 5 << 32, 77, 2, 3);
        write_nack(&mut out, 1, 43, &[1]);
        for cut in 0..out.len() {
            items(&out[..cut]);
        }
    }
}
