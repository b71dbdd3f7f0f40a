//! What a forwarded packet may cost: no memory, once buffers and rings have grown.

use std::time::Duration;

use allocation_counter::measure;
use common::control::{Action, TransportDirection};
use common::rtp_parameters::{MediaKind, RtpParameters};
use media::srtp::{OVERHEAD_MAX, Profile, SrtpContext};
use serde_json::json;

use crate::client::{World, opus, packet, vp8, vp8_packet, vp9_packet, vp9_svc, with_extensions};

/// More than any ring holds.
const PACKETS: u16 = 2000;
const SUBSCRIBERS: usize = 10;
/// Of the publisher's transport-cc extension.
const TRANSPORT_CC_ID: u8 = 3;

fn with_transport_cc(mut rtp: RtpParameters) -> RtpParameters {
    let uri = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
    let extension = json!({ "uri": uri, "id": TRANSPORT_CC_ID });
    rtp.header_extensions.push(serde_json::from_value(extension).expect("an extension"));
    rtp
}

/// A world in which ten subscribers take one producer of Alice's.
fn world(kind: MediaKind, rtp: RtpParameters) -> (World, usize) {
    let mut world = World::new();
    let alice = world.client("alice", TransportDirection::Send, None);
    let names: Vec<String> = (0..SUBSCRIBERS).map(|n| format!("bob{n}")).collect();
    let bobs: Vec<usize> =
        names.iter().map(|name| world.client(name, TransportDirection::Recv, None)).collect();
    world.pass(Duration::from_secs(1));
    let producer = world.produce(alice, kind, with_transport_cc(rtp), false);
    for (name, bob) in names.iter().zip(bobs) {
        let consumer = world.consume(bob, &producer);
        world.done(name, Action::ResumeConsumer { consumer: consumer.id });
    }
    (world, alice)
}

fn check(kind: MediaKind, rtp: RtpParameters, packet: impl Fn(u16) -> Vec<u8>) {
    let (mut world, alice) = world(kind, rtp);
    let sealed = |world: &mut World, first: u16| -> Vec<Vec<u8>> {
        let sequences = first..first + PACKETS;
        let packets = sequences.map(|sequence| {
            let number = sequence.to_be_bytes();
            let packet = with_extensions(packet(sequence), &[(TRANSPORT_CC_ID, &number)]);
            world.seal_rtp(alice, &packet, u64::from(sequence))
        });
        packets.collect()
    };
    let warm_up = sealed(&mut world, 1);
    world.time_forwarding(alice, warm_up);
    let (measured, before) = (sealed(&mut world, 1 + PACKETS), world.counters().forwarded);
    let memory = measure(|| {
        world.time_forwarding(alice, measured);
    });
    assert_eq!(world.counters().forwarded - before, u64::from(PACKETS) * SUBSCRIBERS as u64);
    assert_eq!(memory.count_total, 0, "{kind:?}");
}

#[test]
fn a_forwarded_packet_allocates_no_memory() {
    check(MediaKind::Audio, opus(), |sequence| {
        packet(111, sequence, 960 * u32::from(sequence), 5555, &[sequence as u8; 100])
    });
    check(MediaKind::Video, vp8(), |sequence| {
        let mut packet = vp8_packet(sequence, 7000, sequence == 1);
        packet.resize(1200, 0x55);
        packet
    });
    check(MediaKind::Video, vp9_svc(), |sequence| {
        let (picture, spatial) = (sequence / 2, sequence % 2);
        let keyframe = picture == 1;
        vp9_packet(sequence, picture, (spatial as u8, (picture % 2) as u8), keyframe, spatial == 1)
    });
}

#[test]
fn no_protection_profile_allocates_memory() {
    let profiles = [Profile::AeadAes256Gcm, Profile::AeadAes128Gcm, Profile::Aes128CmSha1_80];
    for profile in profiles {
        let context = || {
            SrtpContext::new(profile, &[1; 32][..profile.key_len()], &[2; 14][..profile.salt_len()])
                .expect("a key")
        };
        let (mut outbound, mut inbound) = (context(), context());
        let mut slot = vec![0; 1200 + OVERHEAD_MAX];
        let mut round_trip = |sequence: u16| {
            slot[..1200].copy_from_slice(&[0x55; 1200]);
            slot[..12].copy_from_slice(&[0x80, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            slot[2..4].copy_from_slice(&sequence.to_be_bytes());
            let length = outbound.seal_rtp(&mut slot, 1200, u64::from(sequence)).expect("sealed");
            inbound.open_rtp(&mut slot[..length]).expect("opens");
        };
        round_trip(1);
        let memory = measure(|| (2..200).for_each(&mut round_trip));
        assert_eq!(memory.count_total, 0, "{profile:?}");
    }
}
