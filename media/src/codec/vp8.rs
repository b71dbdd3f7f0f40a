//! The VP8 payload descriptor (RFC 7741 §4.2) and the first bit of the payload header.

use super::{Frame, Vp8Ids};

/// ```text
/// |X|R|N|S|R| PID | then if X: |I|L|T|K|RSV| then picture id (7 or 15 bit), TL0PICIDX, |TID|Y|KEYIDX|
/// ```
pub(super) fn inspect(payload: &[u8]) -> Option<Frame> {
    let first = *payload.first()?;
    let mut at = 1;
    let mut frame = Frame::default();
    let mut ids = Vp8Ids::default();
    if first & 0x80 != 0 {
        let flags = *payload.get(1)?;
        at = 2;
        if flags & 0x80 != 0 {
            let high = *payload.get(at)?;
            if high & 0x80 != 0 {
                let value = u16::from_be_bytes([high & 0x7f, *payload.get(at + 1)?]);
                ids.picture = Some((at as u8, value));
                at += 2;
            } else {
                at += 1;
            }
        }
        if flags & 0x40 != 0 {
            ids.tl0 = Some((at as u8, *payload.get(at)?));
            at += 1;
        }
        if flags & 0x30 != 0 {
            if flags & 0x20 != 0 {
                let layer = *payload.get(at)?;
                (frame.temporal, frame.sync) = (layer >> 6, layer & 0x20 != 0);
            }
            at += 1;
        }
    }
    frame.vp8 = ids;
    // S, first partition, and the inverse key frame bit of the payload header.
    frame.start = first & 0x10 != 0 && first & 0x07 == 0;
    frame.keyframe = frame.start && *payload.get(at)? & 1 == 0;
    Some(frame)
}
