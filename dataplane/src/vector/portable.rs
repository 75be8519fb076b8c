//! The engine that runs everywhere, and the twin that the others are tested against.

use super::{Header, KeyV4, KeyV6, LANES, Line, Scan, Seed};
use crate::wire::tcp_flags::{FIN, RST, SYN};
use std::sync::atomic::Ordering;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Offsets of the transport header behind Ethernet.
const L4_V4: usize = 14 + 20;
const L4_V6: usize = 14 + 40;

pub(super) fn scan_v4(seed: &Seed, scan: &Scan<'_>, keys: &mut [KeyV4], hashes: &mut [u64]) -> u64 {
    let packets = scan.headers.iter().zip(scan.lens).zip(scan.origins);
    let mut plain = 0;
    for (n, (((header, len), origin), (key, hash))) in packets.zip(keys.iter_mut().zip(hashes)).enumerate() {
        plain |= u64::from(is_plain_v4(header, *len)) << n;
        *key = key_v4(header, *origin);
        *hash = hash_v4(seed, key);
    }
    plain
}

pub(super) fn scan_v6(seed: &Seed, scan: &Scan<'_>, keys: &mut [KeyV6], hashes: &mut [u64]) -> u64 {
    let packets = scan.headers.iter().zip(scan.lens).zip(scan.origins);
    let mut plain = 0;
    for (n, (((header, len), origin), (key, hash))) in packets.zip(keys.iter_mut().zip(hashes)).enumerate() {
        plain |= u64::from(is_plain_v6(header, *len)) << n;
        *key = key_v6(header, *origin);
        *hash = hash_v6(seed, key);
    }
    plain
}

pub(super) fn match_tags(lines: &[Line], at: &[u32], tags: &[u16], masks: &mut [u32]) {
    for ((at, tag), mask) in at.iter().zip(tags).zip(masks) {
        *mask = lines.get(*at as usize).map_or(0, |line| lanes(line, *tag));
    }
}

/// The lanes of tags that hold `tag` (exact: no carry crosses a lane).
#[inline]
pub(super) fn lanes(line: &Line, tag: u16) -> u32 {
    let pattern = u64::from(tag).wrapping_mul(0x0001_0001_0001_0001);
    let (halves, _) = line.0.as_chunks::<4>();
    let mut mask = 0;
    for (n, words) in halves.iter().enumerate() {
        let [a, b, c, d] = words.each_ref().map(|word| differs(word.load(Ordering::Relaxed) ^ pattern));
        // Bits 0, 16, 32 and 48 of four words, side by side. Their products with the four bits of the factor
        // all fall on bits of their own, and the 16 that matter on the topmost.
        let bits = a >> 15 | b >> 11 | c >> 7 | d >> 3;
        mask |= (bits.wrapping_mul(1 << 48 | 1 << 33 | 1 << 18 | 1 << 3) >> 48) << (16 * n);
    }
    !(mask as u32) & ((1 << LANES) - 1)
}

/// The top bit of every lane that is not zero.
#[inline]
fn differs(x: u64) -> u64 {
    const LOW: u64 = 0x7fff_7fff_7fff_7fff;
    (((x & LOW) + LOW) | x) & !LOW
}

// No test ends early and none jumps: which packets of a batch fail which test is nothing a processor can foresee.
// Every test leaves zero if it holds, so that one look at all of them together is enough.

#[inline]
fn is_plain_v4(h: &Header, len: u16) -> bool {
    let (first, second) = (le64(h, 12), le64(h, 20));
    let total = i64::from(be16(h, 16));
    // EtherType, version and header length; neither offset nor "more fragments".
    let fields = (first & 0x00ff_ffff ^ 0x0045_0008) | second & 0xff3f;
    let sum = checksum(first >> 16, second, le64(h, 28) & 0xffff_ffff_ffff);
    let transport = transport::<L4_V4>(h, h[23], total - 20);
    fields | sum | transport | below_zero(i64::from(len) - 14 - total) == 0
}

#[inline]
pub(super) fn is_plain_v6(h: &Header, len: u16) -> bool {
    let payload = i64::from(be16(h, 18));
    // EtherType and version.
    let fields = le64(h, 12) & 0x00f0_ffff ^ 0x0060_dd86;
    let transport = transport::<L4_V6>(h, h[20], payload);
    fields | transport | below_zero(i64::from(len) - L4_V6 as i64 - payload) == 0
}

/// Zero if `room` bytes from `AT` on hold a UDP datagram, or a TCP segment that neither opens nor closes.
#[inline]
fn transport<const AT: usize>(h: &Header, proto: u8, room: i64) -> u64 {
    // All ones if it is TCP.
    let tcp = u64::from(proto == TCP).wrapping_neg();
    let neither = u64::from(proto ^ UDP) & !tcp;
    let opens_or_closes = u64::from(h[AT + 13] & (SYN | FIN | RST)) & tcp;
    let length = u64::from(h[AT + 12] >> 2 & 0x3c) & tcp | u64::from(be16(h, AT + 4)) & !tcp;
    let (length, least) = (length as i64, 8 + (12 & tcp) as i64);
    neither | opens_or_closes | below_zero((length - least) | (room - length))
}

/// Zero unless `x` is negative.
#[inline]
fn below_zero(x: i64) -> u64 {
    x as u64 & 1 << 63
}

/// Zero if the ten words of an IPv4 header add up to what they should; they are 6, 8 and 6 bytes of it.
#[inline]
fn checksum(first: u64, second: u64, third: u64) -> u64 {
    let (sum, carry) = (first + third).overflowing_add(second);
    let sum = (sum & 0xffff_ffff) + (sum >> 32) + u64::from(carry);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    // Two times 0xffff at most, or little more, and not zero, as the header is not all zeros.
    ((sum & 0xffff) + (sum >> 16)) ^ 0xffff
}

#[inline]
fn key_v4(h: &Header, origin: u32) -> KeyV4 {
    [u64::from(origin | u32::from(h[23])) | le64(h, 22) & !0xffff_ffff, le64(h, 30)]
}

#[inline]
pub(super) fn key_v6(h: &Header, origin: u32) -> KeyV6 {
    let ports = le64(h, L4_V6) << 32;
    [le64(h, 22), le64(h, 30), le64(h, 38), le64(h, 46), u64::from(origin | u32::from(h[20])) | ports]
}

#[inline]
pub(super) fn hash_v4(seed: &Seed, key: &KeyV4) -> u64 {
    mix(mix(key[0] ^ seed[0], key[1] ^ seed[1]) ^ seed[2], seed[3] | 1)
}

#[inline]
pub(super) fn hash_v6(seed: &Seed, key: &KeyV6) -> u64 {
    let addresses =
        mix(key[0] ^ seed[0], key[1] ^ seed[1]).rotate_left(23) ^ mix(key[2] ^ seed[2], key[3] ^ seed[3]);
    mix(mix(addresses ^ key[4], seed[0] | 1) ^ seed[2], seed[3] | 1)
}

/// A multiplication whose two halves are folded together.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[inline]
fn be16(h: &Header, at: usize) -> u16 {
    u16::from_be_bytes([h[at], h[at + 1]])
}

#[inline]
fn le64(h: &Header, at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&h[at..at + 8]);
    u64::from_le_bytes(word)
}
