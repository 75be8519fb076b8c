//! One AF_XDP socket: a queue of an interface, with memory of its own that it shares with the kernel.
//!
//! Frames are copied between that memory and the network's pool: a frame that is received here leaves through any port,
//! and the kernel takes memory of one pool only.
//!
//! With `unsafe`: the crate `xdp` asks for a promise that no packet outlives its memory. Here none leaves [`Socket`], which
//! holds both.

use rustix::{
    io::Errno,
    net::{SendFlags, sockopt},
};
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, BorrowedFd},
};
use supernet_dataplane::buf::{FRAME_CAPACITY, Frame, Offload, Pool};
use xdp::{
    CompletionRing, FillRing, Packet, RingConfigBuilder, RxRing, TxRing, Umem,
    nic::NicIndex,
    slab::Slab,
    socket::{SocketError, XdpSocket, XdpSocketBuilder},
    umem::{FrameSize, UmemCfgBuilder},
};

/// Frames of each direction that may be under way.
const RING: u32 = 2048;

/// Bytes that may be on their way, as the kernel counts: a frame with all that belongs to it.
const SEND_BUFFER: usize = RING as usize * 6144;

/// Frames that are taken from the ring in one go.
const CHUNK: usize = 16;

/// What the kernel keeps of a buffer for itself (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;

/// Bytes of the longest frame.
pub(super) const LONGEST: usize = 4096 - HEADROOM;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoSocket {
    #[error("{0}")]
    Memory(#[from] io::Error),
    #[error("{0}")]
    Config(#[from] xdp::error::Error),
    #[error("{0}")]
    Socket(#[from] SocketError),
    #[error("the kernel gave no rings")]
    NoRings,
}

impl NoSocket {
    /// What the kernel said, if it was the kernel.
    pub(super) fn errno(&self) -> Option<Errno> {
        let error = match self {
            Self::Memory(e) => e,
            Self::Socket(
                SocketError::SocketCreation(e)
                | SocketError::Bind(e)
                | SocketError::SetSockOpt { inner: e, .. }
                | SocketError::GetSockOpt { inner: e, .. }
                | SocketError::RingMap { inner: e, .. },
            ) => e,
            _ => return None,
        };
        Errno::from_io_error(error)
    }
}

/// A socket. Fields are dropped in this order: the memory last.
pub(super) struct Socket {
    socket: XdpSocket,
    rx: RxRing,
    tx: TxRing,
    fill: FillRing,
    completion: CompletionRing,
    /// Empty between calls.
    batch: Batch,
    /// Likewise: buffers for what is about to be received.
    buffers: Vec<Frame>,
    umem: Umem,
    /// Frames of the memory that the kernel is owed to receive into.
    owed: usize,
    /// The interface was down when frames were last sent.
    down: bool,
    /// Frames that the kernel had dropped when that was last asked.
    dropped: u64,
    /// Whether any checksum may have been left undone by who sent it.
    undone: bool,
}

/// Packets on their way between a ring and the pool, first come, first served.
#[derive(Default)]
struct Batch {
    packets: VecDeque<Packet>,
    room: usize,
}

// SAFETY: the socket and its rings are descriptors and memory that the kernel shares with this process, not with a
// thread, and nothing else in the process refers to them. All ways to them are by `&mut`.
#[allow(unsafe_code)]
unsafe impl Send for Socket {}

impl Socket {
    /// A socket on a queue, for frames of up to `longest` bytes. `undone` if checksums of what it receives may never have
    /// been computed.
    pub(super) fn open(index: u32, queue: u32, longest: usize, undone: bool) -> Result<Self, NoSocket> {
        let frame_size = if longest > 2048 - HEADROOM { FrameSize::FourK } else { FrameSize::TwoK };
        let config = UmemCfgBuilder { frame_size, frame_count: 2 * RING, ..UmemCfgBuilder::default() };
        let mut umem = Umem::map(config.build()?)?;
        let mut builder = XdpSocketBuilder::new()?;
        let rings =
            RingConfigBuilder { rx_count: RING, tx_count: RING, fill_count: RING, completion_count: RING };
        let (rings, flags) = builder.build_rings(&umem, rings.build()?)?;
        let (Some(rx), Some(tx)) = (rings.rx_ring, rings.tx_ring) else { return Err(NoSocket::NoRings) };
        let mut fill = rings.fill_ring;
        let socket = builder.bind(NicIndex::new(index), queue, flags)?;
        // Enough for a full ring: else the end of a burst could wait there until something else is sent.
        let fd = borrow(&socket);
        if sockopt::set_socket_send_buffer_size_force(fd, SEND_BUFFER).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(fd, SEND_BUFFER);
        }
        // SAFETY: `umem` lives as long as the socket: both are dropped with this value, it after the socket.
        #[allow(unsafe_code)]
        unsafe {
            fill.enqueue(&mut umem, RING as usize)
        };
        let (completion, batch, buffers) = (rings.completion_ring, Batch::default(), Vec::new());
        let (owed, down, dropped) = (0, false, 0);
        Ok(Self { socket, rx, tx, fill, completion, batch, buffers, umem, owed, down, dropped, undone })
    }

    /// Its descriptor.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        borrow(&self.socket)
    }

    /// Receives at most `max` frames. How many could not be: for want of a buffer that is long enough, or since the
    /// ring was full. That is asked unless the ring was found empty: then nothing has been too much lately.
    pub(super) fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> u64 {
        let (mut left, mut missed) = (max, 0);
        let mut empty = false;
        while left > 0 {
            // What has no buffer waits in the ring.
            while self.buffers.len() < left.min(CHUNK)
                && let Some(frame) = pool.take()
            {
                self.buffers.push(frame);
            }
            self.batch.room = self.buffers.len();
            // SAFETY: the packets are given back to `umem` below.
            #[allow(unsafe_code)]
            let received = unsafe { self.rx.recv(&self.umem, &mut self.batch) };
            empty = received < self.buffers.len();
            let is_last = empty || received == 0;
            while let Some(packet) = self.batch.packets.pop_front() {
                let is_long = packet.len() > FRAME_CAPACITY;
                let buffer = if is_long { pool.take_for(packet.len()) } else { self.buffers.pop() };
                match buffer.and_then(|mut frame| frame.fill(&packet).then_some(frame)) {
                    Some(mut frame) => {
                        if self.undone {
                            let undone = Offload::of_any_plain(frame.bytes());
                            frame.set_offload(undone);
                        }
                        into.push(frame);
                    }
                    None => missed += 1,
                }
                self.umem.free_packet(packet);
            }
            self.owed += received;
            // SAFETY: as in `open`.
            #[allow(unsafe_code)]
            let given = unsafe { self.fill.enqueue(&mut self.umem, self.owed) };
            self.owed -= given;
            left -= received;
            if is_last {
                break;
            }
        }
        self.buffers.clear();
        if empty { missed } else { missed + self.overflowed() }
    }

    /// Sends frames from the front of `frames`, and leaves those that the kernel has not taken: also those that no
    /// buffer is long enough for.
    pub(super) fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        self.completion.dequeue(&mut self.umem, RING as usize);
        if self.down {
            // Nothing is to wait for the line to be plugged in again, and be sent then.
            self.kick(0)?;
            if self.down {
                return Ok(());
            }
        }
        // Of those before `seen`, the ones that are not longer than `room` are in the batch.
        let (mut seen, mut room) = (0, 0);
        for frame in frames.iter() {
            // SAFETY: the packet goes to the kernel, which gives it back to `umem`, or back to it below.
            #[allow(unsafe_code)]
            let Some(mut packet) = (unsafe { self.umem.alloc() }) else { break };
            (seen, room) = (seen + 1, packet.capacity());
            if packet.append(frame.bytes()).is_ok() {
                self.batch.packets.push_back(packet);
            } else {
                // Longer than the interface's MTU: nobody could receive it.
                self.umem.free_packet(packet);
            }
        }
        let wanted = self.batch.packets.len();
        self.batch.packets.make_contiguous().reverse();
        // SAFETY: as in `open`.
        #[allow(unsafe_code)]
        let queued = unsafe { self.tx.send(&mut self.batch) };
        for packet in self.batch.packets.drain(..) {
            // The ring has no room for all of them; it takes all or none.
            self.umem.free_packet(packet);
        }
        if queued < wanted {
            return self.kick(RING as usize);
        }
        self.kick(queued)?;
        let mut at = 0;
        frames.retain(|frame| {
            at += 1;
            at > seen || frame.len() > room
        });
        Ok(())
    }

    /// Has the kernel send what is queued, and notes whether the interface is down.
    fn kick(&mut self, queued: usize) -> io::Result<()> {
        self.down = false;
        // Each call sends a part, or loses one frame that can't be sent: without a carrier, all of them.
        for _ in 0..=queued {
            match rustix::net::send(self.fd(), &[], SendFlags::DONTWAIT) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN | Errno::INTR | Errno::BUSY) => {}
                Err(Errno::NETDOWN) => {
                    self.down = true;
                    return Ok(());
                }
                Err(Errno::NOBUFS) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Frames that the kernel had and dropped since this was last asked.
    fn overflowed(&mut self) -> u64 {
        let Ok(now) = self.socket.statistics() else { return 0 };
        let all = now.rx_dropped + now.rx_ring_full;
        let new = all.saturating_sub(self.dropped);
        self.dropped = all;
        new
    }
}

impl Slab for Batch {
    fn available(&self) -> usize {
        self.room.saturating_sub(self.packets.len())
    }

    fn len(&self) -> usize {
        self.packets.len()
    }

    fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    fn push_front(&mut self, packet: Packet) -> Option<Packet> {
        self.packets.push_back(packet);
        None
    }

    fn pop_back(&mut self) -> Option<Packet> {
        self.packets.pop_back()
    }
}

/// The socket's descriptor, for calls that the crate does not have.
fn borrow(socket: &XdpSocket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is the socket's own, which outlives the borrow.
    #[allow(unsafe_code)]
    unsafe {
        BorrowedFd::borrow_raw(socket.as_raw_fd())
    }
}
