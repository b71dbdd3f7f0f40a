//! One thread's world: the core, its sockets and connections, and what waits to be sent.
//!
//! Everything that arrives together is handled as one batch and sent together, in [`Trains`]. What the network or a full
//! queue does not take is lost and counted, never the end of an allocation.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use common::handover::DatagramSink;
use common::net::{BatchSocket, RecvBatch, UdpMetrics};
use tokio_util::sync::CancellationToken;

use super::dtls::{self, Event, Sessions};
use super::orders::{Order, Post};
use super::outbox::Outbox;
use super::peers::{Peers, Splice};
use super::tcp::Guest;
use super::trains::{Exit, RelaySocket, Route, Sockets, Trains};
use super::udp::{self, Readable};
use crate::auth::Credentials;
use crate::metrics::{DropReason, Metrics};
use crate::relay::{
    ClientAddr, ConnectionId, Destination, Input, Output, Protocol, Relay, RelayedAddr, Transport, WorkerId,
};
use crate::settings::Settings;

pub(super) type SharedWorker = Rc<RefCell<Worker>>;

pub(super) struct Worker {
    relay: Relay,
    id: WorkerId,
    media: Arc<dyn DatagramSink>,
    post: Post,
    panicked: Rc<CancellationToken>,
    metrics: Metrics,
    udp_metrics: UdpMetrics,
    sockets: Sockets,
    trains: Trains,
    /// When there is a certificate.
    dtls: Option<Sessions>,
    /// Whether plain datagrams are listened to.
    plain_udp: bool,
    relay_buffer_bytes: usize,
    from_peers: Rc<RefCell<RecvBatch>>,
    peers: Peers,
    connections: HashMap<ConnectionId, Rc<Outbox>>,
    next_connection: u64,
    me: Weak<RefCell<Worker>>,
}

/// What a worker has beside its core.
pub(super) struct Equipment {
    pub(super) id: WorkerId,
    pub(super) media: Arc<dyn DatagramSink>,
    pub(super) metrics: Metrics,
    pub(super) udp_metrics: UdpMetrics,
    pub(super) post: Post,
    pub(super) dtls: Option<Sessions>,
    /// Told when a batch panics: the core is in no state to go on.
    pub(super) panicked: CancellationToken,
}

impl Worker {
    pub(super) fn shared(relay: Relay, equipment: Equipment, settings: &Settings) -> SharedWorker {
        let Equipment { id, media, metrics, udp_metrics, post, dtls, panicked } = equipment;
        Rc::new_cyclic(|me| {
            RefCell::new(Self {
                relay,
                id,
                media,
                post,
                panicked: Rc::new(panicked),
                trains: Trains::new(metrics.clone()),
                metrics,
                udp_metrics,
                sockets: Sockets::default(),
                dtls,
                plain_udp: settings.transports.udp,
                relay_buffer_bytes: settings.relay_buffer_bytes,
                from_peers: Rc::new(RefCell::new(RecvBatch::new())),
                peers: Peers::default(),
                connections: HashMap::new(),
                next_connection: 0,
                me: Weak::clone(me),
            })
        })
    }

    pub(super) fn set_credentials(&mut self, credentials: &Credentials) {
        self.relay.set_credentials(credentials);
    }

    pub(super) fn add_listener(&mut self, socket: Rc<Readable>) {
        self.sockets.listeners.push(socket);
    }

    pub(super) fn add_connection(&mut self, outbox: Rc<Outbox>) -> ConnectionId {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.connections.insert(id, outbox);
        id
    }

    pub(super) fn remove_connection(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.peers.take_splice(id);
    }

    pub(super) fn peers(&mut self) -> &mut Peers {
        &mut self.peers
    }

    pub(super) fn take_splice(&mut self, client: &ClientAddr) -> Option<Splice> {
        self.peers.take_splice(connection_of(client)?)
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    pub(super) fn has_allocation(&self, client: &ClientAddr) -> bool {
        self.relay.has_allocation(client)
    }

    /// Handles what arrived together, then sends. The clock is read once.
    pub(super) fn batch<T>(&mut self, handle: impl FnOnce(&mut Batch<'_>) -> T) -> T {
        let now = Instant::now();
        let _alarm = Alarm(Rc::clone(&self.panicked));
        let mut batch = Batch { now, worker: self };
        batch.tell_wall_clock();
        let result = handle(&mut batch);
        self.trains.send(&self.sockets);
        result
    }

    fn forward(&mut self, to: Destination, payload: &[u8]) {
        match to {
            Destination::Peer { from, peer } => self.send_to_peer(from, peer, payload),
            Destination::Client { client, prefix, padding } => {
                self.send_to_client(client, &prefix, payload, padding)
            }
            Destination::Worker { worker, from, to } => {
                if !self.post.deliver(worker, from, to, payload) {
                    self.metrics.drop(DropReason::QueueFull);
                }
            }
            Destination::Media { from, to } => {
                if !self.media.deliver(from, to, payload) {
                    self.metrics.drop(DropReason::QueueFull);
                }
            }
        }
    }

    fn send_to_peer(&mut self, from: RelayedAddr, peer: SocketAddr, payload: &[u8]) {
        let route = Route { exit: Exit::Relay(from), destination: peer, source_ip: None };
        self.trains.push(&self.sockets, route, &[], payload, 0);
    }

    fn send_to_client(&mut self, client: ClientAddr, prefix: &[u8], payload: &[u8], padding: usize) {
        if let Some(connection) = connection_of(&client) {
            let outbox = self.connections.get(&connection);
            if !outbox.is_some_and(|outbox| outbox.push(prefix, payload, padding)) {
                self.metrics.drop(DropReason::QueueFull);
            }
            return;
        }
        let Some(route) = self.sockets.route_to(&client) else {
            return self.metrics.drop(DropReason::Network);
        };
        match (client.transport, &mut self.dtls) {
            (Transport::Dtls, Some(sessions)) => {
                let (sockets, trains) = (&self.sockets, &mut self.trains);
                let sent =
                    sessions.send(&client, [prefix, payload, &[0; 3][..padding.min(3)]], &mut |event| {
                        if let Event::Transmit(record) = event {
                            trains.push(sockets, route, &[], record, 0);
                        }
                    });
                if !sent {
                    self.metrics.drop(DropReason::NoAllocation);
                }
            }
            _ => self.trains.push(&self.sockets, route, prefix, payload, padding),
        }
    }

    fn open_relay(&mut self, relayed: RelayedAddr, bind: SocketAddr) -> bool {
        if relayed.protocol == Protocol::Tcp {
            let listens = self.peers.listen(&self.me, relayed, bind);
            return listens
                .inspect_err(|error| tracing::debug!(%error, "a relay port could not be bound"))
                .is_ok();
        }
        let bound = BatchSocket::bind_with_buffers(bind, self.udp_metrics.clone(), self.relay_buffer_bytes);
        match bound.and_then(Readable::new) {
            Ok(socket) => self.serve_relay(relayed, Rc::new(socket)),
            Err(error) => {
                tracing::debug!(%error, "a relay port could not be bound");
                return false;
            }
        }
        true
    }

    fn serve_relay(&mut self, relayed: RelayedAddr, socket: Rc<Readable>) {
        let task =
            udp::relay(Weak::clone(&self.me), Rc::clone(&socket), relayed, Rc::clone(&self.from_peers));
        let task = tokio::task::spawn_local(task).abort_handle();
        self.sockets.relays.insert(relayed, RelaySocket { socket, task });
    }

    /// Gives the socket of a redeemed reservation away. It stays open meanwhile, so that nobody else gets its port.
    pub(super) fn hand_over(&mut self, relayed: RelayedAddr, to: WorkerId) {
        let socket = self.sockets.relays.remove(&relayed);
        let socket = socket.and_then(|relay| relay.socket.socket().try_clone().ok());
        self.post.order(to, Order::TakeOver { relayed, socket });
    }

    /// The answer to what was fetched.
    pub(super) fn take_over(&mut self, relayed: RelayedAddr, socket: Option<BatchSocket>) {
        let socket = socket.and_then(|socket| Readable::new(socket).ok());
        let news = match socket {
            Some(socket) => {
                self.serve_relay(relayed, Rc::new(socket));
                Input::RelayBound { relayed }
            }
            None => Input::RelayBindFailed { relayed },
        };
        self.batch(|batch| batch.handle(news));
    }

    /// Sends a client's connection to the worker that it belongs to.
    pub(super) fn send_home(&self, home: WorkerId, guest: Guest) {
        self.post.order(home, Order::Welcome(Box::new(guest)));
    }
}

/// Messages that were in DTLS, in order; `None` where the session ended.
#[derive(Default)]
struct News(Vec<(ClientAddr, Option<Vec<u8>>)>);

impl News {
    fn note(&mut self, trains: &mut Trains, sockets: &Sockets, client: ClientAddr, event: Event<'_>) {
        match event {
            Event::Plain(message) => self.0.push((client, Some(message.to_vec()))),
            Event::Gone => self.0.push((client, None)),
            Event::Transmit(record) => {
                if let Some(route) = sockets.route_to(&client) {
                    trains.push(sockets, route, &[], record, 0);
                }
            }
        }
    }
}

/// Rings when it is dropped by a panic.
struct Alarm(Rc<CancellationToken>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

/// Inputs of one moment.
pub(super) struct Batch<'a> {
    now: Instant,
    worker: &'a mut Worker,
}

impl Batch<'_> {
    /// Credentials end by the system's clock, which may be set.
    fn tell_wall_clock(&mut self) {
        if self.worker.relay.wall_clock_is_old(self.now)
            && let Ok(unix_time) = SystemTime::now().duration_since(UNIX_EPOCH)
        {
            self.worker.relay.handle_input(self.now, Input::WallClock { unix_time });
        }
    }

    /// As [`Relay::home_of`].
    pub(super) fn home_of(&self, client: &ClientAddr, data: &[u8]) -> Option<WorkerId> {
        self.worker.relay.home_of(client, data)
    }

    /// A datagram at a listener.
    pub(super) fn receive(&mut self, client: ClientAddr, data: &[u8]) {
        match self.worker.dtls.take() {
            Some(mut sessions) if dtls::is_dtls(data) => {
                let mut news = News::default();
                sessions.receive(self.now, client, data, &mut |event| {
                    news.note(&mut self.worker.trains, &self.worker.sockets, client, event);
                });
                self.worker.dtls = Some(sessions);
                self.tell(news);
            }
            sessions => {
                self.worker.dtls = sessions;
                if self.worker.plain_udp {
                    self.handle(Input::FromClient { client, data });
                } else {
                    self.worker.metrics.drop(DropReason::SwitchedOff);
                }
            }
        }
    }

    /// Time passes.
    pub(super) fn tick(&mut self) {
        self.handle(Input::Timeout);
        let Some(mut sessions) = self.worker.dtls.take() else { return };
        let mut news = News::default();
        let Worker { relay, trains, sockets, .. } = &mut *self.worker;
        sessions.handle_timeout(
            self.now,
            |client| relay.has_allocation(client),
            |client, event| news.note(trains, sockets, client, event),
        );
        self.worker.dtls = Some(sessions);
        self.tell(news);
    }

    /// Tells the core what came out of DTLS.
    fn tell(&mut self, news: News) {
        for (client, message) in news.0 {
            let client = ClientAddr { transport: Transport::Dtls, ..client };
            match message {
                Some(data) => self.handle(Input::FromClient { client, data: &data }),
                None => self.handle(Input::ClientGone { client }),
            }
        }
    }

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
                Output::OpenRelay { relayed, bind } => {
                    let news = match self.worker.open_relay(relayed, bind) {
                        true => Input::RelayBound { relayed },
                        false => Input::RelayBindFailed { relayed },
                    };
                    self.worker.relay.handle_input(self.now, news);
                }
                Output::FetchRelay { relayed, from } => {
                    let order = Order::HandOver { relayed, to: self.worker.id };
                    if !self.worker.post.order(from, order) {
                        self.worker.relay.handle_input(self.now, Input::RelayBindFailed { relayed });
                    }
                }
                Output::CloseRelay { relayed } => {
                    self.worker.trains.send(&self.worker.sockets); // what waits may leave from this socket
                    self.worker.sockets.relays.remove(&relayed);
                    self.worker.peers.stop_listening(relayed);
                }
                Output::ConnectPeer { connection, bind, to } => {
                    self.worker.peers.connect(&self.worker.me, connection, bind, to);
                }
                Output::KeepPeer { connection } => self.worker.peers.keep(connection),
                Output::Splice { client, connection } => {
                    if let Some(client) = connection_of(&client) {
                        self.worker.peers.splice(client, connection);
                    }
                }
                Output::ClosePeer { connection } => self.worker.peers.close(connection),
                Output::Timeout(_) => break, // `tick` is never later than half a second
            }
        }
        self.worker.peers.forget_accepted();
    }
}

/// The stream that a client talks over.
fn connection_of(client: &ClientAddr) -> Option<ConnectionId> {
    match client.transport {
        Transport::Tcp(connection) | Transport::Tls(connection) => Some(connection),
        Transport::Udp | Transport::Dtls => None,
    }
}

fn part(data: &[u8], range: Range<usize>) -> &[u8] {
    debug_assert!(range.end <= data.len(), "the core points into its last input");
    data.get(range).unwrap_or_default()
}
