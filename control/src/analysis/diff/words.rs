//! Sets of ends in as few words as they can be said in.

use super::{Cause, Ends, Term, units::Units};
use crate::{
    analysis::{outside, reach::EndKind, text},
    model::IpFamily,
};
use std::collections::{BTreeMap, BTreeSet};

/// Whom a row speaks of when it says "all": the ends that are there on the sides that its cause is about.
pub(super) struct Universe<'u, 'a> {
    units: &'u Units<'a>,
    /// Whether an end is of it.
    there: Vec<bool>,
    /// Positions of pods, by namespace.
    namespaces: BTreeMap<&'a str, Vec<usize>>,
    /// The same, by what they are called in their namespace.
    workloads: BTreeMap<&'u str, Vec<usize>>,
    nodes: Vec<usize>,
    outside: Vec<usize>,
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
        let mut universe = Self {
            units,
            there,
            namespaces: BTreeMap::new(),
            workloads: BTreeMap::new(),
            nodes: Vec::new(),
            outside: Vec::new(),
        };
        for (at, unit) in units.all.iter().enumerate().filter(|(at, _)| universe.there[*at]) {
            match (unit.kind, unit.namespace) {
                (EndKind::Pods, Some(namespace)) => {
                    universe.namespaces.entry(namespace).or_default().push(at);
                    let workload = unit.name.split_once('/').map_or(&*unit.name, |(_, workload)| workload);
                    universe.workloads.entry(workload).or_default().push(at);
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
        if cost(&with) < cost(&plain) { with } else { plain }
    }

    fn say(&self, members: &[usize]) -> Ends {
        let mut marks = vec![false; self.units.all.len()];
        members.iter().for_each(|at| marks[*at] = true);
        let has = |at: &usize| marks[*at];
        let all_nodes = !self.nodes.is_empty() && self.nodes.iter().all(has);
        let all_outside = !self.outside.is_empty() && self.outside.iter().all(has);
        let mut ends = self.pods(&marks);
        let whole = match &mut ends[..] {
            [all] if all.name == ALL_PODS && all_nodes => Some(all),
            _ => None,
        };
        match whole {
            Some(all) if all_outside => {
                all.name = EVERYONE.to_owned();
                return ends;
            }
            Some(all) => all.name = "everyone inside".to_owned(),
            None if all_nodes && self.nodes.len() > 1 => ends.push(plain("nodes".to_owned())),
            None => ends.extend(self.nodes.iter().filter(|at| has(at)).map(|at| plain(self.name(*at)))),
        }
        if all_outside {
            ends.push(plain("outside".to_owned()));
        } else if self.outside.iter().any(has) {
            ends.extend(self.outside(&marks));
        }
        ends
    }

    fn name(&self, at: usize) -> String {
        self.units.all[at].name.clone()
    }

    /// Pods: those that are meant, or all but those that are not.
    fn pods(&self, marks: &[bool]) -> Ends {
        let (mut meant, mut others) = (Ends::new(), Ends::new());
        let (mut single, mut single_others) = (Vec::new(), Vec::new());
        let mut total = 0;
        for (namespace, pods) in &self.namespaces {
            let (here, left): (Vec<usize>, Vec<usize>) = pods.iter().partition(|at| marks[**at]);
            total += pods.len();
            let whole = format!("{namespace}/*");
            // A namespace with exceptions is worth its words where those are few.
            if pods.len() > 1 && (left.is_empty() || left.len() + 1 < here.len()) {
                meant.push(Term { name: whole.clone(), except: self.names(&left) });
            } else {
                single.extend(here);
            }
            if left.len() == pods.len() && pods.len() > 1 {
                others.push(plain(whole));
            } else {
                single_others.extend(left);
            }
        }
        meant.extend(self.by_workload(single, marks, true));
        others.extend(self.by_workload(single_others, marks, false));
        if !meant.is_empty() && total > 1 && (others.is_empty() || cost(&others) + 1 < cost(&meant)) {
            let but = |term: Term| match &term.except[..] {
                [] => term.name,
                except => format!("{} but {}", term.name, text::join(except.iter(), " and ")),
            };
            return vec![Term { name: ALL_PODS.to_owned(), except: others.into_iter().map(but).collect() }];
        }
        meant.sort();
        meant
    }

    fn names(&self, of: &[usize]) -> Vec<String> {
        of.iter().map(|at| self.name(*at)).collect()
    }

    /// Pods by name, those of which are meant (or not) what has the same name in nearly all namespaces as one term.
    fn by_workload(&self, single: Vec<usize>, marks: &[bool], meant: bool) -> Ends {
        let mut terms = Ends::new();
        let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for at in single {
            let name = &*self.units.all[at].name;
            by_name.entry(name.split_once('/').map_or(name, |(_, workload)| workload)).or_default().push(at);
        }
        for (workload, single) in by_name {
            let called = self.workloads.get(workload).map(Vec::as_slice).unwrap_or_default();
            let left: Vec<usize> = called.iter().copied().filter(|at| marks[*at] != meant).collect();
            if single.len() > 2 && left.len() + 1 < single.len() {
                terms.push(Term { name: format!("*/{workload}"), except: self.names(&left) });
            } else {
                terms.extend(self.names(&single).into_iter().map(plain));
            }
        }
        terms
    }

    fn outside(&self, marks: &[bool]) -> Ends {
        let pieces = &self.units.pieces;
        let mut meant = vec![None; pieces.len()];
        let mut families = BTreeSet::new();
        for &at in &self.outside {
            if let Some(piece) = self.units.all[at].piece {
                meant[piece] = Some(marks[at]);
                families.insert(pieces[piece].range.addr().is_ipv4());
            }
        }
        let terms = outside::describe(pieces, &meant).into_iter().map(|(range, except)| {
            // Where there is one family only, it goes without saying.
            let all = range.prefix_len() == 0 && families.len() == 1;
            let name =
                if all { "outside".to_owned() } else { format!("outside {}", outside::name_of(&range)) };
            Term { name, except: except.iter().map(outside::name_of).collect() }
        });
        terms.collect()
    }
}

fn plain(name: String) -> Term {
    Term { name, except: Vec::new() }
}

/// How many names it takes to say it.
fn cost(ends: &Ends) -> usize {
    ends.iter().map(|term| 1 + term.except.len()).sum()
}

const EVERYONE: &str = "everyone";
const ALL_PODS: &str = "all pods";
