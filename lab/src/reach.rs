//! `supernet reach`: who reaches whom, folded to a table that a person can read.

use crate::{
    cli::Format,
    output::{self, Listing, OutputError, Style, list},
};
use std::collections::{BTreeMap, BTreeSet};
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
        reach.rows.iter().partition(|row| services.contains(&*row.destination));
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

/// Rows that differ only in their sources become one, then rows that differ only in their destinations.
fn table(title: &str, rows: &[&Row], reach: &Reach, style: Style) -> String {
    let mut sources: Fold<(&str, String), &str> = Fold::default();
    for row in rows {
        sources.add((&row.destination, ports(row)), &row.source);
    }
    let mut destinations: Fold<(String, String), &str> = Fold::default();
    for ((destination, ports), from) in sources.groups {
        destinations.add((name_sources(&from, destination, &reach.ends), ports), destination);
    }
    let mut listing = Listing::new(title, &["FROM", "TO", "PORTS"], style);
    for ((from, ports), to) in destinations.groups {
        listing.row([from, list(to.into_iter().map(str::to_owned), MOST), ports]);
    }
    listing.render()
}

/// Groups of values by key, in the order in which the keys were first seen.
struct Fold<K, V> {
    groups: Vec<(K, Vec<V>)>,
    at: BTreeMap<K, usize>,
}

impl<K, V> Default for Fold<K, V> {
    fn default() -> Self {
        Self { groups: Vec::new(), at: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V> Fold<K, V> {
    fn add(&mut self, key: K, value: V) {
        let at = *self.at.entry(key.clone()).or_insert(self.groups.len());
        match self.groups.get_mut(at) {
            Some((_, values)) => values.push(value),
            None => self.groups.push((key, vec![value])),
        }
    }
}

fn ports(row: &Row) -> String {
    let mut text = row.ports.clone();
    if let Some(undeclared) = &row.undeclared {
        text.push_str(&format!(" (and undeclared: {undeclared})"));
    }
    if let Some(unreached) = row.unreached_members {
        text.push_str(&format!(" ({unreached} members out of reach)"));
    }
    if let Some(family) = row.family {
        text.push_str(&format!(" (only {family})"));
    }
    text
}

/// "everyone", "everyone inside", "all pods", or the names.
fn name_sources(sources: &[&str], destination: &str, ends: &[EndInfo]) -> String {
    let have: BTreeSet<&str> = sources.iter().copied().collect();
    let of = |kinds: &[EndKind]| -> BTreeSet<&str> {
        let ends = ends.iter().filter(|e| kinds.contains(&e.kind) && !e.name.starts_with("outside "));
        // A single pod is no source of itself, whether it is listed or not.
        ends.map(|e| &*e.name).filter(|name| *name != destination || have.contains(name)).collect()
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
    list(sources.iter().map(|s| (*s).to_owned()), MOST)
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
  everyone                 nodes, outside  all
  shop/web                 shop/db         TCP 5432
  outside 203.0.113.0/24   shop/web        TCP 8080 (and undeclared: TCP 8081-8090)
  outside 203.0.113.13/32  shop/web        none

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
