//! Half-open TCP connections: how many there are, and which gives way to a new one.
//!
//! ```text
//!   new ──▶ counted: of both ends, of all ──▶ too many? ──▶ the oldest of the ring that still is half open goes
//!      └──▶ rings of the ends, and of all: [ ... | id | id | new ]
//! ```
//!
//! So a flood of SYNs ends its own connections, and others to the same port that take longer to be answered than the
//! flood takes to fill the limit; established ones are never touched. Counts are shared by all workers; rings are each
//! worker's own, as nobody waits for anybody then, and mostly all connections of a port are opened at one worker.

use super::{EntryId, SessionId};
use crate::{counters::Grow, id::PortId, sync::Ordering};
use crossbeam::utils::CachePadded;
use std::{collections::VecDeque, sync::atomic::AtomicIsize};

/// How many TCP connections may be half open at one time. 0: any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfOpenLimits {
    /// Opened by one workload's port, and as many towards it. 4096.
    pub per_port: usize,
    /// In all; `None`: a quarter of the sessions there is room for.
    pub total: Option<usize>,
}

impl Default for HalfOpenLimits {
    fn default() -> Self {
        Self { per_port: 4096, total: None }
    }
}

impl HalfOpenLimits {
    /// The limit for all together, of so many sessions; 0: none.
    pub fn total(&self, sessions: usize) -> usize {
        self.total.unwrap_or(sessions.div_ceil(4))
    }
}

/// One end of a connection, for which it counts: the port that calls, or the port that is called. They count apart, so
/// that a flood of calls to a workload ends none of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// Whose port.
    pub port: PortId,
    /// It is called; else it calls.
    pub is_called: bool,
}

impl End {
    fn index(self) -> usize {
        2 * self.port.index() + usize::from(self.is_called)
    }
}

/// Who calls, and who is called if that is a workload.
pub type Ends = [Option<End>; 2];

/// How many connections are half open. A count may be one too low for a moment: who opens a connection counts it when
/// others may have closed it already.
#[derive(Debug)]
pub struct HalfOpen {
    all: CachePadded<AtomicIsize>,
    ends: Grow<AtomicIsize>,
}

impl Default for HalfOpen {
    fn default() -> Self {
        Self { all: CachePadded::default(), ends: Grow::new(2 * PortId::MAX as usize) }
    }
}

impl HalfOpen {
    /// In all.
    pub fn count(&self) -> usize {
        usize::try_from(self.all.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Of an end.
    pub fn count_of(&self, end: End) -> usize {
        usize::try_from(self.ends.at(end.index()).load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// One more in all; how many there are with it.
    #[inline]
    pub fn open(&self) -> usize {
        usize::try_from(self.all.fetch_add(1, Ordering::Relaxed) + 1).unwrap_or(0)
    }

    /// One more of an end; how many it has with it.
    #[inline]
    pub fn open_of(&self, end: End) -> usize {
        let before = self.ends.at(end.index()).fetch_add(1, Ordering::Relaxed);
        usize::try_from(before + 1).unwrap_or(0)
    }

    /// One less: its handshake is complete, or it has ended.
    pub fn close(&self, ends: Ends) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        for end in ends.into_iter().flatten() {
            self.ends.at(end.index()).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A connection, as a ring has it. Its id may be another's by now, but hardly with the same entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Its session.
    pub id: SessionId,
    /// Its first packet's entry.
    pub entry: EntryId,
}

/// The connections that one worker opened last, in order.
#[derive(Debug)]
struct Ring {
    opened: VecDeque<Opened>,
    most: usize,
}

impl Ring {
    /// With room for twice as many as may be half open, as some are no more.
    fn new(limit: usize) -> Self {
        Self { opened: VecDeque::new(), most: limit.saturating_mul(2) }
    }

    #[inline]
    fn put(&mut self, new: Opened) {
        if self.opened.len() >= self.most {
            self.opened.pop_front();
        }
        self.opened.push_back(new);
    }
}

/// One worker's rings: of all ends, and of all connections together.
#[derive(Debug)]
pub struct Rings {
    all: Option<Ring>,
    per_port: usize,
    ends: Vec<Option<Ring>>,
}

impl Rings {
    /// For as many connections as `limits` say, of `sessions`.
    pub fn new(limits: &HalfOpenLimits, sessions: usize) -> Self {
        let total = limits.total(sessions);
        Self { all: (total > 0).then(|| Ring::new(total)), per_port: limits.per_port, ends: Vec::new() }
    }

    /// Takes note of a new connection.
    #[inline]
    pub fn put(&mut self, new: Opened) {
        if let Some(all) = &mut self.all {
            all.put(new);
        }
    }

    /// Takes note of a new connection of an end that has half as many as it may have: before that, nobody will have to
    /// give way soon.
    #[cold]
    pub fn put_of(&mut self, end: End, new: Opened) {
        let at = end.index();
        if at >= self.ends.len() {
            self.ends.resize_with(at + 1, || None);
        }
        self.ends[at].get_or_insert_with(|| Ring::new(self.per_port)).put(new);
    }

    /// Takes out the connection of an end, or of all, that was opened longest ago; it may be half open no more.
    pub fn take_oldest(&mut self, end: Option<End>) -> Option<Opened> {
        let ring = match end {
            Some(end) => self.ends.get_mut(end.index())?.as_mut(),
            None => self.all.as_mut(),
        };
        ring?.opened.pop_front()
    }
}
