//! Without offloads: recvmmsg and sendmmsg, a message for each datagram.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

use super::{Carry, Hop, LISTENER, Stranger};
use crate::poll::Poll;

/// Datagrams per system call.
const BATCH: usize = 64;
const DATAGRAM_BYTES: usize = 2048;

pub(super) struct Carrier {
    sockets: Vec<UdpSocket>,
    slots: Vec<[u8; DATAGRAM_BYTES]>,
    incoming: MultiHeaders<SockaddrIn>,
    outgoing: MultiHeaders<SockaddrIn>,
}

impl Carry for Carrier {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            sockets: Vec::new(),
            slots: vec![[0; DATAGRAM_BYTES]; BATCH],
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
        })
    }

    fn bind(&mut self, address: SocketAddr, poll: &Poll) -> anyhow::Result<SocketAddr> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        poll.add(&socket, self.sockets.len())?;
        let local = socket.local_addr()?;
        self.sockets.push(socket);
        Ok(local)
    }

    fn carry(&mut self, at: usize, route: impl Fn(SocketAddr) -> Option<Hop>) -> Option<Vec<Stranger>> {
        let mut received: Vec<(SocketAddr, usize)> = Vec::with_capacity(BATCH);
        let mut buffers: Vec<[IoSliceMut<'_>; 1]> =
            self.slots.iter_mut().map(|slot| [IoSliceMut::new(slot)]).collect();
        let socket = self.sockets[at].as_raw_fd();
        let messages =
            recvmmsg(socket, &mut self.incoming, buffers.iter_mut(), MsgFlags::MSG_DONTWAIT, None).ok()?;
        for message in messages {
            let from = message.address.map_or(SocketAddrV4::new([0; 4].into(), 0), SocketAddrV4::from);
            received.push((from.into(), message.bytes));
        }
        let mut strangers = Vec::new();
        let mut train: Vec<(Hop, usize)> = Vec::with_capacity(received.len());
        for (slot, (from, bytes)) in received.iter().enumerate() {
            match route(*from) {
                Some(hop) => train.push((hop, slot)),
                None => strangers.push((*from, self.slots[slot][..*bytes].to_vec())),
            }
        }
        for same_socket in train.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
            let payloads: Vec<[IoSlice<'_>; 1]> = same_socket
                .iter()
                .map(|(_, slot)| [IoSlice::new(&self.slots[*slot][..received[*slot].1])])
                .collect();
            let addresses: Vec<Option<SockaddrIn>> = same_socket
                .iter()
                .map(|((_, to), _)| match to {
                    SocketAddr::V4(to) => Some(SockaddrIn::from(*to)),
                    SocketAddr::V6(_) => None,
                })
                .collect();
            let socket = self.sockets[same_socket[0].0.0].as_raw_fd();
            // A full buffer is loss.
            let _ = sendmmsg(socket, &mut self.outgoing, &payloads, &addresses, [], MsgFlags::MSG_DONTWAIT);
        }
        Some(strangers)
    }

    fn answer(&self, to: SocketAddr, bytes: &[u8]) -> anyhow::Result<()> {
        self.sockets[LISTENER].send_to(bytes, to)?;
        Ok(())
    }
}
