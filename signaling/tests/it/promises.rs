//! Sentences of `docs/protocol.md` that no other script is about, one by one.

use common::control::{EncodingScore, Event, EventKind, FromMedia};
use common::ids::{ConsumerId, DataConsumerId, PeerId, ProducerId, RoomId, TransportId};
use serde_json::{Value, json};
use signaling::hub::Input;

use crate::scene::Scene;
use crate::script::{World, initiate, join, produce};

/// What media says about alice in the room `r`.
fn news(world: &mut World, kind: EventKind) {
    let room = RoomId::new("r").expect("an id");
    let peer = PeerId::new("alice").expect("an id");
    world.sent.clear();
    world.put(Input::Media { worker: 0, message: FromMedia::Event(Event { room, peer, kind }) });
}

#[test]
fn an_upgrade_may_be_repeated_and_names_the_same_room() {
    let mut world = World::call(true);
    let upgrade = json!({ "type": "call-upgrade", "callId": "c" });
    world.say(1, upgrade.clone());
    let room = world.told(2, "call-upgraded").expect("told")["roomId"].clone();
    world.say(2, upgrade);
    assert_eq!(world.told(1, "call-upgraded").expect("told")["roomId"], room);
}

#[test]
fn only_the_initiator_ends_a_call_for_all() {
    let mut world = World::call(true);
    world.say(1, json!({ "type": "call-invite", "callId": "c", "recipientIds": ["carol"] }));
    world.say(3, json!({ "type": "call-answer", "callId": "c" }));
    world.say(2, json!({ "type": "call-end", "callId": "c", "forAll": true }));
    assert_eq!(world.told(1, "participant-left").expect("told")["reason"], "hangup");
    assert_eq!(world.hub.stats().calls, 1);
}

#[test]
fn a_rejection_stops_the_ringing_on_every_device() {
    let mut world = World::new();
    for (conn, user) in [(1, "alice"), (2, "bob"), (3, "bob")] {
        world.user(conn, user);
    }
    world.say(1, initiate("c", &["bob"]));
    world.say(2, json!({ "type": "call-reject", "callId": "c" }));
    for conn in [2, 3] {
        let ended = world.told(conn, "call-ended").expect("told");
        assert_eq!((&ended["endedBy"], &ended["reason"]), (&json!("bob"), &json!("rejected")));
    }
    assert_eq!(world.told(1, "call-rejected").expect("told")["reason"], "rejected");
}

#[test]
fn reports_of_a_call_are_summed_up_in_its_record() {
    let mut world = World::call(true);
    let report = |rtt: f64, lost: u32| {
        json!({ "type": "quality-report", "callId": "c",
                "metrics": { "roundTripTime": rtt, "audioPacketsLost": lost, "packetsReceived": 1000 } })
    };
    for (rtt, lost) in [(0.25, 3), (0.05, 12)] {
        assert_eq!(world.code(2, report(rtt, lost)), "ok");
        world.wait(10, &[]);
    }
    world.say(1, json!({ "type": "call-end", "callId": "c" }));
    let participants = &world.records[0].participants;
    let bob = participants.iter().find(|it| it.user.as_str() == "bob").expect("was in it");
    let quality = bob.quality.as_ref().expect("has reported");
    assert_eq!((quality.reports, quality.packets_lost, quality.worst.as_str()), (2, 12, "poor"));
    assert!((quality.round_trip_time - 0.15).abs() < 1e-9, "{quality:?}");
}

#[test]
fn a_name_is_the_requests_or_the_tokens_or_the_users() {
    let mut world = World::new();
    world.user(1, "alice");
    world.say(1, join("r"));
    for (conn, claims, name, expected) in [
        (2, json!({ "name": "Token" }), json!("Request"), "Request"),
        (3, json!({ "name": "Token" }), Value::Null, "Token"),
        (4, json!({}), Value::Null, "user-4"),
    ] {
        world.connect(conn, &format!("user-{conn}"), claims, None);
        let mut request = join("r");
        request["name"] = name;
        world.say(conn, request);
        assert_eq!(world.told(1, "peer-joined").expect("told")["name"], expected);
    }
}

#[test]
fn who_opens_a_room_chooses_and_cannot_raise_the_servers_limit() {
    let mut world = World::new();
    for conn in 1..=11 {
        world.user(conn, &format!("u{conn}"));
    }
    let mut request = join("r");
    request["create"] = json!({ "maxPeers": 1000, "e2ee": true });
    assert_eq!(world.code(1, request), "ok");
    let mut later = join("r");
    later["create"] = json!({ "e2ee": false });
    world.say(2, later);
    assert_eq!(world.told(2, "response").expect("answered")["data"]["e2ee"], true, "the first has chosen");
    let codes: Vec<String> = (3..=11).map(|conn| world.code(conn, join("r"))).collect();
    assert_eq!(codes[7..], ["ok", "room-full"], "ten is the server's limit");
}

#[test]
fn an_unknown_codec_is_named_and_opens_no_room() {
    let mut scene = Scene::new();
    let rooms = scene.world.hub.stats().rooms;
    let request =
        json!({ "type": "join-room", "requestId": 1, "roomId": "x", "create": { "codecs": ["H263"] } });
    assert_eq!(scene.code(8, &request), "invalid-parameters");
    assert_eq!(scene.world.hub.stats().rooms, rooms);
}

#[test]
fn the_others_learn_why_a_peer_has_left() {
    let leave = json!({ "type": "leave-room", "requestId": 3 });
    let mut world = World::room();
    world.say(1, leave);
    assert_eq!(world.told(2, "peer-left").expect("told")["reason"], "left");

    let mut world = World::room();
    world.lose(1, None);
    assert!(world.told(2, "peer-left").is_none(), "may come back");
    world.wait(10, &[]);
    assert_eq!(world.told(2, "peer-left").expect("told")["reason"], "disconnected");

    let mut world = World::room();
    world.connect(3, "root", json!({ "admin": true }), None);
    world.say(3, join("r"));
    world.say(3, json!({ "type": "remove-peer", "requestId": 4, "peerId": "alice" }));
    assert_eq!(world.told(2, "peer-left").expect("told")["reason"], "removed");
}

#[test]
fn what_a_publisher_does_is_told_to_the_others_and_what_ends_to_whom_it_concerns() {
    let mut world = World::room();
    world.say(1, produce());
    let producer = world.told(2, "new-producer").expect("told")["producerId"].clone();
    for (kind, told) in [
        ("pause-producer", "producer-paused"),
        ("resume-producer", "producer-resumed"),
        ("close-producer", "producer-closed"),
    ] {
        world.say(1, json!({ "type": kind, "requestId": 3, "producerId": producer }));
        let message = world.told(2, told).expect("told");
        assert_eq!((&message["producerId"], &message["peerId"]), (&producer, &json!("alice")));
        assert!(world.told(1, told).is_none(), "the publisher knows");
    }
    let id = "0123";
    let [consumer, data] = [ConsumerId::new(id).expect("an id"), ConsumerId::new(id).expect("an id")];
    for (kind, expected) in [
        (EventKind::ConsumerClosed(data), json!({ "type": "consumer-closed", "consumerId": id })),
        (
            EventKind::DataConsumerClosed(DataConsumerId::new(id).expect("an id")),
            json!({ "type": "data-consumer-closed", "dataConsumerId": id }),
        ),
        (
            EventKind::ConsumerLayers { consumer: consumer.clone(), layers: Some((2, 1)) },
            json!({ "type": "consumer-layers", "consumerId": id, "spatialLayer": 2, "temporalLayer": 1 }),
        ),
        (
            EventKind::ConsumerLayers { consumer, layers: None },
            json!({ "type": "consumer-layers", "consumerId": id, "spatialLayer": null, "temporalLayer": null }),
        ),
        (
            EventKind::TransportClosed {
                transport: TransportId::new(id).expect("an id"),
                reason: "ice-timeout",
            },
            json!({ "type": "transport-closed", "transportId": id, "reason": "ice-timeout" }),
        ),
        (
            EventKind::LayersWanted { producer: ProducerId::new(id).expect("an id"), spatial: 1 },
            json!({ "type": "producer-layers-wanted", "producerId": id, "spatialLayer": 1 }),
        ),
        (
            EventKind::ProducerScore {
                producer: ProducerId::new(id).expect("an id"),
                scores: vec![EncodingScore {
                    encoding_idx: 1,
                    ssrc: Some(7),
                    rid: Some("r1".into()),
                    score: 9,
                }],
            },
            json!({ "type": "producer-score", "producerId": id,
                    "scores": [{ "encodingIdx": 1, "ssrc": 7, "rid": "r1", "score": 9 }] }),
        ),
        (
            EventKind::ConsumerScore {
                consumer: ConsumerId::new(id).expect("an id"),
                score: 8,
                producer_score: 10,
                producer_scores: vec![10, 0],
            },
            json!({ "type": "consumer-score", "consumerId": id, "score": 8, "producerScore": 10,
                    "producerScores": [10, 0] }),
        ),
    ] {
        news(&mut world, kind);
        assert_eq!(world.sent, [(1, expected)], "its owner, nobody else");
    }
    for speaker in [Some("alice"), None] {
        news(&mut world, EventKind::ActiveSpeaker(speaker.map(|peer| PeerId::new(peer).expect("an id"))));
        for conn in [1, 2] {
            let expected = json!({ "type": "active-speaker", "peerId": speaker });
            assert_eq!(world.told(conn, "active-speaker"), Some(expected), "everybody in the room");
        }
    }
}

#[test]
fn a_producer_that_ends_by_itself_is_gone_for_the_room() {
    let mut world = World::room();
    world.say(1, produce());
    let producer = world.told(2, "new-producer").expect("told")["producerId"].clone();
    let id = ProducerId::new(producer.as_str().expect("text")).expect("an id");
    news(&mut world, EventKind::ProducerClosed(id));
    assert_eq!(world.told(2, "producer-closed").expect("told")["producerId"], producer);
    world.user(3, "carol");
    world.say(3, join("r"));
    assert_eq!(world.told(3, "response").expect("answered")["data"]["producers"], json!([]));
}
