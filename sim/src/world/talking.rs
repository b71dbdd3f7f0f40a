//! Signaling in the world: connections, what the hub says, and the calls that ring.

use std::time::Duration;

use serde_json::{Value, json};
use signaling::hub::{self, ConnId};

use super::{Event, PARTING, SIGNALING_DELAY, World};
use crate::oracle::broken;

impl World {
    pub(super) fn connect(&mut self, id: u16) {
        let person = &mut self.people[usize::from(id)];
        if person.conn.is_some() || self.now >= PARTING {
            return;
        }
        self.next_conn += 1;
        let conn = self.next_conn;
        person.conn = Some(conn);
        self.conns.insert(conn, id);
        let claims = json!({ "sub": person.name(), "exp": 9_999_999_999u64 });
        let claims = serde_json::from_value(claims).expect("claims of this shape");
        let resume = person.session.as_deref().and_then(|id| common::ids::SessionId::new(id).ok());
        self.note(|| format!("p{id} connects as {conn}, resuming: {}", resume.is_some()));
        self.hub(hub::Input::Connect { conn: ConnId(conn), claims, resume });
    }

    /// The connection breaks; `code` as in [`hub::Input::Closed`]. It is back after `away`, unless there is none.
    pub(crate) fn disconnect(&mut self, id: u16, code: Option<u16>, away: Option<Duration>) {
        if let Some(conn) = self.people[usize::from(id)].conn.take() {
            self.conns.remove(&conn);
            self.hub(hub::Input::Closed { conn: ConnId(conn), code });
        }
        if let Some(away) = away {
            let at = self.now + away;
            self.at(at, Event::Connect { person: id });
        }
    }

    pub(super) fn hub(&mut self, input: hub::Input) {
        let at = self.node.clock.read(self.now);
        self.node.hub.handle_input(at, input);
        loop {
            match self.node.hub.poll_output() {
                hub::Output::Timeout(_) => break,
                hub::Output::Send { conn, text } => {
                    if let Ok(message) = serde_json::from_str::<Value>(&text)
                        && self.chatterer_hears(conn.0, &message)
                    {
                        continue;
                    }
                    if !self.conns.contains_key(&conn.0) {
                        self.judge(broken("gone", format!("{text} was sent to a connection that is gone")));
                    }
                    match serde_json::from_str(&text) {
                        Ok(message) => {
                            let verdict = self.credentials_are_timely(&message);
                            self.judge(verdict);
                            let due = self.now + SIGNALING_DELAY;
                            self.at(due, Event::Down { conn: conn.0, message });
                        }
                        Err(_) => self.judge(broken("json", format!("not JSON: {text}"))),
                    }
                }
                hub::Output::Ping { conn } => {
                    // Every simulated client answers at once.
                    if self.conns.contains_key(&conn.0) {
                        self.node.hub.handle_input(at, hub::Input::Alive { conn });
                    }
                }
                hub::Output::Close { conn, code, reason } => {
                    self.note(|| format!("conn {} is closed: {code} {reason}", conn.0));
                    if let Some(id) = self.conns.remove(&conn.0) {
                        let person = &mut self.people[usize::from(id)];
                        if person.conn == Some(conn.0) {
                            person.conn = None;
                            let due = self.now + Duration::from_millis(500);
                            self.at(due, Event::Connect { person: id });
                        }
                    }
                }
                hub::Output::Media { worker, command } => {
                    let refused = self.node.workers[worker].command(self.now, command);
                    if let Some(command) = refused {
                        self.node.hub.handle_input(at, hub::Input::WorkerQueueFull { worker, command });
                    }
                }
                hub::Output::Log(record) => {
                    self.summary.calls += 1;
                    let verdict = self.call_log.written(self.now, &record);
                    self.judge(verdict);
                }
                hub::Output::Admin { .. } => {}
            }
        }
    }

    /// A ring that the hub takes up begins a call, which must then be in the log once.
    pub(super) fn watch_call(&mut self, conn: u64, message: &Value) {
        if message["type"] == "call-initiate"
            && let Some(call) = message["callId"].as_str()
            && self.conns.contains_key(&conn)
        {
            self.call_log.begun(call, self.now, self.node.wall(self.now));
        }
    }

    pub(crate) fn ring(&mut self, call: &str, from: u16, to: u16) {
        self.rung.insert(call.to_owned(), (from, to));
        let message = json!({ "type": "call-initiate", "callId": call, "recipientIds": [format!("p{to}")],
                              "callType": "video" });
        self.people[usize::from(from)].said.push(message);
    }

    pub(crate) fn calls(&self) -> Vec<(String, u16)> {
        self.rung.iter().map(|(call, (from, _))| (call.clone(), *from)).collect()
    }

    pub(super) fn on_call_message(&mut self, person: u16, message: &Value) {
        if let Some((from, to)) = message["callId"].as_str().and_then(|call| self.rung.get(call))
            && ![from, to].contains(&&person)
        {
            let what = format!("p{person} hears of the call between p{from} and p{to}: {message}");
            return self.judge(broken("isolation", what));
        }
        if message["type"] == "incoming-call" {
            let call = message["callId"].clone();
            let kind = match self.dice.below(4) {
                0 => return,
                1 => "call-reject",
                _ => "call-answer",
            };
            self.people[usize::from(person)].said.push(json!({ "type": kind, "callId": call }));
        }
    }
}
