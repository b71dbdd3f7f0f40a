//! A simulator: the real `signaling`, `media` and `turn` cores, clients with an engine of another make at the far end, and
//! between them links, NATs and a clock that exist only here.
//!
//! `plan` turns a seed into a run, `trouble` is what goes wrong, `world` lets it happen, `oracle` watches. How to replay a
//! seed and how to add a scenario is in `docs/testing.md`.

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
    // Made once per process, and not by the first run.
    crypto::identity();
    epoch::origin();
    let name = format!("seed {}", plan.seed);
    let thread = std::thread::Builder::new().name(name).spawn(|| world::World::new(plan).run());
    let run = thread.expect("a thread can be had").join();
    run.unwrap_or_else(|panic| Err(Box::new(Failure::of_panic(panic.as_ref()))))
}
