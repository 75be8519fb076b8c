//! A flow log of a side, from its first packet on: every connection has one beginning and one end, what they have carried
//! is what was counted, and a sample is what its sampling makes of all.

use std::collections::BTreeMap;
use supernet_dataplane::{
    counters::Counters,
    flowlog::{Carried, End, EndReason, FlowCounts, FlowLog, FlowReader, Record, What},
    worker::Dataplane,
};

/// Of the sampled log.
const ONE_OF: u32 = 3;

/// What is known by the log of one side.
#[derive(Debug)]
pub(super) struct Logged {
    all: Vec<FlowReader>,
    sampled: Vec<FlowReader>,
    /// By id, how many have begun and not ended.
    open: BTreeMap<u64, u64>,
    ended: Carried,
    /// How often connections ended, by reason.
    pub(super) ends: BTreeMap<EndReason, u64>,
    /// How many were not let in.
    pub(super) denied: u64,
    /// How many that lived were denied from some time on.
    pub(super) cut_off: u64,
}

impl Logged {
    /// Of these readers: of all, and of one of [`ONE_OF`].
    pub(super) fn new(all: Vec<FlowReader>, sampled: Vec<FlowReader>) -> Self {
        Self {
            all,
            sampled,
            open: BTreeMap::new(),
            ended: Carried::default(),
            ends: BTreeMap::new(),
            denied: 0,
            cut_off: 0,
        }
    }

    /// How the two logs are made.
    pub(super) fn options() -> [FlowLog; 2] {
        [1, ONE_OF].map(|sample| FlowLog { sample, denied: false, records: 1024 })
    }

    /// Reads on, and compares with what lives and what was counted.
    pub(super) fn check(&mut self, dataplane: &Dataplane, counters: &[Counters; 2]) -> Result<(), String> {
        let read = |readers: &mut Vec<FlowReader>| {
            let mut records = Vec::new();
            readers.iter_mut().for_each(|reader| reader.read(&mut records));
            let counts = readers.iter().map(FlowReader::counts);
            (records, counts.fold(FlowCounts::default(), |sum, counts| sum + counts))
        };
        let (records, counts) = read(&mut self.all);
        let (sampled, few) = read(&mut self.sampled);
        if counts.missed + counts.missed_denied + few.missed + few.missed_denied > 0 {
            return Err(format!("the log has missed some: {counts:?}, {few:?}"));
        }
        // A denial that was remembered in one may have been forgotten in the other, for another's sake.
        let is_certain = |r: &&Record| !matches!(r.what, What::Denied { lives: false, .. });
        let expected = records.iter().filter(|record| record.is_sampled(ONE_OF)).filter(is_certain);
        if !sampled.iter().filter(is_certain).eq(expected) {
            return Err(format!("a sample is {sampled:?}, of {records:?}"));
        }
        records.iter().try_for_each(|record| self.see(record))?;
        let (mut live, mut carried) = (0, self.ended);
        dataplane.for_each_session(|_, _, (forward, reverse)| {
            live += 1;
            carried.packets += forward.packets + reverse.packets;
            carried.bytes += forward.bytes + reverse.bytes;
        });
        let open: u64 = self.open.values().sum();
        if open != live {
            return Err(format!("{open} connections have begun and not ended, and {live} live"));
        }
        let [one, other] = counters.each_ref().map(|counters| counters.connections);
        let (packets, bytes) = (one.packets + other.packets, one.bytes + other.bytes);
        let related: u64 = counters.iter().map(|counters| counters.related).sum();
        if carried.packets + related != packets || (related == 0 && carried.bytes != bytes) {
            return Err(format!(
                "{carried:?} and {related} errors were carried; counted {packets}, {bytes} bytes"
            ));
        }
        Ok(())
    }

    fn see(&mut self, record: &Record) -> Result<(), String> {
        match record.what {
            What::Started => *self.open.entry(record.id).or_default() += 1,
            What::Ended(End { reason, forward, reverse, .. }) => {
                let Some(open) = self.open.get_mut(&record.id).filter(|open| **open > 0) else {
                    return Err(format!("an end without a beginning: {record:?}"));
                };
                *open -= 1;
                *self.ends.entry(reason).or_default() += 1;
                self.ended.packets += forward.packets + reverse.packets;
                self.ended.bytes += forward.bytes + reverse.bytes;
            }
            What::Denied { lives: false, .. } => self.denied += 1,
            What::Denied { lives: true, .. } => {
                if self.open.get(&record.id).is_none_or(|open| *open == 0) {
                    return Err(format!("none that lives was denied: {record:?}"));
                }
                self.cut_off += 1;
            }
        }
        Ok(())
    }
}
