//! A pod that forges whatever can be forged: each frame is dropped under a reason of its own, nobody gets it, and
//! nobody else loses a packet or hears a wrong address meanwhile.

use crate::topology;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use supernet_dataplane::{
    snapshot::{GATEWAY_MAC, GATEWAY_V6},
    verdict::DropReason,
    wire::{Mac, Proto, arp, checksum, nd, tcp_flags::*},
};
use supernet_testkit::{
    net::{Net, OUTSIDE_MAC},
    packet::Probe,
    topology::mac,
};

/// The one that is hostile, at port 0; its neighbour in the segment is at port 1, another segment's pod at port 2.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn own_v6() -> Ipv6Addr {
    v6("fd00:0:0:1::2")
}

fn probe(proto: Proto, src: &str, dst: &str) -> Probe {
    Probe::new(0, proto, src, dst)
}

/// "`who` has `sender`; who has `target`?", or as if it were asked that.
fn arp_of(mac_of: Mac, sender: Ipv4Addr, target: Ipv4Addr, reply: bool) -> Vec<u8> {
    let mut frame = vec![0; arp::FRAME];
    arp::request(&mut frame, (mac_of, sender), target);
    if reply {
        frame[21] = 2;
    }
    frame
}

/// An ICMPv6 message with a right checksum, from port 0's MAC.
fn icmp_v6(src: Ipv6Addr, dst: Ipv6Addr, dst_mac: Mac, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let sum = checksum::transport(src.into(), dst.into(), Proto::ICMPV6, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&dst_mac.0[..], &mac(0).0, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([58, hop_limit]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    frame.extend(message);
    frame
}

/// A neighbour advertisement of `target` at `at`.
fn advertised(src: Ipv6Addr, target: Ipv6Addr, at: Mac) -> Vec<u8> {
    let mut frame = vec![0; nd::FRAME];
    let len = nd::advertisement(&mut frame, (mac(0), target), (mac(1), v6("fd00:0:0:1::3")), false);
    let message = frame[54..len].to_vec();
    let mut message = message;
    message[26..32].copy_from_slice(&at.0);
    icmp_v6(src, v6("ff02::1"), Mac([0x33, 0x33, 0, 0, 0, 1]), 255, &message)
}

const ALL_NODES: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

/// Every forged frame of port 0, what it is, and why it is dropped.
fn forged() -> Vec<(&'static str, Vec<u8>, DropReason)> {
    use DropReason::*;
    let udp = || probe(Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80");
    let everyone = Mac::BROADCAST;
    let router = {
        let mut frame = vec![0; nd::FRAME + 64];
        let prefix = Some("fd00:bad::/64".parse().unwrap());
        let len = nd::router_advertisement(
            &mut frame,
            (mac(0), v6("fe80::66")),
            (everyone, v6("ff02::1")),
            prefix,
            1500,
        );
        frame[54..len].to_vec()
    };
    let redirect =
        [&[137, 0, 0, 0, 0, 0, 0, 0][..], &GATEWAY_V6.octets(), &v6("2001:db8::1").octets()].concat();
    let bpdu = [&[0x01, 0x80, 0xc2, 0, 0, 0][..], &mac(0).0, &[0, 38, 0x42, 0x42, 3], &[0; 35]].concat();
    let lldp = [&[0x01, 0x80, 0xc2, 0, 0, 0x0e][..], &mac(0).0, &[0x88, 0xcc], &[0; 46]].concat();
    let tagged = {
        let mut frame = udp().frame();
        frame.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        frame
    };
    vec![
        ("another's MAC", Probe { src_mac: mac(1), ..udp() }.frame(), SpoofedMac),
        ("the gateway's MAC", Probe { src_mac: GATEWAY_MAC, ..udp() }.frame(), SpoofedMac),
        ("a group MAC", Probe { src_mac: Mac([3, 0, 0, 0, 0, 1]), ..udp() }.frame(), SpoofedMac),
        ("a neighbour's address", probe(Proto::UDP, "10.0.0.3:4000", "10.0.0.18:80").frame(), SpoofedAddress),
        ("the gateway's address", probe(Proto::UDP, "10.0.0.1:4000", "10.0.0.18:80").frame(), SpoofedAddress),
        ("a VIP's address", probe(Proto::UDP, "192.168.80.11:53", "10.0.0.18:80").frame(), SpoofedAddress),
        (
            "its own egress address",
            probe(Proto::UDP, "192.168.90.1:53", "10.0.0.18:80").frame(),
            SpoofedAddress,
        ),
        ("an address outside", probe(Proto::TCP, "203.0.113.7:1", "10.0.0.18:80").frame(), SpoofedAddress),
        ("no address", probe(Proto::UDP, "0.0.0.0:1", "10.0.0.18:80").frame(), SpoofedAddress),
        (
            "another's IPv6",
            probe(Proto::UDP, "[fd00:0:0:1::3]:1", "[fd00:0:0:2::2]:80").frame(),
            SpoofedAddress,
        ),
        ("no IPv6", probe(Proto::UDP, "[::]:1", "[fd00:0:0:2::2]:80").frame(), SpoofedAddress),
        (
            "another's address to all",
            Probe { dst_mac: everyone, ..probe(Proto::UDP, "10.0.0.3:9", "10.0.0.15:9") }.frame(),
            SpoofedAddress,
        ),
        ("an ARP reply for the gateway", arp_of(mac(0), GATEWAY, PEER, true), SpoofedAddress),
        ("an ARP reply for a neighbour", arp_of(mac(0), PEER, GATEWAY, true), SpoofedAddress),
        ("gratuitous ARP for a neighbour", arp_of(mac(0), PEER, PEER, false), SpoofedAddress),
        ("gratuitous ARP for the gateway", arp_of(mac(0), GATEWAY, GATEWAY, false), SpoofedAddress),
        (
            "ARP that names another's MAC",
            {
                let mut frame = arp_of(mac(0), OWN, PEER, false);
                frame[22..28].copy_from_slice(&mac(1).0);
                frame
            },
            SpoofedAddress,
        ),
        ("its own ARP reply, asked by nobody", arp_of(mac(0), OWN, PEER, true), Absorbed),
        ("ND for a neighbour's address", advertised(own_v6(), v6("fd00:0:0:1::3"), mac(0)), SpoofedAddress),
        ("ND for the gateway's address", advertised(own_v6(), GATEWAY_V6, mac(0)), SpoofedAddress),
        ("ND from the gateway's address", advertised(GATEWAY_V6, own_v6(), mac(0)), SpoofedAddress),
        (
            "ND that came from afar",
            {
                let frame = advertised(own_v6(), own_v6(), mac(0));
                icmp_v6(own_v6(), v6("ff02::1"), ALL_NODES, 64, &frame[54..])
            },
            Malformed,
        ),
        (
            "a router advertisement",
            icmp_v6(v6("fe80::66"), v6("ff02::1"), ALL_NODES, 255, &router),
            SpoofedAddress,
        ),
        (
            "a router advertisement to one",
            icmp_v6(v6("fe80::66"), v6("fd00:0:0:1::3"), mac(1), 255, &router),
            SpoofedAddress,
        ),
        (
            "one from the gateway's address",
            icmp_v6(GATEWAY_V6, v6("ff02::1"), ALL_NODES, 255, &router),
            SpoofedAddress,
        ),
        ("a redirect", icmp_v6(v6("fe80::66"), v6("fd00:0:0:1::3"), mac(1), 255, &redirect), SpoofedAddress),
        (
            "a DHCP offer to all",
            Probe { dst_mac: everyone, ..probe(Proto::UDP, "10.0.0.2:67", "255.255.255.255:68") }.frame(),
            Dhcp,
        ),
        (
            "a DHCP offer to one",
            Probe { dst_mac: mac(1), ..probe(Proto::UDP, "10.0.0.2:67", "10.0.0.3:68") }.frame(),
            Dhcp,
        ),
        (
            "a DHCP offer from another port",
            Probe { dst_mac: mac(1), ..probe(Proto::UDP, "10.0.0.2:1067", "10.0.0.3:68") }.frame(),
            Dhcp,
        ),
        (
            "a DHCPv6 reply to one",
            Probe { dst_mac: mac(1), ..probe(Proto::UDP, "[fd00:0:0:1::2]:547", "[fd00:0:0:1::3]:546") }
                .frame(),
            Dhcp,
        ),
        (
            "a DHCP request",
            Probe { dst_mac: everyone, ..probe(Proto::UDP, "0.0.0.0:68", "255.255.255.255:67") }.frame(),
            Dhcp,
        ),
        ("a BPDU", bpdu, UnsupportedProtocol),
        ("LLDP", lldp, UnsupportedProtocol),
        ("a VLAN tag", tagged, UnsupportedProtocol),
        ("to a MAC of another segment", Probe { dst_mac: mac(2), ..udp() }.frame(), UnknownMac),
        (
            "to a neighbour, in a frame for all",
            Probe { dst_mac: everyone, ..probe(Proto::UDP, "10.0.0.2:1", "10.0.0.3:1") }.frame(),
            UnknownMac,
        ),
        ("link-local to be routed", probe(Proto::UDP, "[fd00:0:0:1::2]:1", "[fe80::99]:1").frame(), Martian),
        ("loopback", probe(Proto::UDP, "10.0.0.2:1", "127.0.0.1:1").frame(), Martian),
    ]
}

/// Connections of others, all of which must go on.
struct Bystanders {
    /// The port that a packet comes in by, and the packet.
    packets: Vec<(u32, Probe)>,
}

impl Bystanders {
    fn open(net: &mut Net) -> Self {
        let mut packets = Vec::new();
        let outside = Probe {
            src_mac: OUTSIDE_MAC.parse().unwrap(),
            dst_mac: mac(3),
            ..Probe::new(3, Proto::TCP, "203.0.113.7:5000", "10.0.0.3:80")
        };
        for (port, probe) in [
            (1, Probe::new(1, Proto::TCP, "10.0.0.3:4000", "10.0.0.18:80")),
            (1, Probe::new(1, Proto::UDP, "10.0.0.3:4000", "203.0.113.9:53")),
            (2, Probe::new(2, Proto::UDP, "[fd00:0:0:2::2]:4000", "[fd00:0:0:1::3]:53")),
            (3, outside),
        ] {
            let (to, frame, _) = net.one(port, &probe);
            let answer = Probe::answer(&frame, SYN | ACK);
            net.one(to, &answer);
            packets.extend([(port, Probe { flags: ACK, ..probe }), (to, Probe { flags: ACK, ..answer })]);
        }
        Self { packets }
    }

    fn go_on(&self, net: &mut Net) {
        for (port, probe) in &self.packets {
            net.one(*port, probe);
        }
    }

    /// Who asks hears where the gateway and the peers really are.
    fn addresses_are_true(net: &mut Net) {
        let ask = |net: &mut Net, target: Ipv4Addr| {
            let out = net.send(1, &arp_of(mac(1), PEER, target, false));
            let [(1, reply)] = &out[..] else { panic!("{out:?}") };
            Mac(reply[22..28].try_into().unwrap())
        };
        assert_eq!((ask(net, GATEWAY), ask(net, OWN)), (GATEWAY_MAC, mac(0)));
    }
}

#[test]
fn every_forgery_is_dropped_for_its_own_reason_and_harms_nobody() {
    let mut net = Net::new(topology());
    let others = Bystanders::open(&mut net);
    let sessions = net.sessions();
    for (what, frame, reason) in forged() {
        let before = net.counters();
        let out = net.send(0, &frame);
        let after = net.counters();
        let drops = after.drops.get(&reason).copied().unwrap_or(0);
        assert_eq!(drops, before.drops.get(&reason).copied().unwrap_or(0) + 1, "{what}: {:?}", after.drops);
        assert_eq!(after.dropped(), before.dropped() + 1, "{what}");
        assert!(out.is_empty(), "{what}");
        assert_eq!(net.sessions(), sessions, "{what}");
        others.go_on(&mut net);
    }
    Bystanders::addresses_are_true(&mut net);
}

/// All of them at once and over and over, with packets of others among them.
#[test]
fn a_storm_of_forgeries_costs_nobody_a_packet() {
    let mut net = Net::new(topology());
    let others = Bystanders::open(&mut net);
    let forged: Vec<Vec<u8>> = forged().into_iter().map(|(_, frame, _)| frame).collect();
    for round in 0..50 {
        for frame in forged.iter().cycle().skip(round).take(40) {
            net.guests[0].send(frame).unwrap();
        }
        for (port, probe) in &others.packets {
            net.guests[*port as usize].send(&probe.frame()).unwrap();
        }
        net.poll();
        let delivered: usize =
            net.guests.iter().map(|guest| std::iter::from_fn(|| guest.recv()).count()).sum();
        assert_eq!(delivered, others.packets.len());
    }
    Bystanders::addresses_are_true(&mut net);
    let pool = net.dataplane.pool();
    assert_eq!(pool.available(), pool.capacity());
}

/// Who knows the addresses and ports of another's connection cannot send on it, from inside or outside.
#[test]
fn a_known_tuple_is_no_way_into_anothers_session() {
    let mut net = Net::new(topology());
    let open = Probe::new(1, Proto::TCP, "10.0.0.3:4000", "203.0.113.9:80");
    let (_, frame, sent) = net.one(1, &open);
    net.one(3, &Probe::answer(&frame, SYN | ACK));
    net.one(1, &Probe { flags: ACK, ..open });
    let forge = |port: u32, src: (IpAddr, u16), dst: (IpAddr, u16), flags| Probe {
        src_mac: mac(port),
        src: src.into(),
        dst: dst.into(),
        flags,
        ..open
    };
    let (client, server) = ((open.src.ip(), open.src.port()), (open.dst.ip(), open.dst.port()));
    let translated = (sent.src, sent.sport);
    for flags in [SYN, ACK, FIN | ACK, RST] {
        for port in [0, 2] {
            for (src, dst) in [(client, server), (translated, server), (server, client), (server, translated)]
            {
                let expected = if flags == SYN { DropReason::SpoofedAddress } else { DropReason::NoSession };
                let frame = forge(port, src, dst, flags).frame();
                let before = net.counters().dropped();
                assert!(net.send(port, &frame).is_empty(), "{flags} {port} {src:?} {dst:?}");
                let drops = net.counters().drops;
                assert_eq!(net.counters().dropped(), before + 1);
                assert!(drops.contains_key(&expected) || drops.contains_key(&DropReason::SpoofedAddress));
            }
        }
    }
    // From outside, straight at the pod instead of by its egress address.
    let outside =
        Probe { src_mac: OUTSIDE_MAC.parse().unwrap(), dst_mac: mac(3), ..forge(3, server, client, ACK) };
    net.dropped(3, &outside.frame(), DropReason::NoSession);
    assert_eq!(net.sessions(), 1);
    let (_, _, p) = net.one(1, &Probe { flags: ACK, ..open });
    assert_eq!((p.src, p.sport), translated);
}

/// Neighbor discovery with a fragment header is not heard, not even around a whole message (RFC 6980).
#[test]
fn a_solicitation_with_a_fragment_header_is_not_answered() {
    let mut net = Net::new(topology());
    let mut plain = vec![0; nd::FRAME];
    nd::solicitation(&mut plain, (mac(0), own_v6()), GATEWAY_V6);
    assert_eq!(net.send(0, &plain).len(), 1);
    let mut atomic = plain[..54].to_vec();
    atomic[20] = 44;
    let len = u16::from_be_bytes([atomic[18], atomic[19]]) + 8;
    atomic[18..20].copy_from_slice(&len.to_be_bytes());
    atomic.extend([58, 0, 0, 0, 0, 0, 0, 7]);
    atomic.extend(&plain[54..]);
    net.dropped(0, &atomic, DropReason::Malformed);
}
