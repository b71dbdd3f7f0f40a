//! What who has a good token tries on the others: their sessions, rooms, objects, packets and channels.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use turn::stun::Message;
use turn::stun::header::Class;

use super::member::{self, Leg, join, opus, produce, rtp, vp8, vp8_frame};
use super::paying::{alone, known_secret, while_attacked};
use super::relayed::{Relayed, udp};
use crate::client::Client;
use crate::server::Server;

/// The room of who pays, their audio's and video's SSRC: everybody in the room can know them.
const ROOM: &str = "paying";
const SSRCS: [u32; 2] = [1001, 2001];

/// What a forged packet bears, and no true one.
const FORGED: [u8; 4] = [255; 4];

async fn refused(client: &mut Client, mut request: Value) -> Value {
    request["requestId"] = json!(7);
    client.send(request.clone()).await;
    let reply = client.expect("response").await;
    assert_eq!(reply["ok"], Value::Bool(false), "{request}: {reply}");
    reply["code"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_has_no_power_over_what_others_own() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let mut mallory = server.sign_in("mallory").await;
    while_attacked(&server, 32 * 1024, async move {
        let request = json!({"type": "join-room", "requestId": 1, "roomId": ROOM});
        mallory.send(request).await;
        let joined = mallory.expect("response").await["data"].take();
        let producers = joined["producers"].as_array().expect("a list").clone();
        assert_eq!(producers.len(), 2, "{joined}");
        for producer in &producers {
            let id = &producer["producerId"];
            for kind in ["pause-producer", "resume-producer", "close-producer"] {
                refused(&mut mallory, json!({"type": kind, "producerId": id})).await;
            }
            for (kind, name) in [
                ("close-transport", "transportId"),
                ("restart-ice", "transportId"),
                ("resume-consumer", "consumerId"),
                ("close-consumer", "consumerId"),
                ("request-key-frame", "consumerId"),
                ("close-data-producer", "dataProducerId"),
                ("get-stats", "producerId"),
            ] {
                refused(&mut mallory, json!({"type": kind, name: id})).await;
            }
            let mute = json!({"type": "mute-peer", "peerId": "alice", "producerId": id});
            assert_eq!(refused(&mut mallory, mute).await, "forbidden");
        }
        for request in [
            json!({"type": "remove-peer", "peerId": "alice"}),
            json!({"type": "remove-peer", "peerId": "bob"}),
            json!({"type": "close-room"}),
        ] {
            assert_eq!(refused(&mut mallory, request).await, "forbidden");
        }
        for bad in [
            "",
            "../paying",
            "paying\0",
            "paying ",
            "p\u{430}ying",
            "%70aying",
            "paying/..",
            "\u{202e}gniyap",
        ] {
            refused(&mut mallory, json!({"type": "join-room", "roomId": bad})).await;
        }
        refused(&mut mallory, json!({"type": "join-room", "roomId": "a".repeat(129)})).await;
        refused(&mut mallory, json!({"type": "join-room", "roomId": {"paying": 1}})).await;
        mallory.send(json!({"type": "join-room", "requestId": 2, "roomId": "PAYING"})).await;
        let other = mallory.expect("response").await["data"].take();
        assert_eq!((&other["peers"], &other["producers"]), (&json!([]), &json!([])), "another room");
    })
    .await;
    let forbidden = "causeway_messages_refused_total{code=\"forbidden\"}";
    assert_eq!(server.metric(forbidden).await, 5, "{forbidden}");
    assert!(server.metric("causeway_messages_refused_total{code=\"invalid-message\"}").await >= 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessed_sessions_are_new_ones() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let (door, token) = (server.door(), server.minted("mallory"));
    let victim = server.sign_in("victim").await;
    let session = victim.session.clone();
    while_attacked(&server, 32 * 1024, async move {
        // The victim's very own, its neighbours, and what a parser might stumble over.
        let mut guesses = vec![session.clone(), session.to_uppercase(), String::new(), "..".to_owned()];
        guesses.extend((0..40).map(|number| format!("{}{number:02x}", &session[..session.len() - 2])));
        guesses.extend(["%00".to_owned(), "a".repeat(5000)]);
        for guess in guesses {
            let path = format!("/ws?token={token}&session={guess}");
            let (mut mallory, _) = door.handshake(&path, &[]).await.expect("it completes");
            mallory.welcome("mallory", false).await;
            assert_ne!(mallory.session, session);
            mallory.close_normally().await;
        }
    })
    .await;
    let mut victim = victim;
    victim.send(json!({"type": "still-there"})).await;
    assert_eq!(victim.expect("error").await["code"], "unknown-type", "its session was not touched");
}

/// A goodbye for somebody's source (RFC 3550 §6.6).
fn bye(ssrc: u32) -> Vec<u8> {
    let mut packet = vec![0x81, 203, 0, 1];
    packet.extend(ssrc.to_be_bytes());
    packet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_sources_goodbyes_and_storms_of_feedback_reach_nobody() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let (mut carol, mut mallory) = (server.sign_in("carol").await, server.sign_in("mallory").await);
    let media = SocketAddr::from((Ipv4Addr::LOCALHOST, server.media_port));
    let capabilities = join(&mut carol, "stage").await;
    join(&mut mallory, "stage").await;
    let mut stage = Leg::connect(&server, &mut carol, "send").await;
    let shown = produce(&mut carol, &stage, "video", vp8(3001)).await;
    let mut seat = Leg::connect(&server, &mut mallory, "recv").await;
    let ssrc = member::consume(&mut mallory, &seat, &shown, &capabilities).await;
    let mut pulpit = Leg::connect(&server, &mut mallory, "send").await;
    let asked = while_attacked(&server, 32 * 1024, async move {
        let stranger = udp().await;
        for round in 1..=200_u16 {
            // The others' sources, from a transport on which nothing is published.
            for forged in SSRCS {
                let packet = vp8_frame(round, forged, FORGED);
                let sealed = pulpit.seal(&packet, u64::from(round));
                pulpit.socket.send(&sealed).await.expect("loopback takes it");
                stranger.send_to(&sealed, media).await.expect("loopback takes it"); // not its tuple
                pulpit.socket.send(&sealed).await.expect("loopback takes it"); // a replay
            }
            for _ in 0..10 {
                let mut pli = Vec::new();
                media::feedback::write_pli(&mut pli, 1, ssrc);
                let sealed = seat.seal_rtcp(&pli);
                seat.socket.send(&sealed).await.expect("loopback takes it");
            }
            for target in SSRCS.into_iter().chain([ssrc, 3001]) {
                let sealed = seat.seal_rtcp(&bye(target));
                seat.socket.send(&sealed).await.expect("loopback takes it");
                let mut nack = Vec::new();
                let lost: Vec<u16> = (0..64).map(|back| round.wrapping_sub(back)).collect();
                media::feedback::write_nack(&mut nack, 1, target, &lost);
                let sealed = seat.seal_rtcp(&nack);
                seat.socket.send(&sealed).await.expect("loopback takes it");
            }
            let own = vp8_frame(round, 3001, FORGED);
            let sealed = stage.seal(&own, u64::from(round));
            stage.socket.send(&sealed).await.expect("loopback takes it");
            sleep(Duration::from_millis(15)).await;
        }
        stage.keyframe_requests().await
    })
    .await;
    println!("2000 requests for a keyframe came to the publisher as {asked}");
    assert!((1..=8).contains(&asked), "{asked} requests for a keyframe in 3 s"); // one a second (contract §4.4)
    for (reason, least) in [("unknown_source", 200), ("unknown_address", 200), ("bad_srtp", 200)] {
        let name = format!("causeway_media_drops_total{{reason=\"{reason}\"}}");
        assert!(server.metric(&name).await >= least, "{name}");
    }
    // A publisher may choose any SSRC: it is one of its own transport.
    let mut mallory = mallory;
    let mut own = Leg::connect(&server, &mut mallory, "send").await;
    produce(&mut mallory, &own, "audio", opus(SSRCS[0])).await;
    let sealed = own.seal(&rtp(111, 1, 1, SSRCS[0], &FORGED), 1);
    own.socket.send(&sealed).await.expect("loopback takes it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_and_allocations_of_others_cannot_be_used() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let mut mallory = Relayed::of_user(&server, "mallory").await;
    assert!(mallory.open().await);
    let bob = Relayed::of_user(&server, "bob").await;
    let port = SocketAddr::from((Ipv4Addr::LOCALHOST, server.turn_port));
    while_attacked(&server, 32 * 1024, async move {
        let stranger = udp().await;
        for _ in 0..100 {
            mallory.send(FORGED).await; // Alice's channel has this number; Mallory's are none
            stranger.send_to(&[0x40, 0, 0, 4, 255, 255, 255, 255], port).await.expect("loopback takes it");
            sleep(Duration::from_millis(5)).await;
        }
        // Bob's name and key, true as they are, on Mallory's allocation.
        mallory.pretend(&bob);
        let refresh = mallory.refresh(0);
        let answer = mallory.ask(&refresh).await;
        assert_eq!(Message::parse(&answer).expect("an answer").class(), Class::Error);
    })
    .await;
    for reason in ["no_channel", "no_allocation"] {
        let name = format!("causeway_turn_drops_total{{reason=\"{reason}\"}}");
        assert!(server.metric(&name).await >= 95, "{name}");
    }
    assert_eq!(server.metric("causeway_turn_refused_total{code=\"441\"}").await, 1);
    assert_eq!(server.metric("causeway_turn_allocations").await, 2, "Mallory's, and of who pays");
}
