//! What a subscriber's client tells the server: which packets came when (transport-wide feedback), how each source is received
//! (RFC 3550 §6.4.2), what it misses (RFC 4585 §6.2.1), and that it can decode nothing without a keyframe (§6.3.1).
//!
//! Knows neither clock nor socket: `sink` hands in packets and moments, and sends what it writes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use media::arrivals::Arrivals;
use media::codec::{self, Codec};
use media::feedback;
use media::reception::Reception;
use media::rtp::{RtpHeader, extend_sequence};
use serde_json::Value;

/// Between two transport-wide feedbacks (libwebrtc's usual interval).
const FEEDBACK_EVERY: Duration = Duration::from_millis(100);
/// Between two requests for the same packet: a usual round trip, as libwebrtc takes it to be until it knows.
const NACK_INTERVAL: Duration = Duration::from_millis(100);
/// How often is looked after what is missing, while something is.
const MISSING_EVERY: Duration = Duration::from_millis(20);
/// Between two receiver reports.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// What is missing for so long does not come any more, and keeps a decoder from going on.
const MISSING_MAX: Duration = Duration::from_millis(300);
/// No keyframe is asked for more often.
const KEYFRAME_EVERY: Duration = Duration::from_millis(500);
/// The name of our reports.
const OUR_SSRC: u32 = 1;

/// A stream as the server announces it in the answer to `consume`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stream {
    ssrc: u32,
    repair_ssrc: Option<u32>,
    transport_cc: Option<u8>,
    is_video: bool,
}

impl Stream {
    /// Of the answer; `None` where it names no source.
    pub fn of(consumer: &Value) -> Option<Self> {
        let rtp = &consumer["rtpParameters"];
        let ssrc = |value: &Value| value.as_u64().and_then(|ssrc| u32::try_from(ssrc).ok());
        let extensions = rtp["headerExtensions"].as_array().into_iter().flatten();
        let transport_cc = extensions
            .filter(|it| it["uri"].as_str().is_some_and(|uri| uri.contains("transport-wide-cc")))
            .find_map(|it| it["id"].as_u64().and_then(|id| u8::try_from(id).ok()));
        Some(Self {
            ssrc: ssrc(&rtp["encodings"][0]["ssrc"])?,
            repair_ssrc: ssrc(&rtp["encodings"][0]["rtx"]["ssrc"]),
            transport_cc,
            is_video: consumer["kind"] == "video",
        })
    }
}

/// What a packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Media, sent for the first time.
    Media,
    /// Media that was missing, sent again.
    Recovered,
    /// A probe's padding, or what has come before.
    Nothing,
}

#[derive(Debug, Default)]
struct Source {
    stream: Stream,
    reception: Reception,
    /// The first that is missing, and since when it is the first.
    missing: Option<(u64, Instant)>,
    waits_for_keyframe: bool,
    asked: Option<Instant>,
}

/// Totals of one subscriber.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Packets with media, each once.
    pub received: u64,
    /// Of them, sent again because they were missing.
    pub recovered: u64,
    /// Missing in the end.
    pub lost: u64,
    /// Asked for, each time counted.
    pub asked: u64,
    /// Keyframes asked for.
    pub keyframes_asked: u64,
}

impl Totals {
    /// With those of another subscriber.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.recovered += other.recovered;
        self.lost += other.lost;
        self.asked += other.asked;
        self.keyframes_asked += other.keyframes_asked;
    }
}

/// One subscriber's receiving end.
#[derive(Debug)]
pub struct Listener {
    start: Instant,
    sources: BTreeMap<u32, Source>,
    /// The source that each retransmission stream repairs.
    repairs: BTreeMap<u32, u32>,
    transport_cc: Option<u8>,
    arrivals: Arrivals,
    feedback_at: Instant,
    report_at: Instant,
    totals: Totals,
}

impl Listener {
    /// Nothing has come.
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            sources: BTreeMap::new(),
            repairs: BTreeMap::new(),
            transport_cc: None,
            arrivals: Arrivals::new(start),
            feedback_at: start + FEEDBACK_EVERY,
            report_at: start + REPORT_EVERY,
            totals: Totals::default(),
        }
    }

    /// This stream is going to come. Of others packets are counted, and nothing is asked.
    pub fn expect(&mut self, stream: Stream) {
        self.sources.entry(stream.ssrc).or_default().stream = stream;
        self.transport_cc = stream.transport_cc.or(self.transport_cc);
        self.repairs.extend(stream.repair_ssrc.map(|repair| (repair, stream.ssrc)));
    }

    /// An opened packet came; `index` is its extended sequence number.
    pub fn take(&mut self, now: Instant, packet: &[u8], index: u64) -> Sort {
        let Some(header) = RtpHeader::parse(packet) else { return Sort::Nothing };
        if let Some(id) = self.transport_cc
            && let Some(&[high, low]) = header.extensions.find(id)
        {
            self.arrivals.record(now, u16::from_be_bytes([high, low]), header.ssrc);
        }
        let mut payload = header.payload(packet);
        let repaired = self.repairs.get(&header.ssrc).copied();
        let source = self.sources.entry(repaired.unwrap_or(header.ssrc)).or_default();
        let mut sequence = index;
        if repaired.is_some() {
            // RFC 4588 §4; without an original it is padding.
            let (Some((original, rest)), Some(newest)) =
                (payload.split_first_chunk(), source.reception.newest())
            else {
                return Sort::Nothing;
            };
            let Some(original) = extend_sequence(newest, u16::from_be_bytes(*original)) else {
                return Sort::Nothing;
            };
            (sequence, payload) = (original, rest);
        }
        let is_late = source.reception.newest().is_some_and(|newest| sequence <= newest);
        if is_late && !source.reception.misses(sequence) || repaired.is_some() && !is_late {
            return Sort::Nothing;
        }
        let rate = if source.stream.is_video { 90_000 } else { 48_000 };
        let arrival = now.saturating_duration_since(self.start).as_micros() * rate / 1_000_000;
        source.reception.on_packet(now, sequence, header.timestamp, arrival as u32, true);
        if payload.is_empty() {
            return Sort::Nothing;
        }
        if source.stream.is_video && codec::inspect(Codec::Vp8, payload).keyframe {
            source.waits_for_keyframe = false;
        }
        self.totals.received += 1;
        self.totals.recovered += u64::from(repaired.is_some());
        if repaired.is_some() { Sort::Recovered } else { Sort::Media }
    }

    /// When [`Self::tell`] has something to say.
    pub fn next(&self) -> Instant {
        let next = self.feedback_at.min(self.report_at);
        let misses =
            self.sources.values().any(|it| it.stream.repair_ssrc.is_some() && it.reception.missing() > 0);
        if misses { next.min(self.feedback_at + MISSING_EVERY - FEEDBACK_EVERY) } else { next }
    }

    /// Appends what is to be said now.
    pub fn tell(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.report_at <= now {
            self.report_at = now + REPORT_EVERY;
            let blocks: Vec<_> = self
                .sources
                .iter_mut()
                .filter_map(|(ssrc, source)| source.reception.report(now, *ssrc))
                .collect();
            blocks.chunks(31).for_each(|blocks| feedback::write_receiver_report(out, OUR_SSRC, blocks));
        }
        self.feedback_at = now + FEEDBACK_EVERY;
        self.arrivals.write(out, OUR_SSRC);
        for (ssrc, source) in &mut self.sources {
            let mut missing = Vec::new();
            source.reception.due_nacks(now, NACK_INTERVAL, &mut missing);
            missing.retain(|_| source.stream.repair_ssrc.is_some());
            self.totals.asked += missing.len() as u64;
            if !missing.is_empty() {
                feedback::write_nack(out, OUR_SSRC, *ssrc, &missing);
            }
            if source.stream.is_video && source.wants_keyframe(now) {
                self.totals.keyframes_asked += 1;
                feedback::write_pli(out, OUR_SSRC, *ssrc);
            }
        }
    }

    /// The server's clock, for reports.
    pub fn on_sender_report(&mut self, now: Instant, ssrc: u32, ntp: u64, timestamp: u32) {
        if let Some(source) = self.sources.get_mut(&ssrc) {
            source.reception.on_sender_report(now, ntp, timestamp);
        }
    }

    /// All of it so far.
    pub fn totals(&self) -> Totals {
        let lost = self.sources.values().map(|source| source.reception.lost()).sum();
        Totals { lost, ..self.totals }
    }
}

impl Source {
    fn wants_keyframe(&mut self, now: Instant) -> bool {
        let oldest = self.reception.oldest_missing();
        let known = self.missing.filter(|(known, _)| oldest == Some(*known));
        self.missing = known.or(oldest.map(|oldest| (oldest, now)));
        if self.missing.is_some_and(|(_, since)| now.saturating_duration_since(since) >= MISSING_MAX) {
            self.waits_for_keyframe = true;
        }
        let again = self.asked.is_none_or(|at| now.saturating_duration_since(at) >= KEYFRAME_EVERY);
        let asks = self.waits_for_keyframe && again;
        if asks {
            self.asked = Some(now);
        }
        asks
    }
}

#[cfg(test)]
mod tests {
    use media::feedback::Item;
    use serde_json::json;

    use super::*;

    const SSRC: u32 = 7;
    const REPAIR: u32 = 8;

    fn listener(now: Instant) -> Listener {
        let consumer = json!({"kind": "video", "rtpParameters": {
            "encodings": [{"ssrc": SSRC, "rtx": {"ssrc": REPAIR}}],
            "headerExtensions": [
                {"uri": "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01", "id": 5}]}});
        let mut listener = Listener::new(now);
        listener.expect(Stream::of(&consumer).expect("a source"));
        listener
    }

    /// A packet with a transport-wide number; a keyframe's when its own is 1.
    fn packet(ssrc: u32, sequence: u16, transport: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x90, 96];
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 1]);
        packet.extend(ssrc.to_be_bytes());
        packet.extend([0xbe, 0xde, 0, 1, 5 << 4 | 1]);
        packet.extend(transport.to_be_bytes());
        packet.push(0);
        packet.extend(payload);
        packet
    }

    fn delta(sequence: u16) -> Vec<u8> {
        packet(SSRC, sequence, sequence, &[0x10, 1, 2])
    }

    #[derive(Debug, Default, PartialEq)]
    struct Said {
        missing: Vec<u16>,
        arrived: usize,
        reports: usize,
        keyframes: usize,
    }

    fn said(listener: &mut Listener, now: Instant) -> Said {
        let (mut out, mut said) = (Vec::new(), Said::default());
        listener.tell(now, &mut out);
        feedback::parse(&out, |item| match item {
            Item::Nack { ssrc: SSRC, entries } => said.missing.extend(feedback::nacked(entries)),
            Item::TransportFeedback(feedback) => {
                said.arrived += feedback.packets().filter(|(_, delta)| delta.is_some()).count();
            }
            Item::Report(block) if block.ssrc == SSRC => said.reports += 1,
            Item::KeyframeRequest { ssrc: SSRC } => said.keyframes += 1,
            other => panic!("{other:?}"),
        });
        said
    }

    #[test]
    fn what_is_missing_is_asked_for_and_counted_when_it_comes() {
        #[allow(clippy::disallowed_methods)] // an origin to count from
        let now = Instant::now();
        let mut listener = listener(now);
        for sequence in [1, 2, 5] {
            assert_eq!(listener.take(now, &delta(sequence), sequence.into()), Sort::Media);
        }
        assert!(listener.next() <= now + MISSING_EVERY);
        assert_eq!(said(&mut listener, now), Said { missing: vec![3, 4], arrived: 3, ..Said::default() });
        let again = packet(REPAIR, 1, 6, &[0, 3, 0x10, 1, 2]);
        assert_eq!(listener.take(now, &again, 1), Sort::Recovered);
        assert_eq!(listener.take(now, &again, 2), Sort::Nothing, "a second time");
        assert_eq!(listener.take(now, &delta(3), 3), Sort::Nothing, "the original, after all");
        let padding = packet(REPAIR, 3, 7, &[]);
        assert_eq!(listener.take(now, &padding, 3), Sort::Nothing);
        let totals = listener.totals();
        assert_eq!((totals.received, totals.recovered, totals.lost, totals.asked), (4, 1, 1, 2));
        let second = said(&mut listener, now + REPORT_EVERY);
        assert_eq!((second.reports, second.missing), (1, vec![4]));
    }

    #[test]
    fn what_stays_missing_needs_a_keyframe() {
        #[allow(clippy::disallowed_methods)] // an origin to count from
        let mut now = Instant::now();
        let mut listener = listener(now);
        for sequence in [1, 3] {
            listener.take(now, &delta(sequence), sequence.into());
        }
        let mut keyframes = 0;
        for _ in 0..75 {
            now += MISSING_EVERY;
            keyframes += said(&mut listener, now).keyframes;
        }
        assert_eq!(keyframes, 3, "after 0.3 s, and each half second again");
        listener.take(now, &packet(SSRC, 4, 4, &[0x10, 0, 0]), 4);
        for _ in 0..50 {
            now += MISSING_EVERY;
            assert_eq!(said(&mut listener, now).keyframes, 0, "it has come");
        }
    }
}
