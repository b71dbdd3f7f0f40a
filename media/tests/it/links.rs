//! A subscriber on a link that changes: what it gets, and what it and its room are told.

use std::time::{Duration, Instant};

use common::control::{Action, EventKind};
use common::ids::ConsumerId;
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
    /// Payload type and SSRC of what came in the last step, with its arrival; without padding.
    got: Vec<(Instant, (u8, u32))>,
}

impl Scene {
    fn new(bps: f64) -> Self {
        let mut world = World::new();
        let (alice, bob) = world.connected_pair();
        world.put_behind_link(bob, bps);
        let arrivals = Arrivals::new(world.now());
        let mut scene = Self { world, alice, bob, arrivals, ms: 0, audio: 0, got: Vec::new() };
        scene.publish(MediaKind::Audio, opus());
        scene
    }

    fn publish(&mut self, kind: MediaKind, rtp: RtpParameters) -> ConsumerId {
        let producer = self.world.produce(self.alice, kind, rtp, false);
        let consumer = self.world.consume(self.bob, &producer);
        self.world.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
        consumer.id
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
        self.got.clear();
        for (at, packet) in self.world.received_timed(self.bob) {
            let header = RtpHeader::parse(&packet).expect("RTP");
            if header.payload_len > 0 {
                self.got.push((at, (header.payload_type, header.ssrc)));
            }
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
fn a_stream_without_layers_is_not_held_back_by_the_first_estimate() {
    let mut scene = Scene::new(5e6);
    scene.publish(MediaKind::Video, vp8());
    (0..4_000).for_each(|_| scene.step(|world, alice, ms| video(world, alice, ms, 200_000)));
    let mut came = 0;
    for _ in 0..5_000 {
        scene.step(|world, alice, ms| video(world, alice, ms, 2_000_000));
        came += scene.got.iter().filter(|(_, (payload_type, _))| *payload_type != 100).count();
    }
    assert!((1_230..=1_250).contains(&came), "{came} of 1250");
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

/// Three encodings of one camera at 25 frames per second, whose publisher answers a keyframe request after 60 ms.
struct Camera {
    ssrcs: [u32; 3],
    sequences: [u16; 3],
    asked: [Option<u64>; 3],
    consumer: ConsumerId,
}

const BPS: [u64; 3] = [120_000, 500_000, 1_800_000];

impl Camera {
    fn publish(scene: &mut Scene, mid: u32) -> Self {
        let mut rtp = client::legacy_simulcast();
        rtp.mid = Some(mid.to_string());
        rtp.encodings.push(rtp.encodings[1].clone());
        let ssrcs = [100, 200, 300].map(|ssrc| 1000 * mid + ssrc);
        for (encoding, ssrc) in rtp.encodings.iter_mut().zip(ssrcs) {
            encoding.ssrc = Some(ssrc);
            encoding.rtx.as_mut().expect("retransmissions").ssrc = ssrc + 1;
        }
        let consumer = scene.publish(MediaKind::Video, rtp);
        Self { ssrcs, sequences: [0; 3], asked: [None; 3], consumer }
    }

    fn hear(&mut self, ms: u64, requests: &[u32]) {
        for (ssrc, asked) in self.ssrcs.iter().zip(&mut self.asked) {
            if requests.contains(ssrc) {
                asked.get_or_insert(ms + 60);
            }
        }
    }

    fn send(&mut self, world: &mut World, alice: usize, ms: u64) {
        if !ms.is_multiple_of(40) {
            return;
        }
        for (at, ssrc) in self.ssrcs.into_iter().enumerate() {
            let is_keyframe = ms == 40 || self.asked[at].is_some_and(|due| due <= ms);
            if is_keyframe {
                self.asked[at] = None;
            }
            // A keyframe is four times as large as another frame.
            let bytes = BPS[at] / 8 / 25 * if is_keyframe { 4 } else { 1 };
            let packets = bytes.div_ceil(1100);
            for part in 0..packets {
                self.sequences[at] = self.sequences[at].wrapping_add(1);
                let id = (ms / 40) as u16;
                let start = if part == 0 { 0x90 } else { 0x80 };
                let payload =
                    [start, 0x80, 0x80 | (id >> 8) as u8, id as u8, u8::from(!is_keyframe), 1, 2, 3];
                let mut packet = packet(96, self.sequences[at], 90 * ms as u32, ssrc, &payload);
                packet[1] |= u8::from(part + 1 == packets) << 7;
                packet.resize((bytes / packets) as usize, at as u8);
                world.send_rtp(alice, &packet);
            }
        }
    }
}

fn step_with(scene: &mut Scene, cameras: &mut [Camera]) {
    scene.step(|world, alice, ms| {
        let mut requests = Vec::new();
        for compound in world.received_rtcp(alice) {
            feedback::parse(&compound, |item| {
                if let feedback::Item::KeyframeRequest { ssrc } = item {
                    requests.push(ssrc);
                }
            });
        }
        for camera in &mut *cameras {
            camera.hear(ms, &requests);
            camera.send(world, alice, ms);
        }
    });
}

/// What a phase of a scenario came to.
#[derive(Debug, Default)]
struct Outcome {
    used: f64,
    audio_gap: Duration,
    freeze: Duration,
    top_after: Option<Duration>,
    waited: Duration,
    last: Option<(u8, u8)>,
}

fn run_phase(scene: &mut Scene, cameras: &mut [Camera], seconds: u64, bps: f64) -> Outcome {
    let bob = scene.bob;
    let link = scene.world.link(bob);
    link.bps = bps;
    (link.bytes, link.waited) = (0, Duration::ZERO);
    let mut outcome = Outcome::default();
    let begun = scene.world.now();
    let (mut heard, mut seen) = (begun, begun);
    for _ in 0..seconds * 1000 {
        let events = scene.world.events().len();
        step_with(scene, cameras);
        for (at, header) in &scene.got {
            let last = if header.0 == 100 { &mut heard } else { &mut seen };
            let gap = at.saturating_duration_since(*last);
            *last = *at;
            let worst = if header.0 == 100 { &mut outcome.audio_gap } else { &mut outcome.freeze };
            *worst = gap.max(*worst);
        }
        for event in &scene.world.events()[events..] {
            if let EventKind::ConsumerLayers { layers, .. } = event {
                outcome.last = *layers;
                if layers.is_some_and(|(spatial, _)| spatial == 2) && outcome.top_after.is_none() {
                    outcome.top_after = Some(scene.world.now() - begun);
                }
            }
        }
    }
    outcome.freeze = outcome.freeze.max(scene.world.now() - seen);
    outcome.audio_gap = outcome.audio_gap.max(scene.world.now() - heard);
    let link = scene.world.link(bob);
    outcome.used = link.bytes as f64 * 8.0 / seconds as f64 / bps;
    outcome.waited = link.waited;
    outcome
}

#[test]
fn a_link_that_shrinks_and_widens_keeps_audio_and_gets_the_top_layer_back() {
    let mut scene = Scene::new(3e6);
    let mut cameras = [Camera::publish(&mut scene, 1)];
    let phases: Vec<Outcome> = [(10, 3e6), (20, 300e3), (15, 3e6)]
        .into_iter()
        .map(|(seconds, bps)| {
            let outcome = run_phase(&mut scene, &mut cameras, seconds, bps);
            println!(
                "{:>5.0} kb/s for {seconds:>2} s: used {:>3.0} %, audio gap {:>4} ms, freeze {:>4} ms, queue {:>3} ms, top \
                 layer after {:?}, in the end {:?}",
                bps / 1000.0,
                100.0 * outcome.used,
                outcome.audio_gap.as_millis(),
                outcome.freeze.as_millis(),
                outcome.waited.as_millis(),
                outcome.top_after,
                outcome.last,
            );
            outcome
        })
        .collect();
    let bound = Duration::from_millis;
    assert!(phases.iter().all(|phase| phase.freeze < bound(1000)), "{phases:?}");
    assert!(phases.iter().all(|phase| phase.audio_gap < bound(300)), "{phases:?}");
    assert!(phases[2].top_after.is_some_and(|after| after < Duration::from_secs(10)), "{phases:?}");
    assert!(phases[1].used > 0.3, "{phases:?}");
}

#[test]
fn the_more_important_stream_gets_the_better_layer_and_the_other_is_not_starved() {
    let mut scene = Scene::new(1e6);
    let mut cameras = [Camera::publish(&mut scene, 1), Camera::publish(&mut scene, 2)];
    let consumers = cameras.each_ref().map(|camera| camera.consumer.clone());
    scene.world.done("bob", Action::SetPriority { consumer: consumers[1].clone(), priority: 9 });
    (0..15_000).for_each(|_| step_with(&mut scene, &mut cameras));
    assert_eq!(consumers.clone().map(|it| last_layers(&scene.world, &it)), [Some((0, 0)), Some((1, 0))]);
    scene.world.done("bob", Action::SetPriority { consumer: consumers[0].clone(), priority: 10 });
    (0..10_000).for_each(|_| step_with(&mut scene, &mut cameras));
    assert_eq!(consumers.map(|it| last_layers(&scene.world, &it)), [Some((1, 0)), Some((0, 0))]);
}

#[test]
fn what_is_preferred_bounds_what_is_given() {
    let mut scene = Scene::new(5e6);
    let mut cameras = [Camera::publish(&mut scene, 1)];
    let consumer = cameras[0].consumer.clone();
    let prefer = |spatial| Action::SetPreferredLayers { consumer: consumer.clone(), spatial, temporal: None };
    scene.world.done("bob", prefer(1));
    (0..8_000).for_each(|_| step_with(&mut scene, &mut cameras));
    assert_eq!(last_layers(&scene.world, &consumer), Some((1, 0)));
    scene.world.done("bob", prefer(2));
    (0..8_000).for_each(|_| step_with(&mut scene, &mut cameras));
    assert_eq!(last_layers(&scene.world, &consumer), Some((2, 0)));
}

fn last_layers(world: &World, wanted: &ConsumerId) -> Option<(u8, u8)> {
    let layers = world.events().iter().rev().find_map(|event| match event {
        EventKind::ConsumerLayers { consumer, layers } if consumer == wanted => Some(*layers),
        _ => None,
    });
    layers.expect("told")
}
