//! RTP packets: a borrowed header (RFC 3550 §5.1), telling RTP from RTCP (RFC 5761 §4), and the header that a consumer
//! gets. `srtp` opens and seals what is read and written here; `rtp/extensions.rs` has the header extensions.
//!
//! ```text
//! |V=2|P|X|  CC   |M|     PT      |       sequence number         |
//! |                           timestamp                           |
//! |                              SSRC                             |
//! |  CC × CSRC  |  if X: profile, length in words, elements  | payload | if P: padding, its last byte counts it |
//! ```

pub mod extensions;

pub use extensions::{Extensions, HeaderExtensions, abs_send_time};

/// Bytes of a header without CSRCs and extension.
pub const FIXED_HEADER_LEN: usize = 12;

/// Longest header that [`write_header`] makes: behind the fixed header seventeen elements of up to eighteen bytes, a dependency
/// descriptor, and what fills the last word.
pub const HEADER_LEN_MAX: usize = FIXED_HEADER_LEN + 4 + 17 * 18 + 257 + 3;

/// Whether a datagram whose first byte is in 128–191 carries RTCP (RFC 5761 §4: packet types 192–223).
pub fn is_rtcp(datagram: &[u8]) -> bool {
    matches!(datagram, [first, 192..=223, ..] if first >> 6 == 2)
}

/// Bytes of header, CSRCs and extension; `None` when `packet` is not RTP or ends before they do. Looks at nothing that
/// SRTP encrypts.
pub fn header_len(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    if first >> 6 != 2 {
        return None;
    }
    let mut len = FIXED_HEADER_LEN + 4 * usize::from(first & 0x0f);
    if first & 0x10 != 0 {
        let words = packet.get(len + 2..len + 4)?;
        len += 4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]));
    }
    (len <= packet.len()).then_some(len)
}

/// A plain RTP packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpHeader<'a> {
    /// M bit: the end of a video frame, or the start of talk.
    pub marker: bool,
    /// 0–127.
    pub payload_type: u8,
    /// Wire sequence number.
    pub sequence_number: u16,
    /// RTP media time.
    pub timestamp: u32,
    /// The source.
    pub ssrc: u32,
    /// Bytes before the payload.
    pub header_len: usize,
    /// Bytes of payload, without padding.
    pub payload_len: usize,
    /// Bytes of padding behind the payload.
    pub padding_len: usize,
    /// The header extension's elements.
    pub extensions: Extensions<'a>,
}

impl<'a> RtpHeader<'a> {
    /// Reads a plain packet; `None` for anything malformed.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let header_len = header_len(packet)?;
        let body_len = packet.len() - header_len;
        let padding_len = if packet[0] & 0x20 != 0 { usize::from(*packet[header_len..].last()?) } else { 0 };
        if padding_len > body_len || (padding_len == 0 && packet[0] & 0x20 != 0) {
            return None;
        }
        let extensions = if packet[0] & 0x10 != 0 {
            let at = FIXED_HEADER_LEN + 4 * usize::from(packet[0] & 0x0f);
            Extensions::new(u16::from_be_bytes([packet[at], packet[at + 1]]), &packet[at + 4..header_len])
        } else {
            Extensions::default()
        };
        let word =
            |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        Some(Self {
            marker: packet[1] & 0x80 != 0,
            payload_type: packet[1] & 0x7f,
            sequence_number: u16::from_be_bytes([packet[2], packet[3]]),
            timestamp: word(4),
            ssrc: word(8),
            header_len,
            payload_len: body_len - padding_len,
            padding_len,
            extensions,
        })
    }

    /// The payload within the packet that was parsed.
    pub fn payload<'p>(&self, packet: &'p [u8]) -> &'p [u8] {
        packet.get(self.header_len..self.header_len + self.payload_len).unwrap_or_default()
    }
}

/// The fixed header's fields for one consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderFields {
    /// 0–127.
    pub payload_type: u8,
    /// M bit.
    pub marker: bool,
    /// Wire sequence number.
    pub sequence_number: u16,
    /// RTP media time.
    pub timestamp: u32,
    /// The consumer's SSRC.
    pub ssrc: u32,
}

/// Writes a fresh header to the start of `out`: no CSRCs, no padding, and of the extensions only those asked for.
/// Returns its length, or `None` when `out` is too short ([`HEADER_LEN_MAX`] always suffices).
pub fn write_header(
    out: &mut [u8],
    fields: &HeaderFields,
    extensions: &HeaderExtensions<'_>,
) -> Option<usize> {
    let (fixed, rest) = out.split_at_mut_checked(FIXED_HEADER_LEN)?;
    let extension_len = extensions.write(rest)?;
    fixed[0] = if extension_len > 0 { 0x90 } else { 0x80 };
    fixed[1] = u8::from(fields.marker) << 7 | fields.payload_type & 0x7f;
    fixed[2..4].copy_from_slice(&fields.sequence_number.to_be_bytes());
    fixed[4..8].copy_from_slice(&fields.timestamp.to_be_bytes());
    fixed[8..12].copy_from_slice(&fields.ssrc.to_be_bytes());
    Some(FIXED_HEADER_LEN + extension_len)
}

/// Puts another value into an element of a header that [`write_header`] made; the length stays.
pub fn replace_element(packet: &mut [u8], wanted: u8, value: &[u8]) {
    let Some(end) = header_len(packet).filter(|_| packet[0] & 0x10 != 0) else { return };
    let one_byte = packet[FIXED_HEADER_LEN] == 0xbe;
    let mut at = FIXED_HEADER_LEN + 4;
    while at + 1 < end {
        let (id, length, head) = if one_byte {
            (packet[at] >> 4, usize::from(packet[at] & 0x0f) + 1, 1)
        } else {
            (packet[at], usize::from(packet[at + 1]), 2)
        };
        if id == wanted && length == value.len() {
            packet[at + head..at + head + length].copy_from_slice(value);
            return;
        }
        at += if packet[at] == 0 { 1 } else { head + length };
    }
}

/// The number nearest to `reference` that ends in `wire`: how 16-bit sequence numbers are extended. `None` when it would be
/// before zero.
pub fn extend_sequence(reference: u64, wire: u16) -> Option<u64> {
    let step = wire.wrapping_sub(reference as u16) as i16;
    reference.checked_add_signed(i64::from(step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIELDS: HeaderFields = HeaderFields {
        payload_type: 101,
        marker: true,
        sequence_number: 0xfffe,
        timestamp: 0x01020304,
        ssrc: 9,
    };

    #[test]
    fn rtp_and_rtcp_are_told_apart() {
        let check = |bytes: &[u8], expected| assert_eq!(is_rtcp(bytes), expected, "{bytes:?}");
        check(&[0x80, 200], true);
        check(&[0x81, 205], true);
        check(&[0x8f, 206], true);
        check(&[0x80, 96], false);
        check(&[0x80, 0x80 | 111], false);
        check(&[0x80, 191], false);
        check(&[0x40, 200], false);
        check(&[0x80], false);
        check(&[], false);
    }

    #[test]
    fn a_packet_with_everything() {
        let mut packet = vec![0xb2, 0x80 | 96, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9];
        packet.extend_from_slice(&[1, 1, 1, 1, 2, 2, 2, 2]);
        packet.extend_from_slice(&[0xbe, 0xde, 0, 1, 0x10, b'v', 0, 0]);
        packet.extend_from_slice(b"payload");
        packet.extend_from_slice(&[0, 0, 3]);
        let header = RtpHeader::parse(&packet).expect("well-formed");
        assert_eq!((header.header_len, header.payload_len, header.padding_len), (28, 7, 3));
        assert_eq!((header.sequence_number, header.timestamp, header.ssrc), (7, 8, 9));
        assert_eq!((header.marker, header.payload_type), (true, 96));
        assert_eq!(header.extensions.find(1), Some(&b"v"[..]));
        assert_eq!(header.payload(&packet), b"payload");
    }

    #[test]
    fn broken_packets_are_refused() {
        let fine = [0x80, 96, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9];
        assert!(RtpHeader::parse(&fine).is_some());
        assert!(RtpHeader::parse(&fine[..11]).is_none());
        let with_first = |first: u8, tail: &[u8]| {
            let mut packet = fine.to_vec();
            packet[0] = first;
            packet.extend_from_slice(tail);
            RtpHeader::parse(&packet).is_none()
        };
        assert!(with_first(0x40, &[]), "version 1");
        assert!(with_first(0x81, &[]), "a missing CSRC");
        assert!(with_first(0x90, &[0xbe, 0xde, 0, 1]), "a cut extension");
        assert!(with_first(0xa0, &[]), "padding without a byte");
        assert!(with_first(0xa0, &[0]), "padding of zero bytes");
        assert!(with_first(0xa0, &[1, 3]), "padding longer than the packet");
    }

    #[test]
    fn sequence_numbers_extend_to_the_nearest() {
        let check = |reference, wire, expected| assert_eq!(extend_sequence(reference, wire), expected);
        check(10, 11, Some(11));
        check(65_535, 0, Some(65_536));
        check(65_536, 65_535, Some(65_535));
        check(3, 65_535, None);
        check(200_000, 3_300, Some(196_608 + 3_300));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..120), first in 0x80u8..0xc0) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() { *byte = first; }
            if let Some(header) = RtpHeader::parse(&bytes) {
                prop_assert_eq!(header.header_len + header.payload_len + header.padding_len, bytes.len());
                prop_assert!(header.extensions.iter().all(|(id, data)| id > 0 && data.len() <= 255));
            }
        }

        #[test]
        fn a_written_header_reads_back(
            mid in "[a-z0-9]{0,20}", twcc in any::<u16>(), sent in 0u32..1 << 24,
            descriptor in proptest::collection::vec(any::<u8>(), 0..256),
        ) {
            let extensions = HeaderExtensions {
                mid: Some((1, mid.as_bytes())), abs_send_time: Some((2, sent)), transport_cc: Some((3, twcc)),
                descriptor: Some((4, &descriptor)),
                ..HeaderExtensions::default()
            };
            let mut out = [0xee; HEADER_LEN_MAX];
            let len = write_header(&mut out, &FIELDS, &extensions).unwrap();
            let header = RtpHeader::parse(&out[..len]).unwrap();
            prop_assert_eq!((header.sequence_number, header.timestamp, header.ssrc), (0xfffe, 0x01020304, 9));
            prop_assert_eq!((header.marker, header.payload_type, header.payload_len), (true, 101, 0));
            let fits = (1..=16).contains(&mid.len());
            prop_assert_eq!(header.extensions.find(1), fits.then_some(mid.as_bytes()));
            prop_assert_eq!(header.extensions.find(2), Some(&sent.to_be_bytes()[1..]));
            prop_assert_eq!(header.extensions.find(3), Some(&twcc.to_be_bytes()[..]));
            prop_assert_eq!(header.extensions.find(4), (!descriptor.is_empty()).then_some(&descriptor[..]));
            let parsed_other = {
                let mut other = out;
                replace_element(&mut other[..len], 3, &[7, 9]);
                let header = RtpHeader::parse(&other[..len]).unwrap();
                (header.extensions.find(2) == Some(&sent.to_be_bytes()[1..]), header.extensions.find(3) == Some(&[7, 9]))
            };
            prop_assert_eq!(parsed_other, (true, true));
            for short in 0..len {
                prop_assert_eq!(write_header(&mut out[..short], &FIELDS, &extensions), None);
            }
        }
    }
}
