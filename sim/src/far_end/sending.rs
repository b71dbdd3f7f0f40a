//! What a far end publishes: audio, or VP8 of one encoding or of three with temporal layers (simulcast), every packet with
//! a [`Tag`] that says whose it is and which.

use std::time::Duration;

use str0m::media::{Mid, Rid};
use str0m::rtp::Ssrc;

const MAGIC: &[u8; 4] = b"cwsm";
/// Bytes of a [`Tag`] on the wire.
pub const TAG_BYTES: usize = 4 + 2 + 2 + 4 + 1 + 1 + 8 + 8 + 4;
/// L1T3 as libvpx makes it: the third picture refers to the first, the second and fourth to their predecessors.
const TEMPORAL_PATTERN: [u8; 4] = [0, 2, 1, 2];
/// Packets of a keyframe, so that one of them can be missing.
const KEYFRAME_PACKETS: usize = 3;
/// A keyframe is so much larger than another frame, where frames have a size.
const KEYFRAME_SIZE: usize = 4;
/// Of a payload, where frames have a size.
const PAYLOAD_BYTES_MAX: usize = 1100;

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The room it was published in.
    pub room: u16,
    /// Who published it.
    pub person: u16,
    /// Which of the publisher's streams, never used twice.
    pub stream: u32,
    /// Which of the stream's encodings.
    pub layer: u8,
    /// The temporal layer, below 16; with [`Tag::LEANS`] when it cannot be decoded without the packet before it.
    pub temporal: u8,
    /// The packet's number in its encoding, without gaps.
    pub number: u64,
    /// How many of those up to this one are of the lowest temporal layer, which nobody leaves out.
    pub base: u64,
    /// When it was captured.
    pub captured_ms: u32,
}

impl Tag {
    /// Bit of [`Tag::temporal`].
    pub const LEANS: u8 = 0x80;

    /// Whose and what; the rest is counted by the publication.
    pub fn new(room: u16, person: u16, stream: u32) -> Self {
        Self { room, person, stream, layer: 0, temporal: 0, number: 0, base: 0, captured_ms: 0 }
    }

    /// As it is put into a payload.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.room.to_be_bytes());
        bytes.extend(self.person.to_be_bytes());
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend([self.layer, self.temporal]);
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(self.base.to_be_bytes());
        bytes.extend(self.captured_ms.to_be_bytes());
        bytes
    }

    /// Read from the end of a payload.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let tag = payload.get(payload.len().checked_sub(TAG_BYTES)?..)?;
        let (magic, rest) = tag.split_first_chunk::<4>()?;
        let (room, rest) = rest.split_first_chunk::<2>()?;
        let (person, rest) = rest.split_first_chunk::<2>()?;
        let (stream, rest) = rest.split_first_chunk::<4>()?;
        let ([layer, temporal], rest) = rest.split_first_chunk::<2>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (base, captured) = rest.split_first_chunk::<8>()?;
        (magic == MAGIC).then_some(Self {
            room: u16::from_be_bytes(*room),
            person: u16::from_be_bytes(*person),
            stream: u32::from_be_bytes(*stream),
            layer: *layer,
            temporal: *temporal,
            number: u64::from_be_bytes(*number),
            base: u64::from_be_bytes(*base),
            captured_ms: u32::from_be_bytes(captured.try_into().ok()?),
        })
    }
}

/// Audio or video as the far end publishes it.
#[derive(Debug)]
pub struct Publication {
    /// Audio (opus) or video (VP8).
    pub audio: bool,
    /// The m-line.
    pub mid: Mid,
    /// One, or the encodings of a simulcast from the smallest.
    pub encodings: Vec<Encoding>,
}

/// One stream of packets.
#[derive(Debug)]
pub struct Encoding {
    /// On the wire.
    pub ssrc: Ssrc,
    /// Of a simulcast's encoding, which is known by it alone.
    pub rid: Option<Rid>,
    /// A keyframe was asked for, or is the first.
    pub keyframe_due: bool,
    /// Bytes of a frame; 0 for what a [`Tag`] takes.
    pub frame_bytes: usize,
    layered: bool,
    clock_khz: u32,
    first_timestamp: u32,
    sequence: u64,
    picture: u16,
    tl0: u8,
    phase: usize,
    tag: Tag,
}

/// A packet that is ready to be written.
#[derive(Debug)]
pub struct Written {
    /// Extended.
    pub sequence: u64,
    /// Media time.
    pub timestamp: u32,
    /// The picture ends.
    pub marker: bool,
    /// Descriptor and tag.
    pub payload: Vec<u8>,
}

impl Encoding {
    /// A stream with this SSRC; `first` is its first sequence number and timestamp.
    pub fn new(ssrc: u32, rid: Option<&str>, audio: bool, tag: Tag, first: (u16, u32)) -> Self {
        Self {
            ssrc: ssrc.into(),
            rid: rid.map(Rid::from),
            keyframe_due: true,
            frame_bytes: 0,
            layered: rid.is_some(),
            clock_khz: if audio { 48 } else { 90 },
            first_timestamp: first.1,
            sequence: u64::from(first.0),
            picture: 0,
            tl0: 0,
            phase: 0,
            tag,
        }
    }

    /// The packets of the frame that is captured now.
    pub fn frame(&mut self, now: Duration, audio: bool) -> Vec<Written> {
        self.tag.captured_ms = now.as_millis() as u32;
        let key = std::mem::take(&mut self.keyframe_due) && !audio;
        self.phase = if key { 0 } else { (self.phase + 1) % TEMPORAL_PATTERN.len() };
        let temporal = if self.layered { TEMPORAL_PATTERN[self.phase] } else { 0 };
        self.tl0 = self.tl0.wrapping_add(u8::from(temporal == 0));
        self.picture = self.picture.wrapping_add(1) & 0x7fff;
        let bytes = self.frame_bytes * if key { KEYFRAME_SIZE } else { 1 };
        let packets = bytes.div_ceil(PAYLOAD_BYTES_MAX).max(if key { KEYFRAME_PACKETS } else { 1 });
        let packet = |part| {
            let mut written = self.packet(audio, key, temporal, part, bytes / packets);
            written.marker = part + 1 == packets;
            written
        };
        (0..packets).map(packet).collect()
    }

    fn packet(&mut self, audio: bool, key: bool, temporal: u8, part: usize, bytes: usize) -> Written {
        let mut payload = if audio { vec![0xfc] } else { self.descriptor(part == 0, key, temporal) };
        // The last picture of four refers to the third, the others to the first.
        let leans = if self.layered && self.phase == 3 { Tag::LEANS } else { 0 };
        self.tag.temporal = temporal | leans;
        self.tag.number += 1;
        self.tag.base += u64::from(temporal == 0);
        payload.resize(payload.len().max(bytes.saturating_sub(TAG_BYTES)), 0x55);
        payload.extend(self.tag.bytes());
        self.sequence += 1;
        let timestamp = self.first_timestamp.wrapping_add(self.tag.captured_ms.wrapping_mul(self.clock_khz));
        Written { sequence: self.sequence, timestamp, marker: false, payload }
    }

    /// RFC 7741 §4.2, and the first byte of the payload header.
    fn descriptor(&self, start: bool, key: bool, temporal: u8) -> Vec<u8> {
        let first = 0x80 | if start { 0x10 } else { 0 };
        let [high, low] = self.picture.to_be_bytes();
        if self.layered {
            let sync = if matches!(self.phase, 1 | 2) { 0x20 } else { 0 };
            vec![first, 0xe0, 0x80 | high, low, self.tl0, temporal << 6 | sync, u8::from(!key)]
        } else {
            vec![first, 0x80, 0x80 | high, low, u8::from(!key)]
        }
    }
}
