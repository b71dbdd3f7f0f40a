//! Datagram → transport: by the address it came from when that is known, otherwise by the ufrag in a STUN request.
//!
//! Addresses enter the table only after `ice` has accepted a request from them, at most [`crate::ice::TUPLES_MAX`] per
//! transport, so its size is bounded by the number of transports. What is neither known nor STUN is dropped and counted.

use std::collections::HashMap;

use crate::ice::RemoteAddr;
use crate::rtp;

/// What a first byte says (RFC 7983 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 0–3.
    Stun,
    /// 20–63.
    Dtls,
    /// 128–191, RTP.
    Rtp,
    /// 128–191, RTCP (RFC 5761 §4).
    Rtcp,
    /// Anything else; on this port also ChannelData.
    Unknown,
}

impl Class {
    /// Looks at the first two bytes.
    pub fn of(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(0..=3) => Self::Stun,
            Some(20..=63) => Self::Dtls,
            Some(128..=191) if rtp::is_rtcp(datagram) => Self::Rtcp,
            Some(128..=191) => Self::Rtp,
            _ => Self::Unknown,
        }
    }
}

/// Which transport an address belongs to.
#[derive(Debug, Default)]
pub struct Demux {
    slots: HashMap<RemoteAddr, usize>,
}

impl Demux {
    /// The transport that has authenticated this address.
    pub fn find(&self, remote: RemoteAddr) -> Option<usize> {
        self.slots.get(&remote).copied()
    }

    /// How many addresses are known.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// An address has been authenticated; it now belongs to this transport alone.
    pub fn learn(&mut self, remote: RemoteAddr, slot: usize) -> Option<usize> {
        self.slots.insert(remote, slot).filter(|old| *old != slot)
    }

    /// An address is no longer this transport's.
    pub fn forget(&mut self, remote: RemoteAddr, slot: usize) {
        if self.find(remote) == Some(slot) {
            self.slots.remove(&remote);
        }
    }

    /// Addresses of a path that has ended.
    pub fn remotes_via(&self, via: crate::ice::Via) -> Vec<(RemoteAddr, usize)> {
        self.slots
            .iter()
            .filter(|(remote, _)| remote.via == via)
            .map(|(remote, slot)| (*remote, *slot))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_are_classified() {
        let check = |bytes: &[u8], class| assert_eq!(Class::of(bytes), class, "{bytes:?}");
        check(&[], Class::Unknown);
        check(&[0, 1], Class::Stun);
        check(&[4], Class::Unknown);
        check(&[22], Class::Dtls);
        check(&[64, 0], Class::Unknown);
        check(&[128, 96], Class::Rtp);
        check(&[128, 200], Class::Rtcp);
        check(&[191, 0xe0], Class::Rtp);
        check(&[192], Class::Unknown);
    }
}
