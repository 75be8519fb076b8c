//! Frames and the pool they live in.
//!
//! ```text
//!   | headroom 128 | frame bytes ...................... |
//!                  ^ on a cache line                    ^ 2048
//! ```
//!
//! A [`Frame`] is a fixed buffer that is owned, moved and given back: dropping it returns the buffer to its
//! [`Pool`]. Taking from an empty pool fails, and the caller counts that; nothing grows while packets run.
//! The pool is shared by all workers and ports; taking and giving back cost one queue operation.

mod arena;

use arena::{Arena, Slot};
use std::{fmt, sync::Arc};

/// Bytes a frame can hold, without headroom. 2048 is more than a 1500-byte MTU with VLAN tag needs.
pub const FRAME_CAPACITY: usize = 2048;

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
    owner: Arc<Owner>,
}

impl Pool {
    /// A pool of `frames` buffers, all allocated here.
    pub fn new(frames: usize) -> Self {
        Self { owner: Arc::new(Owner(Arena::new(frames))) }
    }

    /// An empty frame, or `None` when every buffer is in use.
    pub fn take(&self) -> Option<Frame> {
        self.owner.0.take().map(|slot| Frame { slot, len: 0 })
    }

    /// A frame holding a copy of `bytes`; `None` when the pool is empty or `bytes` is longer than
    /// [`FRAME_CAPACITY`].
    pub fn copy(&self, bytes: &[u8]) -> Option<Frame> {
        let mut frame = if bytes.len() <= FRAME_CAPACITY { self.take()? } else { return None };
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        Some(frame)
    }

    /// Buffers at rest in the pool.
    pub fn available(&self) -> usize {
        self.owner.0.available()
    }

    /// Buffers the pool was made with.
    pub fn capacity(&self) -> usize {
        self.owner.0.capacity()
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
    /// At most [`FRAME_CAPACITY`].
    len: u16,
}

impl Frame {
    /// The frame's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.slot.bytes()[HEADROOM..HEADROOM + self.len()]
    }

    /// The frame's bytes, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let end = HEADROOM + self.len();
        &mut self.slot.bytes_mut()[HEADROOM..end]
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
        self.len as usize
    }

    /// Whether the frame holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes the frame `len` bytes long, capped at [`FRAME_CAPACITY`]. Bytes that come into view are whatever
    /// the buffer held before.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(FRAME_CAPACITY) as u16;
    }

    /// Replaces the contents; `false`, and no change, when `bytes` is longer than [`FRAME_CAPACITY`].
    pub fn fill(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > FRAME_CAPACITY {
            return false;
        }
        self.len = bytes.len() as u16;
        self.bytes_mut().copy_from_slice(bytes);
        true
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.len)
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
    fn a_frame_may_outlive_its_pool() {
        let pool = Pool::new(1);
        let home = Arc::downgrade(&pool.owner.0);
        let frame = pool.copy(&[7; 60]).unwrap();
        drop(pool);
        assert_eq!(frame.bytes(), [7; 60]);
        drop(frame);
        assert_eq!(home.strong_count(), 0, "the last buffer went with its frame");
    }
}
