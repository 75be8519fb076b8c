//! ICMP errors about packets that were translated.

use super::{CLUSTER_IP, Entry, POD_V4, VIP, WORLD};
use crate::{
    Wire,
    network::{MEMBER, OUTSIDE, POD},
    packets::{ACK, Ip, SYN, back, counting, ends},
};
use supernet_testkit::packet::icmp_error;

/// A router in the world.
const ROUTER: &str = "198.51.100.9";

const TIME_EXCEEDED: (u8, u8) = (11, 0);
const TOO_BIG: (u8, u8) = (3, 4);
const PORT_UNREACHABLE: (u8, u8) = (3, 3);
const HOST_UNREACHABLE: (u8, u8) = (3, 1);
const PROHIBITED: (u8, u8) = (3, 13);
const PARAMETER_PROBLEM: (u8, u8) = (12, 0);
const REDIRECT: (u8, u8) = (5, 1);
const SOURCE_QUENCH: (u8, u8) = (4, 0);

/// All of the packet, and the least that is quoted.
const ALL: usize = 1500;
const LEAST: usize = 28;

pub(super) const CASES: &[Entry] = &[
    ("time exceeded about UDP, all quoted", |w| about(w, udp, TIME_EXCEEDED, ROUTER, ALL)),
    ("time exceeded about UDP, 28 bytes quoted", |w| about(w, udp, TIME_EXCEEDED, ROUTER, LEAST)),
    ("time exceeded about TCP, all quoted", |w| about(w, tcp, TIME_EXCEEDED, ROUTER, ALL)),
    ("time exceeded about TCP, 28 bytes quoted", |w| about(w, tcp, TIME_EXCEEDED, ROUTER, LEAST)),
    ("time exceeded about an echo request, all quoted", |w| about(w, echo, TIME_EXCEEDED, ROUTER, ALL)),
    ("time exceeded about an echo request, 28 bytes quoted", |w| {
        about(w, echo, TIME_EXCEEDED, ROUTER, LEAST)
    }),
    ("fragmentation needed about UDP", |w| about(w, udp, TOO_BIG, ROUTER, ALL)),
    ("fragmentation needed about TCP, 28 bytes quoted", |w| about(w, tcp, TOO_BIG, ROUTER, LEAST)),
    ("fragmentation needed about an echo request", |w| about(w, echo, TOO_BIG, ROUTER, ALL)),
    ("port unreachable from the host itself", |w| about(w, udp, PORT_UNREACHABLE, WORLD, ALL)),
    ("port unreachable about UDP without checksum", |w| {
        about(w, |w| udp(w).without_checksum(), PORT_UNREACHABLE, WORLD, ALL)
    }),
    ("host unreachable about TCP", |w| about(w, tcp, HOST_UNREACHABLE, ROUTER, ALL)),
    ("administratively prohibited about TCP", |w| about(w, tcp, PROHIBITED, ROUTER, ALL)),
    ("parameter problem about UDP", |w| about(w, udp, PARAMETER_PROBLEM, ROUTER, ALL)),
    ("a redirect about UDP", |w| about(w, udp, REDIRECT, ROUTER, ALL)),
    ("source quench about UDP", |w| about(w, udp, SOURCE_QUENCH, ROUTER, ALL)),
    ("a quote with options", |w| {
        about(w, |w| udp(w).with_options(&[1, 1, 1, 0]), TIME_EXCEEDED, ROUTER, ALL)
    }),
    ("a quote with options, eight bytes behind them", |w| {
        about(w, |w| udp(w).with_options(&[1, 1, 1, 0]), TIME_EXCEEDED, ROUTER, LEAST + 4)
    }),
    ("an error with a wrong checksum", |w| altered(w, |error| error[36] ^= 0x55)),
    ("an error about another port", |w| {
        altered(w, |error| {
            error[62] ^= 0x55;
            sum(error);
        })
    }),
    ("an error about another destination", |w| {
        altered(w, |error| {
            error[61] ^= 0x55;
            sum(error);
        })
    }),
    ("an error about a later fragment", |w| {
        altered(w, |error| {
            error[49] = 1;
            sum(error);
        })
    }),
    ("an error whose quote has a wrong header checksum", |w| {
        altered(w, |error| {
            error[52] ^= 0x55;
            sum(error);
        })
    }),
    ("an error whose quote has a wrong UDP checksum", |w| {
        altered(w, |error| {
            error[68] ^= 0x55;
            sum(error);
        })
    }),
    ("an error whose quote ends before the ports", |w| about(w, udp, TIME_EXCEEDED, ROUTER, 20)),
    ("an error whose quote has four bytes of UDP", |w| about(w, udp, TIME_EXCEEDED, ROUTER, 24)),
    ("an error about an answer, to who sent that", |w| {
        let out = w.send(OUTSIDE, Ip::udp(ends(WORLD, w.own_port(0), VIP, 53), b"ask"))?;
        let answer = w.send(MEMBER, Ip::udp(back(&out), &counting(100)))?;
        w.send_all(OUTSIDE, &[icmp_error(&answer, TOO_BIG, [0, 0, 2, 88], ROUTER.parse().unwrap(), ALL)]);
        Some(())
    }),
    ("port unreachable from the member of a VIP, all quoted", |w| refused(w, OUTSIDE, (WORLD, VIP), ALL)),
    ("port unreachable from the member of a VIP, 28 bytes quoted", |w| {
        refused(w, OUTSIDE, (WORLD, VIP), LEAST)
    }),
    ("port unreachable from the member of a ClusterIP", |w| refused(w, POD, (POD_V4, CLUSTER_IP), ALL)),
    ("port unreachable from a pod about an answer", |w| {
        let out = w.send(POD, Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), b"ask"))?;
        let answer = w.send(OUTSIDE, Ip::udp(back(&out), &counting(100)))?;
        w.send_all(POD, &[icmp_error(&answer, PORT_UNREACHABLE, [0; 4], POD_V4.parse().unwrap(), ALL)]);
        Some(())
    }),
    ("an error in fragments", |w| {
        let out = w.send(POD, udp(w))?;
        let error = icmp_error(&out, PORT_UNREACHABLE, [0; 4], WORLD.parse().unwrap(), ALL);
        w.send_all(OUTSIDE, &supernet_testkit::fragments::cut(&error, &[64], w.own_port(0).into()));
        Some(())
    }),
    ("an error about a connection that is open", |w| {
        let there = ends(POD_V4, w.own_port(0), WORLD, 80);
        let out = w.send(POD, Ip::tcp(there, SYN, (1000, 0), b""))?;
        w.send(OUTSIDE, Ip::tcp(back(&out), SYN | ACK, (5000, 1001), b""))?;
        let out = w.send(POD, Ip::tcp(there, ACK, (1001, 5001), &counting(100)))?;
        w.send_all(OUTSIDE, &[icmp_error(&out, TOO_BIG, [0, 0, 2, 88], ROUTER.parse().unwrap(), LEAST)]);
        // It goes on.
        w.send(POD, Ip::tcp(there, ACK, (1101, 5001), &counting(100))).map(drop)
    }),
];

fn udp(w: &Wire<'_>) -> Ip {
    Ip::udp(ends(POD_V4, w.own_port(0), WORLD, 53), &counting(100))
}

fn tcp(w: &Wire<'_>) -> Ip {
    Ip::tcp(ends(POD_V4, w.own_port(0), WORLD, 80), SYN, (1000, 0), b"")
}

fn echo(w: &Wire<'_>) -> Ip {
    Ip::echo(ends(POD_V4, 0, WORLD, 0), 8, w.own_port(0), &counting(100))
}

/// A packet goes out, and `from` sends an error back that quotes at most `quote` bytes of it.
fn about(
    w: &mut Wire<'_>,
    packet: fn(&Wire<'_>) -> Ip,
    kind: (u8, u8),
    from: &str,
    quote: usize,
) -> Option<()> {
    let out = w.send(POD, packet(w))?;
    let word = if kind == TOO_BIG { [0, 0, 2, 88] } else { [0; 4] };
    w.send_all(OUTSIDE, &[icmp_error(&out, kind, word, from.parse().unwrap(), quote)]);
    Some(())
}

/// An error about a datagram that goes out is changed before it is sent.
fn altered(w: &mut Wire<'_>, change: fn(&mut Vec<u8>)) -> Option<()> {
    let out = w.send(POD, udp(w))?;
    let mut error = icmp_error(&out, TIME_EXCEEDED, [0; 4], ROUTER.parse().unwrap(), ALL);
    change(&mut error);
    w.send_all(OUTSIDE, &[error]);
    Some(())
}

/// Writes the checksum of the ICMP message in a frame without options.
fn sum(frame: &mut [u8]) {
    frame[36..38].fill(0);
    let sum = supernet_dataplane::wire::checksum::of(&frame[34..]);
    frame[36..38].copy_from_slice(&sum.to_be_bytes());
}

/// A client calls a virtual server whose member does not listen.
fn refused(w: &mut Wire<'_>, client: u32, (src, dst): (&str, &str), quote: usize) -> Option<()> {
    let out = w.send(client, Ip::udp(ends(src, w.own_port(0), dst, 53), &counting(100)))?;
    let member = super::MEMBER_V4.parse().unwrap();
    w.send_all(MEMBER, &[icmp_error(&out, PORT_UNREACHABLE, [0; 4], member, quote)]);
    Some(())
}
