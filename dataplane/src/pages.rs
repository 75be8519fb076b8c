//! Memory for big tables: zeroed by the system, taken as it is touched, in huge pages where there are any.
//!
//! A table with a million connections spans more pages of 4 KiB than a processor remembers; with pages of
//! 2 MiB a look-up misses caches, but not address translations too.

#![allow(
    unsafe_code,
    reason = "memory straight from the system, as zeroed and aligned as no collection gives it"
)]

use crate::sync::AtomicU64;
use bytemuck::Zeroable;
use rustix::mm::{self, MapFlags, ProtFlags};
use std::{
    alloc::{Layout, handle_alloc_error},
    fmt,
    marker::PhantomData,
    ops::Deref,
    ptr::{self, NonNull},
    slice,
};

/// A cache line of words that several threads read and write.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Line(pub [AtomicU64; 8]);

// SAFETY: zero is a valid word, and eight of them leave no padding.
#[cfg(not(shuttle))]
unsafe impl Zeroable for Line {}

/// Lines, all zero at first.
#[cfg(not(shuttle))]
pub(crate) type Lines = Pages<Line>;
#[cfg(shuttle)]
pub(crate) type Lines = Box<[Line]>;

/// This many lines.
pub(crate) fn lines(len: usize) -> Lines {
    #[cfg(not(shuttle))]
    return Pages::new(len);
    // Words that are watched are more than their bits.
    #[cfg(shuttle)]
    return (0..len).map(|_| Line::default()).collect();
}

/// The size of a huge page.
const HUGE: usize = 2 << 20;

/// A fixed number of items in memory of their own, zero at first.
pub struct Pages<T> {
    items: NonNull<T>,
    len: usize,
    mapping: (NonNull<u8>, usize),
    owned: PhantomData<T>,
}

// SAFETY: the items are owned, as a box owns them.
unsafe impl<T: Send> Send for Pages<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Pages<T> {}

impl<T: Zeroable> Pages<T> {
    const PLAIN: () = assert!(!std::mem::needs_drop::<T>() && align_of::<T>() <= 4096);

    /// `len` items. Aborts, as any allocation does, when the system has no memory.
    pub fn new(len: usize) -> Self {
        let () = Self::PLAIN;
        let Ok(layout) = Layout::array::<T>(len.max(1)) else { handle_alloc_error(Layout::new::<T>()) };
        let bytes = layout.size();
        // Huge pages begin at multiples of their size; what is mapped before is never touched.
        let spare = if bytes >= HUGE { HUGE } else { 0 };
        let Some(size) = bytes.checked_add(spare) else { handle_alloc_error(layout) };
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new private mapping at an address of the system's choice; it overlaps nothing.
        let mapped = unsafe { mm::mmap_anonymous(ptr::null_mut(), size, access, flags) };
        let Some(base) = mapped.ok().and_then(|at| NonNull::new(at.cast::<u8>())) else {
            handle_alloc_error(layout)
        };
        let skip = if spare > 0 { base.as_ptr().align_offset(HUGE) } else { 0 };
        // SAFETY: `skip` is less than `spare`, so this and `bytes` from it on lie in the mapping.
        let items = unsafe { base.add(skip) };
        #[cfg(target_os = "linux")]
        if spare > 0 {
            // SAFETY: the range is in the mapping made above, and the advice changes no contents. Refusing it
            // is the system's right: the table is slower then, and nothing else.
            let _ = unsafe { mm::madvise(items.as_ptr().cast(), bytes, mm::Advice::LinuxHugepage) };
        }
        Self { items: items.cast(), len, mapping: (base, size), owned: PhantomData }
    }
}

impl<T> Pages<T> {
    /// The items' address, for whoever hands out parts of them.
    pub(crate) fn as_ptr(&self) -> NonNull<T> {
        self.items
    }
}

impl<T> Deref for Pages<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `len` items from there on; it is aligned to a page, zero is a valid item
        // (`Zeroable`), and it lives as long as `self`.
        unsafe { slice::from_raw_parts(self.items.as_ptr(), self.len) }
    }
}

impl<T> Drop for Pages<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and whoever borrowed from it has let go.
        let _ = unsafe { mm::munmap(self.mapping.0.as_ptr().cast(), self.mapping.1) };
    }
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({} items)", self.len)
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn items_are_zero_aligned_and_kept() {
        for len in [0, 1, 63, 4096, 3 << 17] {
            let pages: Pages<AtomicU64> = Pages::new(len);
            assert_eq!(pages.len(), len);
            assert_eq!(pages.as_ptr().addr().get() % 4096, 0);
            assert!(pages.iter().all(|n| n.load(Ordering::Relaxed) == 0));
            pages.iter().zip(0..).for_each(|(item, n)| item.store(n, Ordering::Relaxed));
            assert!(pages.iter().zip(0..).all(|(item, n)| item.load(Ordering::Relaxed) == n));
        }
    }
}
