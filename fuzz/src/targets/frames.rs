//! RFC 4571 framing (ICE-TCP): what is read is what was written, wherever the stream is cut.

use media::framing::{FRAME_BYTES_MAX, Frame, next_frame};

/// Bytes of a stream.
pub fn run(data: &[u8]) {
    let mut rest = data;
    loop {
        match next_frame(rest) {
            Frame::Whole(payload) => {
                assert!(!payload.is_empty() && payload.len() <= FRAME_BYTES_MAX);
                for cut in [0, 1, 2, payload.len() + 1] {
                    assert!(matches!(next_frame(&rest[..cut]), Frame::More), "cut at {cut}");
                }
                assert_eq!(usize::from(u16::from_be_bytes([rest[0], rest[1]])), payload.len());
                rest = &rest[2 + payload.len()..];
            }
            Frame::More => return assert!(rest.len() < 2 + FRAME_BYTES_MAX, "no more waits than one frame"),
            Frame::Broken => return,
        }
    }
}

/// Two frames and the start of a third.
pub fn seeds() -> Vec<Vec<u8>> {
    vec![vec![0, 3, 1, 2, 3, 0, 1, 0x80, 0, 9, 1], vec![8, 0, 1], vec![0, 0]]
}
