//! The hub, step by step: people who come, speak, are lost and return, media that answers late or not at all, time.
//!
//! `signaling`'s own scripts are the world (nothing may be sent to a connection that is gone, nobody enters the SFU
//! twice). Here every offer says in its body who may read it, and every producer in which room it was made.

use std::collections::BTreeMap;

use common::control::{EventKind, FromMedia};
use common::ids::PeerId;
use serde_json::{Value, json};
use signaling::hub::{AdminRequest, ConnId, Input};

use crate::bytes::Bytes;

#[allow(dead_code, missing_docs, clippy::new_without_default)] // written for tests
#[path = "../../../signaling/tests/it/script.rs"]
pub mod script;

use script::World;

const USERS: [&str; 4] = ["u0", "u1", "u2", "u3"];
const CALLS: [&str; 3] = ["c", "d", "e"];
const ROOMS: [&str; 3] = ["r", "s", "call-c"];
const STEPS_MAX: usize = 200;
/// Whoever speaks before a join is answered may be in either room.
const ON_THE_WAY: &str = "on the way";

impl World {
    /// A message of a connection, as it is.
    pub fn put_text(&mut self, conn: u64, text: &str) {
        self.put(Input::Text { conn: ConnId(conn), text: text.into() });
    }
}

/// Who is behind a connection, and what must reach nobody else.
#[derive(Default)]
struct Oracle {
    users: BTreeMap<u64, &'static str>,
    rooms: BTreeMap<u64, String>,
    /// Room requests under way, by number: whose, and the room to be joined.
    requests: BTreeMap<u64, (u64, Option<&'static str>)>,
}

impl Oracle {
    /// Looks at everything that was sent since the last time.
    fn look(&mut self, world: &mut World) {
        for (conn, message) in std::mem::take(&mut world.sent) {
            let user = self.users[&conn];
            match message["type"].as_str().expect("every message has a type") {
                "offer" | "answer" | "renegotiate" => {
                    assert_eq!(message["sdp"], json!({ "for": user }), "to {user}: {message}");
                }
                "ice-candidate" => {
                    assert_eq!(message["candidate"], json!({ "for": user }), "to {user}: {message}")
                }
                "response" => self.response(conn, &message),
                "new-producer" => {
                    let room = self.rooms.get(&conn).map(String::as_str);
                    let source = message["source"].as_str();
                    assert!(source == room || source == Some(ON_THE_WAY), "to {user} in {room:?}: {message}");
                }
                "room-closed" | "removed" => {
                    self.rooms.remove(&conn);
                }
                _ => {}
            }
        }
        let stats = world.hub.stats();
        assert!(stats.sessions <= 32 * USERS.len() && stats.calls <= CALLS.len());
        assert!(stats.rooms <= ROOMS.len() && stats.held_back <= stats.requests);
    }

    /// What a producer of this connection is marked with.
    fn mark(&self, conn: u64) -> &str {
        let joins = self.requests.values().any(|(asker, room)| *asker == conn && room.is_some());
        if joins { ON_THE_WAY } else { self.rooms.get(&conn).map_or("nowhere", String::as_str) }
    }

    fn response(&mut self, conn: u64, message: &Value) {
        let Some(number) = message["requestId"].as_u64() else { return };
        let Some((asker, room)) = self.requests.remove(&number) else { panic!("nobody asked: {message}") };
        // A resumed session has another connection, but is the same user's.
        assert_eq!(self.users[&asker], self.users[&conn], "an answer to somebody else: {message}");
        if let (Some(room), true) = (room, message["ok"] == true) {
            self.rooms.insert(conn, room.into());
            for producer in message["data"]["producers"].as_array().into_iter().flatten() {
                assert!(producer["source"] == room || producer["source"] == ON_THE_WAY, "{message}");
            }
        }
    }
}

/// A session of somebody.
struct Seat {
    conn: u64,
    session: Option<String>,
}

/// A list of steps.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut world = World::new();
    let mut oracle = Oracle::default();
    let mut seats: Vec<Seat> = Vec::new();
    let mut next = 1;
    for user in USERS {
        seats.push(connect(&mut world, &mut oracle, &mut next, user, None));
    }
    let mut number = 0;
    for _ in 0..STEPS_MAX {
        if bytes.is_empty() {
            break;
        }
        let (what, who) = (bytes.byte(), usize::from(bytes.byte()) % USERS.len());
        let conn = seats[who].conn;
        match what % 16 {
            0 => {
                world.lose(conn, bytes.pick(&[None, Some(1000), Some(1001), Some(1006)]));
                let resume = if bytes.byte() % 2 == 0 { seats[who].session.take() } else { None };
                let room = oracle.rooms.remove(&conn);
                oracle.look(&mut world);
                let seat = connect(&mut world, &mut oracle, &mut next, USERS[who], resume.as_deref());
                if resume.is_some() && seat.session == resume {
                    oracle.rooms.extend(room.map(|room| (seat.conn, room)));
                    // What the session has asked for is answered to its new connection.
                    let asked = oracle.requests.values_mut().filter(|(asker, _)| *asker == conn);
                    asked.for_each(|(asker, _)| *asker = seat.conn);
                }
                seats[who] = seat;
            }
            1 => world.wait(u64::from(bytes.byte() % 50), &[]),
            2 => world.queue_full = !world.queue_full,
            3 => {
                world.media_answers = !world.media_answers;
                world.put(Input::Timeout);
            }
            4 => media_event(&mut world, &mut bytes),
            5 => admin(&mut world, &mut bytes),
            6 => {
                let message = bytes.short();
                world.put_text(conn, &String::from_utf8_lossy(message));
                world.sent.retain(|(_, message)| message["type"] == "error");
            }
            7..=10 => {
                let message = call_message(&mut bytes);
                world.put_text(conn, &message.to_string());
            }
            _ => {
                number += 1;
                let (message, room) = room_request(&mut bytes, number, oracle.mark(conn));
                oracle.requests.insert(number, (conn, room));
                world.put_text(conn, &message.to_string());
            }
        }
        oracle.look(&mut world);
    }
    everybody_leaves(world);
}

fn connect(
    world: &mut World,
    oracle: &mut Oracle,
    next: &mut u64,
    user: &'static str,
    resume: Option<&str>,
) -> Seat {
    let conn = *next;
    *next += 1;
    oracle.users.insert(conn, user);
    let told = world.connect(conn, user, json!({ "admin": user == "u0" }), resume);
    let session = told["sessionId"].as_str().map(Into::into);
    Seat { conn, session }
}

fn call_message(bytes: &mut Bytes<'_>) -> Value {
    let kind = bytes.pick(&[
        "call-initiate",
        "call-answer",
        "call-reject",
        "call-end",
        "call-invite",
        "call-upgrade",
        "offer",
        "answer",
        "renegotiate",
        "ice-candidate",
        "quality-report",
    ]);
    let (call, to, third) = (bytes.pick(&CALLS), bytes.pick(&USERS), bytes.pick(&USERS));
    json!({
        "type": kind, "callId": call, "recipientId": to, "recipientIds": [to, third], "callType": "audio",
        "sdp": { "for": to }, "candidate": { "for": to }, "forAll": bytes.byte() % 2 == 1, "reason": "busy",
        "metrics": { "roundTripTime": bytes.byte(), "audioPacketsLost": bytes.byte() },
    })
}

/// The message, and the room that it would enter.
fn room_request(bytes: &mut Bytes<'_>, number: u64, mark: &str) -> (Value, Option<&'static str>) {
    let kind = bytes.pick(&[
        "join-room",
        "join-room",
        "produce",
        "produce",
        "create-transport",
        "consume",
        "close-producer",
        "pause-producer",
        "leave-room",
        "close-room",
        "remove-peer",
        "mute-peer",
        "get-stats",
        "produce-data",
        "resume-consumer",
        "set-priority",
    ]);
    let room = bytes.pick(&ROOMS);
    let producer = format!("p{}", bytes.byte());
    let message = json!({
        "type": kind, "requestId": number, "roomId": room, "direction": "send", "transportId": "t", "kind": "audio",
        "source": mark, "rtpParameters": { "codecs": [] }, "rtpCapabilities": {},
        "producerId": producer, "consumerId": producer, "peerId": bytes.pick(&USERS), "priority": 1,
        "sctpStreamParameters": { "streamId": 1 },
    });
    (message, (kind == "join-room").then_some(room))
}

fn media_event(world: &mut World, bytes: &mut Bytes<'_>) {
    let room = bytes.pick(&ROOMS);
    let peer = PeerId::new(bytes.pick(&USERS)).expect("an id");
    let id = format!("p{}", bytes.byte());
    let kind = match bytes.byte() % 4 {
        0 => EventKind::ProducerClosed(id.try_into().expect("an id")),
        1 => EventKind::ConsumerClosed(id.try_into().expect("an id")),
        2 => EventKind::TransportClosed { transport: id.try_into().expect("an id"), reason: "ice-timeout" },
        _ => EventKind::Reception {
            loss: f32::from(bytes.byte()) / 255.0,
            round_trip: std::time::Duration::from_millis(bytes.u16().into()),
        },
    };
    let event = common::control::Event { room: room.to_owned().try_into().expect("an id"), peer, kind };
    world.put(Input::Media { worker: 0, message: FromMedia::Event(event) });
}

fn admin(world: &mut World, bytes: &mut Bytes<'_>) {
    let room = bytes.pick(&ROOMS).to_owned().try_into().expect("an id");
    let by = "root".to_owned().try_into().expect("an id");
    let request = match bytes.byte() % 4 {
        0 => AdminRequest::Rooms,
        1 => AdminRequest::Room(room),
        2 => AdminRequest::CloseRoom { room, by },
        _ => AdminRequest::RemovePeer { room, peer: PeerId::new(bytes.pick(&USERS)).expect("an id"), by },
    };
    world.put(Input::Admin { id: 1, request });
}

/// Nothing is left, here or in the SFU, and each call was logged once.
fn everybody_leaves(mut world: World) {
    for conn in world.alive.clone() {
        world.lose(conn, Some(1000));
    }
    world.queue_full = false;
    world.media_answers = true;
    world.wait(60, &[]);
    world.put(Input::Timeout);
    assert_eq!(world.hub.stats(), World::new().hub.stats());
    assert!(world.sfu.is_empty(), "the SFU still has {:?}", world.sfu);
}

/// A call that moves to a room, and a room with a producer.
pub fn seeds() -> Vec<Vec<u8>> {
    let call = |kind: u8, who: u8, call: u8, to: u8| vec![7, who, kind, call, to, to, 0, 1, 1];
    let room = |kind: u8, who: u8, room: u8, producer: u8| vec![11, who, kind, room, producer, 1];
    let talk = [
        call(0, 0, 0, 1),
        call(1, 1, 0, 0),
        call(6, 0, 0, 1),
        call(7, 1, 0, 0),
        call(9, 0, 0, 1),
        call(5, 1, 0, 0),
        room(0, 0, 2, 0),
        room(0, 1, 2, 0),
        call(3, 0, 0, 0),
    ];
    let meet = [
        room(0, 0, 0, 0),
        room(0, 1, 0, 0),
        room(4, 0, 0, 0),
        room(2, 0, 0, 0),
        room(0, 2, 0, 0),
        room(5, 1, 0, 3),
        vec![0, 1, 3, 0],
        vec![1, 0, 5],
        vec![2, 0],
        room(8, 0, 0, 0),
        vec![2, 0],
        room(0, 1, 1, 0),
        vec![4, 0, 0, 0, 3, 0],
        vec![5, 0, 0, 2],
        vec![3, 0],
        room(0, 3, 0, 0),
        vec![3, 0],
    ];
    vec![talk.concat(), meet.concat(), [talk.concat(), meet.concat()].concat()]
}
