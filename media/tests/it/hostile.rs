//! Strangers and members who send what no client would: the others' media goes on, and nothing is learned from it.

use std::net::SocketAddr;

use common::control::{Action, Done, EventKind, MediaError, TransportDirection};
use common::ids::ConsumerId;
use common::rtp_parameters::{MediaKind, RtxParameters};
use media::feedback;
use media::rtp::is_rtcp;
use media::stun;
use proptest::prelude::*;

use crate::client::{World, opus, packet, simulcast, vp8, vp8_packet, with_mid_and_rid};

/// One datagram out of nothing or out of something valid.
#[derive(Debug, Clone)]
enum Step {
    /// Bytes of no meaning.
    Random(Vec<u8>),
    /// Alice's ICE check, her packet or Bob's feedback with one byte changed, or cut short.
    Mutated { template: u8, at: usize, flip: u8, cut: bool },
    /// Carol's keys are good, what they seal is not.
    SealedRtcp(Vec<u8>),
    /// Likewise, with a header extension.
    SealedRtp { payload_type: u8, ssrc: u32, rest: Vec<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..120);
    let sources = prop_oneof![Just(5555u32), Just(7000), Just(7001), any::<u32>()];
    prop_oneof![
        bytes().prop_map(Step::Random),
        (0u8..3, any::<usize>(), 1u8.., any::<bool>()).prop_map(|(template, at, flip, cut)| Step::Mutated {
            template,
            at,
            flip,
            cut
        }),
        (200u8..208, 0u8..32, 0u8..3, bytes()).prop_map(|(kind, count, words, rest)| {
            Step::SealedRtcp([&[0x80 | count, kind, 0, words, 0, 0, 0, 1], &rest[..]].concat())
        }),
        (96u8..112, sources, bytes()).prop_map(|(payload_type, ssrc, rest)| Step::SealedRtp {
            payload_type,
            ssrc,
            rest
        }),
    ]
}

struct Scene {
    world: World,
    alice: usize,
    bob: usize,
    carol: usize,
    consumer: ConsumerId,
    sequence: u16,
}

impl Scene {
    /// Alice talks to Bob; Carol publishes video that nobody watches.
    fn new() -> Self {
        let mut world = World::new();
        let (alice, bob) = world.connected_pair();
        let carol = world.client("carol", TransportDirection::Send, None);
        world.pass(std::time::Duration::from_secs(1));
        let producer = world.produce(alice, MediaKind::Audio, opus(), false);
        world.produce(carol, MediaKind::Video, vp8(), false);
        let consumer = world.consume(bob, &producer).id;
        world.done("bob", Action::ResumeConsumer { consumer: consumer.clone() });
        Self { world, alice, bob, carol, consumer, sequence: 0 }
    }

    fn next_packet(&mut self) -> Vec<u8> {
        self.sequence += 1;
        packet(111, self.sequence, 960 * u32::from(self.sequence), 5555, b"opus")
    }

    fn alice_reaches_bob(&mut self) {
        self.world.received(self.bob);
        let packet = self.next_packet();
        self.world.send_rtp(self.alice, &packet);
        assert_eq!(self.world.received(self.bob).len(), 1);
    }

    fn check_of_alice(&self, password: Option<&str>) -> Vec<u8> {
        let ice = self.world.ice(self.alice);
        let mut request = Vec::new();
        let username = format!("{}:them", ice.username_fragment);
        let key = stun::key(password.unwrap_or(&ice.password));
        stun::write_request(&mut request, &[9; 12], &username, &key);
        request
    }

    fn take(&mut self, from: SocketAddr, sequence: u16, step: Step) {
        match step {
            Step::Random(bytes) => self.world.throw(from, bytes),
            Step::Mutated { template, at, flip, cut } => {
                let mut datagram = match template {
                    0 => self.check_of_alice(None),
                    1 => {
                        let packet = self.next_packet();
                        self.world.seal_rtp(self.alice, &packet, self.sequence.into())
                    }
                    _ => self.world.seal_rtcp(self.bob, &[0x80, 201, 0, 1, 0, 0, 0, 1]),
                };
                // The last eight bytes of a check are FINGERPRINT, which proves nothing.
                let at = at % (datagram.len() - 8);
                datagram[at] ^= flip;
                if cut {
                    datagram.truncate(at);
                }
                self.world.throw(from, datagram);
            }
            Step::SealedRtcp(compound) => {
                assert!(is_rtcp(&compound));
                self.world.send_rtcp(self.carol, &compound);
            }
            Step::SealedRtp { payload_type, ssrc, rest } => {
                let payload = [&[0xbe, 0xde, 0, 1, 0x40, b'1', 0, 0], &rest[..]].concat();
                let mut packet = packet(payload_type, sequence, 0, ssrc, &payload);
                packet[0] |= 0x10;
                self.world.send_rtp(self.carol, &packet);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn nothing_that_is_thrown_at_it_disturbs_others(
        steps in proptest::collection::vec((0usize..4, step()), 1..80),
    ) {
        let mut scene = Scene::new();
        let transports = scene.world.transport_count();
        for (sequence, (from, step)) in (1u16..).zip(steps) {
            let from = match from {
                0 => SocketAddr::from(([203, 0, 113, 9], 1)),
                client => scene.world.address(client - 1),
            };
            scene.take(from, sequence, step);
        }
        scene.alice_reaches_bob();
        scene.world.pass(std::time::Duration::from_secs(2));
        scene.alice_reaches_bob();
        prop_assert_eq!(scene.world.transport_count(), transports);
        let closed = |event: &EventKind| matches!(event, EventKind::TransportClosed { .. } | EventKind::ConsumerClosed(_));
        prop_assert!(!scene.world.events().iter().any(closed));
        scene.world.done("bob", Action::PauseConsumer { consumer: scene.consumer.clone() });
    }
}

#[test]
fn a_check_with_the_wrong_password_teaches_no_address() {
    let mut scene = Scene::new();
    let stranger = SocketAddr::from(([203, 0, 113, 9], 1));
    let forged = scene.check_of_alice(Some("not the password of this agent"));
    let before = scene.world.counters();
    scene.world.throw(stranger, forged);
    let packet = scene.next_packet();
    let sealed = scene.world.seal_rtp(scene.alice, &packet, scene.sequence.into());
    scene.world.throw(stranger, sealed);
    let after = scene.world.counters();
    assert_eq!(after.bad_stun, before.bad_stun + 1);
    assert_eq!(after.unknown_address, before.unknown_address + 1);
    assert!(scene.world.received(scene.bob).is_empty(), "good keys from an unproven address");
    scene.alice_reaches_bob();
}

#[test]
fn a_replayed_packet_goes_nowhere() {
    let mut scene = Scene::new();
    let packet = scene.next_packet();
    let sealed = scene.world.seal_rtp(scene.alice, &packet, scene.sequence.into());
    let address = scene.world.address(scene.alice);
    let before = scene.world.counters();
    for _ in 0..3 {
        scene.world.throw(address, sealed.clone());
    }
    assert_eq!(scene.world.received(scene.bob).len(), 1);
    assert_eq!(scene.world.counters().bad_srtp, before.bad_srtp + 2);
}

#[test]
fn what_was_left_out_as_padding_cannot_come_back_as_a_retransmission() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, vp8(), false);
    let consumer = world.consume(bob, &producer).id;
    world.done("bob", Action::ResumeConsumer { consumer });
    world.send_rtp(alice, &vp8_packet(100, 7000, true));
    let mut padding = packet(96, 101, 300_000, 7000, &[0, 0, 0, 4]);
    padding[0] |= 0x20;
    world.send_rtp(alice, &padding);
    world.send_rtp(alice, &vp8_packet(102, 7000, false));
    assert_eq!(world.received(bob).len(), 2);
    // 102 closed the gap that 101 had left: its number is taken, and the same nonce twice would give the keys away.
    let repeated = [&101u16.to_be_bytes()[..], &vp8_packet(101, 7000, false)[12..]].concat();
    world.send_rtp(alice, &packet(97, 1, 303_000, 7001, &repeated));
    assert!(world.received(bob).is_empty());
}

/// Somebody switches the camera on and off all day: each time another SSRC, and reports of it.
#[test]
fn who_publishes_and_closes_tracks_all_day_is_still_heard() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    for round in 0..600u32 {
        let (ssrc, rtx) = (20_000 + 2 * round, 20_001 + 2 * round);
        let mut rtp = vp8();
        rtp.mid = Some(format!("m{round}"));
        rtp.encodings[0].ssrc = Some(ssrc);
        rtp.encodings[0].rtx = Some(RtxParameters { ssrc: rtx });
        let producer = world.produce(alice, MediaKind::Video, rtp, false);
        // Bob's client remembers its sources for ever.
        let watches = round % 10 == 9;
        if watches {
            let consumer = world.consume(bob, &producer);
            world.done("bob", Action::ResumeConsumer { consumer: consumer.id });
        }
        let keyframe = vp8_packet(1, ssrc, true);
        let sealed = world.seal_rtp(alice, &keyframe, 1);
        world.throw(world.address(alice), sealed.clone());
        let mut report = Vec::new();
        feedback::write_sender_report(&mut report, ssrc, 1 << 40, 0, 1, 1);
        world.send_rtcp(alice, &report);
        assert_eq!(world.received(bob).len(), usize::from(watches), "track {round}");
        assert_eq!(world.counters().received, u64::from(round) + 1);
        world.throw(world.address(alice), sealed);
        assert!(world.received(bob).is_empty(), "a replay");
        world.done("alice", Action::CloseProducer { producer });
    }
    assert_eq!(world.counters().bad_srtp, 600, "the replays");
}

#[test]
fn a_second_source_under_a_tracks_name_is_not_part_of_it() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, simulcast(), false);
    world.send_rtp(alice, &with_mid_and_rid(vp8_packet(9, 7000, true), "1", "r0"));
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id });
    let mut frame = |sequence: u16, ssrc: u32| {
        world.send_rtp(alice, &with_mid_and_rid(vp8_packet(sequence, ssrc, true), "1", "r0"));
        world.received(bob).len()
    };
    assert_eq!(frame(10, 7000), 1);
    assert_eq!(frame(40_000, 7100), 0, "the name is taken");
    assert_eq!(frame(11, 7000), 1);
    assert_eq!(world.counters().unknown_source, 1);
}

#[test]
fn a_track_is_forwarded_to_one_peer_some_times_at_most() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Audio, opus(), false);
    let consumers: Vec<ConsumerId> = (0..64).map(|_| world.consume(bob, &producer).id).collect();
    let Done::Room { capabilities } = world.done("bob", Action::OpenRoom { codecs: None }) else {
        panic!("the room")
    };
    let transport = world.transport_id(bob);
    let another = Action::Consume { transport, producer, capabilities };
    assert_eq!(
        world.command("bob", another.clone()),
        Err(MediaError::LimitReached("consumers of one track"))
    );
    world.done("bob", Action::CloseConsumer { consumer: consumers[0].clone() });
    world.done("bob", another);
}

#[test]
fn what_is_kept_for_one_publisher_is_bounded() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, vp8(), false);
    let consumer = world.consume(bob, &producer).id;
    world.done("bob", Action::ResumeConsumer { consumer });
    let (mut large, mut largest) = (vp8_packet(1, 7000, true), vp8_packet(2, 7000, false));
    large.resize(1500, 1);
    largest.resize(2048, 1);
    world.send_rtp(alice, &large);
    world.send_rtp(alice, &largest);
    assert_eq!(
        (world.received(bob).len(), world.counters().malformed_rtp),
        (1, 1),
        "one more tag is too long"
    );
    let mut made = 0;
    let refused = loop {
        let mut rtp = simulcast();
        rtp.mid = Some(format!("more{made}"));
        rtp.encodings = vec![rtp.encodings[0].clone(); 8];
        for (at, encoding) in rtp.encodings.iter_mut().enumerate() {
            encoding.rid = Some(format!("r{at}"));
        }
        let transport = world.transport_id(alice);
        let action = Action::Produce { transport, kind: MediaKind::Video, rtp, paused: false };
        match world.command("alice", action) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((made, refused), (15, MediaError::LimitReached("encodings")));
}
