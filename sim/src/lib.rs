//! A simulator: the real `signaling`, `media` and `turn` cores, clients with an engine of another make at the far end, and
//! between them links, NATs and a clock that exist only here.
//!
//! `plan` turns a seed into a run, `trouble` is what goes wrong, `world` lets it happen, `oracle` watches. How to replay a
//! seed and how to add a scenario is in `docs/testing.md`.

mod dice;
mod far_end;
mod link;
mod nat;
mod node;
mod oracle;
pub mod pcap;
mod person;
mod plan;
mod relay_user;
mod trouble;
mod world;

pub use oracle::Violation;
pub use plan::{Kind, Plan};
pub use world::{Failure, Summary};

/// Runs a plan to its end. Both answers depend on the plan alone. A core that panics is a broken promise like any other,
/// and ends only its own run; what it says goes to standard error.
pub fn run(plan: Plan) -> Result<Summary, Box<Failure>> {
    let run = std::panic::AssertUnwindSafe(|| world::World::new(plan).run());
    std::panic::catch_unwind(run).unwrap_or_else(|panic| Err(Box::new(Failure::of_panic(panic.as_ref()))))
}
