//! A Linux TAP device as a port: what the kernel sends through the interface enters the network here, what
//! the network sends comes out of the interface.
//!
//! ```text
//!   kernel's stack ── eth0 ══ /dev/net/tun fd ── Receive ──▶ one worker
//!                                      └──────── Transmit ◀── every worker
//! ```
//!
//! [`open`] gives one queue of plain Ethernet frames: no packet information header, no virtio header, offloads off, so
//! that the kernel fills in every checksum before a frame gets here and checks every checksum after. Senders share
//! descriptors: a `write` is one whole frame.
//!
//! With [`Options::offloads`] a virtio header stands before each frame. Then the kernel leaves checksums undone and, if the
//! network has buffers for it ([`SUPER_CAPACITY`]), segmentation: a TCP or UDP packet of up to 64 KB is one frame. It
//! takes such frames from the network as well, and never asks for what was left undone on the way between two hosts of
//! one machine.
//!
//! With [`Options::queues`], several workers receive from one device. The kernel keeps each connection in one queue: the
//! one that its answers were written to.
//!
//! The interface lives as long as the descriptor: dropping the port removes it. A frame costs one system call
//! in each direction. A device that is down takes nothing; a device that was deleted is an
//! error, and the worker detaches the port.

use crate::{
    descriptor::{Reader, Writer},
    virtio,
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};
use supernet_dataplane::{
    buf::{Offloads, Pool, SUPER_CAPACITY},
    port::{Opened, Port, Receive, Transmit},
};

/// Where the kernel offers TUN and TAP devices.
const CLONE_DEVICE: &str = "/dev/net/tun";

/// Bytes an interface name may have: `IFNAMSIZ` without the terminating zero.
pub const NAME_MAX: usize = 15;

/// Queues a device may have (`MAX_TAP_QUEUES`).
pub const QUEUES_MAX: usize = 256;

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
#[derive(Debug, Clone, Copy)]
pub struct Options {
    offloads: bool,
    queues: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { offloads: false, queues: 1 }
    }
}

impl Options {
    /// Plain Ethernet frames in one queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many queues there are: as many workers can receive from the device, and send to it without waiting for each
    /// other. From 1, the default, to [`QUEUES_MAX`]; what is beyond counts as that.
    #[must_use]
    pub fn queues(mut self, queues: usize) -> Self {
        self.queues = queues.clamp(1, QUEUES_MAX);
        self
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
        open_with(name, self)
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
/// port.receivers[0].receive(&mut frames, 32, &pool)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`TapError`]; nothing was made.
pub fn open(name: &str) -> Result<Tap, TapError> {
    open_with(name, Options::default())
}

fn open_with(name: &str, options: Options) -> Result<Tap, TapError> {
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
    let virtio = options.offloads;
    let header = if virtio { sys::IFF_VNET_HDR } else { 0 };
    let several = if options.queues > 1 { sys::IFF_MULTI_QUEUE } else { 0 };
    let queue = |_| {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(CLONE_DEVICE, flags, Mode::empty()).map_err(|e| failed("open", e))?;
        sys::set_interface(&fd, name, header | several).map_err(|e| failed("TUNSETIFF", e))?;
        Ok(fd)
    };
    let first = queue(0)?;
    if virtio {
        sys::set_header_len(&first, virtio::LEN).map_err(|e| failed("TUNSETVNETHDRSZ", e))?;
    }
    // The mask outlives the descriptor on persistent devices, so it is set even though off is the default.
    sys::set_offload(&first, 0).map_err(|e| failed("TUNSETOFFLOAD", e))?;
    let more = (1..options.queues).map(queue).collect::<Result<_, _>>()?;
    Ok(Tap { first, more, name: name.to_owned(), virtio, offloads: virtio })
}

/// A TAP device that is not attached yet.
#[derive(Debug)]
pub struct Tap {
    first: OwnedFd,
    /// Further queues.
    more: Vec<OwnedFd>,
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
        Ok(Self { first: fd, more: Vec::new(), name, virtio, offloads: virtio })
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
        self.first.as_fd()
    }
}

impl Port for Tap {
    type Peer = ();

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<()>> {
        let offloads = if self.offloads { negotiate(&self.first, pool)? } else { Offloads::NONE };
        let virtio = self.virtio;
        let queues: Vec<_> = [self.first].into_iter().chain(self.more).map(Arc::new).collect();
        let receiver = |fd: &Arc<OwnedFd>| Box::new(Reader::new(fd.clone(), virtio)) as Box<dyn Receive>;
        let sender =
            |fd: &Arc<OwnedFd>| Box::new(Writer::new(fd.clone(), virtio, offloads)) as Box<dyn Transmit>;
        Ok(Opened {
            receivers: queues.iter().map(receiver).collect(),
            senders: queues.iter().cycle().take(senders).map(sender).collect(),
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

/// The ioctls of `linux/if_tun.h` that are needed.
///
/// With `unsafe`: rustix cannot know what an ioctl reads and writes. The TAP tests
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
    pub(super) const IFF_MULTI_QUEUE: u16 = 0x0100;
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
