//! Everything that an operator may say about the relay.
//!
//! Made from `[turn]` of Causeway's own configuration, or from a `turnserver.conf`. [`RelayConfig`] is the core's share, the
//! rest is the shell's. A field exists when the feature behind it does; its default is what nobody has to say.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use common::config::{self, TlsFiles};
use ipnet::IpNet;

use crate::auth::Credentials;
use crate::relay::RelayIp;

/// Answers to strangers per second and network (/24, /64): a hundred people behind one address may join at once.
pub const STRANGER_ANSWERS_PER_SECOND: u32 = 200;

/// A relay socket serves one client: 1.2 kB packets at 50 Mbit/s for 40 ms. Peers may fill it, times the number of
/// allocations, so it is far smaller than a listener's.
pub const RELAY_BUFFER_BYTES: usize = 256 * 1024;

/// What the relay and its sockets are told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// UDP and TCP listeners.
    pub listen: Vec<SocketAddr>,
    /// TLS and DTLS listeners. They take plain TCP and UDP too, and those above TLS and DTLS, when there is a certificate.
    pub tls_listen: Vec<SocketAddr>,
    /// The certificate, followed when its files change.
    pub tls: Option<TlsFiles>,
    /// What clients may come over.
    pub transports: Transports,
    /// Threads that relay, at most [`crate::relay::WORKERS_MAX`]; 0 is one for each core.
    pub workers: usize,
    /// Asked of the kernel for each direction of a relay socket, in bytes.
    pub relay_buffer_bytes: usize,
    /// What is decided by the core.
    pub relay: RelayConfig,
}

/// What clients may come over; TLS and DTLS only where there is a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transports {
    /// STUN and ChannelData in plain datagrams.
    pub udp: bool,
    /// In plain connections.
    pub tcp: bool,
    /// In connections over TLS.
    pub tls: bool,
    /// In datagrams over DTLS.
    pub dtls: bool,
}

impl Default for Transports {
    fn default() -> Self {
        Self { udp: true, tcp: true, tls: true, dtls: true }
    }
}

/// What the core needs to know.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// STUN realm.
    pub realm: String,
    /// Who may allocate.
    pub credentials: Credentials,
    /// Addresses of relay sockets, of one family or of both.
    pub relay_ips: Vec<RelayIp>,
    /// Without REQUESTED-ADDRESS-FAMILY a client gets the family that it comes from, not IPv4.
    pub keep_address_family: bool,
    /// Relay ports, of each relay address.
    pub ports: RangeInclusive<u16>,
    /// Whether TCP allocations are made (RFC 6062; coturn's `no-tcp-relay` is its opposite).
    pub tcp_relay: bool,
    /// Our own media, reached in memory.
    pub own_media: Vec<SocketAddr>,
    /// Refused peers beside the built-in ranges.
    pub denied_peers: Vec<IpNet>,
    /// Allowed peers; wins over everything denied.
    pub allowed_peers: Vec<IpNet>,
    /// Allocations per user; 0 is unlimited.
    pub user_quota: usize,
    /// Allocations in all; 0 is unlimited.
    pub total_quota: usize,
    /// See [`STRANGER_ANSWERS_PER_SECOND`].
    pub stranger_answers_per_second: u32,
    /// Payload bytes per second that an allocation may relay, each way; 0 is unlimited. What is above is dropped.
    pub max_bps: u64,
    /// Payload bytes per second of all allocations together, each way; 0 is unlimited.
    pub bps_capacity: u64,
    /// How long things last.
    pub lifetimes: Lifetimes,
    /// What is answered.
    pub services: Services,
    /// Where new allocations are sent instead (300 Try Alternate), by the client's address family; one after the other.
    pub alternate_servers: Vec<SocketAddr>,
    /// NAT behaviour discovery (RFC 5780), one for a family of addresses. The shell listens at all four of each.
    pub discovery: Vec<Discovery>,
    /// SOFTWARE in answers, shorter than 764 bytes. Answers to strangers leave it out where they would become larger than
    /// their request.
    pub software: Option<String>,
    /// FINGERPRINT in all answers, not only where the request had it. Data indications never have it.
    pub fingerprint: bool,
}

/// The four sockets of NAT behaviour discovery: two addresses, each with two ports (RFC 5780 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discovery {
    /// Where we are bound, and what clients are told of it.
    pub ips: [RelayIp; 2],
    /// The usual port and the other one.
    pub ports: [u16; 2],
}

impl Discovery {
    /// The four, as they are bound.
    pub fn addresses(&self) -> [SocketAddr; 4] {
        let at = |ip: usize, port: usize| SocketAddr::new(self.ips[ip].bound, self.ports[port]);
        [at(0, 0), at(0, 1), at(1, 0), at(1, 1)]
    }
}

/// How long things last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of an allocation whose client asks for less or for nothing (RFC 8656 §7.2).
    pub allocation_default: Duration,
    /// The longest of an allocation. When it is shorter than the default, it is the default too.
    pub allocation_max: Duration,
    /// Of a permission (RFC 8656 §9: 5 minutes).
    pub permission: Duration,
    /// Of a channel's binding (RFC 8656 §12: 10 minutes).
    pub channel: Duration,
    /// Of a nonce; `None` lets it live as long as the server does.
    pub nonce: Option<Duration>,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            allocation_default: Duration::from_secs(600),
            allocation_max: Duration::from_secs(3600), // RFC 8656 §7.2 recommends an hour
            permission: Duration::from_secs(300),
            channel: Duration::from_secs(600),
            nonce: Some(Duration::from_secs(3600)), // RFC 8656 §5: at least once every hour
        }
    }
}

impl Lifetimes {
    /// The lifetime that a client gets for the one it asked for (RFC 8656 §7.2: never below the default).
    pub fn granted(&self, requested_seconds: Option<u32>) -> Duration {
        let least = self.allocation_default.min(self.allocation_max);
        let requested = requested_seconds.map_or(least, |seconds| Duration::from_secs(seconds.into()));
        requested.clamp(least, self.allocation_max)
    }
}

/// What is answered. What is not is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Services {
    /// Binding requests.
    pub stun: bool,
    /// Everything else.
    pub turn: bool,
    /// Binding requests have to prove a password, as others.
    pub secure_stun: bool,
}

impl Default for Services {
    fn default() -> Self {
        Self { stun: true, turn: true, secure_stun: false }
    }
}

impl Default for Settings {
    /// Listens nowhere, with one worker.
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            tls_listen: Vec::new(),
            tls: None,
            transports: Transports::default(),
            workers: 1,
            relay_buffer_bytes: RELAY_BUFFER_BYTES,
            relay: RelayConfig::default(),
        }
    }
}

impl Default for RelayConfig {
    /// Relays on loopback, for nobody: it has neither a secret nor users.
    fn default() -> Self {
        Self {
            realm: String::new(),
            credentials: Credentials::default(),
            relay_ips: vec![RelayIp::direct(Ipv4Addr::LOCALHOST.into())],
            keep_address_family: false,
            ports: 49_152..=65_535, // RFC 8656 §7.2: the dynamic ports
            tcp_relay: true,
            own_media: Vec::new(),
            denied_peers: Vec::new(),
            allowed_peers: Vec::new(),
            user_quota: 0,
            total_quota: 0,
            stranger_answers_per_second: STRANGER_ANSWERS_PER_SECOND,
            max_bps: 0,
            bps_capacity: 0,
            lifetimes: Lifetimes::default(),
            services: Services::default(),
            alternate_servers: Vec::new(),
            discovery: Vec::new(),
            software: None,
            fingerprint: false,
        }
    }
}

impl Settings {
    /// What is listened at beside [`Self::listen`] for NAT behaviour discovery.
    pub fn discovery_listen(&self) -> Vec<SocketAddr> {
        let serves = |listener: &SocketAddr, wanted: &SocketAddr| {
            let any = listener.ip().is_unspecified() && listener.is_ipv4() == wanted.is_ipv4();
            listener.port() == wanted.port() && (any || listener.ip() == wanted.ip())
        };
        let wanted = self.relay.discovery.iter().flat_map(Discovery::addresses);
        wanted.filter(|wanted| !self.listen.iter().any(|listener| serves(listener, wanted))).collect()
    }
}

impl From<&config::Turn> for Settings {
    fn from(turn: &config::Turn) -> Self {
        Self {
            listen: turn.listen.clone(),
            tls_listen: turn.tls_listen.clone(),
            tls: turn.tls.clone(),
            transports: Transports::default(),
            workers: turn.workers,
            relay_buffer_bytes: RELAY_BUFFER_BYTES,
            relay: RelayConfig {
                realm: turn.realm.clone(),
                credentials: Credentials {
                    secrets: vec![turn.secret.clone()],
                    users: turn.users.clone(),
                    ..Credentials::default()
                },
                relay_ips: vec![RelayIp {
                    bound: turn.relay_ip,
                    shown: turn.external_ip.unwrap_or(turn.relay_ip),
                }],
                ports: turn.min_port..=turn.max_port,
                denied_peers: turn.denied_peers.clone(),
                allowed_peers: turn.allowed_peers.clone(),
                user_quota: turn.user_quota,
                total_quota: turn.total_quota,
                ..RelayConfig::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_between_the_default_and_the_longest() {
        let granted = |default, longest, asked| {
            let seconds = Duration::from_secs;
            let lifetimes = Lifetimes {
                allocation_default: seconds(default),
                allocation_max: seconds(longest),
                ..Lifetimes::default()
            };
            lifetimes.granted(asked).as_secs()
        };
        assert_eq!(granted(600, 3600, None), 600);
        assert_eq!(granted(600, 3600, Some(1)), 600);
        assert_eq!(granted(600, 3600, Some(900)), 900);
        assert_eq!(granted(600, 3600, Some(u32::MAX)), 3600);
        assert_eq!(granted(600, 300, Some(1)), 300);
        assert_eq!(granted(600, 300, None), 300);
    }
}
