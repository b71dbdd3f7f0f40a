//! Rooms that span workers: what the hub asks of which worker.

use common::control::{Action, Event, EventKind, FromMedia, PublishedId};
use common::ids::{PeerId, RoomId};
use serde_json::{Value, json};
use signaling::hub::Input;

use crate::script::{World, join, produce};

/// Alice (1) is in the room `r` on worker 0, which has become full, and Bob (2) on worker 1. Alice publishes.
fn spanning() -> (World, Value) {
    let mut world = World::with_workers(2);
    (1..=4).for_each(|conn| world.user(conn, ["alice", "bob", "carol", "dave"][conn as usize - 1]));
    assert_eq!(world.code(1, join("r")), "ok");
    load(&mut world, 0, 900);
    assert_eq!(world.code(2, join("r")), "ok");
    world.say(1, produce());
    let producer = world.told(2, "new-producer").expect("told")["producerId"].clone();
    world.commands.clear();
    (world, producer)
}

fn load(world: &mut World, worker: usize, busy_permille: u16) {
    world.put(Input::Media { worker, message: FromMedia::Load { busy_permille } });
}

fn consume(producer: &Value) -> Value {
    json!({ "type": "consume", "requestId": 5, "transportId": "t", "producerId": producer,
            "rtpCapabilities": { "codecs": [], "headerExtensions": [] } })
}

/// What has been asked since the last time, with the worker and the peer it is of.
fn asked(world: &mut World) -> Vec<String> {
    let name = |action: &Action| match action {
        Action::Export { to, .. } => format!("export to {to}"),
        Action::EndExport { to, .. } => format!("end export to {to}"),
        Action::Import { from, .. } => format!("import from {from}"),
        Action::PauseImport { paused, .. } => format!("pause import {paused}"),
        Action::CloseImport { published: PublishedId::Media(_) } => "close import".into(),
        other => format!("{other:?}").split([' ', '{']).next().unwrap_or_default().to_lowercase(),
    };
    let commands = std::mem::take(&mut world.commands);
    commands.iter().map(|(worker, it)| format!("{worker} {} {}", it.peer, name(&it.action))).collect()
}

#[test]
fn a_newcomer_of_a_full_worker_is_on_another_and_gets_what_it_wants_there() {
    let (mut world, producer) = spanning();
    world.say(2, consume(&producer));
    assert_eq!(asked(&mut world), ["1 alice import from 0", "0 alice export to 1", "1 bob consume"]);
    world.say(2, consume(&producer));
    assert_eq!(asked(&mut world), ["1 bob consume"], "it is there already");
    world.say(1, consume(&producer));
    assert_eq!(asked(&mut world), ["0 alice consume"], "it was always there");
    world.say(1, json!({ "type": "pause-producer", "requestId": 6, "producerId": producer }));
    assert_eq!(asked(&mut world), ["0 alice pauseproducer", "1 alice pause import true"]);
    assert!(world.told(2, "producer-paused").is_some());
    world.say(1, json!({ "type": "close-producer", "requestId": 6, "producerId": producer }));
    assert_eq!(asked(&mut world), ["0 alice closeproducer", "1 alice close import"]);
    assert!(world.told(2, "producer-closed").is_some());
}

#[test]
fn a_room_is_closed_where_nobody_is_any_more() {
    let (mut world, producer) = spanning();
    world.say(2, consume(&producer));
    asked(&mut world);
    world.say(2, json!({ "type": "leave-room", "requestId": 7 }));
    assert_eq!(asked(&mut world), ["1 bob removepeer", "0 alice end export to 1", "1 bob closeroom"]);
    // Back there: it has to be brought again.
    assert_eq!(world.code(2, join("r")), "ok");
    assert_eq!(asked(&mut world), ["1 bob openroom", "1 bob addpeer"]);
    world.say(2, consume(&producer));
    assert_eq!(asked(&mut world), ["1 alice import from 0", "0 alice export to 1", "1 bob consume"]);
    world.say(1, json!({ "type": "leave-room", "requestId": 7 }));
    assert_eq!(asked(&mut world), ["0 alice removepeer", "1 alice removepeer", "0 alice closeroom"]);
    assert!(world.told(2, "peer-left").is_some());
    world.say(2, json!({ "type": "leave-room", "requestId": 7 }));
    assert_eq!(asked(&mut world), ["1 bob closeroom"]);
    assert!(world.hub.held().iter().filter(|(name, _)| *name == "rooms").all(|(_, count)| *count == 0));
}

#[test]
fn a_worker_that_fails_takes_only_its_part_of_the_room() {
    let (mut world, producer) = spanning();
    world.say(2, consume(&producer));
    world.say(2, produce());
    let of_bob = world.told(1, "new-producer").expect("told")["producerId"].clone();
    world.say(1, consume(&of_bob));
    asked(&mut world);
    world.sent.clear();
    world.sfu.clear();
    world.put(Input::Media { worker: 1, message: FromMedia::Lost });
    assert_eq!(world.told(2, "room-closed").expect("who was on it is told")["reason"], "failed");
    assert_eq!(world.told(1, "room-closed"), None);
    assert_eq!(world.told(1, "peer-left").expect("the others see it leave")["reason"], "failed");
    assert_eq!(world.told(1, "producer-closed").expect("with its producer")["producerId"], of_bob);
    assert_eq!(
        asked(&mut world),
        ["0 bob removepeer", "1 bob removepeer", "0 alice end export to 1", "1 bob closeroom"]
    );
    assert_eq!(world.code(2, join("r")), "ok", "and it comes back");
    let told = world.told(2, "response").expect("answered")["data"].clone();
    assert_eq!(told["producers"][0]["producerId"], producer);
}

#[test]
fn one_worker_speaks_of_who_speaks() {
    let (mut world, _) = spanning();
    let speaks = |world: &mut World, worker| {
        world.sent.clear();
        let (room, peer) = (RoomId::new("r").expect("an id"), PeerId::new("alice").expect("an id"));
        let event = Event { room, peer: peer.clone(), kind: EventKind::ActiveSpeaker(Some(peer)) };
        world.put(Input::Media { worker, message: FromMedia::Event(event) });
        world.told(1, "active-speaker").is_some() && world.told(2, "active-speaker").is_some()
    };
    assert!(speaks(&mut world, 0));
    assert!(!speaks(&mut world, 1));
    world.say(1, json!({ "type": "leave-room", "requestId": 7 }));
    world.sent.clear();
    let (room, peer) = (RoomId::new("r").expect("an id"), PeerId::new("bob").expect("an id"));
    let event = Event { room, peer, kind: EventKind::ActiveSpeaker(None) };
    world.put(Input::Media { worker: 1, message: FromMedia::Event(event) });
    assert!(world.told(2, "active-speaker").is_some(), "when nobody is left on the first");
}

#[test]
fn a_full_queue_swallows_nothing_that_keeps_the_room_together() {
    let (mut world, producer) = spanning();
    world.say(2, consume(&producer));
    asked(&mut world);
    world.full_worker = Some(1);
    for _ in 0..50 {
        for kind in ["resume-producer", "pause-producer"] {
            world.say(1, json!({ "type": kind, "requestId": 6, "producerId": producer }));
        }
    }
    assert_eq!(world.hub.stats().held_back, 1, "only the last word counts");
    world.say(3, join("s"));
    assert_eq!(world.worker_of("s"), Some(0), "it takes nobody meanwhile");
    world.full_worker = None;
    asked(&mut world);
    world.now += std::time::Duration::from_millis(50);
    world.put(Input::Timeout);
    assert_eq!(asked(&mut world), ["1 alice pause import true"]);
    world.full_worker = Some(1);
    world.say(1, json!({ "type": "leave-room", "requestId": 7 }));
    world.full_worker = None;
    world.now += std::time::Duration::from_millis(50);
    world.put(Input::Timeout);
    assert_eq!(asked(&mut world), ["0 alice removepeer", "0 alice closeroom", "1 alice removepeer"]);
    assert_eq!(world.hub.stats().requests, 0);
}
