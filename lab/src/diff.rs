//! `supernet diff`: what changes between two sets of manifests, for people.

use crate::{
    cli::{DiffArgs, Format},
    input,
    output::{self, Listing, Style, list},
};
use std::{error::Error, path::Path};
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
    if args.files.iter().chain(&args.to).filter(|path| *path == Path::new("-")).count() > 1 {
        return Err("standard input can be read once only: name a file for the other".into());
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const BEFORE: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: one}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ports: [{port: 5432}]}
";

    fn compared(after: &str) -> (Diff, u8) {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["old.yaml", "new.yaml"].map(|name| folder.path().join(name));
        fs::write(&old, BEFORE).unwrap();
        fs::write(&new, after).unwrap();
        let args = DiffArgs { files: vec![old], to: vec![new], output: Format::Json };
        (compare(&args).unwrap(), run(&args).unwrap())
    }

    #[test]
    fn a_new_image_and_another_order_change_nothing() {
        let mut documents: Vec<&str> = BEFORE.split("---").collect();
        documents.reverse();
        let (diff, status) = compared(&documents.join("---").replace("image: one", "image: two"));
        assert_eq!(status, 0, "{diff:?}");
        assert!(tables(&diff, Style::PLAIN).starts_with("✓ Nothing changes"));
    }

    #[test]
    fn changes_are_told_in_tables() {
        let more = "---
apiVersion: v1
kind: Pod
metadata: {name: cache, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: c}]}
";
        let after = BEFORE.replace("port: 5432}]}]", "port: 5433}]}]").replace("replicas: 2", "replicas: 3");
        let (diff, status) = compared(
            &(after.replace("ports: [{port: 5432}]}", "ports: [{port: 5432, targetPort: 5433}]}") + more),
        );
        let expected = "\
Who is new, and who is gone
  CHANGE  NAME        PODS
  + new   shop/cache  1
  + more  shop/web    1, as the others

What changes between those who stay
  CHANGE     FROM      TO       PORTS
  + allowed  shop/web  shop/db  TCP 5433
  - denied   shop/web  shop/db  TCP 5432

What is allowed to and from those who are new
  CHANGE     FROM        TO              PORTS
  + allowed  shop/cache  nodes, outside  all
  + allowed  shop/cache  shop/db         TCP 5433

Services that lead elsewhere
  CHANGE    SERVICE      PORTS
  - before  shop/svc/db  TCP 5432 to shop/db 5432
  + after   shop/svc/db  TCP 5432 to shop/db 5433

Becomes allowed: 3 rows. Becomes denied: 1 row. All else is as it was.
";
        assert_eq!((tables(&diff, Style::PLAIN).as_str(), status), (expected, CHANGED));
    }
}
