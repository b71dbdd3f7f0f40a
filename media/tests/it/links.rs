//! A subscriber on a link that changes: what it gets, and what it and its room are told.

use std::time::Duration;

use common::control::{Action, EventKind};
use common::ids::ProducerId;
use common::rtp_parameters::{MediaKind, RtpParameters};
use media::arrivals::Arrivals;
use media::feedback;
use media::rtp::RtpHeader;

use crate::client::{self, World, opus, packet, vp8};

/// The router's id of the transport-wide sequence number (contract §5.2).
const TRANSPORT_CC_ID: u8 = 5;
/// As Chromium sends feedback.
const FEEDBACK_EACH_MS: u64 = 50;

/// Alice publishes, Bob watches through a link and reports what comes.
struct Scene {
    world: World,
    alice: usize,
    bob: usize,
    arrivals: Arrivals,
    ms: u64,
    audio: u16,
}

impl Scene {
    fn new(bps: f64) -> Self {
        let mut world = World::new();
        let (alice, bob) = world.connected_pair();
        world.put_behind_link(bob, bps);
        let arrivals = Arrivals::new(world.now());
        let mut scene = Self { world, alice, bob, arrivals, ms: 0, audio: 0 };
        scene.publish(MediaKind::Audio, opus());
        scene
    }

    fn publish(&mut self, kind: MediaKind, rtp: RtpParameters) -> ProducerId {
        let producer = self.world.produce(self.alice, kind, rtp, false);
        let consumer = self.world.consume(self.bob, &producer);
        self.world.done("bob", Action::ResumeConsumer { consumer: consumer.id });
        producer
    }

    /// One millisecond of everybody's life, with 40 kb/s of audio; `send` may send more.
    fn step(&mut self, mut send: impl FnMut(&mut World, usize, u64)) {
        self.ms += 1;
        if self.ms.is_multiple_of(20) {
            self.audio += 1;
            let audio = packet(111, self.audio, 960 * u32::from(self.audio), 5555, &[0x55; 100]);
            self.world.send_rtp(self.alice, &audio);
        }
        send(&mut self.world, self.alice, self.ms);
        self.world.pass_millisecond();
        for (at, packet) in self.world.received_timed(self.bob) {
            let header = RtpHeader::parse(&packet).expect("RTP");
            // The router offers the extension for video only (contract §1).
            if let Some(&[high, low]) = header.extensions.find(TRANSPORT_CC_ID) {
                self.arrivals.record(at, u16::from_be_bytes([high, low]), header.ssrc);
            }
        }
        if self.ms.is_multiple_of(FEEDBACK_EACH_MS) {
            let mut compound = Vec::new();
            self.arrivals.write(&mut compound, 1);
            if !compound.is_empty() {
                self.world.send_rtcp(self.bob, &compound);
            }
        }
    }

    fn told(&self) -> Vec<u64> {
        let told = self.world.events().iter().filter_map(|event| match event {
            EventKind::Downlink { available_bitrate, .. } => Some(*available_bitrate),
            _ => None,
        });
        told.collect()
    }
}

/// A stream of so many bits per second without layers, whose keyframes are like its other frames.
fn video(world: &mut World, alice: usize, ms: u64, bps: u64) {
    const PACKET_BYTES: u64 = 1000;
    let each_ms = PACKET_BYTES * 8000 / bps;
    if ms.is_multiple_of(each_ms) {
        let sequence = (ms / each_ms) as u16;
        let mut packet = client::vp8_packet(sequence, 7000, sequence.is_multiple_of(30));
        packet.resize(PACKET_BYTES as usize, 0x55);
        world.send_rtp(alice, &packet);
    }
}

#[test]
fn a_subscriber_is_told_what_its_link_carries() {
    let mut scene = Scene::new(700e3);
    scene.publish(MediaKind::Video, vp8());
    (0..8_000).for_each(|_| scene.step(|world, alice, ms| video(world, alice, ms, 1_000_000)));
    let told = scene.told();
    let last = *told.last().expect("told");
    assert!((400_000..800_000).contains(&last), "{told:?}");
}

#[test]
fn nobody_without_feedback_is_told_anything() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, vp8(), false);
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
    for ms in 0..3000 {
        video(&mut world, alice, ms, 1_000_000);
        world.pass_millisecond();
    }
    let told = |world: &World| world.events().iter().any(|it| matches!(it, EventKind::Downlink { .. }));
    assert!(!told(&world));
    let mut remb = Vec::new();
    feedback::write_remb(&mut remb, 1, 500_000, &[consumer.rtp.encodings[0].ssrc.expect("an SSRC")]);
    world.send_rtcp(bob, &remb);
    world.pass(Duration::from_secs(2));
    assert!(told(&world), "REMB is believed");
}
