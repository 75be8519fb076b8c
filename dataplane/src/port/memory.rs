//! A port in memory: two bounded queues between the pipeline and a guest in the same process.
//!
//! The guest speaks [`Bytes`]; inside, frames stay in pool buffers. A queue that is full refuses frames: the
//! guest gets them back, the pipeline counts them as dropped; so does a port that is detached, and what waited in
//! its queue goes back to the pool. Cost: one queue operation and one copy a frame
//! and direction; [`MemoryGuest::send_frame`] and [`MemoryGuest::recv_frame`] spare the copy.

use super::{Opened, Port, Receive, Transmit, Waker};
use crate::buf::{Frame, Pool};
use bytes::Bytes;
use crossbeam::queue::ArrayQueue;
use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// A port in memory with room for `depth` frames in each direction.
pub fn memory(depth: usize) -> MemoryPort {
    MemoryPort { depth: depth.max(1) }
}

/// A memory port that is not attached yet; attaching it gives a [`MemoryGuest`].
#[derive(Debug, Clone)]
pub struct MemoryPort {
    depth: usize,
}

struct Link {
    to_net: ArrayQueue<Frame>,
    to_guest: ArrayQueue<Frame>,
    net_waker: OnceLock<Waker>,
    guest_waker: OnceLock<Waker>,
    detached: AtomicBool,
}

impl Link {
    fn is_detached(&self) -> bool {
        self.detached.load(Ordering::SeqCst)
    }
}

/// Why a guest's frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The queue towards the network is full; try again once it was polled.
    #[error("the port's queue is full")]
    Full,
    /// The pool has no free buffer.
    #[error("no free frame buffer")]
    NoBuffer,
    /// The port was detached, or the network is gone.
    #[error("the port is detached")]
    Detached,
    /// The frame is longer than a buffer.
    #[error("the frame is longer than {} bytes", crate::buf::FRAME_CAPACITY)]
    TooLong,
}

/// The guest's end of a memory port. Clones share the queues.
#[derive(Clone)]
pub struct MemoryGuest {
    link: Arc<Link>,
    pool: Pool,
}

impl MemoryGuest {
    /// Sends a copy of one Ethernet frame into the network.
    ///
    /// # Errors
    /// See [`SendError`]; the frame was not sent.
    pub fn send(&self, frame: &[u8]) -> Result<(), SendError> {
        if frame.len() > crate::buf::FRAME_CAPACITY {
            return Err(SendError::TooLong);
        }
        let frame = self.pool.copy(frame).ok_or(SendError::NoBuffer)?;
        let refused = |_| if self.link.is_detached() { SendError::Detached } else { SendError::Full };
        self.send_frame(frame).map_err(refused)
    }

    /// Sends a frame without copying it.
    ///
    /// # Errors
    /// The queue is full or the port detached, and the frame is handed back.
    pub fn send_frame(&self, frame: Frame) -> Result<(), Frame> {
        if self.link.is_detached() {
            return Err(frame);
        }
        self.link.to_net.push(frame)?;
        if self.link.is_detached() {
            // Meanwhile, and nobody else looks into the queue any more.
            while self.link.to_net.pop().is_some() {}
            return Ok(());
        }
        if let Some(waker) = self.link.net_waker.get() {
            waker.wake();
        }
        Ok(())
    }

    /// The next frame the network delivered to this guest.
    pub fn recv(&self) -> Option<Bytes> {
        self.recv_frame().map(|f| Bytes::copy_from_slice(f.bytes()))
    }

    /// The next delivered frame, in its pool buffer.
    pub fn recv_frame(&self) -> Option<Frame> {
        self.link.to_guest.pop()
    }

    /// Has `waker` called whenever a frame is delivered. Only the first call has an effect.
    pub fn set_waker(&self, waker: Waker) {
        let _ = self.link.guest_waker.set(waker);
    }
}

impl std::fmt::Debug for MemoryGuest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryGuest(to net {}, to guest {})", self.link.to_net.len(), self.link.to_guest.len())
    }
}

struct MemoryReceiver(Arc<Link>);

impl Receive for MemoryReceiver {
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, _pool: &Pool) -> io::Result<usize> {
        for n in 0..max {
            match self.0.to_net.pop() {
                Some(frame) => into.push(frame),
                None => return Ok(n),
            }
        }
        Ok(max)
    }

    fn set_waker(&mut self, waker: Waker) {
        let _ = self.0.net_waker.set(waker);
    }
}

impl Drop for MemoryReceiver {
    fn drop(&mut self) {
        self.0.detached.store(true, Ordering::SeqCst);
        while self.0.to_net.pop().is_some() {}
    }
}

struct MemorySender(Arc<Link>);

impl Transmit for MemorySender {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        let mut refused = None;
        let mut rest = frames.drain(..);
        for frame in rest.by_ref() {
            if let Err(frame) = self.0.to_guest.push(frame) {
                refused = Some(frame);
                break;
            }
        }
        let left: Vec<Frame> = refused.into_iter().chain(rest).collect();
        frames.extend(left);
        if let Some(waker) = self.0.guest_waker.get() {
            waker.wake();
        }
        Ok(())
    }
}

impl Port for MemoryPort {
    type Peer = MemoryGuest;

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<MemoryGuest>> {
        let link = Arc::new(Link {
            to_net: ArrayQueue::new(self.depth),
            to_guest: ArrayQueue::new(self.depth),
            net_waker: OnceLock::new(),
            guest_waker: OnceLock::new(),
            detached: AtomicBool::new(false),
        });
        Ok(Opened {
            receiver: Box::new(MemoryReceiver(link.clone())),
            senders: (0..senders)
                .map(|_| Box::new(MemorySender(link.clone())) as Box<dyn Transmit>)
                .collect(),
            peer: MemoryGuest { link, pool: pool.clone() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_pass_in_order_and_a_full_queue_refuses() {
        let pool = Pool::new(8);
        let mut opened = memory(2).open(1, &pool).unwrap();
        let guest = opened.peer;
        guest.send(&[1]).unwrap();
        guest.send(&[2]).unwrap();
        assert_eq!(guest.send(&[3]), Err(SendError::Full));
        let mut batch = Vec::new();
        assert_eq!(opened.receiver.receive(&mut batch, 8, &pool).unwrap(), 2);
        assert_eq!((batch[0].bytes(), batch[1].bytes()), (&[1][..], &[2][..]));

        batch.push(pool.copy(&[3]).unwrap());
        opened.senders[0].transmit(&mut batch).unwrap();
        assert_eq!(batch.len(), 1, "the third did not fit and is left");
        assert_eq!(guest.recv().unwrap(), [1][..]);
        assert_eq!(guest.recv().unwrap(), [2][..]);
        assert!(guest.recv().is_none());
    }
}
