//! How far and how large: TTLs that end, and packets larger than their way takes.

use super::{CLUSTER_IP, Entry, MEMBER_V4, POD_V4, VIP, WORLD};
use crate::{
    Wire,
    network::{MEMBER, OUTSIDE, POD},
    packets::{ACK, Ip, SYN, back, counting, ends},
};
use supernet_testkit::packet::icmp_error;

/// Bytes of payload of a UDP datagram that is one packet of 1400 bytes.
const FITS: usize = 1400 - 28;

pub(super) const CASES: &[Entry] = &[
    ("TTL 1 from a pod, UDP", |w| datagram(w, POD, (POD_V4, WORLD, 53), |p| p.with_ttl(1))),
    ("TTL 2 from a pod, UDP", |w| datagram(w, POD, (POD_V4, WORLD, 53), |p| p.with_ttl(2))),
    ("TTL 3 from a pod, UDP", |w| datagram(w, POD, (POD_V4, WORLD, 53), |p| p.with_ttl(3))),
    ("TTL 0 from a pod, UDP", |w| datagram(w, POD, (POD_V4, WORLD, 53), |p| p.with_ttl(0))),
    ("TTL 1 from a pod, TCP", |w| {
        let packet = Ip::tcp(ends(POD_V4, w.own_port(0), WORLD, 80), SYN, (1000, 0), b"");
        w.send(POD, packet.with_ttl(1)).map(drop)
    }),
    ("TTL 2 from a pod, echo", |w| {
        let packet = Ip::echo(ends(POD_V4, 0, WORLD, 0), 8, w.own_port(0), b"ping");
        w.send(POD, packet.with_ttl(2)).map(drop)
    }),
    ("TTL 1 and 2 of an open connection", |w| {
        let there = ends(POD_V4, w.own_port(0), WORLD, 53);
        w.send(POD, Ip::udp(there, b"first"))?;
        w.send(POD, Ip::udp(there, b"second").with_ttl(1))?;
        w.send(POD, Ip::udp(there, b"third").with_ttl(2)).map(drop)
    }),
    ("TTL 1 of an answer from outside", |w| {
        let out = w.send(POD, Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), b"first"))?;
        w.send(OUTSIDE, Ip::udp(back(&out), b"answer").with_ttl(1)).map(drop)
    }),
    ("TTL 2 of an answer from outside", |w| {
        let out = w.send(POD, Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), b"first"))?;
        w.send(OUTSIDE, Ip::udp(back(&out), b"answer").with_ttl(2)).map(drop)
    }),
    ("TTL 1 between segments", |w| datagram(w, POD, (POD_V4, MEMBER_V4, 9), |p| p.with_ttl(1))),
    ("TTL 1 to a ClusterIP", |w| datagram(w, POD, (POD_V4, CLUSTER_IP, 53), |p| p.with_ttl(1))),
    ("TTL 1 to a VIP, from outside", |w| datagram(w, OUTSIDE, (WORLD, VIP, 53), |p| p.with_ttl(1))),
    ("TTL 2 to a VIP, from outside", |w| datagram(w, OUTSIDE, (WORLD, VIP, 53), |p| p.with_ttl(2))),
    ("TTL 3 to a VIP, from outside", |w| datagram(w, OUTSIDE, (WORLD, VIP, 53), |p| p.with_ttl(3))),
    ("TTL 1 to the gateway, echo", |w| {
        let packet = Ip::echo(ends(POD_V4, 0, "10.0.0.1", 0), 8, w.own_port(0), b"ping");
        w.send(POD, packet.with_ttl(1)).map(drop)
    }),
    ("TTL 1 with 1000 bytes of payload", |w| {
        let packet = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(1000));
        w.send(POD, packet.with_ttl(1)).map(drop)
    }),
    ("TTL 1 with options", |w| {
        let packet = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(40));
        w.send(POD, packet.with_ttl(1).with_options(&[1, 1, 1, 0])).map(drop)
    }),
    ("TTL 1 with DSCP and ECN", |w| {
        let mut packet = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(40)).with_ttl(1);
        packet.tos = 0xba;
        w.send(POD, packet).map(drop)
    }),
    ("TTL 1 of an ICMP error", |w| {
        let out = w.send(POD, Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), b"first"))?;
        let mut error = icmp_error(&out, (3, 3), [0; 4], WORLD.parse().unwrap(), 28);
        error[24..26].fill(0);
        error[22] = 1;
        let sum = supernet_dataplane::wire::checksum::of(&error[14..34]);
        error[24..26].copy_from_slice(&sum.to_be_bytes());
        w.send_all(OUTSIDE, &[error]);
        Some(())
    }),
    ("exactly the MTU, DF", |w| sized(w, POD, (POD_V4, WORLD, 53), FITS, true)),
    ("MTU + 1, DF", |w| sized(w, POD, (POD_V4, WORLD, 53), FITS + 1, true)),
    ("exactly the MTU", |w| sized(w, POD, (POD_V4, WORLD, 53), FITS, false)),
    ("MTU + 1", |w| sized(w, POD, (POD_V4, WORLD, 53), FITS + 1, false)),
    ("1500 bytes", |w| sized(w, POD, (POD_V4, WORLD, 53), 1472, false)),
    ("MTU + 1, DF, of an open TCP connection", |w| {
        let there = ends(POD_V4, w.own_port(0), WORLD, 80);
        let out = w.send(POD, Ip::tcp(there, SYN, (1000, 0), b""))?;
        w.send(OUTSIDE, Ip::tcp(back(&out), SYN | ACK, (5000, 1001), b""))?;
        w.send(POD, Ip::tcp(there, ACK, (1001, 5001), &counting(1360)).dont_fragment())?;
        w.send(POD, Ip::tcp(there, ACK, (1001, 5001), &counting(1361)).dont_fragment()).map(drop)
    }),
    ("MTU + 1, DF, with options", |w| {
        let packet = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(FITS - 3));
        w.send(POD, packet.dont_fragment().with_options(&[1, 1, 1, 0])).map(drop)
    }),
    ("MTU + 1, with options", |w| {
        let packet = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(FITS));
        let out = w.send_all(POD, &[packet.with_options(&[0x94, 4, 0, 0, 1, 1, 1, 0]).into(POD)]);
        (out.len() == 2).then_some(())
    }),
    ("too big for the member, DF, to a VIP", |w| sized(w, OUTSIDE, (WORLD, VIP, 53), 1301 - 28, true)),
    ("too big for the member, to a VIP", |w| sized(w, OUTSIDE, (WORLD, VIP, 53), 1301 - 28, false)),
    ("too big for the member, DF, to a ClusterIP", |w| {
        sized(w, POD, (POD_V4, CLUSTER_IP, 53), 1301 - 28, true)
    }),
    ("too big for the member, DF, between segments", |w| {
        sized(w, POD, (POD_V4, MEMBER_V4, 9), 1301 - 28, true)
    }),
    ("too big and TTL 1", |w| {
        let packet = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(FITS + 1));
        w.send(POD, packet.dont_fragment().with_ttl(1)).map(drop)
    }),
    ("an answer too big for who asked", |w| {
        let out = w.send(MEMBER, Ip::udp(ends(MEMBER_V4, w.own_port(0), WORLD, 53), b"ask"))?;
        w.send(OUTSIDE, Ip::udp(back(&out), &counting(1301 - 28)).dont_fragment()).map(drop)
    }),
];

fn datagram(
    w: &mut Wire<'_>,
    from: u32,
    (src, dst, dport): (&str, &str, u16),
    made: fn(Ip) -> Ip,
) -> Option<()> {
    let packet = Ip::udp(ends(src, w.own_port(0), dst, dport), &counting(40));
    w.send(from, made(packet)).map(drop)
}

fn sized(
    w: &mut Wire<'_>,
    from: u32,
    (src, dst, dport): (&str, &str, u16),
    payload: usize,
    whole: bool,
) -> Option<()> {
    let mut packet = Ip::udp(ends(src, w.own_port(0), dst, dport), &counting(payload));
    packet.dont_fragment = whole;
    w.send(from, packet).map(drop)
}
