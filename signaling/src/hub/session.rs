//! Who is connected: sessions, their resumption, heartbeats and message rate (`docs/protocol.md` §1).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::ids::{RoomId, SessionId};
use common::token::Claims;
use serde_json::{Value, json};

use super::quality::Last;
use super::refusals::limit_of_close_code;
use super::{ConnId, Hub, Output, Refusal, Timer};

/// Messages kept for a session that may come back. When one more comes all are dropped and it cannot be resumed any more: its
/// client would not know what it has missed (protocol §1).
const UNDELIVERED_MAX: usize = 256;

/// Bytes of them, so that large messages do not add up; likewise.
const UNDELIVERED_BYTES_MAX: usize = 1 << 20;

/// Messages per second and in a burst (protocol §1).
const RATE: f64 = 200.0;
const BURST: f64 = 300.0;

/// Statistics of all that a peer has may be a record for each of a thousand consumers.
pub(super) const STATS_COST: f64 = 20.0;

/// What everybody in a room is told of: tracks published, paused, resumed. In a room of 500 one message is 500, and those
/// who are away for the grace time of a session have room for [`UNDELIVERED_MAX`].
const ANNOUNCED_RATE: f64 = 10.0;
const ANNOUNCED_BURST: f64 = 120.0;

/// Who goes on after having been told is cut off after as many again.
const IGNORED_MAX: u32 = 300;

/// Sessions of one user; a person has fewer devices, a runaway program does not get more.
const SESSIONS_PER_USER_MAX: usize = 32;

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    session: SessionId,
    heard_at: Instant,
    tokens: f64,
    filled_at: Instant,
    /// Messages dropped since the client was told.
    ignored: u32,
}

/// One device or tab.
#[derive(Debug)]
pub(super) struct Session {
    pub claims: Claims,
    pub room: Option<RoomId>,
    pub quality: Option<Last>,
    conn: Option<ConnId>,
    undelivered: VecDeque<Arc<str>>,
    /// Some of them were dropped.
    has_missed: bool,
    /// How much it may announce at `announced_at`.
    announcements: f64,
    announced_at: Instant,
    grace: Option<Instant>,
}

impl Hub {
    pub(super) fn connect(&mut self, conn: ConnId, claims: Claims, resume: Option<SessionId>) {
        let mut known =
            resume.filter(|id| self.sessions.get(id).is_some_and(|old| old.claims.sub == claims.sub));
        if let Some(id) = known.take_if(|id| self.sessions.get(id).is_some_and(|old| old.has_missed)) {
            self.end_session(&id, "disconnected");
        }
        let resumed = known.is_some();
        if self.draining && !resumed {
            return self.send_elsewhere(conn);
        }
        let id = match known {
            Some(id) => id,
            None => match self.new_session(&claims) {
                Some(id) => id,
                None => {
                    self.refusals.limit("sessions");
                    self.outputs.push_back(Output::Close { conn, code: 1008, reason: "Too many sessions" });
                    return;
                }
            },
        };
        let (now, user) = (self.now, claims.sub.clone());
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.claims = claims;
        let old = session.conn.replace(conn);
        let waiting = std::mem::take(&mut session.undelivered);
        if let Some(at) = session.grace.take() {
            self.timers.remove(&(at, Timer::Grace(id.clone())));
        }
        if let Some(old) = old {
            self.forget(old);
            self.outputs.push_back(Output::Close { conn: old, code: 1008, reason: "Resumed elsewhere" });
        }
        let entry = Conn { session: id.clone(), heard_at: now, tokens: BURST, filled_at: now, ignored: 0 };
        self.conns.insert(conn, entry);
        self.timers.insert((now + self.config.heartbeat, Timer::Heartbeat(conn)));
        let ice = self.config.ice.for_user(&user, self.unix_now());
        let heartbeat = u64::try_from(self.config.heartbeat.as_millis()).unwrap_or(u64::MAX);
        self.send(
            &id,
            &json!({
                "type": "connected", "userId": user, "sessionId": id, "resumed": resumed,
                "iceServers": ice, "heartbeatMs": heartbeat,
            }),
        );
        for text in waiting {
            self.send_text(&id, text);
        }
    }

    fn new_session(&mut self, claims: &Claims) -> Option<SessionId> {
        let random = self.random_id();
        let id = SessionId::new(&random).ok()?;
        let own = self.by_user.entry(claims.sub.clone()).or_default();
        if own.len() >= SESSIONS_PER_USER_MAX {
            return None;
        }
        own.insert(id.clone());
        let session = Session {
            claims: claims.clone(),
            room: None,
            quality: None,
            conn: None,
            undelivered: VecDeque::new(),
            has_missed: false,
            announcements: ANNOUNCED_BURST,
            announced_at: self.now,
            grace: None,
        };
        self.sessions.insert(id.clone(), session);
        Some(id)
    }

    pub(super) fn text(&mut self, conn: ConnId, text: &str) {
        if let Some(session) = self.admit(conn) {
            self.message(&session, text);
        }
    }

    pub(super) fn not_text(&mut self, conn: ConnId) {
        if let Some(session) = self.admit(conn) {
            self.refuse(&session, Refusal::new("invalid-message", "Invalid message format"), &Value::Null);
        }
    }

    /// The session of a message that is within the connection's rate.
    fn admit(&mut self, id: ConnId) -> Option<SessionId> {
        let now = self.now;
        let conn = self.conns.get_mut(&id)?;
        conn.heard_at = now;
        let passed = now.duration_since(conn.filled_at).as_secs_f64();
        conn.filled_at = now;
        conn.tokens = (conn.tokens + passed * RATE).min(BURST);
        if conn.tokens >= 1.0 {
            conn.tokens -= 1.0;
            if conn.tokens >= BURST / 2.0 {
                conn.ignored = 0;
            }
            return Some(conn.session.clone());
        }
        conn.ignored += 1;
        let (ignored, session) = (conn.ignored, conn.session.clone());
        self.refusals.limit("message-rate");
        if ignored == 1 {
            self.refuse(&session, Refusal::new("rate-limited", "Too many messages"), &Value::Null);
        } else if ignored > IGNORED_MAX {
            self.refusals.limit("flood");
            self.outputs.push_back(Output::Close { conn: id, code: 1008, reason: "Too many messages" });
            // For good: a session that could resume would have a fresh burst each time.
            self.closed(id, Some(1008));
        }
        None
    }

    /// Takes as much of a connection's rate as a dear message costs beyond its own. `false` when there is not so much left.
    pub(super) fn charge(&mut self, id: &SessionId, cost: f64) -> bool {
        let conn = self.sessions.get(id).and_then(|session| session.conn);
        let Some(conn) = conn.and_then(|conn| self.conns.get_mut(&conn)) else { return false };
        let has_enough = conn.tokens >= cost;
        if has_enough {
            conn.tokens -= cost;
        }
        has_enough
    }

    /// Whether a session may have its room told of something more.
    pub(super) fn may_announce(&mut self, id: &SessionId) -> bool {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let passed = now.duration_since(session.announced_at).as_secs_f64();
        session.announced_at = now;
        session.announcements = (session.announcements + passed * ANNOUNCED_RATE).min(ANNOUNCED_BURST);
        let may = session.announcements >= 1.0;
        if may {
            session.announcements -= 1.0;
        }
        may
    }

    pub(super) fn alive(&mut self, conn: ConnId) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.heard_at = self.now;
        }
    }

    pub(super) fn heartbeat(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(&id) else { return };
        let silent = self.now.duration_since(conn.heard_at);
        if silent >= self.config.heartbeat * 2 {
            self.refusals.limit("silence");
            self.outputs.push_back(Output::Close { conn: id, code: 1001, reason: "No sign of life" });
            return self.closed(id, None);
        }
        self.outputs.push_back(Output::Ping { conn: id });
        self.timers.insert((self.now + self.config.heartbeat, Timer::Heartbeat(id)));
    }

    fn forget(&mut self, id: ConnId) -> Option<Conn> {
        self.conns.remove(&id)
    }

    /// No close frame, or one that a browser, proxy or server sends by itself: the client may come back. Else it said goodbye.
    pub(super) fn closed(&mut self, id: ConnId, code: Option<u16>) {
        let Some(conn) = self.forget(id) else { return };
        let at = self.now + self.config.resume_grace;
        let Some(session) = self.sessions.get_mut(&conn.session) else { return };
        if session.conn != Some(id) {
            return;
        }
        session.conn = None;
        let may_resume = matches!(code, None | Some(1001 | 1006 | 1012 | 1013));
        if !may_resume || self.config.resume_grace == Duration::ZERO {
            return self.end_session(&conn.session, "disconnected");
        }
        session.grace = Some(at);
        self.timers.insert((at, Timer::Grace(conn.session)));
    }

    /// The session's connection, which it no longer has.
    pub(super) fn disconnect(&mut self, id: &SessionId) -> Option<ConnId> {
        let conn = self.sessions.get_mut(id)?.conn.take()?;
        self.forget(conn);
        Some(conn)
    }

    /// The shell had to close it.
    pub(super) fn cut_off(&mut self, id: ConnId, code: u16) {
        if let Some(limit) = limit_of_close_code(code) {
            self.refusals.limit(limit);
        }
        self.closed(id, Some(code));
    }

    pub(super) fn end_session(&mut self, id: &SessionId, reason: &'static str) {
        self.leave_room(id, reason);
        let Some(session) = self.sessions.remove(id) else { return };
        let user = session.claims.sub;
        if let Some(at) = session.grace {
            self.timers.remove(&(at, Timer::Grace(id.clone())));
        }
        let last = self.by_user.get_mut(&user).is_none_or(|own| {
            own.remove(id);
            own.is_empty()
        });
        if last {
            self.by_user.remove(&user);
        }
        self.session_left_calls(&user, id, last, reason);
    }

    pub(super) fn longest_undelivered(&self) -> [(&'static str, usize, usize); 2] {
        let waiting = || self.sessions.values().map(|session| &session.undelivered);
        let messages = waiting().map(VecDeque::len).max().unwrap_or(0);
        let bytes = waiting().map(|texts| texts.iter().map(|text| text.len()).sum()).max().unwrap_or(0);
        [
            ("messages for one session", messages, UNDELIVERED_MAX),
            ("bytes for one session", bytes, UNDELIVERED_BYTES_MAX),
        ]
    }

    pub(super) fn send_text(&mut self, id: &SessionId, text: Arc<str>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        match session.conn {
            Some(conn) => self.outputs.push_back(Output::Send { conn, text }),
            None if session.has_missed => self.refusals.limit("undelivered"),
            None => {
                session.undelivered.push_back(text);
                let bytes: usize = session.undelivered.iter().map(|text| text.len()).sum();
                if session.undelivered.len() > UNDELIVERED_MAX || bytes > UNDELIVERED_BYTES_MAX {
                    session.has_missed = true;
                    for _ in std::mem::take(&mut session.undelivered) {
                        self.refusals.limit("undelivered");
                    }
                }
            }
        }
    }
}
