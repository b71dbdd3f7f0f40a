//! The committed seeds, run to their ends: 200 in a row, and each that has found something.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Kind, Plan};

/// How many seeds `cargo test` runs.
const SEEDS: u64 = 200;

/// Runs seeds on all cores; what failed comes back as a list for people.
fn sweep(plans: Vec<Plan>) -> Vec<String> {
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let seed = plan.seed;
                    if let Err(failure) = sim::run(plan.clone()) {
                        let violation = failure.violation;
                        let line = format!("seed {seed}: {}: {}", violation.oracle, violation.what);
                        failed.lock().expect("no thread panics while it holds this").push(line);
                    }
                }
            });
        }
    });
    failed.into_inner().expect("no thread panics while it holds this")
}

#[test]
fn two_hundred_seeds_hold() {
    let plans = (0..SEEDS).map(Plan::of).collect();
    assert_eq!(sweep(plans), Vec::<String>::new(), "replay with: cargo run -p sim -- run --seed N");
}

#[test]
fn seeds_that_found_something_hold() {
    let plans = include_str!("../../seeds.txt").lines().filter(|line| !line.starts_with('#')).map(|line| {
        let mut words = line.split_whitespace();
        let seed = words.next().and_then(|number| number.parse().ok()).expect("a line begins with a seed");
        let kinds = words.next().and_then(|word| word.strip_prefix("trouble=")).expect("then its trouble");
        let kinds = kinds.split(',').map(|name| Kind::named(name).expect("a kind of trouble")).collect();
        Plan { kinds, ..Plan::of(seed) }
    });
    assert_eq!(sweep(plans.collect()), Vec::<String>::new());
}

#[test]
fn a_seed_is_one_run() {
    // The second time in another order: what has been run before must not matter.
    let once = |seed: u64| sim::run(Plan::of(seed)).expect("holds");
    let seeds: Vec<u64> = (0..8).collect();
    let first: Vec<_> = seeds.iter().map(|seed| once(*seed)).collect();
    let second: Vec<_> = seeds.iter().rev().map(|seed| once(*seed)).collect();
    for (seed, (first, second)) in seeds.iter().zip(first.iter().zip(second.iter().rev())) {
        assert_eq!(first, second, "seed {seed}");
    }
    assert!(first.iter().map(|run| run.packets).sum::<u64>() > 5000, "media has flowed: {first:?}");
    assert_ne!(first[0].digest, first[1].digest);
}

#[test]
fn one_datagram_more_is_another_digest() {
    let with = |kinds: Vec<Kind>| sim::run(Plan { kinds, ..Plan::of(7) }).expect("holds").digest;
    assert_ne!(with(vec![]), with(vec![Kind::Hostile]));
}

#[test]
fn ports_run_out_and_neighbours_meet_through_their_nat() {
    let with = |seed, kinds: &[Kind]| {
        let plan = Plan { kinds: kinds.to_vec(), relay_users: 2, ..Plan::of(seed) };
        sim::run(plan).expect("holds")
    };
    let exhausted: u64 = (0..6).map(|seed| with(seed, &[Kind::Exhausted, Kind::RelayNat]).refused).sum();
    assert!(exhausted > 0, "486 and 508 were heard");
    let hairpinned: Vec<u64> = (0..6).map(|seed| with(seed, &[Kind::Hairpin]).hairpinned).collect();
    assert!(hairpinned.iter().any(|count| *count > 100), "{hairpinned:?}");
    assert!(hairpinned.contains(&0), "not every NAT hairpins: {hairpinned:?}");
}

#[test]
fn media_and_the_relay_are_reached_over_tcp() {
    let over_tcp: Vec<u64> = (0..6)
        .map(|seed| Plan {
            kinds: vec![Kind::Tcp, Kind::Loss, Kind::Rebind],
            relay_users: 2,
            ..Plan::of(seed)
        })
        .map(|plan| sim::run(plan).expect("holds").over_tcp)
        .collect();
    assert!(over_tcp.iter().all(|count| *count > 100), "{over_tcp:?}");
}

#[test]
fn who_is_away_finds_all_messages_or_begins_anew() {
    let runs: Vec<_> = (0..6)
        .map(|seed| sim::run(Plan { kinds: vec![Kind::Chatter], ..Plan::of(seed) }).expect("holds"))
        .collect();
    assert!(runs.iter().any(|run| run.waited > 100), "{runs:?}");
    assert!(runs.iter().any(|run| run.begun_anew > 0), "a full queue: {runs:?}");
}

#[test]
fn every_kind_of_trouble_is_met_by_the_seeds() {
    for kind in Kind::ALL {
        assert!((0..SEEDS).any(|seed| Plan::of(seed).has(kind)), "{kind:?}");
    }
}
