//! What is open between two ends, asked of compiled firewalls and remembered.
//!
//! A firewall tells few peers apart: those that its clauses name, and all others, which it treats alike. So each
//! firewall is asked once for the others and once for each peer that it names, and what is open between two ends is
//! what both sides let pass. Different answers are few and numbered; the numbers compare as the answers do.
//!
//! This file is the only one here that knows how a firewall of the packet path is asked.

use super::{
    ends::Standing,
    open::{Open, PROTOCOLS},
};
use crate::model::IpFamily;
use std::{
    collections::{BTreeMap, HashMap},
    ptr,
    rc::Rc,
};
use supernet_dataplane::{
    id::IdentityId,
    stage::dfw,
    table::{classifier::Peers, firewall::Firewall},
    wire::Proto,
};

/// What a firewall judges a connection of ICMP by.
pub(super) fn echo(family: IpFamily) -> dfw::Service {
    dfw::echo(family == IpFamily::V4)
}

/// What guards one direction of an end; `None`: nothing does.
pub(super) type Guard<'a> = Option<&'a Firewall>;

/// Firewalls are shared, so where one lies tells which it is; 0 for none.
pub(super) fn place_of(guard: Guard<'_>) -> usize {
    guard.map_or(0, |set| ptr::from_ref(set).addr())
}

/// Whom no rule names: no network has so many identities.
const NOBODY: IdentityId = IdentityId(u32::MAX);

/// The number of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OpenId(u32);

impl OpenId {
    /// Nothing is open.
    pub(super) const NOTHING: Self = Self(0);
    /// Everything is.
    pub(super) const EVERYTHING: Self = Self(1);
}

/// What is open between two ends, in each family that both have.
pub(super) type ByFamily = BTreeMap<IpFamily, Rc<Open>>;

/// Asks firewalls, and remembers what they said.
pub(super) struct Judge<'a> {
    opens: Vec<Rc<Open>>,
    ids: HashMap<Rc<Open>, OpenId>,
    /// By where the firewall lies, and by family: ICMP is another protocol in each.
    sides: HashMap<(usize, IpFamily), Side<'a>>,
    both: HashMap<(OpenId, OpenId), OpenId>,
    left: HashMap<(OpenId, OpenId), OpenId>,
}

/// What one firewall lets pass.
struct Side<'a> {
    firewall: &'a Firewall,
    family: IpFamily,
    /// Of each protocol, the ports from which on an answer may differ.
    starts: Vec<Vec<u16>>,
    /// To and from everyone whom no clause names.
    unnamed: OpenId,
    /// The others; `None`: not asked yet.
    named: HashMap<IdentityId, Option<OpenId>>,
    /// Answers by what was decided at each start.
    said: HashMap<Vec<bool>, OpenId>,
}

impl Default for Judge<'_> {
    fn default() -> Self {
        let mut judge = Self {
            opens: Vec::new(),
            ids: HashMap::new(),
            sides: HashMap::new(),
            both: HashMap::new(),
            left: HashMap::new(),
        };
        judge.number(Open::default());
        judge.number(Open::all());
        judge
    }
}

impl<'a> Judge<'a> {
    /// What is open from one end to another, by family; nothing for families that they do not share.
    pub(super) fn open(&mut self, source: &Standing<'a>, destination: &Standing<'a>) -> ByFamily {
        let shared = source.identities.iter().filter_map(|(family, from)| {
            let to = destination.identities.get(family)?;
            Some((*family, self.ask(*family, source.egress, destination.ingress, *from, *to)))
        });
        shared.collect()
    }

    /// What both sides let pass.
    pub(super) fn ask(
        &mut self,
        family: IpFamily,
        egress: Guard<'a>,
        ingress: Guard<'a>,
        from: IdentityId,
        to: IdentityId,
    ) -> Rc<Open> {
        let id = self.number_of(family, egress, ingress, from, to);
        self.opened(id).clone()
    }

    /// The same as a number.
    pub(super) fn number_of(
        &mut self,
        family: IpFamily,
        egress: Guard<'a>,
        ingress: Guard<'a>,
        from: IdentityId,
        to: IdentityId,
    ) -> OpenId {
        let (sent, received) = (self.passes(family, egress, to), self.passes(family, ingress, from));
        self.and(sent, received)
    }

    /// What one side lets pass to or from a peer.
    pub(super) fn passes(&mut self, family: IpFamily, guard: Guard<'a>, peer: IdentityId) -> OpenId {
        let Some(firewall) = guard else { return OpenId::EVERYTHING };
        let place = (place_of(guard), family);
        if !self.sides.contains_key(&place) {
            let side = self.side(family, firewall);
            self.sides.insert(place, side);
        }
        let Some(side) = self.sides.get_mut(&place) else { return OpenId::NOTHING };
        match side.named.get(&peer) {
            None => side.unnamed,
            Some(Some(known)) => *known,
            Some(None) => {
                let id = side.ask(peer, &mut self.opens, &mut self.ids);
                side.named.insert(peer, Some(id));
                id
            }
        }
    }

    /// The peers that some clause of a guard names; it treats all others alike.
    pub(super) fn named(&mut self, family: IpFamily, guard: Guard<'a>) -> Vec<IdentityId> {
        // Asking makes it known.
        self.passes(family, guard, NOBODY);
        let side = self.sides.get(&(place_of(guard), family));
        side.map(|side| side.named.keys().copied().collect()).unwrap_or_default()
    }

    /// What a guard lets pass to and from everyone whom it does not name.
    pub(super) fn unnamed(&mut self, family: IpFamily, guard: Guard<'a>) -> OpenId {
        self.passes(family, guard, NOBODY)
    }

    /// What is open in one and not in the other.
    pub(super) fn without(&mut self, a: OpenId, b: OpenId) -> OpenId {
        match (a, b) {
            (OpenId::NOTHING, _) | (_, OpenId::EVERYTHING) => return OpenId::NOTHING,
            (_, OpenId::NOTHING) => return a,
            _ if a == b => return OpenId::NOTHING,
            _ => {}
        }
        if let Some(known) = self.left.get(&(a, b)) {
            return *known;
        }
        let id = self.number(self.opened(a).without(self.opened(b)));
        self.left.insert((a, b), id);
        id
    }

    /// What is open in both.
    pub(super) fn and(&mut self, a: OpenId, b: OpenId) -> OpenId {
        match (a, b) {
            (OpenId::EVERYTHING, other) | (other, OpenId::EVERYTHING) => return other,
            (OpenId::NOTHING, _) | (_, OpenId::NOTHING) => return OpenId::NOTHING,
            _ if a == b => return a,
            _ => {}
        }
        let key = (a.min(b), a.max(b));
        if let Some(known) = self.both.get(&key) {
            return *known;
        }
        let id = self.number(self.opened(a).and(self.opened(b)));
        self.both.insert(key, id);
        id
    }

    /// The number of an answer.
    pub(super) fn number(&mut self, open: Open) -> OpenId {
        number(open, &mut self.opens, &mut self.ids)
    }

    /// The answer of a number.
    pub(super) fn opened(&self, id: OpenId) -> &Rc<Open> {
        // Numbers are given out by this judge only, and none is taken back.
        &self.opens[id.0 as usize]
    }

    fn side(&mut self, family: IpFamily, firewall: &'a Firewall) -> Side<'a> {
        let starts = PROTOCOLS.map(|protocol| {
            let mut starts: Vec<u16> = firewall.boundaries(Proto::from(protocol)).collect();
            starts.sort_unstable();
            starts.dedup();
            starts
        });
        let mut named = HashMap::new();
        let rules = firewall.layers().iter().flat_map(|layer| layer.rules());
        for clause in rules.flat_map(|rule| &rule.clauses) {
            if let Peers::Identities(ids) | Peers::Except(ids) = &clause.peers {
                named.extend(ids.iter().map(|id| (*id, None)));
            }
        }
        let (starts, unnamed, said) = (starts.into(), OpenId::NOTHING, HashMap::new());
        let mut side = Side { firewall, family, starts, unnamed, named, said };
        side.unnamed = side.ask(NOBODY, &mut self.opens, &mut self.ids);
        side
    }
}

impl Side<'_> {
    /// Asks the firewall at every port where it may change its mind.
    fn ask(
        &mut self,
        peer: IdentityId,
        opens: &mut Vec<Rc<Open>>,
        ids: &mut HashMap<Rc<Open>, OpenId>,
    ) -> OpenId {
        let passes = |proto, port| self.firewall.decide(peer, proto, port).action.allows();
        let (proto, echo) = echo(self.family);
        let mut said = vec![passes(proto, echo)];
        for (protocol, starts) in PROTOCOLS.into_iter().zip(&self.starts) {
            said.extend(starts.iter().map(|start| passes(protocol.into(), *start)));
        }
        if let Some(known) = self.said.get(&said) {
            return *known;
        }
        let mut open = Open { others: said[0], ranges: BTreeMap::new() };
        let mut answers = said.iter().skip(1);
        for (protocol, starts) in PROTOCOLS.into_iter().zip(&self.starts) {
            let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
            let pieces = starts.iter().copied().zip(ends).zip(answers.by_ref());
            open.add(protocol, pieces.filter(|(_, passes)| **passes).map(|(piece, _)| piece));
        }
        let id = number(open, opens, ids);
        self.said.insert(said, id);
        id
    }
}

fn number(open: Open, opens: &mut Vec<Rc<Open>>, ids: &mut HashMap<Rc<Open>, OpenId>) -> OpenId {
    if let Some(known) = ids.get(&open) {
        return *known;
    }
    let (id, open) = (OpenId(opens.len() as u32), Rc::new(open));
    opens.push(open.clone());
    ids.insert(open, id);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use supernet_dataplane::{
        id::RuleId,
        table::classifier::{Action, Clause, Decision, Effect, Rule, Service},
    };

    const ME: IdentityId = IdentityId(1);
    const YOU: IdentityId = IdentityId(2);

    fn firewall() -> impl Strategy<Value = Firewall> {
        let port = prop_oneof![Just(0u16), 1u16..6, Just(80), Just(65534), Just(65535)];
        let protocol = prop::sample::select(&[Proto::TCP, Proto::UDP][..]);
        let service = (protocol, port.clone(), port)
            .prop_map(|(proto, a, b)| Service { proto, ports: a.min(b)..=a.max(b) });
        let peers = prop_oneof![
            Just(Peers::Any),
            prop::sample::select(&[ME, YOU][..]).prop_map(|id| Peers::of([id])),
        ];
        let clause = (peers, prop::collection::vec(service, 0..3))
            .prop_map(|(peers, services)| Clause { peers, services });
        prop::collection::vec(prop::collection::vec(clause, 0..3), 0..4).prop_map(|rules| {
            let rule = |clauses| Rule { id: RuleId(0), effect: Effect::Decide(Action::Allow), clauses };
            let default = Decision { rule: RuleId(1), action: Action::Drop };
            Firewall::of(rules.into_iter().map(rule).collect(), default)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn open_is_what_both_sides_allow_at_every_port(egress in firewall(), ingress in prop::option::of(firewall())) {
            let open = Judge::default().ask(IpFamily::V4, Some(&egress), ingress.as_ref(), ME, YOU);
            let both = |proto, port| {
                egress.decide_linear(YOU, proto, port).action == Action::Allow
                    && ingress.as_ref().is_none_or(|i| i.decide_linear(ME, proto, port).action == Action::Allow)
            };
            prop_assert_eq!(open.others, both(echo(IpFamily::V4).0, echo(IpFamily::V4).1));
            for protocol in PROTOCOLS {
                for port in 0..=u16::MAX {
                    prop_assert_eq!(open.has(protocol, port), both(protocol.into(), port), "{} {}", protocol, port);
                }
            }
        }
    }
}
