//! The server: the real hub, workers and relay, and between them the queues that the shells put there.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use common::config::Secret;
use common::control::{Command, FromMedia};
use common::metrics::Registry;
use media::ice::{RemoteAddr, Via};
use media::sfu::{self, Sfu, SfuConfig};
use signaling::hub::{Hub, HubConfig, IceServers};
use turn::relay::{Relay, RelayConfig, RelayIp};

use crate::clock::Clock;
use crate::crypto;
use crate::dice::Dice;
use crate::epoch::UNIX_START;
use crate::plan::{Kind, Plan};
use crate::relay_user;

/// The server's address.
pub const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The first worker's port.
pub const MEDIA_PORT: u16 = 44_444;
/// The relay's.
pub const TURN: SocketAddr = SocketAddr::new(SERVER, 3478);
/// Commands that a worker's queue takes; the shell's bound.
pub const COMMANDS_MAX: usize = 256;
/// Datagrams that wait for a worker that stands still, as in a socket's buffer.
pub const DATAGRAMS_MAX: usize = 4096;
/// How long a call rings.
pub const RING_TIMEOUT: Duration = Duration::from_secs(8);
/// How long the credentials are good that the hub gives away.
pub const CREDENTIALS: Duration = Duration::from_secs(60);
/// How long a lost session may come back.
pub const GRACE: Duration = Duration::from_secs(10);

/// Something for a worker.
#[derive(Debug)]
pub enum ForWorker {
    /// From the hub.
    Command(Command),
    /// From the network.
    Datagram(SocketAddr, Vec<u8>),
    /// Through a connection with this number.
    Framed(u64, SocketAddr, Vec<u8>),
    /// A connection is over.
    Closed(u64),
    /// From another worker.
    Parcel(usize, Vec<u8>),
    /// From the network, of somebody who is nobody's.
    FromStranger(SocketAddr, Vec<u8>),
}

/// A worker and what waits for it.
#[derive(Debug)]
pub struct Worker {
    /// The core.
    pub sfu: Sfu,
    /// Its address.
    pub address: SocketAddr,
    /// While it stands still.
    pub waiting: VecDeque<ForWorker>,
    /// It stands still until then.
    pub stalled_until: Duration,
    /// It takes no commands until then.
    pub full_until: Duration,
    /// Bytes that it has kept of what strangers sent.
    pub kept_of_strangers: i64,
    /// Connections that it knows to be over.
    over: BTreeSet<u64>,
    /// One of those that it sends to all the same.
    pub sent_to_over: Option<u64>,
    /// What it has said to other workers.
    pub said: Vec<(usize, Vec<u8>)>,
}

/// All cores of one server.
#[derive(Debug)]
pub struct Node {
    /// Signaling.
    pub hub: Hub,
    /// Media.
    pub workers: Vec<Worker>,
    /// TURN.
    pub relay: Relay,
    /// The clock of the machine that all of them run on.
    pub clock: Clock,
    /// Whether the relay has few ports.
    is_small: bool,
    /// Seconds by which its wall clock has been set forward, or back.
    pub set_by: i64,
}

impl Node {
    /// A server as the plan wants it.
    pub fn new(plan: &Plan, clock: Clock, dice: &mut Dice) -> Self {
        let start = clock.read(Duration::ZERO);
        let hub = HubConfig {
            resume_grace: GRACE,
            ring_timeout: RING_TIMEOUT,
            heartbeat: Duration::from_secs(15),
            max_peers_per_room: 10,
            joins_per_minute_per_user: 10_000,
            workers: plan.workers,
            ice: IceServers {
                urls: vec!["turn:192.0.2.1".into()],
                secret: Secret(vec![1]),
                ttl: CREDENTIALS,
            },
        };
        let workers = (0..plan.workers).map(|number| {
            let address = SocketAddr::new(SERVER, MEDIA_PORT + number as u16);
            Worker {
                sfu: sfu(number as u8, address, start, UNIX_START, dice),
                address,
                waiting: VecDeque::new(),
                stalled_until: Duration::ZERO,
                full_until: Duration::ZERO,
                kept_of_strangers: 0,
                over: BTreeSet::new(),
                sent_to_over: None,
                said: Vec::new(),
            }
        });
        Self {
            workers: workers.collect(),
            hub: Hub::new(hub, dice.seed(), start, UNIX_START),
            relay: relay(plan.has(Kind::Exhausted), start, UNIX_START, dice),
            is_small: plan.has(Kind::Exhausted),
            clock,
            set_by: 0,
        }
    }

    /// What its wall clock shows, since the Unix epoch.
    pub fn wall(&self, now: Duration) -> Duration {
        let set_by = Duration::from_secs(self.set_by.unsigned_abs());
        let unset = UNIX_START + self.clock.elapsed(now);
        if self.set_by < 0 { unset - set_by } else { unset + set_by }
    }

    /// A relay that remembers nothing in place of the one there is.
    pub fn restart_relay(&mut self, now: Instant, unix: Duration, dice: &mut Dice) {
        self.relay = relay(self.is_small, now, unix, dice);
    }
}

/// Ports of a relay that is easily exhausted.
const FEW_PORTS: RangeInclusive<u16> = 49_152..=49_191;
/// What one user may hold of them.
pub const USER_QUOTA: usize = 20;

fn relay(is_small: bool, now: Instant, unix: Duration, dice: &mut Dice) -> Relay {
    let config = RelayConfig {
        realm: relay_user::REALM.into(),
        credentials: turn::auth::Credentials::of_secret(relay_user::secret()),
        relay_ips: vec![RelayIp::direct(SERVER)],
        ports: if is_small { FEW_PORTS } else { 49_152..=49_252 },
        user_quota: if is_small { USER_QUOTA } else { 0 },
        ..RelayConfig::default()
    };
    let metrics = turn::metrics::Metrics::register(&Registry::new());
    Relay::new(config, metrics, dice.seed(), now, unix)
}

fn sfu(worker: u8, announced: SocketAddr, now: Instant, unix: Duration, dice: &mut Dice) -> Sfu {
    let codecs = vec!["opus".into(), "VP8".into()];
    let config = SfuConfig { worker, announced, tcp: false, codecs, max_bitrate: None, max_speakers: 0 };
    Sfu::new(config, dice.seed(), now, unix).with_identity(crypto::identity())
}

impl Worker {
    /// Begins again, as after a panic: commands still wait in the queue, all else is gone.
    pub fn crash(&mut self, now: Instant, unix: Duration, dice: &mut Dice) {
        let number = (self.address.port() - MEDIA_PORT) as u8;
        self.sfu = sfu(number, self.address, now, unix, dice);
    }

    /// Takes a command; it is handed back when the queue is full.
    pub fn command(&mut self, now: Duration, command: Command) -> Option<Command> {
        let commands = self.waiting.iter().filter(|one| matches!(one, ForWorker::Command(_))).count();
        if now < self.full_until || commands >= COMMANDS_MAX {
            return Some(command);
        }
        self.waiting.push_back(ForWorker::Command(command));
        None
    }

    /// Takes a datagram, or loses it.
    pub fn datagram(&mut self, datagram: ForWorker) {
        if self.waiting.len() < DATAGRAMS_MAX {
            self.waiting.push_back(datagram);
        }
    }

    /// Works off what waits. What it says is split into datagrams and messages for the hub.
    pub fn run(&mut self, clock: Clock, now: Duration) -> (Vec<(RemoteAddr, Vec<u8>)>, Vec<FromMedia>) {
        let (mut datagrams, mut messages) = (Vec::new(), Vec::new());
        if now < self.stalled_until {
            return (datagrams, messages);
        }
        let at = clock.read(now);
        self.sfu.handle_input(at, sfu::Input::Timeout);
        self.drain(&mut datagrams, &mut messages);
        while let Some(next) = self.waiting.pop_front() {
            match next {
                ForWorker::Command(command) => self.sfu.handle_input(at, sfu::Input::Command(command)),
                ForWorker::Datagram(addr, mut data) => {
                    let source = RemoteAddr { via: Via::Udp, addr };
                    self.sfu.handle_input(at, sfu::Input::Datagram { source, data: &mut data });
                }
                ForWorker::Framed(number, addr, mut data) => {
                    let source = RemoteAddr { via: Via::Tcp(number), addr };
                    self.sfu.handle_input(at, sfu::Input::Datagram { source, data: &mut data });
                }
                ForWorker::Closed(number) => {
                    self.over.insert(number);
                    self.sfu.handle_input(at, sfu::Input::TcpClosed(number));
                }
                ForWorker::Parcel(from, parcel) => {
                    self.sfu.handle_input(at, sfu::Input::Piped { from, parcel: &parcel });
                }
                ForWorker::FromStranger(addr, mut data) => {
                    let source = RemoteAddr { via: Via::Udp, addr };
                    let sfu = &mut self.sfu;
                    let kept = allocation_counter::measure(|| {
                        sfu.handle_input(at, sfu::Input::Datagram { source, data: &mut data });
                    });
                    self.kept_of_strangers += kept.bytes_current;
                }
            }
            self.drain(&mut datagrams, &mut messages);
        }
        (datagrams, messages)
    }

    fn drain(&mut self, datagrams: &mut Vec<(RemoteAddr, Vec<u8>)>, messages: &mut Vec<FromMedia>) {
        loop {
            match self.sfu.poll_output() {
                sfu::Output::Transmit(outbox) => {
                    let over = |via| matches!(via, Via::Tcp(number) if self.over.contains(&number));
                    if let Some((RemoteAddr { via: Via::Tcp(number), .. }, _)) =
                        outbox.iter().find(|(to, _)| over(to.via))
                    {
                        self.sent_to_over = Some(number);
                    }
                    datagrams.extend(outbox.iter().map(|(to, bytes)| (to, bytes.to_vec())));
                    outbox.clear();
                }
                sfu::Output::Piped { to, parcels } => self.said.push((to, std::mem::take(parcels))),
                sfu::Output::Message(message) => messages.push(message),
                sfu::Output::Timeout(_) => return,
            }
        }
    }

    /// When it wants to run again.
    pub fn deadline(&mut self, clock: Clock) -> Duration {
        let due = match self.sfu.poll_output() {
            sfu::Output::Timeout(at) => at.map_or(Duration::MAX, |at| clock.due(at)),
            _ => Duration::ZERO,
        };
        let due = if self.waiting.is_empty() { due } else { Duration::ZERO };
        due.max(self.stalled_until)
    }
}
