//! Time of compiling policies, and of judging new connections by many of them.
//!
//! Clusters are those of `supernet_testkit::scale`: ten pods and ten NetworkPolicies a namespace, closed and opened
//! bit by bit. `compile` is the whole compile, from model and addresses to a snapshot; `publish` what a change costs in
//! all, from a pod whose labels change to the snapshot that workers pick up. `rules` asks a firewall of so many ordered rules,
//! each with a range and ports of its own, about a connection that only the last of them matches: the first row
//! by the compiled table, the second by the list, which is its oracle.
//!
//! Run it with `cargo bench --bench policy`, one curve with `cargo bench --bench policy -- rules`.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to say")]
#![allow(missing_docs, reason = "criterion's macros write functions")]

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use std::{collections::BTreeSet, hint::black_box};
use supernet::{
    Supernet,
    control::{
        compile::compile,
        intern::Interner,
        ipam::{Ipam, Leases},
        store::UnixSeconds,
    },
    dataplane::{
        id::{IdentityId, RuleId},
        table::classifier::{Action, Clause, Effect, Peers, Rule, RuleSet, Service},
        wire::Proto,
    },
    model::Change,
};
use supernet_testkit::scale::{self, Scale};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

const RULES: [u32; 5] = [10, 100, 1_000, 10_000, 100_000];

fn of(policies: usize) -> Scale {
    Scale { namespaces: policies.div_ceil(10), pods: policies, policies }
}

fn compiling(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    group.sample_size(10);
    for size in SIZES {
        let mut built = None;
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            let (model, addressing) = built.get_or_insert_with(|| {
                let model = scale::model(of(size));
                let ipam = Ipam::new(Leases::memory());
                let proposal = ipam.plan(&model, UnixSeconds(0), &BTreeSet::new()).unwrap();
                let addressing = proposal.addressing().clone();
                (model, addressing)
            });
            b.iter_batched(
                Interner::default,
                |mut interner| compile(model, addressing, &mut interner).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
}

fn publishing(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish");
    group.sample_size(10);
    for size in SIZES {
        let mut built = None;
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            let net = built.get_or_insert_with(|| {
                let builder = Supernet::builder().sessions(1024).frames(64);
                builder.build(scale::model(of(size))).unwrap().into_parts().0
            });
            b.iter(|| {
                next += 1;
                // The same pod every time, so that the network does not grow.
                let mut pod = scale::pod("ns-0", 0);
                pod.labels.insert("version".to_owned(), format!("v{}", next % 2));
                net.apply(Change::upsert(pod)).unwrap();
            });
        });
    }
}

fn judging(c: &mut Criterion) {
    let mut group = c.benchmark_group("rules");
    for count in RULES {
        let mut built = None;
        let mut set = || {
            let rule = |n: u32| {
                let from = (n % 6_000) as u16 * 10;
                let services = vec![Service { proto: Proto::TCP, ports: from..=from + 9 }];
                let clauses = vec![Clause { peers: Peers::of([IdentityId(n + 1)]), services }];
                Rule { id: RuleId(n), effect: Effect::Decide(Action::Allow), clauses }
            };
            RuleSet::new((0..count).map(rule).collect())
        };
        let (peer, port) = (IdentityId(count), ((count - 1) % 6_000) as u16 * 10 + 5);
        group.bench_function(BenchmarkId::new("table", count), |b| {
            let set = built.get_or_insert_with(&mut set);
            b.iter(|| set.decide(black_box(peer), Proto::TCP, black_box(port)).unwrap());
        });
        group.bench_function(BenchmarkId::new("list", count), |b| {
            let set = built.get_or_insert_with(&mut set);
            b.iter(|| set.decide_linear(black_box(peer), Proto::TCP, black_box(port)).unwrap());
        });
    }
}

criterion_group!(benches, compiling, publishing, judging);
criterion_main!(benches);
