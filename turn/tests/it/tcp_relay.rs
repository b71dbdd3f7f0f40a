//! TCP allocations: Connect, ConnectionAttempt, ConnectionBind and their ends (RFC 6062).

use std::net::SocketAddr;
use std::time::Duration;

use turn::metrics::DropReason;
use turn::relay::{
    ClientAddr, ConnectionId, Input, Output, PeerConnectionId, Protocol, RelayConfig, RelayedAddr, Transport,
};
use turn::stun::Message;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method};

use crate::client::{Client, UNIX, addr, address, attribute, channel_data, code};
use crate::core::{A, B, MEDIA, PEER, World, config, udp};

const TCP: (Kind, &[u8]) = (Kind::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
const PATIENCE: Duration = Duration::from_secs(30);

fn tcp(text: &str, connection: u64) -> ClientAddr {
    ClientAddr { transport: Transport::Tcp(ConnectionId(connection)), ..udp(text) }
}

/// The connection that holds the allocation, and one for data.
fn control() -> ClientAddr {
    tcp(A, 1)
}

fn data(number: u64) -> ClientAddr {
    tcp(&format!("203.0.113.5:{}", 2000 + number), 100 + number)
}

fn client(world: &mut World, at: ClientAddr, user: &str) -> Client {
    let mut client = Client::new(user, UNIX + 86_400);
    world.learn_nonce(at, &mut client);
    client
}

fn allocate(client: &mut Client, attributes: &[(Kind, &[u8])]) -> Vec<u8> {
    client.request(Method::ALLOCATE, |w| {
        for (kind, value) in attributes {
            w.attribute(*kind, value);
        }
    })
}

fn allocated(world: &mut World, at: ClientAddr, user: &str) -> (Client, RelayedAddr, SocketAddr) {
    let mut client = client(world, at, user);
    let answer = world.ask(at, &allocate(&mut client, &[TCP]));
    assert_eq!(code(&answer), 0);
    let shown = address(&answer, Kind::XOR_RELAYED_ADDRESS);
    (client, RelayedAddr { protocol: Protocol::Tcp, ..RelayedAddr::udp(shown) }, shown)
}

fn connect(client: &mut Client, peer: SocketAddr) -> Vec<u8> {
    client.request(Method::CONNECT, |w| {
        w.xor_address(Kind::XOR_PEER_ADDRESS, peer);
    })
}

fn connection_bind(world: &mut World, at: ClientAddr, user: &str, number: u32) -> Vec<Output> {
    let mut client = client(world, at, user);
    let request = client.request(Method::CONNECTION_BIND, |w| {
        w.number(Kind::CONNECTION_ID, number);
    });
    world.client(at, &request)
}

fn reply(outputs: &[Output]) -> &[u8] {
    let replies: Vec<_> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Reply { data, .. } => Some(data),
            _ => None,
        })
        .collect();
    assert_eq!(replies.len(), 1, "{outputs:?}");
    replies[0]
}

/// Asks for a connection; what the shell was told.
fn connecting(world: &mut World, client: &mut Client, peer: &str) -> (PeerConnectionId, SocketAddr) {
    match &world.client(control(), &connect(client, addr(peer)))[..] {
        [Output::ConnectPeer { connection, to, .. }] => (*connection, *to),
        other => panic!("{other:?}"),
    }
}

fn connected(world: &mut World, client: &mut Client, peer: &str) -> PeerConnectionId {
    let (connection, _) = connecting(world, client, peer);
    let outputs = world.input(Input::PeerConnected { connection });
    let answer = reply(&outputs);
    assert_eq!(code(answer), 0);
    assert!(Message::parse(answer).expect("well-formed").integrity_holds(&client.key));
    assert_eq!(attribute(answer, Kind::CONNECTION_ID), Some(connection.0.to_be_bytes().to_vec()));
    connection
}

fn accepted(world: &mut World, relayed: RelayedAddr, peer: &str) -> Option<PeerConnectionId> {
    let outputs = world.input(Input::PeerAccepted { relayed, peer: addr(peer) });
    match &outputs[..] {
        [] => None,
        [Output::KeepPeer { connection }, Output::Reply { client, data }] => {
            let message = Message::parse(data).expect("well-formed");
            assert_eq!((message.class(), message.method()), (Class::Indication, Method::CONNECTION_ATTEMPT));
            assert_eq!(message.number(Kind::CONNECTION_ID), Some(connection.0));
            assert_eq!((message.xor_address(Kind::XOR_PEER_ADDRESS), *client), (Some(addr(peer)), control()));
            Some(*connection)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_connects_to_a_peer_and_binds_a_connection_to_it() {
    let mut world = World::new(config());
    let (mut alice, relayed, shown) = allocated(&mut world, control(), "alice");
    assert_eq!(shown.ip(), addr(MEDIA).ip());
    let outputs = world.client(control(), &connect(&mut alice, addr(PEER)));
    let [Output::ConnectPeer { connection, bind, to }] = outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((bind, to), (SocketAddr::new(config().relay_ips[0].bound, relayed.port), addr(PEER)));
    assert_eq!(world.ask_code(control(), &connect(&mut alice, addr(PEER))), 446, "on its way");
    assert_eq!(code(reply(&world.input(Input::PeerConnected { connection }))), 0);
    assert_eq!(world.ask_code(control(), &connect(&mut alice, addr(PEER))), 446, "there");

    let outputs = connection_bind(&mut world, data(1), "alice", connection.0);
    assert_eq!(code(reply(&outputs)), 0);
    assert_eq!(outputs.last(), Some(&Output::Splice { client: data(1), connection }));
    world.pass(60);
    assert_eq!(world.relay.peer_connections(), 1, "it has been bound");
    assert!(world.input(Input::PeerGone { connection }).is_empty());
    assert_eq!(world.relay.peer_connections(), 0);
    assert_ne!(connected(&mut world, &mut alice, PEER), connection, "a new number");
}

#[test]
fn a_tcp_allocation_is_for_streams_and_can_be_forbidden() {
    let mut world = World::new(config());
    let mut alice = client(&mut world, udp(A), "alice");
    assert_eq!(world.ask_code(udp(A), &allocate(&mut alice, &[TCP])), 400, "asked for over UDP");
    let mut alice = client(&mut world, control(), "alice");
    let datagrams_only =
        [(Kind::EVEN_PORT, &[0][..]), (Kind::RESERVATION_TOKEN, &[0; 8]), (Kind::DONT_FRAGMENT, &[])];
    for other in datagrams_only {
        let request = allocate(&mut alice, &[TCP, other]);
        assert_eq!(world.ask_code(control(), &request), 400, "{other:?}");
    }
    assert_eq!(world.ask_code(control(), &allocate(&mut alice, &[TCP])), 0);
    assert_eq!(world.ask_code(control(), &alice.bind(0x4001, addr(PEER))), 400, "channels are for datagrams");
    assert_eq!(world.ask_code(control(), &alice.permit(addr(PEER))), 0);
    assert!(world.client(control(), &alice.send(addr(PEER), b"x")).is_empty());
    assert!(world.client(control(), &channel_data(0x4001, b"x")).is_empty());
    assert_eq!(world.dropped(DropReason::Unexpected), 1);

    let mut world = World::new(RelayConfig { tcp_relay: false, ..config() });
    let mut alice = client(&mut world, control(), "alice");
    assert_eq!(world.ask_code(control(), &allocate(&mut alice, &[TCP])), 442);
}

#[test]
fn what_cannot_be_connected_to_is_refused_by_its_code() {
    let mut world = World::new(config());
    let (mut alice, ..) = allocated(&mut world, control(), "alice");
    for (peer, expected) in [
        ("127.0.0.1:80", 403),
        ("10.0.0.1:22", 403),
        ("198.51.100.1:44444", 403),
        ("198.51.100.1:50009", 403),
        ("8.8.8.8:0", 400),
        ("[2606:4700::1]:80", 443),
    ] {
        assert_eq!(world.ask_code(control(), &connect(&mut alice, addr(peer))), expected, "{peer}");
    }
    let bare = alice.request(Method::CONNECT, |_| {});
    assert_eq!(world.ask_code(control(), &bare), 400);
    let mut bob = client(&mut world, tcp(B, 7), "bob");
    assert_eq!(world.ask_code(tcp(B, 7), &connect(&mut bob, addr(PEER))), 437, "no allocation");
    let (mut carol, _) = world.allocated(udp(B), "carol");
    assert_eq!(world.ask_code(udp(B), &connect(&mut carol, addr(PEER))), 437, "one for datagrams");
    assert_eq!(world.relay.peer_connections(), 0);
}

#[test]
fn a_connection_that_does_not_come_about_is_447_by_then() {
    let mut world = World::new(config());
    let (mut alice, ..) = allocated(&mut world, control(), "alice");
    let (connection, _) = connecting(&mut world, &mut alice, PEER);
    assert_eq!(code(reply(&world.input(Input::PeerConnectFailed { connection }))), 447);
    assert!(world.input(Input::PeerConnectFailed { connection }).is_empty(), "once");

    let (connection, _) = connecting(&mut world, &mut alice, PEER);
    assert_eq!(world.relay.poll_output(), Output::Timeout(world.now + PATIENCE));
    world.now += PATIENCE;
    let outputs = world.input(Input::Timeout);
    assert_eq!(code(reply(&outputs)), 447);
    assert_eq!(outputs[0], Output::ClosePeer { connection });
    let late = world.input(Input::PeerConnected { connection });
    assert_eq!(late, [Output::ClosePeer { connection }], "nobody waits for it");
    assert_eq!(world.relay.peer_connections(), 0);
}

#[test]
fn a_connection_that_nobody_binds_is_closed() {
    let mut world = World::new(config());
    let (mut alice, relayed, _) = allocated(&mut world, control(), "alice");
    let begun = connected(&mut world, &mut alice, PEER);
    assert_eq!(world.ask_code(control(), &alice.permit(addr(PEER))), 0);
    world.pass(10);
    let taken = accepted(&mut world, relayed, "8.8.8.8:6000").expect("permitted");
    world.now += Duration::from_secs(20);
    assert_eq!(world.input(Input::Timeout), [Output::ClosePeer { connection: begun }]);
    assert_eq!(code(reply(&connection_bind(&mut world, data(1), "alice", begun.0))), 400);
    world.now += Duration::from_secs(10);
    assert_eq!(world.input(Input::Timeout), [Output::ClosePeer { connection: taken }]);
    assert_eq!((world.relay.peer_connections(), world.relay.allocations()), (0, 1));
}

#[test]
fn a_peer_that_connects_needs_a_permission() {
    let mut world = World::new(config());
    let (mut alice, relayed, _) = allocated(&mut world, control(), "alice");
    assert_eq!(accepted(&mut world, relayed, PEER), None);
    assert_eq!(world.dropped(DropReason::NoPermission), 1);
    assert_eq!(world.ask_code(control(), &alice.permit(addr(PEER))), 0);
    let connection = accepted(&mut world, relayed, PEER).expect("permitted");
    assert_eq!(accepted(&mut world, relayed, "8.8.4.4:5000"), None);
    let outputs = connection_bind(&mut world, data(1), "alice", connection.0);
    assert_eq!(outputs.last(), Some(&Output::Splice { client: data(1), connection }));
    world.pass(300);
    assert_eq!(accepted(&mut world, relayed, "8.8.8.8:7000"), None, "the permission has ended");
    assert_eq!(world.relay.peer_connections(), 1, "what is bound stays");
    let unknown = relayed.at_port(50_009 - (relayed.port - 50_000));
    assert_eq!(accepted(&mut world, unknown, PEER), None);
}

#[test]
fn a_connection_is_bound_once_by_its_own_user_over_a_stream_of_its_own() {
    let mut world = World::new(config());
    let (mut alice, ..) = allocated(&mut world, control(), "alice");
    let connection = connected(&mut world, &mut alice, PEER);
    let refused = |world: &mut World, at, user, number| {
        assert_eq!(code(reply(&connection_bind(world, at, user, number))), 400);
    };
    refused(&mut world, data(1), "mallory", connection.0);
    refused(&mut world, data(2), "alice", connection.0.wrapping_add(1));
    refused(&mut world, udp(B), "alice", connection.0);
    refused(&mut world, control(), "alice", connection.0);
    let nothing = alice.request(Method::CONNECTION_BIND, |_| {});
    assert_eq!(world.ask_code(control(), &nothing), 400);
    assert_eq!(code(reply(&connection_bind(&mut world, data(3), "alice", connection.0))), 0);
    refused(&mut world, data(4), "alice", connection.0);
    let other = connected(&mut world, &mut alice, "8.8.4.4:1");
    refused(&mut world, data(3), "alice", other.0);
}

#[test]
fn everything_ends_with_what_it_hangs_on() {
    let mut world = World::new(config());
    let (mut alice, relayed, _) = allocated(&mut world, control(), "alice");
    let bound = connected(&mut world, &mut alice, PEER);
    connection_bind(&mut world, data(1), "alice", bound.0);
    let gone = world.input(Input::ClientGone { client: data(1) });
    assert_eq!(gone, [Output::ClosePeer { connection: bound }]);

    let bound = connected(&mut world, &mut alice, PEER);
    connection_bind(&mut world, data(2), "alice", bound.0);
    let waiting = connected(&mut world, &mut alice, "8.8.4.4:1");
    let (begun, _) = connecting(&mut world, &mut alice, "8.8.4.4:2");
    let outputs = world.client(control(), &alice.refresh(0));
    for connection in [bound, waiting, begun] {
        assert!(outputs.contains(&Output::ClosePeer { connection }), "{outputs:?}");
    }
    assert!(outputs.contains(&Output::CloseRelay { relayed }));
    assert_eq!((world.relay.peer_connections(), world.relay.allocations()), (0, 0));
    assert!(world.input(Input::PeerGone { connection: bound }).is_empty());
    assert!(world.input(Input::PeerConnectFailed { connection: begun }).is_empty());
    assert!(world.input(Input::ClientGone { client: data(2) }).is_empty());

    let (mut alice, ..) = allocated(&mut world, control(), "alice");
    connected(&mut world, &mut alice, PEER);
    world.input(Input::ClientGone { client: control() });
    assert_eq!((world.relay.peer_connections(), world.relay.allocations()), (0, 0));
}

#[test]
fn connections_are_bounded() {
    let mut world = World::new(config());
    let (mut alice, relayed, _) = allocated(&mut world, control(), "alice");
    assert_eq!(world.ask_code(control(), &alice.permit(addr(PEER))), 0);
    let peer = |number: usize| format!("8.8.8.8:{}", 5000 + number);
    for number in 0..16 {
        assert!(accepted(&mut world, relayed, &peer(number)).is_some());
    }
    assert_eq!(accepted(&mut world, relayed, &peer(16)), None, "sixteen wait to be bound");
    assert_eq!(world.ask_code(control(), &connect(&mut alice, addr("8.8.4.4:1"))), 508);
    assert_eq!(world.dropped(DropReason::QueueFull), 1);
    world.pass(30);
    for number in 0..64 {
        let connection = accepted(&mut world, relayed, &peer(number)).expect("there is room");
        connection_bind(&mut world, data(number as u64), "alice", connection.0);
    }
    assert_eq!(accepted(&mut world, relayed, &peer(64)), None, "sixty-four of one client");
    assert_eq!(world.relay.peer_connections(), 64);
}

#[test]
fn two_clients_meet_at_their_relayed_addresses() {
    let mut world = World::new(config());
    let (mut alice, _, alices) = allocated(&mut world, control(), "alice");
    let (mut bob, bobs_socket, bobs) = allocated(&mut world, tcp(B, 9), "bob");
    let (_, to) = connecting(&mut world, &mut alice, &bobs.to_string());
    let inside = config().relay_ips[0].bound;
    assert_eq!(to, SocketAddr::new(inside, bobs.port()), "not out and in again");
    assert_eq!(world.ask_code(tcp(B, 9), &bob.permit(alices)), 0);
    let from = SocketAddr::new(inside, alices.port());
    let outputs = world.input(Input::PeerAccepted { relayed: bobs_socket, peer: from });
    let message = Message::parse(reply(&outputs)).expect("well-formed");
    assert_eq!(message.xor_address(Kind::XOR_PEER_ADDRESS), Some(alices), "as bob knows it");
}
