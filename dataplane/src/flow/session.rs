//! The cold record of a connection: what must be remembered, and given back, as long as it lasts.

use super::{Direction, EntryId, Track};
use crate::{
    id::{Generation, IdentityId, PortId, RuleId, ServerId},
    rewrite::Tuple,
    table::ports::PortClaim,
    time::Instant,
    verdict::DropReason,
    wire::Mac,
};
use crossbeam::queue::SegQueue;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

/// A session's place. At most 2^28 of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(pub(crate) u32);

/// What a connection is bound to for as long as it lasts, whatever is published meanwhile.
#[derive(Debug)]
pub struct Binding {
    /// The virtual server and its member, if it goes through one.
    pub bound: Option<Bound>,
    /// The source address and port that the destination sees.
    pub source: (IpAddr, u16),
    /// The port of the egress address, if the source is translated. Dropping it frees the port.
    pub claim: Option<PortClaim>,
}

/// A virtual server and the member that serves the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// The virtual server.
    pub server: ServerId,
    /// The member.
    pub member: SocketAddr,
}

/// The verdict on a session, and what it was computed from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// The snapshot it was made with or last checked against.
    pub generation: Generation,
    /// Firewall identities of destination and source at that time.
    pub identities: (IdentityId, IdentityId),
    /// The port it leaves by.
    pub out: PortId,
    /// Why it is denied now, and by which rule.
    pub denied: Option<(DropReason, Option<RuleId>)>,
}

/// A connection.
#[derive(Debug)]
pub struct Session {
    /// The port its first packet came in by.
    pub ingress: PortId,
    /// The first packet's tuple, as it came in.
    pub original: Tuple,
    /// The MAC its first packet was sent to: the gateway's, or a peer's in the segment.
    pub dst_mac: Mac,
    /// The tuple of answers, as they come in.
    pub reply: Tuple,
    /// What it is bound to.
    pub binding: Binding,
    /// What was decided.
    pub judgement: Judgement,
    /// TCP flags seen.
    pub track: Track,
    /// When it began.
    pub began: Instant,
    /// Its entries, forward and reverse; `None` while it is being made.
    pub entries: Option<(EntryId, EntryId)>,
}

impl Session {
    /// The entry of a direction.
    pub fn entry(&self, direction: Direction) -> Option<EntryId> {
        self.entries.map(|(forward, reverse)| match direction {
            Direction::Forward => forward,
            Direction::Reverse => reverse,
        })
    }
}

/// All sessions, by place. A place is locked while its session is made, judged or ended.
pub struct Sessions {
    slots: Box<[Mutex<Option<Box<Session>>>]>,
    fresh: AtomicU32,
    freed: SegQueue<u32>,
}

impl Sessions {
    /// Room for `capacity` sessions.
    pub fn new(capacity: usize) -> Self {
        Self {
            slots: (0..capacity).map(|_| Mutex::new(None)).collect(),
            fresh: AtomicU32::new(0),
            freed: SegQueue::new(),
        }
    }

    /// How many sessions there is room for.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Places that were ever used: the sweep looks no further.
    pub fn high_water(&self) -> usize {
        (self.fresh.load(Ordering::Relaxed) as usize).min(self.slots.len())
    }

    /// A free place; `None` when all are in use.
    pub fn claim(&self) -> Option<SessionId> {
        if let Some(id) = self.freed.pop() {
            return Some(SessionId(id));
        }
        let end = self.slots.len() as u32;
        self.fresh
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < end).then_some(n + 1))
            .ok()
            .map(SessionId)
    }

    /// Locks a place.
    pub fn lock(&self, id: SessionId) -> MutexGuard<'_, Option<Box<Session>>> {
        self.slots[id.0 as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place number `n`, for the sweep.
    pub fn nth(&self, n: usize) -> SessionId {
        SessionId(n as u32)
    }

    /// Gives a place back. Its session must have been taken out.
    pub fn release(&self, id: SessionId) {
        self.freed.push(id.0);
    }
}
