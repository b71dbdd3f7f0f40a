//! What workers say to each other about a room that spans several: plain packets of a publisher one way, requests for keyframes
//! and layers the other. `sfu/span` writes and reads them, the shell carries them through bounded rings and may lose any of them.
//!
//! ```text
//! length:4 | kind:1 | pipe:8 | index:1 | of the kind …        all big-endian; the length counts what follows it
//! packet         sequence:8 timestamp:4 marker:1 profile:2 extension length:2 | extension | payload
//! sender report  ntp:8 timestamp:4
//! score          score:1
//! keyframe       –
//! wanted         –
//! message        data                                         index 1 is binary
//! ```

use crate::rtp::Extensions;

/// The length in front of each parcel.
pub const LENGTH_BYTES: usize = 4;

const PACKET: u8 = 0;
const SENDER_REPORT: u8 = 1;
const SCORE: u8 = 2;
const KEYFRAME: u8 = 3;
const WANTED: u8 = 4;
const MESSAGE: u8 = 5;

/// A publisher's packet as it came, opened, and with its retransmission wrapping removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainPacket<'a> {
    /// Which encoding of the producer.
    pub encoding: usize,
    /// Extended.
    pub sequence: u64,
    /// RTP media time.
    pub timestamp: u32,
    /// M bit.
    pub marker: bool,
    /// Empty when it was padding only.
    pub payload: &'a [u8],
    /// The header extension.
    pub extensions: Extensions<'a>,
}

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saying<'a> {
    /// From the producer.
    Packet(PlainPacket<'a>),
    /// The publisher's clock.
    SenderReport {
        /// Which encoding.
        encoding: usize,
        /// 32.32.
        ntp: u64,
        /// Media time.
        timestamp: u32,
    },
    /// How an encoding arrives at the producer's worker; once per second.
    Score {
        /// Which encoding.
        encoding: usize,
        /// 0–10.
        score: u8,
    },
    /// To the producer: somebody needs a keyframe.
    Keyframe {
        /// Which encoding.
        encoding: usize,
    },
    /// To the producer: the highest encoding that somebody watches here.
    Wanted {
        /// Which encoding.
        encoding: usize,
    },
    /// From a data producer.
    Message {
        /// Binary or text.
        binary: bool,
        /// The whole message.
        data: &'a [u8],
    },
}

/// Appends a parcel with its length. Indexes of encodings fit a byte: the router has four at most.
pub fn write(out: &mut Vec<u8>, pipe: u64, saying: &Saying<'_>) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    let (kind, index) = match saying {
        Saying::Packet(packet) => (PACKET, packet.encoding),
        Saying::SenderReport { encoding, .. } => (SENDER_REPORT, *encoding),
        Saying::Score { encoding, .. } => (SCORE, *encoding),
        Saying::Keyframe { encoding } => (KEYFRAME, *encoding),
        Saying::Wanted { encoding } => (WANTED, *encoding),
        Saying::Message { binary, .. } => (MESSAGE, usize::from(*binary)),
    };
    out.push(kind);
    out.extend_from_slice(&pipe.to_be_bytes());
    out.push(index as u8);
    match saying {
        Saying::Packet(packet) => {
            let (profile, extension) = packet.extensions.parts();
            out.extend_from_slice(&packet.sequence.to_be_bytes());
            out.extend_from_slice(&packet.timestamp.to_be_bytes());
            out.push(u8::from(packet.marker));
            out.extend_from_slice(&profile.to_be_bytes());
            out.extend_from_slice(&(extension.len() as u16).to_be_bytes());
            out.extend_from_slice(extension);
            out.extend_from_slice(packet.payload);
        }
        Saying::SenderReport { ntp, timestamp, .. } => {
            out.extend_from_slice(&ntp.to_be_bytes());
            out.extend_from_slice(&timestamp.to_be_bytes());
        }
        Saying::Score { score, .. } => out.push(*score),
        Saying::Keyframe { .. } | Saying::Wanted { .. } => {}
        Saying::Message { data, .. } => out.extend_from_slice(data),
    }
    let length = (out.len() - start - LENGTH_BYTES) as u32;
    out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// Cuts the first parcel, its length included, from several.
pub fn first(parcels: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_be_bytes(*parcels.first_chunk()?) as usize;
    parcels.split_at_checked(LENGTH_BYTES + length)
}

/// Reads a parcel, its length left out: the pipe and what is said.
pub fn read(parcel: &[u8]) -> Option<(u64, Saying<'_>)> {
    let mut rest = Reader(parcel);
    let [kind] = rest.take()?;
    let pipe = u64::from_be_bytes(rest.take()?);
    let [index] = rest.take()?;
    let encoding = usize::from(index);
    let saying = match kind {
        PACKET => {
            let sequence = u64::from_be_bytes(rest.take()?);
            let timestamp = u32::from_be_bytes(rest.take()?);
            let [marker] = rest.take()?;
            let profile = u16::from_be_bytes(rest.take()?);
            let length = usize::from(u16::from_be_bytes(rest.take()?));
            let (extension, payload) = rest.0.split_at_checked(length)?;
            let extensions = Extensions::new(profile, extension);
            let marker = marker != 0;
            Saying::Packet(PlainPacket { encoding, sequence, timestamp, marker, payload, extensions })
        }
        SENDER_REPORT => {
            let ntp = u64::from_be_bytes(rest.take()?);
            Saying::SenderReport { encoding, ntp, timestamp: u32::from_be_bytes(rest.take()?) }
        }
        SCORE => {
            let [score] = rest.take()?;
            Saying::Score { encoding, score }
        }
        KEYFRAME => Saying::Keyframe { encoding },
        WANTED => Saying::Wanted { encoding },
        MESSAGE => Saying::Message { binary: index != 0, data: rest.0 },
        _ => return None,
    };
    Some((pipe, saying))
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sayings() -> Vec<Saying<'static>> {
        let extensions = Extensions::new(0xbede, &[0x10, 7, 0, 0]);
        let packet = PlainPacket {
            encoding: 2,
            sequence: u64::from(u32::MAX) + 9,
            timestamp: 7,
            marker: true,
            payload: b"plain",
            extensions,
        };
        vec![
            Saying::Packet(packet),
            Saying::Packet(PlainPacket { payload: &[], extensions: Extensions::default(), ..packet }),
            Saying::SenderReport { encoding: 1, ntp: 1 << 63, timestamp: 5 },
            Saying::Score { encoding: 0, score: 10 },
            Saying::Keyframe { encoding: 3 },
            Saying::Wanted { encoding: 2 },
            Saying::Message { binary: true, data: b"" },
            Saying::Message { binary: false, data: b"hello" },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        for (pipe, saying) in sayings().iter().enumerate() {
            write(&mut out, pipe as u64, saying);
        }
        let mut rest = &out[..];
        for (pipe, saying) in sayings().iter().enumerate() {
            let (parcel, behind) = first(rest).expect("another");
            assert_eq!(read(&parcel[LENGTH_BYTES..]), Some((pipe as u64, *saying)));
            rest = behind;
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn what_is_cut_short_is_nothing_or_shorter() {
        for saying in sayings() {
            let mut out = Vec::new();
            write(&mut out, 1, &saying);
            for end in 0..out.len() {
                assert_eq!(first(&out[..end]), None);
                let _ = read(out.get(LENGTH_BYTES..end).unwrap_or_default()); // does not panic
            }
        }
        assert_eq!(read(&[9; 40]), None, "no such kind");
    }
}
