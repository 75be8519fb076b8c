//! TCP that is not as it should be.

use super::{CLUSTER_IP, Entry, POD_V4, VIP, WORLD};
use crate::{
    Wire,
    network::{OUTSIDE, POD},
    packets::{ACK, FIN, Ip, PSH, RST, SYN, URG, back, counting, ends},
};

const XMAS: u8 = FIN | PSH | URG;

pub(super) const CASES: &[Entry] = &[
    ("NULL on no connection", |w| alone(w, POD, (POD_V4, WORLD), 0)),
    ("XMAS on no connection", |w| alone(w, POD, (POD_V4, WORLD), XMAS)),
    ("SYN+FIN on no connection", |w| alone(w, POD, (POD_V4, WORLD), SYN | FIN)),
    ("SYN+RST on no connection", |w| alone(w, POD, (POD_V4, WORLD), SYN | RST)),
    ("SYN+ACK on no connection", |w| alone(w, POD, (POD_V4, WORLD), SYN | ACK)),
    ("ACK on no connection", |w| alone(w, POD, (POD_V4, WORLD), ACK)),
    ("FIN+ACK on no connection", |w| alone(w, POD, (POD_V4, WORLD), FIN | ACK)),
    ("RST on no connection", |w| alone(w, POD, (POD_V4, WORLD), RST)),
    ("SYN with ECN flags and PSH", |w| alone(w, POD, (POD_V4, WORLD), SYN | 0xc0)),
    ("SYN+URG on no connection", |w| alone(w, POD, (POD_V4, WORLD), SYN | URG)),
    ("ACK to a VIP on no connection", |w| alone(w, OUTSIDE, (WORLD, VIP), ACK)),
    ("RST to a VIP on no connection", |w| alone(w, OUTSIDE, (WORLD, VIP), RST)),
    ("NULL to a VIP", |w| alone(w, OUTSIDE, (WORLD, VIP), 0)),
    ("SYN+FIN to a VIP", |w| alone(w, OUTSIDE, (WORLD, VIP), SYN | FIN)),
    ("NULL on an open connection", |w| open(w, 0)),
    ("XMAS on an open connection", |w| open(w, XMAS)),
    ("SYN+FIN on an open connection", |w| open(w, SYN | FIN)),
    ("SYN+RST on an open connection", |w| open(w, SYN | RST)),
    ("SYN on an open connection", |w| open(w, SYN)),
    ("RST on an open connection", |w| open(w, RST)),
    ("RST+ACK on an open connection", |w| open(w, RST | ACK)),
    ("RST far outside the window", |w| {
        let (there, here) = opened(w)?;
        w.send_all(POD, &[Ip::tcp(there, RST, (0x7000_0000, 0), b"").into(POD)]);
        w.send_all(OUTSIDE, &[Ip::tcp(here, ACK, (5001, 1001), b"on").into(OUTSIDE)]);
        Some(())
    }),
    ("data far outside the window", |w| {
        let (there, _) = opened(w)?;
        w.send_all(POD, &[Ip::tcp(there, ACK, (0x7000_0000, 5001), b"far").into(POD)]);
        Some(())
    }),
    ("TCP with a wrong checksum", |w| {
        let mut packet = Ip::tcp(ends(POD_V4, w.own_port(0), WORLD, 80), SYN, (1000, 0), b"");
        packet.body[16] ^= 0x55;
        w.send(POD, packet).map(drop)
    }),
    ("TCP whose header is too short", |w| {
        let mut packet = Ip::tcp(ends(POD_V4, w.own_port(0), WORLD, 80), SYN, (1000, 0), b"");
        packet.body[12] = 0x40;
        w.send(POD, packet).map(drop)
    }),
    ("TCP whose header is longer than the packet", |w| {
        let mut packet = Ip::tcp(ends(POD_V4, w.own_port(0), WORLD, 80), SYN, (1000, 0), b"");
        packet.body[12] = 0xf0;
        w.send(POD, packet).map(drop)
    }),
    ("a reset by the server, then more data", |w| {
        let (there, here) = opened(w)?;
        w.send(OUTSIDE, Ip::tcp(here, RST | ACK, (5001, 1001), b""))?;
        w.send_all(POD, &[Ip::tcp(there, ACK, (1001, 5001), b"more").into(POD)]);
        Some(())
    }),
    ("a new connection from the same port after RST", |w| {
        let (there, here) = opened(w)?;
        w.send(OUTSIDE, Ip::tcp(here, RST | ACK, (5001, 1001), b""))?;
        w.send(POD, Ip::tcp(there, SYN, (900_000, 0), b"")).map(drop)
    }),
    ("SYN and SYN again", |w| {
        let there = ends(POD_V4, w.own_port(0), WORLD, 80);
        w.send(POD, Ip::tcp(there, SYN, (1000, 0), b""))?;
        w.send(POD, Ip::tcp(there, SYN, (1000, 0), b"")).map(drop)
    }),
    ("SYN to a closed port of a VIP", |w| closed(w, OUTSIDE, (WORLD, VIP), SYN, b"")),
    ("SYN with data to a closed port of a VIP", |w| closed(w, OUTSIDE, (WORLD, VIP), SYN, b"fast open")),
    ("ACK to a closed port of a VIP", |w| closed(w, OUTSIDE, (WORLD, VIP), ACK, b"")),
    ("RST to a closed port of a VIP", |w| closed(w, OUTSIDE, (WORLD, VIP), RST, b"")),
    ("FIN to a closed port of a VIP", |w| closed(w, OUTSIDE, (WORLD, VIP), FIN, b"")),
    ("NULL to a closed port of a VIP", |w| closed(w, OUTSIDE, (WORLD, VIP), 0, b"")),
    ("SYN to a closed port of a ClusterIP", |w| closed(w, POD, (POD_V4, CLUSTER_IP), SYN, b"")),
    ("UDP to a closed port of a VIP", |w| {
        w.send(OUTSIDE, Ip::udp(ends(WORLD, w.own_port(0), VIP, 54), &counting(100))).map(drop)
    }),
    ("UDP to a closed port of a ClusterIP", |w| {
        w.send(POD, Ip::udp(ends(POD_V4, w.own_port(0), CLUSTER_IP, 54), &counting(100))).map(drop)
    }),
    ("SYN to the egress address, from outside", |w| {
        w.send_all(OUTSIDE, &[lone(w, (WORLD, "192.168.90.1"), SYN).into(OUTSIDE)]);
        Some(())
    }),
    ("UDP to an address of a pool that nobody has", |w| {
        let packet = Ip::udp(ends(WORLD, w.own_port(0), "192.168.80.99", 53), b"anyone");
        w.send(OUTSIDE, packet).map(drop)
    }),
];

/// A segment of no connection, to port 80.
fn lone(w: &Wire<'_>, (src, dst): (&str, &str), flags: u8) -> Ip {
    let ack = if flags & ACK == 0 { 0 } else { 7000 };
    Ip::tcp(ends(src, w.own_port(0), dst, 80), flags, (1000, ack), b"")
}

fn alone(w: &mut Wire<'_>, from: u32, way: (&str, &str), flags: u8) -> Option<()> {
    w.send(from, lone(w, way, flags)).map(drop)
}

/// A connection of the pod to the outside.
fn opened(w: &mut Wire<'_>) -> Option<(crate::packets::Ends, crate::packets::Ends)> {
    let there = ends(POD_V4, w.own_port(0), WORLD, 80);
    let out = w.send(POD, Ip::tcp(there, SYN, (1000, 0), b""))?;
    let here = back(&out);
    w.send(OUTSIDE, Ip::tcp(here, SYN | ACK, (5000, 1001), b""))?;
    w.send(POD, Ip::tcp(there, ACK, (1001, 5001), b""))?;
    Some((there, here))
}

/// A segment with these flags on an open connection, and one more from the other side, to see if it lives.
fn open(w: &mut Wire<'_>, flags: u8) -> Option<()> {
    let (there, here) = opened(w)?;
    w.send_all(POD, &[Ip::tcp(there, flags, (1001, 5001), b"").into(POD)]);
    w.send_all(OUTSIDE, &[Ip::tcp(here, ACK | PSH, (5001, 1001), b"still there?").into(OUTSIDE)]);
    Some(())
}

fn closed(w: &mut Wire<'_>, from: u32, (src, dst): (&str, &str), flags: u8, payload: &[u8]) -> Option<()> {
    let ack = if flags & ACK == 0 { 0 } else { 7000 };
    let packet = Ip::tcp(ends(src, w.own_port(0), dst, 81), flags, (1000, ack), payload);
    w.send(from, packet).map(drop)
}
