//! What a relayed packet costs in the core, in process: parse, find the route, decide. No socket, no copy of payload.
//!
//! `train`: packets of one client or peer, as a receive batch brings them. `mixed`: another allocation with each packet,
//! so that nothing that is remembered of the last one helps. Time per packet; the kernel's part is not in it.

#[path = "../tests/it/client.rs"]
#[allow(dead_code)] // the tests use more of it
mod client;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use client::{Client, REALM, UNIX, addr, address, attribute, channel_data, secret};
use common::metrics::Registry;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use turn::auth::Credentials;
use turn::metrics::Metrics;
use turn::relay::{ClientAddr, Input, Output, Relay, RelayConfig, RelayIp, RelayedAddr, Transport};
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::{Message, Writer};

/// Packets with one reading of the clock: what a receive call may bring.
const BATCH: usize = 512;
const PAYLOAD_BYTES: usize = 172;
const CHANNEL: u16 = 0x4001;

struct World {
    relay: Relay,
    now: Instant,
    clients: Vec<ClientAddr>,
    ports: Vec<RelayedAddr>,
}

fn peer(index: usize) -> SocketAddr {
    SocketAddr::from(([8, 8, 8, 8], 10_000 + index as u16))
}

impl World {
    fn new(allocations: usize) -> Self {
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

    fn carry(&mut self, input: Input<'_>) -> usize {
        self.relay.handle_input(self.now, input);
        let mut forwarded = 0;
        while let Output::Forward { payload, .. } = self.relay.poll_output() {
            forwarded += payload.len();
        }
        forwarded
    }
}

fn relay(criterion: &mut Criterion, way: &str, input: fn(&World, usize) -> Input<'static>) {
    let mut group = criterion.benchmark_group(way);
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, allocations) in [("train", 1), ("mixed-50", 50), ("mixed-5000", 5000)] {
        let mut world = World::new(allocations);
        let inputs: Vec<Input<'static>> = (0..allocations).map(|index| input(&world, index)).collect();
        let mut next = inputs.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                world.now += Duration::from_nanos(1);
                let bytes: usize = next.by_ref().take(BATCH).map(|input| world.carry(*input)).sum();
                assert_eq!(bytes, BATCH * PAYLOAD_BYTES);
            });
        });
    }
    group.finish();
}

fn leak(data: Vec<u8>) -> &'static [u8] {
    Box::leak(data.into_boxed_slice())
}

fn up(criterion: &mut Criterion) {
    relay(criterion, "up-channel", |world, index| Input::FromClient {
        client: world.clients[index],
        data: leak(channel_data(CHANNEL, &[7; PAYLOAD_BYTES])),
    });
    relay(criterion, "up-send", |world, index| Input::FromClient {
        client: world.clients[index],
        data: leak(Client::new("alice", UNIX).send(peer(index), &[7; PAYLOAD_BYTES])),
    });
}

fn down(criterion: &mut Criterion) {
    relay(criterion, "down-channel", |world, index| Input::FromPeer {
        relayed: world.ports[index],
        peer: peer(index),
        data: &[7; PAYLOAD_BYTES],
    });
    relay(criterion, "down-data", |world, index| Input::FromPeer {
        relayed: world.ports[index],
        peer: SocketAddr::from(([8, 8, 8, 8], 9)),
        data: &[7; PAYLOAD_BYTES],
    });
}

criterion_group!(benches, up, down);
criterion_main!(benches);
