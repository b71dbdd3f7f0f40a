//! One client with an allocation and a packet every millisecond through it, beside whatever else the server is asked.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::session::Session;

/// A voice is 50 packets a second; twenty of them.
const INTERVAL: Duration = Duration::from_millis(1);
/// An address of its own network, which the flood does not use.
const INDEX: usize = 0;
const PAYLOAD_BYTES: usize = 172;

pub struct Payer {
    session: Session,
    peer: UdpSocket,
    begun: Instant,
    next: Instant,
    sent: u64,
    delays: Vec<Duration>,
}

impl Payer {
    pub fn new(server: SocketAddr) -> anyhow::Result<Self> {
        let peer = UdpSocket::bind((server.ip(), 0))?;
        peer.set_nonblocking(true)?;
        let mut session = Session::allocate(server, INDEX)?;
        session.bind(peer.local_addr()?)?;
        let begun = Instant::now();
        Ok(Self { session, peer, begun, next: begun, sent: 0, delays: Vec::new() })
    }

    /// Sends what is due and takes what has arrived; to be called all the time.
    pub fn turn(&mut self) {
        let mut buffer = [0; 2048];
        while let Ok(length) = self.peer.recv(&mut buffer) {
            let Some(stamp) = buffer[..length].first_chunk() else { continue };
            let sent = Duration::from_nanos(u64::from_be_bytes(*stamp));
            self.delays.push(self.begun.elapsed().saturating_sub(sent));
        }
        if Instant::now() < self.next {
            return;
        }
        self.next += INTERVAL;
        let mut packet = self.session.prefix(PAYLOAD_BYTES);
        packet.extend((self.begun.elapsed().as_nanos() as u64).to_be_bytes());
        packet.resize(packet.len() + PAYLOAD_BYTES - 8, 0);
        self.sent += u64::from(self.session.socket.send(&packet).is_ok());
    }

    /// The 99th percentile of the delays since the last call in microseconds, and the share that was lost.
    pub fn verdict(&mut self) -> anyhow::Result<(f64, f64)> {
        let until = Instant::now() + Duration::from_millis(200); // for what is under way
        self.next = until;
        while Instant::now() < until {
            self.turn();
        }
        let (mut delays, sent) = (std::mem::take(&mut self.delays), std::mem::take(&mut self.sent));
        ensure!(!delays.is_empty(), "nothing of the client with an allocation arrived");
        delays.sort_unstable();
        let p99 = delays[(delays.len() - 1) * 99 / 100];
        self.next = Instant::now();
        Ok((p99.as_secs_f64() * 1e6, 1.0 - delays.len() as f64 / sent as f64))
    }
}
