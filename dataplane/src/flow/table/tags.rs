//! The tags of a bucket: 31 lanes of 16 bits, and the bucket's overflow count in the lane after them.

use crate::{
    pages::Line,
    sync::Ordering,
    vector::{self, LANES},
};

pub(super) const FREE: u16 = 0;
pub(super) const DEAD: u16 = 0xffff;
/// Tags are never one of the marks.
#[inline(always)]
pub(super) fn tag_of(hash: u64) -> u16 {
    (hash as u16).clamp(FREE + 1, DEAD - 1)
}

pub(super) fn overflow(line: &Line) -> u16 {
    (line.0[7].load(Ordering::Relaxed) >> 48) as u16
}

/// Lanes of entries, those included that are not written yet.
pub(super) fn live_lanes(line: &Line) -> u32 {
    // Most buckets of a table that is little used.
    if line.0.iter().all(|word| word.load(Ordering::Relaxed) == 0) {
        return 0;
    }
    !(vector::lanes(line, FREE) | vector::lanes(line, DEAD)) & ((1 << LANES) - 1)
}

/// Changes one lane of a tag line; `false` if `change` declines.
pub(super) fn set_lane(line: &Line, lane: usize, change: impl Fn(u16) -> Option<u16>) -> bool {
    let shift = lane % 4 * 16;
    line.0[lane / 4]
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            let new = change((word >> shift) as u16)?;
            Some(word & !(0xffff << shift) | u64::from(new) << shift)
        })
        .is_ok()
}
