//! ChannelData and the framing of TURN over a stream: wherever a stream is cut into reads, the frames are the same.

use turn::channel_data;
use turn::framing::{STRANGER_FRAME_BYTES_MAX, take_frames};

/// First byte: where the stream is cut.
pub fn run(data: &[u8]) {
    if let Some((channel, payload)) = channel_data::parse(data) {
        let header = channel_data::header(channel, payload.len()).expect("it was in a datagram");
        assert_eq!(header, data[..channel_data::HEADER_BYTES]);
        assert!(payload.end <= data.len());
    }
    let Some((&cut, stream)) = data.split_first() else { return };
    let whole = frames(&[stream]);
    let (first, second) = stream.split_at(usize::from(cut).min(stream.len()));
    assert_eq!(frames(&[first, second]), whole);
    let total: usize = whole.0.iter().map(Vec::len).sum();
    assert_eq!(whole.0.concat(), stream[..total], "frames are the stream, in order");
}

/// The frames, and whether the stream is sound.
fn frames(reads: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let (mut buffer, mut frames, mut sound) = (Vec::new(), Vec::new(), true);
    for read in reads {
        buffer.extend_from_slice(read);
        sound = take_frames(&mut buffer, STRANGER_FRAME_BYTES_MAX, |frame| frames.push(frame.to_vec()));
        if !sound {
            break;
        }
    }
    (frames, sound)
}

/// A channel's message, a STUN message, and another channel's empty one.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut stream = vec![5, 0x40, 1, 0, 3, b'a', b'b', b'c', 0];
    stream.extend_from_slice(&[0, 1, 0, 4, 0x21, 0x12, 0xa4, 0x42]);
    stream.extend_from_slice(&[7; 16]);
    stream.extend_from_slice(&[0x40, 2, 0, 0]);
    vec![stream, vec![0x40, 1, 0, 3, b'a', b'b', b'c', 0], vec![0x4f, 0xff, 0, 0]]
}
