//! Plain packets, out and back, and what makes headers less plain.

use super::{CLUSTER_IP, Entry, POD_V4, VIP, WORLD};
use crate::{
    Wire,
    network::{MEMBER, OUTSIDE, POD},
    packets::{ACK, FIN, Ip, PSH, SYN, back, counting, ends},
};

pub(super) const CASES: &[Entry] = &[
    ("UDP out and back", |w| datagrams(w, POD, (POD_V4, WORLD, 53), OUTSIDE, |p| p)),
    ("UDP to a VIP and back", |w| datagrams(w, OUTSIDE, (WORLD, VIP, 53), MEMBER, |p| p)),
    ("UDP to a ClusterIP and back", |w| datagrams(w, POD, (POD_V4, CLUSTER_IP, 53), MEMBER, |p| p)),
    ("UDP to a pod of another segment and back", |w| {
        datagrams(w, POD, (POD_V4, super::MEMBER_V4, 9), MEMBER, |p| p)
    }),
    ("UDP without checksum, out and back", |w| {
        datagrams(w, POD, (POD_V4, WORLD, 53), OUTSIDE, Ip::without_checksum)
    }),
    ("UDP without checksum, to a VIP and back", |w| {
        datagrams(w, OUTSIDE, (WORLD, VIP, 53), MEMBER, Ip::without_checksum)
    }),
    ("UDP with a wrong checksum", |w| datagrams(w, POD, (POD_V4, WORLD, 53), OUTSIDE, broken)),
    ("UDP whose checksum becomes zero", |w| {
        // As the outside sees it, up to the last two bytes.
        let outside = Ip::udp(ends("192.168.90.1", w.own_port(0), WORLD, 53), &[0, 0]);
        let missing = [outside.body[6], outside.body[7]];
        w.send(POD, Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &missing)).map(drop)
    }),
    ("UDP from a pod to a VIP and back", |w| datagrams(w, POD, (POD_V4, VIP, 53), MEMBER, |p| p)),
    ("TCP from a pod to a VIP and back", |w| conversation(w, POD, (POD_V4, VIP, 80), MEMBER)),
    ("TCP out and back", |w| conversation(w, POD, (POD_V4, WORLD, 80), OUTSIDE)),
    ("TCP to a VIP and back", |w| conversation(w, OUTSIDE, (WORLD, VIP, 80), MEMBER)),
    ("TCP to a ClusterIP and back", |w| conversation(w, POD, (POD_V4, CLUSTER_IP, 80), MEMBER)),
    ("echo out and back", |w| {
        let request = Ip::echo(ends(POD_V4, 0, WORLD, 0), 8, w.own_port(0), b"ping");
        let out = w.send(POD, request)?;
        let reply = Ip::echo(back(&out), 0, u16::from_be_bytes([out[38], out[39]]), b"ping");
        w.send(OUTSIDE, reply).map(drop)
    }),
    ("echo to the gateway", |w| echo(w, POD, POD_V4, "10.0.0.1")),
    ("echo to a VIP", |w| echo(w, OUTSIDE, WORLD, VIP)),
    ("echo to a ClusterIP", |w| echo(w, POD, POD_V4, CLUSTER_IP)),
    ("echo to the Tier-0, from outside", |w| echo(w, OUTSIDE, WORLD, "192.168.100.1")),
    ("DSCP and ECN", |w| {
        datagrams(w, POD, (POD_V4, WORLD, 53), OUTSIDE, |mut p| {
            p.tos = 0xba;
            p
        })
    }),
    ("options: NOP", |w| datagrams(w, POD, (POD_V4, WORLD, 53), OUTSIDE, |p| p.with_options(&[1, 1, 1, 0]))),
    ("options: router alert", |w| {
        datagrams(w, POD, (POD_V4, WORLD, 53), OUTSIDE, |p| p.with_options(&[0x94, 4, 0, 0]))
    }),
    ("options: record route", |w| {
        datagrams(w, POD, (POD_V4, WORLD, 53), OUTSIDE, |p| {
            p.with_options(&[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        })
    }),
    ("options: timestamp", |w| {
        datagrams(w, POD, (POD_V4, WORLD, 53), OUTSIDE, |p| p.with_options(&[68, 8, 5, 0, 0, 0, 0, 0]))
    }),
    ("options: loose source route", |w| {
        datagrams(w, POD, (POD_V4, WORLD, 53), OUTSIDE, |p| p.with_options(&[131, 7, 4, 198, 51, 100, 7, 0]))
    }),
    ("options: longer than their header", |w| {
        datagrams(w, POD, (POD_V4, WORLD, 53), OUTSIDE, |p| p.with_options(&[7, 40, 4, 0]))
    }),
];

/// A datagram from `from` to whom it comes out at, and the answer.
fn datagrams(
    w: &mut Wire<'_>,
    from: u32,
    (src, dst, dport): (&str, &str, u16),
    to: u32,
    made: fn(Ip) -> Ip,
) -> Option<()> {
    let there = Ip::udp(ends(src, w.own_port(0), dst, dport), &counting(40));
    let out = w.send(from, made(there))?;
    let answer = Ip::udp(back(&out), &counting(33));
    w.send(to, made(answer)).map(drop)
}

/// A checksum of another packet.
fn broken(mut packet: Ip) -> Ip {
    packet.body[6] ^= 0x55;
    packet
}

/// A connection that is opened, used and closed.
fn conversation(w: &mut Wire<'_>, from: u32, (src, dst, dport): (&str, &str, u16), to: u32) -> Option<()> {
    let there = ends(src, w.own_port(0), dst, dport);
    let out = w.send(from, Ip::tcp(there, SYN, (1000, 0), b""))?;
    let here = back(&out);
    w.send(to, Ip::tcp(here, SYN | ACK, (5000, 1001), b""))?;
    w.send(from, Ip::tcp(there, ACK, (1001, 5001), b""))?;
    w.send(from, Ip::tcp(there, ACK | PSH, (1001, 5001), b"question"))?;
    w.send(to, Ip::tcp(here, ACK | PSH, (5001, 1009), b"answer"))?;
    w.send(from, Ip::tcp(there, ACK | FIN, (1009, 5007), b""))?;
    w.send(to, Ip::tcp(here, ACK | FIN, (5007, 1010), b""))?;
    w.send(from, Ip::tcp(there, ACK, (1010, 5008), b"")).map(drop)
}

fn echo(w: &mut Wire<'_>, from: u32, src: &str, dst: &str) -> Option<()> {
    w.send(from, Ip::echo(ends(src, 0, dst, 0), 8, w.own_port(0), &counting(56))).map(drop)
}
