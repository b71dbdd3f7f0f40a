//! Payload descriptors of VP8, VP9, H264 and AV1: what is found lies within the payload, and VP8's ids are where the
//! descriptor says.

use media::codec::{Codec, inspect};

const CODECS: [Codec; 6] = [
    Codec::Audio,
    Codec::Vp8,
    Codec::Vp9,
    Codec::H264 { announced: false },
    Codec::H264 { announced: true },
    Codec::Av1,
];

/// First byte: the codec.
pub fn run(data: &[u8]) {
    let Some((&which, payload)) = data.split_first() else { return };
    let codec = CODECS[usize::from(which) % CODECS.len()];
    let frame = inspect(codec, payload);
    assert!(frame.temporal < 8 && frame.spatial < 8);
    assert!(codec == Codec::Vp8 || frame.vp8 == Default::default());
    assert!(codec != Codec::Vp8 || !frame.keyframe || frame.start, "a VP8 keyframe starts a frame");
    assert!(codec == Codec::Audio || !payload.is_empty() || !frame.keyframe);
    if let Some((at, id)) = frame.vp8.picture {
        let at = usize::from(at);
        let read = if frame.vp8.long {
            u16::from_be_bytes([payload[at], payload[at + 1]]) & 0x7fff
        } else {
            u16::from(payload[at])
        };
        assert_eq!(read, id);
    }
    for (found, mask) in [(frame.vp8.tl0, 0xff), (frame.vp8.key, 0x1f)] {
        assert!(found.is_none_or(|(at, value)| payload[usize::from(at)] & mask == value));
    }
}

/// Keyframes and others of each codec.
pub fn seeds() -> Vec<Vec<u8>> {
    let vp8 = [1, 0x90, 0xe0, 0x81, 0x02, 7, 0x40, 0x00].to_vec();
    let vp9 = [2, 0x8b, 0x81, 0x02, 0x00, 0x01].to_vec();
    let stap = [3, 0x78, 0, 1, 0x67, 0, 1, 0x68].to_vec();
    vec![
        vp8,
        vp9,
        stap,
        vec![3, 0x7c, 0x85],
        vec![3, 0x65, 0],
        vec![5, 0x18, 0x0a],
        vec![4, 0x65, 0],
        vec![1, 0x10, 0],
        vec![2, 0x08],
    ]
}
