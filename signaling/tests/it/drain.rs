//! Draining: what runs may end by itself, nothing new begins, and then everything ends (`docs/protocol.md` §4).

use serde_json::json;
use signaling::hub::Input;

use crate::script::{World, initiate, join};

#[test]
fn a_running_call_goes_on_and_idle_sessions_go_elsewhere() {
    let mut world = World::call(true);
    world.put(Input::Drain);
    assert_eq!(world.closed, [(3, 1012), (9, 1012)]);
    let offer = json!({ "type": "offer", "callId": "c", "recipientId": "bob", "sdp": "v=0" });
    assert_eq!(world.code(1, offer), "ok");
    world.wait(60, &[]);
    assert_eq!((world.hub.stats().calls, world.closed.len()), (1, 2));
    world.say(1, json!({ "type": "call-end", "callId": "c" }));
    assert_eq!(world.told(2, "call-ended").expect("told")["reason"], "hangup");
    world.wait(1, &[]);
    assert_eq!(world.closed[2..], [(1, 1012), (2, 1012)], "when theirs has ended");
    assert_eq!(world.hub.stats(), World::new().hub.stats());
    assert_eq!(world.records[0].end_reason, "hangup");
}

#[test]
fn a_phone_that_rings_may_be_answered_on_any_device_and_moved_to_a_room() {
    let mut world = World::call(false);
    world.user(4, "bob");
    world.put(Input::Drain);
    assert_eq!(world.closed, [(3, 1012), (9, 1012)]);
    assert_eq!(world.code(4, json!({ "type": "call-answer", "callId": "c" })), "ok");
    world.say(1, json!({ "type": "call-upgrade", "callId": "c" }));
    let room = world.told(4, "call-upgraded").expect("told")["roomId"].clone();
    for conn in [1, 4] {
        assert_eq!(world.code(conn, json!({ "type": "join-room", "requestId": 1, "roomId": room })), "ok");
    }
    world.wait(2, &[]);
    assert_eq!(world.closed[2..], [(2, 1012)], "the device that did not answer");
}

#[test]
fn nothing_new_begins() {
    let mut world = World::room();
    world.user(3, "carol");
    world.say(3, initiate("c", &["bob"]));
    world.say(2, json!({ "type": "call-answer", "callId": "c" }));
    world.put(Input::Drain);
    assert_eq!(world.code(1, initiate("d", &["bob"])), "draining");
    assert_eq!(
        world.code(3, json!({ "type": "call-invite", "callId": "c", "recipientIds": ["alice"] })),
        "draining"
    );
    assert_eq!(world.code(3, join("new")), "draining");
    assert_eq!(world.code(3, join("r")), "ok", "this one goes on");
    world.user(4, "dave");
    assert_eq!(world.closed, [(4, 1012)]);
}

#[test]
fn a_session_that_is_needed_may_still_resume() {
    let mut world = World::call(true);
    let id = world.connect(5, "dave", json!({}), None)["sessionId"].as_str().expect("an id").to_string();
    assert_eq!(world.code(5, join("r")), "ok");
    world.put(Input::Drain);
    world.lose(5, None);
    assert_eq!(world.connect(6, "dave", json!({}), Some(&id))["resumed"], true);
}

#[test]
fn stopping_ends_and_records_what_is_left() {
    let mut world = World::call(true);
    world.put(Input::Drain);
    world.sent.clear();
    world.put(Input::Stop);
    assert_eq!(world.told(2, "call-ended").expect("told")["reason"], "server-stopping");
    assert_eq!(world.closed[2..], [(1, 1012), (2, 1012)]);
    assert_eq!((world.records.len(), world.records[0].end_reason.as_str()), (1, "server-stopping"));
}
