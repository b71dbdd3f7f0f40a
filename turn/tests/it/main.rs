//! Scripts on the relay: given, input, expected outputs. `core` runs on virtual time, `loopback` on real sockets.

mod client;
mod conf;
mod core;
mod discovery;
mod families;
mod icmp;
#[cfg(feature = "net")]
mod ipv6;
#[cfg(feature = "net")]
mod loopback;
#[cfg(feature = "net")]
mod lost;
mod model;
mod oracles;
mod packet_path;
mod reservations;
#[cfg(feature = "net")]
mod secure;
mod services;
mod strangers;
#[cfg(feature = "net")]
mod tcp_peers;
mod tcp_relay;
#[cfg(feature = "net")]
mod utilities;
#[cfg(feature = "net")]
mod vanishing;
#[cfg(feature = "net")]
mod workers;
