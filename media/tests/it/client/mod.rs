//! A client of the SFU, made of `media`'s own DTLS and SRTP, and the world that joins clients and core.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::control::{
    Action, Command, ConsumerInfo, Done, EventKind, FromMedia, MediaError, TransportDirection,
};
use common::ids::{PeerId, ProducerId, RoomId, TransportId};
use common::rtp_parameters::{
    DtlsParameters, DtlsRole, IceParameters, MediaKind, RtpCapabilities, RtpParameters, SctpStreamParameters,
};
use media::connection::{Connection, ConnectionEvent, ConnectionOutput};
use media::dtls::Identity;
use media::ice::{RemoteAddr, Via};
use media::sfu::{Counters, Input, Output, Sfu, SfuConfig};
use media::srtp::{self, OVERHEAD_MAX, Profile, SrtpContext};
use media::stun;

mod link;
mod packets;

pub use link::Link;
pub use packets::*;

struct Client {
    name: String,
    transport: TransportId,
    ice: IceParameters,
    address: SocketAddr,
    connection: Connection,
    srtp: Option<(SrtpContext, SrtpContext)>,
    rtp: Vec<Vec<u8>>,
    rtcp: Vec<Vec<u8>>,
    events: Vec<ConnectionEvent>,
    link: Option<Link>,
    /// When what stands in `rtp` came.
    arrivals: Vec<Instant>,
}

/// The core and everybody around it. Clients are named by index.
pub struct World {
    now: Instant,
    sfu: Sfu,
    capabilities: RtpCapabilities,
    clients: Vec<Client>,
    events: Vec<EventKind>,
    token: u64,
    consent: bool,
    next_check: Instant,
    parcels: Vec<(usize, Vec<u8>)>,
}

fn room() -> RoomId {
    RoomId::new("room").expect("an id")
}

impl World {
    pub fn new() -> Self {
        Self::of_worker(1)
    }

    pub fn of_worker(worker: u8) -> Self {
        Self::made_with(worker, 0, &[])
    }

    /// Only so many voices are forwarded at once.
    pub fn with_speakers(max_speakers: usize) -> Self {
        Self::made_with(1, max_speakers, &[])
    }

    /// Its router has AV1, too.
    pub fn with_av1() -> Self {
        Self::made_with(1, 0, &["AV1"])
    }

    fn made_with(worker: u8, max_speakers: usize, more_codecs: &[&str]) -> Self {
        let now = Instant::now();
        let config = SfuConfig {
            worker,
            announced: "192.0.2.1:44444".parse().expect("an address"),
            tcp: true,
            codecs: ["opus", "VP8", "H264", "VP9"].iter().chain(more_codecs).map(|it| (*it).into()).collect(),
            max_bitrate: None,
            max_speakers,
        };
        let mut world = Self {
            now,
            sfu: Sfu::new(config, [7; 32], now, Duration::from_secs(1_800_000_000)),
            capabilities: RtpCapabilities::default(),
            clients: Vec::new(),
            events: Vec::new(),
            token: 0,
            consent: true,
            next_check: now,
            parcels: Vec::new(),
        };
        let Done::Room { capabilities } = world.done("alice", Action::OpenRoom { codecs: None }) else {
            panic!("a room")
        };
        world.capabilities = capabilities;
        world
    }

    pub fn command(&mut self, who: &str, action: Action) -> Result<Done, MediaError> {
        self.token += 1;
        let peer = PeerId::new(who).expect("an id");
        let command = Command { token: self.token, room: room(), peer, action };
        self.sfu.handle_input(self.now, Input::Command(command));
        self.drain().expect("every command is answered")
    }

    pub fn done(&mut self, who: &str, action: Action) -> Done {
        self.command(who, action).expect("the command succeeds")
    }

    pub fn client_dtls(&self) -> DtlsParameters {
        DtlsParameters { role: DtlsRole::Client, fingerprints: vec![Identity::of_process().fingerprint()] }
    }

    pub fn client(
        &mut self,
        name: &str,
        direction: TransportDirection,
        dtls: Option<DtlsParameters>,
    ) -> usize {
        self.done(name, Action::AddPeer);
        let action = Action::CreateTransport { direction, force_tcp: false };
        let Done::Transport(info) = self.done(name, action) else { panic!("a transport") };
        let dtls = dtls.unwrap_or_else(|| self.client_dtls());
        self.done(name, Action::ConnectTransport { transport: info.id.clone(), dtls });
        let mut connection = Connection::new(self.now, &Identity::of_process());
        let server = DtlsParameters { role: DtlsRole::Server, ..info.dtls_parameters };
        connection.connect(self.now, &server).expect("first connect");
        let index = self.clients.len();
        self.clients.push(Client {
            name: name.into(),
            transport: info.id,
            ice: info.ice_parameters,
            address: SocketAddr::from(([198, 51, 100, 1], 5000 + index as u16)),
            connection,
            srtp: None,
            rtp: Vec::new(),
            rtcp: Vec::new(),
            events: Vec::new(),
            link: None,
            arrivals: Vec::new(),
        });
        self.check(index);
        index
    }

    /// Alice sends, Bob receives.
    pub fn connected_pair(&mut self) -> (usize, usize) {
        let alice = self.client("alice", TransportDirection::Send, None);
        let bob = self.client("bob", TransportDirection::Recv, None);
        self.pass(Duration::from_secs(1));
        assert!(self.is_connected(alice) && self.is_connected(bob));
        (alice, bob)
    }

    pub fn is_connected(&self, client: usize) -> bool {
        self.clients[client].srtp.is_some()
    }

    pub fn transport_id(&self, client: usize) -> TransportId {
        self.clients[client].transport.clone()
    }

    /// Sends an ICE check.
    fn check(&mut self, client: usize) {
        let ice = &self.clients[client].ice;
        let mut request = Vec::new();
        let username = format!("{}:them", ice.username_fragment);
        stun::write_request(&mut request, &[1; 12], &username, &stun::key(&ice.password));
        self.deliver(client, request);
    }

    pub fn restart_ice(&mut self, client: usize) {
        let (name, transport) = (self.clients[client].name.clone(), self.clients[client].transport.clone());
        let Done::Ice(ice) = self.done(&name, Action::RestartIce { transport }) else {
            panic!("credentials")
        };
        self.clients[client].ice = ice;
    }

    pub fn move_to_new_address(&mut self, client: usize) {
        self.clients[client].address.set_port(9999);
        self.check(client);
    }

    fn deliver(&mut self, client: usize, mut datagram: Vec<u8>) {
        let source = RemoteAddr { via: Via::Udp, addr: self.clients[client].address };
        self.sfu.handle_input(self.now, Input::Datagram { source, data: &mut datagram });
        assert!(self.drain().is_none());
    }

    /// Moves everything that waits, until nobody has anything to say.
    fn drain(&mut self) -> Option<Result<Done, MediaError>> {
        let mut result = None;
        loop {
            let mut arrived: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
            loop {
                match self.sfu.poll_output() {
                    Output::Transmit(outbox) => {
                        arrived.extend(outbox.iter().map(|(to, bytes)| (to.addr, bytes.to_vec())));
                        outbox.clear();
                    }
                    Output::Message(FromMedia::Reply(reply)) => result = Some(reply.result),
                    Output::Message(FromMedia::Event(event)) => self.events.push(event.kind),
                    Output::Message(FromMedia::Load { .. } | FromMedia::Lost) => {
                        unreachable!("only the shell tells of its load and its end")
                    }
                    Output::Piped { to, parcels } => self.parcels.push((to, std::mem::take(parcels))),
                    Output::Timeout(_) => break,
                }
            }
            for (to, datagram) in arrived {
                let client = self.clients.iter_mut().find(|client| client.address == to);
                match client {
                    Some(Client { link: Some(link), .. }) => link.push(self.now, datagram),
                    Some(client) => client.receive(self.now, datagram),
                    None => {}
                }
            }
            let mut said = Vec::new();
            for client in &mut self.clients {
                said.extend(client.poll().into_iter().map(|datagram| (client.address, datagram)));
            }
            if said.is_empty() {
                return result;
            }
            for (addr, mut data) in said {
                let source = RemoteAddr { via: Via::Udp, addr };
                self.sfu.handle_input(self.now, Input::Datagram { source, data: &mut data });
            }
        }
    }

    /// What it says to other workers, with their numbers.
    pub fn parcels(&mut self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.parcels)
    }

    /// Another worker says something.
    pub fn hear(&mut self, from: usize, parcel: &[u8]) {
        self.sfu.handle_input(self.now, Input::Piped { from, parcel });
        assert!(self.drain().is_none());
    }

    pub fn held(&self) -> BTreeMap<&'static str, usize> {
        self.sfu.held().into()
    }

    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(5);
            if self.consent && self.now >= self.next_check {
                self.next_check = self.now + Duration::from_secs(5);
                (0..self.clients.len()).for_each(|client| self.check(client));
            }
            self.sfu.handle_input(self.now, Input::Timeout);
            for client in &mut self.clients {
                client.connection.handle_timeout(self.now);
            }
            assert!(self.drain().is_none());
        }
    }

    /// What the core sends to a client takes its time from now on.
    pub fn put_behind_link(&mut self, client: usize, bps: f64) {
        self.clients[client].link = Some(Link::new(bps, self.now));
    }

    pub fn link(&mut self, client: usize) -> &mut Link {
        self.clients[client].link.as_mut().expect("behind a link")
    }

    /// One millisecond, with what links deliver in it.
    pub fn pass_millisecond(&mut self) {
        self.now += Duration::from_millis(1);
        if self.now >= self.next_check {
            self.next_check = self.now + Duration::from_secs(5);
            (0..self.clients.len()).for_each(|client| self.check(client));
        }
        for client in &mut self.clients {
            while let Some((at, datagram)) = client.link.as_mut().and_then(|link| link.pop(self.now)) {
                client.receive(at, datagram);
            }
            client.connection.handle_timeout(self.now);
        }
        self.sfu.handle_input(self.now, Input::Timeout);
        assert!(self.drain().is_none());
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    /// Like `received`, each with its arrival.
    pub fn received_timed(&mut self, client: usize) -> Vec<(Instant, Vec<u8>)> {
        let client = &mut self.clients[client];
        std::mem::take(&mut client.arrivals).into_iter().zip(std::mem::take(&mut client.rtp)).collect()
    }

    pub fn pass_without_consent(&mut self, time: Duration) {
        self.consent = false;
        self.now += time;
        self.sfu.handle_input(self.now, Input::Timeout);
        assert!(self.drain().is_none());
    }

    pub fn events(&self) -> &[EventKind] {
        &self.events
    }

    pub fn produce(
        &mut self,
        client: usize,
        kind: MediaKind,
        rtp: RtpParameters,
        paused: bool,
    ) -> ProducerId {
        let (name, transport) = (self.clients[client].name.clone(), self.clients[client].transport.clone());
        let Done::Producer { id } = self.done(&name, Action::Produce { transport, kind, rtp, paused }) else {
            panic!("a producer")
        };
        id
    }

    pub fn consume(&mut self, client: usize, producer: &ProducerId) -> ConsumerInfo {
        let (name, transport) = (self.clients[client].name.clone(), self.clients[client].transport.clone());
        let action = Action::Consume {
            transport,
            producer: producer.clone(),
            capabilities: self.capabilities.clone(),
        };
        let Done::Consumer(info) = self.done(&name, action) else { panic!("a consumer") };
        *info
    }

    pub fn send_rtp(&mut self, client: usize, packet: &[u8]) {
        let sequence = u64::from(u16::from_be_bytes([packet[2], packet[3]]));
        let sealed = self.seal_rtp(client, packet, sequence);
        self.deliver(client, sealed);
    }

    /// Seals a packet as the client would, without sending it.
    pub fn seal_rtp(&mut self, client: usize, packet: &[u8], sequence: u64) -> Vec<u8> {
        let (_, outbound) = self.clients[client].srtp.as_mut().expect("connected");
        let mut slot = packet.to_vec();
        slot.resize(packet.len() + OVERHEAD_MAX, 0);
        let length = outbound.seal_rtp(&mut slot, packet.len(), sequence).expect("sealed");
        slot.truncate(length);
        slot
    }

    /// Time that the core takes for these datagrams; what it sends is thrown away.
    pub fn time_forwarding(&mut self, client: usize, datagrams: Vec<Vec<u8>>) -> Duration {
        let source = RemoteAddr { via: Via::Udp, addr: self.clients[client].address };
        let start = Instant::now();
        for mut data in datagrams {
            self.sfu.handle_input(self.now, Input::Datagram { source, data: &mut data });
            while let Output::Transmit(outbox) = self.sfu.poll_output() {
                outbox.clear();
            }
        }
        start.elapsed()
    }

    pub fn send_rtcp(&mut self, client: usize, compound: &[u8]) {
        let sealed = self.seal_rtcp(client, compound);
        self.deliver(client, sealed);
    }

    /// Seals a compound packet as the client would, without sending it.
    pub fn seal_rtcp(&mut self, client: usize, compound: &[u8]) -> Vec<u8> {
        let (_, outbound) = self.clients[client].srtp.as_mut().expect("connected");
        let mut slot = compound.to_vec();
        slot.resize(compound.len() + OVERHEAD_MAX, 0);
        let length = outbound.seal_rtcp(&mut slot, compound.len()).expect("sealed");
        slot.truncate(length);
        slot
    }

    /// Lets a datagram arrive from anywhere.
    pub fn throw(&mut self, addr: SocketAddr, mut data: Vec<u8>) {
        let source = RemoteAddr { via: Via::Udp, addr };
        self.sfu.handle_input(self.now, Input::Datagram { source, data: &mut data });
        assert!(self.drain().is_none());
    }

    pub fn address(&self, client: usize) -> SocketAddr {
        self.clients[client].address
    }

    pub fn ice(&self, client: usize) -> &IceParameters {
        &self.clients[client].ice
    }

    pub fn counters(&self) -> Counters {
        self.sfu.counters()
    }

    /// Lists that the network fills: name, length and bound.
    pub fn queues(&self) -> [(&'static str, usize, usize); 3] {
        self.sfu.queues()
    }

    pub fn transport_count(&self) -> usize {
        self.sfu.transport_count()
    }

    /// RTP that has arrived since the last call, opened.
    pub fn received(&mut self, client: usize) -> Vec<Vec<u8>> {
        self.clients[client].arrivals.clear();
        std::mem::take(&mut self.clients[client].rtp)
    }

    pub fn received_rtcp(&mut self, client: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.clients[client].rtcp)
    }

    pub fn keyframe_requests(&mut self, client: usize, wanted: u32) -> usize {
        let mut count = 0;
        for compound in self.received_rtcp(client) {
            media::feedback::parse(&compound, |item| {
                count += usize::from(item == media::feedback::Item::KeyframeRequest { ssrc: wanted });
            });
        }
        count
    }

    pub fn open_stream(&mut self, client: usize, sctp: &SctpStreamParameters) {
        self.clients[client].connection.open_stream(sctp);
    }

    pub fn send_message(&mut self, client: usize, stream: u16, binary: bool, data: &[u8]) -> bool {
        self.clients[client].connection.send(stream, binary, data)
    }

    pub fn connection_events(&self, client: usize) -> &[ConnectionEvent] {
        &self.clients[client].events
    }

    /// From a stranger's address and from everybody's own.
    pub fn throw_random_bytes(&mut self, count: u32) {
        let mut state = 0x2545_f491u32;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        let mut addresses = vec![SocketAddr::from(([203, 0, 113, 9], 1))];
        addresses.extend(self.clients.iter().map(|client| client.address));
        for _ in 0..count {
            let addr = addresses[random() as usize % addresses.len()];
            let length = random() as usize % 200;
            let mut data: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            let source = RemoteAddr { via: Via::Udp, addr };
            self.sfu.handle_input(self.now, Input::Datagram { source, data: &mut data });
        }
        assert!(self.drain().is_none());
    }
}

impl Client {
    fn receive(&mut self, now: Instant, mut datagram: Vec<u8>) {
        match datagram.first() {
            Some(20..=63) => self.connection.handle_datagram(now, &datagram),
            Some(128..=191) => {
                let (inbound, _) = self.srtp.as_mut().expect("media only after DTLS");
                if media::rtp::is_rtcp(&datagram) {
                    let length = inbound.open_rtcp(&mut datagram).expect("opens");
                    self.rtcp.push(datagram[..length].to_vec());
                } else {
                    let opened = inbound.open_rtp(&mut datagram).expect("opens");
                    self.rtp.push(datagram[..opened.len].to_vec());
                    self.arrivals.push(now);
                }
            }
            _ => {}
        }
    }

    fn poll(&mut self) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        loop {
            match self.connection.poll_output() {
                ConnectionOutput::Transmit(datagram) => said.push(datagram),
                ConnectionOutput::Event(ConnectionEvent::Connected { active }) => {
                    let keys = self.connection.keys().expect("keys");
                    let profile = Profile::try_from(keys.profile).expect("a profile");
                    self.srtp = Some(srtp::contexts(profile, &keys.material, active).expect("contexts"));
                }
                ConnectionOutput::Event(event) => self.events.push(event),
                ConnectionOutput::Timeout(_) => return said,
            }
        }
    }
}
