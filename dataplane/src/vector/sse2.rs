//! What every x86-64 processor can do, for work on one line that is not worth a call.

#![allow(unsafe_code, reason = "intrinsics of a feature that is always there")]

use super::{LANES, Line};
use std::{
    arch::x86_64::{
        __m128i, _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi64x, _mm_set1_epi16,
    },
    sync::atomic::Ordering,
};

/// The lanes of a line that hold `tag`.
#[inline(always)]
pub(super) fn lanes(line: &Line, tag: u16) -> u32 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { lanes_sse2(line, tag) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn lanes_sse2(line: &Line, tag: u16) -> u32 {
    let tag = _mm_set1_epi16(tag as i16);
    let equal = |low: usize| -> __m128i {
        let word = |n: usize| line.0[n].load(Ordering::Relaxed) as i64;
        _mm_cmpeq_epi16(_mm_set_epi64x(word(low + 1), word(low)), tag)
    };
    // One byte a lane, all ones where it is equal.
    let low = _mm_movemask_epi8(_mm_packs_epi16(equal(0), equal(2)));
    let high = _mm_movemask_epi8(_mm_packs_epi16(equal(4), equal(6)));
    (low as u32 | (high as u32) << 16) & ((1 << LANES) - 1)
}
