//! `supernet lab attach`: a network for a harness that makes its own hosts.
//!
//! ```text
//!   FILE.json ──▶ snapshot
//!        └──────▶ TAPs in this network namespace ── someone moves them into others ──▶ hosts
//! ```
//!
//! It runs in the foreground until SIGINT, SIGTERM or SIGHUP; the TAPs go with it, wherever they are by then.

mod file;
mod gateway;
mod network;
#[cfg(test)]
mod tests;

use crate::lab::Signals;
use file::File;
use network::{Line, Network};
use std::{
    error::Error,
    io::{self, Write},
    path::Path,
    process::Command,
};
use supernet::Threads;
use supernet_dataplane::{id::PortId, snapshot::GATEWAY_MAC, state::Config, worker::Dataplane};
use supernet_drivers::tap::{self, Tap};

const SESSIONS: usize = 1 << 17;
const FRAMES: usize = 8192;
const FRAMES_PER_PORT: usize = 64;
const SUPER_FRAMES: usize = 512;

/// Runs the network of a topology file until a signal ends it.
pub(crate) fn run(path: &Path, workers: usize) -> Result<(), Box<dyn Error>> {
    let signals = Signals::catch()?;
    let (file, unknown) = File::read(path)?;
    for field in unknown {
        eprintln!("warning: {}: field `{field}` is not known here and left out", path.display());
    }
    let Network { snapshot, ports, warnings } = network::compile(&file)?;
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let config = Config {
        workers,
        sessions: SESSIONS,
        frames: FRAMES + FRAMES_PER_PORT * ports.len(),
        super_frames: SUPER_FRAMES,
        seed: seed(),
        ..Config::default()
    };
    let (dataplane, workers) = Dataplane::new(config);
    dataplane.publish(snapshot);
    let taps = ports.iter().map(open).collect::<Result<Vec<Tap>, Box<dyn Error>>>()?;
    for (id, (line, tap)) in (0..).map(PortId).zip(ports.iter().zip(taps)) {
        match line.gateway.filter(|mac| *mac != GATEWAY_MAC) {
            Some(mac) => dataplane.attach(id, gateway::wrap(tap, mac))?,
            None => dataplane.attach(id, tap)?,
        }
    }
    let threads = Threads::spawn(&dataplane, workers)?;
    announce(&ports);
    signals.wait();
    drop(threads);
    Ok(())
}

/// Nobody outside is to know which backend is picked.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one("supernet")
}

/// Makes a port's TAP, with its MAC.
fn open(line: &Line) -> Result<Tap, Box<dyn Error>> {
    let tap = tap::Options::new().offloads(true).open(&line.tap)?;
    let address = line.mac.to_string();
    let set = Command::new("ip").args(["link", "set", "dev", &line.tap, "address", &address]).output();
    let said = match set {
        Ok(output) if output.status.success() => return Ok(tap),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(e) => format!("ip: {e}"),
    };
    Err(format!("can't give TAP {} the MAC {address}: {said}", line.tap).into())
}

fn announce(ports: &[Line]) {
    let width = ports.iter().map(|line| line.tap.len()).max().unwrap_or(0);
    let names = ports.iter().map(|line| line.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Line { tap, name, mac, addresses, is_outside, .. } in ports {
        let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let outside = if *is_outside { "  outside" } else { "" };
        text.push_str(&format!("{tap:width$}  {name:names$}  {mac}  {addresses}{outside}\n"));
    }
    let mut out = io::stdout();
    // Whoever started this waits for the last line.
    let _ = writeln!(out, "{text}ready").and_then(|()| out.flush());
}
