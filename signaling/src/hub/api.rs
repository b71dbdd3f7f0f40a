//! What goes into the hub and what comes out of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::call_record::CallRecord;
use common::config::Secret;
use common::control::{Command, FromMedia};
use common::ids::{PeerId, RoomId, SessionId, UserId};
use common::token::Claims;
use common::turn_credentials;
use serde_json::{Value, json};

/// One connection, as the shell numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// The hub's settings.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// How long a lost connection may come back.
    pub resume_grace: Duration,
    /// How long a call rings.
    pub ring_timeout: Duration,
    /// Ping interval; silent for two is lost.
    pub heartbeat: Duration,
    /// Peers in one room.
    pub max_peers_per_room: usize,
    /// `join-room` per user and minute.
    pub joins_per_minute_per_user: u32,
    /// Media workers.
    pub workers: usize,
    /// What clients are told of STUN and TURN.
    pub ice: IceServers,
}

/// Our STUN and TURN, and how to make credentials for it.
#[derive(Debug, Clone)]
pub struct IceServers {
    /// As in `RTCIceServer.urls`.
    pub urls: Vec<String>,
    /// Shared with the relay.
    pub secret: Secret,
    /// How long credentials are good.
    pub ttl: Duration,
}

impl IceServers {
    /// The `iceServers` array for a user; `unix_time` is since the Unix epoch.
    pub fn for_user(&self, user: &UserId, unix_time: Duration) -> Value {
        if self.urls.is_empty() {
            return json!([]);
        }
        let expires = (unix_time + self.ttl).as_secs();
        let (username, credential) = turn_credentials::mint(&self.secret, user.as_str(), expires);
        let (turn, stun): (Vec<_>, Vec<_>) = self.urls.iter().partition(|url| url.starts_with("turn"));
        json!([{ "urls": stun }, { "urls": turn, "username": username, "credential": credential }])
    }
}

/// What an administrator asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminRequest {
    /// All rooms.
    Rooms,
    /// One room.
    Room(RoomId),
    /// Closes a room.
    CloseRoom {
        /// The room.
        room: RoomId,
        /// Who closes it.
        by: UserId,
    },
    /// Removes a peer from a room.
    RemovePeer {
        /// The room.
        room: RoomId,
        /// The peer.
        peer: PeerId,
        /// Who removes it.
        by: UserId,
    },
}

/// Why an administrator's request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No such room.
    #[error("Room not found")]
    RoomNotFound,
    /// No such peer in the room.
    #[error("Peer not found")]
    PeerNotFound,
}

impl AdminError {
    /// The stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RoomNotFound => "room-not-found",
            Self::PeerNotFound => "peer-not-found",
        }
    }
}

/// The answer to an [`AdminRequest`]; null where there is nothing to tell.
pub type AdminResult = Result<Value, AdminError>;

/// What happens to the hub.
#[derive(Debug)]
pub enum Input {
    /// A connection with a good token.
    Connect {
        /// Its number, never used before.
        conn: ConnId,
        /// Who it is.
        claims: Claims,
        /// The session it wants back.
        resume: Option<SessionId>,
    },
    /// A text message.
    Text {
        /// From whom.
        conn: ConnId,
        /// The message.
        text: String,
    },
    /// A binary message.
    NotText {
        /// From whom.
        conn: ConnId,
    },
    /// A ping or pong frame.
    Alive {
        /// From whom.
        conn: ConnId,
    },
    /// The connection is gone; `code` from the close frame (1005 when it had none), if there was one.
    Closed {
        /// Which.
        conn: ConnId,
        /// RFC 6455 §7.4.
        code: Option<u16>,
    },
    /// The shell has closed the connection for what its client did.
    CutOff {
        /// Which.
        conn: ConnId,
        /// In our close frame: 1002, 1007, 1009 or 1013.
        code: u16,
    },
    /// From a media worker.
    Media {
        /// Its number.
        worker: usize,
        /// What it says.
        message: FromMedia,
    },
    /// A command found the worker's queue full. To be told before the next output is polled.
    WorkerQueueFull {
        /// The worker's number.
        worker: usize,
        /// The command, which may be offered again.
        command: Command,
    },
    /// From an administrator.
    Admin {
        /// Returned with the result.
        id: u64,
        /// What is asked.
        request: AdminRequest,
    },
    /// The wall clock, which may have been set. New credentials and new calls go by it; a call that runs goes on by the
    /// one that it began with, and lasts as long as it lasts.
    WallClock {
        /// Since the Unix epoch.
        unix_time: Duration,
    },
    /// The server will stop when what runs has ended; nothing new from now on.
    Drain,
    /// The server stops now.
    Stop,
    /// The time of [`Output::Timeout`] has come.
    Timeout,
}

/// What the hub wants done.
#[derive(Debug)]
pub enum Output {
    /// Send a message.
    Send {
        /// To whom.
        conn: ConnId,
        /// The JSON.
        text: Arc<str>,
    },
    /// Send a ping frame.
    Ping {
        /// To whom.
        conn: ConnId,
    },
    /// Close with a frame.
    Close {
        /// Which.
        conn: ConnId,
        /// RFC 6455 §7.4.
        code: u16,
        /// For people.
        reason: &'static str,
    },
    /// Command a media worker.
    Media {
        /// Its number.
        worker: usize,
        /// What it is to do.
        command: Command,
    },
    /// Write to the call log.
    Log(CallRecord),
    /// Answer an administrator.
    Admin {
        /// The request's.
        id: u64,
        /// The answer.
        result: AdminResult,
    },
    /// Nothing more; call again at this time at the latest.
    Timeout(Option<Instant>),
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Sessions that are connected or may resume.
    pub sessions: usize,
    /// Calls that ring or run.
    pub calls: usize,
    /// Rooms that are open.
    pub rooms: usize,
    /// Commands that media has not answered yet.
    pub requests: usize,
    /// Those of them that wait for a worker's full queue.
    pub held_back: usize,
}
