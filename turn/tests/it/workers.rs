//! Several workers on real sockets: clients spread over them, and what they share holds over all.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use common::handover::DatagramSink;
use common::metrics::Registry;
use common::net::Gate;
use turn::net::TurnHandle;
use turn::settings::Settings;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::{Message, Writer};

use crate::client::{Client, addr, address, attribute, channel_data, code};
use crate::loopback::{Link, PATIENCE, Stream, connect, relays_to_a_peer, settings, start_with, udp_socket};

/// Clients until each worker has one: with four workers all miss one of them once in 10^24 runs.
const CLIENTS_MAX: usize = 200;

fn workers(count: usize) -> impl FnOnce(&mut Settings) {
    move |settings| settings.workers = count
}

/// A client of this user, with its nonce, before it allocates.
fn newcomer(handle: &TurnHandle, user: &str) -> (UdpSocket, Client) {
    let mut link = udp_socket();
    link.connect(handle.addresses()[0]).expect("connected");
    let mut client = Client::new(user, u64::from(u32::MAX));
    let bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12])).finish();
    client.nonce = attribute(&link.ask(&bare), Kind::NONCE).expect("401 has a nonce");
    (link, client)
}

struct Allocated {
    link: UdpSocket,
    client: Client,
    relayed: SocketAddr,
    answer: Vec<u8>,
    worker: usize,
}

/// Allocates, and sees at which worker.
fn allocated(handle: &TurnHandle, user: &str, fill: impl FnOnce(&mut Writer)) -> Allocated {
    let (mut link, mut client) = newcomer(handle, user);
    let before = handle.allocations_by_worker();
    let answer = link.ask(&client.request(Method::ALLOCATE, |w| {
        w.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        fill(w);
    }));
    assert_eq!(code(&answer), 0);
    let after = handle.allocations_by_worker();
    let worker = (0..after.len()).find(|&worker| after[worker] > before[worker]).expect("one has it");
    Allocated { link, client, relayed: address(&answer, Kind::XOR_RELAYED_ADDRESS), answer, worker }
}

/// One client at each worker.
fn one_at_each(handle: &TurnHandle) -> Vec<Allocated> {
    let count = handle.allocations_by_worker().len();
    let mut found: Vec<Option<Allocated>> = (0..count).map(|_| None).collect();
    for _ in 0..CLIENTS_MAX {
        if found.iter().all(Option::is_some) {
            break;
        }
        let new = allocated(handle, "alice", |_| {});
        let worker = new.worker;
        found[worker] = Some(new);
    }
    found.into_iter().map(|one| one.expect("the kernel spreads clients over the workers")).collect()
}

#[test]
fn clients_are_spread_over_all_workers_and_no_port_is_given_twice() {
    for count in [2, 4] {
        let (handle, ..) = start_with(workers(count));
        let clients: Vec<Allocated> = (0..100).map(|_| allocated(&handle, "alice", |_| {})).collect();
        let ports: HashSet<SocketAddr> = clients.iter().map(|client| client.relayed).collect();
        assert_eq!(ports.len(), clients.len());
        let by_worker = handle.allocations_by_worker();
        assert!(by_worker.len() == count && by_worker.iter().all(|held| *held > 0), "{by_worker:?}");
        assert_eq!((by_worker.iter().sum::<usize>(), handle.allocations()), (100, 100));
        for mut one in clients {
            assert_eq!(code(&one.link.ask(&one.client.refresh(0))), 0, "it is always the same worker");
        }
        assert_eq!((handle.allocations_by_worker(), handle.allocations()), (vec![0; count], 0));
    }
}

#[test]
fn all_ports_can_be_had_and_not_one_more() {
    let (handle, ..) = start_with(|settings| {
        settings.workers = 4;
        settings.relay.ports = 30_100..=30_131;
    });
    let mut clients: Vec<(UdpSocket, Client)> = (0..40).map(|_| newcomer(&handle, "alice")).collect();
    let answers: Vec<Vec<u8>> =
        clients.iter_mut().map(|(link, client)| link.ask(&client.allocate())).collect();
    let granted: Vec<&Vec<u8>> = answers.iter().filter(|answer| code(answer) == 0).collect();
    let ports: HashSet<u16> =
        granted.iter().map(|answer| address(answer, Kind::XOR_RELAYED_ADDRESS).port()).collect();
    assert_eq!(ports.len(), granted.len());
    // Somebody else on this machine may have one of them; a worker then gives up after some attempts.
    assert!(granted.len() <= 32 && granted.len() > 16, "{}", granted.len());
    assert!(answers.iter().all(|answer| [0, 508].contains(&code(answer))));
}

#[test]
fn quotas_hold_over_the_sum_of_the_workers() {
    let (handle, ..) = start_with(|settings| {
        settings.workers = 4;
        (settings.relay.user_quota, settings.relay.total_quota) = (10, 15);
    });
    let mut clients: Vec<(UdpSocket, Client)> =
        (0..60).map(|i| newcomer(&handle, if i < 30 { "ann" } else { "bob" })).collect();
    let codes: Vec<u16> =
        clients.iter_mut().map(|(link, client)| code(&link.ask(&client.allocate()))).collect();
    let count = |of: &[u16], wanted| of.iter().filter(|code| **code == wanted).count();
    let (ann, bob) = codes.split_at(30);
    assert_eq!((count(ann, 0), count(ann, 486)), (10, 20), "{codes:?}");
    assert_eq!((count(bob, 0), count(bob, 508)), (5, 25), "{codes:?}");
    assert!(handle.allocations_by_worker().iter().filter(|held| **held > 0).count() > 1);
}

#[test]
fn a_reserved_port_is_had_at_another_worker() {
    let (handle, ..) = start_with(workers(2));
    let (mut at_home, mut elsewhere) = (0, 0);
    for _ in 0..CLIENTS_MAX {
        if at_home > 0 && elsewhere > 0 {
            return;
        }
        let first = allocated(&handle, "alice", |w| {
            w.attribute(Kind::EVEN_PORT, &[0x80]);
        });
        let token = attribute(&first.answer, Kind::RESERVATION_TOKEN).expect("a token");
        let redeem = |user: &str| {
            let (mut link, mut client) = newcomer(&handle, user);
            let answer = link.ask(&client.request(Method::ALLOCATE, |w| {
                w.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
                    .attribute(Kind::RESERVATION_TOKEN, &token);
            }));
            (link, client, answer)
        };
        assert_eq!(code(&redeem("mallory").2), 508, "it is another user's");
        let before = handle.allocations_by_worker();
        let (mut link, mut client, answer) = redeem("alice");
        assert_eq!(code(&answer), 0);
        let relayed = address(&answer, Kind::XOR_RELAYED_ADDRESS);
        assert_eq!((first.relayed.port() % 2, relayed.port()), (0, first.relayed.port() + 1));
        let is_home = handle.allocations_by_worker()[first.worker] > before[first.worker];
        if is_home {
            at_home += 1
        } else {
            elsewhere += 1
        }
        // Its socket is at work, wherever it was opened.
        let peer = udp_socket();
        let peer_address = peer.local_addr().expect("bound");
        assert_eq!(code(&link.ask(&client.bind(0x4001, peer_address))), 0);
        link.put(&channel_data(0x4001, b"there"));
        let mut buffer = [0; 10];
        assert_eq!(peer.recv_from(&mut buffer).expect("relayed"), (5, relayed));
        peer.send_to(b"back", relayed).expect("sent");
        assert_eq!(link.take(), b"\x40\x01\x00\x04back");
        assert_eq!(code(&redeem("alice").2), 508, "once");
    }
    panic!("at home {at_home} times, elsewhere {elsewhere} times");
}

#[test]
fn clients_of_different_workers_reach_each_other_with_permission_alone() {
    let (handle, _media, _registry) = start_with(workers(2));
    let [mut a, mut b] = <[Allocated; 2]>::try_from(one_at_each(&handle)).ok().expect("two workers");
    assert_eq!(code(&a.link.ask(&a.client.bind(0x4001, b.relayed))), 0);
    // Not permitted at B: lost. What B gets first is what comes after its permission.
    a.link.put(&channel_data(0x4001, b"too early"));
    assert_eq!(code(&a.link.ask(&a.client.refresh(600))), 0, "it has been sent on");
    assert_eq!(code(&b.link.ask(&b.client.refresh(600))), 0);
    let mallory = allocated(&handle, "mallory", |_| {});
    assert_eq!(code(&b.link.ask(&b.client.permit(mallory.relayed))), 0); // the same IP address
    assert_eq!(code(&b.link.ask(&b.client.bind(0x4002, a.relayed))), 0);
    a.link.put(&channel_data(0x4001, b"hello"));
    let got = b.link.take();
    assert_eq!(got, b"\x40\x02\x00\x05hello", "{got:?}");
    b.link.put(&channel_data(0x4002, b"hello yourself"));
    assert_eq!(&a.link.take()[..18], b"\x40\x01\x00\x0ehello yourself");
}

#[test]
fn a_data_connection_finds_the_worker_of_its_control_connection() {
    let (handle, ..) = start_with(workers(4));
    let server = handle.addresses()[0];
    let nonce = |link: &mut Stream<std::net::TcpStream>| {
        let bare = Writer::new(Class::Request, Method::REFRESH, TransactionId([9; 12])).finish();
        attribute(&link.ask(&bare), Kind::NONCE).expect("401 has a nonce")
    };
    let mut control = Stream(connect(server));
    let mut client = Client::new("alice", u64::from(u32::MAX));
    client.nonce = nonce(&mut control);
    let answer = control.ask(&client.request(Method::ALLOCATE, |w| {
        w.attribute(Kind::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
    }));
    assert_eq!(code(&answer), 0);
    // Connections of 12 source ports all stay where the control connection is once in 10^7 runs.
    for round in 0u8..12 {
        let peer = TcpListener::bind("127.0.0.1:0").expect("a port");
        let peer_address = peer.local_addr().expect("bound");
        let answer = control.ask(&client.request(Method::CONNECT, |w| {
            w.xor_address(Kind::XOR_PEER_ADDRESS, peer_address);
        }));
        assert_eq!(code(&answer), 0);
        let number = Message::parse(&answer).expect("sound").number(Kind::CONNECTION_ID).expect("has it");
        let (mut peer, _) = peer.accept().expect("connected");
        let bind = |user: &str| {
            let mut data = Stream(connect(server));
            let mut client = Client::new(user, u64::from(u32::MAX));
            client.nonce = nonce(&mut data);
            let answer = data.ask(&client.request(Method::CONNECTION_BIND, |w| {
                w.number(Kind::CONNECTION_ID, number);
            }));
            (data, code(&answer))
        };
        assert_eq!(bind("mallory").1, 400, "it is another user's");
        let (mut data, bound) = bind("alice");
        assert_eq!(bound, 0);
        peer.write_all(&[round; 3]).expect("sent");
        let mut got = [0; 3];
        data.0.read_exact(&mut got).expect("carried");
        assert_eq!(got, [round; 3]);
        data.0.write_all(b"up").expect("sent");
        let mut got = [0; 2];
        peer.read_exact(&mut got).expect("carried");
        assert_eq!(&got, b"up");
    }
}

#[test]
fn media_is_reached_from_every_worker_and_reaches_its_client() {
    let (handle, media, _registry) = start_with(workers(4));
    let media_address = addr("127.0.0.1:9");
    for one in &mut one_at_each(&handle) {
        assert_eq!(code(&one.link.ask(&one.client.bind(0x4002, media_address))), 0);
        one.link.put(&channel_data(0x4002, b"up"));
        let got = media.recv_timeout(PATIENCE).expect("delivered");
        assert_eq!(got, (one.relayed, media_address, b"up".to_vec()));
        assert!(handle.sink().deliver(media_address, one.relayed, b"down"));
        assert_eq!(one.link.take(), b"\x40\x02\x00\x04down");
    }
}

#[test]
fn all_workers_drain() {
    let (handle, ..) = start_with(workers(4));
    let mut there = one_at_each(&handle);
    assert!(handle.drain());
    // An order overtakes no datagram and is overtaken by some: a worker that has answered 508 goes on doing so.
    let started = Instant::now();
    let refused = |_| {
        let (mut link, mut client) = newcomer(&handle, "bob");
        code(&link.ask(&client.allocate())) == 508
    };
    while !(0..40).all(refused) {
        assert!(started.elapsed() < PATIENCE, "one of them still allocates");
    }
    for one in &mut there {
        assert_eq!(code(&one.link.ask(&one.client.refresh(600))), 0, "what there is lives on");
    }
}

/// Media that panics on demand, in the thread of the worker that delivers to it.
struct Trap;

impl DatagramSink for Trap {
    fn deliver(&self, _: SocketAddr, _: SocketAddr, payload: &[u8]) -> bool {
        assert_ne!(payload, b"trap");
        true
    }
}

#[test]
fn a_worker_that_panics_gives_everything_back_and_is_started_again() {
    let settings = Settings { workers: 2, ..settings() };
    let (registry, media) = (Registry::new(), addr("127.0.0.1:9"));
    let gate = Gate::new(64, 64, true);
    let handle =
        turn::net::start(&settings, gate, vec![media], Arc::new(Trap), &registry).expect("it starts");
    let mut clients = one_at_each(&handle);
    let before = handle.allocations_by_worker();
    let victim = &mut clients[0];
    assert_eq!(code(&victim.link.ask(&victim.client.bind(0x4001, media))), 0);
    victim.link.put(&channel_data(0x4001, b"trap"));
    let started = Instant::now();
    while handle.allocations_by_worker()[0] > 0 {
        assert!(started.elapsed() < PATIENCE, "its allocations are still there");
        std::thread::yield_now();
    }
    let relayed = clients[1].relayed;
    let peer = udp_socket();
    let bind = clients[1].client.bind(0x4001, peer.local_addr().expect("bound"));
    let link = &clients[1].link;
    link.send(&bind).expect("sent");
    let mut buffer = [0; 500];
    let length = link.recv(&mut buffer).expect("the other goes on");
    assert_eq!(code(&buffer[..length]), 0);
    peer.send_to(b"still", relayed).expect("sent");
    let length = link.recv(&mut buffer).expect("relayed");
    assert_eq!(&buffer[..length], b"\x40\x01\x00\x05still");
    // From the same address: the new worker answers, and knows the nonce.
    let again = clients[0].client.allocate();
    let link = &clients[0].link;
    link.send(&again).expect("sent");
    let length = link.recv(&mut buffer).expect("the worker is back");
    assert_eq!(code(&buffer[..length]), 0);
    assert_eq!(handle.allocations_by_worker(), [1, before[1]]);
    assert_eq!(handle.allocations(), 1 + before[1]);
    assert!(registry.encode().contains("causeway_turn_worker_restarts_total 1"), "{}", registry.encode());
}

#[test]
fn streams_are_relayed_by_every_worker() {
    let (handle, _media, _registry) = start_with(workers(4));
    (0..12).for_each(|_| relays_to_a_peer(&mut Stream(connect(handle.addresses()[0]))));
}

#[test]
fn an_address_that_is_taken_is_refused_to_a_second_relay() {
    let (handle, ..) = start_with(workers(2));
    let settings = Settings { workers: 2, listen: vec![handle.addresses()[0]], ..settings() };
    let second =
        turn::net::start(&settings, Gate::new(64, 64, true), vec![], Arc::new(Trap), &Registry::new());
    assert!(second.is_err());
}
