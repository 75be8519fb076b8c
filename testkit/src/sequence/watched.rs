//! A capture that comes and goes while a sequence plays: it must see what counters count, and change nothing.

use super::packets::Frames;
use std::collections::BTreeMap;
use supernet_dataplane::{
    capture::{Capture, Direction, Filter, Limits, Record, Verdict},
    counters::Counters,
    id::PortId,
    verdict::DropReason,
    worker::Dataplane,
};

/// How many events it lasts, and how many it is away for.
const LASTS: usize = 5;
const IS_AWAY: usize = 2;

/// What a capture must come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    drops: BTreeMap<DropReason, u64>,
    /// Frames and bytes that came in and left.
    ports: BTreeMap<PortId, [u64; 4]>,
}

impl Sum {
    fn of(counters: &Counters) -> Self {
        let ports =
            counters.ports.iter().map(|(id, p)| (*id, [p.received, p.received_bytes, p.sent, p.sent_bytes]));
        Self { drops: counters.drops.clone(), ports: ports.collect() }
    }

    fn since(mut self, before: &Counters) -> Self {
        let before = Self::of(before);
        for (reason, count) in before.drops {
            *self.drops.entry(reason).or_default() -= count;
        }
        for (port, counts) in before.ports {
            let after = self.ports.entry(port).or_default();
            after.iter_mut().zip(counts).for_each(|(after, before)| *after -= before);
        }
        self.drops.retain(|_, count| *count > 0);
        self.ports.retain(|_, counts| *counts != [0; 4]);
        self
    }

    fn add(&mut self, record: &Record) {
        if let Some(reason) = record.dropped() {
            *self.drops.entry(reason).or_default() += 1;
        }
        let at = match (record.direction, &record.verdict) {
            (Direction::In, _) if !record.late => 0,
            (Direction::Out, Verdict::Sent { .. }) => 2,
            _ => return,
        };
        let counts = self.ports.entry(record.port).or_default();
        counts[at] += 1;
        counts[at + 1] += record.len as u64;
    }
}

/// A capture of one side.
#[derive(Debug, Default)]
pub(super) struct Watched {
    capture: Option<(Capture, Counters)>,
    seen: Sum,
    events: usize,
}

impl Watched {
    /// Before an event: begins or ends.
    pub(super) fn turn(&mut self, dataplane: &Dataplane) {
        let at = self.events % (LASTS + IS_AWAY);
        self.events += 1;
        if at == 0 {
            let capture = dataplane.capture(Filter::default(), Limits::default());
            self.capture = Some((capture, dataplane.counters()));
            self.seen = Sum::default();
        } else if at == LASTS {
            self.capture = None;
        }
    }

    /// After an event: compares what was captured with what was counted, what went in and what came out.
    pub(super) fn check(
        &mut self,
        dataplane: &Dataplane,
        came: &Frames,
        left: &Frames,
    ) -> Result<(), String> {
        let Some((capture, before)) = &self.capture else { return Ok(()) };
        let (mut ins, mut outs) = (came.clone(), left.clone());
        while let Some(record) = capture.next() {
            self.seen.add(&record);
            let frame = (record.port.0, record.data.clone());
            let expected = match (record.direction, &record.verdict) {
                (Direction::In, _) if !record.late => &mut ins,
                (Direction::Out, Verdict::Sent { .. }) => &mut outs,
                _ => continue,
            };
            match expected.iter().position(|one| *one == frame) {
                Some(at) => drop(expected.swap_remove(at)),
                None => return Err(format!("captured, but neither came nor left: {record:?}")),
            }
        }
        if !outs.is_empty() {
            return Err(format!("left, but were not captured: {outs:?}"));
        }
        if let Some((port, missed)) = capture.counts().iter().find(|(_, count)| count.missed > 0) {
            return Err(format!("there is room, but {missed:?} of {port:?}"));
        }
        let counted = Sum::of(&dataplane.counters()).since(before);
        if self.seen != counted {
            return Err(format!("captured {:?}, but counted {counted:?}", self.seen));
        }
        Ok(())
    }
}
