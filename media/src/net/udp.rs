//! The worker's UDP socket: whole batches in (recvmmsg, GRO) and out (GSO).
//!
//! Datagrams that arrive are handed to the core in place, in the receive slots. What the core wants sent is sorted by
//! destination first, so that packets for one subscriber leave as one segmented send.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::buffers::{KernelDrops, enlarge};
use crate::ice::{RemoteAddr, Via};
use crate::outbox::Outbox;

/// The largest UDP payload, and so the largest run that GRO or GSO can make.
const RUN_BYTES_MAX: usize = 65_507;

/// The socket with its buffers.
pub(super) struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    slots: Vec<Vec<u8>>,
    run: Vec<u8>,
    /// Datagrams that the kernel did not take.
    pub dropped: u64,
    /// What it dropped because we did not take it in time.
    pub kernel_drops: KernelDrops,
}

impl Udp {
    /// Takes over a bound socket; must be called inside the worker's runtime.
    pub fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?;
        enlarge(&socket, local);
        let socket = UdpSocket::from_std(socket)?;
        let slots = vec![vec![0; RUN_BYTES_MAX + 1]; BATCH_SIZE];
        let run = Vec::with_capacity(RUN_BYTES_MAX);
        Ok(Self { socket, state, slots, run, dropped: 0, kernel_drops: KernelDrops::new(local) })
    }

    /// Waits until something can be received.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Hands over one batch, each datagram in the buffer that it arrived in. `false` when there was none.
    pub fn receive(&mut self, mut handle: impl FnMut(SocketAddr, &mut [u8])) -> io::Result<bool> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let count = {
            let mut slices: Vec<IoSliceMut<'_>> =
                self.slots.iter_mut().map(|slot| IoSliceMut::new(slot)).collect();
            let (socket, state) = (&self.socket, &self.state);
            let mut count = 0;
            let received = socket.try_io(Interest::READABLE, || {
                count = state.recv(socket.into(), &mut slices, &mut metas)?;
                // A batch that is not full has left nothing behind: the next wait is for what comes then.
                if count == BATCH_SIZE { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
            });
            match received {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ if count == 0 => return Ok(false),
                _ => count,
            }
        };
        for (meta, slot) in metas.iter().zip(&mut self.slots).take(count) {
            let stride = meta.stride.max(1);
            for datagram in slot[..meta.len].chunks_mut(stride) {
                handle(meta.addr, datagram);
            }
        }
        Ok(true)
    }

    /// Sends what is for UDP; the rest of the outbox is left to the caller.
    pub fn flush(&mut self, outbox: &mut Outbox) {
        let gso = self.state.max_gso_segments();
        outbox.sort_by_destination();
        let mut pending: Option<(SocketAddr, usize, usize)> = None;
        self.run.clear();
        for (to, datagram) in outbox.iter() {
            let RemoteAddr { via: Via::Udp, addr } = to else { continue };
            // A run is equal segments, of which only the last may be shorter.
            let joins = pending.is_some_and(|(run_to, segment, count)| {
                run_to == addr
                    && count < gso
                    && datagram.len() <= segment
                    && self.run.len() == segment * count
                    && self.run.len() + datagram.len() <= RUN_BYTES_MAX
            });
            if !joins && let Some((run_to, segment, _)) = pending.take() {
                self.send(run_to, segment);
            }
            self.run.extend_from_slice(datagram);
            pending = match pending {
                Some((run_to, segment, count)) => Some((run_to, segment, count + 1)),
                None => Some((addr, datagram.len(), 1)),
            };
        }
        if let Some((run_to, segment, _)) = pending {
            self.send(run_to, segment);
        }
    }

    fn send(&mut self, destination: SocketAddr, segment: usize) {
        let segment_size = (self.run.len() > segment).then_some(segment);
        let transmit = Transmit { destination, ecn: None, contents: &self.run, segment_size, src_ip: None };
        let (socket, state) = (&self.socket, &self.state);
        // A full socket loses datagrams, as the network would; waiting would make everybody else's packets late.
        if socket.try_io(Interest::WRITABLE, || state.try_send(socket.into(), &transmit)).is_err() {
            self.dropped += 1;
        }
        self.run.clear();
    }
}
