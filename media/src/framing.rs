//! RFC 4571 frames, which carry datagrams over ICE-TCP (RFC 6544). `net/tcp` reads the stream.
//!
//! ```text
//! |  length (16 bit)  |  STUN, DTLS or SRTP datagram, length bytes  |
//! ```

/// No datagram that a client sends is larger; a longer frame ends the connection.
pub const FRAME_BYTES_MAX: usize = 2048;

/// What a stream begins with.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The datagram of a whole frame.
    Whole(&'a [u8]),
    /// The start of a frame, or nothing.
    More,
    /// No frame, and none will follow.
    Broken,
}

/// Looks at the start of a stream.
pub fn next_frame(stream: &[u8]) -> Frame<'_> {
    let Some(&head) = stream.first_chunk() else { return Frame::More };
    match usize::from(u16::from_be_bytes(head)) {
        length @ 1..=FRAME_BYTES_MAX => stream.get(2..2 + length).map_or(Frame::More, Frame::Whole),
        _ => Frame::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_more_or_broken() {
        let check = |stream: &[u8], expected| assert_eq!(next_frame(stream), expected, "{stream:?}");
        check(&[], Frame::More);
        check(&[0], Frame::More);
        check(&[0, 2, 7], Frame::More);
        check(&[0, 2, 7, 8, 9], Frame::Whole(&[7, 8]));
        check(&[0, 0, 1], Frame::Broken);
        check(&[8, 1], Frame::Broken);
        check(&[8, 0], Frame::More);
    }
}
