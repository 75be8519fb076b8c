//! How often what took how long: counts by ticks, true to one part in 64.

/// Ranges a power of two is split into.
const SPLIT: u32 = 6;
const WITHIN: usize = 1 << SPLIT;

#[derive(Debug, Clone)]
pub(super) struct Histogram {
    counts: Box<[u64]>,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; WITHIN * (64 - SPLIT as usize + 1)].into() }
    }

    pub(super) fn add(&mut self, ticks: u64) {
        self.counts[index(ticks)] += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
    }

    /// The ticks that `share` of all took no more than; `NaN` when there are none.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let all: u64 = self.counts.iter().sum();
        let wanted = (all as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        at.map_or(f64::NAN, middle)
    }
}

fn index(ticks: u64) -> usize {
    if ticks < WITHIN as u64 {
        return ticks as usize;
    }
    let shift = 63 - ticks.leading_zeros() - SPLIT;
    (shift as usize + 1) * WITHIN + ((ticks >> shift) as usize - WITHIN)
}

/// The middle of a range.
fn middle(index: usize) -> f64 {
    if index < WITHIN {
        return index as f64;
    }
    let shift = index / WITHIN - 1;
    ((index % WITHIN + WITHIN) as f64 + 0.5) * (shift as f64).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_true_to_one_part_in_64() {
        let mut h = Histogram::new();
        assert!(h.quantile(0.5).is_nan());
        (1..=100_000).for_each(|n| h.add(n));
        for share in [0.01, 0.5, 0.99, 1.0] {
            let (is, should) = (h.quantile(share), share * 100_000.0);
            assert!((is / should - 1.0).abs() < 1.0 / 64.0, "{share}: {is}, not {should}");
        }
        let mut twice = h.clone();
        twice.merge(&h);
        assert_eq!(twice.quantile(0.5).to_bits(), h.quantile(0.5).to_bits());
        // The ends of what a word holds have a place.
        h.add(0);
        h.add(u64::MAX);
        assert!((h.quantile(1.0) / u64::MAX as f64 - 1.0).abs() < 1.0 / 64.0);
    }
}
