//! The packet path's table: which peers a relay socket may exchange packets with, and over which channel (RFC 8656 §9, §12).
//!
//! One flat table for all allocations of a worker. Up: (allocation, channel) to a peer. Down, and Send indications: (relay
//! socket, peer) to a channel or a Data indication; a permission is the entry for every port of an address. Expiry is a
//! time inside the entry, so the packet path needs no timer. `relay` owns the table and the allocations it speaks of;
//! what has expired is swept when its owner adds or refreshes something.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use slab::Slab;

use crate::channel_data::ChannelNumber;
use crate::metrics::DropReason;
use crate::relay::{Family, RelayedAddr};
use crate::settings::Lifetimes;

/// Peer addresses of one allocation, far above what ICE needs; one more is refused with 508.
pub const PERMISSIONS_MAX: usize = 256;
/// As [`PERMISSIONS_MAX`].
pub const CHANNELS_MAX: usize = 256;
/// Permissions and channels of all allocations; about 200 MB when full. One more is refused with 508.
pub const ROUTES_MAX: usize = 1 << 20;

/// Why a permission or a channel is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The channel has another peer, or the peer another channel.
    #[error("channel or peer is bound otherwise")]
    Mismatch,
    /// Too many already, of this allocation or of all.
    #[error("too many")]
    Full,
}

/// Hashes with a key from the core's seed: clients choose channels and peers, and must not be able to aim at a bucket.
pub type Hashing = SeedableRandomState;

/// A [`Hashing`] of its own.
pub fn hashing(seed: u64) -> Hashing {
    Hashing::with_seed(seed, SharedSeed::global_fixed())
}

/// An allocation, by its place in the relay's slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId(pub u32);

/// What an allocation holds of the table: the head of its list through it, and how long that is.
#[derive(Debug, Default)]
pub struct Share {
    first: Option<RouteId>,
    permissions: u16,
    channels: u16,
}

impl Share {
    /// How many permissions it has.
    pub fn permissions(&self) -> usize {
        self.permissions.into()
    }
}

/// Whose share is meant.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// The allocation.
    pub id: AllocationId,
    /// Its relay sockets, by family.
    pub sockets: [Option<RelayedAddr>; 2],
}

impl Owner {
    /// The socket that talks to peers of this address's family. The relay asks nothing for peers of another one.
    fn socket(&self, ip: IpAddr) -> RelayedAddr {
        self.sockets[Family::of(ip) as usize]
            .expect("the relay refuses peers of a family that it has no socket of")
    }
}

/// Where ChannelData goes, and until when nothing has to be looked up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Up {
    /// The channel's peer.
    pub peer: SocketAddr,
    /// Channel or permission ends.
    pub until: Instant,
}

/// How a peer's packet reaches the client, and until when that is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Down {
    /// In ChannelData, or without a channel in a Data indication.
    pub channel: Option<ChannelNumber>,
    /// Channel or permission ends.
    pub until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RouteId(u32);

/// A permission, or a channel with the permission that it needs.
#[derive(Debug)]
struct Route {
    peer: PeerKey,
    permitted_until: Instant,
    channel: Option<Channel>,
    /// The owner's next one.
    next: Option<RouteId>,
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    number: ChannelNumber,
    bound_until: Instant,
}

impl Route {
    fn is_alive(&self, now: Instant) -> bool {
        self.channel.map_or(self.permitted_until, |channel| channel.bound_until) > now
    }
}

/// A relay socket's peer. Without what a `SocketAddr` has beside address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PeerKey {
    ip: IpAddr,
    /// [`ANY_PORT`] in a permission.
    port: u16,
    socket: RelayedAddr,
}

/// No peer has this port (RFC 768: it means "none").
const ANY_PORT: u16 = 0;

impl PeerKey {
    fn exact(socket: RelayedAddr, peer: SocketAddr) -> Self {
        Self { ip: peer.ip(), port: peer.port(), socket }
    }

    fn permission(socket: RelayedAddr, ip: IpAddr) -> Self {
        Self { ip, port: ANY_PORT, socket }
    }
}

impl Hash for PeerKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_address(SocketAddr::new(self.ip, self.port), self.socket.bits(), state);
    }
}

/// An address, and more of which the low 16 and the highest bits vary, in one or two words: what is derived hashes field
/// by field, and packets wait for it.
pub(crate) fn hash_address<H: Hasher>(address: SocketAddr, more: u64, state: &mut H) {
    let rest = u64::from(address.port()) << 16 ^ more;
    match address.ip() {
        IpAddr::V4(ip) => state.write_u64((u64::from(ip.to_bits()) << 32) ^ rest),
        IpAddr::V6(ip) => {
            state.write_u128(ip.to_bits());
            state.write_u64(rest);
        }
    }
}

/// The table.
#[derive(Debug)]
pub struct Routes {
    routes: Slab<Route>,
    channels: HashMap<(AllocationId, ChannelNumber), RouteId, Hashing>,
    peers: HashMap<PeerKey, RouteId, Hashing>,
    capacity: usize,
    permission_lifetime: Duration,
    channel_lifetime: Duration,
}

impl Routes {
    /// An empty table for at most `capacity` permissions and channels.
    pub fn new(capacity: usize, lifetimes: &Lifetimes, seed: u64) -> Self {
        Self {
            routes: Slab::new(),
            channels: HashMap::with_hasher(hashing(seed)),
            peers: HashMap::with_hasher(hashing(seed.rotate_left(32))),
            capacity: capacity.min(ROUTES_MAX),
            permission_lifetime: lifetimes.permission,
            channel_lifetime: lifetimes.channel,
        }
    }

    /// Permissions and channels there are, with those that have expired and are not yet swept.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The peer behind a channel that may be sent to now.
    pub fn up(&self, id: AllocationId, number: ChannelNumber, now: Instant) -> Result<Up, DropReason> {
        let route = self.channels.get(&(id, number)).map(|route| self.route(*route));
        let (route, channel) = route
            .and_then(|route| Some((route, route.channel.filter(|channel| channel.bound_until > now)?)))
            .ok_or(DropReason::NoChannel)?;
        if route.permitted_until <= now {
            return Err(DropReason::NoPermission);
        }
        let peer = SocketAddr::new(route.peer.ip, route.peer.port);
        Ok(Up { peer, until: channel.bound_until.min(route.permitted_until) })
    }

    /// Until when a client may send to this address, if it may now.
    pub fn permitted_until(&self, socket: RelayedAddr, ip: IpAddr, now: Instant) -> Option<Instant> {
        let permission = *self.peers.get(&PeerKey::permission(socket, ip))?;
        Some(self.route(permission).permitted_until).filter(|until| *until > now)
    }

    /// How a packet of this peer goes to the client now; `None` when it may not.
    pub fn down(&self, socket: RelayedAddr, peer: SocketAddr, now: Instant) -> Option<Down> {
        let Some(route) = self.peers.get(&PeerKey::exact(socket, peer)).map(|route| self.route(*route))
        else {
            let until = self.permitted_until(socket, peer.ip(), now)?;
            return Some(Down { channel: None, until });
        };
        let permitted_until = Some(route.permitted_until).filter(|until| *until > now)?;
        let channel = route.channel.filter(|channel| channel.bound_until > now);
        let until = channel.map_or(permitted_until, |channel| channel.bound_until.min(permitted_until));
        Some(Down { channel: channel.map(|channel| channel.number), until })
    }

    /// Installs or refreshes permissions, all or none (RFC 8656 §10.2).
    pub fn permit(
        &mut self,
        owner: Owner,
        share: &mut Share,
        ips: &[IpAddr],
        now: Instant,
    ) -> Result<(), Refusal> {
        self.sweep(owner.id, share, now);
        let is_new = |(i, ip): &(usize, &IpAddr)| {
            !self.peers.contains_key(&PeerKey::permission(owner.socket(**ip), **ip))
                && !ips[..*i].contains(ip)
        };
        let new = ips.iter().enumerate().filter(is_new).count();
        if usize::from(share.permissions) + new > PERMISSIONS_MAX || self.routes.len() + new > self.capacity {
            return Err(Refusal::Full);
        }
        let permitted_until = now + self.permission_lifetime;
        for ip in ips {
            let peer = PeerKey::permission(owner.socket(*ip), *ip);
            if !self.peers.contains_key(&peer) {
                self.add(owner, share, Route { peer, permitted_until, channel: None, next: share.first });
            }
        }
        self.each_of(share, |route| {
            if ips.contains(&route.peer.ip) {
                route.permitted_until = permitted_until;
            }
        });
        Ok(())
    }

    /// Binds or refreshes a channel, and its permission with it (RFC 8656 §12.2).
    pub fn bind(
        &mut self,
        owner: Owner,
        share: &mut Share,
        number: ChannelNumber,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.sweep(owner.id, share, now);
        let peer = PeerKey::exact(owner.socket(peer.ip()), peer);
        let bound = self.channels.get(&(owner.id, number)).copied();
        if bound != self.peers.get(&peer).copied() {
            return Err(Refusal::Mismatch);
        }
        if bound.is_none()
            && (usize::from(share.channels) >= CHANNELS_MAX || self.routes.len() + 2 > self.capacity)
        {
            return Err(Refusal::Full);
        }
        self.permit(owner, share, &[peer.ip], now)?;
        let channel = Some(Channel { number, bound_until: now + self.channel_lifetime });
        match bound {
            Some(route) => self.routes[route.0 as usize].channel = channel,
            None => {
                let permitted_until = now + self.permission_lifetime;
                self.add(owner, share, Route { peer, permitted_until, channel, next: share.first });
            }
        }
        Ok(())
    }

    /// Forgets what of this allocation has expired.
    pub fn sweep(&mut self, id: AllocationId, share: &mut Share, now: Instant) {
        self.retain(id, share, |route| route.is_alive(now));
    }

    /// Forgets what goes through one of an allocation's sockets.
    pub fn remove_socket(&mut self, id: AllocationId, share: &mut Share, socket: RelayedAddr) {
        self.retain(id, share, |route| route.peer.socket != socket);
    }

    /// Forgets everything of this allocation.
    pub fn remove(&mut self, id: AllocationId, share: &mut Share) {
        self.retain(id, share, |_| false);
        debug_assert_eq!((share.permissions, share.channels), (0, 0));
    }

    fn route(&self, id: RouteId) -> &Route {
        &self.routes[id.0 as usize]
    }

    fn add(&mut self, owner: Owner, share: &mut Share, route: Route) {
        let (peer, channel) = (route.peer, route.channel);
        let id = RouteId(self.routes.insert(route) as u32); // `ROUTES_MAX` fits
        share.first = Some(id);
        self.peers.insert(peer, id);
        match channel {
            Some(channel) => {
                share.channels += 1;
                self.channels.insert((owner.id, channel.number), id);
            }
            None => share.permissions += 1,
        }
    }

    fn each_of(&mut self, share: &Share, mut change: impl FnMut(&mut Route)) {
        let mut at = share.first;
        while let Some(id) = at {
            let route = &mut self.routes[id.0 as usize];
            change(route);
            at = route.next;
        }
    }

    fn retain(&mut self, owner: AllocationId, share: &mut Share, keep: impl Fn(&Route) -> bool) {
        let mut at = share.first.take();
        let mut last_kept: Option<RouteId> = None;
        while let Some(id) = at {
            at = self.route(id).next;
            if keep(self.route(id)) {
                match last_kept.replace(id) {
                    Some(before) => self.routes[before.0 as usize].next = Some(id),
                    None => share.first = Some(id),
                }
            } else {
                self.forget(owner, share, id);
            }
        }
        if let Some(last) = last_kept {
            self.routes[last.0 as usize].next = None;
        }
    }

    fn forget(&mut self, owner: AllocationId, share: &mut Share, id: RouteId) {
        let route = self.routes.remove(id.0 as usize);
        self.peers.remove(&route.peer);
        match route.channel {
            Some(channel) => {
                share.channels -= 1;
                self.channels.remove(&(owner, channel.number));
            }
            None => share.permissions -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Protocol;

    const fn socket(family: Family, port: u16) -> RelayedAddr {
        RelayedAddr { family, host: 0, protocol: Protocol::Udp, port }
    }

    const V4: RelayedAddr = socket(Family::V4, 50_000);
    const OTHER_V4: RelayedAddr = socket(Family::V4, 50_001);
    const V6: RelayedAddr = socket(Family::V6, 50_000);
    const OWNER: Owner = Owner { id: AllocationId(3), sockets: [Some(V4), None] };
    const OTHER: Owner = Owner { id: AllocationId(4), sockets: [Some(OTHER_V4), None] };
    const DUAL: Owner = Owner { id: AllocationId(5), sockets: [Some(V4), Some(V6)] };

    fn number(value: u16) -> ChannelNumber {
        ChannelNumber::new(value).expect("in range")
    }

    fn peer(host: u16, port: u16) -> SocketAddr {
        let [high, low] = host.to_be_bytes();
        SocketAddr::from(([8, 8, high, low], port))
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_channel_needs_a_permission_and_both_end_by_themselves() {
        let (mut routes, mut share, start) =
            (Routes::new(ROUTES_MAX, &Lifetimes::default(), 1), Share::default(), Instant::now());
        assert_eq!(routes.bind(OWNER, &mut share, number(0x4000), peer(1, 5), start), Ok(()));
        let up = |routes: &Routes, at| routes.up(OWNER.id, number(0x4000), start + seconds(at));
        assert_eq!(up(&routes, 299), Ok(Up { peer: peer(1, 5), until: start + seconds(300) }));
        assert_eq!(up(&routes, 300), Err(DropReason::NoPermission));
        assert_eq!(routes.permit(OWNER, &mut share, &[peer(1, 0).ip()], start + seconds(400)), Ok(()));
        assert_eq!(up(&routes, 599), Ok(Up { peer: peer(1, 5), until: start + seconds(600) }));
        assert_eq!(up(&routes, 600), Err(DropReason::NoChannel));
        let down = |port, at| routes.down(V4, peer(1, port), start + seconds(at));
        let by = |channel, until| Some(Down { channel, until: start + seconds(until) });
        assert_eq!(down(5, 599), by(Some(number(0x4000)), 600));
        assert_eq!(down(6, 599), by(None, 700));
        assert_eq!(down(5, 600), by(None, 700), "a Data indication once the channel has ended");
        assert_eq!(down(5, 700), None);
        assert_eq!(routes.down(OTHER_V4, peer(1, 5), start), None);
    }

    #[test]
    fn what_is_forgotten_leaves_nothing_and_the_rest_stays() {
        let (mut routes, start) = (Routes::new(ROUTES_MAX, &Lifetimes::default(), 1), Instant::now());
        let (mut mine, mut other) = (Share::default(), Share::default());
        for host in 0..10 {
            let at = start + seconds(u64::from(host) * 50);
            assert_eq!(routes.bind(OWNER, &mut mine, number(0x4000 + host), peer(host, 5), at), Ok(()));
            assert_eq!(routes.bind(OTHER, &mut other, number(0x4000 + host), peer(host, 5), at), Ok(()));
        }
        assert_eq!(routes.len(), 2 * (10 + 6), "four permissions had ended when the last channel was bound");
        routes.sweep(OWNER.id, &mut mine, start + seconds(625));
        assert_eq!((mine.permissions, mine.channels), (3, 9));
        assert!(routes.up(OWNER.id, number(0x4009), start + seconds(625)).is_ok());
        routes.remove(OTHER.id, &mut other);
        assert_eq!(routes.len(), 12);
        routes.remove(OWNER.id, &mut mine);
        assert!(routes.is_empty() && routes.channels.is_empty() && routes.peers.is_empty());
    }

    #[test]
    fn an_allocation_has_a_bound_and_so_have_all_together() {
        let (mut routes, mut share, now) =
            (Routes::new(ROUTES_MAX, &Lifetimes::default(), 1), Share::default(), Instant::now());
        let ips: Vec<IpAddr> = (0..=PERMISSIONS_MAX as u16).map(|host| peer(host, 0).ip()).collect();
        assert_eq!(routes.permit(OWNER, &mut share, &ips, now), Err(Refusal::Full));
        assert!(routes.is_empty(), "all or none");
        assert_eq!(routes.permit(OWNER, &mut share, &ips[1..], now), Ok(()));
        assert_eq!(routes.permit(OWNER, &mut share, &ips[1..], now), Ok(()), "a refresh");
        for port in 1..=CHANNELS_MAX as u16 {
            assert_eq!(routes.bind(OWNER, &mut share, number(0x4000 + port), peer(1, port), now), Ok(()));
        }
        assert_eq!(routes.bind(OWNER, &mut share, number(0x5000), peer(1, 999), now), Err(Refusal::Full));

        let (mut routes, mut share) = (Routes::new(3, &Lifetimes::default(), 1), Share::default());
        assert_eq!(routes.bind(OWNER, &mut share, number(0x4000), peer(1, 1), now), Ok(()));
        assert_eq!(
            routes.bind(OTHER, &mut Share::default(), number(0x4000), peer(1, 1), now),
            Err(Refusal::Full)
        );
        let twice = [peer(2, 0).ip(); 2];
        assert_eq!(routes.permit(OWNER, &mut share, &twice, now), Ok(()), "the same address counts once");
        assert_eq!(routes.permit(OWNER, &mut share, &[peer(3, 0).ip()], now), Err(Refusal::Full));
    }

    #[test]
    fn two_families_share_channel_numbers_and_one_goes_without_the_other() {
        let (mut routes, mut share, now) =
            (Routes::new(ROUTES_MAX, &Lifetimes::default(), 1), Share::default(), Instant::now());
        let v6: SocketAddr = "[2606:4700::1]:5".parse().expect("an address");
        assert_eq!(routes.permit(DUAL, &mut share, &[peer(1, 0).ip(), v6.ip()], now), Ok(()));
        assert_eq!(routes.bind(DUAL, &mut share, number(0x4000), peer(1, 5), now), Ok(()));
        assert_eq!(routes.bind(DUAL, &mut share, number(0x4000), v6, now), Err(Refusal::Mismatch));
        assert_eq!(routes.bind(DUAL, &mut share, number(0x4001), v6, now), Ok(()));
        assert!(routes.down(V4, peer(1, 5), now).is_some() && routes.down(V6, v6, now).is_some());
        routes.remove_socket(DUAL.id, &mut share, V6);
        assert!(routes.down(V6, v6, now).is_none());
        assert_eq!(routes.up(DUAL.id, number(0x4001), now), Err(DropReason::NoChannel));
        assert!(routes.up(DUAL.id, number(0x4000), now).is_ok());
        assert_eq!((share.permissions, share.channels, routes.len()), (1, 1, 2));
    }
}
