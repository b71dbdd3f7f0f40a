//! Which address families an Allocate request asks for, and what is had of them (RFC 8656 §7.2, §18.6, §18.11, §18.12).
//!
//! One family, or with ADDITIONAL-ADDRESS-FAMILY both; of both, one is enough, and ADDRESS-ERROR-CODE says why the other
//! is missing. `requests` asks, and binds sockets for what is here.

use super::Relay;
use super::addresses::{Family, Protocol, RelayedAddr};
use super::io::ClientAddr;
use crate::allocation::PortWish;
use crate::stun::Message;
use crate::stun::attributes::{ErrorCode, Kind};

/// Why there is no address of a family.
pub(super) type AddressError = (Family, ErrorCode);

/// The addresses that a request can have: at least one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) relayed: [Option<RelayedAddr>; 2],
    pub(super) missing: Option<AddressError>,
}

impl From<RelayedAddr> for Offer {
    fn from(relayed: RelayedAddr) -> Self {
        Self { relayed: [Some(relayed), None], missing: None }
    }
}

/// The value of an address family attribute: a family, and three bytes that are nobody's.
pub(super) fn family_of(message: &Message<'_>, kind: Kind) -> Result<Option<Family>, ErrorCode> {
    match message.attribute(kind) {
        None => Ok(None),
        Some([number, _, _, _]) => {
            Family::from_wire(*number).map(Some).ok_or(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED)
        }
        Some(_) => Err(ErrorCode::BAD_REQUEST),
    }
}

/// ADDITIONAL-ADDRESS-FAMILY, also by the number that coturn and its clients have for it.
pub(super) fn additional_family<'a>(message: &Message<'a>) -> Option<&'a [u8]> {
    let kinds = [Kind::ADDITIONAL_ADDRESS_FAMILY, Kind::ADDITIONAL_ADDRESS_FAMILY_COTURN];
    kinds.into_iter().find_map(|kind| message.attribute(kind))
}

impl Relay {
    /// Free addresses for a request, in the order of RFC 8656 §7.2's checks.
    pub(super) fn offer(
        &mut self,
        client: &ClientAddr,
        message: &Message<'_>,
        protocol: Protocol,
        wish: PortWish,
    ) -> Result<Offer, ErrorCode> {
        let requested = family_of(message, Kind::REQUESTED_ADDRESS_FAMILY)?;
        let Some(value) = additional_family(message) else {
            let without = if self.keep_address_family { Family::of(client.remote.ip()) } else { Family::V4 };
            return self.free_address(requested.unwrap_or(without), protocol, wish).map(Offer::from);
        };
        // Only IPv6 can be had beside IPv4, and never a reserved port of two.
        let is_ipv6 = matches!(value, [number, _, _, _] if *number == Family::V6.to_wire());
        if requested.is_some() || !is_ipv6 || wish == PortWish::EvenAndNext {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let [v4, v6] = Family::ALL.map(|family| self.free_address(family, protocol, wish));
        let missing = match (v4, v6) {
            (Err(code), Err(_)) => return Err(code),
            (Err(code), Ok(_)) => Some((Family::V4, code)),
            (Ok(_), Err(code)) => Some((Family::V6, code)),
            (Ok(_), Ok(_)) => None,
        };
        Ok(Offer { relayed: [v4.ok(), v6.ok()], missing })
    }

    /// A free address, from a random start (RFC 8656 §7.2: unpredictable). It is this worker's from then on, and with
    /// [`PortWish::EvenAndNext`] the next one too.
    pub(super) fn free_address(
        &mut self,
        family: Family,
        protocol: Protocol,
        wish: PortWish,
    ) -> Result<RelayedAddr, ErrorCode> {
        let hosts = self.ips.of(family).len() as u32; // at most `RELAY_IPS_MAX`
        let start = match hosts {
            0 => return Err(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED),
            1 => 0,
            _ => self.random_below(hosts),
        };
        let (first, last) = (u32::from(*self.ips.ports.start()), u32::from(*self.ips.ports.end()));
        let span = (last + 1).saturating_sub(first);
        if span == 0 {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        let start_port = self.random_below(span);
        let hosts = (0..hosts).map(|i| ((start + i) % hosts) as u8);
        let mut all = hosts.flat_map(|host| {
            let ports = (0..span).map(move |i| (first + (start_port + i) % span) as u16);
            ports.map(move |port| RelayedAddr { family, host, protocol, port })
        });
        let found = all.find(|relayed| match wish {
            PortWish::Any => self.claim(*relayed),
            PortWish::Even => relayed.port % 2 == 0 && self.claim(*relayed),
            PortWish::EvenAndNext => relayed.port % 2 == 0 && self.claim_two(*relayed),
        });
        found.ok_or(ErrorCode::INSUFFICIENT_CAPACITY)
    }

    fn claim(&self, relayed: RelayedAddr) -> bool {
        self.ledger.claim(self.worker, relayed)
    }

    fn claim_two(&self, relayed: RelayedAddr) -> bool {
        if !self.claim(relayed) {
            return false;
        }
        let both = self.claim(relayed.next());
        if !both {
            self.ledger.release(self.worker, relayed);
        }
        both
    }
}
