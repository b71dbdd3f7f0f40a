//! Rooms: who is in, who publishes what, and what the hub asks of media (`docs/protocol.md` §3).

use std::collections::BTreeSet;

use common::control::{Action, Event, EventKind, FromMedia, MediaError};
use common::ids::{PeerId, RoomId, TransportId};
use serde_json::json;
use signaling::hub::Input;

use crate::script::{World, join, produce};

#[test]
fn simultaneous_joins_meet_and_newcomers_learn_what_is_published() {
    let mut world = World::new();
    for (conn, user) in [(1, "alice"), (2, "bob"), (3, "carol")] {
        world.user(conn, user);
    }
    world.media_answers = false;
    world.say(1, join("r"));
    world.say(2, join("r"));
    world.media_answers = true;
    world.sent.clear();
    world.put(Input::Timeout);
    for conn in [1, 2] {
        assert_eq!(world.told(conn, "response").expect("answered")["ok"], true);
    }
    assert_eq!(world.hub.stats().rooms, 1);
    world.say(1, produce());
    let published = world.told(2, "new-producer").expect("told");
    assert_eq!((&published["peerId"], &published["source"]), (&json!("alice"), &json!("microphone")));
    world.say(3, join("r"));
    let data = world.told(3, "response").expect("answered")["data"].clone();
    assert_eq!(data["producers"][0]["producerId"], published["producerId"]);
    assert_eq!(data["peers"].as_array().map(Vec::len), Some(2));
    assert_eq!(data["recording"], false);
    assert_eq!(world.told(1, "peer-joined").expect("told")["peerId"], "carol");
}

#[test]
fn who_leaves_takes_everything_along_and_an_empty_room_is_closed() {
    let mut world = World::room();
    world.say(1, produce());
    world.say(1, json!({ "type": "leave-room", "requestId": 3 }));
    assert!(world.told(2, "producer-closed").is_some());
    assert_eq!(world.told(2, "peer-left").expect("told")["peerId"], "alice");
    world.media_answers = false;
    world.say(2, json!({ "type": "leave-room", "requestId": 3 }));
    assert!(world.media.iter().any(|command| command.action == Action::CloseRoom));
    assert_eq!(world.hub.stats().rooms, 0);
}

#[test]
fn a_second_session_of_a_user_is_another_peer() {
    let mut world = World::room();
    world.user(3, "alice");
    world.say(3, join("r"));
    assert_eq!(world.told(2, "peer-joined").expect("told")["peerId"], "alice#2");
}

#[test]
fn tokens_say_which_room_and_what_may_be_done_there() {
    let mut world = World::new();
    world.connect(1, "alice", json!({ "room": "r", "publish": false }), None);
    assert_eq!(world.code(1, join("elsewhere")), "forbidden");
    assert_eq!(world.code(1, join("r")), "ok");
    assert_eq!(world.code(1, produce()), "forbidden");
    world.connect(2, "bob", json!({ "subscribe": false }), None);
    assert_eq!(world.code(2, join("r")), "ok");
    let consume = json!({ "type": "consume", "requestId": 2, "transportId": "t", "producerId": "p", "rtpCapabilities": {} });
    assert_eq!(world.code(2, consume), "forbidden");
    for message in [
        json!({ "type": "remove-peer", "requestId": 3, "peerId": "alice" }),
        json!({ "type": "mute-peer", "requestId": 3, "peerId": "alice", "producerId": "p" }),
        json!({ "type": "close-room", "requestId": 3 }),
    ] {
        assert_eq!(world.code(2, message), "forbidden", "bob is no admin");
    }
}

#[test]
fn admins_mute_remove_and_close() {
    let mut world = World::room();
    world.connect(3, "root", json!({ "admin": true }), None);
    world.say(3, join("r"));
    world.say(1, produce());
    let producer = world.told(2, "new-producer").expect("told")["producerId"].clone();
    world.say(3, json!({ "type": "mute-peer", "requestId": 3, "peerId": "alice", "producerId": producer }));
    assert_eq!(world.told(1, "muted").expect("told")["by"], "root");
    world.say(3, json!({ "type": "remove-peer", "requestId": 4, "peerId": "alice", "reason": "noise" }));
    assert_eq!(world.told(1, "removed").expect("told")["reason"], "noise");
    assert!(world.told(2, "peer-left").is_some());
    world.say(3, json!({ "type": "close-room", "requestId": 5 }));
    assert!(world.told(2, "room-closed").is_some());
    assert_eq!(world.hub.stats().rooms, 0);
}

#[test]
fn a_room_that_media_refuses_says_why() {
    let mut world = World::new();
    world.user(1, "alice");
    world.refuse_rooms = Some(MediaError::InvalidParameters("unsupported codec H263".into()));
    assert_eq!(world.code(1, join("r")), "invalid-parameters");
    assert_eq!(world.hub.stats().rooms, 0);
    world.refuse_rooms = None;
    assert_eq!(world.code(1, join("r")), "ok", "the name is free again");
}

#[test]
fn a_full_room_refuses_newcomers_and_takes_back_who_is_in_it() {
    let mut world = World::new();
    world.user(1, "alice");
    world.user(2, "bob");
    let small = json!({ "type": "join-room", "requestId": 1, "roomId": "r", "create": { "maxPeers": 1 } });
    assert_eq!(world.code(1, small), "ok");
    assert_eq!(world.code(2, join("r")), "room-full");
    assert_eq!(world.code(1, join("r")), "ok");
}

#[test]
fn a_producer_made_for_a_peer_that_left_is_not_announced() {
    let mut world = World::room();
    world.media_answers = false;
    world.say(1, produce());
    world.say(1, json!({ "type": "leave-room", "requestId": 3 }));
    world.media_answers = true;
    world.sent.clear();
    world.put(Input::Timeout);
    assert!(world.told(2, "new-producer").is_none());
}

#[test]
fn a_full_worker_queue_is_answered() {
    let mut world = World::room();
    world.queue_full = true;
    assert_eq!(world.code(1, produce()), "overloaded");
    world.queue_full = false;
    assert_eq!(world.code(1, produce()), "ok");
}

#[test]
fn who_leaves_while_the_worker_is_overloaded_leaves_the_sfu_when_it_is_not() {
    let mut world = World::room();
    world.queue_full = true;
    assert_eq!(world.code(1, json!({ "type": "leave-room", "requestId": 3 })), "ok");
    assert!(world.told(2, "peer-left").is_some());
    world.wait(60, &[]);
    assert_eq!(world.sfu.values().map(BTreeSet::len).sum::<usize>(), 2, "there was no room for it");
    assert_eq!(world.hub.stats().held_back, 1);
    world.queue_full = false;
    assert_eq!(world.code(1, join("r")), "overloaded", "alice must not overtake her own removal");
    assert_eq!(world.code(2, produce()), "overloaded");
    world.wait(1, &[]);
    assert_eq!(world.sfu.values().map(BTreeSet::len).sum::<usize>(), 1);
    assert_eq!(world.code(1, join("r")), "ok");
    assert_eq!((world.hub.stats().held_back, world.hub.stats().requests), (0, 0));
}

#[test]
fn removals_and_closings_towards_a_full_queue_arrive_in_order_and_each_once() {
    let mut world = World::room();
    world.user(3, "carol");
    for (conn, room) in [(1, "r"), (2, "r"), (3, "s")] {
        assert_eq!(world.code(conn, join(room)), "ok");
    }
    world.media_answers = false;
    world.queue_full = true;
    for conn in [1, 3, 2] {
        world.say(conn, json!({ "type": "leave-room", "requestId": 3 }));
    }
    assert_eq!(world.hub.stats().held_back, 2, "the end of a room is its peers' end");
    world.queue_full = false;
    world.wait(1, &[]);
    let arrived: Vec<_> = world.media.iter().map(|c| (c.room.as_str(), c.action.clone())).collect();
    assert_eq!(arrived, [("s", Action::CloseRoom), ("r", Action::CloseRoom)]);
}

#[test]
fn a_new_room_goes_to_a_worker_that_takes_commands() {
    let mut world = World::with_workers(2);
    for (conn, user) in [(1, "alice"), (2, "bob"), (3, "carol")] {
        world.user(conn, user);
    }
    for (conn, room) in [(1, "r"), (2, "s")] {
        assert_eq!(world.code(conn, join(room)), "ok");
    }
    world.queue_full = true;
    world.say(1, json!({ "type": "leave-room", "requestId": 3 }));
    world.queue_full = false;
    assert_eq!(world.code(3, join("r")), "ok", "on the worker of s, though that has more peers");
    assert_eq!(world.hub.stats().held_back, 1);
}

#[test]
fn joining_another_room_leaves_the_first() {
    let mut world = World::room();
    world.say(1, join("s"));
    assert_eq!(world.told(2, "peer-left").expect("told")["peerId"], "alice");
    assert_eq!(world.hub.stats().rooms, 2);
}

#[test]
fn requests_outside_a_room_or_without_an_id_are_refused() {
    let mut world = World::new();
    world.user(1, "alice");
    assert_eq!(world.code(1, produce()), "room-not-found");
    assert_eq!(world.code(1, json!({ "type": "join-room", "roomId": "r" })), "invalid-message");
    assert_eq!(
        world.code(1, json!({ "type": "join-room", "requestId": 1, "roomId": "a b" })),
        "invalid-message"
    );
}

#[test]
fn nobody_is_told_of_a_peer_that_media_did_not_take_in() {
    let mut world = World::room();
    world.user(3, "carol");
    world.media_answers = false;
    world.say(3, join("r"));
    assert_eq!(world.told(1, "peer-joined"), None, "not before media has answered");
    world.say(3, json!({ "type": "leave-room", "requestId": 2 }));
    assert_eq!(world.told(1, "peer-left"), None, "who was never there has not left");
    let mut world = World::room();
    world.user(3, "carol");
    world.queue_full = true;
    assert_eq!(world.code(3, join("r")), "overloaded");
    assert_eq!((world.told(1, "peer-joined"), world.told(1, "peer-left")), (None, None));
}

#[test]
fn the_rooms_of_a_worker_that_failed_are_closed_and_can_be_joined_again() {
    let mut world = World::room();
    let create = |direction| json!({ "type": "create-transport", "requestId": 7, "direction": direction });
    let [send, receive, closed, gone] = ["send", "recv", "recv", "recv"].map(|direction| {
        world.say(1, create(direction));
        world.told(1, "response").expect("answered")["data"]["id"].clone()
    });
    world.say(1, json!({ "type": "close-transport", "requestId": 8, "transportId": closed }));
    let transport = TransportId::new(gone.as_str().expect("text")).expect("an id");
    let kind = EventKind::TransportClosed { transport, reason: "ice-timeout" };
    let (room, peer) = (RoomId::new("r").expect("an id"), PeerId::new("alice").expect("an id"));
    world.put(Input::Media { worker: 0, message: FromMedia::Event(Event { room, peer, kind }) });
    world.media_answers = false;
    world.say(1, produce());
    world.media.clear();
    world.sfu.clear();
    world.sent.clear();
    world.media_answers = true;
    world.put(Input::Media { worker: 0, message: FromMedia::Lost });
    let told = world.sent.iter().filter(|(to, message)| *to == 1 && message["type"] == "transport-closed");
    let told: BTreeSet<&str> = told
        .inspect(|(_, message)| assert_eq!(message["reason"], "worker-failed"))
        .filter_map(|(_, message)| message["transportId"].as_str())
        .collect();
    assert_eq!(told, BTreeSet::from([&send, &receive].map(|id| id.as_str().expect("text"))));
    assert_eq!(world.told(1, "room-closed"), None);
    let closed = world.told(2, "room-closed").expect("who has no transport hears of the room");
    assert_eq!(closed["reason"], "failed");
    assert_eq!(world.told(1, "response").map(|told| told["code"].clone()), Some(json!("room-not-found")));
    assert_eq!((world.hub.stats().rooms, world.hub.stats().requests), (0, 0), "nothing waits for an answer");
    for conn in [1, 2] {
        assert_eq!(world.code(conn, join("r")), "ok");
    }
}

#[test]
fn a_new_room_goes_to_the_worker_that_is_least_busy() {
    let mut world = World::with_workers(2);
    (1..=4).for_each(|conn| world.user(conn, &format!("user{conn}")));
    let load = |world: &mut World, worker, busy_permille| {
        world.put(Input::Media { worker, message: FromMedia::Load { busy_permille } });
    };
    world.media_answers = false;
    let place = |world: &mut World, conn: u64, room: &str| {
        world.say(conn, join(room));
        world.worker_of(room)
    };
    assert_eq!(place(&mut world, 1, "a"), Some(0));
    load(&mut world, 0, 100);
    assert_eq!(place(&mut world, 2, "b"), Some(1));
    load(&mut world, 1, 900);
    assert_eq!(place(&mut world, 3, "c"), Some(0), "though it has as many peers");
    world.put(Input::Media { worker: 1, message: FromMedia::Lost });
    assert_eq!(place(&mut world, 4, "d"), Some(1), "who begins again has nothing to do");
}
