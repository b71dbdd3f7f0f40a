//! Everything that runs in one process, put together from one [`Config`] and taken apart again in order.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::bail;
use common::config::{Config, Turn};
use common::metrics::Registry;
use common::net::{Gate, open_files};
use media::net::MediaHandle;
use signaling::net::{Parts, Server};
use signaling::store::CallLog;
use tokio::sync::mpsc;
use turn::auth::SEPARATOR_DEFAULT;
use turn::net::TurnHandle;
use turn::settings::Settings;

use crate::{assets, relay_server};

/// What is running.
pub struct Causeway {
    signaling: Server,
    media: MediaHandle,
    turn: Option<TurnHandle>,
    turn_config: Turn,
    call_log: CallLog,
}

/// News and answers of all media workers that wait for the hub; a worker that finds it full waits.
const FROM_MEDIA_MAX: usize = 4096;

/// HTTP connections in all. A WebSocket at rest costs about 20 kB (TLS and frame buffers): 1.3 GB at the bound.
const HTTP_CONNECTIONS_MAX: usize = 65_536;
/// TCP connections to each media worker.
const MEDIA_CONNECTIONS_MAX: usize = 4096;
/// TCP connections to the relay.
const TURN_CONNECTIONS_MAX: usize = 4096;

/// Who lets TCP connections in. Together they leave a quarter of the files that the process may open to relayed addresses,
/// to the database, and to what it needs itself: strangers cannot take the last one.
struct Gates {
    http: Arc<Gate>,
    media: Arc<Gate>,
    turn: Arc<Gate>,
}

impl Gates {
    fn new(config: &Config) -> Self {
        let files = open_files();
        let gate = |most: usize, share: usize| {
            Gate::new(most.min(share), config.limits.connections_per_ip, config.dev)
        };
        Self {
            http: gate(HTTP_CONNECTIONS_MAX, files / 2),
            media: gate(MEDIA_CONNECTIONS_MAX * config.media.workers, files / 8),
            turn: gate(TURN_CONNECTIONS_MAX, files / 8),
        }
    }
}

impl Causeway {
    /// Starts everything, or nothing: an error names its setting, and what had started ends with it.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let call_log = CallLog::open(&config.store, &registry).await?;
        let (events, from_media) = mpsc::channel(FROM_MEDIA_MAX);
        let gates = Gates::new(config);
        let media = media::net::start(&config.media, &gates.media, events, &registry)?;
        let turn = start_turn(&config.turn, config.dev, gates.turn, &media, &registry)?;
        let ice_urls = turn.as_ref().map_or_else(Vec::new, |turn| {
            let secure = turn.tls_addresses().iter().map(|address| secure_url(config, *address));
            ice_urls(config, turn.addresses()).into_iter().chain(secure).collect()
        });
        let signaling = signaling::net::start(Parts {
            config,
            assets: assets::find,
            registry,
            call_log: call_log.clone(),
            workers: media.senders(),
            from_media,
            ice_urls,
            gate: gates.http,
        })?;
        Ok(Self { signaling, media, turn, turn_config: config.turn.clone(), call_log })
    }

    /// The URL of the first HTTP listener.
    pub fn url(&self, config: &Config) -> String {
        let scheme = if config.http.tls.is_some() { "https" } else { "http" };
        let address = self.signaling.addresses().first().copied();
        address.map(|address| format!("{scheme}://{address}/")).unwrap_or_default()
    }

    /// Takes what can change without a restart.
    pub fn reload(&self) {
        self.signaling.reload();
        if let Some(turn) = &self.turn {
            turn.reload();
            self.reload_credentials(turn);
        }
        tracing::info!("every other setting needs a restart");
    }

    /// Secrets and users of a turnserver.conf; those of `[turn]` are this configuration's, which is read once.
    fn reload_credentials(&self, turn: &TurnHandle) {
        if self.turn_config.turnserver_conf.is_none() {
            return;
        }
        match turn_settings(&self.turn_config, false) {
            Ok(settings) => _ = turn.set_credentials(settings.relay.credentials),
            Err(error) => tracing::error!("not read again: {error:#}"),
        }
    }

    /// Takes nothing new; returns when the last call and room have ended.
    pub async fn drain(&self) {
        self.signaling.drain().await;
        self.signaling.drained().await;
    }

    /// Ends gracefully: connections, then the call log's last records.
    pub async fn shutdown(self) {
        self.signaling.shutdown().await;
        if let Some(turn) = self.turn {
            turn.shutdown();
        }
        self.media.shutdown();
        self.call_log.close().await;
    }
}

/// `[turn]`, or the file of coturn's that it names. Credentials of ours count in either.
fn turn_settings(config: &Turn, dev: bool) -> anyhow::Result<Settings> {
    let Some(path) = &config.turnserver_conf else { return Ok(config.into()) };
    let conf = relay_server::read_file(path)?;
    let named = format!("turn.turnserver_conf: {}", path.display());
    if let Some(refusal) = conf.refusals().next() {
        bail!("{named}: {refusal}");
    }
    for warning in conf.warnings() {
        tracing::warn!("{named}: {warning}");
    }
    let mut settings = conf.settings;
    let credentials = &mut settings.relay.credentials;
    if credentials.separator != SEPARATOR_DEFAULT {
        bail!("{named}: rest-api-separator: our own credentials have {SEPARATOR_DEFAULT:?}");
    }
    credentials.secrets.push(config.secret.clone());
    if dev && settings.listen.iter().any(|address| !address.ip().is_loopback()) {
        bail!("{named}: development mode is for loopback: give listening-ip=127.0.0.1");
    }
    Ok(settings)
}

/// The relay and media reach each other in memory, both ways.
fn start_turn(
    config: &Turn,
    dev: bool,
    gate: Arc<Gate>,
    media: &MediaHandle,
    registry: &Registry,
) -> anyhow::Result<Option<TurnHandle>> {
    if !config.enabled {
        return Ok(None);
    }
    let settings = turn_settings(config, dev)?;
    let turn = turn::net::start(&settings, gate, media.addresses(), media.sink(), registry)?;
    media.set_turn(turn.sink());
    Ok(Some(turn))
}

/// Our STUN and TURN as clients reach them, given where the relay listens.
fn ice_urls(config: &Config, listening: &[SocketAddr]) -> Vec<String> {
    let mut urls: Vec<String> =
        listening.iter().flat_map(|address| urls_of(reachable(config, *address))).collect();
    let mut seen = std::collections::BTreeSet::new();
    urls.retain(|url| seen.insert(url.clone()));
    urls
}

fn urls_of(address: SocketAddr) -> [String; 3] {
    [
        format!("stun:{address}"),
        format!("turn:{address}?transport=udp"),
        format!("turn:{address}?transport=tcp"),
    ]
}

/// TURN over TLS, by the name that the certificate is for: the one that people open in their browsers.
fn secure_url(config: &Config, listening: SocketAddr) -> String {
    let host = config.http.public_url.as_deref().and_then(host_of).map(str::to_owned);
    match host {
        Some(host) => format!("turns:{host}:{}?transport=tcp", listening.port()),
        None => format!("turns:{}?transport=tcp", reachable(config, listening)),
    }
}

/// The host of a URL that the configuration has found to be one.
fn host_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let port = authority.rfind(':').filter(|colon| !authority[*colon..].contains(']'));
    Some(&authority[..port.unwrap_or(authority.len())])
}

/// What clients are told instead of "any address", or of one that a NAT hides.
fn reachable(config: &Config, listening: SocketAddr) -> SocketAddr {
    let Turn { external_ip, .. } = config.turn;
    let told = external_ip.or_else(|| listening.ip().is_unspecified().then_some(config.media.announced_ip));
    SocketAddr::new(told.unwrap_or(listening.ip()), listening.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_addresses_that_they_can_reach() {
        let mut config = Config::dev([7; 32]);
        let any = "0.0.0.0:3478".parse().expect("a literal address");
        config.media.announced_ip = "203.0.113.7".parse().expect("a literal address");
        let urls = ice_urls(&config, &[any, any]);
        let expected = [
            "stun:203.0.113.7:3478",
            "turn:203.0.113.7:3478?transport=udp",
            "turn:203.0.113.7:3478?transport=tcp",
        ];
        assert_eq!(urls, expected);

        let own = "[2001:db8::1]:3478".parse().expect("a literal address");
        assert_eq!(ice_urls(&config, &[own])[0], "stun:[2001:db8::1]:3478");
        config.turn.external_ip = Some("198.51.100.1".parse().expect("a literal address"));
        assert_eq!(ice_urls(&config, &[any])[0], "stun:198.51.100.1:3478");
        assert!(ice_urls(&config, &[]).is_empty());
    }

    #[test]
    fn tls_is_offered_by_the_name_of_the_certificate() {
        let mut config = Config::dev([7; 32]);
        let any = "0.0.0.0:5349".parse().expect("a literal address");
        config.media.announced_ip = "203.0.113.7".parse().expect("a literal address");
        assert_eq!(secure_url(&config, any), "turns:203.0.113.7:5349?transport=tcp");
        let mut check = |url: &str, expected: &str| {
            config.http.public_url = Some(url.into());
            assert_eq!(secure_url(&config, any), expected);
        };
        check("https://call.example.org", "turns:call.example.org:5349?transport=tcp");
        check("https://call.example.org:8443/", "turns:call.example.org:5349?transport=tcp");
        check("https://[2001:db8::1]", "turns:[2001:db8::1]:5349?transport=tcp");
        check("https://[2001:db8::1]:8443", "turns:[2001:db8::1]:5349?transport=tcp");
    }
}
