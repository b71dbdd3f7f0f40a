//! A writer of descriptors, and what it writes read back.

use proptest::prelude::*;

use super::*;

/// Writes bits, most significant first.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    at: usize,
}

impl Writer {
    fn put(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            if self.at.is_multiple_of(8) {
                self.bytes.push(0);
            }
            self.bytes[self.at / 8] |= (value >> bit & 1) as u8 * (0x80 >> (self.at % 8));
            self.at += 1;
        }
    }

    /// `ns(n)`.
    fn put_below(&mut self, value: u32, n: u32) {
        let width = u32::BITS - n.leading_zeros();
        let short = (1 << width) - n;
        if value < short { self.put(value, width - 1) } else { self.put(value + short, width) }
    }

    fn put_structure(&mut self, structure: &Structure) {
        let targets = structure.decode_targets.len();
        self.put(structure.template_id_offset.into(), 6);
        self.put(targets as u32 - 1, 5);
        for pair in structure.templates.windows(2) {
            let step = match (pair[1].spatial - pair[0].spatial, pair[1].temporal.cmp(&pair[0].temporal)) {
                (1, _) => 2,
                (_, std::cmp::Ordering::Greater) => 1,
                _ => 0,
            };
            self.put(step, 2);
        }
        self.put(3, 2);
        for template in &structure.templates {
            self.put_indications(template.indications, targets);
        }
        for template in &structure.templates {
            for fdiff in template.fdiffs.as_slice() {
                self.put(1, 1);
                self.put(u32::from(*fdiff) - 1, 4);
            }
            self.put(0, 1);
        }
        self.put_below(structure.chains.into(), targets as u32 + 1);
        if structure.chains > 0 {
            for target in &structure.decode_targets {
                let chain = target.protected_by.expect("a target of a structure with chains has one");
                self.put_below(chain.into(), structure.chains.into());
            }
            for fdiff in structure.templates.iter().flat_map(|t| t.chain_fdiffs.as_slice()) {
                self.put((*fdiff).into(), 4);
            }
        }
        self.put((!structure.resolutions.is_empty()).into(), 1);
        for (width, height) in &structure.resolutions {
            self.put(width - 1, 16);
            self.put(height - 1, 16);
        }
    }

    fn put_indications(&mut self, indications: Indications, targets: usize) {
        for target in 0..targets {
            self.put(indications.of(target as u8) as u32, 2);
        }
    }
}

/// Writes the frame as the template's with this index, and what differs from it as its own.
pub fn write(descriptor: &Descriptor, known: &Structure, index: usize) -> Vec<u8> {
    let structure = descriptor.structure.as_ref().unwrap_or(known);
    let (template, frame) = (&structure.templates[index], &descriptor.frame);
    let all = u32::MAX >> (32 - structure.decode_targets.len());
    let active =
        descriptor.active_decode_targets.filter(|active| descriptor.structure.is_none() || *active != all);
    let own = [
        frame.indications != template.indications,
        frame.fdiffs != template.fdiffs,
        frame.chain_fdiffs != template.chain_fdiffs,
    ];
    let mut out = Writer::default();
    out.put(descriptor.start.into(), 1);
    out.put(descriptor.end.into(), 1);
    out.put((u32::from(structure.template_id_offset) + index as u32) % 64, 6);
    out.put(descriptor.frame_number.into(), 16);
    if descriptor.structure.is_none() && active.is_none() && own == [false; 3] {
        return out.bytes;
    }
    out.put(descriptor.structure.is_some().into(), 1);
    out.put(active.is_some().into(), 1);
    own.iter().for_each(|own| out.put((*own).into(), 1));
    if let Some(structure) = &descriptor.structure {
        out.put_structure(structure);
    }
    if let Some(active) = active {
        out.put(active, structure.decode_targets.len() as u32);
    }
    if own[0] {
        out.put_indications(frame.indications, structure.decode_targets.len());
    }
    if own[1] {
        for fdiff in frame.fdiffs.as_slice() {
            let nibbles = if *fdiff <= 16 { 1 } else { 2 + u32::from(*fdiff > 256) };
            out.put(nibbles, 2);
            out.put(u32::from(*fdiff) - 1, 4 * nibbles);
        }
        out.put(0, 2);
    }
    if own[2] {
        for fdiff in frame.chain_fdiffs.as_slice() {
            out.put((*fdiff).into(), 8);
        }
    }
    out.bytes
}

fn few<T: Copy + Default, const N: usize>(items: &[T]) -> Few<T, N> {
    let mut few = Few::default();
    items.iter().for_each(|item| few.push(*item).expect("few enough"));
    few
}

fn structures() -> impl Strategy<Value = Structure> {
    let sizes = (1..=DECODE_TARGETS_MAX, 1..=TEMPLATES_MAX, any::<u8>());
    sizes.prop_flat_map(|(targets, templates, chains)| {
        let chains = usize::from(chains) % (targets + 1);
        let template = (
            0..3u8,
            proptest::collection::vec(0..4u64, targets),
            proptest::collection::vec(1..=16u16, 0..=FDIFFS_MAX),
            proptest::collection::vec(0..16u8, chains),
        );
        let protected_by = proptest::collection::vec(0..chains.max(1) as u8, targets);
        let template_list = proptest::collection::vec(template, templates);
        (0..64u8, template_list, protected_by, any::<bool>()).prop_map(
            move |(template_id_offset, list, protected_by, sized)| {
                let (mut spatial, mut temporal) = (0, 0);
                let mut templates = Vec::new();
                for (number, (step, indications, fdiffs, chain_fdiffs)) in list.into_iter().enumerate() {
                    match step {
                        1 if number > 0 => temporal += 1,
                        2 if number > 0 => (spatial, temporal) = (spatial + 1, 0),
                        _ => {}
                    }
                    let bits = indications.iter().rev().fold(0, |all, one| all << 2 | one);
                    templates.push(Template {
                        spatial,
                        temporal,
                        indications: Indications(bits),
                        fdiffs: few(&fdiffs),
                        chain_fdiffs: few(&chain_fdiffs),
                    });
                }
                let mut decode_targets = decode_targets(&templates, targets);
                for (target, chain) in decode_targets.iter_mut().zip(protected_by) {
                    target.protected_by = (chains > 0).then_some(chain);
                }
                let resolutions =
                    (0..=u32::from(spatial)).filter(|_| sized).map(|s| (s * 320 + 1, 65_536 - s)).collect();
                Structure { template_id_offset, templates, decode_targets, chains: chains as u8, resolutions }
            },
        )
    })
}

fn descriptors() -> impl Strategy<Value = (Structure, Descriptor, usize)> {
    let own = (any::<u64>(), proptest::collection::vec(1..=4096u16, 0..=FDIFFS_MAX), any::<[u8; 32]>());
    let rest = (any::<[bool; 6]>(), any::<u16>(), any::<u32>(), any::<prop::sample::Index>(), own);
    (structures(), rest).prop_map(|(structure, (flags, frame_number, active, index, own))| {
        let [start, end, sent, tells_active, own_indications, own_distances] = flags;
        let targets = structure.decode_targets.len();
        let index = index.index(structure.templates.len());
        let mut frame = structure.templates[index];
        if own_indications {
            frame.indications = Indications(own.0 & (u64::MAX >> (64 - 2 * targets)));
        }
        if own_distances {
            frame.fdiffs = few(&own.1);
            frame.chain_fdiffs = few(&own.2[..usize::from(structure.chains)]);
        }
        let all = u32::MAX >> (32 - targets);
        let active_decode_targets = tells_active.then_some(active & all).or(sent.then_some(all));
        let sent = sent.then(|| structure.clone());
        let descriptor =
            Descriptor { start, end, frame_number, structure: sent, active_decode_targets, frame };
        (structure, descriptor, index)
    })
}

proptest! {
    // Structures are large, and each is also read cut off at every byte.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read((structure, descriptor, index) in descriptors()) {
        let bytes = write(&descriptor, &structure, index);
        prop_assert_eq!(parse(&bytes, Some(&structure)), Some(descriptor.clone()));
        let alone = parse(&bytes, None);
        prop_assert_eq!(alone.is_some(), descriptor.structure.is_some());
        for short in 0..bytes.len() {
            // One that is cut off is refused, or (at three bytes) says only what its template does.
            prop_assert!(short == 3 || parse(&bytes[..short], Some(&structure)).is_none());
        }
    }

    #[test]
    fn any_bytes_are_read(
        bytes in proptest::collection::vec(any::<u8>(), 0..255),
        structure in structures(),
    ) {
        for known in [None, Some(&structure)] {
            let Some(read) = parse(&bytes, known) else { continue };
            let structure = read.structure.as_ref().or(known).expect("read by a structure");
            prop_assert!(structure.templates.len() <= TEMPLATES_MAX);
            prop_assert!(structure.decode_targets.len() <= DECODE_TARGETS_MAX);
            prop_assert_eq!(read.frame.chain_fdiffs.as_slice().len(), usize::from(structure.chains));
        }
    }
}

/// L1T2 as in the specification's examples: the base layer, and frames above it that nothing needs.
fn l1t2() -> Structure {
    let template = |temporal, indications, fdiffs: &[u16], chain: u8| Template {
        spatial: 0,
        temporal,
        indications: Indications(indications),
        fdiffs: few(fdiffs),
        chain_fdiffs: few(&[chain]),
    };
    let target = |temporal| DecodeTarget { spatial: 0, temporal, protected_by: Some(0) };
    Structure {
        template_id_offset: 62,
        templates: vec![
            template(0, 0b1010, &[], 0),
            template(0, 0b1111, &[2], 2),
            template(1, 0b0100, &[1], 1),
        ],
        decode_targets: vec![target(0), target(1)],
        chains: 1,
        resolutions: vec![(640, 360)],
    }
}

/// As libwebrtc sends L3T3, without its distances: a keyframe's templates, then those of each layer; nine decode targets.
pub fn l3t3() -> Structure {
    let kinds = [
        (0, 0, "SSSSSSSSS"),
        (0, 0, "SSSRRRRRR"),
        (0, 1, "-DS-RR-RR"),
        (0, 2, "--D--R--R"),
        (1, 0, "---SSSSSS"),
        (1, 0, "---SSSRRR"),
        (1, 1, "----DS-RR"),
        (1, 2, "-----D--R"),
        (2, 0, "------SSS"),
        (2, 1, "-------DS"),
        (2, 2, "--------D"),
    ];
    let templates: Vec<Template> =
        kinds.iter().map(|(spatial, temporal, text)| of_layer(*spatial, *temporal, text)).collect();
    Structure {
        template_id_offset: 0,
        decode_targets: decode_targets(&templates, 9),
        templates,
        ..Structure::default()
    }
}

fn of_layer(spatial: u8, temporal: u8, indications: &str) -> Template {
    let bits = indications.bytes().rev().fold(0, |all, one| {
        all << 2 | b"-DSR".iter().position(|known| *known == one).expect("one of four") as u64
    });
    Template { spatial, temporal, indications: Indications(bits), ..Template::default() }
}

#[test]
fn templates_say_what_frames_need() {
    let structure = l1t2();
    // Start and end, template id 0 (62 + 2, modulo 64), frame number 0x0102.
    let read = parse(&[0xc0, 0x01, 0x02], Some(&structure)).expect("a descriptor");
    assert_eq!((read.start, read.end, read.frame_number), (true, true, 0x0102));
    assert_eq!((read.frame.spatial, read.frame.temporal), (0, 1));
    assert_eq!(read.frame.indications.of(0), Indication::NotPresent);
    assert_eq!(read.frame.indications.of(1), Indication::Discardable);
    assert_eq!(read.frame.indications.of(99), Indication::NotPresent);
    assert_eq!(read.frame.fdiffs.as_slice(), [1]);
    let keyframe = parse(&[0xfe, 0, 1], Some(&structure)).expect("a descriptor");
    assert_eq!([0, 1].map(|target| keyframe.frame.indications.of(target)), [Indication::Switch; 2]);
}

#[test]
fn what_has_no_structure_or_no_template_is_refused() {
    let structure = l1t2();
    assert_eq!(parse(&[0xc0, 0x01, 0x02], None), None);
    assert_eq!(parse(&[0xc1, 0x01, 0x02], Some(&structure)), None, "the fourth of three templates");
    assert_eq!(parse(&[0xc0, 0x01], Some(&structure)), None);
    // More templates, and more distances, than there can be.
    assert_eq!(parse(&[&[0xc0, 0, 1, 0x80][..], &[0; 250]].concat(), None), None);
    // Own distances, 010000 (one nibble, a distance of one) again and again.
    let endless = [&[0xc0, 0, 1, 0x12][..], &[0x08, 0x20, 0x82].repeat(12)].concat();
    assert_eq!(parse(&endless, Some(&structure)), None);
}
