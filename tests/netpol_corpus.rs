//! Network policy conformance cases, played packet by packet.
//!
//! Every case becomes a snapshot, and every probe a real first packet through the pipeline: a SYN, or a
//! datagram. It must arrive at the right port exactly when the case says that the connection works, or be
//! dropped by the firewall of the side that denies it; what arrived is answered, and the answer must come back.
//!
//! The cases are no part of this repository. `SUPERNET_NETPOL_CORPUS` names files and folders of them, several
//! separated by ':'; without it, `../shared/netpol/open` beside the workspace is read.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write as _},
    iter,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use supernet_control::{compile::compile, intern::Interner};
use supernet_dataplane::{
    buf::Pool,
    id::PortId,
    pipeline::{Output, Pipeline},
    snapshot::{GATEWAY_MAC, PortRole, Snapshot},
    state::{Config, State},
    time::Instant,
    verdict::DropReason,
    wire::{Mac, tcp_flags::*},
};
use supernet_testkit::{
    netpol::{self, Case, OUTSIDE_MAC},
    packet::{self, sound},
};

const VARIABLE: &str = "SUPERNET_NETPOL_CORPUS";

/// Failures that are printed in full.
const SHOWN: usize = 20;

/// Source ports are taken from here on, one a probe.
const FIRST_SOURCE_PORT: u16 = 10_000;

#[test]
fn every_probe_of_every_case_ends_as_the_case_says() {
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
        return;
    }
    let (mut scores, mut failures) = (BTreeMap::<String, Score>::new(), Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        for case in netpol::read(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display())) {
            let failed = play(&case);
            scores.entry(project(&case)).or_default().add(case.probes.len(), failed.len());
            failures.extend(failed);
        }
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

/// What became of a packet.
#[derive(Debug, PartialEq)]
enum Outcome {
    Delivered(PortId, Vec<u8>),
    Dropped(Vec<DropReason>),
}

/// Plays all probes of a case and says which went wrong.
fn play(case: &Case) -> Vec<String> {
    let mut net = Net::new(case);
    let failed =
        |probe: &netpol::Probe, what: String| format!("{} ({}): {probe:?}: {what}", case.id, case.title);
    case.probes
        .iter()
        .zip(FIRST_SOURCE_PORT..)
        .filter_map(|(probe, sport)| net.play(probe, sport).err().map(|what| failed(probe, what)))
        .collect()
}

/// One worker's pipeline with the network of a case.
struct Net {
    snapshot: Arc<Snapshot>,
    pipeline: Pipeline,
    pool: Pool,
    output: Output,
}

impl Net {
    fn new(case: &Case) -> Self {
        let compiled = compile(&case.model, &case.addressing, &mut Interner::default());
        let snapshot = compiled.unwrap_or_else(|e| panic!("{}: {e}", case.id));
        let snapshot = Arc::new(snapshot.succeed(&Snapshot::default()));
        let config = Config { sessions: case.probes.len().max(64), frames: 8, ..Config::default() };
        let pool = Pool::new(config.frames);
        let mut pipeline = Pipeline::new(Arc::new(State::new(config)), Arc::default(), pool.clone());
        pipeline.set_snapshot(snapshot.clone());
        Self { snapshot, pipeline, pool, output: Output::default() }
    }

    fn play(&mut self, probe: &netpol::Probe, sport: u16) -> Result<(), String> {
        let (src_port, src_mac, dst_mac) = self.place(&probe.from);
        let (dst_port, ..) = self.place(&probe.to);
        let first = packet::Probe {
            src_mac,
            dst_mac,
            src: SocketAddr::new(probe.from.address, sport),
            dst: SocketAddr::new(probe.to.address, probe.port),
            proto: probe.protocol.into(),
            flags: SYN,
            ttl: 64,
            payload: 8,
        };
        match self.send(src_port, &first.frame()) {
            Outcome::Dropped(reasons) if !probe.combined => check_reason(probe, &reasons),
            Outcome::Delivered(port, frame) if probe.combined && port == dst_port => {
                let arrived = sound(&frame);
                if (arrived.src, arrived.dst, arrived.dport) != (first.src.ip(), first.dst.ip(), probe.port) {
                    return Err(format!("arrived as {arrived:?}"));
                }
                match self.send(dst_port, &packet::Probe::answer(&frame, SYN | ACK).frame()) {
                    Outcome::Delivered(port, frame) if port == src_port => {
                        let answer = sound(&frame);
                        let ends = (SocketAddr::new(answer.src, answer.sport), answer.dst, answer.dport);
                        let right = ends == (first.dst, first.src.ip(), sport);
                        right.then_some(()).ok_or_else(|| format!("the answer arrived as {answer:?}"))
                    }
                    other => Err(format!("the answer: {other:?}")),
                }
            }
            other => Err(format!("expected delivery {} by {dst_port:?}: {other:?}", probe.combined)),
        }
    }

    /// The port of an end, its MAC, and the MAC that it sends to. Whoever is not inside is beyond the uplink.
    fn place(&self, end: &netpol::End) -> (PortId, Mac, Mac) {
        match self.snapshot.endpoint(end.address) {
            Some(port) => (port.id, port.mac, GATEWAY_MAC),
            None => {
                assert!(end.pod.is_none(), "{end:?} has no port");
                let mut ports = self.snapshot.ports.iter().flatten();
                let uplink = ports.find(|p| matches!(p.role, PortRole::Uplink(_))).unwrap();
                (uplink.id, OUTSIDE_MAC, uplink.mac)
            }
        }
    }

    /// Runs one frame through the pipeline.
    fn send(&mut self, port: PortId, frame: &[u8]) -> Outcome {
        let before = self.drops();
        let mut batch = vec![self.pool.copy(frame).unwrap()];
        self.pipeline.process(&mut batch, &[port], Instant::from_secs(1), &mut self.output);
        let mut out = Vec::new();
        self.output.drain(|port, frames| out.extend(frames.drain(..).map(|f| (port, f.bytes().to_vec()))));
        let drops = iter::zip(DropReason::ALL, iter::zip(before, self.drops()));
        let dropped: Vec<_> = drops.filter(|(_, (b, a))| a > b).map(|(reason, _)| *reason).collect();
        match out.pop() {
            Some((port, frame)) if dropped.is_empty() && out.is_empty() => Outcome::Delivered(port, frame),
            _ => Outcome::Dropped(dropped),
        }
    }

    fn drops(&self) -> [u64; DropReason::COUNT] {
        self.pipeline.counters().drops.each_ref().map(|count| count.get())
    }
}

/// A connection that is denied is dropped by the firewall that denies it; the source's comes first.
fn check_reason(probe: &netpol::Probe, reasons: &[DropReason]) -> Result<(), String> {
    let expected: &[DropReason] = match (probe.egress, probe.ingress) {
        (Some(false), _) => &[DropReason::EgressDenied],
        (Some(true), _) => &[DropReason::IngressDenied],
        (None, Some(true)) => &[DropReason::EgressDenied],
        (None, _) => &[DropReason::EgressDenied, DropReason::IngressDenied],
    };
    match reasons {
        [reason] if expected.contains(reason) => Ok(()),
        _ => Err(format!("expected one of {expected:?}, dropped for {reasons:?}")),
    }
}
