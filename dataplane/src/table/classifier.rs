//! Ordered rules, compiled to a table.
//!
//! ```text
//!   peer address ─▶ identity ─▶ row ─┐
//!                                    ├─▶ cell ─▶ rule
//!   protocol, port ─────────▶ column ┘
//! ```
//!
//! The first rule that matches decides, or says that this set has no more to say; where none matches it has nothing
//! to say either, and whoever asks goes on elsewhere ([`Firewall`](super::firewall::Firewall)). Identities that every
//! clause treats alike share a row, ports that every clause treats alike share a column, so a look-up costs one
//! probe, one search among few and one load, however many rules there are. [`RuleSet::decide_linear`] is the slow
//! oracle.
//!
//! A set of many rules with little in common would have rows of thousands of cells that mostly say the same: it has a
//! sparse table instead, of what each row says alone.
//!
//! Rows and columns are a [`Shape`], and rule sets of the same shape share it ([`Shapes`]): of a thousand
//! namespaces with the same policy each has cells of its own, a line of the caches or two, and no more.

mod sparse;

use super::{exact::Exact, ranges::Ranges};
use crate::{
    id::{IdentityId, RuleId},
    wire::Proto,
};
use foldhash::{HashMap, HashMapExt};
use sparse::Sparse;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

/// What a rule does with a packet it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Let it pass.
    Allow,
    /// Drop it without a word.
    Drop,
    /// Drop it and tell its sender: TCP gets a reset, everything else an ICMP error, administratively prohibited
    /// (RFC 1812, 5.2.7.1; RFC 4443, 3.1).
    Reject,
}

impl Action {
    /// Whether packets pass.
    pub fn allows(self) -> bool {
        self == Self::Allow
    }
}

/// What a rule that matches says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// This becomes of the packet.
    Decide(Action),
    /// The rules after it are passed over: the packet goes on behind this rule set.
    Pass,
}

/// Which peers a clause speaks of: destinations in an egress rule, sources in an ingress rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peers {
    /// Every address.
    Any,
    /// Addresses of these identities.
    Identities(Arc<BTreeSet<IdentityId>>),
    /// Addresses of any identity but these.
    Except(Arc<BTreeSet<IdentityId>>),
}

impl Peers {
    /// Addresses of these identities.
    pub fn of(identities: impl IntoIterator<Item = IdentityId>) -> Self {
        Self::Identities(Arc::new(identities.into_iter().collect()))
    }

    fn matches(&self, peer: IdentityId) -> bool {
        match self {
            Self::Any => true,
            Self::Identities(ids) => ids.contains(&peer),
            Self::Except(ids) => !ids.contains(&peer),
        }
    }
}

/// A protocol and a range of destination ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Service {
    /// The protocol.
    pub proto: Proto,
    /// Destination ports; of ICMP and ICMPv6, types and codes as [`icmp_port`] puts them. Other protocols without
    /// ports match only the full range.
    pub ports: RangeInclusive<u16>,
}

/// What stands for the destination port in ICMP and ICMPv6: type and code.
pub const fn icmp_port(kind: u8, code: u8) -> u16 {
    u16::from_be_bytes([kind, code])
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

    /// Whether it matches a connection with `peer` to `port`.
    pub fn matches(&self, peer: IdentityId, proto: Proto, port: u16) -> bool {
        self.peers.matches(peer)
            && (self.services.is_empty() || self.services.iter().any(|s| s.matches(proto, port)))
    }
}

/// A firewall rule: matches when any clause does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Its name, and where its hits are counted.
    pub id: RuleId,
    /// What it does.
    pub effect: Effect,
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

impl Rule {
    /// Does this to everything.
    pub fn every(id: RuleId, action: Action) -> Self {
        Self { id, effect: Effect::Decide(action), clauses: vec![Clause::ANY] }
    }

    fn decision(&self) -> Option<Decision> {
        match self.effect {
            Effect::Decide(action) => Some(Decision { rule: self.id, action }),
            Effect::Pass => None,
        }
    }
}

/// An ordered rule list, compiled.
#[derive(Debug, Clone)]
pub struct RuleSet {
    shape: Arc<Shape>,
    /// As the shape says; `None` where it says nothing.
    cells: Box<[Option<Decision>]>,
    rules: Vec<Rule>,
}

/// Which cell decides.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Rows x columns.
    Dense(Dense),
    /// The cell of each rule, behind one for none.
    Sparse(Sparse),
}

/// Rows and columns.
#[derive(Debug)]
pub(crate) struct Dense {
    /// The row of identities that some clause names, where it is not 0.
    rows: Exact<u32, u32>,
    /// From which protocol and port on which column holds; columns that decide alike
    /// in every row are one.
    columns: Columns,
    width: u32,
}

/// From which number on which column holds.
type Columns = Ranges<ServiceKey, u32, 16>;

/// Protocol and port as one number, in order.
type ServiceKey = u32;

fn service_key(proto: Proto, port: u16) -> ServiceKey {
    u32::from(proto.0) << 16 | u32::from(port)
}

impl Shape {
    /// The cell that decides for a connection with `peer` to `port`.
    #[inline]
    pub(crate) fn cell(&self, peer: IdentityId, proto: Proto, port: u16) -> usize {
        match self {
            Self::Dense(dense) => {
                let row = dense.rows.get(peer.0);
                let column = dense.columns.get(service_key(proto, port));
                (row * dense.width + column) as usize
            }
            Self::Sparse(sparse) => sparse.rule(peer, proto, port) as usize,
        }
    }
}

/// Cells that a dense table has at most: more would be of no use to a cache.
const MOST_CELLS: usize = 1 << 14;

/// Shapes by what is in them: identities in order, each with its row, and the columns.
#[derive(Debug, Default)]
pub struct Shapes(HashMap<ShapeKey, Arc<Shape>>);

type ShapeKey = (Vec<(u32, u32)>, Columns);

impl PartialEq for RuleSet {
    fn eq(&self, other: &Self) -> bool {
        // The rest is computed from them.
        self.rules == other.rules
    }
}

// Lets an `Arc` of it be compared by address first.
impl Eq for RuleSet {}

impl RuleSet {
    /// Compiles `rules`, in order.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self::sharing(rules, &mut Shapes::default())
    }

    /// The same for one of many, which may have the same shape.
    pub fn sharing(rules: Vec<Rule>, shapes: &mut Shapes) -> Self {
        Self::compile(rules, shapes, MOST_CELLS)
    }

    fn compile(rules: Vec<Rule>, shapes: &mut Shapes, most_cells: usize) -> Self {
        let clauses: Vec<(usize, &Clause)> =
            rules.iter().enumerate().flat_map(|(r, rule)| rule.clauses.iter().map(move |c| (r, c))).collect();
        let columns = columns(&rules);
        let width = 1 + columns.values().copied().max().unwrap_or(0);
        let (rows, row_clauses) = rows(&clauses);

        if (width as usize).saturating_mul(row_clauses.len()) > most_cells {
            let shape = Arc::new(Shape::Sparse(Sparse::new(&clauses, &rows, &row_clauses)));
            let cells = std::iter::once(None).chain(rules.iter().map(Rule::decision)).collect();
            return Self { shape, cells, rules };
        }
        let unnamed: Vec<u32> = (0..clauses.len() as u32)
            .filter(|&c| !matches!(clauses[c as usize].1.peers, Peers::Identities(_)))
            .collect();
        let mut cells = vec![None; width as usize * row_clauses.len()];
        for (cells, naming) in cells.chunks_mut(width as usize).zip(&row_clauses) {
            // A clause that names an identity to except it does not hold for it.
            let excepting = |c: &u32| matches!(clauses[*c as usize].1.peers, Peers::Except(_));
            let positive = naming.iter().filter(|c| !excepting(c));
            let others = unnamed.iter().filter(|c| !(excepting(c) && naming.contains(c)));
            let mut here: Vec<u32> = positive.chain(others).copied().collect();
            // Later clauses first, so that the first rule to match is the last to write.
            here.sort_unstable_by(|a, b| b.cmp(a));
            for c in here {
                let (rule, clause) = clauses[c as usize];
                let decision = rules[rule].decision();
                if clause.services.is_empty() {
                    cells.fill(decision);
                }
                for service in &clause.services {
                    let [first, last] = [service.ports.start(), service.ports.end()];
                    if first <= last {
                        let covered = columns
                            .range(service_key(service.proto, *first)..=service_key(service.proto, *last));
                        covered.for_each(|(_, column)| cells[*column as usize] = decision);
                    }
                }
            }
        }
        let (columns, cells) = merged(columns, width as usize, &cells);
        let width = (cells.len() / row_clauses.len()) as u32;
        let key: ShapeKey = (rows, columns);
        let shape = match shapes.0.get(&key) {
            Some(shape) => shape.clone(),
            None => {
                let dense = Dense { rows: key.0.iter().copied().collect(), columns: key.1.clone(), width };
                let shape = Shape::Dense(dense);
                shapes.0.entry(key).or_insert(Arc::new(shape)).clone()
            }
        };
        Self { shape, cells, rules }
    }

    /// The rule that decides for a connection with `peer` to `port`, if one does.
    pub fn decide(&self, peer: IdentityId, proto: Proto, port: u16) -> Option<Decision> {
        self.cells[self.shape.cell(peer, proto, port)]
    }

    /// Which cell decides, and the cells.
    pub(crate) fn compiled(&self) -> (&Arc<Shape>, &[Option<Decision>]) {
        (&self.shape, &self.cells)
    }

    /// The same by walking the rules in order: the oracle of [`RuleSet::decide`].
    pub fn decide_linear(&self, peer: IdentityId, proto: Proto, port: u16) -> Option<Decision> {
        self.first_match(peer, proto, port)?.decision()
    }

    /// The first rule, in order, that matches a connection with `peer` to `port`.
    pub fn first_match(&self, peer: IdentityId, proto: Proto, port: u16) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.clauses.iter().any(|c| c.matches(peer, proto, port)))
    }

    /// Ports of a protocol from which on a decision may differ from the one before; always begins with 0.
    pub fn boundaries(&self, proto: Proto) -> impl Iterator<Item = u16> {
        let of_proto = |key: ServiceKey| (key >> 16 == u32::from(proto.0)).then_some(key as u16);
        let mut starts: Vec<u16> = match &*self.shape {
            Shape::Dense(dense) => dense.columns.iter().filter_map(|(key, _)| of_proto(key)).collect(),
            Shape::Sparse(sparse) => sparse.starts().filter_map(of_proto).collect(),
        };
        starts.push(0);
        starts.sort_unstable();
        starts.dedup();
        starts.into_iter()
    }

    /// The rules in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// Where the set of services that match changes, with a column for each stretch: 0 where no clause names the
/// protocol.
fn columns(rules: &[Rule]) -> BTreeMap<ServiceKey, u32> {
    let mut columns = BTreeMap::from([(0, 0)]);
    for service in rules.iter().flat_map(|r| &r.clauses).flat_map(|c| &c.services) {
        // A named protocol ends where the next one begins.
        columns.entry((u32::from(service.proto.0) + 1) << 16).or_insert(0);
        columns.insert(service_key(service.proto, 0), 1);
        columns.insert(service_key(service.proto, *service.ports.start()), 1);
        if let Some(after) = service.ports.end().checked_add(1) {
            columns.insert(service_key(service.proto, after), 1);
        }
    }
    let mut next = 0;
    for column in columns.values_mut().filter(|column| **column != 0) {
        next += 1;
        *column = next;
    }
    columns
}

/// Lets columns that decide alike in every row be one: mostly few are left, and the cells of a rule set lie in
/// one cache line. Where columns begin stays.
fn merged(
    columns: BTreeMap<ServiceKey, u32>,
    width: usize,
    cells: &[Option<Decision>],
) -> (Columns, Box<[Option<Decision>]>) {
    let mut distinct: Vec<usize> = Vec::new();
    let mut seen: HashMap<Vec<Option<Decision>>, u32> = HashMap::new();
    let merge = (0..width).map(|column| {
        let decisions = cells.iter().skip(column).step_by(width).copied().collect();
        *seen.entry(decisions).or_insert_with(|| {
            distinct.push(column);
            distinct.len() as u32 - 1
        })
    });
    let merge: Vec<u32> = merge.collect();
    let starts = columns.keys().copied().collect();
    let columns =
        Ranges::new(starts, |start| columns.get(&start).map_or(0, |column| merge[*column as usize]));
    let cells = cells.chunks(width).flat_map(|row| distinct.iter().map(|column| row[*column])).collect();
    (columns, cells)
}

/// Identities in order, each with its row, and for each row the clauses that name its identities: identities that
/// the same clauses name share one, and those that none names have row 0.
fn rows(clauses: &[(usize, &Clause)]) -> (Vec<(u32, u32)>, Vec<Vec<u32>>) {
    let mut named: Vec<(u32, u32)> = Vec::new();
    for (c, (_, clause)) in clauses.iter().enumerate() {
        if let Peers::Identities(ids) | Peers::Except(ids) = &clause.peers {
            named.extend(ids.iter().map(|id| (id.0, c as u32)));
        }
    }
    // Each clause's identities are in order already, which this sort makes use of.
    named.sort();
    let mut row_of: HashMap<Vec<u32>, u32> = HashMap::new();
    let mut row_clauses = vec![Vec::new()];
    let mut rows = Vec::new();
    let mut signature = Vec::new();
    for same in named.chunk_by(|a, b| a.0 == b.0) {
        signature.clear();
        signature.extend(same.iter().map(|(_, clause)| *clause));
        let row = match row_of.get(&signature) {
            Some(row) => *row,
            None => {
                let row = row_clauses.len() as u32;
                row_of.insert(signature.clone(), row);
                row_clauses.push(signature.clone());
                row
            }
        };
        rows.push((same[0].0, row));
    }
    (rows, row_clauses)
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
            prop::collection::btree_set((0u32..8).prop_map(IdentityId), 0..5).prop_map(Peers::of),
            prop::collection::btree_set((0u32..8).prop_map(IdentityId), 0..5)
                .prop_map(|ids| Peers::Except(Arc::new(ids))),
        ];
        (peers, prop::collection::vec(service(), 0..4))
            .prop_map(|(peers, services)| Clause { peers, services })
    }

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        let effect = prop_oneof![
            Just(Effect::Decide(Action::Allow)),
            Just(Effect::Decide(Action::Drop)),
            Just(Effect::Decide(Action::Reject)),
            Just(Effect::Pass),
        ];
        let rule = (prop::collection::vec(clause(), 0..4), effect);
        prop::collection::vec(rule, 0..8).prop_map(|rules| {
            (0..).zip(rules).map(|(i, (clauses, effect))| Rule { id: RuleId(i), effect, clauses }).collect()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_ordered_list(rules in rules()) {
            let sets = [0, MOST_CELLS].map(|most| RuleSet::compile(rules.clone(), &mut Shapes::default(), most));
            for peer in (0..9).map(IdentityId) {
                for proto in PROTOS {
                    for port in (0..8).chain([79, 80, 81, 65533, 65534, 65535]) {
                        for set in &sets {
                            prop_assert_eq!(set.decide(peer, proto, port), set.decide_linear(peer, proto, port));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn decisions_change_at_boundaries_only() {
        let clause =
            Clause { peers: Peers::Any, services: vec![Service { proto: Proto::TCP, ports: 80..=443 }] };
        let rule = Rule { id: RuleId(1), effect: Effect::Decide(Action::Allow), clauses: vec![clause] };
        let set = RuleSet::new(vec![rule]);
        assert_eq!(set.boundaries(Proto::TCP).collect::<Vec<_>>(), [0, 80, 444]);
        assert_eq!(set.boundaries(Proto::UDP).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn many_rules_take_the_room_of_what_they_say() {
        let rule = |n: u32, peers| {
            let port = n as u16;
            let services = vec![Service { proto: Proto::TCP, ports: port..=port }];
            Rule {
                id: RuleId(n),
                effect: Effect::Decide(Action::Allow),
                clauses: vec![Clause { peers, services }],
            }
        };
        let one_each = (0..4000).map(|n| rule(n, Peers::of([IdentityId(n)])));
        let everybody = (4000..8000).map(|n| rule(n, Peers::Any));
        let set = RuleSet::new(one_each.chain(everybody).collect());
        // Rows and columns would be 4,001 times 8,001 cells.
        assert_eq!(set.cells.len(), 8001);
        for n in (0..8000).step_by(13) {
            for peer in [n, 17, 4001].map(IdentityId) {
                let port = n as u16;
                assert_eq!(set.decide(peer, Proto::TCP, port), set.decide_linear(peer, Proto::TCP, port));
            }
        }
    }

    #[test]
    fn no_rule_says_nothing() {
        assert_eq!(RuleSet::new(Vec::new()).decide(IdentityId(3), Proto::TCP, 80), None);
    }
}
