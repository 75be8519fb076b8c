//! A network interface that is there already, as the kernel describes it: what a port on it has to agree with.

use pnet_datalink::NetworkInterface;
use std::{io, net::IpAddr};
use supernet_dataplane::wire::Mac;

/// Why a port on an interface could not be had.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// There is no interface of that name.
    #[error("there is no interface {name}{}", .known.iter().enumerate().map(|(n, k)| {
        format!("{}{k}", if n == 0 { "; there are: " } else { ", " })
    }).collect::<String>())]
    Missing {
        /// The interface asked for.
        name: String,
        /// Those in this network namespace that a port can be on.
        known: Vec<String>,
    },
    /// It carries no Ethernet frames.
    #[error("interface {name} is no Ethernet interface: choose one that has a MAC")]
    NotEthernet {
        /// The interface asked for.
        name: String,
    },
    /// It is down.
    #[error("interface {name} is down: set it up with `ip link set dev {name} up`")]
    Down {
        /// The interface asked for.
        name: String,
    },
    /// What it takes needs root.
    #[error("not allowed to open {what} on interface {name}: run as root (sudo), or with {capabilities}")]
    NotPermitted {
        /// The interface asked for.
        name: String,
        /// What was to be opened.
        what: &'static str,
        /// The capabilities that it takes.
        capabilities: &'static str,
    },
    /// Somebody has attached an XDP program to it, or a socket to its queue.
    #[error(
        "interface {name} has {what} already: end the program that put it there, or see `ip link show dev {name}` and \
         `ip link set dev {name} xdp off`"
    )]
    Taken {
        /// The interface asked for.
        name: String,
        /// What is there.
        what: String,
    },
    /// Its frames are longer than a port of this kind can take.
    #[error(
        "interface {name} has an MTU of {mtu} bytes, and XDP takes at most {most}: `ip link set dev {name} mtu {most}`, \
         or choose the driver `packet`"
    )]
    TooLong {
        /// The interface asked for.
        name: String,
        /// Its MTU.
        mtu: u32,
        /// The largest that is possible.
        most: u32,
    },
    /// Its frames may be such as are on no wire, and XDP does not tell.
    #[error(
        "interface {name} is of kind {kind}, whose frames may be merged and without checksums, and XDP does not tell: choose \
         the driver `packet`, or an interface behind it"
    )]
    Soft {
        /// The interface asked for.
        name: String,
        /// The kernel's driver.
        kind: String,
    },
    /// The kernel, or the interface's driver, can't do it.
    #[error("interface {name} can't have {what}: {source}; choose the driver `packet`")]
    Unsupported {
        /// The interface asked for.
        name: String,
        /// What it can't have.
        what: &'static str,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Anything else the kernel said.
    #[error("can't open interface {name}: {call}: {source}")]
    System {
        /// The interface asked for.
        name: String,
        /// The call that failed.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An interface of the calling thread's network namespace.
#[derive(Debug, Clone)]
pub struct Interface {
    pub(crate) nic: NetworkInterface,
    mac: Mac,
    mtu: u32,
    driver: String,
    queues: (u32, u32),
}

impl Interface {
    /// Looks `name` up. It is an Ethernet interface, and up.
    ///
    /// # Errors
    /// See [`InterfaceError`].
    pub fn find(name: &str) -> Result<Self, InterfaceError> {
        let mut all = pnet_datalink::interfaces();
        let is_ethernet =
            |nic: &NetworkInterface| nic.mac.is_some() && !nic.is_loopback() && !nic.is_point_to_point();
        let Some(at) = all.iter().position(|nic| nic.name == name) else {
            let known = all.into_iter().filter(is_ethernet).map(|nic| nic.name).collect();
            return Err(InterfaceError::Missing { name: name.to_owned(), known });
        };
        let nic = all.swap_remove(at);
        let Some(mac) = nic.mac.filter(|_| is_ethernet(&nic)) else {
            return Err(InterfaceError::NotEthernet { name: name.to_owned() });
        };
        if !nic.is_up() {
            return Err(InterfaceError::Down { name: name.to_owned() });
        }
        let system =
            |call| move |e: io::Error| InterfaceError::System { name: name.to_owned(), call, source: e };
        Ok(Self {
            mac: Mac(mac.octets()),
            mtu: sys::mtu(name).map_err(system("SIOCGIFMTU"))?,
            // One without a name is none that anything depends on.
            driver: sys::driver(name).unwrap_or_default(),
            // Nor has it more than one queue.
            queues: sys::queues(name).unwrap_or((1, 1)),
            nic,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.nic.name
    }

    /// Its number.
    pub fn index(&self) -> u32 {
        self.nic.index
    }

    /// Its own MAC.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Bytes of the largest IP packet.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// The kernel's driver, such as "veth"; empty if it does not say.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Its queues: how many receive, how many send.
    pub fn queues(&self) -> (u32, u32) {
        self.queues
    }

    /// Whether it is there still, in the calling thread's network namespace; another one of its name is not it.
    pub fn is_there(&self) -> bool {
        pnet_datalink::interfaces().iter().any(|nic| nic.index == self.nic.index && nic.name == self.nic.name)
    }

    /// The addresses that the kernel answers for.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.nic.ips.iter().map(|network| network.ip())
    }
}

/// Whether the interface of this number is there still.
#[cfg(feature = "packet")]
pub(crate) fn exists(fd: std::os::fd::BorrowedFd<'_>, index: u32) -> bool {
    rustix::net::netdevice::index_to_name(fd, index).is_ok()
}

/// Has an interface take frames for every MAC, as long as the descriptor is open.
#[cfg(feature = "xdp")]
pub(crate) fn listen_to_all(index: u32) -> io::Result<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    // Of no protocol: it receives nothing itself.
    let socket =
        rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sys::listen_to_all(&socket, index)?;
    Ok(socket)
}

/// What rustix has no calls for.
#[allow(unsafe_code)]
mod sys {
    use rustix::{
        io::Errno,
        ioctl::{Opcode, Updater, ioctl},
        net::{AddressFamily, SocketType},
    };
    use std::{ffi::c_void, io};

    const SIOCGIFMTU: Opcode = 0x8921;
    const SIOCETHTOOL: Opcode = 0x8946;
    const ETHTOOL_GDRVINFO: u32 = 3;
    const ETHTOOL_GCHANNELS: u32 = 0x3c;

    /// `struct ifreq`: a name, and a union that is as long as its longest member.
    #[repr(C)]
    struct IfReq<T> {
        name: [u8; 16],
        value: T,
    }

    #[repr(C)]
    struct Mtu {
        mtu: i32,
        rest: [u8; 20],
    }

    #[repr(C)]
    struct Data {
        pointer: *mut c_void,
        rest: [u8; 16],
    }

    /// `struct ethtool_drvinfo`.
    #[repr(C)]
    struct DriverInfo {
        cmd: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }

    /// `struct ethtool_channels`. A combined channel receives and sends.
    #[derive(Default)]
    #[repr(C)]
    struct Channels {
        cmd: u32,
        most: [u32; 4],
        receive: u32,
        send: u32,
        other: u32,
        combined: u32,
    }

    const _: () = assert!(size_of::<Channels>() == 36);
    const _: () = assert!(size_of::<IfReq<Mtu>>() == 40 && size_of::<DriverInfo>() == 196);
    const _: () = assert!(size_of::<IfReq<Data>>() == 40 || cfg!(not(target_pointer_width = "64")));

    fn request<T>(name: &str, value: T) -> io::Result<IfReq<T>> {
        let mut request = IfReq { name: [0; 16], value };
        // The last byte stays zero.
        let room = request.name[..15].get_mut(..name.len()).ok_or(Errno::NAMETOOLONG)?;
        room.copy_from_slice(name.as_bytes());
        Ok(request)
    }

    pub(super) fn mtu(name: &str) -> io::Result<u32> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let mut request = request(name, Mtu { mtu: 0, rest: [0; 20] })?;
        // SAFETY: SIOCGIFMTU reads and writes one `struct ifreq`, which `IfReq` is as large as, and which lives through
        // the call.
        unsafe { ioctl(&socket, Updater::<SIOCGIFMTU, _>::new(&mut request)) }?;
        Ok(request.value.mtu.unsigned_abs())
    }

    /// Makes the socket a member that wants all frames of an interface.
    #[cfg(feature = "xdp")]
    pub(super) fn listen_to_all(socket: &std::os::fd::OwnedFd, index: u32) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let member = libc::packet_mreq {
            mr_ifindex: index as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        let len = size_of_val(&member) as libc::socklen_t;
        // SAFETY: the kernel reads `len` bytes of `member`, which is as long, and lives through the call.
        let result = unsafe {
            let value = (&raw const member).cast();
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, value, len)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Asks what `T` is the answer to, which has the question's number in its beginning.
    ///
    /// # Safety
    /// `T` is laid out as the kernel writes it for this question.
    unsafe fn ethtool<T>(name: &str, mut about: T) -> io::Result<T> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let pointer = (&raw mut about).cast();
        let mut request = request(name, Data { pointer, rest: [0; 16] })?;
        // SAFETY: SIOCETHTOOL reads one `struct ifreq`, and writes one `T` to where that points, as the caller says. Both live
        // through the call, and nothing else refers to `about` meanwhile.
        unsafe { ioctl(&socket, Updater::<SIOCETHTOOL, _>::new(&mut request)) }?;
        Ok(about)
    }

    pub(super) fn queues(name: &str) -> io::Result<(u32, u32)> {
        let asked = Channels { cmd: ETHTOOL_GCHANNELS, ..Channels::default() };
        // SAFETY: the command is answered with `struct ethtool_channels`.
        let found = unsafe { ethtool(name, asked) }?;
        Ok(((found.receive + found.combined).max(1), (found.send + found.combined).max(1)))
    }

    pub(super) fn driver(name: &str) -> io::Result<String> {
        let asked = DriverInfo { cmd: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
        // SAFETY: the command is answered with `struct ethtool_drvinfo`.
        let info = unsafe { ethtool(name, asked) }?;
        let driver = info.driver.split(|&b| b == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(driver).into_owned())
    }
}
