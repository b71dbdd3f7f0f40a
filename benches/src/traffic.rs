//! Packets through allocations, and what comes out at the other end.
//!
//! As fast as it goes: a window of packets under way, so that what is measured is the server and not how it loses. Or paced,
//! for loss and delay at a rate. Every packet carries the moment it was sent.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::ValueEnum;
use common::metrics::Registry;
use common::net::{BatchSocket, RecvBatch, TransmitArena, UdpMetrics};
use serde::Serialize;

use crate::poll::Poll;
use crate::process::cpu_time;
use crate::session::Session;

/// Before anything is counted.
const WARM_UP: Duration = Duration::from_millis(500);
/// Nothing has arrived for so long: what is under way was lost.
const LOST_AFTER: Duration = Duration::from_millis(50);
/// Bytes of the moment of sending at a payload's head.
const STAMP_BYTES: usize = 8;
/// Delays kept for the percentiles.
const DELAYS_MAX: usize = 1 << 20;

/// Where packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From clients to the peer.
    Up,
    /// From the peer to clients.
    Down,
    /// Up and down by turns.
    Both,
    /// From client to client, through the allocations of both.
    Relay,
}

/// A load.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the server listens.
    #[arg(long)]
    server: SocketAddr,
    /// Its process.
    #[arg(long)]
    pid: u32,
    /// It is the floor, which knows no TURN.
    #[arg(long)]
    floor: bool,
    /// Clients.
    #[arg(long, default_value_t = 1)]
    allocations: usize,
    /// Bytes of a packet's payload.
    #[arg(long, default_value_t = 1200)]
    payload: usize,
    /// Packets of one flow after the other, handed to the kernel together; 1 is singles, a call for each.
    #[arg(long, default_value_t = 16)]
    train: usize,
    /// Where packets go.
    #[arg(long, value_enum, default_value = "up")]
    direction: Direction,
    /// Packets under way at most.
    #[arg(long, default_value_t = 512)]
    window: u64,
    /// Packets per second; as many as go when it is absent.
    #[arg(long)]
    pace: Option<f64>,
    /// For how long.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// What came out.
#[derive(Debug, Serialize)]
pub struct Report {
    sent: u64,
    received: u64,
    loss: f64,
    packets_per_second: f64,
    /// Of the server, for each packet that arrived.
    cpu_ns_per_packet: f64,
    /// The server's share of a core.
    busy: f64,
    delay_us_p50: f64,
    delay_us_p99: f64,
}

struct Flow {
    socket: usize,
    to: SocketAddr,
    /// What goes before the payload.
    prefix: Vec<u8>,
}

struct Load {
    sockets: Vec<BatchSocket>,
    flows: Vec<Flow>,
    poll: Poll,
    arena: TransmitArena,
    batch: RecvBatch,
    payload: usize,
    begun: Instant,
    sent: u64,
    received: u64,
    under_way: u64,
    delays: Vec<u64>,
}

/// Makes the allocations, drives the load, and counts from the end of the warm-up.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    ensure!(options.payload >= STAMP_BYTES, "a payload holds at least the moment of its sending");
    let mut load = Load::new(options)?;
    load.drive(options, WARM_UP)?;
    load.settle()?;
    (load.sent, load.received) = (0, 0);
    load.delays.clear();
    let (cpu, start) = (cpu_time(options.pid)?, Instant::now());
    load.drive(options, Duration::from_secs_f64(options.seconds))?;
    let elapsed = start.elapsed().as_secs_f64();
    load.settle()?;
    let cpu = (cpu_time(options.pid)? - cpu).as_nanos() as f64;
    ensure!(load.received > 0, "nothing arrived");
    load.delays.sort_unstable();
    let delay = |share: f64| load.delays[((load.delays.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    Ok(Report {
        sent: load.sent,
        received: load.received,
        loss: 1.0 - load.received as f64 / load.sent as f64,
        packets_per_second: load.received as f64 / elapsed,
        cpu_ns_per_packet: cpu / load.received as f64,
        busy: cpu / 1e9 / elapsed,
        delay_us_p50: delay(0.5),
        delay_us_p99: delay(0.99),
    })
}

impl Load {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let peer = UdpSocket::bind((options.server.ip(), 0))?;
        let peer_address = peer.local_addr()?;
        let mut sessions = Vec::new();
        for index in 0..options.allocations {
            let peer = match options.direction {
                // The floor must be told at once; the second of a pair is told the first one's relayed address.
                Direction::Relay => sessions.last().map_or(peer_address, |last: &Session| last.relayed),
                _ => peer_address,
            };
            sessions.push(match options.floor {
                true => Session::at_floor(options.server, peer, index)?,
                false => Session::allocate(options.server, index)?,
            });
        }
        let flows = flows(options, &mut sessions, peer_address)?;
        let metrics = UdpMetrics::register(&Registry::new());
        let poll = Poll::new()?;
        let mut sockets = Vec::new();
        for socket in std::iter::once(peer).chain(sessions.into_iter().map(|session| session.socket)) {
            let socket = BatchSocket::from_std(socket, metrics.clone())?;
            poll.add(&socket, sockets.len())?;
            sockets.push(socket);
        }
        Ok(Self {
            sockets,
            flows,
            poll,
            arena: TransmitArena::new(1 << 20, 1024),
            batch: RecvBatch::new(),
            payload: options.payload,
            begun: Instant::now(),
            sent: 0,
            received: 0,
            under_way: 0,
            delays: Vec::with_capacity(DELAYS_MAX),
        })
    }

    fn drive(&mut self, options: &Options, long: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut trains = 0;
        let mut heard = start;
        loop {
            let now = Instant::now();
            if now >= start + long {
                return Ok(());
            }
            let due = match options.pace {
                Some(pace) => {
                    now.duration_since(start).as_secs_f64() * pace >= (trains * options.train) as f64
                }
                None => self.under_way + options.train as u64 <= options.window,
            };
            if due {
                self.send(trains % self.flows.len(), options.train);
                trains += 1;
            }
            let idle = if due || options.pace.is_some() { Duration::ZERO } else { Duration::from_millis(1) };
            if self.receive(idle)? {
                heard = now;
            } else if now.duration_since(heard) > LOST_AFTER {
                self.under_way = 0;
                heard = now;
            }
        }
    }

    /// A train of one flow, in one call of the kernel; singles in one each.
    fn send(&mut self, flow: usize, train: usize) {
        let Flow { socket, to, prefix } = &self.flows[flow];
        let stamp = (self.begun.elapsed().as_nanos() as u64).to_be_bytes();
        let length = prefix.len() + self.payload;
        for _ in 0..train {
            let Some(space) = self.arena.space(length) else { break };
            space[..prefix.len()].copy_from_slice(prefix);
            space[prefix.len()..prefix.len() + STAMP_BYTES].copy_from_slice(&stamp);
            self.arena.commit(length, *to, None);
        }
        let sent = self.sockets[*socket].send(&mut self.arena).datagrams as u64;
        self.arena.clear();
        self.sent += sent;
        self.under_way += sent;
    }

    /// Takes what has arrived; whether there was anything.
    fn receive(&mut self, wait: Duration) -> anyhow::Result<bool> {
        let before = self.received;
        let ready: Vec<usize> = self.poll.wait(wait)?.collect();
        for socket in ready {
            if self.sockets[socket].recv(&mut self.batch).is_err() {
                continue;
            }
            let now = self.begun.elapsed().as_nanos() as u64;
            for datagram in self.batch.datagrams() {
                let Some(head) = datagram.payload.len().checked_sub(self.payload) else { continue };
                let Some(stamp) = datagram.payload[head..].first_chunk::<STAMP_BYTES>() else { continue };
                self.received += 1;
                if self.delays.len() < DELAYS_MAX {
                    self.delays.push(now.saturating_sub(u64::from_be_bytes(*stamp)));
                }
            }
        }
        let arrived = self.received - before;
        self.under_way = self.under_way.saturating_sub(arrived);
        Ok(arrived > 0)
    }

    /// Waits for what is under way.
    fn settle(&mut self) -> anyhow::Result<()> {
        let mut heard = Instant::now();
        while heard.elapsed() < LOST_AFTER {
            if self.receive(Duration::from_millis(10))? {
                heard = Instant::now();
            }
        }
        self.under_way = 0;
        Ok(())
    }
}

/// Binds the channels and says who sends where. Socket 0 is the peer's, the clients' follow.
fn flows(options: &Options, sessions: &mut [Session], peer: SocketAddr) -> anyhow::Result<Vec<Flow>> {
    let relayed: Vec<SocketAddr> = sessions.iter().map(|session| session.relayed).collect();
    let mut flows = Vec::new();
    for (index, session) in sessions.iter_mut().enumerate() {
        let up = Flow { socket: index + 1, to: options.server, prefix: session.prefix(options.payload) };
        let down = Flow { socket: 0, to: session.relayed, prefix: Vec::new() };
        match options.direction {
            Direction::Relay => {
                let other = relayed.get(index ^ 1).copied().unwrap_or(peer);
                session.bind(other)?;
                if index % 2 == 1 || !options.floor {
                    flows.push(up); // the first of a pair at the floor has no peer of its own
                }
                continue;
            }
            _ => session.bind(peer)?,
        }
        match options.direction {
            Direction::Up => flows.push(up),
            Direction::Down => flows.push(down),
            _ => flows.extend([up, down]),
        }
    }
    if options.floor {
        return Ok(flows);
    }
    ensure!(
        options.direction != Direction::Relay || options.allocations.is_multiple_of(2),
        "clients come in pairs"
    );
    Ok(flows)
}
