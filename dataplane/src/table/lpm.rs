//! Longest-prefix match.
//!
//! One hash map a prefix length that occurs, tried from the longest: a look-up costs one probe for each
//! length that the table holds, independent of the number of prefixes. It is what control declares; packets ask
//! [`super::ranges`], into which publishing compiles it.

use foldhash::{HashMap, HashMapExt};
use ipnet::IpNet;
use std::net::IpAddr;

/// A map from prefixes to values, looked up by address.
#[derive(Debug, Clone)]
pub struct Lpm<T> {
    v4: Family<T>,
    v6: Family<T>,
}

#[derive(Debug, Clone)]
struct Family<T> {
    /// Lengths that occur, longest first.
    lengths: Vec<u8>,
    /// (length, address bits under the mask) -> prefix and value.
    entries: HashMap<(u8, u128), (IpNet, T)>,
}

impl<T> Default for Family<T> {
    fn default() -> Self {
        Self { lengths: Vec::new(), entries: HashMap::new() }
    }
}

impl<T> Default for Lpm<T> {
    fn default() -> Self {
        Self { v4: Family::default(), v6: Family::default() }
    }
}

fn key(addr: IpAddr, len: u8) -> (u8, u128) {
    let (bits, width) = match addr {
        IpAddr::V4(a) => (u128::from(a.to_bits()), 32),
        IpAddr::V6(a) => (a.to_bits(), 128),
    };
    let host = width - u32::from(len);
    (len, if host == 128 { 0 } else { bits >> host << host })
}

impl<T> Lpm<T> {
    /// Adds a prefix; its host bits are ignored. Returns the value it had before.
    pub fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        let prefix = prefix.trunc();
        let family = if prefix.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let len = prefix.prefix_len();
        if let Err(at) = family.lengths.binary_search_by(|have| len.cmp(have)) {
            family.lengths.insert(at, len);
        }
        family.entries.insert(key(prefix.addr(), len), (prefix, value)).map(|(_, old)| old)
    }

    /// The value of the longest prefix that holds `addr`.
    pub fn get(&self, addr: IpAddr) -> Option<&T> {
        self.get_prefix(addr).map(|(_, value)| value)
    }

    /// The longest prefix that holds `addr`, and its value.
    pub fn get_prefix(&self, addr: IpAddr) -> Option<(IpNet, &T)> {
        let family = if addr.is_ipv4() { &self.v4 } else { &self.v6 };
        family
            .lengths
            .iter()
            .find_map(|&len| family.entries.get(&key(addr, len)))
            .map(|(prefix, value)| (*prefix, value))
    }

    /// Every prefix and its value, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        self.v4.entries.values().chain(self.v6.entries.values()).map(|(p, v)| (*p, v))
    }
}

impl<T: PartialEq> PartialEq for Lpm<T> {
    fn eq(&self, other: &Self) -> bool {
        self.v4.entries == other.v4.entries && self.v6.entries == other.v6.entries
    }
}

impl<T> FromIterator<(IpNet, T)> for Lpm<T> {
    fn from_iter<I: IntoIterator<Item = (IpNet, T)>>(iter: I) -> Self {
        let mut lpm = Self::default();
        for (prefix, value) in iter {
            lpm.insert(prefix, value);
        }
        lpm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn addr() -> impl Strategy<Value = IpAddr> {
        // Few distinct bits, so that prefixes nest and addresses fall into them.
        prop_oneof![
            (0u32..64).prop_map(|n| IpAddr::V4(Ipv4Addr::from_bits(n.rotate_right(6) | (n & 7)))),
            (0u128..64).prop_map(|n| IpAddr::V6(Ipv6Addr::from_bits(n.rotate_right(6) | (n & 7)))),
        ]
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        (addr(), 0u8..=128).prop_map(|(a, len)| {
            let max = if a.is_ipv4() { 32 } else { 128 };
            IpNet::new(a, len % (max + 1)).unwrap()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_scan(prefixes in prop::collection::vec(prefix(), 0..40), addrs in prop::collection::vec(addr(), 1..40)) {
            let lpm: Lpm<usize> = prefixes.iter().copied().enumerate().map(|(i, p)| (p, i)).collect();
            for a in addrs {
                let longest = prefixes.iter().enumerate()
                    .filter(|(_, p)| p.contains(&a))
                    .max_by_key(|(i, p)| (p.prefix_len(), *i))
                    .map(|(i, _)| i);
                prop_assert_eq!(lpm.get(a).copied(), longest);
            }
        }
    }
}
