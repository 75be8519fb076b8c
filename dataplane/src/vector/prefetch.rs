//! Hints to the cache. They change nothing but time, and cannot fault, whatever the address.

#![allow(unsafe_code, reason = "prefetch instructions take a raw address")]

/// Asks for the cache line at `at`, to be read soon.
#[inline(always)]
pub fn prefetch_read<T>(at: &T) {
    read(at);
}

/// Asks for the cache line at `at`, to be written soon.
#[inline(always)]
pub fn prefetch_write<T>(at: &T) {
    write(at);
}

/// Asks for an item, to be read soon. An index past the end asks for something else.
#[inline(always)]
pub fn prefetch_read_at<T>(items: &[T], index: usize) {
    read(items.as_ptr().wrapping_add(index));
}

/// Asks for an item, to be written soon. An index past the end asks for something else.
#[inline(always)]
pub fn prefetch_write_at<T>(items: &[T], index: usize) {
    write(items.as_ptr().wrapping_add(index));
}

#[inline(always)]
fn read<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch neither reads nor writes as far as the program can see, and never faults. SSE is part
    // of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    let _ = at;
}

#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written through the pointer")]
fn write<T>(at: *const T) {
    // The intrinsic becomes a prefetch for reading where the target is not known to have this instruction, but
    // every x86-64 processor decodes it, if only as a no-operation.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: as above; no register and no flag changes.
    unsafe {
        std::arch::asm!(
            "prefetchw [{at}]",
            at = in(reg) at,
            options(nomem, nostack, preserves_flags)
        );
    }
    let _ = at;
}
