//! Runs the seed corpus of the fuzz targets, and what fuzzers found since, as an ordinary test.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use qvd_core::testkit::fuzz::TARGETS;

#[test]
fn every_law_holds_for_the_corpus_of_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let named: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let there = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(
        there.collect::<BTreeSet<_>>(),
        named,
        "a corpus for each target, and a target for each corpus"
    );
    for (name, law) in TARGETS {
        let mut files = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let held = std::panic::catch_unwind(|| {
                // Whole, and cut off anywhere: what a slow peer has sent so far.
                for cut in 0..=bytes.len() {
                    law(&bytes[..cut]);
                }
            });
            assert!(held.is_ok(), "{}", path.display());
            files += 1;
        }
        assert!(files > 0, "{name} has no seeds");
    }
}
