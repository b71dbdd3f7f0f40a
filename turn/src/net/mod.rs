//! The shell around the relay: UDP, DTLS, TCP and TLS listeners, relay sockets, a thread for each worker.
//!
//! `crew` keeps the threads and `orders` is what they are told; each has listening sockets of its own, and the kernel keeps a
//! client at one of them (SO_REUSEPORT). `worker` carries out what the core decides, `udp` and `tcp` feed it, `dtls` and `tls` are before them; `trains` and `outbox` are what waits to leave. Our own media is reached through
//! [`DatagramSink`]s both ways, without a socket.

mod crew;
mod dtls;
mod orders;
mod outbox;
mod peers;
mod tcp;
mod tls;
mod trains;
mod udp;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use common::handover::DatagramSink;
use common::metrics::{Counters, Registry};
use common::net::{BatchSocket, Certificate, Gate, UdpMetrics};
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;

use crate::auth::Credentials;
use crate::metrics::Metrics;
use crate::relay::{Ledger, WORKERS_MAX, WorkerId};
use crate::settings::Settings;
use crew::{Group, Outfit, Seat};
use orders::{MediaSink, Order, Post, SharedStanding, change_standing};

/// Connections that the kernel keeps for us while we accept others.
const BACKLOG: i32 = 1024;
/// Port 0 wants one port for UDP and TCP; the kernel's choice for one may be taken for the other.
const FREE_PORT_ATTEMPTS: usize = 16;

/// A running relay. Dropping it stops it.
#[derive(Debug)]
pub struct TurnHandle {
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    certificate: Option<Arc<Certificate>>,
    sink: Arc<MediaSink>,
    post: Post,
    standing: SharedStanding,
    ledger: Arc<Ledger>,
    metrics: Metrics,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl TurnHandle {
    /// Where media hands over what it sends to relayed addresses.
    pub fn sink(&self) -> Arc<dyn DatagramSink> {
        Arc::clone(&self.sink) as Arc<dyn DatagramSink>
    }

    /// The addresses of `turn.listen`, UDP and TCP.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses of `turn.tls_listen`, TLS and DTLS.
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// Takes what can be taken without a restart: a new certificate.
    pub fn reload(&self) {
        if let Some(certificate) = &self.certificate {
            certificate.reload();
        }
    }

    /// No new allocations from now on; what there is lives on. `false` when a worker is gone for good.
    pub fn drain(&self) -> bool {
        change_standing(&self.standing, |standing| standing.draining = true);
        self.post.order_all(|| Order::Drain)
    }

    /// Other credentials from now on. Allocations are refreshed with what they were made with. As [`Self::drain`].
    pub fn set_credentials(&self, credentials: Credentials) -> bool {
        change_standing(&self.standing, |standing| standing.credentials = Some(credentials.clone()));
        self.post.order_all(|| Order::Credentials(credentials.clone()))
    }

    /// Allocations there are: one that drains may end at none.
    pub fn allocations(&self) -> usize {
        usize::try_from(self.metrics.allocations.get()).unwrap_or(0)
    }

    /// How many allocations each worker has.
    pub fn allocations_by_worker(&self) -> Vec<usize> {
        (0..self.ledger.workers()).map(|id| self.ledger.allocations_of(WorkerId(id))).collect()
    }

    /// Closes all sockets and waits for the threads.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a relay worker's thread panicked");
            }
        }
    }
}

impl Drop for TurnHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Binds the listeners and starts the workers. `gate` lets TCP connections in; `own_media` are the addresses that our media is
/// announced at, and what clients send there goes to `media`.
pub fn start(
    settings: &Settings,
    gate: Arc<Gate>,
    own_media: Vec<SocketAddr>,
    media: Arc<dyn DatagramSink>,
    registry: &Registry,
) -> io::Result<TurnHandle> {
    let mut settings = settings.clone();
    settings.relay.own_media = own_media;
    let workers = workers(settings.workers);
    let (metrics, udp_metrics) = (Metrics::register(registry), UdpMetrics::register(registry));
    let certificate = settings.tls.clone().map(|files| Certificate::load("turn.tls", files));
    let certificate = certificate.transpose().map_err(io::Error::other)?;
    let mut groups = bind_all("turn.listen", &settings.listen, workers, &udp_metrics)?;
    let addresses: Vec<SocketAddr> = groups.iter().map(Group::address).collect();
    let tls_groups = bind_all("turn.tls_listen", &settings.tls_listen, workers, &udp_metrics)?;
    let tls_addresses: Vec<SocketAddr> = tls_groups.iter().map(Group::address).collect();
    groups.extend(tls_groups);
    groups.extend(bind_all("turn.discovery", &settings.discovery_listen(), workers, &udp_metrics)?);
    if !settings.transports.tcp && !settings.transports.tls {
        groups.iter_mut().for_each(|group| group.tcp.clear()); // connections are refused, not left unanswered
    }

    let ledger = Ledger::new(&settings.relay, workers, random()?, Instant::now());
    let realm = ("realm", settings.relay.realm.clone());
    registry.info("turn", "What the relay serves", vec![realm]);
    let (post, mailboxes) = Post::new(workers, registry);
    let (standing, stop) = (SharedStanding::default(), CancellationToken::new());
    let tls = certificate.as_ref().filter(|_| settings.transports.tls).map(tls::Tls::new);
    let admission = tcp::Admission::new(gate, tls, settings.transports.tcp, registry);
    let outfit = Outfit {
        settings: Arc::new(settings),
        ledger: Arc::clone(&ledger),
        media,
        metrics: metrics.clone(),
        udp_metrics,
        registry: registry.clone(),
        certificate: certificate.clone(),
        cookies: random()?,
        admission,
        post: post.clone(),
        standing: Arc::clone(&standing),
        stop: stop.clone(),
        restarts: registry.counter("turn_worker_restarts", "Relay workers that died and were started again"),
    };
    let sink = Arc::new(MediaSink { post: post.clone(), ledger: Arc::clone(&ledger) });
    let mut handle = TurnHandle {
        addresses,
        tls_addresses,
        certificate,
        sink,
        post,
        standing,
        ledger,
        metrics,
        stop,
        threads: Vec::with_capacity(workers),
    };
    for (id, mailbox) in (0u8..=u8::MAX).map(WorkerId).zip(mailboxes) {
        let udp = groups.iter_mut().filter_map(|group| group.udp.pop()).collect();
        let tcp = groups.iter_mut().filter_map(|group| group.tcp.pop()).collect();
        handle.threads.push(Seat { id, outfit: outfit.clone(), udp, tcp }.start(mailbox)?);
    }
    tracing::info!(?handle.addresses, ?handle.tls_addresses, workers, "relay listens");
    Ok(handle)
}

/// 0 is one for each core.
fn workers(wanted: usize) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let workers = if wanted == 0 { cores() } else { wanted };
    workers.min(WORKERS_MAX)
}

fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// Counts connections and DTLS sessions by transport.
fn connections(registry: &Registry) -> Counters {
    let help = "Connections to the relay, and DTLS sessions, that could begin to talk STUN";
    registry.counters("turn_connections", help, "transport")
}

/// `setting` is named when an address cannot be bound.
fn bind_all(
    setting: &str,
    addresses: &[SocketAddr],
    workers: usize,
    metrics: &UdpMetrics,
) -> io::Result<Vec<Group>> {
    let at =
        |address, error: io::Error| io::Error::new(error.kind(), format!("{setting} {address}: {error}"));
    let bound =
        addresses.iter().map(|&address| bind(address, workers, metrics).map_err(|error| at(address, error)));
    bound.collect()
}

fn bind(address: SocketAddr, workers: usize, metrics: &UdpMetrics) -> io::Result<Group> {
    let mut attempts = if address.port() == 0 { FREE_PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let udp = BatchSocket::bind_group(address, workers, metrics)?;
        match bind_tcp(udp[0].local_addr(), workers) {
            Ok(tcp) => return Ok(Group { udp, tcp }),
            Err(_) if attempts > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

/// The first is refused a port that is taken; only then is it opened to the others.
fn bind_tcp(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    (0..workers).map(|index| bind_one_tcp(address, index > 0, workers > 1)).collect()
}

/// An IPv6 address takes IPv6 only, as with UDP, so that `0.0.0.0` and `[::]` can stand beside each other.
fn bind_one_tcp(address: SocketAddr, joins: bool, is_joined: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(joins)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_reuse_port(is_joined)?;
    Ok(socket.into())
}
