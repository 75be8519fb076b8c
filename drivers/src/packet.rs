//! A packet socket (`AF_PACKET`) on an interface that is there already: what arrives at the interface enters the network
//! here, what the network sends leaves through it.
//!
//! ```text
//!   the wire ══ eth1 ══ packet socket ── Receive ──▶ one worker
//!                │             └──────── Transmit ◀── every worker
//!                └── the kernel's stack: gets what arrives, too
//! ```
//!
//! Works on every Ethernet interface. The port is promiscuous, since an uplink has a MAC of its own. Frames with a VLAN tag
//! are not received, and neither is what the machine itself sends there.
//!
//! A virtio header stands before every frame (`PACKET_VNET_HDR`), since the kernel hands over what it has merged (GRO), and
//! what a veth's other end has left undone. So the network needs buffers for super-packets
//! ([`SUPER_CAPACITY`]); without, only [`checksums`](Offloads::checksum) may be left undone, and merged frames are missed:
//! `ethtool -K eth1 gro off` keeps them apart.
//!
//! The kernel's stack sees the same frames. With an address of the network on the interface, both would answer: leave the
//! interface without.

use crate::{
    descriptor::{Device, Meaning, Reader, Writer},
    interface::{self, Interface, InterfaceError},
};
use pnet_datalink::{Channel, Config};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, sockopt},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd},
    sync::Arc,
};
use supernet_dataplane::{
    buf::{Offloads, Pool, SUPER_CAPACITY},
    port::{Opened, Port},
};

/// Bytes that wait in the kernel at most until a worker receives them.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Opens a packet socket on `interface`. It receives from now on.
///
/// # Errors
/// See [`InterfaceError`].
pub fn open(interface: &Interface) -> Result<Packet, InterfaceError> {
    let name = interface.name().to_owned();
    let failed = |call: &'static str, errno: Errno| match errno {
        Errno::PERM | Errno::ACCESS => InterfaceError::NotPermitted {
            name: name.clone(),
            what: "a packet socket",
            capabilities: "CAP_NET_RAW",
        },
        e => InterfaceError::System { name: name.clone(), call, source: e.into() },
    };
    // Of no protocol: it receives nothing until it is bound, and then only what it is to receive.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
        .map_err(|e| failed("socket", e))?;
    sys::set(&fd, sys::PACKET_VNET_HDR).map_err(|e| failed("PACKET_VNET_HDR", e))?;
    sys::set(&fd, sys::PACKET_IGNORE_OUTGOING).map_err(|e| failed("PACKET_IGNORE_OUTGOING", e))?;
    sys::refuse_tagged(&fd).map_err(|e| failed("SO_ATTACH_FILTER", e))?;
    // More than the system allows by itself, if that is to be had.
    if sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER);
    }
    let bound =
        fd.try_clone().map_err(|e| InterfaceError::System { name: name.clone(), call: "dup", source: e })?;
    // Closed by the channel, and by nobody else.
    let config = Config { socket_fd: Some(bound.into_raw_fd()), promiscuous: true, ..Config::default() };
    match pnet_datalink::channel(&interface.nic, config) {
        // What it reads and writes with is not needed: that knows no header.
        Ok(Channel::Ethernet(..)) => Ok(Packet { fd, interface: interface.clone() }),
        Ok(_) => Err(failed("bind", Errno::OPNOTSUPP)),
        Err(e) => Err(InterfaceError::System { name: name.clone(), call: "bind", source: e }),
    }
}

/// A packet socket that is not attached yet.
#[derive(Debug)]
pub struct Packet {
    fd: OwnedFd,
    interface: Interface,
}

impl Packet {
    /// The interface it is on, as it was when it was opened.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }
}

impl Port for Packet {
    type Peer = ();

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<()>> {
        let device = Arc::new(Socket { fd: self.fd, index: self.interface.index() });
        // The kernel undoes on the way out whatever the interface can't.
        let offloads = Offloads { checksum: true, tcp: pool.longest() >= SUPER_CAPACITY, udp: false };
        let sender = || Box::new(Writer::new(device.clone(), true, offloads)) as Box<_>;
        Ok(Opened {
            receivers: vec![Box::new(Reader::new(device.clone(), true))],
            senders: (0..senders).map(|_| sender()).collect(),
            peer: (),
        })
    }
}

struct Socket {
    fd: OwnedFd,
    /// The interface's number.
    index: u32,
}

impl Socket {
    /// What it means that the interface is down.
    fn down(&self) -> Meaning {
        if interface::exists(self.fd(), self.index) { Meaning::Lost } else { Meaning::Gone }
    }
}

impl Device for Socket {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn read_error(&self, errno: Errno) -> Meaning {
        match errno {
            Errno::AGAIN => Meaning::Later,
            // Said once, when it went down or away.
            Errno::NETDOWN => self.down(),
            // A virtio header cannot tell of this frame, such as fragments of UDP that a virtual machine left to be cut.
            // The kernel has let go of it.
            Errno::INVAL => Meaning::Missed,
            _ => Meaning::Gone,
        }
    }

    fn write_error(&self, errno: Errno) -> Meaning {
        match errno {
            Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => Meaning::Later,
            Errno::NETDOWN | Errno::NXIO => self.down(),
            // Longer than the interface's MTU, or nothing that the kernel takes for a frame.
            Errno::MSGSIZE | Errno::INVAL => Meaning::Lost,
            _ => Meaning::Gone,
        }
    }

    fn overflowed(&self) -> u64 {
        sys::dropped(&self.fd).map_or(0, u64::from)
    }
}

/// The socket options that rustix does not have.
#[allow(unsafe_code)]
mod sys {
    use rustix::io::Errno;
    use std::{
        ffi::c_int,
        os::fd::{AsRawFd, OwnedFd},
    };

    pub(super) const PACKET_VNET_HDR: c_int = libc::PACKET_VNET_HDR;
    /// Linux 4.20.
    pub(super) const PACKET_IGNORE_OUTGOING: c_int = 23;

    /// Switches an option of packet sockets on.
    pub(super) fn set(fd: &OwnedFd, option: c_int) -> Result<(), Errno> {
        set_option(fd, libc::SOL_PACKET, option, &1 as &c_int)
    }

    /// Leaves out frames that had a VLAN tag. The kernel takes it off, so that they would pass for frames without.
    pub(super) fn refuse_tagged(fd: &OwnedFd) -> Result<(), Errno> {
        let has_tag = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT) as u32;
        let of = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let mut program = [
            of(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, has_tag),
            of(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 0),
            of(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
            of(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        ];
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // The kernel copies the program that this points to during the call.
        set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
    }

    /// Frames that found no room since the last call (`struct tpacket_stats`).
    pub(super) fn dropped(fd: &OwnedFd) -> Result<u32, Errno> {
        let mut stats = [0u32; 2];
        let mut len = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: PACKET_STATISTICS writes at most `len` bytes to `stats`, which is as long.
        let result = unsafe {
            let value = (&raw mut stats).cast();
            libc::getsockopt(fd.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, value, &mut len)
        };
        if result == 0 { Ok(stats[1]) } else { Err(last()) }
    }

    fn set_option<T>(fd: &OwnedFd, level: c_int, option: c_int, value: &T) -> Result<(), Errno> {
        let len = size_of::<T>() as libc::socklen_t;
        // SAFETY: the kernel reads `len` bytes of `value`, which is as long, and lives through the call.
        let result =
            unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), len) };
        if result == 0 { Ok(()) } else { Err(last()) }
    }

    fn last() -> Errno {
        Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
    }
}
