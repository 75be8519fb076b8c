//! Eight IPv4 packets at a time, with AVX2 and AES-NI; IPv6 one at a time.
//!
//! What [`super::avx512`] does, in registers of half the width: eight headers of eight dwords become eight
//! columns, are validated there, and become eight keys. The hash is the same.

#![allow(unsafe_code, reason = "vector loads and stores, and calls that need processor features")]

use super::{Header, KeyV4, KeyV6, LANES, Line, Scan, Seed, portable, steps::steps};
use std::arch::x86_64::*;

/// Packets a step reads.
const STEP: usize = 8;

/// Which packet stands in which lane of a column.
const ORDER: [u32; STEP] = [0, 2, 4, 6, 1, 3, 5, 7];

/// In which lane of a column each packet stands.
const LANE_OF: [u32; STEP] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Proof that the processor has what this module uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The proof, if there is one.
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("aes")).then_some(Self(()))
    }

    pub(super) fn hash_v4(self, seed: &Seed, key: &KeyV4) -> u64 {
        let [a, b] = *key;
        // SAFETY: `self` proves that the processor has the features.
        unsafe { hash_v4(seed, a, b) }
    }

    pub(super) fn hash_v6(self, seed: &Seed, key: &KeyV6) -> u64 {
        let [a, b, c, d, e] = *key;
        // SAFETY: `self` proves that the processor has the features.
        unsafe { hash_v6(seed, a, b, c, d, e) }
    }

    pub(super) fn scan_v4(self, seed: &Seed, scan: &Scan<'_>, keys: &mut [KeyV4], hashes: &mut [u64]) -> u64 {
        // SAFETY: `self` proves that the processor has the features.
        unsafe { scan_v4(seed, scan, keys, hashes) }
    }

    pub(super) fn scan_v6(self, seed: &Seed, scan: &Scan<'_>, keys: &mut [KeyV6], hashes: &mut [u64]) -> u64 {
        // SAFETY: `self` proves that the processor has the features.
        unsafe { scan_v6(seed, scan, keys, hashes) }
    }

    pub(super) fn match_tags(self, lines: &[Line], at: &[u32], tags: &[u16], masks: &mut [u32]) {
        // SAFETY: `self` proves that the processor has the features.
        unsafe { match_tags(lines, at, tags, masks) }
    }
}

#[target_feature(enable = "avx2,aes")]
fn scan_v4(seed: &Seed, scan: &Scan<'_>, keys: &mut [KeyV4], hashes: &mut [u64]) -> u64 {
    steps(scan, keys, hashes, [0; 2], |headers, lens, origins, keys, hashes| {
        u64::from(step_v4(seed, headers, lens, origins, keys, hashes))
    })
}

#[inline]
#[target_feature(enable = "avx2,aes")]
fn step_v4(
    seed: &Seed,
    headers: &[&Header; STEP],
    lens: &[u16; STEP],
    origins: &[u32; STEP],
    keys: &mut [KeyV4; STEP],
    hashes: &mut [u64; STEP],
) -> u8 {
    let c = columns(headers);
    let order = load_u32(&ORDER);
    let len = _mm256_permutevar8x32_epi32(load_u16(lens), order);
    let origin = _mm256_permutevar8x32_epi32(load_u32(origins), order);
    let all = |x: u32| _mm256_set1_epi32(x as i32);
    let and = |a, b| _mm256_and_si256(a, b);
    let equal = |a, b| _mm256_cmpeq_epi32(a, b);
    // All the numbers that are compared are far below the sign bit.
    let above = |a, b| _mm256_cmpgt_epi32(a, b);

    // Version, header length and EtherType; neither "more fragments" nor a fragment's offset.
    let mut plain = equal(and(c[0], all(0x00ff_ffff)), all(0x0045_0008));
    plain = and(plain, equal(and(c[2], all(0xff3f)), all(0)));
    // Total length and UDP length, in the processor's byte order.
    let swap = |x, bytes: u32| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|n| (0x8080_0000 + bytes + n * 0x0404) as i32);
        _mm256_shuffle_epi8(x, _mm256_set_epi32(d, c, b, a, d, c, b, a))
    };
    let (total, udp_length) = (swap(c[1], 0x0001), swap(c[6], 0x0203));
    let mut fails = above(_mm256_add_epi32(total, all(14)), len);

    let proto = _mm256_srli_epi32::<24>(c[2]);
    let tcp = equal(proto, all(6));
    plain = and(plain, _mm256_or_si256(tcp, equal(proto, all(17))));
    let tcp_length = and(_mm256_srli_epi32::<18>(c[7]), all(0x3c));
    let length = _mm256_blendv_epi8(udp_length, tcp_length, tcp);
    let least = _mm256_blendv_epi8(all(8), all(20), tcp);
    fails = _mm256_or_si256(fails, above(least, length));
    fails = _mm256_or_si256(fails, above(_mm256_add_epi32(length, all(20)), total));
    // FIN, SYN, RST: a number above zero, as these bits are below the sign.
    let opens_or_closes = and(and(c[7], all(0x0700_0000)), tcp);
    fails = _mm256_or_si256(fails, above(opens_or_closes, all(0)));

    // Ten words; the first and the last share a dword. Their sum is at most ten times 0xffff, so that folded
    // once it is 0xffff only if it is a multiple of that.
    let (mut low, mut high) = (all(0), all(0));
    for dwords in [_mm256_blend_epi16::<0xaa>(c[5], c[0]), c[1], c[2], c[3], c[4]] {
        low = _mm256_add_epi32(low, and(dwords, all(0xffff)));
        high = _mm256_add_epi32(high, _mm256_srli_epi32::<16>(dwords));
    }
    let sum = _mm256_add_epi32(low, high);
    let sum = _mm256_add_epi32(and(sum, all(0xffff)), _mm256_srli_epi32::<16>(sum));
    plain = and(plain, equal(sum, all(0xffff)));
    let plain = _mm256_andnot_si256(fails, plain);

    // The dwords of the keys, and back to one packet after the other.
    let join = |high, low| _mm256_or_si256(_mm256_slli_epi32::<16>(high), _mm256_srli_epi32::<16>(low));
    let two = quarter(_mm256_or_si256(proto, origin), join(c[4], c[3]), join(c[5], c[4]), join(c[6], c[5]));
    let (s0, s1) = seeds(seed);
    let (key_pairs, _) = keys.as_chunks_mut::<2>();
    let (hash_pairs, _) = hashes.as_chunks_mut::<2>();
    for ((keys, hashes), two) in key_pairs.iter_mut().zip(hash_pairs).zip(two) {
        store_keys(keys, two);
        let low = rounds_v4(_mm256_castsi256_si128(two), s0, s1);
        let high = rounds_v4(_mm256_extracti128_si256::<1>(two), s0, s1);
        *hashes = [_mm_cvtsi128_si64(low) as u64, _mm_cvtsi128_si64(high) as u64];
    }
    let plain = _mm256_permutevar8x32_epi32(plain, load_u32(&LANE_OF));
    _mm256_movemask_ps(_mm256_castsi256_ps(plain)) as u8
}

/// The dwords at 12, 16 ... 36 and at 44 of each header, a register each, packets in the order of [`ORDER`].
#[inline]
#[target_feature(enable = "avx2")]
fn columns(headers: &[&Header; STEP]) -> [__m256i; 8] {
    let r = ORDER.map(|n| row_v4(headers[n as usize]));
    let (a, b) = (quarter(r[0], r[1], r[2], r[3]), quarter(r[4], r[5], r[6], r[7]));
    let even = |n: usize| _mm256_permute2x128_si256::<0x20>(a[n], b[n]);
    let odd = |n: usize| _mm256_permute2x128_si256::<0x31>(a[n], b[n]);
    [even(0), even(1), even(2), even(3), odd(0), odd(1), odd(2), odd(3)]
}

/// Transposes the 4-by-4 dwords in each 128-bit lane.
#[inline]
#[target_feature(enable = "avx2")]
fn quarter(r0: __m256i, r1: __m256i, r2: __m256i, r3: __m256i) -> [__m256i; 4] {
    let (t0, t1) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpackhi_epi32(r0, r1));
    let (t2, t3) = (_mm256_unpacklo_epi32(r2, r3), _mm256_unpackhi_epi32(r2, r3));
    [
        _mm256_unpacklo_epi64(t0, t2),
        _mm256_unpackhi_epi64(t0, t2),
        _mm256_unpacklo_epi64(t1, t3),
        _mm256_unpackhi_epi64(t1, t3),
    ]
}

/// The dwords at 12, 16 ... 36 and at 44 of a header.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn row_v4(header: &Header) -> __m256i {
    _mm256_blend_epi32::<0x80>(load_header::<12>(header), load_header::<16>(header))
}

#[target_feature(enable = "avx2,aes")]
fn scan_v6(seed: &Seed, scan: &Scan<'_>, keys: &mut [KeyV6], hashes: &mut [u64]) -> u64 {
    let packets = scan.headers.iter().zip(scan.lens).zip(scan.origins);
    let mut plain = 0;
    for (n, (((header, len), origin), (key, hash))) in packets.zip(keys.iter_mut().zip(hashes)).enumerate() {
        plain |= u64::from(portable::is_plain_v6(header, *len)) << n;
        *key = portable::key_v6(header, *origin);
        let [a, b, c, d, e] = *key;
        *hash = hash_v6(seed, a, b, c, d, e);
    }
    plain
}

/// Three rounds: after two, structured tuples still crowd into some buckets.
///
/// Words come in registers: a key was put together word by word a moment ago, and a load of both at once would
/// wait until they have reached the cache.
#[inline(never)]
#[target_feature(enable = "avx2,aes")]
fn hash_v4(seed: &Seed, a: u64, b: u64) -> u64 {
    let (s0, s1) = seeds(seed);
    _mm_cvtsi128_si64(rounds_v4(block(a, b), s0, s1)) as u64
}

#[inline]
#[target_feature(enable = "avx2,aes")]
fn rounds_v4(key: __m128i, s0: __m128i, s1: __m128i) -> __m128i {
    let x = _mm_aesenc_si128(_mm_xor_si128(key, s0), s1);
    _mm_aesenc_si128(_mm_aesenc_si128(x, s0), s1)
}

/// Two rounds behind each address, so that no difference in one is undone by one in the next, and three at
/// the end.
#[inline]
#[target_feature(enable = "avx2,aes")]
fn hash_v6(seed: &Seed, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64 {
    let (s0, s1) = seeds(seed);
    let x = _mm_xor_si128(block(a, b), s0);
    let x = _mm_aesenc_si128(_mm_aesenc_si128(x, s1), block(c, d));
    let x = _mm_aesenc_si128(_mm_aesenc_si128(x, s0), block(e, 0));
    let x = _mm_aesenc_si128(_mm_aesenc_si128(x, s1), s0);
    _mm_cvtsi128_si64(_mm_aesenc_si128(x, s1)) as u64
}

/// The seed as two keys of rounds.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn seeds(seed: &Seed) -> (__m128i, __m128i) {
    (block(seed[0], seed[1]), block(seed[2], seed[3]))
}

#[inline]
#[target_feature(enable = "avx2")]
fn block(low: u64, high: u64) -> __m128i {
    _mm_set_epi64x(high as i64, low as i64)
}

#[target_feature(enable = "avx2")]
fn match_tags(lines: &[Line], at: &[u32], tags: &[u16], masks: &mut [u32]) {
    for ((at, tag), mask) in at.iter().zip(tags).zip(masks) {
        *mask = lines.get(*at as usize).map_or(0, |line| {
            let tag = _mm256_set1_epi16(*tag as i16);
            let [low, high] = load_line(line).map(|half| _mm256_cmpeq_epi16(half, tag));
            // Packing goes by 128-bit lanes and leaves the middle two exchanged.
            let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(low, high));
            _mm256_movemask_epi8(bytes) as u32 & ((1 << LANES) - 1)
        });
    }
}

/// Loads the lanes of a line while other threads may be storing to it.
#[inline]
#[target_feature(enable = "avx2")]
fn load_line(line: &Line) -> [__m256i; 2] {
    let (low, high);
    // SAFETY: a line is 64 bytes, aligned to 64. To the compiler, assembly that reads atomics is as good as
    // relaxed loads of them, whereas an ordinary vector load would race. To the processor, each aligned word
    // of a vector load is read whole; words may be of different times, and so they may be with eight relaxed
    // loads: a lane stands for itself, and who finds an entry by it validates the entry.
    unsafe {
        std::arch::asm!(
            "vmovdqa {low}, ymmword ptr [{line}]",
            "vmovdqa {high}, ymmword ptr [{line} + 32]",
            low = out(ymm_reg) low,
            high = lateout(ymm_reg) high,
            line = in(reg) std::ptr::from_ref(line),
            options(readonly, nostack, preserves_flags)
        );
    }
    [low, high]
}

/// 32 bytes of a header from `AT` on.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_header<const AT: usize>(header: &Header) -> __m256i {
    const { assert!(AT + 32 <= size_of::<Header>()) };
    // SAFETY: the bytes from `AT` to `AT + 32` lie inside the header; the load need not be aligned.
    unsafe { _mm256_loadu_si256(header.as_ptr().add(AT).cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_u32(from: &[u32; STEP]) -> __m256i {
    // SAFETY: 32 bytes; the load need not be aligned.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// Eight words, each widened to 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn load_u16(from: &[u16; STEP]) -> __m256i {
    // SAFETY: 16 bytes; the load need not be aligned.
    _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_keys(to: &mut [KeyV4; 2], from: __m256i) {
    // SAFETY: 32 bytes; the store need not be aligned.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), from) }
}
