//! The client's half of STUN, for tests: requests with long-term credentials, answers taken apart.

use std::net::SocketAddr;

use common::config::Secret;
use common::turn_credentials;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::integrity::{Integrity, Key, LongTermKey, PasswordAlgorithm};
use turn::stun::{Message, Writer};

pub const REALM: &str = "test";
pub const UNIX: u64 = 1_800_000_000;

pub fn secret() -> Secret {
    Secret(b"north".to_vec())
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub struct Client {
    pub username: String,
    pub key: Key,
    pub nonce: Vec<u8>,
    /// PASSWORD-ALGORITHMS, for a client of RFC 8489.
    pub offer: Option<[u8; 8]>,
    next: u8,
}

impl Client {
    pub fn new(user: &str, expires_unix: u64) -> Self {
        let (username, password) = turn_credentials::mint(&secret(), user, expires_unix);
        let key = Key::long_term(&username, REALM, password.as_bytes());
        Self { username, key, nonce: Vec::new(), offer: None, next: 0 }
    }

    /// A client of RFC 8489, which takes SHA-256 where it is offered before MD5.
    pub fn with_sha256(user: &str, expires_unix: u64) -> Self {
        let (username, password) = turn_credentials::mint(&secret(), user, expires_unix);
        let key = LongTermKey::new(PasswordAlgorithm::Sha256, &username, REALM, password.as_bytes());
        let offer = Some([0, 2, 0, 0, 0, 1, 0, 0]);
        Self { username, key: key.ready(Integrity::Sha256), nonce: Vec::new(), offer, next: 0 }
    }

    pub fn id(&mut self) -> TransactionId {
        self.next += 1;
        TransactionId([self.next; 12])
    }

    pub fn request(&mut self, method: Method, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::new(Class::Request, method, self.id());
        fill(&mut writer);
        writer
            .attribute(Kind::USERNAME, self.username.as_bytes())
            .attribute(Kind::REALM, REALM.as_bytes())
            .attribute(Kind::NONCE, &self.nonce);
        if let Some(offer) = &self.offer {
            writer
                .attribute(Kind::PASSWORD_ALGORITHMS, offer)
                .attribute(Kind::PASSWORD_ALGORITHM, &offer[..4]);
        }
        writer.integrity(&self.key).fingerprint();
        writer.finish()
    }

    pub fn allocate(&mut self) -> Vec<u8> {
        self.request(Method::ALLOCATE, |w| {
            w.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        })
    }

    pub fn refresh(&mut self, seconds: u32) -> Vec<u8> {
        self.request(Method::REFRESH, |w| {
            w.number(Kind::LIFETIME, seconds);
        })
    }

    pub fn permit(&mut self, peer: SocketAddr) -> Vec<u8> {
        self.request(Method::CREATE_PERMISSION, |w| {
            w.xor_address(Kind::XOR_PEER_ADDRESS, peer);
        })
    }

    pub fn bind(&mut self, channel: u16, peer: SocketAddr) -> Vec<u8> {
        self.request(Method::CHANNEL_BIND, |w| {
            w.number(Kind::CHANNEL_NUMBER, u32::from(channel) << 16)
                .xor_address(Kind::XOR_PEER_ADDRESS, peer);
        })
    }

    pub fn send(&mut self, peer: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let mut writer = Writer::new(Class::Indication, Method::SEND, self.id());
        writer.xor_address(Kind::XOR_PEER_ADDRESS, peer).attribute(Kind::DATA, payload);
        writer.finish()
    }
}

pub fn channel_data(channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = channel.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// 0 for a success, otherwise ERROR-CODE's number.
pub fn code(answer: &[u8]) -> u16 {
    let message = Message::parse(answer).expect("an answer is well-formed");
    match message.class() {
        Class::Success => 0,
        Class::Error => {
            let value = message.attribute(Kind::ERROR_CODE).expect("errors have a code");
            u16::from(value[2]) * 100 + u16::from(value[3])
        }
        class => panic!("{class:?} is no answer"),
    }
}

pub fn attribute(answer: &[u8], kind: Kind) -> Option<Vec<u8>> {
    Message::parse(answer).expect("well-formed").attribute(kind).map(<[u8]>::to_vec)
}

pub fn address(answer: &[u8], kind: Kind) -> SocketAddr {
    Message::parse(answer).expect("well-formed").xor_address(kind).expect("has the address")
}
