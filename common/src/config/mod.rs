//! The typed, already-valid configuration. Keys appear when the feature behind them does.
//!
//! Raw text comes in through [`Sources`]; `layers` lays defaults, file, environment and `--set` over each other, `parse`
//! turns the result into these types, naming the setting that is wrong, `describe` prints them with secrets left out.

mod describe;
mod layers;
mod parse;
#[cfg(test)]
mod tests;
mod units;

pub use self::layers::{ConfigError, Sources};
pub use self::units::parse_duration;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// Everything the servers need to start. Built by parsing; a value of this type can be run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Development mode: loopback only, tokens for any name.
    pub dev: bool,
    /// `[http]`
    pub http: Http,
    /// `[auth]`
    pub auth: Auth,
    /// `[signaling]`
    pub signaling: Signaling,
    /// `[media]`
    pub media: Media,
    /// `[turn]`
    pub turn: Turn,
    /// `[store]`
    pub store: Store,
    /// `[limits]`
    pub limits: Limits,
    /// `[log]`
    pub log: Log,
    /// `[metrics]`
    pub metrics: Metrics,
}

/// `[http]`
#[derive(Debug, Clone)]
pub struct Http {
    /// Where HTTP and WebSocket are served.
    pub listen: Vec<SocketAddr>,
    /// Certificate and key; `None` is plain HTTP (loopback, or behind a proxy with `tls = "off"`).
    pub tls: Option<TlsFiles>,
    /// The URL that people open; its origin is allowed for WebSockets.
    pub public_url: Option<String>,
}

/// PEM files, re-read when they change.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// A secret that never shows in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `[auth]`: how tokens are checked.
#[derive(Debug, Clone)]
pub struct Auth {
    /// The key.
    pub key: AuthKey,
    /// Required `iss`, when set.
    pub issuer: Option<String>,
    /// Required `aud`, when set.
    pub audience: Option<String>,
}

/// What verifies a token's signature.
#[derive(Debug, Clone)]
pub enum AuthKey {
    /// HS256.
    Secret(Secret),
    /// EdDSA, ES256 or RS256, PEM.
    PublicKey(Vec<u8>),
    /// A JWKS document.
    Jwks(String),
}

/// `[signaling]`
#[derive(Debug, Clone)]
pub struct Signaling {
    /// How long a lost connection may come back.
    pub resume_grace: Duration,
    /// How long a call rings.
    pub ring_timeout: Duration,
    /// Ping interval; silent for two is lost.
    pub heartbeat: Duration,
    /// Largest message, bytes.
    pub max_message: usize,
    /// How long running calls and rooms may go on after SIGTERM.
    pub drain_timeout: Duration,
}

/// `[media]`
#[derive(Debug, Clone)]
pub struct Media {
    /// Address to bind.
    pub listen_ip: IpAddr,
    /// Address that clients are told.
    pub announced_ip: IpAddr,
    /// Worker i listens on `port + i`, UDP and TCP.
    pub port: u16,
    /// Number of workers; already resolved, at least 1.
    pub workers: usize,
    /// Offer ICE-TCP.
    pub tcp: bool,
    /// Upper bound told to publishers by REMB and by `maxBitrate`, bits per second.
    pub max_bitrate: Option<u64>,
    /// So many voices of a room are forwarded at once, the loudest; 0 is all of them.
    pub max_speakers: usize,
    /// Router codecs by MIME subtype, in order of preference: `opus`, `VP8`, `VP9`, `H264`, `AV1`.
    pub codecs: Vec<String>,
}

/// `[turn]`
#[derive(Debug, Clone)]
pub struct Turn {
    /// Whether it runs.
    pub enabled: bool,
    /// coturn's configuration file, which then says everything but the secret that we mint credentials with.
    pub turnserver_conf: Option<PathBuf>,
    /// UDP and TCP listeners.
    pub listen: Vec<SocketAddr>,
    /// TLS and DTLS listeners.
    pub tls_listen: Vec<SocketAddr>,
    /// Their certificate: `turn.tls`, or `http.tls`.
    pub tls: Option<TlsFiles>,
    /// Threads that relay; already resolved, at least 1.
    pub workers: usize,
    /// STUN realm.
    pub realm: String,
    /// Address to bind relay sockets to.
    pub relay_ip: IpAddr,
    /// Address that relayed addresses show, when it differs.
    pub external_ip: Option<IpAddr>,
    /// First relay port.
    pub min_port: u16,
    /// Last relay port.
    pub max_port: u16,
    /// Shared secret of time-limited credentials.
    pub secret: Secret,
    /// Static users and their passwords.
    pub users: BTreeMap<String, Secret>,
    /// Refused peers beside the built-in ranges.
    pub denied_peers: Vec<IpNet>,
    /// Allowed peers; wins over everything denied.
    pub allowed_peers: Vec<IpNet>,
    /// Allocations per user; 0 is unlimited.
    pub user_quota: usize,
    /// Allocations in all; 0 is unlimited.
    pub total_quota: usize,
}

/// `[store]`
#[derive(Debug, Clone)]
pub struct Store {
    /// `sqlite://…` or `postgres://…`; may hold a password, so it is never logged.
    pub url: Secret,
    /// Directory for records that wait while the database is away.
    pub spill_dir: PathBuf,
}

/// `[limits]`
#[derive(Debug, Clone)]
pub struct Limits {
    /// WebSocket and HTTP connections from one address (loopback is exempt in dev mode).
    pub connections_per_ip: usize,
    /// `join-room` per user and minute.
    pub joins_per_minute_per_user: u32,
    /// Peers in one room.
    pub max_peers_per_room: usize,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// A tracing filter, `info` by default.
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
}

/// `[metrics]`
#[derive(Debug, Clone)]
pub struct Metrics {
    /// An own listener; otherwise `/metrics` on the HTTP listener, for loopback and admin tokens only.
    pub listen: Option<SocketAddr>,
}
