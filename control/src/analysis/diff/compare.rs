//! The comparison: which sources' connections to which destinations are judged otherwise, exactly.
//!
//! ```text
//!   sources ─▶ classes ─▶ groups with the same guards of what they send, before and after
//!                            │
//!   destinations ─▶ classes ─▶ groups with the same guards of what reaches them
//!                            │
//!               a group of sources falls into those that the destination's rules name, and all others
//! ```
//!
//! So a pair of groups is asked about once for all sources that no rule tells apart, and what is asked grows with
//! the number of groups and of names in rules, not with the number of pairs.

use super::{Cause, Direction, units::Unit};
use crate::{
    analysis::{
        ends::Standing,
        judge::{Guard, Judge, OpenId, place_of},
        reach::EndKind,
    },
    model::IpFamily,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::Hash,
};
use supernet_dataplane::id::IdentityId;

/// What becomes of a connection between two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Change {
    pub(super) cause: Cause,
    pub(super) direction: Direction,
    /// The ports.
    pub(super) ports: OpenId,
}

/// Sources and destinations by position: each of these with each of those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) change: Change,
    /// `None`: in every family that a pair has.
    pub(super) family: Option<IpFamily>,
    pub(super) sources: Vec<usize>,
    pub(super) destinations: Vec<usize>,
}

/// How an end is seen in one family, on both sides.
#[derive(Clone, Copy)]
struct Seat<'a> {
    ids: [Option<IdentityId>; 2],
    guards: [Guard<'a>; 2],
    outside: bool,
}

impl<'a> Seat<'a> {
    fn of(unit: &Unit<'a>, family: IpFamily, guard: impl Fn(&Standing<'a>) -> Guard<'a>) -> Self {
        let side = |side: usize| unit.standing[side].as_ref();
        Self {
            ids: [0, 1].map(|at| side(at).and_then(|s| s.identities.get(&family).copied())),
            guards: [0, 1].map(|at| side(at).and_then(&guard)),
            outside: unit.kind == EndKind::Outside,
        }
    }

    /// What it has in common with others of its group.
    fn group(&self) -> ([bool; 2], [usize; 2], bool) {
        (self.ids.map(|id| id.is_some()), self.guards.map(place_of), self.outside)
    }
}

const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

/// All that is judged otherwise after than before.
pub(super) fn compare<'a>(units: &[Unit<'a>], judge: &mut Judge<'a>) -> Vec<Block> {
    let role = |guard: fn(&Standing<'a>) -> Guard<'a>| {
        let key = move |unit: &Unit<'a>| {
            let sides = unit.standing.each_ref();
            let seen = sides.map(|s| s.as_ref().map(|s| (s.identities.clone(), place_of(guard(s)))));
            (unit.kind == EndKind::Outside, seen)
        };
        grouped(units.iter().map(key))
    };
    let (sources, destinations) = (role(|s| s.egress), role(|s| s.ingress));
    let mut seats: Vec<[Vec<Seat<'a>>; 2]> = Vec::new();
    let mut changes: Vec<Changes> = Vec::new();
    for family in FAMILIES {
        let from = sources.iter().map(|class| Seat::of(&units[class[0]], family, |s| s.egress)).collect();
        let to = destinations.iter().map(|class| Seat::of(&units[class[0]], family, |s| s.ingress)).collect();
        changes.push(in_family(family, &from, &to, judge));
        seats.push([from, to]);
    }
    let shares = |family: usize, from: usize, to: usize| {
        let (from, to) = (&seats[family][0][from], &seats[family][1][to]);
        (0..2).any(|side| from.ids[side].is_some() && to.ids[side].is_some())
    };
    let mut blocks: BTreeMap<(Change, Option<IpFamily>), Lists> = BTreeMap::new();
    for to in 0..destinations.len() {
        let kinds: BTreeSet<Change> = changes.iter().flat_map(|c| c[to].keys()).copied().collect();
        for change in kinds {
            let lists: Vec<BTreeSet<usize>> = changes
                .iter_mut()
                .map(|c| c[to].remove(&change).unwrap_or_default().into_iter().collect())
                .collect();
            let everywhere = |family: usize, from: usize| {
                let other = 1 - family;
                lists[other].contains(&from) || !shares(other, from, to)
            };
            let both: BTreeSet<usize> = (0..2)
                .flat_map(|family| {
                    lists[family].iter().copied().filter(move |from| everywhere(family, *from))
                })
                .collect();
            for (family, list) in lists.iter().enumerate() {
                let only: Vec<usize> = list.difference(&both).copied().collect();
                if !only.is_empty() {
                    blocks.entry((change, Some(FAMILIES[family]))).or_default().push((only, to));
                }
            }
            if !both.is_empty() {
                blocks.entry((change, None)).or_default().push((both.into_iter().collect(), to));
            }
        }
    }
    let members = |classes: &[Vec<usize>], of: &[usize]| {
        let mut members: Vec<usize> = of.iter().flat_map(|class| &classes[*class]).copied().collect();
        members.sort_unstable();
        members
    };
    let mut all = Vec::new();
    for ((change, family), lists) in blocks {
        for (from, to) in fewest(lists) {
            let (sources, destinations) = (members(&sources, &from), members(&destinations, &to));
            all.push(Block { change, family, sources, destinations });
        }
    }
    all
}

/// The source classes of each destination class.
type Lists = Vec<(Vec<usize>, usize)>;

/// With more pairs than this it is not tried whether they are fewer rows the other way round.
const MOST_TURNED: usize = 1 << 21;

/// Destinations that have the same sources, or sources that have the same destinations: whichever is shorter.
fn fewest(lists: Lists) -> Vec<(Vec<usize>, Vec<usize>)> {
    let pairs: usize = lists.iter().map(|(from, _)| from.len()).sum();
    let mut turned: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    if pairs <= MOST_TURNED {
        for (from, to) in &lists {
            for from in from {
                turned.entry(*from).or_default().push(*to);
            }
        }
    }
    let by_sources = same(lists.into_iter());
    if pairs > MOST_TURNED {
        return by_sources;
    }
    let by_destinations = same(turned.into_iter().map(|(from, to)| (to, from)));
    if by_destinations.len() < by_sources.len() {
        by_destinations.into_iter().map(|(to, from)| (from, to)).collect()
    } else {
        by_sources
    }
}

/// Keys with all that have them, in the order of the first.
fn same(lists: impl Iterator<Item = (Vec<usize>, usize)>) -> Vec<(Vec<usize>, Vec<usize>)> {
    let mut at: HashMap<Vec<usize>, usize> = HashMap::new();
    let mut found: Vec<Vec<usize>> = Vec::new();
    for (key, having) in lists {
        let next = found.len();
        let at = *at.entry(key).or_insert(next);
        if at == next {
            found.push(Vec::new());
        }
        found[at].push(having);
    }
    let mut all: Vec<(usize, Vec<usize>)> = at.into_iter().map(|(key, at)| (at, key)).collect();
    all.sort_unstable();
    all.into_iter().zip(found).map(|((_, key), found)| (key, found)).collect()
}

/// Of each destination class, the source classes by what becomes of their connections to it.
type Changes = Vec<HashMap<Change, Vec<usize>>>;

fn in_family<'a>(
    family: IpFamily,
    sources: &Vec<Seat<'a>>,
    destinations: &Vec<Seat<'a>>,
    judge: &mut Judge<'a>,
) -> Changes {
    let groups = grouped(sources.iter().map(Seat::group));
    let mut group_of = vec![0; sources.len()];
    for (group, members) in groups.iter().enumerate() {
        members.iter().for_each(|member| group_of[*member] = group);
    }
    let mut by_id: [HashMap<IdentityId, Vec<usize>>; 2] = Default::default();
    for (at, seat) in sources.iter().enumerate() {
        for side in [0, 1] {
            if let Some(id) = seat.ids[side] {
                by_id[side].entry(id).or_default().push(at);
            }
        }
    }
    let mut changes: Changes = vec![HashMap::new(); destinations.len()];
    for alike in grouped(destinations.iter().map(Seat::group)) {
        let guards = destinations[alike[0]].guards;
        let mut parts = Parts::of(family, &groups, &group_of, sources, &by_id, guards, judge);
        for to in alike {
            let destination = &destinations[to];
            for part in &mut parts.all {
                let source = &sources[groups[part.group][0]];
                if source.outside && destination.outside {
                    continue;
                }
                let open = [0, 1].map(|side| match (source.ids[side], destination.ids[side]) {
                    (Some(_), Some(id)) => {
                        let sent = judge.passes(family, source.guards[side], id);
                        judge.and(sent, part.received[side])
                    }
                    _ => OpenId::NOTHING,
                });
                if open[0] == open[1] {
                    continue;
                }
                let there = |side: usize| source.ids[side].is_some() && destination.ids[side].is_some();
                let cause = match (there(0), there(1)) {
                    (false, _) => Cause::Appears,
                    (_, false) => Cause::Disappears,
                    _ => Cause::Rules,
                };
                let members = part.members(&groups, &parts.named);
                for (direction, here, there) in
                    [(Direction::Allowed, open[1], open[0]), (Direction::Denied, open[0], open[1])]
                {
                    let ports = judge.without(here, there);
                    if ports != OpenId::NOTHING && !members.is_empty() {
                        let change = Change { cause, direction, ports };
                        changes[to].entry(change).or_default().extend(members);
                    }
                }
            }
        }
    }
    changes
}

/// Source classes, divided as the guards of a destination and their own divide them.
struct Parts {
    all: Vec<Part>,
    /// Those that a guard of the destination names.
    named: HashSet<usize>,
}

struct Part {
    group: usize,
    /// What the destination lets in of them, before and after.
    received: [OpenId; 2],
    /// Who they are; `None`: all of the group that are not named, not yet counted up.
    members: Option<Vec<usize>>,
}

impl Parts {
    fn of<'a>(
        family: IpFamily,
        groups: &[Vec<usize>],
        group_of: &[usize],
        sources: &[Seat<'a>],
        by_id: &[HashMap<IdentityId, Vec<usize>>; 2],
        guards: [Guard<'a>; 2],
        judge: &mut Judge<'a>,
    ) -> Self {
        let mut named: HashSet<usize> = HashSet::new();
        for side in [0, 1] {
            for id in judge.named(family, guards[side]) {
                named.extend(by_id[side].get(&id).into_iter().flatten());
            }
        }
        let received = guards.map(|guard| judge.unnamed(family, guard));
        let mut all: Vec<Part> =
            (0..groups.len()).map(|group| Part { group, received, members: None }).collect();
        let mut apart: BTreeMap<(usize, [OpenId; 2]), Vec<usize>> = BTreeMap::new();
        for &at in &named {
            let received = [0, 1].map(|side: usize| match sources[at].ids[side] {
                Some(id) => judge.passes(family, guards[side], id),
                None => OpenId::NOTHING,
            });
            apart.entry((group_of[at], received)).or_default().push(at);
        }
        let apart = apart.into_iter();
        all.extend(apart.map(|((group, received), members)| Part {
            group,
            received,
            members: Some(members),
        }));
        Self { all, named }
    }
}

impl Part {
    fn members(&mut self, groups: &[Vec<usize>], named: &HashSet<usize>) -> &[usize] {
        let group = &groups[self.group];
        self.members.get_or_insert_with(|| group.iter().copied().filter(|at| !named.contains(at)).collect())
    }
}

/// Positions of what is alike, in order of the first.
fn grouped<K: Eq + Hash>(keys: impl Iterator<Item = K>) -> Vec<Vec<usize>> {
    let mut at: HashMap<K, usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (position, key) in keys.enumerate() {
        let next = groups.len();
        let at = *at.entry(key).or_insert(next);
        if at == next {
            groups.push(Vec::new());
        }
        groups[at].push(position);
    }
    groups
}
