//! Network policy conformance cases, played packet by packet.
//!
//! Every case becomes a snapshot, and every probe a real first packet through the pipeline: a SYN, or a
//! datagram. It must arrive at the right port exactly when the case says that the connection works, or be
//! dropped by the firewall of the side that denies it; what arrived is answered, and the answer must come back.
//!
//! Three ways: every case on its own, through the fast path and with every packet judged by the stages ([`play`]);
//! cases that are steps of one story, as changes to a living network, whose connections go on as far as each step
//! allows ([`live`]); and new cases of the generator, from a seed that is printed ([`generated`]).
//!
//! The cases are no part of this repository. `SUPERNET_NETPOL_CORPUS` names files and folders of them, several
//! separated by ':'; without it, `../shared/netpol/open` beside the workspace is read.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

mod generated;
mod live;
mod play;

use play::play;
use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};
use supernet_testkit::netpol::{self, Case};

const VARIABLE: &str = "SUPERNET_NETPOL_CORPUS";

/// Failures that are printed in full.
const SHOWN: usize = 20;

#[test]
fn every_probe_of_every_case_ends_as_the_case_says() {
    let Some(cases) = corpus() else { return };
    for (way, cache) in [("through the fast path", true), ("through the stages", false)] {
        say(way);
        score(&cases, |case| play(case, cache));
    }
}

/// All cases, if there are any.
fn corpus() -> Option<Vec<Case>> {
    let files = match std::env::var(VARIABLE) {
        Ok(paths) => {
            let files: Vec<PathBuf> =
                paths.split(':').filter(|p| !p.is_empty()).flat_map(|p| named(Path::new(p))).collect();
            assert!(!files.is_empty(), "{VARIABLE}={paths} names no .jsonl file");
            files
        }
        Err(_) => default_files(),
    };
    if files.is_empty() {
        say(&format!("NO CORPUS: no network policy case was played. Name files or folders in {VARIABLE}."));
        return None;
    }
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        netpol::read(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
    };
    Some(files.into_iter().flat_map(read).collect())
}

/// Plays cases and prints how each project's went.
fn score(cases: &[Case], mut play: impl FnMut(&Case) -> Vec<String>) {
    let (mut scores, mut failures) = (BTreeMap::<String, Score>::new(), Vec::new());
    for case in cases {
        let failed = play(case);
        scores.entry(project(case)).or_default().add(case.probes.len(), failed.len());
        failures.extend(failed);
    }
    let mut total = Score::default();
    for (source, score) in &scores {
        say(&format!("{source:<40} {score}"));
        total.merge(score);
    }
    say(&format!("{:<40} {total}", "total"));
    for failure in failures.iter().take(SHOWN) {
        println!("{failure}");
    }
    assert!(failures.is_empty(), "{} of {} probes failed", total.failed_probes, total.probes);
    assert!(total.probes > 0, "there is no case in the corpus");
}

/// Prints a line also when the test passes: the test harness withholds only what `println!` prints.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").unwrap();
}

/// The files a path stands for: itself, or the cases in the folder.
fn named(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        assert!(path.exists(), "{VARIABLE} names {}, which does not exist", path.display());
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    files
}

fn default_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/netpol/open");
    if folder.is_dir() { named(&folder) } else { Vec::new() }
}

/// The project a case was taken from: "cyclonus" of "cyclonus@12f646fb".
fn project(case: &Case) -> String {
    let end = |c: char| c.is_whitespace() || matches!(c, ',' | '@');
    case.source.split(end).next().unwrap_or_default().to_owned()
}

#[derive(Default)]
struct Score {
    cases: usize,
    failed_cases: usize,
    probes: usize,
    failed_probes: usize,
}

impl Score {
    fn add(&mut self, probes: usize, failed: usize) {
        let failed_cases = usize::from(failed > 0);
        self.merge(&Self { cases: 1, failed_cases, probes, failed_probes: failed });
    }

    fn merge(&mut self, other: &Self) {
        self.cases += other.cases;
        self.failed_cases += other.failed_cases;
        self.probes += other.probes;
        self.failed_probes += other.failed_probes;
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cases, probes) = (self.cases - self.failed_cases, self.probes - self.failed_probes);
        write!(f, "cases {cases:>5} passed {:>3} failed, ", self.failed_cases)?;
        write!(f, "probes {probes:>7} passed {:>3} failed", self.failed_probes)
    }
}
