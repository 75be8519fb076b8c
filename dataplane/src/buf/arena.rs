//! The buffers of a pool: where they lie, and who owns them.
//!
//! ```text
//!   one buffer:  | home | headroom 128 | frame bytes, as many as the arena says |
//! ```
//!
//! An odd number of lines (35 for frames of 2,048 bytes), so that neighbouring frames fall on different sets of the
//! caches, and frames start on a line, so that the headers of a small packet are one line.
//!
//! Every buffer is owned by exactly one [`Slot`], or lies among the free ones: small ones in a queue, which takes no lock,
//! and large ones on a stack, so that the next packet gets the buffer that is still in the cache.

#![allow(unsafe_code, reason = "buffers of one mapping are handed out one by one, each to one owner")]

use super::{HEADER, HEADROOM, Offload, Segmented};
use crate::pages::Pages;
use bytemuck::Zeroable;
use crossbeam::queue::ArrayQueue;
use std::{
    ptr::NonNull,
    slice,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// A cache line of a buffer.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Chunk([u8; 64]);

// SAFETY: zero bytes.
unsafe impl Zeroable for Chunk {}

/// The first line of a buffer, before its bytes.
#[repr(C, align(64))]
struct Head {
    /// The arena this is of, as a counted reference; set once, before the first owner.
    home: *const Arena,
    /// What is left to be done to the frame, if its owner says that something is.
    offload: Offload,
}

const _: () = assert!(size_of::<Head>() == size_of::<Chunk>());

/// Where nothing is left to be done.
const NOTHING: Offload = Offload { l4: 0, segment: 0, kind: Segmented::Tcp, cwr: false };

/// Lines of a buffer for frames of so many bytes.
const fn stride(capacity: usize) -> usize {
    (1 + (HEADROOM + capacity).div_ceil(64)) | 1
}

/// Buffers and which of them are free.
pub(super) struct Arena {
    memory: Pages<Chunk>,
    /// Bytes of a frame.
    capacity: usize,
    free: FreeList,
    /// Buffers there are.
    count: usize,
    /// Nobody takes any more: buffers that come home let go of the arena.
    closed: AtomicBool,
}

/// The buffers that nobody owns.
#[expect(clippy::large_enum_variant, reason = "there is one an arena")]
enum FreeList {
    Queue(ArrayQueue<Free>),
    Stack(Mutex<Vec<Free>>),
}

/// Buffers for frames longer than this are large ones: writing one takes so long that a lock does not show.
const LARGE: usize = 4096;

impl FreeList {
    fn new(buffers: usize, capacity: usize) -> Self {
        if capacity > LARGE {
            Self::Stack(Mutex::new(Vec::with_capacity(buffers)))
        } else {
            Self::Queue(ArrayQueue::new(buffers))
        }
    }

    fn push(&self, free: Free) {
        match self {
            // Never full: the queue was made with room for every buffer.
            Self::Queue(queue) => drop(queue.push(free)),
            Self::Stack(stack) => lock(stack).push(free),
        }
    }

    fn pop(&self) -> Option<Free> {
        match self {
            Self::Queue(queue) => queue.pop(),
            Self::Stack(stack) => lock(stack).pop(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Queue(queue) => queue.len(),
            Self::Stack(stack) => lock(stack).len(),
        }
    }
}

/// A panic elsewhere leaves the stack whole.
fn lock(stack: &Mutex<Vec<Free>>) -> MutexGuard<'_, Vec<Free>> {
    stack.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Free(NonNull<Head>);

// SAFETY: whoever holds this owns the buffer; nothing in it belongs to a thread.
unsafe impl Send for Free {}

/// A buffer's owner.
pub(super) struct Slot(NonNull<Head>);

// SAFETY: the slot is the buffer's only owner, as a box is.
unsafe impl Send for Slot {}
// SAFETY: a shared slot gives shared access only.
unsafe impl Sync for Slot {}

impl Arena {
    /// This many buffers for frames of at most `capacity` bytes, all free.
    pub(super) fn new(buffers: usize, capacity: usize) -> Arc<Self> {
        let (count, capacity, stride) = (buffers.max(1), capacity.max(HEADER), stride(capacity.max(HEADER)));
        let arena = Arc::new(Self {
            memory: Pages::new(count * stride),
            capacity,
            free: FreeList::new(count, capacity),
            count,
            closed: AtomicBool::new(false),
        });
        let first = arena.memory.as_ptr();
        for n in 0..count {
            // SAFETY: within the mapping, which holds `count` times `stride` of them.
            let buffer: NonNull<Head> = unsafe { first.add(n * stride) }.cast();
            // SAFETY: nobody owns the buffer yet, and a line has room and alignment for its head.
            unsafe { buffer.write(Head { home: Arc::into_raw(arena.clone()), offload: NOTHING }) };
            arena.free.push(Free(buffer));
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
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Bytes of a frame.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
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
    /// Where the frame's bytes begin.
    #[inline(always)]
    fn frame(&self) -> *mut u8 {
        // SAFETY: within the buffer, which is longer than its head and the headroom.
        unsafe { self.0.as_ptr().cast::<u8>().add(size_of::<Head>() + HEADROOM) }
    }

    /// The first bytes of the frame.
    ///
    /// # Safety
    /// `len` is at most the capacity of the slot's arena.
    #[inline(always)]
    pub(super) unsafe fn bytes(&self, len: usize) -> &[u8] {
        // SAFETY: the slot owns the buffer, whose memory is initialized and lives at least until it comes home.
        unsafe { slice::from_raw_parts(self.frame(), len) }
    }

    /// The same, to be changed.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    pub(super) unsafe fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        // SAFETY: as above, and the slot is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.frame(), len) }
    }

    /// What was last said to be left to be done to this buffer's frame.
    pub(super) fn offload(&self) -> Offload {
        // SAFETY: the slot owns the buffer, whose head was written when the arena was made.
        unsafe { (*self.0.as_ptr()).offload }
    }

    pub(super) fn set_offload(&mut self, offload: Offload) {
        // SAFETY: as above, and the slot is borrowed alone.
        unsafe { (*self.0.as_ptr()).offload = offload };
    }

    /// The first bytes behind the headroom.
    #[inline(always)]
    pub(super) fn header(&self) -> &[u8; HEADER] {
        // SAFETY: as above; no arena's frames are shorter than this.
        unsafe { &*self.frame().cast() }
    }

    #[inline(always)]
    pub(super) fn header_mut(&mut self) -> &mut [u8; HEADER] {
        // SAFETY: as above, and the slot is borrowed alone.
        unsafe { &mut *self.frame().cast() }
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
        home.free.push(Free(self.0));
        if home.closed.load(Ordering::SeqCst) {
            home.let_go();
        }
    }
}
