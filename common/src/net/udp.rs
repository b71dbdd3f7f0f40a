//! A UDP socket that receives and sends in batches: `recvmmsg` with UDP_GRO in, UDP_SEGMENT out, through quinn-udp.
//!
//! Non-blocking. In a tokio runtime wrap it in an `AsyncFd`: [`BatchSocket::recv`] fits `try_io`, and
//! [`Sent::would_block`] says when to clear the readiness for writing. Fragmentation is off: a datagram that does not fit
//! the path is lost, and path MTU discovery is the endpoints'.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::LazyLock;

use quinn_udp::{Transmit, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::batch::{RecvBatch, TransmitArena};
use crate::metrics::{Counter, Counters, Registry};

/// Asked of the kernel for each direction; it gives at most `net.core.rmem_max` and `wmem_max`. Holds 1.2 kB packets at
/// 1 Gbit/s for 30 ms, longer than a worker is ever away from its socket.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// ICMP errors that a receive call may report one after the other before it gives way.
const ICMP_ERRORS_MAX: usize = 16;

/// An IPv6 socket with UDP_GRO that is open as long as the process. quinn-udp opens one, and closes it, for each state that it
/// makes; were that the only one, Linux would change its own code at both (the static key `udpv6_encap_needed_key`), on all
/// cores, which took half of a relay's time for an allocation.
static GRO_IN_USE: LazyLock<Option<(Socket, UdpSocketState)>> = LazyLock::new(|| {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).ok()?;
    let state = UdpSocketState::new((&socket).into()).ok()?;
    Some((socket, state))
});

/// What all batched sockets count.
#[derive(Clone)]
pub struct UdpMetrics {
    received: Counter,
    sent: Counter,
    would_block: Counter,
    lost: Counters,
}

impl UdpMetrics {
    /// Registers the counters; sockets that ask with one registry count together.
    pub fn register(registry: &Registry) -> Self {
        Self {
            received: registry.counter("udp_received", "Datagrams received"),
            sent: registry.counter("udp_sent", "Datagrams handed to the kernel"),
            would_block: registry.counter("udp_would_block", "Times that the kernel's send buffer was full"),
            lost: registry.counters("udp_lost", "Datagrams that could not be sent", "reason"),
        }
    }
}

/// How far a [`BatchSocket::send`] got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: usize,
    /// Datagrams that it refused, as if the network had lost them.
    pub lost: usize,
    /// The send buffer is full. What was not sent is still in the arena: send again when the socket is writable, or clear it.
    pub would_block: bool,
}

/// A bound UDP socket.
pub struct BatchSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    metrics: UdpMetrics,
}

impl BatchSocket {
    /// Binds. An IPv6 socket speaks IPv6 only, so addresses never come in two spellings.
    pub fn bind(address: SocketAddr, metrics: UdpMetrics) -> io::Result<Self> {
        Self::bind_with_buffers(address, metrics, BUFFER_BYTES)
    }

    /// Binds, with `buffer_bytes` asked of the kernel for each direction: for sockets of which there are many.
    pub fn bind_with_buffers(
        address: SocketAddr,
        metrics: UdpMetrics,
        buffer_bytes: usize,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        Self::with_buffers(socket.into(), metrics, buffer_bytes)
    }

    /// Binds several sockets to one address. The kernel gives each sender to one of them for as long as none is closed. The
    /// first is refused an address that is taken; only then is it opened to the others (SO_REUSEPORT, of this user alone).
    pub fn bind_group(address: SocketAddr, count: usize, metrics: &UdpMetrics) -> io::Result<Vec<Self>> {
        let first = Self::bind(address, metrics.clone())?;
        let (address, mut group) = (first.local, vec![first]);
        if count > 1 {
            SockRef::from(&group[0].socket).set_reuse_port(true)?;
        }
        for _ in 1..count {
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            group.push(Self::from_std(socket.into(), metrics.clone())?);
        }
        Ok(group)
    }

    /// Another descriptor of the same socket, which stays open until the last of them is closed.
    pub fn try_clone(&self) -> io::Result<Self> {
        let socket = self.socket.try_clone()?;
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state, local: self.local, metrics: self.metrics.clone() })
    }

    /// Takes over a socket that is bound already.
    pub fn from_std(socket: UdpSocket, metrics: UdpMetrics) -> io::Result<Self> {
        Self::with_buffers(socket, metrics, BUFFER_BYTES)
    }

    fn with_buffers(socket: UdpSocket, metrics: UdpMetrics, buffer_bytes: usize) -> io::Result<Self> {
        LazyLock::force(&GRO_IN_USE);
        let state = UdpSocketState::new((&socket).into())?; // also makes it non-blocking
        let local = socket.local_addr()?;
        // The kernel clips what is too large, and a smaller buffer only means more loss: never a reason not to start.
        let _ = state.set_recv_buffer_size((&socket).into(), buffer_bytes);
        let _ = state.set_send_buffer_size((&socket).into(), buffer_bytes);
        tracing::debug!(
            %local,
            recv_buffer_bytes = state.recv_buffer_size((&socket).into()).unwrap_or(0),
            send_buffer_bytes = state.send_buffer_size((&socket).into()).unwrap_or(0),
            gso_segments = state.max_gso_segments(),
            gro_segments = state.gro_segments(),
            "bound"
        );
        Ok(Self { socket, state, local, metrics })
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// How many datagrams the kernel cuts from one run; 1 where it cannot.
    pub fn max_gso_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Receives what is there, up to a batch, and says how many datagrams that is. `WouldBlock` when nothing is.
    pub fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        for _ in 0..ICMP_ERRORS_MAX {
            let received = batch.fill(|slots, meta| self.state.recv((&self.socket).into(), slots, meta));
            match received {
                // An answer to something we sent; the datagrams behind it are what we came for.
                Err(error) if is_icmp(&error) => continue,
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            if !self.local.ip().is_unspecified() {
                batch.set_local_ip(self.local.ip());
            }
            let datagrams = batch.len();
            self.metrics.received.inc_by(datagrams as u64);
            return Ok(datagrams);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Sends the arena's datagrams in order, until it is empty or the kernel takes no more.
    pub fn send(&self, arena: &mut TransmitArena) -> Sent {
        let mut sent = Sent::default();
        let mut gso_refused = false;
        while let Some((run, bytes)) = arena.front() {
            let segments_max = if gso_refused { 1 } else { self.state.max_gso_segments() };
            let contents = &bytes[..bytes.len().min(run.segment * segments_max)];
            let is_run = contents.len() > run.segment;
            let datagrams = contents.len().div_ceil(run.segment.max(1)).max(1);
            let transmit = Transmit {
                destination: run.destination,
                ecn: None,
                contents,
                segment_size: is_run.then_some(run.segment),
                src_ip: run.source_ip.filter(|&ip| self.is_source(ip)),
            };
            match self.transmit(&transmit) {
                Ok(()) => sent.datagrams += datagrams,
                Err(Failure::WouldBlock) => {
                    sent.would_block = true;
                    break;
                }
                // The device cannot cut this run: its datagrams go out one by one.
                Err(Failure::Lost("other")) if is_run => {
                    gso_refused = true;
                    continue;
                }
                Err(Failure::Lost(reason)) => {
                    sent.lost += datagrams;
                    self.metrics.lost.add(reason, datagrams as u64);
                }
            }
            let taken = contents.len();
            arena.advance(taken);
        }
        self.metrics.sent.inc_by(sent.datagrams as u64);
        if sent.would_block {
            self.metrics.would_block.inc();
        }
        sent
    }

    /// Sends one datagram, for what is rare. `false` when it was not sent.
    pub fn send_one(&self, payload: &[u8], destination: SocketAddr, source_ip: Option<IpAddr>) -> bool {
        let src_ip = source_ip.filter(|&ip| self.is_source(ip));
        let transmit = Transmit { destination, ecn: None, contents: payload, segment_size: None, src_ip };
        match self.transmit(&transmit) {
            Ok(()) => {
                self.metrics.sent.inc();
                return true;
            }
            Err(Failure::WouldBlock) => {
                self.metrics.would_block.inc();
            }
            Err(Failure::Lost(reason)) => self.metrics.lost.add(reason, 1),
        }
        false
    }

    fn transmit(&self, transmit: &Transmit<'_>) -> Result<(), Failure> {
        if !self.is_destination(transmit.destination) {
            return Err(Failure::Lost("invalid"));
        }
        let mut sent = self.state.try_send((&self.socket).into(), transmit);
        if sent.as_ref().is_err_and(is_icmp) {
            // Perhaps an answer to an earlier one, which the kernel tells of once and instead of sending.
            sent = self.state.try_send((&self.socket).into(), transmit);
        }
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Failure::WouldBlock,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                Failure::Lost("unreachable")
            }
            io::ErrorKind::PermissionDenied => Failure::Lost("denied"),
            io::ErrorKind::ConnectionRefused => Failure::Lost("refused"),
            _ => Failure::Lost("other"),
        })
    }

    /// Destinations that the kernel would answer with EINVAL are kept from it: quinn-udp takes that error for a device
    /// without segmentation and turns GSO off for good, which must not be in a remote end's hands.
    fn is_destination(&self, destination: SocketAddr) -> bool {
        destination.port() != 0
            && destination.is_ipv4() == self.local.is_ipv4()
            && !destination.ip().is_unspecified()
            && !is_mapped(destination.ip())
    }

    /// Whether a datagram may leave from this address; a bound socket needs no telling, and for the same reason as above
    /// addresses that cannot be a source are not tried.
    fn is_source(&self, ip: IpAddr) -> bool {
        let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        self.local.ip().is_unspecified()
            && ip.is_ipv4() == self.local.is_ipv4()
            && !(ip.is_unspecified() || ip.is_multicast() || is_broadcast || is_mapped(ip))
    }
}

impl AsFd for BatchSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for BatchSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Why the kernel did not take a datagram.
enum Failure {
    WouldBlock,
    Lost(&'static str),
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

fn is_icmp(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn socket(address: &str) -> (BatchSocket, Registry) {
        let registry = Registry::new();
        let address = address.parse().expect("an address");
        (BatchSocket::bind(address, UdpMetrics::register(&registry)).expect("a free port"), registry)
    }

    /// Receives until `count` datagrams are there; loopback delivers at once or, on a busy machine, a little later.
    fn receive(socket: &BatchSocket, count: usize) -> Vec<(SocketAddr, Option<IpAddr>, Vec<u8>)> {
        let (mut batch, mut all) = (RecvBatch::new(), Vec::new());
        for _ in 0..10_000 {
            match socket.recv(&mut batch) {
                Ok(_) => all.extend(batch.datagrams().map(|d| (d.remote, d.local_ip, d.payload.to_vec()))),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            if all.len() >= count {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        all
    }

    #[test]
    fn runs_arrive_as_the_datagrams_they_were() {
        let ((a, _), (b, registry)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let lengths = [1200, 1200, 1200, 700, 700, 1, 1200].iter().chain([100; 100].iter());
        let payloads: Vec<Vec<u8>> = lengths.enumerate().map(|(i, len)| vec![i as u8; *len]).collect();
        let mut arena = TransmitArena::new(1 << 20, 256);
        for payload in &payloads {
            assert!(arena.push(payload, b.local_addr(), None));
        }
        assert_eq!(a.send(&mut arena), Sent { datagrams: payloads.len(), lost: 0, would_block: false });
        assert!(arena.is_empty());
        let received = receive(&b, payloads.len());
        assert!(
            received.iter().all(|(from, to, _)| *from == a.local_addr() && *to == Some(b.local_addr().ip()))
        );
        assert_eq!(received.into_iter().map(|(_, _, payload)| payload).collect::<Vec<_>>(), payloads);
        assert!(registry.encode().contains(&format!("causeway_udp_received_total {}", payloads.len())));
    }

    #[test]
    fn an_answer_leaves_from_the_address_that_was_asked() {
        let (server, _) = socket("0.0.0.0:0");
        let (client, _) = socket("127.0.0.1:0");
        let asked: SocketAddr =
            format!("127.0.0.2:{}", server.local_addr().port()).parse().expect("an address");
        assert!(client.send_one(b"?", asked, None));
        let (from, to, _) = receive(&server, 1).remove(0);
        assert_eq!(to, Some(asked.ip()));
        assert!(server.send_one(b"!", from, to));
        assert_eq!(receive(&client, 1)[0].0, asked);
    }

    #[test]
    fn ipv6_works_where_the_machine_has_it() {
        let registry = Registry::new();
        let address = "[::1]:0".parse().expect("an address");
        let Ok(socket) = BatchSocket::bind(address, UdpMetrics::register(&registry)) else {
            println!("skipped: this machine has no IPv6 loopback");
            return;
        };
        assert!(socket.send_one(b"6", socket.local_addr(), None));
        assert_eq!(receive(&socket, 1)[0].2, b"6");
    }

    #[test]
    fn addresses_that_cannot_be_sent_to_are_loss_and_leave_gso_alone() {
        let (socket, registry) = socket("127.0.0.1:0");
        let gso_segments = socket.max_gso_segments();
        let mut arena = TransmitArena::new(1000, 16);
        for bad in ["127.0.0.1:0", "[::1]:9", "0.0.0.0:9"] {
            assert!(arena.push(b"x", bad.parse().expect("an address"), None));
        }
        assert!(arena.push(b"good", socket.local_addr(), Some([255, 255, 255, 255].into())));
        assert_eq!(socket.send(&mut arena), Sent { datagrams: 1, lost: 3, would_block: false });
        assert_eq!(socket.max_gso_segments(), gso_segments);
        assert!(registry.encode().contains("causeway_udp_lost_total{reason=\"invalid\"} 3"));
        assert_eq!(receive(&socket, 1)[0].2, b"good");
    }

    #[test]
    fn a_datagram_that_is_too_large_is_loss() {
        let (socket, _) = socket("127.0.0.1:0");
        let mut arena = TransmitArena::new(1 << 17, 16);
        assert!(arena.push(&[0; 66_000], socket.local_addr(), None));
        assert!(arena.push(b"next", socket.local_addr(), None));
        assert_eq!(socket.send(&mut arena), Sent { datagrams: 1, lost: 1, would_block: false });
        assert_eq!(receive(&socket, 1)[0].2, b"next");
    }

    #[test]
    fn a_closed_port_does_not_disturb_receiving() {
        let (socket, _) = socket("127.0.0.1:0");
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let closed = closed.expect("a port that was free");
        for _ in 0..3 {
            socket.send_one(b"anybody?", closed, None);
        }
        socket.send_one(b"me", socket.local_addr(), None);
        assert_eq!(receive(&socket, 1)[0].2, b"me");
    }
}
