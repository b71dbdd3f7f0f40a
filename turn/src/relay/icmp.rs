//! ICMP errors about what a client has sent to a peer, told to the client (RFC 8656 §11.5, §18.13).
//!
//! Anybody can send ICMP; only what concerns a peer with a permission that lives goes on, as a Data indication without data.

use std::net::SocketAddr;

use super::Relay;
use super::addresses::{Family, RelayedAddr};
use crate::metrics::DropReason;
use crate::stun::Writer;
use crate::stun::attributes::Kind;
use crate::stun::header::{Class, Method};

/// Type, code and, for a datagram that was too big, the next hop's MTU; ICMPv6 for a peer with an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// Bytes; meaningful with the types that say so.
    pub mtu: u32,
}

impl Icmp {
    /// Whether clients are told of it: a destination that cannot be reached, a time exceeded, a packet too big.
    fn is_for_clients(self, family: Family) -> bool {
        match family {
            Family::V4 => matches!(self.kind, 3 | 11), // RFC 792
            Family::V6 => matches!(self.kind, 1..=3),  // RFC 4443
        }
    }

    /// The value of the ICMP attribute: 16 bits for nothing, 7 of type, 9 of code, the MTU or zero.
    fn to_attribute(self, family: Family) -> [u8; 8] {
        let is_too_big = match family {
            Family::V4 => (self.kind, self.code) == (3, 4),
            Family::V6 => self.kind == 2,
        };
        let [k0, k1] = (u16::from(self.kind) << 9 | u16::from(self.code)).to_be_bytes();
        let [d0, d1, d2, d3] = if is_too_big { self.mtu.to_be_bytes() } else { [0; 4] };
        [0, 0, k0, k1, d0, d1, d2, d3]
    }
}

impl Relay {
    pub(super) fn on_icmp(&mut self, relayed: RelayedAddr, peer: SocketAddr, icmp: Icmp) {
        let Some(&id) = self.by_relayed.get(&relayed) else { return self.drop(DropReason::NoAllocation) };
        let family = Family::of(peer.ip());
        if !icmp.is_for_clients(family) {
            return self.drop(DropReason::Unexpected);
        }
        if self.routes.permitted_until(relayed, peer.ip(), self.now).is_none() {
            return self.drop(DropReason::NoPermission);
        }
        let mut indication = Writer::new(Class::Indication, Method::DATA, self.new_transaction_id());
        indication
            .xor_address(Kind::XOR_PEER_ADDRESS, peer)
            .attribute(Kind::ICMP, &icmp.to_attribute(family));
        self.reply(self.allocation(id).client, indication.finish());
    }
}
