//! Layers that nobody watches are told to their publisher, and come back within one keyframe.

use std::time::Duration;

use common::control::{Action, EventKind};
use common::ids::{ConsumerId, ProducerId};
use common::rtp_parameters::MediaKind;
use media::rtp::RtpHeader;

use crate::client::{World, legacy_simulcast, vp8, vp8_packet};

/// Alice publishes SSRCs 100 and 200, and sends what she is told to; Bob may watch.
struct Camera {
    world: World,
    alice: usize,
    bob: usize,
    producer: ProducerId,
    sequence: u16,
    /// What was asked for, and what an encoder begins with.
    owes_keyframe: [bool; 2],
    /// It sends what it was told not to.
    is_stock: bool,
}

impl Camera {
    fn new() -> Self {
        let mut world = World::new();
        let (alice, bob) = world.connected_pair();
        let producer = world.produce(alice, MediaKind::Video, legacy_simulcast(), false);
        Self { world, alice, bob, producer, sequence: 0, owes_keyframe: [true; 2], is_stock: false }
    }

    fn watch(&mut self) -> ConsumerId {
        let consumer = self.world.consume(self.bob, &self.producer).id;
        self.world.done("bob", Action::ResumeConsumer { consumer: consumer.clone() });
        consumer
    }

    fn prefer(&mut self, consumer: &ConsumerId, spatial: u8) {
        let consumer = consumer.clone();
        self.world.done("bob", Action::SetPreferredLayers { consumer, spatial, temporal: None });
    }

    fn told(&self) -> Vec<u8> {
        let told = self.world.events().iter().filter_map(|event| match event {
            EventKind::LayersWanted { producer, spatial } if *producer == self.producer => Some(*spatial),
            _ => None,
        });
        told.collect()
    }

    /// A picture of each encoding that Alice sends, 20 ms; the sequence numbers that Bob got.
    fn picture(&mut self) -> Vec<u16> {
        self.sequence += 1;
        let highest = if self.is_stock { 1 } else { self.told().last().copied().unwrap_or(1) };
        for compound in self.world.received_rtcp(self.alice) {
            media::feedback::parse(&compound, |item| {
                if let media::feedback::Item::KeyframeRequest { ssrc } = item {
                    self.owes_keyframe[(ssrc / 100 - 1) as usize] = true;
                }
            });
        }
        for (encoding, ssrc) in [(0, 100), (1, 200)] {
            if encoding <= usize::from(highest) {
                let keyframe = std::mem::take(&mut self.owes_keyframe[encoding]);
                self.world.send_rtp(self.alice, &vp8_packet(self.sequence, ssrc, keyframe));
            } else {
                // An encoder begins with a keyframe.
                self.owes_keyframe[encoding] = true;
            }
        }
        self.world.pass(Duration::from_millis(20));
        let number = |packet: &Vec<u8>| RtpHeader::parse(packet).expect("RTP").sequence_number;
        self.world.received(self.bob).iter().map(number).collect()
    }

    fn pictures(&mut self, seconds: u64) -> Vec<u16> {
        (0..seconds * 50).flat_map(|_| self.picture()).collect()
    }

    fn layers(&self) -> Option<(u8, u8)> {
        let told = |event: &EventKind| match event {
            EventKind::ConsumerLayers { layers, .. } => Some(*layers),
            _ => None,
        };
        self.world.events().iter().rev().find_map(told).flatten()
    }
}

#[test]
fn without_a_subscriber_only_the_lowest_layer_is_wanted() {
    let mut camera = Camera::new();
    camera.pictures(4);
    assert!(camera.told().is_empty(), "somebody may be about to come");
    camera.pictures(4);
    assert_eq!(camera.told(), [0]);
    let consumer = camera.watch();
    assert_eq!(camera.told(), [0, 1], "at once");
    camera.pictures(1);
    assert_eq!(camera.layers(), Some((1, 0)));
    camera.world.done("bob", Action::CloseConsumer { consumer });
    camera.pictures(8);
    assert_eq!(camera.told(), [0, 1, 0]);
}

#[test]
fn a_layer_comes_back_with_its_first_keyframe_and_without_a_seam() {
    let mut camera = Camera::new();
    let consumer = camera.watch();
    let mut numbers = camera.pictures(2);
    assert_eq!((camera.told(), camera.layers()), (vec![], Some((1, 0))));
    camera.prefer(&consumer, 0);
    numbers.extend(camera.pictures(8));
    assert_eq!((camera.told(), camera.layers()), (vec![0], Some((0, 0))));
    // Long enough that the layer counts as stopped.
    numbers.extend(camera.pictures(3));
    camera.world.received_rtcp(camera.alice);
    camera.prefer(&consumer, 1);
    assert_eq!(camera.told(), [0, 1]);
    let back = camera.picture();
    assert_eq!(back.len(), 2, "the lower layer's picture, then the upper one's keyframe");
    assert_eq!(camera.world.keyframe_requests(camera.alice, 200), 0, "none had to be asked for");
    numbers.extend(back);
    numbers.extend(camera.pictures(1));
    assert_eq!(camera.layers(), Some((1, 0)));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{numbers:?}");
}

#[test]
fn a_layer_that_comes_back_without_a_keyframe_is_asked_for_one_at_once() {
    let mut camera = Camera::new();
    let consumer = camera.watch();
    camera.pictures(2);
    camera.prefer(&consumer, 0);
    camera.pictures(11);
    camera.prefer(&consumer, 1);
    camera.owes_keyframe[1] = false;
    let delta = camera.picture();
    assert_eq!(delta.len(), 1, "the lower layer goes on");
    assert_eq!(camera.world.keyframe_requests(camera.alice, 200), 1);
    camera.owes_keyframe[1] = true;
    assert_eq!(camera.picture().len(), 2);
}

#[test]
fn subscribers_who_flap_do_not_flap_the_camera() {
    let mut camera = Camera::new();
    let consumer = camera.watch();
    for _ in 0..6 {
        camera.prefer(&consumer, 0);
        camera.pictures(3);
        camera.prefer(&consumer, 1);
        camera.pictures(1);
    }
    camera.world.done("bob", Action::PauseConsumer { consumer: consumer.clone() });
    camera.pictures(3);
    camera.world.done("bob", Action::ResumeConsumer { consumer });
    camera.pictures(8);
    assert!(camera.told().is_empty());
}

#[test]
fn a_publisher_that_goes_on_anyway_is_forwarded_as_before() {
    let mut camera = Camera::new();
    camera.is_stock = true;
    let consumer = camera.watch();
    camera.prefer(&consumer, 0);
    camera.pictures(8);
    assert_eq!((camera.told(), camera.layers()), (vec![0], Some((0, 0))));
    camera.prefer(&consumer, 1);
    camera.pictures(2);
    assert_eq!((camera.told(), camera.layers()), (vec![0, 1], Some((1, 0))));
}

#[test]
fn a_layer_that_was_told_to_stop_keeps_its_score() {
    let mut camera = Camera::new();
    camera.watch();
    camera.pictures(3);
    camera.world.done("bob", Action::RemovePeer);
    camera.pictures(12);
    assert_eq!(camera.told(), [0]);
    let scores: Vec<Vec<u8>> = camera
        .world
        .events()
        .iter()
        .filter_map(|event| match event {
            EventKind::ProducerScore { scores, .. } => Some(scores.iter().map(|it| it.score).collect()),
            _ => None,
        })
        .collect();
    assert_eq!(scores, [[10, 10]], "told once");
}

#[test]
fn one_encoding_has_nothing_to_turn_off() {
    let mut world = World::new();
    let (alice, _) = world.connected_pair();
    world.produce(alice, MediaKind::Video, vp8(), false);
    world.pass(Duration::from_secs(8));
    assert!(!world.events().iter().any(|event| matches!(event, EventKind::LayersWanted { .. })));
}
