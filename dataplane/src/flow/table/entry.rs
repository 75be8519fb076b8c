//! What an entry of the flow table says, and how its words say it.

use crate::{
    flow::SessionId,
    id::Generation,
    pages::Line,
    sync::{AtomicU64, Ordering, fence},
    time::{Duration, Instant},
};

/// What an entry says beside its rewrite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Where packets go: an adjacency, 24 bits.
    pub adjacency: u32,
    /// What is taken off the TTL, at most 3.
    pub hops: u8,
    /// Packets stay in their segment: the source MAC is kept.
    pub switched: bool,
    /// The firewall denies the connection now; its packets take the slow path and are dropped.
    pub denied: bool,
    /// TCP, and its handshake is not complete: packets of who opened it take the slow path until then.
    pub opening: bool,
    /// The entry of those who opened the connection; else of the answers.
    pub forward: bool,
    /// The snapshot this was computed from, or last found to agree with.
    pub generation: Generation,
    /// The session: fewer than 2^28.
    pub session: SessionId,
    /// Where hits are counted, 20 bits.
    pub tally: u32,
}
/// Coarse time in entries: 65.536 ms a tick, 24 bits, comparable over six days.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tick(pub(super) u32);

impl Tick {
    /// Bits of microseconds that a tick leaves out.
    pub const SHIFT: u32 = 16;
    const MASK: u64 = 0xff_ffff;

    /// The longest silence that is waited for: six days can be told apart, less one for the sweep to come by.
    pub const LONGEST: Duration = Duration::from_secs(5 * 86_400);

    /// The tick an instant lies in.
    pub fn of(now: Instant) -> Self {
        Self((now.micros() >> Self::SHIFT & Self::MASK) as u32)
    }

    /// As 24 bits.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// From 24 bits.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & Self::MASK as u32)
    }

    /// Time from this tick to a later one.
    pub fn until(self, later: Self) -> Duration {
        let ticks = u64::from(later.0.wrapping_sub(self.0)) & Self::MASK;
        // A tick stored by another worker may be a little ahead.
        let ticks = if ticks > Self::MASK / 2 { 0 } else { ticks };
        Duration::from_micros(ticks << Self::SHIFT)
    }
}

/// What an entry has carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// When it was last used.
    pub last: Tick,
    /// Packets.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
}
/// An entry opened for a packet of its key.
///
/// What it says beside its rewrite is certain only once [`is_unchanged`](Self::is_unchanged) or
/// [`rewrite`](Self::rewrite) has agreed: so its words need not all be at hand at once.
#[derive(Clone, Copy, Debug)]
pub struct Open<'a, const LINES: usize, const REWRITE: usize> {
    pub(super) lines: &'a [Line; LINES],
    pub(super) output: u64,
    pub(super) link: u64,
}

/// An IPv4 entry.
pub type OpenV4<'a> = Open<'a, 1, 2>;
/// An IPv6 entry.
pub type OpenV6<'a> = Open<'a, 2, 5>;

impl<const LINES: usize, const REWRITE: usize> Open<'_, LINES, REWRITE> {
    const OUTPUT: usize = if LINES == 1 { 4 } else { 5 };
    const REWRITE: usize = if LINES == 1 { 2 } else { 8 };
    const LINK: usize = Self::OUTPUT + 1;
    const USED: usize = Self::OUTPUT + 2;
    const BYTES: usize = if LINES == 1 { 7 } else { 13 };

    /// Whether nobody has changed the entry since it was opened.
    #[inline(always)]
    pub fn is_unchanged(&self) -> bool {
        fence(Ordering::Acquire);
        self.word(Self::LINK).load(Ordering::Relaxed) == self.link
    }

    /// The header edit, as [`crate::rewrite`] applies it, if nobody has changed the entry since it was opened.
    #[inline(always)]
    pub fn rewrite(&self) -> Option<[u64; REWRITE]> {
        let words = std::array::from_fn(|n| self.word(Self::REWRITE + n).load(Ordering::Relaxed));
        self.is_unchanged().then_some(words)
    }

    #[inline(always)]
    fn word(&self, at: usize) -> &AtomicU64 {
        &self.lines[at / 8].0[at % 8]
    }

    /// Whether it agrees with the snapshot of this generation, and is neither denied nor just opening.
    #[inline(always)]
    pub fn stands(&self, generation: Generation) -> bool {
        (self.output ^ u64::from(generation.0) << 32) & (DENIED | OPENING | !0xffff_ffff) == 0
    }

    /// The snapshot it agrees with.
    #[inline(always)]
    pub fn generation(&self) -> Generation {
        Generation((self.output >> 32) as u32)
    }

    /// Where packets go.
    #[inline(always)]
    pub fn adjacency(&self) -> u32 {
        (self.output >> 8) as u32 & 0xff_ffff
    }

    /// What is taken off the TTL.
    #[inline(always)]
    pub fn hops(&self) -> u8 {
        self.output as u8 & 3
    }

    /// Whether packets keep their source MAC.
    #[inline(always)]
    pub fn is_switched(&self) -> bool {
        self.output & SWITCHED != 0
    }

    /// Whether the slow path has a say in every packet: the firewall denies the connection now, or it is opening.
    #[inline(always)]
    pub fn is_slow(&self) -> bool {
        self.output & (DENIED | OPENING) != 0
    }

    /// Where packets are counted.
    #[inline(always)]
    pub fn tally(&self) -> u32 {
        (self.link >> 44) as u32
    }

    /// Counts a packet.
    #[inline(always)]
    pub fn touch(&self, now: Tick, bytes: u64) {
        let used = self.word(Self::USED);
        let packets = (used.load(Ordering::Relaxed) + 1) & PACKETS;
        used.store(u64::from(now.0) << 40 | packets, Ordering::Relaxed);
        let sum = self.word(Self::BYTES);
        sum.store(sum.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
    }

    /// Marks the entry as agreeing with `generation`, unless somebody changed it since it was opened.
    #[inline]
    pub fn stamp(&self, generation: Generation) {
        let new = self.output & 0xffff_ffff | u64::from(generation.0) << 32;
        let word = self.word(Self::OUTPUT);
        // Whoever changed it knows better.
        let _ = word.compare_exchange(self.output, new, Ordering::Relaxed, Ordering::Relaxed);
    }
}
// USED: last seen 24 | packets 40.
pub(super) const PACKETS: u64 = (1 << 40) - 1;

pub(super) fn last_used(word: u64) -> Tick {
    Tick((word >> 40) as u32)
}

// LINK: tally 20 | session 28 | version 16.
pub(super) const VERSION: u64 = 0xffff;
pub(super) const VERSION_ONE: u64 = 1;

/// In place of the session: the entry was removed, or is not written yet.
const NOBODY: u64 = 0xfff_ffff << 16;

/// The link of an entry that nobody may find, and no reader of which waits.
pub(super) fn hidden(link: u64) -> u64 {
    NOBODY | link & VERSION | VERSION_ONE
}

pub(super) fn is_hidden(link: u64) -> bool {
    link & (NOBODY | VERSION_ONE) == NOBODY | VERSION_ONE
}

pub(super) fn link_word(meta: &Meta) -> u64 {
    u64::from(meta.tally & 0xf_ffff) << 44 | u64::from(meta.session.0 & 0xfff_ffff) << 16
}

// OUTPUT: generation 32 | adjacency 24 | opening 1 | forward 1 | denied 1 | switched 1 | hops 2.
pub(super) const SWITCHED: u64 = 4;
pub(super) const DENIED: u64 = 8;
pub(super) const FORWARD: u64 = 16;
pub(super) const OPENING: u64 = 32;

pub(super) fn output_word(meta: &Meta) -> u64 {
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    let flags = flag(meta.opening, OPENING)
        | flag(meta.forward, FORWARD)
        | flag(meta.denied, DENIED)
        | flag(meta.switched, SWITCHED);
    let adjacency = u64::from(meta.adjacency & 0xff_ffff) << 8;
    u64::from(meta.generation.0) << 32 | adjacency | flags | u64::from(meta.hops & 3)
}

pub(super) fn meta_from(output: u64, link: u64) -> Meta {
    Meta {
        adjacency: (output >> 8) as u32 & 0xff_ffff,
        hops: (output & 3) as u8,
        switched: output & SWITCHED != 0,
        denied: output & DENIED != 0,
        opening: output & OPENING != 0,
        forward: output & FORWARD != 0,
        generation: Generation((output >> 32) as u32),
        session: SessionId((link >> 16) as u32 & 0xfff_ffff),
        tally: (link >> 44) as u32,
    }
}
