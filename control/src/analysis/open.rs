//! The ports that are open between two ends, exactly.

use super::text;
use crate::model::Protocol;
use std::collections::{BTreeMap, BTreeSet};
/// Open ports between two identities.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Open {
    /// Whether what has no ports is open; ICMP echo requests speak for it.
    pub(super) others: bool,
    /// Of each protocol that has any: open ports, first and last, in order, with closed ones in between.
    pub(super) ranges: BTreeMap<Protocol, Vec<(u16, u16)>>,
}

/// The protocols whose ports rules can name.
pub(super) const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

impl Open {
    /// Everything.
    pub(super) fn all() -> Self {
        Self { others: true, ranges: PROTOCOLS.map(|protocol| (protocol, vec![(0, u16::MAX)])).into() }
    }

    /// Opens pieces of a protocol that has none open yet, in order; those that touch become one.
    pub(super) fn add(&mut self, protocol: Protocol, pieces: impl Iterator<Item = (u16, u16)>) {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for (start, end) in pieces {
            match ranges.last_mut() {
                Some(last) if last.1.checked_add(1) == Some(start) => last.1 = end,
                _ => ranges.push((start, end)),
            }
        }
        if !ranges.is_empty() {
            self.ranges.insert(protocol, ranges);
        }
    }

    /// The same with these ports of a protocol open too.
    pub(super) fn or(&self, protocol: Protocol, ports: (u16, u16)) -> Self {
        let more = Self { others: false, ranges: BTreeMap::from([(protocol, vec![ports])]) };
        // What is closed in both is closed.
        let all = Self::all();
        all.without(&all.without(self).and(&all.without(&more)))
    }

    /// What is open in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        let mut both = Self { others: self.others && other.others, ranges: BTreeMap::new() };
        for (protocol, ranges) in &self.ranges {
            let theirs = other.ranges.get(protocol).map(Vec::as_slice).unwrap_or_default();
            let mut common = Vec::new();
            let (mut a, mut b) = (ranges.iter().peekable(), theirs.iter().peekable());
            while let (Some(&&(from, to)), Some(&&(start, end))) = (a.peek(), b.peek()) {
                let (first, last) = (from.max(start), to.min(end));
                if first <= last {
                    common.push((first, last));
                }
                if to < end {
                    a.next()
                } else {
                    b.next()
                };
            }
            both.add(*protocol, common.into_iter());
        }
        both
    }

    /// What is open here and not there.
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut left = Self { others: self.others && !other.others, ranges: BTreeMap::new() };
        for (protocol, ranges) in &self.ranges {
            let theirs = other.ranges.get(protocol).map(Vec::as_slice).unwrap_or_default();
            let mut pieces = Vec::new();
            for &(from, to) in ranges {
                let mut next = Some(from);
                for &(start, end) in theirs.iter().filter(|(start, end)| *start <= to && *end >= from) {
                    if let Some(first) = next.filter(|first| *first < start) {
                        pieces.push((first, start - 1));
                    }
                    next = end.checked_add(1);
                }
                pieces.extend(next.filter(|first| *first <= to).map(|first| (first, to)));
            }
            left.add(*protocol, pieces.into_iter());
        }
        left
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.others && self.ranges.is_empty()
    }

    pub(super) fn everything(&self) -> bool {
        self.others && PROTOCOLS.iter().all(|p| self.ranges.get(p).is_some_and(|r| r[..] == [(0, u16::MAX)]))
    }

    pub(super) fn has(&self, protocol: Protocol, port: u16) -> bool {
        self.ranges.get(&protocol).into_iter().flatten().any(|(from, to)| (*from..=*to).contains(&port))
    }

    /// In words, what is left out instead where that is shorter: "all but TCP 80".
    pub(super) fn in_short(&self) -> String {
        let closed = Self::all().without(self);
        if !closed.is_empty() && closed.pieces() < self.pieces() {
            format!("all but {closed}")
        } else {
            self.to_string()
        }
    }

    /// How many things it takes to say it.
    fn pieces(&self) -> usize {
        usize::from(self.others) + self.ranges.values().map(Vec::len).sum::<usize>()
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

    fn open() -> impl Strategy<Value = Open> {
        let port = prop_oneof![0u16..8, Just(65534), Just(65535)];
        let protocol = prop::sample::select(&PROTOCOLS[..]);
        let ports = prop::collection::vec((protocol, port), 0..24);
        (any::<bool>(), ports).prop_map(|(others, ports)| {
            let mut open = Open { others, ..Open::default() };
            for protocol in PROTOCOLS {
                let of: BTreeSet<u16> =
                    ports.iter().filter(|(p, _)| *p == protocol).map(|(_, port)| *port).collect();
                open.add(protocol, of.into_iter().map(|port| (port, port)));
            }
            open
        })
    }

    proptest! {
        #[test]
        fn what_is_open_adds_up_port_by_port(a in open(), b in open()) {
            let (both, left) = (a.and(&b), a.without(&b));
            prop_assert_eq!(both.others, a.others && b.others);
            prop_assert_eq!(left.others, a.others && !b.others);
            for protocol in PROTOCOLS {
                for port in (0..10).chain([65533, 65534, 65535]) {
                    let (in_a, in_b) = (a.has(protocol, port), b.has(protocol, port));
                    prop_assert_eq!(both.has(protocol, port), in_a && in_b);
                    prop_assert_eq!(left.has(protocol, port), in_a && !in_b);
                }
            }
            // The same ports are written in one way only, so that answers can be compared.
            prop_assert_eq!(&both, &b.and(&a));
            prop_assert_eq!(&a.without(&left), &both);
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
