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
use std::{collections::VecDeque, mem, sync::atomic::AtomicIsize};

/// How many TCP connections may be half open at one time. 0: any number. Workers look in steps, so there may be a 64th
/// of a limit more of them for each worker (at most 31).
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

/// How many connections are half open, as far as workers have said: each says what it has opened in steps, of at most
/// a 64th of a limit, so that an opening needs no atomic addition. Who opens a connection may count it when others have
/// closed it already, so a count can be below zero for a while.
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
        usize::try_from(self.of(Some(end)).load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// One less: its handshake is complete, or it has ended.
    pub fn close(&self, ends: Ends) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        for end in ends.into_iter().flatten() {
            self.of(Some(end)).fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[inline]
    fn of(&self, end: Option<End>) -> &AtomicIsize {
        match end {
            Some(end) => self.ends.at(end.index()),
            None => &self.all,
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

/// What one worker has opened of an end, or of all ends together.
#[derive(Debug)]
struct Openings {
    /// Opened, and not yet said to the others.
    unsaid: usize,
    /// As many unsaid ones are said at once.
    step: usize,
    /// How many may be half open. 0: any number.
    limit: usize,
    /// The last, in order, if some may have to give way soon.
    ring: Option<VecDeque<Opened>>,
}

impl Openings {
    fn new(limit: usize) -> Self {
        Self { unsaid: 0, step: (limit / 64).clamp(1, 32), limit, ring: None }
    }

    /// One more. How many are too many with it, looked at once a step.
    #[inline]
    fn open(&mut self, all: &AtomicIsize, new: Opened) -> usize {
        self.unsaid += 1;
        let excess = if self.unsaid < self.step { 0 } else { self.say(all) };
        if let Some(ring) = &mut self.ring {
            // Room for twice as many as may be half open, as some are no more.
            if ring.len() >= 2 * self.limit {
                ring.pop_front();
            }
            ring.push_back(new);
        }
        excess
    }

    /// Says what was unsaid. How many are too many.
    fn say(&mut self, all: &AtomicIsize) -> usize {
        let unsaid = mem::take(&mut self.unsaid) as isize;
        let count = all.fetch_add(unsaid, Ordering::Relaxed) + unsaid;
        let count = usize::try_from(count).unwrap_or(0);
        if self.limit == 0 {
            return 0;
        }
        // Before that, nobody will have to give way soon.
        if count > self.limit / 2 && self.ring.is_none() {
            self.ring = Some(VecDeque::new());
        }
        count.saturating_sub(self.limit)
    }
}
/// What one worker has opened: of each end, and of all together.
#[derive(Debug)]
pub struct Opener {
    all: Openings,
    ends: Vec<Openings>,
    per_port: usize,
}

impl Opener {
    /// For as many connections as `limits` say, of `sessions`.
    pub fn new(limits: &HalfOpenLimits, sessions: usize) -> Self {
        let mut all = Openings::new(limits.total(sessions));
        // These make room when the table is full, however few they are.
        all.ring = (all.limit > 0).then(VecDeque::new);
        Self { all, ends: Vec::new(), per_port: limits.per_port }
    }

    /// Counts a new connection of an end, or of all. How many are too many with it.
    #[inline]
    pub fn open(&mut self, counts: &HalfOpen, end: Option<End>, new: Opened) -> usize {
        let Self { all, ends, per_port } = self;
        let openings = match end {
            Some(end) => match ends.get_mut(end.index()) {
                Some(openings) => openings,
                None => Self::make(ends, end, *per_port),
            },
            None => all,
        };
        openings.open(counts.of(end), new)
    }

    #[cold]
    fn make(ends: &mut Vec<Openings>, end: End, per_port: usize) -> &mut Openings {
        ends.resize_with(end.index() + 1, || Openings::new(per_port));
        &mut ends[end.index()]
    }

    /// The connection of an end, or of all, that was opened longest ago; it may be half open no more.
    pub fn oldest(&self, end: Option<End>) -> Option<Opened> {
        let openings = match end {
            Some(end) => self.ends.get(end.index())?,
            None => &self.all,
        };
        openings.ring.as_ref()?.front().copied()
    }

    /// Takes out the connection of an end, or of all, that was opened longest ago; it may be half open no more.
    pub fn take_oldest(&mut self, end: Option<End>) -> Option<Opened> {
        let openings = match end {
            Some(end) => self.ends.get_mut(end.index())?,
            None => &mut self.all,
        };
        openings.ring.as_mut()?.pop_front()
    }

    /// Says all that was not yet said: this worker ends.
    pub fn say(&mut self, counts: &HalfOpen) {
        self.all.say(&counts.all);
        for (at, openings) in self.ends.iter_mut().enumerate().filter(|(_, openings)| openings.unsaid > 0) {
            openings.say(counts.ends.at(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: End = End { port: PortId(7), is_called: false };

    fn opened(n: usize) -> Opened {
        Opened { id: SessionId(n as u32), entry: EntryId(n as u32) }
    }

    /// Two workers with steps: together they stay within the limit and a step each, and when both have ended and
    /// every connection is closed, the counts are zero.
    #[test]
    fn steps_of_two_workers_hold_the_limit_and_lose_nothing() {
        let (counts, limits) = (HalfOpen::default(), HalfOpenLimits { per_port: 640, total: Some(0) });
        let mut workers = [(); 2].map(|()| Opener::new(&limits, 10_000));
        let (mut open, mut most) = (0, 0);
        for n in 0..5_000 {
            let opener = &mut workers[n % 2];
            assert_eq!(opener.open(&counts, None, opened(n)), 0, "any number in all");
            open += 1;
            for _ in 0..opener.open(&counts, Some(CALLER), opened(n)) {
                if opener.take_oldest(Some(CALLER)).is_some() {
                    counts.close([Some(CALLER), None]);
                    open -= 1;
                }
            }
            most = most.max(open);
        }
        assert!((640..=640 + 2 * 10).contains(&most), "{most}");
        workers.iter_mut().for_each(|opener| opener.say(&counts));
        assert_eq!((counts.count(), counts.count_of(CALLER)), (open, open));
        (0..open).for_each(|_| counts.close([Some(CALLER), None]));
        assert_eq!((counts.count(), counts.count_of(CALLER)), (0, 0));
    }
}
