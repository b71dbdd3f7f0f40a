//! One thread's world: the core, its sockets and connections, and what waits to be sent.
//!
//! Everything that arrives together is handled as one batch and sent together; neighbours with one destination leave as
//! one run. What the network or a full queue does not take is lost and counted, never the end of an allocation.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use common::handover::DatagramSink;
use common::net::{BatchSocket, RecvBatch, TransmitArena, UdpMetrics};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::tcp::CONNECTIONS_MAX;
use super::udp::{self, Readable};
use crate::metrics::{DropReason, Metrics};
use crate::relay::{ClientAddr, ConnectionId, Destination, Input, Output, Relay, RelayedPort, Transport};

/// Bytes that wait in one arena before it is sent, and datagrams: about what one receive call brings.
const ARENA_BYTES: usize = 512 * 1024;
const ARENA_DATAGRAMS: usize = 512;

pub(super) type SharedWorker = Rc<RefCell<Worker>>;

struct Listener {
    socket: Rc<Readable>,
    arena: TransmitArena,
}

struct RelaySocket {
    socket: Rc<Readable>,
    task: AbortHandle,
}

impl Drop for RelaySocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) struct Worker {
    relay: Relay,
    relay_ip: IpAddr,
    media: Arc<dyn DatagramSink>,
    metrics: Metrics,
    udp_metrics: UdpMetrics,
    listeners: Vec<Listener>,
    relays: HashMap<RelayedPort, RelaySocket>,
    /// What waits to leave through one relay socket; another socket's datagram sends it first.
    to_peers: TransmitArena,
    to_peers_from: Option<RelayedPort>,
    from_peers: Rc<RefCell<RecvBatch>>,
    connections: HashMap<ConnectionId, mpsc::Sender<Vec<u8>>>,
    next_connection: u64,
    me: Weak<RefCell<Worker>>,
}

impl Worker {
    pub(super) fn shared(
        relay: Relay,
        relay_ip: IpAddr,
        media: Arc<dyn DatagramSink>,
        metrics: Metrics,
        udp_metrics: UdpMetrics,
    ) -> SharedWorker {
        Rc::new_cyclic(|me| {
            RefCell::new(Self {
                relay,
                relay_ip,
                media,
                metrics,
                udp_metrics,
                listeners: Vec::new(),
                relays: HashMap::new(),
                to_peers: TransmitArena::new(ARENA_BYTES, ARENA_DATAGRAMS),
                to_peers_from: None,
                from_peers: Rc::new(RefCell::new(RecvBatch::new())),
                connections: HashMap::new(),
                next_connection: 0,
                me: Weak::clone(me),
            })
        })
    }

    pub(super) fn add_listener(&mut self, socket: Rc<Readable>) {
        self.listeners.push(Listener { socket, arena: TransmitArena::new(ARENA_BYTES, ARENA_DATAGRAMS) });
    }

    /// `None` when there are too many.
    pub(super) fn add_connection(&mut self, queue: mpsc::Sender<Vec<u8>>) -> Option<ConnectionId> {
        if self.connections.len() >= CONNECTIONS_MAX {
            return None;
        }
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.connections.insert(id, queue);
        Some(id)
    }

    pub(super) fn remove_connection(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    pub(super) fn has_allocation(&self, client: &ClientAddr) -> bool {
        self.relay.has_allocation(client)
    }

    /// Handles what arrived together, then sends. The clock is read once.
    pub(super) fn batch<T>(&mut self, handle: impl FnOnce(&mut Batch<'_>) -> T) -> T {
        let result = handle(&mut Batch { now: Instant::now(), worker: self });
        self.flush_to_peers();
        for listener in &mut self.listeners {
            send(listener.socket.socket(), &mut listener.arena, &self.metrics);
        }
        result
    }

    fn forward(&mut self, to: Destination, payload: &[u8]) {
        match to {
            Destination::Peer { from, peer } => self.send_to_peer(from, peer, payload),
            Destination::Client { client, prefix, padding } => {
                self.send_to_client(client, &prefix, payload, padding)
            }
            Destination::Media { from, to } => {
                if !self.media.deliver(from, to, payload) {
                    self.metrics.drop(DropReason::QueueFull);
                }
            }
        }
    }

    fn send_to_peer(&mut self, from: RelayedPort, peer: SocketAddr, payload: &[u8]) {
        if self.to_peers_from != Some(from) {
            self.flush_to_peers();
            self.to_peers_from = Some(from);
        }
        if !self.to_peers.push(payload, peer, None) {
            self.flush_to_peers();
            self.to_peers_from = Some(from);
            if !self.to_peers.push(payload, peer, None) {
                self.metrics.drop(DropReason::TooLong);
            }
        }
    }

    fn flush_to_peers(&mut self) {
        if let Some(relay) = self.to_peers_from.take().and_then(|port| self.relays.get(&port)) {
            send(relay.socket.socket(), &mut self.to_peers, &self.metrics);
        }
        self.to_peers.clear();
    }

    fn send_to_client(&mut self, client: ClientAddr, prefix: &[u8], payload: &[u8], padding: usize) {
        let length = prefix.len() + payload.len() + padding;
        if let Transport::Tcp(connection) = client.transport {
            let mut message = Vec::with_capacity(length);
            message.extend_from_slice(prefix);
            message.extend_from_slice(payload);
            message.resize(length, 0);
            let taken =
                self.connections.get(&connection).is_some_and(|queue| queue.try_send(message).is_ok());
            if !taken {
                self.metrics.drop(DropReason::QueueFull);
            }
            return;
        }
        let Some(listener) = self.listeners.iter_mut().find(|listener| serves(listener, client.local)) else {
            return self.metrics.drop(DropReason::Network);
        };
        if listener.arena.space(length).is_none() {
            send(listener.socket.socket(), &mut listener.arena, &self.metrics);
        }
        let Some(space) = listener.arena.space(length) else { return self.metrics.drop(DropReason::TooLong) };
        let (head, tail) = space.split_at_mut(prefix.len());
        head.copy_from_slice(prefix);
        tail[..payload.len()].copy_from_slice(payload);
        tail[payload.len()..].fill(0);
        listener.arena.commit(length, client.remote, Some(client.local.ip()));
    }

    fn open_relay(&mut self, port: RelayedPort) -> bool {
        let bound = BatchSocket::bind(SocketAddr::new(self.relay_ip, port.0), self.udp_metrics.clone());
        let socket = match bound.and_then(Readable::new) {
            Ok(socket) => Rc::new(socket),
            Err(error) => {
                tracing::debug!(%error, "a relay port could not be bound");
                return false;
            }
        };
        let task = udp::relay(Weak::clone(&self.me), Rc::clone(&socket), port, Rc::clone(&self.from_peers));
        let task = tokio::task::spawn_local(task).abort_handle();
        self.relays.insert(port, RelaySocket { socket, task });
        true
    }
}

fn serves(listener: &Listener, local: SocketAddr) -> bool {
    let bound = listener.socket.socket().local_addr();
    bound.port() == local.port()
        && (bound.ip() == local.ip() || bound.ip().is_unspecified() && bound.is_ipv4() == local.is_ipv4())
}

/// Sends an arena; what the kernel has no room for is lost, as it would be in its queue.
fn send(socket: &BatchSocket, arena: &mut TransmitArena, metrics: &Metrics) {
    if arena.is_empty() {
        return arena.clear();
    }
    let sent = socket.send(arena);
    (0..sent.lost).for_each(|_| metrics.drop(DropReason::Network));
    (0..arena.len()).for_each(|_| metrics.drop(DropReason::QueueFull));
    arena.clear();
}

/// Inputs of one moment.
pub(super) struct Batch<'a> {
    now: Instant,
    worker: &'a mut Worker,
}

impl Batch<'_> {
    pub(super) fn handle(&mut self, input: Input<'_>) {
        let data = match input {
            Input::FromClient { data, .. } | Input::FromPeer { data, .. } | Input::FromMedia { data, .. } => {
                data
            }
            _ => &[],
        };
        self.worker.relay.handle_input(self.now, input);
        loop {
            match self.worker.relay.poll_output() {
                Output::Reply { client, data } => self.worker.send_to_client(client, &data, &[], 0),
                Output::Forward { to, payload } => self.worker.forward(to, part(data, payload)),
                Output::OpenRelay { port } => {
                    let bound = self.worker.open_relay(port);
                    let news =
                        if bound { Input::RelayBound { port } } else { Input::RelayBindFailed { port } };
                    self.worker.relay.handle_input(self.now, news);
                }
                Output::CloseRelay { port } => {
                    if self.worker.to_peers_from == Some(port) {
                        self.worker.flush_to_peers();
                    }
                    self.worker.relays.remove(&port);
                }
                Output::Timeout(_) => return, // `tick` is never later than half a second
            }
        }
    }
}

fn part(data: &[u8], range: Range<usize>) -> &[u8] {
    debug_assert!(range.end <= data.len(), "the core points into its last input");
    data.get(range).unwrap_or_default()
}
