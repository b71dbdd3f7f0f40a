//! What an allocation costs in the core: the first Allocate and its 401, Allocate, ChannelBind; reading, proving, deciding
//! and signing, without sockets. Time of the relay per allocation; what the client takes to sign its requests is not in it.
//!
//! `timed`: credentials of a shared secret, alone and as the last of four; `static`: a user of the configuration; `forged`: a
//! request that proves nothing, for what a flood costs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::config::Secret;
use common::metrics::Registry;
use criterion::{Criterion, criterion_group, criterion_main};
use turn::auth::Credentials;
use turn::metrics::Metrics;
use turn::relay::{ClientAddr, Input, Output, Relay, RelayConfig, RelayIp, Transport};
use turn::stun::Writer;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::integrity::Key;

#[path = "../tests/it/client.rs"]
#[allow(dead_code)] // the tests use more of it
mod client;

use client::{Client, REALM, UNIX, addr, attribute, code, secret};

struct World {
    relay: Relay,
    now: Instant,
    next_client: u32,
}

impl World {
    fn new(credentials: Credentials) -> Self {
        let config = RelayConfig {
            realm: REALM.into(),
            credentials,
            relay_ips: vec![RelayIp::direct(addr("10.0.0.1:1").ip())],
            ports: 10_000..=60_000,
            stranger_answers_per_second: u32::MAX,
            ..RelayConfig::default()
        };
        let (metrics, now) = (Metrics::register(&Registry::new()), Instant::now());
        let relay = Relay::new(config, metrics, [1; 32], now, Duration::from_secs(UNIX));
        Self { relay, now, next_client: 0 }
    }

    fn next_client(&mut self) -> ClientAddr {
        self.next_client += 1;
        let [a, b, c, d] = self.next_client.to_be_bytes();
        let remote = SocketAddr::from(([100 + a, b, c, d], 5000));
        ClientAddr { transport: Transport::Udp, remote, local: addr("10.0.0.1:3478") }
    }

    /// The answer, and how long the relay took.
    fn ask(&mut self, client: ClientAddr, data: &[u8]) -> (Vec<u8>, Duration) {
        let started = Instant::now();
        self.relay.handle_input(self.now, Input::FromClient { client, data });
        let mut answer = Vec::new();
        loop {
            match self.relay.poll_output() {
                Output::Reply { data, .. } => answer = data,
                Output::OpenRelay { relayed, .. } => {
                    self.relay.handle_input(self.now, Input::RelayBound { relayed });
                }
                Output::Timeout(_) => return (answer, started.elapsed()),
                _ => {}
            }
        }
    }

    /// One client's life; the relay's time without that for its end.
    fn allocation(&mut self, mut client: Client) -> Duration {
        let at = self.next_client();
        let mut bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12]));
        bare.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let (challenge, first) = self.ask(at, &bare.finish());
        client.nonce = attribute(&challenge, Kind::NONCE).expect("401 has a nonce");
        let mut proved = |request: Vec<u8>| {
            let (answer, took) = self.ask(at, &request);
            assert_eq!(code(&answer), 0);
            took
        };
        let second = proved(client.allocate());
        let third = proved(client.bind(0x4001, addr("8.8.8.8:5000")));
        proved(client.refresh(0));
        first + second + third
    }
}

fn control(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("control");
    let alone = Credentials::of_secret(secret());
    let others = (0..3u8).map(|byte| Secret(vec![byte; 16]));
    let last_of_four = Credentials { secrets: others.chain([secret()]).collect(), ..Credentials::default() };
    let users = [("static".to_owned(), secret())].into();
    let static_user = Credentials { users, ..Credentials::default() };
    let timed = || Client::new("alice", UNIX + 86_400);
    let of_user = || {
        let mut client = Client::new("", UNIX);
        client.username = "static".into();
        client.key = Key::long_term("static", REALM, &secret().0);
        client
    };
    let cases: [(&str, Credentials, &dyn Fn() -> Client); 3] = [
        ("timed", alone.clone(), &timed),
        ("timed-4-secrets", last_of_four, &timed),
        ("static", static_user, &of_user),
    ];
    for (name, credentials, client) in cases {
        let mut world = World::new(credentials);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| world.allocation(client())).sum());
        });
    }

    let mut world = World::new(alone);
    let mut forger = timed();
    forger.nonce = b"obMatJos2gAAAAAAAAAAAAAAAAAAA".to_vec();
    let (at, request) = (world.next_client(), forger.allocate());
    group.bench_function("forged", |bencher| bencher.iter(|| world.ask(at, &request)));
    group.finish();
}

criterion_group!(benches, control);
criterion_main!(benches);
