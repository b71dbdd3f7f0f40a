//! Clients with an allocation and a channel each, at a TURN server or at the floor.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use turn::stun::Writer;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};

use crate::client::{Client, address, attribute, code};

/// The channel that everybody uses.
pub const CHANNEL: u16 = 0x4000;
/// Of the credentials.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Clients in one network before the next one is used: answers to strangers are rationed per network.
const CLIENTS_PER_NETWORK: usize = 100;

/// One client: a connected socket and what it may use.
pub struct Session {
    /// Connected to the server.
    pub socket: UdpSocket,
    /// Where peers reach it.
    pub relayed: SocketAddr,
    turn: Option<Client>,
}

/// A client's own address; all of 127/8 is ours.
pub fn client_ip(index: usize) -> IpAddr {
    Ipv4Addr::new(127, 1, (index / CLIENTS_PER_NETWORK) as u8, 1).into()
}

impl Session {
    /// Allocates at a TURN server.
    pub fn allocate(server: SocketAddr, index: usize) -> anyhow::Result<Self> {
        let socket = connected(server, index)?;
        let mut turn =
            Client::new("alice", (SystemTime::now() + LIFETIME).duration_since(UNIX_EPOCH)?.as_secs());
        let mut bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([9; 12]));
        bare.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let challenge = ask(&socket, &bare.finish())?;
        turn.nonce = attribute(&challenge, Kind::NONCE).context("the challenge has a nonce")?;
        let answer = ask(&socket, &turn.allocate())?;
        ensure!(code(&answer) == 0, "Allocate answered {}", code(&answer));
        Ok(Self { socket, relayed: address(&answer, Kind::XOR_RELAYED_ADDRESS), turn: Some(turn) })
    }

    /// The floor's allocation: one byte there, the relay socket's port back.
    pub fn at_floor(server: SocketAddr, peer: SocketAddr, index: usize) -> anyhow::Result<Self> {
        let socket = connected(server, index)?;
        let port = ask(&socket, &peer.port().to_be_bytes())?;
        let port = port.try_into().ok().context("a port")?;
        Ok(Self { socket, relayed: (server.ip(), u16::from_be_bytes(port)).into(), turn: None })
    }

    /// Binds [`CHANNEL`] to the peer. The floor needs no telling.
    pub fn bind(&mut self, peer: SocketAddr) -> anyhow::Result<()> {
        let Some(turn) = &mut self.turn else { return Ok(()) };
        let answer = ask(&self.socket, &turn.bind(CHANNEL, peer))?;
        ensure!(code(&answer) == 0, "ChannelBind answered {}", code(&answer));
        Ok(())
    }

    /// What goes before a payload on this client's leg.
    pub fn prefix(&self, payload_bytes: usize) -> Vec<u8> {
        match self.turn {
            Some(_) => [CHANNEL.to_be_bytes(), (payload_bytes as u16).to_be_bytes()].concat(),
            None => Vec::new(),
        }
    }
}

fn connected(server: SocketAddr, index: usize) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((client_ip(index), 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(server)?;
    Ok(socket)
}

fn ask(socket: &UdpSocket, request: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut buffer = [0; 2048];
    socket.send(request)?;
    let length = socket.recv(&mut buffer).context("no answer from the server")?;
    Ok(buffer[..length].to_vec())
}
