//! Every committed input, and every seed, goes through its target. A file that found a bug keeps it from coming back.

use std::path::{Path, PathBuf};

use fuzz::{Target, targets};

/// Of one target; more would make the tests slow for no new path.
const FILES_MAX: usize = 60;

fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

#[test]
fn the_corpus_finds_nothing() {
    for target in targets::ALL {
        let entries = std::fs::read_dir(folder(target)).expect("each target has a corpus");
        let files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
        assert!((1..=FILES_MAX).contains(&files.len()), "{}: {} files", target.name, files.len());
        for file in files {
            // When it panics, the last line tells which file it was.
            println!("{}", file.display());
            (target.run)(&std::fs::read(&file).expect("it can be read"));
        }
    }
}

#[test]
fn seeds_find_nothing_nor_does_what_is_cut_off_them() {
    for target in targets::ALL {
        (target.run)(&[]);
        for (number, seed) in (target.seeds)().iter().enumerate() {
            println!("{} seed {number}", target.name);
            (target.run)(seed);
            (target.run)(&seed[..seed.len() / 2]);
        }
    }
}

#[test]
fn every_folder_has_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(corpus).expect("there is a corpus") {
        let name = entry.expect("a folder").file_name().into_string().expect("UTF-8");
        assert!(fuzz::target(&name).is_some(), "{name} is nobody's");
    }
}
