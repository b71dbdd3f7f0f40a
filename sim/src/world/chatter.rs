//! Two who call each other and talk without end while one of them is away: every queue that the hub keeps for clients fills to
//! its bound, and not further. Who comes back is told all of it, or that the session is over.
//!
//! They are nobody's people: no room, no media, and a path that is always well, so that what the bound makes the hub forget
//! is missed by nobody else.

use std::time::Duration;

use common::ids::SessionId;
use serde_json::{Value, json};
use signaling::hub::{self, ConnId};

use super::{Event, World};
use crate::dice::Dice;
use crate::oracle::broken;
use crate::trouble::Deed;

/// How long the one who is called is away; less than the grace.
const AWAY: Duration = Duration::from_secs(4);
const PACE: Duration = Duration::from_millis(100);
/// Each time: as many as the hub takes of one connection (protocol §1: 200 a second), or so few that all can be kept.
const CANDIDATES: [usize; 2] = [20, 8];

/// Two of them.
#[derive(Debug)]
pub(super) struct Pair {
    call: String,
    /// Connections: of the one who calls, and of the one who is called.
    conns: [u64; 2],
    /// Of the one who is called.
    session: Option<SessionId>,
    returns: Duration,
    candidates: usize,
    /// Messages for the one who is away.
    sent: u64,
    /// Those that were told on return.
    pub waited: u64,
    /// Whether the session went on.
    pub resumed: Option<bool>,
}

impl World {
    /// They come, one rings, and the other is gone.
    pub(crate) fn chatter(&mut self) {
        let number = self.chatters.len();
        self.next_conn += 2;
        let conns = [self.next_conn - 1, self.next_conn];
        let call = format!("chatter-{number}");
        let (pair, returns) = (call.clone(), self.now + AWAY);
        let candidates = *Dice::new(self.plan.seed, &call).pick(&CANDIDATES);
        let session = None;
        self.chatters.push(Pair {
            call: pair,
            conns,
            session,
            returns,
            candidates,
            sent: 0,
            waited: 0,
            resumed: None,
        });
        for (conn, name) in conns.into_iter().zip(["caller", "called"]) {
            self.come(conn, &format!("{name}-{number}"), None);
        }
        self.call_log.begun(&call, self.now, self.node.wall(self.now));
        let recipient = format!("called-{number}");
        self.chat(conns[0], &json!({ "type": "call-initiate", "callId": call, "recipientIds": [recipient], "callType": "audio" }));
        self.hub(hub::Input::Closed { conn: ConnId(conns[1]), code: None });
        self.at(self.now + PACE, Event::Deed(Deed::ChatOn { which: number }));
    }

    /// Candidates, for the call and for one that never begins; then the other is back, and both go.
    pub(crate) fn chat_on(&mut self, which: usize) {
        let Pair { call, conns: [caller, called], session, returns, candidates, .. } = &self.chatters[which];
        let (call, caller, called, session) = (call.clone(), *caller, *called, session.clone());
        let each = candidates / 2;
        let (recipient, name) = (format!("called-{which}"), format!("called-{which}"));
        if self.now < *returns {
            self.chatters[which].sent += each as u64;
            for call in [call, format!("never-{which}")] {
                let message = json!({ "type": "ice-candidate", "callId": call, "recipientId": recipient,
                                      "candidate": { "candidate": "candidate:1 1 udp 1 192.0.2.9 9 typ host" } });
                (0..each).for_each(|_| self.chat(caller, &message));
            }
            return self.at(self.now + PACE, Event::Deed(Deed::ChatOn { which }));
        }
        self.come(called, &name, session);
        let Pair { sent, waited, resumed, .. } = self.chatters[which];
        let due = if resumed == Some(true) { sent } else { 0 };
        if waited != due {
            self.judge(broken("told", format!("{name} heard {waited} of {sent}, resumed: {resumed:?}")));
        }
        for conn in [caller, called] {
            self.hub(hub::Input::Closed { conn: ConnId(conn), code: Some(1000) });
        }
    }

    fn come(&mut self, conn: u64, name: &str, resume: Option<SessionId>) {
        let claims = json!({ "sub": name, "exp": 9_999_999_999u64 });
        let claims = serde_json::from_value(claims).expect("claims of this shape");
        self.hub(hub::Input::Connect { conn: ConnId(conn), claims, resume });
    }

    fn chat(&mut self, conn: u64, message: &Value) {
        self.hub(hub::Input::Text { conn: ConnId(conn), text: message.to_string() });
    }

    /// The hub says something to one of them; `false` when the connection is another's.
    pub(super) fn chatterer_hears(&mut self, conn: u64, message: &Value) -> bool {
        let Some(pair) = self.chatters.iter_mut().find(|pair| pair.conns.contains(&conn)) else {
            return false;
        };
        match message["type"].as_str() {
            Some("connected") if conn == pair.conns[1] => {
                // The first time it has nothing to go on with.
                pair.resumed = pair.session.is_some().then(|| message["resumed"] == true);
                pair.session = message["sessionId"].as_str().and_then(|id| SessionId::new(id).ok());
            }
            Some("ice-candidate") => pair.waited += 1,
            _ => {}
        }
        true
    }

    /// `bounds`: no queue is longer than it may be.
    pub(super) fn queues_are_bounded(&mut self) {
        let of_workers = self.node.workers.iter().flat_map(|worker| worker.sfu.queues());
        let queues = self.node.hub.queues().into_iter().chain(of_workers).chain(self.node.relay.queues());
        if let Some((name, longest, most)) = queues.into_iter().find(|(_, longest, most)| longest > most) {
            self.judge(broken("bounds", format!("{longest} {name}, of at most {most}")));
        }
    }
}
