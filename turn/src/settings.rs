//! Everything that an operator may say about the relay.
//!
//! Made from `[turn]` of Causeway's own configuration, or from a `turnserver.conf`. [`RelayConfig`] is the core's share, the
//! rest is the shell's. A field exists when the feature behind it does; its default is what nobody has to say.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use common::config::{self, Secret, TlsFiles};
use ipnet::IpNet;

use crate::relay::RelayIp;

/// Answers to strangers per second and network (/24, /64): a hundred people behind one address may join at once.
pub const STRANGER_ANSWERS_PER_SECOND: u32 = 200;

/// What the relay and its sockets are told.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// UDP and TCP listeners.
    pub listen: Vec<SocketAddr>,
    /// TLS and DTLS listeners. They take plain TCP and UDP too, and those above TLS and DTLS, when there is a certificate.
    pub tls_listen: Vec<SocketAddr>,
    /// The certificate, followed when its files change.
    pub tls: Option<TlsFiles>,
    /// What is decided by the core.
    pub relay: RelayConfig,
}

/// What the core needs to know.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// STUN realm.
    pub realm: String,
    /// Shared secret of time-limited credentials.
    pub secret: Secret,
    /// Static users and their passwords.
    pub users: BTreeMap<String, Secret>,
    /// Addresses of relay sockets, of one family or of both.
    pub relay_ips: Vec<RelayIp>,
    /// Without REQUESTED-ADDRESS-FAMILY a client gets the family that it comes from, not IPv4.
    pub keep_address_family: bool,
    /// Relay ports, of each relay address.
    pub ports: RangeInclusive<u16>,
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
}

impl Default for RelayConfig {
    /// Relays on loopback, for nobody: it has neither a secret nor users.
    fn default() -> Self {
        Self {
            realm: String::new(),
            secret: Secret(Vec::new()),
            users: BTreeMap::new(),
            relay_ips: vec![RelayIp::direct(Ipv4Addr::LOCALHOST.into())],
            keep_address_family: false,
            ports: 49_152..=65_535, // RFC 8656 §7.2: the dynamic ports
            own_media: Vec::new(),
            denied_peers: Vec::new(),
            allowed_peers: Vec::new(),
            user_quota: 0,
            total_quota: 0,
            stranger_answers_per_second: STRANGER_ANSWERS_PER_SECOND,
        }
    }
}

impl From<&config::Turn> for Settings {
    fn from(turn: &config::Turn) -> Self {
        Self {
            listen: turn.listen.clone(),
            tls_listen: turn.tls_listen.clone(),
            tls: turn.tls.clone(),
            relay: RelayConfig {
                realm: turn.realm.clone(),
                secret: turn.secret.clone(),
                users: turn.users.clone(),
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
