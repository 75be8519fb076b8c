//! Chores of this repository: `cargo xtask test`, `cargo xtask imports`, `cargo xtask interleavings`,
//! `cargo xtask instructions [--accept]`,
//! `cargo xtask fuzz TARGET [SECONDS]`.
//!
//! No dependencies, so that it builds in a second on a fresh machine.

mod imports;
mod instructions;
mod packages;
mod steps;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};
use steps::{Outcome, Steps};

const USAGE: &str = "\
cargo xtask test                     install what the tests need, then run every check there is
cargo xtask imports                  check that modules import one way only
cargo xtask instructions             count instructions, and compare with benches/instructions.toml
cargo xtask instructions --accept    count instructions, and write that file
cargo xtask interleavings            run threads of the tables in many orders
cargo xtask fuzz TARGET [SECONDS]    fuzz one target, 60 seconds unless told otherwise
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let good = match words[..] {
        ["test"] => test(),
        ["imports"] => matches!(check_imports(), Outcome::Passed),
        ["instructions"] => alone(instructions::check()),
        ["instructions", "--accept"] => alone(instructions::accept()),
        ["interleavings"] => matches!(interleavings(), Outcome::Passed),
        ["fuzz", target] => fuzz(target, "60"),
        ["fuzz", target, seconds] if seconds.parse::<u32>().is_ok() => fuzz(target, seconds),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            true
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs everything, also after a failure, and sums up. Whether all was well.
fn test() -> bool {
    let mut steps = Steps::default();
    steps.run("packages", packages::install);
    steps.run("TAP devices", packages::can_use_taps);
    steps.run("format", || cargo(&["fmt", "--all", "--check"]));
    steps.run("imports", check_imports);
    steps.run("lints", || {
        cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])
    });
    steps.run("tests", || {
        if has_cargo("nextest") {
            // The corpus has a step of its own, because it prints a table.
            let others = "not binary(netpol_corpus)";
            cargo(&["nextest", "run", "--workspace", "--no-fail-fast", "-E", others])
        } else {
            cargo(&["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests", "--examples"])
        }
    });
    steps.run("interleavings", interleavings);
    steps.run("network policy corpus", || cargo(&["test", "--test", "netpol_corpus", "--", "--nocapture"]));
    steps.run("doc tests", || cargo(&["test", "--workspace", "--no-fail-fast", "--doc"]));
    steps.run("fuzz targets build", || cargo(&["check", "--manifest-path", "fuzz/Cargo.toml", "--bins"]));
    steps.run("instruction counts", instructions::check);
    steps.run("licences, bans, sources", || {
        if has_cargo("deny") {
            cargo(&["deny", "check", "licenses", "bans", "sources"])
        } else {
            Outcome::Skipped("cargo-deny is not installed: `cargo install cargo-deny`".to_owned())
        }
    });
    steps.sum_up()
}

/// Whether a step that was run by itself went well; says what did not.
fn alone(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Passed => true,
        Outcome::Failed(why) | Outcome::Skipped(why) => {
            eprintln!("{why}");
            false
        }
    }
}

fn check_imports() -> Outcome {
    match imports::check(&root()) {
        Ok(found) if found.is_empty() => {
            println!("every import runs the right way");
            Outcome::Passed
        }
        Ok(found) => {
            for violation in &found {
                println!("{violation}");
            }
            Outcome::Failed(format!("{} imports run the wrong way", found.len()))
        }
        Err(e) => Outcome::Failed(e),
    }
}

/// Runs the tests whose threads shuttle schedules.
fn interleavings() -> Outcome {
    // What is compiled with other flags goes elsewhere, so that neither build undoes the other.
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let test = ["test", "--package", "supernet-dataplane", "--lib", "interleavings"];
    let target = target.join("shuttle");
    cargo_with(&test, &[("RUSTFLAGS", OsStr::new("--cfg shuttle")), ("CARGO_TARGET_DIR", target.as_os_str())])
}

fn fuzz(target: &str, seconds: &str) -> bool {
    if !has_cargo("fuzz") {
        eprintln!("cargo-fuzz is not installed: `cargo install cargo-fuzz`");
        return false;
    }
    let limit = format!("-max_total_time={seconds}");
    let version = Command::new("rustc").arg("--version").output().map(|o| o.stdout).unwrap_or_default();
    // Address sanitizer needs a nightly compiler; without it, panics and hangs are still found.
    let sanitizer = if String::from_utf8_lossy(&version).contains("nightly") { "address" } else { "none" };
    // What is found goes into the first folder; the others are in the repository and only read.
    let corpus = format!("fuzz/corpus/{target}");
    if let Err(e) = std::fs::create_dir_all(root().join(&corpus)) {
        eprintln!("can't make {corpus}: {e}");
        return false;
    }
    let kept = ["seeds", "regressions"].map(|kind| format!("fuzz/{kind}/{target}"));
    let kept = kept.iter().filter(|folder| root().join(folder).is_dir());
    let folders = std::iter::once(&corpus).chain(kept).map(String::as_str);
    let args: Vec<&str> = ["fuzz", "run", "--sanitizer", sanitizer, target]
        .into_iter()
        .chain(folders)
        .chain(["--", &limit])
        .collect();
    matches!(cargo(&args), Outcome::Passed)
}

/// Runs cargo at the root of the repository, with its output shown.
fn cargo(args: &[&str]) -> Outcome {
    cargo_with(args, &[])
}

/// The same, with more variables in its environment.
fn cargo_with(args: &[&str], variables: &[(&str, &OsStr)]) -> Outcome {
    println!("$ cargo {}", args.join(" "));
    // The one that runs this, so that a toolchain chosen by the user stays chosen.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    match Command::new(cargo).args(args).envs(variables.iter().copied()).current_dir(root()).status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(status.to_string()),
        Err(e) => Outcome::Failed(format!("can't run cargo: {e}")),
    }
}

fn has_cargo(command: &str) -> bool {
    packages::find(&format!("cargo-{command}")).is_some()
}

/// The repository's root: the folder above this package.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}
