//! AV1 (the AV1 RTP payload format): the aggregation header says where a decoder can start, the dependency descriptor in the
//! packet's header extension everything else. Without one, or before its structure has come, a packet is of the lowest layer:
//! then nothing is left out.

use super::Frame;
use super::dependency_descriptor::{self, DecodeTarget, Indication, Structure, Template};

/// N in the aggregation header: first packet of a coded video sequence.
const NEW_SEQUENCE: u8 = 0x08;

pub(super) fn inspect(payload: &[u8]) -> Option<Frame> {
    Some(Frame { keyframe: payload.first()? & NEW_SEQUENCE != 0, ..Frame::default() })
}

/// Adds what a dependency descriptor says. `known` is its encoding's structure; one that comes with the `newest` packet
/// replaces it.
pub fn describe(frame: &mut Frame, descriptor: &[u8], known: &mut Option<Structure>, newest: bool) {
    let Some(read) = dependency_descriptor::parse(descriptor, known.as_ref()) else { return };
    let Some(structure) = read.structure.as_ref().or(known.as_ref()) else { return };
    let Template { spatial, temporal, .. } = read.frame;
    frame.spatial = spatial;
    frame.temporal = temporal;
    frame.start = read.start && spatial == 0;
    frame.end = read.end;
    frame.opens = read.start && opens(&read.frame, &structure.decode_targets);
    frame.is_top = structure.decode_targets.iter().all(|target| target.spatial <= spatial);
    if let Some(structure) = read.structure.filter(|_| newest || known.is_none()) {
        *known = Some(structure);
    }
}

/// Whether every decode target of the frame's spatial layer can be switched to here (A.4): whoever decodes this frame decodes
/// all that follows of them.
fn opens(frame: &Template, targets: &[DecodeTarget]) -> bool {
    let mut same =
        targets.iter().enumerate().filter(|(_, target)| target.spatial == frame.spatial).peekable();
    same.peek().is_some()
        && same.all(|(number, target)| {
            let indication = frame.indications.of(number as u8);
            indication == Indication::Switch || target.temporal < frame.temporal
        })
}

#[cfg(test)]
mod tests {
    use super::super::dependency_descriptor::Descriptor;
    use super::super::dependency_descriptor::tests::{l3t3, write};
    use super::*;

    /// A whole frame of one packet, of the template with this index.
    fn descriptor(structure: &Structure, index: usize, sends_structure: bool) -> Vec<u8> {
        let descriptor = Descriptor {
            start: true,
            end: true,
            frame_number: 7,
            structure: sends_structure.then(|| structure.clone()),
            active_decode_targets: None,
            frame: structure.templates[index],
        };
        write(&descriptor, structure, index)
    }

    #[test]
    fn layers_and_where_they_open_are_read_by_the_structure_that_came_last() {
        let (structure, mut known) = (l3t3(), None);
        let mut read = |index, sends_structure, newest| {
            let mut frame = Frame::default();
            describe(&mut frame, &descriptor(&structure, index, sends_structure), &mut known, newest);
            frame
        };
        assert_eq!(read(1, false, true), Frame::default(), "nothing is known yet");
        let key = read(0, true, true);
        assert!(key.start && key.end && key.opens && !key.is_top, "{key:?}");
        let layers = |frame: Frame| (frame.spatial, frame.temporal, frame.start, frame.opens, frame.is_top);
        assert_eq!(layers(read(1, false, true)), (0, 0, true, true, false));
        assert_eq!(layers(read(2, false, true)), (0, 1, true, false, false), "discardable for some");
        assert_eq!(layers(read(5, false, true)), (1, 0, false, true, false), "no picture starts here");
        assert_eq!(layers(read(8, false, true)), (2, 0, false, true, true));
        assert_eq!(layers(read(10, false, true)), (2, 2, false, false, true));
    }

    #[test]
    fn an_old_packet_does_not_bring_its_structure_back() {
        let (new, old) = (l3t3(), Structure { template_id_offset: 32, ..l3t3() });
        let mut known = Some(new.clone());
        let mut frame = Frame::default();
        describe(&mut frame, &descriptor(&old, 8, true), &mut known, false);
        assert_eq!((frame.spatial, known), (2, Some(new)), "read by its own");
        assert_eq!(inspect(&[0x10]).map(|frame| frame.keyframe), Some(false));
    }
}
