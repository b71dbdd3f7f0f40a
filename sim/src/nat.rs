//! A NAT as RFC 4787 classifies them: how it maps, what it lets in, how long it remembers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// RFC 4787 §4.1 and §5 use the same three words for mapping and for filtering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependence {
    /// On nothing of the far end.
    Endpoint,
    /// On its address.
    Address,
    /// On its address and port.
    AddressAndPort,
}

impl Dependence {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Endpoint, Self::Address, Self::AddressAndPort];

    fn of(self, remote: SocketAddr) -> Option<(IpAddr, u16)> {
        match self {
            Self::Endpoint => None,
            Self::Address => Some((remote.ip(), 0)),
            Self::AddressAndPort => Some((remote.ip(), remote.port())),
        }
    }
}

#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    used: Duration,
    /// Whom the inside has sent to.
    sent_to: Vec<SocketAddr>,
}

type Key = (SocketAddr, Option<(IpAddr, u16)>);

/// One NAT with one public address.
#[derive(Debug)]
pub struct Nat {
    public: IpAddr,
    mapping: Dependence,
    filtering: Dependence,
    expiry: Duration,
    /// Whether those inside reach each other by their outside addresses (RFC 4787 §6).
    hairpins: bool,
    next_port: u16,
    by_inside: BTreeMap<Key, u16>,
    by_port: BTreeMap<u16, Mapping>,
}

impl Nat {
    /// Without mappings yet.
    pub fn new(public: IpAddr, mapping: Dependence, filtering: Dependence, expiry: Duration) -> Self {
        Self {
            public,
            mapping,
            filtering,
            expiry,
            hairpins: false,
            next_port: 20_000,
            by_inside: BTreeMap::new(),
            by_port: BTreeMap::new(),
        }
    }

    /// The same, and it may hairpin.
    pub fn hairpinning(self, hairpins: bool) -> Self {
        Self { hairpins, ..self }
    }

    /// The address that all inside share.
    pub fn public(&self) -> IpAddr {
        self.public
    }

    /// The source that the world sees.
    pub fn outbound(&mut self, now: Duration, inside: SocketAddr, remote: SocketAddr) -> SocketAddr {
        let key = (inside, self.mapping.of(remote));
        let known = self.by_inside.get(&key).copied().filter(|port| {
            self.by_port.get(port).is_some_and(|mapping| now.saturating_sub(mapping.used) < self.expiry)
        });
        let port = known.unwrap_or_else(|| {
            self.next_port += 1;
            self.by_inside.insert(key, self.next_port);
            self.next_port
        });
        let mapping = self.by_port.entry(port).or_insert(Mapping { inside, used: now, sent_to: Vec::new() });
        mapping.used = now;
        if !mapping.sent_to.contains(&remote) {
            mapping.sent_to.push(remote);
        }
        SocketAddr::new(self.public, port)
    }

    /// Who inside gets a datagram for a public port, if anybody.
    pub fn inbound(&self, now: Duration, port: u16, from: SocketAddr) -> Option<SocketAddr> {
        let mapping = self.by_port.get(&port)?;
        let alive = now.saturating_sub(mapping.used) < self.expiry;
        let let_in = mapping.sent_to.iter().any(|known| self.filtering.of(*known) == self.filtering.of(from));
        (alive && let_in).then_some(mapping.inside)
    }

    /// Who inside gets a datagram that another inside sends to one of the outside addresses. It comes from the sender's own
    /// outside address, as REQ-9 wants it ("external source IP address and port").
    pub fn hairpin(&mut self, now: Duration, inside: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let from = self.outbound(now, inside, to);
        self.inbound(now, to.port(), from).filter(|_| self.hairpins && to.ip() == self.public)
    }

    /// Forgets everything, as after a restart of the box: the next datagrams leave from other ports.
    pub fn rebind(&mut self) {
        self.by_inside.clear();
        self.by_port.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn nat(mapping: Dependence, filtering: Dependence) -> Nat {
        Nat::new(at("198.51.100.1:0").ip(), mapping, filtering, Duration::from_secs(30))
    }

    #[test]
    fn mapping_filtering_expiry_and_rebinding() {
        let (inside, here, there) = (at("10.0.0.2:5000"), at("192.0.2.1:1"), at("192.0.2.2:1"));
        let mut cone = nat(Dependence::Endpoint, Dependence::AddressAndPort);
        let seen = cone.outbound(Duration::ZERO, inside, here);
        assert_eq!(cone.outbound(Duration::ZERO, inside, there), seen);
        assert_eq!(cone.inbound(Duration::ZERO, seen.port(), here), Some(inside));
        assert_eq!(cone.inbound(Duration::ZERO, seen.port(), at("192.0.2.1:2")), None, "filtered by port");
        assert_eq!(cone.inbound(Duration::from_secs(31), seen.port(), here), None, "expired");
        cone.rebind();
        assert_ne!(cone.outbound(Duration::ZERO, inside, here), seen);
        let mut turning = nat(Dependence::Endpoint, Dependence::Endpoint).hairpinning(true);
        let (neighbour, seen) = (at("10.0.0.3:6000"), turning.outbound(Duration::ZERO, inside, here));
        assert_eq!(turning.hairpin(Duration::ZERO, neighbour, seen), Some(inside));
        assert_eq!(turning.hairpinning(false).hairpin(Duration::ZERO, neighbour, seen), None);
        let mut symmetric = nat(Dependence::AddressAndPort, Dependence::Endpoint);
        let seen = symmetric.outbound(Duration::ZERO, inside, here);
        assert_ne!(symmetric.outbound(Duration::ZERO, inside, there), seen);
        assert_eq!(symmetric.inbound(Duration::ZERO, seen.port(), at("203.0.113.9:9")), Some(inside));
    }
}
