//! Fragments: each goes on as a packet with the ports of the first one; and packets that are cut into some.

use super::{Arrival, Output, Pipeline, ahead::Asked, fast::World};
use crate::{
    buf::{Frame, Offloads},
    flow::{Offered, PacketKey, Ports, Scope, Waiting},
    id::PortId,
    snapshot::Hop,
    stage::plan,
    time::Instant,
    verdict::DropReason,
    wire::{
        self, Part,
        fragment::{self, Cut},
        offload,
    },
};

impl Pipeline {
    /// Finishes a fragment, or has it wait for the first of its packet; and those that waited for this one.
    #[inline(never)]
    pub(super) fn fragment(&mut self, world: &World, arrival: Arrival, now: Instant, out: &mut Output) {
        let Arrival { frame, packet, port } = arrival;
        let Some(fragment) = fragment::read(frame.bytes(), &packet) else {
            return self.drop_frame(port, DropReason::Malformed, frame);
        };
        let key = PacketKey::of(&packet, &fragment, plan::scope(&self.snapshot, port));
        let ports = (packet.part == Part::First).then(|| Ports::of(&packet));
        let offered = Waiting { frame, packet, port };
        let mut vain = Vec::new();
        let offered = self.state.fragments.offer(key, &fragment, ports, offered, now, &mut vain);
        self.drop_waiting(vain);
        let (this, waiting) = match offered {
            Offered::Waits => {
                if let Some(watch) = &self.watch {
                    watch.held();
                }
                return;
            }
            Offered::Refused(Waiting { frame, port, .. }, reason) => {
                return self.drop_frame(port, reason, frame);
            }
            Offered::Goes(this, waiting) => (this, waiting),
        };
        for Waiting { frame, packet, port } in std::iter::once(this).chain(waiting) {
            self.whole(world, Arrival { frame, packet, port }, &Asked::Nothing, now, out);
        }
    }

    /// Gives up fragments that have waited too long, or came in at `gone`.
    pub fn sweep_fragments(&self, now: Instant, gone: Option<Scope>) {
        if self.state.fragments.is_idle() {
            return;
        }
        let mut vain = Vec::new();
        self.state.fragments.sweep(now, gone, &mut vain);
        self.drop_waiting(vain);
    }

    fn drop_waiting(&self, vain: Vec<Waiting>) {
        for Waiting { frame, port, .. } in vain {
            self.drop_frame(port, DropReason::FragmentTimeout, frame);
        }
    }

    /// Sends a packet on in pieces that fit its way, or not at all.
    #[cold]
    pub(super) fn cut(&self, arrival: Arrival, hop: &Hop, out: &mut Output) {
        let Arrival { frame, packet, port } = arrival;
        if frame.offload().is_some() {
            return self.cut_segments(frame, port, hop, out);
        }
        let Some(cut) = Cut::new(&packet, hop.mtu).filter(|_| packet.may_cut) else {
            return self.drop_frame(port, DropReason::TooBig, frame);
        };
        let pieces = (0..cut.count()).map(|piece| {
            let mut into = self.pool.take_for(frame.len().min(usize::from(hop.mtu) + packet.l3()))?;
            into.set_len(into.capacity());
            let len = cut.write(frame.bytes(), piece, into.bytes_mut())?;
            into.set_len(len);
            Some(into)
        });
        let Some(pieces) = pieces.collect::<Option<Vec<_>>>() else {
            return self.drop_frame(port, DropReason::NoBuffer, frame);
        };
        self.counters.generated.add(pieces.len() as u64 - 1);
        pieces.into_iter().for_each(|piece| out.push(hop.port, piece));
    }

    /// The same for a packet that is still to be segmented, or lacks its checksum, which is of all its pieces.
    fn cut_segments(&self, frame: Frame, port: PortId, hop: &Hop, out: &mut Output) {
        let mut segments = vec![frame];
        let lowered = match &self.watch {
            None => offload::lower(&mut segments, Offloads::NONE, &self.pool),
            Some(watch) => watch.lower(hop.port, &mut segments, Offloads::NONE, &self.pool),
        };
        self.counters.generated.add(lowered.made);
        self.counters.drops[DropReason::NoBuffer as usize].add(lowered.lost);
        for frame in segments {
            match wire::parse(frame.bytes()) {
                Ok(packet) if packet.largest <= hop.mtu => out.push(hop.port, frame),
                Ok(packet) => self.cut(Arrival { frame, packet, port }, hop, out),
                Err(_) => self.drop_frame(port, DropReason::Malformed, frame),
            }
        }
    }
}
