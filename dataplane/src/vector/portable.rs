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
    const LOW: u64 = 0x7fff_7fff_7fff_7fff;
    let pattern = u64::from(tag).wrapping_mul(0x0001_0001_0001_0001);
    let mut mask = 0;
    for (n, word) in line.0.iter().enumerate() {
        let x = word.load(Ordering::Relaxed) ^ pattern;
        // The top bit of every lane that is zero now.
        let zero = !(((x & LOW) + LOW) | x | LOW);
        // Bits 15, 31, 47 and 63 become the lowest four: their sums meet in the top bits without a carry.
        let four = (zero >> 15).wrapping_mul(0x1000_2000_4000_8000) >> 60;
        mask |= (four as u32 & 0xf) << (4 * n);
    }
    mask & ((1 << LANES) - 1)
}

// No test ends early: which packets of a batch fail which test is nothing a processor can foresee.

#[inline]
fn is_plain_v4(h: &Header, len: u16) -> bool {
    let total = u32::from(be16(h, 16));
    (be16(h, 12) == 0x0800)
        & (h[14] == 0x45)
        // Neither offset nor "more fragments".
        & (be16(h, 20) & 0x3fff == 0)
        & (14 + total <= u32::from(len))
        & checksum_is_right(h)
        & is_plain_transport::<L4_V4>(h, h[23], total.saturating_sub(20))
}

#[inline]
pub(super) fn is_plain_v6(h: &Header, len: u16) -> bool {
    let payload = u32::from(be16(h, 18));
    (be16(h, 12) == 0x86dd)
        & (h[14] >> 4 == 6)
        & (L4_V6 as u32 + payload <= u32::from(len))
        & is_plain_transport::<L4_V6>(h, h[20], payload)
}

/// Whether `room` bytes from `AT` on hold a UDP datagram, or a TCP segment that neither opens nor closes.
#[inline]
fn is_plain_transport<const AT: usize>(h: &Header, proto: u8, room: u32) -> bool {
    let is_tcp = proto == TCP;
    let length = if is_tcp { u32::from(h[AT + 12] >> 4) * 4 } else { u32::from(be16(h, AT + 4)) };
    let least = if is_tcp { 20 } else { 8 };
    let opens_or_closes = is_tcp & (h[AT + 13] & (SYN | FIN | RST) != 0);
    (is_tcp | (proto == UDP)) & (length >= least) & (length <= room) & !opens_or_closes
}

/// The sum of the ten words of an IPv4 header.
#[inline]
fn checksum_is_right(h: &Header) -> bool {
    let words =
        (14..34).step_by(4).map(|at| u64::from(u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]])));
    let sum: u64 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum == 0xffff
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
