//! Work of the SFU's core and of its parts, the same each time. The benches of this folder time it, and
//! `benches/src/count` counts its instructions.

pub mod churn;
#[path = "../../tests/it/client/mod.rs"]
#[allow(dead_code)] // the tests use more of it
pub mod client;
pub mod forward;
pub mod parts;
