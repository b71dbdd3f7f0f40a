//! A publisher whose packets lie: numbers and times that leap, descriptors and extensions of any bytes, retransmissions of
//! what never was, a clock that runs wild. Subscribers decrypt all that they get, and other tracks go on.

use std::collections::BTreeMap;
use std::time::Duration;

use common::control::{Action, TransportDirection};
use common::ids::{ConsumerId, ProducerId};
use common::rtp_parameters::MediaKind;
use media::feedback;
use media::rtp::RtpHeader;
use proptest::prelude::*;

use crate::client::{World, av1_svc, h264, opus, packet, vp8, vp9_svc};

/// SSRC, payload type and those of retransmissions.
type Track = (u32, u8, Option<(u32, u8)>);

/// What Alice publishes; H264 comes without retransmissions.
const TRACKS: [Track; 5] = [
    (5555, 111, None),
    (7000, 96, Some((7001, 97))),
    (8000, 102, None),
    (9000, 98, Some((9001, 99))),
    (4500, 45, Some((4501, 46))),
];
/// Behind the newest number of a stream that a subscriber has, and before it: more would confuse SRTP.
const STEP_MAX: i16 = 4000;

#[derive(Debug, Clone)]
enum Step {
    /// A packet with so many numbers left out before it. `profile` is that of its header extension, when it has one.
    Media {
        track: usize,
        ahead: u16,
        timestamp: u32,
        flags: u8,
        extension: Option<(u16, Vec<u8>)>,
        payload: Vec<u8>,
    },
    /// A retransmission; the original is so far from the newest.
    Repeated {
        track: usize,
        original: i16,
        payload: Vec<u8>,
    },
    Report {
        track: usize,
        ntp: u64,
        timestamp: u32,
    },
    Layers {
        consumer: usize,
        spatial: u8,
        temporal: Option<u8>,
    },
    Pause {
        consumer: usize,
        paused: bool,
    },
    Time(u16),
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    // VP8 keyframes and others, VP9 of any layer, H264 parameter sets, AV1's first packet, or anything; also nothing.
    let starts = prop_oneof![
        Just(vec![0x90, 0x80, 0x81, 2, 0]),
        Just(vec![0x90, 0xf0, 0xff, 0xff, 0xff, 0xff, 1]),
        Just(vec![0x10, 0]),
        Just(vec![0xac, 0xff, 0xfe]),
        Just(vec![0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68]),
        Just(vec![0x08]),
        Just(Vec::new()),
    ];
    (starts, proptest::collection::vec(any::<u8>(), 0..12)).prop_map(|(start, rest)| [start, rest].concat())
}

fn step() -> impl Strategy<Value = Step> {
    let ahead = prop_oneof![12 => 0u16..3, 2 => 0u16..600, 1 => 0u16..32_000];
    let profile = prop_oneof![Just(0xbedeu16), Just(0x1000), any::<u16>()];
    let bytes = proptest::collection::vec(any::<u8>(), 0..40);
    let extension = proptest::option::of((profile, bytes));
    let track = 0..TRACKS.len();
    prop_oneof![
        12 => (track.clone(), ahead, any::<u32>(), any::<u8>(), extension, payload()).prop_map(
            |(track, ahead, timestamp, flags, extension, payload)| {
                Step::Media { track, ahead, timestamp, flags, extension, payload }
            }
        ),
        3 => (track.clone(), prop_oneof![-20i16..20, any::<i16>()], payload())
            .prop_map(|(track, original, payload)| Step::Repeated { track, original, payload }),
        1 => (track.clone(), any::<u64>(), any::<u32>())
            .prop_map(|(track, ntp, timestamp)| Step::Report { track, ntp, timestamp }),
        1 => (track.clone(), any::<u8>(), any::<Option<u8>>())
            .prop_map(|(consumer, spatial, temporal)| Step::Layers { consumer, spatial, temporal }),
        1 => (track, any::<bool>()).prop_map(|(consumer, paused)| Step::Pause { consumer, paused }),
        1 => prop_oneof![0u16..100, 1500u16..3000].prop_map(Step::Time),
    ]
}

struct Scene {
    world: World,
    alice: usize,
    bob: usize,
    consumers: Vec<ConsumerId>,
    /// The newest number of each SSRC that Alice has used.
    numbers: BTreeMap<u32, u64>,
    /// Of each that Bob has got.
    newest: BTreeMap<u32, u16>,
}

impl Scene {
    fn new() -> Self {
        let mut world = World::with_av1();
        let (alice, bob) = world.connected_pair();
        let kinds = [(MediaKind::Audio, opus())];
        let video = [vp8(), h264(), vp9_svc(), av1_svc()].map(|rtp| (MediaKind::Video, rtp));
        let each = kinds.into_iter().chain(video);
        let producers: Vec<ProducerId> =
            each.map(|(kind, rtp)| world.produce(alice, kind, rtp, false)).collect();
        let consumers: Vec<ConsumerId> = producers.iter().map(|it| world.consume(bob, it).id).collect();
        for consumer in &consumers {
            world.done("bob", Action::ResumeConsumer { consumer: consumer.clone() });
        }
        Self { world, alice, bob, consumers, numbers: BTreeMap::new(), newest: BTreeMap::new() }
    }

    /// Sends a packet under the next number of its SSRC but `ahead`, as Alice's SRTP would.
    fn send(&mut self, mut packet: Vec<u8>, ssrc: u32, ahead: u16) {
        let number = self.numbers.get(&ssrc).map_or(30_000, |newest| newest + 1 + u64::from(ahead));
        self.numbers.insert(ssrc, number);
        packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
        let sealed = self.world.seal_rtp(self.alice, &packet, number);
        self.world.throw(self.world.address(self.alice), sealed);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Media { track, ahead, timestamp, flags, extension, payload } => {
                let (ssrc, payload_type, _) = TRACKS[track];
                let mut body = Vec::new();
                if let Some((profile, bytes)) = &extension {
                    body.extend_from_slice(&profile.to_be_bytes());
                    body.extend_from_slice(&(bytes.len().div_ceil(4) as u16).to_be_bytes());
                    body.extend_from_slice(bytes);
                    body.resize(body.len().next_multiple_of(4), 0);
                }
                body.extend_from_slice(&payload);
                let mut packet = packet(payload_type, 0, timestamp, ssrc, &body);
                // Padding and marker.
                packet[0] |= flags & 0x20 | if extension.is_some() { 0x10 } else { 0 };
                packet[1] |= flags & 0x80;
                self.send(packet, ssrc, ahead);
            }
            Step::Repeated { track, original, payload } => {
                let (ssrc, _, Some((rtx, payload_type))) = TRACKS[track] else { return };
                let newest = self.numbers.get(&ssrc).map_or(0, |newest| *newest as u16);
                let original = newest.wrapping_add_signed(original).to_be_bytes();
                self.send(packet(payload_type, 0, 0, rtx, &[&original[..], &payload].concat()), rtx, 0);
            }
            Step::Report { track, ntp, timestamp } => {
                let mut report = Vec::new();
                feedback::write_sender_report(&mut report, TRACKS[track].0, ntp, timestamp, 1, 1);
                self.world.send_rtcp(self.alice, &report);
            }
            Step::Layers { consumer, spatial, temporal } => {
                let consumer = self.consumers[consumer].clone();
                self.world.done("bob", Action::SetPreferredLayers { consumer, spatial, temporal });
            }
            Step::Pause { consumer, paused } => {
                let consumer = self.consumers[consumer].clone();
                let action = if paused {
                    Action::PauseConsumer { consumer }
                } else {
                    Action::ResumeConsumer { consumer }
                };
                self.world.done("bob", action);
            }
            Step::Time(ms) => self.world.pass(Duration::from_millis(ms.into())),
        }
    }

    /// What Bob has got has opened, or his client would have panicked. It did not leap.
    fn look(&mut self) {
        for packet in self.world.received(self.bob) {
            let header = RtpHeader::parse(&packet).expect("RTP");
            let newest = self.newest.entry(header.ssrc).or_insert(header.sequence_number);
            let step = header.sequence_number.wrapping_sub(*newest) as i16;
            assert!((-STEP_MAX..=STEP_MAX).contains(&step), "{newest}, then {}", header.sequence_number);
            *newest = if step > 0 { header.sequence_number } else { *newest };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn nothing_that_a_publisher_says_of_its_media_disturbs_others(steps in proptest::collection::vec(step(), 1..200)) {
        let mut scene = Scene::new();
        let carol = scene.world.client("carol", TransportDirection::Send, None);
        scene.world.pass(Duration::from_secs(1));
        let honest = scene.world.produce(carol, MediaKind::Audio, opus(), false);
        let consumer = scene.world.consume(scene.bob, &honest);
        scene.world.done("bob", Action::ResumeConsumer { consumer: consumer.id });
        for step in steps {
            scene.take(step);
            scene.look();
        }
        for (name, length, bound) in scene.world.queues() {
            prop_assert!(length <= bound, "{length} {name}");
        }
        scene.world.send_rtp(carol, &packet(111, 1, 0, 5555, b"opus"));
        let received = scene.world.received(scene.bob);
        let of_carol = |packet: &&Vec<u8>| {
            RtpHeader::parse(packet).map(|header| header.ssrc) == consumer.rtp.encodings[0].ssrc
        };
        prop_assert_eq!(received.iter().filter(of_carol).count(), 1);
    }
}
