//! Calls: each row of `docs/protocol.md` §2 and the rules below its table. "B1" and so on are the faults that a naive
//! server has.

use std::time::Duration;

use serde_json::json;
use signaling::hub::Input;

use crate::script::{World, initiate};

#[test]
fn ringing_reaches_all_devices_of_each_recipient() {
    let mut world = World::new();
    for (conn, user) in [(1, "alice"), (2, "bob"), (3, "bob"), (4, "carol")] {
        world.user(conn, user);
    }
    world.say(1, initiate("c", &["bob", "carol"]));
    for conn in [2, 3, 4] {
        let incoming = world.told(conn, "incoming-call").expect("it rings");
        assert_eq!((&incoming["initiatorId"], &incoming["callType"]), (&json!("alice"), &json!("video")));
    }
}

#[test]
fn an_answer_is_told_to_the_joined_and_ends_the_ringing_elsewhere() {
    let mut world = World::new();
    for (conn, user) in [(1, "alice"), (2, "bob"), (3, "bob")] {
        world.user(conn, user);
    }
    world.say(1, initiate("c", &["bob"]));
    world.say(2, json!({ "type": "call-answer", "callId": "c" }));
    assert_eq!(world.told(1, "call-answered").expect("the caller knows")["userId"], "bob");
    assert_eq!(world.told(3, "call-ended").expect("the other device stops")["reason"], "answered-elsewhere");
    // From here on the call's messages reach only the device that answered.
    world.say(1, json!({ "type": "offer", "callId": "c", "recipientId": "bob", "sdp": "v=0" }));
    assert!(world.told(2, "offer").is_some() && world.told(3, "offer").is_none());
}

#[test]
fn a_rejection_reaches_the_initiator_and_ends_a_call_of_two() {
    // B6: who rejected is no member any more.
    let mut world = World::call(false);
    world.say(2, json!({ "type": "call-reject", "callId": "c", "reason": "busy" }));
    let rejected = world.told(1, "call-rejected").expect("the caller knows");
    assert_eq!((&rejected["userId"], &rejected["reason"]), (&json!("bob"), &json!("busy")));
    assert_eq!(world.code(2, json!({ "type": "call-answer", "callId": "c" })), "call-not-found");
    assert_eq!(world.hub.stats().calls, 0);
}

#[test]
fn hanging_up_is_told_to_everybody_else_whoever_does_it() {
    // B1: the initiator is a participant from the start.
    for (who, other) in [(1, 2), (2, 1)] {
        let mut world = World::call(true);
        world.say(who, json!({ "type": "call-end", "callId": "c" }));
        assert_eq!(world.told(other, "call-ended").expect("told")["reason"], "hangup");
    }
    let mut world = World::call(false);
    world.say(1, json!({ "type": "call-end", "callId": "c" }));
    assert!(world.told(2, "call-ended").is_some(), "a ringing callee is told of the cancel");
}

#[test]
fn one_of_three_leaves_and_the_others_go_on_until_the_initiator_ends_it_for_all() {
    let mut world = World::call(true);
    world.say(1, json!({ "type": "call-invite", "callId": "c", "recipientIds": ["carol"] }));
    assert!(world.told(3, "incoming-call").is_some());
    world.say(3, json!({ "type": "call-answer", "callId": "c" }));
    assert!(world.told(1, "call-upgraded").is_some(), "a third person moves the call to a room");
    world.say(2, json!({ "type": "call-end", "callId": "c" }));
    assert_eq!(world.told(1, "participant-left").expect("told")["userId"], "bob");
    world.say(1, json!({ "type": "call-end", "callId": "c", "forAll": true }));
    assert!(world.told(3, "call-ended").is_some());
    assert_eq!(world.hub.stats().calls, 0);
}

#[test]
fn media_negotiation_is_relayed_with_the_true_sender() {
    let mut world = World::call(true);
    for kind in ["offer", "answer", "renegotiate"] {
        world.say(
            1,
            json!({ "type": kind, "callId": "c", "recipientId": "bob", "sdp": "v=0", "senderId": "carol" }),
        );
        let told = world.told(2, kind).expect("relayed");
        assert_eq!((&told["senderId"], &told["sdp"]), (&json!("alice"), &json!("v=0")));
    }
    let candidate = json!({ "candidate": "candidate:1", "sdpMid": "0" });
    world.say(
        2,
        json!({ "type": "ice-candidate", "callId": "c", "recipientId": "alice", "candidate": candidate }),
    );
    assert_eq!(world.told(1, "ice-candidate").expect("relayed")["candidate"], candidate);
}

#[test]
fn strangers_can_do_nothing_to_a_call() {
    // B2, B3: membership is checked on every message.
    let mut world = World::call(true);
    for message in [
        json!({ "type": "call-answer", "callId": "c" }),
        json!({ "type": "call-reject", "callId": "c" }),
        json!({ "type": "call-end", "callId": "c" }),
        json!({ "type": "call-invite", "callId": "c", "recipientIds": ["carol"] }),
        json!({ "type": "call-upgrade", "callId": "c" }),
        json!({ "type": "offer", "callId": "c", "recipientId": "bob", "sdp": "v=0" }),
        json!({ "type": "ice-candidate", "callId": "c", "recipientId": "bob", "candidate": {} }),
    ] {
        assert_eq!(world.code(9, message.clone()), "not-in-call", "{message}");
        assert!(world.sent.iter().all(|(to, _)| *to == 9), "nobody else hears of it");
    }
}

#[test]
fn nothing_is_relayed_after_the_end() {
    // B4
    let mut world = World::call(true);
    world.say(1, json!({ "type": "call-end", "callId": "c" }));
    let late = json!({ "type": "answer", "callId": "c", "recipientId": "alice", "sdp": "v=0" });
    assert_eq!(world.code(2, late), "call-not-found");
    assert_eq!(world.code(2, json!({ "type": "call-end", "callId": "c" })), "call-not-found");
}

#[test]
fn a_call_id_in_use_cannot_be_taken() {
    // B5
    let mut world = World::call(true);
    assert_eq!(world.code(9, initiate("c", &["carol"])), "call-exists");
    assert_eq!(world.code(2, json!({ "type": "call-end", "callId": "c" })), "ok", "the call is as it was");
}

#[test]
fn an_offline_recipient_is_named_and_a_call_to_nobody_ends() {
    // B7
    let mut world = World::call(false);
    world.say(1, initiate("d", &["dave", "carol"]));
    let error = world.told(1, "error").expect("told");
    assert_eq!((&error["code"], &error["userId"]), (&json!("recipient-unavailable"), &json!("dave")));
    assert_eq!(error["callId"], "d");
    assert_eq!(world.hub.stats().calls, 2, "carol still rings");
    world.say(1, initiate("e", &["dave"]));
    assert!(world.told(1, "error").is_some());
    assert_eq!(world.hub.stats().calls, 2);
}

#[test]
fn nobody_answers_and_the_phones_stop() {
    let mut world = World::call(false);
    world.wait(46, &[]);
    for conn in [1, 2] {
        assert_eq!(world.told(conn, "call-ended").expect("told")["reason"], "no-answer");
    }
    assert_eq!(world.records.len(), 1);
    assert_eq!(world.records[0].end_reason, "no-answer");
}

#[test]
fn offers_that_come_before_the_call_wait_for_it() {
    // Shipping clients send in this order.
    let mut world = World::new();
    world.user(1, "alice");
    world.user(2, "bob");
    let offer = json!({ "type": "offer", "callId": "c", "recipientId": "bob", "sdp": "v=0" });
    assert_eq!(world.code(1, offer.clone()), "ok");
    world.say(1, initiate("c", &["bob"]));
    let order: Vec<_> =
        world.sent.iter().filter(|(to, _)| *to == 2).map(|(_, m)| m["type"].clone()).collect();
    assert_eq!(order, ["incoming-call", "offer"]);
    // Without a call they are refused after 3 s.
    assert_eq!(
        world.code(1, json!({ "type": "offer", "callId": "x", "recipientId": "bob", "sdp": "" })),
        "ok"
    );
    world.wait(4, &[]);
    assert_eq!(world.told(1, "error").expect("told")["code"], "call-not-found");
    // And they are bounded.
    let codes: Vec<_> = (0..101)
        .map(|_| {
            world.code(
                1,
                json!({ "type": "ice-candidate", "callId": "y", "recipientId": "bob", "candidate": {} }),
            )
        })
        .collect();
    assert_eq!(codes.iter().filter(|code| *code == "ok").count(), 100);
}

#[test]
fn what_waits_for_its_call_is_bounded_in_bytes_over_all_calls_of_a_session() {
    let mut world = World::call(false);
    world.user(5, "alice");
    let offer = |call: &str| {
        let sdp = "x".repeat(200_000);
        json!({ "type": "offer", "callId": call, "recipientId": "carol", "sdp": sdp })
    };
    assert_eq!(world.code(1, offer("d")), "ok");
    assert_eq!(world.code(1, offer("e")), "ok");
    for call in ["d", "e", "f"] {
        assert_eq!(world.code(1, offer(call)), "call-not-found", "600 kB");
    }
    let candidate =
        json!({ "type": "ice-candidate", "callId": "d", "recipientId": "carol", "candidate": {} });
    assert_eq!(world.code(1, candidate), "ok", "what is small still fits");
    assert_eq!(world.code(5, offer("f")), "ok", "each session for itself");
    world.say(1, initiate("d", &["carol"]));
    assert!(world.told(3, "offer").is_some() && world.told(3, "ice-candidate").is_some());
    assert_eq!(world.code(1, offer("g")), "ok", "what was delivered no longer counts");
}

#[test]
fn who_is_gone_leaves_the_call_after_the_grace() {
    // B8: only when no device of the user is left.
    let mut world = World::call(true);
    world.lose(2, None);
    world.wait(5, &[]);
    assert!(world.told(1, "call-ended").is_none(), "bob may come back");
    let candidate = json!({ "type": "ice-candidate", "callId": "c", "recipientId": "bob", "candidate": {} });
    assert_eq!(world.code(1, candidate), "ok", "kept for when he does");
    world.wait(6, &[]);
    assert_eq!(world.told(1, "call-ended").expect("told")["reason"], "disconnected");
}

#[test]
fn malformed_calls_are_refused() {
    // B9
    let mut world = World::call(false);
    for message in [
        json!({ "type": "call-initiate", "callId": "x", "recipientIds": "bob", "callType": "video" }),
        json!({ "type": "call-initiate", "callId": "x", "recipientIds": [], "callType": "video" }),
        json!({ "type": "call-initiate", "callId": "x", "recipientIds": ["bob"], "callType": "smell" }),
        json!({ "type": "call-initiate", "callId": "", "recipientIds": ["bob"], "callType": "video" }),
        json!({ "type": "call-initiate", "callId": "x".repeat(129), "recipientIds": ["bob"], "callType": "video" }),
        json!({ "type": "call-initiate", "callId": "x", "recipientIds": ["alice"], "callType": "video" }),
        json!({ "type": "call-answer" }),
        json!(["call-answer"]),
    ] {
        assert_eq!(world.code(1, message.clone()), "invalid-message", "{message}");
    }
    assert_eq!(world.code(1, json!({ "type": "make-coffee" })), "unknown-type");
    assert_eq!(world.hub.stats().calls, 1);
}

#[test]
fn tokens_may_forbid_calling_and_inviting() {
    let mut world = World::call(true);
    world.connect(4, "dave", json!({ "call": false }), None);
    assert_eq!(world.code(4, initiate("d", &["bob"])), "forbidden");
    world.say(1, json!({ "type": "call-invite", "callId": "c", "recipientIds": ["dave"] }));
    world.say(4, json!({ "type": "call-answer", "callId": "c" }));
    let invite = json!({ "type": "call-invite", "callId": "c", "recipientIds": ["carol"] });
    assert_eq!(world.code(4, invite), "forbidden", "who was called may answer, not call others");
}

#[test]
fn an_upgrade_names_a_room_that_its_members_may_join() {
    let mut world = World::new();
    world.connect(1, "alice", json!({ "room": "lobby" }), None);
    world.user(2, "bob");
    world.say(1, initiate("c", &["bob"]));
    world.say(2, json!({ "type": "call-answer", "callId": "c" }));
    world.say(1, json!({ "type": "call-upgrade", "callId": "c" }));
    let room = world.told(2, "call-upgraded").expect("told")["roomId"].clone();
    assert_eq!(world.told(1, "call-upgraded").expect("told")["roomId"], room);
    let join = json!({ "type": "join-room", "requestId": 1, "roomId": room });
    assert_eq!(world.code(1, join), "ok", "alice's token names another room, but she is in the call");
    let offer = json!({ "type": "renegotiate", "callId": "c", "recipientId": "bob", "sdp": "v=0" });
    assert_eq!(world.code(1, offer), "ok", "relaying goes on");
}

#[test]
fn each_call_is_recorded_once_and_each_participant_in_it_once() {
    let mut world = World::call(true);
    for _ in 0..2 {
        world.say(1, json!({ "type": "call-invite", "callId": "c", "recipientIds": ["offline"] }));
    }
    world.wait(30, &[]);
    world.say(2, json!({ "type": "call-end", "callId": "c" }));
    assert_eq!(world.records.len(), 1);
    let record = &world.records[0];
    let names: Vec<_> = record.participants.iter().map(|p| p.user.to_string()).collect();
    assert_eq!(names.iter().filter(|n| *n == "offline").count(), 1, "{names:?}");
    assert_eq!(
        (record.end_reason.as_str(), record.ended_by.as_ref().map(ToString::to_string)),
        ("hangup", Some("bob".into()))
    );
    assert_eq!(record.ended_at - record.started_at, std::time::Duration::from_secs(30));
    assert!(record.answered_at.is_some() && record.upgraded_to.is_none());
}

#[test]
fn who_does_not_answer_stops_ringing_and_the_rest_can_hang_up() {
    let mut world = World::call(true);
    world.say(1, json!({ "type": "call-invite", "callId": "c", "recipientIds": ["carol"] }));
    world.wait(60, &[]);
    assert_eq!(world.told(3, "call-ended").expect("carol's phone stops")["reason"], "no-answer");
    world.say(2, json!({ "type": "call-end", "callId": "c" }));
    assert_eq!(world.hub.stats().calls, 0);
}

#[test]
fn a_ringing_callee_may_send_before_it_answers() {
    let mut world = World::call(false);
    world.say(2, json!({ "type": "ice-candidate", "callId": "c", "recipientId": "alice", "candidate": {} }));
    assert!(world.told(1, "ice-candidate").is_some());
}

#[test]
fn a_call_lasts_as_long_as_it_lasts_even_if_the_wall_clock_is_set() {
    let mut world = World::call(true);
    world.put(Input::WallClock { unix_time: Duration::from_secs(500_000) });
    world.wait(30, &[]);
    world.say(1, json!({ "type": "call-end", "callId": "c", "forAll": true }));
    world.say(1, initiate("d", &["bob"]));
    world.say(1, json!({ "type": "call-end", "callId": "d", "forAll": true }));
    let [first, second] = &world.records[..] else { panic!("two calls: {:?}", world.records) };
    assert_eq!(
        (first.started_at, first.ended_at),
        (Duration::from_secs(1_000_000), Duration::from_secs(1_000_030))
    );
    assert_eq!(second.started_at, Duration::from_secs(500_030), "a new call goes by the new time");
}
