//! A client of the TURN relay and the peer that it talks to, with the permissions that the relay has told it about.

use std::net::SocketAddr;
use std::time::Duration;

use common::config::Secret;
use common::turn_credentials;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};
use turn::stun::integrity::Key;
use turn::stun::{Message, Writer};

use crate::dice::Dice;
use crate::epoch::UNIX_START;
use crate::nat::Nat;

/// The relay's realm.
pub const REALM: &str = "sim";

/// The secret that relay and clients share.
pub fn secret() -> Secret {
    Secret(b"a secret of the simulator".to_vec())
}

/// How it sends to its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Send indications under CreatePermission.
    Indication,
    /// A bound channel.
    Channel,
}

/// A client of the relay.
#[derive(Debug)]
pub struct RelayUser {
    /// Its address.
    pub address: SocketAddr,
    /// Whom it talks to.
    pub peer: SocketAddr,
    /// How.
    pub way: Way,
    /// The relayed address it was given.
    pub relayed: Option<SocketAddr>,
    /// Whether the last permission or channel request was granted.
    pub permitted: bool,
    /// It gives its allocation up and stays away.
    pub leaving: bool,
    /// It lets its permissions expire.
    pub careless: bool,
    /// Payloads of its peer that it got.
    pub got: u64,
    /// It talks to the relay over a connection.
    pub tcp: bool,
    /// The NAT before it.
    pub nat: Option<Nat>,
    /// Its peer's own address, when that is behind the same NAT: `peer` is then the outside one.
    pub peer_inside: Option<SocketAddr>,
    /// Its own outside address, as the relay has told it.
    pub mapped: Option<SocketAddr>,
    /// It wants an allocation and does nothing with it.
    pub idle: bool,
    /// How often it was told that there is no allocation left for it.
    pub refused: u64,
    channel: u16,
    goodbyes: u8,
    next_at: Duration,
    permitted_at: Duration,
    refreshed_at: Duration,
    /// When the credentials end, since the Unix epoch.
    pub expires: u64,
    name: String,
    username: String,
    key: Key,
    nonce: Vec<u8>,
    asked: Vec<(TransactionId, Method)>,
    next_id: u64,
}

/// How long an application's credentials are good.
pub const CREDENTIALS_SECS: u64 = 3600;
const FIRST_CHANNEL: u16 = 0x4001;
/// Of who has promised to go.
const GOODBYES: u8 = 5;
/// Packets into an allocation that is gone are dropped in silence; only a request tells.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);

impl RelayUser {
    /// A user with good credentials until `expires_unix`.
    pub fn new(
        name: &str,
        address: SocketAddr,
        peer: SocketAddr,
        way: Way,
        expires_unix: u64,
        dice: &mut Dice,
    ) -> Self {
        let (username, password) = turn_credentials::mint(&secret(), name, expires_unix);
        let key = Key::long_term(&username, REALM, password.as_bytes());
        Self {
            address,
            peer,
            way,
            relayed: None,
            permitted: false,
            leaving: false,
            careless: dice.chance(0.5),
            got: 0,
            tcp: false,
            nat: None,
            peer_inside: None,
            mapped: None,
            idle: false,
            refused: 0,
            channel: FIRST_CHANNEL,
            goodbyes: 1,
            next_at: Duration::ZERO,
            permitted_at: Duration::ZERO,
            refreshed_at: Duration::ZERO,
            expires: expires_unix,
            name: name.to_owned(),
            username,
            key,
            nonce: Vec::new(),
            asked: Vec::new(),
            next_id: 0,
        }
    }

    /// Over a connection of another length, so that ChannelData has padding there.
    fn ping(&self) -> &'static [u8] {
        if self.tcp { b"pings" } else { b"ping" }
    }

    fn request(&mut self, method: Method, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
        self.next_id += 1;
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.next_id.to_be_bytes());
        self.asked.push((TransactionId(id), method));
        if self.asked.len() > 32 {
            self.asked.remove(0);
        }
        let mut writer = Writer::new(Class::Request, method, TransactionId(id));
        fill(&mut writer);
        if !self.nonce.is_empty() {
            writer
                .attribute(Kind::USERNAME, self.username.as_bytes())
                .attribute(Kind::REALM, REALM.as_bytes())
                .attribute(Kind::NONCE, &self.nonce)
                .integrity(&self.key);
        }
        writer.fingerprint();
        writer.finish()
    }

    /// Allocates anew from another port.
    pub fn begin_again(&mut self, now: Duration) {
        self.address.set_port(self.address.port() + 1);
        self.relayed = None;
        self.permitted = false;
        self.next_at = now;
    }

    /// Gives its allocation up, and says so until it is heard.
    pub fn leave(&mut self, now: Duration) {
        self.leaving = true;
        self.goodbyes = GOODBYES;
        self.next_at = now;
    }

    /// Its peer is to be found elsewhere: a channel cannot be bound again (RFC 8656 §12.1).
    pub fn follow(&mut self, peer: SocketAddr) {
        if self.peer != peer {
            self.peer = peer;
            self.channel += 1;
            self.permitted = false;
        }
    }

    /// Whether a datagram to or from this outside address is its own.
    pub fn is_at(&self, outside: SocketAddr) -> bool {
        match &self.nat {
            Some(nat) => nat.public() == outside.ip(),
            None => self.address == outside,
        }
    }

    /// Where its own datagrams to `to` are seen to come from, or those of its peer behind the same NAT.
    pub fn outside(&mut self, now: Duration, peer_inside: Option<SocketAddr>, to: SocketAddr) -> SocketAddr {
        let inside = peer_inside.unwrap_or(self.address);
        self.nat.as_mut().map_or(inside, |nat| nat.outbound(now, inside, to))
    }

    /// Whether this is its account.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name
    }

    /// New credentials of an application whose own clock is right.
    fn renew(&mut self, now: Duration) {
        self.expires = (UNIX_START + now).as_secs() + CREDENTIALS_SECS;
        let (username, password) = turn_credentials::mint(&secret(), &self.name, self.expires);
        self.key = Key::long_term(&username, REALM, password.as_bytes());
        self.username = username;
    }

    /// When it wants to be polled.
    pub fn deadline(&self) -> Duration {
        self.next_at
    }

    /// What it sends now; `pace` later it sends again.
    pub fn poll(&mut self, now: Duration, pace: Duration) -> Vec<Vec<u8>> {
        if now < self.next_at {
            return Vec::new();
        }
        self.next_at = now + pace;
        if self.leaving {
            if self.relayed.is_none() || self.goodbyes == 0 {
                self.next_at = Duration::MAX;
                return Vec::new();
            }
            self.goodbyes -= 1;
            self.next_at = now + Duration::from_millis(500);
            return vec![self.request(Method::REFRESH, |w| {
                w.number(Kind::LIFETIME, 0);
            })];
        }
        if self.relayed.is_none() {
            self.next_at = now + Duration::from_millis(500);
            return vec![self.request(Method::ALLOCATE, |w| {
                w.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            })];
        }
        if self.idle {
            self.next_at = Duration::MAX;
            return Vec::new();
        }
        if now.saturating_sub(self.refreshed_at) >= REFRESH_INTERVAL {
            self.refreshed_at = now;
            self.next_at = now + Duration::from_millis(20);
            return vec![self.request(Method::REFRESH, |w| {
                w.number(Kind::LIFETIME, 600);
            })];
        }
        let (peer, way, channel) = (self.peer, self.way, self.channel);
        let renew = !self.careless && now.saturating_sub(self.permitted_at) > Duration::from_secs(240);
        if !self.permitted || renew {
            self.next_at = now + Duration::from_millis(300);
            return vec![match way {
                Way::Indication => self.request(Method::CREATE_PERMISSION, |w| {
                    w.xor_address(Kind::XOR_PEER_ADDRESS, peer);
                }),
                Way::Channel => self.request(Method::CHANNEL_BIND, |w| {
                    w.number(Kind::CHANNEL_NUMBER, u32::from(channel) << 16)
                        .xor_address(Kind::XOR_PEER_ADDRESS, peer);
                }),
            }];
        }
        vec![match way {
            Way::Indication => {
                let mut writer = Writer::new(Class::Indication, Method::SEND, TransactionId([9; 12]));
                writer.xor_address(Kind::XOR_PEER_ADDRESS, peer).attribute(Kind::DATA, self.ping());
                writer.finish()
            }
            Way::Channel => {
                let mut bytes = channel.to_be_bytes().to_vec();
                bytes.extend((self.ping().len() as u16).to_be_bytes());
                bytes.extend(self.ping());
                let padded = bytes.len().next_multiple_of(4);
                bytes.resize(if self.tcp { padded } else { bytes.len() }, 0); // RFC 8656 §12.5
                bytes
            }
        }]
    }

    /// Something came from the relay; `true` when it grants the permission for the peer.
    pub fn receive(&mut self, now: Duration, data: &[u8]) -> bool {
        let Ok(message) = Message::parse(data) else {
            self.got += u64::from(data.starts_with(&self.channel.to_be_bytes()) && is_pong(data.get(4..)));
            return false;
        };
        if message.class() == Class::Indication {
            self.got += u64::from(is_pong(message.attribute(Kind::DATA)));
            return false;
        }
        let asked = self.asked.iter().position(|(id, _)| *id == message.transaction_id());
        let Some((_, method)) = asked.map(|at| self.asked.remove(at)) else { return false };
        if message.class() == Class::Error {
            self.on_error(now, &message, method);
            return false;
        }
        match method {
            Method::REFRESH if self.leaving => {
                self.relayed = None;
                false
            }
            Method::ALLOCATE => {
                self.mapped = message.xor_address(Kind::XOR_MAPPED_ADDRESS);
                self.relayed = message.xor_address(Kind::XOR_RELAYED_ADDRESS);
                self.next_at = now;
                false
            }
            Method::CREATE_PERMISSION | Method::CHANNEL_BIND => {
                self.permitted = true;
                self.permitted_at = now;
                true
            }
            _ => false,
        }
    }

    fn on_error(&mut self, now: Duration, message: &Message<'_>, method: Method) {
        let code = message.attribute(Kind::ERROR_CODE).map_or(0, |value| {
            value.get(2..4).map_or(0, |digits| u16::from(digits[0]) * 100 + u16::from(digits[1]))
        });
        match code {
            401 | 438 => {
                let refused = code == 401 && !self.nonce.is_empty();
                self.nonce = message.attribute(Kind::NONCE).map(<[u8]>::to_vec).unwrap_or_default();
                self.next_at = now;
                if refused {
                    self.renew(now);
                    self.next_at = now + Duration::from_millis(300);
                }
            }
            // There is an allocation whose announcement was lost: it is left to expire (RFC 8656 §7.4).
            437 if method == Method::ALLOCATE => self.address.set_port(self.address.port() + 1),
            // The allocation is gone: the relay has been restarted.
            437 => {
                self.relayed = None;
                self.permitted = false;
                self.next_at = now + Duration::from_millis(100);
            }
            486 | 508 => {
                self.refused += 1;
                self.next_at = now + Duration::from_secs(1);
            }
            _ => self.next_at = now + Duration::from_secs(1),
        }
    }
}

/// What a peer says to a ping.
pub fn answer(data: &[u8]) -> Option<&'static [u8]> {
    match data {
        b"ping" => Some(b"pong"),
        b"pings" => Some(b"pongs"),
        _ => None,
    }
}

fn is_pong(payload: Option<&[u8]>) -> bool {
    payload.is_some_and(|payload| payload.starts_with(b"pong"))
}

/// Somebody without credentials: what an attacker can send, with a nonce if the relay has given one to that address.
pub fn stranger(dice: &mut Dice, nonce: Option<&[u8]>) -> Vec<u8> {
    let id = TransactionId(dice.bytes(12).try_into().expect("12 bytes"));
    let method = *dice.pick(&[Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::BINDING]);
    let method = if nonce.is_some() { Method::ALLOCATE } else { method };
    let mut writer = Writer::new(Class::Request, method, id);
    writer.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    if nonce.is_some() || dice.chance(0.5) {
        let invented = dice.bytes(24);
        let key = Key::long_term("9999999999:mallory", REALM, b"guess");
        writer
            .attribute(Kind::USERNAME, b"9999999999:mallory")
            .attribute(Kind::REALM, REALM.as_bytes())
            .attribute(Kind::NONCE, nonce.unwrap_or(&invented))
            .integrity(&key);
    }
    writer.fingerprint();
    writer.finish()
}

/// The nonce in an answer.
pub fn nonce_of(answer: &[u8]) -> Option<Vec<u8>> {
    Message::parse(answer).ok()?.attribute(Kind::NONCE).map(<[u8]>::to_vec)
}
