//! The core: one worker's rooms, transports, producers and consumers, without sockets, clock or randomness of its own.
//!
//! A datagram's way: [`Sfu::handle_input`] → `demux` → `transport` (STUN: `ice`, DTLS: `connection`, RTP: `rtp` here) →
//! each consumer's `select` and `rewrite` → its transport's `srtp` → `outbox`. Commands are in `control` and `objects`,
//! RTCP in `rtcp`, data channels in `data`. Transports that have something to do later stand in `timers`; nobody else is
//! ever polled.

mod control;
mod data;
mod downlink;
mod objects;
mod rtcp;
mod rtp;
mod scores;
mod span;
mod stats;
mod timers;
mod watched;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::control::{Command, Event, EventKind, FromMedia};
use common::ids::{ConsumerId, DataConsumerId, DataProducerId, PeerId, ProducerId, RoomId, TransportId};
use common::rtp_parameters::RtpCapabilities;
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore, SeedableRng};
use slab::Slab;

use crate::connection::{ConnectionEvent, ConnectionOutput};
use crate::consumer::Consumer;
use crate::demux::{Class, Demux};
use crate::dtls::Identity;
use crate::ice::{self, RemoteAddr, Via};
use crate::outbox::Outbox;
use crate::producer::Producer;
use crate::reception::MISSING_MAX;
use crate::speaker::{Election, Floor};
use crate::stun::BindingRequest;
use crate::transport::{SSRCS_MAX, Transport};
use data::{DataConsumer, DataProducer};
use span::Shared;
use timers::Timers;

/// How often a transport with producers looks after NACKs, keyframe requests and transport-cc feedback. mediasoup's NACK
/// timer is 40 ms and its feedback 100 ms (contract §4.4).
const PUBLISHER_TICK: Duration = Duration::from_millis(50);
/// How often a transport with consumers looks after layers that stopped.
const SUBSCRIBER_TICK: Duration = Duration::from_millis(250);
/// RTCP reports (contract §4.4, §5.5).
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What a worker is built with.
#[derive(Debug, Clone)]
pub struct SfuConfig {
    /// Its number, which its ufrags carry.
    pub worker: u8,
    /// The address that clients are told, UDP and TCP.
    pub announced: SocketAddr,
    /// Offer ICE-TCP.
    pub tcp: bool,
    /// Router codecs, in order of preference.
    pub codecs: Vec<String>,
    /// Told to publishers by REMB, bits per second.
    pub max_bitrate: Option<u64>,
    /// So many voices of a room are forwarded at once, the loudest; 0 is all of them.
    pub max_speakers: usize,
}

/// What happens to the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes arrived; they are decrypted in place.
    Datagram {
        /// From where.
        source: RemoteAddr,
        /// One UDP payload or one RFC 4571 frame.
        data: &'a mut [u8],
    },
    /// Signaling wants something.
    Command(Command),
    /// Another worker says something of a room that both have.
    Piped {
        /// Its number.
        from: usize,
        /// One parcel, its length left out.
        parcel: &'a [u8],
    },
    /// A TCP connection is over.
    TcpClosed(u64),
    /// The time that [`Output::Timeout`] named has come.
    Timeout,
}

/// What the core wants.
#[derive(Debug)]
pub enum Output<'a> {
    /// Send all of it, then clear it.
    Transmit(&'a mut Outbox),
    /// For another worker: take all of it, then clear it.
    Piped {
        /// Its number.
        to: usize,
        /// Parcels with their lengths.
        parcels: &'a mut Vec<u8>,
    },
    /// For the hub.
    Message(FromMedia),
    /// Nothing more until then.
    Timeout(Option<Instant>),
}

/// Why packets were dropped, and how many were not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Neither STUN nor from an authenticated address.
    pub unknown_address: u64,
    /// No protocol of this port.
    pub unknown_protocol: u64,
    /// STUN that is malformed, for an unknown ufrag, or fails authentication.
    pub bad_stun: u64,
    /// SRTP or SRTCP that does not open.
    pub bad_srtp: u64,
    /// RTP that no producer claims.
    pub unknown_source: u64,
    /// RTP that is malformed inside.
    pub malformed_rtp: u64,
    /// Items of a client's RTCP beyond what is read of it in a time.
    pub feedback_dropped: u64,
    /// Packets that a client wanted again beyond what it may have.
    pub repairs_refused: u64,
    /// Packets received and opened.
    pub received: u64,
    /// Packets forwarded to consumers.
    pub forwarded: u64,
    /// Packets sent again.
    pub retransmitted: u64,
    /// Of voices, by publishers while others had the floor.
    pub voices_left_out: u64,
    /// Video that a subscriber's link had no room for.
    pub video_dropped: u64,
    /// Data messages that a slow or closed consumer did not get.
    pub data_dropped: u64,
}

/// A member of a room and all that it owns, by id.
#[derive(Debug, Default)]
struct Peer {
    transports: BTreeMap<TransportId, usize>,
    producers: BTreeMap<ProducerId, usize>,
    consumers: BTreeMap<ConsumerId, usize>,
    data_producers: BTreeMap<DataProducerId, usize>,
    data_consumers: BTreeMap<DataConsumerId, usize>,
}

#[derive(Debug)]
struct Room {
    capabilities: RtpCapabilities,
    peers: BTreeMap<PeerId, Peer>,
    election: Election,
    floor: Floor,
}

/// One worker's world.
#[derive(Debug)]
pub struct Sfu {
    config: SfuConfig,
    identity: Arc<Identity>,
    rng: ChaCha12Rng,
    start: Instant,
    unix_start: Duration,
    rooms: BTreeMap<RoomId, Room>,
    transports: Slab<Transport>,
    producers: Slab<Producer>,
    consumers: Slab<Consumer>,
    data_producers: Slab<DataProducer>,
    data_consumers: Slab<DataConsumer>,
    demux: Demux,
    timers: Timers,
    outbox: Outbox,
    messages: VecDeque<FromMedia>,
    counters: Counters,
    scratch: Vec<u8>,
    /// What is shared with other workers, by its name in parcels.
    pipes: HashMap<u64, Shared>,
    /// What is to be said to them.
    parcels: BTreeMap<usize, Vec<u8>>,
}

impl Sfu {
    /// An empty worker. `unix_time` is what the wall clock shows at `now`; sender reports and send times go on steadily from
    /// there, whatever becomes of the wall clock (RFC 3550 §4: only differences matter).
    pub fn new(config: SfuConfig, seed: [u8; 32], now: Instant, unix_time: Duration) -> Self {
        Self {
            config,
            identity: Identity::of_process(),
            rng: ChaCha12Rng::from_seed(seed),
            start: now,
            unix_start: unix_time,
            rooms: BTreeMap::new(),
            transports: Slab::new(),
            producers: Slab::new(),
            consumers: Slab::new(),
            data_producers: Slab::new(),
            data_consumers: Slab::new(),
            demux: Demux::default(),
            timers: Timers::default(),
            outbox: Outbox::default(),
            messages: VecDeque::new(),
            counters: Counters::default(),
            scratch: Vec::new(),
            pipes: HashMap::new(),
            parcels: BTreeMap::new(),
        }
    }

    /// The same with another certificate and cryptography than the process's.
    pub fn with_identity(mut self, identity: Arc<Identity>) -> Self {
        self.identity = identity;
        self
    }

    /// What was dropped and what was not.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How many transports there are.
    pub fn transport_count(&self) -> usize {
        self.transports.len()
    }

    /// Everything that is kept for somebody, by name: all of it 0 when nobody is there.
    pub fn held(&self) -> [(&'static str, usize); 9] {
        [
            ("rooms", self.rooms.len()),
            ("transports", self.transports.len()),
            ("producers", self.producers.len()),
            ("consumers", self.consumers.len()),
            ("data producers", self.data_producers.len()),
            ("data consumers", self.data_consumers.len()),
            ("addresses", self.demux.len()),
            ("timers", self.timers.len()),
            ("pipes", self.pipes.len()),
        ]
    }

    /// The longest list of each kind that the network can fill, by name, with its length and its bound.
    pub fn queues(&self) -> [(&'static str, usize, usize); 3] {
        let transports = || self.transports.iter().map(|(_, transport)| transport);
        let addresses = transports().map(|transport| transport.ice.remotes().count()).max().unwrap_or(0);
        let sources = transports().map(|transport| transport.sources.len()).max().unwrap_or(0);
        let encodings = self.producers.iter().flat_map(|(_, producer)| &producer.encodings);
        let missing = encodings.map(|encoding| encoding.reception.missing()).max().unwrap_or(0);
        [
            ("addresses of one transport", addresses, ice::TUPLES_MAX),
            ("sources of one transport", sources, SSRCS_MAX),
            ("missing packets of one encoding", missing, MISSING_MAX),
        ]
    }

    /// Wall-clock time.
    fn unix_time(&self, now: Instant) -> Duration {
        self.unix_start + now.saturating_duration_since(self.start)
    }

    /// Lets something happen. Outputs are to be polled afterwards.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { source, data } => self.on_datagram(now, source, data),
            Input::Command(command) => self.on_command(now, command),
            Input::Piped { from, parcel } => self.on_parcel(now, from, parcel),
            Input::TcpClosed(number) => self.on_tcp_closed(number),
            Input::Timeout => {}
        }
        self.fire_timers(now);
    }

    /// To be called until [`Output::Timeout`].
    pub fn poll_output(&mut self) -> Output<'_> {
        if !self.outbox.is_empty() {
            return Output::Transmit(&mut self.outbox);
        }
        if let Some(message) = self.messages.pop_front() {
            return Output::Message(message);
        }
        match self.parcels.iter_mut().find(|(_, parcels)| !parcels.is_empty()) {
            Some((to, parcels)) => Output::Piped { to: *to, parcels },
            None => Output::Timeout(self.timers.next()),
        }
    }

    fn on_datagram(&mut self, now: Instant, source: RemoteAddr, data: &mut [u8]) {
        let class = Class::of(data);
        if class == Class::Stun {
            return self.on_stun(now, source, data);
        }
        let Some(slot) = self.demux.find(source) else {
            self.counters.unknown_address += 1;
            return;
        };
        self.transports[slot].bytes.0 += data.len() as u64;
        match class {
            Class::Rtp => self.on_rtp(now, slot, data),
            Class::Rtcp => self.on_rtcp(now, slot, data),
            Class::Dtls => {
                self.transports[slot].connection.handle_datagram(now, data);
                self.drain_connection(now, slot);
            }
            Class::Stun | Class::Unknown => self.counters.unknown_protocol += 1,
        }
    }

    fn on_stun(&mut self, now: Instant, source: RemoteAddr, data: &[u8]) {
        let Ok(request) = BindingRequest::parse(data) else {
            self.counters.bad_stun += 1;
            return;
        };
        let slot =
            ice::worker_and_slot(request.local_ufrag).filter(|(worker, _)| *worker == self.config.worker);
        let Some((slot, transport)) =
            slot.and_then(|(_, slot)| Some((slot as usize, self.transports.get_mut(slot as usize)?)))
        else {
            self.counters.bad_stun += 1;
            return;
        };
        let mut outcome = ice::Outcome::default();
        self.outbox.push_with(source, |out| {
            outcome = transport.ice.handle_request(now, source, &request, out);
            true
        });
        if !outcome.accepted {
            self.counters.bad_stun += 1;
            return;
        }
        if let Some(forgotten) = outcome.forgotten {
            self.demux.forget(forgotten, slot);
        }
        if let Some(learned) = outcome.learned
            && let Some(former) = self.demux.learn(learned, slot)
            && let Some(former) = self.transports.get_mut(former)
        {
            former.ice.forget(learned);
        }
        if outcome.selected {
            tracing::debug!(transport = %self.transports[slot].id, "path selected");
            // DTLS may have been waiting for an address.
            self.drain_connection(now, slot);
        }
        self.arm(slot);
    }

    fn on_tcp_closed(&mut self, number: u64) {
        for (remote, slot) in self.demux.remotes_via(Via::Tcp(number)) {
            self.demux.forget(remote, slot);
            if let Some(transport) = self.transports.get_mut(slot) {
                transport.ice.forget(remote);
            }
        }
    }

    /// Moves everything that a transport's connection has to say to where it belongs, and notes its deadline.
    fn drain_connection(&mut self, now: Instant, slot: usize) {
        loop {
            let Some(transport) = self.transports.get_mut(slot) else { return };
            if transport.ice.selected().is_none() {
                // Nowhere to send yet: what str0m holds stays in it.
                return;
            }
            match transport.connection.poll_output() {
                ConnectionOutput::Transmit(datagram) => {
                    if let Some(to) = transport.ice.selected() {
                        self.outbox.push(to, &datagram);
                        transport.bytes.1 += datagram.len() as u64;
                    }
                }
                ConnectionOutput::Event(ConnectionEvent::Connected { active }) => {
                    if transport.on_connected(active) {
                        tracing::debug!(transport = %transport.id, "connected");
                        self.on_transport_connected(now, slot);
                    } else {
                        return self.lose_transport(now, slot, "dtls-failed");
                    }
                }
                ConnectionOutput::Event(ConnectionEvent::Message { stream_id, binary, data }) => {
                    self.on_message(now, slot, stream_id, binary, &data);
                }
                ConnectionOutput::Event(ConnectionEvent::Closed(reason)) => {
                    return self.lose_transport(now, slot, reason);
                }
                ConnectionOutput::Timeout(at) => {
                    transport.connection_deadline = at;
                    self.arm(slot);
                    return;
                }
            }
        }
    }

    fn on_transport_connected(&mut self, now: Instant, slot: usize) {
        let transport = &mut self.transports[slot];
        transport.next_report = Some(now + REPORT_INTERVAL);
        transport.next_feedback = Some(now + PUBLISHER_TICK);
        // Contract §4.4: a transport that has just connected needs a keyframe for everything on it.
        for consumer in self.transports[slot].consumers.clone() {
            self.request_keyframe_for(now, consumer);
        }
    }

    /// Puts a transport's deadline into the timers.
    fn arm(&mut self, slot: usize) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        transport.wake = self.timers.arm(slot, transport.wake, transport.deadline());
    }

    fn fire_timers(&mut self, now: Instant) {
        while let Some(slot) = self.timers.pop_due(now) {
            if let Some(transport) = self.transports.get_mut(slot) {
                transport.wake = None;
                self.fire(now, slot);
            }
        }
    }

    fn fire(&mut self, now: Instant, slot: usize) {
        let due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        if due(self.transports[slot].ice.consent_deadline()) {
            return self.lose_transport(now, slot, "ice-timeout");
        }
        if due(self.transports[slot].connection_deadline) {
            self.transports[slot].connection_deadline = None;
            self.transports[slot].connection.handle_timeout(now);
            self.drain_connection(now, slot);
        }
        if self.transports.get(slot).is_some_and(|transport| due(transport.next_feedback)) {
            let publishes = !self.transports[slot].producers.is_empty();
            let tick = if publishes { PUBLISHER_TICK } else { SUBSCRIBER_TICK };
            self.transports[slot].next_feedback = Some(now + tick);
            self.tick(now, slot);
        }
        if self.transports.get(slot).is_some_and(|transport| due(transport.next_probe)) {
            self.send_probe(now, slot);
        }
        if self.transports.get(slot).is_some_and(|transport| due(transport.pacer.next())) {
            self.send_waiting(now, slot);
        }
        if self.transports.get(slot).is_some_and(|transport| due(transport.next_report)) {
            self.transports[slot].next_report = Some(now + REPORT_INTERVAL);
            self.report(now, slot);
        }
        self.arm(slot);
    }

    fn tell(&mut self, room: &RoomId, peer: &PeerId, kind: EventKind) {
        let event = Event { room: room.clone(), peer: peer.clone(), kind };
        self.messages.push_back(FromMedia::Event(event));
    }

    /// 128 random bits in hexadecimal: the text of a new id.
    fn new_id(&mut self) -> String {
        format!("{:016x}{:016x}", self.rng.next_u64(), self.rng.next_u64())
    }
}
