//! A Linux TAP device as a port: what the kernel sends through the interface enters the network here, what
//! the network sends comes out of the interface.
//!
//! ```text
//!   kernel's stack ── eth0 ══ /dev/net/tun fd ── Receive ──▶ one worker
//!                                      └──────── Transmit ◀── every worker
//! ```
//!
//! One queue, plain Ethernet frames: no packet information header, no virtio header, offloads off, so that
//! the kernel fills in every checksum before a frame gets here and checks every checksum after. All senders
//! share the one descriptor: a `write` is one whole frame.
//!
//! The interface lives as long as the descriptor: dropping the port removes it. A frame costs one system call
//! in each direction. A device that is down swallows what is sent to it; a device that was deleted is an
//! error, and the worker detaches the port.

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};
use supernet_dataplane::{
    buf::{FRAME_CAPACITY, Frame, JUMBO_CAPACITY, Pool},
    port::{Opened, Port, Receive, Transmit},
};

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
    sys::set_interface(&fd, name).map_err(|e| failed("TUNSETIFF", e))?;
    // The mask outlives the descriptor on persistent devices, so it is set even though off is the default.
    sys::set_offload(&fd, 0).map_err(|e| failed("TUNSETOFFLOAD", e))?;
    Ok(Tap { fd, name: name.to_owned() })
}

/// A TAP device that is not attached yet.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
}

impl Tap {
    /// A TAP device that someone else opened, with `IFF_TAP | IFF_NO_PI` and nothing more. It is made
    /// non-blocking and its offloads are turned off.
    ///
    /// # Errors
    /// The descriptor is something else, or has a header before its frames.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TapError> {
        let (name, flags) = sys::interface(&fd)
            .map_err(|e| TapError::NotPlainTap { reason: format!("TUNGETIFF: {}", io::Error::from(e)) })?;
        if flags & sys::IFF_TAP == 0 {
            return Err(TapError::NotPlainTap { reason: format!("{name} is a TUN device") });
        }
        if flags & sys::IFF_NO_PI == 0 || flags & sys::IFF_VNET_HDR != 0 {
            return Err(TapError::NotPlainTap { reason: format!("{name} puts a header before its frames") });
        }
        let failed =
            |call, e: Errno| TapError::System { name: name.clone(), call, source: io::Error::from(e) };
        let status = rustix::fs::fcntl_getfl(&fd).map_err(|e| failed("F_GETFL", e))?;
        rustix::fs::fcntl_setfl(&fd, status | OFlags::NONBLOCK).map_err(|e| failed("F_SETFL", e))?;
        sys::set_offload(&fd, 0).map_err(|e| failed("TUNSETOFFLOAD", e))?;
        Ok(Self { fd, name })
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

    fn open(self, senders: usize, _pool: &Pool) -> io::Result<Opened<()>> {
        let fd = Arc::new(self.fd);
        let sender = || Box::new(TapSender { fd: fd.clone() }) as Box<dyn Transmit>;
        Ok(Opened {
            senders: (0..senders).map(|_| sender()).collect(),
            receiver: Box::new(TapReceiver { fd, spare: None, jumbo: None, missed: 0 }),
            peer: (),
        })
    }
}

struct TapReceiver {
    fd: Arc<OwnedFd>,
    /// A buffer that was taken for a frame that did not come: it spares a trip to the pool a poll.
    spare: Option<Frame>,
    /// Where the rest of a frame goes that is longer than an ordinary buffer, if the pool has such.
    jumbo: Option<Frame>,
    missed: u64,
}

impl Receive for TapReceiver {
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> io::Result<usize> {
        let mut received = 0;
        while received < max {
            // Without a buffer the frame waits in the kernel's queue, where it is not lost yet.
            let Some(mut frame) = self.spare.take().or_else(|| pool.take()) else { break };
            frame.set_len(FRAME_CAPACITY);
            let mut jumbo = self.jumbo.take().or_else(|| pool.take_for(JUMBO_CAPACITY));
            let rest = match &mut jumbo {
                Some(jumbo) => {
                    jumbo.set_len(JUMBO_CAPACITY);
                    &mut jumbo.bytes_mut()[FRAME_CAPACITY..]
                }
                None => &mut [],
            };
            let room = FRAME_CAPACITY + rest.len();
            // The kernel cuts a longer frame short without saying so; the extra byte gives it away.
            let mut beyond = [0];
            let mut buffers = [&mut *frame.bytes_mut(), rest, &mut beyond].map(IoSliceMut::new);
            match rustix::io::readv(&*self.fd, &mut buffers) {
                Ok(len) if len <= FRAME_CAPACITY => {
                    frame.set_len(len);
                    into.push(frame);
                    received += 1;
                    self.jumbo = jumbo;
                }
                Ok(len) => {
                    if let Some(mut jumbo) = jumbo.filter(|_| len <= room) {
                        jumbo.bytes_mut()[..FRAME_CAPACITY].copy_from_slice(frame.bytes());
                        jumbo.set_len(len);
                        into.push(jumbo);
                        received += 1;
                    } else {
                        self.missed += 1;
                    }
                    self.spare = Some(frame);
                }
                Err(errno) => {
                    (self.spare, self.jumbo) = (Some(frame), jumbo);
                    match errno {
                        Errno::INTR => {}
                        Errno::AGAIN => {
                            // An idle port keeps no buffer of which there are few.
                            self.jumbo = None;
                            break;
                        }
                        e => return Err(e.into()),
                    }
                }
            }
        }
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
}

impl Transmit for TapSender {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        let mut taken = 0;
        let mut result = Ok(());
        while let Some(frame) = frames.get(taken) {
            match rustix::io::write(&*self.fd, frame.bytes()) {
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
}

/// The three ioctls of `linux/if_tun.h` that are needed.
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

    const TUNSETIFF: Opcode = opcode::write::<c_int>(b'T', 202);
    const TUNSETOFFLOAD: Opcode = opcode::write::<c_int>(b'T', 208);
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
    pub(super) fn set_interface(fd: &OwnedFd, name: &str) -> Result<()> {
        let mut request = IfReq { flags: IFF_TAP | IFF_NO_PI, ..IfReq::default() };
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
