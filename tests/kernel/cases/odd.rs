//! What is hardly IP, hardly from where it says, or of a protocol that is hardly used.

use super::{Entry, MEMBER_V4, POD_V4, WORLD};
use crate::{
    Wire,
    network::{OUTSIDE, POD},
    packets::{Ip, counting, ends},
};
use supernet_dataplane::wire::checksum;

pub(super) const CASES: &[Entry] = &[
    ("a frame with padding", |w| {
        let mut frame = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), b"short").into(POD);
        frame.extend([0xee; 13]);
        one(w, POD, frame)
    }),
    ("a frame with padding, TTL 1", |w| {
        let packet = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), b"short").with_ttl(1);
        let mut frame = packet.into(POD);
        frame.extend([0xee; 13]);
        one(w, POD, frame)
    }),
    ("a frame that is cut short", |w| {
        let mut frame = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(40)).into(POD);
        frame.truncate(70);
        one(w, POD, frame)
    }),
    ("a wrong header checksum", |w| {
        let mut frame = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(40)).into(POD);
        frame[24] ^= 0x55;
        one(w, POD, frame)
    }),
    ("a header of 16 bytes", |w| header(w, |ip| ip[0] = 0x44)),
    ("IP version 5", |w| header(w, |ip| ip[0] = 0x55)),
    ("the reserved flag", |w| header(w, |ip| ip[6] |= 0x80)),
    ("to 127.0.0.1", |w| datagram(w, POD, POD_V4, "127.0.0.1")),
    ("to 0.0.0.0", |w| datagram(w, POD, POD_V4, "0.0.0.0")),
    ("to 240.0.0.1", |w| datagram(w, POD, POD_V4, "240.0.0.1")),
    ("to 169.254.169.254", |w| datagram(w, POD, POD_V4, "169.254.169.254")),
    ("from 127.0.0.1", |w| datagram(w, OUTSIDE, "127.0.0.1", MEMBER_V4)),
    ("from 224.0.0.1", |w| datagram(w, OUTSIDE, "224.0.0.1", MEMBER_V4)),
    ("from 0.0.0.0", |w| datagram(w, OUTSIDE, "0.0.0.0", MEMBER_V4)),
    ("another pod's address, from a pod", |w| datagram(w, POD, "10.0.0.3", WORLD)),
    ("a pod's address, from outside", |w| datagram(w, OUTSIDE, POD_V4, MEMBER_V4)),
    ("to a pod's own address, from outside", |w| datagram(w, OUTSIDE, WORLD, MEMBER_V4)),
    ("to an address of the pods' that nobody has", |w| datagram(w, POD, POD_V4, "10.0.0.99")),
    ("ICMP timestamp request", |w| {
        let packet = Ip::echo(ends(POD_V4, 0, WORLD, 0), 13, w.own_port(0), &[0; 12]);
        w.send(POD, packet).map(drop)
    }),
    ("a protocol without ports", |w| {
        let packet = Ip::of(ends(POD_V4, 0, WORLD, 0), 253, counting(40));
        w.send(POD, packet).map(drop)
    }),
    ("SCTP out", |w| {
        let port = w.own_port(0).to_be_bytes();
        let init = [1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9];
        let mut body = [&[port[0], port[1], 0x0b, 0x59, 0, 0, 0, 0, 0, 0, 0, 0][..], &init].concat();
        let crc = checksum::sctp(&body).to_le_bytes();
        body[8..12].copy_from_slice(&crc);
        w.send(POD, Ip::of(ends(POD_V4, 0, WORLD, 0), 132, body)).map(drop)
    }),
];

fn one(w: &mut Wire<'_>, port: u32, frame: Vec<u8>) -> Option<()> {
    w.send_all(port, &[frame]);
    Some(())
}

fn datagram(w: &mut Wire<'_>, from: u32, src: &str, dst: &str) -> Option<()> {
    w.send(from, Ip::udp(ends(src, w.own_port(0), dst, 9), &counting(40))).map(drop)
}

/// A datagram whose header is changed, with a checksum that is right.
fn header(w: &mut Wire<'_>, change: fn(&mut [u8])) -> Option<()> {
    let mut frame = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(40)).into(POD);
    change(&mut frame[14..34]);
    let len = 14 + usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum = checksum::of(&frame[14..len]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    one(w, POD, frame)
}
