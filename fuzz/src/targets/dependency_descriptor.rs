//! The AV1 dependency descriptor, one after the other with the structure that came last: bounded, and the same whatever stands
//! behind it.

use media::codec::dependency_descriptor::{DECODE_TARGETS_MAX, Structure, TEMPLATES_MAX, parse};
use media::codec::{Codec, describe, inspect};

use crate::bytes::Bytes;

/// Descriptors, each behind its length. The low bit of a byte before it says whether the packet is the newest.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut known: Option<Structure> = None;
    while !bytes.is_empty() {
        let newest = bytes.byte() & 1 == 1;
        let descriptor = bytes.short();
        let read = parse(descriptor, known.as_ref());
        if let Some(read) = &read {
            let structure = read.structure.as_ref().or(known.as_ref()).expect("it was read by one");
            bounded(structure);
            assert!(structure.templates.iter().any(|template| {
                (template.spatial, template.temporal) == (read.frame.spatial, read.frame.temporal)
            }));
            // What follows is padding; three bytes mean that there is nothing more to say.
            if descriptor.len() > 3 {
                let padded = [descriptor, &[0, 0xff]].concat();
                assert_eq!(parse(&padded, known.as_ref()).as_ref(), Some(read));
            }
        }
        let mut frame = inspect(Codec::Av1, &[0x10]);
        let before = known.clone();
        describe(&mut frame, descriptor, &mut known, newest);
        match read {
            None => assert_eq!((frame, &known), (inspect(Codec::Av1, &[0x10]), &before), "nothing was said"),
            Some(read) => {
                assert_eq!((frame.spatial, frame.temporal), (read.frame.spatial, read.frame.temporal));
                let replaced = read.structure.filter(|_| newest || before.is_none());
                assert_eq!(known, replaced.or(before));
            }
        }
    }
}

fn bounded(structure: &Structure) {
    assert!((1..=TEMPLATES_MAX).contains(&structure.templates.len()));
    assert!((1..=DECODE_TARGETS_MAX).contains(&structure.decode_targets.len()));
    assert!(usize::from(structure.chains) <= structure.decode_targets.len());
    let highest = structure.templates.iter().map(|template| template.spatial).max().unwrap_or(0);
    assert!(structure.resolutions.is_empty() || structure.resolutions.len() == usize::from(highest) + 1);
    for target in &structure.decode_targets {
        assert!(
            target.spatial <= highest
                && target.protected_by.is_none_or(|chain| chain < structure.chains.max(1))
        );
    }
}

/// libwebrtc's L3T3: a keyframe with its structure, then frames of three layers, of which the last names its own indications; and
/// two frames before any structure.
pub fn seeds() -> Vec<Vec<u8>> {
    let key: &[u8] = &[
        0xc0, 0x00, 0x07, 0x80, 0x08, 0x16, 0x16, 0x5e, 0xaa, 0xaa, 0xab, 0xff, 0xc6, 0x3c, 0xf0, 0x43, 0x0c,
        0x0a, 0xaa, 0x02, 0xaf, 0xc0, 0x18, 0xf0, 0x01, 0x0c, 0x00, 0x2a, 0x00, 0x01, 0x80, 0x00, 0x10, 0x00,
        0x00,
    ];
    let mut stream = vec![1, key.len() as u8];
    stream.extend_from_slice(key);
    stream
        .extend_from_slice(&[1, 3, 0xc8, 0, 8, 0, 3, 0xc2, 0, 9, 1, 7, 0xc5, 0, 10, 0x20, 0xaa, 0xaa, 0xa0]);
    vec![stream, vec![1, 3, 0xc0, 0, 1, 0, 4, 0xc0, 0, 2, 0x40]]
}
