//! The core on virtual time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::metrics::Registry;
use proptest::prelude::*;
use turn::auth::Credentials;
use turn::metrics::{DropReason, Metrics};
use turn::relay::{
    ClientAddr, ConnectionId, Destination, Input, Output, Relay, RelayConfig, RelayIp, RelayedAddr, Transport,
};
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::{Message, Writer};

use crate::client::{Client, REALM, UNIX, addr, address, attribute, channel_data, code, secret};

pub const PEER: &str = "8.8.8.8:5000";
pub const MEDIA: &str = "198.51.100.1:44444";

pub struct World {
    pub relay: Relay,
    pub metrics: Metrics,
    pub now: Instant,
    bind_fails: usize,
}

pub fn config() -> RelayConfig {
    RelayConfig {
        realm: REALM.into(),
        credentials: Credentials {
            users: [("static".to_owned(), secret())].into(),
            ..Credentials::of_secret(secret())
        },
        relay_ips: vec![RelayIp { bound: addr("10.0.0.1:0").ip(), shown: addr(MEDIA).ip() }],
        ports: 50_000..=50_009,
        own_media: vec![addr(MEDIA)],
        stranger_answers_per_second: 1000,
        ..RelayConfig::default()
    }
}

pub fn udp(text: &str) -> ClientAddr {
    ClientAddr { transport: Transport::Udp, remote: addr(text), local: addr("10.0.0.1:3478") }
}

impl World {
    pub fn new(config: RelayConfig) -> Self {
        let metrics = Metrics::register(&Registry::new());
        let now = Instant::now();
        let relay = Relay::new(config, metrics.clone(), [1; 32], now, Duration::from_secs(UNIX));
        Self { relay, metrics, now, bind_fails: 0 }
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.input(Input::Timeout);
    }

    pub fn input(&mut self, input: Input<'_>) -> Vec<Output> {
        self.relay.handle_input(self.now, input);
        let mut outputs = Vec::new();
        loop {
            match self.relay.poll_output() {
                Output::Timeout(_) => return outputs,
                Output::OpenRelay { relayed, .. } if self.bind_fails > 0 => {
                    self.bind_fails -= 1;
                    self.relay.handle_input(self.now, Input::RelayBindFailed { relayed });
                }
                Output::OpenRelay { relayed, .. } => {
                    self.relay.handle_input(self.now, Input::RelayBound { relayed });
                }
                output => outputs.push(output),
            }
        }
    }

    pub fn client(&mut self, client: ClientAddr, data: &[u8]) -> Vec<Output> {
        self.input(Input::FromClient { client, data })
    }

    /// The one answer to a request.
    pub fn ask(&mut self, client: ClientAddr, data: &[u8]) -> Vec<u8> {
        let outputs = self.client(client, data);
        let reply = outputs.iter().find_map(|o| match o {
            Output::Reply { data, client: to } if *to == client => Some(data.clone()),
            _ => None,
        });
        reply.unwrap_or_else(|| panic!("no answer in {outputs:?}"))
    }

    pub fn ask_code(&mut self, client: ClientAddr, data: &[u8]) -> u16 {
        code(&self.ask(client, data))
    }

    pub fn learn_nonce(&mut self, at: ClientAddr, client: &mut Client) {
        let mut bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12]));
        bare.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let answer = self.ask(at, &bare.finish());
        assert_eq!(code(&answer), 401);
        assert_eq!(attribute(&answer, Kind::REALM).as_deref(), Some(REALM.as_bytes()));
        client.nonce = attribute(&answer, Kind::NONCE).expect("401 has a nonce");
    }

    pub fn allocated(&mut self, at: ClientAddr, user: &str) -> (Client, SocketAddr) {
        let mut client = Client::new(user, UNIX + 86_400);
        self.learn_nonce(at, &mut client);
        let answer = self.ask(at, &client.allocate());
        assert_eq!(code(&answer), 0);
        assert!(Message::parse(&answer).expect("well-formed").integrity_holds(&client.key));
        assert_eq!(address(&answer, Kind::XOR_MAPPED_ADDRESS), at.remote);
        (client, address(&answer, Kind::XOR_RELAYED_ADDRESS))
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.metrics.drops(reason)
    }

    pub fn peer_sends(&mut self, relayed: SocketAddr, peer: &str, data: &[u8]) -> Vec<Output> {
        self.input(Input::FromPeer { relayed: RelayedAddr::udp(relayed), peer: addr(peer), data })
    }
}

pub const A: &str = "203.0.113.5:1000";
pub const B: &str = "203.0.113.6:1000";

#[test]
fn a_binding_request_is_answered_with_the_address_it_came_from() {
    let mut world = World::new(config());
    let request = Writer::new(Class::Request, Method::BINDING, TransactionId([3; 12])).finish();
    let answer = world.ask(udp(A), &request);
    assert_eq!(address(&answer, Kind::XOR_MAPPED_ADDRESS), addr(A));
    let mut odd = Writer::new(Class::Request, Method::BINDING, TransactionId([3; 12]));
    odd.number(Kind(0x0003), 6);
    let answer = world.ask(udp(A), &odd.finish());
    assert_eq!(code(&answer), 420);
    assert_eq!(attribute(&answer, Kind::UNKNOWN_ATTRIBUTES), Some(vec![0, 3]));
}

#[test]
fn an_allocation_lives_until_its_lifetime_or_a_refresh_of_zero() {
    let mut world = World::new(config());
    let (mut client, relayed) = world.allocated(udp(A), "alice");
    assert_eq!(relayed.ip(), config().relay_ips[0].shown);
    assert!(config().ports.contains(&relayed.port()));
    world.pass(599);
    assert_eq!(world.relay.allocations(), 1);
    let answer = world.ask(udp(A), &client.refresh(900));
    assert_eq!(attribute(&answer, Kind::LIFETIME), Some(900u32.to_be_bytes().to_vec()));
    world.pass(899);
    assert_eq!(world.relay.allocations(), 1);
    world.pass(1);
    assert_eq!(world.relay.allocations(), 0);
    assert_eq!(world.ask_code(udp(A), &client.refresh(600)), 437);

    let (mut client, relayed) = world.allocated(udp(A), "alice");
    let outputs = world.client(udp(A), &client.refresh(0));
    assert!(outputs.contains(&Output::CloseRelay { relayed: RelayedAddr::udp(relayed) }));
    assert_eq!(world.relay.allocations(), 0);
    assert_eq!(world.metrics.allocations.get(), 0);
}

#[test]
fn a_lifetime_is_between_the_default_and_an_hour() {
    let mut world = World::new(config());
    let (mut client, _) = world.allocated(udp(A), "alice");
    for (asked, granted) in [(1u32, 600u32), (600, 600), (3600, 3600), (u32::MAX, 3600)] {
        let answer = world.ask(udp(A), &client.refresh(asked));
        assert_eq!(attribute(&answer, Kind::LIFETIME), Some(granted.to_be_bytes().to_vec()), "{asked}");
    }
}

#[test]
fn a_retransmitted_allocate_gets_the_same_answer_and_another_a_mismatch() {
    let mut world = World::new(config());
    let mut client = Client::new("alice", UNIX + 100);
    world.learn_nonce(udp(A), &mut client);
    let request = client.allocate();
    let first = world.ask(udp(A), &request);
    assert_eq!(code(&first), 0);
    assert_eq!(world.ask(udp(A), &request), first);
    assert_eq!(world.ask_code(udp(A), &client.allocate()), 437);
    assert_eq!(world.relay.allocations(), 1);
}

#[test]
fn wrong_credentials_get_nothing() {
    let mut world = World::new(config());
    let mut client = Client::new("alice", UNIX + 100);
    world.learn_nonce(udp(A), &mut client);
    let good = client.allocate();

    let mut forged = good.clone();
    forged[22] ^= 1; // within REQUESTED-TRANSPORT's length, so the message is broken
    assert!(world.client(udp(A), &forged).is_empty());
    let mut other = Client::new("alice", UNIX + 100);
    other.key = turn::stun::integrity::Key::raw(b"guess");
    other.nonce = client.nonce.clone();
    assert_eq!(world.ask_code(udp(A), &other.allocate()), 401);
    let mut expired = Client::new("alice", UNIX - 1);
    expired.nonce = client.nonce.clone();
    assert_eq!(world.ask_code(udp(A), &expired.allocate()), 401);
    assert_eq!(world.ask_code(udp(B), &good), 438, "replayed from another address");
    client.nonce = b"nonsense".to_vec();
    assert_eq!(world.ask_code(udp(A), &client.allocate()), 438);
    world.pass(3600);
    assert_eq!(world.ask_code(udp(A), &good), 438, "a stale nonce");
    let mut bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([1; 12]));
    bare.integrity(&client.key);
    assert_eq!(world.ask_code(udp(A), &bare.finish()), 400);
    assert_eq!(world.relay.allocations(), 0);
    assert_eq!(world.metrics.auth_failures(), 6);
}

#[test]
fn credentials_end_by_the_wall_clock_even_if_it_is_set() {
    let mut world = World::new(config());
    let mut client = Client::new("alice", UNIX + 3600);
    let hours = |hours: u64| Input::WallClock { unix_time: Duration::from_secs(UNIX + hours * 3600) };
    world.input(hours(2));
    world.learn_nonce(udp("198.51.100.1:1000"), &mut client);
    assert_eq!(world.ask_code(udp("198.51.100.1:1000"), &client.allocate()), 401, "they ended an hour ago");
    world.input(hours(0));
    world.learn_nonce(udp("198.51.100.1:1000"), &mut client);
    assert_eq!(world.ask_code(udp("198.51.100.1:1000"), &client.allocate()), 0, "the clock has been mended");
    world.input(hours(200));
    world.pass(300);
    assert_eq!(world.relay.allocations(), 1, "what was granted lasts by the steady clock");
}

#[test]
fn another_user_cannot_touch_an_allocation() {
    let mut world = World::new(config());
    let (alice, _) = world.allocated(udp(A), "alice");
    let mut bob = Client::new("bob", UNIX + 100);
    bob.nonce = alice.nonce.clone();
    assert_eq!(world.ask_code(udp(A), &bob.refresh(0)), 441);
    assert_eq!(world.relay.allocations(), 1);
}

#[test]
fn a_static_user_allocates() {
    let mut world = World::new(config());
    let mut client = Client::new("x", UNIX);
    client.username = "static".into();
    client.key = turn::stun::integrity::Key::long_term("static", REALM, &secret().0);
    world.learn_nonce(udp(A), &mut client);
    assert_eq!(world.ask_code(udp(A), &client.allocate()), 0);
}

#[test]
fn strangers_cost_no_state_and_their_answers_are_rationed() {
    let mut world = World::new(RelayConfig { stranger_answers_per_second: 5, ..config() });
    let bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([1; 12])).finish();
    let answered = (0..100).filter(|_| !world.client(udp(A), &bare).is_empty()).count();
    assert_eq!(answered, 10);
    assert_eq!(world.dropped(DropReason::StrangerLimit), 90);
    assert_eq!(world.relay.allocations(), 0);
}

#[test]
fn quotas_hold() {
    let mut world = World::new(RelayConfig { user_quota: 1, total_quota: 2, ..config() });
    let (mut alice, _) = world.allocated(udp(A), "alice");
    let refused = |world: &mut World, at: &str, user: &str| {
        let mut client = Client::new(user, UNIX + 500);
        world.learn_nonce(udp(at), &mut client);
        world.ask_code(udp(at), &client.allocate())
    };
    assert_eq!(refused(&mut world, B, "alice"), 486, "whatever the expiry in the user name");
    world.allocated(udp(B), "bob");
    assert_eq!(refused(&mut world, "203.0.113.7:1", "carol"), 508);
    assert_eq!(world.ask_code(udp(A), &alice.refresh(0)), 0);
    assert_eq!(refused(&mut world, "203.0.113.7:1", "carol"), 0);
}

#[test]
fn ports_run_out_with_508_and_a_taken_port_is_replaced() {
    let mut world = World::new(config());
    world.bind_fails = 9;
    world.allocated(udp(A), "alice");
    for i in 0..9 {
        world.allocated(udp(&format!("203.0.113.9:{}", 1000 + i)), "alice");
    }
    let mut client = Client::new("alice", UNIX + 100);
    world.learn_nonce(udp(B), &mut client);
    assert_eq!(world.ask_code(udp(B), &client.allocate()), 508);

    let mut world = World::new(config());
    world.bind_fails = 10;
    world.learn_nonce(udp(B), &mut client);
    assert_eq!(world.ask_code(udp(B), &client.allocate()), 508);
    assert_eq!(world.relay.allocations(), 0);
}

#[test]
fn what_an_allocate_cannot_have_is_refused_by_its_code() {
    let mut world = World::new(config());
    let mut client = Client::new("alice", UNIX + 100);
    world.learn_nonce(udp(A), &mut client);
    let udp_transport = (Kind::REQUESTED_TRANSPORT, [17u8, 0, 0, 0]);
    for (attributes, expected) in [
        (vec![], 400),
        (vec![(Kind::REQUESTED_TRANSPORT, [132, 0, 0, 0])], 442),
        (vec![udp_transport, (Kind::REQUESTED_ADDRESS_FAMILY, [2, 0, 0, 0])], 440),
        (vec![udp_transport, (Kind::RESERVATION_TOKEN, [0; 4])], 400),
        (vec![udp_transport, (Kind(0x0042), [0; 4])], 420),
        (vec![udp_transport, (Kind::REQUESTED_ADDRESS_FAMILY, [1, 0, 0, 0])], 0),
    ] {
        let request = client.request(Method::ALLOCATE, |w| {
            for (kind, value) in &attributes {
                w.attribute(*kind, value);
            }
        });
        assert_eq!(world.ask_code(udp(A), &request), expected, "{attributes:?}");
    }
}

#[test]
fn packets_flow_both_ways_while_the_permission_lasts() {
    let mut world = World::new(config());
    let (mut client, relayed) = world.allocated(udp(A), "alice");
    let port = RelayedAddr::udp(relayed);
    assert!(world.peer_sends(relayed, PEER, b"early").is_empty());
    let data = client.send(addr(PEER), b"early");
    assert!(world.client(udp(A), &data).is_empty());
    assert_eq!(world.dropped(DropReason::NoPermission), 2);

    assert_eq!(world.ask_code(udp(A), &client.permit(addr(PEER))), 0);
    let data = client.send(addr(PEER), b"hello");
    let outputs = world.client(udp(A), &data);
    let [Output::Forward { to, payload }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(*to, Destination::Peer { from: port, peer: addr(PEER) });
    assert_eq!(&data[payload.clone()], b"hello");

    let outputs = world.peer_sends(relayed, "8.8.8.8:7", b"world");
    let [Output::Forward { to: Destination::Client { client: at, prefix, padding }, payload }] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    let indication = [prefix, &b"world"[payload.clone()], &vec![0; *padding][..]].concat();
    let message = Message::parse(&indication).expect("a Data indication");
    assert_eq!((message.class(), message.method(), *at), (Class::Indication, Method::DATA, udp(A)));
    assert_eq!(message.attribute(Kind::DATA), Some(&b"world"[..]));
    assert_eq!(message.xor_address(Kind::XOR_PEER_ADDRESS), Some(addr("8.8.8.8:7")));
    assert!(world.peer_sends(relayed, "8.8.4.4:5000", b"stranger").is_empty());

    world.pass(300);
    assert!(world.peer_sends(relayed, PEER, b"late").is_empty());
    assert!(world.client(udp(A), &data).is_empty());
}

#[test]
fn a_channel_is_short_and_outlives_its_permission_only_with_a_new_one() {
    let mut world = World::new(config());
    let (mut client, relayed) = world.allocated(udp(A), "alice");
    assert_eq!(world.ask_code(udp(A), &client.bind(0x4001, addr(PEER))), 0);
    let data = channel_data(0x4001, b"hello");
    let outputs = world.client(udp(A), &data);
    let to = Destination::Peer { from: RelayedAddr::udp(relayed), peer: addr(PEER) };
    assert_eq!(outputs, [Output::Forward { to, payload: 4..9 }]);
    let outputs = world.peer_sends(relayed, PEER, b"world");
    let [Output::Forward { to: Destination::Client { prefix, padding: 0, .. }, payload }] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((&prefix[..], payload.clone()), (&[0x40, 1, 0, 5][..], 0..5));

    world.pass(301);
    assert!(world.client(udp(A), &data).is_empty());
    assert_eq!(world.ask_code(udp(A), &client.permit(addr(PEER))), 0);
    assert_eq!(world.client(udp(A), &data).len(), 1);
    world.pass(298);
    assert_eq!(world.ask_code(udp(A), &client.refresh(600)), 0);
    world.pass(1);
    assert!(world.client(udp(A), &data).is_empty());
    assert_eq!(world.dropped(DropReason::NoChannel), 1);
}

#[test]
fn a_channel_belongs_to_one_peer_of_one_client() {
    let mut world = World::new(config());
    let (mut alice, _) = world.allocated(udp(A), "alice");
    world.allocated(udp(B), "bob");
    assert_eq!(world.ask_code(udp(A), &alice.bind(0x4001, addr(PEER))), 0);
    assert_eq!(world.ask_code(udp(A), &alice.bind(0x4001, addr(PEER))), 0, "a refresh");
    assert_eq!(world.ask_code(udp(A), &alice.bind(0x4001, addr("8.8.4.4:1"))), 400);
    assert_eq!(world.ask_code(udp(A), &alice.bind(0x4002, addr(PEER))), 400);
    assert_eq!(world.ask_code(udp(A), &alice.bind(0x3fff, addr(PEER))), 400);
    assert_eq!(world.ask_code(udp(A), &alice.bind(0x8000, addr(PEER))), 400);
    assert!(world.client(udp(B), &channel_data(0x4001, b"foreign")).is_empty());
    assert!(world.client(udp("203.0.113.7:1"), &channel_data(0x4001, b"nobody")).is_empty());
    assert_eq!(world.dropped(DropReason::NoChannel), 1);
    assert_eq!(world.dropped(DropReason::NoAllocation), 1);
}

#[test]
fn denied_peers_get_neither_permission_nor_channel() {
    let mut world = World::new(config());
    let (mut client, _) = world.allocated(udp(A), "alice");
    for peer in
        ["127.0.0.1:1", "10.0.0.2:1", "169.254.169.254:80", "0.0.0.0:1", "224.0.0.1:1", "100.64.0.1:1"]
    {
        assert_eq!(world.ask_code(udp(A), &client.permit(addr(peer))), 403, "{peer}");
        assert_eq!(world.ask_code(udp(A), &client.bind(0x4001, addr(peer))), 403, "{peer}");
    }
    assert_eq!(world.ask_code(udp(A), &client.permit(addr("[2606:4700::1]:1"))), 443);

    let mut world = World::new(RelayConfig {
        relay_ips: vec![RelayIp::direct("2606:4700::2".parse().expect("an address"))],
        ..config()
    });
    let mut client = Client::new("alice", UNIX + 100);
    world.learn_nonce(udp(A), &mut client);
    let request = client.request(Method::ALLOCATE, |w| {
        w.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attribute(Kind::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    });
    assert_eq!(world.ask_code(udp(A), &request), 0);
    for peer in ["[::1]:1", "[::ffff:127.0.0.1]:1", "[64:ff9b::7f00:1]:1", "[2002:7f00:1::]:1", "[fe80::1]:1"]
    {
        assert_eq!(world.ask_code(udp(A), &client.permit(addr(peer))), 403, "{peer}");
    }
    assert_eq!(world.ask_code(udp(A), &client.permit(addr("[2606:4700::1]:1"))), 0);
}

#[test]
fn our_media_is_reached_in_memory_and_answers_the_same_way() {
    let mut world = World::new(config());
    let (mut client, relayed) = world.allocated(udp(A), "alice");
    let media = addr(MEDIA);
    let answer = Input::FromMedia { relayed, media, data: b"world" };
    assert!(world.input(answer).is_empty(), "not without a permission");
    assert_eq!(world.ask_code(udp(A), &client.bind(0x4001, media)), 0);
    let outputs = world.client(udp(A), &channel_data(0x4001, b"hello"));
    assert_eq!(
        outputs,
        [Output::Forward { to: Destination::Media { from: relayed, to: media }, payload: 4..9 }]
    );
    let outputs = world.input(answer);
    assert!(matches!(&outputs[..], [Output::Forward { to: Destination::Client { .. }, .. }]), "{outputs:?}");
}

#[test]
fn our_private_address_is_reachable_at_our_own_ports_only() {
    let media = addr("192.168.1.10:44444");
    let mut world = World::new(RelayConfig { own_media: vec![media], ..config() });
    let (mut client, _) = world.allocated(udp(A), "alice");
    assert_eq!(world.ask_code(udp(A), &client.bind(0x4001, media)), 0);
    assert_eq!(world.ask_code(udp(A), &client.bind(0x4002, addr("192.168.1.10:22"))), 403);
    let outputs = world.client(udp(A), &client.send(addr("192.168.1.10:22"), b"ssh"));
    assert!(outputs.is_empty());
    assert_eq!(world.dropped(DropReason::DeniedPeer), 1);
}

#[test]
fn two_relayed_clients_meet_in_memory_when_both_permit_it() {
    let mut world = World::new(config());
    let (mut alice, relayed_a) = world.allocated(udp(A), "alice");
    let tcp = ClientAddr { transport: Transport::Tcp(ConnectionId(7)), ..udp(B) };
    let (mut bob, relayed_b) = world.allocated(tcp, "bob");
    assert_eq!(world.ask_code(udp(A), &alice.bind(0x4001, relayed_b)), 0);
    assert_eq!(world.ask_code(tcp, &bob.bind(0x4009, addr(PEER))), 0);
    assert!(world.client(udp(A), &channel_data(0x4001, b"hello")).is_empty());
    assert_eq!(world.dropped(DropReason::NoPermission), 1);

    assert_eq!(world.ask_code(tcp, &bob.bind(0x4002, relayed_a)), 0);
    let outputs = world.client(udp(A), &channel_data(0x4001, b"hello"));
    let [Output::Forward { to: Destination::Client { client, prefix, padding: 3 }, payload }] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((*client, &prefix[..], payload.clone()), (tcp, &[0x40, 2, 0, 5][..], 4..9));
    assert!(matches!(world.input(Input::ClientGone { client: tcp })[..], [Output::CloseRelay { .. }]));
    assert_eq!(world.relay.allocations(), 1);
}

#[test]
fn broken_messages_change_nothing() {
    let mut world = World::new(config());
    let (mut client, _) = world.allocated(udp(A), "alice");
    let good = client.refresh(0);
    for length in 0..good.len() {
        let outputs = world.client(udp(A), &good[..length]);
        assert!(outputs.is_empty(), "{length} bytes: {outputs:?}");
    }
    // Without FINGERPRINT, the last 8 bytes, the message is whole: MESSAGE-INTEGRITY does not cover it.
    for bit in 0..(good.len() - 8) * 8 {
        let mut changed = good.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        world.client(udp(A), &changed);
        assert_eq!(world.relay.allocations(), 1, "bit {bit}");
    }
    assert_eq!(world.ask_code(udp(A), &good), 0);
    assert_eq!(world.relay.allocations(), 0);
}

/// What one client may do, and the whole of what it should get.
#[derive(Debug, Clone)]
enum Step {
    Permit(u8),
    Bind(u8, u8),
    Pass(u16),
    ToPeer(u8),
    ToChannel(u8),
    FromPeer(u8),
    Garbage(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4u8).prop_map(Step::Permit),
        (0..4u8, 0..4u8).prop_map(|(channel, peer)| Step::Bind(channel, peer)),
        (0..200u16).prop_map(Step::Pass),
        (0..4u8).prop_map(Step::ToPeer),
        (0..4u8).prop_map(Step::ToChannel),
        (0..4u8).prop_map(Step::FromPeer),
        proptest::collection::vec(any::<u8>(), 0..60).prop_map(Step::Garbage),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The model: end times of four permissions and four channels, in seconds.
    #[test]
    fn the_relay_does_what_a_small_model_says(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new(config());
        let (mut client, relayed) = world.allocated(udp(A), "alice");
        let peer = |i: u8| addr(&format!("8.8.8.{i}:5000"));
        let (mut clock, mut permitted, mut bound) = (0u64, [0u64; 4], [(0u64, 0u8); 4]);
        for step in steps {
            match step {
                Step::Permit(i) => {
                    prop_assert_eq!(world.ask_code(udp(A), &client.permit(peer(i))), 0);
                    permitted[usize::from(i)] = clock + 300;
                }
                Step::Bind(c, i) => {
                    let clash = (0..4u8).any(|other| {
                        let (until, bound_to) = bound[usize::from(other)];
                        until > clock && (other == c) != (bound_to == i)
                    });
                    let expected = if clash { 400 } else { 0 };
                    prop_assert_eq!(world.ask_code(udp(A), &client.bind(0x4000 + u16::from(c), peer(i))), expected);
                    if !clash {
                        bound[usize::from(c)] = (clock + 600, i);
                        permitted[usize::from(i)] = clock + 300;
                    }
                }
                Step::Pass(seconds) => {
                    clock += u64::from(seconds);
                    world.pass(seconds.into());
                    world.learn_nonce(udp(B), &mut Client::new("other", 0));
                    client.nonce = nonce_for(&mut world, udp(A));
                    prop_assert_eq!(world.ask_code(udp(A), &client.refresh(600)), 0);
                }
                Step::ToPeer(i) => {
                    let sent = world.client(udp(A), &client.send(peer(i), b"x")).len();
                    prop_assert_eq!(sent == 1, permitted[usize::from(i)] > clock);
                }
                Step::ToChannel(c) => {
                    let sent = world.client(udp(A), &channel_data(0x4000 + u16::from(c), b"x")).len();
                    let (until, i) = bound[usize::from(c)];
                    prop_assert_eq!(sent == 1, until > clock && permitted[usize::from(i)] > clock);
                }
                Step::FromPeer(i) => {
                    let outputs = world.peer_sends(relayed, &peer(i).to_string(), b"x");
                    prop_assert_eq!(outputs.len() == 1, permitted[usize::from(i)] > clock);
                    if let [Output::Forward { to: Destination::Client { prefix, .. }, .. }] = &outputs[..] {
                        let has_channel = bound.iter().any(|(until, to)| *until > clock && *to == i);
                        prop_assert_eq!(prefix.len() == 4, has_channel);
                    }
                }
                Step::Garbage(bytes) => {
                    world.client(udp(B), &bytes);
                }
            }
        }
        prop_assert_eq!(world.relay.allocations(), 1);
    }
}

/// A fresh nonce for a client that has an allocation.
fn nonce_for(world: &mut World, at: ClientAddr) -> Vec<u8> {
    let bare = Writer::new(Class::Request, Method::REFRESH, TransactionId([8; 12])).finish();
    attribute(&world.ask(at, &bare), Kind::NONCE).expect("401 has a nonce")
}
