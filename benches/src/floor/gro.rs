//! With offloads, on the sockets that Causeway uses itself.

use std::net::SocketAddr;

use common::metrics::Registry;
use common::net::{BatchSocket, RecvBatch, TransmitArena, UdpMetrics};

use super::{Carry, Hop, LISTENER, Stranger};
use crate::poll::Poll;

/// The largest receive batch fits.
const ARENA_BYTES: usize = 4 << 20;
const ARENA_DATAGRAMS: usize = 4096;

pub(super) struct Carrier {
    sockets: Vec<BatchSocket>,
    batch: RecvBatch,
    arena: TransmitArena,
    metrics: UdpMetrics,
}

impl Carry for Carrier {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            sockets: Vec::new(),
            batch: RecvBatch::new(),
            arena: TransmitArena::new(ARENA_BYTES, ARENA_DATAGRAMS),
            metrics: UdpMetrics::register(&Registry::new()),
        })
    }

    fn bind(&mut self, address: SocketAddr, poll: &Poll) -> anyhow::Result<SocketAddr> {
        let socket = BatchSocket::bind(address, self.metrics.clone())?;
        poll.add(&socket, self.sockets.len())?;
        let local = socket.local_addr();
        self.sockets.push(socket);
        Ok(local)
    }

    fn carry(&mut self, at: usize, route: impl Fn(SocketAddr) -> Option<Hop>) -> Option<Vec<Stranger>> {
        self.sockets[at].recv(&mut self.batch).ok()?;
        let mut strangers = Vec::new();
        let mut leaving = LISTENER;
        for datagram in self.batch.datagrams() {
            let Some((socket, to)) = route(datagram.remote) else {
                strangers.push((datagram.remote, datagram.payload.to_vec()));
                continue;
            };
            if socket != leaving {
                self.sockets[leaving].send(&mut self.arena);
                self.arena.clear();
                leaving = socket;
            }
            self.arena.push(datagram.payload, to, None);
        }
        self.sockets[leaving].send(&mut self.arena);
        self.arena.clear(); // a full buffer is loss
        Some(strangers)
    }

    fn answer(&self, to: SocketAddr, bytes: &[u8]) -> anyhow::Result<()> {
        self.sockets[LISTENER].send_one(bytes, to, None);
        Ok(())
    }
}
