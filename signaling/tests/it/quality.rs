//! Ratings: from clients' reports and from media's RTCP to the room and the call log (`docs/protocol.md` §5).

use std::time::Duration;

use common::control::{Event, EventKind, FromMedia};
use common::ids::{PeerId, RoomId};
use serde_json::{Value, json};
use signaling::hub::Input;

use crate::script::{World, join};

/// Media tells once a second, for so many seconds, how alice receives; what bob is told of it.
fn reception(world: &mut World, seconds: u64, loss: f32, round_trip_ms: u64) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..seconds {
        world.wait(1, &[]);
        let round_trip = Duration::from_millis(round_trip_ms);
        let event = Event {
            room: RoomId::new("r").expect("an id"),
            peer: PeerId::new("alice").expect("an id"),
            kind: EventKind::Reception { loss, round_trip },
        };
        world.sent.clear();
        world.put(Input::Media { worker: 0, message: FromMedia::Event(event) });
        told.extend(world.told(2, "quality"));
    }
    ratings(told)
}

fn ratings(told: impl IntoIterator<Item = Value>) -> Vec<String> {
    told.into_iter()
        .map(|quality| {
            assert_eq!(quality["peerId"], "alice");
            quality["rating"].as_str().expect("a rating").to_owned()
        })
        .collect()
}

/// Alice reports after ten seconds; what bob is told of it.
fn report(world: &mut World, metrics: Value) -> Vec<String> {
    world.wait(10, &[]);
    assert_eq!(world.code(1, json!({ "type": "quality-report", "roomId": "r", "metrics": metrics })), "ok");
    ratings(world.told(2, "quality"))
}

#[test]
fn what_media_sees_of_a_peer_is_told_to_the_room_when_its_rating_changes() {
    let mut world = World::room();
    assert_eq!(reception(&mut world, 6, 0.0, 20), ["excellent"], "the first interval");
    assert_eq!(reception(&mut world, 12, 0.0, 20), [""; 0], "nothing new");
    assert_eq!(reception(&mut world, 6, 0.05, 20), ["fair"], "worse is told at the interval's end");
    assert_eq!(reception(&mut world, 6, 0.2, 20), ["poor"]);
    assert!(world.sent.iter().all(|(_, told)| told["peerId"] != "bob"));
}

#[test]
fn each_bound_of_a_rating_is_a_bound_of_loss_and_of_round_trip_time() {
    for (loss, round_trip_ms, expected) in [
        (0.009, 99, "excellent"),
        (0.0101, 20, "good"),
        (0.0, 100, "good"),
        (0.029, 199, "good"),
        (0.0301, 20, "fair"),
        (0.0, 200, "fair"),
        (0.079, 299, "fair"),
        (0.0801, 20, "poor"),
        (0.0, 300, "poor"),
    ] {
        let mut world = World::room();
        assert_eq!(reception(&mut world, 6, loss, round_trip_ms), [expected], "{loss} {round_trip_ms}");
    }
}

#[test]
fn better_is_told_when_it_has_lasted_two_intervals() {
    let mut world = World::room();
    assert_eq!(reception(&mut world, 6, 0.05, 20), ["fair"]);
    for _ in 0..5 {
        assert_eq!(reception(&mut world, 6, 0.0, 20), [""; 0], "one good interval may be chance");
        assert_eq!(reception(&mut world, 6, 0.05, 20), [""; 0]);
    }
    assert_eq!(reception(&mut world, 6, 0.0, 20), [""; 0]);
    assert_eq!(reception(&mut world, 6, 0.0, 20), ["excellent"]);
}

#[test]
fn what_clients_report_counts_while_media_says_nothing() {
    let mut world = World::room();
    assert_eq!(report(&mut world, json!({ "roundTripTime": 0.02 })), ["excellent"]);
    assert_eq!(report(&mut world, json!({ "roundTripTime": 0.25 })), ["fair"]);
    assert_eq!(reception(&mut world, 6, 0.0, 20), [""; 0]);
    let bad = json!({ "roundTripTime": 0.9 });
    assert_eq!(report(&mut world, bad.clone()), [""; 0], "RTCP says otherwise, and it counted the packets");
    assert_eq!(report(&mut world, bad), ["poor"], "RTCP has been silent for 20 s");
}

#[test]
fn losses_are_set_against_the_packets_that_came_where_the_client_says_how_many() {
    let mut world = World::room();
    let metrics = |lost: u32, received: u32| {
        json!({ "audioPacketsLost": lost, "videoPacketsLost": 0, "roundTripTime": 0.02,
                "packetsReceived": received })
    };
    assert_eq!(report(&mut world, metrics(100, 5_000)), ["excellent"], "totals before the first interval");
    // 100 of 20,100 is 0.5 %; of the 1500 packets that 150 per second would be it is 7 %.
    assert_eq!(report(&mut world, metrics(200, 25_000)), [""; 0]);
    // And 10 of 110 is 9 %, where it would be 0.7 %.
    assert_eq!(report(&mut world, metrics(210, 25_100)), ["poor"]);
    let guessed = json!({ "audioPacketsLost": 300, "roundTripTime": 0.02 });
    assert_eq!(report(&mut world, guessed), [""; 0], "90 in 10 s: 6 %, better for one interval");
}

#[test]
fn another_room_is_told_anew() {
    let mut world = World::room();
    assert_eq!(report(&mut world, json!({ "roundTripTime": 0.02 })), ["excellent"]);
    for conn in [1, 2] {
        assert_eq!(world.code(conn, join("s")), "ok");
    }
    assert_eq!(report(&mut world, json!({ "roundTripTime": 0.02 })), ["excellent"]);
}

#[test]
fn media_news_of_a_peer_that_has_left_is_told_to_nobody() {
    let mut world = World::room();
    world.say(1, json!({ "type": "leave-room", "requestId": 3 }));
    assert_eq!(reception(&mut world, 12, 0.5, 20), [""; 0]);
}

#[test]
fn a_subscriber_alone_is_told_of_its_downlink() {
    let mut world = World::room();
    let event = Event {
        room: RoomId::new("r").expect("an id"),
        peer: PeerId::new("alice").expect("an id"),
        kind: EventKind::Downlink {
            available_bitrate: 800_000,
            loss: 0.02,
            round_trip: Duration::from_millis(50),
        },
    };
    world.sent.clear();
    world.put(Input::Media { worker: 0, message: FromMedia::Event(event) });
    let told: Vec<Value> = world.told(1, "downlink").into_iter().collect();
    assert_eq!(told, [json!({ "type": "downlink", "availableBitrate": 800_000, "rating": "good" })]);
    assert!(world.told(2, "downlink").is_none());
}
