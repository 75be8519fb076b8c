//! What changes between two networks: which connections become allowed, and which denied.
//!
//! Both are compiled, and both are asked: every pair of ends, outside addresses included, in both families, at every
//! port where some answer can change. So the answer is complete and exact, not a sample.
//!
//! What always holds:
//!
//! - Ends are compared by name. Addresses that were given out differently make no difference of their own.
//! - What changes because an end is new or gone ([`Cause::Appears`], [`Cause::Disappears`]) is told apart from what
//!   changes between ends that stay ([`Cause::Rules`]), in each family.
//! - Rows that share the answer are one.
//!
//! It speaks of firewalls, as [`reach`](super::reach) does, and leaves out what is always allowed: a pod reaching
//! itself, and nodes reaching the pods that run on them.

mod compare;
mod services;
mod units;
mod words;

use super::{
    judge::{Judge, OpenId},
    reach::{self, EndKind, PortRange},
    text,
    view::View,
};
use crate::model::{IpFamily, Name};
use compare::Block;
use serde::Serialize;
use std::{collections::HashMap, fmt};
use units::{Unit, Units};
use words::Universe;

/// What changes between two networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diff {
    /// Everyone there is, before or after, but addresses outside.
    pub ends: Vec<End>,
    /// Workloads with more pods than before, or fewer, which are treated as the others of their workload are. No row
    /// speaks of these pods.
    pub scaled: Vec<Scaled>,
    /// What becomes allowed or denied, that of [`Cause::Rules`] first.
    pub rows: Vec<Row>,
    /// Services that are new, gone, or lead elsewhere.
    pub services: Vec<ServiceChange>,
}

/// A Service that is new, gone, or leads elsewhere. Whether a client gets there is what rows say of the client and
/// those behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceChange {
    /// "shop/svc/web", "kube-api".
    pub name: String,
    /// Whether it is new or gone.
    pub state: EndState,
    /// Where its ports led: "TCP 80 to shop/web 8080".
    pub before: Vec<String>,
    /// Where they lead now.
    pub after: Vec<String>,
}

/// Pods that are alike, or nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// "shop/web", "nodes".
    pub name: String,
    /// What it is.
    pub kind: EndKind,
    /// Whether it is new or gone.
    pub state: EndState,
    /// The pods it stood for.
    pub pods_before: Vec<String>,
    /// The pods it stands for now.
    pub pods_after: Vec<String>,
}

/// Whether an end is there before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EndState {
    /// It is there before and after.
    Stays,
    /// It was not there before.
    New,
    /// It is not there any more.
    Gone,
}

/// A workload with more or fewer pods of the same kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scaled {
    /// "shop/web".
    pub name: String,
    /// Pods that are new.
    pub new: Vec<String>,
    /// Pods that are gone.
    pub gone: Vec<String>,
}

/// Some of the ends, in as few words as they can be said in.
pub type Ends = Vec<Term>;

/// One end, or several that a word stands for.
///
/// The name is one of [`Diff::ends`], or "everyone", "everyone inside", "all pods", "shop/*" (all pods of a
/// namespace), "*/web" (what is called so in any namespace), "outside", "outside 10.0.0.0/8". Such words speak of those who are there before and after; in rows of
/// an end that is new, of those after, and in rows of an end that is gone, of those before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Term {
    /// Who.
    pub name: String,
    /// Who is not meant though the name says so: ends, "shop/*", "*/web", "*/web but shop/web and data/web", or ranges
    /// outside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.except.is_empty() {
            return Ok(());
        }
        write!(f, " (except {})", text::join(self.except.iter(), ", "))
    }
}

/// What becomes of connections from each of the sources to each of the destinations. A pod's own name on both sides
/// says nothing, nor does a node's to the pods that run on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Whether they become allowed or denied.
    pub change: Direction,
    /// Why.
    pub cause: Cause,
    /// Who opens the connection.
    pub from: Ends,
    /// To whom.
    pub to: Ends,
    /// "IPv4" or "IPv6" where it is so in that family only; absent where it is so in all that a pair has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<&'static str>,
    /// The ports in words: "all", "TCP 80, 443", "all but TCP 80".
    pub ports: String,
    /// Every protocol and port.
    pub everything: bool,
    /// Protocols without ports, ICMP among them.
    pub others: bool,
    /// The ports.
    pub ranges: Vec<PortRange>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// It was denied, and is allowed.
    Allowed,
    /// It was allowed, and is denied.
    Denied,
}

/// Why something changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// Both ends are there before and after, and are treated otherwise.
    Rules,
    /// An end is new.
    Appears,
    /// An end is gone.
    Disappears,
}

impl Diff {
    /// Compares two networks, which may have been made apart.
    pub fn of<'a>(before: &View<'a>, after: &View<'a>) -> Self {
        let units = Units::of([before, after]);
        let mut judge = Judge::default();
        let blocks = compare::compare(&units.all, &mut judge);
        let mut universes: HashMap<(Cause, Option<IpFamily>), Universe<'_, '_>> = HashMap::new();
        let mut rows: Vec<Row> = Vec::new();
        for block in blocks {
            let universe = universes
                .entry((block.change.cause, block.family))
                .or_insert_with(|| Universe::of(&units, block.change.cause, block.family));
            rows.extend(row(&block, &units, universe, &judge));
        }
        let key = |row: &Row| (row.cause, row.change, row.to.clone(), row.from.clone(), row.ports.clone());
        rows.sort_by_cached_key(key);
        let ends = units.all.iter().filter(|unit| unit.kind != EndKind::Outside).map(end).collect();
        Self { ends, scaled: units.scaled, rows, services: services::compare([before, after]) }
    }

    /// Whether nobody came or went, everyone reaches whom they reached, and Services lead where they led.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.services.is_empty()
            && self.scaled.is_empty()
            && self.ends.iter().all(|end| end.state == EndState::Stays)
    }
}

fn end(unit: &Unit<'_>) -> End {
    let [before, after] = unit.pods.each_ref();
    let names = |pods: &[&Name]| pods.iter().map(ToString::to_string).collect();
    End {
        name: unit.name.clone(),
        kind: unit.kind,
        state: unit.state(),
        pods_before: names(before),
        pods_after: names(after),
    }
}

/// A block in words; nothing if it is about a pod and itself alone.
fn row(block: &Block, units: &Units<'_>, universe: &Universe<'_, '_>, judge: &Judge<'_>) -> Option<Row> {
    let single = |of: &[usize]| match of {
        [only] if units.all[*only].is_single() => Some(*only),
        _ => None,
    };
    let (from, to) = (single(&block.sources), single(&block.destinations));
    if from.is_some() && from == to {
        return None;
    }
    let open = judge.opened(block.change.ports);
    Some(Row {
        change: block.change.direction,
        cause: block.change.cause,
        from: universe.describe(&block.sources, to),
        to: universe.describe(&block.destinations, from),
        family: block.family.map(reach::family_name),
        ports: open.in_short(),
        everything: block.change.ports == OpenId::EVERYTHING,
        others: open.others,
        ranges: reach::ranges(open),
    })
}

#[cfg(test)]
mod tests;
