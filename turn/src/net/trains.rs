//! What waits to leave: datagrams grouped by socket and destination, so that each group goes out as trains.
//!
//! A receive batch brings packets of many clients and peers, often interleaved; neighbours with one destination and one
//! length are one UDP_SEGMENT message, so neighbours are made here. The order of packets with one destination stays: a
//! length of their own would overtake others of the same flow. The header is written into the room before the payload;
//! the payload is copied once, from where it was received to where it is sent from.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use common::net::{BatchSocket, TransmitArena};
use tokio::task::AbortHandle;

use super::udp::Readable;
use crate::metrics::{DropReason, Metrics};
use crate::relay::{ClientAddr, RelayedAddr};

/// Destinations that are served at once, as many as a receive call has messages of one sender each (quinn-udp's
/// `BATCH_SIZE`); one more sends what waits first.
const TRAINS: usize = 32;
/// Bytes for one destination that wait: one run of UDP_SEGMENT at its longest. One more datagram sends them first.
const TRAIN_BYTES: usize = 64 * 1024;
/// Changes of length within a train before it is sent.
const TRAIN_RUNS: usize = 128;

/// The sockets of one worker.
#[derive(Default)]
pub(super) struct Sockets {
    pub(super) listeners: Vec<Rc<Readable>>,
    pub(super) relays: HashMap<RelayedAddr, RelaySocket>,
}

pub(super) struct RelaySocket {
    pub(super) socket: Rc<Readable>,
    pub(super) task: AbortHandle,
}

impl Drop for RelaySocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The socket that a datagram leaves from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Listener(usize),
    Relay(RelayedAddr),
}

/// Where a datagram leaves from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) exit: Exit,
    pub(super) destination: SocketAddr,
    /// The local address, on a listener that has several.
    pub(super) source_ip: Option<IpAddr>,
}

impl Sockets {
    /// The way to a client that talks to us over UDP.
    pub(super) fn route_to(&self, client: &ClientAddr) -> Option<Route> {
        let index = self.listeners.iter().position(|listener| serves(listener.socket(), client.local))?;
        let source_ip = Some(client.local.ip());
        Some(Route { exit: Exit::Listener(index), destination: client.remote, source_ip })
    }

    fn socket(&self, exit: Exit) -> Option<&BatchSocket> {
        match exit {
            Exit::Listener(index) => self.listeners.get(index).map(|listener| listener.socket()),
            Exit::Relay(relayed) => self.relays.get(&relayed).map(|relay| relay.socket.socket()),
        }
    }
}

fn serves(listener: &BatchSocket, local: SocketAddr) -> bool {
    let bound = listener.local_addr();
    bound.port() == local.port()
        && (bound.ip() == local.ip() || bound.ip().is_unspecified() && bound.is_ipv4() == local.is_ipv4())
}

struct Train {
    route: Route,
    arena: TransmitArena,
}

/// The groups.
pub(super) struct Trains {
    /// Of them only the first `waiting` have something; the memory of the others is kept.
    trains: Vec<Train>,
    waiting: usize,
    /// The one that was added to last: most likely the next one's too.
    last: usize,
    metrics: Metrics,
}

impl Trains {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { trains: Vec::with_capacity(TRAINS), waiting: 0, last: 0, metrics }
    }

    /// Adds a datagram: header, payload, and zero bytes behind them.
    pub(super) fn push(
        &mut self,
        sockets: &Sockets,
        route: Route,
        header: &[u8],
        payload: &[u8],
        padding: usize,
    ) {
        let length = header.len() + payload.len() + padding;
        let train = self.train(sockets, route);
        let arena = &mut self.trains[train].arena;
        if arena.space(length).is_none() {
            send(sockets, &mut self.trains[train], &self.metrics);
        }
        let arena = &mut self.trains[train].arena;
        let Some(space) = arena.space(length) else { return self.metrics.drop(DropReason::TooLong) };
        let (head, tail) = space.split_at_mut(header.len());
        head.copy_from_slice(header);
        tail[..payload.len()].copy_from_slice(payload);
        tail[payload.len()..].fill(0);
        arena.commit(length, route.destination, route.source_ip);
    }

    /// Sends everything.
    pub(super) fn send(&mut self, sockets: &Sockets) {
        self.trains[..self.waiting].iter_mut().for_each(|train| send(sockets, train, &self.metrics));
        self.waiting = 0;
    }

    fn train(&mut self, sockets: &Sockets, route: Route) -> usize {
        let waiting = &self.trains[..self.waiting];
        if waiting.get(self.last).is_some_and(|train| train.route == route) {
            return self.last;
        }
        self.last = waiting.iter().position(|train| train.route == route).unwrap_or_else(|| {
            if self.waiting == TRAINS {
                self.send(sockets);
            }
            self.waiting += 1;
            let new = self.waiting - 1;
            match self.trains.get_mut(new) {
                Some(train) => train.route = route,
                None => {
                    self.trains.push(Train { route, arena: TransmitArena::new(TRAIN_BYTES, TRAIN_RUNS) });
                }
            }
            new
        });
        self.last
    }
}

/// Sends a train; what the kernel has no room for is lost, as it would be in its queue.
fn send(sockets: &Sockets, train: &mut Train, metrics: &Metrics) {
    match sockets.socket(train.route.exit) {
        Some(socket) => {
            let sent = socket.send(&mut train.arena);
            (0..sent.lost).for_each(|_| metrics.drop(DropReason::Network));
            (0..train.arena.len()).for_each(|_| metrics.drop(DropReason::QueueFull));
        }
        None => (0..train.arena.len()).for_each(|_| metrics.drop(DropReason::Network)),
    }
    train.arena.clear();
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use common::metrics::Registry;
    use common::net::{RecvBatch, UdpMetrics};

    use super::*;

    fn listener(registry: &Registry) -> Readable {
        let socket = BatchSocket::bind(([127, 0, 0, 1], 0).into(), UdpMetrics::register(registry));
        Readable::new(socket.expect("a free port")).expect("in a runtime")
    }

    fn destination() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        let address = socket.local_addr().expect("bound");
        (socket, address)
    }

    #[tokio::test]
    async fn interleaved_packets_arrive_in_order_with_their_headers() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry);
        let sockets = Sockets { listeners: vec![Rc::new(listener(&registry))], relays: HashMap::new() };
        let mut trains = Trains::new(metrics.clone());
        let ends: Vec<(UdpSocket, SocketAddr)> = (0..TRAINS + 3).map(|_| destination()).collect();
        let packet = |round: usize, end: usize| vec![end as u8; 100 + (round * end) % 7];
        for round in 0..5 {
            for (end, (_, destination)) in ends.iter().enumerate() {
                let route = Route { exit: Exit::Listener(0), destination: *destination, source_ip: None };
                trains.push(&sockets, route, &[round as u8], &packet(round, end), 2);
            }
        }
        trains.send(&sockets);
        let mut buffer = [0; 2000];
        for (end, (socket, _)) in ends.iter().enumerate() {
            for round in 0..5 {
                let length = socket.recv(&mut buffer).expect("arrives");
                let expected = [&[round as u8], &packet(round, end)[..], &[0, 0]].concat();
                assert_eq!(&buffer[..length], expected, "end {end}, round {round}");
            }
        }
        assert_eq!(metrics.drops(DropReason::QueueFull) + metrics.drops(DropReason::Network), 0);
    }

    #[tokio::test]
    async fn what_two_clients_send_in_turn_leaves_as_two_trains() {
        let registry = Registry::new();
        let sockets = Sockets { listeners: vec![Rc::new(listener(&registry))], relays: HashMap::new() };
        let mut trains = Trains::new(Metrics::register(&registry));
        let ends = [listener(&registry), listener(&registry)];
        for _ in 0..10 {
            for end in &ends {
                let destination = end.socket().local_addr();
                let route = Route { exit: Exit::Listener(0), destination, source_ip: None };
                trains.push(&sockets, route, b"head", &[7; 200], 0);
            }
        }
        assert_eq!(trains.waiting, 2);
        trains.send(&sockets);
        assert_eq!(trains.waiting, 0);
        for end in &ends {
            let (mut batch, mut arrived) = (RecvBatch::new(), 0);
            while arrived < 10 {
                assert!(end.wait().await);
                if end.recv(&mut batch) {
                    assert!(batch.datagrams().all(|datagram| datagram.payload.len() == 204));
                    arrived += batch.len();
                }
            }
            assert_eq!(arrived, 10);
        }
    }

    #[tokio::test]
    async fn too_long_is_dropped_and_the_next_one_is_not() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry);
        let sockets = Sockets { listeners: vec![Rc::new(listener(&registry))], relays: HashMap::new() };
        let mut trains = Trains::new(metrics.clone());
        let (socket, destination) = destination();
        let route = Route { exit: Exit::Listener(0), destination, source_ip: None };
        trains.push(&sockets, route, &[], &vec![1; TRAIN_BYTES + 1], 0);
        trains.push(&sockets, route, &[], b"next", 0);
        trains.push(
            &sockets,
            Route { exit: Exit::Relay(RelayedAddr::udp(destination)), ..route },
            &[],
            b"no socket",
            0,
        );
        trains.send(&sockets);
        assert_eq!(metrics.drops(DropReason::TooLong), 1);
        assert_eq!(metrics.drops(DropReason::Network), 1);
        let mut buffer = [0; 100];
        assert_eq!(socket.recv(&mut buffer).expect("arrives"), 4);
    }
}
