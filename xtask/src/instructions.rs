//! Instruction counts: `benches/instructions.rs` under valgrind, against the counts that are checked in.
//!
//! Counts hardly change from run to run, unlike time. What grew by more than [`MOST`] percent fails; what is meant to
//! grow is accepted with `cargo xtask instructions --accept`, which writes the file that is then committed.

use crate::{cargo_with, packages, root, steps::Outcome};
use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Growth that is let pass, in percent: two builds of the same source differ a little.
const MOST: u64 = 3;

/// The counts that are checked in.
const BASELINE: &str = "benches/instructions.toml";

const HEADER: &str = "\
# Instructions that the functions of benches/instructions.rs take for 512 packets, counted by valgrind (which has
# no AVX-512, so this is the AVX2 code). `cargo xtask test` fails when one has grown by more than 3 %. Written by
# `cargo xtask instructions --accept`: run it when growth is meant, and say in the commit why.

";

const USER: &str = "the instruction counts";

type Counts = BTreeMap<String, u64>;

/// Counts and compares.
pub(crate) fn check() -> Outcome {
    let is = match count() {
        Ok(counts) => counts,
        Err(outcome) => return outcome,
    };
    let was = match fs::read_to_string(root().join(BASELINE)) {
        Ok(text) => match read(&text) {
            Ok(counts) => counts,
            Err(e) => return Outcome::Failed(format!("{BASELINE}: {e}")),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Counts::new(),
        Err(e) => return Outcome::Failed(format!("can't read {BASELINE}: {e}")),
    };
    let (table, wrong) = compare(&was, &is);
    print!("{table}");
    if wrong.is_empty() {
        return Outcome::Passed;
    }
    Outcome::Failed(format!(
        "{}; if it is meant, `cargo xtask instructions --accept` and commit {BASELINE}",
        wrong.join("; ")
    ))
}

/// Counts, and takes what there is as what should be.
pub(crate) fn accept() -> Outcome {
    let is = match count() {
        Ok(counts) => counts,
        Err(outcome) => return outcome,
    };
    let file = root().join(BASELINE);
    let was = fs::read_to_string(&file).ok().and_then(|text| read(&text).ok()).unwrap_or_default();
    print!("{}", compare(&was, &is).0);
    match fs::write(&file, write(&is)) {
        Ok(()) => {
            println!("\nwritten: {BASELINE}");
            Outcome::Passed
        }
        Err(e) => Outcome::Failed(format!("can't write {BASELINE}: {e}")),
    }
}

/// Runs the bench under valgrind.
fn count() -> Result<Counts, Outcome> {
    for (program, missing) in
        [("valgrind", packages::install_one("valgrind", "valgrind")), ("gungraun-runner", install_runner())]
    {
        if let Err(why) = missing {
            let why = format!("{program}, which {USER} need, can't be had: {why}");
            let fails = env::var_os("CI").is_some();
            return Err(if fails { Outcome::Failed(why) } else { Outcome::Skipped(why) });
        }
    }
    let home = target().join("instructions");
    // What another run left is not what this one counts.
    match fs::remove_dir_all(&home) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(Outcome::Failed(format!("can't remove {}: {e}", home.display())));
        }
        _ => {}
    }
    let args = ["bench", "--package", "supernet-lab", "--bench", "instructions"];
    let variables = [("GUNGRAUN_HOME", home.as_os_str()), ("GUNGRAUN_NOSUMMARY", "true".as_ref())];
    match cargo_with(&args, &variables) {
        Outcome::Passed => {}
        other => return Err(other),
    }
    let mut counts = Counts::new();
    collect(&home, &mut counts).map_err(Outcome::Failed)?;
    if counts.is_empty() {
        return Err(Outcome::Failed(format!("no callgrind.*.out below {}", home.display())));
    }
    Ok(counts)
}

/// The runner that the bench's library wants, of the very same version.
fn install_runner() -> Result<(), String> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).map_err(|e| format!("Cargo.lock: {e}"))?;
    let version = locked(&lock, "gungraun").ok_or("Cargo.lock has no gungraun")?;
    let has = |program: &Path| {
        let said = Command::new(program).arg("--version").output().map(|o| o.stdout).unwrap_or_default();
        String::from_utf8_lossy(&said).split_whitespace().any(|word| word == version)
    };
    if packages::find("gungraun-runner").is_some_and(|program| has(&program)) {
        return Ok(());
    }
    let exactly = format!("={version}");
    match cargo_with(&["install", "gungraun-runner", "--version", &exactly, "--locked"], &[]) {
        Outcome::Passed => {}
        Outcome::Failed(why) | Outcome::Skipped(why) => return Err(why),
    }
    match packages::find("gungraun-runner") {
        Some(program) if has(&program) => Ok(()),
        Some(other) => Err(format!("{} comes first and is not {version}", other.display())),
        None => Err("it was installed where no path leads: add cargo's bin folder to PATH".to_owned()),
    }
}

/// The version of a package in a lock file.
fn locked(lock: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let after = lock.lines().skip_while(|line| *line != name).nth(1)?;
    Some(after.strip_prefix("version = \"")?.strip_suffix('"')?.to_owned())
}

/// Where cargo builds.
fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Reads every `.../GROUP/FUNCTION.CASE/callgrind.FUNCTION.CASE.out` below a folder.
fn collect(folder: &Path, counts: &mut Counts) -> Result<(), String> {
    let wrong = |e: io::Error| format!("can't read {}: {e}", folder.display());
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            collect(&path, counts)?;
        } else if let Some(name) = name.strip_prefix("callgrind.").and_then(|n| n.strip_suffix(".out")) {
            let text =
                fs::read_to_string(&path).map_err(|e| format!("can't read {}: {e}", path.display()))?;
            let count = instructions(&text).ok_or_else(|| format!("{} has no total", path.display()))?;
            // A function's threads or processes, if there were some, are parts of it.
            *counts.entry(name.to_owned()).or_default() += count;
        }
    }
    Ok(())
}

/// The instructions in what callgrind wrote.
fn instructions(text: &str) -> Option<u64> {
    let after = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let column = after("events:")?.split_whitespace().position(|event| event == "Ir")?;
    let totals = after("totals:").or_else(|| after("summary:"))?;
    totals.split_whitespace().nth(column)?.parse().ok().filter(|n| *n > 0)
}

/// The table, and what is wrong.
fn compare(was: &Counts, is: &Counts) -> (String, Vec<String>) {
    let names: Vec<&String> = was.keys().chain(is.keys().filter(|name| !was.contains_key(*name))).collect();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let (mut table, mut wrong) =
        (format!("{:width$}  {:>12}  {:>12}  {:>8}\n", "512 packets", "was", "is", "change"), Vec::new());
    for name in names {
        let number = |n: Option<&u64>| n.map_or("-".to_owned(), u64::to_string);
        let change = match (was.get(name), is.get(name)) {
            (Some(was), Some(is)) => {
                let change = *is as f64 / *was as f64 - 1.0;
                if is * 100 > was * (100 + MOST) {
                    wrong.push(format!("{name} grew by {:.1} %", change * 100.0));
                }
                format!("{:+.1} %", change * 100.0)
            }
            (None, _) => {
                wrong.push(format!("{name} is not in {BASELINE}"));
                "new".to_owned()
            }
            (_, None) => {
                wrong.push(format!("{name} was not counted"));
                "gone".to_owned()
            }
        };
        let (was, is) = (number(was.get(name)), number(is.get(name)));
        table += &format!("{name:width$}  {was:>12}  {is:>12}  {change:>8}\n");
    }
    (table, wrong)
}

fn write(counts: &Counts) -> String {
    let lines: String = counts.iter().map(|(name, count)| format!("\"{name}\" = {count}\n")).collect();
    HEADER.to_owned() + &lines
}

fn read(text: &str) -> Result<Counts, String> {
    let lines =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(n, line)| {
            let (name, count) = line.split_once(" = ").unwrap_or_default();
            let name = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
            match (name, count.trim().parse()) {
                (Some(name), Ok(count)) if count > 0 => Ok((name.to_owned(), count)),
                _ => Err(format!("line {}: expected \"name\" = instructions, found {line}", n + 1)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64)]) -> Counts {
        of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn growth_above_three_percent_is_wrong_and_nothing_else() {
        let was = counts(&[("a", 1000), ("b", 1000), ("c", 1000)]);
        let wrong = |is: &[(&str, u64)]| compare(&was, &counts(is)).1;
        assert!(wrong(&[("a", 1030), ("b", 1000), ("c", 1)]).is_empty());
        assert_eq!(wrong(&[("a", 1031), ("b", 1000), ("c", 1000)]), ["a grew by 3.1 %"]);
        assert_eq!(wrong(&[("a", 1000), ("b", 1000)]), ["c was not counted"]);
        let new = wrong(&[("a", 1000), ("b", 1000), ("c", 1000), ("d", 7)]);
        assert_eq!(new, ["d is not in benches/instructions.toml"]);
        assert_eq!(compare(&was, &was).0.lines().count(), 4);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let some = counts(&[("hit.ipv4", 7), ("parse.ipv6", 9)]);
        assert_eq!(read(&write(&some)), Ok(some));
        for bad in ["x = 7", "\"x\" = seven", "\"x\" = 0", "\"x\""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_are_found_in_callgrinds_words() {
        let text = "# callgrind format\nversion: 1\nevents: Dr Ir\nfn=(1) x\n1 2 3\ntotals: 5 77\n";
        assert_eq!(instructions(text), Some(77));
        assert_eq!(instructions("events: Ir\nsummary: 12\n"), Some(12));
        assert_eq!(instructions("events: Ir\ntotals: 0\n"), None);
        assert_eq!(instructions("events: Dr\ntotals: 5\n"), None);
        let lock = "[[package]]\nname = \"gungraun-macros\"\nversion = \"9\"\n\n[[package]]\nname = \"gungraun\"\nversion = \"0.20.0\"\n";
        assert_eq!(locked(lock, "gungraun").as_deref(), Some("0.20.0"));
        assert_eq!(locked(lock, "other"), None);
    }
}
