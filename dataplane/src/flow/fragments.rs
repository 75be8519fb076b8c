//! Fragments on their way: which packet each belongs to, and those that wait for its first.
//!
//! ```text
//!   first  ─▶ its ports are noted ─▶ goes on, and after it what waited
//!   later  ─▶ ports known? ─┬─ goes on with them
//!                           └─ waits: bounded in number and time
//! ```
//!
//! Packets are not put together here. Ports stand in the first fragment only, so the others follow it by what was
//! noted of it. Bytes that come twice are dropped; if they come twice in part, so is all that is still to come of
//! the packet (RFC 5722; RFC 8200, 4.5), as nobody can tell which of them the receiver would believe.

use super::Scope;
use crate::{
    buf::Frame,
    id::PortId,
    time::{Duration, Instant},
    verdict::DropReason,
    wire::{
        Icmp, Packet, Proto,
        fragment::{Fragment, Span},
    },
};
use foldhash::HashMap;
use std::{
    cmp::Reverse,
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How much is remembered of packets that come in fragments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FragmentLimits {
    /// Packets whose fragments are followed at one time. One port, or all uplinks together, may have a quarter of
    /// them; beyond that, the oldest of the same port is given up. 1024.
    pub packets: usize,
    /// Fragments that wait for the first of their packet, likewise, and at most a quarter of the frame buffers. 256.
    pub held: usize,
    /// How long after its first sign a packet is given up. 30 s (RFC 791 allows 15 s, RFC 8200 60 s).
    pub timeout: Duration,
}

impl Default for FragmentLimits {
    fn default() -> Self {
        Self { packets: 1024, held: 256, timeout: Duration::from_secs(30) }
    }
}

/// Separate pieces of a packet that are remembered; more cannot be told apart from an attack.
const PIECES: usize = 32;

/// Which packet a fragment is of (RFC 791, 3.2; RFC 8200, 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketKey {
    /// Where it comes in.
    pub scope: Scope,
    /// From where.
    pub src: IpAddr,
    /// To where.
    pub dst: IpAddr,
    /// The identification that its sender gave it.
    pub id: u32,
    /// Its protocol; 0 for IPv6, where it is no part of the identification.
    pub proto: u8,
}

impl PacketKey {
    /// The key of a fragment that came in at `scope`.
    pub fn of(packet: &Packet, fragment: &Fragment, scope: Scope) -> Self {
        let proto = if packet.src.is_ipv4() { packet.proto.0 } else { 0 };
        Self { scope, src: packet.src, dst: packet.dst, id: fragment.id, proto }
    }
}

/// What a first fragment says of the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// Later fragments name what follows their fragment header, which may be options (RFC 8200, 4.5).
    proto: Proto,
    sport: u16,
    dport: u16,
    icmp: Icmp,
}

impl Ports {
    /// Those of a first fragment.
    pub fn of(first: &Packet) -> Self {
        Self { proto: first.proto, sport: first.sport, dport: first.dport, icmp: first.icmp }
    }

    /// Gives them to a later fragment.
    pub fn apply(self, later: &mut Packet) {
        (later.proto, later.icmp) = (self.proto, self.icmp);
        (later.sport, later.dport) = (self.sport, self.dport);
    }
}

/// A fragment that waits for the first of its packet.
#[derive(Debug)]
pub struct Waiting {
    /// Its frame.
    pub frame: Frame,
    /// The same, parsed.
    pub packet: Packet,
    /// Where it came in.
    pub port: PortId,
}

/// What becomes of a fragment.
#[derive(Debug)]
pub enum Offered {
    /// It goes on, and after it those that waited for it.
    Goes(Waiting, Vec<Waiting>),
    /// It waits.
    Waits,
    /// It is dropped.
    Refused(Waiting, DropReason),
}

/// The packets whose fragments are on their way.
#[derive(Debug)]
pub struct Fragments {
    followed: Mutex<Followed>,
    limits: FragmentLimits,
    /// The same as in `followed`, to be read without the lock.
    packets: AtomicUsize,
    held: AtomicUsize,
}

#[derive(Debug, Default)]
struct Followed {
    scopes: HashMap<Scope, Queue>,
    packets: usize,
    held: usize,
}

/// The packets that come in at one scope.
#[derive(Debug, Default)]
struct Queue {
    /// In the order in which they were first seen.
    packets: VecDeque<Parts>,
    held: usize,
}

/// A packet of which fragments were seen.
#[derive(Debug)]
struct Parts {
    key: PacketKey,
    since: Instant,
    ports: Option<Ports>,
    /// It is given up: nothing more of it goes on.
    spoiled: bool,
    /// What was seen of it, in order, apart from one another.
    seen: Vec<Span>,
    /// Its length, once its last fragment was seen.
    len: Option<u16>,
    waiting: Vec<Waiting>,
}

impl Fragments {
    /// Follows as many packets as `limits` say.
    pub fn new(limits: FragmentLimits) -> Self {
        Self { followed: Mutex::default(), limits, packets: AtomicUsize::new(0), held: AtomicUsize::new(0) }
    }

    /// Fragments that wait now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether there is nothing to follow or to give up.
    pub fn is_idle(&self) -> bool {
        self.packets.load(Ordering::Relaxed) == 0
    }

    /// Takes note of a fragment; of a first one, with its `ports`. Those that waited in vain, and are given up now,
    /// come to `vain`.
    pub fn offer(
        &self,
        key: PacketKey,
        fragment: &Fragment,
        ports: Option<Ports>,
        offered: Waiting,
        now: Instant,
        vain: &mut Vec<Waiting>,
    ) -> Offered {
        let mut followed = self.lock();
        followed.expire(key.scope, now, self.limits.timeout, vain);
        let known = followed.scopes.get(&key.scope).is_some_and(|q| q.packets.iter().any(|p| p.key == key));
        if !known {
            followed.make_room(key.scope, self.limits.packets, vain);
            followed.packets += 1;
            followed.scopes.entry(key.scope).or_default().packets.push_back(Parts::new(key, now));
        }
        let offered = followed.take(key, fragment, ports, offered, self.limits.held, vain);
        self.publish(&followed);
        offered
    }

    /// Gives up packets whose time is up, and those that came in at `gone`; what waited comes to `vain`.
    pub fn sweep(&self, now: Instant, gone: Option<Scope>, vain: &mut Vec<Waiting>) {
        let mut followed = self.lock();
        let scopes: Vec<Scope> = followed.scopes.keys().copied().collect();
        for scope in scopes {
            followed.expire(scope, now, self.limits.timeout, vain);
        }
        while let Some(scope) = gone
            && followed.give_up_oldest(scope, vain)
        {}
        self.publish(&followed);
    }

    fn publish(&self, followed: &Followed) {
        self.packets.store(followed.packets, Ordering::Relaxed);
        self.held.store(followed.held, Ordering::Relaxed);
    }

    /// A panic elsewhere leaves the lock's contents whole.
    fn lock(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Followed {
    /// Takes note of a fragment of a packet that is followed.
    fn take(
        &mut self,
        key: PacketKey,
        fragment: &Fragment,
        ports: Option<Ports>,
        offered: Waiting,
        most_held: usize,
        vain: &mut Vec<Waiting>,
    ) -> Offered {
        let Some(queue) = self.scopes.get_mut(&key.scope) else {
            return Offered::Refused(offered, DropReason::FragmentsFull);
        };
        let Some(at) = queue.packets.iter().position(|p| p.key == key) else {
            return Offered::Refused(offered, DropReason::FragmentsFull);
        };
        let must_wait = queue.packets[at].ports.or(ports).is_none();
        let full = queue.held >= share(most_held);
        // Asked before it is noted as seen: sent again, it may find room.
        if must_wait && (full || (self.held >= most_held && !self.make_way(key.scope, vain))) {
            return Offered::Refused(offered, DropReason::FragmentsFull);
        }
        let Some(queue) = self.scopes.get_mut(&key.scope) else {
            return Offered::Refused(offered, DropReason::FragmentsFull);
        };
        let parts = &mut queue.packets[at];
        let seen = parts.see(fragment);
        parts.ports = parts.ports.or(ports);
        if must_wait && seen.is_ok() {
            self.held += 1;
            queue.held += 1;
            parts.waiting.push(offered);
            return Offered::Waits;
        }
        let waiting =
            if parts.spoiled || seen.is_ok() { std::mem::take(&mut parts.waiting) } else { Vec::new() };
        let known = parts.ports;
        let complete = parts.is_complete();
        queue.held -= waiting.len();
        self.held -= waiting.len();
        if complete {
            queue.packets.remove(at);
            self.forget(key.scope);
        }
        match (seen, known) {
            (Ok(()), Some(known)) => {
                let follow = |mut later: Waiting| {
                    known.apply(&mut later.packet);
                    later
                };
                let offered = if ports.is_some() { offered } else { follow(offered) };
                Offered::Goes(offered, waiting.into_iter().map(follow).collect())
            }
            (seen, _) => {
                // What waits of a packet that is given up waits in vain.
                vain.extend(waiting);
                Offered::Refused(offered, seen.err().unwrap_or(DropReason::FragmentsFull))
            }
        }
    }

    fn expire(&mut self, scope: Scope, now: Instant, timeout: Duration, vain: &mut Vec<Waiting>) {
        let old = |queue: &Queue| queue.packets.front().is_some_and(|p| now.since(p.since) >= timeout);
        while self.scopes.get(&scope).is_some_and(old) {
            self.give_up_oldest(scope, vain);
        }
    }

    /// Gives up the oldest packet of a scope that has its share, or of the one that has the most.
    fn make_room(&mut self, scope: Scope, most: usize, vain: &mut Vec<Waiting>) {
        let count = self.scopes.get(&scope).map_or(0, |queue| queue.packets.len());
        if count >= share(most) {
            self.give_up_oldest(scope, vain);
        } else if self.packets >= most
            && let Some(fullest) = self.fullest(|queue| queue.packets.len())
        {
            self.give_up_oldest(fullest, vain);
        }
    }

    /// Gives up the oldest packet with waiting fragments of the scope that has the most of them, unless that is
    /// `scope`.
    fn make_way(&mut self, scope: Scope, vain: &mut Vec<Waiting>) -> bool {
        let fullest = self.fullest(|queue| queue.held).filter(|fullest| *fullest != scope);
        let Some(queue) = fullest.and_then(|fullest| self.scopes.get_mut(&fullest)) else { return false };
        let Some(oldest) = queue.packets.iter_mut().find(|p| !p.waiting.is_empty()) else { return false };
        let waiting = std::mem::take(&mut oldest.waiting);
        oldest.spoiled = true;
        queue.held -= waiting.len();
        self.held -= waiting.len();
        vain.extend(waiting);
        true
    }

    /// The scope that has the most. Of several, the one that has had it longest: which comes first in a map is
    /// chance.
    fn fullest(&self, count: impl Fn(&Queue) -> usize) -> Option<Scope> {
        let since = |queue: &Queue| queue.packets.front().map(|p| p.since);
        let rank =
            |(scope, queue): &(&Scope, &Queue)| (count(queue), Reverse(since(queue)), Reverse(**scope));
        self.scopes.iter().max_by_key(rank).map(|(scope, _)| *scope)
    }

    /// Whether there was one.
    fn give_up_oldest(&mut self, scope: Scope, vain: &mut Vec<Waiting>) -> bool {
        let Some(queue) = self.scopes.get_mut(&scope) else { return false };
        if let Some(parts) = queue.packets.pop_front() {
            queue.held -= parts.waiting.len();
            self.held -= parts.waiting.len();
            vain.extend(parts.waiting);
        }
        self.forget(scope);
        true
    }

    /// A packet of the scope is followed no more.
    fn forget(&mut self, scope: Scope) {
        self.packets -= 1;
        if self.scopes.get(&scope).is_some_and(|queue| queue.packets.is_empty()) {
            self.scopes.remove(&scope);
        }
    }
}

impl Parts {
    fn new(key: PacketKey, since: Instant) -> Self {
        let (ports, len) = (None, None);
        Self { key, since, ports, spoiled: false, seen: Vec::new(), len, waiting: Vec::new() }
    }

    /// Takes note of what a fragment holds.
    fn see(&mut self, fragment: &Fragment) -> Result<(), DropReason> {
        if self.spoiled {
            return Err(DropReason::FragmentOverlap);
        }
        let new = fragment.bytes;
        // The first piece that does not lie before it.
        let at = self.seen.partition_point(|old| old.to <= new.from);
        let apart = self.seen.get(at).is_none_or(|next| new.to <= next.from);
        let end = self.seen.last().map_or(0, |last| last.to).max(new.to);
        let fits = self.len.is_none_or(|len| end <= len && (!fragment.is_last || len == new.to))
            && (!fragment.is_last || new.to == end);
        if !apart {
            // The same once more harms nobody.
            self.spoiled = !self.seen[at].holds(new) || !fits;
            return Err(DropReason::FragmentOverlap);
        }
        if !fits {
            self.spoiled = true;
            return Err(DropReason::FragmentOverlap);
        }
        if fragment.is_last {
            self.len = Some(new.to);
        }
        let follows = at > 0 && self.seen[at - 1].to == new.from;
        let precedes = self.seen.get(at).is_some_and(|next| next.from == new.to);
        match (follows, precedes) {
            (true, true) => self.seen[at - 1].to = self.seen.remove(at).to,
            (true, false) => self.seen[at - 1].to = new.to,
            (false, true) => self.seen[at].from = new.from,
            (false, false) if self.seen.len() >= PIECES => return Err(DropReason::FragmentsFull),
            (false, false) => self.seen.insert(at, new),
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        let len = self.len;
        matches!(*self.seen, [Span { from: 0, to }] if len == Some(to))
    }
}

impl Span {
    fn holds(self, other: Self) -> bool {
        self.from <= other.from && other.to <= self.to
    }
}

/// What one port may have of all.
fn share(all: usize) -> usize {
    (all / 4).max(1)
}
