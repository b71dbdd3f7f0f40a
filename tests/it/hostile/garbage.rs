//! What comes to the open ports from nobody: noise, forged STUN, bad TURN credentials, DTLS that never ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::config::Secret;
use common::rtp_parameters::IceParameters;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::integrity::Key;
use turn::stun::{Message, Writer};

use super::paying::{known_secret, while_attacked};
use crate::client::Client;
use crate::server::{PATIENCE, Server};

/// Bytes that mean nothing; the same in each run.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut byte = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 56) as u8
        };
        (0..length).map(|_| byte()).collect()
    }
}

async fn udp() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback")
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

/// A transport of a client in a room: what its ICE agent must know.
async fn create_transport(client: &mut Client, request: u64) -> IceParameters {
    client.send(json!({"type": "create-transport", "requestId": request, "direction": "send"})).await;
    let reply = client.expect("response").await;
    serde_json::from_value(reply["data"]["iceParameters"].clone())
        .unwrap_or_else(|error| panic!("{error}: {reply}"))
}

async fn join_room(client: &mut Client, room: &str) {
    client.send(json!({"type": "join-room", "requestId": 1, "roomId": room})).await;
    let reply = client.expect("response").await;
    assert_eq!(reply["ok"], Value::Bool(true), "{reply}");
}

fn check(id: u8, ufrag: &str, password: &str) -> Vec<u8> {
    let mut request = Vec::new();
    media::stun::write_request(
        &mut request,
        &[id; 12],
        &format!("{ufrag}:them"),
        &media::stun::key(password),
    );
    request
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
    let server = Server::start_with(&[&known_secret()]);
    let mut carol = server.sign_in("carol").await;
    join_room(&mut carol, "r1").await;
    let ice = create_transport(&mut carol, 2).await;
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
        }
        (answered, asked)
    })
    .await;
    assert!(answered * 10 >= asked * 9, "{answered} of {asked} true checks were answered");
    assert!(server.metric("causeway_media_drops_total{reason=\"bad_stun\"}").await > 1000);
    assert_eq!(server.metric("causeway_media_transports").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dtls_handshakes_that_never_end_are_bounded_and_go_with_their_clients() {
    let server = Server::start_with(&[&known_secret()]);
    let port = at(server.media_port);
    let mut attackers = Vec::new();
    for number in 0..12 {
        let mut client = server.sign_in(&format!("mallory{number}")).await;
        join_room(&mut client, "r1").await;
        attackers.push(client);
    }
    let attackers = while_attacked(&server, 64 * 1024, async move {
        let mut sockets = Vec::new();
        for client in &mut attackers {
            for request in 0..8 {
                let ice = create_transport(client, 10 + request).await;
                let socket = udp().await;
                let request = check(9, &ice.username_fragment, &ice.password);
                assert!(is_answered(&socket, port, &request).await);
                sockets.push(socket);
            }
        }
        let mut noise = Noise(11);
        for round in 0..50_u8 {
            for socket in &sockets {
                // A record of a handshake (RFC 6347 §4.1): a ClientHello's fragment, of which the rest never comes.
                let mut record = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, round, 0, 200];
                record.extend([1, 0, 64, 0, 0, 0, 0, 0, round, 0, 0, 188]);
                record.extend(noise.bytes(188));
                socket.send_to(&record, port).await.expect("loopback takes it");
            }
            tick().await;
        }
        attackers
    })
    .await;
    assert_eq!(server.metric("causeway_media_transports").await, 12 * 8);
    for client in attackers {
        client.close_normally().await;
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    while server.metric("causeway_media_transports").await > 0 {
        assert!(std::time::Instant::now() < deadline, "transports stay behind");
        tick().await;
    }
}

/// A TURN client, good or bad.
struct Relayed {
    socket: UdpSocket,
    username: String,
    key: Key,
    nonce: Vec<u8>,
    next: u8,
}

impl Relayed {
    async fn new(port: SocketAddr, username: &str, password: &str) -> Self {
        let socket = udp().await;
        socket.connect(port).await.expect("loopback");
        let key = Key::long_term(username, "causeway", password.as_bytes());
        Self { socket, username: username.to_owned(), key, nonce: Vec::new(), next: 0 }
    }

    fn request(&mut self, method: Method, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
        self.next = self.next.wrapping_add(1);
        let mut writer = Writer::new(Class::Request, method, TransactionId([self.next; 12]));
        fill(&mut writer);
        writer
            .attribute(Kind::USERNAME, self.username.as_bytes())
            .attribute(Kind::REALM, b"causeway")
            .attribute(Kind::NONCE, &self.nonce)
            .integrity(&self.key);
        writer.finish()
    }

    fn allocate(&mut self) -> Vec<u8> {
        self.request(Method::ALLOCATE, |w| {
            w.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        })
    }

    async fn receive(&self) -> Option<Vec<u8>> {
        let mut answer = vec![0; 1500];
        let length = timeout(Duration::from_secs(1), self.socket.recv(&mut answer)).await.ok()?.ok()?;
        answer.truncate(length);
        Some(answer)
    }

    async fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        for _ in 0..5 {
            self.socket.send(request).await.expect("loopback takes it");
            if let Some(answer) = self.receive().await {
                return answer;
            }
        }
        panic!("no answer");
    }

    /// Fetches a nonce, and with it asks for an allocation: whether there is one.
    async fn open(&mut self) -> bool {
        let first = self.allocate();
        let challenge = self.ask(&first).await;
        let challenge = Message::parse(&challenge).expect("an answer");
        self.nonce = challenge.attribute(Kind::NONCE).expect("a nonce").to_vec();
        let second = self.allocate();
        let answer = self.ask(&second).await;
        Message::parse(&answer).expect("an answer").class() == Class::Success
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_bad_credentials_allocates_nothing_and_the_relay_goes_on() {
    let known = known_secret();
    let server = Server::start_with(&[
        &known,
        "turn.secret=north",
        "turn.allowed_peers=127.0.0.0/8",
        "turn.user_quota=1",
    ]);
    let port = at(server.turn_port);
    let (user, password) = common::turn_credentials::mint(
        &Secret(b"north".to_vec()),
        "carol",
        crate::client::unix_secs() + 3600,
    );
    let mut carol = Relayed::new(port, &user, &password).await;
    assert!(carol.open().await);
    assert!(!Relayed::new(port, &user, &password).await.open().await, "one allocation is the quota");
    assert_eq!(server.metric("causeway_turn_refused_total{code=\"486\"}").await, 1);
    let echo = udp().await;
    let peer = echo.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let mut bytes = [0; 1500];
        while let Ok((length, from)) = echo.recv_from(&mut bytes).await {
            let _ = echo.send_to(&bytes[..length], from).await; // loopback takes it
        }
    });
    let bind = carol.request(Method::CHANNEL_BIND, |w| {
        w.number(Kind::CHANNEL_NUMBER, 0x4000 << 16).xor_address(Kind::XOR_PEER_ADDRESS, peer);
    });
    let bound = carol.ask(&bind).await;
    assert_eq!(Message::parse(&bound).expect("an answer").class(), Class::Success);

    let (echoed, sent) = while_attacked(&server, 32 * 1024, async move {
        let mut storm = Vec::new();
        for number in 0..20 {
            let mut bad = Relayed::new(port, &format!("9999999999:mallory{number}"), "guess").await;
            assert!(!bad.open().await);
            storm.push(bad);
        }
        let (mut echoed, sent) = (0, 60_u8);
        for packet in 0..sent {
            for bad in &mut storm {
                for _ in 0..5 {
                    let request = bad.allocate();
                    let _ = bad.socket.send(&request).await; // its answers are not read
                }
            }
            carol.socket.send(&[0x40, 0, 0, 4, packet, 1, 2, 3]).await.expect("loopback takes it");
            echoed += usize::from(carol.receive().await.is_some_and(|back| back[4] == packet));
        }
        (echoed, usize::from(sent))
    })
    .await;
    assert!(echoed * 10 >= sent * 9, "{echoed} of {sent} relayed packets came back");
    assert_eq!(server.metric("causeway_turn_allocations").await, 1);
    assert!(server.metric("causeway_turn_auth_failures_total").await >= 5000);
    assert!(server.metric("causeway_turn_drops_total{reason=\"stranger_limit\"}").await > 0);
}
