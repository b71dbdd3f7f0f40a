//! Relayed transport addresses: at which of our relay addresses, over which protocol, at which port (RFC 8656 §7.2).
//!
//! Everything inside of the relay names a relay socket by its [`RelayedAddr`], which fits a register; [`RelayIps`] turns it
//! into what the socket is bound to and what clients are told, and back.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// Relay addresses of one family; more are left out. [`RelayedAddr`] counts them in a byte.
pub const RELAY_IPS_MAX: usize = 256;

/// An address family as REQUESTED-ADDRESS-FAMILY names it (RFC 8656 §18.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// 0x01
    V4,
    /// 0x02
    V6,
}

impl Family {
    /// Both, in the order in which answers list them.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// From its number in an attribute.
    pub fn from_wire(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::V4),
            2 => Some(Self::V6),
            _ => None,
        }
    }

    /// Its number in an attribute.
    pub fn to_wire(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }
}

/// What peers are talked to over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Connections (RFC 6062).
    Tcp,
}

/// A relayed transport address, and with it a relay socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelayedAddr {
    /// The family of its IP address.
    pub family: Family,
    /// Which of our relay addresses of this family.
    pub host: u8,
    /// What peers are talked to over.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
}

impl RelayedAddr {
    /// UDP at the first relay address of this address's family.
    pub fn udp(address: SocketAddr) -> Self {
        let family = Family::of(address.ip());
        Self { family, host: 0, protocol: Protocol::Udp, port: address.port() }
    }

    /// The same at another port.
    pub fn at_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The odd port after an even one.
    pub(super) fn next(self) -> Self {
        self.at_port(self.port | 1)
    }

    /// For hashing beside an address, whose family is the same: the port low, the rest high.
    pub(crate) fn bits(self) -> u64 {
        u64::from(self.host) << 56 | (self.protocol as u64) << 55 | u64::from(self.port)
    }
}

impl Hash for RelayedAddr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.bits() | (self.family as u64) << 32);
    }
}

/// A relay address and what it is seen as from outside (coturn's `external-ip=public/private`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayIp {
    /// What sockets are bound to.
    pub bound: IpAddr,
    /// What relayed addresses show; of the same family.
    pub shown: IpAddr,
}

impl RelayIp {
    /// One that nothing translates.
    pub fn direct(ip: IpAddr) -> Self {
        Self { bound: ip, shown: ip }
    }
}

/// All relay addresses.
#[derive(Debug)]
pub(super) struct RelayIps {
    v4: Vec<RelayIp>,
    v6: Vec<RelayIp>,
    pub(super) ports: RangeInclusive<u16>,
}

impl RelayIps {
    pub(super) fn new(ips: &[RelayIp], ports: RangeInclusive<u16>) -> Self {
        let of = |family: Family| {
            let ips =
                ips.iter().filter(|ip| Family::of(ip.shown) == family && Family::of(ip.bound) == family);
            ips.copied().take(RELAY_IPS_MAX).collect()
        };
        Self { v4: of(Family::V4), v6: of(Family::V6), ports }
    }

    pub(super) fn of(&self, family: Family) -> &[RelayIp] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// What clients and peers see.
    pub(super) fn shown(&self, relayed: RelayedAddr) -> SocketAddr {
        SocketAddr::new(self.of(relayed.family)[usize::from(relayed.host)].shown, relayed.port)
    }

    /// What the socket is bound to.
    pub(super) fn bound(&self, relayed: RelayedAddr) -> SocketAddr {
        SocketAddr::new(self.of(relayed.family)[usize::from(relayed.host)].bound, relayed.port)
    }

    /// Whether relayed addresses have this IP address.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.of(Family::of(ip)).iter().any(|own| own.shown == ip || own.bound == ip)
    }

    /// The relayed addresses that this one may mean: several, if relay addresses share an external one.
    pub(super) fn named(
        &self,
        address: SocketAddr,
        protocol: Protocol,
    ) -> impl Iterator<Item = RelayedAddr> + '_ {
        let (family, port, ip) = (Family::of(address.ip()), address.port(), address.ip());
        let hosts = self.of(family).iter().zip(0u8..=u8::MAX);
        let hosts = hosts.filter(move |(own, _)| own.shown == ip || own.bound == ip);
        hosts.map(move |(_, host)| RelayedAddr { family, host, protocol, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_is_found_by_what_it_is_bound_to_and_by_what_it_shows() {
        let pair = |bound, shown| RelayIp { bound: ip(bound), shown: ip(shown) };
        let list = [
            pair("10.0.0.1", "198.51.100.1"),
            RelayIp::direct(ip("2001:db8::1")),
            pair("10.0.0.2", "198.51.100.2"),
            pair("10.0.0.3", "2001:db8::9"), // no family at all
        ];
        let ips = RelayIps::new(&list, 50_000..=50_009);
        assert_eq!((ips.of(Family::V4).len(), ips.of(Family::V6).len()), (2, 1));
        let relayed = RelayedAddr { family: Family::V4, host: 1, protocol: Protocol::Udp, port: 50_001 };
        assert_eq!(ips.shown(relayed), "198.51.100.2:50001".parse().expect("an address"));
        assert_eq!(ips.bound(relayed), "10.0.0.2:50001".parse().expect("an address"));
        for address in [ips.shown(relayed), ips.bound(relayed)] {
            assert_eq!(ips.named(address, Protocol::Udp).collect::<Vec<_>>(), [relayed]);
        }
        let v6 = "[2001:db8::1]:7".parse().expect("an address");
        assert_eq!(ips.named(v6, Protocol::Udp).collect::<Vec<_>>(), [RelayedAddr::udp(v6)]);
        assert!(ips.contains(ip("10.0.0.1")) && !ips.contains(ip("10.0.0.3")));
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<RelayedAddr>() <= 8 && size_of::<Option<RelayedAddr>>() <= 8);
    }
}
