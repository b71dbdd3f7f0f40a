//! The shell around the relay: UDP, DTLS, TCP and TLS listeners, relay sockets, one thread of its own.
//!
//! `worker` carries out what the core decides, `udp` and `tcp` feed it, `dtls` and `tls` are before them; `trains` and `outbox` are what waits to leave. Our own media is reached through
//! [`DatagramSink`]s both ways, without a socket.

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
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::handover::DatagramSink;
use common::metrics::{Counter, Counters, Registry};
use common::net::{AcceptErrors, BatchSocket, CHECK_INTERVAL, Certificate, Gate, UdpMetrics};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::auth::Credentials;
use crate::metrics::Metrics;
use crate::relay::{Input, Relay, RelayConfig};
use crate::settings::Settings;
use dtls::Sessions;
use orders::Order;
use worker::{SharedWorker, Worker};

/// Datagrams from the media on their way to the relay's thread; what comes when it is full is lost and counted.
const MEDIA_QUEUE: usize = 4096;
/// Media datagrams that are carried out before the sockets get their turn.
const MEDIA_BATCH: usize = 64;
/// How often expired allocations are looked for when nothing else happens.
const TICK: Duration = Duration::from_millis(500);
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
    orders: mpsc::Sender<Order>,
    metrics: Metrics,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
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

    /// No new allocations from now on; what there is lives on. `false` when the relay is too busy to be told.
    pub fn drain(&self) -> bool {
        self.orders.try_send(Order::Drain).is_ok()
    }

    /// Other credentials from now on. Allocations are refreshed with what they were made with. As [`Self::drain`].
    pub fn set_credentials(&self, credentials: Credentials) -> bool {
        self.orders.try_send(Order::Credentials(credentials)).is_ok()
    }

    /// Allocations there are: one that drains may end at none.
    pub fn allocations(&self) -> usize {
        usize::try_from(self.metrics.allocations.get()).unwrap_or(0)
    }

    /// Closes all sockets and waits for the thread.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the relay's thread panicked");
        }
    }
}

impl Drop for TurnHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Binds the listeners and starts the relay's thread. `gate` lets TCP connections in; `own_media` are the addresses that our
/// media is announced at, and what clients send there goes to `media`.
pub fn start(
    settings: &Settings,
    gate: Arc<Gate>,
    own_media: Vec<SocketAddr>,
    media: Arc<dyn DatagramSink>,
    registry: &Registry,
) -> io::Result<TurnHandle> {
    let metrics = Metrics::register(registry);
    let udp_metrics = UdpMetrics::register(registry);
    let counted = metrics.clone();
    let certificate = settings.tls.clone().map(|files| Certificate::load("turn.tls", files));
    let certificate = certificate.transpose().map_err(io::Error::other)?;
    let mut listeners = bind_all("turn.listen", &settings.listen, &udp_metrics)?;
    let addresses: Vec<SocketAddr> = listeners.iter().map(|(udp, _)| udp.local_addr()).collect();
    let tls_listeners = bind_all("turn.tls_listen", &settings.tls_listen, &udp_metrics)?;
    let tls_addresses: Vec<SocketAddr> = tls_listeners.iter().map(|(udp, _)| udp.local_addr()).collect();
    listeners.extend(tls_listeners);
    listeners.extend(bind_all("turn.discovery", &settings.discovery_listen(), &udp_metrics)?);
    let (seed, cookies) = (random()?, random()?);
    let transports = settings.transports;
    let sessions = certificate
        .as_ref()
        .filter(|_| transports.dtls)
        .map(|certificate| Sessions::new(Arc::clone(certificate), &cookies, registry, Instant::now()));
    let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    let config = RelayConfig { own_media, ..settings.relay.clone() };
    let relay = Relay::new(config, metrics.clone(), seed, Instant::now(), unix_time);

    let (queue, from_media) = mpsc::channel(MEDIA_QUEUE);
    let dropped = registry
        .counter("turn_media_queue_full", "Datagrams from media that the relay's queue had no room for");
    let sink = Arc::new(MediaSink { queue, dropped });
    let (orders, told) = mpsc::channel(orders::ORDERS_MAX);
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stopped = stop.clone();
    let tcp_errors = listeners.iter().map(|_| AcceptErrors::new(registry, "turn")).collect::<Vec<_>>();
    let admission = tcp::Admission::new(
        gate,
        certificate.as_ref().filter(|_| transports.tls).map(tls::Tls::new),
        transports.tcp,
        registry,
    );
    let followed = certificate.clone();
    let told_settings = settings.clone();
    let thread = std::thread::Builder::new().name("turn".into()).spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            let worker = Worker::shared(relay, media, metrics, udp_metrics, sessions, &told_settings);
            for ((udp, tcp), errors) in listeners.into_iter().zip(tcp_errors) {
                let udp = match udp::Readable::new(udp) {
                    Ok(udp) => Rc::new(udp),
                    Err(error) => return tracing::error!(%error, "a UDP listener could not be registered"),
                };
                worker.borrow_mut().add_listener(Rc::clone(&udp));
                tokio::task::spawn_local(udp::listen(Rc::clone(&worker), udp));
                if transports.tcp || transports.tls {
                    tokio::task::spawn_local(tcp::listen(Rc::clone(&worker), tcp, admission.clone(), errors));
                }
            }
            tokio::task::spawn_local(tick(Rc::clone(&worker)));
            tokio::task::spawn_local(orders::obey(Rc::clone(&worker), told));
            if let Some(certificate) = followed {
                tokio::task::spawn_local(follow(certificate));
            }
            tokio::select! {
                () = carry_media(worker, from_media) => {}
                () = stopped.cancelled() => {}
            }
        });
    })?;
    tracing::info!(?addresses, ?tls_addresses, "relay listens");
    let (thread, metrics) = (Some(thread), counted);
    Ok(TurnHandle { addresses, tls_addresses, certificate, sink, orders, metrics, stop, thread })
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

type Listener = (BatchSocket, std::net::TcpListener);

/// `setting` is named when an address cannot be bound.
fn bind_all(setting: &str, addresses: &[SocketAddr], metrics: &UdpMetrics) -> io::Result<Vec<Listener>> {
    let at =
        |address, error: io::Error| io::Error::new(error.kind(), format!("{setting} {address}: {error}"));
    addresses.iter().map(|&address| bind(address, metrics).map_err(|error| at(address, error))).collect()
}

fn bind(address: SocketAddr, metrics: &UdpMetrics) -> io::Result<Listener> {
    let mut attempts = if address.port() == 0 { FREE_PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let udp = BatchSocket::bind(address, metrics.clone())?;
        match bind_tcp(udp.local_addr()) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(_) if attempts > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

/// An IPv6 address takes IPv6 only, as with UDP, so that `0.0.0.0` and `[::]` can stand beside each other.
fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn follow(certificate: Arc<Certificate>) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        certificate.reload();
    }
}

async fn tick(worker: SharedWorker) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        worker.borrow_mut().batch(|batch| batch.tick());
    }
}

async fn carry_media(worker: SharedWorker, mut from_media: mpsc::Receiver<MediaDatagram>) {
    let mut datagrams = Vec::with_capacity(MEDIA_BATCH);
    while from_media.recv_many(&mut datagrams, MEDIA_BATCH).await > 0 {
        worker.borrow_mut().batch(|batch| {
            for MediaDatagram { media, relayed, payload } in datagrams.drain(..) {
                batch.handle(Input::FromMedia { relayed, media, data: &payload });
            }
        });
        tokio::task::yield_now().await;
    }
}

struct MediaDatagram {
    media: SocketAddr,
    relayed: SocketAddr,
    payload: Vec<u8>,
}

#[derive(Debug)]
struct MediaSink {
    queue: mpsc::Sender<MediaDatagram>,
    dropped: Counter,
}

impl DatagramSink for MediaSink {
    fn deliver(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> bool {
        let datagram = MediaDatagram { media: from, relayed: to, payload: payload.to_vec() };
        let taken = self.queue.try_send(datagram).is_ok();
        if !taken {
            self.dropped.inc();
        }
        taken
    }
}

impl std::fmt::Debug for MediaDatagram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MediaDatagram({} bytes)", self.payload.len())
    }
}
