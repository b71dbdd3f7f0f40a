//! What comes to the open ports from nobody: noise, forged STUN, bad TURN credentials, DTLS that never ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::config::Secret;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::member::{Leg, check, join};
use super::paying::{alone, known_secret, while_attacked};
use super::relayed::{Relayed, echo, udp};
use crate::server::{PATIENCE, Server};

/// Bytes that mean nothing; the same in each run.
pub struct Noise(pub u64);

impl Noise {
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut byte = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 56) as u8
        };
        (0..length).map(|_| byte()).collect()
    }
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A hundred packets of 1000 bytes in a second.
async fn tick() {
    sleep(Duration::from_millis(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_kilobytes_of_garbage_a_second_at_every_port_are_dropped() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let datagrams = [at(server.media_port), at(server.turn_port)];
    let streams = [server.http, at(server.media_port), at(server.turn_port)];
    while_attacked(&server, 32 * 1024, async move {
        let (socket, mut noise) = (udp().await, Noise(7));
        let mut connections: Vec<TcpStream> = Vec::new();
        for round in 0..300_usize {
            for to in datagrams {
                let mut bytes = noise.bytes(1000);
                bytes[0] = (round % 256) as u8; // every kind of packet by its first byte (RFC 7983)
                socket.send_to(&bytes, to).await.expect("loopback takes it");
            }
            if round % 25 == 0 {
                connections.clear();
                for to in streams {
                    connections.push(TcpStream::connect(to).await.expect("it listens"));
                }
            }
            for connection in &mut connections {
                let _ = connection.write_all(&noise.bytes(1000)).await; // it may be cut off by now
            }
            tick().await;
        }
    })
    .await;
    for name in [
        "causeway_media_drops_total{reason=\"unknown_address\"}",
        "causeway_media_drops_total{reason=\"bad_stun\"}",
        "causeway_turn_drops_total{reason=\"malformed\"}",
        "causeway_connections_refused_total{reason=\"malformed\"}",
        "causeway_media_tcp_refused_total{reason=\"framing\"}",
        "causeway_turn_tcp_refused_total{reason=\"framing\"}",
    ] {
        assert!(server.metric(name).await > 0, "{name}");
    }
}

/// Whether the port answers this with a success response within a second.
async fn is_answered(socket: &UdpSocket, to: SocketAddr, request: &[u8]) -> bool {
    socket.send_to(request, to).await.expect("loopback takes it");
    let mut answer = [0; 1500];
    let got = timeout(Duration::from_secs(1), socket.recv(&mut answer)).await;
    matches!(got, Ok(Ok(length)) if answer[..length].starts_with(&[1, 1]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_ufrags_find_no_transport_and_do_not_hide_the_true_one() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let mut carol = server.sign_in("carol").await;
    join(&mut carol, "r1").await;
    let ice = Leg::create(&server, &mut carol, "send").await.ice;
    let port = at(server.media_port);
    let (answered, asked) = while_attacked(&server, 32 * 1024, async move {
        let (carols, forger) = (udp().await, udp().await);
        let true_check = check(1, &ice.username_fragment, &ice.password);
        let own = &ice.username_fragment;
        let (mut answered, asked) = (0, 40);
        for round in 0..asked {
            for forged in 0..100_u32 {
                // Of no transport, of hers but the last letters, hers with a wrong password.
                let (ufrag, password) = match forged % 3 {
                    0 => (format!("00{forged:06x}ABCDEFGH"), "guess"),
                    1 => (format!("{}ABCDEFGH", &own[..8]), "guess"),
                    _ => (own.clone(), "guess"),
                };
                forger.send_to(&check(round as u8, &ufrag, password), port).await.expect("loopback takes it");
            }
            answered += usize::from(is_answered(&carols, port, &true_check).await);
            tick().await;
        }
        (answered, asked)
    })
    .await;
    assert!(answered * 10 >= asked * 9, "{answered} of {asked} true checks were answered");
    assert!(server.metric("causeway_media_drops_total{reason=\"bad_stun\"}").await > 1000);
    assert_eq!(server.metric("causeway_media_transports").await, 1 + 2, "hers, and of who pays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dtls_handshakes_that_never_end_are_bounded_and_go_with_their_clients() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let port = at(server.media_port);
    let (mut attackers, mut legs) = (Vec::new(), Vec::new());
    for number in 0..12 {
        let mut client = server.sign_in(&format!("mallory{number}")).await;
        join(&mut client, "r1").await;
        for _ in 0..8 {
            legs.push(Leg::create(&server, &mut client, "send").await);
            // A half of them may begin a handshake; the server knows no certificate for the others.
            if legs.len() % 2 == 0 {
                legs[legs.len() - 1].announce(&mut client).await;
            }
        }
        client.send(json!({"type": "create-transport", "requestId": 9, "direction": "send"})).await;
        assert_eq!(client.expect("response").await["code"], "limit-reached");
        attackers.push(client);
    }
    while_attacked(&server, 64 * 1024, async move {
        for leg in &mut legs {
            let request = check(9, &leg.ice.username_fragment, &leg.ice.password);
            assert!(is_answered(&leg.socket, port, &request).await);
            leg.poll().await; // a good ClientHello, and no word after it
        }
        let (stranger, mut noise) = (udp().await, Noise(11));
        for round in 0..50_u8 {
            // A record of a handshake (RFC 6347 §4.1): a ClientHello's fragment, of which the rest never comes.
            let mut record = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, round, 0, 200];
            record.extend([1, 0, 64, 0, 0, 0, 0, 0, round, 0, 0, 188]);
            record.extend(noise.bytes(188));
            for leg in &legs {
                leg.socket.send(&record).await.expect("loopback takes it");
                stranger.send_to(&record, port).await.expect("loopback takes it");
            }
            tick().await;
        }
    })
    .await;
    assert_eq!(server.metric("causeway_media_transports").await, 12 * 8 + 2, "theirs, and of who pays");
    assert_eq!(server.metric("causeway_messages_refused_total{code=\"limit-reached\"}").await, 12);
    let strangers = "causeway_media_drops_total{reason=\"unknown_address\"}";
    assert!(server.metric(strangers).await >= 1000, "{strangers}");
    for client in attackers {
        client.close_normally().await;
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    while server.metric("causeway_media_transports").await > 0 {
        assert!(std::time::Instant::now() < deadline, "transports stay behind");
        tick().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_bad_credentials_allocates_nothing_and_the_relay_goes_on() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret(), "turn.secret=north", "turn.user_quota=1"]);
    let port = at(server.turn_port);
    let expiry = crate::client::unix_secs() + 3600;
    let (user, password) = common::turn_credentials::mint(&Secret(b"north".to_vec()), "carol", expiry);
    let mut carol = Relayed::new(port, &user, &password).await;
    assert!(carol.open().await && carol.bind(echo().await).await);
    assert!(!Relayed::new(port, &user, &password).await.open().await, "one allocation is the quota");
    assert_eq!(server.metric("causeway_turn_refused_total{code=\"486\"}").await, 1);
    while_attacked(&server, 32 * 1024, async move {
        let mut storm = Vec::new();
        for number in 0..20 {
            let mut bad = Relayed::new(port, &format!("9999999999:mallory{number}"), "guess").await;
            assert!(!bad.open().await);
            storm.push(bad);
        }
        for _ in 0..60 {
            for bad in &mut storm {
                for _ in 0..5 {
                    let request = bad.allocate();
                    let _ = bad.socket.send(&request).await; // its answers are not read
                }
            }
            sleep(Duration::from_millis(30)).await;
        }
    })
    .await;
    assert_eq!(server.metric("causeway_turn_allocations").await, 2, "hers, and of who pays");
    assert!(server.metric("causeway_turn_auth_failures_total{transport=\"udp\"}").await >= 5000);
    assert!(server.metric("causeway_turn_drops_total{reason=\"stranger_limit\"}").await > 0);
}
