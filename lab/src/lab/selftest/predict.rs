//! What `reach` says of one connection.
//!
//! Its table has rows for ends; here they are looked up for a pair. An address outside is told by the narrowest range
//! that has a row, since a range without one is treated as the range around it.

use super::facts::{Facts, Host, Transport};
use ipnet::IpNet;
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

/// A table of who reaches whom, to be looked up in.
#[derive(Debug)]
pub(super) struct Prediction<'a> {
    facts: &'a Facts,
    /// The ends of pods and Services, by name.
    ends: HashMap<&'a str, usize>,
    /// Ends outside: ranges, the narrowest first, then the outside as a whole.
    outside: Vec<(Option<IpNet>, usize)>,
    /// Sources of each row.
    sources: Vec<BTreeSet<usize>>,
    /// Rows by destination.
    rows: HashMap<usize, Vec<usize>>,
}

/// One side of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side<'a> {
    /// A pod or a Service by name.
    Named(&'a str),
    /// An address outside.
    Outside(IpAddr),
}

/// An open port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reached {
    /// Members of a Service that are out of reach all the same.
    pub(super) unreached: usize,
}

impl<'a> Prediction<'a> {
    pub(super) fn of(facts: &'a Facts) -> Self {
        let mut ends = HashMap::new();
        let mut outside = Vec::new();
        for (n, end) in facts.ends.iter().enumerate() {
            match end.name.strip_prefix("outside") {
                Some("") => outside.push((None, n)),
                Some(range) if range.starts_with(' ') => {
                    outside.extend(range.trim().parse::<IpNet>().ok().map(|range| (Some(range), n)));
                }
                _ => {
                    ends.insert(&*end.name, n);
                    ends.extend(end.pods.iter().map(|pod| (&**pod, n)));
                }
            }
        }
        outside.sort_by_key(|(range, _)| std::cmp::Reverse(range.map_or(-1, |r| i16::from(r.prefix_len()))));
        let mut rows: HashMap<usize, Vec<usize>> = HashMap::new();
        for (n, row) in facts.rows.iter().enumerate() {
            for &to in &row.destinations {
                rows.entry(to).or_default().push(n);
            }
        }
        let sources = facts.rows.iter().map(|row| row.sources.iter().copied().collect()).collect();
        Self { facts, ends, outside, sources, rows }
    }

    /// Whether a connection gets through.
    pub(super) fn open(
        &self,
        from: Side<'_>,
        to: Side<'_>,
        ipv6: bool,
        transport: Transport,
        port: u16,
    ) -> Option<Reached> {
        let (sources, destinations) = (self.candidates(from), self.candidates(to));
        for from in &sources {
            for to in &destinations {
                let rows = self.rows.get(to).into_iter().flatten().copied();
                let about = |n: &usize| {
                    self.sources[*n].contains(from) && self.facts.rows[*n].ipv6.is_none_or(|six| six == ipv6)
                };
                let rows: Vec<usize> = rows.filter(about).collect();
                if rows.is_empty() {
                    continue;
                }
                let opens = |n: &&usize| {
                    let mut ranges = self.facts.rows[**n].open.iter();
                    ranges.any(|&(of, low, high)| of == transport && (low..=high).contains(&port))
                };
                return rows.iter().find(opens).map(|n| Reached { unreached: self.facts.rows[*n].unreached });
            }
        }
        None
    }

    /// The first open port of every range that some row opens towards the outside, at most so many.
    pub(super) fn ports_outside(&self, most: usize) -> BTreeSet<(Transport, u16)> {
        let rows: BTreeSet<usize> =
            self.outside.iter().filter_map(|(_, end)| self.rows.get(end)).flatten().copied().collect();
        let ranges = rows.into_iter().flat_map(|n| &self.facts.rows[n].open);
        let mut ports = BTreeSet::new();
        for &(transport, low, _) in ranges.filter(|(_, low, _)| *low > 0) {
            if ports.len() < most {
                ports.insert((transport, low));
            }
        }
        ports
    }

    /// The ends that may stand for a side, the narrowest first.
    fn candidates(&self, side: Side<'_>) -> Vec<usize> {
        match side {
            Side::Named(name) => self.ends.get(name).copied().into_iter().collect(),
            Side::Outside(address) => {
                let around =
                    self.outside.iter().filter(|(range, _)| range.is_none_or(|r| r.contains(&address)));
                around.map(|(_, end)| *end).collect()
            }
        }
    }
}

/// The first address of each family.
pub(super) fn primary(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> + '_ {
    [false, true].into_iter().filter_map(|six| addresses.iter().copied().find(|a| a.is_ipv6() == six))
}

/// Whether a host has an address of this family.
pub(super) fn has_family(host: &Host, ipv6: bool) -> bool {
    host.addresses.iter().any(|a| a.is_ipv6() == ipv6)
}

#[cfg(test)]
mod tests {
    use super::{
        super::facts::{End, Row},
        *,
    };

    fn end(name: &str, pods: &[&str]) -> End {
        End { name: name.to_owned(), pods: pods.iter().map(|p| (*p).to_owned()).collect() }
    }

    fn row(sources: &[usize], destination: usize, ipv6: Option<bool>, open: &[(Transport, u16, u16)]) -> Row {
        let (sources, open) = (sources.to_vec(), open.to_vec());
        Row { sources, destinations: vec![destination], ipv6, open, unreached: 0 }
    }

    #[test]
    fn the_narrowest_range_with_a_row_speaks_for_an_address() {
        let facts = Facts {
            ends: vec![
                end("shop/web", &["shop/web-0", "shop/web-1"]),
                end("outside", &[]),
                end("outside 203.0.113.0/24", &[]),
                end("outside 203.0.113.13/32", &[]),
            ],
            rows: vec![
                row(&[0, 1], 0, None, &[(Transport::Tcp, 80, 90)]),
                row(&[2], 0, None, &[(Transport::Tcp, 8080, 8080)]),
                row(&[3], 0, None, &[]),
                row(&[0], 1, Some(true), &[(Transport::Udp, 53, 53), (Transport::Tcp, 0, 9)]),
            ],
            ..Facts::default()
        };
        let prediction = Prediction::of(&facts);
        let web = Side::Named("shop/web-1");
        let from = |address: &str, port| {
            let address: IpAddr = address.parse().unwrap();
            prediction.open(Side::Outside(address), web, address.is_ipv6(), Transport::Tcp, port).is_some()
        };
        assert!(from("198.51.100.1", 85) && from("2001:db8::1", 80) && !from("198.51.100.1", 91));
        assert!(from("203.0.113.10", 8080) && !from("203.0.113.10", 80));
        assert!(!from("203.0.113.13", 8080) && !from("203.0.113.13", 80), "a row that opens nothing");
        assert!(prediction.open(web, web, false, Transport::Tcp, 90).is_some());
        let world = Side::Outside("203.0.113.10".parse().unwrap());
        assert!(prediction.open(web, world, false, Transport::Udp, 53).is_none(), "only IPv6");
        assert!(prediction.open(web, world, true, Transport::Udp, 53).is_some());
        assert!(prediction.open(Side::Named("x/y"), web, false, Transport::Tcp, 80).is_none());
        assert_eq!(prediction.ports_outside(8), BTreeSet::from([(Transport::Udp, 53)]));
    }
}
