//! A producer as one subscriber receives it: what is written into its packets, and which were sent.

use std::time::Instant;

use common::ids::{ConsumerId, PeerId, RoomId};
use common::rtp_parameters::RtpParameters;

use crate::ortc::uri;
use crate::producer::Producer;
use crate::reception::KEPT_MAX;
use crate::rewrite::{Numbers, Rewriter};
use crate::select::Selector;

/// A packet that was sent: enough to send it again from the producer's store.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Ours.
    pub numbers: Numbers,
    /// The source's.
    pub sequence: u64,
    /// Which encoding it came from.
    pub encoding: u8,
    /// M bit.
    pub marker: bool,
    /// When it was last sent again.
    pub resent: Option<Instant>,
}

/// Extension ids that the subscriber was told.
#[derive(Debug, Default, Clone)]
pub struct ConsumerExtensions {
    /// MID.
    pub mid: Option<u8>,
    /// Time of sending.
    pub abs_send_time: Option<u8>,
    /// Transport-wide sequence number.
    pub transport_cc: Option<u8>,
    /// Dependency descriptor, where the publisher's is passed through.
    pub descriptor: Option<u8>,
    /// The publisher's id and ours, for what is passed through.
    pub translate: Vec<(u8, u8)>,
}

impl ConsumerExtensions {
    /// From what both sides were told.
    pub fn new(rtp: &RtpParameters, source: &Producer) -> Self {
        let id_of = |uri: &str| rtp.header_extensions.iter().find(|it| it.uri == uri).map(|it| it.id);
        let passed = [
            uri::AUDIO_LEVEL,
            uri::VIDEO_ORIENTATION,
            uri::TOFFSET,
            uri::ABS_CAPTURE_TIME,
            uri::PLAYOUT_DELAY,
        ];
        let translate = passed.into_iter().filter_map(|uri| {
            let from = source.extension_ids.iter().find(|(known, _)| known == uri)?.1;
            Some((from, id_of(uri)?))
        });
        Self {
            mid: id_of(uri::MID),
            abs_send_time: id_of(uri::ABS_SEND_TIME),
            transport_cc: id_of(uri::TRANSPORT_CC),
            descriptor: id_of(uri::DEPENDENCY_DESCRIPTOR).filter(|_| source.passes_descriptors()),
            translate: translate.collect(),
        }
    }
}

/// A subscription.
#[derive(Debug)]
pub struct Consumer {
    /// The room.
    pub room: RoomId,
    /// The subscriber.
    pub peer: PeerId,
    /// Its name.
    pub id: ConsumerId,
    /// Slab key of the producer.
    pub producer: usize,
    /// Slot of its transport.
    pub transport: usize,
    /// Created paused (contract §5.3).
    pub paused: bool,
    /// 1–255.
    pub priority: u8,
    /// On the wire to the subscriber.
    pub payload_type: u8,
    /// Of retransmissions.
    pub rtx_payload_type: Option<u8>,
    /// On the wire.
    pub ssrc: u32,
    /// Of retransmissions.
    pub rtx_ssrc: Option<u32>,
    /// Next extended number of the retransmission stream.
    pub rtx_sequence: u64,
    /// Written into every packet.
    pub mid: String,
    /// Canonical name of the publisher.
    pub cname: String,
    /// Ids on the wire.
    pub extensions: ConsumerExtensions,
    /// Which encoding flows.
    pub selector: Selector,
    /// Spatial and temporal layer that the client asked for; the bound of what is allocated.
    pub preferred: (u8, Option<u8>),
    /// What its share of the link allows; `None` is nothing.
    pub allocated: Option<(u8, u8)>,
    /// Its numbering.
    pub rewriter: Rewriter,
    /// The encoding that was last entered; its timestamps are the ones that were rewritten.
    pub entered: Option<usize>,
    /// When a packet was last forwarded.
    pub last_sent: Option<Instant>,
    /// Ring of sent packets by extended number; empty without retransmissions.
    sent: Vec<Option<Sent>>,
    /// Packets sent.
    pub packets: u64,
    /// Payload bytes sent.
    pub octets: u64,
    /// Packets sent again.
    pub retransmitted: u64,
    /// What the subscriber last reported.
    pub fraction_lost: u8,
    /// NTP time (middle 32 bits) of the last sender report, and when it was sent.
    pub last_report: Option<(u32, Instant)>,
    /// What the hub was last told.
    pub told_layers: Option<(u8, u8)>,
    /// Likewise of its own and its source's score.
    pub told_scores: Option<(u8, u8)>,
}

impl Consumer {
    /// From its parameters.
    pub fn new(
        (room, peer, id): (RoomId, PeerId, ConsumerId),
        (producer, transport): (usize, usize),
        rtp: &RtpParameters,
        source: &Producer,
        random: u64,
    ) -> Self {
        let encoding = rtp.encodings.first().cloned().unwrap_or_default();
        let extensions = ConsumerExtensions::new(rtp, source);
        let rtx_payload_type = rtp.codecs.get(1).map(|codec| codec.payload_type);
        Self {
            room,
            peer,
            id,
            producer,
            transport,
            paused: true,
            priority: 1,
            payload_type: rtp.codecs.first().map_or(0, |codec| codec.payload_type),
            rtx_payload_type,
            ssrc: encoding.ssrc.unwrap_or_default(),
            rtx_ssrc: encoding.rtx.map(|rtx| rtx.ssrc),
            rtx_sequence: 1 + (random >> 48) % 0x7fff,
            mid: rtp.mid.clone().unwrap_or_default(),
            cname: rtp.rtcp.cname.clone().unwrap_or_default(),
            extensions,
            selector: Selector::new(source.encodings.len()),
            preferred: (u8::MAX, None),
            allocated: Some((u8::MAX, u8::MAX)),
            rewriter: Rewriter::new(random),
            entered: None,
            last_sent: None,
            sent: if rtx_payload_type.is_some() { vec![None; KEPT_MAX] } else { Vec::new() },
            packets: 0,
            octets: 0,
            retransmitted: 0,
            fraction_lost: 0,
            last_report: None,
            told_layers: None,
            told_scores: None,
        }
    }

    /// Whether the source's packets go to the subscriber at all.
    pub fn takes(&self) -> bool {
        !self.paused && self.allocated.is_some()
    }

    /// The newest packet that was sent and is remembered.
    pub fn newest_sent(&self) -> Option<&Sent> {
        let newest = self.rewriter.newest()?;
        self.sent.get((newest % KEPT_MAX as u64) as usize)?.as_ref()
    }

    /// Remembers a packet that was sent.
    pub fn remember(&mut self, sent: Sent) {
        if !self.sent.is_empty() {
            self.sent[(sent.numbers.sequence % KEPT_MAX as u64) as usize] = Some(sent);
        }
    }

    /// A sent packet by its number on the wire.
    pub fn sent_mut(&mut self, wire: u16) -> Option<&mut Sent> {
        let slot = self.sent.get_mut(usize::from(wire) % KEPT_MAX)?.as_mut()?;
        (slot.numbers.sequence as u16 == wire).then_some(slot)
    }
}
