//! What a publisher sends: VP8 frames (RFC 7741 §4.2) and opus packets of the right size at the right time, nothing in them.
//!
//! The last eight bytes of every payload are the moment of its sending, in nanoseconds since the load's start.

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

/// VP8 in so many encodings, as it is announced to `produce`.
pub fn vp8(encodings: usize) -> Value {
    let encodings: Vec<Value> = (0..encodings).map(|at| json!({"ssrc": video_ssrc(at)})).collect();
    json!({
        "mid": "1",
        "codecs": [{"mimeType": "video/VP8", "payloadType": 96, "clockRate": 90000, "parameters": {},
                    "rtcpFeedback": [{"type": "nack", "parameter": "pli"}]}],
        "headerExtensions": [], "encodings": encodings, "rtcp": {"cname": "load"}
    })
}

fn video_ssrc(encoding: usize) -> u32 {
    VIDEO_SSRC + encoding as u32 // below ten
}

/// Opus, as it is announced to `produce`.
pub fn opus() -> Value {
    json!({
        "mid": "0",
        "codecs": [{"mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2,
                    "parameters": {}, "rtcpFeedback": []}],
        "headerExtensions": [], "encodings": [{"ssrc": AUDIO_SSRC}], "rtcp": {"cname": "load"}
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
}

impl Stream {
    fn new(payload_type: u8, ssrc: u32, every: Duration) -> Self {
        Self { payload_type, ssrc, index: 0, timestamp: 0, due: Instant::now(), every }
    }

    /// A packet (RFC 3550 §5.1) with this payload, which ends with the moment.
    fn send(&mut self, leg: &mut Leg, shared: &Shared, marker: bool, start: &[u8], length: usize) {
        let mut packet = vec![0x80, self.payload_type | u8::from(marker) << 7];
        packet.extend_from_slice(&(self.index as u16).to_be_bytes());
        packet.extend_from_slice(&self.timestamp.to_be_bytes());
        packet.extend_from_slice(&self.ssrc.to_be_bytes());
        let header = packet.len();
        packet.extend_from_slice(start);
        packet.resize(header + length - 8, 0);
        packet.extend_from_slice(&shared.now_ns().to_be_bytes());
        shared.sent.fetch_add(1, Ordering::Relaxed);
        leg.send(&mut packet, self.index); // what the kernel refuses is lost: a gap that subscribers see
        self.index += 1;
    }
}

/// Sends until told to stop.
pub async fn publish(mut leg: Leg, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut audio = shared.args.audio.then(|| Stream::new(111, AUDIO_SSRC, AUDIO_EVERY));
    let encodings = shared.args.encodings().into_iter().enumerate();
    let mut videos: Vec<(Stream, Frames)> =
        encodings.map(|(at, bps)| (Stream::new(96, video_ssrc(at), VIDEO_EVERY), Frames::new(bps))).collect();
    let mut consent = Instant::now();
    let mut datagram = [0; 2048];
    loop {
        let now = Instant::now();
        if let Some(audio) = audio.as_mut().filter(|audio| audio.due <= now) {
            audio.send(&mut leg, &shared, false, &[], AUDIO_BYTES);
            audio.timestamp = audio.timestamp.wrapping_add(960);
            audio.due += audio.every;
        }
        for (video, frames) in videos.iter_mut().filter(|(video, _)| video.due <= now) {
            frames.send(video, &mut leg, &shared);
            video.due += video.every;
        }
        if consent <= now {
            leg.consent().await;
            let _ = leg.poll().await;
            consent = now + CONSENT_EVERY;
        }
        let streams = audio.iter().chain(videos.iter().map(|(video, _)| video));
        let due = streams.map(|stream| stream.due).fold(consent, Instant::min);
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep_until(due.into()) => {}
            _ = leg.readable() => while let Some(length) = leg.try_recv(&mut datagram) {
                let opened = leg.take(&mut datagram[..length]);
                if let Some(Datagram::Rtcp(length)) = opened {
                    feedback::parse(&datagram[..length], |item| {
                        if let Item::KeyframeRequest { ssrc } = item {
                            let asked = videos.iter_mut().filter(|(video, _)| video.ssrc == ssrc);
                            asked.for_each(|(_, frames)| frames.key = true);
                        }
                    });
                }
            }
        }
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

    fn send(&mut self, stream: &mut Stream, leg: &mut Leg, shared: &Shared) {
        let parts = self.bytes.div_ceil(PAYLOAD_BYTES_MAX);
        let length = (self.bytes / parts).max(PAYLOAD_BYTES_MIN);
        for part in 0..parts {
            stream.send(leg, shared, part + 1 == parts, &self.descriptor(part == 0), length);
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
