//! Counts heap allocations, a thread for itself: how `supernet bench` knows what a packet costs there.
//!
//! The count is a thread-local word, so that no thread slows another; an allocation costs one addition more.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    // Without destructor and made at compile time: touching it allocates nothing.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Allocations and reallocations by the calling thread since it began.
pub(super) fn count() -> u64 {
    COUNT.get()
}

struct Counting;

// A global allocator is an unsafe trait. This one hands every call on unchanged, so that the guarantees are the
// system allocator's own, and the count is read by nobody but the bench.
#[expect(unsafe_code, reason = "the only way to see allocations without slowing them")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_thread_counts_for_itself() {
        let before = super::count();
        let boxed = std::hint::black_box(Box::new(7_u64));
        assert_eq!(super::count(), before + 1);
        let theirs = std::thread::spawn(super::count);
        drop(boxed);
        let before = super::count();
        let _ = theirs.join().unwrap();
        assert_eq!(super::count(), before, "freeing and waiting allocate nothing");
    }
}
