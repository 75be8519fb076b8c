//! Ring to ring: a worker with a memory port for every port of the network, and who sends and receives there.

use super::{
    LoadError,
    frames::{FRAME_V6, Frames},
    lane::{RING, draw},
};
use std::collections::BTreeMap;
use supernet::{
    Instant, Worker,
    dataplane::{
        id::PortId,
        port::memory::{MemoryGuest, memory},
        worker::Dataplane,
    },
};

/// Frames in flight at one time, in the queues of all ports together: as many as in the rings of other rows, as
/// putting them there empties the near caches of everything else.
const FLIGHT: usize = RING;

/// Frames that the shortest queue has room for.
const SHALLOWEST: usize = 64;

/// One worker with all ports of the network, and the guests at the ports' other ends.
pub struct PortRing {
    worker: Worker,
    dataplane: Dataplane,
    frames: Frames,
    guests: BTreeMap<PortId, MemoryGuest>,
    random: u64,
}

impl PortRing {
    pub(super) fn new(
        mut worker: Worker,
        dataplane: &Dataplane,
        ports: impl Iterator<Item = PortId>,
        frames: Frames,
    ) -> Result<Self, LoadError> {
        let mut shares = BTreeMap::<PortId, usize>::new();
        (0..frames.len()).for_each(|at| *shares.entry(frames.port(at)).or_default() += 1);
        // Four times what a port has of a flight on average: a queue that is deeper than it need be is memory that
        // frames walk through.
        let depth = |id| {
            let share = shares.get(&id).map_or(0, |share| FLIGHT * share / frames.len().max(1));
            (4 * share).next_power_of_two().clamp(SHALLOWEST, FLIGHT)
        };
        let attach = |id| Ok((id, dataplane.attach(id, memory(depth(id))).map_err(LoadError::Attach)?));
        let guests = ports.map(attach).collect::<Result<_, LoadError>>()?;
        // Takes the ports and the snapshot.
        worker.poll(Instant::from_secs(1));
        Ok(Self { worker, dataplane: dataplane.clone(), frames, guests, random: 0x9e37_79b9_7f4a_7c15 })
    }

    /// Frames to choose from.
    pub fn templates(&self) -> usize {
        self.frames.len()
    }

    /// Queues frames drawn at random at their ports, and says how many.
    pub fn refill(&mut self) -> u64 {
        let (len, mut bytes) = (self.frames.frame_len(), [0; FRAME_V6]);
        let mut sent = 0;
        for _ in 0..FLIGHT {
            let port = self.frames.write(draw(&mut self.random, self.frames.len()), &mut bytes);
            sent += u64::from(self.guests.get(&port).is_some_and(|guest| guest.send(&bytes[..len]).is_ok()));
        }
        sent
    }

    /// Polls the worker once; frames it received.
    pub fn poll(&mut self, now: Instant) -> usize {
        self.worker.poll(now).frames
    }

    /// Takes what was delivered out of the guests' queues; how many frames.
    pub fn collect(&mut self) -> u64 {
        let mut delivered = 0;
        for guest in self.guests.values() {
            while guest.recv_frame().is_some() {
                delivered += 1;
            }
        }
        delivered
    }

    /// What the worker counted: frames received, hits, drops.
    pub fn counted(&self) -> (u64, u64, u64) {
        let c = self.dataplane.counters();
        (c.received, c.hits, c.dropped())
    }
}
