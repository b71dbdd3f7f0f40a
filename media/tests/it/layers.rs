//! Which layer a subscriber gets, and that a switch has no seam.

use std::time::Duration;

use common::control::{Action, ConsumerType, EventKind};
use common::ids::ConsumerId;
use common::rtp_parameters::MediaKind;
use media::feedback;
use media::rtp::RtpHeader;

use crate::client::{
    World, legacy_simulcast, simulcast, vp8_layer_packet, vp8_packet, vp9_packet, vp9_svc, with_mid_and_rid,
};

#[test]
fn simulcast_switches_at_a_keyframe_without_a_seam() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, simulcast(), false);
    for (rid, ssrc) in [("r0", 100), ("r1", 200)] {
        world.send_rtp(alice, &with_mid_and_rid(vp8_packet(1, ssrc, true), "1", rid));
    }
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
    let mut sequence = 1;
    let mut both = |world: &mut World, keyframe: bool| {
        sequence += 1;
        world.send_rtp(alice, &vp8_packet(sequence, 100, keyframe));
        world.send_rtp(alice, &vp8_packet(1000 + sequence, 200, keyframe));
        world.pass(Duration::from_millis(20));
    };
    both(&mut world, true);
    both(&mut world, false);
    world.done(
        "bob",
        Action::SetPreferredLayers { consumer: consumer.id.clone(), spatial: 0, temporal: None },
    );
    both(&mut world, false);
    both(&mut world, true);
    both(&mut world, false);
    let sequences: Vec<u16> = world
        .received(bob)
        .iter()
        .map(|packet| RtpHeader::parse(packet).expect("RTP").sequence_number)
        .collect();
    assert!(sequences.len() >= 5, "{sequences:?}");
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences:?}");
}

/// Alice publishes SSRCs 100 and 200 without RIDs, in steps of 20 ms and 3000 ticks; Bob watches.
struct Legacy {
    world: World,
    alice: usize,
    bob: usize,
    consumer: ConsumerId,
    sequence: u16,
}

/// By how much the second encoding's numbers and pictures are ahead of the first's.
const AHEAD: u16 = 1000;

impl Legacy {
    fn new() -> Self {
        let mut world = World::new();
        let (alice, bob) = world.connected_pair();
        let producer = world.produce(alice, MediaKind::Video, legacy_simulcast(), false);
        let consumer = world.consume(bob, &producer);
        assert_eq!(consumer.consumer_type, ConsumerType::Simulcast);
        world.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
        Self { world, alice, bob, consumer: consumer.id, sequence: 0 }
    }

    /// A frame of each encoding, the lower one first; what Bob got of it.
    fn frame(&mut self, keyframe: bool, encodings: &[u32]) -> Vec<(u16, u32)> {
        self.sequence += 1;
        for ssrc in encodings {
            let sequence = self.sequence + if *ssrc == 200 { AHEAD } else { 0 };
            self.world.send_rtp(self.alice, &vp8_packet(sequence, *ssrc, keyframe));
        }
        self.world.pass(Duration::from_millis(20));
        let header = |packet: &Vec<u8>| {
            let header = RtpHeader::parse(packet).expect("RTP");
            (header.sequence_number, header.timestamp)
        };
        self.world.received(self.bob).iter().map(header).collect()
    }

    fn prefer(&mut self, spatial: u8) {
        let consumer = self.consumer.clone();
        self.world.done("bob", Action::SetPreferredLayers { consumer, spatial, temporal: None });
    }

    /// Both encodings say which timestamp belongs to one moment of Alice's clock.
    fn sender_reports(&mut self) {
        for (ssrc, ahead) in [(100, 0), (200, AHEAD)] {
            let mut report = Vec::new();
            feedback::write_sender_report(&mut report, ssrc, 7 << 32, 3000 * u32::from(ahead), 1, 1);
            self.world.send_rtcp(self.alice, &report);
        }
    }

    fn asked(&mut self) -> Vec<u32> {
        let mut asked = Vec::new();
        for compound in self.world.received_rtcp(self.alice) {
            feedback::parse(&compound, |item| {
                if let feedback::Item::KeyframeRequest { ssrc } = item {
                    asked.push(ssrc);
                }
            });
        }
        asked
    }
}

fn told_layers(world: &World) -> Vec<Option<(u8, u8)>> {
    let layers = world.events().iter().filter_map(|event| match event {
        EventKind::ConsumerLayers { layers, .. } => Some(*layers),
        _ => None,
    });
    layers.collect()
}

#[test]
fn simulcast_without_rids_is_told_apart_by_ssrc() {
    const BOTH: &[u32] = &[100, 200];
    let mut legacy = Legacy::new();
    assert_eq!(legacy.asked(), [200], "the best is wanted");
    legacy.frame(false, BOTH);
    let first = legacy.frame(true, BOTH);
    assert_eq!(first.len(), 1);
    legacy.world.pass(Duration::from_secs(1));
    legacy.frame(false, BOTH);
    legacy.asked();
    legacy.prefer(0);
    assert_eq!(legacy.asked(), [100]);
    assert_eq!(legacy.frame(false, BOTH).len(), 1, "the former goes on until the keyframe");
    assert_eq!(legacy.frame(true, &[100]).len(), 1);
    assert!(legacy.frame(false, &[200]).is_empty());
    legacy.prefer(1);
    assert_eq!(legacy.frame(true, &[200]).len(), 1);
    // The publisher turns the upper one off (contract §6, `setMaxSpatialLayer`).
    for _ in 0..100 {
        legacy.frame(false, &[100]);
    }
    assert!(legacy.asked().contains(&100));
    assert_eq!(legacy.frame(true, &[100]).len(), 1);
    legacy.world.pass(Duration::from_millis(300));
    let told = [Some((1, 0)), Some((0, 0)), Some((1, 0)), None, Some((0, 0))];
    assert_eq!(told_layers(&legacy.world), told);
}

#[test]
fn timestamps_follow_sender_reports_through_switches() {
    const BOTH: &[u32] = &[100, 200];
    let mut legacy = Legacy::new();
    legacy.frame(false, BOTH);
    let start = legacy.frame(true, BOTH)[0];
    legacy.sender_reports();
    let (mut last, mut sent) = (start, 1);
    for round in 0..6 {
        legacy.prefer(round % 2);
        let keyframe = legacy.frame(true, BOTH);
        sent += keyframe.len() as u16;
        let now = *keyframe.last().expect("a packet");
        // When the upper layer's keyframe follows the lower one's own frame, one tick is between them.
        let captured = start.1.wrapping_add(3000 * u32::from(legacy.sequence - 2));
        assert!(now.1.wrapping_sub(captured) <= 1, "{round}: {now:?}");
        assert!(now.1.wrapping_sub(last.1) < 1 << 31);
        last = now;
    }
    assert_eq!(last.0, start.0 + sent - 1);
}

#[test]
fn temporal_layers_are_chosen_and_told() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let mut rtp = legacy_simulcast();
    rtp.encodings.iter_mut().for_each(|it| it.scalability_mode = Some("L1T3".into()));
    let producer = world.produce(alice, MediaKind::Video, rtp, false);
    let consumer = world.consume(bob, &producer).id;
    world.done("bob", Action::ResumeConsumer { consumer: consumer.clone() });
    let mut sequence = 0;
    // Four pictures of layers 0, 2, 1, 2, several times; how many of them Bob gets at the end.
    let mut flow = |world: &mut World, temporal| {
        let (consumer, spatial) = (consumer.clone(), 1);
        world.done("bob", Action::SetPreferredLayers { consumer, spatial, temporal });
        for _ in 0..20 {
            world.received(bob);
            for temporal in [0, 2, 1, 2] {
                sequence += 1;
                world.send_rtp(alice, &vp8_layer_packet(sequence, 200, sequence == 1, temporal));
                world.pass(Duration::from_millis(30));
            }
        }
        let header = |packet: &Vec<u8>| RtpHeader::parse(packet).expect("RTP").sequence_number;
        let received: Vec<u16> = world.received(bob).iter().map(header).collect();
        assert!(received.windows(2).all(|pair| pair[1] == pair[0] + 1), "{received:?}");
        received.len()
    };
    assert_eq!([None, Some(0), Some(1), None].map(|temporal| flow(&mut world, temporal)), [4, 1, 2, 4]);
    let told = told_layers(&world);
    assert_eq!(told.last(), Some(&Some((1, 2))));
    let mut layers: Vec<u8> = told.iter().flatten().map(|(_, temporal)| *temporal).collect();
    let at = layers.iter().position(|temporal| *temporal == 2).expect("all of them first");
    layers.drain(..at);
    assert_eq!(layers, [2, 0, 1, 2]);
}

#[test]
fn layers_of_one_vp9_encoding_are_chosen() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, vp9_svc(), false);
    let info = world.consume(bob, &producer);
    assert_eq!(info.consumer_type, ConsumerType::Svc);
    let consumer = info.id;
    world.done("bob", Action::ResumeConsumer { consumer: consumer.clone() });
    let (mut picture, mut sequence) = (0, 0);
    // Two pictures of both temporal layers with two spatial ones each; (spatial, temporal, last) as Bob gets them.
    let mut flow = |world: &mut World, keyframe: bool| {
        for temporal in [0, 1] {
            picture += 1;
            for spatial in [0, 1] {
                sequence += 1;
                let keyframe = keyframe && temporal == 0;
                let packet = vp9_packet(sequence, picture, (spatial, temporal), keyframe, spatial == 1);
                world.send_rtp(alice, &packet);
            }
            world.pass(Duration::from_millis(30));
        }
        let layer = |packet: &Vec<u8>| {
            let header = RtpHeader::parse(packet).expect("RTP");
            let layer = header.payload(packet)[3];
            (layer >> 1 & 7, layer >> 5, header.marker)
        };
        world.received(bob).iter().map(layer).collect::<Vec<_>>()
    };
    let prefer = |world: &mut World, spatial, temporal| {
        let consumer = consumer.clone();
        world.done("bob", Action::SetPreferredLayers { consumer, spatial, temporal });
    };
    let all = [(0, 0, false), (1, 0, true), (0, 1, false), (1, 1, true)];
    assert_eq!(flow(&mut world, true), all);
    world.pass(Duration::from_millis(300));
    prefer(&mut world, 0, Some(0));
    assert_eq!(flow(&mut world, false), [(0, 0, true)]);
    world.pass(Duration::from_millis(300));
    prefer(&mut world, 0, None);
    assert_eq!(flow(&mut world, false), [(0, 0, true), (0, 1, true)]);
    world.pass(Duration::from_millis(700));
    world.keyframe_requests(alice, 9000);
    prefer(&mut world, 1, None);
    assert_eq!(world.keyframe_requests(alice, 9000), 1);
    assert_eq!(flow(&mut world, false), [(0, 0, true), (0, 1, true)]);
    assert_eq!(flow(&mut world, true), all);
    world.pass(Duration::from_millis(300));
    assert_eq!(told_layers(&world), [Some((1, 1)), Some((0, 0)), Some((0, 1)), Some((1, 1))]);
}

#[test]
fn an_encoding_with_dtx_may_be_silent_for_longer() {
    for (dtx, within) in [(false, 2), (true, 6)] {
        let mut world = World::new();
        let (alice, bob) = world.connected_pair();
        let mut rtp = legacy_simulcast();
        rtp.encodings[1].dtx = Some(dtx);
        let producer = world.produce(alice, MediaKind::Video, rtp, false);
        let consumer = world.consume(bob, &producer).id;
        world.done("bob", Action::ResumeConsumer { consumer });
        world.send_rtp(alice, &vp8_packet(1, 200, true));
        world.pass(Duration::from_secs(1));
        world.keyframe_requests(alice, 100);
        // Only the lower encoding goes on.
        let fallen_after = (1..10).find(|second| {
            world.send_rtp(alice, &vp8_packet(*second, 100, false));
            world.pass(Duration::from_secs(1));
            world.keyframe_requests(alice, 100) > 0
        });
        assert_eq!(fallen_after.map(|second| second + 1), Some(within), "dtx: {dtx}");
    }
}
