//! The core beside a small model of what RFC 8656 and RFC 6062 promise: random steps on virtual time, and after each one
//! everything that can be seen of both is the same.
//!
//! The model knows no wire format, no timer and no table: lists of things that end at a second. Where the relay may choose
//! (which port, which number) the model takes the choice and checks that it was free.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use turn::relay::{
    ClientAddr, ConnectionId, Destination, Family, Input, Output, PeerConnectionId, Protocol, Relay,
    RelayConfig, RelayIp, RelayedAddr, Transport,
};
use turn::stun::attributes::{Kind, read_xor_address};
use turn::stun::header::Method;
use turn::stun::{Message, Writer};

use crate::client::{Client, UNIX, addr, channel_data, code};
use crate::core::{World, config, udp};

const PEERS: [&str; 5] =
    ["8.8.8.8:5000", "8.8.8.8:5001", "8.8.4.4:5000", "[2606:4700::1]:5000", "10.9.9.9:5000"];
/// The last one is a private address.
const DENIED: usize = 4;
const CHANNELS: [u16; 3] = [0x4000, 0x4001, 0x4002];
/// Over datagrams and over streams, of two users.
const CLIENTS: usize = 4;
const USERS: [&str; CLIENTS] = ["alice", "alice", "bob", "bob"];
const USER_QUOTA: usize = 2;
const TOTAL_QUOTA: usize = 3;
const PORTS: std::ops::RangeInclusive<u16> = 50_000..=50_003;
/// The numbers of the two RFCs, in seconds.
const PERMISSION: u64 = 300;
const CHANNEL: u64 = 600;
const RESERVATION: u64 = 30;
const CONNECTION: u64 = 30;
const LIFETIMES: (u64, u64) = (600, 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    V4,
    V6,
    Both,
    Even,
    EvenAndNext,
    Tcp,
    TcpBoth,
    /// With this one of the tokens there ever were.
    Token(usize),
}

#[derive(Debug, Clone)]
enum Step {
    Allocate(usize, Wish, u32),
    Refresh(usize, Option<Family>, u32),
    Permit(usize, usize),
    Bind(usize, usize, usize),
    Pass(u64),
    Connect(usize, usize),
    /// What became of one of the connections that are being made.
    Connected(usize, bool),
    Accepted(usize, usize),
    /// By this user.
    ConnectionBind(usize, usize),
    PeerGone(usize),
    /// The client's connection, or one of its data connections.
    ClientGone(usize),
    DataGone(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (who, peer, any) = (0..CLIENTS, 0..PEERS.len(), 0..8usize);
    let family = prop_oneof![Just(None), Just(Some(Family::V4)), Just(Some(Family::V6))];
    let seconds = prop_oneof![Just(0u32), Just(600), 0..5000u32];
    let wish = prop_oneof![
        Just(Wish::V4),
        Just(Wish::V6),
        Just(Wish::Both),
        Just(Wish::Even),
        Just(Wish::EvenAndNext),
        Just(Wish::Tcp),
        Just(Wish::TcpBoth),
        any.clone().prop_map(Wish::Token),
    ];
    prop_oneof![
        4 => (who.clone(), wish, seconds.clone()).prop_map(|(who, wish, s)| Step::Allocate(who, wish, s)),
        2 => (who.clone(), family, seconds).prop_map(|(who, family, s)| Step::Refresh(who, family, s)),
        3 => (who.clone(), peer.clone()).prop_map(|(who, peer)| Step::Permit(who, peer)),
        3 => (who.clone(), 0..CHANNELS.len(), peer.clone()).prop_map(|(who, c, peer)| Step::Bind(who, c, peer)),
        2 => prop_oneof![0..60u64, 0..400u64].prop_map(Step::Pass),
        3 => (who.clone(), peer.clone()).prop_map(|(who, peer)| Step::Connect(who, peer)),
        3 => (any.clone(), prop::bool::weighted(0.8)).prop_map(|(which, well)| Step::Connected(which, well)),
        3 => (who.clone(), peer).prop_map(|(who, peer)| Step::Accepted(who, peer)),
        3 => (any.clone(), who.clone()).prop_map(|(which, who)| Step::ConnectionBind(which, who)),
        1 => any.clone().prop_map(Step::PeerGone),
        1 => who.prop_map(Step::ClientGone),
        1 => any.prop_map(Step::DataGone),
    ]
}

fn peer(index: usize) -> SocketAddr {
    addr(PEERS[index])
}

fn family(index: usize) -> Family {
    Family::of(peer(index).ip())
}

// ---- the model ----

#[derive(Debug, Default)]
struct Model {
    now: u64,
    allocations: BTreeMap<usize, Allocation>,
    reservations: Vec<Reservation>,
    connections: BTreeMap<PeerConnectionId, Connection>,
}

#[derive(Debug)]
struct Allocation {
    is_tcp: bool,
    sides: BTreeMap<Family, Side>,
    permissions: BTreeMap<IpAddr, u64>,
    channels: BTreeMap<u16, (usize, u64)>,
}

#[derive(Debug)]
struct Side {
    relayed: RelayedAddr,
    until: u64,
}

#[derive(Debug)]
struct Reservation {
    token: Vec<u8>,
    user: &'static str,
    relayed: RelayedAddr,
    until: u64,
}

#[derive(Debug)]
struct Connection {
    owner: usize,
    peer: usize,
    is_there: bool,
    /// `None` once a data connection belongs to it.
    until: Option<u64>,
}

impl Model {
    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        let now = self.now;
        let ended: Vec<_> =
            self.sides().filter(|(_, _, side)| side.until <= now).map(|(w, f, _)| (w, f)).collect();
        ended.into_iter().for_each(|(who, family)| self.end_side(who, family));
        self.reservations.retain(|reservation| reservation.until > now);
        self.connections.retain(|_, connection| connection.until.is_none_or(|until| until > now));
        for allocation in self.allocations.values_mut() {
            allocation.permissions.retain(|_, until| *until > now);
            allocation.channels.retain(|_, (_, until)| *until > now);
        }
    }

    fn sides(&self) -> impl Iterator<Item = (usize, Family, &Side)> {
        self.allocations
            .iter()
            .flat_map(|(who, a)| a.sides.iter().map(|(family, side)| (*who, *family, side)))
    }

    fn end_side(&mut self, who: usize, of: Family) {
        let Some(allocation) = self.allocations.get_mut(&who) else { return };
        allocation.sides.remove(&of);
        allocation.permissions.retain(|ip, _| Family::of(*ip) != of);
        allocation.channels.retain(|_, (peer, _)| family(*peer) != of);
        self.connections.retain(|_, connection| connection.owner != who || family(connection.peer) != of);
        if allocation.sides.is_empty() {
            self.allocations.remove(&who);
        }
    }

    fn end(&mut self, who: usize) {
        Family::ALL.into_iter().for_each(|family| self.end_side(who, family));
    }

    fn is_free(&self, relayed: RelayedAddr) -> bool {
        PORTS.contains(&relayed.port)
            && self.sides().all(|(_, _, side)| side.relayed != relayed)
            && self.reservations.iter().all(|reservation| reservation.relayed != relayed)
    }

    fn has_free(&self, family: Family, protocol: Protocol, wish: Wish) -> bool {
        PORTS
            .map(|port| RelayedAddr { family, host: 0, protocol, port })
            .any(|relayed| self.fits(relayed, wish))
    }

    fn fits(&self, relayed: RelayedAddr, wish: Wish) -> bool {
        let is_even = relayed.port.is_multiple_of(2);
        self.is_free(relayed)
            && match wish {
                Wish::Even => is_even,
                Wish::EvenAndNext => is_even && self.is_free(relayed.at_port(relayed.port + 1)),
                _ => true,
            }
    }

    /// The code of an Allocate request, and the families that it gives.
    fn allocate(&self, who: usize, wish: Wish, tokens: &[Vec<u8>]) -> (u16, Vec<Family>) {
        let refused = |code| (code, vec![]);
        let user = USERS[who];
        if self.allocations.contains_key(&who) {
            return refused(437);
        }
        let is_tcp = matches!(wish, Wish::Tcp | Wish::TcpBoth);
        if is_tcp && !is_stream(who) {
            return refused(400);
        }
        if let Wish::Token(which) = wish {
            let token = tokens.get(which).cloned().unwrap_or(vec![0; 8]);
            let found = self.reservations.iter().any(|r| r.token == token && r.user == user);
            return if found { (0, vec![Family::V4]) } else { refused(508) };
        }
        let reserved = self.reservations.iter().filter(|reservation| reservation.user == user).count();
        if self.allocations.keys().filter(|who| USERS[**who] == user).count() + reserved >= USER_QUOTA {
            return refused(486);
        }
        if self.allocations.len() + self.reservations.len() >= TOTAL_QUOTA {
            return refused(508);
        }
        let families = match wish {
            Wish::V6 => vec![Family::V6],
            Wish::Both | Wish::TcpBoth => Family::ALL.to_vec(),
            _ => vec![Family::V4],
        };
        let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
        let had: Vec<_> =
            families.into_iter().filter(|family| self.has_free(*family, protocol, wish)).collect();
        if had.is_empty() { refused(508) } else { (0, had) }
    }

    fn refresh(&mut self, who: usize, family: Option<Family>, seconds: u32) -> u16 {
        let Some(allocation) = self.allocations.get_mut(&who) else { return 437 };
        let meant: Vec<_> = match family {
            Some(family) => allocation.sides.keys().copied().filter(|own| *own == family).collect(),
            None => allocation.sides.keys().copied().collect(),
        };
        if meant.is_empty() {
            return 443;
        }
        for family in meant {
            if seconds == 0 {
                self.end_side(who, family);
            } else if let Some(side) =
                self.allocations.get_mut(&who).and_then(|allocation| allocation.sides.get_mut(&family))
            {
                side.until = self.now + granted(seconds);
            }
        }
        0
    }

    /// Whether an allocation may talk to a peer at all.
    fn check_peer(allocation: &Allocation, index: usize) -> u16 {
        match allocation.sides.contains_key(&family(index)) {
            false => 443,
            true if index == DENIED => 403,
            true => 0,
        }
    }

    fn permit(&mut self, who: usize, index: usize) -> u16 {
        let Some(allocation) = self.allocations.get_mut(&who) else { return 437 };
        let code = Self::check_peer(allocation, index);
        if code == 0 {
            allocation.permissions.insert(peer(index).ip(), self.now + PERMISSION);
        }
        code
    }

    fn bind(&mut self, who: usize, channel: u16, index: usize) -> u16 {
        let Some(allocation) = self.allocations.get_mut(&who) else { return 437 };
        if allocation.is_tcp {
            return 400;
        }
        let code = Self::check_peer(allocation, index);
        if code != 0 {
            return code;
        }
        if allocation.channels.iter().any(|(other, (to, _))| (*other == channel) != (*to == index)) {
            return 400;
        }
        allocation.channels.insert(channel, (index, self.now + CHANNEL));
        allocation.permissions.insert(peer(index).ip(), self.now + PERMISSION);
        0
    }

    fn has_connection(&self, who: usize, index: usize) -> bool {
        self.connections.values().any(|connection| connection.owner == who && connection.peer == index)
    }

    fn connect(&self, who: usize, index: usize) -> u16 {
        match self.allocations.get(&who).filter(|allocation| allocation.is_tcp) {
            None => 437,
            Some(allocation) => match Self::check_peer(allocation, index) {
                0 if self.has_connection(who, index) => 446,
                code => code,
            },
        }
    }

    fn is_accepted(&self, who: usize, index: usize) -> bool {
        self.allocations.get(&who).is_some_and(|allocation| {
            allocation.is_tcp
                && allocation.permissions.contains_key(&peer(index).ip())
                && !self.has_connection(who, index)
        })
    }

    /// The sockets, the connections, and what would happen to each packet that there can be.
    fn seen(&self) -> Seen {
        let mut seen = Seen {
            allocated: self.allocations.keys().copied().collect(),
            sockets: self.sides().map(|(_, _, side)| side.relayed).collect(),
            connections: self.connections.keys().copied().collect(),
            ..Seen::default()
        };
        seen.sockets.extend(self.reservations.iter().map(|reservation| reservation.relayed));
        for (who, allocation) in self.allocations.iter().filter(|(_, allocation)| !allocation.is_tcp) {
            for index in (0..PEERS.len()).filter(|i| allocation.permissions.contains_key(&peer(*i).ip())) {
                let Some(side) = allocation.sides.get(&family(index)) else { continue };
                let channel = allocation.channels.iter().find(|(_, (to, _))| *to == index).map(|(c, _)| *c);
                seen.down.insert((*who, index), channel);
                seen.sent.insert((*who, index), side.relayed);
                if let Some(channel) = channel {
                    seen.channelled.insert((*who, channel), (side.relayed, index));
                }
            }
        }
        seen
    }
}

fn granted(seconds: u32) -> u64 {
    u64::from(seconds).clamp(LIFETIMES.0, LIFETIMES.1)
}

/// Everything that can be seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    allocated: BTreeSet<usize>,
    sockets: BTreeSet<RelayedAddr>,
    connections: BTreeSet<PeerConnectionId>,
    /// A peer's packet reaches a client: over a channel, or in a Data indication.
    down: BTreeMap<(usize, usize), Option<u16>>,
    /// A Send indication leaves from a socket.
    sent: BTreeMap<(usize, usize), RelayedAddr>,
    /// ChannelData leaves from a socket to a peer.
    channelled: BTreeMap<(usize, u16), (RelayedAddr, usize)>,
}

// ---- the relay ----

struct Real {
    world: World,
    clients: Vec<(ClientAddr, Client)>,
    sockets: BTreeSet<RelayedAddr>,
    connections: BTreeSet<PeerConnectionId>,
    /// The one that this client's request began.
    begun: Option<PeerConnectionId>,
    kept: Option<PeerConnectionId>,
    data: BTreeMap<PeerConnectionId, ClientAddr>,
    next_connection: u64,
    /// Send indications to each peer.
    sends: Vec<Vec<u8>>,
}

fn is_stream(who: usize) -> bool {
    who % 2 == 1
}

fn address_of(who: usize) -> ClientAddr {
    let at = udp(&format!("203.0.113.{}:1000", 10 + who));
    let transport = Transport::Tcp(ConnectionId(who as u64));
    if is_stream(who) { ClientAddr { transport, ..at } } else { at }
}

impl Real {
    fn new() -> Self {
        let mut config = RelayConfig {
            ports: PORTS,
            user_quota: USER_QUOTA,
            total_quota: TOTAL_QUOTA,
            stranger_answers_per_second: u32::MAX,
            ..config()
        };
        config.relay_ips.push(RelayIp::direct(addr("[2606:4700:5::5]:0").ip()));
        let clients = USERS.iter().enumerate();
        Self {
            world: World::new(config),
            clients: clients
                .map(|(who, user)| (address_of(who), Client::new(user, UNIX + 864_000)))
                .collect(),
            sockets: BTreeSet::new(),
            connections: BTreeSet::new(),
            begun: None,
            kept: None,
            data: BTreeMap::new(),
            next_connection: 1000,
            sends: PEERS.map(|to| Client::new("any", UNIX).send(addr(to), b"x")).to_vec(),
        }
    }

    fn relay(&mut self) -> (&mut Relay, Instant) {
        (&mut self.world.relay, self.world.now)
    }

    /// Carries an input out as a shell does; what is left to look at.
    fn input(&mut self, input: Input<'_>) -> Vec<Output> {
        let (relay, now) = self.relay();
        relay.handle_input(now, input);
        let mut outputs = Vec::new();
        loop {
            match self.world.relay.poll_output() {
                Output::Timeout(at) => {
                    assert!(at > now, "what is due was done");
                    return outputs;
                }
                Output::OpenRelay { relayed, .. } => {
                    assert!(self.sockets.insert(relayed), "it is open already");
                    self.world.relay.handle_input(now, Input::RelayBound { relayed });
                }
                Output::CloseRelay { relayed } => assert!(self.sockets.remove(&relayed), "it is not open"),
                Output::ConnectPeer { connection, .. } => {
                    self.begun = Some(connection);
                    assert!(self.connections.insert(connection), "a number twice");
                }
                Output::KeepPeer { connection } => {
                    self.kept = Some(connection);
                    assert!(self.connections.insert(connection), "a number twice");
                }
                Output::ClosePeer { connection } => {
                    assert!(self.connections.remove(&connection), "it is not there");
                    self.data.remove(&connection);
                }
                Output::Splice { client, connection } => {
                    self.data.insert(connection, client);
                }
                output => outputs.push(output),
            }
        }
    }

    fn ask_from(&mut self, at: ClientAddr, data: &[u8]) -> Option<Vec<u8>> {
        let outputs = self.input(Input::FromClient { client: at, data });
        outputs.into_iter().find_map(|output| match output {
            Output::Reply { client, data } if client == at => Some(data),
            _ => None,
        })
    }

    /// The answer to a request with fresh credentials.
    fn ask(&mut self, who: usize, method: Method, fill: impl FnOnce(&mut Writer)) -> Option<Vec<u8>> {
        let (at, client) = &mut self.clients[who];
        let at = *at;
        self.world.learn_nonce(at, client);
        let request = client.request(method, fill);
        self.ask_from(at, &request)
    }

    fn seen(&mut self) -> Seen {
        let mut seen = Seen {
            allocated: (0..CLIENTS)
                .filter(|who| self.world.relay.has_allocation(&address_of(*who)))
                .collect(),
            sockets: self.sockets.clone(),
            connections: self.connections.clone(),
            ..Seen::default()
        };
        assert_eq!(self.world.relay.allocations(), seen.allocated.len());
        assert_eq!(self.world.relay.peer_connections(), seen.connections.len());
        for who in 0..CLIENTS {
            let at = address_of(who);
            for index in 0..PEERS.len() {
                let data = self.sends[index].clone();
                if let Some((from, to)) = self.leaves(at, &data) {
                    assert_eq!(to, peer(index));
                    seen.sent.insert((who, index), from);
                }
            }
            for channel in CHANNELS {
                if let Some((from, to)) = self.leaves(at, &channel_data(channel, b"x")) {
                    let index = (0..PEERS.len()).find(|index| peer(*index) == to).expect("one of ours");
                    seen.channelled.insert((who, channel), (from, index));
                }
            }
        }
        for relayed in self.sockets.clone().into_iter().filter(|relayed| relayed.protocol == Protocol::Udp) {
            for index in (0..PEERS.len()).filter(|index| family(*index) == relayed.family) {
                for output in self.input(Input::FromPeer { relayed, peer: peer(index), data: b"x" }) {
                    let Output::Forward { to: Destination::Client { client, prefix, .. }, .. } = output
                    else {
                        panic!("{output:?}")
                    };
                    let who = (0..CLIENTS).find(|who| address_of(*who) == client).expect("one of ours");
                    let channel = (prefix.len() == 4).then(|| u16::from_be_bytes([prefix[0], prefix[1]]));
                    assert_eq!(seen.down.insert((who, index), channel), None, "twice");
                }
            }
        }
        seen
    }

    fn leaves(&mut self, at: ClientAddr, data: &[u8]) -> Option<(RelayedAddr, SocketAddr)> {
        match &self.input(Input::FromClient { client: at, data })[..] {
            [] => None,
            [Output::Forward { to: Destination::Peer { from, peer }, .. }] => Some((*from, *peer)),
            other => panic!("{other:?}"),
        }
    }
}

// ---- both ----

struct Both {
    model: Model,
    real: Real,
    tokens: Vec<Vec<u8>>,
}

fn nth<T: Copy>(all: impl Iterator<Item = T>, which: usize) -> Option<T> {
    let all: Vec<T> = all.collect();
    (!all.is_empty()).then(|| all[which % all.len()])
}

impl Both {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Allocate(who, wish, seconds) => self.allocate(who, wish, seconds),
            Step::Refresh(who, family, seconds) => {
                let answer = self.real.ask(who, Method::REFRESH, |w| {
                    w.number(Kind::LIFETIME, seconds);
                    if let Some(family) = family {
                        w.attribute(Kind::REQUESTED_ADDRESS_FAMILY, &[family.to_wire(), 0, 0, 0]);
                    }
                });
                assert_eq!(answer.map(|a| code(&a)), Some(self.model.refresh(who, family, seconds)));
            }
            Step::Permit(who, index) => {
                let answer = self.real.ask(who, Method::CREATE_PERMISSION, |w| {
                    w.xor_address(Kind::XOR_PEER_ADDRESS, peer(index));
                });
                assert_eq!(answer.map(|a| code(&a)), Some(self.model.permit(who, index)));
            }
            Step::Bind(who, channel, index) => {
                let channel = CHANNELS[channel];
                let answer = self.real.ask(who, Method::CHANNEL_BIND, |w| {
                    w.number(Kind::CHANNEL_NUMBER, u32::from(channel) << 16)
                        .xor_address(Kind::XOR_PEER_ADDRESS, peer(index));
                });
                assert_eq!(answer.map(|a| code(&a)), Some(self.model.bind(who, channel, index)));
            }
            Step::Pass(seconds) => {
                self.model.pass(seconds);
                self.real.world.now += Duration::from_secs(seconds);
                self.real.input(Input::Timeout);
            }
            Step::Connect(who, index) => self.connect(who, index),
            Step::Connected(which, well) => self.connected(which, well),
            Step::Accepted(who, index) => self.accepted(who, index),
            Step::ConnectionBind(which, who) => self.connection_bind(which, who),
            Step::PeerGone(which) => {
                let there = self.model.connections.iter().filter(|(_, connection)| connection.is_there);
                let Some(connection) = nth(there.map(|(id, _)| *id), which) else { return };
                self.model.connections.remove(&connection);
                self.real.connections.remove(&connection);
                self.real.data.remove(&connection);
                self.real.input(Input::PeerGone { connection });
            }
            Step::ClientGone(who) => {
                self.model.end(who);
                self.real.input(Input::ClientGone { client: address_of(who) });
            }
            Step::DataGone(which) => {
                let Some((connection, client)) = nth(self.real.data.iter().map(|(c, at)| (*c, *at)), which)
                else {
                    return;
                };
                self.model.connections.remove(&connection);
                self.real.input(Input::ClientGone { client });
            }
        }
        assert_eq!(self.real.seen(), self.model.seen(), "after {step:?}");
    }

    fn allocate(&mut self, who: usize, wish: Wish, seconds: u32) {
        let token = match wish {
            Wish::Token(which) => Some(self.tokens.get(which).cloned().unwrap_or(vec![0; 8])),
            _ => None,
        };
        let is_tcp = matches!(wish, Wish::Tcp | Wish::TcpBoth);
        let answer = self.real.ask(who, Method::ALLOCATE, |w| {
            w.attribute(Kind::REQUESTED_TRANSPORT, &[if is_tcp { 6 } else { 17 }, 0, 0, 0]);
            w.number(Kind::LIFETIME, seconds);
            let more: Option<(Kind, &[u8])> = match wish {
                Wish::V4 | Wish::Tcp | Wish::Token(_) => None,
                Wish::V6 => Some((Kind::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0])),
                Wish::Both | Wish::TcpBoth => Some((Kind::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])),
                Wish::Even => Some((Kind::EVEN_PORT, &[0])),
                Wish::EvenAndNext => Some((Kind::EVEN_PORT, &[0x80])),
            };
            if let Some((kind, value)) = more {
                w.attribute(kind, value);
            }
            if let Some(token) = &token {
                w.attribute(Kind::RESERVATION_TOKEN, token);
            }
        });
        let answer = answer.expect("an answer");
        let (expected, families) = self.model.allocate(who, wish, &self.tokens);
        assert_eq!(code(&answer), expected, "{wish:?} by {who}: {:?}", self.model);
        if expected != 0 {
            return;
        }
        let message = Message::parse(&answer).expect("well-formed");
        let lifetime = u64::from(message.number(Kind::LIFETIME).expect("granted"));
        assert_eq!(lifetime, granted(seconds));
        assert_eq!(message.attribute(Kind::ADDRESS_ERROR_CODE).is_some(), {
            matches!(wish, Wish::Both | Wish::TcpBoth) && families.len() == 1
        });
        let shown = message.attributes().filter(|a| a.kind == Kind::XOR_RELAYED_ADDRESS);
        let shown = shown.map(|a| read_xor_address(a.value, message.transaction_id()).expect("an address"));
        let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
        let relayed: Vec<_> = shown.map(|at| RelayedAddr { protocol, ..RelayedAddr::udp(at) }).collect();
        assert_eq!(relayed.iter().map(|relayed| relayed.family).collect::<Vec<_>>(), families);
        let until = self.model.now + lifetime;
        match &token {
            Some(token) => self.model.reservations.retain(|r| r.token != *token || r.relayed != relayed[0]),
            None => assert!(relayed.iter().all(|relayed| self.model.fits(*relayed, wish)), "{relayed:?}"),
        }
        assert!(relayed.iter().all(|relayed| self.model.is_free(*relayed)), "{relayed:?}");
        let token = message.attribute(Kind::RESERVATION_TOKEN);
        assert_eq!(token.is_some(), wish == Wish::EvenAndNext);
        if let Some(token) = token {
            let next = relayed[0].at_port(relayed[0].port + 1);
            let until = self.model.now + RESERVATION;
            let reservation = Reservation { token: token.to_vec(), user: USERS[who], relayed: next, until };
            self.model.reservations.push(reservation);
            self.tokens.push(token.to_vec());
        }
        let sides = relayed.into_iter().map(|relayed| (relayed.family, Side { relayed, until })).collect();
        let (permissions, channels) = (BTreeMap::new(), BTreeMap::new());
        self.model.allocations.insert(who, Allocation { is_tcp, sides, permissions, channels });
    }

    fn connect(&mut self, who: usize, index: usize) {
        let expected = self.model.connect(who, index);
        let answer = self.real.ask(who, Method::CONNECT, |w| {
            w.xor_address(Kind::XOR_PEER_ADDRESS, peer(index));
        });
        assert_eq!(answer.map_or(0, |answer| code(&answer)), expected);
        let begun = self.real.begun.take();
        assert_eq!(begun.is_some(), expected == 0);
        let until = Some(self.model.now + CONNECTION);
        let connection = Connection { owner: who, peer: index, is_there: false, until };
        self.model.connections.extend(begun.map(|id| (id, connection)));
    }

    fn connected(&mut self, which: usize, well: bool) {
        let coming = self.model.connections.iter().filter(|(_, connection)| !connection.is_there);
        let Some(id) = nth(coming.map(|(id, _)| *id), which) else { return };
        let owner = address_of(self.model.connections[&id].owner);
        let outputs = match well {
            true => self.real.input(Input::PeerConnected { connection: id }),
            false => self.real.input(Input::PeerConnectFailed { connection: id }),
        };
        let [Output::Reply { client, data }] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!((*client, code(data)), (owner, if well { 0 } else { 447 }));
        if well {
            let connection = self.model.connections.get_mut(&id).expect("it was there");
            connection.is_there = true;
            connection.until = Some(self.model.now + CONNECTION);
        } else {
            self.model.connections.remove(&id);
            self.real.connections.remove(&id);
        }
    }

    fn accepted(&mut self, who: usize, index: usize) {
        let side = self.model.allocations.get(&who).and_then(|a| a.sides.get(&family(index)));
        let Some(relayed) = side.map(|side| side.relayed).filter(|r| r.protocol == Protocol::Tcp) else {
            return;
        };
        let outputs = self.real.input(Input::PeerAccepted { relayed, peer: peer(index) });
        let kept = self.real.kept.take();
        assert_eq!(
            (kept.is_some(), outputs.len()),
            match self.model.is_accepted(who, index) {
                true => (true, 1),
                false => (false, 0),
            }
        );
        let until = Some(self.model.now + CONNECTION);
        let connection = Connection { owner: who, peer: index, is_there: true, until };
        self.model.connections.extend(kept.map(|id| (id, connection)));
    }

    fn connection_bind(&mut self, which: usize, who: usize) {
        let Some(id) = nth(self.model.connections.keys().copied(), which) else { return };
        let connection = self.model.connections.get_mut(&id).expect("one of them");
        let is_good =
            connection.is_there && connection.until.is_some() && USERS[connection.owner] == USERS[who];
        if is_good {
            connection.until = None;
        }
        let number = self.real.next_connection;
        self.real.next_connection += 1;
        let remote = addr(&format!("203.0.113.{}:{}", 10 + who, 2000 + number));
        let at = ClientAddr { transport: Transport::Tcp(ConnectionId(number)), remote, ..address_of(who) };
        let client = &mut self.real.clients[who].1;
        self.real.world.learn_nonce(at, client);
        let request = client.request(Method::CONNECTION_BIND, |w| {
            w.number(Kind::CONNECTION_ID, id.0);
        });
        let answer = self.real.ask_from(at, &request).expect("an answer");
        assert_eq!(code(&answer), if is_good { 0 } else { 400 });
        assert_eq!(self.real.data.get(&id) == Some(&at), is_good);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_relay_is_what_the_model_is(steps in proptest::collection::vec(step(), 1..50)) {
        let mut both = Both { model: Model::default(), real: Real::new(), tokens: Vec::new() };
        steps.iter().for_each(|step| both.take(step));
        both.take(&Step::Pass(2 * LIFETIMES.1));
        prop_assert_eq!(both.real.seen(), Seen::default(), "nothing is left");
    }
}
