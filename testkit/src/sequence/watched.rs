//! Captures that come and go while a sequence plays: they must see what counters count, and change nothing.

use super::packets::Frames;
use std::collections::BTreeMap;
use supernet_dataplane::{
    capture::{Capture, Direction, Filter, Limits, Record, Verdict},
    counters::Counters,
    id::PortId,
    verdict::DropReason,
    worker::Dataplane,
};

/// The port of which one of them tells alone.
const PORT: PortId = PortId(1);

/// How many events each of [`Phase`] lasts.
const LASTS: usize = 3;

/// Which captures go on. Workers do less where only some frames may be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    All,
    Drops,
    OfPort,
    None,
}

const PHASES: [Phase; 4] = [Phase::All, Phase::Drops, Phase::OfPort, Phase::None];

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

    /// What a capture of this kind can know.
    fn known_to(&mut self, phase: Phase) {
        match phase {
            Phase::Drops => self.ports.clear(),
            Phase::OfPort => {
                self.drops.clear();
                self.ports.retain(|port, _| *port == PORT);
            }
            Phase::All | Phase::None => {}
        }
    }
}

/// The port on its way from or to which a frame was dropped, if that is known.
fn dropped_at(record: &Record) -> Option<PortId> {
    match record.verdict {
        Verdict::Dropped { at, .. } => at,
        _ => None,
    }
}

/// What is told of a frame, whatever the filter.
fn told(record: &Record) -> (PortId, Direction, &Verdict, (bool, usize, &[u8])) {
    (record.port, record.direction, &record.verdict, (record.late, record.len, &record.data))
}

/// Captures of one side.
#[derive(Debug, Default)]
pub(super) struct Watched {
    going_on: Option<GoingOn>,
    events: usize,
}

#[derive(Debug)]
struct GoingOn {
    phase: Phase,
    capture: Capture,
    /// While all is told, each of these must tell its part of it.
    parts: Vec<(Phase, Capture)>,
    /// What was counted before.
    before: Counters,
    seen: Sum,
}

impl Watched {
    /// Before an event: begins and ends.
    pub(super) fn turn(&mut self, dataplane: &Dataplane) {
        let phase = PHASES[self.events / LASTS % PHASES.len()];
        if self.events.is_multiple_of(LASTS) {
            let capture = |phase| {
                let filter = match phase {
                    Phase::All | Phase::None => Filter::default(),
                    Phase::Drops => Filter { drops: true, ..Filter::default() },
                    Phase::OfPort => Filter { ports: Some(vec![PORT]), ..Filter::default() },
                };
                dataplane.capture(filter, Limits::default())
            };
            let parts = if phase == Phase::All { &[Phase::Drops, Phase::OfPort][..] } else { &[] };
            self.going_on = (phase != Phase::None).then(|| GoingOn {
                phase,
                capture: capture(phase),
                parts: parts.iter().map(|part| (*part, capture(*part))).collect(),
                before: dataplane.counters(),
                seen: Sum::default(),
            });
        }
        self.events += 1;
    }

    /// After an event: compares what was captured with what was counted, what went in and what came out.
    pub(super) fn check(
        &mut self,
        dataplane: &Dataplane,
        came: &Frames,
        left: &Frames,
    ) -> Result<(), String> {
        let Some(GoingOn { phase, capture, parts, before, seen }) = &mut self.going_on else {
            return Ok(());
        };
        let phase = *phase;
        let records: Vec<Record> = std::iter::from_fn(|| capture.next()).collect();
        for (part, capture) in parts {
            is_part(*part, capture, &records)?;
        }
        let (mut ins, mut outs) = (came.clone(), left.clone());
        for record in &records {
            seen.add(record);
            let frame = (record.port.0, record.data.clone());
            let expected = match (record.direction, &record.verdict) {
                (Direction::In, _) if !record.late => &mut ins,
                (Direction::Out, Verdict::Sent { .. }) => &mut outs,
                _ => continue,
            };
            match expected.iter().position(|one| *one == frame) {
                Some(at) => drop(expected.swap_remove(at)),
                None => return Err(format!("captured, but neither came nor left: {:?}", told(record))),
            }
        }
        if !outs.is_empty() && phase == Phase::All {
            return Err(format!("left, but were not captured: {outs:?}"));
        }
        if let Some((port, missed)) = capture.counts().iter().find(|(_, count)| count.missed > 0) {
            return Err(format!("there is room, but {missed:?} of {port:?}"));
        }
        let mut counted = Sum::of(&dataplane.counters()).since(before);
        counted.known_to(phase);
        seen.known_to(phase);
        if *seen != counted {
            return Err(format!("{phase:?}: captured {seen:?}, but counted {counted:?}"));
        }
        Ok(())
    }
}

/// Whether a capture has told its part of what was told.
fn is_part(part: Phase, capture: &Capture, whole: &[Record]) -> Result<(), String> {
    let is_of_part = |record: &&Record| match part {
        Phase::Drops => record.dropped().is_some(),
        _ => record.port == PORT || dropped_at(record) == Some(PORT),
    };
    let mut expected = whole.iter().filter(is_of_part);
    while let Some(record) = capture.next() {
        let expected = expected.next().map(told);
        if Some(told(&record)) != expected {
            return Err(format!("{part:?}: tells {:?}, not {expected:?}", told(&record)));
        }
    }
    expected.next().map_or(Ok(()), |record| Err(format!("{part:?}: does not tell {:?}", told(record))))
}
