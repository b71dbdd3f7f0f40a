//! The relay's core, step by step: clients with credentials, strangers, peers, sockets that do not open, time.
//!
//! A small model remembers which permissions were granted, from the answers alone. Nothing may be relayed without one that
//! lives, no answer goes to anybody but who asked, and nothing is left when all lifetimes are over.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::config::Secret;
use common::metrics::Registry;
use turn::auth::Credentials;
use turn::metrics::Metrics;
use turn::relay::{
    ClientAddr, ConnectionId, Destination, Input, Output, Relay, RelayConfig, RelayIp, RelayedAddr, Transport,
};
use turn::stun::Message;
use turn::stun::attributes::{Kind, read_xor_address};
use turn::stun::header::{Class, Method};

use crate::bytes::Bytes;

#[allow(dead_code, missing_docs)] // written for tests
#[path = "../../../turn/tests/it/client.rs"]
mod client;

use client::{Client, REALM, UNIX, addr, channel_data, secret};

const CLIENTS: usize = 4;
const PORTS: std::ops::RangeInclusive<u16> = 50_000..=50_005;
const USER_QUOTA: usize = 2;
const STEPS_MAX: usize = 200;
/// RFC 8656 §9 and §12: a channel's binding lasts longer than the permission it brings.
const BINDING: Duration = Duration::from_secs(600);
const PEERS: [&str; 8] = [
    "8.8.8.8:5000",
    "8.8.8.8:5001",
    "9.9.9.9:5000",
    "127.0.0.1:80",
    "10.0.0.1:22",
    "198.51.100.1:44444",
    "198.51.100.1:50001",
    "[2001:db8::1]:5000",
];

struct World {
    relay: Relay,
    metrics: Metrics,
    now: Instant,
    clients: Vec<(ClientAddr, Client)>,
    sockets: BTreeSet<RelayedAddr>,
    /// Granted to a client, until when.
    permitted: HashMap<(ClientAddr, IpAddr), Instant>,
    ports: HashMap<RelayedAddr, ClientAddr>,
}

impl World {
    fn new() -> Self {
        let config = RelayConfig {
            realm: REALM.into(),
            credentials: Credentials::of_secret(secret()),
            relay_ips: vec![RelayIp { bound: addr(PEERS[4]).ip(), shown: addr(PEERS[5]).ip() }],
            ports: PORTS,
            own_media: vec![addr(PEERS[5])],
            user_quota: USER_QUOTA,
            stranger_answers_per_second: 50,
            ..RelayConfig::default()
        };
        #[allow(clippy::disallowed_methods)] // virtual from here on
        let now = Instant::now();
        let metrics = Metrics::register(&Registry::new());
        let relay = Relay::new(config, metrics.clone(), [1; 32], now, Duration::from_secs(UNIX));
        let clients = (0..CLIENTS).map(|index| {
            let transport = if index == 3 { Transport::Tcp(ConnectionId(7)) } else { Transport::Udp };
            let remote = SocketAddr::from(([203, 0, 113, index as u8], 1000));
            let local = addr("10.0.0.1:3478");
            let user = if index < 3 { "alice" } else { "bob" };
            let client = match index {
                1 => Client::with_sha256(user, UNIX + 86_400),
                _ => Client::new(user, UNIX + 86_400),
            };
            (ClientAddr { transport, remote, local }, client)
        });
        Self {
            clients: clients.collect(),
            relay,
            metrics,
            now,
            sockets: BTreeSet::new(),
            permitted: HashMap::new(),
            ports: HashMap::new(),
        }
    }

    fn put(&mut self, input: Input<'_>, bind_fails: &mut u8) {
        self.relay.handle_input(self.now, input);
        let data = match input {
            Input::FromClient { data, .. } | Input::FromPeer { data, .. } | Input::FromMedia { data, .. } => {
                data
            }
            _ => &[],
        };
        loop {
            match self.relay.poll_output() {
                Output::Timeout(at) => {
                    assert!(at > self.now, "what is due was done");
                    break;
                }
                Output::Reply { client, data: answer } => self.on_reply(client, &input, &answer),
                Output::Forward { to, payload } => {
                    assert!(payload.start <= payload.end && payload.end <= data.len());
                    self.on_forward(&input, to);
                }
                Output::OpenRelay { relayed, .. } => {
                    assert!(PORTS.contains(&relayed.port) && !self.sockets.contains(&relayed));
                    if *bind_fails > 0 {
                        *bind_fails -= 1;
                        self.relay.handle_input(self.now, Input::RelayBindFailed { relayed });
                    } else {
                        self.sockets.insert(relayed);
                        self.relay.handle_input(self.now, Input::RelayBound { relayed });
                    }
                }
                Output::ConnectPeer { .. }
                | Output::KeepPeer { .. }
                | Output::Splice { .. }
                | Output::ClosePeer { .. } => panic!("nobody has asked for a TCP allocation"),
                Output::FetchRelay { .. } => panic!("it works alone"),
                Output::CloseRelay { relayed } => {
                    self.sockets.remove(&relayed);
                    self.ports.remove(&relayed);
                }
            }
        }
        assert!(self.relay.allocations() <= PORTS.len());
        assert_eq!(self.relay.allocations(), self.sockets.len(), "an allocation has one socket");
        let alices = self.clients[..3].iter().filter(|(at, _)| self.relay.has_allocation(at)).count();
        assert!(alices <= USER_QUOTA);
    }

    fn on_reply(&mut self, client: ClientAddr, input: &Input<'_>, answer: &[u8]) {
        let answer = Message::parse(answer).expect("answers are well-formed");
        let Input::FromClient { client: asker, data } = input else { return };
        assert_eq!(*asker, client, "an answer to somebody else");
        let Ok(request) = Message::parse(data) else { panic!("an answer to no request") };
        assert_eq!(answer.transaction_id(), request.transaction_id());
        if let Some(nonce) = answer.attribute(Kind::NONCE) {
            let known = self.clients.iter_mut().find(|(at, _)| *at == client);
            known.into_iter().for_each(|(_, known)| known.nonce = nonce.to_vec());
        }
        if answer.class() != Class::Success {
            return;
        }
        if let (Method::ALLOCATE, Some(at)) = (answer.method(), answer.xor_address(Kind::XOR_RELAYED_ADDRESS))
        {
            // Permissions of an allocation before this one are gone; a repeated answer grants no more than it did.
            if self.ports.insert(RelayedAddr::udp(at), client) != Some(client) {
                self.permitted.retain(|(holder, _), _| *holder != client);
            }
        }
        if matches!(answer.method(), Method::CREATE_PERMISSION | Method::CHANNEL_BIND) {
            let peers = request.attributes().filter(|attribute| attribute.kind == Kind::XOR_PEER_ADDRESS);
            for peer in
                peers.filter_map(|attribute| read_xor_address(attribute.value, request.transaction_id()))
            {
                assert!(!peer.ip().is_loopback() && peer.is_ipv4(), "{peer} is refused");
                self.permitted.insert((client, peer.ip()), self.now + BINDING);
            }
        }
    }

    fn on_forward(&self, input: &Input<'_>, to: Destination) {
        let (holder, peer) = match (input, to) {
            (Input::FromClient { client, .. }, Destination::Peer { from, peer }) => {
                assert_eq!(self.ports.get(&from), Some(client), "out of another's socket");
                (*client, peer)
            }
            (Input::FromClient { client, .. }, Destination::Media { from, to }) => {
                assert_eq!(self.ports.get(&RelayedAddr::udp(from)), Some(client));
                assert_eq!(to, addr(PEERS[5]));
                (*client, to)
            }
            (Input::FromClient { client: sender, .. }, Destination::Client { client, .. }) => {
                // From one relayed address to another: the receiver has permitted our address.
                assert!(self.relay.has_allocation(sender));
                (client, addr(PEERS[6]))
            }
            (Input::FromPeer { relayed, peer, .. }, Destination::Client { client, .. }) => {
                assert_eq!(self.ports.get(relayed), Some(&client), "to another than the allocation's client");
                (client, *peer)
            }
            (Input::FromMedia { relayed, media, .. }, Destination::Client { client, .. }) => {
                assert_eq!(self.ports.get(&RelayedAddr::udp(*relayed)), Some(&client));
                (client, *media)
            }
            (input, to) => panic!("{input:?} went to {to:?}"),
        };
        let until = self.permitted.get(&(holder, peer.ip()));
        assert!(until.is_some_and(|until| *until > self.now), "no permission for {peer}");
    }
}

/// A list of steps.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut world = World::new();
    let mut last: Vec<Vec<u8>> = vec![Vec::new(); CLIENTS];
    for _ in 0..STEPS_MAX {
        if bytes.is_empty() {
            break;
        }
        let (what, who) = (bytes.byte(), usize::from(bytes.byte()) % CLIENTS);
        let peer = addr(bytes.pick(&PEERS));
        let mut fails = 0;
        let known = &mut world.clients[who].1;
        let datagram = match what % 16 {
            0 | 1 => {
                fails = what / 16 % 8;
                known.allocate()
            }
            2 => known.refresh(bytes.u16().into()),
            3 | 4 => known.permit(peer),
            5 | 6 => known.bind(0x4000 + u16::from(bytes.byte() % 4), peer),
            7 => known.send(peer, bytes.short()),
            8 => channel_data(0x4000 + u16::from(bytes.byte() % 4), bytes.short()),
            9 => {
                let port = PORTS.start() + u16::from(bytes.byte() % 8);
                let relayed = RelayedAddr::udp(addr(PEERS[5])).at_port(port);
                let data = bytes.short();
                world.put(Input::FromPeer { relayed, peer, data }, &mut fails);
                continue;
            }
            10 => {
                let relayed =
                    SocketAddr::from(([198, 51, 100, 1], PORTS.start() + u16::from(bytes.byte() % 8)));
                let data = bytes.short();
                world.put(Input::FromMedia { relayed, media: peer, data }, &mut fails);
                continue;
            }
            11 => {
                world.now += Duration::from_secs(u64::from(bytes.byte()) * if what >= 128 { 10 } else { 1 });
                world.put(Input::Timeout, &mut fails);
                continue;
            }
            12 if what >= 192 => {
                let other = Secret(vec![bytes.byte(); 4]);
                let secrets = if what & 16 == 0 { vec![other, secret()] } else { vec![other] };
                world.relay.set_credentials(&Credentials { secrets, ..Credentials::default() });
                continue;
            }
            12 if what >= 128 => {
                world.put(Input::Drain, &mut fails);
                continue;
            }
            12 => {
                let client = world.clients[who].0;
                world.put(Input::ClientGone { client }, &mut fails);
                continue;
            }
            13 => super::stun_turn::message(bytes.short()),
            14 => bytes.short().to_vec(),
            _ => {
                // The last datagram once more, perhaps from another's address, with one byte changed.
                let mut again = last[usize::from(bytes.byte()) % CLIENTS].clone();
                let (at, flip) = (usize::from(bytes.u16()), bytes.byte());
                if !again.is_empty() {
                    let at = at % again.len();
                    again[at] ^= flip;
                }
                again
            }
        };
        let client = world.clients[who].0;
        world.put(Input::FromClient { client, data: &datagram }, &mut fails);
        last[who] = datagram;
    }
    world.now += Duration::from_secs(2 * 3600);
    world.put(Input::Timeout, &mut 0);
    assert_eq!(world.relay.allocations(), 0);
    assert_eq!(world.metrics.allocations.get(), 0);
    assert!(world.sockets.is_empty() && world.ports.is_empty());
}

/// An allocation with a permission, a channel, packets both ways, a refresh and an end.
pub fn seeds() -> Vec<Vec<u8>> {
    let step = |what: u8, who: u8, peer: u8, rest: &[u8]| [&[what, who, peer][..], rest].concat();
    let life = |who: u8| {
        [
            step(0, who, 0, &[]),
            step(0, who, 0, &[]),
            step(3, who, 0, &[]),
            step(5, who, 1, &[1]),
            step(7, who, 0, &[2, b'h', b'i']),
            step(8, who, 0, &[1, 2, b'h', b'i']),
            step(9, 0, 0, &[0, 2, b'h', b'i']),
            step(9, 0, 1, &[1, 2, b'h', b'i']),
            step(9, 0, 0, &[2, 1, b'h']),
            step(9, 0, 0, &[3, 1, b'h']),
            step(9, 0, 0, &[4, 1, b'h']),
            step(9, 0, 0, &[5, 1, b'h']),
            step(5, who, 5, &[2]),
            step(8, who, 0, &[2, 1, b'm']),
            step(10, 0, 5, &[1, 1, b'm']),
            step(11, 0, 0, &[200]),
            step(2, who, 0, &[2, 88]),
            step(7, who, 0, &[1, b'x']),
        ]
        .concat()
    };
    let ends = [step(2, 0, 0, &[0, 0]), step(12, 3, 0, &[]), step(139, 0, 0, &[250])].concat();
    let strange = [
        step(16, 1, 0, &[]),
        step(16, 1, 0, &[]),
        step(15, 2, 0, &[1, 0, 40, 1]),
        step(13, 2, 0, &[3, 1, 0, 1]),
    ];
    vec![[life(0), ends.clone()].concat(), [life(3), life(1), ends].concat(), strange.concat()]
}
