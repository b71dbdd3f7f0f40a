//! What a client publishes: one or several encodings of one track, and who consumes it.

use std::time::{Duration, Instant};

use common::control::ConsumerType;
use common::ids::{PeerId, ProducerId, RoomId};
use common::rtp_parameters::{MediaKind, RtpParameters};

use crate::codec::dependency_descriptor::Structure;
use crate::codec::{Codec, Frame};
use crate::keyframe::KeyframeRequests;
use crate::ortc::{Mapping, ProducerType, is_rtx, uri};
use crate::rates::{LAYERS, Rates};
use crate::reception::{Reception, Store};
use crate::speaker::Voice;
use crate::wanted::LayersWanted;

/// The highest spatial and temporal layers that have come lately.
#[derive(Debug, Default, Clone, Copy)]
pub struct LayersHeard {
    now: (u8, u8),
    before: (u8, u8),
}

impl LayersHeard {
    /// A packet has come. AV1's descriptors have room for 64 by 64 layers, each of which every subscriber's share of its link
    /// would be weighed by; those beyond [`LAYERS`] cost what the highest does.
    pub fn note(&mut self, frame: &Frame) {
        let highest = LAYERS as u8 - 1;
        self.now = (self.now.0.max(frame.spatial.min(highest)), self.now.1.max(frame.temporal.min(highest)));
    }

    /// An interval is over: what did not come in it and does not come in the next is gone.
    pub fn turn(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    /// Spatial and temporal.
    pub fn highest(&self) -> (u8, u8) {
        (self.now.0.max(self.before.0), self.now.1.max(self.before.1))
    }
}

/// Without a packet for so long an encoding counts as stopped (contract §6), so that subscribers fall away from it within
/// two seconds.
const SILENT: Duration = Duration::from_millis(1200);
/// The same for an encoding with `dtx`, which may pause between pictures that do not change.
const SILENT_WITH_DTX: Duration = Duration::from_secs(5);

/// One encoding: a simulcast layer, or the only one.
#[derive(Debug, Default)]
pub struct Encoding {
    /// Known from signaling or from the first packet.
    pub ssrc: Option<u32>,
    /// Of its retransmissions.
    pub rtx_ssrc: Option<u32>,
    /// Its name in packets.
    pub rid: Option<String>,
    /// It may be silent for longer.
    pub dtx: bool,
    /// In the last report interval, of 256.
    pub fraction_lost: u8,
    /// 0–10.
    pub score: u8,
    /// What its publisher was last told.
    pub told_score: Option<u8>,
    /// How it is received.
    pub reception: Reception,
    /// Its newest packets.
    pub store: Store,
    /// What its dependency descriptors refer to (AV1).
    pub structure: Option<Structure>,
    /// Layers within it.
    pub layers: LayersHeard,
    /// What each of them costs.
    pub rates: Rates,
    /// What was asked of it.
    pub keyframes: KeyframeRequests,
    /// When its own worker was last asked for a keyframe of it; where it is of another worker.
    pub asked_afar: Option<Instant>,
}

impl Encoding {
    /// Whether packets still come.
    pub fn flows(&self, now: Instant) -> bool {
        let patience = if self.dtx { SILENT_WITH_DTX } else { SILENT };
        self.reception.last_heard.is_some_and(|at| now.saturating_duration_since(at) < patience)
    }
}

/// Extension ids that the publisher uses.
#[derive(Debug, Default, Clone, Copy)]
pub struct ProducerExtensions {
    /// MID.
    pub mid: Option<u8>,
    /// RID.
    pub rid: Option<u8>,
    /// RID of what is retransmitted.
    pub repaired_rid: Option<u8>,
    /// Transport-wide sequence number.
    pub transport_cc: Option<u8>,
    /// Loudness (RFC 6464), of audio.
    pub audio_level: Option<u8>,
    /// Dependency descriptor, of AV1.
    pub dependencies: Option<u8>,
}

/// A producer seen from another worker of its room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// Here is all of it.
    None,
    /// It is ours, and other workers get its packets.
    Exported {
        /// Its name in parcels.
        pipe: u64,
        /// The workers, and the highest encoding that somebody watches on each.
        to: Vec<(usize, usize)>,
    },
    /// Its packets come from another worker.
    Imported {
        /// Its name in parcels.
        pipe: u64,
        /// The worker.
        from: usize,
    },
}

impl Span {
    /// The highest encoding that somebody watches on another worker.
    pub fn wanted(&self) -> Option<usize> {
        match self {
            Self::Exported { to, .. } => to.iter().map(|(_, wanted)| *wanted).max(),
            Self::None | Self::Imported { .. } => None,
        }
    }
}

/// In place of a transport's slot, of producers that have none here.
pub const NO_TRANSPORT: usize = usize::MAX;

/// A published track.
#[derive(Debug)]
pub struct Producer {
    /// The room.
    pub room: RoomId,
    /// The publisher.
    pub peer: PeerId,
    /// Its name.
    pub id: ProducerId,
    /// Slot of its transport, or [`NO_TRANSPORT`].
    pub transport: usize,
    /// What other workers have to do with it.
    pub span: Span,
    /// Audio or video.
    pub kind: MediaKind,
    /// What its consumers are called.
    pub consumer_type: ConsumerType,
    /// Nothing is forwarded.
    pub paused: bool,
    /// The payload format.
    pub codec: Codec,
    /// Media ticks per second.
    pub clock_rate_hz: u32,
    /// On the wire from the client.
    pub payload_type: u8,
    /// Of its retransmissions.
    pub rtx_payload_type: Option<u8>,
    /// Lost packets are asked for.
    pub nack: bool,
    /// REMB is wanted because transport-cc is not negotiated.
    pub remb: bool,
    /// MID on the wire.
    pub mid: Option<String>,
    /// How loud it is; of audio.
    pub voice: Voice,
    /// Packets with speech in a row, for the room's floor.
    pub speech_run: u32,
    /// Extension ids on the wire.
    pub extensions: ProducerExtensions,
    /// All of them, by URI.
    pub extension_ids: Vec<(String, u8)>,
    /// What consumers are made from.
    pub consumable: RtpParameters,
    /// Lowest quality first.
    pub encodings: Vec<Encoding>,
    /// Which of them the publisher is to send.
    pub wanted: LayersWanted,
    /// Slab keys.
    pub consumers: Vec<usize>,
}

impl Producer {
    /// From checked parameters.
    pub fn new(
        (room, peer, id): (RoomId, PeerId, ProducerId),
        transport: usize,
        kind: MediaKind,
        rtp: &RtpParameters,
        mapping: Mapping,
        paused: bool,
    ) -> Self {
        let id_of = |uri: &str| rtp.header_extensions.iter().find(|it| it.uri == uri).map(|it| it.id);
        let codec = rtp.codecs.first();
        let feedback =
            |kind: &str| codec.is_some_and(|codec| codec.rtcp_feedback.iter().any(|it| it.kind == kind));
        // Absent encodings are one that nothing is known of (contract §4.2).
        let described = rtp.encodings.iter().map(|it| Encoding {
            ssrc: it.ssrc,
            rtx_ssrc: it.rtx.as_ref().map(|rtx| rtx.ssrc),
            rid: it.rid.clone(),
            dtx: it.dtx == Some(true),
            ..Encoding::default()
        });
        let mut encodings: Vec<Encoding> = described.collect();
        if encodings.is_empty() {
            encodings.push(Encoding::default());
        }
        let transport_cc = id_of(uri::TRANSPORT_CC);
        let payload_format = codec.map_or(Codec::Audio, Codec::of);
        Self {
            room,
            peer,
            id,
            transport,
            span: Span::None,
            kind,
            consumer_type: match mapping.producer_type {
                ProducerType::Simple => ConsumerType::Simple,
                ProducerType::Simulcast => ConsumerType::Simulcast,
                ProducerType::Svc => ConsumerType::Svc,
            },
            paused,
            codec: payload_format,
            clock_rate_hz: codec.map_or(90_000, |codec| codec.clock_rate),
            payload_type: codec.map_or(0, |codec| codec.payload_type),
            rtx_payload_type: rtp.codecs.iter().find(|it| is_rtx(&it.mime_type)).map(|it| it.payload_type),
            nack: kind == MediaKind::Video && feedback("nack"),
            remb: transport_cc.is_none() && feedback("goog-remb"),
            mid: rtp.mid.clone(),
            voice: Voice::default(),
            speech_run: 0,
            extensions: ProducerExtensions {
                mid: id_of(uri::MID),
                rid: id_of(uri::RID),
                repaired_rid: id_of(uri::REPAIRED_RID),
                transport_cc,
                audio_level: id_of(uri::AUDIO_LEVEL).filter(|_| kind == MediaKind::Audio),
                dependencies: id_of(uri::DEPENDENCY_DESCRIPTOR).filter(|_| payload_format == Codec::Av1),
            },
            extension_ids: rtp.header_extensions.iter().map(|it| (it.uri.clone(), it.id)).collect(),
            consumable: mapping.consumable,
            wanted: LayersWanted::new(encodings.len()),
            encodings,
            consumers: Vec::new(),
        }
    }

    /// Whether its packets come from another worker: what is lost then is asked for there.
    pub fn is_imported(&self) -> bool {
        matches!(self.span, Span::Imported { .. })
    }

    /// Whether its subscribers choose layers, and we see which packet is of which: AV1 names them in a header extension
    /// that the publisher may not have.
    pub fn has_layers(&self) -> bool {
        self.consumer_type != ConsumerType::Simple
            && (self.codec != Codec::Av1 || self.extensions.dependencies.is_some())
    }

    /// Whether subscribers get its dependency descriptors. Those of several encodings would be one stream with several
    /// structures and numberings.
    pub fn passes_descriptors(&self) -> bool {
        self.extensions.dependencies.is_some()
            && self.consumer_type == ConsumerType::Svc
            && self.encodings.len() == 1
    }

    /// What added to a timestamp of encoding `to` gives that of encoding `from` for the same moment, as far as sender
    /// reports tell.
    pub fn alignment(&self, from: usize, to: usize) -> Option<u32> {
        if from == to {
            return Some(0);
        }
        let report = |encoding: usize| self.encodings.get(encoding)?.reception.sender_report();
        Some(report(to)?.alignment(&report(from)?, self.clock_rate_hz))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_nobody_sends_are_none() {
        let mut heard = LayersHeard::default();
        heard.note(&Frame { spatial: 2, temporal: 1, ..Frame::default() });
        assert_eq!(heard.highest(), (2, 1));
        heard.note(&Frame { spatial: 63, temporal: 63, ..Frame::default() });
        assert_eq!(heard.highest(), (3, 3));
        (0..2).for_each(|_| heard.turn());
        assert_eq!(heard.highest(), (0, 0));
    }
}
