//! A simulator: the real `signaling`, `media` and `turn` cores, clients with an engine of another make at the far end, and
//! between them links, NATs and a clock that exist only here.
//!
//! `plan` turns a seed into a run, `trouble` is what goes wrong, `world` lets it happen, `oracle` watches; `scoreboard` tells
//! how good the picture is on bad links. How to replay a
//! seed and how to add a scenario is in `docs/testing.md`.

use std::thread::JoinHandle;

mod clock;
mod crypto;
mod dice;
mod digest;
mod epoch;
mod far_end;
mod link;
mod nat;
mod node;
mod oracle;
pub mod pcap;
mod person;
mod plan;
mod relay_user;
pub mod scoreboard;
mod stream;
mod trouble;
mod world;

pub use digest::Digest;
pub use oracle::Violation;
pub use plan::{Kind, Plan};
pub use world::{Failure, Summary};

/// Runs a plan to its end. Both answers depend on the plan alone: a run has a thread of its own, because there is chance
/// that belongs to threads (`chance.c`). A core that panics is a broken promise like any other, and ends only its own run;
/// what it says goes to standard error.
pub fn run(plan: Plan) -> Result<Summary, Box<Failure>> {
    let run = begin(format!("seed {}", plan.seed), || world::World::new(plan).run());
    run.join().unwrap_or_else(|panic| Err(Box::new(Failure::of_panic(panic.as_ref()))))
}

/// A run of its own, in its thread.
fn begin<T: Send + 'static>(name: String, run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    // Made once per process, and not by the first run.
    crypto::identity();
    epoch::origin();
    std::thread::Builder::new().name(name).spawn(run).expect("a thread can be had")
}
