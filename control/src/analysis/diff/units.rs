//! Who there is before and after: every end once, with how the firewall saw it and sees it.
//!
//! Ends are matched by name, never by address. A workload's pods get new names when its template changes, so what
//! no pod of the same name is left for is matched in order with the other pods of its workload.

use super::{EndState, Scaled};
use crate::{
    analysis::{
        ends::{self, Callings, Class, Standing, Workload},
        outside::{self, Piece},
        reach::EndKind,
        view::View,
    },
    model::{IpFamily, Name},
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Ends that are alike before and alike after.
pub(super) struct Unit<'a> {
    pub(super) name: String,
    pub(super) kind: EndKind,
    pub(super) namespace: Option<&'a str>,
    /// The pods it stands for, before and after.
    pub(super) pods: [Vec<&'a Name>; 2],
    /// How the firewall sees it, before and after; `None`: it is not there.
    pub(super) standing: [Option<Standing<'a>>; 2],
    /// Of an end outside, its piece of the address space.
    pub(super) piece: Option<usize>,
}

impl Unit<'_> {
    pub(super) fn state(&self) -> EndState {
        match &self.standing {
            [None, _] => EndState::New,
            [_, None] => EndState::Gone,
            _ => EndState::Stays,
        }
    }

    /// Whether it is there on a side, in a family (`None`: in any).
    pub(super) fn is_there(&self, side: usize, family: Option<IpFamily>) -> bool {
        let has = |standing: &Standing<'_>| family.is_none_or(|f| standing.identities.contains_key(&f));
        self.standing[side].as_ref().is_some_and(has)
    }

    /// Whether it is one pod, and no connection is between two of it.
    pub(super) fn is_single(&self) -> bool {
        self.kind == EndKind::Pods && self.pods.iter().all(|pods| pods.len() < 2)
    }
}

/// Everyone, before and after.
pub(super) struct Units<'a> {
    pub(super) all: Vec<Unit<'a>>,
    /// The address space, cut for both sides.
    pub(super) pieces: Vec<Piece>,
    /// Workloads that only have more pods, or fewer, of the same kind.
    pub(super) scaled: Vec<Scaled>,
}

impl<'a> Units<'a> {
    pub(super) fn of(sides: [&View<'a>; 2]) -> Self {
        let (mut all, scaled) = pods(sides);
        all.extend(nodes(sides));
        let (outside, pieces) = outsides(sides, &all);
        all.extend(outside);
        Self { all, pieces, scaled }
    }
}

/// A pod before and after, by name.
type Pair<'a> = [Option<&'a Name>; 2];

fn pods<'a>(sides: [&View<'a>; 2]) -> (Vec<Unit<'a>>, Vec<Scaled>) {
    let workloads = sides.map(|side| ends::workloads(&side.places));
    let [before, after] = &workloads;
    let keys: BTreeSet<Workload<'_>> = before.keys().chain(after.keys()).copied().collect();
    let callings = Callings::of(keys.iter().copied());
    let stays = |name: &Name| {
        sides.iter().all(|side| side.places.pods.get(name).is_some_and(|place| place.segment.is_some()))
    };
    let (mut units, mut scaled) = (Vec::new(), Vec::new());
    for key in keys {
        let there = workloads.each_ref().map(|side| side.get(&key).map(Vec::as_slice).unwrap_or_default());
        // A pod of the same name may be of another workload now: it is told with that.
        let same = there[1].iter().filter(|name| stays(name)).map(|name| [Some(*name), Some(*name)]);
        let mut pairs: Vec<Pair<'a>> = same.collect();
        let [left_before, left_after] =
            there.map(|names| names.iter().copied().filter(|name| !stays(name)).collect::<Vec<_>>());
        for at in 0..left_before.len().max(left_after.len()) {
            pairs.push([left_before.get(at).copied(), left_after.get(at).copied()]);
        }
        let workload = callings.call(key);
        let (more, found) = alike(sides, key, workload, pairs);
        units.extend(found);
        if !more.iter().all(Vec::is_empty) {
            let [gone, new] = more.map(|pods| pods.into_iter().map(ToString::to_string).collect());
            scaled.push(Scaled { name: format!("{}/{workload}", key.0), new, gone });
        }
    }
    units.sort_by(|a, b| a.name.cmp(&b.name));
    (units, scaled)
}

/// A workload's pods by what they are to the firewall before and after. First those that are only on one side,
/// and there like others of the workload that are on both.
fn alike<'a>(
    sides: [&View<'a>; 2],
    (namespace, _): Workload<'a>,
    workload: &str,
    pairs: Vec<Pair<'a>>,
) -> ([Vec<&'a Name>; 2], Vec<Unit<'a>>) {
    let standing = |side: usize, name: &Name| {
        let view = sides[side];
        view.places.pods.get(name).map(|place| Standing::of(view.snapshot, place.addresses))
    };
    let seen: Vec<(Pair<'a>, [Option<Standing<'a>>; 2])> = pairs
        .into_iter()
        .map(|pair| (pair, [0, 1].map(|side| pair[side].and_then(|name| standing(side, name)))))
        .collect();
    let on_both = |side: usize| -> HashSet<Class> {
        let both = seen.iter().filter(|(pair, _)| pair.iter().all(Option::is_some));
        both.filter_map(|(_, standing)| Some(standing[side].as_ref()?.class())).collect()
    };
    let known = [on_both(0), on_both(1)];
    let mut more = [Vec::new(), Vec::new()];
    let mut groups: Vec<Unit<'a>> = Vec::new();
    let mut at: HashMap<[Option<Class>; 2], usize> = HashMap::new();
    for (pair, standing) in seen {
        let class = standing.each_ref().map(|side| side.as_ref().map(Standing::class));
        let alone = match (pair, &class) {
            ([Some(gone), None], [Some(class), _]) if known[0].contains(class) => Some((0, gone)),
            ([None, Some(new)], [_, Some(class)]) if known[1].contains(class) => Some((1, new)),
            _ => None,
        };
        if let Some((side, name)) = alone {
            more[side].push(name);
            continue;
        }
        let next = groups.len();
        let at = *at.entry(class).or_insert(next);
        if at == next {
            groups.push(Unit {
                name: String::new(),
                kind: EndKind::Pods,
                namespace: Some(namespace),
                pods: [Vec::new(), Vec::new()],
                standing,
                piece: None,
            });
        }
        for side in [0, 1] {
            groups[at].pods[side].extend(pair[side]);
        }
    }
    let count = |unit: &Unit<'_>| unit.pods[0].len().max(unit.pods[1].len());
    let all: usize = groups.iter().map(count).sum();
    for unit in &mut groups {
        let first =
            unit.pods[1].first().or(unit.pods[0].first()).map(ToString::to_string).unwrap_or_default();
        unit.name = ends::call_some(namespace, workload, &first, count(unit), all);
    }
    (more, groups)
}

/// All nodes that stay, as long as they are alike; else one by one.
fn nodes<'a>(sides: [&View<'a>; 2]) -> Vec<Unit<'a>> {
    let names: BTreeSet<&str> =
        sides.iter().flat_map(|side| side.addressing.nodes.keys()).map(String::as_str).collect();
    let mut units: Vec<Unit<'a>> = Vec::new();
    for name in names {
        let standing = sides.map(|side| {
            let addresses = side.addressing.nodes.get(name).filter(|a| !a.is_empty())?;
            Some(Standing::of(side.snapshot, addresses))
        });
        if standing.iter().any(Option::is_some) {
            units.push(Unit {
                name: format!("node/{name}"),
                kind: EndKind::Nodes,
                namespace: None,
                pods: [Vec::new(), Vec::new()],
                standing,
                piece: None,
            });
        }
    }
    let stay = |unit: &Unit<'_>| unit.standing.iter().all(Option::is_some);
    let class = |unit: &Unit<'_>| unit.standing.each_ref().map(|s| s.as_ref().map(Standing::class));
    let classes: HashSet<_> = units.iter().filter(|unit| stay(unit)).map(class).collect();
    if classes.len() == 1 && units.iter().filter(|unit| stay(unit)).count() > 1 {
        let mut first = true;
        units.retain_mut(|unit| {
            if !stay(unit) {
                return true;
            }
            unit.name = "nodes".to_owned();
            std::mem::take(&mut first)
        });
    }
    units
}

/// The pieces of the address space that are outside on some side, in families that somebody inside has.
fn outsides<'a>(sides: [&View<'a>; 2], inside: &[Unit<'a>]) -> (Vec<Unit<'a>>, Vec<Piece>) {
    let cuts: BTreeSet<_> = sides.iter().flat_map(|side| outside::cuts(side.snapshot)).collect();
    let pieces = outside::pieces(cuts);
    let mut units = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let Some(address) = piece.address else { continue };
        let family = IpFamily::of(address);
        let standing = [0, 1].map(|side| {
            let there = outside::is_outside(sides[side].snapshot, address)
                && inside.iter().any(|unit| unit.is_there(side, Some(family)));
            let id = sides[side].snapshot.identities.of(address);
            there.then(|| Standing::outside(BTreeMap::from([(family, id)])))
        });
        if standing.iter().any(Option::is_some) {
            let name = format!("outside {}", piece.range);
            let pods = [Vec::new(), Vec::new()];
            let piece = Some(at);
            units.push(Unit { name, kind: EndKind::Outside, namespace: None, pods, standing, piece });
        }
    }
    (units, pieces)
}
