//! Flow logs: when connections begin and end, what they have carried, and which were not let in.
//!
//! ```text
//!   worker ── Desk: sampled? ─▶ ring of fixed size ──▶ FlowReader (any thread)
//!                └── no room: counted as missed         └── counts: recorded, missed, repeated
//! ```
//!
//! [`Dataplane::log_flows`](crate::worker::Dataplane::log_flows) begins one. Beginnings, ends and denials are all found on
//! the slow path or by the sweep, so a hit never looks whether there is a log, and everything else looks once. A worker
//! writes into a ring of its own: no lock, no allocation, no clock, and it never waits for who reads. What finds no room is
//! counted ([`FlowCounts`]). Records know things by number, as all of this crate does; whoever reads has their names.
//!
//! | record | when |
//! | --- | --- |
//! | [`What::Started`] | a connection was made, before its first packet goes on |
//! | [`What::Ended`] | it was forgotten: its time was up, its ports were taken again, or what it was bound to is gone |
//! | [`What::Denied`] | a packet that would open a connection was dropped; or a living connection is denied from now on |
//!
//! Every connection that was made while a log goes on has exactly one start and, unless it lives when the log ends, exactly
//! one end; both bear one [`Record::id`], and both are sampled by the hash of its first packet, so they come together or not
//! at all. A TCP connection is forgotten some time after it was closed ([`Timeouts`](crate::flow::Timeouts)), so that its
//! last packets are counted with it.
//!
//! Who is denied tries again: the same connection, denied for the same reason by the same rule, is told of once a minute
//! as far as a worker remembers, and counted as repeated otherwise. Denials take at most half of a ring, so that a flood of
//! them does not push out what happens to living connections.

mod desk;
mod reader;
#[cfg(test)]
mod tests;

pub use desk::{Desk, Desks};
pub use reader::{FlowCounts, FlowReader};

use crate::{
    counters::Count,
    id::{PortId, RuleId, ServerId},
    rewrite::Tuple,
    time::{Duration, Instant},
    verdict::DropReason,
};
use crossbeam::utils::CachePadded;
use rtrb::RingBuffer;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize},
};

/// Which connections are logged, and how much may wait to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowLog {
    /// One of so many connections; 1, or 0: all.
    pub sample: u32,
    /// Only what is denied.
    pub denied: bool,
    /// Records of each worker that may wait to be read; about 200 bytes each.
    pub records: usize,
}

impl Default for FlowLog {
    fn default() -> Self {
        Self { sample: 1, denied: false, records: 8192 }
    }
}

/// What happened to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When.
    pub at: Instant,
    /// The same in all records of a connection. Those that begin again with the same addresses and ports within 65 ms may
    /// have it too.
    pub id: u64,
    /// What.
    pub what: What,
    /// Where its first packet came in.
    pub ingress: PortId,
    /// Where it leaves, as far as it came.
    pub out: Option<PortId>,
    /// Its first packet, as it came in.
    pub original: Tuple,
    /// The same as it leaves: what became of it on its way, as far as it came. A translated source's port is known once
    /// it has a session.
    pub translated: Tuple,
    /// The rules that decided where it leaves its source and in front of its destination. Of what is denied, the rule
    /// that denies it.
    pub rules: (Option<RuleId>, Option<RuleId>),
    /// The virtual server it goes through.
    pub server: Option<ServerId>,
    /// The hash of its first packet, by which it is sampled.
    pub hash: u64,
}

/// Rings are as large as is said ([`FlowLog::records`]).
const _: () = assert!(size_of::<Record>() <= 208);

/// What a record is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A connection was made.
    Started,
    /// It was forgotten.
    Ended(End),
    /// It was not let in; or, if it `lives`, is denied from now on.
    Denied {
        /// Why.
        reason: DropReason,
        /// It has a session, which stays until its time is up: what is denied now may be allowed again by then.
        lives: bool,
    },
}

/// The end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// Why it ended.
    pub reason: EndReason,
    /// From its first packet to its last, in steps of 65.536 ms.
    pub lasted: Duration,
    /// What went the way of its first packet.
    pub forward: Carried,
    /// What came back.
    pub reverse: Carried,
}

/// What went one way, as it came in. Packets that another worker forwards in the same moment may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// Packets.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EndReason {
    /// Both sides of TCP said that they have nothing more to send.
    Closed,
    /// One side of TCP reset it.
    Reset,
    /// It was silent for too long.
    Expired,
    /// What it was bound to is gone: a port, a member, an egress address, a route.
    Gone,
    /// It was half open, and gave way to a newer one.
    GaveWay,
}

impl EndReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::Closed, Self::Reset, Self::Expired, Self::Gone, Self::GaveWay];

    /// Its name, in one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Expired => "expired",
            Self::Gone => "gone",
            Self::GaveWay => "gaveWay",
        }
    }
}

impl Record {
    /// A record of a connection whose first packet has the hash `hash`, and which `salt` tells from others with the same
    /// first packet.
    pub fn new(at: Instant, (hash, salt): (u64, u64), what: What, ingress: PortId, original: Tuple) -> Self {
        let id = mix(hash ^ mix(salt));
        Self {
            at,
            id,
            what,
            ingress,
            out: None,
            original,
            translated: original,
            rules: (None, None),
            server: None,
            hash,
        }
    }

    /// Whether it is of one of so many connections. Samples are nested: what is one of six is one of three, too.
    pub fn is_sampled(&self, one_of: u32) -> bool {
        is_sampled(self.hash, one_of)
    }
}

/// Hashes pick members and routes too, so these are others.
fn is_sampled(hash: u64, one_of: u32) -> bool {
    let other = mix(hash) >> 32;
    other.is_multiple_of(u64::from(one_of.max(1)))
}

/// Other bits from bits, one to one.
fn mix(bits: u64) -> u64 {
    let bits = (bits ^ bits >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (bits ^ bits >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// What both sides of a log know.
#[derive(Debug)]
struct Log {
    sample: u32,
    denied: bool,
    begun: AtomicUsize,
    /// Nobody reads any more.
    closed: AtomicBool,
    /// What time it is, for who has no clock and moves no packets; microseconds.
    now: AtomicU64,
    rows: Box<[CachePadded<Row>]>,
}

/// What one desk has counted.
#[derive(Debug, Default)]
struct Row {
    recorded: Count,
    missed: Count,
    missed_denied: Count,
    repeated: Count,
}

/// A log with so many desks, each for one thread at a time.
pub fn begin(options: &FlowLog, desks: usize) -> (Vec<Desk>, FlowReader) {
    let log = Arc::new(Log {
        sample: options.sample,
        denied: options.denied,
        begun: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
        now: AtomicU64::new(0),
        rows: (0..desks).map(|_| CachePadded::default()).collect(),
    });
    let rings = (0..desks).map(|_| RingBuffer::new(options.records.max(2)));
    let (writers, readers): (Vec<_>, Vec<_>) = rings.unzip();
    let desks = writers.into_iter().enumerate().map(|(at, ring)| Desk::new(log.clone(), at, ring));
    (desks.collect(), FlowReader::new(log.clone(), readers))
}
