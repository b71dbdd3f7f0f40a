//! Feedback that asks for more than any client needs: what it makes the core do is bounded, and what is refused is counted.

use std::collections::BTreeSet;
use std::time::Duration;

use common::control::Action;
use common::rtp_parameters::MediaKind;
use media::effort::{ITEMS_BURST, REPAIR_BYTES_BURST};
use media::feedback::{self, Item};
use media::rtp::RtpHeader;

use crate::client::{World, opus, packet, vp8, vp8_packet};

/// Alice's video, which Bob sees, and the SSRCs of his consumer.
fn scene() -> (World, usize, usize, u32, u32) {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, vp8(), false);
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id });
    let encoding = &consumer.rtp.encodings[0];
    let rtx = encoding.rtx.as_ref().expect("retransmissions").ssrc;
    (world, alice, bob, encoding.ssrc.expect("an SSRC"), rtx)
}

fn large_packet(sequence: u16) -> Vec<u8> {
    let mut packet = vp8_packet(sequence, 7000, sequence == 1);
    packet.resize(1200, 7);
    packet
}

fn sequence_of(packet: &[u8]) -> u16 {
    RtpHeader::parse(packet).expect("RTP").sequence_number
}

#[test]
fn who_asks_for_everything_again_and_again_gets_as_much_as_it_was_sent() {
    let (mut world, alice, bob, ssrc, rtx) = scene();
    (1..=500).for_each(|sequence| world.send_rtp(alice, &large_packet(sequence)));
    let received = world.received(bob);
    let (sent, numbers): (usize, Vec<u16>) =
        (received.iter().map(Vec::len).sum(), received.iter().map(|packet| sequence_of(packet)).collect());
    let mut nack = Vec::new();
    feedback::write_nack(&mut nack, 1, ssrc, &numbers);
    let mut repeated = 0;
    for _ in 0..50 {
        world.send_rtcp(bob, &nack);
        repeated += world.received(bob).iter().map(Vec::len).sum::<usize>();
        world.pass(Duration::from_millis(40));
    }
    let bound = sent + REPAIR_BYTES_BURST as usize;
    assert!((sent / 2..bound).contains(&repeated), "{repeated} of at most {bound} bytes");
    assert!(world.counters().repairs_refused > 10_000);
    // Who is sent something again may ask for it, too.
    world.send_rtp(alice, &large_packet(501));
    world.send_rtp(alice, &large_packet(502));
    let newest = world.received(bob).iter().map(|packet| sequence_of(packet)).max();
    let mut nack = Vec::new();
    feedback::write_nack(&mut nack, 1, ssrc, &[newest.expect("forwarded")]);
    world.send_rtcp(bob, &nack);
    let [again] = &world.received(bob)[..] else { panic!("one packet again") };
    assert_eq!(RtpHeader::parse(again).map(|header| header.ssrc), Some(rtx));
}

#[test]
fn a_datagram_of_thousands_of_items_is_read_up_to_a_bound() {
    let (mut world, alice, bob, ssrc, _) = scene();
    world.send_rtp(alice, &large_packet(1));
    let first = sequence_of(&world.received(bob)[0]);
    // Each of these 24 bytes tells of 65,535 packets that did not come.
    let mut statuses = Vec::new();
    for _ in 0..2000 {
        let header = [0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0];
        statuses.extend_from_slice(&header);
        statuses.extend_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0, 0, 0x1f, 0xff, 0x1f, 0xff]);
    }
    let mut nacks = Vec::new();
    for _ in 0..3000 {
        nacks.extend_from_slice(&[0x81, 205, 0, 3, 0, 0, 0, 1]);
        nacks.extend_from_slice(&ssrc.to_be_bytes());
        nacks.extend_from_slice(&[0, 0, 0xff, 0xff]);
    }
    let mut keyframes = vec![0x84, 206, 0x3f, 0xfe, 0, 0, 0, 1, 0, 0, 0, 0];
    for _ in 0..8190 {
        keyframes.extend_from_slice(&ssrc.to_be_bytes());
        keyframes.extend_from_slice(&[0; 4]);
    }
    let mut nack = Vec::new();
    feedback::write_nack(&mut nack, 1, ssrc, &[first]);
    for flood in [statuses, nacks, keyframes.repeat(2)] {
        let before = world.counters().feedback_dropped;
        world.send_rtcp(bob, &flood);
        assert!(world.counters().feedback_dropped > before, "all of it was read");
        world.pass(Duration::from_millis(200));
        world.send_rtcp(bob, &nack);
        assert_eq!(world.received(bob).len(), 1, "a client in its senses is heard");
    }
    const { assert!(ITEMS_BURST < 3000 * 17 && ITEMS_BURST < 2 * 8190) };
}

#[test]
fn a_publisher_is_not_asked_for_keyframes_more_than_once_a_second() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, vp8(), false);
    let (mut requests, mut sequence, mut pending) = (Vec::new(), 0, false);
    for at in 0..100 {
        // Somebody subscribes, resumes, asks in every way there is, and goes; a keyframe follows each request.
        let info = world.consume(bob, &producer);
        let consumer = info.id;
        world.done("bob", Action::ResumeConsumer { consumer: consumer.clone() });
        let mut feedback = Vec::new();
        feedback::write_pli(&mut feedback, 1, info.rtp.encodings[0].ssrc.expect("an SSRC"));
        world.send_rtcp(bob, &feedback);
        world.done("bob", Action::RequestKeyFrame { consumer: consumer.clone() });
        world.done("bob", Action::PauseConsumer { consumer: consumer.clone() });
        world.done("bob", Action::ResumeConsumer { consumer: consumer.clone() });
        sequence += 1;
        world.send_rtp(alice, &vp8_packet(sequence, 7000, std::mem::take(&mut pending)));
        world.pass(Duration::from_millis(50));
        let asked = world.keyframe_requests(alice, 7000);
        requests.extend((0..asked).map(|_| at * 50));
        pending = asked > 0;
        world.done("bob", Action::CloseConsumer { consumer });
    }
    assert_eq!(requests.first(), Some(&0), "the first at once");
    assert!(requests.windows(2).all(|pair| pair[1] - pair[0] >= 950), "{requests:?} ms");
    assert!(requests.len() >= 5, "{requests:?} ms");
}

#[test]
fn a_publisher_of_many_tracks_is_told_of_each_in_datagrams_that_fit() {
    let mut world = World::new();
    let (alice, _) = world.connected_pair();
    for track in 0..40 {
        let mut rtp = opus();
        rtp.mid = Some(format!("a{track}"));
        rtp.encodings[0].ssrc = Some(100 + track);
        world.produce(alice, MediaKind::Audio, rtp, false);
        world.send_rtp(alice, &packet(111, 1, 0, 100 + track, b"opus"));
    }
    world.produce(alice, MediaKind::Video, vp8(), false);
    // Every second one of a thousand is lost.
    (1..=500).for_each(|half| world.send_rtp(alice, &vp8_packet(2 * half, 7000, half == 1)));
    world.received_rtcp(alice);
    world.pass(Duration::from_millis(1100));
    let (mut reported, mut missed) = (BTreeSet::new(), BTreeSet::new());
    for compound in world.received_rtcp(alice) {
        assert!(compound.len() <= 1200, "{} bytes", compound.len());
        feedback::parse(&compound, |item| match item {
            Item::Report(block) => _ = reported.insert(block.ssrc),
            Item::Nack { ssrc: 7000, entries } => missed.extend(feedback::nacked(entries)),
            _ => {}
        });
    }
    assert_eq!((reported.len(), missed.len()), (41, 499));
}
