//! `supernet diff`: what changes between two sets of manifests, for people.

use crate::{
    cli::{DiffArgs, Format},
    input,
    output::{self, Listing, Style, list},
};
use std::error::Error;
use supernet::{
    Diff,
    control::{
        analysis::diff::{Cause, Direction, End, EndState, Row, Term},
        store::UnixSeconds,
    },
};

/// Exit status when something changes.
const CHANGED: u8 = 4;

/// Names in a cell before the rest is only counted.
const MOST: usize = 8;

pub(crate) fn run(args: &DiffArgs) -> Result<u8, Box<dyn Error>> {
    let diff = compare(args)?;
    output::print(&diff, args.output, tables)?;
    Ok(if diff.is_empty() { 0 } else { CHANGED })
}

fn compare(args: &DiffArgs) -> Result<Diff, Box<dyn Error>> {
    let (before, mut warnings) = input::read(&args.files)?;
    let (after, more) = input::read(&args.to)?;
    for warning in more {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    if args.output == Format::Table {
        input::warn(&warnings);
    }
    let mut network = input::network_of(before)?;
    // So much later that nothing holds addresses back for who had them.
    let later = UnixSeconds(1 << 32);
    let draft = network.draft(after.model, later, &Default::default())?;
    Ok(network.diff(&draft)?)
}

fn tables(diff: &Diff, style: Style) -> String {
    if diff.is_empty() {
        return format!(
            "{} Nothing changes: everyone reaches whom they reached, and Services lead where they led.\n",
            style.green("✓")
        );
    }
    let mut text = came_and_went(diff, style);
    for (cause, title) in [
        (Cause::Rules, "What changes between those who stay"),
        (Cause::Appears, "What is allowed to and from those who are new"),
        (Cause::Disappears, "What was allowed to and from those who are gone"),
    ] {
        let mut listing = Listing::new(title, &["CHANGE", "FROM", "TO", "PORTS"], style);
        for row in diff.rows.iter().filter(|row| row.cause == cause) {
            listing.row([change(row, style), ends(&row.from), ends(&row.to), ports(row)]);
        }
        text.push_str(&listing.render());
    }
    text.push_str(&services(diff, style));
    text.push_str(&summary(diff));
    text
}

fn came_and_went(diff: &Diff, style: Style) -> String {
    let mut listing = Listing::new("Who is new, and who is gone", &["CHANGE", "NAME", "PODS"], style);
    let changed = |state| move |end: &&End| end.state == state;
    for (state, change) in [(EndState::New, style.green("+ new")), (EndState::Gone, style.red("- gone"))] {
        for end in diff.ends.iter().filter(changed(state)) {
            let pods = end.pods_before.len() + end.pods_after.len();
            let pods = if pods == 0 { "-".to_owned() } else { pods.to_string() };
            listing.row([change.clone(), end.name.clone(), pods]);
        }
    }
    for scaled in &diff.scaled {
        for (change, pods) in [(style.green("+ more"), &scaled.new), (style.red("- fewer"), &scaled.gone)] {
            if !pods.is_empty() {
                let count = format!("{}, as the others", pods.len());
                listing.row([change, scaled.name.clone(), count]);
            }
        }
    }
    listing.render()
}

fn services(diff: &Diff, style: Style) -> String {
    let mut listing = Listing::new("Services that lead elsewhere", &["CHANGE", "SERVICE", "PORTS"], style);
    for service in &diff.services {
        let stays = |line: &&String| service.before.contains(line) && service.after.contains(line);
        for (change, lines) in
            [(style.red("- before"), &service.before), (style.green("+ after"), &service.after)]
        {
            let lines: Vec<String> = lines.iter().filter(|line| !stays(line)).cloned().collect();
            if !lines.is_empty() {
                listing.row([change, service.name.clone(), list(lines.into_iter(), MOST)]);
            }
        }
    }
    listing.render()
}

fn change(row: &Row, style: Style) -> String {
    match row.change {
        Direction::Allowed => style.green("+ allowed"),
        Direction::Denied => style.red("- denied"),
    }
}

fn ends(ends: &[Term]) -> String {
    let name = |term: &Term| match &term.except[..] {
        [] => term.name.clone(),
        except => format!("{} (except {})", term.name, list(except.iter().cloned(), MOST)),
    };
    list(ends.iter().map(name), MOST)
}

fn ports(row: &Row) -> String {
    match row.family {
        Some(family) => format!("{} (only {family})", row.ports),
        None => row.ports.clone(),
    }
}

fn summary(diff: &Diff) -> String {
    let count = |direction| diff.rows.iter().filter(|row| row.change == direction).count();
    let rows = |n: usize| if n == 1 { "1 row".to_owned() } else { format!("{n} rows") };
    format!(
        "Becomes allowed: {}. Becomes denied: {}. All else is as it was.\n",
        rows(count(Direction::Allowed)),
        rows(count(Direction::Denied))
    )
}
