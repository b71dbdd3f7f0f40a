//! The AV1 dependency descriptor RTP header extension (AV1 RTP payload format, Appendix A): which decode targets need a
//! frame, which frames it needs, and where a decoder can switch.
//!
//! A [`Structure`] comes with keyframes and is kept per encoding; the descriptors behind it are read by its templates.
//! Only a new structure allocates. Everything is bounded by the widths of the fields (64 templates, 32 decode targets,
//! 32 chains) and by [`FDIFFS_MAX`].

/// Templates of a structure (`template_id_offset` and ids have six bits).
pub const TEMPLATES_MAX: usize = 64;

/// Decode targets (`dt_cnt_minus_one` has five bits), and so chains (A.8.5: `chain_cnt` is at most `DtCnt`).
pub const DECODE_TARGETS_MAX: usize = 32;

/// Frames that one frame may need. The specification has no bound; AV1 has seven references, libwebrtc sends at most five.
pub const FDIFFS_MAX: usize = 16;

/// What a frame is to a decode target (A.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indication {
    /// Not part of it.
    NotPresent,
    /// No later frame of the target needs it.
    Discardable,
    /// Part of it, and the target can be switched to here.
    Switch,
    /// Part of it, and later frames may need it.
    Required,
}

/// One indication per decode target, two bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Indications(u64);

impl Indications {
    /// What the frame is to this target; to one that does not exist, nothing.
    pub fn of(self, decode_target: u8) -> Indication {
        let bits = self.0.checked_shr(2 * u32::from(decode_target)).unwrap_or(0);
        match bits & 3 {
            0 => Indication::NotPresent,
            1 => Indication::Discardable,
            2 => Indication::Switch,
            _ => Indication::Required,
        }
    }
}

/// A short list within a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Few<T, const N: usize> {
    len: u8,
    items: [T; N],
}

impl<T: Copy + Default, const N: usize> Default for Few<T, N> {
    fn default() -> Self {
        Self { len: 0, items: [T::default(); N] }
    }
}

impl<T: Copy, const N: usize> Few<T, N> {
    /// What it holds.
    pub fn as_slice(&self) -> &[T] {
        &self.items[..usize::from(self.len)]
    }

    /// `None` when it is full.
    fn push(&mut self, item: T) -> Option<()> {
        *self.items.get_mut(usize::from(self.len))? = item;
        self.len += 1;
        Some(())
    }
}

/// Distances to the frames that a frame needs, in frame numbers.
pub type Fdiffs = Few<u16, FDIFFS_MAX>;

/// Distances to the last frame of each chain, in frame numbers.
pub type ChainFdiffs = Few<u8, DECODE_TARGETS_MAX>;

/// What frames of one kind have in common (A.8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Template {
    /// Spatial layer.
    pub spatial: u8,
    /// Temporal layer.
    pub temporal: u8,
    /// What they are to each decode target.
    pub indications: Indications,
    /// The frames that they need.
    pub fdiffs: Fdiffs,
    /// The last frame of each chain before them.
    pub chain_fdiffs: ChainFdiffs,
}

/// The layers that make a decode target: the highest of its frames (A.8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DecodeTarget {
    /// Spatial layer.
    pub spatial: u8,
    /// Temporal layer.
    pub temporal: u8,
    /// The chain whose unbroken frames make the target decodable, where there are chains.
    pub protected_by: Option<u8>,
}

/// `template_dependency_structure` (A.8.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Structure {
    /// Id of the first template.
    pub template_id_offset: u8,
    /// In the order of their ids, by spatial and then temporal layer.
    pub templates: Vec<Template>,
    /// In the order of their indications.
    pub decode_targets: Vec<DecodeTarget>,
    /// How many chains there are.
    pub chains: u8,
    /// Width and height in pixels of each spatial layer, when they are told.
    pub resolutions: Vec<(u32, u32)>,
}

/// A descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// First packet of the frame.
    pub start: bool,
    /// Last packet of the frame.
    pub end: bool,
    /// Counts frames of all layers, modulo 2^16.
    pub frame_number: u16,
    /// Sent with this frame; it replaces the one that was known.
    pub structure: Option<Structure>,
    /// Decode targets that the publisher encodes at the moment, one bit each, when that changes.
    pub active_decode_targets: Option<u32>,
    /// Layers, indications and distances: the template's, or the frame's own.
    pub frame: Template,
}

/// Reads an extension element. `known` is the structure that came last; without any, only descriptors that bring one can be
/// read.
pub fn parse(data: &[u8], known: Option<&Structure>) -> Option<Descriptor> {
    let mut bits = Bits { data, at: 0 };
    let (start, end) = (bits.flag()?, bits.flag()?);
    let template_id = bits.read(6)? as u8;
    let frame_number = bits.read(16)? as u16;
    let mut flags = Flags::default();
    let mut structure = None;
    let mut active_decode_targets = None;
    if data.len() > 3 {
        let has_structure = bits.flag()?;
        let has_active = bits.flag()?;
        flags = Flags { indications: bits.flag()?, fdiffs: bits.flag()?, chains: bits.flag()? };
        if has_structure {
            let read = bits.structure()?;
            active_decode_targets = Some(u32::MAX >> (DECODE_TARGETS_MAX - read.decode_targets.len()));
            structure = Some(read);
        }
        if has_active {
            let targets = structure.as_ref().or(known)?.decode_targets.len();
            active_decode_targets = Some(bits.read(targets as u32)?);
        }
    }
    let frame = bits.frame(structure.as_ref().or(known)?, template_id, flags)?;
    Some(Descriptor { start, end, frame_number, structure, active_decode_targets, frame })
}

/// What a frame says itself instead of leaving it to its template.
#[derive(Default)]
struct Flags {
    indications: bool,
    fdiffs: bool,
    chains: bool,
}

/// Reads bits, most significant first.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn flag(&mut self) -> Option<bool> {
        let byte = self.data.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// `f(n)`, n at most 32.
    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.flag()?);
        }
        Some(value)
    }

    /// `ns(n)`: a value below n, in as few bits as there can be (A.8.1).
    fn below(&mut self, n: u32) -> Option<u32> {
        let width = u32::BITS - n.leading_zeros();
        let short = (1 << width) - n;
        let value = self.read(width - 1)?;
        if value < short {
            return Some(value);
        }
        Some((value << 1) - short + u32::from(self.flag()?))
    }

    fn structure(&mut self) -> Option<Structure> {
        let template_id_offset = self.read(6)? as u8;
        let targets = self.read(5)? as usize + 1;
        let mut templates = self.layers()?;
        for template in &mut templates {
            template.indications = self.indications(targets)?;
        }
        for template in &mut templates {
            while self.flag()? {
                template.fdiffs.push(self.read(4)? as u16 + 1)?;
            }
        }
        let mut decode_targets = decode_targets(&templates, targets);
        let chains = self.below(targets as u32 + 1)?;
        if chains > 0 {
            for target in &mut decode_targets {
                target.protected_by = Some(self.below(chains)? as u8);
            }
            for template in &mut templates {
                for _ in 0..chains {
                    template.chain_fdiffs.push(self.read(4)? as u8)?;
                }
            }
        }
        let mut resolutions = Vec::new();
        if self.flag()? {
            let highest = templates.last().map_or(0, |template| template.spatial);
            for _ in 0..=highest {
                resolutions.push((self.read(16)? + 1, self.read(16)? + 1));
            }
        }
        Some(Structure { template_id_offset, templates, decode_targets, chains: chains as u8, resolutions })
    }

    /// `template_layers` (A.8.3): each template is of the same layer as the one before, or of the next.
    fn layers(&mut self) -> Option<Vec<Template>> {
        let mut templates = Vec::new();
        let (mut spatial, mut temporal) = (0, 0);
        loop {
            if templates.len() == TEMPLATES_MAX {
                return None;
            }
            templates.push(Template { spatial, temporal, ..Template::default() });
            match self.read(2)? {
                0 => {}
                1 => temporal += 1,
                2 => (spatial, temporal) = (spatial + 1, 0),
                _ => return Some(templates),
            }
        }
    }

    fn indications(&mut self, targets: usize) -> Option<Indications> {
        let mut all = 0;
        for target in 0..targets {
            all |= u64::from(self.read(2)?) << (2 * target);
        }
        Some(Indications(all))
    }

    /// `frame_dependency_definition` (A.8.4).
    fn frame(&mut self, structure: &Structure, template_id: u8, custom: Flags) -> Option<Template> {
        let index = (template_id + TEMPLATES_MAX as u8 - structure.template_id_offset) % TEMPLATES_MAX as u8;
        let mut frame = *structure.templates.get(usize::from(index))?;
        if custom.indications {
            frame.indications = self.indications(structure.decode_targets.len())?;
        }
        if custom.fdiffs {
            frame.fdiffs = self.fdiffs()?;
        }
        if custom.chains {
            frame.chain_fdiffs = ChainFdiffs::default();
            for _ in 0..structure.chains {
                frame.chain_fdiffs.push(self.read(8)? as u8)?;
            }
        }
        Some(frame)
    }

    /// `frame_fdiffs`: each with its width of one to three nibbles before it.
    fn fdiffs(&mut self) -> Option<Fdiffs> {
        let mut fdiffs = Fdiffs::default();
        loop {
            match self.read(2)? {
                0 => return Some(fdiffs),
                nibbles => fdiffs.push(self.read(4 * nibbles)? as u16 + 1)?,
            }
        }
    }
}

/// `decode_target_layers` (A.8.6).
fn decode_targets(templates: &[Template], count: usize) -> Vec<DecodeTarget> {
    let layers = |target: usize| {
        let present =
            templates.iter().filter(move |t| t.indications.of(target as u8) != Indication::NotPresent);
        present.fold(DecodeTarget::default(), |found, template| DecodeTarget {
            spatial: found.spatial.max(template.spatial),
            temporal: found.temporal.max(template.temporal),
            protected_by: None,
        })
    };
    (0..count).map(layers).collect()
}

#[cfg(test)]
pub(super) mod tests;
