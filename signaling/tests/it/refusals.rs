//! What was refused is counted: messages by their code, and each limit of `docs/protocol.md` §1 by its name.

use serde_json::json;
use signaling::hub::{ConnId, Input};

use crate::scene::Scene;
use crate::script::{World, initiate, join, produce};

fn limit(world: &World, name: &str) -> u64 {
    world.hub.refusals().limits.get(name).copied().unwrap_or_default()
}

#[test]
fn every_error_and_refused_request_is_counted_by_its_code() {
    let mut world = World::call(true);
    for (conn, message, code) in [
        (9, json!({ "type": "call-end", "callId": "c" }), "not-in-call"),
        (9, json!({ "type": "call-end", "callId": "x" }), "call-not-found"),
        (1, json!({ "type": "make-coffee" }), "unknown-type"),
        (1, json!([]), "invalid-message"),
        (1, produce(), "room-not-found"),
        (1, initiate("d", &["offline"]), "recipient-unavailable"),
        (1, json!({ "type": "join-room", "requestId": 1 }), "invalid-message"),
    ] {
        let before = world.hub.refusals().messages.get(code).copied().unwrap_or_default();
        assert_eq!(world.code(conn, message), code);
        assert_eq!(world.hub.refusals().messages.get(code), Some(&(before + 1)), "{code}");
    }
    let before = world.hub.refusals().clone();
    assert_eq!(world.code(1, join("r")), "ok");
    assert_eq!(*world.hub.refusals(), before, "what goes well is not counted");
}

#[test]
fn limits_of_messages_and_connections_are_counted() {
    let mut world = World::call(true);
    for _ in 0..601 {
        world.say(9, json!({ "type": "call-end", "callId": "none" }));
    }
    assert_eq!((limit(&world, "message-rate"), limit(&world, "flood")), (301, 1));
    for conn in 100..133 {
        world.user(conn, "eve");
    }
    assert_eq!(limit(&world, "sessions"), 1);
    for (conn, code, name) in
        [(100, 1009, "message-bytes"), (101, 1013, "unread-messages"), (102, 1002, "websocket-rules")]
    {
        world.alive.retain(|alive| *alive != conn);
        world.put(Input::CutOff { conn: ConnId(conn), code });
        assert_eq!(limit(&world, name), 1, "{name}");
    }
    world.lose(2, Some(1009));
    assert_eq!(limit(&world, "message-bytes"), 1, "the client's own close code is not our limit");
    world.wait(31, &[3]);
    assert_eq!(limit(&world, "silence"), 1);
}

#[test]
fn what_is_dropped_for_a_session_that_is_away_is_counted() {
    let mut world = World::call(true);
    world.lose(2, None);
    for _ in 0..260 {
        world.say(1, json!({ "type": "ice-candidate", "callId": "c", "recipientId": "bob", "candidate": 1 }));
    }
    assert_eq!(limit(&world, "undelivered"), 260, "what was kept is of no use without the rest");
}

#[test]
fn limits_of_calls_are_counted() {
    let mut world = World::call(true);
    let many: Vec<String> = (0..33).map(|n| format!("u{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(world.code(1, initiate("x", &many)), "invalid-message");
    for call in 0..31 {
        assert_eq!(world.code(1, initiate(&format!("c{call}"), &["carol"])), "ok");
    }
    assert_eq!(world.code(1, initiate("c31", &["carol"])), "limit-reached");
    let early = |call: &str| json!({ "type": "offer", "callId": call, "recipientId": "carol", "sdp": 1 });
    for call in ["h1", "h2", "h3", "h4"] {
        assert_eq!(world.code(9, early(call)), "ok");
    }
    assert_eq!(world.code(9, early("h5")), "call-not-found");
    for first in [100, 132] {
        let invited: Vec<String> = (first..first + 32).map(|conn| format!("u{conn}")).collect();
        (first..first + 32).for_each(|conn| world.user(conn, &format!("u{conn}")));
        world.code(1, json!({ "type": "call-invite", "callId": "c", "recipientIds": invited }));
    }
    for name in ["recipients", "calls-of-user", "held", "people-in-call"] {
        assert_eq!(limit(&world, name), 1, "{name}");
    }
}

#[test]
fn limits_of_rooms_are_counted() {
    let mut world = World::room();
    let long = {
        let mut message = produce();
        message["source"] = json!("x".repeat(257));
        message
    };
    assert_eq!(world.code(1, long), "invalid-parameters");
    world.queue_full = true;
    assert_eq!(world.code(1, produce()), "overloaded");
    world.queue_full = false;
    for conn in 10..19 {
        world.user(conn, &format!("u{conn}"));
        world.code(conn, join("r"));
    }
    for _ in 0..60 {
        world.wait(0, &[]);
        world.code(2, join("s"));
    }
    world.media_answers = false;
    for _ in 0..257 {
        world.say(1, json!({ "type": "restart-ice", "requestId": 1, "transportId": "t" }));
    }
    for name in ["text", "media-queue", "peers-in-room", "joins", "pending-requests"] {
        assert_eq!(limit(&world, name), 1, "{name}");
    }
}

#[test]
fn limits_of_media_are_counted() {
    let mut scene = Scene::new();
    let made = |_| scene.code(1, &json!({ "type": "create-transport", "requestId": 1, "direction": "send" }));
    let codes: Vec<String> = (0..6).map(made).collect();
    assert_eq!(codes.iter().filter(|code| *code == "limit-reached").count(), 1, "{codes:?}");
    assert_eq!(limit(&scene.world, "media-objects"), 1);
}

#[test]
fn statistics_are_dearer_than_other_messages() {
    let mut world = World::room();
    let ask = || json!({ "type": "get-stats", "requestId": 1 });
    let answered = (0..300).take_while(|_| world.code(1, ask()) == "ok").count();
    assert!((10..16).contains(&answered), "{answered} answers at once");
    assert_eq!(world.code(1, ask()), "rate-limited");
    assert_eq!(world.code(1, produce()), "ok", "there is some left for what matters");
    world.wait(1, &[]);
    assert_eq!(world.code(1, ask()), "ok");
}

#[test]
fn nobody_floods_a_room_with_news_of_its_tracks() {
    let mut world = World::room();
    let published = (0..200).take_while(|_| world.code(1, produce()) == "ok").count();
    assert!((110..=120).contains(&published), "{published} at once");
    assert_eq!(world.code(1, produce()), "rate-limited");
    assert!(limit(&world, "announcements") >= 1);
    assert_eq!(world.code(2, produce()), "ok", "others are not concerned");
    world.wait(1, &[]);
    let more = (0..100).take_while(|_| world.code(1, produce()) == "ok").count();
    assert_eq!(more, 10);
}

#[test]
fn one_publisher_does_not_cost_those_who_are_away_their_session() {
    let mut world = World::room();
    world.lose(2, None);
    for _ in 0..9 {
        (0..150).for_each(|_| world.say(1, produce()));
        world.wait(1, &[]);
    }
    assert_eq!(limit(&world, "undelivered"), 0);
}
