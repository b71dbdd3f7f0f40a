//! H264 in RTP (RFC 6184 §5): single NAL units, STAP-A and FU-A.

/// SPS or IDR, alone, aggregated (STAP-A) or as the start of a fragment (FU-A).
pub(super) fn keyframe(payload: &[u8]) -> Option<bool> {
    let starts = |kind: u8| kind == 5 || kind == 7;
    Some(match payload.first()? & 0x1f {
        24 => {
            let mut rest = &payload[1..];
            let mut found = false;
            while rest.len() > 2 {
                let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                found |= starts(rest[2] & 0x1f);
                rest = rest.get(2 + length..).unwrap_or_default();
            }
            found
        }
        28 => payload.get(1)? & 0x80 != 0 && starts(payload[1] & 0x1f),
        kind => starts(kind),
    })
}
