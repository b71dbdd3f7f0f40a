//! RTP headers: ours against `rtp-types`, and what a consumer would get is read back as it was written.

use media::rtp::{
    Extensions, HEADER_LEN_MAX, HeaderExtensions, HeaderFields, RtpHeader, header_len, write_header,
};
use rtp_types::RtpPacket;

/// A packet.
pub fn run(data: &[u8]) {
    let theirs = RtpPacket::parse(data);
    let Some(ours) = RtpHeader::parse(data) else {
        assert!(theirs.is_err(), "only rtp-types reads {data:02x?}");
        return;
    };
    assert_eq!(header_len(data), Some(ours.header_len));
    assert_eq!(ours.header_len + ours.payload_len + ours.padding_len, data.len());
    assert_eq!(ours.payload(data).len(), ours.payload_len);
    let theirs = theirs.expect("rtp-types reads what we read");
    assert_eq!(ours.marker, theirs.marker_bit());
    assert_eq!(ours.payload_type, theirs.payload_type());
    assert_eq!(ours.sequence_number, theirs.sequence_number());
    assert_eq!((ours.timestamp, ours.ssrc), (theirs.timestamp(), theirs.ssrc()));
    assert_eq!(ours.payload(data), theirs.payload());
    let (profile, bytes) = theirs.extension().unwrap_or_default();
    assert_eq!(ours.extensions, Extensions::new(profile, bytes));
    round_trip(&ours);
}

/// Passes every element on under its own id.
fn round_trip(source: &RtpHeader<'_>) {
    let translate: Vec<(u8, u8)> = (1..=14).map(|id| (id, id)).collect();
    let extensions =
        HeaderExtensions { translate: &translate, source: source.extensions, ..Default::default() };
    let fields = HeaderFields {
        payload_type: source.payload_type,
        marker: source.marker,
        sequence_number: source.sequence_number,
        timestamp: source.timestamp,
        ssrc: source.ssrc,
    };
    let mut out = [0xee; HEADER_LEN_MAX];
    let len = write_header(&mut out, &fields, &extensions).expect("the longest header fits");
    let written = RtpHeader::parse(&out[..len]).expect("what we write is RTP");
    assert_eq!((written.header_len, written.payload_len), (len, 0));
    assert_eq!(
        (written.marker, written.payload_type, written.sequence_number, written.timestamp, written.ssrc),
        (source.marker, source.payload_type, source.sequence_number, source.timestamp, source.ssrc)
    );
    for id in 1..=14 {
        let fits = source.extensions.find(id).filter(|data| (1..=16).contains(&data.len()));
        assert_eq!(written.extensions.find(id), fits, "element {id}");
    }
    for short in 0..len {
        assert_eq!(write_header(&mut out[..short], &fields, &extensions), None);
    }
}

/// Both forms of extensions, CSRCs and padding.
pub fn seeds() -> Vec<Vec<u8>> {
    let plain = [0x80, 111, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, b'o', b'p'].to_vec();
    let mut one_byte = vec![0xb2, 0xe0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 1, 1, 1, 1, 2, 2, 2, 2];
    one_byte.extend_from_slice(&[0xbe, 0xde, 0, 2, 0x10, b'v', 0x22, 1, 2, 3, 0, 0]);
    one_byte.extend_from_slice(&[b'p', 0, 0, 3]);
    let mut two_byte = vec![0x90, 96, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0x10, 0, 0, 2];
    two_byte.extend_from_slice(&[5, 1, 0x55, 6, 2, 0x66, 0x67, 0, b'p']);
    vec![plain, one_byte, two_byte]
}
