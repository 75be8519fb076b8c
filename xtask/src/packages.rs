//! Programs that the tests run, and where they come from.

use crate::steps::Outcome;
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A program that tests need, and the Debian package that has it.
const NEEDED: [(&str, &str); 5] = [
    // Network namespaces: the TAP tests and the lab.
    ("ip", "iproute2"),
    // NAT by Linux, to compare with.
    ("nft", "nftables"),
    // The lab's test: throughput, and requests to pods and virtual servers.
    ("iperf3", "iperf3"),
    ("curl", "curl"),
    // A real HTTP server in a pod. Unlike nginx it starts no service when it is installed.
    ("python3", "python3"),
];

/// Installs what is missing with the system's package manager, and does nothing else.
pub(crate) fn install() -> Outcome {
    let missing: Vec<(&str, &str)> =
        NEEDED.into_iter().filter(|(program, _)| find(program).is_none()).collect();
    if missing.is_empty() {
        let programs: Vec<&str> = NEEDED.iter().map(|(program, _)| *program).collect();
        println!("all there: {}", programs.join(", "));
        return Outcome::Passed;
    }
    match install_all(&missing) {
        Ok(()) => Outcome::Passed,
        Err(why) => Outcome::Failed(why),
    }
}

/// Installs a program with the package that has it, unless it is there. An `Err` says why it could not be.
pub(crate) fn install_one(program: &str, package: &str) -> Result<(), String> {
    if find(program).is_some() { Ok(()) } else { install_all(&[(program, package)]) }
}

fn install_all(missing: &[(&str, &str)]) -> Result<(), String> {
    let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    let names: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    if find("apt-get").is_none() {
        return Err(format!(
            "{} missing, and this system has no apt-get: install what Debian calls {}",
            programs.join(", "),
            names.join(", ")
        ));
    }
    println!("installing {} with apt-get, for {}", names.join(", "), programs.join(", "));
    // Lists may be old or absent; should an update fail, the installation may still succeed.
    let _ = apt_get(&["update", "-qq"]);
    let args = [&["install", "-qq", "-y", "--no-install-recommends"], &names[..]].concat();
    match apt_get(&args) {
        Outcome::Passed => match missing.iter().find(|(program, _)| find(program).is_none()) {
            None => Ok(()),
            Some((program, package)) => Err(format!("{package} is installed, but has no {program}")),
        },
        Outcome::Failed(why) | Outcome::Skipped(why) => Err(why),
    }
}

/// Whether tests that need root and TAP devices can run. In CI they have to.
pub(crate) fn can_use_taps() -> Outcome {
    let missing = if !is_root() {
        "not root: run it again with `sudo -E env PATH=\"$PATH\" cargo xtask test`"
    } else if !Path::new("/dev/net/tun").exists() {
        "no /dev/net/tun: `modprobe tun`, or pass the device into the container"
    } else {
        println!("root, and /dev/net/tun is there: TAP and lab tests run");
        return Outcome::Passed;
    };
    if std::env::var_os("CI").is_some() {
        return Outcome::Failed(missing.to_owned());
    }
    Outcome::Skipped(format!("TAP AND LAB TESTS CAN'T RUN HERE AND ARE SKIPPED: {missing}"))
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// Where a program is that could be run by name.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // An ordinary user's path may lack the folder that `ip` is in.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(program)).find(|p| p.is_file())
}

fn apt_get(args: &[&str]) -> Outcome {
    let mut command = if is_root() {
        Command::new("apt-get")
    } else if Path::new("/usr/bin/sudo").exists() {
        let mut command = Command::new("sudo");
        command.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        command
    } else {
        return Outcome::Failed(format!("not root, and no sudo: run `apt-get {}` as root", args.join(" ")));
    };
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::inherit());
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(format!("apt-get {}: {status}", args.join(" "))),
        Err(e) => Outcome::Failed(format!("can't run apt-get: {e}")),
    }
}
