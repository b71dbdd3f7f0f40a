//! ChannelData: a channel number, a length, the payload (RFC 8656 §12.4).
//!
//! ```text
//! |     channel number (0x4000–0x7FFF)    |  payload bytes  |  payload …  | padding to 4 on streams |
//! ```

use std::ops::{Range, RangeInclusive};

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 4;

/// RFC 8656 §12 hands out 0x4000–0x4FFF; RFC 5766 §11 clients use up to 0x7FFF.
pub const CHANNELS: RangeInclusive<u16> = 0x4000..=0x7FFF;

/// A peer's short name within one allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// `None` outside of [`CHANNELS`].
    pub fn new(number: u16) -> Option<Self> {
        CHANNELS.contains(&number).then_some(Self(number))
    }

    /// The number on the wire.
    pub fn value(self) -> u16 {
        self.0
    }
}

/// Reads the header: the channel and where its payload lies. What follows the payload is padding.
pub fn parse(bytes: &[u8]) -> Option<(ChannelNumber, Range<usize>)> {
    let &[c0, c1, l0, l1] = bytes.first_chunk()?;
    let channel = ChannelNumber::new(u16::from_be_bytes([c0, c1]))?;
    let end = HEADER_BYTES + usize::from(u16::from_be_bytes([l0, l1]));
    (end <= bytes.len()).then_some((channel, HEADER_BYTES..end))
}

/// The header before a payload; `None` for a payload longer than a datagram.
pub fn header(channel: ChannelNumber, payload_bytes: usize) -> Option<[u8; HEADER_BYTES]> {
    let [l0, l1] = u16::try_from(payload_bytes).ok()?.to_be_bytes();
    let [c0, c1] = channel.0.to_be_bytes();
    Some([c0, c1, l0, l1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let channel = ChannelNumber::new(0x4001).expect("in range");
        let mut bytes = header(channel, 3).expect("short").to_vec();
        bytes.extend_from_slice(b"abc\0");
        assert_eq!(parse(&bytes), Some((channel, 4..7)));
        assert_eq!(header(channel, 65_536), None);
    }

    #[test]
    fn what_is_short_or_no_channel_is_refused() {
        for bytes in
            [&b""[..], b"\x40\x00\x00", b"\x40\x00\x00\x01", b"\x3f\xff\x00\x00", b"\x80\x00\x00\x00"]
        {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
        assert!(parse(b"\x40\x00\x00\x00").is_some());
    }
}
