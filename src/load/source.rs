//! What a publisher sends: VP8 frames (RFC 7741 §4.2) and opus packets of the right size at the right time, nothing in them.
//!
//! The last eight bytes of every payload are the moment of its sending, in nanoseconds since the load's start.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use media::feedback::{self, Item};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Shared;
use super::leg::{CONSENT_EVERY, Datagram, Leg};

/// 30 frames a second.
const VIDEO_EVERY: Duration = Duration::from_nanos(1_000_000_000 / 30);
/// The usual packet time of opus (RFC 7587 §4.2).
const AUDIO_EVERY: Duration = Duration::from_millis(20);
/// 32 kb/s.
const AUDIO_BYTES: usize = 80;
/// What browsers put into a packet at most.
const PAYLOAD_BYTES_MAX: usize = 1_150;
/// A descriptor, the header of a keyframe and a moment.
const PAYLOAD_BYTES_MIN: usize = 4 + 10 + 8;

const VIDEO_SSRC: u32 = 0x1000;
const AUDIO_SSRC: u32 = 0x2000;
const REPAIR_SSRC: u32 = 0x3000;
const TRANSPORT_CC_URI: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// Packets of a source that can be sent again: what the server asks for.
const KEPT: usize = 512;
/// Between two sender reports.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Id of the transport-wide sequence number.
const TRANSPORT_CC: u8 = 5;

/// VP8 in so many encodings, as it is announced to `produce`.
pub fn vp8(encodings: usize) -> Value {
    let encoding = |at| json!({"ssrc": video_ssrc(at), "rtx": {"ssrc": repair_ssrc(at)}});
    let encodings: Vec<Value> = (0..encodings).map(encoding).collect();
    json!({
        "mid": "1",
        "codecs": [{"mimeType": "video/VP8", "payloadType": 96, "clockRate": 90000, "parameters": {},
                    "rtcpFeedback": [{"type": "nack", "parameter": ""}, {"type": "nack", "parameter": "pli"},
                                     {"type": "transport-cc", "parameter": ""}]},
                   {"mimeType": "video/rtx", "payloadType": 97, "clockRate": 90000, "parameters": {"apt": 96},
                    "rtcpFeedback": []}],
        "headerExtensions": [{"uri": TRANSPORT_CC_URI, "id": TRANSPORT_CC}], "encodings": encodings, "rtcp": {"cname": "load"}
    })
}

fn video_ssrc(encoding: usize) -> u32 {
    VIDEO_SSRC + encoding as u32 // below ten
}

fn repair_ssrc(encoding: usize) -> u32 {
    REPAIR_SSRC + encoding as u32 // as above
}

/// Opus, as it is announced to `produce`.
pub fn opus() -> Value {
    json!({
        "mid": "0",
        "codecs": [{"mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2,
                    "parameters": {}, "rtcpFeedback": [{"type": "transport-cc", "parameter": ""}]}],
        "headerExtensions": [{"uri": TRANSPORT_CC_URI, "id": TRANSPORT_CC}], "encodings": [{"ssrc": AUDIO_SSRC}], "rtcp": {"cname": "load"}
    })
}

/// One stream of packets.
struct Stream {
    payload_type: u8,
    ssrc: u32,
    index: u64,
    timestamp: u32,
    due: Instant,
    every: Duration,
    octets: u32,
    /// Of video: what was sent lately, and the stream in which it is repeated.
    repairs: Option<Repairs>,
}

struct Repairs {
    ssrc: u32,
    index: u64,
    kept: VecDeque<Kept>,
}

/// A packet's number and what is behind its header.
struct Kept {
    index: u64,
    timestamp: u32,
    payload: Vec<u8>,
}

impl Stream {
    fn new(payload_type: u8, ssrc: u32, every: Duration) -> Self {
        Self {
            payload_type,
            ssrc,
            index: 0,
            timestamp: 0,
            due: Instant::now(),
            every,
            octets: 0,
            repairs: None,
        }
    }

    fn video(encoding: usize) -> Self {
        let repairs = Repairs { ssrc: repair_ssrc(encoding), index: 0, kept: VecDeque::with_capacity(KEPT) };
        Self { repairs: Some(repairs), ..Self::new(96, video_ssrc(encoding), VIDEO_EVERY) }
    }

    /// Sends a payload that begins so, is so long, and ends with the moment.
    fn send(&mut self, out: &mut Out<'_>, marker: bool, start: &[u8], length: usize) {
        let mut payload = start.to_vec();
        payload.resize(length - 8, 0);
        payload.extend_from_slice(&out.shared.now_ns().to_be_bytes());
        out.shared.sent.fetch_add(1, Ordering::Relaxed);
        let first = self.payload_type | u8::from(marker) << 7;
        out.send(first, self.index, self.timestamp, self.ssrc, &[&payload]); // what the kernel refuses is lost: it is asked for
        self.octets = self.octets.wrapping_add(payload.len() as u32);
        if let Some(repairs) = &mut self.repairs {
            if repairs.kept.len() == KEPT {
                repairs.kept.pop_front();
            }
            repairs.kept.push_back(Kept { index: self.index, timestamp: self.timestamp, payload });
        }
        self.index += 1;
    }

    /// Sends again what is asked for by the low bits of its number, in the retransmission stream (RFC 4588 §4).
    fn repeat(&mut self, out: &mut Out<'_>, wire: u16) {
        let Some(repairs) = &mut self.repairs else { return };
        let Some(kept) = repairs.kept.iter().find(|kept| kept.index as u16 == wire) else { return };
        out.send(97, repairs.index, kept.timestamp, repairs.ssrc, &[&wire.to_be_bytes(), &kept.payload]);
        repairs.index += 1;
    }

    /// Which moment of the clock its last timestamp is (RFC 3550 §6.4.1).
    fn report(&self, shared: &Shared, out: &mut Vec<u8>) {
        let ntp = feedback::ntp(Duration::from_nanos(shared.now_ns()));
        feedback::write_sender_report(out, self.ssrc, ntp, self.timestamp, self.index as u32, self.octets);
    }
}

/// The way out of one transport.
struct Out<'a> {
    leg: &'a mut Leg,
    shared: &'a Shared,
    /// The next transport-wide sequence number.
    transport: &'a mut u16,
}

impl Out<'_> {
    /// An RTP packet (RFC 3550 §5.1) with a transport-wide sequence number.
    fn send(&mut self, first: u8, index: u64, timestamp: u32, ssrc: u32, payload: &[&[u8]]) {
        let mut packet = vec![0x90, first];
        packet.extend_from_slice(&(index as u16).to_be_bytes());
        packet.extend_from_slice(&timestamp.to_be_bytes());
        packet.extend_from_slice(&ssrc.to_be_bytes());
        packet.extend_from_slice(&[0xbe, 0xde, 0, 1, TRANSPORT_CC << 4 | 1]);
        packet.extend_from_slice(&self.transport.to_be_bytes());
        packet.push(0);
        payload.iter().for_each(|part| packet.extend_from_slice(part));
        *self.transport = self.transport.wrapping_add(1);
        self.leg.send(&mut packet, index);
    }
}

/// Sends until told to stop.
pub async fn publish(mut leg: Leg, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut audio = shared.args.audio.then(|| Stream::new(111, AUDIO_SSRC, AUDIO_EVERY));
    let encodings = shared.args.encodings().into_iter().enumerate();
    let mut videos: Vec<(Stream, Frames)> =
        encodings.map(|(at, bps)| (Stream::video(at), Frames::new(bps))).collect();
    let (mut consent, mut report) = (Instant::now(), Instant::now() + REPORT_EVERY);
    let (mut datagram, mut transport) = ([0; 2048], 0);
    loop {
        let now = Instant::now();
        let mut out = Out { leg: &mut leg, shared: &shared, transport: &mut transport };
        if let Some(audio) = audio.as_mut().filter(|audio| audio.due <= now) {
            audio.send(&mut out, false, &[], AUDIO_BYTES);
            audio.timestamp = audio.timestamp.wrapping_add(960);
            audio.due += audio.every;
        }
        for (video, frames) in videos.iter_mut().filter(|(video, _)| video.due <= now) {
            frames.send(video, &mut out);
            video.due += video.every;
        }
        if report <= now {
            let mut compound = Vec::new();
            let streams = audio.iter().chain(videos.iter().map(|(video, _)| video));
            streams.for_each(|stream| stream.report(&shared, &mut compound));
            leg.send_rtcp(&compound);
            report = now + REPORT_EVERY;
        }
        if consent <= now {
            leg.consent().await;
            let _ = leg.poll().await;
            consent = now + CONSENT_EVERY;
        }
        let streams = audio.iter().chain(videos.iter().map(|(video, _)| video));
        let due = streams.map(|stream| stream.due).fold(consent.min(report), Instant::min);
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep_until(due.into()) => {}
            _ = leg.readable() => while let Some(length) = leg.try_recv(&mut datagram) {
                if let Some(Datagram::Rtcp(length)) = leg.take(&mut datagram[..length]) {
                    let mut out = Out { leg: &mut leg, shared: &shared, transport: &mut transport };
                    feedback::parse(&datagram[..length], |item| obey(&mut videos, &mut out, item));
                }
            }
        }
    }
}

/// Keyframes and repetitions are given; what the server says of bandwidth is not followed: the load is what was asked for.
fn obey(videos: &mut [(Stream, Frames)], out: &mut Out<'_>, item: Item<'_>) {
    match item {
        Item::KeyframeRequest { ssrc } => {
            let asked = videos.iter_mut().filter(|(video, _)| video.ssrc == ssrc);
            asked.for_each(|(_, frames)| frames.key = true);
        }
        Item::Nack { ssrc, entries } => {
            for (video, _) in videos.iter_mut().filter(|(video, _)| video.ssrc == ssrc) {
                feedback::nacked(entries).for_each(|wire| video.repeat(out, wire));
            }
        }
        _ => {}
    }
}

/// VP8 frames of one size.
struct Frames {
    bytes: usize,
    picture: u16,
    /// Whether the next one is a keyframe.
    key: bool,
}

impl Frames {
    fn new(bps: u64) -> Self {
        let bytes = bps as f64 / 8.0 * VIDEO_EVERY.as_secs_f64();
        Self { bytes: (bytes as usize).max(PAYLOAD_BYTES_MIN), picture: 0, key: true }
    }

    fn send(&mut self, stream: &mut Stream, out: &mut Out<'_>) {
        let parts = self.bytes.div_ceil(PAYLOAD_BYTES_MAX);
        let length = (self.bytes / parts).max(PAYLOAD_BYTES_MIN);
        for part in 0..parts {
            stream.send(out, part + 1 == parts, &self.descriptor(part == 0), length);
        }
        self.key = false;
        self.picture = (self.picture + 1) & 0x7fff;
        stream.timestamp = stream.timestamp.wrapping_add(3000);
    }

    /// The payload descriptor with a picture id of 15 bits; and of the first packet the payload header (RFC 7741 §4.3).
    fn descriptor(&self, first: bool) -> [u8; 5] {
        let [high, low] = self.picture.to_be_bytes();
        let start = if first { 0x10 } else { 0 };
        [0x80 | start, 0x80, 0x80 | high, low, u8::from(!self.key)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyframes_and_first_packets_can_be_told() {
        let mut frames = Frames::new(1_200_000);
        assert_eq!(frames.bytes, 4999);
        assert_eq!(frames.descriptor(true), [0x90, 0x80, 0x80, 0, 0]);
        (frames.picture, frames.key) = (0x1234, false);
        assert_eq!(frames.descriptor(false), [0x80, 0x80, 0x92, 0x34, 1]);
    }
}
