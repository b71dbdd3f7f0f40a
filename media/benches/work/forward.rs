//! One publisher of 1.2 kB packets, and those who receive them.

use std::ops::Range;
use std::time::Duration;

use common::control::{Action, TransportDirection};
use common::rtp_parameters::MediaKind;

use super::client::{self, World, vp8};

/// Of a packet: what browsers put into one at most.
const PAYLOAD_BYTES: usize = 1200;

/// A world in which `transports` subscribers take Alice's picture `streams` times each, and Alice.
pub fn world(transports: usize, streams: usize) -> (World, usize) {
    let mut world = World::new();
    let alice = world.client("alice", TransportDirection::Send, None);
    let bobs: Vec<usize> =
        (0..transports).map(|n| world.client(&format!("bob{n}"), TransportDirection::Recv, None)).collect();
    world.pass(Duration::from_secs(1));
    let producer = world.produce(alice, MediaKind::Video, vp8(), false);
    for (n, bob) in bobs.iter().enumerate() {
        for _ in 0..streams {
            let consumer = world.consume(*bob, &producer);
            world.done(&format!("bob{n}"), Action::ResumeConsumer { consumer: consumer.id });
        }
    }
    world.send_rtp(alice, &packet(0, true));
    (world, alice)
}

/// A plain packet of Alice's.
pub fn packet(sequence: u16, keyframe: bool) -> Vec<u8> {
    let mut packet = client::vp8_packet(sequence, 7000, keyframe);
    packet.resize(12 + PAYLOAD_BYTES, 0x55);
    packet
}

/// Packets of Alice's as they arrive, after the one that `world` has sent.
pub fn sealed(world: &mut World, alice: usize, sequences: Range<u64>) -> Vec<Vec<u8>> {
    sequences.map(|sequence| world.seal_rtp(alice, &packet(sequence as u16, false), sequence)).collect()
}
