//! Where frames come from and go to.
//!
//! ```text
//!            ┌── Receive ──▶ one worker, or one for each of its queues
//!   Port ────┤
//!            └── Transmit ◀── every worker, one each
//! ```
//!
//! Any worker may have to send to any port, so [`Port::open`] splits a port into a sender for each worker and
//! a receiver, or several if it has several queues; none is ever shared. An embedder's own type is a port by
//! implementing [`Port`].
//!
//! | port | what it is |
//! | --- | --- |
//! | [`mod@memory`] | rings between the network and guests in the same process |
//! | [`fault`] | any port, with frames lost, doubled, damaged, overtaken and late |
//!
//! TAP devices and capture files are ports of the crate `supernet-drivers`.

mod bell;
pub mod fault;
pub mod memory;

use crate::buf::{Frame, Offloads, Pool};
use std::{io, os::fd::BorrowedFd, sync::Arc};

pub use bell::Bell;
pub(crate) use bell::{Bells, PORTS};
pub use memory::memory;

/// Wakes the worker that receives from a port. Cheap when the worker is awake.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that calls `wake`, from any thread.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Says that frames are waiting.
    pub fn wake(&self) {
        (self.0)()
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

/// The receiving half of a port, or of one of its queues. One worker owns it.
pub trait Receive: Send {
    /// Moves at most `max` waiting frames to the end of `into`, taking buffers from `pool`. Never blocks.
    ///
    /// Returns how many frames were received; fewer than `max` says that no more are waiting. Frames the port had
    /// but could not deliver (no buffer left, too long) are reported by [`Receive::take_missed`].
    ///
    /// # Errors
    /// The port is gone for good: it is detached, and its sessions end by their timers.
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> io::Result<usize>;

    /// Frames that arrived and could not be received since the last call; they never entered the pipeline.
    fn take_missed(&mut self) -> u64 {
        0
    }

    /// A descriptor that is readable when frames are waiting. A port without one calls the [`Waker`]. One that has some
    /// which its descriptor does not show rings its bell for them ([`Receive::set_bell`]), and calls the waker.
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The bell of this half. A port that takes it rings whenever frames were queued, and is asked for frames from
    /// then on until it gives fewer than it was asked for; if it keeps some back then, it must ring again. One that
    /// does not take it (`false`) is asked every time.
    fn set_bell(&mut self, _bell: Bell) -> bool {
        false
    }

    /// The waker of the worker that owns this half, for ports that have no descriptor.
    fn set_waker(&mut self, _waker: Waker) {}
}

/// A sending half of a port. Every worker owns one of its own.
pub trait Transmit: Send {
    /// Sends `frames` in order, from the front, and removes those it took, never blocking.
    ///
    /// What is left in `frames`, in their order, could not be sent: the port has no more room, or has lost them, as a
    /// line that is not plugged in does. The worker counts it as
    /// [`DropReason::PortFull`](crate::verdict::DropReason::PortFull) and frees it.
    ///
    /// # Errors
    /// The port is gone for good and is detached. Frames not taken stay in `frames`.
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()>;

    /// What may be left undone of the frames it is given ([`Frame::offload`]); the rest is done before.
    fn offloads(&self) -> Offloads {
        Offloads::NONE
    }
}

/// A port that can be attached to the network.
pub trait Port: Send {
    /// What the other side of the port holds: the guest's end of a memory port, `()` for a device.
    type Peer;

    /// Splits the port into `senders` senders and at least one receiver.
    ///
    /// # Errors
    /// The device could not be opened or has too few queues.
    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<Self::Peer>>;
}

/// A port that was split up for the workers.
pub struct Opened<Peer> {
    /// The receiving half. A device with several queues has one for each, and several workers receive from it. The
    /// device keeps all frames of a connection in one queue, or they overtake each other. With as many as workers, or a
    /// multiple, each worker has those of its number, so a device may send by queue n what sender n is given.
    pub receivers: Vec<Box<dyn Receive>>,
    /// One sending half a worker.
    pub senders: Vec<Box<dyn Transmit>>,
    /// The other side.
    pub peer: Peer,
}
