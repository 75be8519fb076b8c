//! Sequences of packets, changes and time: those that fuzzing found worth keeping, and made up ones. With the cache
//! and without, they must come to the same, and nothing may be lost; see `supernet_testkit::sequence`.
//!
//! `SUPERNET_SEQUENCES=17..18` plays made up sequence 17 alone, or as many as one likes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    ops::Range,
    path::{Path, PathBuf},
};
use supernet_dataplane::{flowlog::EndReason, verdict::DropReason};
use supernet_testkit::sequence::{Reach, play};

/// What a few hundred made up sequences may miss.
const RARE: [DropReason; 4] =
    [DropReason::TupleClash, DropReason::NatPortsExhausted, DropReason::BindingGone, DropReason::NoBuffer];

/// Files of one folder below `fuzz/`, in order.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder).join("sequences");
    let mut files: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn play_all(files: &[PathBuf]) {
    for file in files {
        if let Err(what) = play(&std::fs::read(file).unwrap()) {
            panic!("{}: {what}", file.display());
        }
    }
}

#[test]
fn what_fuzzing_kept_comes_to_the_same() {
    play_all(&files("seeds"));
}

#[test]
fn what_fuzzing_found_stays_mended() {
    play_all(&files("regressions"));
}

/// The input with this number: as many bytes as its events need, each as likely as any other.
fn made_up(number: u64) -> Vec<u8> {
    let mut state = number;
    let mut next = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let words = 6 + 3 * (8 + next() % 72);
    (0..words).flat_map(|_| next().to_le_bytes()).collect()
}

fn chosen() -> Option<Range<u64>> {
    let range = std::env::var("SUPERNET_SEQUENCES").ok()?;
    let parsed = range.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    Some(parsed.unwrap_or_else(|| panic!("SUPERNET_SEQUENCES is two numbers, such as 0..1000")))
}

#[test]
fn made_up_sequences_come_to_the_same_and_reach_everything() {
    let (chosen, mut all) = (chosen(), Reach::default());
    for number in chosen.clone().unwrap_or(0..400) {
        match play(&made_up(number)) {
            Ok(reach) => all += reach,
            Err(what) => panic!("made up sequence {number}: {what}"),
        }
    }
    println!("{all:#?}");
    if chosen.is_some() {
        return;
    }
    let common = [all.hits, all.sessions, all.fragments, all.held, all.related, all.generated];
    assert!(common.iter().all(|count| *count > 100), "some depths are hardly reached");
    assert!(all.denied[0] > 1000 && all.denied[1] > 5, "hardly anything was denied");
    let is_unseen = |reason: &&EndReason| !all.ends.contains_key(reason);
    let unseen: Vec<&EndReason> = EndReason::ALL.iter().filter(is_unseen).collect();
    assert!(unseen.is_empty(), "no connection ended for {unseen:?}");
    let is_missing = |reason: &&DropReason| !all.drops.contains_key(reason) && !RARE.contains(reason);
    let missing: Vec<&DropReason> = DropReason::ALL.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "nothing was dropped for {missing:?}");
}
