//! Fuzz targets as plain functions: `examples/fuzz.rs` gives them to libFuzzer, `tests/corpus.rs` replays the committed corpus
//! through the very same functions.
//!
//! A target is one file in `targets`: `run(&[u8])`, which panics when something is wrong, and `seeds()`, the valid inputs
//! that fuzzing starts from. `docs/testing.md` says how to add one.

pub mod bytes;
pub mod targets;

/// What can be fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Panics when something is wrong.
    pub run: fn(&[u8]),
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    targets::ALL.iter().find(|target| target.name == name)
}
