//! A table for many rules that have little to do with each other.
//!
//! Rows of cells for all ports would mostly repeat what rules for everybody say. So rules that name no identity have
//! one row of their own, and an identity's row has only those that name it; what is earlier in the list decides.
//! Room is that of the services that rules name, once for each different row that names them.

use super::{Clause, Peers, Service, ServiceKey, service_key};
use crate::{id::IdentityId, table::exact::Exact, wire::Proto};
use std::collections::{BTreeMap, BTreeSet};

/// Which rule decides: its place in the list from 1 on, or 0.
#[derive(Debug)]
pub(crate) struct Sparse {
    /// The row of identities that some clause names, and whether it says everything by itself.
    rows: Exact<u32, u32>,
    /// Where each row begins among the pieces, and where the last ends.
    starts: Box<[u32]>,
    /// From which service on another rule is the first: pieces of one row after those of another, each row's beginning
    /// with 0.
    services: Box<[ServiceKey]>,
    /// The first rule in each piece.
    rules: Box<[u32]>,
}

/// The row is complete: rules for everybody except its identities are among those that do not hold for it.
const COMPLETE: u32 = 1 << 31;

impl Sparse {
    /// The table of clauses, in order, each with the place of its rule. `rows` says of identities which row each has,
    /// and `naming` which clauses name those of a row; row 0 is of all others.
    pub(super) fn new(clauses: &[(usize, &Clause)], rows: &[(u32, u32)], naming: &[Vec<u32>]) -> Self {
        let is_excepting = |c: &u32| matches!(clauses[*c as usize].1.peers, Peers::Except(_));
        let unnamed: Vec<u32> = (0..clauses.len() as u32)
            .filter(|&c| !matches!(clauses[c as usize].1.peers, Peers::Identities(_)))
            .collect();
        let complete = |row: usize| naming[row].iter().any(is_excepting);
        let rows: Exact<u32, u32> = rows
            .iter()
            .map(|&(identity, row)| (identity, if complete(row as usize) { row | COMPLETE } else { row }))
            .collect();
        let (mut starts, mut services, mut rules) = (vec![0], Vec::new(), Vec::new());
        for (row, naming_row) in naming.iter().enumerate() {
            let excepted: BTreeSet<u32> = naming_row.iter().copied().filter(is_excepting).collect();
            let of_everybody =
                unnamed.iter().filter(|c| row == 0 || (complete(row) && !excepted.contains(*c)));
            let named = naming_row.iter().filter(|c| !is_excepting(c));
            let holding: BTreeSet<u32> = named.chain(of_everybody).copied().collect();
            let of_row =
                first_of(holding.iter().map(|&c| (clauses[c as usize].0 as u32 + 1, clauses[c as usize].1)));
            for (service, rule) in of_row {
                services.push(service);
                rules.push(rule);
            }
            starts.push(services.len() as u32);
        }
        Self { rows, starts: starts.into(), services: services.into(), rules: rules.into() }
    }

    /// The first rule, from 1 on, that matches a connection with `peer` to `port`; 0 if none does.
    #[inline]
    pub(super) fn rule(&self, peer: IdentityId, proto: Proto, port: u16) -> u32 {
        let (row, service) = (self.rows.get(peer.0), service_key(proto, port));
        let own = self.first_in(row & !COMPLETE, service);
        if row == 0 || row & COMPLETE != 0 {
            return own;
        }
        let others = self.first_in(0, service);
        // Zero comes last.
        own.wrapping_sub(1).min(others.wrapping_sub(1)).wrapping_add(1)
    }

    #[inline]
    fn first_in(&self, row: u32, service: ServiceKey) -> u32 {
        let (start, end) = (self.starts[row as usize] as usize, self.starts[row as usize + 1] as usize);
        let reached = self.services[start..end].partition_point(|piece| *piece <= service);
        self.rules[start + reached - 1]
    }

    /// Where services begin from which on another rule may be the first.
    pub(super) fn starts(&self) -> impl Iterator<Item = ServiceKey> {
        self.services.iter().copied()
    }
}

/// From which service on which of these rules is the first that matches, beginning with 0.
fn first_of<'a>(rules: impl Iterator<Item = (u32, &'a Clause)>) -> Vec<(ServiceKey, u32)> {
    // Where a rule begins to match, and where it ends.
    let mut events: Vec<(ServiceKey, bool, u32)> = Vec::new();
    let mut always = u32::MAX;
    for (rule, clause) in rules {
        if clause.services.is_empty() {
            always = always.min(rule);
        }
        for Service { proto, ports } in clause.services.iter().filter(|s| s.ports.start() <= s.ports.end()) {
            events.push((service_key(*proto, *ports.start()), true, rule));
            events.push((service_key(*proto, *ports.end()) + 1, false, rule));
        }
    }
    events.sort_unstable();
    // A rule may match a service in several ways.
    let mut matching: BTreeMap<u32, u32> = BTreeMap::new();
    let first = |matching: &BTreeMap<u32, u32>| {
        let rule = matching.keys().next().copied().unwrap_or(u32::MAX).min(always);
        if rule == u32::MAX { 0 } else { rule }
    };
    let mut cuts = vec![(0, first(&matching))];
    for same in events.chunk_by(|a, b| a.0 == b.0) {
        for &(_, begins, rule) in same {
            let count = matching.entry(rule).or_default();
            if begins {
                *count += 1;
            } else if *count > 1 {
                *count -= 1;
            } else {
                matching.remove(&rule);
            }
        }
        let now = first(&matching);
        match cuts.last_mut() {
            Some(last) if last.0 == same[0].0 => last.1 = now,
            Some(last) if last.1 == now => {}
            _ => cuts.push((same[0].0, now)),
        }
    }
    cuts
}
