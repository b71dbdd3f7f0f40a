//! The workers: each a thread with its own core, listeners and loop; one that panics is started again.
//!
//! The listening sockets are bound once, in `listeners`, and workers get copies of the descriptors: the kernel's choice of a
//! socket for a client stays what it is when a worker dies. What it held is given back in the ledger; its clients allocate
//! again, the other workers go on.

use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{io, thread};

use common::handover::DatagramSink;
use common::metrics::{Counter, Registry};
use common::net::{AcceptErrors, BatchSocket, CHECK_INTERVAL, Certificate, UdpMetrics};
use tokio::sync::{Mutex, oneshot};
use tokio_util::sync::CancellationToken;

use super::dtls::Sessions;
use super::orders::{self, Mailbox, Post, SharedStanding};
use super::worker::{Equipment, SharedWorker, Worker};
use super::{random, tcp, udp};
use crate::metrics::Metrics;
use crate::relay::{Input, Ledger, Relay, WorkerId};
use crate::settings::Settings;

/// How often expired allocations are looked for when nothing else happens.
const TICK: Duration = Duration::from_millis(500);
/// Before a worker that has panicked starts again.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// What all workers start with.
#[derive(Clone)]
pub(super) struct Outfit {
    pub(super) settings: Arc<Settings>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) media: Arc<dyn DatagramSink>,
    pub(super) metrics: Metrics,
    pub(super) udp_metrics: UdpMetrics,
    pub(super) registry: Registry,
    pub(super) certificate: Option<Arc<Certificate>>,
    /// Keys the cookies of DTLS.
    pub(super) cookies: [u8; 32],
    pub(super) admission: tcp::Admission,
    pub(super) post: Post,
    pub(super) standing: SharedStanding,
    pub(super) stop: CancellationToken,
    pub(super) restarts: Counter,
}

/// One worker's place, which stays when the worker does not.
pub(super) struct Seat {
    pub(super) id: WorkerId,
    pub(super) outfit: Outfit,
    pub(super) udp: Vec<BatchSocket>,
    /// Empty when neither TCP nor TLS is served.
    pub(super) tcp: Vec<TcpListener>,
}

/// Why a worker's loop ended.
enum End {
    Stopped,
    Panicked,
}

impl Seat {
    pub(super) fn start(self, mailbox: Mailbox) -> io::Result<JoinHandle<()>> {
        let name = format!("turn-{}", self.id.0);
        thread::Builder::new().name(name).spawn(move || self.work(mailbox))
    }

    fn work(self, mailbox: Mailbox) {
        let mailbox = Rc::new(Mutex::new(mailbox));
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.run(&mailbox))) {
                Ok(Ok(End::Stopped)) => return,
                Ok(Ok(End::Panicked)) | Err(_) => {}
                Ok(Err(error)) => {
                    tracing::error!(worker = self.id.0, %error, "a relay worker could not be started");
                }
            }
            self.mourn();
            if self.outfit.stop.is_cancelled() {
                return;
            }
            thread::sleep(RESTART_PAUSE);
        }
    }

    /// Gives back what the worker held.
    fn mourn(&self) {
        let Outfit { ledger, metrics, restarts, .. } = &self.outfit;
        let lost = ledger.forget(self.id);
        metrics.allocations.dec_by(i64::try_from(lost).unwrap_or(i64::MAX));
        restarts.inc();
        tracing::error!(worker = self.id.0, allocations = lost, "a relay worker died and is started again");
    }

    fn run(&self, mailbox: &Rc<Mutex<Mailbox>>) -> io::Result<End> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, self.serve(mailbox))
    }

    async fn serve(&self, mailbox: &Rc<Mutex<Mailbox>>) -> io::Result<End> {
        let Outfit { settings, admission, registry, certificate, stop, .. } = &self.outfit;
        let panicked = CancellationToken::new();
        let worker = Worker::shared(self.core()?, self.equipment(&panicked), settings);
        for udp in &self.udp {
            let udp = Rc::new(udp::Readable::new(udp.try_clone()?)?);
            worker.borrow_mut().add_listener(Rc::clone(&udp));
            tokio::task::spawn_local(udp::listen(Rc::clone(&worker), udp));
        }
        for tcp in &self.tcp {
            let errors = AcceptErrors::new(registry, "turn");
            let listening = tcp::listen(Rc::clone(&worker), tcp.try_clone()?, admission.clone(), errors);
            tokio::task::spawn_local(listening);
        }
        tokio::task::spawn_local(tick(Rc::clone(&worker)));
        tokio::task::spawn_local(orders::obey(worker, Rc::clone(mailbox), admission.clone()));
        if let Some(certificate) = certificate.as_ref().filter(|_| self.id.0 == 0) {
            tokio::task::spawn_local(follow(Arc::clone(certificate)));
        }
        // In a task of its own: this future is polled with every datagram.
        let (end, ended) = oneshot::channel();
        let stop = stop.clone();
        tokio::task::spawn_local(async move {
            let why = tokio::select! {
                () = panicked.cancelled() => End::Panicked,
                () = stop.cancelled() => End::Stopped,
            };
            let _ = end.send(why); // who waits for it is there
        });
        Ok(ended.await.unwrap_or(End::Stopped))
    }

    /// A core that knows what has been told to all.
    fn core(&self) -> io::Result<Relay> {
        let Outfit { settings, ledger, metrics, standing, .. } = &self.outfit;
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let (place, seed, now) = ((Arc::clone(ledger), self.id), random()?, Instant::now());
        let mut relay = Relay::worker(settings.relay.clone(), place, metrics.clone(), seed, now, unix_time);
        let standing = orders::standing(standing);
        if let Some(credentials) = &standing.credentials {
            relay.set_credentials(credentials);
        }
        if standing.draining {
            relay.handle_input(now, Input::Drain);
        }
        Ok(relay)
    }

    fn equipment(&self, panicked: &CancellationToken) -> Equipment {
        let Outfit { media, metrics, udp_metrics, post, certificate, settings, .. } = &self.outfit;
        let certificate = certificate.as_ref().filter(|_| settings.transports.dtls);
        let (cookies, registry) = (&self.outfit.cookies, &self.outfit.registry);
        Equipment {
            id: self.id,
            media: Arc::clone(media),
            metrics: metrics.clone(),
            udp_metrics: udp_metrics.clone(),
            post: post.clone(),
            dtls: certificate
                .map(|found| Sessions::new(Arc::clone(found), cookies, registry, Instant::now())),
            panicked: panicked.clone(),
        }
    }
}

async fn follow(certificate: Arc<Certificate>) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        certificate.reload();
    }
}

async fn tick(worker: SharedWorker) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        worker.borrow_mut().batch(|batch| batch.tick());
    }
}

/// The sockets of one listening address, one of each kind for each worker.
pub(super) struct Group {
    pub(super) udp: Vec<BatchSocket>,
    pub(super) tcp: Vec<TcpListener>,
}

impl Group {
    pub(super) fn address(&self) -> SocketAddr {
        self.udp[0].local_addr()
    }
}
