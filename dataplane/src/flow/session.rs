//! The cold record of a connection: what its two entries do not say, and must be remembered, and given back, as
//! long as it lasts.
//!
//! ```text
//!   Record, 32 bytes: entries | generation, identities judged | virtual server | ingress port, state | began
//!      └── with its entries' keys and rewrites ──▶ Session: the whole connection
//! ```
//!
//! Records lie in stripes, each behind a lock of its own. A [`Place`] is a locked record: it is held while the
//! session is made, judged or ended.

use super::{Direction, EntryId, Payer, Track, table::LOAD};
use crate::{
    id::{Generation, IdentityId, PortId, RuleId, ServerId},
    rewrite::Tuple,
    sync::{AtomicU32, Mutex, MutexGuard, Ordering, lock},
    time::Instant,
    vector,
    verdict::DropReason,
};
use crossbeam::utils::CachePadded;
use std::net::{IpAddr, SocketAddr};

/// A session's place. Fewer than 2^28 of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(pub(crate) u32);

/// What a connection is bound to for as long as it lasts, whatever is published meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The virtual server and its member, if it goes through one.
    pub bound: Option<Bound>,
    /// The source address and port that the destination sees.
    pub source: (IpAddr, u16),
    /// Whether the source is an egress address, of which the session holds the port.
    pub translated: bool,
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
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// The port its first packet came in by.
    pub ingress: PortId,
    /// The first packet's tuple, as it came in.
    pub original: Tuple,
    /// Its first packet was sent to a peer's MAC in the segment, not to the gateway's.
    pub switched: bool,
    /// The tuple of answers, as they come in.
    pub reply: Tuple,
    /// What it is bound to.
    pub binding: Binding,
    /// What was decided.
    pub judgement: Judgement,
    /// TCP flags seen.
    pub track: Track,
    /// When it began, to 65.536 ms.
    pub began: Instant,
    /// What its packets are counted under.
    pub tally: u32,
    /// Its entries, forward and reverse.
    pub entries: (EntryId, EntryId),
}

/// Why a session's packets are denied now. The rule is in the entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// By a rule where they leave their source.
    Egress,
    /// By a rule in front of their destination.
    Ingress,
    /// No route leads on.
    NoRoute,
}

impl Denial {
    /// The reason under which packets are counted.
    pub fn reason(self) -> DropReason {
        match self {
            Self::Egress => DropReason::EgressDenied,
            Self::Ingress => DropReason::IngressDenied,
            Self::NoRoute => DropReason::NoRoute,
        }
    }
}

/// What is remembered of a connection beside its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its entries, forward and reverse.
    pub entries: (EntryId, EntryId),
    /// They are in the table of IPv4.
    pub is_v4: bool,
    /// The port its first packet came in by.
    pub ingress: PortId,
    /// The virtual server it goes through.
    pub server: Option<ServerId>,
    /// It holds the port of an egress address that it is translated to.
    pub translated: bool,
    /// The snapshot it was judged with or last checked against.
    pub generation: Generation,
    /// Firewall identities of destination and source at that time.
    pub identities: (IdentityId, IdentityId),
    /// Why it is denied now.
    pub denied: Option<Denial>,
    /// TCP flags seen.
    pub track: Track,
    /// The end that it counts for, if it was counted.
    pub payer: Option<Payer>,
    /// When it began.
    pub began: Instant,
}

impl Record {
    /// The entry of a direction.
    pub fn entry(&self, direction: Direction) -> EntryId {
        match direction {
            Direction::Forward => self.entries.0,
            Direction::Reverse => self.entries.1,
        }
    }
}

/// A record as it is kept. All zero: there is none, and the second word links the places that are free.
type Words = [u32; 8];

/// Instants in records: 65.536 ms, for eight years.
const BEGAN_SHIFT: u32 = 16;

// The last word: port 23 | IPv4 1 | translated 1 | denial 2 | track 5.
const IS_V4: u32 = 1 << 23;
const TRANSLATED: u32 = 1 << 24;
const DENIAL: u32 = 25;
const TRACK: u32 = 27;

// The second word: entry of the answers 30 | payer 2.
const PAYER: u32 = 30;
const ENTRY: u32 = (1 << PAYER) - 1;
// Every entry of the largest table has a number that fits, and buckets that are not full at that load as well.
const _: () = assert!((Sessions::MOST * 2 * 100).div_ceil(LOAD) + (1 << 20) < 1 << PAYER);

impl Record {
    fn words(&self) -> Words {
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let denial = self.denied.map_or(0, |denial| denial as u32 + 1);
        let state = self.ingress.0 & (IS_V4 - 1)
            | flag(self.is_v4, IS_V4)
            | flag(self.translated, TRANSLATED)
            | denial << DENIAL
            | u32::from(self.track.bits()) << TRACK;
        [
            // Never zero.
            self.entries.0.0 + 1,
            self.entries.1.0 & ENTRY | self.payer.map_or(0, |payer| payer as u32 + 1) << PAYER,
            self.generation.0,
            self.identities.0.0,
            self.identities.1.0,
            self.server.map_or(u32::MAX, |server| server.0),
            (self.began.micros() >> BEGAN_SHIFT) as u32,
            state,
        ]
    }

    fn from_words(w: &Words) -> Option<Self> {
        let forward = w[0].checked_sub(1)?;
        let denied = match w[7] >> DENIAL & 3 {
            0 => None,
            1 => Some(Denial::Egress),
            2 => Some(Denial::Ingress),
            _ => Some(Denial::NoRoute),
        };
        let payer = match w[1] >> PAYER {
            0 => None,
            1 => Some(Payer::Caller),
            _ => Some(Payer::Called),
        };
        Some(Self {
            entries: (EntryId(forward), EntryId(w[1] & ENTRY)),
            payer,
            is_v4: w[7] & IS_V4 != 0,
            ingress: PortId(w[7] & (IS_V4 - 1)),
            server: (w[5] != u32::MAX).then_some(ServerId(w[5])),
            translated: w[7] & TRANSLATED != 0,
            generation: Generation(w[2]),
            identities: (IdentityId(w[3]), IdentityId(w[4])),
            denied,
            track: Track::from_bits((w[7] >> TRACK) as u8),
            began: Instant::from_micros(u64::from(w[6]) << BEGAN_SHIFT),
        })
    }
}

/// All sessions' records.
pub struct Sessions {
    stripes: Box<[CachePadded<Stripe>]>,
    capacity: usize,
}

struct Stripe {
    records: Mutex<Records>,
    /// Places that are free, so that a full stripe is passed over without locking it.
    left: AtomicU32,
}

struct Records {
    words: Box<[Words]>,
    /// Places from here on were never used.
    fresh: u32,
    /// The first of the places that are free again, counted from 1.
    free: u32,
}

/// Stripes at most; few sessions have fewer.
const STRIPES: usize = 64;

impl Sessions {
    /// Room for `capacity` sessions, at most [`Self::MOST`].
    pub fn new(capacity: usize) -> Self {
        // The last number is nobody's.
        let capacity = capacity.min(Self::MOST);
        let stripes = (capacity / STRIPES).clamp(1, STRIPES);
        let stripe = |n: usize| {
            let places = capacity / stripes + usize::from(n < capacity % stripes);
            let words = bytemuck::zeroed_slice_box(places);
            let records = Mutex::new(Records { words, fresh: 0, free: 0 });
            CachePadded::new(Stripe { records, left: AtomicU32::new(places as u32) })
        };
        Self { stripes: (0..stripes).map(stripe).collect(), capacity }
    }

    /// How many sessions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The most there can be.
    pub const MOST: usize = (1 << 28) - 1;

    /// Bytes a session's record takes.
    pub const RECORD_BYTES: usize = size_of::<Words>();

    /// Sessions there are.
    pub fn live(&self) -> usize {
        let free: usize = self.stripes.iter().map(|s| s.left.load(Ordering::Relaxed) as usize).sum();
        self.capacity - free
    }

    /// Takes a free place, to be filled with [`Place::put`] or given back; `None` when all are in use. Where to
    /// begin to look is up to the caller: workers that begin elsewhere do not wait for each other.
    pub fn claim(&self, hint: u32) -> Option<Place<'_>> {
        let count = self.stripes.len();
        (0..count).find_map(|n| {
            let at = (hint as usize + n) % count;
            let stripe = &self.stripes[at];
            if stripe.left.load(Ordering::Relaxed) == 0 {
                return None;
            }
            let mut records = lock(&stripe.records);
            let index = if records.free > 0 {
                let index = records.free - 1;
                records.free = records.words[index as usize][1];
                // The next claim need not wait for it.
                vector::prefetch_write_at(&records.words, (records.free as usize).wrapping_sub(1));
                index
            } else if (records.fresh as usize) < records.words.len() {
                records.fresh += 1;
                records.fresh - 1
            } else {
                return None;
            };
            add(&stripe.left, u32::MAX);
            let id = SessionId(index * count as u32 + at as u32);
            Some(Place { records, left: &stripe.left, index: index as usize, id })
        })
    }

    /// Locks a place.
    pub fn lock(&self, id: SessionId) -> Place<'_> {
        let count = self.stripes.len() as u32;
        let stripe = &self.stripes[(id.0 % count) as usize];
        let index = (id.0 / count) as usize;
        Place { records: lock(&stripe.records), left: &stripe.left, index, id }
    }

    /// Every place that was ever used, one after the other; sessions come and go meanwhile.
    pub fn ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        let count = self.stripes.len() as u32;
        self.stripes.iter().zip(0..).flat_map(move |(stripe, at)| {
            let used = lock(&stripe.records).fresh;
            (0..used).map(move |index| SessionId(index * count + at))
        })
    }
}

/// A locked place: a session's record, or none.
pub struct Place<'a> {
    records: MutexGuard<'a, Records>,
    left: &'a AtomicU32,
    index: usize,
    id: SessionId,
}

impl Place<'_> {
    /// Where to begin to look for the next place, so as to stay near this one.
    pub fn hint(&self, sessions: &Sessions) -> u32 {
        self.id.0 % sessions.stripes.len() as u32
    }

    /// Which place this is.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The record of the session that is here.
    pub fn get(&self) -> Option<Record> {
        Record::from_words(self.records.words.get(self.index)?)
    }

    /// Asks for the record, to be read soon.
    pub fn prefetch(&self) {
        vector::prefetch_read_at(&self.records.words, self.index);
    }

    /// Keeps a session's record here.
    pub fn put(&mut self, record: &Record) {
        if let Some(words) = self.records.words.get_mut(self.index) {
            *words = record.words();
        }
    }

    /// Gives the place back, with the record in it. It must be in use.
    pub fn free(&mut self) {
        let next = self.records.free;
        if let Some(words) = self.records.words.get_mut(self.index) {
            *words = Words::default();
            words[1] = next;
            self.records.free = self.index as u32 + 1;
            add(self.left, 1);
        }
    }
}

/// Adds under the stripe's lock, so that nobody else writes.
fn add(left: &AtomicU32, n: u32) {
    left.store(left.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

#[cfg(test)]
#[cfg(shuttle)]
mod interleavings;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    pub(in crate::flow) fn record(n: u32) -> Record {
        let denials = [None, Some(Denial::Egress), Some(Denial::Ingress), Some(Denial::NoRoute)];
        Record {
            entries: (EntryId(n), EntryId(!n & ENTRY)),
            payer: [None, Some(Payer::Caller), Some(Payer::Called)][n as usize % 3],
            is_v4: n & 1 == 1,
            ingress: PortId(n & (PortId::MAX - 1)),
            server: (n & 2 == 2).then_some(ServerId(n)),
            translated: n & 4 == 4,
            generation: Generation(n.rotate_left(5)),
            identities: (IdentityId(n ^ 7), IdentityId(n ^ 9)),
            denied: denials[n as usize / 8 % 4],
            track: Track::from_bits((n >> 5) as u8 & 15),
            began: Instant::from_micros(u64::from(n) << BEGAN_SHIFT),
        }
    }

    proptest! {
        #[test]
        fn a_record_is_kept_whole(n in 0..u32::MAX) {
            prop_assert_eq!(Record::from_words(&record(n).words()), Some(record(n)));
        }

        #[test]
        fn places_are_given_once_and_again(
            capacity in 1usize..400, ops in proptest::collection::vec((any::<bool>(), any::<u32>()), 1..900),
        ) {
            let sessions = Sessions::new(capacity);
            let mut held = BTreeMap::new();
            for (take, n) in ops {
                if take {
                    match sessions.claim(n) {
                        Some(mut place) => {
                            prop_assert!(held.insert(place.id().0, n).is_none(), "given twice");
                            prop_assert_eq!(place.get(), None);
                            place.put(&record(n >> 1));
                        }
                        None => prop_assert_eq!(held.len(), capacity, "full too early"),
                    }
                } else if let Some((&id, _)) = held.range(n % capacity as u32..).next() {
                    let kept = held.remove(&id).map(|n| record(n >> 1));
                    let mut place = sessions.lock(SessionId(id));
                    prop_assert_eq!(place.get(), kept);
                    place.free();
                }
                prop_assert_eq!(sessions.live(), held.len());
            }
            let found: Vec<u32> = sessions.ids().filter(|id| sessions.lock(*id).get().is_some()).map(|id| id.0).collect();
            prop_assert_eq!(found.len(), held.len());
            prop_assert!(found.iter().all(|id| held.contains_key(id)));
        }
    }
}
