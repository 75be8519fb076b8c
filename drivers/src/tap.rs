//! A Linux TAP device as a port: what the kernel sends through the interface enters the network here, what
//! the network sends comes out of the interface.
//!
//! ```text
//!   kernel's stack ── eth0 ══ /dev/net/tun fd ── Receive ──▶ one worker
//!                                      └──────── Transmit ◀── every worker
//! ```
//!
//! [`open`] gives one queue of plain Ethernet frames: no packet information header, no virtio header, offloads off, so
//! that the kernel fills in every checksum before a frame gets here and checks every checksum after. All senders share
//! the one descriptor: a `write` is one whole frame.
//!
//! With [`Options::offloads`] a virtio header stands before each frame. Then the kernel leaves checksums undone and, if the
//! network has buffers for it ([`SUPER_CAPACITY`]), segmentation: a TCP or UDP packet of up to 64 KB is one frame. It
//! takes such frames from the network as well, and never asks for what was left undone on the way between two hosts of
//! one machine.
//!
//! The interface lives as long as the descriptor: dropping the port removes it. A frame costs one system call
//! in each direction. A device that is down swallows what is sent to it; a device that was deleted is an
//! error, and the worker detaches the port.

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};
use supernet_dataplane::{
    buf::{FRAME_CAPACITY, Frame, Offload, Offloads, Pool, SUPER_CAPACITY, Segmented},
    port::{Opened, Port, Receive, Transmit},
    wire::{ethertype, offload},
};
use virtio::Header;

/// Where the kernel offers TUN and TAP devices.
const CLONE_DEVICE: &str = "/dev/net/tun";

/// Bytes an interface name may have: `IFNAMSIZ` without the terminating zero.
pub const NAME_MAX: usize = 15;

/// Why a TAP device could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel has no TUN driver, or its device node is missing.
    #[error(
        "{CLONE_DEVICE} is missing: load the driver with `modprobe tun`, or in a container pass the device \
         in (`--device /dev/net/tun`)"
    )]
    NoDriver,
    /// TAP devices need `CAP_NET_ADMIN`.
    #[error("not allowed to open TAP device {name}: run as root (sudo), or with CAP_NET_ADMIN")]
    NotPermitted {
        /// The interface asked for.
        name: String,
    },
    /// The name can't be an interface's.
    #[error(
        "{name:?} can't name an interface: use 1 to {NAME_MAX} bytes without `/`, `:`, `%` or white space"
    )]
    BadName {
        /// The interface asked for.
        name: String,
    },
    /// Another process holds the device, or an interface of another kind has the name.
    #[error("interface {name} is in use: end the process that holds it, or choose another name")]
    Busy {
        /// The interface asked for.
        name: String,
    },
    /// A descriptor that is not a plain TAP device.
    #[error("the descriptor is not a TAP device with IFF_TAP | IFF_NO_PI: {reason}")]
    NotPlainTap {
        /// What it is instead.
        reason: String,
    },
    /// Anything else the kernel said.
    #[error("can't set up TAP device {name}: {call}: {source}")]
    System {
        /// The interface asked for.
        name: String,
        /// The system call that failed.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// How a TAP device is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    offloads: bool,
}

impl Options {
    /// Plain Ethernet frames.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether checksums and segmentation may be left undone in both directions, for which a virtio header stands before
    /// every frame; not by default.
    #[must_use]
    pub fn offloads(mut self, offloads: bool) -> Self {
        self.offloads = offloads;
        self
    }

    /// Opens the TAP device `name` as [`open`] does.
    ///
    /// # Errors
    /// As of [`open`].
    pub fn open(self, name: &str) -> Result<Tap, TapError> {
        open_with(name, self.offloads)
    }
}

/// Opens the TAP device `name` in the calling thread's network namespace, and makes it if there is none.
///
/// The interface is down and has no address yet: that is for `ip link` and `ip address` to do.
///
/// ```no_run
/// use supernet_dataplane::{buf::Pool, port::Port};
///
/// let pool = Pool::new(256);
/// let mut port = supernet_drivers::tap::open("net0")?.open(1, &pool)?;
/// let mut frames = Vec::new();
/// port.receiver.receive(&mut frames, 32, &pool)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`TapError`]; nothing was made.
pub fn open(name: &str) -> Result<Tap, TapError> {
    open_with(name, false)
}

fn open_with(name: &str, virtio: bool) -> Result<Tap, TapError> {
    let named = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    if name.is_empty() || name.len() > NAME_MAX || name.contains(named) || name == "." || name == ".." {
        return Err(TapError::BadName { name: name.to_owned() });
    }
    let failed = |call: &'static str, errno: Errno| match errno {
        Errno::NOENT | Errno::NXIO | Errno::NODEV => TapError::NoDriver,
        Errno::ACCESS | Errno::PERM => TapError::NotPermitted { name: name.to_owned() },
        Errno::BUSY | Errno::EXIST => TapError::Busy { name: name.to_owned() },
        // The kernel's answer when an interface that is not a TAP has the name already.
        Errno::INVAL if call == "TUNSETIFF" => TapError::Busy { name: name.to_owned() },
        e => TapError::System { name: name.to_owned(), call, source: e.into() },
    };
    let fd = rustix::fs::open(CLONE_DEVICE, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| failed("open", e))?;
    let header = if virtio { sys::IFF_VNET_HDR } else { 0 };
    sys::set_interface(&fd, name, header).map_err(|e| failed("TUNSETIFF", e))?;
    if virtio {
        sys::set_header_len(&fd, virtio::LEN).map_err(|e| failed("TUNSETVNETHDRSZ", e))?;
    }
    // The mask outlives the descriptor on persistent devices, so it is set even though off is the default.
    sys::set_offload(&fd, 0).map_err(|e| failed("TUNSETOFFLOAD", e))?;
    Ok(Tap { fd, name: name.to_owned(), virtio, offloads: virtio })
}

/// A TAP device that is not attached yet.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    /// A virtio header stands before every frame.
    virtio: bool,
    /// Work may be left undone.
    offloads: bool,
}

impl Tap {
    /// A TAP device that someone else opened, with `IFF_TAP | IFF_NO_PI`, and with `IFF_VNET_HDR` if offloads are
    /// wanted. It is made non-blocking and its offloads are set anew.
    ///
    /// # Errors
    /// The descriptor is something else, or has packet information before its frames.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TapError> {
        let (name, flags) = sys::interface(&fd)
            .map_err(|e| TapError::NotPlainTap { reason: format!("TUNGETIFF: {}", io::Error::from(e)) })?;
        if flags & sys::IFF_TAP == 0 {
            return Err(TapError::NotPlainTap { reason: format!("{name} is a TUN device") });
        }
        if flags & sys::IFF_NO_PI == 0 {
            return Err(TapError::NotPlainTap { reason: format!("{name} puts a header before its frames") });
        }
        let virtio = flags & sys::IFF_VNET_HDR != 0;
        let failed =
            |call, e: Errno| TapError::System { name: name.clone(), call, source: io::Error::from(e) };
        let status = rustix::fs::fcntl_getfl(&fd).map_err(|e| failed("F_GETFL", e))?;
        rustix::fs::fcntl_setfl(&fd, status | OFlags::NONBLOCK).map_err(|e| failed("F_SETFL", e))?;
        if virtio {
            sys::set_header_len(&fd, virtio::LEN).map_err(|e| failed("TUNSETVNETHDRSZ", e))?;
        }
        sys::set_offload(&fd, 0).map_err(|e| failed("TUNSETOFFLOAD", e))?;
        Ok(Self { fd, name, virtio, offloads: virtio })
    }

    /// The same, but nothing is left undone in either direction: every frame is as on a wire.
    #[must_use]
    pub fn without_offloads(self) -> Self {
        Self { offloads: false, ..self }
    }

    /// The interface's name when it was opened.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Port for Tap {
    type Peer = ();

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<()>> {
        let offloads = if self.offloads { negotiate(&self.fd, pool)? } else { Offloads::NONE };
        let (fd, virtio) = (Arc::new(self.fd), self.virtio);
        let sender = || Box::new(TapSender { fd: fd.clone(), virtio, offloads }) as Box<dyn Transmit>;
        Ok(Opened {
            senders: (0..senders).map(|_| sender()).collect(),
            receiver: Box::new(TapReceiver { fd, virtio, spare: None, large: None, missed: 0 }),
            peer: (),
        })
    }
}

/// Tells the kernel what it may leave undone: segmentation only if the pool has room for what is not segmented, and that
/// of UDP if the kernel knows it (Linux 6.2). What it takes undone is the same, but for segmentation of TCP, which it
/// always can.
fn negotiate(fd: &OwnedFd, pool: &Pool) -> io::Result<Offloads> {
    let offloads = Offloads { checksum: true, tcp: true, udp: true };
    if pool.longest() < SUPER_CAPACITY {
        sys::set_offload(fd, sys::CSUM)?;
        // Whether UDP is known, the kernel says only when it is asked.
        return Ok(Offloads { udp: false, ..offloads });
    }
    match sys::set_offload(fd, sys::CSUM | sys::TSO | sys::USO) {
        Ok(()) => Ok(offloads),
        Err(Errno::INVAL) => {
            sys::set_offload(fd, sys::CSUM | sys::TSO)?;
            Ok(Offloads { udp: false, ..offloads })
        }
        Err(e) => Err(e.into()),
    }
}

/// Bytes that one visit receives before it lets others have their turn: what is received is sent on while it is still in
/// the cache.
const VISIT: usize = 256 << 10;

struct TapReceiver {
    fd: Arc<OwnedFd>,
    virtio: bool,
    /// A buffer that was taken for a frame that did not come: it spares a trip to the pool a poll.
    spare: Option<Frame>,
    /// Where the rest of a frame goes that is longer than an ordinary buffer, if the pool has such.
    large: Option<Frame>,
    missed: u64,
}

impl Receive for TapReceiver {
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> io::Result<usize> {
        let (mut received, mut bytes) = (0, 0);
        let longest = pool.longest();
        // Who sends nothing but what is refused is left in the end, too.
        let mut tries = 2 * max;
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
            match rustix::io::readv(&*self.fd, &mut buffers) {
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
                    match errno {
                        Errno::INTR => {}
                        Errno::AGAIN => break,
                        e => return Err(e.into()),
                    }
                }
            }
        }
        // Who has nothing more keeps no buffer of which there are few.
        self.large = None;
        Ok(received)
    }

    fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

struct TapSender {
    fd: Arc<OwnedFd>,
    virtio: bool,
    offloads: Offloads,
}

impl TapSender {
    fn write(&self, frame: &mut Frame) -> rustix::io::Result<usize> {
        if !self.virtio {
            return rustix::io::write(&*self.fd, frame.bytes());
        }
        let left = frame.offload();
        if let Some(left) = left {
            offload::prepare(frame.bytes_mut(), left);
        }
        let header = Header::of(frame.bytes(), left).to_bytes();
        rustix::io::writev(&*self.fd, &[IoSlice::new(&header), IoSlice::new(frame.bytes())])
    }
}

impl Transmit for TapSender {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        let mut taken = 0;
        let mut result = Ok(());
        while let Some(frame) = frames.get_mut(taken) {
            match self.write(frame) {
                // EIO: the interface is down, like a cable that is not plugged in. EINVAL: the kernel wants no
                // such frame (shorter than an Ethernet header). Either way the next one may pass.
                Ok(_) | Err(Errno::IO | Errno::INVAL) => taken += 1,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => break,
                Err(e) => {
                    result = Err(e.into());
                    break;
                }
            }
        }
        frames.drain(..taken);
        result
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}

/// The header that stands before every frame (`struct virtio_net_hdr`; virtio 1.2, 5.1.6), in the byte order of this
/// machine, as TUN has it unless it is told otherwise.
mod virtio {
    use super::{Frame, Offload, Segmented, ethertype, offload};

    /// Bytes of the header.
    pub(super) const LEN: usize = 10;

    const NEEDS_CSUM: u8 = 1;
    const GSO_NONE: u8 = 0;
    const GSO_TCPV4: u8 = 1;
    const GSO_TCPV6: u8 = 4;
    const GSO_UDP_L4: u8 = 5;
    const GSO_ECN: u8 = 0x80;

    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Header {
        flags: u8,
        gso_type: u8,
        hdr_len: u16,
        gso_size: u16,
        csum_start: u16,
        csum_offset: u16,
    }

    impl Header {
        pub(super) fn from_bytes(b: [u8; LEN]) -> Self {
            let half = |at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
            Self {
                flags: b[0],
                gso_type: b[1],
                hdr_len: half(2),
                gso_size: half(4),
                csum_start: half(6),
                csum_offset: half(8),
            }
        }

        pub(super) fn to_bytes(self) -> [u8; LEN] {
            let halves = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
            let mut b = [0; LEN];
            (b[0], b[1]) = (self.flags, self.gso_type);
            for (place, half) in b[2..].as_chunks_mut().0.iter_mut().zip(halves) {
                *place = half.to_ne_bytes();
            }
            b
        }

        /// What is left to be done to a frame, in words of this header.
        pub(super) fn of(frame: &[u8], left: Option<Offload>) -> Self {
            let Some(left) = left else { return Self::default() };
            let checksum = Self {
                flags: NEEDS_CSUM,
                csum_start: left.l4,
                csum_offset: left.kind.checksum_at(),
                ..Self::default()
            };
            let Some(segments) = offload::Segments::of(frame, left) else { return checksum };
            let is_v6 = frame[12..14] == ethertype::IPV6.to_be_bytes();
            let gso_type = match left.kind {
                Segmented::Tcp if is_v6 => GSO_TCPV6,
                Segmented::Tcp => GSO_TCPV4,
                Segmented::Udp => GSO_UDP_L4,
            };
            let ecn = if left.cwr { GSO_ECN } else { 0 };
            let hdr_len = segments.headers() as u16;
            Self { gso_type: gso_type | ecn, hdr_len, gso_size: left.segment, ..checksum }
        }

        /// Notes in the frame what was left to be done to it. `None` if that is nothing we can do.
        pub(super) fn note(self, mut frame: Frame) -> Option<Frame> {
            let kind = self.gso_type & !GSO_ECN;
            if self.flags & NEEDS_CSUM == 0 {
                return (kind == GSO_NONE).then_some(frame);
            }
            let Some(plain) = Offload::of_plain(frame.bytes(), self.csum_start, self.csum_offset) else {
                // Whatever it is the checksum of, it can be computed while nothing has been changed.
                let done = kind == GSO_NONE
                    && offload::complete_any(frame.bytes_mut(), self.csum_start, self.csum_offset);
                return done.then_some(frame);
            };
            let is_known = match kind {
                GSO_NONE => true,
                GSO_TCPV4 | GSO_TCPV6 => plain.kind == Segmented::Tcp && self.gso_size > 0,
                GSO_UDP_L4 => plain.kind == Segmented::Udp && self.gso_size > 0,
                _ => false,
            };
            let segment = if kind == GSO_NONE { 0 } else { self.gso_size };
            frame.set_offload(Some(Offload { segment, cwr: self.gso_type & GSO_ECN != 0, ..plain }));
            is_known.then_some(frame)
        }
    }
}

/// The ioctls of `linux/if_tun.h` that are needed.
///
/// The one place of this crate with `unsafe`: rustix cannot know what an ioctl reads and writes. The TAP tests
/// notice if the layout is wrong: the interface would have another name or kind.
#[allow(unsafe_code)]
mod sys {
    use rustix::{
        io::{Errno, Result},
        ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode},
    };
    use std::{ffi::c_int, os::fd::OwnedFd};

    pub(super) const IFF_TAP: u16 = 0x0002;
    pub(super) const IFF_NO_PI: u16 = 0x1000;
    pub(super) const IFF_VNET_HDR: u16 = 0x4000;

    /// Checksums; segmentation of TCP over both families, with ECN; and that of UDP.
    pub(super) const CSUM: usize = 0x01;
    pub(super) const TSO: usize = 0x02 | 0x04 | 0x08;
    pub(super) const USO: usize = 0x20 | 0x40;

    const TUNSETIFF: Opcode = opcode::write::<c_int>(b'T', 202);
    const TUNSETOFFLOAD: Opcode = opcode::write::<c_int>(b'T', 208);
    const TUNSETVNETHDRSZ: Opcode = opcode::write::<c_int>(b'T', 216);
    const TUNGETIFF: Opcode = opcode::read::<c_int>(b'T', 210);

    /// `struct ifreq` with `ifr_flags`; the union is padded to its full size, which the kernel copies whole.
    #[repr(C, align(8))]
    #[derive(Default)]
    struct IfReq {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }

    const _: () = assert!(size_of::<IfReq>() == 40 || cfg!(not(target_pointer_width = "64")));

    /// Makes the descriptor the queue of TAP interface `name`, of at most 15 bytes.
    pub(super) fn set_interface(fd: &OwnedFd, name: &str, more: u16) -> Result<()> {
        let mut request = IfReq { flags: IFF_TAP | IFF_NO_PI | more, ..IfReq::default() };
        let room = request.name.get_mut(..name.len()).ok_or(Errno::NAMETOOLONG)?;
        room.copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`; `IfReq` is at least as large, and lives
        // through the call.
        unsafe { ioctl(fd, Updater::<TUNSETIFF, IfReq>::new(&mut request)) }
    }

    /// The name and flags of the interface behind the descriptor.
    pub(super) fn interface(fd: &OwnedFd) -> Result<(String, u16)> {
        let mut request = IfReq::default();
        // SAFETY: TUNGETIFF writes one `struct ifreq`, as above. On a descriptor of another driver the number
        // is unknown and gives ENOTTY.
        unsafe { ioctl(fd, Updater::<TUNGETIFF, IfReq>::new(&mut request)) }?;
        let end = request.name.iter().position(|&b| b == 0).unwrap_or(request.name.len());
        Ok((String::from_utf8_lossy(&request.name[..end]).into_owned(), request.flags))
    }

    /// Sets the length of the virtio header.
    pub(super) fn set_header_len(fd: &OwnedFd, len: usize) -> Result<()> {
        let mut len = len as c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one `int`, which lives through the call.
        unsafe { ioctl(fd, Updater::<TUNSETVNETHDRSZ, c_int>::new(&mut len)) }
    }

    /// Says which offloads the reader of the descriptor can deal with.
    pub(super) fn set_offload(fd: &OwnedFd, mask: usize) -> Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
        unsafe { ioctl(fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(mask)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_the_kernel_is_asked() {
        for name in ["", "a name", "sixteen-bytes-xx", "a/b", "tap%d", ".."] {
            let error = open(name).unwrap_err();
            assert!(matches!(error, TapError::BadName { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn only_a_tap_descriptor_is_a_tap() {
        let file = tempfile::tempfile().unwrap();
        let error = Tap::from_fd(file.into()).unwrap_err();
        assert!(matches!(error, TapError::NotPlainTap { .. }), "{error}");
    }
}
