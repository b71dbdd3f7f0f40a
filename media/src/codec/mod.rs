//! What forwarding must know about a payload: whether a keyframe starts here, its layer, and the picture ids that have to
//! stay continuous (VP8: RFC 7741; VP9: RFC 9628; H264: RFC 6184; AV1: the AV1 RTP payload format).
//!
//! Only descriptors are read, never pictures. A payload that is too short reads as "no keyframe, lowest layer". AV1's layers
//! stand in a header extension: [`describe`].

use common::rtp_parameters::RtpCodecParameters;

mod av1;
pub mod dependency_descriptor;
mod h264;
mod vp8;
mod vp9;

pub use av1::describe;
pub(crate) use vp8::patch as patch_vp8;

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
    H264 {
        /// The publisher's `sprop-parameter-sets` (RFC 6184 §8.1) give decoders what otherwise comes in-band.
        announced: bool,
    },
    /// AV1.
    Av1,
}

impl Codec {
    /// By MIME type and parameters.
    pub fn of(codec: &RtpCodecParameters) -> Self {
        match codec.mime_type.to_ascii_lowercase().as_str() {
            "video/vp8" => Self::Vp8,
            "video/vp9" => Self::Vp9,
            "video/h264" => Self::H264 { announced: codec.parameters.contains_key("sprop-parameter-sets") },
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
    /// The picture starts with this packet (VP8, VP9, AV1).
    pub start: bool,
    /// The frame of this spatial layer ends with this packet (VP9, AV1).
    pub end: bool,
    /// Spatial layer within the encoding (VP9, AV1).
    pub spatial: u8,
    /// Temporal layer (VP8, VP9, AV1).
    pub temporal: u8,
    /// The frame needs no other of its temporal layer: from here on the layer can be decoded (VP8's Y bit).
    pub sync: bool,
    /// Later pictures of higher temporal layers need none of those layers before this one (VP9's U bit).
    pub up: bool,
    /// From this frame on all temporal layers of its spatial layer can be decoded (AV1).
    pub opens: bool,
    /// No frame of the encoding is of a higher spatial layer (AV1).
    pub is_top: bool,
    /// VP8's ids, when the payload has them.
    pub vp8: Vp8Ids,
}

/// VP8's picture id, TL0PICIDX and KEYIDX with their places in the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vp8Ids {
    /// Offset and value.
    pub picture: Option<(u8, u16)>,
    /// The picture id has 15 bits, otherwise 7.
    pub long: bool,
    /// Offset and value.
    pub tl0: Option<(u8, u8)>,
    /// Offset of the byte whose low five bits are KEYIDX, and their value.
    pub key: Option<(u8, u8)>,
}

/// Reads a payload.
pub fn inspect(codec: Codec, payload: &[u8]) -> Frame {
    match codec {
        Codec::Audio => Frame { keyframe: true, ..Frame::default() },
        Codec::Vp8 => vp8::inspect(payload).unwrap_or_default(),
        Codec::Vp9 => vp9::inspect(payload).unwrap_or_default(),
        Codec::H264 { announced } => {
            Frame { keyframe: h264::keyframe(payload, announced).unwrap_or(false), ..Frame::default() }
        }
        Codec::Av1 => av1::inspect(payload).unwrap_or_default(),
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
        check(Codec::Av1, &[0x18], true);
    }

    proptest! {
        #[test]
        fn any_payload_is_read(payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            for codec in [Codec::Audio, Codec::Vp8, Codec::Vp9, Codec::H264 { announced: true }, Codec::Av1] {
                let ids = inspect(codec, &payload).vp8;
                let bits = if ids.long { 15 } else { 7 };
                let fits = |at: u8| usize::from(at) + usize::from(ids.long) < payload.len();
                prop_assert!(ids.picture.is_none_or(|(at, id)| fits(at) && id < 1 << bits));
                prop_assert!(ids.tl0.is_none_or(|(at, tl0)| payload[usize::from(at)] == tl0));
                prop_assert!(ids.key.is_none_or(|(at, key)| payload[usize::from(at)] & 0x1f == key));
            }
        }
    }
}
