//! Consistent hashing of flows to members (Maglev, NSDI 2016, section 3.4).
//!
//! Every member claims slots of a table of prime size in its own permutation, in turn, until the table is
//! full: members get equal shares to within one slot a round, and a changed member moves few flows of others.

use std::{net::SocketAddr, sync::Arc};

/// The sizes a table can have: primes, a hundred times the members if possible. They are few, because flows move
/// when the size changes, whoever the members are.
const SIZES: [u32; 5] = [251, 1021, 4093, 16_381, 65_521];

/// A table from a flow's hash to the index of a member. Clones share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maglev {
    slots: Arc<[u16]>,
}

impl Maglev {
    /// A table over `members`, in their order. `None` when there are none or more than 65,535.
    pub fn new(members: &[SocketAddr]) -> Option<Self> {
        let count = u16::try_from(members.len()).ok().filter(|&n| n > 0)?;
        let wanted = u32::from(count).saturating_mul(100);
        let size = SIZES.into_iter().find(|size| *size >= wanted).unwrap_or(SIZES[SIZES.len() - 1]);
        let mut cursors: Vec<(u32, u32)> = members
            .iter()
            .map(|m| {
                let h = hash(m);
                ((h as u32) % size, ((h >> 32) as u32) % (size - 1) + 1)
            })
            .collect();
        let mut slots = vec![u16::MAX; size as usize];
        let mut filled = 0;
        'full: loop {
            for member in 0..count {
                let (at, step) = &mut cursors[usize::from(member)];
                while slots[*at as usize] != u16::MAX {
                    *at = (*at + *step) % size;
                }
                slots[*at as usize] = member;
                filled += 1;
                if filled == size {
                    break 'full;
                }
            }
        }
        Some(Self { slots: slots.into() })
    }

    /// The index of the member that takes a flow with this hash.
    pub fn pick(&self, hash: u64) -> usize {
        usize::from(self.slots[share(hash, self.slots.len())])
    }

    /// The member of each slot; [`share`] picks the slot of a flow.
    pub(crate) fn slots(&self) -> &Arc<[u16]> {
        &self.slots
    }
}

/// Which of `count` equal shares a hash falls into.
pub(crate) fn share(hash: u64, count: usize) -> usize {
    ((u128::from(hash) * count as u128) >> 64) as usize
}

/// The same on every machine and run, so that a rebuilt table agrees with the one before.
fn hash(member: &SocketAddr) -> u64 {
    let bits = match member.ip() {
        std::net::IpAddr::V4(a) => u128::from(a.to_bits()),
        std::net::IpAddr::V6(a) => a.to_bits(),
    };
    let mut h = 0x9e37_79b9_7f4a_7c15u64 ^ u64::from(member.port());
    for word in [bits as u64, (bits >> 64) as u64, 0x5bd1] {
        // The finaliser of splitmix64.
        h = (h ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        h ^= h >> 31;
    }
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(n: u16) -> Vec<SocketAddr> {
        (0..n).map(|i| SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 8080))).collect()
    }

    fn shares(m: &Maglev, n: usize) -> Vec<usize> {
        let mut shares = vec![0; n];
        for &s in &*m.slots {
            shares[usize::from(s)] += 1;
        }
        shares
    }

    #[test]
    fn shares_are_equal() {
        for n in [1u16, 2, 3, 7, 50, 999] {
            let m = Maglev::new(&members(n)).unwrap();
            let shares = shares(&m, usize::from(n));
            let (min, max) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(max - min <= 1, "{n} members: {min}..{max}");
        }
        assert!(Maglev::new(&[]).is_none());
    }

    #[test]
    fn a_removed_member_moves_few_flows_of_the_others() {
        let all = members(10);
        let before = Maglev::new(&all).unwrap();
        let after = Maglev::new(&all[..9]).unwrap();
        let moved = before.slots.iter().zip(&*after.slots).filter(|(b, a)| b != a && **b != 9).count();
        assert!(moved * 100 / before.slots.len() < 25, "{moved} of {}", before.slots.len());
    }
}
