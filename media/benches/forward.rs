//! What forwarding costs: open one 1.2 kB packet, rewrite and seal it for N consumers, beside AES-256-GCM alone (`parts`).
//!
//! `subscribers/N`: one publisher, N receive transports. `streams/N`: N consumers on one receive transport. Both report
//! time per batch of N sealed packets. Clients are made of `media`'s own DTLS.

#[allow(dead_code)] // other benches use the rest
mod work;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use work::client::World;
use work::forward::{sealed, world};

/// Packets at a time, so that millions of them need not be in memory at once.
const PORTION: u64 = 4096;

fn forward(criterion: &mut Criterion, group: &str, sizes: &[usize], build: fn(usize) -> (World, usize)) {
    let mut group = criterion.benchmark_group(group);
    for size in sizes.iter().copied() {
        let (mut world, alice) = build(size);
        let mut next = 1u64;
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                let end = next + iterations;
                while next < end {
                    let portion = next..end.min(next + PORTION);
                    next = portion.end;
                    let packets = sealed(&mut world, alice, portion);
                    total += world.time_forwarding(alice, packets);
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

criterion_group!(benches, subscribers, streams);
criterion_main!(benches);
