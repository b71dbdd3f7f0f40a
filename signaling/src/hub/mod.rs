//! The core of signaling: messages, media's news and time in; messages, media commands and call records out.
//!
//! No clock, socket or randomness of its own. `session` holds who is connected, `calls` the calls, `rooms` who is in a
//! room; each is a part of this one type and tells the others nothing but through it.

mod api;
mod backlog;
mod calls;
mod drain;
mod placement;
mod quality;
mod refusals;
mod rooms;
mod session;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::control::{Command, Token};
use common::ids::{CallId, RoomId, SessionId, UserId};
use common::wall_clock::WallClock;
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

pub use api::{AdminError, AdminRequest, AdminResult, ConnId, HubConfig, IceServers, Input, Output, Stats};
pub use refusals::Refusals;

use self::backlog::Backlog;
use self::calls::{Call, Held};
use self::placement::Placement;
use self::rooms::{Pending, Room};
use self::session::{Conn, Session};
use crate::message::Family;

/// Why the hub wants to wake up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Heartbeat(ConnId),
    Grace(SessionId),
    Ring(CallId),
    Held(UserId, CallId),
    Retry(usize),
    LetGo,
}

/// The core.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    rng: ChaCha12Rng,
    wall: WallClock,
    now: Instant,
    draining: bool,
    conns: BTreeMap<ConnId, Conn>,
    sessions: BTreeMap<SessionId, Session>,
    by_user: BTreeMap<UserId, BTreeSet<SessionId>>,
    calls: BTreeMap<CallId, Call>,
    held: BTreeMap<(UserId, CallId), Held>,
    rooms: BTreeMap<RoomId, Room>,
    pending: BTreeMap<Token, Pending>,
    backlog: Backlog,
    placement: Placement,
    refusals: Refusals,
    joins: BTreeMap<UserId, VecDeque<Instant>>,
    next_token: Token,
    /// What workers of one room call what they share.
    next_pipe: u64,
    timers: BTreeSet<(Instant, Timer)>,
    outputs: VecDeque<Output>,
}

/// The sentence of an error.
const SENTENCE_CHARS_MAX: usize = 256;

/// An error that the sender of a message is told.
#[derive(Debug)]
struct Refusal {
    code: &'static str,
    error: String,
    user: Option<UserId>,
    /// The limit that was reached, as metrics name it.
    limit: Option<&'static str>,
}

impl Refusal {
    fn new(code: &'static str, error: impl Into<String>) -> Self {
        let mut error: String = error.into();
        if let Some((end, _)) = error.char_indices().nth(SENTENCE_CHARS_MAX) {
            error.truncate(end); // parsers quote what they were given, which may be long
        }
        Self { code, error, user: None, limit: None }
    }

    fn beyond(self, limit: &'static str) -> Self {
        Self { limit: Some(limit), ..self }
    }
}

impl Hub {
    /// A hub without anybody. `unix_time` is since the Unix epoch, at `now`.
    pub fn new(config: HubConfig, seed: [u8; 32], now: Instant, unix_time: Duration) -> Self {
        Self {
            placement: Placement::new(config.workers, now),
            config,
            rng: ChaCha12Rng::from_seed(seed),
            wall: WallClock::new(now, unix_time),
            now,
            draining: false,
            conns: BTreeMap::new(),
            sessions: BTreeMap::new(),
            by_user: BTreeMap::new(),
            calls: BTreeMap::new(),
            held: BTreeMap::new(),
            rooms: BTreeMap::new(),
            pending: BTreeMap::new(),
            backlog: Backlog::default(),
            refusals: Refusals::default(),
            joins: BTreeMap::new(),
            next_token: 0,
            next_pipe: 0,
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Changes state; what is to be done about it comes from [`Hub::poll_output`].
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        self.now = now;
        match input {
            Input::Connect { conn, claims, resume } => self.connect(conn, claims, resume),
            Input::Text { conn, text } => self.text(conn, &text),
            Input::NotText { conn } => self.not_text(conn),
            Input::Alive { conn } => self.alive(conn),
            Input::Closed { conn, code } => self.closed(conn, code),
            Input::CutOff { conn, code } => self.cut_off(conn, code),
            Input::Media { worker, message } => self.on_media(worker, message),
            Input::WorkerQueueFull { worker, command } => self.queue_full(worker, command),
            Input::Admin { id, request } => {
                let result = self.admin(request);
                self.outputs.push_back(Output::Admin { id, result });
            }
            Input::WallClock { unix_time } => self.wall = WallClock::new(now, unix_time),
            Input::Drain => self.drain(),
            Input::Stop => self.stop(),
            Input::Timeout => {}
        }
        self.expire();
    }

    /// The next thing to do, until it is [`Output::Timeout`].
    pub fn poll_output(&mut self) -> Output {
        while let Some(output) = self.outputs.pop_front() {
            match output {
                Output::Media { worker, command } if self.backlog.holds_back(worker) => {
                    self.queue_full(worker, command);
                }
                output => return output,
            }
        }
        Output::Timeout(self.timers.first().map(|(at, _)| *at))
    }

    /// How much there is.
    pub fn stats(&self) -> Stats {
        Stats {
            sessions: self.sessions.len(),
            calls: self.calls.len(),
            rooms: self.rooms.len(),
            requests: self.pending.len(),
            held_back: self.backlog.len(),
        }
    }

    /// Everything that is kept for somebody, by name: all of it 0 when nobody is there. Who joined within the last minute
    /// is remembered beside it, until the next one joins.
    pub fn held(&self) -> [(&'static str, usize); 9] {
        [
            ("connections", self.conns.len()),
            ("sessions", self.sessions.len()),
            ("users", self.by_user.len()),
            ("calls", self.calls.len()),
            ("messages to calls that have not begun", self.held.len()),
            ("rooms", self.rooms.len()),
            ("requests", self.pending.len()),
            ("commands held back", self.backlog.len()),
            ("timers", self.timers.len()),
        ]
    }

    /// The longest queue of each kind that clients can fill, by name, with its length and its bound.
    pub fn queues(&self) -> [(&'static str, usize, usize); 4] {
        let [messages, bytes] = self.longest_undelivered();
        let [held, held_bytes] = self.longest_held();
        [messages, bytes, held, held_bytes]
    }

    /// What was refused since the start.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    fn count(&mut self, refusal: &Refusal) {
        self.refusals.message(refusal.code);
        if let Some(limit) = refusal.limit {
            self.refusals.limit(limit);
        }
    }

    fn expire(&mut self) {
        while self.timers.first().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, timer)) = self.timers.pop_first() else { return };
            match timer {
                Timer::Heartbeat(conn) => self.heartbeat(conn),
                Timer::Grace(session) => self.end_session(&session, "disconnected"),
                Timer::Ring(call) => self.ring_timeout(&call),
                Timer::Held(user, call) => self.give_up_held(&user, &call),
                Timer::Retry(worker) => self.retry(worker),
                Timer::LetGo => self.let_go(),
            }
        }
    }

    fn unix_now(&self) -> Duration {
        self.wall.at(self.now)
    }

    /// 128 random bits, as text.
    fn random_id(&mut self) -> String {
        format!("{:016x}{:016x}", self.rng.next_u64(), self.rng.next_u64())
    }

    /// One message of a session, within its rate.
    fn message(&mut self, session: &SessionId, text: &str) {
        let invalid = |why: &str| Refusal::new("invalid-message", format!("Invalid message format{why}"));
        let message = match serde_json::from_str::<Value>(text) {
            Ok(message) if message.is_object() => message,
            _ => return self.refuse(session, invalid(""), &Value::Null),
        };
        let Some(kind) = message.get("type").and_then(Value::as_str).filter(|kind| !kind.is_empty()) else {
            return self.refuse(session, invalid(": type is missing"), &message);
        };
        let done = match Family::of(kind) {
            Some(Family::Room) => return self.request(session, &message),
            Some(Family::Quality) => return self.quality_report(session, &message),
            Some(Family::Call) => match serde_json::from_value(message.clone()) {
                Ok(parsed) => self.call_message(session, parsed),
                Err(error) => Err(invalid(&format!(": {error}"))),
            },
            None => Err(Refusal::new("unknown-type", "Unknown message type")),
        };
        if let Err(refusal) = done {
            self.refuse(session, refusal, &message);
        }
    }

    /// Tells a session what was wrong with its message; short ids of the message come back with it.
    fn refuse(&mut self, session: &SessionId, refusal: Refusal, message: &Value) {
        self.count(&refusal);
        let mut error = json!({ "type": "error", "error": refusal.error, "code": refusal.code });
        for key in ["callId", "requestId"] {
            if let Some(value) = message.get(key).filter(|value| is_short(value)) {
                error[key] = value.clone();
            }
        }
        if let Some(user) = refusal.user {
            error["userId"] = json!(user);
        }
        self.send(session, &error);
    }

    /// To one session, now or when it is back.
    fn send(&mut self, session: &SessionId, message: &Value) {
        let text: Arc<str> = message.to_string().into();
        self.send_text(session, text);
    }

    fn command_worker(&mut self, worker: usize, command: Command) {
        self.outputs.push_back(Output::Media { worker, command });
    }
}

/// What may be echoed: a number, or text no longer than an id.
fn is_short(value: &Value) -> bool {
    value.is_number() || value.as_str().is_some_and(|text| text.len() <= common::ids::ID_BYTES_MAX)
}
