//! Sessions: resume, several devices, heartbeats and rate (`docs/protocol.md` §1).

use serde_json::json;
use signaling::hub::{ConnId, Input};

use crate::script::{World, initiate};

#[test]
fn a_lost_connection_resumes_with_what_it_missed() {
    let mut world = World::call(true);
    let session = {
        let mut other = World::new();
        other.connect(1, "x", json!({}), None)["sessionId"].clone()
    };
    assert!(session.as_str().is_some_and(|id| id.len() >= 32), "128 bits that nobody guesses");
    let id = world.connect(5, "dave", json!({}), None)["sessionId"].as_str().expect("an id").to_string();
    world.lose(5, Some(1006));
    let ring = |world: &mut World, calls: std::ops::Range<usize>| {
        for n in calls {
            world.say(1, initiate(&format!("call-{n}"), &["dave"]));
            world.say(1, json!({ "type": "call-end", "callId": format!("call-{n}") }));
            world.now += std::time::Duration::from_millis(15);
        }
    };
    ring(&mut world, 0..128);
    let connected = world.connect(6, "dave", json!({}), Some(&id));
    assert_eq!((&connected["resumed"], &connected["sessionId"]), (&json!(true), &json!(id)));
    let missed = world.sent.iter().filter(|(to, m)| *to == 6 && m["type"] != "connected").count();
    assert_eq!(missed, 256, "all of them");
    assert_eq!(world.told(6, "call-ended").expect("the last one")["callId"], "call-127");
    world.lose(6, Some(1006));
    ring(&mut world, 128..257);
    let connected = world.connect(7, "dave", json!({}), Some(&id));
    assert_eq!(connected["resumed"], false, "it would not know what it has missed");
    assert_ne!(connected["sessionId"], json!(id));
    let missed = world.sent.iter().filter(|(to, m)| *to == 7 && m["type"] != "connected").count();
    assert_eq!(missed, 0);
}

#[test]
fn a_session_that_missed_messages_has_left_its_room_when_its_user_comes_again() {
    let mut world = World::room();
    let id = world.connect(5, "dave", json!({}), None)["sessionId"].as_str().expect("an id").to_string();
    world.say(5, crate::script::join("r"));
    world.lose(5, None);
    for n in 0..300 {
        world.say(1, initiate(&format!("call-{n}"), &["dave"]));
        world.say(1, json!({ "type": "call-end", "callId": format!("call-{n}") }));
        world.now += std::time::Duration::from_millis(15);
    }
    assert!(world.told(2, "peer-left").is_none(), "it may come back");
    assert_eq!(world.connect(6, "dave", json!({}), Some(&id))["resumed"], false);
    assert_eq!(world.told(2, "peer-left").expect("told")["peerId"], "dave");
    world.say(6, crate::script::join("r"));
    assert_eq!(world.told(6, "response").expect("answered")["data"]["peerId"], "dave", "its place is free");
}

#[test]
fn large_messages_do_not_add_up_while_a_session_is_away() {
    let mut world = World::call(true);
    let id = world.connect(5, "dave", json!({}), None)["sessionId"].as_str().expect("an id").to_string();
    world.say(1, json!({ "type": "call-invite", "callId": "c", "recipientIds": ["dave"] }));
    world.say(5, json!({ "type": "call-answer", "callId": "c" }));
    world.lose(5, Some(1006));
    let sdp = "x".repeat(200_000);
    let offer = |world: &mut World, count: usize, conn: u64| {
        for _ in 0..count {
            world.say(1, json!({ "type": "offer", "callId": "c", "recipientId": "dave", "sdp": sdp }));
        }
        let resumed = world.connect(conn, "dave", json!({}), Some(&id))["resumed"].clone();
        let missed = world.sent.iter().filter(|(to, m)| *to == conn && m["type"] == "offer").count();
        world.lose(conn, Some(1006));
        (resumed, missed)
    };
    assert_eq!(offer(&mut world, 5, 6), (json!(true), 5));
    assert_eq!(offer(&mut world, 6, 7), (json!(false), 0), "more than 1 MiB");
}

#[test]
fn a_session_is_its_users_own_and_ends_with_goodbye() {
    let mut world = World::new();
    let id = world.connect(1, "alice", json!({}), None)["sessionId"].as_str().expect("an id").to_string();
    world.lose(1, Some(1006));
    assert_eq!(world.connect(2, "mallory", json!({}), Some(&id))["resumed"], false);
    assert_eq!(world.connect(3, "alice", json!({}), Some(&id))["resumed"], true);
    world.lose(3, Some(1000));
    assert_eq!(world.connect(4, "alice", json!({}), Some(&id))["resumed"], false);
    world.lose(4, None);
    world.wait(11, &[]);
    let id = world.hub.stats().sessions;
    assert_eq!(id, 1, "only mallory is left after the grace");
}

#[test]
fn which_ends_of_a_connection_leave_the_session_for_the_grace() {
    for (code, resumes) in [
        (None, true),
        (Some(1001), true),
        (Some(1006), true),
        (Some(1012), true),
        (Some(1013), true),
        (Some(1000), false),
        (Some(1005), false),
        (Some(1008), false),
        (Some(4000), false),
    ] {
        let mut world = World::new();
        let id = world.connect(1, "alice", json!({}), None)["sessionId"].as_str().expect("an id").to_string();
        world.lose(1, code);
        assert_eq!(world.connect(2, "alice", json!({}), Some(&id))["resumed"], resumes, "{code:?}");
    }
}

#[test]
fn an_old_connection_that_closes_late_takes_nothing_with_it() {
    // B8: the user's new connection stays reachable.
    let mut world = World::new();
    let id = world.connect(1, "alice", json!({}), None)["sessionId"].as_str().expect("an id").to_string();
    world.connect(2, "alice", json!({}), Some(&id));
    assert_eq!(world.closed, [(1, 1008)]);
    world.put(Input::Closed { conn: ConnId(1), code: Some(1006) });
    world.user(3, "bob");
    world.say(3, initiate("c", &["alice"]));
    assert!(world.told(2, "incoming-call").is_some());
}

#[test]
fn a_silent_peer_is_lost_after_two_heartbeats() {
    // B10
    let mut world = World::call(true);
    world.wait(31, &[2]);
    assert_eq!(world.closed, [(2, 1001)]);
    world.wait(11, &[2]);
    assert_eq!(world.told(1, "call-ended").expect("told")["reason"], "disconnected");
}

#[test]
fn a_flood_is_told_once_then_dropped_then_cut_off_for_good() {
    // B10
    let mut world = World::call(true);
    let id = world.connect(5, "dave", json!({}), None)["sessionId"].as_str().expect("an id").to_string();
    let mut told = Vec::new();
    for _ in 0..1000 {
        told.push(world.code(5, json!({ "type": "call-end", "callId": "none" })));
        if !world.closed.is_empty() {
            break;
        }
    }
    assert_eq!(told.iter().filter(|code| *code == "call-not-found").count(), 300);
    assert_eq!(told.iter().filter(|code| *code == "rate-limited").count(), 1);
    assert_eq!(world.closed, [(5, 1008)]);
    assert_eq!(
        world.connect(6, "dave", json!({}), Some(&id))["resumed"],
        false,
        "no fresh burst by resuming"
    );
}

#[test]
fn broken_json_and_binary_frames_are_errors_and_the_connection_stays() {
    let mut world = World::call(true);
    for text in ["", "{", "[]", "7", "{\"type\":7}", &"[".repeat(100_000)] {
        world.sent.clear();
        world.put(Input::Text { conn: ConnId(1), text: text.to_string() });
        assert_eq!(world.told(1, "error").expect("told")["code"], "invalid-message", "{text:.20}");
    }
    world.sent.clear();
    world.put(Input::NotText { conn: ConnId(1) });
    assert_eq!(world.told(1, "error").expect("told")["error"], "Invalid message format");
    assert_eq!(world.code(1, json!({ "type": "call-end", "callId": "c" })), "ok");
}
