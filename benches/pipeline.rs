//! Time of the parser and of the hit path over the number of connections, and of new connections over the
//! number of policies.
//!
//! The load is that of `supernet bench`: frames of 64 bytes, TCP and UDP, both directions, in random order over
//! the connections, in batches of 64 from a ring of 4,096 buffers. The clock runs from filled batches to
//! rewritten frames by output port; putting frames together and taking them back is not counted. `supernet bench`
//! proves by counters what it measures, counts allocations, and compares with what the machine can do; this one
//! draws curves.
//!
//! Run it with `cargo bench --bench pipeline`, one curve with `cargo bench --bench pipeline -- cluster-ip`.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to say")]
#![allow(missing_docs, reason = "criterion's macros write functions")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::{Duration, Instant as Clock};
use supernet::{Instant, dataplane::worker::BATCH};
use supernet_lab::load::{Family, GROUP, Lane, Load, Scenario, Spec, UNANSWERED};

const FLOWS: [usize; 3] = [1_000, 10_000, 100_000];

const POLICIES: [usize; 4] = [10, 100, 1_000, 10_000];

const FAMILIES: [(&str, Family); 2] = [("ipv4", Family::Ipv4), ("ipv6", Family::Ipv6)];

/// Packets of an iteration: what is processed between two looks at the clock.
const PACKETS: u64 = (GROUP * BATCH) as u64;

/// What is done with the packets between two looks at the clock; none are left when it answers 0.
type Work = fn(&mut Lane) -> u64;

fn parse(c: &mut Criterion) {
    hits(c, "parse", Scenario::FullChain, Lane::parse);
}

fn look_up(c: &mut Criterion) {
    hits(c, "look-up", Scenario::FullChain, Lane::look_up);
}

fn chains(c: &mut Criterion) {
    for (name, scenario) in [("cluster-ip", Scenario::ClusterIp), ("full-chain", Scenario::FullChain)] {
        hits(c, name, scenario, |lane| lane.process(Instant::from_secs(2)));
    }
}

fn hits(c: &mut Criterion, name: &str, scenario: Scenario, work: Work) {
    for (family_name, family) in FAMILIES {
        let mut group = c.benchmark_group(format!("{name}/{family_name}"));
        group.throughput(Throughput::Elements(PACKETS));
        for flows in FLOWS {
            // Built once, and only if the filter lets it run.
            let mut built = None;
            group.bench_function(BenchmarkId::from_parameter(flows), |b| {
                let lane = built.get_or_insert_with(|| {
                    let load = Load::new(scenario, family, flows, 1).unwrap();
                    load.established(|_| {}).unwrap().remove(0)
                });
                b.iter_custom(|iterations| time(lane, iterations, work));
            });
        }
        group.finish();
    }
}

/// Time of this many iterations.
fn time(lane: &mut Lane, iterations: u64, work: Work) -> Duration {
    let (mut busy, mut left) = (Duration::ZERO, iterations);
    while left > 0 {
        lane.refill();
        while left > 0 {
            let from = Clock::now();
            let done = work(lane);
            let took = from.elapsed();
            // What was only looked at is still there when the ring is through.
            lane.collect();
            if done == 0 {
                break;
            }
            busy += took;
            left -= 1;
        }
        lane.skip();
    }
    busy
}

/// First packets of connections through the full chain. All that were opened end when the ring is through.
fn new_connections(c: &mut Criterion) {
    for (family_name, family) in FAMILIES {
        let mut group = c.benchmark_group(format!("new-connections/{family_name}"));
        group.throughput(Throughput::Elements(PACKETS));
        for policies in POLICIES {
            let mut built = None;
            group.bench_function(BenchmarkId::from_parameter(policies), |b| {
                let (load, lane, now) = built.get_or_insert_with(|| {
                    let policies = Some(policies);
                    let spec = Spec { policies, ..Spec::new(Scenario::FullChain, family, 4096) };
                    let load = Load::build(spec).unwrap();
                    let lane = load.unopened().unwrap().remove(0);
                    (load, lane, Instant::from_secs(2))
                });
                b.iter_custom(|iterations| {
                    let (mut busy, mut left) = (Duration::ZERO, iterations);
                    while left > 0 {
                        lane.rewind();
                        lane.refill_once();
                        while left > 0 {
                            let from = Clock::now();
                            let done = lane.process(*now);
                            let took = from.elapsed();
                            lane.collect();
                            if done == 0 {
                                break;
                            }
                            busy += took;
                            left -= 1;
                        }
                        lane.skip();
                        lane.rest();
                        load.end_unanswered(lane, *now);
                        *now = *now + 4 * UNANSWERED;
                    }
                    busy
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, parse, look_up, chains, new_connections);
criterion_main!(benches);
