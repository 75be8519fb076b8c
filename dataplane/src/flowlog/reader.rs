//! The reading side of flow logs.

use super::{Log, Record, Row};
use rtrb::Consumer;
use std::{
    ops::Sub,
    sync::{Arc, atomic::Ordering},
};

/// A log that is going on. It ends when it is dropped.
#[derive(Debug)]
pub struct FlowReader {
    log: Arc<Log>,
    rings: Vec<Consumer<Record>>,
}

/// What a log has come to. What could not be logged is counted here, and nowhere else.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct FlowCounts {
    /// Records that were to be read.
    pub recorded: u64,
    /// Starts and ends, and denials of living connections, for which there was no room.
    pub missed: u64,
    /// Connections that were not let in, for which there was no room. Who tries again is counted again.
    pub missed_denied: u64,
    /// Packets of connections that were denied just before, for the same reason.
    pub repeated: u64,
}

impl FlowReader {
    pub(super) fn new(log: Arc<Log>, rings: Vec<Consumer<Record>>) -> Self {
        Self { log, rings }
    }

    /// Appends all records that wait, in order of their time. Whoever reads while they are written finds some of a worker
    /// a moment after later ones of another.
    pub fn read(&mut self, into: &mut Vec<Record>) {
        let before = into.len();
        for ring in &mut self.rings {
            // Not more than there is room for, or a writer could keep this here.
            let waiting = ring.slots();
            into.extend((0..waiting).map_while(|_| ring.pop().ok()));
        }
        into[before..].sort_by_key(|record| record.at);
    }

    /// What was recorded and missed so far.
    pub fn counts(&self) -> FlowCounts {
        self.log.rows.iter().fold(FlowCounts::default(), |sum, row| sum + row.counts())
    }

    /// Ends it: nothing more is written. What waits can still be read.
    pub fn stop(&self) {
        self.log.closed.store(true, Ordering::Relaxed);
    }

    /// How many desks are in use: each worker's is from its next poll on, and one is for what ends without a worker.
    pub fn begun(&self) -> usize {
        self.log.begun.load(Ordering::Acquire)
    }
}

impl Drop for FlowReader {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Row {
    fn counts(&self) -> FlowCounts {
        FlowCounts {
            recorded: self.recorded.get(),
            missed: self.missed.get(),
            missed_denied: self.missed_denied.get(),
            repeated: self.repeated.get(),
        }
    }
}

impl std::ops::Add for FlowCounts {
    type Output = Self;

    fn add(self, o: Self) -> Self {
        Self {
            recorded: self.recorded + o.recorded,
            missed: self.missed + o.missed,
            missed_denied: self.missed_denied + o.missed_denied,
            repeated: self.repeated + o.repeated,
        }
    }
}

impl Sub for FlowCounts {
    type Output = Self;

    fn sub(self, o: Self) -> Self {
        Self {
            recorded: self.recorded - o.recorded,
            missed: self.missed - o.missed,
            missed_denied: self.missed_denied - o.missed_denied,
            repeated: self.repeated - o.repeated,
        }
    }
}
