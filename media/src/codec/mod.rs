//! What forwarding must know about a payload: whether a keyframe starts here, its layer, and the picture ids that have to
//! stay continuous (VP8: RFC 7741; VP9: RFC 9628; H264: RFC 6184; AV1: the AV1 RTP payload format).
//!
//! Only descriptors are read, never pictures. A payload that is too short reads as "no keyframe, lowest layer".

mod h264;
mod vp8;
mod vp9;

/// Codecs that the router knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Audio, or anything else without layers and keyframes.
    Audio,
    /// RFC 7741.
    Vp8,
    /// RFC 9628.
    Vp9,
    /// RFC 6184.
    H264,
    /// AV1.
    Av1,
}

impl Codec {
    /// By MIME type.
    pub fn of(mime_type: &str) -> Self {
        match mime_type.to_ascii_lowercase().as_str() {
            "video/vp8" => Self::Vp8,
            "video/vp9" => Self::Vp9,
            "video/h264" => Self::H264,
            "video/av1" => Self::Av1,
            _ => Self::Audio,
        }
    }
}

/// What one payload says about its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frame {
    /// A decoder can start with this packet.
    pub keyframe: bool,
    /// The picture starts with this packet (VP8, VP9).
    pub start: bool,
    /// The frame of this spatial layer ends with this packet (VP9).
    pub end: bool,
    /// Spatial layer within the encoding (VP9).
    pub spatial: u8,
    /// Temporal layer (VP8, VP9).
    pub temporal: u8,
    /// The frame needs no other of its temporal layer: from here on the layer can be decoded (VP8's Y bit).
    pub sync: bool,
    /// Later pictures of higher temporal layers need none of those layers before this one (VP9's U bit).
    pub up: bool,
    /// VP8's ids, when the payload has them.
    pub vp8: Vp8Ids,
}

/// VP8's picture id and TL0PICIDX with their places in the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vp8Ids {
    /// Offset and value of a 15-bit picture id.
    pub picture: Option<(u8, u16)>,
    /// Offset and value.
    pub tl0: Option<(u8, u8)>,
}

/// Reads a payload.
pub fn inspect(codec: Codec, payload: &[u8]) -> Frame {
    match codec {
        Codec::Audio => Frame { keyframe: true, ..Frame::default() },
        Codec::Vp8 => vp8::inspect(payload).unwrap_or_default(),
        Codec::Vp9 => vp9::inspect(payload).unwrap_or_default(),
        Codec::H264 => Frame { keyframe: h264::keyframe(payload).unwrap_or(false), ..Frame::default() },
        // N: a new coded video sequence starts (aggregation header, W and N bits).
        Codec::Av1 => {
            Frame { keyframe: payload.first().is_some_and(|first| first & 0x08 != 0), ..Frame::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keyframes_are_found() {
        let check = |codec, payload: &[u8], keyframe| {
            assert_eq!(inspect(codec, payload).keyframe, keyframe, "{payload:?}")
        };
        check(Codec::Vp8, &[0x10, 0x00], true);
        check(Codec::Vp8, &[0x10, 0x01], false);
        check(Codec::Vp8, &[0x00, 0x00], false);
        check(Codec::Vp8, &[], false);
        check(Codec::Vp9, &[0x08], true);
        check(Codec::Vp9, &[0x48], false);
        check(Codec::H264, &[0x67], true);
        check(Codec::H264, &[0x41], false);
        check(Codec::H264, &[0x7c, 0x85], true);
        check(Codec::H264, &[0x78, 0, 1, 0x67, 0, 1, 0x68], true);
        check(Codec::Av1, &[0x18], true);
    }

    #[test]
    fn vp8_ids_are_found() {
        let frame = inspect(Codec::Vp8, &[0x90, 0xe0, 0x81, 0x02, 7, 0x40, 0x00]);
        assert_eq!(frame.vp8, Vp8Ids { picture: Some((2, 0x0102)), tl0: Some((4, 7)) });
        assert_eq!((frame.temporal, frame.sync, frame.start, frame.keyframe), (1, false, true, true));
        let sync = inspect(Codec::Vp8, &[0x90, 0xe0, 0x81, 0x02, 7, 0xa0, 0x01]);
        assert_eq!((sync.temporal, sync.sync, sync.start, sync.keyframe), (2, true, true, false));
    }

    proptest! {
        #[test]
        fn any_payload_is_read(payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            for codec in [Codec::Audio, Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1] {
                let ids = inspect(codec, &payload).vp8;
                prop_assert!(ids.picture.is_none_or(|(at, id)| usize::from(at) + 2 <= payload.len() && id < 0x8000));
                prop_assert!(ids.tl0.is_none_or(|(at, tl0)| payload[usize::from(at)] == tl0));
            }
        }
    }
}
