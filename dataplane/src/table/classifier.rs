//! The compiled firewall of one port and direction.
//!
//! ```text
//!   peer address ─▶ identity ─▶ row ─┐
//!                                    ├─▶ cell ─▶ rule
//!   protocol, port ─────────▶ column ┘
//! ```
//!
//! Rules are ordered and the first that matches decides. Identities that every clause treats alike share a
//! row, ports that every clause treats alike share a column, so a look-up costs one hash probe, one binary
//! search and one load, however many rules there are. [`RuleSet::decide_linear`] is the slow oracle.

use crate::{
    id::{IdentityId, RuleId},
    wire::Proto,
};
use foldhash::{HashMap, HashMapExt};
use std::{collections::BTreeSet, ops::RangeInclusive};

/// What a rule does with a packet it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Let it pass.
    Allow,
    /// Drop it without a word.
    Drop,
}

/// Which peers a clause speaks of: destinations in an egress rule, sources in an ingress rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peers {
    /// Every address.
    Any,
    /// Addresses of these identities.
    Identities(BTreeSet<IdentityId>),
}

/// A protocol and a range of destination ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Service {
    /// The protocol.
    pub proto: Proto,
    /// Destination ports. Protocols without ports match only the full range.
    pub ports: RangeInclusive<u16>,
}

impl Service {
    /// Every port of a protocol.
    pub fn all(proto: Proto) -> Self {
        Self { proto, ports: 0..=u16::MAX }
    }

    fn matches(&self, proto: Proto, port: u16) -> bool {
        self.proto == proto && self.ports.contains(&port)
    }
}

/// One way to match a rule: any of the peers and any of the services.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Clause {
    /// The other end.
    pub peers: Peers,
    /// Protocols and ports; empty means all of them, ICMP included.
    pub services: Vec<Service>,
}

impl Clause {
    /// Matches everything.
    pub const ANY: Self = Self { peers: Peers::Any, services: Vec::new() };

    fn matches(&self, peer: IdentityId, proto: Proto, port: u16) -> bool {
        let peers = match &self.peers {
            Peers::Any => true,
            Peers::Identities(ids) => ids.contains(&peer),
        };
        peers && (self.services.is_empty() || self.services.iter().any(|s| s.matches(proto, port)))
    }
}

/// A firewall rule: matches when any clause does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Its name, and where its hits are counted.
    pub id: RuleId,
    /// What it does.
    pub action: Action,
    /// Ways to match it.
    pub clauses: Vec<Clause>,
}

/// What the firewall decided, and by which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The rule that matched first.
    pub rule: RuleId,
    /// Its action.
    pub action: Action,
}

/// An ordered rule list for one direction of the ports that share it, compiled.
///
/// The last rule, the default, matches everything.
#[derive(Debug, Clone)]
pub struct RuleSet {
    rules: Vec<Rule>,
    default: Decision,
    /// Identities that have a row other than 0.
    rows: HashMap<IdentityId, u32>,
    /// For each protocol that some clause names: where its columns begin.
    columns: Vec<(Proto, Vec<(u16, u32)>)>,
    width: usize,
    /// rows x columns; column 0 is every protocol that no clause names.
    cells: Vec<Decision>,
}

impl PartialEq for RuleSet {
    fn eq(&self, other: &Self) -> bool {
        // The rest is computed from these two.
        self.rules == other.rules && self.default == other.default
    }
}

impl RuleSet {
    /// Compiles `rules`, in order, and what happens when none matches.
    pub fn new(rules: Vec<Rule>, default: Decision) -> Self {
        let columns = columns(&rules);
        let width = 1 + columns.iter().map(|(_, starts)| starts.len()).sum::<usize>();

        // Identities with the same set of clauses share a row.
        let clauses: Vec<(usize, &Clause)> =
            rules.iter().enumerate().flat_map(|(r, rule)| rule.clauses.iter().map(move |c| (r, c))).collect();
        let mut signatures: HashMap<IdentityId, Vec<u32>> = HashMap::new();
        for (c, (_, clause)) in clauses.iter().enumerate() {
            if let Peers::Identities(ids) = &clause.peers {
                for id in ids {
                    signatures.entry(*id).or_default().push(c as u32);
                }
            }
        }
        let mut row_of: HashMap<Vec<u32>, u32> = HashMap::new();
        row_of.insert(Vec::new(), 0);
        let mut row_members: Vec<Vec<u32>> = vec![Vec::new()];
        let mut rows = HashMap::new();
        for (id, signature) in signatures {
            let row = *row_of.entry(signature.clone()).or_insert_with(|| {
                row_members.push(signature);
                row_members.len() as u32 - 1
            });
            rows.insert(id, row);
        }

        let any: Vec<u32> = (0..clauses.len() as u32)
            .filter(|&c| matches!(clauses[c as usize].1.peers, Peers::Any))
            .collect();
        let mut cells = vec![default; width * row_members.len()];
        for (row, members) in row_members.iter().enumerate() {
            let mut here: Vec<u32> = members.iter().chain(&any).copied().collect();
            // Later clauses first, so that the first rule to match is the last to write.
            here.sort_unstable_by(|a, b| b.cmp(a));
            let cells = &mut cells[row * width..(row + 1) * width];
            for c in here {
                let (rule, clause) = clauses[c as usize];
                let decision = Decision { rule: rules[rule].id, action: rules[rule].action };
                if clause.services.is_empty() {
                    cells.fill(decision);
                }
                for service in &clause.services {
                    for column in columns_of(&columns, service) {
                        cells[column] = decision;
                    }
                }
            }
        }
        Self { rules, default, rows, columns, width, cells }
    }

    /// The rule that decides for a connection with `peer` to `port`.
    pub fn decide(&self, peer: IdentityId, proto: Proto, port: u16) -> Decision {
        let row = self.rows.get(&peer).map_or(0, |&r| r as usize);
        let column = self.columns.iter().find(|(p, _)| *p == proto).map_or(0, |(_, starts)| {
            let after = starts.partition_point(|(start, _)| *start <= port);
            starts[after - 1].1 as usize
        });
        self.cells[row * self.width + column]
    }

    /// The same by walking the rules in order: the oracle of [`RuleSet::decide`].
    pub fn decide_linear(&self, peer: IdentityId, proto: Proto, port: u16) -> Decision {
        self.rules
            .iter()
            .find(|rule| rule.clauses.iter().any(|c| c.matches(peer, proto, port)))
            .map_or(self.default, |rule| Decision { rule: rule.id, action: rule.action })
    }

    /// Ports of a protocol from which on a decision may differ from the one before; always begins with 0.
    pub fn boundaries(&self, proto: Proto) -> impl Iterator<Item = u16> {
        let starts = self.columns.iter().find(|(p, _)| *p == proto).map(|(_, starts)| starts.as_slice());
        let none = if starts.is_none() { Some(0) } else { None };
        none.into_iter().chain(starts.unwrap_or_default().iter().map(|(start, _)| *start))
    }

    /// The rules in order, without the default.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What happens when no rule matches.
    pub fn default_decision(&self) -> Decision {
        self.default
    }
}

/// For each protocol named, the ports at which the set of matching services changes; always begins with 0.
fn columns(rules: &[Rule]) -> Vec<(Proto, Vec<(u16, u32)>)> {
    let mut bounds: Vec<(Proto, BTreeSet<u16>)> = Vec::new();
    for service in rules.iter().flat_map(|r| &r.clauses).flat_map(|c| &c.services) {
        let at = bounds.iter().position(|(p, _)| *p == service.proto).unwrap_or_else(|| {
            bounds.push((service.proto, BTreeSet::from([0])));
            bounds.len() - 1
        });
        bounds[at].1.insert(*service.ports.start());
        bounds[at].1.extend(service.ports.end().checked_add(1));
    }
    let mut next = 1;
    bounds
        .into_iter()
        .map(|(proto, starts)| {
            let starts: Vec<(u16, u32)> = starts.into_iter().zip(next..).collect();
            next += starts.len() as u32;
            (proto, starts)
        })
        .collect()
}

fn columns_of<'a>(
    columns: &'a [(Proto, Vec<(u16, u32)>)],
    service: &'a Service,
) -> impl Iterator<Item = usize> + 'a {
    columns
        .iter()
        .filter(|(proto, _)| *proto == service.proto)
        .flat_map(|(_, starts)| starts)
        .filter(|(start, _)| service.ports.contains(start))
        .map(|(_, column)| *column as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PROTOS: [Proto; 4] = [Proto::TCP, Proto::UDP, Proto::SCTP, Proto::ICMP];

    fn service() -> impl Strategy<Value = Service> {
        let port = prop_oneof![0u16..6, Just(80), Just(65534), Just(65535)];
        (0usize..3, port.clone(), port)
            .prop_map(|(p, a, b)| Service { proto: PROTOS[p], ports: a.min(b)..=a.max(b) })
    }

    fn clause() -> impl Strategy<Value = Clause> {
        let peers = prop_oneof![
            Just(Peers::Any),
            prop::collection::btree_set((0u32..8).prop_map(IdentityId), 0..5).prop_map(Peers::Identities),
        ];
        (peers, prop::collection::vec(service(), 0..4))
            .prop_map(|(peers, services)| Clause { peers, services })
    }

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        let rule = (prop::collection::vec(clause(), 0..4), any::<bool>());
        prop::collection::vec(rule, 0..8).prop_map(|rules| {
            (0..)
                .zip(rules)
                .map(|(i, (clauses, allow))| Rule {
                    id: RuleId(i),
                    action: if allow { Action::Allow } else { Action::Drop },
                    clauses,
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_ordered_list(rules in rules()) {
            let set = RuleSet::new(rules, Decision { rule: RuleId(99), action: Action::Drop });
            for peer in (0..9).map(IdentityId) {
                for proto in PROTOS {
                    for port in (0..8).chain([79, 80, 81, 65533, 65534, 65535]) {
                        prop_assert_eq!(set.decide(peer, proto, port), set.decide_linear(peer, proto, port));
                    }
                }
            }
        }
    }

    #[test]
    fn decisions_change_at_boundaries_only() {
        let clause =
            Clause { peers: Peers::Any, services: vec![Service { proto: Proto::TCP, ports: 80..=443 }] };
        let rule = Rule { id: RuleId(1), action: Action::Allow, clauses: vec![clause] };
        let set = RuleSet::new(vec![rule], Decision { rule: RuleId(0), action: Action::Drop });
        assert_eq!(set.boundaries(Proto::TCP).collect::<Vec<_>>(), [0, 80, 444]);
        assert_eq!(set.boundaries(Proto::UDP).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn no_rule_means_the_default() {
        let default = Decision { rule: RuleId(7), action: Action::Allow };
        let set = RuleSet::new(Vec::new(), default);
        assert_eq!(set.decide(IdentityId(3), Proto::TCP, 80), default);
    }
}
