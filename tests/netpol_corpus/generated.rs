//! Cases that nobody has seen before, from the generator beside the corpus.
//!
//! `SUPERNET_NETPOL_GENERATOR` names it, else it is looked for beside the workspace; it needs python3.
//! `SUPERNET_SEED` repeats a run.

use super::{play::play, say, score};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};
use supernet_testkit::netpol;

const VARIABLE: &str = "SUPERNET_NETPOL_GENERATOR";
const SEED: &str = "SUPERNET_SEED";

/// Cases with policies of administrators and without, of one family and both, small and large.
const KINDS: [(&str, &[&str]); 4] = [
    ("150", &["--admin", "0.3"]),
    ("50", &["--admin", "0.3", "--family", "6"]),
    ("50", &["--admin", "0.6", "--family", "mix"]),
    ("6", &["--admin", "0.3", "--big"]),
];

#[test]
fn every_probe_of_cases_from_a_fresh_seed_ends_as_the_oracle_says() {
    let generator = match std::env::var(VARIABLE) {
        Ok(path) => PathBuf::from(path),
        Err(_) => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/netpol/gen_random.py"),
    };
    if !generator.is_file() {
        say(&format!("NO GENERATOR: no fresh case was played. Name it in {VARIABLE}."));
        return;
    }
    let seed = match std::env::var(SEED) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED}={text} is no number")),
        Err(_) => u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()),
    };
    say(&format!("{SEED}={seed}"));
    for (at, (cases, flags)) in (0..).zip(KINDS) {
        let seed = (seed + at).to_string();
        let made = Command::new("python3")
            .arg(&generator)
            .args(["--seed", &seed, "--cases", cases])
            .args(flags)
            .output();
        let made = match made {
            Ok(made) => made,
            Err(e) => return say(&format!("NO PYTHON: no fresh case was played: {e}")),
        };
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let cases = netpol::read(&String::from_utf8(made.stdout).unwrap()).unwrap();
        for cache in [true, false] {
            score(&cases, |case| play(case, cache));
        }
    }
}
