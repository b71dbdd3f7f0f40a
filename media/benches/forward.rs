//! What forwarding costs: open one 1.2 kB packet, rewrite and seal it for N consumers, beside AES-256-GCM alone.
//!
//! `subscribers/N`: one publisher, N receive transports. `streams/N`: N consumers on one receive transport. Both report
//! time per batch of N sealed packets; `seal` is the floor for one. Clients are made of `media`'s own DTLS.

#[path = "../tests/it/client/mod.rs"]
#[allow(dead_code)] // the tests use more of it
mod client;

use std::hint::black_box;
use std::time::Duration;

use client::{World, vp8};
use common::control::{Action, TransportDirection};
use common::rtp_parameters::MediaKind;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use media::srtp::{OVERHEAD_MAX, Profile, SrtpContext};

const PAYLOAD_BYTES: usize = 1200;
const PORTION: u64 = 4096;

fn world(transports: usize, streams: usize) -> (World, usize) {
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
    (world, alice)
}

fn packet(sequence: u16, keyframe: bool) -> Vec<u8> {
    let mut packet = client::vp8_packet(sequence, 7000, keyframe);
    packet.resize(12 + PAYLOAD_BYTES, 0x55);
    packet
}

fn forward(criterion: &mut Criterion, group: &str, sizes: &[usize], build: fn(usize) -> (World, usize)) {
    let mut group = criterion.benchmark_group(group);
    for size in sizes.iter().copied() {
        let (mut world, alice) = build(size);
        world.send_rtp(alice, &packet(1, true));
        let mut sequence = 1u64;
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    // In portions, so that millions of packets need not be in memory at once.
                    let portion = left.min(PORTION);
                    left -= portion;
                    let mut next = || {
                        sequence += 1;
                        world.seal_rtp(alice, &packet(sequence as u16, false), sequence)
                    };
                    let sealed = (0..portion).map(|_| next()).collect();
                    total += world.time_forwarding(alice, sealed);
                }
                total
            });
        });
    }
    group.finish();
}

fn subscribers(criterion: &mut Criterion) {
    forward(criterion, "subscribers", &[1, 10, 50, 200], |size| world(size, 1));
}

fn streams(criterion: &mut Criterion) {
    forward(criterion, "streams", &[1, 10, 50], |size| world(1, size));
}

fn seal(criterion: &mut Criterion) {
    let mut context = SrtpContext::new(Profile::AeadAes256Gcm, &[1; 32], &[2; 12]).expect("a key");
    let packet = packet(1, false);
    let mut slot = vec![0; packet.len() + OVERHEAD_MAX];
    let mut sequence = 0u64;
    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Elements(1));
    group.bench_function("aes-256-gcm", |bencher| {
        bencher.iter(|| {
            sequence += 1;
            slot[..packet.len()].copy_from_slice(&packet);
            slot[2..4].copy_from_slice(&(sequence as u16).to_be_bytes());
            black_box(context.seal_rtp(&mut slot, packet.len(), sequence).expect("sealed"))
        });
    });
    group.finish();
}

criterion_group!(benches, seal, subscribers, streams);
criterion_main!(benches);
