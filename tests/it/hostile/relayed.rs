//! A client of the relay: with good credentials or bad ones, on a socket of its own; and a peer that echoes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::integrity::Key;
use turn::stun::{Message, Writer};

use crate::server::Server;

/// The channel that [`Relayed::bind`] binds (RFC 8656 §12).
const CHANNEL: u16 = 0x4000;

/// A socket on loopback.
pub async fn udp() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback")
}

/// A peer that sends everything back.
pub async fn echo() -> SocketAddr {
    let socket = udp().await;
    let address = socket.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let mut bytes = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            let _ = socket.send_to(&bytes[..length], from).await; // loopback takes it
        }
    });
    address
}

/// A TURN client, good or bad.
pub struct Relayed {
    pub socket: UdpSocket,
    username: String,
    key: Key,
    nonce: Vec<u8>,
    next: u8,
}

impl Relayed {
    pub async fn new(port: SocketAddr, username: &str, password: &str) -> Self {
        let socket = udp().await;
        socket.connect(port).await.expect("loopback");
        let key = Key::long_term(username, "causeway", password.as_bytes());
        Self { socket, username: username.to_owned(), key, nonce: Vec::new(), next: 0 }
    }

    pub fn request(&mut self, method: Method, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
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

    pub fn allocate(&mut self) -> Vec<u8> {
        self.request(Method::ALLOCATE, |w| {
            w.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        })
    }

    pub async fn receive(&self) -> Option<Vec<u8>> {
        let mut answer = vec![0; 1500];
        let length = timeout(Duration::from_secs(1), self.socket.recv(&mut answer)).await.ok()?.ok()?;
        answer.truncate(length);
        Some(answer)
    }

    pub async fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        for _ in 0..5 {
            self.socket.send(request).await.expect("loopback takes it");
            if let Some(answer) = self.receive().await {
                return answer;
            }
        }
        panic!("no answer");
    }

    /// Fetches a nonce, and with it asks for an allocation: whether there is one.
    pub async fn open(&mut self) -> bool {
        let first = self.allocate();
        let challenge = self.ask(&first).await;
        let challenge = Message::parse(&challenge).expect("an answer");
        self.nonce = challenge.attribute(Kind::NONCE).expect("a nonce").to_vec();
        let second = self.allocate();
        let answer = self.ask(&second).await;
        Message::parse(&answer).expect("an answer").class() == Class::Success
    }

    /// With credentials that the server has given a user.
    pub async fn of_user(server: &Server, user: &str) -> Self {
        let reply = server.get_as(&server.minted(user), "/v1/ice-servers?service=turn").await.json();
        let text = |name: &str| reply[name].as_str().expect("credentials").to_owned();
        let port = (Ipv4Addr::LOCALHOST, server.turn_port).into();
        Self::new(port, &text("username"), &text("password")).await
    }

    /// Binds [`CHANNEL`] to a peer: whether the server has done so.
    pub async fn bind(&mut self, peer: SocketAddr) -> bool {
        let request = self.request(Method::CHANNEL_BIND, |w| {
            w.number(Kind::CHANNEL_NUMBER, u32::from(CHANNEL) << 16)
                .xor_address(Kind::XOR_PEER_ADDRESS, peer);
        });
        let answer = self.ask(&request).await;
        Message::parse(&answer).expect("an answer").class() == Class::Success
    }

    /// Sends four bytes on the channel.
    pub async fn send(&self, payload: [u8; 4]) {
        let [high, low] = CHANNEL.to_be_bytes();
        let [a, b, c, d] = payload;
        self.socket.send(&[high, low, 0, 4, a, b, c, d]).await.expect("loopback takes it");
    }

    /// From now on in another's name.
    pub fn pretend(&mut self, other: &Self) {
        self.username.clone_from(&other.username);
        self.key = other.key.clone();
    }

    pub fn refresh(&mut self, lifetime_secs: u32) -> Vec<u8> {
        self.request(Method::REFRESH, |w| {
            w.number(Kind::LIFETIME, lifetime_secs);
        })
    }
}
