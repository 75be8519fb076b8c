//! The segment: ARP and ND are answered from what control knows and never flooded; other multicast stays in
//! the segment. The gateway has the same MAC everywhere.

use super::{spoof_guard, tier0};
use crate::{
    id::PortId,
    snapshot::{EndpointPort, GATEWAY_MAC, GATEWAY_V6, PortEntry, PortRole, ServerKind, Snapshot},
    verdict::DropReason,
    wire::{
        L3, Mac, Packet, Proto,
        arp::Arp,
        nd::{self, Message},
    },
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the segment does with a frame that is no routed packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Local {
    /// Answered, in the frame it came in.
    Answer(Answer),
    /// Dropped, or read and done with.
    Drop(DropReason),
    /// Said where a next hop is; done with.
    Learn(IpAddr, Mac),
    /// Asked for an address, and said where the asker is.
    LearnAndAnswer(IpAddr, Mac, Answer),
    /// Copied to every other port of the segment whose firewall lets it in.
    Flood,
}

/// An answer to ARP or ND.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// "`target` is at `mac`".
    Arp {
        /// What was asked.
        request: Arp,
        /// Where it is.
        mac: Mac,
    },
    /// "`target` is at `mac`".
    Neighbor {
        /// What was asked for.
        target: Ipv6Addr,
        /// Where it is.
        mac: Mac,
        /// Whether it is a router.
        router: bool,
    },
    /// "I am your router".
    Router {
        /// The segment's prefix.
        prefix: Option<ipnet::Ipv6Net>,
        /// The segment's MTU.
        mtu: u16,
    },
}

/// Whether a frame is the segment's matter and not the router's: ARP, ND, multicast, broadcast.
pub fn is_local(packet: &Packet) -> bool {
    packet.l3 == L3::Arp
        || packet.dst_mac.is_multicast()
        || (packet.proto == Proto::ICMPV6 && matches!(packet.icmp.kind, 133..=137))
}

/// What the segment does with a local frame.
pub fn local(snap: &Snapshot, port: &PortEntry, frame: &[u8], packet: &Packet) -> Local {
    match (&port.role, packet.l3) {
        (PortRole::Endpoint(from), L3::Arp) => workload_arp(snap, port, from, Arp::read(frame, packet.l3())),
        (PortRole::Uplink(_), L3::Arp) => uplink_arp(snap, port, Arp::read(frame, packet.l3())),
        (PortRole::Endpoint(from), L3::V4 | L3::V6) => workload_ip(snap, port, from, frame, packet),
        (PortRole::Uplink(_), L3::V6) => uplink_nd(snap, port, frame, packet),
        (PortRole::Uplink(_), L3::V4) => Local::Drop(DropReason::NoReceiver),
        (_, L3::Other) => Local::Drop(DropReason::UnsupportedProtocol),
    }
}

/// The ports that hear a multicast of `from`: all others of the segment.
pub fn receivers<'a>(
    snap: &'a Snapshot,
    port: PortId,
    from: &EndpointPort,
) -> impl Iterator<Item = PortId> + 'a {
    let ports = snap.segment(from.segment).map_or(&[][..], |s| &s.ports);
    ports.iter().copied().filter(move |p| *p != port)
}

fn workload_arp(snap: &Snapshot, port: &PortEntry, from: &EndpointPort, arp: Arp) -> Local {
    let sender = IpAddr::V4(arp.sender);
    // A probe has no sender address yet (RFC 5227).
    let known = from.addresses.contains(&sender) || (arp.request && arp.sender.is_unspecified());
    if arp.sender_mac != port.mac || !known {
        return Local::Drop(DropReason::SpoofedAddress);
    }
    let target = IpAddr::V4(arp.target);
    if !arp.request || from.addresses.contains(&target) {
        return Local::Drop(DropReason::Absorbed);
    }
    match holder(snap, from, target) {
        Some((mac, _)) => Local::Answer(Answer::Arp { request: arp, mac }),
        None => Local::Drop(DropReason::UnansweredQuery),
    }
}

/// The MAC of who has an address in the segment, and whether that is the gateway.
fn holder(snap: &Snapshot, from: &EndpointPort, target: IpAddr) -> Option<(Mac, bool)> {
    if super::router::is_gateway(snap, from.segment, target) {
        return Some((GATEWAY_MAC, true));
    }
    let peer = snap.endpoint(target)?;
    match &peer.role {
        PortRole::Endpoint(e) if e.segment == from.segment => Some((peer.mac, false)),
        _ => None,
    }
}

fn workload_ip(
    snap: &Snapshot,
    port: &PortEntry,
    from: &EndpointPort,
    frame: &[u8],
    packet: &Packet,
) -> Local {
    let multicast = packet.dst_mac.is_multicast();
    match (packet.proto, packet.dport) {
        (Proto::UDP, 67 | 68 | 546 | 547) if multicast => return Local::Drop(DropReason::Dhcp),
        // IGMP and MLD say which groups a host listens to; every port of a segment hears everything.
        (Proto::IGMP, _) => return Local::Drop(DropReason::Absorbed),
        (Proto::ICMPV6, _) => {}
        _ => return flood(snap, port, from, packet),
    }
    if matches!(packet.icmp.kind, 130..=132 | 143) {
        return Local::Drop(DropReason::Absorbed);
    }
    if !matches!(packet.icmp.kind, 133..=137) {
        return flood(snap, port, from, packet);
    }
    // Not even around a whole message (RFC 6980); no honest one has other headers before it.
    if packet.is_fragment() || packet.options {
        return Local::Drop(DropReason::Malformed);
    }
    let IpAddr::V6(src) = packet.src else { return Local::Drop(DropReason::Malformed) };
    let known = src.is_unspecified() || src.is_unicast_link_local() || from.addresses.contains(&packet.src);
    if !known || src == GATEWAY_V6 {
        return Local::Drop(DropReason::SpoofedAddress);
    }
    match nd::read(frame, packet) {
        Some(Message::RouterSolicitation) => match snap.segment(from.segment) {
            Some(s) if s.prefix_v6.is_some() => {
                Local::Answer(Answer::Router { prefix: s.prefix_v6, mtu: s.mtu })
            }
            _ => Local::Drop(DropReason::UnansweredQuery),
        },
        Some(Message::NeighborSolicitation { target }) => {
            // DAD for an own address passes in silence (RFC 4862, 5.4), as does a link-local one.
            if from.addresses.contains(&target.into())
                || (src.is_unspecified() && target.is_unicast_link_local())
            {
                let theft = target == GATEWAY_V6;
                return if theft {
                    answer(target, GATEWAY_MAC, true)
                } else {
                    Local::Drop(DropReason::Absorbed)
                };
            }
            match holder(snap, from, target.into()) {
                Some((mac, router)) => answer(target, mac, router),
                None => Local::Drop(DropReason::UnansweredQuery),
            }
        }
        Some(Message::NeighborAdvertisement { target, .. }) => {
            let own = from.addresses.contains(&target.into())
                || (target.is_unicast_link_local() && target != GATEWAY_V6);
            Local::Drop(if own { DropReason::Absorbed } else { DropReason::SpoofedAddress })
        }
        // Only the network is a router.
        Some(Message::RouterAdvertisement | Message::Redirect) => Local::Drop(DropReason::SpoofedAddress),
        None => Local::Drop(DropReason::Malformed),
    }
}

fn answer(target: Ipv6Addr, mac: Mac, router: bool) -> Local {
    Local::Answer(Answer::Neighbor { target, mac, router })
}

fn flood(snap: &Snapshot, port: &PortEntry, from: &EndpointPort, packet: &Packet) -> Local {
    if let Err(reason) = spoof_guard::address(from, packet.src) {
        return Local::Drop(reason);
    }
    let broadcast = |a: Ipv4Addr| {
        let segment = snap.segment(from.segment).and_then(|s| s.gateway_v4);
        a.is_broadcast() || segment.is_some_and(|net| net.broadcast() == a)
    };
    let to_all = match packet.dst {
        IpAddr::V4(a) => a.is_multicast() || broadcast(a),
        IpAddr::V6(a) => a.is_multicast(),
    };
    // A packet for one host does not come in a frame for many (RFC 1122, 3.3.6).
    let refused = if !to_all {
        Some(DropReason::UnknownMac)
    } else if packet.largest > port.mtu {
        Some(DropReason::TooBig)
    } else {
        None
    };
    refused.map_or(Local::Flood, Local::Drop)
}

fn uplink_arp(snap: &Snapshot, port: &PortEntry, arp: Arp) -> Local {
    let (sender, target) = (IpAddr::V4(arp.sender), IpAddr::V4(arp.target));
    let known = is_on_link(port, sender) && !tier0::is_own(snap, sender) && !arp.sender_mac.is_multicast();
    let answer = Answer::Arp { request: arp, mac: port.mac };
    match (known, arp.request && answers_outside(snap, port, target)) {
        (true, true) => Local::LearnAndAnswer(sender, arp.sender_mac, answer),
        (true, false) => Local::Learn(sender, arp.sender_mac),
        (false, true) => Local::Answer(answer),
        (false, false) => Local::Drop(DropReason::UnansweredQuery),
    }
}

fn uplink_nd(snap: &Snapshot, port: &PortEntry, frame: &[u8], packet: &Packet) -> Local {
    if packet.proto != Proto::ICMPV6 || !matches!(packet.icmp.kind, 133..=137) {
        return Local::Drop(DropReason::NoReceiver);
    }
    match nd::read(frame, packet).filter(|_| !packet.is_fragment() && !packet.options) {
        Some(Message::NeighborSolicitation { target }) => {
            let known = is_on_link(port, packet.src) && !tier0::is_own(snap, packet.src);
            let answer = Answer::Neighbor { target, mac: port.mac, router: true };
            match (known, answers_outside(snap, port, target.into())) {
                (true, true) => Local::LearnAndAnswer(packet.src, packet.src_mac, answer),
                (true, false) => Local::Learn(packet.src, packet.src_mac),
                (false, true) => Local::Answer(answer),
                (false, false) => Local::Drop(DropReason::UnansweredQuery),
            }
        }
        Some(Message::NeighborAdvertisement { target, mac }) if is_on_link(port, target.into()) => {
            Local::Learn(target.into(), mac.unwrap_or(packet.src_mac))
        }
        Some(_) => Local::Drop(DropReason::Absorbed),
        None => Local::Drop(DropReason::Malformed),
    }
}

fn is_on_link(port: &PortEntry, addr: IpAddr) -> bool {
    match &port.role {
        PortRole::Uplink(uplink) => uplink.addresses.iter().any(|net| net.contains(&addr)),
        PortRole::Endpoint(_) => false,
    }
}

/// Addresses that answer on an uplink: its own, VIPs and egress addresses (for pools in the connected prefix).
fn answers_outside(snap: &Snapshot, port: &PortEntry, target: IpAddr) -> bool {
    let own = match &port.role {
        PortRole::Uplink(uplink) => uplink.addresses.iter().any(|net| net.addr() == target),
        PortRole::Endpoint(_) => false,
    };
    own || snap.servers.addresses.get(&target) == Some(&ServerKind::Server)
        || snap.egress.contains_key(&target)
}
