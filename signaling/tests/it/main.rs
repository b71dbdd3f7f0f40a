//! Scripts on the signaling core.
use common::config::Secret;
use common::control::*;
use common::ids::*;
use common::token::Claims;
use serde_json::{Value, json};
use signaling::hub::*;
use std::time::{Duration, Instant};

struct World {
    hub: Hub,
    now: Instant,
    media: Vec<Command>,
    logs: Vec<common::call_record::CallRecord>,
    sent: Vec<(u64, Value)>,
    auto: bool,
}
impl World {
    fn new() -> Self {
        #[allow(clippy::disallowed_methods)]
        let now = Instant::now();
        let c = HubConfig {
            resume_grace: Duration::from_secs(10),
            ring_timeout: Duration::from_secs(45),
            heartbeat: Duration::from_secs(15),
            max_peers_per_room: 10,
            joins_per_minute_per_user: 60,
            workers: 1,
            ice: IceServers { urls: vec![], secret: Secret(vec![1]), ttl: Duration::from_secs(60) },
        };
        Self {
            hub: Hub::new(c, [7; 32], now, Duration::from_secs(1_000_000)),
            now,
            media: vec![],
            logs: vec![],
            sent: vec![],
            auto: true,
        }
    }
    fn put(&mut self, input: Input) {
        self.hub.handle_input(self.now, input);
        loop {
            match self.hub.poll_output() {
                Output::Timeout(_) => break,
                Output::Send { conn, text } => self.sent.push((conn.0, serde_json::from_str(&text).unwrap())),
                Output::Media { command, .. } => self.media.push(command),
                Output::Log(r) => self.logs.push(r),
                _ => {}
            }
        }
        if self.auto {
            while !self.media.is_empty() {
                let c = self.media.remove(0);
                self.reply(c);
            }
        }
    }
    fn reply(&mut self, c: Command) {
        let done = match c.action {
            Action::OpenRoom { .. } => Done::Room { capabilities: Default::default() },
            Action::Produce { .. } => Done::Producer { id: ProducerId::new("p1").unwrap() },
            _ => Done::Ok,
        };
        self.put(Input::Media {
            worker: 0,
            message: FromMedia::Reply(Reply { token: c.token, result: Ok(done) }),
        });
    }
    fn user(&mut self, conn: u64, name: &str, room: &str) {
        let claims: Claims =
            serde_json::from_value(json!({"sub": name, "exp": 9_999_999_999u64, "room": room})).unwrap();
        self.put(Input::Connect { conn: ConnId(conn), claims, resume: None });
    }
    fn say(&mut self, conn: u64, v: Value) -> Vec<(u64, Value)> {
        self.sent.clear();
        self.put(Input::Text { conn: ConnId(conn), text: v.to_string() });
        self.sent.clone()
    }
    fn wait(&mut self, secs: u64) {
        for _ in 0..secs {
            self.now += Duration::from_secs(1);
            for c in 1..9 {
                self.put(Input::Alive { conn: ConnId(c) });
            }
            self.put(Input::Timeout);
        }
    }
}

fn ring3() -> World {
    let mut w = World::new();
    for (c, n) in [(1, "alice"), (2, "bob"), (3, "carol")] {
        w.user(c, n, "*");
    }
    w.say(1, json!({"type":"call-initiate","callId":"c","recipientIds":["bob","carol"],"callType":"audio"}));
    w.say(2, json!({"type":"call-answer","callId":"c"}));
    w
}

#[test]
fn who_does_not_answer_stops_ringing_and_the_rest_can_hang_up() {
    let mut w = ring3();
    w.sent.clear();
    w.wait(60);
    println!("after 60 s, carol was told: {:?}", w.sent.iter().filter(|(c, _)| *c == 3).collect::<Vec<_>>());
    w.say(2, json!({"type":"call-end","callId":"c"}));
    w.wait(600);
    assert_eq!(w.hub.stats().calls, 0, "bob hung up ten minutes ago");
}
#[test]
fn a_participant_is_in_the_record_once() {
    let mut w = ring3();
    for _ in 0..2 {
        w.say(1, json!({"type":"call-invite","callId":"c","recipientIds":["offline"]}));
    }
    w.say(1, json!({"type":"call-end","callId":"c","forAll":true}));
    let names: Vec<_> = w.logs[0].participants.iter().map(|p| p.user.to_string()).collect();
    assert_eq!(names.iter().filter(|n| *n == "offline").count(), 1, "{names:?}");
}
#[test]
fn members_with_a_token_for_another_room_may_join_the_calls_room() {
    let mut w = World::new();
    w.user(1, "alice", "lobby");
    w.user(2, "bob", "*");
    w.say(1, json!({"type":"call-initiate","callId":"c","recipientIds":["bob"],"callType":"audio"}));
    w.say(2, json!({"type":"call-answer","callId":"c"}));
    let told = w.say(1, json!({"type":"call-upgrade","callId":"c"}));
    let room = told[0].1["roomId"].clone();
    let told = w.say(1, json!({"type":"join-room","requestId":1,"roomId":room}));
    assert_eq!(told[0].1["ok"], true, "{told:?}");
}
#[test]
fn a_producer_made_for_a_peer_that_left_is_not_announced() {
    let mut w = World::new();
    w.user(1, "alice", "*");
    w.user(2, "bob", "*");
    for c in [1, 2] {
        w.say(c, json!({"type":"join-room","requestId":1,"roomId":"r"}));
    }
    w.auto = false;
    w.say(1, json!({"type":"produce","requestId":2,"transportId":"t","kind":"audio","source":"microphone","rtpParameters":{"codecs":[]}}));
    w.say(1, json!({"type":"leave-room","requestId":3}));
    w.sent.clear();
    w.auto = true;
    w.put(Input::Timeout);
    assert!(!w.sent.iter().any(|(c, m)| *c == 2 && m["type"] == "new-producer"), "{:?}", w.sent);
}
#[test]
fn a_full_room_can_be_rejoined_by_who_is_in_it() {
    let mut w = World::new();
    w.user(1, "alice", "*");
    w.say(1, json!({"type":"join-room","requestId":1,"roomId":"r","create":{"maxPeers":1}}));
    let told = w.say(1, json!({"type":"join-room","requestId":2,"roomId":"r"}));
    assert_eq!(told[0].1["ok"], true, "{told:?}");
}
#[test]
fn a_ringing_callee_may_send_its_answer_first() {
    let mut w = World::new();
    w.user(1, "alice", "*");
    w.user(2, "bob", "*");
    w.say(1, json!({"type":"call-initiate","callId":"c","recipientIds":["bob"],"callType":"audio"}));
    let told = w.say(2, json!({"type":"ice-candidate","callId":"c","recipientId":"alice","candidate":{}}));
    assert_eq!(told[0].0, 1, "{told:?}");
}
