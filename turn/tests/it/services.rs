//! What an operator switches on and off, limits, and moves elsewhere.

use std::net::SocketAddr;
use std::time::Duration;

use common::config::Secret;
use turn::auth::Credentials;
use turn::metrics::DropReason;
use turn::relay::{ClientAddr, Input, Output, RelayConfig, Transport};
use turn::settings::{Lifetimes, Services};
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::integrity::{Integrity, LongTermKey, PasswordAlgorithm, userhash};
use turn::stun::{Message, Writer};

use crate::client::{Client, REALM, UNIX, addr, address, attribute, channel_data, code, secret};
use crate::core::{A, B, PEER, World, config, udp};

fn binding() -> Vec<u8> {
    Writer::new(Class::Request, Method::BINDING, TransactionId([3; 12])).finish()
}

/// A client that has seen a 401.
fn client_at(world: &mut World, at: ClientAddr, user: &str) -> Client {
    let mut client = Client::new(user, UNIX + 86_400);
    world.learn_nonce(at, &mut client);
    client
}

fn plain_address(answer: &[u8], kind: Kind) -> Option<SocketAddr> {
    let value = attribute(answer, kind)?;
    let ip: [u8; 4] = value[4..].try_into().expect("IPv4");
    Some(SocketAddr::from((ip, u16::from_be_bytes([value[2], value[3]]))))
}

#[test]
fn a_client_of_rfc_8489_allocates_under_a_hashed_name() {
    let users = [("static".to_owned(), secret())].into();
    let mut world =
        World::new(RelayConfig { credentials: Credentials { users, ..Credentials::default() }, ..config() });
    let bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12])).finish();
    let challenge = world.ask(udp(A), &bare);
    let offer = attribute(&challenge, Kind::PASSWORD_ALGORITHMS).expect("offered");
    assert_eq!(offer, [0, 2, 0, 0, 0, 1, 0, 0], "SHA-256 before MD5");
    let nonce = attribute(&challenge, Kind::NONCE).expect("401 has a nonce");
    let key =
        LongTermKey::new(PasswordAlgorithm::Sha256, "static", REALM, &secret().0).ready(Integrity::Sha256);
    let request = |method, id, kind: Kind, value: &[u8]| {
        let mut writer = Writer::new(Class::Request, method, TransactionId([id; 12]));
        writer
            .attribute(kind, value)
            .attribute(Kind::USERHASH, &userhash("static", REALM))
            .attribute(Kind::REALM, REALM.as_bytes())
            .attribute(Kind::NONCE, &nonce)
            .attribute(Kind::PASSWORD_ALGORITHMS, &offer)
            .attribute(Kind::PASSWORD_ALGORITHM, &offer[..4])
            .integrity(&key);
        writer.finish()
    };
    let answer = world.ask(udp(A), &request(Method::ALLOCATE, 1, Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    let message = Message::parse(&answer).expect("well-formed");
    assert_eq!((code(&answer), message.integrity()), (0, Some(Integrity::Sha256)));
    assert!(message.integrity_holds(&key));
    assert_eq!(world.ask_code(udp(A), &request(Method::REFRESH, 2, Kind::LIFETIME, &[0, 0, 2, 88])), 0);
}

#[test]
fn clients_of_both_rfcs_share_a_secret() {
    let mut world = World::new(config());
    world.allocated(udp(A), "alice");
    let mut bob = Client::with_sha256("bob", UNIX + 86_400);
    world.learn_nonce(udp(B), &mut bob);
    for request in [bob.allocate(), bob.bind(0x4001, addr(PEER)), bob.refresh(600)] {
        let answer = world.ask(udp(B), &request);
        let message = Message::parse(&answer).expect("well-formed");
        assert_eq!((code(&answer), message.integrity()), (0, Some(Integrity::Sha256)));
        assert!(message.integrity_holds(&bob.key));
    }
    assert_eq!(world.client(udp(B), &channel_data(0x4001, b"x")).len(), 1);
}

#[test]
fn a_relay_without_passwords_is_one_only_when_asked_for() {
    let anonymous = Credentials { anonymous: true, ..Credentials::default() };
    let mut world = World::new(RelayConfig { credentials: anonymous, ..config() });
    let mut allocate = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12]));
    allocate.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    let answer = world.ask(udp(A), &allocate.clone().finish());
    assert_eq!(code(&answer), 0);
    assert!(!Message::parse(&answer).expect("well-formed").has_integrity());

    let mut world = World::new(RelayConfig { credentials: Credentials::default(), ..config() });
    assert_eq!(world.ask_code(udp(A), &allocate.finish()), 401);
}

#[test]
fn secrets_change_while_an_allocation_runs() {
    let mut world = World::new(config());
    let (mut client, _) = world.allocated(udp(A), "alice");
    world.relay.set_credentials(&Credentials::of_secret(Secret(b"south".to_vec())));
    assert_eq!(world.ask_code(udp(A), &client.refresh(600)), 0, "by the key that it was made with");
    let mut late = client_at(&mut world, udp(B), "bob");
    assert_eq!(world.ask_code(udp(B), &late.allocate()), 401);
}

#[test]
fn what_is_switched_off_is_dropped() {
    let services = |services| World::new(RelayConfig { services, ..config() });
    let allocate = Client::new("alice", UNIX).allocate();
    let mut stun_only = services(Services { turn: false, ..Services::default() });
    assert_eq!(stun_only.ask_code(udp(A), &binding()), 0);
    assert!(stun_only.client(udp(A), &allocate).is_empty());
    assert_eq!(stun_only.dropped(DropReason::SwitchedOff), 1);
    let mut turn_only = services(Services { stun: false, ..Services::default() });
    assert!(turn_only.client(udp(A), &binding()).is_empty());
    turn_only.allocated(udp(A), "alice");
}

#[test]
fn a_secure_binding_is_answered_to_who_proves_a_password() {
    let mut world = World::new(RelayConfig {
        services: Services { secure_stun: true, ..Services::default() },
        ..config()
    });
    assert_eq!(world.ask_code(udp(A), &binding()), 401);
    let mut client = client_at(&mut world, udp(A), "alice");
    let answer = world.ask(udp(A), &client.request(Method::BINDING, |_| ()));
    assert_eq!(address(&answer, Kind::XOR_MAPPED_ADDRESS), addr(A));
    assert!(Message::parse(&answer).expect("well-formed").integrity_holds(&client.key));
}

#[test]
fn new_allocations_go_to_the_other_servers_in_turn() {
    let servers = vec![addr("192.0.2.1:3478"), addr("[2001:db8::1]:3478"), addr("192.0.2.2:3478")];
    let mut world = World::new(RelayConfig { alternate_servers: servers, ..config() });
    let mut client = client_at(&mut world, udp(A), "alice");
    let mut told = Vec::new();
    for _ in 0..4 {
        let answer = world.ask(udp(A), &client.allocate());
        assert_eq!(code(&answer), 300);
        assert!(Message::parse(&answer).expect("well-formed").integrity_holds(&client.key));
        told.push(plain_address(&answer, Kind::ALTERNATE_SERVER).expect("where to").ip().to_string());
    }
    told.sort();
    assert_eq!(told, ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"]);
    assert_eq!(world.relay.allocations(), 0);
}

#[test]
fn a_server_that_drains_keeps_what_it_has() {
    let mut world = World::new(config());
    let (mut alice, _) = world.allocated(udp(A), "alice");
    assert!(world.input(Input::Drain).is_empty());
    let mut bob = client_at(&mut world, udp(B), "bob");
    assert_eq!(world.ask_code(udp(B), &bob.allocate()), 508);
    assert_eq!(world.ask_code(udp(A), &alice.refresh(600)), 0);
    assert_eq!(world.ask_code(udp(A), &alice.bind(0x4001, addr(PEER))), 0);
    assert_eq!(world.client(udp(A), &channel_data(0x4001, b"on")).len(), 1);
    assert_eq!(world.ask_code(udp(A), &alice.refresh(0)), 0);
    assert_eq!(world.relay.allocations(), 0);
}

#[test]
fn lifetimes_are_the_operators() {
    let seconds = Duration::from_secs;
    let lifetimes = Lifetimes {
        allocation_default: seconds(100),
        allocation_max: seconds(200),
        permission: seconds(20),
        channel: seconds(40),
        nonce: Some(seconds(50)),
    };
    let mut world = World::new(RelayConfig { lifetimes, ..config() });
    let (mut client, relayed) = world.allocated(udp(A), "alice");
    let answer = world.ask(udp(A), &client.refresh(3600));
    assert_eq!(attribute(&answer, Kind::LIFETIME), Some(200u32.to_be_bytes().to_vec()));
    assert_eq!(world.ask_code(udp(A), &client.bind(0x4001, addr(PEER))), 0);
    world.pass(19);
    assert_eq!(world.peer_sends(relayed, PEER, b"in time").len(), 1);
    world.pass(1);
    assert!(world.peer_sends(relayed, PEER, b"late").is_empty());
    assert_eq!(world.ask_code(udp(A), &client.permit(addr(PEER))), 0);
    world.pass(19);
    assert_eq!(world.client(udp(A), &channel_data(0x4001, b"x")).len(), 1);
    world.pass(1);
    assert!(world.client(udp(A), &channel_data(0x4001, b"x")).is_empty());
    world.pass(10);
    assert_eq!(world.ask_code(udp(A), &client.refresh(100)), 438);
    world.pass(150);
    assert_eq!(world.relay.allocations(), 0);
}

#[test]
fn bandwidth_is_limited_per_allocation_and_in_all_and_each_way() {
    let mut world = World::new(RelayConfig { max_bps: 1000, bps_capacity: 1500, ..config() });
    let (mut alice, relayed) = world.allocated(udp(A), "alice");
    let (mut bob, _) = world.allocated(udp(B), "bob");
    assert_eq!(world.ask_code(udp(A), &alice.bind(0x4001, addr(PEER))), 0);
    assert_eq!(world.ask_code(udp(B), &bob.bind(0x4001, addr(PEER))), 0);
    let data = channel_data(0x4001, &[7; 100]);
    let sent = |world: &mut World, at| (0..20).filter(|_| !world.client(udp(at), &data).is_empty()).count();
    assert_eq!(sent(&mut world, A), 10);
    assert_eq!(sent(&mut world, B), 5, "what is left of all");
    let received = (0..20).filter(|_| !world.peer_sends(relayed, PEER, &[7; 100]).is_empty()).count();
    assert_eq!(received, 10, "the other way is another");
    assert_eq!(world.dropped(DropReason::Bandwidth), 35);
    world.pass(1);
    assert_eq!(sent(&mut world, A), 10);
}

#[test]
fn software_and_fingerprint_are_there_when_asked_for() {
    let software = Some("Causeway".to_owned());
    let mut world = World::new(RelayConfig { software, fingerprint: true, ..config() });
    let (mut client, _) = world.allocated(udp(A), "alice");
    let answer = world.ask(udp(A), &client.refresh(600));
    assert_eq!(attribute(&answer, Kind::SOFTWARE).as_deref(), Some(&b"Causeway"[..]));
    let answer = world.ask(udp(A), &binding());
    assert_eq!(Message::parse(&answer).expect("well-formed").fingerprint_holds(), Some(true));
    assert_eq!(attribute(&answer, Kind::SOFTWARE), None, "no stranger gets more than it sent");
    let tcp = ClientAddr { transport: Transport::Tcp(turn::relay::ConnectionId(1)), ..udp(B) };
    let answer = world.ask(tcp, &binding());
    assert!(attribute(&answer, Kind::SOFTWARE).is_some(), "who has shaken hands is no victim");

    let mut world = World::new(config());
    let answer = world.ask(udp(A), &binding());
    assert_eq!((Message::parse(&answer).expect("well-formed").fingerprint_holds(), answer.len()), (None, 32));
    let outputs = world.client(udp(A), &binding());
    assert!(matches!(&outputs[..], [Output::Reply { .. }]), "{outputs:?}");
}
