//! Flow logs by name: what [`FlowReader`] tells by number, put into order, with what everything is called.
//!
//! ```text
//!   workers ── rings ──▶ FlowReader ─▶ Flows: in order of time ─▶ FlowNames: pods, rules, servers ─▶ Flow
//!                  └── no room: counted ─────────────────────────────────────────────────────────▶ Flow::Missed
//! ```
//!
//! Workers write their rings one after the other, so a record may be read a moment before older ones of another worker.
//! Each is held until the rings were read again, some milliseconds later.

mod flow;
mod names;

pub use crate::dataplane::flowlog::{EndReason, FlowCounts, FlowLog, FlowReader, Record, What};
pub use flow::{Carried, Connection, Denied, Ended, Flow, Missed, Place};
pub use names::FlowNames;

use std::{
    collections::VecDeque,
    time::{Duration, Instant as Clock},
};

/// How long a record waits for older ones, and how often rings are read while somebody waits.
const HOLD: Duration = Duration::from_millis(10);

/// How often it is told that some were missed, at most.
const TELL: Duration = Duration::from_secs(1);

/// A flow log that is going on. It ends when it is dropped. Nothing waits for who reads: what comes faster is missed, and
/// told of.
#[derive(Debug)]
pub struct Flows {
    reader: FlowReader,
    names: FlowNames,
    /// In order of time.
    held: Vec<Record>,
    /// When the rings were read last, and the newest record that was held then.
    last: Option<(Clock, crate::Instant)>,
    ready: VecDeque<Record>,
    /// What was told of, and when.
    told: FlowCounts,
    told_at: Clock,
}

impl Flows {
    pub(crate) fn new(reader: FlowReader, names: FlowNames) -> Self {
        let (held, ready) = (Vec::new(), VecDeque::new());
        let (told, told_at) = (FlowCounts::default(), Clock::now());
        Self { reader, names, held, last: None, ready, told, told_at }
    }

    /// What happened next, if it is known yet: some milliseconds after it has.
    #[expect(clippy::should_implement_trait, reason = "`None` is not the end")]
    pub fn next(&mut self) -> Option<Flow> {
        match self.next_record() {
            Some(record) => Some(self.names.flow(&record)),
            None => self.missed().map(Flow::Missed),
        }
    }

    /// The same. Waits for it `at_most` so long.
    pub fn next_within(&mut self, at_most: Duration) -> Option<Flow> {
        let deadline = Clock::now() + at_most;
        loop {
            let next = self.next();
            let left = deadline.saturating_duration_since(Clock::now());
            if next.is_some() || left.is_zero() {
                return next;
            }
            std::thread::sleep(left.min(HOLD));
        }
    }

    /// All that has happened so far, without waiting for workers that are just writing.
    pub fn drain(&mut self) -> Vec<Flow> {
        self.read();
        let records: Vec<Record> = self.ready.drain(..).chain(self.held.drain(..)).collect();
        self.told_at = Clock::now().checked_sub(TELL).unwrap_or(self.told_at);
        let missed = self.missed().map(Flow::Missed);
        records.iter().map(|record| self.names.flow(record)).chain(missed).collect()
    }

    /// The next record by number, as [`Flows::next`] has it by name.
    pub fn next_record(&mut self) -> Option<Record> {
        if self.ready.is_empty() && self.last.is_none_or(|(at, _)| at.elapsed() >= HOLD) {
            let settled = self.last.map(|(_, newest)| newest);
            self.read();
            let count = settled.map_or(0, |until| self.held.partition_point(|record| record.at <= until));
            self.ready.extend(self.held.drain(..count));
            self.last = self.held.last().map(|newest| (Clock::now(), newest.at));
        }
        self.ready.pop_front()
    }

    /// What could not be logged since this was last asked, once a second at most.
    pub fn missed(&mut self) -> Option<Missed> {
        let counts = self.reader.counts();
        let since = counts - self.told;
        if since.missed + since.missed_denied == 0 || self.told_at.elapsed() < TELL {
            return None;
        }
        (self.told, self.told_at) = (counts, Clock::now());
        Some(Missed::of(since, self.names.now()))
    }

    /// What was recorded and missed so far.
    pub fn counts(&self) -> FlowCounts {
        self.reader.counts()
    }

    /// How many of [`FlowReader::begun`] have begun: each worker does when it is polled next.
    pub fn begun(&self) -> usize {
        self.reader.begun()
    }

    /// What names records.
    pub fn names(&self) -> &FlowNames {
        &self.names
    }

    fn read(&mut self) {
        self.reader.read(&mut self.held);
        // What is held comes first of what is of one time.
        self.held.sort_by_key(|record| record.at);
    }
}
