//! The program that fuzzes one target, which the environment names: `FUZZ_TARGET=rtp fuzz CORPUS -max_total_time=60`.
//!
//! `scripts/fuzz` builds and calls it. One program for all targets is linked once.

#![no_main]
#![allow(unsafe_code)] // libFuzzer calls an unmangled function, which the macro makes

use std::sync::OnceLock;

use fuzz::{Target, target, targets};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let Some(target) = target(&name) else {
            let names: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
            eprintln!("FUZZ_TARGET is {name:?}; the targets are: {}", names.join(" "));
            std::process::exit(2);
        };
        TARGET.get_or_init(|| target);
    },
    |data: &[u8]| {
        (TARGET.get().expect("init has run").run)(data);
    }
);
