//! NAT behaviour discovery: Binding answered from another of four sockets, or to another port (RFC 5780).
//!
//! Over UDP, at the two addresses and two ports that [`Discovery`] names; elsewhere its attributes are unknown, as RFC 5780
//! §6.1 wants. `unproved` answers with what is decided here. What leaves from another socket, goes to another port or is
//! padded is rationed as a challenge is; padding fills an answer up to the size of its request, not to the MTU of §7.6,
//! since requests are easily forged.

use std::net::SocketAddr;

use super::io::{ClientAddr, Transport};
use crate::settings::Discovery;
use crate::stun::Message;
use crate::stun::attributes::{ErrorCode, Kind};

/// CHANGE-REQUEST's bits (RFC 5780 §7.2).
const CHANGE_IP: u32 = 4;
const CHANGE_PORT: u32 = 2;

/// The attributes of requests that are understood at the four sockets only.
pub(super) const ATTRIBUTES: [Kind; 3] = [Kind::CHANGE_REQUEST, Kind::RESPONSE_PORT, Kind::PADDING];

/// The socket of the four that a request came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vantage<'a> {
    discovery: &'a Discovery,
    ip: usize,
    port: usize,
}

/// How a request wants to be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Our address that the answer leaves from.
    pub(super) from: SocketAddr,
    /// What the client is told that one is.
    pub(super) origin: SocketAddr,
    /// The one that differs in address and port from where the request came to.
    pub(super) other: SocketAddr,
    /// The client's port that the answer goes to.
    pub(super) port: Option<u16>,
    /// Whether it is to be padded.
    pub(super) padded: bool,
}

impl<'a> Vantage<'a> {
    pub(super) fn of(discoveries: &'a [Discovery], client: &ClientAddr) -> Option<Self> {
        if client.transport != Transport::Udp {
            return None;
        }
        discoveries.iter().find_map(|discovery| {
            let ip = discovery.ips.iter().position(|ip| ip.bound == client.local.ip())?;
            let port = discovery.ports.iter().position(|port| *port == client.local.port())?;
            Some(Self { discovery, ip, port })
        })
    }

    pub(super) fn wish(&self, message: &Message<'_>) -> Result<Wish, ErrorCode> {
        let change = match message.attribute(Kind::CHANGE_REQUEST) {
            None => 0,
            Some(_) => message.number(Kind::CHANGE_REQUEST).ok_or(ErrorCode::BAD_REQUEST)?,
        };
        let port = match message.attribute(Kind::RESPONSE_PORT) {
            None => None,
            Some(&[high, low, ..]) if (high, low) != (0, 0) => Some(u16::from_be_bytes([high, low])),
            Some(_) => return Err(ErrorCode::BAD_REQUEST),
        };
        let padded = message.attribute(Kind::PADDING).is_some();
        if padded && port.is_some() {
            return Err(ErrorCode::BAD_REQUEST); // RFC 5780 §6.1
        }
        let flip = |index: usize, bit: u32| if change & bit != 0 { 1 - index } else { index };
        let (ip, from_port) = (flip(self.ip, CHANGE_IP), flip(self.port, CHANGE_PORT));
        let Discovery { ips, ports } = self.discovery;
        Ok(Wish {
            from: SocketAddr::new(ips[ip].bound, ports[from_port]),
            origin: SocketAddr::new(ips[ip].shown, ports[from_port]),
            other: SocketAddr::new(ips[1 - self.ip].shown, ports[1 - self.port]),
            port,
            padded,
        })
    }
}

impl Wish {
    /// Whether a forger could make more of the answer than of a plain one.
    pub(super) fn is_special(&self, client: &ClientAddr) -> bool {
        self.from != client.local || self.port.is_some() || self.padded
    }
}
