//! Packets in fragments, honest ones and others.

use super::{CLUSTER_IP, Entry, POD_V4, VIP, WORLD};
use crate::{
    Wire,
    network::{OUTSIDE, POD},
    packets::{Ip, SYN, back, counting, ends},
};
use supernet_testkit::fragments::{body_len, cut, piece};

pub(super) const CASES: &[Entry] = &[
    ("fragments in order", |w| fragments(w, POD, (POD_V4, WORLD), &[480, 800], |_| {})),
    ("fragments reversed", |w| fragments(w, POD, (POD_V4, WORLD), &[480, 800], |f| f.reverse())),
    ("fragments, the last one first", |w| {
        fragments(w, POD, (POD_V4, WORLD), &[480, 800], |f| f.rotate_right(1))
    }),
    ("fragments to a VIP", |w| fragments(w, OUTSIDE, (WORLD, VIP), &[480, 800], |_| {})),
    ("fragments to a VIP, reversed", |w| fragments(w, OUTSIDE, (WORLD, VIP), &[480, 800], |f| f.reverse())),
    ("fragments to a ClusterIP", |w| fragments(w, POD, (POD_V4, CLUSTER_IP), &[480, 800], |_| {})),
    ("fragments of an answer", |w| {
        let out = w.send(POD, Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), b"ask"))?;
        let answer = Ip::udp(back(&out), &counting(1000)).into(OUTSIDE);
        w.send_all(OUTSIDE, &cut(&answer, &[480, 800], id(w)));
        Some(())
    }),
    ("fragments of an echo request", |w| {
        let request = Ip::echo(ends(POD_V4, 0, WORLD, 0), 8, w.own_port(0), &counting(1000));
        w.send_all(POD, &cut(&request.into(POD), &[480, 800], id(w)));
        Some(())
    }),
    ("fragments of an echo request to the gateway", |w| {
        let request = Ip::echo(ends(POD_V4, 0, "10.0.0.1", 0), 8, w.own_port(0), &counting(1000));
        w.send_all(POD, &cut(&request.into(POD), &[480, 800], id(w)));
        Some(())
    }),
    ("fragments of 1500 bytes that do not fit", |w| {
        let big = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(2000)).into(POD);
        w.send_all(POD, &cut(&big, &[1480], id(w)));
        Some(())
    }),
    ("fragments that do not fit, DF", |w| {
        let big = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(2000)).into(POD);
        let marked = cut(&big, &[1480], id(w)).into_iter().map(|f| changed(f, |ip| ip[6] |= 0x40));
        w.send_all(POD, &marked.collect::<Vec<_>>());
        Some(())
    }),
    ("fragments with TTL 1", |w| {
        let packet = Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(1000)).with_ttl(1);
        w.send_all(POD, &cut(&packet.into(POD), &[480], id(w)));
        Some(())
    }),
    ("a repeated fragment", |w| {
        fragments(w, POD, (POD_V4, WORLD), &[480, 800], |f| f.insert(1, f[0].clone()))
    }),
    ("a repeated last fragment, before the first", |w| {
        fragments(w, POD, (POD_V4, WORLD), &[480], |f| {
            f.reverse();
            f.insert(1, f[0].clone());
        })
    }),
    ("the first fragment lost", |w| {
        fragments(w, POD, (POD_V4, WORLD), &[480, 800], |f| {
            f.remove(0);
        })
    }),
    ("the last fragment lost", |w| {
        fragments(w, POD, (POD_V4, WORLD), &[480, 800], |f| {
            f.pop();
        })
    }),
    ("overlapping fragments", |w| {
        let frame = whole(w, POD, (POD_V4, WORLD));
        let end = body_len(&frame);
        let pieces =
            [0..480, 400..800, 800..end].map(|bytes| piece(&frame, bytes.clone(), bytes.end < end, id(w)));
        w.send_all(POD, &pieces);
        Some(())
    }),
    ("a repeated part of the first fragment", |w| {
        let frame = whole(w, POD, (POD_V4, WORLD));
        let end = body_len(&frame);
        let rest = piece(&frame, 480..end, false, id(w));
        w.send_all(POD, &[piece(&frame, 0..480, true, id(w)), piece(&frame, 0..8, true, id(w)), rest]);
        Some(())
    }),
    ("TCP whose first fragment has eight bytes", |w| {
        let packet = Ip::tcp(ends(POD_V4, w.own_port(0), WORLD, 80), SYN, (1000, 0), &counting(400));
        w.send_all(POD, &cut(&packet.into(POD), &[8, 200], id(w)));
        Some(())
    }),
    ("TCP whose first fragment ends within its options", |w| {
        let mut packet = Ip::tcp(ends(POD_V4, w.own_port(0), WORLD, 80), SYN, (1000, 0), &[1; 100]);
        // 80 bytes of header cannot be; 40 can, all of NOPs.
        packet.body[12] = 0xa0;
        packet.body[16..18].fill(0);
        let tcp = supernet_dataplane::wire::Proto::TCP;
        let sum = supernet_dataplane::wire::checksum::transport(packet.src, packet.dst, tcp, &packet.body);
        packet.body[16..18].copy_from_slice(&sum.to_be_bytes());
        w.send_all(POD, &cut(&packet.into(POD), &[24, 64], id(w)));
        Some(())
    }),
    ("UDP whose first fragment has eight bytes", |w| fragments(w, POD, (POD_V4, WORLD), &[8, 480], |_| {})),
    ("a fragment of nothing", |w| {
        let frame = whole(w, POD, (POD_V4, WORLD));
        w.send_all(POD, &[piece(&frame, 0..480, true, id(w)), piece(&frame, 480..480, false, id(w))]);
        Some(())
    }),
    ("a fragment whose length is no multiple of eight", |w| {
        let frame = whole(w, POD, (POD_V4, WORLD));
        let end = body_len(&frame);
        w.send_all(POD, &[piece(&frame, 0..484, true, id(w)), piece(&frame, 480..end, false, id(w))]);
        Some(())
    }),
    ("a fragment beyond 64 KiB", |w| {
        let frame = whole(w, POD, (POD_V4, WORLD));
        let far =
            changed(piece(&frame, 480..1000, false, id(w)), |ip| ip[6..8].copy_from_slice(&[0x1f, 0xff]));
        w.send_all(POD, &[piece(&frame, 0..480, true, id(w)), far]);
        Some(())
    }),
];

/// An identification that no other case has: what is incomplete waits in the kernel.
fn id(w: &Wire<'_>) -> u32 {
    w.own_port(0).into()
}

/// A datagram of 1008 bytes behind the IP header.
fn whole(w: &Wire<'_>, from: u32, (src, dst): (&str, &str)) -> Vec<u8> {
    Ip::udp(ends(src, w.own_port(0), dst, 53), &counting(1000)).into(from)
}

/// A datagram in fragments, which are changed before they are sent in one go.
fn fragments(
    w: &mut Wire<'_>,
    from: u32,
    way: (&str, &str),
    cuts: &[usize],
    change: fn(&mut Vec<Vec<u8>>),
) -> Option<()> {
    let mut fragments = cut(&whole(w, from, way), cuts, id(w));
    change(&mut fragments);
    w.send_all(from, &fragments);
    Some(())
}

/// A frame with another IPv4 header, whose checksum is right.
fn changed(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut frame[14..34]);
    frame[24..26].fill(0);
    let sum = supernet_dataplane::wire::checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}
