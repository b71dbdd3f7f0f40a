//! One simulated client: the protocol's messages as an SDK would send them, over far ends that carry its media.
//!
//! A person wants to be in its room, publishes, and subscribes to everything. Whatever goes wrong is answered as an
//! application would: the session is resumed, and where that does not help the room is left and joined again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::far_end::{FarEnd, Formats, Happened, Tag};
use crate::nat::Nat;

const AUDIO_INTERVAL: Duration = Duration::from_millis(50);
const VIDEO_INTERVAL: Duration = Duration::from_millis(100);
/// A request without an answer means that it or its answer was lost with a connection.
const PATIENCE: Duration = Duration::from_secs(3);
/// The highest spatial and temporal layer.
const BEST: (u8, u8) = (2, 2);
/// A pause is asked for, does its work, and is over within this time of the last that was heard of it.
const JUMP: Duration = Duration::from_secs(4);

#[derive(Debug)]
enum Asked {
    Join,
    Transport {
        send: bool,
    },
    Produce {
        index: usize,
    },
    Consume {
        producer: String,
    },
    Resume {
        consumer: String,
    },
    IceRestart {
        leg: usize,
    },
    Other,
    /// Somebody else's: must be refused.
    Foreign,
}

/// What pauses explain of a consumer's numbers.
#[derive(Debug, Default, Clone, Copy)]
pub struct Jumps {
    /// Any number of jumps until then.
    until: Duration,
    /// And so many later: on a path that is cut or slow they are seen late.
    late: u32,
}

impl Jumps {
    /// Whether a jump is explained now.
    pub fn explain(&self, now: Duration) -> bool {
        now < self.until || self.late > 0
    }

    /// A jump was seen.
    pub fn used(&mut self, now: Duration) {
        if now >= self.until {
            self.late = self.late.saturating_sub(1);
        }
    }

    fn more(&mut self, now: Duration) {
        self.until = now + JUMP;
        self.late += 1;
    }
}

/// A client.
#[derive(Debug)]
pub struct Person {
    /// Its number, which its tags carry.
    pub id: u16,
    /// Its room's number.
    pub room: u16,
    /// Wants to be in the room.
    pub wants_room: bool,
    /// The signaling connection, if there is one.
    pub conn: Option<u64>,
    /// To resume with.
    pub session: Option<String>,
    /// Is in the room as far as it knows.
    pub joined: bool,
    /// Who else is, as it was told.
    pub peers: BTreeSet<String>,
    /// What is to be sent to the server.
    pub said: Vec<Value>,
    /// Publishing and subscribing.
    pub legs: [Option<FarEnd>; 2],
    /// On its wall.
    pub clock: Clock,
    /// In front of it.
    pub nat: Option<Nat>,
    /// Its address behind the NAT, or in the world.
    pub ip: std::net::IpAddr,
    /// Producers of its own, by the index of the publication.
    pub producers: BTreeMap<usize, String>,
    /// Consumers that run.
    pub consumers: BTreeMap<String, String>,
    /// Consumers whose packets may skip numbers, because they were paused or resumed, or their source was.
    pub jumps: BTreeMap<String, Jumps>,
    /// Begin sequence numbers and timestamps just before they wrap.
    pub wraps: bool,
    /// UDP is blocked: media goes over TCP.
    pub tcp: bool,
    /// Encodings of its video.
    pub encodings: u8,
    /// Which layers it wants of all video.
    pub preferred: (u8, u8),
    /// Does not publish while on.
    pub silent: bool,
    /// Subscribes to nothing.
    pub blind: bool,
    /// Between two pictures.
    pub frame_interval: Duration,
    /// Bytes of a picture of each encoding; 0 for as few as there can be.
    pub frame_bytes: [usize; 3],
    /// First contradiction that it has seen.
    pub complaint: Option<String>,
    others: BTreeSet<String>,
    transports: [Option<String>; 2],
    pending: BTreeMap<u64, (Asked, Duration)>,
    capabilities: Value,
    formats: Option<Formats>,
    next_request: u64,
    next_port: u16,
    next_stream: u32,
    next_frames: [Duration; 2],
    again_at: Option<Duration>,
}

impl Person {
    /// Nobody yet: not connected.
    pub fn new(id: u16, room: u16, ip: std::net::IpAddr, nat: Option<Nat>, clock: Clock) -> Self {
        Self {
            id,
            room,
            wants_room: true,
            conn: None,
            session: None,
            joined: false,
            peers: BTreeSet::new(),
            said: Vec::new(),
            legs: [None, None],
            clock,
            nat,
            ip,
            producers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            jumps: BTreeMap::new(),
            wraps: false,
            tcp: false,
            encodings: 1,
            preferred: BEST,
            silent: false,
            blind: false,
            frame_interval: VIDEO_INTERVAL,
            frame_bytes: [0; 3],
            complaint: None,
            others: BTreeSet::new(),
            transports: [None, None],
            pending: BTreeMap::new(),
            capabilities: Value::Null,
            formats: None,
            next_request: 0,
            next_port: 5000,
            next_stream: u32::from(id) << 16,
            next_frames: [Duration::ZERO; 2],
            again_at: None,
        }
    }

    /// The user name.
    pub fn name(&self) -> String {
        format!("p{}", self.id)
    }

    fn ask(&mut self, now: Duration, asked: Asked, mut request: Value) {
        self.next_request += 1;
        request["requestId"] = json!(self.next_request);
        self.pending.insert(self.next_request, (asked, now));
        self.said.push(request);
    }

    /// Asks for something that is another's; an `ok` is a complaint.
    pub fn ask_foreign(&mut self, now: Duration, request: Value) {
        self.ask(now, Asked::Foreign, request);
    }

    /// Tries to subscribe to what another room publishes.
    pub fn steal(&mut self, now: Duration, producer: &str) {
        if let Some(transport) = &self.transports[1] {
            let request = json!({ "type": "consume", "transportId": transport, "producerId": producer,
                                  "rtpCapabilities": self.capabilities });
            self.ask(now, Asked::Foreign, request);
        }
    }

    /// These consumers' packets may skip numbers for a while.
    pub fn expect_jumps(&mut self, now: Duration, consumers: Vec<String>) {
        for consumer in consumers {
            self.jumps.entry(consumer).or_default().more(now);
        }
    }

    /// Asks for something whose answer does not matter.
    pub fn ask_other(&mut self, now: Duration, request: Value) {
        self.ask(now, Asked::Other, request);
    }

    /// Leaves the room for good, or until [`Person::join`].
    pub fn leave(&mut self, now: Duration) {
        self.wants_room = false;
        self.ask(now, Asked::Other, json!({ "type": "leave-room" }));
        self.forget_room();
    }

    /// Goes into its room.
    pub fn join(&mut self, now: Duration) {
        self.wants_room = true;
        self.again_at = None;
        self.forget_room();
        let room = format!("room-{}", self.room);
        self.ask(now, Asked::Join, json!({ "type": "join-room", "roomId": room }));
    }

    /// Nothing of the room is left on this side.
    pub fn forget_room(&mut self) {
        self.joined = false;
        self.legs = [None, None];
        self.transports = [None, None];
        self.pending.clear();
        for all in [&mut self.peers, &mut self.others] {
            all.clear();
        }
        self.jumps.clear();
        self.producers.clear();
        self.consumers.clear();
    }

    /// The connection is there, and this is what it says first.
    fn on_connected(&mut self, now: Duration, message: &Value) {
        self.session = message["sessionId"].as_str().map(str::to_owned);
        let resumed = message["resumed"] == true;
        if self.wants_room && !(resumed && self.joined) {
            self.join(now);
        }
    }

    /// A message from the server.
    pub fn hear(&mut self, now: Duration, message: &Value) {
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str().unwrap_or_default() {
            "connected" => self.on_connected(now, message),
            "response" => {
                let asked = message["requestId"].as_u64().and_then(|id| self.pending.remove(&id));
                if let Some((asked, _)) = asked {
                    self.on_response(now, asked, message);
                }
            }
            "peer-joined" if self.joined => {
                let known = !self.peers.insert(text("peerId"));
                self.complain_if(known, message);
            }
            "peer-left" if self.joined => {
                let unknown = !self.peers.remove(&text("peerId"));
                self.complain_if(unknown, message);
            }
            "new-producer" if self.joined => {
                self.others.insert(text("producerId"));
                self.consume(now, text("producerId"));
            }
            "producer-closed" => {
                self.others.remove(&text("producerId"));
            }
            "producer-paused" | "producer-resumed" => {
                let id = text("producerId");
                let of = self.consumers.iter().find(|(_, producer)| **producer == id);
                let consumers = of.map(|(consumer, _)| consumer.clone()).into_iter().collect();
                self.expect_jumps(now, consumers);
            }
            "consumer-closed" => {
                let id = text("consumerId");
                self.consumers.remove(&id);
                if let Some(leg) = &mut self.legs[1] {
                    leg.unsubscribe(&id);
                }
            }
            "transport-closed" | "room-closed" if self.joined => self.come_again(now),
            _ => {}
        }
    }

    fn complain_if(&mut self, wrong: bool, message: &Value) {
        if wrong {
            self.complaint.get_or_insert(format!("p{} did not expect {message}", self.id));
        }
    }

    /// Something is broken that only a new beginning mends.
    fn come_again(&mut self, now: Duration) {
        if self.wants_room && self.again_at.is_none() {
            self.again_at = Some(now + Duration::from_millis(200));
        }
    }

    fn on_response(&mut self, now: Duration, asked: Asked, message: &Value) {
        let data = &message["data"];
        if matches!(asked, Asked::Foreign) && message["ok"] == true {
            self.complaint = Some(format!("p{} was given what is another's: {message}", self.id));
        }
        if message["ok"] != true {
            // The producer may have gone meanwhile; everything else is tried again from the start.
            let may_fail =
                matches!(asked, Asked::Consume { .. } | Asked::Resume { .. } | Asked::Other | Asked::Foreign);
            let foreign = matches!(asked, Asked::Foreign);
            // The room may have been closed while the connection was, and the news of it was under way.
            let lost = message["code"] == "overloaded" || message["code"] == "room-not-found";
            if !may_fail || lost && !foreign {
                self.come_again(now);
            }
            return;
        }
        match asked {
            Asked::Join => self.on_joined(now, data),
            Asked::Transport { send } => self.on_transport(now, send, data),
            Asked::Produce { index } => {
                self.producers.insert(index, data["id"].as_str().unwrap_or_default().to_owned());
            }
            Asked::Consume { producer } => {
                let consumer = data["id"].as_str().unwrap_or_default().to_owned();
                if let Some(leg) = &mut self.legs[1] {
                    leg.subscribe(now, data);
                }
                self.consumers.insert(consumer.clone(), producer);
                if self.preferred != BEST {
                    self.ask_for_layers(now, &consumer);
                }
                let resume = json!({ "type": "resume-consumer", "consumerId": consumer });
                self.ask(now, Asked::Resume { consumer }, resume);
            }
            Asked::Resume { consumer } => {
                self.expect_jumps(now, vec![consumer]);
            }
            Asked::IceRestart { leg } => {
                if let Some(leg) = &mut self.legs[leg] {
                    leg.restart_ice(now, &data["iceParameters"]);
                }
            }
            Asked::Other | Asked::Foreign => {}
        }
    }

    /// Wants these layers of all video, as after a change of the window's size.
    pub fn prefer(&mut self, now: Duration, spatial: u8, temporal: u8) {
        self.preferred = (spatial, temporal);
        for consumer in self.consumers.keys().cloned().collect::<Vec<_>>() {
            self.ask_for_layers(now, &consumer);
        }
    }

    /// Wants the largest pictures again. The temporal layers stay as they are wanted: on clean paths a decoder then shows
    /// whether leaving them out leaves gaps.
    pub fn prefer_largest(&mut self, now: Duration) {
        if self.preferred != BEST {
            self.prefer(now, BEST.0, self.preferred.1);
        }
    }

    fn ask_for_layers(&mut self, now: Duration, consumer: &str) {
        let (spatial, temporal) = self.preferred;
        let request = json!({ "type": "set-preferred-layers", "consumerId": consumer,
                              "spatialLayer": spatial, "temporalLayer": temporal });
        self.ask(now, Asked::Other, request);
    }

    /// Asks for new ICE credentials for both transports.
    pub fn restart_ice(&mut self, now: Duration) {
        for leg in 0..2 {
            if let Some(transport) = self.transports[leg].clone() {
                let request = json!({ "type": "restart-ice", "transportId": transport });
                self.ask(now, Asked::IceRestart { leg }, request);
            }
        }
    }

    fn on_joined(&mut self, now: Duration, data: &Value) {
        self.joined = true;
        self.capabilities = data["rtpCapabilities"].clone();
        self.formats = Formats::of(&self.capabilities);
        let names = |list: &Value, key: &str| -> Vec<String> {
            let list = list.as_array().into_iter().flatten();
            list.filter_map(|one| one[key].as_str().map(str::to_owned)).collect()
        };
        self.peers = names(&data["peers"], "peerId").into_iter().collect();
        self.others = names(&data["producers"], "producerId").into_iter().collect();
        for (send, direction) in [(true, "send"), (false, "recv")] {
            let request = json!({ "type": "create-transport", "direction": direction });
            self.ask(now, Asked::Transport { send }, request);
        }
    }

    fn on_transport(&mut self, now: Duration, send: bool, data: &Value) {
        let Some(formats) = self.formats.clone() else { return };
        self.next_port += 1;
        let address = SocketAddr::new(self.ip, self.next_port);
        let mut leg = FarEnd::new(self.clock, now, address, formats, data);
        let id = data["id"].as_str().unwrap_or_default().to_owned();
        let dtls = leg.dtls_parameters();
        let connect = json!({ "type": "connect-transport", "transportId": id, "dtlsParameters": dtls });
        self.ask(now, Asked::Other, connect);
        let at = usize::from(!send);
        self.transports[at] = Some(id.clone());
        if send {
            for audio in [true, false] {
                self.next_stream += 1;
                let tag = Tag::new(self.room, self.id, self.next_stream);
                let encodings = if audio { 1 } else { self.encodings };
                let first = if self.wraps { (65_520, u32::MAX - 20_000) } else { (1000, 1000) };
                let parameters = leg.publish(audio, encodings, tag, first);
                if let Some(camera) = leg.publications.last_mut().filter(|_| !audio) {
                    let sizes = camera.encodings.iter_mut().zip(self.frame_bytes);
                    sizes.for_each(|(encoding, bytes)| encoding.frame_bytes = bytes);
                }
                let (kind, source) = if audio { ("audio", "microphone") } else { ("video", "camera") };
                let produce = json!({ "type": "produce", "transportId": id, "kind": kind, "source": source,
                                      "rtpParameters": parameters });
                self.ask(now, Asked::Produce { index: usize::from(!audio) }, produce);
            }
            self.next_frames = [now; 2];
        }
        self.legs[at] = Some(leg);
        if !send {
            for producer in self.others.clone() {
                self.consume(now, producer);
            }
        }
    }

    fn consume(&mut self, now: Duration, producer: String) {
        if let Some(transport) = self.transports[1].as_ref().filter(|_| !self.blind) {
            let request = json!({ "type": "consume", "transportId": transport, "producerId": producer,
                                  "rtpCapabilities": self.capabilities });
            self.ask(now, Asked::Consume { producer }, request);
        }
    }

    /// When it wants to be polled.
    pub fn deadline(&self) -> Duration {
        let legs = self.legs.iter().flatten().map(|leg| leg.deadline);
        let frames = self.next_frames.iter().copied().filter(|_| self.legs[0].is_some());
        let patience = self.pending.values().map(|(_, at)| *at + PATIENCE);
        let late = self.legs.iter().flatten().filter(|leg| !leg.connected).map(FarEnd::late_at);
        legs.chain(late).chain(frames).chain(patience).chain(self.again_at).min().unwrap_or(Duration::MAX)
    }

    /// Lets time pass; what its legs have to say comes back with the leg's address.
    pub fn poll(&mut self, now: Duration) -> Vec<(SocketAddr, Happened)> {
        let waited = self.pending.values().any(|(_, at)| now >= *at + PATIENCE)
            || self.legs.iter().flatten().any(|leg| leg.overdue(now));
        let again = self.again_at.is_some_and(|at| at <= now);
        if (waited || again) && self.conn.is_some() {
            self.again_at = None;
            self.pending.clear();
            if self.wants_room {
                self.join(now);
            }
        } else if waited || again {
            // Without a connection it is tried once there is one.
            self.pending.clear();
            self.again_at = None;
            self.joined = false;
            self.legs = [None, None];
        }
        let mut happened = Vec::new();
        for (index, interval) in [AUDIO_INTERVAL, self.frame_interval].into_iter().enumerate() {
            if let Some(leg) = &mut self.legs[0]
                && self.next_frames[index] <= now
            {
                self.next_frames[index] = now + interval;
                if !self.silent && self.producers.contains_key(&index) {
                    leg.write_frame(now, index);
                }
            }
        }
        let mut lost = false;
        for leg in self.legs.iter_mut().flatten().filter(|leg| leg.deadline <= now) {
            for event in leg.poll(now) {
                match event {
                    Happened::Lost => lost = true,
                    event => happened.push((leg.address, event)),
                }
            }
        }
        if lost {
            self.come_again(now);
        }
        happened
    }
}
