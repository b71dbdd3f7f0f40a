//! A call and a room full of objects, on a real SFU core: what bad input must leave as it is.
//!
//! Alice (1) and Bob (2) are in the call `c` and in the room `r`, where each has two transports and publishes and consumes
//! audio and data of the other. Mallory (9) is in the call `m` with Carol (3), and alone in the room `s`, where she
//! publishes. Nobody (8) is in neither. All of them are administrators.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::control::FromMedia;
use media::sfu::{Input as SfuInput, Output as SfuOutput, Sfu, SfuConfig};
use serde_json::{Value, json};
use signaling::hub::{AdminRequest, Input, Stats};

use crate::script::{World, initiate};

pub struct Scene {
    pub world: World,
    sfu: Sfu,
    /// The SFU's own clock, which stands still: nobody answers its ICE checks here.
    sfu_now: Instant,
    ids: BTreeMap<&'static str, Value>,
    pub router_capabilities: Value,
}

/// What a session can see of whether anything has changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    hub: Stats,
    rooms: Value,
    transports: usize,
}

pub fn rtp(ssrc: u32, mid: &str) -> Value {
    json!({ "mid": mid, "encodings": [{ "ssrc": ssrc }], "rtcp": { "cname": "x" },
            "headerExtensions": [{ "uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 4 }],
            "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2,
                         "parameters": { "useinbandfec": 1 }, "rtcpFeedback": [] }] })
}

impl Scene {
    pub fn new() -> Self {
        let mut world = World::new();
        world.media_answers = false;
        let config = SfuConfig {
            worker: 0,
            announced: "127.0.0.1:44444".parse().expect("an address"),
            tcp: true,
            codecs: vec!["opus".into(), "VP8".into()],
            max_bitrate: None,
            max_speakers: 0,
        };
        let sfu_now = world.now;
        let sfu = Sfu::new(config, [3; 32], sfu_now, Duration::from_secs(1_000_000));
        let mut scene = Self { world, sfu, sfu_now, ids: BTreeMap::new(), router_capabilities: Value::Null };
        for (conn, user) in [(1, "alice"), (2, "bob"), (3, "carol"), (8, "nobody"), (9, "mallory")] {
            scene.world.connect(conn, user, json!({ "admin": true }), None);
        }
        for (from, to, who, call) in [(1, 2, "bob", "c"), (9, 3, "carol", "m")] {
            scene.say(from, initiate(call, &[who]));
            scene.say(to, json!({ "type": "call-answer", "callId": call }));
        }
        scene.fill_rooms();
        scene
    }

    fn fill_rooms(&mut self) {
        for (conn, room) in [(1, "r"), (2, "r"), (9, "s")] {
            let data = self.ask(conn, json!({ "type": "join-room", "roomId": room }));
            self.router_capabilities = data["rtpCapabilities"].clone();
        }
        // Of alice, bob and mallory: to send, to receive, and one that is not connected yet.
        let names = [
            (1, ["send", "recv", "spare"], ["producer", "data"]),
            (2, ["bobs-send", "bobs-recv", "bobs-spare"], ["bobs-producer", "bobs-data"]),
            (9, ["far-send", "far-recv", "far-spare"], ["far-producer", "far-data"]),
        ];
        for (conn, transports, published) in names {
            for (name, direction) in transports.into_iter().zip(["send", "recv", "send"]) {
                self.make(name, conn, json!({ "type": "create-transport", "direction": direction }));
            }
            let transport = self.id(transports[0]);
            self.make(
                published[0],
                conn,
                json!({ "type": "produce", "transportId": transport, "kind": "audio",
                "source": "microphone", "rtpParameters": rtp(11, "0") }),
            );
            self.make(
                published[1],
                conn,
                json!({ "type": "produce-data", "transportId": transport,
                "label": "chat", "sctpStreamParameters": { "streamId": 1 } }),
            );
        }
        for (conn, recv, producer, data, names) in [
            (1, "recv", "bobs-producer", "bobs-data", ["consumer", "data-consumer"]),
            (2, "bobs-recv", "producer", "data", ["bobs-consumer", "bobs-data-consumer"]),
        ] {
            let capabilities = self.router_capabilities.clone();
            self.make(
                names[0],
                conn,
                json!({ "type": "consume", "transportId": self.id(recv),
                "producerId": self.id(producer), "rtpCapabilities": capabilities }),
            );
            self.make(
                names[1],
                conn,
                json!({ "type": "consume-data", "transportId": self.id(recv),
                "dataProducerId": self.id(data) }),
            );
        }
    }

    /// The id of an object, by its name here.
    pub fn id(&self, name: &str) -> Value {
        self.ids.get(name).unwrap_or_else(|| panic!("no {name}")).clone()
    }

    fn make(&mut self, name: &'static str, conn: u64, message: Value) {
        let id = self.ask(conn, message)["id"].clone();
        self.ids.insert(name, id);
    }

    /// A request that succeeds; its data.
    fn ask(&mut self, conn: u64, mut message: Value) -> Value {
        message["requestId"] = json!("setup");
        self.say(conn, message.clone());
        let response = self.world.told(conn, "response").expect("every request is answered");
        assert_eq!(response["ok"], true, "{message} → {response}");
        response["data"].clone()
    }

    /// What this message made the hub and the SFU say is in `world.sent` after it.
    pub fn say(&mut self, conn: u64, message: Value) {
        self.world.say(conn, message);
        while !self.world.media.is_empty() {
            let command = self.world.media.remove(0);
            self.sfu.handle_input(self.sfu_now, SfuInput::Command(command));
            for message in self.news() {
                self.world.put(Input::Media { worker: 0, message });
            }
        }
    }

    fn news(&mut self) -> Vec<FromMedia> {
        let mut news = Vec::new();
        loop {
            match self.sfu.poll_output() {
                SfuOutput::Message(message) => news.push(message),
                SfuOutput::Transmit(outbox) => outbox.clear(),
                SfuOutput::Piped { .. } => unreachable!("there is one worker"),
                SfuOutput::Timeout(_) => return news,
            }
        }
    }

    /// The code of the one answer to the sender, who is the only one to hear anything; `ok` when nothing was wrong.
    pub fn code(&mut self, conn: u64, message: &Value) -> String {
        self.say(conn, message.clone());
        let refused = |m: &Value| m["type"] == "error" || m["ok"] == false;
        if !self.world.sent.iter().any(|(_, m)| refused(m)) {
            return "ok".into();
        }
        assert_eq!(self.world.sent.len(), 1, "{message} → {:?}", self.world.sent);
        let (to, answer) = &self.world.sent[0];
        assert_eq!(*to, conn, "{message} → {answer}");
        let sentence = answer["error"].as_str().expect("a sentence for people");
        assert!((1..=256).contains(&sentence.chars().count()), "{message:.200} → {answer:.2000}");
        answer["code"].as_str().expect("a word for programs").into()
    }

    pub fn counts(&mut self) -> Counts {
        let mut rooms = Vec::new();
        for name in ["r", "s"] {
            let room = common::ids::RoomId::new(name).expect("an id");
            rooms.push(self.world.admin(AdminRequest::Room(room)));
        }
        Counts { hub: self.world.hub.stats(), rooms: json!(rooms), transports: self.sfu.transport_count() }
    }

    pub fn transports(&self) -> usize {
        self.sfu.transport_count()
    }

    /// Alice is heard in the call, and served in the room.
    pub fn assert_works(&mut self, after: &Value) {
        self.say(1, json!({ "type": "ice-candidate", "callId": "c", "recipientId": "bob", "candidate": 1 }));
        assert!(self.world.told(2, "ice-candidate").is_some(), "the call is dead after {after:.300}");
        self.say(1, json!({ "type": "get-stats", "requestId": "probe", "producerId": self.id("producer") }));
        let answer = self.world.told(1, "response").unwrap_or_default();
        assert_eq!(
            (&answer["ok"], &answer["requestId"]),
            (&json!(true), &json!("probe")),
            "after {after:.300}"
        );
    }
}
