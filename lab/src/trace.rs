//! `supernet trace`: what happens to a packet, for people.

use crate::{
    cli::{Format, Protocol, TraceArgs},
    input,
    output::{self, Listing, Style},
};
use std::error::Error;
use supernet::{Probe, TraceError, TraceReport, control::analysis::trace::Step, dataplane::wire::Proto};

/// Exit status of a packet that was dropped.
const DROPPED: u8 = 3;

/// Exit status of a probe that cannot be meant.
const USAGE: u8 = 2;

pub(crate) fn run(args: &TraceArgs) -> Result<u8, Box<dyn Error>> {
    let (mut network, warnings) = input::network(&args.files)?;
    let proto = match args.proto {
        _ if args.icmp => Proto::ICMP,
        Protocol::Tcp => Proto::TCP,
        Protocol::Udp => Proto::UDP,
        Protocol::Sctp => Proto::SCTP,
        Protocol::Icmp => Proto::ICMP,
    };
    let ends = args.from.parse().and_then(|from| Ok((from, args.to.parse()?)));
    let report = ends.and_then(|(from, to)| network.trace(&Probe { from, to, proto, port: args.port }, 0));
    let report = match report {
        Ok(report) => report,
        Err(e @ (TraceError::Syntax(_) | TraceError::NoPort(_) | TraceError::FromService(_))) => {
            eprintln!("error: {e}\n\nFor more information, try 'supernet trace --help'.");
            return Ok(USAGE);
        }
        Err(e) => return Err(e.into()),
    };
    if args.output == Format::Table {
        input::warn(&warnings);
    }
    output::print(&report, args.output, table)?;
    Ok(if report.delivered { 0 } else { DROPPED })
}

fn table(report: &TraceReport, style: Style) -> String {
    let way = steps(&format!("The way there: {}", report.packet), &report.steps, style);
    let back = steps("The reply's way back", &report.reply, style);
    let mark = if report.delivered { style.green("✓") } else { style.red("✗") };
    format!("{way}{back}{mark} {}\n", report.verdict)
}

fn steps(title: &str, steps: &[Step], style: Style) -> String {
    let mut table = Listing::new(title, &["STAGE", "AT", "WHAT IT DID", "PACKET AFTERWARDS"], style);
    for step in steps {
        // An unchanged packet need not be read again.
        let after = if step.before.is_some() { step.after.clone() } else { "·".to_owned() };
        table.row([step.stage.clone(), step.at.clone(), step.did.clone(), after]);
    }
    table.render()
}
