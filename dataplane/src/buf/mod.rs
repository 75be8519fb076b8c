//! Frames and the pool they live in.
//!
//! ```text
//!   | headroom 128 | frame bytes ...................... |
//!                  ^ on a cache line                    ^ 2048, 9216 or 65535
//! ```
//!
//! A [`Frame`] is a fixed buffer that is owned, moved and given back: dropping it returns the buffer to its
//! [`Pool`]. There are ordinary buffers, and of a pool's choice large ones of one size; a frame that is filled gets one
//! of the smallest that has room.
//! Taking from an empty pool fails, and the caller counts that; nothing grows while packets run.
//! The pool is shared by all workers and ports; taking and giving back cost one queue operation.

#![allow(unsafe_code, reason = "a frame's length never exceeds the capacity of its buffer")]

mod arena;
mod offload;

use arena::{Arena, Slot};
pub use offload::{Offload, Offloads, Segmented};
use std::{fmt, sync::Arc};

/// Bytes a frame can hold, without headroom. 2048 is more than a 1500-byte MTU with VLAN tag needs.
pub const FRAME_CAPACITY: usize = 2048;

/// Bytes a jumbo frame can hold, without headroom: more than an MTU of 9,000 needs.
pub const JUMBO_CAPACITY: usize = 9216;

/// Bytes a super-packet can hold, without headroom: as many as an IP packet may have, nearly.
pub const SUPER_CAPACITY: usize = 65_535;

/// How large a pool's large buffers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Large {
    /// [`JUMBO_CAPACITY`], for MTUs of up to 9,000.
    Jumbo,
    /// [`SUPER_CAPACITY`], for ports whose other side leaves segmentation to this one.
    Super,
}

impl Large {
    fn capacity(self) -> usize {
        match self {
            Self::Jumbo => JUMBO_CAPACITY,
            Self::Super => SUPER_CAPACITY,
        }
    }
}

/// Bytes kept free before the frame, so that a header can be put in front.
pub const HEADROOM: usize = 128;

/// Bytes from a frame's start on that can always be looked at, however short the frame is.
pub const HEADER: usize = 128;

struct Owner(Arc<Arena>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A fixed number of frame buffers. Cloning gives another handle on the same pool.
#[derive(Clone)]
pub struct Pool {
    frames: Arc<Owner>,
    large: Option<Arc<Owner>>,
}

impl Pool {
    /// A pool of `frames` buffers of [`FRAME_CAPACITY`], all allocated here.
    pub fn new(frames: usize) -> Self {
        Self::with_large(frames, 0, Large::Jumbo)
    }

    /// The same, and `large` buffers of that size.
    pub fn with_large(frames: usize, large: usize, size: Large) -> Self {
        let owner = |count, capacity| Arc::new(Owner(Arena::new(count, capacity)));
        Self {
            frames: owner(frames, FRAME_CAPACITY),
            large: (large > 0).then(|| owner(large, size.capacity())),
        }
    }

    /// An empty frame of [`FRAME_CAPACITY`], or `None` when every such buffer is in use.
    pub fn take(&self) -> Option<Frame> {
        Frame::of(&self.frames)
    }

    /// An empty frame with room for `len` bytes, or `None` when there is none.
    pub fn take_for(&self, len: usize) -> Option<Frame> {
        if len <= FRAME_CAPACITY {
            return self.take();
        }
        Frame::of(self.large.as_ref().filter(|large| len <= large.0.capacity())?)
    }

    /// A frame holding a copy of `bytes`; `None` when the pool has no buffer for as many.
    pub fn copy(&self, bytes: &[u8]) -> Option<Frame> {
        let mut frame = self.take_for(bytes.len())?;
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        Some(frame)
    }

    /// The same with what is left to be done to `frame`.
    pub fn copy_of(&self, frame: &Frame) -> Option<Frame> {
        let mut copy = self.copy(frame.bytes())?;
        copy.set_offload(frame.offload());
        Some(copy)
    }

    /// The longest frame that it has buffers for.
    pub fn longest(&self) -> usize {
        self.large.as_ref().map_or(FRAME_CAPACITY, |large| large.0.capacity())
    }

    fn arenas(&self) -> impl Iterator<Item = &Arena> {
        std::iter::once(&self.frames).chain(&self.large).map(|owner| &*owner.0)
    }

    /// Buffers at rest in the pool.
    pub fn available(&self) -> usize {
        self.arenas().map(Arena::available).sum()
    }

    /// Buffers the pool was made with.
    pub fn capacity(&self) -> usize {
        self.arenas().map(Arena::count).sum()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} free)", self.available(), self.capacity())
    }
}

/// One Ethernet frame in a buffer of a [`Pool`], without the frame check sequence.
pub struct Frame {
    slot: Slot,
    /// Its length; 16 bits up, the kind of arena the slot is of, whose capacity it never exceeds; and whether work is left
    /// to be done. One word, as frames are moved a lot.
    size: u32,
}

/// Capacities of arenas, by the kind in a frame's size.
const CAPACITIES: [usize; 4] = [FRAME_CAPACITY, JUMBO_CAPACITY, SUPER_CAPACITY, 0];
const KIND: u32 = 16;

/// The bit of a frame's size that says that something is left to be done.
const OFFLOADED: u32 = 1 << 18;

impl Frame {
    fn of(owner: &Owner) -> Option<Self> {
        const { assert!(SUPER_CAPACITY <= u16::MAX as usize) };
        // No arena is of another capacity.
        let kind = CAPACITIES.iter().position(|capacity| *capacity == owner.0.capacity())?;
        let size = (kind as u32) << KIND;
        owner.0.take().map(|slot| Self { slot, size })
    }

    /// The frame's bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the length is at most the arena's capacity.
        unsafe { self.slot.bytes(self.len()) }
    }

    /// The frame's bytes, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { self.slot.bytes_mut(self.len()) }
    }

    /// Where its bytes lie. Frames are moved and never copied, so as long as one lives it is known again by this.
    pub fn place(&self) -> usize {
        self.bytes().as_ptr() as usize
    }

    /// Bytes it has room for.
    pub fn capacity(&self) -> usize {
        CAPACITIES[(self.size >> KIND & 3) as usize]
    }

    /// What is left to be done to it before it goes on a wire.
    #[inline]
    pub fn offload(&self) -> Option<Offload> {
        (self.size & OFFLOADED != 0).then(|| self.slot.offload())
    }

    /// Says what is left to be done; `None`: nothing.
    pub fn set_offload(&mut self, offload: Option<Offload>) {
        self.size &= !OFFLOADED;
        if let Some(offload) = offload {
            self.slot.set_offload(offload);
            self.size |= OFFLOADED;
        }
    }

    /// The frame's first bytes. Those beyond its end are whatever the buffer held before.
    #[inline(always)]
    pub fn header(&self) -> &[u8; HEADER] {
        self.slot.header()
    }

    /// The same, to be changed in place.
    #[inline(always)]
    pub fn header_mut(&mut self) -> &mut [u8; HEADER] {
        self.slot.header_mut()
    }

    /// Bytes in the frame.
    pub fn len(&self) -> usize {
        usize::from(self.size as u16)
    }

    /// Whether the frame holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the frame `len` bytes long, at most its capacity. Bytes that come into view are whatever the buffer
    /// held before.
    pub fn set_len(&mut self, len: usize) {
        self.size = self.size & !0xffff | len.min(self.capacity()) as u32;
    }

    /// Replaces the contents; `false`, and no change, when it has no room for `bytes`.
    pub fn fill(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.capacity() {
            return false;
        }
        self.set_offload(None);
        self.set_len(bytes.len());
        self.bytes_mut().copy_from_slice(bytes);
        true
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_home() {
        let pool = Pool::new(2);
        let a = pool.copy(&[1, 2, 3]).unwrap();
        let b = pool.take().unwrap();
        assert!(pool.take().is_none());
        assert_eq!(a.bytes(), [1, 2, 3]);
        drop((a, b));
        assert_eq!(pool.available(), 2);
    }

    #[test]
    fn too_long_is_refused_and_costs_no_buffer() {
        let pool = Pool::new(1);
        assert!(pool.copy(&[0; FRAME_CAPACITY + 1]).is_none());
        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn a_frame_gets_a_buffer_that_has_room() {
        let pool = Pool::with_large(1, 1, Large::Jumbo);
        assert_eq!((pool.capacity(), pool.longest()), (2, JUMBO_CAPACITY));
        let bytes: Vec<u8> = (0..JUMBO_CAPACITY).map(|n| n as u8).collect();
        let mut big = pool.copy(&bytes).unwrap();
        assert_eq!(big.bytes(), bytes);
        assert!(pool.copy(&bytes[..FRAME_CAPACITY + 1]).is_none(), "there was one");
        let small = pool.copy(&bytes[..FRAME_CAPACITY]).unwrap();
        assert_eq!(small.capacity(), FRAME_CAPACITY);
        big.set_len(usize::MAX);
        assert_eq!(big.len(), JUMBO_CAPACITY);
        drop((big, small));
        assert_eq!(pool.available(), 2);
        assert!(pool.take_for(JUMBO_CAPACITY + 1).is_none());
    }

    #[test]
    fn a_frame_may_outlive_its_pool() {
        let pool = Pool::new(1);
        let home = Arc::downgrade(&pool.frames.0);
        let frame = pool.copy(&[7; 60]).unwrap();
        drop(pool);
        assert_eq!(frame.bytes(), [7; 60]);
        drop(frame);
        assert_eq!(home.strong_count(), 0, "the last buffer went with its frame");
    }
}
