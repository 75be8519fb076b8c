//! IPv6, which is routed and never translated here.

use super::Entry;
use crate::{
    Wire,
    network::{MEMBER, OUTSIDE_V6, POD},
    packets::{ACK, Ip, SYN, back, counting, ends},
};
use supernet_testkit::{
    fragments::{body_len, cut, piece},
    packet::icmp_error,
};

const POD_V6: &str = "fd00:0:0:1::2";
const MEMBER_V6: &str = "fd00:0:0:2::2";
const WORLD_V6: &str = "2001:db8:7::7";
const ROUTER_V6: &str = "2001:db8:77::9";

pub(super) const CASES: &[Entry] = &[
    ("IPv6 UDP out and back", |w| {
        let out = w.send(POD, udp(w, 40))?;
        w.send(OUTSIDE_V6, Ip::udp(back(&out), b"answer")).map(drop)
    }),
    ("IPv6 UDP between segments", |w| {
        let out = w.send(POD, Ip::udp(ends(POD_V6, w.own_port(0), MEMBER_V6, 53), b"ask"))?;
        w.send(MEMBER, Ip::udp(back(&out), b"answer")).map(drop)
    }),
    ("IPv6 TCP out and back", |w| {
        let there = ends(POD_V6, w.own_port(0), WORLD_V6, 80);
        let out = w.send(POD, Ip::tcp(there, SYN, (1000, 0), b""))?;
        w.send(OUTSIDE_V6, Ip::tcp(back(&out), SYN | ACK, (5000, 1001), b""))?;
        w.send(POD, Ip::tcp(there, ACK, (1001, 5001), b"question")).map(drop)
    }),
    ("IPv6 echo out and back", |w| {
        let out = w.send(POD, Ip::echo(ends(POD_V6, 0, WORLD_V6, 0), 128, w.own_port(0), b"ping"))?;
        w.send(OUTSIDE_V6, Ip::echo(back(&out), 129, w.own_port(0), b"ping")).map(drop)
    }),
    ("IPv6 UDP without checksum", |w| w.send(POD, udp(w, 40).without_checksum()).map(drop)),
    ("IPv6 hop limit 1", |w| w.send(POD, udp(w, 40).with_ttl(1)).map(drop)),
    ("IPv6 hop limit 2", |w| w.send(POD, udp(w, 40).with_ttl(2)).map(drop)),
    ("IPv6 hop limit 3", |w| w.send(POD, udp(w, 40).with_ttl(3)).map(drop)),
    ("IPv6 hop limit 1, from outside", |w| {
        let packet = Ip::udp(ends(WORLD_V6, w.own_port(0), POD_V6, 53), b"ask");
        w.send(OUTSIDE_V6, packet.with_ttl(1)).map(drop)
    }),
    ("IPv6 hop limit 2, from outside", |w| {
        let packet = Ip::udp(ends(WORLD_V6, w.own_port(0), POD_V6, 53), b"ask");
        w.send(OUTSIDE_V6, packet.with_ttl(2)).map(drop)
    }),
    ("IPv6 hop limit 1 with 1300 bytes of payload", |w| w.send(POD, udp(w, 1300).with_ttl(1)).map(drop)),
    ("IPv6, exactly the MTU", |w| w.send(POD, udp(w, 1400 - 48)).map(drop)),
    ("IPv6, MTU + 1", |w| w.send(POD, udp(w, 1401 - 48)).map(drop)),
    ("IPv6, too big between segments", |w| {
        w.send(POD, Ip::udp(ends(POD_V6, w.own_port(0), MEMBER_V6, 53), &counting(1301 - 48))).map(drop)
    }),
    ("IPv6, too big for a pod, from outside", |w| {
        let packet = Ip::udp(ends(WORLD_V6, w.own_port(0), MEMBER_V6, 53), &counting(1301 - 48));
        w.send(OUTSIDE_V6, packet).map(drop)
    }),
    ("IPv6 fragments in order", |w| fragments(w, |_| {})),
    ("IPv6 fragments reversed", |w| fragments(w, |f| f.reverse())),
    ("IPv6, a repeated fragment", |w| fragments(w, |f| f.insert(1, f[0].clone()))),
    ("IPv6, the first fragment lost", |w| {
        fragments(w, |f| {
            f.remove(0);
        })
    }),
    ("IPv6, overlapping fragments", |w| {
        let frame = udp(w, 1000).into(POD);
        let end = body_len(&frame);
        let pieces =
            [0..480, 400..800, 800..end].map(|bytes| piece(&frame, bytes.clone(), bytes.end < end, id(w)));
        w.send_all(POD, &pieces);
        Some(())
    }),
    ("IPv6, a fragment that is all of its packet", |w| {
        let frame = udp(w, 100).into(POD);
        w.send_all(POD, &[piece(&frame, 0..body_len(&frame), false, id(w))]);
        Some(())
    }),
    ("IPv6, fragments that do not fit", |w| {
        w.send_all(POD, &cut(&udp(w, 1800).into(POD), &[1440], id(w)));
        Some(())
    }),
    ("IPv6 time exceeded, from a router outside", |w| error(w, (3, 0), [0; 4], ROUTER_V6)),
    ("IPv6 packet too big, from a router outside", |w| error(w, (2, 0), [0, 0, 5, 0], ROUTER_V6)),
    ("IPv6 port unreachable, from the host itself", |w| error(w, (1, 4), [0; 4], WORLD_V6)),
    ("IPv6 error with a wrong checksum", |w| {
        let out = w.send(POD, udp(w, 100))?;
        let mut error = icmp_error(&out, (3, 0), [0; 4], ROUTER_V6.parse().unwrap(), 1200);
        error[56] ^= 0x55;
        w.send_all(OUTSIDE_V6, &[error]);
        Some(())
    }),
    ("IPv6 error about nothing known", |w| {
        let mut out = udp(w, 100).with_ttl(62).into(POD);
        // As it would have come out at the uplink.
        out[..12].copy_from_slice(&[2, 0, 0, 0, 0xee, 1, 2, 0, 0, 0, 0, 4]);
        w.send_all(OUTSIDE_V6, &[icmp_error(&out, (3, 0), [0; 4], ROUTER_V6.parse().unwrap(), 1200)]);
        Some(())
    }),
    ("IPv6 to the network from nowhere", |w| {
        let packet = Ip::udp(ends(WORLD_V6, w.own_port(0), "fd00:0:0:1::99", 53), b"anyone");
        w.send(OUTSIDE_V6, packet).map(drop)
    }),
];

/// An identification that no other case has.
fn id(w: &Wire<'_>) -> u32 {
    w.own_port(0).into()
}

fn udp(w: &Wire<'_>, payload: usize) -> Ip {
    Ip::udp(ends(POD_V6, w.own_port(0), WORLD_V6, 53), &counting(payload))
}

fn fragments(w: &mut Wire<'_>, change: fn(&mut Vec<Vec<u8>>)) -> Option<()> {
    let mut fragments = cut(&udp(w, 1000).into(POD), &[480, 800], id(w));
    change(&mut fragments);
    w.send_all(POD, &fragments);
    Some(())
}

fn error(w: &mut Wire<'_>, kind: (u8, u8), word: [u8; 4], from: &str) -> Option<()> {
    let out = w.send(POD, udp(w, 100))?;
    w.send_all(OUTSIDE_V6, &[icmp_error(&out, kind, word, from.parse().unwrap(), 1200)]);
    Some(())
}
