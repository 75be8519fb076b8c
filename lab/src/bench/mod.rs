//! `supernet bench`: what the dataplane needs for a packet, beside what the machine can do at best.
//!
//! ```text
//!   rows × flows × families × workers ─▶ Load (a network built by control, connections opened through the
//!   firewall) ─▶ measure (samples, probes, counters) ─▶ Report ─▶ table or JSON
//!                limit (the limit program, once for each number of flows) ──┘
//! ```
//!
//! Frames of both directions are sent in random order over the connections. Counters prove what was measured:
//! rows of established connections must hit with every packet, `new-connections` must miss with every packet;
//! otherwise the bench fails and prints no number.

mod alloc;
mod clock;
mod histogram;
mod limit;
mod machine;
mod measure;
mod print;

use crate::{
    cli,
    output::{OutputError, Style},
};
use clap::ValueEnum;
use clock::Clock;
use indicatif::{ProgressBar, ProgressStyle};
use limit::{Figures, Limit, LimitError};
use machine::Machine;
use measure::{Measured, Mix, Work};
use serde::Serialize;
use std::time::{Duration, TryFromFloatSecsError};
use supernet_lab::load::{Family, Load, LoadError, Scenario, Sharing, Spec};

/// Why there is no number.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("--seconds: {0}")]
    Seconds(#[from] TryFromFloatSecsError),
    #[error("{row} {family}: {source}")]
    Row { row: &'static str, family: &'static str, source: Box<NotMeasured> },
    #[error(
        "--workers {workers}: there are {processors} processors here, and each worker needs one of its own; give \
         fewer workers"
    )]
    TooManyWorkers { workers: usize, processors: usize },
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Why a row was not measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMeasured {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("not measured: of {packets} packets {hits} took the cached way and {dropped} were dropped")]
    NotHits { packets: u64, hits: u64, dropped: u64 },
    #[error(
        "not measured: {packets} packets opened {connections} connections, {hits} took the cached way and \
         {dropped} were dropped"
    )]
    NotMisses { packets: u64, connections: u64, hits: u64, dropped: u64 },
    #[error(
        "not measured: {new} first packets opened {connections} connections, of {others} other packets {hits} \
         took the cached way, and {dropped} were dropped"
    )]
    NotMixed { new: u64, connections: u64, others: u64, hits: u64, dropped: u64 },
}

/// One row of one family, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    row: &'static str,
    family: &'static str,
    /// Connections.
    flows: usize,
    /// The order in which frames of the connections come.
    order: &'static str,
    workers: usize,
    /// Which worker gets which packets.
    sharing: &'static str,
    /// Median time of a worker for a packet, from a filled batch to the rewritten frames by output port.
    ns_per_packet: f64,
    /// The same in cycles of the time stamp counter, where there is one.
    median_tsc: Option<f64>,
    /// What the limit program needs, if there is one for this row.
    limit_ns: Option<f64>,
    /// Our time by the limit program's.
    ratio: Option<f64>,
    /// Millions of packets a second, all workers together.
    mpps: f64,
    /// Heap allocations a packet.
    allocations: f64,
    bytes_per_connection: usize,
    /// Share of packets that took the cached way.
    hits: f64,
    frame_bytes: usize,
    batch: usize,
    /// Packets that were measured.
    packets: u64,
    /// What putting a frame together took, which is not part of the time.
    refill_ns_per_packet: f64,
    /// Rules of all firewalls of the network.
    firewall_rules: usize,
    /// NetworkPolicies of the network.
    policies: usize,
    /// Samples that were taken.
    samples: usize,
    /// Those of them in the machine's slow mode, which do not count unless all are.
    slow_samples: usize,
    /// Bytes of the process in huge pages.
    huge_pages: u64,
    /// Share of packets that open a connection.
    new_share: f64,
    connections_per_second: Option<f64>,
    /// What a packet that opens a connection costs.
    ns_per_new_connection: Option<f64>,
    /// What half of the batches took no more than, and 99 of 100.
    batch_p50_ns: Option<f64>,
    batch_p99_ns: Option<f64>,
    /// The same before anything was published.
    quiet_batch_p50_ns: Option<f64>,
    quiet_batch_p99_ns: Option<f64>,
    /// Snapshots that were published meanwhile.
    publications: Option<u64>,
}

/// One thing to be measured.
#[derive(Debug, Clone, Copy)]
struct Case {
    row: cli::Row,
    family: Family,
    flows: usize,
    workers: usize,
    sharing: cli::Sharing,
    /// One packet of this many opens a connection; 0 for none.
    apart: usize,
    policies: usize,
    time: Duration,
}

/// Measures what was asked for and prints it.
///
/// # Errors
/// See [`BenchError`].
pub(crate) fn run(args: &cli::BenchArgs) -> Result<(), BenchError> {
    let time = Duration::try_from_secs_f64(args.seconds)?;
    if cfg!(debug_assertions) {
        eprintln!("warning: this is a debug build, many times slower: use `cargo run --release -- bench`");
    }
    let machine = Machine::new();
    let workers = args.workers.iter().max().copied().unwrap_or(1);
    if workers > machine.processors() {
        return Err(BenchError::TooManyWorkers { workers, processors: machine.processors() });
    }
    let mut reports = Vec::new();
    let result = measure_all(args, &machine, time, &mut reports);
    // What was measured is shown, even if something else could not be.
    if !args.json && !reports.is_empty() {
        print::print(&print::tables(&reports, args.seconds, Style::detect())).map_err(OutputError::from)?;
    }
    result
}

/// Measures one case after the other, and prints each as it comes if it is for programs.
fn measure_all(
    args: &cli::BenchArgs,
    machine: &Machine,
    time: Duration,
    reports: &mut Vec<Report>,
) -> Result<(), BenchError> {
    let limit = |path: &Option<std::path::PathBuf>| path.as_deref().map(Limit::new).transpose();
    let mut limits = (limit(&args.limit)?, limit(&args.limit_ipv6)?);
    for case in cases(args, time) {
        let limit = match case.family {
            Family::Ipv4 => limits.0.as_mut(),
            Family::Ipv6 => limits.1.as_mut(),
        };
        let figures = match limit.filter(|_| case.row.has_limit()) {
            Some(limit) => {
                let progress = progress(0);
                progress.set_message(format!("limit program: {} connections", case.flows));
                Some(limit.figures(case.flows)?)
            }
            None => None,
        };
        let report = measure(machine, &case, figures).map_err(|e| BenchError::Row {
            row: case.row.name(),
            family: family_name(case.family),
            source: Box::new(e),
        })?;
        if args.json && !print::line(&report)? {
            return Ok(());
        }
        reports.push(report);
    }
    Ok(())
}

/// All that is to be measured, in order: what is compared with one run of the limit program stands together.
fn cases(args: &cli::BenchArgs, time: Duration) -> Vec<Case> {
    let rows = if args.row.is_empty() { cli::Row::value_variants() } else { &args.row };
    let families = match args.family {
        Some(cli::Family::Ipv4) => &[Family::Ipv4][..],
        Some(cli::Family::Ipv6) => &[Family::Ipv6],
        None => &[Family::Ipv4, Family::Ipv6],
    };
    let mut cases = Vec::new();
    for &flows in &args.flows {
        for &row in rows {
            for &family in families {
                for &workers in &args.workers {
                    let alone = [cli::Sharing::Disjoint];
                    let sharings = match workers {
                        1 => &alone[..],
                        _ if row.is_for_one() => &[],
                        _ if row.is_of_hits() => &args.sharing,
                        _ => &alone,
                    };
                    for &sharing in sharings {
                        for &apart in row.apart() {
                            let policies = args.policies;
                            cases.push(Case { row, family, flows, workers, sharing, apart, policies, time });
                        }
                    }
                }
            }
        }
    }
    cases
}

/// The fewest and the most connections that are opened in turn in rows where connections come and go: as many
/// as stay open, as long as a warm-up that opens all of them twice takes seconds and not minutes.
const FRESH: (usize, usize) = (8192, 1 << 20);

fn measure(machine: &Machine, case: &Case, figures: Option<Figures>) -> Result<Report, NotMeasured> {
    let Case { row, family, flows, workers, apart, time, .. } = *case;
    let what = format!("{} {} {flows}", row.name(), family_name(family));
    let progress = progress(flows as u64);
    progress.set_message(format!("{what}: building the network"));
    let mixes = matches!(row, cli::Row::NewSparse | cli::Row::Churn);
    let fresh = if mixes { flows.clamp(FRESH.0, FRESH.1) } else { 0 };
    let load = Load::build(Spec {
        fresh,
        workers,
        policies: (apart > 0).then_some(case.policies),
        frames: if row == cli::Row::RingToRing { supernet_lab::load::RING } else { 1 },
        ..Spec::new(row.scenario(), family, flows)
    })?;
    progress.set_message(format!("{what}: opening connections"));
    let opened = |more| progress.inc(more as u64);
    let measuring = || progress.set_message(format!("{what}: measuring"));
    let measured = match row {
        cli::Row::NewConnections => {
            let mut lanes = load.unopened()?;
            measuring();
            measure::new_connections(machine, &load, &mut lanes, flows, time)?
        }
        cli::Row::RingToRing => {
            let mut ports = load.ring(opened)?;
            measuring();
            measure::ring_to_ring(machine, &mut ports, time)?
        }
        _ => {
            let sharing = match case.sharing {
                cli::Sharing::Disjoint => Sharing::Disjoint,
                cli::Sharing::Directions => Sharing::Directions,
                cli::Sharing::Same => Sharing::Same,
            };
            let mut lanes = load.shared(sharing, opened)?;
            measuring();
            match (row, &mut lanes[..]) {
                (cli::Row::Parse, lanes) => measure::established(machine, lanes, Work::Parse, time)?,
                (cli::Row::LookUp, lanes) => measure::established(machine, lanes, Work::LookUp, time)?,
                (cli::Row::Publication, [lane]) => measure::publication(machine, &load, lane, time)?,
                (cli::Row::NewSparse | cli::Row::Churn, [lane]) => {
                    load.add_fresh(lane)?;
                    let mix =
                        Mix { apart, fresh, buckets: load.buckets(), sweep_timed: row == cli::Row::Churn };
                    match row {
                        cli::Row::Churn => measure::churn(machine, &load, lane, mix, time)?,
                        _ => measure::mixed(machine, lane, mix, &measure::beginning(), 0, time)?,
                    }
                }
                (_, lanes) => measure::established(machine, lanes, Work::Forward, time)?,
            }
        }
    };
    progress.finish_and_clear();
    Ok(report(case, &load, figures, &measured))
}

/// A bar; nothing is drawn unless standard error is a terminal.
fn progress(len: u64) -> ProgressBar {
    let progress = ProgressBar::new(len);
    let template = if len > 0 { "{msg} {wide_bar} {human_pos}/{human_len}" } else { "{msg} {elapsed}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(200));
    progress
}

fn report(case: &Case, load: &Load, figures: Option<Figures>, m: &Measured) -> Report {
    let round = |x: f64| (x * 1000.0).round() / 1000.0;
    let limit_ns = figures.map(|figures| match case.row {
        cli::Row::Parse => figures.parse,
        cli::Row::LookUp => figures.look_up,
        _ => figures.chain,
    });
    Report {
        row: case.row.name(),
        family: family_name(case.family),
        flows: case.flows,
        order: "random",
        workers: case.workers,
        sharing: match case.sharing {
            cli::Sharing::Disjoint => "disjoint",
            cli::Sharing::Directions => "directions",
            cli::Sharing::Same => "same",
        },
        ns_per_packet: round(m.ns_per_packet),
        median_tsc: Clock::IS_TSC.then(|| round(m.ticks_per_packet)),
        limit_ns,
        ratio: limit_ns.map(|limit| round(m.ns_per_packet / limit)),
        mpps: round(m.mpps),
        allocations: m.allocations,
        bytes_per_connection: load.bytes_per_connection(),
        hits: m.hits,
        frame_bytes: case.family.frame_len(),
        batch: supernet::dataplane::worker::BATCH,
        packets: m.packets,
        refill_ns_per_packet: round(m.refill_ns),
        firewall_rules: load.rules(),
        policies: load.policies(),
        samples: m.samples,
        slow_samples: m.slow_samples,
        huge_pages: machine::huge_pages(),
        new_share: if case.apart > 0 { round(1.0 / case.apart as f64) } else { 0.0 },
        connections_per_second: m.connections_per_second.map(f64::round),
        ns_per_new_connection: match case.row {
            cli::Row::NewConnections => Some(round(m.ns_per_packet)),
            _ => m.ns_per_new_connection.map(round),
        },
        batch_p50_ns: m.batch_ns.map(|ns| round(ns.0)),
        batch_p99_ns: m.batch_ns.map(|ns| round(ns.1)),
        quiet_batch_p50_ns: m.quiet_batch_ns.map(|ns| round(ns.0)),
        quiet_batch_p99_ns: m.quiet_batch_ns.map(|ns| round(ns.1)),
        publications: m.publications,
    }
}

impl cli::Row {
    fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::LookUp => "look-up",
            Self::EastWest => "east-west",
            Self::ClusterIp => "cluster-ip",
            Self::Snat => "snat",
            Self::Vip => "vip",
            Self::FullChain => "full-chain",
            Self::NewConnections => "new-connections",
            Self::NewSparse => "new-sparse",
            Self::Churn => "churn",
            Self::Publication => "publication",
            Self::RingToRing => "ring-to-ring",
        }
    }

    fn scenario(self) -> Scenario {
        match self {
            Self::EastWest => Scenario::EastWest,
            Self::ClusterIp => Scenario::ClusterIp,
            Self::Snat => Scenario::Snat,
            Self::Vip => Scenario::Vip,
            _ => Scenario::FullChain,
        }
    }

    /// Whether nothing but packets of established connections is measured, and thus could be shared.
    fn is_of_hits(self) -> bool {
        !self.is_for_one() && self != Self::NewConnections
    }

    /// Whether the limit program does the same, or what is to become the same.
    fn has_limit(self) -> bool {
        self.is_of_hits() || self == Self::RingToRing
    }

    /// How far apart new connections come, in each of the row's figures; 0 for none.
    fn apart(self) -> &'static [usize] {
        match self {
            Self::NewConnections => &[1],
            Self::NewSparse => &[100],
            Self::Churn => &[100, 10],
            _ => &[0],
        }
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn cases_of(args: &[&str]) -> Vec<Case> {
        let args = bench(args);
        args.check().unwrap();
        cases(&args, Duration::from_millis(1))
    }

    fn bench(args: &[&str]) -> cli::BenchArgs {
        let cli = cli::Cli::try_parse_from(["supernet", "bench"].iter().chain(args)).unwrap();
        match cli.command {
            cli::Command::Bench(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn workers_that_would_share_a_processor_are_refused() {
        let error = run(&bench(&["--workers", "1000"])).unwrap_err();
        assert!(matches!(error, BenchError::TooManyWorkers { workers: 1000, .. }), "{error}");
    }

    #[test]
    fn what_was_measured_is_kept_when_something_else_cannot_be() {
        let args = bench(&["--row", "parse", "--family", "ipv4", "--flows", "100,4000M"]);
        let mut reports = Vec::new();
        let error = measure_all(&args, &Machine::new(), Duration::from_millis(1), &mut reports).unwrap_err();
        assert!(matches!(error, BenchError::Row { row: "parse", .. }), "{error}");
        assert_eq!(reports.iter().map(|r| r.flows).collect::<Vec<_>>(), [100]);
    }

    #[test]
    fn every_row_can_be_measured() {
        let machine = Machine::new();
        let figures = Some(Figures { parse: 1.0, look_up: 2.0, chain: 4.0 });
        let cases = cases_of(&["--flows", "200", "--policies", "50", "--family", "ipv6"]);
        assert_eq!(cases.len(), 13, "twelve rows, of which churn has two figures");
        let mut reports = Vec::new();
        for case in cases {
            let report = measure(&machine, &case, figures.filter(|_| case.row.has_limit())).unwrap();
            let name = format!("{:?}", case.row);
            assert!(report.ns_per_packet > 0.0 && report.packets > 0 && report.samples > 2, "{name}");
            assert!(report.slow_samples <= report.samples, "{name}");
            assert_eq!([report.limit_ns, report.ratio].map(|f| f.is_some()), [case.row.has_limit(); 2]);
            reports.push(report);
        }
        let row = |name| reports.iter().filter(move |r: &&Report| r.row == name);
        assert!(row("churn").zip([0.01, 0.1]).all(|(r, share)| (r.hits - (1.0 - share)).abs() < 0.005));
        assert!(row("publication").all(|r| r.publications > Some(0) && r.quiet_batch_p50_ns.is_some()));
        assert!(row("new-connections").all(|r| r.hits == 0.0 && r.policies == 50));
        let text = print::tables(&reports, 1.0, Style::PLAIN);
        for title in ["Pipeline in memory", "New connections", "Batches of 64", "churn 10 %", "RATIO"] {
            assert!(text.contains(title), "{text}");
        }
        // What others read does not go away.
        let json = serde_json::to_value(&reports[0]).unwrap();
        for field in [
            "row",
            "family",
            "flows",
            "order",
            "workers",
            "ns_per_packet",
            "mpps",
            "allocations",
            "bytes_per_connection",
            "hits",
            "frame_bytes",
            "batch",
            "packets",
            "refill_ns_per_packet",
            "firewall_rules",
            "median_tsc",
            "limit_ns",
            "ratio",
            "samples",
            "slow_samples",
            "huge_pages",
        ] {
            assert!(json.get(field).is_some(), "{field} in {json}");
        }
    }

    #[test]
    fn workers_share_in_every_way_that_is_asked_for() {
        let machine = Machine::new();
        let cases = cases_of(&[
            "--row=full-chain,new-connections,ring-to-ring",
            "--workers=1,2",
            "--sharing=disjoint,directions,same",
            "--flows=500",
            "--family=ipv4",
            "--policies=40",
        ]);
        let names: Vec<_> = cases.iter().map(|c| (c.row.name(), c.workers, c.sharing)).collect();
        let disjoint = cli::Sharing::Disjoint;
        assert_eq!(
            names,
            [
                ("full-chain", 1, disjoint),
                ("full-chain", 2, disjoint),
                ("full-chain", 2, cli::Sharing::Directions),
                ("full-chain", 2, cli::Sharing::Same),
                ("new-connections", 1, disjoint),
                ("new-connections", 2, disjoint),
                ("ring-to-ring", 1, disjoint),
            ]
        );
        for case in cases {
            let report = measure(&machine, &case, None).unwrap();
            assert!(report.mpps > 0.0 && report.samples >= 3 * case.workers, "{case:?}");
        }
    }
}
