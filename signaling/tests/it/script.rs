//! A hub with users, a clock that only scripts move, and media that agrees to everything unless told to wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use common::call_record::CallRecord;
use common::config::Secret;
use common::control::{Action, Command, Done, FromMedia, MediaError, Reply, TransportInfo};
use common::ids::{PeerId, ProducerId, RoomId, SessionId, TransportId};
use common::rtp_parameters::{DtlsParameters, DtlsRole, IceParameters, SctpParameters};
use common::token::Claims;
use serde_json::{Value, json};
use signaling::hub::{AdminRequest, AdminResult, ConnId, Hub, HubConfig, IceServers, Input, Output};

/// The world around one hub.
pub struct World {
    pub hub: Hub,
    pub now: Instant,
    /// Commands that media has not answered: only while `media_answers` is off.
    pub media: Vec<Command>,
    pub media_answers: bool,
    /// While it is on, the worker's queue takes nothing.
    pub queue_full: bool,
    /// Or only that of this worker.
    pub full_worker: Option<usize>,
    /// Who is in which room of the SFU, by the commands that it has got.
    pub sfu: BTreeMap<RoomId, BTreeSet<PeerId>>,
    /// What has left the hub for which worker.
    pub commands: Vec<(usize, Command)>,
    /// Which worker was last asked for something of each room.
    workers: BTreeMap<RoomId, usize>,
    /// What `OpenRoom` is answered when it is refused.
    pub refuse_rooms: Option<MediaError>,
    pub records: Vec<CallRecord>,
    /// What each connection was sent since it was last asked.
    pub sent: Vec<(u64, Value)>,
    pub closed: Vec<(u64, u16)>,
    pub alive: Vec<u64>,
    admin: Option<AdminResult>,
}

impl World {
    pub fn new() -> Self {
        Self::with_workers(1)
    }

    pub fn with_workers(workers: usize) -> Self {
        #[allow(clippy::disallowed_methods)] // the one reading, as a shell would
        let now = Instant::now();
        let config = HubConfig {
            resume_grace: Duration::from_secs(10),
            ring_timeout: Duration::from_secs(45),
            heartbeat: Duration::from_secs(15),
            max_peers_per_room: 10,
            joins_per_minute_per_user: 60,
            workers,
            ice: IceServers { urls: vec![], secret: Secret(vec![1]), ttl: Duration::from_secs(60) },
        };
        Self {
            hub: Hub::new(config, [7; 32], now, Duration::from_secs(1_000_000)),
            now,
            media: Vec::new(),
            media_answers: true,
            queue_full: false,
            full_worker: None,
            sfu: BTreeMap::new(),
            commands: Vec::new(),
            workers: BTreeMap::new(),
            refuse_rooms: None,
            records: Vec::new(),
            sent: Vec::new(),
            closed: Vec::new(),
            alive: Vec::new(),
            admin: None,
        }
    }

    pub fn put(&mut self, input: Input) {
        self.hub.handle_input(self.now, input);
        self.drain();
        while self.media_answers && !self.media.is_empty() {
            let command = self.media.remove(0);
            self.answer(&command);
        }
    }

    fn drain(&mut self) {
        loop {
            match self.hub.poll_output() {
                Output::Timeout(_) => break,
                Output::Send { conn, text } => {
                    assert!(self.alive.contains(&conn.0), "{text} was sent to a connection that is gone");
                    self.sent.push((conn.0, serde_json::from_str(&text).expect("the hub sends JSON")));
                }
                Output::Close { conn, code, .. } => {
                    self.closed.push((conn.0, code));
                    self.alive.retain(|alive| *alive != conn.0);
                }
                Output::Media { worker, command } if self.queue_full || self.full_worker == Some(worker) => {
                    self.hub.handle_input(self.now, Input::WorkerQueueFull { worker, command });
                }
                Output::Media { worker, command } => {
                    self.workers.insert(command.room.clone(), worker);
                    self.commands.push((worker, command.clone()));
                    self.enters_the_sfu(&command);
                    self.media.push(command);
                }
                Output::Log(record) => self.records.push(record),
                Output::Admin { result, .. } => self.admin = Some(result),
                Output::Ping { .. } => {}
            }
        }
    }

    pub fn worker_of(&self, room: &str) -> Option<usize> {
        self.workers.get(&RoomId::new(room).expect("an id")).copied()
    }

    fn enters_the_sfu(&mut self, Command { room, peer, action, .. }: &Command) {
        match action {
            Action::OpenRoom { .. } if self.refuse_rooms.is_none() => {
                self.sfu.entry(room.clone()).or_default();
            }
            Action::CloseRoom => {
                self.sfu.remove(room);
            }
            Action::AddPeer => {
                let added = self.sfu.get_mut(room).is_none_or(|peers| peers.insert(peer.clone()));
                assert!(added, "{peer} is added to {room} twice");
            }
            Action::RemovePeer => {
                self.sfu.get_mut(room).map(|peers| peers.remove(peer));
            }
            _ => {}
        }
    }

    fn answer(&mut self, command: &Command) {
        let id = || ProducerId::new(&format!("p{}", command.token)).expect("an id");
        let result = match (&command.action, &self.refuse_rooms) {
            (Action::OpenRoom { .. }, Some(error)) => Err(error.clone()),
            (Action::AddPeer, _) if !self.sfu.contains_key(&command.room) => Err(MediaError::RoomNotFound),
            (Action::OpenRoom { .. }, None) => Ok(Done::Room { capabilities: Default::default() }),
            (Action::Produce { .. }, _) => Ok(Done::Producer { id: id() }),
            (Action::CreateTransport { .. }, _) => Ok(Done::Transport(Box::new(transport(command.token)))),
            _ => Ok(Done::Ok),
        };
        let reply = FromMedia::Reply(Reply { token: command.token, result });
        self.hub.handle_input(self.now, Input::Media { worker: 0, message: reply });
        self.drain();
    }

    /// Connects a user with these claims beside `sub`; the answer is the session id.
    pub fn connect(&mut self, conn: u64, user: &str, claims: Value, resume: Option<&str>) -> Value {
        let mut all = json!({ "sub": user, "exp": 9_999_999_999u64 });
        for (key, value) in claims.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        let claims: Claims = serde_json::from_value(all).expect("claims");
        let resume = resume.map(|id| SessionId::new(id).expect("a session id"));
        self.alive.push(conn);
        self.sent.clear();
        self.put(Input::Connect { conn: ConnId(conn), claims, resume });
        self.told(conn, "connected").unwrap_or_default()
    }

    pub fn user(&mut self, conn: u64, user: &str) {
        self.connect(conn, user, json!({}), None);
    }

    /// What an administrator is answered; null is "no such thing".
    pub fn admin(&mut self, request: AdminRequest) -> Value {
        self.put(Input::Admin { id: 0, request });
        self.admin.take().expect("every request is answered").unwrap_or_default()
    }

    /// What this message made the hub send, to everybody.
    pub fn say(&mut self, conn: u64, message: Value) {
        self.sent.clear();
        self.put(Input::Text { conn: ConnId(conn), text: message.to_string() });
    }

    /// The last message of this type to this connection since the last `say`, `lose` or `wait`.
    pub fn told(&self, conn: u64, kind: &str) -> Option<Value> {
        self.sent
            .iter()
            .rev()
            .find(|(to, message)| *to == conn && message["type"] == kind)
            .map(|(_, m)| m.clone())
    }

    /// The code of the error or refused response that this message is answered with; `ok` when there is none.
    pub fn code(&mut self, conn: u64, message: Value) -> String {
        self.say(conn, message);
        let answer =
            self.sent.iter().find(|(to, m)| *to == conn && (m["type"] == "error" || m["ok"] == false));
        answer.map_or("ok".into(), |(_, message)| message["code"].as_str().unwrap_or("no code").into())
    }

    pub fn lose(&mut self, conn: u64, code: Option<u16>) {
        self.alive.retain(|alive| *alive != conn);
        self.sent.clear();
        self.put(Input::Closed { conn: ConnId(conn), code });
    }

    /// Time passes; all connections but those in `silent` show signs of life.
    pub fn wait(&mut self, seconds: u64, silent: &[u64]) {
        self.sent.clear();
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            for conn in self.alive.clone() {
                if !silent.contains(&conn) {
                    self.put(Input::Alive { conn: ConnId(conn) });
                }
            }
            self.put(Input::Timeout);
        }
    }

    /// Alice (1) has rung Bob (2), who may have answered.
    pub fn call(answered: bool) -> Self {
        let mut world = Self::new();
        for (conn, user) in [(1, "alice"), (2, "bob"), (3, "carol"), (9, "mallory")] {
            world.user(conn, user);
        }
        world.say(1, initiate("c", &["bob"]));
        if answered {
            world.say(2, json!({ "type": "call-answer", "callId": "c" }));
        }
        world
    }

    /// Alice (1) and Bob (2) are in the room `r`.
    pub fn room() -> Self {
        let mut world = Self::new();
        world.user(1, "alice");
        world.user(2, "bob");
        for conn in [1, 2] {
            assert_eq!(world.code(conn, join("r")), "ok");
        }
        world
    }
}

fn transport(token: u64) -> TransportInfo {
    TransportInfo {
        id: TransportId::new(&format!("t{token}")).expect("an id"),
        ice_parameters: IceParameters { username_fragment: "u".into(), password: "p".into(), ice_lite: true },
        ice_candidates: Vec::new(),
        dtls_parameters: DtlsParameters { role: DtlsRole::Auto, fingerprints: Vec::new() },
        sctp_parameters: SctpParameters {
            port: 5000,
            os: 1,
            mis: 1,
            max_message_size: 1,
            max_send_message_size: 1,
            max_receive_message_size: 1,
            is_data_channel: true,
        },
    }
}

pub fn initiate(call: &str, recipients: &[&str]) -> Value {
    json!({ "type": "call-initiate", "callId": call, "recipientIds": recipients, "callType": "video" })
}

pub fn join(room: &str) -> Value {
    json!({ "type": "join-room", "requestId": 1, "roomId": room })
}

pub fn produce() -> Value {
    json!({ "type": "produce", "requestId": 2, "transportId": "t", "kind": "audio", "source": "microphone",
            "rtpParameters": { "codecs": [] } })
}
