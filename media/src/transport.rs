//! One client transport: its ICE agent, its DTLS connection, its SRTP contexts, and the tables that say whose packet is
//! whose. `sfu` owns these in a slab; producers and consumers name them by slot.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::control::TransportDirection;
use common::ids::{PeerId, RoomId, TransportId};

use crate::arrivals::Arrivals;
use crate::connection::Connection;
use crate::effort::{Items, Repairs};
use crate::estimate::Estimator;
use crate::ice::{IceLite, RemoteAddr};
use crate::outbox::Outbox;
use crate::pacer::Pacer;
use crate::srtp::{self, OVERHEAD_MAX, Profile, SrtpContext};

/// SSRCs that one client may make us remember.
pub const SSRCS_MAX: usize = 256;

/// Both directions' keys.
#[derive(Debug)]
pub struct Srtp {
    /// For what the client sends.
    pub inbound: SrtpContext,
    /// For what we send.
    pub outbound: SrtpContext,
}

/// Whose packets an SSRC marks, on a send transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceRoute {
    /// Slab key of the producer.
    pub producer: usize,
    /// Index of the encoding.
    pub encoding: usize,
    /// Retransmissions of it.
    pub rtx: bool,
}

/// A client's transport.
#[derive(Debug)]
pub struct Transport {
    /// The room it is in.
    pub room: RoomId,
    /// Whose it is.
    pub peer: PeerId,
    /// Its name.
    pub id: TransportId,
    /// Seen from the client.
    pub direction: TransportDirection,
    /// Addresses and consent.
    pub ice: IceLite,
    /// DTLS and data channels.
    pub connection: Connection,
    /// Present once DTLS has verified the client.
    pub srtp: Option<Srtp>,
    /// When `connection` wants to be woken.
    pub connection_deadline: Option<Instant>,
    /// What is registered in the worker's timers for this transport.
    pub wake: Option<Instant>,
    /// Producers on it.
    pub producers: Vec<usize>,
    /// Consumers on it.
    pub consumers: Vec<usize>,
    /// SSRC → producer, for what the client sends.
    pub sources: HashMap<u32, SourceRoute>,
    /// SSRC → consumer, for feedback about what we send; both media and retransmission SSRCs.
    pub sinks: HashMap<u32, usize>,
    /// Arrival times for transport-cc, once a producer has negotiated it.
    pub twcc: Option<Arrivals>,
    /// Last sequence number of the transport-cc extension that we wrote.
    pub twcc_sequence: u16,
    /// How much the client's link carries; present once packets that tell are sent, or the client says it.
    pub estimator: Option<Estimator>,
    /// Video that waits.
    pub pacer: Pacer,
    /// When layers were last taken away because they did not fit the link.
    pub reduced: Option<Instant>,
    /// The estimate that layers were last allocated by.
    pub allocated_bitrate: u64,
    /// What was allocated by it costs so many bits per second; more than the estimate where streams have no choice.
    pub allocated_cost: u64,
    /// When a running probe goes on.
    pub next_probe: Option<Instant>,
    /// Available bitrate that the hub was last told.
    pub told_bitrate: Option<u64>,
    /// MIDs given to consumers so far; they are never reused (contract §5.2 f).
    pub next_mid: u32,
    /// CNAME of all its producers (contract §4.2).
    pub cname: Option<String>,
    /// Next regular RTCP report.
    pub next_report: Option<Instant>,
    /// Next transport-cc feedback.
    pub next_feedback: Option<Instant>,
    /// The SSRC that speaks in our RTCP when no consumer does.
    pub rtcp_ssrc: u32,
    /// What is read of the client's feedback.
    pub items: Items,
    /// What it may have sent again.
    pub repairs: Repairs,
    /// Round trip of the last report.
    pub round_trip: Option<Duration>,
    /// The client has reported on our packets since the hub was last told.
    pub has_reported: bool,
    /// Bytes of datagrams in and out.
    pub bytes: (u64, u64),
    /// Packets in and out.
    pub packets: (u64, u64),
}

impl Transport {
    /// A transport on which nothing has happened.
    pub fn new(
        room: RoomId,
        peer: PeerId,
        id: TransportId,
        direction: TransportDirection,
        ice: IceLite,
        connection: Connection,
        rtcp_ssrc: u32,
    ) -> Self {
        Self {
            room,
            peer,
            id,
            direction,
            ice,
            connection,
            srtp: None,
            connection_deadline: None,
            wake: None,
            producers: Vec::new(),
            consumers: Vec::new(),
            sources: HashMap::new(),
            sinks: HashMap::new(),
            twcc: None,
            twcc_sequence: 0,
            estimator: None,
            pacer: Pacer::default(),
            reduced: None,
            allocated_bitrate: 0,
            allocated_cost: 0,
            next_probe: None,
            told_bitrate: None,
            next_mid: 0,
            cname: None,
            next_report: None,
            next_feedback: None,
            rtcp_ssrc,
            items: Items::default(),
            repairs: Repairs::default(),
            round_trip: None,
            has_reported: false,
            bytes: (0, 0),
            packets: (0, 0),
        }
    }

    /// The keys have arrived: media may flow.
    pub fn on_connected(&mut self, active: bool) -> bool {
        let Some(keys) = self.connection.keys() else { return false };
        let contexts = Profile::try_from(keys.profile)
            .and_then(|profile| srtp::contexts(profile, &keys.material, active));
        match contexts {
            Ok((inbound, outbound)) => self.srtp = Some(Srtp { inbound, outbound }),
            Err(error) => tracing::debug!(transport = %self.id, %error, "no SRTP keys"),
        }
        self.srtp.is_some()
    }

    /// Seals a compound RTCP packet and appends it.
    pub fn send_rtcp(&mut self, outbox: &mut Outbox, compound: &[u8]) {
        let (Some(srtp), Some(to)) = (&mut self.srtp, self.ice.selected()) else { return };
        let outbound = &mut srtp.outbound;
        let sent = outbox.push_with(to, |bytes| {
            let start = bytes.len();
            bytes.extend_from_slice(compound);
            bytes.resize(start + compound.len() + OVERHEAD_MAX, 0);
            match outbound.seal_rtcp(&mut bytes[start..], compound.len()) {
                Ok(length) => {
                    bytes.truncate(start + length);
                    true
                }
                Err(_) => false,
            }
        });
        if sent {
            self.bytes.1 += compound.len() as u64;
            self.packets.1 += 1;
        }
    }

    /// Whether its link's rate is known, so that video is spread over time.
    pub fn is_paced(&self) -> bool {
        self.estimator.as_ref().is_some_and(|estimator| estimator.bitrate().is_some())
    }

    /// The next transport-wide sequence number.
    pub fn next_twcc(&mut self) -> u16 {
        self.twcc_sequence = self.twcc_sequence.wrapping_add(1);
        self.twcc_sequence
    }

    /// Where media goes, when it may go at all.
    pub fn open_path(&mut self) -> Option<(&mut SrtpContext, RemoteAddr)> {
        let to = self.ice.selected()?;
        Some((&mut self.srtp.as_mut()?.outbound, to))
    }

    /// When it wants to be woken: the earliest of all that it waits for.
    pub fn deadline(&self) -> Option<Instant> {
        let all = [
            self.connection_deadline,
            self.ice.consent_deadline(),
            self.next_report,
            self.next_feedback,
            self.next_probe,
            self.pacer.next(),
        ];
        all.into_iter().flatten().min()
    }
}
