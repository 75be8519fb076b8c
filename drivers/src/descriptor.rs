//! Frames over a descriptor that carries one a read and one a write: a TAP device's queue, a packet socket.
//!
//! If both sides have agreed on it, a [`virtio`] header stands before each frame and tells what was left undone.

use crate::virtio::{self, Header};
use rustix::io::Errno;
use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};
use supernet_dataplane::{
    buf::{FRAME_CAPACITY, Frame, Offloads, Pool},
    port::{Receive, Transmit},
    wire::offload,
};

/// Bytes that one visit receives before it lets others have their turn: what is received is sent on while it is still in
/// the cache.
const VISIT: usize = 256 << 10;

/// What an error means that the descriptor gave.
pub(crate) enum Meaning {
    /// Nothing is to be had now, or nothing can be taken.
    Later,
    /// This frame is lost, as on a cable that is not plugged in; the next one may pass.
    Lost,
    /// A frame had arrived and is lost, and counts as missed; the next one may come.
    #[cfg_attr(not(feature = "packet"), expect(dead_code, reason = "only packet sockets tell"))]
    Missed,
    /// The device is gone for good.
    Gone,
}

/// A device behind a descriptor.
pub(crate) trait Device: Send + Sync {
    /// Its descriptor, which does not block.
    fn fd(&self) -> BorrowedFd<'_>;

    /// What an error of a read means; [`Meaning::Lost`] is one that says nothing about frames.
    fn read_error(&self, errno: Errno) -> Meaning;

    /// What an error of a write means.
    fn write_error(&self, errno: Errno) -> Meaning;

    /// Frames that the kernel had and dropped since this was last asked. Asked when a visit ends while more may be
    /// waiting.
    fn overflowed(&self) -> u64 {
        0
    }
}

impl Device for OwnedFd {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn read_error(&self, errno: Errno) -> Meaning {
        match errno {
            Errno::AGAIN => Meaning::Later,
            _ => Meaning::Gone,
        }
    }

    fn write_error(&self, errno: Errno) -> Meaning {
        match errno {
            Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => Meaning::Later,
            // EIO: the interface is down. EINVAL: the kernel wants no such frame (shorter than an Ethernet header).
            Errno::IO | Errno::INVAL => Meaning::Lost,
            _ => Meaning::Gone,
        }
    }
}

/// The receiving half.
pub(crate) struct Reader<D> {
    device: Arc<D>,
    virtio: bool,
    /// A buffer that was taken for a frame that did not come: it spares a trip to the pool a poll.
    spare: Option<Frame>,
    /// Where the rest of a frame goes that is longer than an ordinary buffer, if the pool has such.
    large: Option<Frame>,
    missed: u64,
}

impl<D> Reader<D> {
    /// Reads from `device`; `virtio` if a header stands before every frame.
    pub(crate) fn new(device: Arc<D>, virtio: bool) -> Self {
        Self { device, virtio, spare: None, large: None, missed: 0 }
    }
}

impl<D: Device> Receive for Reader<D> {
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> io::Result<usize> {
        let (mut received, mut bytes) = (0, 0);
        let longest = pool.longest();
        // Who sends nothing but what is refused is left in the end, too.
        let mut tries = 2 * max;
        // Nothing is waiting any more, so nothing has been too much lately.
        let mut empty = false;
        while received < max && bytes < VISIT && tries > 0 {
            tries -= 1;
            // Without a buffer the frame waits in the kernel's queue, where it is not lost yet.
            let Some(mut frame) = self.spare.take().or_else(|| pool.take()) else { break };
            frame.set_len(FRAME_CAPACITY);
            let wanted = || (longest > FRAME_CAPACITY).then(|| pool.take_for(longest))?;
            let mut large = self.large.take().or_else(wanted);
            let rest = match &mut large {
                Some(large) => {
                    large.set_len(longest);
                    &mut large.bytes_mut()[FRAME_CAPACITY..]
                }
                None => &mut [],
            };
            let room = FRAME_CAPACITY + rest.len();
            let mut header = [0; virtio::LEN];
            let header_len = if self.virtio { virtio::LEN } else { 0 };
            // The kernel cuts a longer frame short without saying so; the extra byte gives it away.
            let mut beyond = [0];
            let mut buffers =
                [&mut header[..header_len], &mut *frame.bytes_mut(), rest, &mut beyond].map(IoSliceMut::new);
            match rustix::io::readv(self.device.fd(), &mut buffers) {
                Ok(len) => {
                    let len = len.saturating_sub(header_len);
                    let whole = if len <= FRAME_CAPACITY {
                        self.large = large;
                        frame.set_len(len);
                        Some(frame)
                    } else {
                        let large = large.filter(|_| len <= room).map(|mut large| {
                            large.bytes_mut()[..FRAME_CAPACITY].copy_from_slice(frame.bytes());
                            large.set_len(len);
                            large
                        });
                        self.spare = Some(frame);
                        large
                    };
                    let header = Header::from_bytes(header);
                    match whole.and_then(|frame| if self.virtio { header.note(frame) } else { Some(frame) }) {
                        Some(frame) => {
                            into.push(frame);
                            (received, bytes) = (received + 1, bytes + len);
                        }
                        None => self.missed += 1,
                    }
                }
                Err(errno) => {
                    (self.spare, self.large) = (Some(frame), large);
                    if errno == Errno::INTR {
                        continue;
                    }
                    match self.device.read_error(errno) {
                        Meaning::Later => {
                            empty = true;
                            break;
                        }
                        Meaning::Lost => {}
                        Meaning::Missed => self.missed += 1,
                        Meaning::Gone => return Err(errno.into()),
                    }
                }
            }
        }
        if !empty {
            self.missed += self.device.overflowed();
        }
        // Who has nothing more keeps no buffer of which there are few.
        self.large = None;
        Ok(received)
    }

    fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.fd())
    }
}

/// A sending half. Several share the descriptor: a write is one whole frame.
pub(crate) struct Writer<D> {
    device: Arc<D>,
    virtio: bool,
    offloads: Offloads,
}

impl<D: Device> Writer<D> {
    /// Writes to `device`; `virtio` if a header stands before every frame, which `offloads` need.
    pub(crate) fn new(device: Arc<D>, virtio: bool, offloads: Offloads) -> Self {
        Self { device, virtio, offloads }
    }

    fn write(&self, frame: &mut Frame) -> rustix::io::Result<usize> {
        if !self.virtio {
            return rustix::io::write(self.device.fd(), frame.bytes());
        }
        let left = frame.offload();
        if let Some(left) = left {
            offload::prepare(frame.bytes_mut(), left);
        }
        let header = Header::of(frame.bytes(), left).to_bytes();
        rustix::io::writev(self.device.fd(), &[IoSlice::new(&header), IoSlice::new(frame.bytes())])
    }
}

impl<D: Device> Transmit for Writer<D> {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        // Those before `lost` could not be sent, those from there to `next` were.
        let (mut lost, mut next) = (0, 0);
        let mut result = Ok(());
        while let Some(frame) = frames.get_mut(next) {
            match self.write(frame) {
                Ok(_) => next += 1,
                Err(Errno::INTR) => {}
                Err(errno) => match self.device.write_error(errno) {
                    Meaning::Later => break,
                    Meaning::Lost | Meaning::Missed => {
                        frames.swap(lost, next);
                        (lost, next) = (lost + 1, next + 1);
                    }
                    Meaning::Gone => {
                        result = Err(errno.into());
                        break;
                    }
                },
            }
        }
        frames.drain(lost..next);
        result
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use supernet_dataplane::buf::Large;

    /// A descriptor that carries one frame a read, and its other end.
    fn pair(virtio: bool) -> (Reader<OwnedFd>, UnixDatagram) {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        (Reader::new(Arc::new(OwnedFd::from(near)), virtio), far)
    }

    fn received(reader: &mut Reader<OwnedFd>, max: usize, pool: &Pool) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let count = reader.receive(&mut frames, max, pool).unwrap();
        assert_eq!(count, frames.len());
        frames.iter().map(|frame| frame.bytes().to_vec()).collect()
    }

    /// Who sends nothing but what is refused is left after a while, and others have their turn.
    #[test]
    fn a_visit_that_gets_nothing_ends() {
        let (mut reader, far) = pair(false);
        let pool = Pool::new(4);
        for _ in 0..6 {
            far.send(&[1; FRAME_CAPACITY + 1]).unwrap();
        }
        far.send(&[2; FRAME_CAPACITY]).unwrap();
        assert_eq!((received(&mut reader, 2, &pool).len(), reader.take_missed()), (0, 4));
        assert_eq!(received(&mut reader, 2, &pool), [[2; FRAME_CAPACITY]]);
        assert_eq!((reader.take_missed(), reader.take_missed()), (2, 0));
        drop(reader);
        assert_eq!(pool.available(), pool.capacity());
    }

    #[test]
    fn a_long_frame_is_whole_in_a_large_buffer() {
        let (mut reader, far) = pair(false);
        let pool = Pool::with_large(4, 1, Large::Super);
        let long: Vec<u8> = (0..60_000u32).map(|n| n as u8).collect();
        far.send(&long).unwrap();
        far.send(&[3; 60]).unwrap();
        assert_eq!(received(&mut reader, 8, &pool), [long, vec![3; 60]]);
        assert_eq!(reader.take_missed(), 0);
    }

    #[test]
    fn a_header_that_makes_no_sense_is_missed_and_one_cut_short_holds_no_frame() {
        let (mut reader, far) = pair(true);
        let pool = Pool::new(4);
        // Segmentation without a checksum to be done; less than a header; and a plain frame.
        far.send(&[&[0, 1, 0, 0, 100, 0, 0, 0, 0, 0][..], &[4; 60]].concat()).unwrap();
        far.send(&[0; 5]).unwrap();
        far.send(&[&[0; virtio::LEN][..], &[5; 60]].concat()).unwrap();
        let frames = received(&mut reader, 8, &pool);
        assert_eq!(frames.last(), Some(&vec![5; 60]));
        assert!(frames[..frames.len() - 1].iter().all(Vec::is_empty), "{frames:?}");
        assert_eq!(reader.take_missed(), 1);
    }

    /// A device that dropped seven frames whenever it is asked.
    struct Overflowing(OwnedFd);

    impl Device for Overflowing {
        fn fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }

        fn read_error(&self, errno: Errno) -> Meaning {
            self.0.read_error(errno)
        }

        fn write_error(&self, errno: Errno) -> Meaning {
            self.0.write_error(errno)
        }

        fn overflowed(&self) -> u64 {
            7
        }
    }

    /// However a visit ends that leaves some waiting: by number, by frames that are refused, without a buffer.
    #[test]
    fn what_found_no_room_is_asked_for_while_more_is_waiting() {
        let visit = |len: usize, count: usize, max: usize, pool: &Pool| {
            let (near, far) = UnixDatagram::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            let mut reader = Reader::new(Arc::new(Overflowing(near.into())), false);
            let sent = vec![1; len];
            far.set_nonblocking(true).unwrap();
            (0..count).for_each(|_| assert_eq!(far.send(&sent).unwrap(), len));
            let mut frames = Vec::new();
            let received = reader.receive(&mut frames, max, pool).unwrap();
            (received, reader.take_missed())
        };
        let pool = Pool::new(8);
        assert_eq!(visit(60, 3, 4, &pool), (3, 0), "all of them");
        assert_eq!(visit(60, 5, 4, &pool), (4, 7), "as many as were asked for");
        assert_eq!(visit(FRAME_CAPACITY + 1, 5, 2, &pool), (0, 4 + 7), "none that fits");
        let _all: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(visit(60, 1, 2, &pool), (0, 7), "no buffer");
    }

    #[test]
    fn who_has_gone_is_an_error() {
        let (mut reader, far) = pair(false);
        let pool = Pool::new(4);
        let device = reader.device.clone();
        let mut writer = Writer::new(device, false, Offloads::NONE);
        drop(far);
        let mut frames = vec![pool.copy(&[6; 60]).unwrap()];
        assert!(writer.transmit(&mut frames).is_err());
        assert_eq!(frames.len(), 1, "it was not taken");
        assert!(received(&mut reader, 1, &pool).iter().all(Vec::is_empty));
    }

    /// A device that loses frames longer than its queue.
    struct Short(OwnedFd);

    impl Device for Short {
        fn fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }

        fn read_error(&self, errno: Errno) -> Meaning {
            self.0.read_error(errno)
        }

        fn write_error(&self, errno: Errno) -> Meaning {
            if errno == Errno::MSGSIZE { Meaning::Lost } else { self.0.write_error(errno) }
        }
    }

    #[test]
    fn lost_frames_are_left_and_the_others_go_in_order() {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&near, 1).unwrap();
        let mut writer = Writer::new(Arc::new(Short(near.into())), false, Offloads::NONE);
        let pool = Pool::with_large(8, 4, Large::Super);
        let frame = |n: u8, len: usize| {
            let mut frame = pool.take_for(len).unwrap();
            assert!(frame.fill(&vec![n; len]));
            frame
        };
        for lost in [[false, true, false, true], [true, true, false, false], [false; 4], [true; 4]] {
            let len = |lost| if lost { 60_000 } else { 60 };
            let mut frames: Vec<_> = (0..).zip(lost).map(|(n, lost)| frame(n, len(lost))).collect();
            writer.transmit(&mut frames).unwrap();
            let of = |which: bool| (0..).zip(lost).filter(move |(_, l)| *l == which).map(|(n, _): (u8, _)| n);
            assert_eq!(frames.iter().map(|f| f.bytes()[0]).collect::<Vec<_>>(), of(true).collect::<Vec<_>>());
            for n in of(false) {
                let mut bytes = [0; 100];
                assert_eq!((far.recv(&mut bytes).unwrap(), bytes[0]), (60, n));
            }
        }
    }
}
