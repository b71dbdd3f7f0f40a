//! The relay's core: datagrams and time in, decisions out (RFC 8656).
//!
//! `io` is its interface, `requests` answers what clients ask for (`families` of addresses, and `reservations` keeps what it
//! promised), `tcp` joins connections, `icmp` tells of errors, `forward` is the packet path. Allocations are found by client (up) and by relayed address (down). The shell
//! is `net`; who may do what is `auth` and `peer_policy`.

mod addresses;
mod bandwidth;
mod connections;
mod discovery;
mod elsewhere;
mod families;
mod forward;
mod icmp;
mod io;
mod ledger;
mod requests;
mod reservations;
mod tcp;
mod unproved;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::wall_clock::WallClock;
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore, SeedableRng};
use slab::Slab;

use addresses::RelayIps;
pub use addresses::{Family, Protocol, RELAY_IPS_MAX, RelayIp, RelayedAddr};
use bandwidth::Bandwidth;
use connections::{CONNECTIONS_MAX, PeerConnections};
use elsewhere::Elsewhere;
use forward::LastRoutes;
pub use icmp::Icmp;
pub use io::{
    ClientAddr, ConnectionId, Destination, Input, Output, PREFIX_BYTES_MAX, PeerConnectionId, Prefix,
    Transport,
};
pub use ledger::{Ledger, WORKERS_MAX, WorkerId};
use reservations::Reservations;

use crate::allocation::{Allocation, PortWish, Side, State};
use crate::auth::{Authenticator, Credentials, StrangerLimit};
use crate::metrics::{DropReason, Metrics};
use crate::peer_policy::{PeerPolicy, Verdict, canonical};
use crate::routes::{AllocationId, Hashing, Owner, PERMISSIONS_MAX, ROUTES_MAX, Routes, Share, hashing};
pub use crate::settings::RelayConfig;
use crate::settings::{Discovery, Lifetimes, Services};

/// How long the core sleeps when nothing is going to expire.
const IDLE: Duration = Duration::from_secs(3600);

/// The core.
#[derive(Debug)]
pub struct Relay {
    ledger: Arc<Ledger>,
    worker: WorkerId,
    ips: RelayIps,
    keep_address_family: bool,
    own_media: BTreeSet<SocketAddr>,
    /// Our addresses that only our own ports may be reached at.
    own_only: Vec<IpAddr>,
    auth: Authenticator,
    strangers: StrangerLimit,
    lifetimes: Lifetimes,
    services: Services,
    software: Option<String>,
    fingerprint: bool,
    elsewhere: Elsewhere,
    discovery: Vec<Discovery>,
    /// `None` when there is no limit.
    bandwidth: Option<Bandwidth>,
    policy: PeerPolicy,
    metrics: Metrics,
    rng: ChaCha12Rng,
    wall: WallClock,
    allocations: Slab<Allocation>,
    by_client: HashMap<ClientAddr, AllocationId, Hashing>,
    by_relayed: HashMap<RelayedAddr, AllocationId, Hashing>,
    routes: Routes,
    last_routes: LastRoutes,
    reservations: Reservations,
    connections: PeerConnections,
    tcp_relay: bool,
    expiries: BTreeSet<(Instant, AllocationId)>,
    /// Drained after each input; one input adds a handful at most, and a timeout two per expired allocation.
    outputs: VecDeque<Output>,
    now: Instant,
}

impl Relay {
    /// One that works alone. `unix_time` is the wall time at `now`, since the Unix epoch.
    pub fn new(
        config: RelayConfig,
        metrics: Metrics,
        seed: [u8; 32],
        now: Instant,
        unix_time: Duration,
    ) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let ledger = Ledger::with_rng(&config, 1, &mut rng, now);
        Self::build(config, (ledger, WorkerId(0)), metrics, rng, now, unix_time)
    }

    /// One of several that share a ledger, which was made for the same `config`; each has a `seed` of its own.
    pub fn worker(
        config: RelayConfig,
        place: (Arc<Ledger>, WorkerId),
        metrics: Metrics,
        seed: [u8; 32],
        now: Instant,
        unix_time: Duration,
    ) -> Self {
        Self::build(config, place, metrics, ChaCha12Rng::from_seed(seed), now, unix_time)
    }

    fn build(
        config: RelayConfig,
        (ledger, worker): (Arc<Ledger>, WorkerId),
        metrics: Metrics,
        mut rng: ChaCha12Rng,
        now: Instant,
        unix_time: Duration,
    ) -> Self {
        let mut own: Vec<IpAddr> = config.own_media.iter().map(SocketAddr::ip).collect();
        own.extend(config.relay_ips.iter().flat_map(|ip| [ip.bound, ip.shown]));
        let policy = PeerPolicy::new(config.denied_peers.clone(), config.allowed_peers.clone(), own.clone());
        own.retain(|ip| policy.verdict(*ip) == Verdict::OwnOnly);
        let Lifetimes { nonce, .. } = config.lifetimes;
        Self {
            ips: RelayIps::new(&config.relay_ips, config.ports),
            keep_address_family: config.keep_address_family,
            own_media: config.own_media.into_iter().collect(),
            own_only: own.into_iter().map(canonical).collect(),
            auth: Authenticator::new(config.realm, &config.credentials, nonce, &ledger.nonce_secret),
            strangers: ledger.strangers.clone(),
            lifetimes: config.lifetimes,
            services: config.services,
            software: config.software,
            fingerprint: config.fingerprint,
            discovery: config.discovery,
            elsewhere: Elsewhere::new(config.alternate_servers),
            bandwidth: Bandwidth::new(config.max_bps, &ledger.capacity),
            policy,
            metrics,
            wall: WallClock::new(now, unix_time),
            allocations: Slab::new(),
            by_client: HashMap::with_hasher(hashing(rng.next_u64())),
            by_relayed: HashMap::with_hasher(hashing(rng.next_u64())),
            routes: Routes::new(ROUTES_MAX, &config.lifetimes, rng.next_u64()),
            last_routes: LastRoutes::default(),
            reservations: Reservations::default(),
            connections: PeerConnections::default(),
            tcp_relay: config.tcp_relay,
            expiries: BTreeSet::new(),
            outputs: VecDeque::new(),
            now,
            rng,
            ledger,
            worker,
        }
    }

    /// Changes state. Drain [`Relay::poll_output`] before the next one: forwards point into this input's data.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        if now > self.now {
            self.now = now; // the same for a whole batch
            self.expire();
        }
        match input {
            Input::FromClient { client, data } => self.on_client(client, data),
            Input::FromPeer { relayed, peer, data } => self.on_peer(relayed, peer, data.len()),
            Input::FromMedia { relayed, media, data } => self.on_media(relayed, media, data.len()),
            Input::RelayBound { relayed } => self.on_relay_bound(relayed),
            Input::RelayBindFailed { relayed } => self.on_relay_bind_failed(relayed),
            Input::Drain => self.elsewhere.drain(),
            Input::PeerConnected { connection } => self.on_peer_connected(connection),
            Input::PeerConnectFailed { connection } => self.on_peer_connect_failed(connection),
            Input::PeerAccepted { relayed, peer } => self.on_peer_accepted(relayed, peer),
            Input::PeerGone { connection } => self.on_peer_gone(connection),
            Input::Icmp { relayed, peer, icmp } => self.on_icmp(relayed, peer, icmp),
            Input::ClientGone { client } => self.on_client_gone(&client),
            Input::WallClock { unix_time } => self.wall = WallClock::new(self.now, unix_time),
            Input::Timeout => {}
        }
    }

    /// What is to be done, until [`Output::Timeout`].
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| {
            let ends = self.expiries.first().map(|(at, _)| *at);
            let ends = [ends, self.reservations.next_end(), self.connections.next_end()];
            Output::Timeout(ends.into_iter().flatten().min().unwrap_or(self.now + IDLE))
        })
    }

    /// Other credentials from now on. Allocations go on, and are refreshed with what they were made with.
    pub fn set_credentials(&mut self, credentials: &Credentials) {
        self.auth.set_credentials(credentials);
    }

    /// Everything that is kept for somebody, by name: all of it 0 when nobody is there.
    pub fn held(&self) -> [(&'static str, usize); 8] {
        [
            ("allocations", self.allocations.len()),
            ("clients", self.by_client.len()),
            ("relayed addresses", self.by_relayed.len()),
            ("routes", self.routes.len()),
            ("reservations", self.ledger.reservations()),
            ("connections to peers", self.connections.len()),
            ("users", self.ledger.users()),
            ("timers", self.expiries.len()),
        ]
    }

    /// The longest list of each kind that clients can fill, by name, with its length and its bound.
    pub fn queues(&self) -> [(&'static str, usize, usize); 2] {
        let permissions = self.allocations.iter().map(|(_, one)| one.share.permissions()).max().unwrap_or(0);
        [
            ("permissions of one allocation", permissions, PERMISSIONS_MAX),
            ("connections to peers", self.connections.len(), CONNECTIONS_MAX),
        ]
    }

    /// Whether it is time for [`Input::WallClock`] again.
    pub fn wall_clock_is_old(&self, now: Instant) -> bool {
        self.wall.is_old(now)
    }

    /// Whether the client has an allocation.
    pub fn has_allocation(&self, client: &ClientAddr) -> bool {
        self.by_client.contains_key(client)
    }

    /// Allocations there are.
    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }

    /// Connections to peers there are, of TCP allocations.
    pub fn peer_connections(&self) -> usize {
        self.connections.len()
    }

    fn unix_seconds(&self) -> u64 {
        self.wall.at(self.now).as_secs()
    }

    fn drop(&self, reason: DropReason) {
        self.metrics.drop(reason);
    }

    fn reply(&mut self, client: ClientAddr, data: Vec<u8>) {
        self.outputs.push_back(Output::Reply { client, data });
    }

    fn open(&mut self, relayed: RelayedAddr) {
        let bind = self.ips.bound(relayed);
        self.outputs.push_back(Output::OpenRelay { relayed, bind });
    }

    fn close(&mut self, relayed: RelayedAddr) {
        self.outputs.push_back(Output::CloseRelay { relayed });
    }

    fn random_below(&mut self, bound: u32) -> u32 {
        self.rng.next_u32() % bound // the bias is far below what an observer could use
    }

    fn allocation(&self, id: AllocationId) -> &Allocation {
        &self.allocations[id.0 as usize]
    }

    fn allocation_mut(&mut self, id: AllocationId) -> &mut Allocation {
        &mut self.allocations[id.0 as usize]
    }

    fn expire(&mut self) {
        while let Some(&(at, id)) = self.expiries.first().filter(|(at, _)| *at <= self.now) {
            debug_assert_eq!(Some(at), self.allocation(id).expires());
            let ended = |side: &&Side| side.expires == at;
            let ended = self.allocation(id).sides().find(ended).map(|side| side.relayed.family);
            ended.into_iter().for_each(|family| self.remove_side(id, family));
        }
        while let Some((relayed, token)) = self.reservations.ended(self.now) {
            if self.ledger.expire(self.worker, token) {
                self.close(relayed);
            }
        }
        self.expire_connections();
    }

    fn insert(&mut self, allocation: Allocation) -> AllocationId {
        let client = allocation.client;
        let id = AllocationId(self.allocations.insert(allocation) as u32); // fewer than ports
        if let Some(bandwidth) = &mut self.bandwidth {
            bandwidth.start(id, self.now);
        }
        let allocation = &self.allocations[id.0 as usize];
        self.by_client.insert(client, id);
        self.by_relayed.extend(allocation.sides().map(|side| (side.relayed, id)));
        self.expiries.extend(allocation.expires().map(|at| (at, id)));
        self.last_routes = LastRoutes::default();
        self.metrics.allocate(client.transport);
        self.ledger.count_allocation(self.worker);
        id
    }

    fn remove(&mut self, id: AllocationId) {
        self.change_routes(id, |routes, owner, share| routes.remove(owner.id, share));
        Family::ALL.into_iter().for_each(|family| self.close_connections_of(id, family));
        let allocation = self.allocations.remove(id.0 as usize);
        self.by_client.remove(&allocation.client);
        if let Some(at) = allocation.expires() {
            self.expiries.remove(&(at, id));
        }
        self.ledger.leave(self.worker, allocation.proof.account());
        self.ledger.uncount_allocation(self.worker);
        self.metrics.allocations.dec();
        if let State::Binding { pending } = allocation.state
            && pending.wish == PortWish::EvenAndNext
            && pending.token.is_none()
        {
            allocation.sides().for_each(|side| self.ledger.release(self.worker, side.relayed.next()));
        }
        allocation.sides().for_each(|side| self.release(id, side.relayed));
    }

    /// Ends one of an allocation's addresses, and the allocation with its last one.
    fn remove_side(&mut self, id: AllocationId, family: Family) {
        if self.allocation(id).sides().count() <= 1 {
            return self.remove(id);
        }
        self.change_sides(id, |allocation| allocation.take(family)).into_iter().for_each(|side| {
            self.change_routes(id, |routes, owner, share| {
                routes.remove_socket(owner.id, share, side.relayed)
            });
            self.close_connections_of(id, family);
            self.release(id, side.relayed);
        });
    }

    /// Gives an address of an allocation back.
    fn release(&mut self, id: AllocationId, relayed: RelayedAddr) {
        self.forget_relayed(relayed);
        let next = relayed.next();
        if self.by_relayed.get(&next) == Some(&id) {
            self.forget_relayed(next); // it was being bound to be reserved
        }
        self.close(relayed);
    }

    /// The port is anybody's again.
    fn forget_relayed(&mut self, relayed: RelayedAddr) {
        self.by_relayed.remove(&relayed);
        self.ledger.release(self.worker, relayed);
    }

    /// Changes what an allocation holds of the route table; what was remembered of it no longer counts.
    fn change_routes<T>(
        &mut self,
        id: AllocationId,
        change: impl FnOnce(&mut Routes, Owner, &mut Share) -> T,
    ) -> T {
        self.last_routes = LastRoutes::default();
        let allocation = &mut self.allocations[id.0 as usize];
        let owner = allocation.owner(id);
        change(&mut self.routes, owner, &mut allocation.share)
    }

    /// Changes an allocation's addresses, and with them when it is to be looked at.
    fn change_sides<T>(&mut self, id: AllocationId, change: impl FnOnce(&mut Allocation) -> T) -> T {
        let allocation = &mut self.allocations[id.0 as usize];
        let before = allocation.expires();
        let result = change(allocation);
        let after = allocation.expires();
        if before != after {
            if let Some(at) = before {
                self.expiries.remove(&(at, id));
            }
            self.expiries.extend(after.map(|at| (at, id)));
        }
        result
    }

    /// The client's allocation when packets may flow through it.
    fn ready(&self, client: &ClientAddr) -> Option<AllocationId> {
        let id = *self.by_client.get(client)?;
        self.allocation(id).is_ready().then_some(id)
    }

    /// Whether `address` is one that we serve ourselves: our media, or a relayed address.
    fn is_own(&self, address: SocketAddr) -> bool {
        self.own_media.contains(&address)
            || self.ips.contains(address.ip()) && self.ips.ports.contains(&address.port())
    }

    /// The answer to the Allocate request, if it was given already.
    fn given_answer(&self, id: AllocationId) -> Option<&[u8]> {
        match &self.allocation(id).state {
            State::Ready { answer } => Some(answer),
            State::Binding { .. } => None,
        }
    }
}
