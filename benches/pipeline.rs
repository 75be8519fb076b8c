//! Throughput of the parser and of the hit path, over the number of connections.
//!
//! The load is that of `supernet bench`: frames of 64 bytes, TCP and UDP, both directions, in random order over
//! the connections, in batches of 64. The clock runs from a filled batch to the batch taken back by output
//! port; copying frames in is not counted. `supernet bench` proves by counters that every packet is a hit and
//! counts allocations; this one draws the curve.
//!
//! Run it with `cargo bench --bench pipeline`, one curve with `cargo bench --bench pipeline -- cluster-ip`.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to say")]
#![allow(missing_docs, reason = "criterion's macros write functions")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::{
    hint::black_box,
    time::{Duration, Instant as Clock},
};
use supernet::{
    Instant,
    dataplane::{wire, worker::BATCH},
};
use supernet_lab::load::{Family, Lane, Load, Scenario};

const FLOWS: [usize; 3] = [1_000, 10_000, 100_000];

const FAMILIES: [(&str, Family); 2] = [("ipv4", Family::Ipv4), ("ipv6", Family::Ipv6)];

fn hits(c: &mut Criterion) {
    for (name, scenario) in [("cluster-ip", Scenario::ClusterIp), ("full-chain", Scenario::FullChain)] {
        for (family_name, family) in FAMILIES {
            let mut group = c.benchmark_group(format!("{name}/{family_name}"));
            group.throughput(Throughput::Elements(BATCH as u64));
            for flows in FLOWS {
                // Built once, and only if the filter lets it run.
                let mut built = None;
                group.bench_function(BenchmarkId::from_parameter(flows), |b| {
                    let lane = built.get_or_insert_with(|| {
                        let load = Load::new(scenario, family, flows, 1).unwrap();
                        load.established(|_| {}).unwrap().remove(0)
                    });
                    b.iter_custom(|batches| time(lane, batches));
                });
            }
            group.finish();
        }
    }
}

/// Time in the pipeline for this many batches.
fn time(lane: &mut Lane, batches: u64) -> Duration {
    let mut busy = Duration::ZERO;
    for _ in 0..batches {
        lane.refill();
        let from = Clock::now();
        lane.process(Instant::from_secs(2));
        busy += from.elapsed();
    }
    busy
}

fn parser(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for (name, family) in FAMILIES {
        let load = Load::new(Scenario::EastWest, family, BATCH, 1).unwrap();
        let lane = load.unopened().remove(0);
        let frames: Vec<&[u8]> = lane.frames().collect();
        let mut next = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                next = (next + 1) % BATCH;
                wire::parse(black_box(frames[next]))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parser, hits);
criterion_main!(benches);
