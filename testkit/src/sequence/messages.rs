//! Messages between neighbors and to many: ARP, ND, DHCP, IGMP, MLD and the like, true and forged.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "what it parses stands below")]

use super::{network::*, packets::sender};
use crate::packet::Probe;
use etherparse::PacketBuilder;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use supernet_dataplane::wire::{ETHERNET, Mac, Proto, arp};

/// A message, and who sends it in whose name.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    /// Where it comes in, see [`sender`].
    pub from: usize,
    /// What it says.
    pub kind: Kind,
    /// Whom it is about, of [`NEIGHBORS`].
    pub about: usize,
    /// Whom it claims to be from.
    pub name: Name,
    /// It goes to everybody, or to the gateway.
    pub to_all: bool,
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names are those of the protocols")]
pub enum Kind {
    ArpRequest,
    ArpReply,
    RouterSolicitation,
    RouterAdvertisement,
    NeighborSolicitation,
    NeighborAdvertisement,
    Redirect,
    MldReport,
    Igmp,
    Dhcp,
    Dhcpv6,
    Multicast,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ArpRequest,
        Self::ArpReply,
        Self::RouterSolicitation,
        Self::RouterAdvertisement,
        Self::NeighborSolicitation,
        Self::NeighborAdvertisement,
        Self::Redirect,
        Self::MldReport,
        Self::Igmp,
        Self::Dhcp,
        Self::Dhcpv6,
        Self::Multicast,
    ];
}

/// Whom a message claims to be from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// Who sends it.
    Own,
    /// Who sends it, by its link-local address.
    LinkLocal,
    /// Nobody yet.
    Unspecified,
    /// Whom it is about.
    Theirs,
    /// Who sends it, with another MAC inside.
    OtherMac,
}

impl Name {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Own, Self::LinkLocal, Self::Unspecified, Self::Theirs, Self::OtherMac];
}

/// Whom messages are about: gateways, pods, next hops, addresses of uplinks, and what answers there.
pub const NEIGHBORS: [[&str; 2]; 10] = [
    ["10.0.0.1", "fe80::1"],
    PODS[0],
    PODS[1],
    PODS[2],
    ["192.168.100.253", "fd00:100::fd"],
    ["192.168.101.253", "fd00:101::fd"],
    ["192.168.100.1", "fd00:100::1"],
    ["192.168.101.254", "fd00:101::fe"],
    ["192.168.80.10", "fd00:80::10"],
    ["192.168.90.1", "fd00:90::1"],
];

impl Message {
    /// The answer of a next hop whose MAC is not configured, at the first or the third uplink.
    pub fn of_next_hop(hop: usize) -> Self {
        let (from, about) = (PODS.len() + 2 * hop, 4 + hop);
        Self { from, kind: Kind::ArpReply, about, name: Name::Theirs, to_all: false }
    }

    /// Its frame, and the port it comes in by.
    pub fn frame(&self) -> (u32, Vec<u8>) {
        let v6 = !matches!(self.kind, Kind::ArpRequest | Kind::ArpReply | Kind::Igmp | Kind::Dhcp);
        let (port, own, own_mac, gateway) = sender(self.from, v6);
        let about = address(NEIGHBORS[self.about][usize::from(v6)]);
        let inner_mac = if self.name == Name::OtherMac { Mac([2, 0, 0, 0, 0xee, 8]) } else { own_mac };
        let to = if self.to_all { Mac::BROADCAST } else { gateway };
        let frame = match (own, about) {
            (IpAddr::V4(own), IpAddr::V4(about)) => self.v4((own_mac, own), inner_mac, about, to),
            (IpAddr::V6(own), IpAddr::V6(about)) => self.v6((own_mac, own), inner_mac, about, to),
            _ => Vec::new(),
        };
        (port, frame)
    }

    fn v4(&self, (own_mac, own): (Mac, Ipv4Addr), inner: Mac, about: Ipv4Addr, to: Mac) -> Vec<u8> {
        let name = match self.name {
            Name::Own | Name::OtherMac | Name::LinkLocal => own,
            Name::Unspecified => Ipv4Addr::UNSPECIFIED,
            Name::Theirs => about,
        };
        match self.kind {
            Kind::ArpRequest | Kind::ArpReply => {
                let mut frame = vec![0; arp::FRAME];
                arp::request(&mut frame, (inner, name), about);
                frame[..6].copy_from_slice(&to.0);
                frame[6..12].copy_from_slice(&own_mac.0);
                frame[ETHERNET + 7] = if self.kind == Kind::ArpRequest { 1 } else { 2 };
                frame
            }
            Kind::Igmp => {
                let ip = PacketBuilder::ethernet2(own_mac.0, [1, 0, 0x5e, 0, 0, 0x16]);
                let ip = ip.ipv4(name.octets(), [224, 0, 0, 22], 1);
                let mut frame = Vec::new();
                ip.write(&mut frame, etherparse::IpNumber::IGMP, &[0x22, 0, 0xf9, 2, 0, 0, 0, 1]).unwrap();
                frame
            }
            _ => udp((own_mac, name.into(), 68), (Mac::BROADCAST, Ipv4Addr::BROADCAST.into(), 67)),
        }
    }

    fn v6(&self, (own_mac, own): (Mac, Ipv6Addr), inner: Mac, about: Ipv6Addr, to: Mac) -> Vec<u8> {
        let name = match self.name {
            Name::Own | Name::OtherMac => own,
            Name::LinkLocal => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(own_mac.0[5]) + 1),
            Name::Unspecified => Ipv6Addr::UNSPECIFIED,
            Name::Theirs => about,
        };
        let many = |last: u16| Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, last);
        let all = if self.to_all { Mac([0x33, 0x33, 0, 0, 0, 1]) } else { to };
        let option = |kind: u8| [&[kind, 1][..], &inner.0].concat();
        let zero = [0; 4];
        let (kind, word, body) = match self.kind {
            Kind::Dhcpv6 => return udp((own_mac, name.into(), 546), (all, many(2).into(), 547)),
            Kind::Multicast => return udp((own_mac, name.into(), 5353), (all, many(0xfb).into(), 5353)),
            Kind::RouterSolicitation => (133, zero, option(1)),
            Kind::RouterAdvertisement => (134, [64, 0, 7, 8], [vec![0; 8], option(1)].concat()),
            Kind::NeighborSolicitation => (135, zero, [about.octets().to_vec(), option(1)].concat()),
            Kind::NeighborAdvertisement => {
                (136, [0x60, 0, 0, 0], [about.octets().to_vec(), option(2)].concat())
            }
            Kind::Redirect => (137, zero, [about.octets(), own.octets()].concat()),
            _ => (143, [0, 0, 0, 1], [&[4, 0, 0, 0][..], &many(0xfb).octets()].concat()),
        };
        let to = if self.to_all { many(1) } else { about };
        let mut frame = Vec::new();
        let ip = PacketBuilder::ethernet2(own_mac.0, all.0).ipv6(name.octets(), to.octets(), 255);
        ip.icmpv6_raw(kind, 0, word).write(&mut frame, &body).unwrap();
        frame
    }
}

fn udp(src: (Mac, IpAddr, u16), dst: (Mac, IpAddr, u16)) -> Vec<u8> {
    let probe = Probe {
        src_mac: src.0,
        dst_mac: dst.0,
        src: SocketAddr::new(src.1, src.2),
        dst: SocketAddr::new(dst.1, dst.2),
        proto: Proto::UDP,
        flags: 0,
        ttl: 1,
        payload: 20,
    };
    probe.frame()
}
