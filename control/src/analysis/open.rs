//! The ports that are open between two ends, exactly.

use super::text;
use crate::model::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use supernet_dataplane::{id::IdentityId, table::firewall::Firewall, wire::Proto};

/// Asks both sides at every port where either may change its mind.
pub(super) fn ask(
    egress: Option<&Firewall>,
    ingress: Option<&Firewall>,
    from: IdentityId,
    to: IdentityId,
) -> Open {
    let passes = |firewall: Option<&Firewall>, peer, proto, port| {
        firewall.is_none_or(|firewall| firewall.decide(peer, proto, port).action.allows())
    };
    let both = |proto, port| passes(egress, to, proto, port) && passes(ingress, from, proto, port);
    let mut open = Open { others: both(Proto::ICMP, 0), ranges: BTreeMap::new() };
    for protocol in PROTOCOLS {
        let proto = Proto::from(protocol);
        let mut starts: Vec<u16> =
            egress.into_iter().chain(ingress).flat_map(|set| set.boundaries(proto)).chain([0]).collect();
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for (&start, end) in starts.iter().zip(ends).filter(|(start, _)| both(proto, **start)) {
            match ranges.last_mut() {
                Some(last) if last.1.checked_add(1) == Some(start) => last.1 = end,
                _ => ranges.push((start, end)),
            }
        }
        if !ranges.is_empty() {
            open.ranges.insert(protocol, ranges);
        }
    }
    open
}

/// Open ports between two identities.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Open {
    /// Protocols that no rule can name, ICMP among them.
    pub(super) others: bool,
    pub(super) ranges: BTreeMap<Protocol, Vec<(u16, u16)>>,
}

/// The protocols whose ports rules can name.
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

impl Open {
    pub(super) fn is_empty(&self) -> bool {
        !self.others && self.ranges.is_empty()
    }

    pub(super) fn everything(&self) -> bool {
        self.others && PROTOCOLS.iter().all(|p| self.ranges.get(p).is_some_and(|r| r[..] == [(0, u16::MAX)]))
    }

    pub(super) fn has(&self, protocol: Protocol, port: u16) -> bool {
        self.ranges.get(&protocol).into_iter().flatten().any(|(from, to)| (*from..=*to).contains(&port))
    }

    /// Splits into the ports that are in `declared`, and the others.
    pub(super) fn split(&self, declared: &BTreeSet<(Protocol, u16)>) -> (Self, Self) {
        let mut inside = Self::default();
        let mut outside = Self { others: self.others, ..Self::default() };
        for &(protocol, port) in declared.iter().filter(|(protocol, port)| self.has(*protocol, *port)) {
            inside.ranges.entry(protocol).or_default().push((port, port));
        }
        for (&protocol, ranges) in &self.ranges {
            let mut left = Vec::new();
            for &(from, to) in ranges {
                let mut next = Some(from);
                for &(_, port) in declared.range((protocol, from)..=(protocol, to)) {
                    if let Some(start) = next.filter(|start| *start < port) {
                        left.push((start, port - 1));
                    }
                    next = port.checked_add(1);
                }
                left.extend(next.filter(|start| *start <= to).map(|start| (start, to)));
            }
            if !left.is_empty() {
                outside.ranges.insert(protocol, left);
            }
        }
        (inside, outside)
    }
}

impl std::fmt::Display for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.everything() {
            return f.write_str("all");
        }
        if self.is_empty() {
            return f.write_str("none");
        }
        let protocols = self.ranges.iter().map(|(protocol, ranges)| match ranges[..] {
            [(0, u16::MAX)] => format!("all {protocol}"),
            _ => format!("{protocol} {}", text::join(ranges.iter().map(|(a, b)| text::range(*a, *b)), ", ")),
        });
        let others = self.others.then(|| "ICMP".to_owned());
        f.write_str(&text::join(protocols.chain(others), "; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use supernet_dataplane::{
        id::RuleId,
        table::classifier::{Action, Clause, Decision, Effect, Peers, Rule, Service},
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
            let open = ask(Some(&egress), ingress.as_ref(), ME, YOU);
            let both = |proto, port| {
                egress.decide_linear(YOU, proto, port).action == Action::Allow
                    && ingress.as_ref().is_none_or(|i| i.decide_linear(ME, proto, port).action == Action::Allow)
            };
            prop_assert_eq!(open.others, both(Proto::ICMP, 0));
            for protocol in PROTOCOLS {
                for port in 0..=u16::MAX {
                    prop_assert_eq!(open.has(protocol, port), both(protocol.into(), port), "{} {}", protocol, port);
                }
            }
        }
    }

    #[test]
    fn declared_ports_are_split_off() {
        let open = Open {
            others: false,
            ranges: BTreeMap::from([(Protocol::Tcp, vec![(0, 443)]), (Protocol::Udp, vec![(53, 53)])]),
        };
        let declared = [(Protocol::Tcp, 0), (Protocol::Tcp, 80), (Protocol::Tcp, 443), (Protocol::Tcp, 444)];
        let (known, unknown) = open.split(&declared.into());
        assert_eq!(known.to_string(), "TCP 0, 80, 443");
        assert_eq!(unknown.to_string(), "TCP 1-79, 81-442; UDP 53");
        assert_eq!(Open::default().to_string(), "none");
    }
}
