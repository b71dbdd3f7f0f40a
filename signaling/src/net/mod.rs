//! Signaling's shell: HTTP, WebSocket and TLS on one port, and the task that owns the hub.
//!
//! ```text
//! listener -> (tls) -> route -> websocket -> hub's task -> media workers, call log
//!                        \-> api, assets, dev sign-in
//! ```
//!
//! [`start`] binds and serves; [`Server`] is what `main` holds: reload, drain, stop.

mod api;
mod assets;
mod auth;
mod dev;
mod hub;
mod listener;
mod metrics;
mod outlet;
mod problem;
mod query;
mod route;
mod websocket;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::config::{Auth, Config};
use common::control::{Command, FromMedia};
use common::metrics::Registry;
use common::net::{AcceptErrors, CHECK_INTERVAL, Certificate, Gate, Pass, TlsError};
use common::token::{TokenError, TokenVerifier};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use assets::{Asset, Assets};

use self::auth::OriginPolicy;
use self::hub::HubHandle;
use self::metrics::Metrics;
use crate::hub::{ConnId, HubConfig, IceServers, Input};
use crate::store::CallLog;

/// TURN credentials outlive a long call's ICE restarts and not a lost laptop.
const ICE_TTL: Duration = Duration::from_secs(12 * 3600);

/// How often the end of a drain is looked for.
const DRAINED_POLL: Duration = Duration::from_millis(100);

/// The one protocol that is offered (ALPN): WebSockets need it.
const HTTP_1_1: &[u8] = b"http/1.1";

/// How long connections get for their closing handshakes when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the server cannot start; each names its setting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is in use, or not ours.
    #[error("{setting} {address}: {error}")]
    Bind {
        /// The setting.
        setting: &'static str,
        /// The address that cannot be bound.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key that verifies tokens cannot be used.
    #[error("auth: {0}")]
    Auth(#[from] TokenError),
    /// The system has no random bytes.
    #[error("the system's random numbers: {0}")]
    Random(getrandom::Error),
}

/// What the server is built from.
pub struct Parts<'a> {
    /// The configuration, already valid.
    pub config: &'a Config,
    /// The web app.
    pub assets: Assets,
    /// Where everybody's metrics are.
    pub registry: Registry,
    /// Where calls are recorded.
    pub call_log: CallLog,
    /// The media workers' command queues, in order.
    pub workers: Vec<mpsc::Sender<Command>>,
    /// What the workers say, each with its number.
    pub from_media: mpsc::Receiver<(usize, FromMedia)>,
    /// Our STUN and TURN for clients, as in `RTCIceServer.urls`.
    pub ice_urls: Vec<String>,
    /// Lets HTTP connections in.
    pub gate: Arc<Gate>,
}

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    certificate: Option<Arc<Certificate>>,
    stop: CancellationToken,
    hub_task: JoinHandle<()>,
}

/// What requests and connections share.
struct Shared {
    hub: HubHandle,
    verifier: TokenVerifier,
    auth: Auth,
    origins: OriginPolicy,
    ice: IceServers,
    call_log: CallLog,
    assets: Assets,
    registry: Registry,
    metrics: Metrics,
    /// Whether `/metrics` is on the HTTP listeners.
    metrics_here: bool,
    dev: bool,
    max_message: usize,
    gate: Arc<Gate>,
    tasks: TaskTracker,
    draining: AtomicBool,
    next_connection: AtomicU64,
}

/// Binds every listener and serves. Must be called within a tokio runtime.
pub fn start(parts: Parts<'_>) -> Result<Server, StartError> {
    let config = parts.config;
    let certificate = config.http.tls.clone();
    let certificate = certificate.map(|files| Certificate::load("http.tls", files)).transpose()?;
    let verifier = TokenVerifier::new(&config.auth)?;
    let listeners = bind_all("http.listen", &config.http.listen)?;
    let metrics_listeners = bind_all("metrics.listen", config.metrics.listen.as_slice())?;
    let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();

    let metrics = Metrics::new(&parts.registry);
    let ice = ice_servers(config, parts.ice_urls);
    let (hub, hub_task) = hub::start(hub::HubParts {
        config: hub_config(config, parts.workers.len(), ice.clone()),
        workers: parts.workers,
        from_media: parts.from_media,
        call_log: parts.call_log.clone(),
        metrics: metrics.clone(),
    })
    .map_err(StartError::Random)?;
    let shared = Arc::new(Shared {
        hub,
        verifier,
        auth: config.auth.clone(),
        origins: OriginPolicy::new(config.http.public_url.as_deref(), config.dev),
        ice,
        call_log: parts.call_log,
        assets: parts.assets,
        registry: parts.registry,
        metrics,
        metrics_here: config.metrics.listen.is_none(),
        dev: config.dev,
        max_message: config.signaling.max_message,
        gate: parts.gate,
        tasks: TaskTracker::new(),
        draining: AtomicBool::new(false),
        next_connection: AtomicU64::new(0),
    });

    let stop = CancellationToken::new();
    let acceptor =
        certificate.as_ref().map(|certificate| TlsAcceptor::from(certificate.server_config(&[HTTP_1_1])));
    for listener in listeners {
        tokio::spawn(listener::accept(listener, acceptor.clone(), Arc::clone(&shared), stop.clone()));
    }
    for listener in metrics_listeners {
        tokio::spawn(serve_metrics(listener, Arc::clone(&shared), stop.clone()));
    }
    if let Some(certificate) = &certificate {
        tokio::spawn(watch_certificate(Arc::clone(certificate), stop.clone()));
    }
    Ok(Server { shared, addresses, certificate, stop, hub_task })
}

impl Server {
    /// Where HTTP is served; the real ports where the configuration says 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Takes what can be taken without a restart: a new certificate.
    pub fn reload(&self) {
        match &self.certificate {
            Some(certificate) => certificate.reload(),
            None => tracing::info!("nothing to reload: http.tls is off"),
        }
    }

    /// Begins to drain: not ready, nothing new; what runs may end by itself.
    pub async fn drain(&self) {
        self.shared.drain().await;
    }

    /// Returns when, while draining, the last call and room have ended.
    pub async fn drained(&self) {
        while self.shared.metrics.has_sessions() {
            tokio::time::sleep(DRAINED_POLL).await;
        }
    }

    /// Stops gracefully: not ready, sessions told to go elsewhere, calls recorded, everything closed. When it returns,
    /// the hub is gone and whatever it had to record is in the call log's queue.
    pub async fn shutdown(self) {
        self.drain().await;
        let Self { shared, stop, hub_task, .. } = self;
        let _ = shared.hub.input(Input::Stop).await; // without a hub there is nothing to stop
        shared.tasks.close();
        stop.cancel();
        if timeout(STOP_TIMEOUT, shared.tasks.wait()).await.is_err() {
            tracing::info!(
                connections = shared.tasks.len(),
                "connections that did not close in time are cut"
            );
        }
        let _ = shared.hub.flush().await; // without a hub nothing waits
        hub_task.abort();
        let _ = hub_task.await; // it was aborted, or had ended
    }
}

impl Shared {
    fn unix_secs(&self) -> u64 {
        hub::unix_time().as_secs()
    }

    /// The right to one more connection; a refusal is counted.
    fn admit(&self, address: IpAddr) -> Option<Pass> {
        let pass = self.gate.enter(address);
        if pass.is_none() {
            self.metrics.refused.inc("too-many");
            tracing::debug!(%address, "refused: too many connections");
        }
        pass
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn next_connection(&self) -> ConnId {
        ConnId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// From now on not ready; the hub lets go of sessions as their calls and rooms end. Once is enough.
    async fn drain(&self) {
        if self.draining.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::info!("draining");
        let _ = self.hub.input(Input::Drain).await; // without a hub there is nothing to drain
    }
}

fn bind_all(setting: &'static str, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, StartError> {
    let bind = |&address: &SocketAddr| {
        listener::bind(address).map_err(|error| StartError::Bind { setting, address, error })
    };
    addresses.iter().map(bind).collect()
}

fn ice_servers(config: &Config, urls: Vec<String>) -> IceServers {
    IceServers { urls, secret: config.turn.secret.clone(), ttl: ICE_TTL }
}

fn hub_config(config: &Config, workers: usize, ice: IceServers) -> HubConfig {
    HubConfig {
        resume_grace: config.signaling.resume_grace,
        ring_timeout: config.signaling.ring_timeout,
        heartbeat: config.signaling.heartbeat,
        max_peers_per_room: config.limits.max_peers_per_room,
        joins_per_minute_per_user: config.limits.joins_per_minute_per_user,
        workers,
        ice,
    }
}

async fn watch_certificate(certificate: Arc<Certificate>, stop: CancellationToken) {
    while timeout(CHECK_INTERVAL, stop.cancelled()).await.is_err() {
        certificate.reload();
    }
}

/// Scrapes only; the address is the operator's choice, so it needs no token. The same bounds as elsewhere.
async fn serve_metrics(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let mut errors = AcceptErrors::new(&shared.registry, "metrics");
    while let Some((stream, peer)) = listener::next(&listener, &mut errors, &stop).await {
        let Some(pass) = shared.admit(peer.ip()) else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| route::handle_metrics(request, Arc::clone(&shared)));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "metrics connection ended");
            }
            drop(pass);
        });
    }
}
