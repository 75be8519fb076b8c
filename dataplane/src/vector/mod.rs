//! Header work for a batch at once, by whatever the processor offers.
//!
//! Three jobs of the fast path touch every packet and branch on nothing: reading the headers of plain packets
//! into keys, hashing the keys, and comparing a tag with a cache line of tags. [`Engine`] does them in
//! portable Rust, or with AVX2 and AES, or with AVX-512 and VAES; which one is chosen when the program runs.
//! All engines read the same keys and accept the same packets; hashes are an engine's own.
//!
//! *Plain* is what the fast path may finish without a second look: Ethernet without VLAN tag; IPv4 without
//! options, not a fragment, with a correct header checksum, or IPv6 without extension headers; TCP without
//! SYN, FIN and RST, or UDP; every length consistent with the frame's. [`crate::wire::parse`] is the oracle.
//!
//! What it costs, in nanoseconds a packet of a batch of 64 in the nearest cache (AMD Zen 5):
//!
//! | | IPv4: keys and hashes | IPv6 | tags |
//! | --- | --- | --- | --- |
//! | portable | 5.6 | 5.0 | 5.3 |
//! | AVX2 | 1.7 | 3.8 | 0.7 |
//! | AVX-512 | 0.8 | 1.1 | 0.6 |

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod prefetch;
#[cfg(target_arch = "x86_64")]
mod sse2;
mod steps;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;

pub use prefetch::{prefetch_read, prefetch_read_at, prefetch_write, prefetch_write_at};

use crate::buf::HEADER;

/// Packets a scan takes at the most: one bit each in its answer.
pub const MOST: usize = 64;

/// The first bytes of a frame; what lies beyond its end is anything.
pub type Header = [u8; HEADER];

/// An IPv4 key: `protocol 8 | origin 24 | source 32`, `destination 32 | ports 16 + 16`. Addresses and ports
/// stand in memory as they do on the wire, the first word in the low half.
pub type KeyV4 = [u64; 2];

/// An IPv6 key: source 128, destination 128, `protocol 8 | origin 24 | ports 16 + 16`.
pub type KeyV6 = [u64; 5];

/// 31 tags, and the count of entries that found no room there, as 32 lanes of 16 bits.
pub use crate::pages::Line;

/// Tags in a line.
pub const LANES: usize = 31;

/// Which instructions an engine uses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// None in particular.
    Portable,
    /// AVX2 and AES-NI.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL, VBMI2) and VAES.
    Avx512,
}

impl Isa {
    /// Every one there is, slowest first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        Kind::detect(self).is_some()
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
        }
    }
}

/// A batch of packets to be read: `headers[i]` of a frame of `lens[i]` bytes, to be keyed with `origins[i]`,
/// which has its low 8 bits free. All three are of one length, at most [`MOST`].
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// The frames' first bytes.
    pub headers: &'a [&'a Header],
    /// The frames' lengths.
    pub lens: &'a [u16],
    /// Where they came in: 24 bits, shifted up by 8.
    pub origins: &'a [u32],
}

impl<'a> Scan<'a> {
    /// This scan and its outputs, all cut to the length of the shortest, and to [`MOST`].
    fn cut<'k, K>(self, keys: &'k mut [K], hashes: &'k mut [u64]) -> (Self, &'k mut [K], &'k mut [u64]) {
        let inputs = self.headers.len().min(self.lens.len()).min(self.origins.len());
        let n = inputs.min(keys.len()).min(hashes.len()).min(MOST);
        let scan = Self { headers: &self.headers[..n], lens: &self.lens[..n], origins: &self.origins[..n] };
        (scan, &mut keys[..n], &mut hashes[..n])
    }
}

/// What keeps hashes from being foreseen.
type Seed = [u64; 4];

/// An [`Isa`] that this processor is known to have.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

impl Kind {
    fn detect(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Portable => Some(Self::Portable),
            // Words that are watched can only be read one by one.
            _ if cfg!(shuttle) => None,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::Avx2::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::Avx512::detect().map(Self::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => None,
        }
    }
}

/// Does header work with one kind of instructions and one seed.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    kind: Kind,
    seed: Seed,
}

/// Calls a function of the module, or the method of the proof, that does the work.
macro_rules! dispatch {
    ($kind:expr, $call:ident($($arg:expr),*)) => {
        match $kind {
            Kind::Portable => portable::$call($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(it) => it.$call($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(it) => it.$call($($arg),*),
        }
    };
}

impl Engine {
    /// An engine that hashes with `seed`; `None` if the processor has not what it takes.
    pub fn new(isa: Isa, seed: u64) -> Option<Self> {
        Kind::detect(isa).map(|kind| Self::with(kind, seed))
    }

    /// The best engine this processor has.
    pub fn detect(seed: u64) -> Self {
        let best = Isa::ALL.into_iter().rev().find_map(Kind::detect);
        Self::with(best.unwrap_or(Kind::Portable), seed)
    }

    fn with(kind: Kind, seed: u64) -> Self {
        let mut state = seed;
        Self { kind, seed: std::array::from_fn(|_| splitmix(&mut state)) }
    }

    /// Its instructions.
    pub fn isa(&self) -> Isa {
        match self.kind {
            Kind::Portable => Isa::Portable,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => Isa::Avx512,
        }
    }

    /// Hashes an IPv4 key as [`Engine::scan_v4`] does. Each of the 64 bits is as good as any other, so that what
    /// should have nothing to do with each other, such as buckets and tags, is best made of different ones.
    pub fn hash_v4(&self, key: &KeyV4) -> u64 {
        dispatch!(self.kind, hash_v4(&self.seed, key))
    }

    /// Hashes an IPv6 key as [`Engine::scan_v6`] does.
    pub fn hash_v6(&self, key: &KeyV6) -> u64 {
        dispatch!(self.kind, hash_v6(&self.seed, key))
    }

    /// Reads IPv4 packets: keys and hashes of those that are plain, which the answer has a bit for. What
    /// stands for others is anything. Reads no further than the shortest of the slices, nor than [`MOST`].
    pub fn scan_v4(&self, scan: &Scan<'_>, keys: &mut [KeyV4], hashes: &mut [u64]) -> u64 {
        let (scan, keys, hashes) = scan.cut(keys, hashes);
        dispatch!(self.kind, scan_v4(&self.seed, &scan, keys, hashes))
    }

    /// The same for IPv6.
    pub fn scan_v6(&self, scan: &Scan<'_>, keys: &mut [KeyV6], hashes: &mut [u64]) -> u64 {
        let (scan, keys, hashes) = scan.cut(keys, hashes);
        dispatch!(self.kind, scan_v6(&self.seed, &scan, keys, hashes))
    }

    /// Compares tags with lines: bit `n` of `masks[i]` says that lane `n` of `lines[at[i]]` is `tags[i]`; only
    /// the [`LANES`] lanes of tags are compared. An index past the end matches nothing. Goes no further than
    /// the shortest of `at`, `tags` and `masks`. Other threads may be storing to the lines: every lane is
    /// read whole, but lanes may be of different times.
    pub fn match_tags(&self, lines: &[Line], at: &[u32], tags: &[u16], masks: &mut [u32]) {
        dispatch!(self.kind, match_tags(lines, at, tags, masks));
    }
}

/// The lanes of a line that hold `tag`, for one line at a time.
#[inline]
pub fn lanes(line: &Line, tag: u16) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    return sse2::lanes(line, tag);
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    return portable::lanes(line, tag);
}

/// Spreads one seed over several (splitmix64).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
