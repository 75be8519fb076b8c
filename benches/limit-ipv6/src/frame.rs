//! Frames and connections, in plain code: what goes in, what must come out, and the twins of the vector pass.
//!
//! ```text
//!   0         12   14          18     20  21   22        38        54      58    60    62        84
//!   MACs      type version ... length UDP hops source    destination ports  length sum  payload
//!                                     TCP                             sequence  ...  flags (66)  sum (70)
//!                              └───────────────── key, 40 bytes ────────────┘
//! ```
//! Half of the connections are TCP, half UDP. All that is read of UDP lies in a frame's first cache line; TCP's flags
//! and checksum lie in the second. The key is the frame's bytes 18 to 58, with the ingress port and the protocol in
//! place of length, protocol and hop limit.

use core::arch::x86_64::*;

/// Bytes of a frame: those of the smallest IPv4 frame and 20 more.
pub const LEN: usize = 84;
/// Where the key begins.
pub const KEY: usize = 18;
pub const KEY_LEN: usize = 40;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
/// TCP's flags that open and close: FIN, SYN, RST.
pub const FLAGS: u8 = 0x07;
const TRANSPORT_LEN: usize = LEN - 54;

/// Where the checksum is, without a branch: packets come in any order.
#[inline(always)]
pub fn sum_at(proto: u8) -> usize {
    70 - usize::from(proto & 1) * 10
}
const HOPS: u8 = 64;

/// One direction of a connection, as a packet has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    pub proto: u8,
    pub src: u128,
    pub dst: u128,
    pub sport: u16,
    pub dport: u16,
    /// The port it comes in by.
    pub ingress: u16,
}

/// What packets of connection `n` look like before and after: a client talks to a virtual server, which a member
/// serves, and appears to it under an egress address; or, `back`, the member answers.
pub fn connection(n: u32, back: bool) -> (Tuple, Tuple) {
    let mixed = (n ^ 0x9e37).wrapping_mul(0x85eb_ca6b);
    let mixed = u128::from(mixed ^ mixed >> 15);
    let in_pool = |pool: u128, host: u128| 0xfd00 << 112 | pool << 96 | host;
    let segment = u128::from(n >> 8 & 0xff);
    let client = in_pool(0x10, (segment << 64) + u128::from(n & 0xff) + 2);
    let server = in_pool(0x96, mixed & 1023);
    let member = in_pool(0x20, (mixed >> 10 & 0xf) << 64 | mixed >> 14 & 0xff);
    let egress = in_pool(0x98, u128::from(n / 60_000));
    // 65,536 clients, each with several connections; egress addresses have 60,000 each.
    let (sport, claimed) = (1024 + (n >> 16) as u16 * 7, 1024 + (n % 60_000) as u16);
    let proto = if n & 1 == 0 { TCP } else { UDP };
    let asks = Tuple { proto, src: client, dst: server, sport, dport: 80, ingress: segment as u16 };
    let sent = Tuple { proto, src: egress, dst: member, sport: claimed, dport: 8080, ingress: 0 };
    let answer =
        |t: Tuple, ingress| Tuple { src: t.dst, dst: t.src, sport: t.dport, dport: t.sport, ingress, ..t };
    if back { (answer(sent, 0xfff), answer(asks, 0)) } else { (asks, sent) }
}

/// The key of packets with this tuple.
pub fn key(t: &Tuple) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key[0] = t.proto;
    key[2..4].copy_from_slice(&t.ingress.to_le_bytes());
    key[4..20].copy_from_slice(&t.src.to_be_bytes());
    key[20..36].copy_from_slice(&t.dst.to_be_bytes());
    key[36..38].copy_from_slice(&t.sport.to_be_bytes());
    key[38..40].copy_from_slice(&t.dport.to_be_bytes());
    key
}

/// Writes a packet with this tuple; `frame` holds [`LEN`] bytes.
pub fn write(frame: &mut [u8], t: &Tuple) {
    frame.fill(0);
    frame[..12].copy_from_slice(&[2, 0, 0, 0x5e, 0, 1, 2, 0, 7, 7, 7, 7]);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    frame[KEY..54 + 4].copy_from_slice(&key(t));
    frame[18..20].copy_from_slice(&(TRANSPORT_LEN as u16).to_be_bytes());
    (frame[20], frame[21]) = (t.proto, HOPS);
    if t.proto == UDP {
        frame[58..60].copy_from_slice(&(TRANSPORT_LEN as u16).to_be_bytes());
    } else {
        (frame[66], frame[67]) = (0x50, 0x10);
    }
    frame[76..78].copy_from_slice(&[0x12, 0x34]);
    let (sum, at) = (!folded(transport_sum(frame)), sum_at(t.proto));
    let sum = if sum == 0 && t.proto == UDP { 0xffff } else { sum };
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Whether a frame is what it should have become: addresses and ports, one hop less, the whole checksum.
pub fn is_rewritten(frame: &[u8], to: &Tuple) -> bool {
    let same = frame[KEY + 4..58] == key(to)[4..];
    same
        && frame[20..22] == [to.proto, HOPS - 1]
        && frame[..2] == [2, 1]
        && folded(transport_sum(frame)) == 0xffff
}

/// The sum of the pseudo header (RFC 8200, 8.1) and the transport packet.
fn transport_sum(frame: &[u8]) -> u32 {
    let words =
        |bytes: &[u8]| bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>();
    words(&frame[22..54]) + TRANSPORT_LEN as u32 + u32::from(frame[20]) + words(&frame[54..LEN])
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What turning `from` into `to` adds to the checksum's complement (RFC 1624), in the byte order of memory.
/// The hop limit is in no checksum.
pub fn sum_delta(from: &Tuple, to: &Tuple) -> u16 {
    let words = |key: [u8; KEY_LEN], flip: u16| {
        key[4..].chunks(2).map(|w| u32::from(u16::from_le_bytes([w[0], w[1]]) ^ flip)).sum::<u32>()
    };
    folded(words(key(from), 0xffff) + words(key(to), 0))
}

/// Whether a frame may take the fast path: IPv6 without extension headers, UDP, or TCP that neither opens nor closes,
/// lengths that fit, and two hops left.
pub fn is_plain(frame: &[u8], len: usize) -> bool {
    let be16 = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let payload = be16(18);
    let headers = be16(12) == 0x86dd && frame[14] >> 4 == 6 && frame[21] >= 2;
    let transport = match frame[20] {
        UDP => (8..=payload).contains(&be16(58)),
        TCP => (20..=payload).contains(&(usize::from(frame[66] >> 4) * 4)) && frame[67] & FLAGS == 0,
        _ => false,
    };
    headers && payload + 54 <= len && transport
}

/// The hash's round keys.
pub const SEEDS: [(u64, u64); 2] =
    [(0x1319_8a2e_0370_7344, 0x243f_6a88_85a3_08d3), (0x082e_fa98_ec4e_6c89, 0xa409_3822_299f_31d0)];

/// The hash of a key: its bytes go in as three blocks, the last overlapping the second, each through three rounds of
/// AES or more.
pub fn hash(key: &[u8; KEY_LEN]) -> u64 {
    let block = |at: usize| {
        // SAFETY: 16 bytes from `at` lie in the key; loads need no alignment.
        unsafe { _mm_loadu_si128(key[at..at + 16].as_ptr().cast()) }
    };
    // SAFETY: the program is built for a machine that has AES.
    unsafe {
        let [s0, s1] = SEEDS.map(|(low, high)| _mm_set_epi64x(high as i64, low as i64));
        let mut x = _mm_xor_si128(block(0), s0);
        for round in [block(16), block(24), s1, s0, s1] {
            x = _mm_aesenc_si128(x, round);
        }
        _mm_cvtsi128_si64(x) as u64
    }
}
