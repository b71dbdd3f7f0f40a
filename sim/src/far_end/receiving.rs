//! What a far end receives: packets for the oracles, and a decoder that goes on only with everything it needs.

use std::collections::BTreeMap;
use std::time::Duration;

use str0m::rtp::{RtpPacket, Ssrc};

use super::sending::Tag;

/// A packet of a subscription, as the oracles look at it.
#[derive(Debug)]
pub struct Received {
    /// The consumer.
    pub consumer: String,
    /// Extended sequence number.
    pub sequence: u64,
    /// Media time.
    pub timestamp: u32,
    /// Audio or video.
    pub audio: bool,
    /// VP8's picture id.
    pub picture: u16,
    /// It is the first of a keyframe.
    pub keyframe: bool,
    /// What it says of itself.
    pub tag: Option<Tag>,
}

/// What a subscriber knows of one stream that it receives.
#[derive(Debug)]
pub struct Subscription {
    /// The consumer.
    pub consumer: String,
    /// Audio or video.
    pub audio: bool,
    /// On the wire.
    pub ssrc: Ssrc,
    /// When the decoder last got further.
    pub decoded_at: Option<Duration>,
    /// Which encoding the newest packet is of.
    pub layer: u8,
    /// When it last asked for a keyframe.
    pub asked_at: Option<Duration>,
    /// The next packet that the decoder needs; none before a keyframe.
    expected: Option<u64>,
    /// Keyframe first packets, and everything, by sequence number.
    waiting: BTreeMap<u64, bool>,
    newest: u64,
    stuck_since: Duration,
}

impl Subscription {
    /// Nothing received yet.
    pub fn new(now: Duration, consumer: String, audio: bool, ssrc: Ssrc) -> Self {
        Self {
            consumer,
            audio,
            ssrc,
            decoded_at: None,
            layer: 0,
            asked_at: None,
            expected: None,
            waiting: BTreeMap::new(),
            newest: 0,
            stuck_since: now,
        }
    }

    /// Whether a browser's decoder would ask for a keyframe now.
    pub fn is_stuck(&self, now: Duration) -> bool {
        !self.audio
            && !self.waiting.is_empty()
            && now.saturating_sub(self.stuck_since) > Duration::from_millis(500)
            && self.asked_at.is_none_or(|at| now.saturating_sub(at) > Duration::from_secs(1))
    }

    /// A packet arrives.
    pub fn take(&mut self, now: Duration, packet: &RtpPacket) -> Received {
        let sequence = *packet.seq_no;
        let (start, picture, keyframe) = if self.audio { (true, 0, false) } else { vp8(&packet.payload) };
        let tag = Tag::parse(&packet.payload);
        if sequence > self.newest {
            self.newest = sequence;
            self.layer = tag.map_or(0, |tag| tag.layer);
        }
        if self.audio {
            self.decoded_at = Some(now);
        } else {
            self.decode(now, sequence, start && keyframe);
        }
        Received {
            consumer: self.consumer.clone(),
            sequence,
            timestamp: packet.header.timestamp,
            audio: self.audio,
            picture,
            keyframe: start && keyframe,
            tag,
        }
    }

    fn decode(&mut self, now: Duration, sequence: u64, begins_keyframe: bool) {
        if self.expected.is_some_and(|expected| sequence < expected) {
            return;
        }
        if self.waiting.is_empty() {
            self.stuck_since = now;
        }
        self.waiting.insert(sequence, begins_keyframe);
        // The newest keyframe is where a decoder that misses something goes on.
        let restart = self.waiting.iter().rev().find(|(_, key)| **key).map(|(sequence, _)| *sequence);
        if let Some(at) = restart
            && self.expected.is_none_or(|expected| !self.waiting.contains_key(&expected))
        {
            self.expected = Some(at);
            self.waiting = self.waiting.split_off(&at);
        }
        while let Some(expected) = self.expected.filter(|expected| self.waiting.contains_key(expected)) {
            self.waiting.remove(&expected);
            self.expected = Some(expected + 1);
            self.decoded_at = Some(now);
            self.stuck_since = now;
        }
        while self.waiting.len() > 1000 {
            self.waiting.pop_first();
        }
    }
}

/// Whether a picture starts here, its 15-bit id, and whether it is a keyframe (RFC 7741 §4.2).
fn vp8(payload: &[u8]) -> (bool, u16, bool) {
    let &[first, flags, high, low, ..] = payload else { return (false, 0, false) };
    let at = if flags & 0x40 != 0 { 6 } else { 4 };
    let keyframe = payload.get(at).is_some_and(|byte| byte & 1 == 0);
    (first & 0x10 != 0, u16::from_be_bytes([high & 0x7f, low]), keyframe)
}
