//! Instructions of the parser, of the hit path and of the path that opens connections, counted by valgrind.
//!
//! Unlike time they are the same from run to run, so a change that makes a path longer shows on any machine.
//! `cargo xtask test` compares them with `benches/instructions.toml` and fails when one has grown by more than
//! 3 %; `cargo xtask instructions --accept` writes that file anew, for growth that is meant.
//!
//! Each function runs 512 packets, eight batches of 64. What is built before is not counted. Valgrind has no
//! AVX-512: the dataplane detects that, and what is counted is its AVX2 code.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to say")]
#![allow(missing_docs, reason = "gungraun's macros write functions")]

use gungraun::{library_benchmark, library_benchmark_group, main};
use std::hint::black_box;
use supernet::Instant;
use supernet_lab::load::{Family, Lane, Load, Scenario, Spec};

const FLOWS: usize = 1000;

const BATCHES: usize = 8;

/// A lane with open connections, every entry of which was hit before, and a filled ring.
fn established(family: Family) -> Lane {
    open(Spec::new(Scenario::FullChain, family, FLOWS))
}

/// The same, in a network of many policies and Services.
fn among_many(policies: usize, idle_services: usize) -> Lane {
    let spec = Spec::new(Scenario::FullChain, Family::Ipv4, FLOWS);
    open(Spec { policies: Some(policies), idle_services, ..spec })
}

fn open(spec: Spec) -> Lane {
    let load = Load::build(spec).unwrap();
    let mut lane = load.established(|_| {}).unwrap().remove(0);
    for _ in 0..2 {
        lane.refill();
        while lane.process(now()) > 0 {
            lane.collect();
        }
        lane.collect();
    }
    lane.refill();
    lane
}

/// A lane whose packets each open a connection, with a filled ring of which half has been sent.
fn unopened(policies: usize, idle_services: usize, rules: usize) -> Lane {
    let spec = Spec::new(Scenario::FullChain, Family::Ipv4, 1024);
    let spec = Spec { policies: Some(policies), idle_services, rules, ..spec };
    let mut lane = Load::build(spec).unwrap().unopened().unwrap().remove(0);
    lane.refill_once();
    run(&mut lane);
    lane
}

/// Processes [`BATCHES`], and takes the frames of each back.
fn run(lane: &mut Lane) -> u64 {
    let batch = |_| {
        let packets = lane.process(now());
        lane.collect();
        packets
    };
    (0..BATCHES).map(batch).sum()
}

fn now() -> Instant {
    Instant::from_secs(2)
}

#[library_benchmark]
#[bench::ipv4(established(Family::Ipv4))]
#[bench::ipv6(established(Family::Ipv6))]
fn parse(mut lane: Lane) -> Lane {
    black_box((0..BATCHES).map(|_| lane.parse()).sum::<u64>());
    lane
}

#[library_benchmark]
#[bench::ipv4(established(Family::Ipv4))]
#[bench::ipv6(established(Family::Ipv6))]
#[bench::policies_10000_services_5000(among_many(10_000, 5_000))]
fn hit(mut lane: Lane) -> Lane {
    black_box(run(&mut lane));
    lane
}

#[library_benchmark]
#[bench::policies_10(unopened(10, 0, 0))]
#[bench::policies_10000(unopened(10_000, 0, 0))]
#[bench::policies_10000_services_5000(unopened(10_000, 5_000, 0))]
#[bench::rules_10(unopened(10, 0, 10))]
#[bench::rules_100000(unopened(10, 0, 100_000))]
fn new_connection(mut lane: Lane) -> Lane {
    black_box(run(&mut lane));
    lane
}

library_benchmark_group!(name = paths, benchmarks = [parse, hit, new_connection]);
main!(library_benchmark_groups = paths);
