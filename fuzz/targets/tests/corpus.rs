//! Owns the replay of every kept input of fuzzing on the ordinary toolchain: what once was found stays found.
//!
//! `TIDEWELL_CORPUS` names another folder of corpora, such as one that a long run has left.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use tidewell_fuzz::TARGETS;

/// Most bytes of all kept inputs together: a checkout carries them for ever.
const KEPT_BYTES_MAX: u64 = 700 << 10;

fn corpora() -> (PathBuf, bool) {
    match std::env::var_os("TIDEWELL_CORPUS") {
        Some(folder) => (folder.into(), false),
        None => (Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus"), true),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_kept_input_keeps_the_promises() {
    let (folder, _) = corpora();
    let mut failed = Vec::new();
    for target in TARGETS {
        let inputs = files(&folder.join(target.name));
        assert!(!inputs.is_empty(), "{} has no kept input", target.name);
        for path in inputs {
            let bytes = std::fs::read(&path).unwrap();
            if catch_unwind(|| (target.run)(&bytes)).is_err() {
                failed.push(path.display().to_string());
            }
        }
    }
    assert!(failed.is_empty(), "{} inputs break a promise:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn every_corpus_has_a_target_and_stays_small() {
    let (folder, kept) = corpora();
    let mut bytes = 0;
    for corpus in files(&folder) {
        let name = corpus.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        assert!(tidewell_fuzz::target(name).is_some(), "{} belongs to no target", corpus.display());
        bytes += files(&corpus).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    }
    assert!(!kept || bytes <= KEPT_BYTES_MAX, "{bytes} bytes are kept, expected at most {KEPT_BYTES_MAX}");
}
