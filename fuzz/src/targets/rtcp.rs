//! Compound RTCP: ours against `rtcp-types`, and what we write is read back as it was meant.

use media::feedback::{self, Item, ReportBlock};
use rtcp_types::{Compound, Fir, Nack, Packet, Pli, ReportBlock as TheirBlock};

use crate::bytes::Bytes;

/// A compound packet.
pub fn run(data: &[u8]) {
    let mut ours = Vec::new();
    feedback::parse(data, |item| ours.push(item));
    assert!(ours.len() <= data.len() / 4, "no more items than words");
    if let Some(theirs) = their_items(data) {
        assert_eq!(ours.iter().filter_map(seen).collect::<Vec<_>>(), theirs);
    }
    round_trip(&ours);
    transport_feedback(data);
}

/// An item with its lists unpacked.
#[derive(Debug, PartialEq)]
enum Seen {
    SenderReport(u32, u64, u32),
    Report(ReportBlock),
    Nack(u32, Vec<u16>),
    KeyframeRequest(u32),
}

/// `None` for what `rtcp-types` does not know.
fn seen(item: &Item<'_>) -> Option<Seen> {
    Some(match *item {
        Item::SenderReport { ssrc, ntp, timestamp } => Seen::SenderReport(ssrc, ntp, timestamp),
        Item::Report(block) => Seen::Report(block),
        Item::Nack { ssrc, entries } => Seen::Nack(ssrc, feedback::nacked(entries).collect()),
        Item::KeyframeRequest { ssrc } => Seen::KeyframeRequest(ssrc),
        Item::TransportFeedback(_) | Item::Remb(_) => return None,
    })
}

/// Only of a compound packet that is sound to its last byte and has no padding: we read on behind an odd packet, and
/// RTCP's padding, which WebRTC does not use, we read as content.
fn their_items(data: &[u8]) -> Option<Vec<Seen>> {
    let mut items = Vec::new();
    let mut at = 0;
    for packet in Compound::parse(data).ok()? {
        let head = &data[at..];
        at += 4 * (usize::from(u16::from_be_bytes([head[2], head[3]])) + 1);
        if head[0] >> 5 != 0b100 {
            return None;
        }
        match packet.ok()? {
            Packet::Sr(sr) => {
                items.push(Seen::SenderReport(sr.ssrc(), sr.ntp_timestamp(), sr.rtp_timestamp()));
                items.extend(sr.report_blocks().map(|block| Seen::Report(of_theirs(&block))));
            }
            Packet::Rr(rr) => items.extend(rr.report_blocks().map(|block| Seen::Report(of_theirs(&block)))),
            Packet::TransportFeedback(feedback) if head[0] & 0x1f == 1 => {
                let nack = feedback.parse_fci::<Nack<'_>>().ok()?;
                items.push(Seen::Nack(feedback.media_ssrc(), nack.entries().collect()));
            }
            Packet::PayloadFeedback(feedback) if head[0] & 0x1f == 1 => {
                feedback.parse_fci::<Pli<'_>>().ok()?;
                items.push(Seen::KeyframeRequest(feedback.media_ssrc()));
            }
            Packet::PayloadFeedback(feedback) if head[0] & 0x1f == 4 => {
                let fir = feedback.parse_fci::<Fir<'_>>().ok()?;
                items.extend(fir.entries().map(|entry| Seen::KeyframeRequest(entry.ssrc())));
            }
            _ => {}
        }
    }
    Some(items)
}

fn of_theirs(block: &TheirBlock<'_>) -> ReportBlock {
    ReportBlock {
        ssrc: block.ssrc(),
        fraction_lost: block.fraction_lost(),
        cumulative_lost: block.cumulative_lost(),
        highest_sequence: block.extended_sequence_number(),
        jitter: block.interarrival_jitter(),
        last_sr: block.last_sender_report_timestamp(),
        delay_since_last_sr: block.delay_since_last_sender_report_timestamp(),
    }
}

/// Writes everything again. Sequence numbers are asked for in ascending order, so they are sorted first.
fn round_trip(items: &[Item<'_>]) {
    for item in items {
        let mut out = Vec::new();
        if let Item::TransportFeedback(feedback) = item {
            assert!(feedback.packets().count() <= 2048, "what a packet makes us do is bounded");
        }
        let Some(mut expected) = seen(item) else { continue };
        match &mut expected {
            Seen::SenderReport(ssrc, ntp, timestamp) => {
                feedback::write_sender_report(&mut out, *ssrc, *ntp, *timestamp, 1, 2);
            }
            Seen::Report(block) => feedback::write_receiver_report(&mut out, 1, &[*block]),
            Seen::Nack(ssrc, lost) => {
                lost.sort_unstable();
                lost.dedup();
                feedback::write_nack(&mut out, 1, *ssrc, lost);
            }
            Seen::KeyframeRequest(ssrc) => feedback::write_pli(&mut out, 1, *ssrc),
        }
        let mut again = Vec::new();
        feedback::parse(&out, |item| again.extend(seen(&item)));
        assert_eq!(again, [expected]);
    }
}

/// Arrivals of any order and distance are all reported on, packet after packet.
fn transport_feedback(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut clock = u64::from(bytes.u16());
    let mut arrivals = Vec::new();
    while !bytes.is_empty() && arrivals.len() < 600 {
        match bytes.byte() {
            0..=63 => arrivals.push(None),
            64..=191 => {
                clock += u64::from(bytes.byte());
                arrivals.push(Some(clock));
            }
            _ => {
                clock = (clock + u64::from(bytes.u16())).saturating_sub(u64::from(bytes.u16()));
                arrivals.push(Some(clock));
            }
        }
    }
    let mut rest = &arrivals[..];
    while !rest.is_empty() {
        let mut out = Vec::new();
        let reported = feedback::write_transport_cc(&mut out, 1, 2, 3, 4, rest);
        assert!((1..=rest.len()).contains(&reported), "{reported} of {rest:?}");
        assert!(out.is_empty() || Compound::parse(&out).is_ok_and(|packets| packets.flatten().count() == 1));
        rest = &rest[reported..];
    }
}

/// One of each, as we write them.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut reports = Vec::new();
    let block = ReportBlock { ssrc: 9, fraction_lost: 3, highest_sequence: 70_000, ..Default::default() };
    feedback::write_sender_report(&mut reports, 1, 5 << 32, 77, 2, 3);
    feedback::write_cname(&mut reports, 1, "someone");
    feedback::write_receiver_report(&mut reports, 1, &[block, block]);
    let mut requests = Vec::new();
    feedback::write_pli(&mut requests, 1, 42);
    feedback::write_nack(&mut requests, 1, 43, &[65_535, 0, 15, 40]);
    feedback::write_remb(&mut requests, 1, 1_000_000, &[42]);
    feedback::write_transport_cc(&mut requests, 1, 2, 3, 65_530, &[Some(1000), None, Some(1004), Some(9000)]);
    let fir = vec![0x84, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 7, 0, 0, 0];
    let extended = vec![0x80, 207, 0, 4, 0, 0, 0, 1, 4, 0, 0, 2, 0xe9, 0x1a, 0x2b, 0x3c, 0x80, 0, 0, 0];
    vec![reports, requests, fir, extended]
}
