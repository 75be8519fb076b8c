//! Sixteen packets at a time, with AVX-512 and VAES.
//!
//! ```text
//!   16 headers, 8 dwords each      8 columns, a packet to the lane       16 keys, 4 to the register
//!   bytes 12..40 and 44..48   ──▶  validate: no branch, one bit each  ──▶  three AES rounds: 16 hashes
//!                         transpose                             transpose back
//! ```
//!
//! The transpositions work within 128-bit lanes, which is cheap but leaves packets in the order of
//! [`ORDER`]: the second one undoes what the first did, so only what meets the columns in between (lengths,
//! origins, the answer) has to be put in order.
//!
//! Of IPv6 only what is validated becomes columns, and the word of the key that ports are in; addresses are
//! copied as they stand. Single keys take [`Avx2`]'s path, whose hash is the same.

#![allow(unsafe_code, reason = "vector loads and stores, and calls that need processor features")]

use super::{Header, KeyV4, KeyV6, LANES, Line, Scan, Seed, avx2, avx2::Avx2, steps::steps};
use std::arch::x86_64::*;

/// Packets a step reads.
const STEP: usize = 16;

/// Which packet stands in which lane of a column: a 4-by-4 transposition, its own inverse.
const ORDER: [u32; STEP] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

/// Proof that the processor has what this module uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512 {
    narrow: Avx2,
}

impl Avx512 {
    /// The proof, if there is one.
    pub(super) fn detect() -> Option<Self> {
        let is_there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("vaes");
        Avx2::detect().filter(|_| is_there).map(|narrow| Self { narrow })
    }

    pub(super) fn hash_v4(self, seed: &Seed, key: &KeyV4) -> u64 {
        self.narrow.hash_v4(seed, key)
    }

    pub(super) fn hash_v6(self, seed: &Seed, key: &KeyV6) -> u64 {
        self.narrow.hash_v6(seed, key)
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,vaes,avx2,aes")]
fn scan_v4(seed: &Seed, scan: &Scan<'_>, keys: &mut [KeyV4], hashes: &mut [u64]) -> u64 {
    steps(scan, keys, hashes, [0; 2], |headers, lens, origins, keys, hashes| {
        u64::from(step_v4(seed, headers, lens, origins, keys, hashes))
    })
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,vaes,avx2,aes")]
fn scan_v6(seed: &Seed, scan: &Scan<'_>, keys: &mut [KeyV6], hashes: &mut [u64]) -> u64 {
    steps(scan, keys, hashes, [0; 5], |headers, lens, origins, keys, hashes| {
        u64::from(step_v6(seed, headers, lens, origins, keys, hashes))
    })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,vaes,avx2,aes")]
fn step_v4(
    seed: &Seed,
    headers: &[&Header; STEP],
    lens: &[u16; STEP],
    origins: &[u32; STEP],
    keys: &mut [KeyV4; STEP],
    hashes: &mut [u64; STEP],
) -> u16 {
    let c = columns(headers, |header| avx2::row_v4(header));
    let order = load_u32(&ORDER);
    let len = _mm512_permutexvar_epi32(order, load_u16(lens));
    let origin = _mm512_permutexvar_epi32(order, load_u32(origins));
    let all = |x: u32| _mm512_set1_epi32(x as i32);

    // Version, header length and EtherType; neither "more fragments" nor a fragment's offset.
    let mut plain = _mm512_cmpeq_epi32_mask(_mm512_and_si512(c[0], all(0x00ff_ffff)), all(0x0045_0008));
    plain &= _mm512_testn_epi32_mask(c[2], all(0xff3f));
    // Total length and UDP length, in the processor's byte order.
    let (total, udp_length) = (swap::<0x0001>(c[1]), swap::<0x0203>(c[6]));
    plain &= _mm512_cmple_epi32_mask(_mm512_add_epi32(total, all(14)), len);
    let proto = _mm512_srli_epi32::<24>(c[2]);
    plain &= transport(proto, udp_length, c[7], _mm512_sub_epi32(total, all(20)));

    // Ten words; the first and the last share a dword. Their sum is at most ten times 0xffff, so that folded
    // once it is 0xffff only if it is a multiple of that.
    let mut low = _mm512_setzero_si512();
    let mut high = low;
    for dwords in [_mm512_mask_mov_epi16(c[5], 0xaaaa_aaaa, c[0]), c[1], c[2], c[3], c[4]] {
        low = _mm512_add_epi32(low, _mm512_and_si512(dwords, all(0xffff)));
        high = _mm512_add_epi32(high, _mm512_srli_epi32::<16>(dwords));
    }
    let sum = _mm512_add_epi32(low, high);
    let sum = _mm512_add_epi32(_mm512_and_si512(sum, all(0xffff)), _mm512_srli_epi32::<16>(sum));
    plain &= _mm512_cmpeq_epi32_mask(sum, all(0xffff));

    // The dwords of the keys, and back to one packet after the other.
    let k = [
        _mm512_or_si512(proto, origin),
        _mm512_shldi_epi32::<16>(c[4], c[3]),
        _mm512_shldi_epi32::<16>(c[5], c[4]),
        _mm512_shldi_epi32::<16>(c[6], c[5]),
    ];
    let four = quarter(k[0], k[1], k[2], k[3]);
    let (s0, s1) = seeds(seed);
    let hash = |key| {
        let x = _mm512_aesenc_epi128(_mm512_xor_si512(key, s0), s1);
        _mm512_aesenc_epi128(_mm512_aesenc_epi128(x, s0), s1)
    };
    let (key_halves, _) = keys.as_chunks_mut::<8>();
    let (hash_halves, _) = hashes.as_chunks_mut::<8>();
    for ((keys, hashes), four) in key_halves.iter_mut().zip(hash_halves).zip(four.as_chunks::<2>().0) {
        store_keys(keys, *four);
        store_hashes(hashes, hash(four[0]), hash(four[1]));
    }
    in_order(plain)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,vaes,avx2,aes")]
fn step_v6(
    seed: &Seed,
    headers: &[&Header; STEP],
    lens: &[u16; STEP],
    origins: &[u32; STEP],
    keys: &mut [KeyV6; STEP],
    hashes: &mut [u64; STEP],
) -> u16 {
    // The dwords at 12, 16, 20 and 24, and at 52, 56, 60 and 64.
    let c = columns(headers, |header| {
        _mm256_blend_epi32::<0xf0>(avx2::load_header::<12>(header), avx2::load_header::<36>(header))
    });
    let order = load_u32(&ORDER);
    let len = _mm512_permutexvar_epi32(order, load_u16(lens));
    let origin = _mm512_permutexvar_epi32(order, load_u32(origins));
    let all = |x: u32| _mm512_set1_epi32(x as i32);

    // Version and EtherType.
    let mut plain = _mm512_cmpeq_epi32_mask(_mm512_and_si512(c[0], all(0x00f0_ffff)), all(0x0060_dd86));
    let (payload, udp_length) = (swap::<0x0203>(c[1]), swap::<0x0203>(c[5]));
    plain &= _mm512_cmple_epi32_mask(_mm512_add_epi32(payload, all(54)), len);
    let proto = _mm512_and_si512(c[2], all(0xff));
    plain &= transport(proto, udp_length, c[7], payload);

    // The keys' last words, of packets 0, 4, 1, 5 and so on, and of 8, 12, 9, 13 and so on.
    let (low, high) = (_mm512_or_si512(proto, origin), _mm512_shldi_epi32::<16>(c[5], c[4]));
    let last = [_mm512_unpacklo_epi32(low, high), _mm512_unpackhi_epi32(low, high)];
    let (s0, s1) = seeds(seed);
    let hash = |addresses: [__m256i; 4], last| {
        let two = |n: usize| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(addresses[n]), addresses[n + 1]);
        let source = _mm512_shuffle_i64x2::<0b10_00_10_00>(two(0), two(2));
        let destination = _mm512_shuffle_i64x2::<0b11_01_11_01>(two(0), two(2));
        let mut x = _mm512_xor_si512(source, s0);
        for key in [s1, destination, s0, last, s1, s0, s1] {
            x = _mm512_aesenc_epi128(x, key);
        }
        x
    };
    let zero = _mm512_setzero_si512();
    let (header_halves, _) = headers.as_chunks::<8>();
    let (key_halves, _) = keys.as_chunks_mut::<8>();
    let (hash_halves, _) = hashes.as_chunks_mut::<8>();
    for (((headers, keys), hashes), last) in header_halves.iter().zip(key_halves).zip(hash_halves).zip(last) {
        let addresses = headers.map(|header| avx2::load_header::<22>(header));
        let [a, b, c, d, e, f, g, h] = addresses;
        let first_four = hash([a, b, c, d], _mm512_unpacklo_epi64(last, zero));
        store_hashes(hashes, first_four, hash([e, f, g, h], _mm512_unpackhi_epi64(last, zero)));
        let mut words = [0; 8];
        store_words(&mut words, _mm512_permutexvar_epi64(_mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0), last));
        for ((key, addresses), word) in keys.iter_mut().zip(addresses).zip(words) {
            store_addresses(key, addresses);
            key[4] = word;
        }
    }
    in_order(plain)
}

/// Which packets hold in `room` bytes a UDP datagram, or a TCP segment that neither opens nor closes; its offset
/// and flags are the upper half of `tcp_fields`.
#[inline]
#[target_feature(enable = "avx512f")]
fn transport(proto: __m512i, udp_length: __m512i, tcp_fields: __m512i, room: __m512i) -> u16 {
    let all = |x: i32| _mm512_set1_epi32(x);
    let tcp = _mm512_cmpeq_epi32_mask(proto, all(6));
    let tcp_length = _mm512_and_si512(_mm512_srli_epi32::<18>(tcp_fields), all(0x3c));
    let length = _mm512_mask_mov_epi32(udp_length, tcp, tcp_length);
    let least = _mm512_mask_mov_epi32(all(8), tcp, all(20));
    let fits = _mm512_cmpge_epi32_mask(length, least) & _mm512_cmple_epi32_mask(length, room);
    // FIN, SYN, RST.
    let opens_or_closes = _mm512_mask_test_epi32_mask(tcp, tcp_fields, all(0x0700_0000));
    (tcp | _mm512_cmpeq_epi32_mask(proto, all(17))) & fits & !opens_or_closes
}

/// A word in network byte order out of each dword: those of its bytes that `BYTES` names, lowest last.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn swap<const BYTES: u32>(x: __m512i) -> __m512i {
    let [a, b, c, d] = [0, 1, 2, 3].map(|n| (0x8080_0000 + BYTES + n * 0x0404) as i32);
    _mm512_shuffle_epi8(x, _mm512_set4_epi32(d, c, b, a))
}

/// The seed as keys of rounds, for four keys at a time.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn seeds(seed: &Seed) -> (__m512i, __m512i) {
    let (s0, s1) = avx2::seeds(seed);
    (_mm512_broadcast_i32x4(s0), _mm512_broadcast_i32x4(s1))
}

/// Eight dwords of each header, a register each, packets in the order of [`ORDER`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx2")]
fn columns(headers: &[&Header; STEP], row: impl Fn(&Header) -> __m256i) -> [__m512i; 8] {
    // Lanes 0 and 1 of a register hold one packet, 2 and 3 another.
    let two = |n: usize| {
        let low = _mm512_castsi256_si512(row(headers[n]));
        _mm512_inserti64x4::<1>(low, row(headers[n + 1]))
    };
    let r = [two(0), two(4), two(8), two(12), two(2), two(6), two(10), two(14)];
    let (a, b) = (quarter(r[0], r[1], r[2], r[3]), quarter(r[4], r[5], r[6], r[7]));
    // Columns n and n + 4 of two packets each: even lanes and odd lanes.
    let even = |n: usize| _mm512_shuffle_i32x4::<0b10_00_10_00>(a[n], b[n]);
    let odd = |n: usize| _mm512_shuffle_i32x4::<0b11_01_11_01>(a[n], b[n]);
    [even(0), even(1), even(2), even(3), odd(0), odd(1), odd(2), odd(3)]
}

/// Transposes the 4-by-4 dwords in each 128-bit lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarter(r0: __m512i, r1: __m512i, r2: __m512i, r3: __m512i) -> [__m512i; 4] {
    let (t0, t1) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpackhi_epi32(r0, r1));
    let (t2, t3) = (_mm512_unpacklo_epi32(r2, r3), _mm512_unpackhi_epi32(r2, r3));
    [
        _mm512_unpacklo_epi64(t0, t2),
        _mm512_unpackhi_epi64(t0, t2),
        _mm512_unpacklo_epi64(t1, t3),
        _mm512_unpackhi_epi64(t1, t3),
    ]
}

/// One bit for each packet, from the order of [`ORDER`]: a 4-by-4 transposition of bits.
#[inline]
fn in_order(mask: u16) -> u16 {
    let t = (mask ^ mask >> 3) & 0x0a0a;
    let mask = mask ^ t ^ t << 3;
    let t = (mask ^ mask >> 6) & 0x00cc;
    mask ^ t ^ t << 6
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,vaes,avx2,aes")]
fn match_tags(lines: &[Line], at: &[u32], tags: &[u16], masks: &mut [u32]) {
    for ((at, tag), mask) in at.iter().zip(tags).zip(masks) {
        *mask = lines.get(*at as usize).map_or(0, |line| {
            _mm512_cmpeq_epi16_mask(load_line(line), _mm512_set1_epi16(*tag as i16)) & ((1 << LANES) - 1)
        });
    }
}

/// Loads the lanes of a line while other threads may be storing to it.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_line(line: &Line) -> __m512i {
    let lanes;
    // SAFETY: a line is 64 bytes, aligned to 64. To the compiler, assembly that reads atomics is as good as
    // relaxed loads of them, whereas an ordinary vector load would race. To the processor, each aligned word
    // of a vector load is read whole; words may be of different times, and so they may be with eight relaxed
    // loads: a lane stands for itself, and who finds an entry by it validates the entry.
    unsafe {
        std::arch::asm!(
            "vmovdqa64 {lanes}, zmmword ptr [{line}]",
            lanes = out(zmm_reg) lanes,
            line = in(reg) std::ptr::from_ref(line),
            options(readonly, nostack, preserves_flags)
        );
    }
    lanes
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_u32(from: &[u32; STEP]) -> __m512i {
    // SAFETY: 64 bytes; the load need not be aligned.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// Sixteen words, each widened to 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_u16(from: &[u16; STEP]) -> __m512i {
    // SAFETY: 32 bytes; the load need not be aligned.
    _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_keys(to: &mut [KeyV4; 8], from: [__m512i; 2]) {
    // SAFETY: 128 bytes; the stores need not be aligned.
    unsafe {
        _mm512_storeu_si512(to.as_mut_ptr().cast(), from[0]);
        _mm512_storeu_si512(to.as_mut_ptr().add(4).cast(), from[1]);
    }
}

/// Stores the hashes of twice four keys: the lower half of each.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_hashes(to: &mut [u64; 8], low: __m512i, high: __m512i) {
    store_words(to, _mm512_permutex2var_epi64(low, _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0), high));
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_words(to: &mut [u64; 8], from: __m512i) {
    // SAFETY: 64 bytes; the store need not be aligned.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), from) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_addresses(to: &mut KeyV6, from: __m256i) {
    // SAFETY: 32 bytes of 40; the store need not be aligned.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), from) }
}
