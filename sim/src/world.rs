//! The discrete-event world: one queue of things that happen, one clock that jumps from one to the next.
//!
//! A run has five acts: everybody comes (0–5 s), trouble (5–15 s), all paths are clean again and 5 s pass in which everything
//! must heal, everybody must then be seen and heard, and everybody leaves, after which nothing may be left.

mod chatter;
mod media;
mod relaying;
mod streams;
mod talking;
mod time;
mod verdicts;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::control::FromMedia;
use serde_json::Value;
use signaling::hub::{self, ConnId};
use turn::relay as relay_core;

use crate::clock::Clock;
use crate::crypto;
use crate::dice::Dice;
use crate::digest::{Digest, Digester};
use crate::epoch::{self, UNIX_START};
use crate::link::{Link, Weather};
use crate::nat::{Dependence, Nat};
use crate::node::{Node, TURN};
use crate::oracle::{CallLog, Consumers, Nonces, Permissions, Verdict, Violation};
use crate::pcap::Captured;
use crate::person::Person;
use crate::plan::{Kind, Plan};
use crate::relay_user::{CREDENTIALS_SECS, RelayUser, Way};
use crate::trouble::{self, Deed};
use chatter::Pair;
use streams::Connection;
use time::skewed;

/// When trouble begins.
pub const TROUBLE: Duration = Duration::from_secs(5);
/// When all is mended.
pub const HEALED: Duration = Duration::from_secs(15);
/// When everybody must be heard again (issue: within 5 s).
pub const JUDGED: Duration = Duration::from_secs(20);
/// When everybody leaves.
pub const PARTING: Duration = Duration::from_secs(22);
/// When nothing may be left: an allocation that nobody refreshes lasts 10 minutes, a permission 5.
pub const END: Duration = Duration::from_secs(PARTING.as_secs() + 660);
/// The relay's people are slower when only they are left.
const LATE_PACE: Duration = Duration::from_secs(7);
/// What a core may hold ready to be sent after one input.
const OUTBOX_BYTES_MAX: usize = 16 << 20;
/// Between hub and workers, and for signaling's connections.
const HOP: Duration = Duration::from_millis(1);
const SIGNALING_DELAY: Duration = Duration::from_millis(12);
const TRACE_LINES: usize = 400;
const STRANGERS_MAX: usize = 64;
const CAPTURE_PACKETS: usize = 50_000;

#[derive(Debug)]
enum Event {
    /// A datagram reaches the server.
    ToServer { from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    /// A datagram from the server reaches somebody's outside address.
    ToClient { from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    /// A connection's next segment leaves.
    Segment { connection: u64, up: bool },
    /// Bytes of a connection arrive.
    Piece { connection: u64, up: bool, bytes: Vec<u8> },
    /// A datagram that came through a connection is taken out of it.
    ToLeg { inside: SocketAddr, server: SocketAddr, data: Vec<u8> },
    /// A message from a client.
    Up { conn: u64, message: Value },
    /// A message to a client.
    Down { conn: u64, message: Value },
    /// A new connection of this person is through.
    Connect { person: u16 },
    /// A worker's message reaches the hub.
    FromMedia { worker: usize, message: FromMedia },
    /// Something from `trouble.rs`.
    Deed(Deed),
    /// Deadlines are looked at.
    Wake,
}

/// Why a run failed, and all that helps to see it.
#[derive(Debug)]
pub struct Failure {
    /// The broken promise.
    pub violation: Violation,
    /// When.
    pub at: Duration,
    /// What happened before.
    pub trace: Vec<String>,
    /// What crossed the network before.
    pub capture: Vec<Captured>,
}

impl Failure {
    /// What is left to tell when a core has panicked.
    pub(crate) fn of_panic(panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        let violation = Violation { oracle: "panic", what: text.to_owned() };
        Self { violation, at: Duration::ZERO, trace: Vec::new(), capture: Vec::new() }
    }
}

/// What a good run amounted to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Packets that reached subscribers.
    pub packets: u64,
    /// Payloads that came back through the relay.
    pub relayed: u64,
    /// Datagrams between two behind one NAT, by their outside addresses.
    pub hairpinned: u64,
    /// Allocations that the relay had no room for.
    pub refused: u64,
    /// Messages that waited for who was away, and were told.
    pub waited: u64,
    /// Sessions that could not go on, because too much had waited.
    pub begun_anew: u64,
    /// Datagrams and messages that came over TCP.
    pub over_tcp: u64,
    /// Call records.
    pub calls: u64,
    /// Events that were worked off.
    pub events: u64,
    /// Of all that was sent and said: one seed, one digest.
    pub digest: Digest,
}

/// Everything.
pub struct World {
    plan: Plan,
    start: Instant,
    pub(crate) now: Duration,
    pub(crate) dice: Dice,
    node: Node,
    pub(crate) people: Vec<Person>,
    relay_users: Vec<RelayUser>,
    /// Users who allocate all they can get and send nothing.
    greedy: Vec<RelayUser>,
    /// Per person and direction (up, down); the relay's people share the last pair.
    links: Vec<[Link; 2]>,
    chatters: Vec<Pair>,
    /// Of TCP, by number.
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    next_wake: Duration,
    next_conn: u64,
    conns: BTreeMap<u64, u16>,
    bound_ports: BTreeSet<relay_core::RelayedAddr>,
    pub(crate) captured: VecDeque<Captured>,
    /// Who has no password but was given a nonce.
    pub(crate) strangers: VecDeque<(SocketAddr, Vec<u8>)>,
    trace: VecDeque<String>,
    nonces: Nonces,
    consumers: Consumers,
    permissions: Permissions,
    call_log: CallLog,
    rung: BTreeMap<String, (u16, u16)>,
    summary: Summary,
    digester: Digester,
    /// Bytes that the relay has kept of what strangers sent.
    kept_of_strangers: i64,
    broken: Option<Violation>,
}

impl World {
    /// The world of a plan, at its beginning.
    pub fn new(plan: Plan) -> Self {
        let start = epoch::origin();
        crypto::seed(plan.seed);
        let mut dice = Dice::new(plan.seed, "world");
        let node_clock = if plan.has(Kind::Skew) {
            skewed(start, &mut Dice::new(plan.seed, "node clock"))
        } else {
            Clock::new(start)
        };
        let node = Node::new(&plan, node_clock, &mut dice);
        let mut world = Self {
            start,
            now: Duration::ZERO,
            node,
            people: Vec::new(),
            relay_users: Vec::new(),
            greedy: Vec::new(),
            links: Vec::new(),
            chatters: Vec::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            next_wake: Duration::MAX,
            next_conn: 0,
            conns: BTreeMap::new(),
            bound_ports: BTreeSet::new(),
            captured: VecDeque::new(),
            strangers: VecDeque::new(),
            trace: VecDeque::new(),
            nonces: Nonces::default(),
            consumers: Consumers::default(),
            permissions: Permissions::default(),
            call_log: CallLog::default(),
            rung: BTreeMap::new(),
            summary: Summary::default(),
            digester: Digester::default(),
            kept_of_strangers: 0,
            broken: None,
            dice,
            plan,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        for id in 0..self.plan.people {
            let outside = IpAddr::V4(Ipv4Addr::new(203, 0, 113, id as u8 + 1));
            let behind = self.dice.chance(self.plan.natted);
            let nat = behind.then(|| {
                let mapping = *self.dice.pick(&Dependence::ALL);
                let filtering = *self.dice.pick(&Dependence::ALL);
                Nat::new(outside, mapping, filtering, Duration::from_secs(30))
            });
            let ip = if behind { IpAddr::V4(Ipv4Addr::new(10, 0, id as u8, 2)) } else { outside };
            let mut person = Person::new(
                id,
                id % self.plan.rooms,
                ip,
                nat,
                if self.plan.has(Kind::Skew) {
                    skewed(self.start, &mut Dice::new(self.plan.seed, &format!("clock {id}")))
                } else {
                    Clock::new(self.start)
                },
            );
            person.wraps = self.plan.has(Kind::Wrap);
            person.encodings = self.plan.encodings;
            person.tcp = self.plan.is_over_tcp(&format!("person {id}"));
            self.people.push(person);
            let at = self.dice.between(Duration::ZERO, Duration::from_secs(1));
            self.at(at, Event::Connect { person: id });
        }
        for id in 0..self.plan.relay_users {
            let address = SocketAddr::from(([203, 0, 114, id as u8 + 1], 4000));
            let peer = SocketAddr::from(([8, 8, 4, id as u8 + 1], 7000));
            let way = if self.dice.chance(0.5) { Way::Channel } else { Way::Indication };
            let expires = UNIX_START.as_secs() + CREDENTIALS_SECS;
            let name = format!("r{id}");
            let mut user = RelayUser::new(&name, address, peer, way, expires, &mut self.dice);
            self.settle(&mut user, id);
            self.relay_users.push(user);
        }
        for number in 0..=self.plan.people {
            let link = |name: &str| Link::new(Dice::new(self.plan.seed, &format!("{name}{number}")));
            self.links.push([link("up"), link("down")]);
        }
        for (at, deed) in trouble::schedule(&self.plan, &mut self.dice) {
            self.at(at, Event::Deed(deed));
        }
    }

    /// Runs to the end.
    pub fn run(mut self) -> Result<Summary, Box<Failure>> {
        match self.play() {
            Ok(()) => Ok(Summary { digest: self.digester.finish(), ..self.summary }),
            Err(violation) => Err(Box::new(Failure {
                violation,
                at: self.now,
                trace: self.trace.into(),
                capture: self.captured.into(),
            })),
        }
    }

    /// The path from the server to a person.
    pub(crate) fn path_down(&mut self, person: usize) -> &mut Link {
        &mut self.links[person][1]
    }

    fn play(&mut self) -> Verdict {
        self.until(HEALED)?;
        self.heal();
        self.until(JUDGED)?;
        let before: Vec<u64> = self.relay_users.iter().map(|user| user.got).collect();
        self.until(PARTING)?;
        self.everybody_is_heard(&before)?;
        self.state_is_as_the_people_see_it()?;
        self.part();
        self.until(END)?;
        self.nothing_is_left()
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.next_event += 1;
        self.queue.push(Reverse((at, self.next_event)));
        self.events.insert(self.next_event, event);
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.trace.len() == TRACE_LINES {
            self.trace.pop_front();
        }
        let line = line();
        self.digester.line(self.now, &line);
        self.trace.push_back(format!("{:9.3} {line}", self.now.as_secs_f64()));
    }

    /// Lets everything happen that is due before `end`.
    pub(crate) fn until(&mut self, end: Duration) -> Verdict {
        self.rest();
        while let Some(Reverse((at, number))) = self.queue.peek().copied().filter(|next| next.0.0 <= end) {
            self.queue.pop();
            debug_assert!(at >= self.now, "time does not run backwards");
            self.now = at;
            self.summary.events += 1;
            let event = self.events.remove(&number).expect("every queued number has its event");
            self.happen(event);
            self.rest();
            if let Some(violation) = self.broken.take() {
                return Err(violation);
            }
        }
        self.now = end;
        Ok(())
    }

    fn judge(&mut self, verdict: Verdict) {
        if let Err(violation) = verdict {
            self.broken.get_or_insert(violation);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToServer { from, to, data } => self.reaches_server(from, to, data),
            Event::ToClient { from, to, data } => self.reaches_client(from, to, &data),
            Event::Segment { connection, up } => self.segment(connection, up),
            Event::Piece { connection, up, bytes } => self.piece(connection, up, &bytes),
            Event::ToLeg { inside, server, data } => self.reaches_leg(inside, server, &data),
            Event::Up { conn, message } => {
                if self.conns.contains_key(&conn) {
                    self.note(|| format!("conn {conn} says {}", brief(&message)));
                    self.watch_call(conn, &message);
                    self.hub(hub::Input::Text { conn: ConnId(conn), text: message.to_string() });
                }
            }
            Event::Down { conn, message } => {
                let person = self.conns.get(&conn).copied();
                if let Some(person) = person.filter(|id| self.people[usize::from(*id)].conn == Some(conn)) {
                    self.note(|| format!("p{person} hears {}", brief(&message)));
                    let now = self.now;
                    self.people[usize::from(person)].hear(now, &message);
                    self.on_call_message(person, &message);
                }
            }
            Event::Connect { person } => self.connect(person),
            Event::FromMedia { worker, message } => self.hub(hub::Input::Media { worker, message }),
            Event::Deed(deed) => {
                self.note(|| format!("{deed:?}"));
                trouble::perform(self, deed);
            }
            Event::Wake => self.next_wake = Duration::MAX,
        }
    }

    /// Everybody who is due acts; then the next deadline is noted.
    fn rest(&mut self) {
        self.hub(hub::Input::Timeout);
        for worker in 0..self.node.workers.len() {
            if self.node.workers[worker].deadline(self.node.clock) <= self.now {
                self.run_worker(worker);
            }
        }
        self.relay(relay_core::Input::Timeout);
        for id in 0..self.people.len() {
            self.poll_person(id);
        }
        self.poll_relay_users();
        self.queues_are_bounded();
        self.calls_are_those_without_a_record();
        let hub = match self.node.hub.poll_output() {
            hub::Output::Timeout(due) => due.map(|due| self.node.clock.due(due)),
            _ => Some(self.now),
        };
        let relay = match self.node.relay.poll_output() {
            relay_core::Output::Timeout(due) => self.node.clock.due(due),
            _ => self.now,
        };
        let clock = self.node.clock;
        let workers = self.node.workers.iter_mut().map(|worker| worker.deadline(clock)).min();
        let people = self.people.iter().map(Person::deadline).min();
        let users = self.relay_users.iter().chain(&self.greedy).map(RelayUser::deadline).min();
        let due = [hub, workers, people, users, Some(relay)].into_iter().flatten().min();
        let due = due.unwrap_or(Duration::MAX).max(self.now + Duration::from_micros(100));
        if due < self.next_wake && due < END + Duration::from_secs(1) {
            self.next_wake = due;
            self.at(due, Event::Wake);
        }
    }

    // --- what trouble does ---

    pub(crate) fn weather(&mut self, link: usize, up: bool, change: impl FnOnce(&mut Weather)) {
        let link = link % self.links.len();
        change(&mut self.links[link][usize::from(!up)].weather);
    }

    pub(crate) fn stall(&mut self, worker: usize, time: Duration) {
        let worker = worker % self.node.workers.len();
        self.node.workers[worker].stalled_until = self.now + time;
    }

    pub(crate) fn fill_queue(&mut self, worker: usize, time: Duration) {
        let worker = worker % self.node.workers.len();
        self.node.workers[worker].full_until = self.now + time;
    }

    pub(crate) fn crash(&mut self, worker: usize) {
        let worker = worker % self.node.workers.len();
        let (at, wall) = (self.node.clock.read(self.now), self.node.wall(self.now));
        let address = self.node.workers[worker].address;
        self.break_connections(|_, server| server == address);
        self.node.workers[worker].crash(at, wall, &mut self.dice);
        let due = self.now + HOP;
        self.at(due, Event::FromMedia { worker, message: FromMedia::Lost });
    }

    pub(crate) fn busy(&mut self, worker: usize, busy_permille: u16) {
        let worker = worker % self.node.workers.len();
        let due = self.now + HOP;
        self.at(due, Event::FromMedia { worker, message: FromMedia::Load { busy_permille } });
    }

    pub(crate) fn drain(&mut self) {
        self.hub(hub::Input::Drain);
    }

    pub(crate) fn restart_relay(&mut self) {
        for port in std::mem::take(&mut self.bound_ports) {
            self.permissions.closed(port);
        }
        let (at, wall) = (self.node.clock.read(self.now), self.node.wall(self.now));
        self.node.restart_relay(at, wall, &mut self.dice);
        self.break_connections(|_, server| server == TURN);
        for user in self.relay_users.iter_mut().filter(|user| user.tcp) {
            user.begin_again(self.now);
        }
        self.greedy.iter_mut().for_each(|user| user.begin_again(self.now));
    }

    pub(crate) fn media_addresses(&self) -> Vec<SocketAddr> {
        self.node.workers.iter().map(|worker| worker.address).collect()
    }

    fn heal(&mut self) {
        self.note(|| "all is mended".into());
        self.set_wall_clock(0);
        for link in self.links.iter_mut().flatten() {
            link.weather = Weather::default();
        }
        for worker in &mut self.node.workers {
            worker.stalled_until = Duration::ZERO;
            worker.full_until = Duration::ZERO;
        }
        for id in 0..self.plan.people {
            self.people[usize::from(id)].silent = false;
            if self.people[usize::from(id)].conn.is_none() {
                self.at(self.now, Event::Connect { person: id });
            }
        }
        for user in &mut self.greedy {
            user.leave(self.now);
        }
        trouble::undo(self);
    }
}

/// A message's type, and who or what it is about.
fn brief(message: &Value) -> String {
    let mut line = message["type"].as_str().unwrap_or("?").to_owned();
    for key in
        ["requestId", "ok", "code", "callId", "peerId", "reason", "resumed", "producerId", "consumerId"]
    {
        if !message[key].is_null() {
            line += &format!(" {key}={}", message[key]);
        }
    }
    line
}
