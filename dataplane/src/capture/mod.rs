//! Captures: copies of frames as they come in and as they leave, each with what became of it.
//!
//! ```text
//!   worker ── Record ──▶ bounded channel ──▶ Capture (any thread)
//!                 └── no room: counted as missed, by port
//! ```
//!
//! [`Dataplane::capture`](crate::worker::Dataplane::capture) begins one. While it lasts, workers take the frames of a
//! batch one by one, so that what becomes of each is known; while there is none, they look once a batch whether there
//! is. A worker never waits for who reads. Frames count in captures as they do in [`Counters`](crate::counters::Counters):
//! with an empty filter and nothing missed, there is one record for each that was received, sent or dropped.
//!
//! | frame | record |
//! | --- | --- |
//! | came in | [`Direction::In`], as it came, once its fate is known |
//! | left | [`Direction::Out`], [`Verdict::Sent`], as it was handed to the port |
//! | was to leave, and the port did not take it | [`Direction::Out`], dropped |
//! | had come in before and was held, or is a piece of what came in, and is dropped | [`Direction::In`], dropped, [`Record::late`] |
//! | a copy or piece for which no buffer was free | [`Direction::Out`], dropped, with the frame that it is of |
//!
//! A port's other side may have left checksums undone. In the copy they are done, so that whoever looks at it does not
//! find them wrong; segmentation is left ([`Record::offload`]).

mod stages;

pub use stages::{Stage, Stages, UnknownStage};

use crate::{
    buf::Offload,
    counters::Grow,
    id::{PortId, RuleId, ServerId},
    snapshot::Names,
    time::{Duration, Instant},
    verdict::DropReason,
    wire::offload,
};
use crossbeam::channel::{Receiver, Sender, bounded};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

/// Which frames are captured, and how much of each. The default is all of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What comes in or leaves by one of these ports, and what is dropped on its way from or to one of them, as far as
    /// that is known ([`Verdict::Dropped`]).
    pub ports: Option<Vec<PortId>>,
    /// Only what is dropped.
    pub drops: bool,
    /// Only what one of these stages has to do with ([`Record::stages`]); none: all.
    pub stages: Stages,
    /// Bytes of a frame that are kept.
    pub snaplen: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { ports: None, drops: false, stages: Stages::NONE, snaplen: usize::MAX }
    }
}

/// How much may wait to be read. What comes beyond is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records.
    pub records: usize,
    /// Bytes of frames.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { records: 16_384, bytes: 32 << 20 }
    }
}

/// Which way a frame goes, as the network sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// From the port's other side.
    In,
    /// To the port's other side.
    Out,
}

/// What became of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on to these ports, as one frame or in pieces. None: its pieces were lost, each with a record.
    Forwarded(Vec<PortId>),
    /// It was dropped.
    Dropped {
        /// Why.
        reason: DropReason,
        /// The port it was on its way to, or from, where that is known: whose firewall denied it, or who did not take
        /// it.
        at: Option<PortId>,
    },
    /// The network answers it, in the same frame.
    Answered,
    /// It waits for the first fragment of its packet. When it goes on or is dropped, that is told again.
    Held,
    /// It leaves. `None`: the network made it.
    Sent {
        /// Where it came in.
        from: Option<PortId>,
    },
}

/// A frame, and what is known of it.
#[derive(Clone, Debug)]
pub struct Record {
    /// When the worker was polled that took or sent it.
    pub at: Instant,
    /// Where it came in or leaves.
    pub port: PortId,
    /// Which of them.
    pub direction: Direction,
    /// What became of it.
    pub verdict: Verdict,
    /// The stages that have to do with it: of what was dropped or answered, the one that did so; of a packet that opened
    /// a connection, those that it walked (of firewalls, those with a rule that allowed it); of a packet of a known
    /// connection [`Stage::Session`], and those that rewrote it. A frame that leaves has those of the frame that it was
    /// when it came in.
    pub stages: Stages,
    /// The firewall rules, where it leaves its source and in front of its destination, that decided about it or its
    /// connection.
    pub rules: (Option<RuleId>, Option<RuleId>),
    /// The virtual server of its connection.
    pub server: Option<ServerId>,
    /// It is not counted as received now: it had come in before, or is a piece of what came in.
    pub late: bool,
    /// What its sender has left undone; the checksum is done here.
    pub offload: Option<Offload>,
    /// Bytes of the frame; [`Record::data`] may be shorter.
    pub len: usize,
    /// The frame from its start on.
    pub data: Vec<u8>,
    /// What the ids were called then.
    pub names: Arc<Names>,
}

impl Record {
    /// Why it was dropped, if it was.
    pub fn dropped(&self) -> Option<DropReason> {
        match self.verdict {
            Verdict::Dropped { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

/// Records of one port.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Those that were to be read.
    pub recorded: u64,
    /// Those for which there was no room.
    pub missed: u64,
}

/// A capture that is going on. It ends when it is dropped.
#[derive(Debug)]
pub struct Capture {
    tap: Arc<Tap>,
    records: Receiver<Record>,
}

impl Capture {
    /// The next record, if one waits.
    pub fn next(&self) -> Option<Record> {
        self.read(self.records.try_recv().ok()?)
    }

    /// The next record. Waits for it `at_most` so long.
    pub fn next_within(&self, at_most: Duration) -> Option<Record> {
        self.read(self.records.recv_timeout(at_most).ok()?)
    }

    fn read(&self, record: Record) -> Option<Record> {
        self.tap.waiting.fetch_sub(record.data.len(), Ordering::Relaxed);
        Some(record)
    }

    /// What was captured and missed so far, by port.
    pub fn counts(&self) -> BTreeMap<PortId, Captured> {
        let count = |row: &TapRow| Captured {
            recorded: row.recorded.load(Ordering::Relaxed),
            missed: row.missed.load(Ordering::Relaxed),
        };
        let rows = self.tap.rows.iter().map(|(at, row)| (PortId(at as u32), count(row)));
        rows.filter(|(_, count)| *count != Captured::default()).collect()
    }

    /// Ends it: workers tell no more from their next poll on. What waits can still be read.
    pub fn stop(&self) {
        self.tap.closed.store(true, Ordering::Relaxed);
    }

    /// How many workers have begun: each does when it is polled next.
    pub fn begun(&self) -> usize {
        self.tap.begun.load(Ordering::Acquire)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The workers' side of a capture.
#[derive(Debug)]
pub(crate) struct Tap {
    filter: Filter,
    most_bytes: usize,
    records: Sender<Record>,
    /// Bytes that wait to be read.
    waiting: AtomicUsize,
    begun: AtomicUsize,
    /// Nobody reads any more.
    closed: AtomicBool,
    rows: Grow<TapRow>,
}

#[derive(Debug, Default)]
struct TapRow {
    recorded: AtomicU64,
    missed: AtomicU64,
}

/// Both sides of a new capture.
pub(crate) fn begin(mut filter: Filter, limits: Limits) -> (Arc<Tap>, Capture) {
    let (sender, records) = bounded(limits.records.max(1));
    if let Some(ports) = &mut filter.ports {
        ports.sort_unstable();
    }
    let tap = Arc::new(Tap {
        filter,
        most_bytes: limits.bytes,
        records: sender,
        waiting: AtomicUsize::new(0),
        begun: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
        rows: Grow::new(PortId::MAX as usize),
    });
    (tap.clone(), Capture { tap, records })
}

impl Tap {
    /// A worker heeds it from now on.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Bytes of a frame that it keeps.
    pub(crate) fn snaplen(&self) -> usize {
        self.filter.snaplen
    }

    /// Whether it may want what goes on through a port.
    pub(crate) fn follows(&self, port: PortId) -> bool {
        !self.filter.drops && self.has(port)
    }

    fn has(&self, port: PortId) -> bool {
        self.filter.ports.as_ref().is_none_or(|ports| ports.binary_search(&port).is_ok())
    }

    /// Takes a record of a frame that begins with `data`, if it is wanted. Never waits.
    pub(crate) fn offer(&self, record: &Record, data: &[u8]) {
        if self.is_closed() || !self.wants(record) {
            return;
        }
        let data = &data[..data.len().min(self.filter.snaplen)];
        let row = self.rows.at(record.port.index());
        let waiting = self.waiting.fetch_add(data.len(), Ordering::Relaxed);
        let record = || {
            let mut data = data.to_vec();
            if let Some(left) = record.offload.filter(|_| data.len() == record.len) {
                offload::complete(&mut data, left);
            }
            Record { data, ..record.clone() }
        };
        // Not to copy what there is no room for.
        let fits = waiting + data.len() <= self.most_bytes && !self.records.is_full();
        if fits && self.records.try_send(record()).is_ok() {
            row.recorded.fetch_add(1, Ordering::Relaxed);
        } else {
            self.waiting.fetch_sub(data.len(), Ordering::Relaxed);
            row.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wants(&self, record: &Record) -> bool {
        let Filter { drops, stages, .. } = &self.filter;
        let dropped_at = match record.verdict {
            Verdict::Dropped { at, .. } => at,
            _ if *drops => return false,
            _ => None,
        };
        (stages.is_empty() || record.stages.meets(*stages))
            && (self.has(record.port) || dropped_at.is_some_and(|at| self.has(at)))
    }
}

#[cfg(test)]
mod tests;
