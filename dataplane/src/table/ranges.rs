//! Which of many ranges an address lies in.
//!
//! The address space is cut where any prefix begins or ends, so what prefixes say, longest match included, is
//! worked out once for each piece; a look-up only finds the piece. The beginnings form a tree laid out level by
//! level: with 16 numbers in a node, a cache line of 32-bit ones, 16 pieces cost one comparison of 16 numbers, and
//! 4,096 cost three of them.

use super::exact::Key;

/// Values of the pieces of a space of numbers, by number; `ARITY` numbers in a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ranges<A, V, const ARITY: usize> {
    /// Every level's nodes, the topmost first: where pieces begin, and above it the first of every node below.
    nodes: Box<[[A; ARITY]]>,
    /// Where each level begins, and its last node.
    levels: Box<[(u32, u32)]>,
    values: Box<[V]>,
}

impl<A: Key + Ord, V: Copy + Default + PartialEq, const ARITY: usize> Default for Ranges<A, V, ARITY> {
    fn default() -> Self {
        Self::new(Vec::new(), |_| V::default())
    }
}

impl<A: Key + Ord, V: Copy + Default + PartialEq, const ARITY: usize> Ranges<A, V, ARITY> {
    /// Cuts the space at these numbers; `value` tells what holds from a number up to the next cut.
    pub fn new(mut cuts: Vec<A>, mut value: impl FnMut(A) -> V) -> Self {
        // The lowest number is zero.
        cuts.push(A::default());
        cuts.sort_unstable();
        cuts.dedup();
        let mut starts: Vec<A> = Vec::new();
        let mut values: Vec<V> = Vec::new();
        for cut in cuts {
            let value = value(cut);
            if values.last() != Some(&value) {
                starts.push(cut);
                values.push(value);
            }
        }
        let mut bottom_up = vec![packed(&starts)];
        while starts.len() > ARITY {
            starts = starts.into_iter().step_by(ARITY).collect();
            bottom_up.push(packed(&starts));
        }
        let mut nodes = Vec::new();
        let mut levels = Vec::new();
        for level in bottom_up.into_iter().rev() {
            levels.push((nodes.len() as u32, level.len() as u32 - 1));
            nodes.extend(level);
        }
        Self { nodes: nodes.into(), levels: levels.into(), values: values.into() }
    }

    /// What holds at a number.
    #[inline]
    pub fn get(&self, at: A) -> V {
        let mut piece = 0;
        for (first, last) in &self.levels {
            // Behind the last number of a level there is only what fills its node.
            let node = piece.min(*last as usize);
            let starts = &self.nodes[*first as usize + node];
            // The first piece of a node begins at or below every number that leads to it.
            let reached: u32 = starts.iter().map(|start| u32::from(*start <= at)).sum();
            piece = node * ARITY + (reached as usize).max(1) - 1;
        }
        self.values[piece.min(self.values.len() - 1)]
    }

    /// Where pieces begin, and what holds from there on.
    pub fn iter(&self) -> impl Iterator<Item = (A, V)> {
        let bottom = self.levels.last().map_or(0, |(first, _)| *first as usize);
        self.nodes[bottom..].iter().flatten().copied().zip(self.values.iter().copied())
    }
}

/// Packed into nodes; what is missing in the last one is filled with its last number.
fn packed<A: Key, const ARITY: usize>(starts: &[A]) -> Vec<[A; ARITY]> {
    let node = |chunk: &[A]| std::array::from_fn(|n| chunk[n.min(chunk.len() - 1)]);
    starts.chunks(ARITY).map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn agrees<A: Key + Ord, const ARITY: usize>(cuts: Vec<A>, probes: &[A]) {
        // What holds somewhere: how many cuts are at or below it.
        let value = |at: A| cuts.iter().filter(|c| **c <= at).count() as u32 / 2;
        let ranges: Ranges<A, u32, ARITY> = Ranges::new(cuts.clone(), value);
        for at in cuts.iter().chain(probes) {
            assert_eq!(ranges.get(*at), value(*at), "{at:?}");
        }
        for (start, holds) in ranges.iter() {
            assert_eq!(holds, value(start));
        }
    }

    proptest! {
        #[test]
        fn agrees_with_counting(
            few in prop::collection::vec(0u32..40, 0..12),
            many in prop::collection::vec(any::<u32>(), 0..900),
            wide in prop::collection::vec(any::<u128>(), 0..900),
        ) {
            agrees::<_, 8>(few.clone(), &[0, 1, 7, 39, 40, u32::MAX]);
            agrees::<_, 16>(few, &[0, 1, 7, 39, 40, u32::MAX]);
            let between: Vec<u32> = many.iter().flat_map(|c| [c.wrapping_sub(1), c.wrapping_add(1)]).collect();
            agrees::<_, 16>(many, &[&between[..], &[0, u32::MAX]].concat());
            agrees::<_, 8>(wide, &[0, 1, u128::MAX]);
        }
    }
}
