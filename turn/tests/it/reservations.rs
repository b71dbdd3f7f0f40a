//! EVEN-PORT and RESERVATION-TOKEN: RTP on an even port, RTCP on the next one (RFC 8656 §7.2, §18.5, §18.8).

use std::net::SocketAddr;
use std::time::Duration;

use turn::relay::{ClientAddr, Input, Output, RelayConfig, RelayedAddr};
use turn::stun::attributes::Kind;
use turn::stun::header::Method;

use crate::client::{Client, UNIX, addr, address, attribute, code};
use crate::core::{A, B, MEDIA, World, config, udp};

const EVEN: &[u8] = &[0];
const EVEN_AND_NEXT: &[u8] = &[0x80];

fn client(world: &mut World, at: ClientAddr, user: &str) -> Client {
    let mut client = Client::new(user, UNIX + 86_400);
    world.learn_nonce(at, &mut client);
    client
}

fn allocate(client: &mut Client, attributes: &[(Kind, &[u8])]) -> Vec<u8> {
    client.request(Method::ALLOCATE, |w| {
        w.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        for (kind, value) in attributes {
            w.attribute(*kind, value);
        }
    })
}

fn port(answer: &[u8]) -> u16 {
    address(answer, Kind::XOR_RELAYED_ADDRESS).port()
}

/// A client with an even port, and the token of the next one.
fn pair(world: &mut World, at: ClientAddr, user: &str) -> (u16, Vec<u8>) {
    let mut rtp = client(world, at, user);
    let answer = world.ask(at, &allocate(&mut rtp, &[(Kind::EVEN_PORT, EVEN_AND_NEXT)]));
    assert_eq!(code(&answer), 0);
    (port(&answer), attribute(&answer, Kind::RESERVATION_TOKEN).expect("it was asked for"))
}

fn redeem(world: &mut World, at: ClientAddr, user: &str, token: &[u8]) -> Vec<u8> {
    let mut rtcp = client(world, at, user);
    let request = allocate(&mut rtcp, &[(Kind::RESERVATION_TOKEN, token)]);
    world.ask(at, &request)
}

#[test]
fn an_even_port_is_even() {
    let mut world = World::new(config());
    for host in 0..5 {
        let at = udp(&format!("203.0.113.9:{}", 1000 + host));
        let mut client = client(&mut world, at, "alice");
        let answer = world.ask(at, &allocate(&mut client, &[(Kind::EVEN_PORT, EVEN)]));
        assert_eq!((code(&answer), port(&answer) % 2), (0, 0));
        assert_eq!(attribute(&answer, Kind::RESERVATION_TOKEN), None);
    }
    let mut client = client(&mut world, udp(B), "alice");
    let request = allocate(&mut client, &[(Kind::EVEN_PORT, EVEN)]);
    assert_eq!(world.ask_code(udp(B), &request), 508, "five of the ten ports are even");
}

#[test]
fn a_token_gives_its_user_the_next_port_once() {
    let mut world = World::new(config());
    let (even, token) = pair(&mut world, udp(A), "alice");
    assert_eq!(even % 2, 0);
    assert_eq!(code(&redeem(&mut world, udp(B), "mallory", &token)), 508, "another user's");
    assert_eq!(code(&redeem(&mut world, udp(B), "alice", &[7; 8])), 508, "nobody's");
    let mut rtcp = client(&mut world, udp(B), "alice");
    for other in [(Kind::EVEN_PORT, EVEN), (Kind::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0])] {
        let request = allocate(&mut rtcp, &[(Kind::RESERVATION_TOKEN, &token), other]);
        assert_eq!(world.ask_code(udp(B), &request), 400);
    }
    world.now += Duration::from_secs(29);
    assert_eq!(port(&redeem(&mut world, udp(B), "alice", &token)), even + 1);
    assert_eq!(code(&redeem(&mut world, udp("203.0.113.7:1"), "alice", &token)), 508, "once");
    world.now += Duration::from_secs(31);
    assert!(world.input(Input::Timeout).is_empty(), "a redeemed port stays open");
    assert_eq!(world.relay.allocations(), 2);
}

#[test]
fn a_reservation_ends_after_half_a_minute() {
    let mut world = World::new(config());
    let (even, token) = pair(&mut world, udp(A), "alice");
    let Output::Timeout(at) = world.relay.poll_output() else { panic!("drained") };
    assert_eq!(at, world.now + Duration::from_secs(30));
    world.now = at;
    assert_eq!(world.input(Input::Timeout), [Output::CloseRelay { relayed: relayed(even + 1) }]);
    assert_eq!(code(&redeem(&mut world, udp(B), "alice", &token)), 508);
    assert_eq!(world.relay.allocations(), 1);
}

#[test]
fn reserved_ports_are_taken_and_count() {
    let mut world = World::new(config());
    for host in 0..5 {
        pair(&mut world, udp(&format!("203.0.113.9:{}", 1000 + host)), "alice");
    }
    let mut late = client(&mut world, udp(B), "bob");
    assert_eq!(world.ask_code(udp(B), &late.allocate()), 508, "five pairs are all ten ports");
    world.pass(30);
    world.learn_nonce(udp(B), &mut late);
    assert_eq!(world.ask_code(udp(B), &late.allocate()), 0);

    let mut world = World::new(RelayConfig { user_quota: 2, ..config() });
    let (even, token) = pair(&mut world, udp(A), "alice");
    let mut third = client(&mut world, udp(B), "alice");
    assert_eq!(world.ask_code(udp(B), &third.allocate()), 486);
    assert_eq!(port(&redeem(&mut world, udp(B), "alice", &token)), even + 1);
}

fn relayed(port: u16) -> RelayedAddr {
    RelayedAddr::udp(addr(MEDIA)).at_port(port)
}

fn opens(relayed: RelayedAddr) -> Output {
    Output::OpenRelay { relayed, bind: SocketAddr::new(config().relay_ips[0].bound, relayed.port) }
}

/// The first output of an input, without answering to it.
fn first(world: &mut World, input: Input<'_>) -> Output {
    world.relay.handle_input(world.now, input);
    world.relay.poll_output()
}

#[test]
fn a_pair_whose_second_port_is_taken_is_given_up_for_another() {
    let mut world = World::new(config());
    let mut rtp = client(&mut world, udp(A), "alice");
    let request = allocate(&mut rtp, &[(Kind::EVEN_PORT, EVEN_AND_NEXT)]);
    let Output::OpenRelay { relayed: own, .. } =
        first(&mut world, Input::FromClient { client: udp(A), data: &request })
    else {
        panic!("opens")
    };
    let next = own.at_port(own.port + 1);
    assert_eq!(first(&mut world, Input::RelayBound { relayed: own }), opens(next));
    let failed = Input::RelayBindFailed { relayed: next };
    assert_eq!(first(&mut world, failed), Output::CloseRelay { relayed: own });
    let Output::OpenRelay { relayed: another, .. } = world.relay.poll_output() else {
        panic!("tries another")
    };
    assert_eq!(another.port % 2, 0);
    let outputs = world.input(Input::RelayBound { relayed: another });
    let [Output::Reply { data, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((code(data), port(data)), (0, another.port));
}

#[test]
fn a_client_that_goes_while_a_pair_is_bound_leaves_nothing() {
    let mut world = World::new(config());
    let mut rtp = client(&mut world, udp(A), "alice");
    let request = allocate(&mut rtp, &[(Kind::EVEN_PORT, EVEN_AND_NEXT)]);
    let Output::OpenRelay { relayed: own, .. } =
        first(&mut world, Input::FromClient { client: udp(A), data: &request })
    else {
        panic!("opens")
    };
    let next = own.at_port(own.port + 1);
    assert_eq!(first(&mut world, Input::RelayBound { relayed: own }), opens(next));
    let gone = Input::ClientGone { client: udp(A) };
    assert_eq!(first(&mut world, gone), Output::CloseRelay { relayed: own });
    let bound = Input::RelayBound { relayed: next };
    assert_eq!(first(&mut world, bound), Output::CloseRelay { relayed: next });
    assert_eq!(world.relay.allocations(), 0);
    for host in 0..5 {
        pair(&mut world, udp(&format!("203.0.113.9:{}", 1000 + host)), "alice");
    }
}
