//! STUN and TURN: the relay that gets a call through a firewall (RFC 8489, RFC 8656).
//!
//! [`relay`] is the sans-IO core; [`stun`] and [`channel_data`] read and write its wire formats, [`auth`] and
//! [`peer_policy`] say who may relay and to whom, [`allocation`] is one client's share, [`routes`] what the packet path looks at; `net` (feature `net`) has the
//! sockets. Payloads stay in the shell's buffers: the core returns where they go.

pub mod allocation;
pub mod auth;
pub mod channel_data;
pub mod conf;
pub mod framing;
pub mod metrics;
#[cfg(feature = "net")]
pub mod net;
pub mod peer_policy;
pub mod relay;
pub mod routes;
pub mod settings;
pub mod stun;
