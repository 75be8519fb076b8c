//! Half-open TCP connections: how many there may be, and which gives way to a new one.
//!
//! ```text
//!   new ──▶ ring of a port, or of all: [ id | id | id | ... ]
//!                                        └─ who stood there gives way, if its handshake is still not complete
//! ```
//!
//! A ring has as many places as connections may be half open. Each new one takes the next place, in one atomic step,
//! and who opened longest ago goes. So a flood of SYNs ends its own connections, and others of its port that took
//! longer to be answered than the flood takes to go round; established ones are never touched.

use super::{EntryId, SessionId};
use crate::{
    counters::Grow,
    id::PortId,
    sync::{AtomicU32, AtomicU64, Ordering},
};
use std::sync::OnceLock;

/// How many TCP connections may be half open at one time, rounded up to a power of two. 0: any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfOpenLimits {
    /// Opened by, or towards, one workload's port. 4096.
    pub per_port: usize,
    /// In all; `None`: a quarter of the sessions there is room for.
    pub total: Option<usize>,
}

impl Default for HalfOpenLimits {
    fn default() -> Self {
        Self { per_port: 4096, total: None }
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

impl Opened {
    fn word(self) -> u64 {
        (u64::from(self.id.0) + 1) | (u64::from(self.entry.0) << 32)
    }

    fn from_word(word: u64) -> Option<Self> {
        let id = SessionId((word as u32).checked_sub(1)?);
        Some(Self { id, entry: EntryId((word >> 32) as u32) })
    }
}

/// The connections that were opened last.
#[derive(Debug)]
pub struct Ring {
    /// [`Opened`], or 0.
    places: Box<[AtomicU64]>,
    next: AtomicU32,
}

impl Ring {
    fn new(places: usize) -> Self {
        let places = (0..places.next_power_of_two()).map(|_| AtomicU64::new(0)).collect();
        Self { places, next: AtomicU32::new(0) }
    }

    /// Gives a new connection a place, and names the one that had it. That may have been established or have ended
    /// since.
    pub fn put(&self, new: Opened) -> Option<Opened> {
        self.swap(new.word())
    }

    /// Takes out the connection that was opened longest ago, or is no more.
    pub fn take_oldest(&self) -> Option<Opened> {
        self.swap(0)
    }

    fn swap(&self, new: u64) -> Option<Opened> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) as usize & (self.places.len() - 1);
        Opened::from_word(self.places[at].swap(new, Ordering::Relaxed))
    }
}

/// The rings of all ports, and that of all together.
#[derive(Debug)]
pub struct HalfOpen {
    all: Option<Ring>,
    per_port: usize,
    ports: Grow<OnceLock<Ring>>,
}

impl HalfOpen {
    /// With room for as many as `limits` say, of `sessions`.
    pub fn new(limits: &HalfOpenLimits, sessions: usize) -> Self {
        let total = limits.total.unwrap_or(sessions.div_ceil(4));
        Self {
            all: (total > 0).then(|| Ring::new(total)),
            per_port: limits.per_port,
            ports: Grow::new(PortId::MAX as usize),
        }
    }

    /// The ring of all; `None` without a limit.
    pub fn all(&self) -> Option<&Ring> {
        self.all.as_ref()
    }

    /// The ring of a port; `None` without a limit.
    pub fn port(&self, port: PortId) -> Option<&Ring> {
        let ring = || Ring::new(self.per_port);
        (self.per_port > 0).then(|| self.ports.at(port.index()).get_or_init(ring))
    }
}
