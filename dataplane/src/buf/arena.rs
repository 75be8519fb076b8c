//! The buffers of a pool: where they lie, and who owns them.
//!
//! ```text
//!   one buffer, 35 cache lines:  | home | headroom 128 | frame bytes 2048 |
//! ```
//!
//! An odd number of lines, so that neighbouring frames fall on different sets of the caches, and frames start
//! on a line, so that the headers of a small packet are one line.
//!
//! Every buffer is owned by exactly one [`Slot`], or lies in the queue of free ones.

#![allow(unsafe_code, reason = "buffers of one mapping are handed out one by one, each to one owner")]

use super::{FRAME_CAPACITY, HEADER, HEADROOM};
use crate::pages::Pages;
use bytemuck::Zeroable;
use crossbeam::queue::ArrayQueue;
use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Bytes of a buffer that its owner sees.
pub(super) const ROOM: usize = HEADROOM + FRAME_CAPACITY;

#[repr(C, align(64))]
struct Buffer {
    /// The arena this is of, as a counted reference; set once, before the first owner.
    home: *const Arena,
    bytes: Bytes,
}

#[repr(C, align(64))]
struct Bytes([u8; ROOM]);

// SAFETY: a null pointer and zero bytes.
unsafe impl Zeroable for Buffer {}
// SAFETY: the pointer is a counted reference to an arena, which may be sent and shared itself.
unsafe impl Send for Buffer {}
// SAFETY: as above; a shared buffer is only read.
unsafe impl Sync for Buffer {}

const _: () = assert!(size_of::<Buffer>() / 64 % 2 == 1);

/// Buffers and which of them are free.
pub(super) struct Arena {
    buffers: Pages<Buffer>,
    free: ArrayQueue<Free>,
    /// Nobody takes any more: buffers that come home let go of the arena.
    closed: AtomicBool,
}

struct Free(NonNull<Buffer>);

// SAFETY: whoever holds this owns the buffer; nothing in it belongs to a thread.
unsafe impl Send for Free {}

/// A buffer's owner.
pub(super) struct Slot(NonNull<Buffer>);

// SAFETY: the slot is the buffer's only owner, as a box is.
unsafe impl Send for Slot {}
// SAFETY: a shared slot gives shared access only.
unsafe impl Sync for Slot {}

impl Arena {
    /// This many buffers, all free.
    pub(super) fn new(buffers: usize) -> Arc<Self> {
        let count = buffers.max(1);
        let arena = Arc::new(Self {
            buffers: Pages::new(count),
            free: ArrayQueue::new(count),
            closed: AtomicBool::new(false),
        });
        let first = arena.buffers.as_ptr();
        for n in 0..count {
            // SAFETY: within the mapping, which holds `count` of them.
            let buffer = unsafe { first.add(n) };
            // SAFETY: nobody owns the buffer yet.
            unsafe { (*buffer.as_ptr()).home = Arc::into_raw(arena.clone()) };
            // The queue has room for exactly this many.
            let _ = arena.free.push(Free(buffer));
        }
        arena
    }

    /// A free buffer.
    pub(super) fn take(&self) -> Option<Slot> {
        self.free.pop().map(|free| Slot(free.0))
    }

    /// Buffers at rest.
    pub(super) fn available(&self) -> usize {
        self.free.len()
    }

    /// Buffers there are.
    pub(super) fn capacity(&self) -> usize {
        self.free.capacity()
    }

    /// Frees the arena as soon as every buffer is home.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.let_go();
    }

    fn let_go(&self) {
        while let Some(Free(buffer)) = self.free.pop() {
            // SAFETY: the buffer was free, so this is its owner; the reference was counted for it when it was
            // made, and nobody can take the buffer again. Whoever calls holds another reference.
            unsafe { Arc::decrement_strong_count((*buffer.as_ptr()).home) };
        }
    }
}

impl Slot {
    #[inline(always)]
    pub(super) fn bytes(&self) -> &[u8; ROOM] {
        // SAFETY: the slot owns the buffer, whose memory lives at least until it comes home.
        unsafe { &(*self.0.as_ptr()).bytes.0 }
    }

    #[inline(always)]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8; ROOM] {
        // SAFETY: as above, and the slot is borrowed alone.
        unsafe { &mut (*self.0.as_ptr()).bytes.0 }
    }
}

impl Slot {
    /// The first bytes behind the headroom.
    #[inline(always)]
    pub(super) fn header(&self) -> &[u8; HEADER] {
        const { assert!(HEADER <= FRAME_CAPACITY) };
        // SAFETY: as above; the range lies within the buffer's bytes, all of which are initialized.
        unsafe { &*self.bytes().as_ptr().add(HEADROOM).cast() }
    }

    #[inline(always)]
    pub(super) fn header_mut(&mut self) -> &mut [u8; HEADER] {
        // SAFETY: as above, and the slot is borrowed alone.
        unsafe { &mut *self.bytes_mut().as_mut_ptr().add(HEADROOM).cast() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the buffer's own reference keeps its home alive until the buffer is in the queue; this one
        // beyond that.
        let home = unsafe {
            let home = (*self.0.as_ptr()).home;
            Arc::increment_strong_count(home);
            Arc::from_raw(home)
        };
        // Never full: the queue was made with room for every buffer.
        let _ = home.free.push(Free(self.0));
        if home.closed.load(Ordering::SeqCst) {
            home.let_go();
        }
    }
}
