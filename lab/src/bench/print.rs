//! How reports are printed: a table for people, a JSON object a line for programs.

use super::Report;
use crate::output::{Listing, OutputError, Style};
use std::io::{self, Write};
use supernet_lab::load::{FRAME_V4, FRAME_V6, RING};

/// Prints a report as a line; `false` when nobody reads any more.
pub(super) fn line(report: &Report) -> Result<bool, OutputError> {
    match print(&(serde_json::to_string(report)? + "\n")) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// All reports as tables: packets, and what else some rows tell.
pub(super) fn tables(reports: &[Report], seconds: f64, style: Style) -> String {
    packets(reports, style)
        + &connections(reports, style)
        + &batches(reports, style)
        + &notes(reports, seconds)
}

/// A row's name, with what tells it from others of the name.
fn name(r: &Report) -> String {
    match (r.row, r.sharing) {
        ("churn", _) => format!("{} {:.0} %", r.row, r.new_share * 100.0),
        (row, "disjoint") => row.to_owned(),
        (row, sharing) => format!("{row} ({sharing})"),
    }
}

fn packets(reports: &[Report], style: Style) -> String {
    // Columns that would say the same in every row are left out, so that a table fits an ordinary terminal.
    let workers = reports.iter().any(|r| r.workers > 1);
    let limit = reports.iter().any(|r| r.limit_ns.is_some());
    let mut columns = vec!["ROW", "FAMILY", ">FLOWS"];
    columns.extend(workers.then_some(">WORKERS"));
    columns.push(">NS/PACKET");
    columns.extend(limit.then_some([">LIMIT NS", ">RATIO"]).into_iter().flatten());
    columns.extend([">MPPS", ">HITS", ">ALLOCS", ">BYTES/CONN"]);
    let mut listing = Listing::new("Pipeline in memory", &columns, style);
    let or_dash = |value: Option<f64>, digits| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
    for r in reports {
        // Nothing but slow samples.
        let mark = if r.slow_samples == r.samples { "*" } else { "" };
        let mut row = vec![name(r), r.family.to_owned(), r.flows.to_string()];
        row.extend(workers.then(|| r.workers.to_string()));
        row.push(format!("{:.1}{mark}", r.ns_per_packet));
        if limit {
            row.extend([or_dash(r.limit_ns, 1), or_dash(r.ratio, 2)]);
        }
        row.extend([
            format!("{:.2}", r.mpps),
            format!("{:.0} %", r.hits * 100.0),
            format!("{:.2}", r.allocations),
            r.bytes_per_connection.to_string(),
        ]);
        listing.row(row);
    }
    listing.render()
}

fn connections(reports: &[Report], style: Style) -> String {
    let columns = ["ROW", "FAMILY", ">FLOWS", ">WORKERS", ">POLICIES", ">RULES", ">NS/NEW", ">NEW/S"];
    let mut listing = Listing::new("New connections", &columns, style);
    for r in reports {
        let (Some(ns), Some(per_second)) = (r.ns_per_new_connection, r.connections_per_second) else {
            continue;
        };
        listing.row([
            name(r),
            r.family.to_owned(),
            r.flows.to_string(),
            r.workers.to_string(),
            r.policies.to_string(),
            r.firewall_rules.to_string(),
            format!("{ns:.0}"),
            format!("{:.2} M", per_second / 1e6),
        ]);
    }
    listing.render()
}

fn batches(reports: &[Report], style: Style) -> String {
    let columns =
        ["ROW", "FAMILY", ">FLOWS", ">P50 NS", ">P99 NS", ">QUIET P50 NS", ">QUIET P99 NS", ">PUBLISHED"];
    let mut listing = Listing::new("Batches of 64", &columns, style);
    let or_dash = |ns: Option<f64>| ns.map_or("-".to_owned(), |ns| format!("{ns:.0}"));
    for r in reports.iter().filter(|r| r.batch_p50_ns.is_some()) {
        listing.row([
            name(r),
            r.family.to_owned(),
            r.flows.to_string(),
            or_dash(r.batch_p50_ns),
            or_dash(r.batch_p99_ns),
            or_dash(r.quiet_batch_p50_ns),
            or_dash(r.quiet_batch_p99_ns),
            r.publications.map_or("-".to_owned(), |n| n.to_string()),
        ]);
    }
    listing.render()
}

fn notes(reports: &[Report], seconds: f64) -> String {
    let refill = reports.iter().map(|r| r.refill_ns_per_packet).fold(0.0, f64::max);
    let rules = reports.iter().map(|r| r.firewall_rules);
    let rules = (rules.clone().min().unwrap_or(0), rules.max().unwrap_or(0));
    let rules = if rules.0 == rules.1 { rules.0.to_string() } else { format!("{} to {}", rules.0, rules.1) };
    let sum = |of: fn(&Report) -> usize| reports.iter().map(of).sum::<usize>();
    let (samples, slow) = (sum(|r| r.samples), sum(|r| r.slow_samples));
    let mut text = format!(
        "Frames of {FRAME_V4} bytes (IPv6: {FRAME_V6}), TCP and UDP, both directions, in random order over the \
         connections, in batches\nof {} from a ring of {RING} buffers a worker; new connections send their first \
         packet once, through a ClusterIP.\n{rules} firewall rules. Medians over {seconds} s after a warm-up. Not \
         counted: putting frames together, at most {refill:.0} ns a\npacket. {slow} of {samples} samples were \
         taken while the processor ran slow, and set aside.\n",
        supernet::dataplane::worker::BATCH,
    );
    if reports.iter().any(|r| r.slow_samples == r.samples) {
        text += "* No sample was taken at full speed: this is the median of all.\n";
    }
    if reports.iter().any(|r| r.limit_ns.is_some()) {
        text += "LIMIT NS is what the limit program needs on one processor, RATIO our time by its.\n";
    }
    text
}
