//! Network policy conformance cases on labs: every probe a connection between real hosts, and then every pair as
//! `lab selftest` has it.
//!
//! `tests/netpol_corpus.rs` plays the same cases packet by packet, and says where they are looked for. A lab takes
//! half a second, so only some are played here unless `SUPERNET_NETPOL_LAB=all`, or a number of cases, says otherwise.
//! Left out are probes over SCTP, which the responder does not speak, and cases in which a pod has no host here or an
//! address outside cannot be had.

use super::{NOTHING, as_root, lab_name, traces_of, up};
use crate::lab::{
    from_network::NODE,
    selftest::{
        Facts,
        parts::{Course, Expected, Kind, Pairs, Probe, Seen, Transport, Verdict, run},
    },
    spec::{LabSpec, OUTSIDE, OutsideRoute, Place, Via},
};
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};
use supernet::Threads;
use supernet_control::{
    analysis::{plan::Plan, reach::Reach},
    compile::compile,
    intern::Interner,
    model::Protocol,
};
use supernet_dataplane::{state::Config, worker::Dataplane};
use supernet_testkit::netpol::{self, Case};

const CORPUS: &str = "SUPERNET_NETPOL_CORPUS";
const HOW_MANY: &str = "SUPERNET_NETPOL_LAB";
/// Cases that are played unless told otherwise.
const SOME: usize = 16;
const PATIENCE: Duration = Duration::from_millis(300);

#[test]
fn conformance_cases_hold_between_real_hosts() {
    if !as_root() {
        return;
    }
    let cases = cases();
    if cases.is_empty() {
        say(&format!("NO CORPUS: no network policy case was played. Name files or folders in {CORPUS}."));
        return;
    }
    let most = match std::env::var(HOW_MANY).as_deref() {
        Ok("all") => cases.len(),
        Ok(number) => number.parse().unwrap_or_else(|_| panic!("{HOW_MANY}={number}: give a number, or all")),
        Err(_) => SOME,
    };
    let (mut played, mut probes, mut failures) = (0, 0, Vec::new());
    // Spread over all of them.
    for case in (0..most.min(cases.len())).map(|n| &cases[n * cases.len() / most.min(cases.len())]) {
        let (count, failed) = play(case);
        played += 1;
        probes += count;
        failures.extend(failed);
    }
    say(&format!(
        "{played} of {} cases on labs, {probes} connections, {} failed",
        cases.len(),
        failures.len()
    ));
    assert!(failures.is_empty(), "{}", failures[..failures.len().min(40)].join("\n"));
    assert!(probes > 0, "nothing was tried");
}

fn say(line: &str) {
    // Straight to the descriptor: what a test prints is otherwise shown only when it fails.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn cases() -> Vec<Case> {
    let paths = match std::env::var(CORPUS) {
        Ok(paths) => paths.split(':').filter(|p| !p.is_empty()).map(PathBuf::from).collect(),
        Err(_) => vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/netpol/open")],
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for path in paths {
        match fs::read_dir(&path) {
            Ok(entries) => files.extend(entries.map(|e| e.unwrap().path())),
            Err(_) => files.extend(path.is_file().then_some(path)),
        }
    }
    files.retain(|f| f.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    let read = |file: &PathBuf| netpol::read(&fs::read_to_string(file).unwrap()).unwrap();
    files.iter().flat_map(read).collect()
}

/// Plays a case on a lab of its own. How many connections there were, and which went wrong.
fn play(case: &Case) -> (usize, Vec<String>) {
    let mut interner = Interner::default();
    let snapshot = compile(&case.model, &case.addressing, &mut interner).unwrap();
    let plan = Plan::of(&case.model, &case.addressing, &snapshot, &mut interner).unwrap();
    let reach = Reach::of(&case.model, &case.addressing, &snapshot, &mut interner).unwrap();
    let mut spec = LabSpec::of(&case.model, &snapshot, &plan.pods);
    let Some(mut probes) = ours(case, &mut spec) else { return (0, Vec::new()) };
    let pairs = Facts::new(plan, &reach, &spec);
    let pairs = Pairs::of(&pairs, BTreeSet::new());
    // What it serves for the case's sake is not declared by its pods; what they declare may be closed by others.
    probes.extend(pairs.all().into_iter().filter(|p| p.kind == Kind::PodToPod));

    let lab = lab_name("netpol");
    let mut hosts = up(&lab, &spec);
    let (dataplane, workers) = Dataplane::new(Config { workers: 2, sessions: 1 << 14, ..Config::default() });
    dataplane.publish(snapshot);
    for (place, tap) in hosts.take_taps() {
        let port = match place {
            Place::Endpoint(name) => interner.port(&name),
            Place::Uplink(name) => interner.port(&format!("uplink/{name}")),
        };
        dataplane.attach(port, tap).unwrap();
    }
    let threads = Threads::spawn(&dataplane, workers).unwrap();
    let verdicts = run(&lab, &probes, PATIENCE, &Course::default()).unwrap();
    drop((threads, dataplane, hosts));
    assert_eq!(traces_of(&lab), NOTHING);
    let failed = probes.iter().zip(verdicts).filter_map(|(probe, verdict)| match verdict {
        Some(Verdict::AsPredicted) => None,
        other => Some(format!("{} ({}): {probe:?}: {other:?}", case.id, case.title)),
    });
    (probes.len(), failed.collect())
}

/// The case's own probes. Their destinations are made to serve, and addresses outside to exist. `None`: they can't.
fn ours(case: &Case, spec: &mut LabSpec) -> Option<Vec<Probe>> {
    // Everything is reached through the first uplink; the case's addresses may be any.
    let uplinks = &case.model.supervisor.uplinks;
    let own = uplinks.iter().flat_map(|u| &u.addresses).map(|a| a.value.addr());
    spec.outside.routes.clear();
    for address in own {
        let all: IpNet = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().unwrap();
        spec.outside.routes.push(OutsideRoute { prefix: all, via: vec![Via { uplink: 0, address }] });
    }
    let mut probes = Vec::new();
    for probe in &case.probes {
        let transport = match probe.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            Protocol::Sctp => continue,
        };
        let host = |spec: &LabSpec, address: IpAddr| {
            spec.endpoints.iter().position(|e| e.addresses.iter().any(|a| a.addr() == address))
        };
        for end in [&probe.from, &probe.to] {
            if host(spec, end.address).is_none() && !spec.outside.addresses.contains(&end.address) {
                // A pod without a port has no host here.
                if end.pod.is_some() || !is_usable(end.address) {
                    return None;
                }
                spec.outside.addresses.push(end.address);
            }
        }
        let served = (probe.protocol, probe.port);
        let (from, source) = match host(spec, probe.from.address) {
            Some(n) => (spec.endpoints[n].name.clone(), None),
            None => (OUTSIDE.to_owned(), Some(probe.from.address)),
        };
        let to = match host(spec, probe.to.address) {
            Some(n) => {
                let endpoint = &mut spec.endpoints[n];
                if !endpoint.serve.contains(&served) && !endpoint.name.starts_with(NODE) {
                    endpoint.serve.push(served);
                }
                endpoint.name.clone()
            }
            None => {
                if !spec.outside.serve.contains(&served) {
                    spec.outside.serve.push(served);
                }
                OUTSIDE.to_owned()
            }
        };
        // To oneself, and what a node's pods serve, is for other tests. Of several addresses outside, the responder
        // sends datagrams from the first.
        let first = |a: &&IpAddr| a.is_ipv4() == probe.to.address.is_ipv4();
        let is_first = spec.outside.addresses.iter().find(first) == Some(&probe.to.address);
        let echoed_otherwise = to == OUTSIDE && transport == Transport::Udp && !is_first;
        if from == to || to.starts_with(NODE) || echoed_otherwise {
            continue;
        }
        probes.push(Probe {
            kind: Kind::PodToPod,
            from,
            source,
            to: to.clone(),
            address: SocketAddr::new(probe.to.address, probe.port),
            transport,
            dns: false,
            expected: match probe.combined {
                true => Expected::Open { by: vec![to], seen: Seen::Own },
                false => Expected::Denied,
            },
        });
    }
    Some(probes)
}

/// Whether a host can have the address on its loopback.
fn is_usable(address: IpAddr) -> bool {
    !address.is_loopback() && !address.is_multicast() && !address.is_unspecified()
}
