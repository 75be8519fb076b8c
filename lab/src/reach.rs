//! `supernet reach`: who reaches whom, folded to a table that a person can read.

use crate::{
    cli::Format,
    output::{self, Listing, OutputError, Style, list},
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use supernet_control::analysis::reach::{EndInfo, EndKind, Reach, Row};

/// Names in a cell before the rest is only counted.
const MOST: usize = 8;

/// Prints who reaches whom to standard output.
pub(crate) fn print(reach: &Reach, format: Format) -> Result<(), OutputError> {
    output::print(reach, format, tables)
}

fn tables(reach: &Reach, style: Style) -> String {
    let services: BTreeSet<&str> =
        reach.ends.iter().filter(|e| e.kind == EndKind::Service).map(|e| &*e.name).collect();
    let (to_services, to_ends): (Vec<&Row>, Vec<&Row>) =
        reach.rows.iter().partition(|row| row.destinations.iter().any(|d| services.contains(&**d)));
    let mut text = table("Who reaches whom", &to_ends, reach, style);
    text.push_str(&table("Who reaches Services", &to_services, reach, style));
    if reach.rows.is_empty() {
        text.push_str("Nobody reaches anybody.\n");
    } else {
        text.push_str(
            "All else is denied. Not shown, always open: a pod to itself, a node to the pods on it.\n",
        );
    }
    text
}

/// Rows whose sources are called the same become one.
fn table(title: &str, rows: &[&Row], reach: &Reach, style: Style) -> String {
    let place: HashMap<&str, usize> = reach.ends.iter().enumerate().map(|(at, e)| (&*e.name, at)).collect();
    let mut at: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut folded: Vec<((String, String), Vec<&str>)> = Vec::new();
    for row in rows {
        let key = (name_sources(row, &reach.ends), ports(row));
        let next = folded.len();
        let at = *at.entry(key.clone()).or_insert(next);
        if at == next {
            folded.push((key, Vec::new()));
        }
        folded[at].1.extend(row.destinations.iter().map(String::as_str));
    }
    for (_, destinations) in &mut folded {
        destinations.sort_by_key(|name| place.get(name));
    }
    folded.sort_by_key(|(_, destinations)| destinations.first().and_then(|name| place.get(name)));
    let mut listing = Listing::new(title, &["FROM", "TO", "PORTS"], style);
    for ((from, ports), to) in folded {
        listing.row([from, list(to.into_iter().map(str::to_owned), MOST), ports]);
    }
    listing.render()
}

fn ports(row: &Row) -> String {
    let mut text = row.ports.clone();
    if let Some(undeclared) = &row.undeclared {
        text.push_str(&format!(" (and undeclared: {undeclared})"));
    }
    if let Some(unreached) = row.unreached_members {
        let s = if unreached == 1 { "" } else { "s" };
        text.push_str(&format!(" ({unreached} member{s} out of reach)"));
    }
    if let Some(family) = row.family {
        text.push_str(&format!(" (only {family})"));
    }
    text
}

/// "everyone", "everyone inside", "all pods", or the names.
fn name_sources(row: &Row, ends: &[EndInfo]) -> String {
    let have: BTreeSet<&str> = row.sources.iter().map(String::as_str).collect();
    let only = match &row.destinations[..] {
        [only] => only,
        _ => "",
    };
    let of = |kinds: &[EndKind]| -> BTreeSet<&str> {
        let ends = ends.iter().filter(|e| kinds.contains(&e.kind) && !e.name.starts_with("outside "));
        // A single pod is no source of itself, whether it is listed or not.
        ends.map(|e| &*e.name).filter(|name| *name != only || have.contains(name)).collect()
    };
    for (words, kinds) in [
        ("everyone", &[EndKind::Pods, EndKind::Nodes, EndKind::Outside][..]),
        ("everyone inside", &[EndKind::Pods, EndKind::Nodes]),
        ("all pods", &[EndKind::Pods]),
    ] {
        let whole = of(kinds);
        if whole.len() > 2 && whole == have {
            return words.to_owned();
        }
    }
    list(row.sources.iter().cloned(), MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::shop;

    #[test]
    fn pairs_are_folded_to_few_rows() {
        let mut s = shop();
        let reach = Reach::of(&s.model, &s.addressing, &s.snapshot, &mut s.interner).unwrap();
        let expected = "\
Who reaches whom
  FROM                     TO              PORTS
  shop/web                 shop/db         TCP 5432
  outside 203.0.113.0/24   shop/web        TCP 8080 (and undeclared: TCP 8081-8090)
  outside 203.0.113.13/32  shop/web        none
  everyone                 nodes, outside  all

Who reaches Services
  FROM                     TO            PORTS
  outside 203.0.113.0/24   shop/svc/web  TCP 80
  outside 203.0.113.13/32  shop/svc/web  none
  everyone                 kube-api      TCP 6443
  everyone                 cli-tools     TCP 443

All else is denied. Not shown, always open: a pod to itself, a node to the pods on it.
";
        assert_eq!(tables(&reach, Style::PLAIN), expected);
    }
}
