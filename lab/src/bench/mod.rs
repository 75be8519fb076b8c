//! `supernet bench`: packets a second of the pipeline in memory, without ports.
//!
//! A row is a way that connections take (see [`Scenario`]). For each row and family a network is built by
//! control, every connection is opened through the firewall, and frames of both directions are sent in random
//! order. Counters prove what was measured: rows of established connections must hit with every packet,
//! `new-connections` must miss with every packet; otherwise the bench fails and prints no number.

mod alloc;
mod measure;

use crate::{
    cli,
    output::{Listing, OutputError, Style},
};
use indicatif::{ProgressBar, ProgressStyle};
use measure::Measured;
use serde::Serialize;
use std::{
    io::{self, Write},
    time::{Duration, TryFromFloatSecsError},
};
use supernet_lab::load::{FRAME_V4, FRAME_V6, Family, Load, LoadError, RING, Scenario};

/// Why there is no number.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("--seconds: {0}")]
    Seconds(#[from] TryFromFloatSecsError),
    #[error("{row} {family}: {source}")]
    Row { row: &'static str, family: &'static str, source: Box<NotMeasured> },
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
    /// Median time of a worker for a packet, from a filled batch to the rewritten frames by output port.
    ns_per_packet: f64,
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
    /// What copying a frame in took, which is not part of the time.
    refill_ns_per_packet: f64,
    /// Rules of all firewalls of the network.
    firewall_rules: usize,
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
    let rows = if args.row.is_empty() { &cli::Row::ALL[..] } else { &args.row };
    let mut reports = Vec::new();
    for row in rows {
        for family in [Family::Ipv4, Family::Ipv6] {
            let report = measure(*row, family, args.flows, args.workers, time).map_err(|e| {
                BenchError::Row { row: row.name(), family: family_name(family), source: Box::new(e) }
            })?;
            if args.json && !print_line(&report)? {
                return Ok(());
            }
            reports.push(report);
        }
    }
    if !args.json {
        print(&tables(&reports, args.seconds, Style::detect())).map_err(OutputError::from)?;
    }
    Ok(())
}

fn measure(
    row: cli::Row,
    family: Family,
    flows: usize,
    workers: usize,
    time: Duration,
) -> Result<Report, NotMeasured> {
    let (name, family_name) = (row.name(), family_name(family));
    let progress = ProgressBar::new(flows as u64);
    // Nothing is drawn unless standard error is a terminal.
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len}") {
        progress.set_style(style);
    }
    progress.set_message(format!("{name} {family_name}: opening connections"));
    let load = Load::new(row.scenario(), family, flows, workers)?;
    let measured = if row == cli::Row::NewConnections {
        let mut lanes = load.unopened();
        progress.set_message(format!("{name} {family_name}: measuring"));
        measure::new_connections(&load, &mut lanes, flows, time)?
    } else {
        let mut lanes = load.established(|more| progress.inc(more as u64))?;
        progress.set_message(format!("{name} {family_name}: measuring"));
        measure::established(&mut lanes, time)?
    };
    progress.finish_and_clear();
    Ok(report(row, family, &load, flows, workers, &measured))
}

fn report(row: cli::Row, family: Family, load: &Load, flows: usize, workers: usize, m: &Measured) -> Report {
    let round = |x: f64| (x * 1000.0).round() / 1000.0;
    Report {
        row: row.name(),
        family: family_name(family),
        flows,
        order: "random",
        workers,
        ns_per_packet: round(m.ns_per_packet),
        mpps: round(m.mpps),
        allocations: m.allocations,
        bytes_per_connection: load.bytes_per_connection(),
        hits: m.hits,
        frame_bytes: if family == Family::Ipv4 { FRAME_V4 } else { FRAME_V6 },
        batch: supernet::dataplane::worker::BATCH,
        packets: m.packets,
        refill_ns_per_packet: round(m.refill_ns),
        firewall_rules: load.rules(),
    }
}

impl cli::Row {
    const ALL: [Self; 5] =
        [Self::EastWest, Self::ClusterIp, Self::Vip, Self::FullChain, Self::NewConnections];

    fn name(self) -> &'static str {
        match self {
            Self::EastWest => "east-west",
            Self::ClusterIp => "cluster-ip",
            Self::Vip => "vip",
            Self::FullChain => "full-chain",
            Self::NewConnections => "new-connections",
        }
    }

    fn scenario(self) -> Scenario {
        match self {
            Self::EastWest => Scenario::EastWest,
            Self::ClusterIp | Self::NewConnections => Scenario::ClusterIp,
            Self::Vip => Scenario::Vip,
            Self::FullChain => Scenario::FullChain,
        }
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

/// Prints a report as a line; `false` when nobody reads any more.
fn print_line(report: &Report) -> Result<bool, OutputError> {
    match print(&(serde_json::to_string(report)? + "\n")) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn tables(reports: &[Report], seconds: f64, style: Style) -> String {
    let columns = [
        "ROW",
        "FAMILY",
        ">FLOWS",
        ">WORKERS",
        ">NS/PACKET",
        ">MPPS",
        ">HITS",
        ">ALLOCATIONS/PACKET",
        ">BYTES/CONNECTION",
    ];
    let mut listing = Listing::new("Pipeline in memory", &columns, style);
    for r in reports {
        listing.row([
            r.row.to_owned(),
            r.family.to_owned(),
            r.flows.to_string(),
            r.workers.to_string(),
            format!("{:.1}", r.ns_per_packet),
            format!("{:.2}", r.mpps),
            format!("{:.0} %", r.hits * 100.0),
            format!("{:.2}", r.allocations),
            r.bytes_per_connection.to_string(),
        ]);
    }
    let refill = reports.iter().map(|r| r.refill_ns_per_packet).fold(0.0, f64::max);
    let rules = reports.iter().map(|r| r.firewall_rules).max().unwrap_or(0);
    listing.render()
        + &format!(
            "Frames of {FRAME_V4} bytes (IPv6: {FRAME_V6}), TCP and UDP, in random order over the connections, in \
             batches of {} from a\nring of {RING} buffers a worker; both directions, but for new-connections, \
             which sends every first packet once\nthrough a ClusterIP. {rules} firewall rules. Medians over \
             {seconds} s after a warm-up. Not counted: copying frames in, at most\n{refill:.1} ns a packet.\n",
            supernet::dataplane::worker::BATCH,
        )
}
