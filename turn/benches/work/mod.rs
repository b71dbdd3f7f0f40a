//! Datagrams that a relay carries, the same each time. `relay` times it, `benches/src/count` counts its instructions.

#[path = "../../tests/it/client.rs"]
#[allow(dead_code)] // the tests use more of it
mod client;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use client::{Client, REALM, UNIX, addr, address, attribute, channel_data, secret};
use common::metrics::Registry;
use turn::auth::Credentials;
use turn::metrics::Metrics;
use turn::relay::{ClientAddr, Input, Output, Relay, RelayConfig, RelayIp, RelayedAddr, Transport};
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::{Message, Writer};

/// What an audio packet has.
pub const PAYLOAD_BYTES: usize = 172;
const CHANNEL: u16 = 0x4001;

/// A relay with allocations, each with one channel and one peer.
pub struct World {
    relay: Relay,
    pub now: Instant,
    clients: Vec<ClientAddr>,
    ports: Vec<RelayedAddr>,
}

/// Where the channel of the allocation of this index leads.
fn peer(index: usize) -> SocketAddr {
    SocketAddr::from(([8, 8, 8, 8], 10_000 + index as u16))
}

impl World {
    pub fn new(allocations: usize) -> Self {
        let config = RelayConfig {
            realm: REALM.into(),
            credentials: Credentials::of_secret(secret()),
            relay_ips: vec![RelayIp::direct(addr("10.0.0.1:1").ip())],
            ports: 20_000..=60_000,
            own_media: vec![addr("10.0.0.1:44444")],
            stranger_answers_per_second: u32::MAX,
            ..RelayConfig::default()
        };
        let (metrics, now) = (Metrics::register(&Registry::new()), Instant::now());
        let relay = Relay::new(config, metrics, [1; 32], now, Duration::from_secs(UNIX));
        let mut world = Self { relay, now, clients: Vec::new(), ports: Vec::new() };
        (0..allocations).for_each(|index| world.allocate(index));
        world
    }

    fn allocate(&mut self, index: usize) {
        let remote = SocketAddr::from(([203, 0, 113, 5], 1000 + index as u16));
        let at = ClientAddr { transport: Transport::Udp, remote, local: addr("10.0.0.1:3478") };
        let mut client = Client::new("alice", UNIX + 86_400);
        let bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12])).finish();
        client.nonce = attribute(&self.ask(at, &bare), Kind::NONCE).expect("401 has a nonce");
        let relayed = address(&self.ask(at, &client.allocate()), Kind::XOR_RELAYED_ADDRESS);
        let answer = self.ask(at, &client.bind(CHANNEL, peer(index)));
        assert_eq!(Message::parse(&answer).expect("an answer").class(), Class::Success);
        self.clients.push(at);
        self.ports.push(RelayedAddr::udp(relayed));
    }

    fn ask(&mut self, client: ClientAddr, data: &[u8]) -> Vec<u8> {
        self.relay.handle_input(self.now, Input::FromClient { client, data });
        let mut answer = None;
        loop {
            match self.relay.poll_output() {
                Output::Reply { data, .. } => answer = Some(data),
                Output::OpenRelay { relayed, .. } => {
                    self.relay.handle_input(self.now, Input::RelayBound { relayed });
                }
                Output::Timeout(_) => return answer.expect("an answer"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// One datagram; the bytes of payload that go on.
    pub fn carry(&mut self, input: Input<'_>) -> usize {
        self.relay.handle_input(self.now, input);
        let mut forwarded = 0;
        while let Output::Forward { payload, .. } = self.relay.poll_output() {
            forwarded += payload.len();
        }
        forwarded
    }
}

/// A datagram of the allocation of this index.
pub type Way = fn(&World, usize) -> Input<'static>;

/// The ways through a relay: ChannelData and indications, from the client and from its peer.
pub const WAYS: [(&str, Way); 4] = [
    ("up-channel", up_channel),
    ("up-send", up_send),
    ("down-channel", down_channel),
    ("down-data", down_data),
];

fn leak(data: Vec<u8>) -> &'static [u8] {
    Box::leak(data.into_boxed_slice())
}

fn up_channel(world: &World, index: usize) -> Input<'static> {
    let data = leak(channel_data(CHANNEL, &[7; PAYLOAD_BYTES]));
    Input::FromClient { client: world.clients[index], data }
}

fn up_send(world: &World, index: usize) -> Input<'static> {
    let data = leak(Client::new("alice", UNIX).send(peer(index), &[7; PAYLOAD_BYTES]));
    Input::FromClient { client: world.clients[index], data }
}

fn down_channel(world: &World, index: usize) -> Input<'static> {
    Input::FromPeer { relayed: world.ports[index], peer: peer(index), data: &[7; PAYLOAD_BYTES] }
}

/// From a port of the peer's host that has no channel.
fn down_data(world: &World, index: usize) -> Input<'static> {
    let peer = SocketAddr::from((peer(index).ip(), 9));
    Input::FromPeer { relayed: world.ports[index], peer, data: &[7; PAYLOAD_BYTES] }
}
