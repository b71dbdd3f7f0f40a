//! Going out of service: first nothing new while what runs may end by itself, then the end of all (`docs/protocol.md` §4).

use std::collections::BTreeSet;
use std::time::Duration;

use common::ids::{CallId, RoomId, SessionId};

use super::{ConnId, Hub, Output, Refusal, Timer};

/// How often a draining hub looks for sessions that have nothing to do any more.
const LET_GO_EVERY: Duration = Duration::from_secs(1);

/// RFC 6455 §7.4.2: "Service Restart".
const RESTARTING: (u16, &str) = (1012, "Restarting");

impl Hub {
    /// No new sessions, calls and rooms. Those who are in none are sent elsewhere now, the others when theirs have ended.
    pub(super) fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            self.let_go();
        }
    }

    /// Ends and records every call, and closes every connection.
    pub(super) fn stop(&mut self) {
        self.drain();
        let calls: Vec<CallId> = self.calls.keys().cloned().collect();
        for call in calls {
            self.finish_call(&call, "server-stopping", None);
        }
        let conns: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn in conns {
            self.send_elsewhere(conn);
        }
    }

    pub(super) fn send_elsewhere(&mut self, conn: ConnId) {
        let (code, reason) = RESTARTING;
        self.outputs.push_back(Output::Close { conn, code, reason });
    }

    /// Ends the sessions that are in no call and no room.
    pub(super) fn let_go(&mut self) {
        let busy = self.busy();
        let idle: Vec<SessionId> = self.sessions.keys().filter(|id| !busy.contains(*id)).cloned().collect();
        for id in idle {
            if let Some(conn) = self.disconnect(&id) {
                self.send_elsewhere(conn);
            }
            self.end_session(&id, "disconnected");
        }
        if !self.sessions.is_empty() {
            self.timers.insert((self.now + LET_GO_EVERY, Timer::LetGo));
        }
    }

    fn busy(&self) -> BTreeSet<SessionId> {
        let in_rooms = self.sessions.iter().filter(|(_, session)| session.room.is_some()).map(|(id, _)| id);
        let speakers = self.calls.values().flat_map(|call| call.speakers());
        let mut busy: BTreeSet<SessionId> = in_rooms.chain(speakers).cloned().collect();
        // Who is being rung may answer from anywhere.
        for user in self.calls.values().flat_map(|call| call.ringing()) {
            busy.extend(self.by_user.get(user).into_iter().flatten().cloned());
        }
        busy
    }

    /// New calls and people in them are for other servers.
    pub(super) fn takes_calls(&self) -> Result<(), Refusal> {
        if self.draining { Err(going_out_of_service()) } else { Ok(()) }
    }

    /// So are new rooms, but not the one that a running call moves to.
    pub(super) fn takes_room(&self, id: &RoomId, is_of_a_call: bool) -> Result<(), Refusal> {
        if is_of_a_call || self.rooms.contains_key(id) { Ok(()) } else { self.takes_calls() }
    }
}

fn going_out_of_service() -> Refusal {
    Refusal::new("draining", "The server takes no new calls and rooms")
}
