//! Work left undone: a packet that is still to be segmented fares as its segments would, wherever it goes.

use crate::{DUAL_POD, topology, ways};
use proptest::prelude::*;
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
};
use supernet_dataplane::{
    buf::{Frame, Offload, Offloads, Pool, Segmented},
    counters::Counters,
    id::PortId,
    port::{Opened, Port, Receive, Transmit},
    state::Config,
    time::Instant,
    verdict::DropReason,
    wire::{
        self, Proto,
        offload::{self, Segments},
        tcp_flags::*,
    },
    worker::{Dataplane, Worker},
};
use supernet_testkit::{
    packet::{Probe, sound},
    topology::Topology,
};

pub(crate) const ALL: Offloads = Offloads { checksum: true, tcp: true, udp: true };
pub(crate) const CHECKSUM: Offloads = Offloads { checksum: true, tcp: false, udp: false };

/// A segment that its receiver should hand on.
const PSH: u8 = 8;

/// A frame, and what is left to be done to it.
pub(crate) type Left = (Vec<u8>, Option<Offload>);

/// What ports give and take, by port.
#[derive(Default)]
struct Queues {
    give: VecDeque<Left>,
    took: Vec<Left>,
}

/// A port that can be left with work.
struct Bench {
    queues: Arc<Mutex<Queues>>,
    offloads: Offloads,
}

impl Port for Bench {
    type Peer = ();

    fn open(self, _: usize, pool: &Pool) -> io::Result<Opened<()>> {
        assert!(pool.longest() > 60_000);
        let Self { queues, offloads } = self;
        let sender = Bench { queues: queues.clone(), offloads };
        Ok(Opened {
            receivers: vec![Box::new(Bench { queues, offloads })],
            senders: vec![Box::new(sender)],
            peer: (),
        })
    }
}

impl Receive for Bench {
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> io::Result<usize> {
        let mut queues = self.queues.lock().unwrap();
        let count = queues.give.len().min(max);
        for (bytes, left) in queues.give.drain(..count) {
            let mut frame = pool.copy(&bytes).unwrap();
            frame.set_offload(left);
            into.push(frame);
        }
        Ok(count)
    }
}

impl Transmit for Bench {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        let frames = frames.drain(..).map(|frame| (frame.bytes().to_vec(), frame.offload()));
        self.queues.lock().unwrap().took.extend(frames);
        Ok(())
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}

pub(crate) struct Net {
    pub(crate) dataplane: Dataplane,
    worker: Worker,
    queues: Vec<Arc<Mutex<Queues>>>,
}

impl Net {
    pub(crate) fn new(offloads: Offloads, narrow: Option<u16>) -> Self {
        let topology = topology().with(|s| {
            for entry in s.ports.iter_mut().flatten().filter(|_| narrow.is_some()) {
                std::sync::Arc::make_mut(entry).mtu = narrow.unwrap_or(1500);
            }
        });
        Self::of(topology, offloads)
    }

    fn of(topology: Topology, offloads: Offloads) -> Self {
        let snapshot = topology.build();
        let config = Config { sessions: 64, frames: 256, super_frames: 8, ..Config::default() };
        let (dataplane, mut workers) = Dataplane::new(config);
        let queues: Vec<Arc<Mutex<Queues>>> = snapshot.ports.iter().map(|_| Arc::default()).collect();
        for (port, queues) in (0..).zip(&queues) {
            dataplane.attach(PortId(port), Bench { queues: queues.clone(), offloads }).unwrap();
        }
        dataplane.publish(snapshot);
        Self { dataplane, worker: workers.remove(0), queues }
    }

    pub(crate) fn send(&mut self, port: u32, frames: Vec<Left>) -> Vec<(usize, Left)> {
        self.queues[port as usize].lock().unwrap().give.extend(frames);
        while self.worker.poll(Instant::from_secs(1)).frames > 0 {}
        assert!(self.counters().conserved(), "{:?}", self.counters());
        let took = |queues: &Arc<Mutex<Queues>>| std::mem::take(&mut queues.lock().unwrap().took);
        let out = self.queues.iter().enumerate();
        out.flat_map(|(port, queues)| took(queues).into_iter().map(move |left| (port, left))).collect()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.dataplane.counters()
    }

    /// Opens a TCP connection, if it is one, and returns a frame of it with that payload.
    pub(crate) fn established(&mut self, port: u32, probe: &Probe, flags: u8, payload: &[u8]) -> Vec<u8> {
        if probe.proto == Proto::TCP {
            let out = self.send(port, vec![(probe.frame(), None)]);
            let (to, (syn, _)) = out[0].clone();
            let answer = Probe::answer(&syn, SYN | ACK).frame();
            assert_eq!(self.send(to as u32, vec![(answer, None)]).len(), 1);
            let ack = Probe { flags: ACK, ..*probe }.frame();
            assert_eq!(self.send(port, vec![(ack, None)]).len(), 1);
        }
        written(&Probe { flags, ..*probe }, payload)
    }
}

/// A frame with all flags, and a checksum that may be wrong.
fn written(probe: &Probe, payload: &[u8]) -> Vec<u8> {
    let mut frame = probe.frame_with(payload);
    if probe.proto == Proto::TCP {
        let l4 = wire::parse(&frame).unwrap().l4();
        frame[l4 + 13] |= probe.flags;
    }
    frame
}

/// What is left of a frame whose checksum field says nothing.
pub(crate) fn leave(frame: &mut [u8], segment: u16) -> Offload {
    let packet = wire::parse(frame).unwrap();
    let kind = if packet.proto == Proto::TCP { Segmented::Tcp } else { Segmented::Udp };
    let left = Offload { l4: packet.l4_at, segment, kind, cwr: false };
    let at = packet.l4() + usize::from(kind.checksum_at());
    frame[at..at + 2].copy_from_slice(&[0xde, 0xad]);
    left
}

/// Every segment by itself, as a host would have sent it.
fn segments(frame: &[u8], left: Offload) -> Vec<Left> {
    let Some(segments) = Segments::of(frame, left) else {
        let mut frame = frame.to_vec();
        offload::complete(&mut frame, left);
        return vec![(frame, None)];
    };
    let write = |n| {
        let mut out = vec![0; segments.longest()];
        let len = segments.write(frame, n, &mut out).unwrap();
        out.truncate(len);
        (out, None)
    };
    (0..segments.count()).map(write).collect()
}

/// Does what is left, outside the network.
fn lowered(out: Vec<(usize, Left)>) -> Vec<(usize, Left)> {
    let segments = |(port, (frame, left)): (usize, Left)| match left {
        Some(left) => segments(&frame, left).into_iter().map(|left| (port, left)).collect(),
        None => vec![(port, (frame, None))],
    };
    out.into_iter().flat_map(segments).collect()
}

fn transport(p: &(u32, Probe)) -> bool {
    matches!(p.1.proto, Proto::TCP | Proto::UDP)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Segmented before, behind, or in the network: it is the same, byte by byte.
    #[test]
    fn a_super_packet_fares_as_its_segments(
        way in 0..1000_usize,
        payload in proptest::collection::vec(any::<u8>(), 0..12_000),
        segment in prop_oneof![Just(0_u16), 400..1440_u16],
        flags in prop_oneof![Just(ACK), Just(ACK | PSH), Just(ACK | PSH | FIN)],
    ) {
        let mut ways: Vec<(u32, Probe)> = ways().into_iter().filter(transport).collect();
        ways.push((0, Probe::new(0, Proto::TCP, "[fd00:0:0:1::2]:4000", "[fd00:0:0:2::2]:80")));
        ways.push((0, Probe::new(0, Proto::TCP, "10.0.0.2:4000", "203.0.113.7:80")));
        let (port, probe) = ways[way % ways.len()];
        let payload = if segment == 0 { &payload[..payload.len().min(1400)] } else { &payload };
        let mut nets = [Offloads::NONE, Offloads::NONE, CHECKSUM, ALL].map(|offloads| Net::new(offloads, None));
        let mut came = Vec::new();
        for (n, net) in nets.iter_mut().enumerate() {
            let mut frame = net.established(port, &probe, flags, payload);
            let left = leave(&mut frame, segment);
            let hits = net.counters().hits;
            let (before, sent) = (net.counters().sent, if n == 0 { segments(&frame, left) } else { vec![(frame, Some(left))] });
            let out = net.send(port, sent);
            prop_assert_eq!(out.len() as u64, net.counters().sent - before);
            if n == 3 {
                prop_assert_eq!(out.len(), 1, "one packet of work");
            }
            if n > 0 && probe.proto == Proto::TCP {
                prop_assert_eq!(net.counters().hits - hits, u64::from(flags & FIN == 0), "as any of its connection");
            }
            let out = lowered(out);
            let carried: usize = out.iter().map(|(_, (frame, _))| sound(frame)).map(|p| {
                usize::from(p.end) - p.l4() - if p.proto == Proto::TCP { 20 } else { 8 }
            }).sum();
            prop_assert_eq!(carried, payload.len());
            came.push(out);
        }
        prop_assert!(came.iter().all(|out| *out == came[0]));
        for net in nets {
            let pool = net.dataplane.pool().clone();
            drop(net);
            prop_assert_eq!(pool.available(), pool.capacity());
        }
    }
}

/// What host's segmentation comes to: numbers go on, and flags are where they belong.
#[test]
fn segments_are_what_a_host_would_send() {
    for (src, dst) in [("10.0.0.2:4000", "10.0.0.18:80"), ("[fd00:0:0:1::2]:4000", "[fd00:0:0:2::2]:80")] {
        let payload: Vec<u8> = (0..2500_u32).map(|n| (n / 10) as u8).collect();
        let mut frame =
            written(&Probe { flags: ACK | PSH | FIN, ..Probe::new(0, Proto::TCP, src, dst) }, &payload);
        let l4 = usize::from(wire::parse(&frame).unwrap().l4_at);
        frame[l4 + 13] |= 0x80;
        let first = u32::from_be_bytes(frame[l4 + 4..l4 + 8].try_into().unwrap());
        let left = leave(&mut frame, 1000);
        let out = segments(&frame, left);
        assert_eq!(out.len(), 3);
        let mut joined = Vec::new();
        for (n, (segment, _)) in out.iter().enumerate() {
            let p = sound(segment);
            let seq = u32::from_be_bytes(segment[l4 + 4..l4 + 8].try_into().unwrap());
            assert_eq!(seq, first.wrapping_add(1000 * n as u32));
            let flags = [ACK | 0x80, ACK, ACK | PSH | FIN][n];
            assert_eq!(p.tcp_flags, flags, "segment {n}");
            joined.extend_from_slice(&segment[l4 + 20..]);
        }
        assert_eq!(joined, payload);
    }
}

/// Whether routers may cut it.
fn may_cut(frame: &mut [u8], may: bool) {
    frame[20] = if may { 0 } else { 0x40 };
    frame[24..26].copy_from_slice(&[0; 2]);
    let sum = wire::checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// The MTU is that of the segments; what they exceed, the sender hears of, with the quote's checksum done.
#[test]
fn segments_that_do_not_fit_are_told_of() {
    let mut net = Net::new(ALL, Some(1000));
    let probe = Probe::new(0, Proto::TCP, "10.0.0.2:4000", "10.0.0.18:80");
    let mut frame = net.established(0, &probe, ACK, &[7; 5000]);
    may_cut(&mut frame, false);
    let fits = leave(&mut frame, 960);
    assert_eq!(net.send(0, vec![(frame.clone(), Some(fits))]).len(), 1);
    let out = net.send(0, vec![(frame.clone(), Some(Offload { segment: 961, ..fits }))]);
    let drops = net.counters().drops;
    assert_eq!(drops.get(&DropReason::TooBig), Some(&1), "{drops:?}");
    let (port, (error, _)) = &out[0];
    let p = sound(error);
    assert_eq!(
        (*port, p.icmp.kind, p.icmp.code, &error[p.l4() + 6..p.l4() + 8]),
        (0, 3, 4, &1000_u16.to_be_bytes()[..])
    );
}

/// UDP that may be cut is segmented first, and then cut.
#[test]
fn segments_may_be_cut() {
    let mut net = Net::new(ALL, Some(1000));
    let probe = Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80");
    let mut frame = probe.frame_with(&[7; 5000]);
    may_cut(&mut frame, true);
    let left = leave(&mut frame, 1400);
    let out = net.send(0, vec![(frame, Some(left))]);
    // Three segments and a rest of 800 bytes that fits.
    assert_eq!(out.len(), 7);
    assert!(out.iter().all(|(port, (frame, left))| *port == 2 && left.is_none() && frame.len() <= 1014));
}

/// Who hears a multicast gets it as it is, or whole and sound.
#[test]
fn copies_of_a_multicast_are_left_with_the_same_work() {
    for offloads in [Offloads::NONE, ALL] {
        let mut net = Net::of(topology().pod(&["10.0.0.35"]).pod(&["10.0.0.36"]), offloads);
        let probe = Probe {
            dst_mac: wire::Mac([1, 0, 0x5e, 0, 0, 251]),
            ..Probe::new(DUAL_POD, Proto::UDP, "10.0.0.34:1", "224.0.0.251:53")
        };
        let mut frame = probe.frame();
        let left = leave(&mut frame, 0);
        let out = net.send(DUAL_POD, vec![(frame, Some(left))]);
        assert_eq!(out.len(), 2);
        for (_, (frame, after)) in
            lowered(out.clone()).iter().zip(&out).map(|(done, sent)| (done.0, (&done.1.0, sent.1.1)))
        {
            sound(frame);
            assert_eq!(after, (offloads == ALL).then_some(left));
        }
    }
}

/// A pool that runs dry loses segments, which are counted.
#[test]
fn segments_without_a_buffer_are_counted() {
    let mut net = Net::new(Offloads::NONE, None);
    let mut frame = Probe::new(0, Proto::UDP, "10.0.0.2:4000", "10.0.0.18:80").frame_with(&[7; 5000]);
    let left = leave(&mut frame, 10);
    let out = net.send(0, vec![(frame, Some(left))]);
    let counters = net.counters();
    assert_eq!(out.len() as u64 + counters.drops[&DropReason::NoBuffer], 500);
    assert!(!out.is_empty() && out.len() < 500);
}

/// Whatever a driver says is left, nothing panics and nothing leaks.
#[test]
fn nonsense_from_a_driver_is_harmless() {
    let frames =
        [vec![], vec![0; 14], vec![0x45; 60], Probe::new(0, Proto::UDP, "10.0.0.2:1", "10.0.0.18:2").frame()];
    let mut net = Net::new(Offloads::NONE, None);
    // Connections that hit, so that nobody parses the frame.
    let six = Probe::new(0, Proto::UDP, "[fd00:0:0:1::2]:1", "[fd00:0:0:2::2]:2").frame();
    for open in [frames[3].clone(), six.clone()] {
        assert_eq!([open.clone(), open].map(|frame| net.send(0, vec![(frame, None)]).len()), [1, 1]);
    }
    for frame in frames.into_iter().chain([six]) {
        for l4 in [0, 13, 26, 34, 36, 54, 60, u16::MAX] {
            for segment in [0, 1, u16::MAX] {
                for kind in [Segmented::Tcp, Segmented::Udp] {
                    let left = Offload { l4, segment, kind, cwr: true };
                    net.send(0, vec![(frame.clone(), Some(left))]);
                }
            }
        }
    }
    let pool = net.dataplane.pool().clone();
    drop(net);
    assert_eq!(pool.available(), pool.capacity());
}
