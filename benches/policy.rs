//! rough
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
use std::collections::BTreeSet;
use std::time::Instant as Clock;
use supernet::control::{
    compile::compile,
    intern::Interner,
    ipam::{Ipam, Leases},
    store::UnixSeconds,
};
use supernet::dataplane::snapshot::Snapshot;
use supernet::model::*;
use supernet_testkit::scale::{self, Scale};
fn mem() -> String {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS"))
        .collect::<Vec<_>>()
        .join(" ")
}
fn main() {
    let n: usize = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(10_000);
    let scale = Scale { namespaces: n / 10, pods: n, policies: n };
    let t = Clock::now();
    let mut model = scale::model(scale);
    println!("model {:?} {}", t.elapsed(), mem());
    let mut ipam = Ipam::new(Leases::memory());
    let none = BTreeSet::new();
    let mut interner = Interner::default();
    let mut before = Snapshot::default();
    for round in 0..4 {
        let t = Clock::now();
        let next = model.clone();
        println!("round {round} clone {:?}", t.elapsed());
        model = next;
        let t = Clock::now();
        let proposal = ipam.plan(&model, UnixSeconds(0), &none).unwrap();
        println!("ipam {:?}", t.elapsed());
        let t = Clock::now();
        let snapshot = compile(&model, proposal.addressing(), &mut interner).unwrap();
        println!("compile {:?} {}", t.elapsed(), mem());
        let t = Clock::now();
        let snapshot = snapshot.succeed(&before);
        println!("succeed {:?} {}", t.elapsed(), mem());
        let t = Clock::now();
        ipam.commit(proposal).unwrap();
        println!("commit {:?}", t.elapsed());
        let t = Clock::now();
        before = snapshot;
        println!("drop {:?}", t.elapsed());
        let pod = scale::pod("ns-5", 1000 + round);
        model.insert(pod.into());
    }
}
