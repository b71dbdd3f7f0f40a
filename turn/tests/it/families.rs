//! IPv4 and IPv6: which family an allocation gets, both at once, and who may be talked to through which (RFC 8656 §7, §8).

use std::net::SocketAddr;

use turn::metrics::DropReason;
use turn::relay::{ClientAddr, Destination, Family, Input, Output, RelayConfig, RelayIp, RelayedAddr};
use turn::stun::Message;
use turn::stun::attributes::{Kind, read_xor_address};
use turn::stun::header::Method;

use crate::client::{Client, UNIX, addr, address, attribute, channel_data, code};
use crate::core::{A, B, MEDIA, PEER, World, config, udp};

type Attributes<'a> = &'a [(Kind, &'a [u8])];

const C: &str = "203.0.113.7:1000";
const PEER_V6: &str = "[2606:4700::1]:5000";
const RELAY_V6: &str = "[2606:4700:5::5]:0";
const UDP: (Kind, &[u8]) = (Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
const V4: &[u8] = &[1, 0, 0, 0];
const V6: &[u8] = &[2, 0, 0, 0];
const REQUESTED: Kind = Kind::REQUESTED_ADDRESS_FAMILY;
const ADDITIONAL: Kind = Kind::ADDITIONAL_ADDRESS_FAMILY;

/// One relay address of each family.
fn dual() -> RelayConfig {
    let mut config = config();
    config.relay_ips.push(RelayIp::direct(addr(RELAY_V6).ip()));
    config
}

fn only_v6() -> RelayConfig {
    RelayConfig { relay_ips: vec![RelayIp::direct(addr(RELAY_V6).ip())], ..config() }
}

fn client(world: &mut World, at: ClientAddr, user: &str) -> Client {
    let mut client = Client::new(user, UNIX + 86_400);
    world.learn_nonce(at, &mut client);
    client
}

fn request(client: &mut Client, method: Method, attributes: Attributes<'_>) -> Vec<u8> {
    client.request(method, |w| {
        for (kind, value) in attributes {
            w.attribute(*kind, value);
        }
    })
}

fn allocate(world: &mut World, at: ClientAddr, attributes: Attributes<'_>) -> (Client, Vec<u8>) {
    let mut client = client(world, at, "alice");
    let request = request(&mut client, Method::ALLOCATE, &[&[UDP], attributes].concat());
    let answer = world.ask(at, &request);
    (client, answer)
}

fn relayed_addresses(answer: &[u8]) -> Vec<SocketAddr> {
    let message = Message::parse(answer).expect("well-formed");
    let relayed = message.attributes().filter(|a| a.kind == Kind::XOR_RELAYED_ADDRESS);
    relayed.map(|a| read_xor_address(a.value, message.transaction_id()).expect("an address")).collect()
}

/// A client with both.
fn both(world: &mut World, at: ClientAddr) -> (Client, [SocketAddr; 2]) {
    let (client, answer) = allocate(world, at, &[(ADDITIONAL, V6)]);
    assert_eq!((code(&answer), attribute(&answer, Kind::ADDRESS_ERROR_CODE)), (0, None));
    let relayed = relayed_addresses(&answer).try_into().expect("two");
    (client, relayed)
}

#[test]
fn a_family_is_had_as_asked_for_and_ipv4_when_nothing_is_said() {
    let mut world = World::new(dual());
    let family = |answer: &[u8]| Family::of(address(answer, Kind::XOR_RELAYED_ADDRESS).ip());
    assert_eq!(family(&allocate(&mut world, udp(A), &[]).1), Family::V4);
    assert_eq!(family(&allocate(&mut world, udp(B), &[(REQUESTED, V6)]).1), Family::V6);
    let from_v6 = ClientAddr { remote: addr("[2001:db8::7]:1"), local: addr("[2001:db8::1]:3478"), ..udp(A) };
    assert_eq!(family(&allocate(&mut world, from_v6, &[]).1), Family::V4, "RFC 8656 §7.2");

    let mut world = World::new(RelayConfig { keep_address_family: true, ..dual() });
    assert_eq!(family(&allocate(&mut world, from_v6, &[]).1), Family::V6, "the client's own");
    assert_eq!(family(&allocate(&mut world, udp(A), &[]).1), Family::V4);
    let other_v6 = ClientAddr { remote: addr("[2001:db8::8]:1"), ..from_v6 };
    assert_eq!(family(&allocate(&mut world, other_v6, &[(REQUESTED, V4)]).1), Family::V4);
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    let codes = |config: RelayConfig, cases: &[(Attributes<'_>, u16)]| {
        for (attributes, expected) in cases {
            let mut world = World::new(config.clone());
            assert_eq!(code(&allocate(&mut world, udp(A), attributes).1), *expected, "{attributes:?}");
            assert_eq!(world.relay.allocations(), usize::from(*expected == 0));
        }
    };
    codes(config(), &[(&[(REQUESTED, V6)], 440), (&[(REQUESTED, &[3, 0, 0, 0])], 440)]);
    codes(only_v6(), &[(&[], 440), (&[(REQUESTED, V6)], 0)]);
    codes(
        dual(),
        &[
            (&[(REQUESTED, &[1])], 400),
            (&[(REQUESTED, V4), (ADDITIONAL, V6)], 400),
            (&[(ADDITIONAL, V4)], 400),
            (&[(ADDITIONAL, &[2])], 400),
            (&[(ADDITIONAL, V6), (Kind::EVEN_PORT, &[0x80])], 400),
            (&[(ADDITIONAL, V6), (Kind::EVEN_PORT, &[0])], 0),
            (&[(ADDITIONAL, V6), (Kind::RESERVATION_TOKEN, &[0; 8])], 400),
        ],
    );
}

#[test]
fn one_client_talks_to_both_families_over_its_own_address_of_each() {
    let mut world = World::new(dual());
    let (mut client, [v4, v6]) = both(&mut world, udp(A));
    assert_eq!((v4.ip(), v6.ip()), (addr(MEDIA).ip(), addr(RELAY_V6).ip()));
    let permit = client.request(Method::CREATE_PERMISSION, |w| {
        w.xor_address(Kind::XOR_PEER_ADDRESS, addr(PEER)).xor_address(Kind::XOR_PEER_ADDRESS, addr(PEER_V6));
    });
    assert_eq!(world.ask_code(udp(A), &permit), 0);
    assert_eq!(world.ask_code(udp(A), &client.bind(0x4001, addr(PEER_V6))), 0);
    assert_eq!(world.ask_code(udp(A), &client.bind(0x4001, addr(PEER))), 400, "one number, one peer");
    let leaves = |world: &mut World, data: &[u8]| match &world.client(udp(A), data)[..] {
        [Output::Forward { to: Destination::Peer { from, peer }, .. }] => (*from, *peer),
        other => panic!("{other:?}"),
    };
    let up = client.send(addr(PEER), b"x");
    assert_eq!(leaves(&mut world, &up), (RelayedAddr::udp(v4), addr(PEER)));
    let up = channel_data(0x4001, b"x");
    assert_eq!(leaves(&mut world, &up), (RelayedAddr::udp(v6), addr(PEER_V6)));
    assert_eq!(world.peer_sends(v4, PEER, b"x").len(), 1);
    assert_eq!(world.peer_sends(v6, PEER_V6, b"x").len(), 1);
    assert!(world.peer_sends(v6, "[2606:4700::2]:5000", b"x").is_empty());
    assert_eq!(world.dropped(DropReason::NoPermission), 1);
    assert_eq!((world.relay.allocations(), world.metrics.allocations.get()), (1, 1));
}

#[test]
fn one_family_of_two_ends_alone() {
    let mut world = World::new(dual());
    let (mut client, [v4, v6]) = both(&mut world, udp(A));
    for (channel, peer) in [(0x4001, PEER), (0x4002, PEER_V6)] {
        assert_eq!(world.ask_code(udp(A), &client.bind(channel, addr(peer))), 0);
    }
    let end = |client: &mut Client, family: &[u8]| {
        request(client, Method::REFRESH, &[(Kind::LIFETIME, &[0; 4]), (REQUESTED, family)])
    };
    let outputs = world.client(udp(A), &end(&mut client, V4));
    assert!(outputs.contains(&Output::CloseRelay { relayed: RelayedAddr::udp(v4) }), "{outputs:?}");
    assert_eq!(world.relay.allocations(), 1);
    assert!(world.client(udp(A), &channel_data(0x4001, b"x")).is_empty());
    assert!(world.peer_sends(v4, PEER, b"x").is_empty());
    assert_eq!(world.client(udp(A), &channel_data(0x4002, b"x")).len(), 1);
    assert_eq!(world.ask_code(udp(A), &end(&mut client, V4)), 443, "gone already");
    assert_eq!(world.ask_code(udp(A), &client.permit(addr(PEER))), 443);
    let outputs = world.client(udp(A), &end(&mut client, V6));
    assert!(outputs.contains(&Output::CloseRelay { relayed: RelayedAddr::udp(v6) }), "{outputs:?}");
    assert_eq!(world.relay.allocations(), 0);
}

#[test]
fn each_family_has_its_own_time() {
    let mut world = World::new(dual());
    let (mut client, [v4, v6]) = both(&mut world, udp(A));
    let longer = [(Kind::LIFETIME, &900u32.to_be_bytes()[..]), (REQUESTED, V6)];
    assert_eq!(world.ask_code(udp(A), &request(&mut client, Method::REFRESH, &longer)), 0);
    world.now += std::time::Duration::from_secs(600);
    assert_eq!(world.input(Input::Timeout), [Output::CloseRelay { relayed: RelayedAddr::udp(v4) }]);
    assert_eq!(world.relay.allocations(), 1);
    world.now += std::time::Duration::from_secs(300);
    assert_eq!(world.input(Input::Timeout), [Output::CloseRelay { relayed: RelayedAddr::udp(v6) }]);
    assert_eq!((world.relay.allocations(), world.metrics.allocations.get()), (0, 0));

    both(&mut world, udp(A));
    world.now += std::time::Duration::from_secs(600);
    assert_eq!(world.input(Input::Timeout).len(), 2, "both at once");
    assert_eq!(world.relay.allocations(), 0);
}

#[test]
fn a_family_that_is_not_to_be_had_is_named_and_the_other_one_given() {
    let error = |family: u8, code: u16| [&[family, 0, (code / 100) as u8, (code % 100) as u8][..]].concat();
    let check = |world: &mut World, at, family: Family, expected: Vec<u8>| {
        let (_, answer) = allocate(world, at, &[(ADDITIONAL, V6)]);
        assert_eq!(code(&answer), 0);
        let relayed = relayed_addresses(&answer);
        assert_eq!(relayed.iter().map(|at| Family::of(at.ip())).collect::<Vec<_>>(), [family]);
        let value = attribute(&answer, Kind::ADDRESS_ERROR_CODE).expect("says why");
        assert_eq!(value[..4], expected);
    };
    check(&mut World::new(config()), udp(A), Family::V4, error(2, 440));
    check(&mut World::new(only_v6()), udp(A), Family::V6, error(1, 440));

    let mut world = World::new(RelayConfig { ports: 50_000..=50_000, ..dual() });
    allocate(&mut world, udp(A), &[(REQUESTED, V6)]);
    check(&mut world, udp(B), Family::V4, error(2, 508));
    assert_eq!(code(&allocate(&mut world, udp(C), &[(ADDITIONAL, V6)]).1), 508, "neither");
}

#[test]
fn a_family_whose_sockets_cannot_be_bound_is_given_up_alone() {
    let mut world = World::new(dual());
    let mut client = client(&mut world, udp(A), "alice");
    let data = request(&mut client, Method::ALLOCATE, &[UDP, (ADDITIONAL, V6)]);
    world.relay.handle_input(world.now, Input::FromClient { client: udp(A), data: &data });
    let (mut tried, mut answer) = (0, None);
    loop {
        match world.relay.poll_output() {
            Output::OpenRelay { relayed, .. } if relayed.family == Family::V6 => {
                tried += 1;
                world.relay.handle_input(world.now, Input::RelayBindFailed { relayed });
            }
            Output::OpenRelay { relayed, .. } => {
                world.relay.handle_input(world.now, Input::RelayBound { relayed });
            }
            Output::Reply { data, .. } => answer = Some(data),
            Output::Timeout(_) => break,
            other => panic!("{other:?}"),
        }
    }
    let answer = answer.expect("an answer");
    assert_eq!((tried, code(&answer), relayed_addresses(&answer).len()), (10, 0, 1));
    assert_eq!(attribute(&answer, Kind::ADDRESS_ERROR_CODE).expect("says why")[..4], [2, 0, 5, 8]);
    assert_eq!(world.ask(udp(A), &data), answer, "and again to a retransmission");
}

#[test]
fn two_clients_meet_in_memory_in_either_family() {
    for index in [0, 1] {
        let mut world = World::new(dual());
        let (mut alice, to_alice) = both(&mut world, udp(A));
        let (mut bob, to_bob) = both(&mut world, udp(B));
        let (alices, bobs) = (to_alice[index], to_bob[index]);
        assert_eq!(world.ask_code(udp(A), &alice.bind(0x4001, bobs)), 0);
        assert!(world.client(udp(A), &channel_data(0x4001, b"x")).is_empty(), "bob has not said yes");
        assert_eq!(world.ask_code(udp(B), &bob.bind(0x4002, alices)), 0);
        let outputs = world.client(udp(A), &channel_data(0x4001, b"x"));
        let [Output::Forward { to: Destination::Client { client, prefix, .. }, .. }] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        assert_eq!((*client, &prefix[..]), (udp(B), &[0x40, 2, 0, 1][..]));
    }
}

#[test]
fn several_relay_addresses_are_all_used_and_each_shows_its_own() {
    let pair = |n: u8| RelayIp {
        bound: std::net::IpAddr::from([10, 0, 0, n]),
        shown: std::net::IpAddr::from([198, 51, 100, n]),
    };
    let config =
        RelayConfig { relay_ips: vec![pair(1), pair(2), pair(3)], ports: 50_000..=50_003, ..config() };
    let mut world = World::new(config);
    let mut shown = std::collections::BTreeSet::new();
    for port in 0..12 {
        let at = udp(&format!("203.0.113.9:{}", 1000 + port));
        let (_, relayed) = world.allocated(at, "alice");
        assert!(shown.insert(relayed), "{relayed} twice");
    }
    let ips: std::collections::BTreeSet<_> = shown.iter().map(SocketAddr::ip).collect();
    assert_eq!(ips.len(), 3, "three addresses of four ports each");
    let mut late = client(&mut world, udp(B), "alice");
    assert_eq!(world.ask_code(udp(B), &late.allocate()), 508);
}
