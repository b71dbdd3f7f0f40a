//! What a relayed packet costs in the core, in process: parse, find the route, decide. No socket, no copy of payload.
//!
//! `train`: packets of one client or peer, as a receive batch brings them. `mixed`: another allocation with each packet,
//! so that nothing that is remembered of the last one helps. Time per packet; the kernel's part is not in it.

mod work;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use turn::relay::Input;
use work::{PAYLOAD_BYTES, WAYS, Way, World};

/// Packets with one reading of the clock: what a receive call may bring.
const BATCH: usize = 512;

fn relay(criterion: &mut Criterion, way: &str, input: Way) {
    let mut group = criterion.benchmark_group(way);
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, allocations) in [("train", 1), ("mixed-50", 50), ("mixed-5000", 5000)] {
        let mut world = World::new(allocations);
        let inputs: Vec<Input<'static>> = (0..allocations).map(|index| input(&world, index)).collect();
        let mut next = inputs.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                world.now += Duration::from_nanos(1);
                let bytes: usize = next.by_ref().take(BATCH).map(|input| world.carry(*input)).sum();
                assert_eq!(bytes, BATCH * PAYLOAD_BYTES);
            });
        });
    }
    group.finish();
}

fn ways(criterion: &mut Criterion) {
    for (name, way) in WAYS {
        relay(criterion, name, way);
    }
}

criterion_group!(benches, ways);
criterion_main!(benches);
