//! Servers that new allocations are sent to instead: always, when there are any (RFC 8489 §10), and where none is for a
//! client, nowhere while this one drains.

use std::net::SocketAddr;

use crate::stun::attributes::ErrorCode;

/// The other servers, and whether this one takes new allocations.
#[derive(Debug)]
pub(super) struct Elsewhere {
    servers: Vec<SocketAddr>,
    next: usize,
    draining: bool,
}

impl Elsewhere {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, next: 0, draining: false }
    }

    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether this client's allocation may be made here.
    pub(super) fn check(&self, client: SocketAddr) -> Result<(), ErrorCode> {
        if self.servers.iter().any(|server| server.is_ipv4() == client.is_ipv4()) {
            return Err(ErrorCode::TRY_ALTERNATE);
        }
        if self.draining { Err(ErrorCode::INSUFFICIENT_CAPACITY) } else { Ok(()) }
    }

    /// The next server that this client can reach.
    pub(super) fn next(&mut self, client: SocketAddr) -> Option<SocketAddr> {
        let reachable = self.servers.iter().filter(|server| server.is_ipv4() == client.is_ipv4());
        let count = reachable.clone().count();
        self.next = self.next.wrapping_add(1);
        reachable.copied().nth(self.next.checked_rem(count)?)
    }
}
