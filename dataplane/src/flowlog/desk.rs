//! The writing side of flow logs: a desk of each log for every worker.

use super::{Log, Record, Row, What, is_sampled, mix};
use crate::{
    flow::Tick,
    id::RuleId,
    time::{Duration, Instant},
    verdict::DropReason,
};
use rtrb::Producer;
use std::{
    cell::{Cell, RefCell},
    sync::{Arc, atomic::Ordering},
};

/// Denials that are remembered, so that they are not told again. A power of two.
const REMEMBERED: usize = 4096;

/// For so long, at least a little less.
const REPEATS: Duration = Duration::from_secs(60);

/// Of a remembered denial, the lower bits are the time.
const TIME: u64 = (1 << 24) - 1;

/// Where one thread writes one log.
#[derive(Debug)]
pub struct Desk {
    log: Arc<Log>,
    at: usize,
    ring: Producer<Record>,
    /// By hash: the rest of the hash, and when it was told.
    denials: Box<[u64; REMEMBERED]>,
}

impl Desk {
    pub(super) fn new(log: Arc<Log>, at: usize, ring: Producer<Record>) -> Self {
        Self { log, at, ring, denials: Box::new([0; REMEMBERED]) }
    }

    fn is_closed(&self) -> bool {
        self.log.closed.load(Ordering::Relaxed)
    }

    /// What may be written: nothing if nobody reads it, or it is not sampled.
    fn wants(&self, hash: u64) -> bool {
        !self.is_closed() && is_sampled(hash, self.log.sample)
    }

    fn push(&mut self, record: Record) {
        let fits = self.ring.push(record).is_ok();
        let row = self.row();
        if fits { row.recorded.add(1) } else { row.missed.add(1) }
    }

    /// Writes down what is denied, if it was not just now and there is room.
    fn deny(&mut self, denied: Denied, now: Instant, make: impl FnOnce() -> Record) {
        let place = denied.0 as usize % REMEMBERED;
        let before = self.denials[place];
        let was_told = (before ^ denied.0) & !TIME == 0
            && Tick::from_bits((before & TIME) as u32).until(Tick::of(now)) < REPEATS;
        if was_told {
            return self.row().repeated.add(1);
        }
        // So that a flood of denials leaves room for what happens to connections.
        if self.ring.slots() <= self.ring.buffer().capacity() / 2 || self.ring.push(make()).is_err() {
            return self.row().missed_denied.add(1);
        }
        self.denials[place] = denied.0 & !TIME | u64::from(Tick::of(now).to_bits());
        self.row().recorded.add(1);
    }

    fn row(&self) -> &Row {
        &self.log.rows[self.at]
    }
}

/// What is denied, and why, in a number that is hardly anything else's; never zero, which is nothing.
#[derive(Clone, Copy)]
struct Denied(u64);

impl Denied {
    fn new(hash: u64, reason: DropReason, rule: Option<RuleId>) -> Self {
        let why = (reason as u64) << 33 | rule.map_or(0, |rule| 1 << 32 | u64::from(rule.0));
        // The lowest of the bits that are kept.
        Self(mix(hash ^ mix(why)) | (TIME + 1))
    }
}

/// The logs that one thread writes; mostly none.
#[derive(Debug, Default)]
pub struct Desks(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    now: Cell<Instant>,
    desks: RefCell<Vec<Desk>>,
}

impl Desks {
    /// Nobody logs anything.
    #[inline(always)]
    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// Writes another log, too.
    pub fn add(&mut self, desk: Desk, now: Instant) {
        desk.log.begun.fetch_add(1, Ordering::Release);
        let open = || Box::new(Open { now: Cell::new(now), desks: RefCell::default() });
        let open = self.0.get_or_insert_with(open);
        open.desks.get_mut().push(desk);
    }

    /// What time it is.
    #[inline(always)]
    pub fn set_now(&self, now: Instant) {
        if let Some(open) = &self.0 {
            open.now.set(now);
        }
    }

    /// Says what time it is, also to who has no clock, and lets go of logs that nobody reads any more.
    pub fn tend(&mut self, now: Instant) {
        let Some(open) = &mut self.0 else { return };
        open.now.set(now);
        let desks = open.desks.get_mut();
        desks.iter().for_each(|desk| desk.log.now.store(now.micros(), Ordering::Relaxed));
        self.let_go();
    }

    /// Lets go of logs that nobody reads any more.
    pub fn let_go(&mut self) {
        let Some(open) = &mut self.0 else { return };
        let desks = open.desks.get_mut();
        desks.retain(|desk| !desk.is_closed());
        if desks.is_empty() {
            self.0 = None;
        }
    }

    /// Takes the time from those that move packets, for who has no clock.
    pub fn take_time(&self) {
        let Some(open) = &self.0 else { return };
        let now = |desk: &Desk| desk.log.now.load(Ordering::Relaxed);
        open.now.set(Instant::from_micros(open.desks.borrow().iter().map(now).max().unwrap_or(0)));
    }

    /// Writes down what happened to a connection, at its time.
    #[cold]
    #[inline(never)]
    pub fn tell(&self, make: impl FnOnce(Instant) -> Option<Record>) {
        let Some(open) = &self.0 else { return };
        let now = open.now.get();
        let mut desks = open.desks.borrow_mut();
        let Some(record) = make(now) else { return };
        for desk in desks.iter_mut() {
            let told = matches!(record.what, What::Denied { .. }) || !desk.log.denied;
            if told && desk.wants(record.hash) {
                desk.push(record);
            }
        }
    }

    /// Writes down that a connection whose first packet has this hash was not let in, unless it has been just now.
    #[cold]
    #[inline(never)]
    pub fn tell_denied(
        &self,
        hash: u64,
        (reason, rule): (DropReason, Option<RuleId>),
        make: impl Fn(Instant) -> Record,
    ) {
        let Some(open) = &self.0 else { return };
        let now = open.now.get();
        for desk in open.desks.borrow_mut().iter_mut().filter(|desk| desk.wants(hash)) {
            desk.deny(Denied::new(hash, reason, rule), now, || make(now));
        }
    }
}
