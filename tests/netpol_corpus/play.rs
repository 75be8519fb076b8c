//! Probes as real packets.

use std::{collections::HashMap, iter, net::SocketAddr, sync::Arc};
use supernet_control::{compile::compile, intern::Interner};
use supernet_dataplane::{
    buf::Pool,
    id::PortId,
    pipeline::{Output, Pipeline},
    snapshot::{GATEWAY_MAC, PortRole, Snapshot},
    state::{Config, State},
    time::Instant,
    verdict::DropReason,
    wire::{Mac, Proto, tcp_flags::*},
};
use supernet_testkit::{
    netpol::{self, Case, OUTSIDE_MAC},
    packet::{self, sound},
};

/// Source ports are taken from here on, one a connection.
const FIRST_SOURCE_PORT: u16 = 10_000;

/// What became of a packet.
#[derive(Debug, PartialEq)]
enum Outcome {
    Delivered(PortId, Vec<u8>),
    Dropped(Vec<DropReason>),
}

/// Plays all probes of a case and says which went wrong. `cache` off: the stages judge every packet.
pub(crate) fn play(case: &Case, cache: bool) -> Vec<String> {
    Net::new(case.probes.len(), cache).step(case)
}

/// Who connects to whom, by which protocol to which port.
type Connection = (SocketAddr, SocketAddr, Proto);

/// One worker's pipeline with the network of a case, and after it of others.
pub(crate) struct Net {
    interner: Interner,
    snapshot: Arc<Snapshot>,
    pipeline: Pipeline,
    pool: Pool,
    output: Output,
    /// The source port of every connection that was tried, and whether it lives.
    connections: HashMap<Connection, (u16, bool)>,
}

impl Net {
    /// A pipeline without a network yet, for so many connections.
    pub(crate) fn new(connections: usize, cache: bool) -> Self {
        let config = Config { sessions: connections.max(64), frames: 8, cache, ..Config::default() };
        let pool = Pool::new(config.frames);
        Self {
            interner: Interner::default(),
            snapshot: Arc::default(),
            pipeline: Pipeline::new(Arc::new(State::new(config)), Arc::default(), pool.clone()),
            pool,
            output: Output::default(),
            connections: HashMap::new(),
        }
    }

    /// Becomes the network of a case and plays its probes. Connections that live from before go on, as far as the case
    /// allows them now. What went wrong.
    pub(crate) fn step(&mut self, case: &Case) -> Vec<String> {
        let compiled = compile(&case.model, &case.addressing, &mut self.interner);
        let snapshot = compiled.unwrap_or_else(|e| panic!("{}: {e}", case.id));
        self.snapshot = Arc::new(snapshot.succeed(&self.snapshot));
        self.pipeline.set_snapshot(self.snapshot.clone());
        let failed =
            |probe: &netpol::Probe, what: String| format!("{} ({}): {probe:?}: {what}", case.id, case.title);
        let probes = case.probes.iter();
        probes.filter_map(|probe| self.play(probe).err().map(|what| failed(probe, what))).collect()
    }

    fn play(&mut self, probe: &netpol::Probe) -> Result<(), String> {
        let (src_port, src_mac, dst_mac) = self.place(&probe.from);
        let (dst_port, ..) = self.place(&probe.to);
        let dst = SocketAddr::new(probe.to.address, probe.port);
        let key = (SocketAddr::new(probe.from.address, 0), dst, probe.protocol.into());
        let next = FIRST_SOURCE_PORT + self.connections.len() as u16;
        let (sport, lives) = *self.connections.entry(key).or_insert((next, false));
        let first = packet::Probe {
            src_mac,
            dst_mac,
            src: SocketAddr::new(probe.from.address, sport),
            dst,
            proto: probe.protocol.into(),
            // What lives is not opened again.
            flags: if lives { ACK } else { SYN },
            ttl: 64,
            payload: 8,
        };
        match self.send(src_port, &first.frame()) {
            Outcome::Dropped(reasons) if !probe.combined => check_reason(probe, &reasons),
            Outcome::Delivered(port, frame) if probe.combined && port == dst_port => {
                self.connections.insert(key, (sport, true));
                let arrived = sound(&frame);
                if (arrived.src, arrived.dst, arrived.dport) != (first.src.ip(), first.dst.ip(), probe.port) {
                    return Err(format!("arrived as {arrived:?}"));
                }
                let flags = if lives { ACK } else { SYN | ACK };
                match self.send(dst_port, &packet::Probe::answer(&frame, flags).frame()) {
                    Outcome::Delivered(port, frame) if port == src_port => {
                        let answer = sound(&frame);
                        let ends = (SocketAddr::new(answer.src, answer.sport), answer.dst, answer.dport);
                        if ends != (first.dst, first.src.ip(), sport) {
                            return Err(format!("the answer arrived as {answer:?}"));
                        }
                        // The handshake is complete only then.
                        let third = packet::Probe { flags: ACK, ..first };
                        match self.send(src_port, &third.frame()) {
                            Outcome::Delivered(port, _) if port == dst_port => Ok(()),
                            other => Err(format!("the third packet: {other:?}")),
                        }
                    }
                    other => Err(format!("the answer: {other:?}")),
                }
            }
            other => Err(format!("expected delivery {} by {dst_port:?}: {other:?}", probe.combined)),
        }
    }

    /// The port of an end, its MAC, and the MAC that it sends to. Whoever is not inside is beyond the uplink.
    fn place(&self, end: &netpol::End) -> (PortId, Mac, Mac) {
        match self.snapshot.endpoint(end.address) {
            Some(port) => (port.id, port.mac, GATEWAY_MAC),
            None => {
                assert!(end.pod.is_none(), "{end:?} has no port");
                let mut ports = self.snapshot.ports.iter().flatten();
                let uplink = ports.find(|p| matches!(p.role, PortRole::Uplink(_))).unwrap();
                (uplink.id, OUTSIDE_MAC, uplink.mac)
            }
        }
    }

    /// Runs one frame through the pipeline.
    fn send(&mut self, port: PortId, frame: &[u8]) -> Outcome {
        let before = self.drops();
        let mut batch = vec![self.pool.copy(frame).unwrap()];
        self.pipeline.process(&mut batch, &[port], Instant::from_secs(1), &mut self.output);
        let mut out = Vec::new();
        self.output.drain(|port, frames| out.extend(frames.drain(..).map(|f| (port, f.bytes().to_vec()))));
        let drops = iter::zip(DropReason::ALL, iter::zip(before, self.drops()));
        let dropped: Vec<_> = drops.filter(|(_, (b, a))| a > b).map(|(reason, _)| *reason).collect();
        match out.pop() {
            Some((port, frame)) if dropped.is_empty() && out.is_empty() => Outcome::Delivered(port, frame),
            _ => Outcome::Dropped(dropped),
        }
    }

    fn drops(&self) -> [u64; DropReason::COUNT] {
        self.pipeline.counters().drops.each_ref().map(|count| count.get())
    }
}

/// A connection that is denied is dropped by the firewall that denies it; the source's comes first.
fn check_reason(probe: &netpol::Probe, reasons: &[DropReason]) -> Result<(), String> {
    let expected: &[DropReason] = match (probe.egress, probe.ingress) {
        (Some(false), _) => &[DropReason::EgressDenied],
        (Some(true), _) => &[DropReason::IngressDenied],
        (None, Some(true)) => &[DropReason::EgressDenied],
        (None, _) => &[DropReason::EgressDenied, DropReason::IngressDenied],
    };
    match reasons {
        [reason] if expected.contains(reason) => Ok(()),
        _ => Err(format!("expected one of {expected:?}, dropped for {reasons:?}")),
    }
}
