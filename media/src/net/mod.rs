//! The shell of the SFU: sockets, threads, the clock.
//!
//! [`start`] binds worker i to `port + i` (UDP, and TCP when configured) and returns a [`MediaHandle`]. Commands go to a
//! worker through its bounded queue; replies and events come out of one channel for all workers, with the worker's number.

mod backlog;
mod buffers;
mod load;
mod metrics;
mod rings;
mod tcp;
mod udp;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use common::config::Media;
use common::control::{Command, FromMedia};
use common::handover::DatagramSink;
use common::metrics::Registry;
use common::net::Gate;
use tokio::sync::{mpsc, watch};

use crate::sfu::SfuConfig;

/// Commands that wait for one worker; when it is full the hub answers `overloaded`.
const COMMANDS_QUEUED_MAX: usize = 1024;
/// Datagrams from the relay that wait for one worker; the next is lost, as on a network.
const INJECTED_QUEUED_MAX: usize = 4096;

/// Where answers to clients behind our own relay go; set after both are up.
pub(crate) type TurnSlot = Arc<RwLock<Option<Arc<dyn DatagramSink>>>>;

/// A datagram that the relay hands over: its relayed address and its bytes.
pub(crate) type Injected = (SocketAddr, Vec<u8>);

/// The running media plane.
pub struct MediaHandle {
    commands: Vec<mpsc::Sender<Command>>,
    addresses: Vec<SocketAddr>,
    sink: Arc<Sink>,
    turn: TurnSlot,
    stop: watch::Sender<bool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl MediaHandle {
    /// The queue of each worker.
    pub fn senders(&self) -> Vec<mpsc::Sender<Command>> {
        self.commands.clone()
    }

    /// Every address that is ours: bound and announced.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// Takes datagrams whose destination is one of [`MediaHandle::addresses`].
    pub fn sink(&self) -> Arc<dyn DatagramSink> {
        self.sink.clone()
    }

    /// Where answers to relayed clients go.
    pub fn set_turn(&self, sink: Arc<dyn DatagramSink>) {
        *self.turn.write().unwrap_or_else(PoisonError::into_inner) = Some(sink);
    }

    /// Stops the workers and waits for them.
    pub fn shutdown(&self) {
        self.stop.send_replace(true);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A worker catches its own panics.
            let _ = thread.join();
        }
    }
}

struct Sink {
    workers: Vec<([SocketAddr; 2], mpsc::Sender<Injected>)>,
}

impl DatagramSink for Sink {
    fn deliver(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> bool {
        let worker = self.workers.iter().find(|(addresses, _)| addresses.contains(&to));
        worker.is_some_and(|(_, queue)| queue.try_send((from, payload.to_vec())).is_ok())
    }
}

/// Binds and starts every worker, which count into `registry`; `gate` lets TCP connections in. Fails with the address in the
/// message when one cannot be bound.
pub fn start(
    config: &Media,
    gate: &Arc<Gate>,
    events: mpsc::Sender<(usize, FromMedia)>,
    registry: &Registry,
) -> io::Result<MediaHandle> {
    let turn = TurnSlot::default();
    let (stop, stopped) = watch::channel(false);
    let mut handle = MediaHandle {
        commands: Vec::new(),
        addresses: Vec::new(),
        sink: Arc::new(Sink { workers: Vec::new() }),
        turn: turn.clone(),
        stop,
        threads: Mutex::default(),
    };
    let mut sinks = Vec::new();
    let mut threads = Vec::new();
    for (index, rings) in rings::Rings::mesh(config.workers).into_iter().enumerate() {
        let port = if config.port == 0 {
            0
        } else {
            config.port + u16::try_from(index).map_err(io::Error::other)?
        };
        let (udp, tcp) = bind(SocketAddr::new(config.listen_ip, port), config.tcp)?;
        let bound = udp.local_addr()?;
        let announced = SocketAddr::new(config.announced_ip, bound.port());
        let (commands, command_queue) = mpsc::channel(COMMANDS_QUEUED_MAX);
        let (injected, injected_queue) = mpsc::channel(INJECTED_QUEUED_MAX);
        let worker = worker::Worker {
            index,
            sfu: SfuConfig {
                worker: u8::try_from(index).map_err(io::Error::other)?,
                announced,
                tcp: config.tcp,
                codecs: config.codecs.clone(),
                max_bitrate: config.max_bitrate,
                max_speakers: config.max_speakers,
            },
            udp,
            tcp,
            rings,
            gate: Arc::clone(gate),
            commands: command_queue,
            injected: injected_queue,
            turn: turn.clone(),
            events: events.clone(),
            registry: registry.clone(),
            stop: stopped.clone(),
            // A single worker gains nothing by it, and would fight other processes for core 0.
            pinned: config.workers > 1,
        };
        threads.push(std::thread::Builder::new().name(format!("media-{index}")).spawn(move || worker.run())?);
        sinks.push(([bound, announced], injected));
        handle.commands.push(commands);
        handle.addresses.push(bound);
        if announced != bound {
            handle.addresses.push(announced);
        }
        tracing::info!(worker = index, address = %bound, "media listens");
    }
    handle.sink = Arc::new(Sink { workers: sinks });
    handle.threads = Mutex::new(threads);
    Ok(handle)
}

/// Any free port of UDP may be taken for TCP: so often another one is tried when the port is ours to choose.
const FREE_PORT_TRIES: usize = 16;

fn bind(address: SocketAddr, with_tcp: bool) -> io::Result<(UdpSocket, Option<TcpListener>)> {
    let named = |what: &str, error: io::Error| {
        io::Error::new(error.kind(), format!("media.port: {what} {address}: {error}"))
    };
    let mut left = if address.port() == 0 { FREE_PORT_TRIES } else { 1 };
    loop {
        let udp = UdpSocket::bind(address).map_err(|error| named("UDP", error))?;
        if !with_tcp {
            return Ok((udp, None));
        }
        left -= 1;
        match TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => return Ok((udp, Some(tcp))),
            Err(error) if left > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(named("TCP", error)),
        }
    }
}
