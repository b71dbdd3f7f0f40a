//! One worker: a pinned thread whose runtime drives one [`Sfu`] and nothing else.
//!
//! Each turn of the loop takes what is there (a batch of datagrams, a command, a TCP frame, a datagram from the relay, a
//! timer), lets the core work, and flushes its outbox once. The clock is read once per batch.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::control::{Command, FromMedia};
use common::metrics::Registry;
use common::net::Gate;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::backlog::Backlog;
use super::load::{self, LoadMeter};
use super::metrics::{Metrics, Totals};
use super::rings::Rings;
use super::tcp::{Tcp, TcpInput};
use super::udp::Udp;
use super::{Injected, TurnSlot};
use crate::ice::{RemoteAddr, Via};
use crate::sfu::{Input, Output, Sfu, SfuConfig};

/// Frames and connections that wait for the loop; readers wait when it is full.
const TCP_QUEUED_MAX: usize = 1024;
/// Batches and queued items taken before the outbox is flushed and the other inputs get their turn.
const TAKEN_PER_TURN: usize = 64;

/// How long a worker that failed waits for better times.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What a worker's thread is started with.
pub(super) struct Worker {
    pub index: usize,
    pub sfu: SfuConfig,
    pub udp: UdpSocket,
    pub tcp: Option<TcpListener>,
    pub rings: Rings,
    pub gate: Arc<Gate>,
    pub commands: mpsc::Receiver<Command>,
    pub injected: mpsc::Receiver<Injected>,
    pub turn: TurnSlot,
    pub events: mpsc::Sender<(usize, FromMedia)>,
    pub registry: Registry,
    pub stop: watch::Receiver<bool>,
    pub pinned: bool,
}

impl Worker {
    /// The thread's whole life. A panic is a bug: it is logged, and the worker starts again without its rooms, so that one
    /// poisoned room does not take the others' process down. So it does when the system has no files or memory for it. The
    /// hub is told, and so are the rooms' peers.
    pub fn run(mut self) {
        if self.pinned {
            pin(self.index);
        }
        let restarts = self.registry.counter(
            "media_worker_restarts",
            "Media workers that failed and were started again without their rooms",
        );
        while !*self.stop.borrow() {
            match std::panic::catch_unwind(AssertUnwindSafe(|| self.run_once())) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    tracing::warn!(worker = self.index, %error, "media worker failed; it starts again");
                    std::thread::sleep(RESTART_PAUSE);
                }
                Err(_) => tracing::error!(worker = self.index, "media worker panicked; its rooms are lost"),
            }
            restarts.inc();
            if self.events.blocking_send((self.index, FromMedia::Lost)).is_err() {
                return; // the process is ending
            }
        }
    }

    fn run_once(&mut self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(&mut self) -> io::Result<()> {
        let udp = Udp::new(self.udp.try_clone()?)?;
        let (input, mut tcp_input) = mpsc::channel(TCP_QUEUED_MAX);
        if let Some(listener) = &self.tcp {
            let listener = listener.try_clone()?;
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (gate, registry) = (Arc::clone(&self.gate), self.registry.clone());
            tokio::spawn(Tcp::accept(listener, gate, registry, input.clone()));
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let busy = self.registry.counter("media_busy_ms", "CPU time of all media workers, in milliseconds");
        let mut turn = Loop {
            sfu: Sfu::new(self.sfu.clone(), seed, Instant::now(), unix_time),
            udp,
            tcp: Tcp::new(input, &self.registry),
            relay: self.turn.clone(),
            announced: self.sfu.announced,
            messages: Backlog::default(),
            metrics: Metrics::new(&self.registry),
            load: LoadMeter::new(Instant::now(), load::thread_cpu_time(), busy),
            kernel_dropped: 0,
            deadline: None,
        };
        let mut look = tokio::time::interval(load::INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.rings.dropped = 0;
        let news = Arc::clone(&self.rings.news);
        loop {
            turn.drain(&mut self.rings);
            let sleep = tokio::time::sleep_until(turn.deadline.map_or_else(far_away, Into::into));
            tokio::select! {
                _ = self.stop.changed() => return Ok(()),
                permit = self.events.reserve(), if !turn.messages.is_empty() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(message) = turn.messages.pop() {
                        permit.send((self.index, message));
                    }
                }
                readable = turn.udp.readable() => {
                    readable?;
                    turn.receive();
                }
                command = self.commands.recv(), if turn.messages.has_room() => {
                    let Some(command) = command else { return Ok(()) };
                    turn.command(command, &mut self.commands);
                }
                Some(input) = tcp_input.recv() => turn.tcp_input(input, &mut tcp_input),
                Some(datagram) = self.injected.recv() => turn.injected(datagram, &mut self.injected),
                () = news.notified() => turn.piped(&mut self.rings),
                _ = look.tick() => turn.look(),
                () = sleep => turn.sfu.handle_input(Instant::now(), Input::Timeout),
            }
        }
    }
}

struct Loop {
    sfu: Sfu,
    udp: Udp,
    tcp: Tcp,
    relay: TurnSlot,
    announced: SocketAddr,
    messages: Backlog,
    metrics: Metrics,
    load: LoadMeter,
    kernel_dropped: u64,
    deadline: Option<Instant>,
}

impl Loop {
    fn receive(&mut self) {
        let now = Instant::now();
        let sfu = &mut self.sfu;
        let received = self.udp.receive(|addr, data| {
            sfu.handle_input(now, Input::Datagram { source: RemoteAddr { via: Via::Udp, addr }, data });
        });
        if let Err(error) = received {
            // An ICMP error of an earlier send, or no memory at this moment: the socket is well, and what was lost is lost.
            tracing::debug!(%error, "nothing received");
        }
    }

    fn command(&mut self, first: Command, queue: &mut mpsc::Receiver<Command>) {
        let now = Instant::now();
        let sfu = &mut self.sfu;
        take(first, queue, |command| sfu.handle_input(now, Input::Command(command)));
    }

    fn tcp_input(&mut self, first: TcpInput, queue: &mut mpsc::Receiver<TcpInput>) {
        let now = Instant::now();
        let Self { sfu, tcp, .. } = self;
        take(first, queue, |input| match input {
            TcpInput::Opened(stream, from, pass) => tcp.open(stream, from, pass),
            TcpInput::Frame(number, addr, mut data) => {
                let source = RemoteAddr { via: Via::Tcp(number), addr };
                sfu.handle_input(now, Input::Datagram { source, data: &mut data });
            }
            TcpInput::Closed(number) => {
                tcp.close(number);
                sfu.handle_input(now, Input::TcpClosed(number));
            }
        });
    }

    fn injected(&mut self, first: Injected, queue: &mut mpsc::Receiver<Injected>) {
        let now = Instant::now();
        let sfu = &mut self.sfu;
        take(first, queue, |(addr, mut data)| {
            let source = RemoteAddr { via: Via::Relay, addr };
            sfu.handle_input(now, Input::Datagram { source, data: &mut data });
        });
    }

    fn piped(&mut self, rings: &mut Rings) {
        let now = Instant::now();
        let sfu = &mut self.sfu;
        rings.receive(|from, parcel| sfu.handle_input(now, Input::Piped { from, parcel }));
    }

    /// Once a second.
    fn look(&mut self) {
        self.kernel_dropped = self.udp.kernel_drops.look();
        if let Some(busy_permille) = self.load.measure(Instant::now(), load::thread_cpu_time()) {
            self.messages.push(FromMedia::Load { busy_permille });
        }
    }

    /// Moves everything that the core has to say to where it belongs.
    fn drain(&mut self, rings: &mut Rings) {
        self.deadline = loop {
            match self.sfu.poll_output() {
                Output::Transmit(outbox) => {
                    self.udp.flush(outbox);
                    for (to, datagram) in outbox.iter() {
                        match to.via {
                            Via::Udp => {}
                            Via::Tcp(number) => self.tcp.send(number, datagram),
                            Via::Relay => deliver(&self.relay, self.announced, to.addr, datagram),
                        }
                    }
                    outbox.clear();
                }
                Output::Piped { to, parcels } => rings.send(to, parcels),
                Output::Message(message) => self.messages.push(message),
                Output::Timeout(at) => break at,
            }
        };
        self.metrics.observe(Totals {
            core: self.sfu.counters(),
            transports: self.sfu.transport_count(),
            udp_dropped: self.udp.dropped,
            kernel_dropped: self.kernel_dropped,
            ring_dropped: rings.dropped,
            tcp_dropped: self.tcp.dropped,
            events_dropped: self.messages.dropped,
        });
    }
}

/// Handles `first` and what else waits, up to a fair share.
fn take<T>(first: T, queue: &mut mpsc::Receiver<T>, mut handle: impl FnMut(T)) {
    handle(first);
    for _ in 1..TAKEN_PER_TURN {
        let Ok(item) = queue.try_recv() else { return };
        handle(item);
    }
}

fn deliver(relay: &TurnSlot, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
    let relay = relay.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(sink) = relay.as_ref() {
        // Loss is counted where the queue is.
        let _ = sink.deliver(from, to, datagram);
    }
}

fn far_away() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(3600)
}

/// Keeps caches warm; where it is not permitted the scheduler decides, which works too.
fn pin(index: usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = rustix::thread::CpuSet::new();
    set.set(index % cores);
    if rustix::thread::sched_setaffinity(None, &set).is_err() {
        tracing::debug!(worker = index, "not pinned");
    }
}
