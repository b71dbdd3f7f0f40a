//! The VP9 payload descriptor (RFC 9628 §4.2) in both modes: what comes before the reference indices and the scalability
//! structure is the same in them.

use super::Frame;

/// ```text
/// |I|P|L|F|B|E|V|Z| then if I: picture id (7 or 15 bit, by its first bit), if L: |TID:3|U|SID:3|D|
/// ```
pub(super) fn inspect(payload: &[u8]) -> Option<Frame> {
    let first = *payload.first()?;
    let has = |bit: u8| first & bit != 0;
    let mut at = 1;
    if has(0x80) {
        at += if *payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
    }
    let layer = if has(0x20) { *payload.get(at)? } else { 0 };
    let spatial = layer >> 1 & 7;
    let start = has(0x08) && spatial == 0;
    Some(Frame {
        keyframe: start && !has(0x40),
        start,
        end: has(0x04),
        spatial,
        temporal: layer >> 5,
        up: layer & 0x10 != 0,
        ..Frame::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_frame_ends_are_found() {
        let check =
            |payload: &[u8], expected: Option<Frame>| assert_eq!(inspect(payload), expected, "{payload:?}");
        let start = Frame { start: true, ..Frame::default() };
        check(&[0x08], Some(Frame { keyframe: true, ..start }));
        check(&[0x4c], Some(Frame { end: true, ..start }));
        // A 15-bit picture id, TID 2, U, SID 0.
        check(&[0xe8, 0x81, 0x02, 0x50], Some(Frame { temporal: 2, up: true, ..start }));
        // A 7-bit picture id, TID 1, SID 2 and D: the upper layer of a keyframe is not where a decoder starts.
        check(&[0xac, 0x01, 0x25], Some(Frame { end: true, temporal: 1, spatial: 2, ..Frame::default() }));
        for short in [&[][..], &[0x80], &[0xa0, 0x80], &[0xa0, 0x80, 1], &[0x20]] {
            check(short, None);
        }
    }
}
