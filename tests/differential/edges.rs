//! What chance rarely finds, said outright: packets of established connections that are hits but for one thing,
//! in both families.

use crate::*;
use supernet_dataplane::{
    snapshot::GATEWAY_MAC,
    wire::{self, Mac, Proto, tcp_flags::*},
};
use supernet_testkit::{
    packet::Probe,
    sequence::{
        network::*,
        packets::*,
        sides::{Event, Side},
    },
    topology::mac,
};

fn open() -> Sides {
    sides(World::open(true), &Config { sessions: 100, ..config() })
}

/// How many frames have been hits of each side.
fn hits(sides: &Sides) -> Vec<u64> {
    sides.all.iter().map(Side::hits).collect()
}

/// Opens a connection and answers, so that both directions are established; the packet to go on with.
fn established(sides: &mut Sides, probe: Probe) -> Probe {
    let delivered = sides.send(probe_port(&probe), probe.frame());
    let [(port, frame)] = &delivered[..] else { panic!("{} frames", delivered.len()) };
    let answer = Probe { flags: SYN | ACK, ..Probe::answer(frame, 0) };
    assert_eq!(sides.send(*port, answer.frame()).len(), 1, "the answer");
    let probe = Probe { flags: ACK, ..probe };
    if probe.proto == Proto::TCP {
        assert_eq!(sides.send(probe_port(&probe), probe.frame()).len(), 1, "what completes the handshake");
    }
    let before = hits(sides);
    assert_eq!(sides.send(probe_port(&probe), probe.frame()).len(), 1, "the next");
    if probe.proto != Proto::SCTP {
        let after = hits(sides);
        let more = after.iter().zip(&before).filter(|(now, before)| now > before).count();
        assert_eq!(more, after.len() - 1, "a hit of every side that keeps verdicts");
    }
    probe
}

/// The port of the pod that sends.
fn probe_port(probe: &Probe) -> u32 {
    (0..PODS.len() as u32).find(|pod| mac(*pod) == probe.src_mac).unwrap()
}

/// Packets of pod 0 to another pod, to a virtual server and to the world.
fn probes() -> impl Iterator<Item = Probe> {
    let protos = [Proto::TCP, Proto::UDP, Proto::SCTP];
    let flows = [2, 3, 6].into_iter().flat_map(move |to| protos.map(|proto| (to, proto)));
    flows.flat_map(|(to, proto)| {
        [0, 1].map(|family| Probe {
            src_mac: mac(0),
            dst_mac: GATEWAY_MAC,
            src: (address(PODS[0][family]), 4001).into(),
            dst: (address(TARGETS[to][family]), 80).into(),
            proto,
            flags: SYN,
            ttl: 64,
            payload: 20,
        })
    })
}

#[test]
fn the_ttl_ends_alike() {
    for probe in probes() {
        let mut sides = open();
        let probe = established(&mut sides, probe);
        for ttl in 0..5 {
            sides.send(0, Probe { ttl, ..probe }.frame());
        }
    }
}

#[test]
fn packets_fit_alike() {
    for probe in probes() {
        let mut sides = open();
        let probe = established(&mut sides, probe);
        // Who sends too much hears of it.
        let whole = |sides: &mut Sides, bytes: usize| {
            let out = sides.send(0, Probe { payload: bytes - headers(&probe), ..probe }.frame());
            let [(_, packet)] = &out[..] else { panic!("{} frames", out.len()) };
            !wire::parse(packet).unwrap().is_icmp_error()
        };
        let passed = [1499, 1500, 1501].map(|bytes| whole(&mut sides, bytes));
        assert_eq!(passed, [true, true, false], "{probe:?}");
        for port in 0..PORTS {
            sides.happen(&Event::Change(Change::Mtu(port))).unwrap();
        }
        let passed = [1399, 1400, 1401].map(|bytes| whole(&mut sides, bytes));
        assert_eq!(passed, [true, true, false], "{probe:?}");
    }
}

#[test]
fn macs_count_alike() {
    for probe in probes() {
        let mut sides = open();
        let probe = established(&mut sides, probe);
        for dst_mac in [mac(0), mac(1), mac(2), mac(9), Mac::BROADCAST, GATEWAY_MAC] {
            for src_mac in [mac(0), mac(1), GATEWAY_MAC] {
                sides.send(0, Probe { dst_mac, src_mac, ..probe }.frame());
            }
        }
    }
}

#[test]
fn switched_packets_keep_their_macs_alike() {
    for probe in
        probes().filter(|probe| [0, 1].map(|family| address(TARGETS[2][family])).contains(&probe.dst.ip()))
    {
        let mut sides = open();
        let peer = address(PODS[1][usize::from(probe.src.is_ipv6())]);
        let probe = established(&mut sides, Probe { dst: (peer, 80).into(), dst_mac: mac(1), ..probe });
        for dst_mac in [mac(1), mac(2), mac(9), GATEWAY_MAC] {
            for ttl in [1, 2, 64] {
                sides.send(0, Probe { dst_mac, ttl, ..probe }.frame());
            }
        }
    }
}

/// The offset of the checksum of a TCP or UDP packet.
fn checksum_at(frame: &[u8]) -> usize {
    let packet = wire::parse(frame).unwrap();
    packet.l4() + if packet.proto == Proto::TCP { 16 } else { 6 }
}

#[test]
fn checksums_of_zero_are_alike() {
    for probe in probes().filter(|probe| probe.proto != Proto::SCTP) {
        let mut sides = open();
        let probe = established(&mut sides, probe);
        let sum =
            |frame: &[u8]| u16::from_be_bytes([frame[checksum_at(frame)], frame[checksum_at(frame) + 1]]);
        // None at all, and one that is zero where that is an ordinary sum.
        let mut frame = probe.frame();
        let at = checksum_at(&frame);
        frame[at..at + 2].fill(0);
        sides.send(0, frame);
        // Payloads with which the sum comes out as zero: what is added to the payload goes off the sum.
        for (before, after) in [(0, 1), (1, 0)] {
            let sent = probe.frame_with(&[0, 0]);
            let delivered = sides.send(0, sent.clone());
            let [(_, delivered)] = &delivered[..] else { panic!("{probe:?}") };
            let missing = if before == 1 { sum(&sent) } else { sum(delivered) };
            let frame = probe.frame_with(&missing.to_be_bytes());
            let delivered = sides.send(0, frame.clone());
            let zero = if before == 1 { sum(&frame) } else { sum(&delivered[0].1) };
            assert_eq!((zero, after + before), (if probe.proto == Proto::UDP { 0xffff } else { 0 }, 1));
        }
    }
}

#[test]
fn every_bit_counts_alike() {
    for probe in probes().filter(|probe| probe.proto != Proto::SCTP) {
        let mut sides = open();
        let probe = established(&mut sides, probe);
        let frame = probe.frame();
        // As many at once as there is room for at the port.
        let flipped = (0..frame.len().min(80) * 8).map(|bit| {
            let mut frame = frame.clone();
            frame[bit / 8] ^= 1 << (bit % 8);
            (0, frame)
        });
        let flipped: Frames = flipped.collect();
        for frames in flipped.chunks(128) {
            let frames = frames.to_vec();
            sides.compare(|side, now| side.run_batch(&frames, true, now)).unwrap();
        }
    }
}

/// Every change that a session may depend on, after one that it does not: the hit after it must find out.
#[test]
fn every_change_reaches_an_established_connection() {
    let deny = Rules(Vec::new(), false);
    let changes: [(Change, &str); 12] = [
        (Change::Rules(0, 0, Some(deny.clone())), "what it may send"),
        (Change::Rules(2, 1, Some(deny.clone())), "what the other may receive"),
        (Change::Relabel(0), "whose identity the sender has"),
        (Change::Relabel(2), "whose identity the receiver has"),
        (Change::Pod(0), "the sender"),
        (Change::Pod(1), "a member"),
        (Change::Pod(2), "the receiver"),
        (Change::Members(0b001), "the members"),
        (Change::Hops([0; 4]), "the routes"),
        (Change::Hops([2; 4]), "more routes"),
        (Change::Snat(0), "the egress address"),
        (Change::Mtu(3), "an uplink"),
    ];
    for probe in probes() {
        for (change, what) in &changes {
            let mut sides = open();
            let probe = established(&mut sides, probe);
            for _ in 0..2 {
                for change in [&Change::Republish, change, &Change::Republish] {
                    sides.happen(&Event::Change(change.clone())).unwrap_or_else(|e| panic!("{what}: {e}"));
                    sides.send(0, probe.frame());
                    if let Some((port, frame)) = sides.history.delivered.last().cloned()
                        && wire::parse(&frame).is_ok_and(|p| p.proto == probe.proto && port != 0)
                    {
                        sides.send(port, Probe { flags: ACK, ..Probe::answer(&frame, 0) }.frame());
                    }
                }
            }
        }
    }
}

/// The last place and the last port go to the first packet of a connection; the next of the same batch need none.
#[test]
fn packets_of_one_batch_share_what_is_left() {
    for probe in probes() {
        let mut sides = sides(World::open(true), &Config { sessions: 1, nat_ports: 4001..=4001, ..config() });
        let probe = Probe { flags: if probe.proto == Proto::TCP { SYN } else { 0 }, ..probe };
        let frames: Frames = vec![(0, probe.frame()); 5];
        sides.compare(|side, now| side.run_batch(&frames, true, now)).unwrap();
        assert_eq!(sides.history.delivered.len(), 5, "{probe:?}");
    }
}
