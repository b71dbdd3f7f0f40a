//! The door between the TURN relay and the SFU inside one process.
//!
//! A relayed client whose peer is our own media address needs no relay socket and no second trip through the kernel: the
//! relay hands the datagram to the media worker, and the worker hands its answers back, both through this trait.

use std::net::SocketAddr;

/// Somewhere a datagram can be delivered without a socket.
pub trait DatagramSink: Send + Sync {
    /// Delivers one datagram as if it had arrived from `from` at `to`; the payload is copied before this returns.
    /// `false` when the receiver's bounded queue is full: the datagram is lost, as on a network, and counted there.
    fn deliver(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> bool;
}
