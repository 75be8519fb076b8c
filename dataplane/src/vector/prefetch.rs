//! Hints to the cache. They change nothing but time, and cannot fault, whatever the address.

#![allow(unsafe_code, reason = "prefetch instructions take a raw address")]

/// Asks for the cache line at `at`, to be read soon.
#[inline(always)]
pub fn prefetch_read<T>(at: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch neither reads nor writes as far as the program can see, and never faults. SSE is part
    // of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast());
    }
    let _ = at;
}

/// Asks for the cache line at `at`, to be written soon.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written through the pointer")]
pub fn prefetch_write<T>(at: &T) {
    // The intrinsic becomes a prefetch for reading where the target is not known to have this instruction, but
    // every x86-64 processor decodes it, if only as a no-operation.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: as above; no register and no flag changes.
    unsafe {
        std::arch::asm!(
            "prefetchw [{at}]",
            at = in(reg) std::ptr::from_ref(at),
            options(nomem, nostack, preserves_flags)
        );
    }
    let _ = at;
}
