//! Scores and the active speaker, through the core.

use std::time::Duration;

use common::control::{Action, EventKind, TransportDirection};
use common::rtp_parameters::{MediaKind, RtpHeaderExtensionParameters};
use media::feedback::{self, ReportBlock};

use crate::client::{self, World, opus, vp8, vp8_packet};

pub const LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";

/// 20 ms of somebody who is so many dB below the loudest.
fn voice(sequence: u16, level: u8) -> Vec<u8> {
    let plain = client::packet(111, sequence, 960 * u32::from(sequence), 5555, b"opus");
    let mut packet = plain[..12].to_vec();
    packet[0] |= 0x10;
    packet.extend([0xbe, 0xde, 0, 1, 6 << 4, level, 0, 0]);
    packet.extend(&plain[12..]);
    packet
}

fn speakers(world: &World) -> Vec<Option<String>> {
    let told = world.events().iter().filter_map(|event| match event {
        EventKind::ActiveSpeaker(peer) => Some(peer.as_ref().map(ToString::to_string)),
        _ => None,
    });
    told.collect()
}

#[test]
fn the_loudest_is_the_speaker_until_another_is_or_nobody() {
    let mut world = World::new();
    let people = ["alice", "bob"].map(|name| world.client(name, TransportDirection::Send, None));
    world.pass(Duration::from_secs(1));
    let mut audio = opus();
    audio.header_extensions.push(RtpHeaderExtensionParameters {
        uri: LEVEL.into(),
        id: 6,
        encrypt: false,
        parameters: Default::default(),
    });
    for person in people {
        world.produce(person, MediaKind::Audio, audio.clone(), false);
    }
    let mut sequence = 0;
    let mut talk = |world: &mut World, levels: [u8; 2]| {
        for _ in 0..150 {
            sequence += 1;
            for (person, level) in people.into_iter().zip(levels) {
                world.send_rtp(person, &voice(sequence, level));
            }
            world.pass(Duration::from_millis(20));
        }
    };
    talk(&mut world, [20, 90]);
    talk(&mut world, [90, 20]);
    talk(&mut world, [127, 127]);
    assert_eq!(speakers(&world), [Some("alice".into()), Some("bob".into()), None]);
}

fn producer_scores(world: &World) -> Vec<u8> {
    let told = world.events().iter().filter_map(|event| match event {
        EventKind::ProducerScore { scores, .. } => Some(scores[0].score),
        _ => None,
    });
    told.collect()
}

#[test]
fn scores_follow_loss_on_both_sides_and_are_told_when_they_change() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, vp8(), false);
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
    let send = |world: &mut World, sequences: std::ops::Range<u16>, step: usize| {
        for sequence in sequences.step_by(step) {
            world.send_rtp(alice, &vp8_packet(sequence, 7000, sequence == 1));
            world.pass(Duration::from_millis(20));
        }
    };
    send(&mut world, 1..150, 1);
    assert_eq!(producer_scores(&world), [10], "told once");
    let block = ReportBlock {
        ssrc: consumer.rtp.encodings[0].ssrc.expect("an SSRC"),
        fraction_lost: 128,
        cumulative_lost: 10,
        highest_sequence: 0,
        jitter: 0,
        last_sr: 0,
        delay_since_last_sr: 0,
    };
    let mut report = Vec::new();
    feedback::write_receiver_report(&mut report, 1, &[block]);
    world.send_rtcp(bob, &report);
    send(&mut world, 150..450, 2);
    let lossy = producer_scores(&world);
    assert_eq!(*lossy.last().expect("told"), 5, "every second packet was lost: {lossy:?}");
    let own: Vec<(u8, u8)> = world
        .events()
        .iter()
        .filter_map(|event| match event {
            EventKind::ConsumerScore { score, producer_score, .. } => Some((*score, *producer_score)),
            _ => None,
        })
        .collect();
    assert_eq!((own.first(), own.last()), (Some(&(10, 10)), Some(&(5, 5))));
    world.pass(Duration::from_secs(4));
    assert_eq!(producer_scores(&world).last(), Some(&0), "nothing comes any more");
}
