//! A map from integers to small values, built once and read by packets.
//!
//! Open addressing at half load: a look-up is a multiplication and, nearly always, one cache line. The default
//! value stands for "nothing is said", so there is no difference between a key that is absent and one whose
//! value is the default.

use super::maglev::share;
use std::fmt;

/// An integer that can be a key.
pub trait Key: Copy + Eq + Default + fmt::Debug {
    /// The key with its bits spread; the upper ones are the best.
    fn mix(self) -> u64;
}

/// The golden ratio, as 64 bits: neighbours end up far apart (Knuth, 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const OTHER: u64 = 0xd6e8_feb8_6659_fd93;

impl Key for u32 {
    fn mix(self) -> u64 {
        u64::from(self).wrapping_mul(GOLDEN)
    }
}

impl Key for u64 {
    fn mix(self) -> u64 {
        fold(self, GOLDEN)
    }
}

impl Key for u128 {
    fn mix(self) -> u64 {
        // Both halves go through a multiplication before they meet, so equal changes of both do not cancel.
        fold(self as u64 ^ fold((self >> 64) as u64 ^ OTHER, OTHER), GOLDEN)
    }
}

/// Both halves of the product together: every bit of `word` moves bits above and below it.
fn fold(word: u64, by: u64) -> u64 {
    let product = u128::from(word) * u128::from(by);
    (product as u64) ^ (product >> 64) as u64
}

/// The map.
#[derive(Debug, Clone)]
pub struct Exact<K, V> {
    /// Twice as many as keys, and one. Those with the default value are free.
    slots: Box<[(K, V)]>,
}

impl<K: Key, V: Copy + Default + PartialEq> Default for Exact<K, V> {
    fn default() -> Self {
        std::iter::empty().collect()
    }
}

impl<K: Key, V: Copy + Default + PartialEq> Exact<K, V> {
    /// The value of a key; the default when it has none.
    #[inline]
    pub fn get(&self, key: K) -> V {
        let (at, _) = self.find(key);
        self.slots[at].1
    }

    /// The slot of a key or the free one where it would be, and how many slots were looked at.
    #[inline]
    fn find(&self, key: K) -> (usize, usize) {
        let mut at = share(key.mix(), self.slots.len());
        let mut seen = 1;
        // Half of the slots are free, so this ends.
        while self.slots[at].0 != key && self.slots[at].1 != V::default() {
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
            seen += 1;
        }
        (at, seen)
    }
}

impl<K: Key, V: Copy + Default + PartialEq> FromIterator<(K, V)> for Exact<K, V> {
    /// The last value of a key counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let entries: Vec<(K, V)> = iter.into_iter().filter(|(_, v)| *v != V::default()).collect();
        let slots = vec![(K::default(), V::default()); entries.len() * 2 + 1].into();
        let mut map = Self { slots };
        for (key, value) in entries {
            let (at, _) = map.find(key);
            map.slots[at] = (key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn agrees<K: Key + std::hash::Hash>(pairs: &[(K, u32)], probes: &[K]) {
        let map: Exact<K, u32> = pairs.iter().copied().collect();
        let oracle: HashMap<K, u32> = pairs.iter().copied().filter(|(_, v)| *v != 0).collect();
        for key in pairs.iter().map(|(k, _)| k).chain(probes) {
            assert_eq!(map.get(*key), oracle.get(key).copied().unwrap_or_default(), "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_hash_map(pairs in prop::collection::vec((0u32..50, 0u32..4), 0..60), wide in prop::collection::vec((any::<u128>(), 1u32..9), 0..60)) {
            agrees(&pairs, &(0..50).collect::<Vec<_>>());
            agrees(&wide, &[0, 1, u128::MAX]);
        }
    }

    /// Addresses as clusters have them: blocks of 16 in IPv4, one /64 a segment in IPv6.
    #[test]
    fn structured_keys_are_found_at_once() {
        let pods = |n: u32| (n / 8, n % 8 + 2);
        let v4: Exact<u32, u32> =
            (0..50_000).map(|n| (0x0a00_0000 + pods(n).0 * 16 + pods(n).1, 1)).collect();
        let v6: Exact<u128, u32> = (0..50_000)
            .map(|n| ((0xfd00_0010u128 << 96) + (u128::from(pods(n).0) << 64) + u128::from(pods(n).1), 1))
            .collect();
        let ports: Exact<u64, u32> = (0..50_000u64)
            .map(|n| ((n / 4) << 24 | (6 + n % 2 * 11) << 16 | (80 + n / 2 % 2 * 363), 1))
            .collect();
        let steps =
            |all: Vec<usize>| (all.iter().max().copied(), all.iter().sum::<usize>() / (all.len() / 100));
        let found = [
            steps(v4.slots.iter().filter(|s| s.1 != 0).map(|s| v4.find(s.0).1).collect()),
            steps(v6.slots.iter().filter(|s| s.1 != 0).map(|s| v6.find(s.0).1).collect()),
            steps(ports.slots.iter().filter(|s| s.1 != 0).map(|s| ports.find(s.0).1).collect()),
        ];
        for (longest, mean_percent) in found {
            assert!(longest < Some(40) && mean_percent < 200, "{found:?}");
        }
    }
}
