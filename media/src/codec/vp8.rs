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
                (ids.picture, ids.long) = (Some((at as u8, value)), true);
                at += 2;
            } else {
                ids.picture = Some((at as u8, high.into()));
                at += 1;
            }
        }
        if flags & 0x40 != 0 {
            ids.tl0 = Some((at as u8, *payload.get(at)?));
            at += 1;
        }
        if flags & 0x30 != 0 {
            let layer = *payload.get(at)?;
            if flags & 0x10 != 0 {
                ids.key = Some((at as u8, layer & 0x1f));
            }
            if flags & 0x20 != 0 {
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

/// Writes ids that are continuous over those of the source, in the source's lengths.
pub(crate) fn patch(payload: &mut [u8], ids: &Vp8Ids, picture: u16, tl0: u8, key: u8) {
    if let Some((at, _)) = ids.picture {
        let at = usize::from(at);
        if ids.long {
            payload[at..at + 2].copy_from_slice(&(picture | 0x8000).to_be_bytes());
        } else {
            payload[at] = picture as u8 & 0x7f;
        }
    }
    if let Some((at, _)) = ids.tl0 {
        payload[usize::from(at)] = tl0;
    }
    if let Some((at, _)) = ids.key {
        let byte = &mut payload[usize::from(at)];
        *byte = *byte & 0xe0 | key & 0x1f;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found() {
        let frame = inspect(&[0x90, 0xe0, 0x81, 0x02, 7, 0x40, 0x00]).expect("a frame");
        let ids = Vp8Ids { picture: Some((2, 0x0102)), long: true, tl0: Some((4, 7)), key: None };
        assert_eq!(frame.vp8, ids);
        assert_eq!((frame.temporal, frame.sync, frame.start, frame.keyframe), (1, false, true, true));
        let sync = inspect(&[0x90, 0xe0, 0x81, 0x02, 7, 0xa0, 0x01]).expect("a frame");
        assert_eq!((sync.temporal, sync.sync, sync.start, sync.keyframe), (2, true, true, false));
        let short = inspect(&[0x90, 0x90, 0x7f, 0x1e, 0x01]).expect("a frame");
        let ids = Vp8Ids { picture: Some((2, 0x7f)), long: false, tl0: None, key: Some((3, 0x1e)) };
        assert_eq!((short.vp8, short.temporal), (ids, 0));
    }

    #[test]
    fn ids_keep_their_length() {
        let check = |payload: &[u8], expected: &[u8]| {
            let mut patched = payload.to_vec();
            patch(&mut patched, &inspect(payload).expect("a frame").vp8, 0x1234, 0xab, 0x25);
            assert_eq!(patched, expected);
        };
        check(&[0x90, 0xf0, 0x81, 0x02, 7, 0xbf, 0x01], &[0x90, 0xf0, 0x92, 0x34, 0xab, 0xa5, 0x01]);
        check(&[0x90, 0x80, 0x02, 0x01], &[0x90, 0x80, 0x34, 0x01]);
        check(&[0x10, 0x01], &[0x10, 0x01]);
    }
}
