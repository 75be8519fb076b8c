//! Sets of ends in as few words as they can be said in.

use super::{Cause, Ends, units::Units};
use crate::{
    analysis::{outside, reach::EndKind},
    model::IpFamily,
};
use std::collections::BTreeMap;

/// Whom a row speaks of when it says "all": the ends that are there on the sides that its cause is about.
pub(super) struct Universe<'u, 'a> {
    units: &'u Units<'a>,
    /// Whether an end is of it.
    there: Vec<bool>,
    /// Positions of pods, by namespace.
    namespaces: BTreeMap<&'a str, Vec<usize>>,
    nodes: Vec<usize>,
    outside: Vec<usize>,
}

/// Words for some of the pods.
#[derive(Default)]
struct Group {
    terms: Vec<String>,
    except: Vec<String>,
}

impl Group {
    fn cost(&self) -> usize {
        self.terms.len() + self.except.len()
    }

    fn add(&mut self, other: Self) {
        self.terms.extend(other.terms);
        self.except.extend(other.except);
    }
}

impl<'u, 'a> Universe<'u, 'a> {
    pub(super) fn of(units: &'u Units<'a>, cause: Cause, family: Option<IpFamily>) -> Self {
        let sides: &[usize] = match cause {
            Cause::Rules => &[0, 1],
            Cause::Appears => &[1],
            Cause::Disappears => &[0],
        };
        let there: Vec<bool> =
            units.all.iter().map(|unit| sides.iter().all(|side| unit.is_there(*side, family))).collect();
        let mut universe =
            Self { units, there, namespaces: BTreeMap::new(), nodes: Vec::new(), outside: Vec::new() };
        for (at, unit) in units.all.iter().enumerate().filter(|(at, _)| universe.there[*at]) {
            match (unit.kind, unit.namespace) {
                (EndKind::Pods, Some(namespace)) => {
                    universe.namespaces.entry(namespace).or_default().push(at);
                }
                (EndKind::Nodes, _) => universe.nodes.push(at),
                (EndKind::Outside, _) => universe.outside.push(at),
                _ => {}
            }
        }
        universe
    }

    /// Words for `members`; whether `either` belongs to them makes no difference.
    pub(super) fn describe(&self, members: &[usize], either: Option<usize>) -> Ends {
        let plain = self.say(members);
        let Some(either) = either.filter(|at| self.there[*at] && !members.contains(at)) else { return plain };
        let mut with = members.to_vec();
        with.push(either);
        let with = self.say(&with);
        let cost = |ends: &Ends| ends.names.len() + ends.except.len();
        let general =
            |ends: &Ends| ends.names.iter().any(|n| n.contains(' ') || n.ends_with("/*") || n == EVERYONE);
        if cost(&with) < cost(&plain) || (cost(&with) == cost(&plain) && general(&with)) {
            with
        } else {
            plain
        }
    }

    fn say(&self, members: &[usize]) -> Ends {
        let mut marks = vec![false; self.units.all.len()];
        members.iter().for_each(|at| marks[*at] = true);
        let has = |at: &usize| marks[*at];
        let all_nodes = self.nodes.iter().all(has);
        let all_outside = self.outside.iter().all(has);
        let pods = self.pods(&marks);
        let mut ends = Ends::default();
        let every_pod = pods.terms == [ALL_PODS];
        let whole = match (every_pod, all_nodes && !self.nodes.is_empty()) {
            (true, true) if all_outside && !self.outside.is_empty() => Some(EVERYONE),
            (true, true) => Some("everyone inside"),
            _ => None,
        };
        ends.except = pods.except;
        match whole {
            Some(words) => ends.names.push(words.to_owned()),
            None => {
                ends.names = pods.terms;
                if all_nodes && self.nodes.len() > 1 {
                    ends.names.push("nodes".to_owned());
                } else {
                    ends.names.extend(self.nodes.iter().filter(|at| has(at)).map(|at| self.name(*at)));
                }
            }
        }
        if whole != Some(EVERYONE) && !self.outside.is_empty() {
            if all_outside {
                ends.names.push("outside".to_owned());
            } else if self.outside.iter().any(has) {
                ends.names.extend(self.outside(&marks));
            }
        }
        ends
    }

    fn name(&self, at: usize) -> String {
        self.units.all[at].name.clone()
    }

    /// Pods: those that are meant, or all but those that are not.
    fn pods(&self, marks: &[bool]) -> Group {
        let (mut meant, mut others) = (Group::default(), Group::default());
        let (mut any, mut total) = (false, 0);
        for (namespace, pods) in &self.namespaces {
            let here: Vec<usize> = pods.iter().copied().filter(|at| marks[*at]).collect();
            any |= !here.is_empty();
            total += pods.len();
            meant.add(self.in_namespace(namespace, pods, &here, marks));
            let left: Vec<usize> = pods.iter().copied().filter(|at| !marks[*at]).collect();
            if left.len() == pods.len() && pods.len() > 1 {
                others.terms.push(format!("{namespace}/*"));
            } else {
                others.terms.extend(left.iter().map(|at| self.name(*at)));
            }
        }
        if any && total > 1 && (others.terms.is_empty() || others.terms.len() + 1 < meant.cost()) {
            return Group { terms: vec![ALL_PODS.to_owned()], except: others.terms };
        }
        meant
    }

    fn in_namespace(&self, namespace: &str, pods: &[usize], here: &[usize], marks: &[bool]) -> Group {
        let left = pods.len() - here.len();
        if pods.len() > 1 && (left == 0 || (!here.is_empty() && left + 1 < here.len())) {
            let except = pods.iter().filter(|at| !marks[**at]).map(|at| self.name(*at)).collect();
            return Group { terms: vec![format!("{namespace}/*")], except };
        }
        Group { terms: here.iter().map(|at| self.name(*at)).collect(), except: Vec::new() }
    }

    fn outside(&self, marks: &[bool]) -> Vec<String> {
        let pieces = &self.units.pieces;
        let mut meant = vec![None; pieces.len()];
        for &at in &self.outside {
            if let Some(piece) = self.units.all[at].piece {
                meant[piece] = Some(marks[at]);
            }
        }
        outside::describe(pieces, &meant)
    }
}

const EVERYONE: &str = "everyone";
const ALL_PODS: &str = "all pods";
