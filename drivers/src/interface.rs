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

    pub(super) fn driver(name: &str) -> io::Result<String> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let mut info = DriverInfo { cmd: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
        let pointer = (&raw mut info).cast();
        let mut request = request(name, Data { pointer, rest: [0; 16] })?;
        // SAFETY: SIOCETHTOOL reads one `struct ifreq`; with this command, it writes one `struct ethtool_drvinfo` to
        // where that points. Both live through the call, and nothing else refers to `info` meanwhile.
        unsafe { ioctl(&socket, Updater::<SIOCETHTOOL, _>::new(&mut request)) }?;
        let driver = info.driver.split(|&b| b == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(driver).into_owned())
    }
}
