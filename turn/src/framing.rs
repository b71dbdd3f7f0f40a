//! STUN messages and ChannelData framed in a stream (RFC 8656 §12.5, RFC 8489 §6.2.2). `net` reads the stream.

use crate::channel_data;
use crate::stun::header::HEADER_BYTES;

/// The largest frame: a STUN message.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + u16::MAX as usize;
/// The largest frame of a client without an allocation: all attributes of a request at their longest (RFC 8489 §14).
pub const STRANGER_FRAME_BYTES_MAX: usize = 4096;

/// Takes whole frames off the front of the buffer; `false` when what is there cannot become one of at most `bytes_max`.
pub fn take_frames(buffer: &mut Vec<u8>, bytes_max: usize, mut on_frame: impl FnMut(&[u8])) -> bool {
    let sound = take_frames_while(buffer, bytes_max, |frame| {
        on_frame(frame);
        true
    });
    debug_assert!(!sound || buffer.len() < FRAME_BYTES_MAX);
    sound
}

/// As [`take_frames`], up to a frame that is not wanted: it stays, and what is behind it.
pub fn take_frames_while(
    buffer: &mut Vec<u8>,
    bytes_max: usize,
    mut on_frame: impl FnMut(&[u8]) -> bool,
) -> bool {
    let mut at = 0;
    let sound = loop {
        match frame_bytes(&buffer[at..], bytes_max) {
            Frame::Whole(length) if on_frame(&buffer[at..at + length]) => at += length,
            Frame::Whole(_) => break true,
            Frame::More => break true,
            Frame::Broken => break false,
        }
    };
    buffer.drain(..at);
    sound
}

#[derive(Debug, PartialEq, Eq)]
enum Frame {
    Whole(usize),
    More,
    Broken,
}

/// How long the frame at the start is. Both kinds have their length in bytes 2 and 3, and end at a multiple of 4.
fn frame_bytes(bytes: &[u8], bytes_max: usize) -> Frame {
    let Some(&[first, _, l0, l1]) = bytes.first_chunk() else { return Frame::More };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let total = match first >> 6 {
        0 if length % 4 == 0 => HEADER_BYTES + length,
        1 => channel_data::HEADER_BYTES + length.next_multiple_of(4),
        _ => return Frame::Broken,
    };
    if total > bytes_max {
        return Frame::Broken;
    }
    if bytes.len() < total { Frame::More } else { Frame::Whole(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_at_any_split() {
        let mut stream = vec![0x40, 1, 0, 3, b'a', b'b', b'c', 0];
        stream.extend_from_slice(&[0, 1, 0, 4]);
        stream.extend_from_slice(&[7; 20]);
        stream.extend_from_slice(&[0x40, 2, 0, 0]);
        for split in 0..stream.len() {
            let (mut buffer, mut frames) = (Vec::new(), Vec::new());
            for part in [&stream[..split], &stream[split..]] {
                buffer.extend_from_slice(part);
                assert!(take_frames(&mut buffer, FRAME_BYTES_MAX, |frame| frames.push(frame.len())));
            }
            assert_eq!((frames, buffer.len()), (vec![8, 24, 4], 0), "split at {split}");
        }
    }

    #[test]
    fn what_is_neither_stun_nor_channel_data_ends_the_stream() {
        for bytes in [&b"GET / HTTP"[1..1], b"\x80\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x01\x00\x03"] {
            let expected = if bytes.is_empty() { Frame::More } else { Frame::Broken };
            assert_eq!(frame_bytes(bytes, FRAME_BYTES_MAX), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_stranger_cannot_announce_a_long_frame() {
        let announced = [0, 1, 0xff, 0xfc];
        assert_eq!(frame_bytes(&announced, FRAME_BYTES_MAX), Frame::More);
        assert_eq!(frame_bytes(&announced, STRANGER_FRAME_BYTES_MAX), Frame::Broken);
    }
}
