//! Which of many ranges an address lies in.
//!
//! The address space is cut where any prefix begins or ends, so what prefixes say, longest match included, is
//! worked out once for each piece; a look-up only finds the piece. The beginnings form a tree of arity 8 laid out level
//! by level: 8 pieces cost one comparison of 8 numbers, 4,000 cost four of them.

use super::exact::Key;

const ARITY: usize = 8;

/// Values of the pieces of an address space, by address.
#[derive(Debug, Clone)]
pub struct Ranges<A, V> {
    /// Where pieces begin, and above it every eighth of the level below. The last level has one node.
    levels: Vec<Vec<[A; ARITY]>>,
    values: Vec<V>,
}

impl<A: Key + Ord, V: Copy + Default + PartialEq> Default for Ranges<A, V> {
    fn default() -> Self {
        Self::new(Vec::new(), |_| V::default())
    }
}

impl<A: Key + Ord, V: Copy + Default + PartialEq> Ranges<A, V> {
    /// Cuts the space at these addresses; `value` tells what holds from an address up to the next cut.
    pub fn new(mut cuts: Vec<A>, mut value: impl FnMut(A) -> V) -> Self {
        // The lowest address, zero in both families.
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
        let mut levels = vec![nodes(&starts)];
        while starts.len() > ARITY {
            starts = starts.into_iter().step_by(ARITY).collect();
            levels.push(nodes(&starts));
        }
        Self { levels, values }
    }

    /// What holds at an address.
    pub fn get(&self, at: A) -> V {
        let mut piece = 0;
        for level in self.levels.iter().rev() {
            // Beyond the last number of a level there is only what fills its node.
            let node = &level[piece.min(level.len() - 1)];
            // The first piece of a node begins at or below every address that leads to it.
            let inside = node.iter().filter(|start| **start <= at).count();
            piece = piece.min(level.len() - 1) * ARITY + inside.max(1) - 1;
        }
        self.values[piece.min(self.values.len() - 1)]
    }
}

/// Packed into nodes; what is missing in the last one is filled with its last number.
fn nodes<A: Key>(starts: &[A]) -> Vec<[A; ARITY]> {
    let node = |chunk: &[A]| std::array::from_fn(|n| chunk[n.min(chunk.len() - 1)]);
    starts.chunks(ARITY).map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn agrees<A: Key + Ord>(cuts: Vec<A>, probes: &[A]) {
        // What holds somewhere: how many cuts are at or below it.
        let value = |at: A| cuts.iter().filter(|c| **c <= at).count() as u32 / 2;
        let ranges = Ranges::new(cuts.clone(), value);
        for at in cuts.iter().chain(probes) {
            assert_eq!(ranges.get(*at), value(*at), "{at:?}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_counting(
            few in prop::collection::vec(0u32..40, 0..12),
            many in prop::collection::vec(any::<u32>(), 0..900),
            wide in prop::collection::vec(any::<u128>(), 0..900),
        ) {
            agrees(few, &[0, 1, 7, 39, 40, u32::MAX]);
            let between: Vec<u32> = many.iter().flat_map(|c| [c.wrapping_sub(1), c.wrapping_add(1)]).collect();
            agrees(many, &[&between[..], &[0, u32::MAX]].concat());
            agrees(wide, &[0, 1, u128::MAX]);
        }
    }
}
