//! Frames and the pool they live in.
//!
//! ```text
//!   | headroom 64 | frame bytes ...................... | tailroom |
//!                 ^ head                               ^ head + len
//! ```
//!
//! A [`Frame`] is a fixed buffer that is owned, moved and given back: dropping it returns the buffer to its
//! [`Pool`]. Taking from an empty pool fails, and the caller counts that; nothing grows while packets run.
//! The pool is shared by all workers and ports; taking and giving back cost one queue operation and no
//! reference count.

use crossbeam::queue::ArrayQueue;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Bytes a frame can hold, without headroom. 2048 is more than a 1500-byte MTU with VLAN tag needs.
pub const FRAME_CAPACITY: usize = 2048;

/// Bytes kept free before the frame, so that a header can be put in front.
pub const HEADROOM: usize = 64;

/// Bytes from a frame's start on that can always be looked at, however short the frame is.
pub const HEADER: usize = 128;

/// An odd number of cache lines, so that the starts of neighbouring buffers fall on different sets.
const BUFFER_BYTES: usize = HEADROOM + FRAME_CAPACITY;

struct Buffer {
    home: Arc<Shared>,
    bytes: [u8; BUFFER_BYTES],
}

struct Shared {
    free: ArrayQueue<Box<Buffer>>,
    /// Set when the last `Pool` handle is gone: buffers that come home are then freed, which breaks the
    /// circle between the queue and the buffers in it.
    closed: AtomicBool,
}

struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::SeqCst);
        while self.0.free.pop().is_some() {}
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
        let shared =
            Arc::new(Shared { free: ArrayQueue::new(frames.max(1)), closed: AtomicBool::new(false) });
        for _ in 0..frames.max(1) {
            let buffer = Box::new(Buffer { home: shared.clone(), bytes: [0; BUFFER_BYTES] });
            // The queue has room for exactly this many.
            let _ = shared.free.push(buffer);
        }
        Self { owner: Arc::new(Owner(shared)) }
    }

    /// An empty frame, or `None` when every buffer is in use.
    pub fn take(&self) -> Option<Frame> {
        let buffer = self.owner.0.free.pop()?;
        Some(Frame { buffer: Some(buffer), head: HEADROOM as u16, len: 0 })
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
        self.owner.0.free.len()
    }

    /// Buffers the pool was made with.
    pub fn capacity(&self) -> usize {
        self.owner.0.free.capacity()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} free)", self.available(), self.capacity())
    }
}

/// One Ethernet frame in a buffer of a [`Pool`], without the frame check sequence.
pub struct Frame {
    buffer: Option<Box<Buffer>>,
    head: u16,
    len: u16,
}

impl Frame {
    /// The frame's bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.buffer {
            Some(b) => &b.bytes[self.head as usize..self.head as usize + self.len as usize],
            None => &[],
        }
    }

    /// The frame's bytes, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.buffer {
            Some(b) => &mut b.bytes[self.head as usize..self.head as usize + self.len as usize],
            None => &mut [],
        }
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
        self.len = len.min(BUFFER_BYTES - self.head as usize) as u16;
    }

    /// Replaces the contents; `false`, and no change, when `bytes` is longer than [`FRAME_CAPACITY`].
    pub fn fill(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > FRAME_CAPACITY {
            return false;
        }
        self.head = HEADROOM as u16;
        self.len = bytes.len() as u16;
        self.bytes_mut().copy_from_slice(bytes);
        true
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let Some(buffer) = self.buffer.take() else { return };
        let home = buffer.home.clone();
        if home.closed.load(Ordering::SeqCst) {
            return;
        }
        // Never full: the queue was made with room for every buffer of the pool.
        let _ = home.free.push(buffer);
        // The pool may have closed between the check and the push.
        if home.closed.load(Ordering::SeqCst) {
            while home.free.pop().is_some() {}
        }
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
        let home = pool.owner.0.clone();
        let frame = pool.copy(&[7; 60]).unwrap();
        drop(pool);
        assert_eq!(frame.bytes(), [7; 60]);
        drop(frame);
        assert_eq!(Arc::strong_count(&home), 1, "the last buffer went with its frame");
    }
}
