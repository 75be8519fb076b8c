//! Uplinks on interfaces that the machine has: opened before anything else of a lab is made, since what they need is not
//! the lab's to give.

use super::{error::LabError, rootless};
use std::{io, net::IpAddr};
use supernet_control::model::{InterfaceDriver, OnInterface, Supervisor, Uplink};
use supernet_dataplane::{
    buf::Pool,
    port::{Opened, Port},
};
use supernet_drivers::{
    interface::{Interface, InterfaceError},
    packet::{self, Packet},
    xdp::{self, Xdp},
};

/// A port on an interface.
#[derive(Debug)]
pub(super) enum InterfacePort {
    /// Beside the kernel's stack.
    Packet(Packet),
    /// Past it.
    Xdp(Xdp),
}

impl InterfacePort {
    /// The interface it is on.
    pub(super) fn interface(&self) -> &Interface {
        match self {
            Self::Packet(port) => port.interface(),
            Self::Xdp(port) => port.interface(),
        }
    }
}

impl Port for InterfacePort {
    type Peer = ();

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<()>> {
        match self {
            Self::Packet(port) => port.open(senders, pool),
            Self::Xdp(port) => port.open(senders, pool),
        }
    }
}

/// Opens the interfaces that uplinks are on, each with its uplink's name.
///
/// # Errors
/// One can't be opened, or does not fit its uplink; the interfaces are as they were.
pub(super) fn open(supervisor: &Supervisor) -> Result<Vec<(String, InterfacePort)>, LabError> {
    let on_some = supervisor.uplinks.iter().filter_map(|u| Some((u, u.interface.as_ref()?)));
    if let Some((uplink, on)) = on_some.clone().next().filter(|_| rootless::token().is_some()) {
        let (at, uplink) = (on.name.at.clone(), uplink.name.clone());
        return Err(LabError::InterfaceOfRoot { at, uplink, interface: on.name.value.clone() });
    }
    // All are looked at before one is opened.
    let found: Vec<_> = on_some
        .map(|(uplink, on)| find(supervisor, uplink, on).map(|interface| (uplink, on, interface)))
        .collect::<Result<_, _>>()?;
    let open = |(uplink, on, interface): (&Uplink, &OnInterface, Interface)| {
        let port = match on.driver {
            InterfaceDriver::Packet => packet::open(&interface).map(InterfacePort::Packet),
            InterfaceDriver::Xdp => xdp::open(&interface).map(InterfacePort::Xdp),
        };
        port.map(|port| (uplink.name.clone(), port)).map_err(|source| failed(uplink, on, source))
    };
    found.into_iter().map(open).collect()
}

fn find(supervisor: &Supervisor, uplink: &Uplink, on: &OnInterface) -> Result<Interface, LabError> {
    let interface = Interface::find(&on.name.value).map_err(|source| failed(uplink, on, source))?;
    let (at, name) = (on.name.at.clone(), on.name.value.clone());
    let wanted = uplink.mtu.unwrap_or(supervisor.mtu);
    if u32::from(wanted) > interface.mtu() {
        let (uplink, mtu) = (uplink.name.clone(), interface.mtu());
        return Err(LabError::InterfaceMtu { at, uplink, interface: name, wanted, mtu });
    }
    let own = |address: &IpAddr| uplink.addresses.iter().any(|a| a.value.addr() == *address);
    if let Some(address) = interface.addresses().find(own) {
        return Err(LabError::InterfaceAddress { at, uplink: uplink.name.clone(), interface: name, address });
    }
    let is_used = |address: &IpAddr| match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    };
    let used = interface.addresses().find(is_used).filter(|_| on.driver == InterfaceDriver::Xdp);
    match used {
        Some(address) => Err(LabError::InterfaceInUse { at, interface: name, address }),
        None => Ok(interface),
    }
}

fn failed(uplink: &Uplink, on: &OnInterface, source: InterfaceError) -> LabError {
    LabError::Interface { at: on.name.at.clone(), uplink: uplink.name.clone(), source }
}
