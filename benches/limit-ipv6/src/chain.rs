//! The chain: batches of 64 packets in three phases.
//!
//! ```text
//!   A  fetch the next batch's frames; validate and hash 16 packets at a time; fetch the lines of tags
//!   B  match tags; fetch the entries
//!   C  compare the key, rewrite, count
//! ```
//! How far it goes is a constant, so that each step can be measured with those before it.

use crate::{
    frame::{FLAGS, KEY, SEEDS, TCP, UDP, sum_at},
    machine,
    table::{Entry, Table},
};
use core::arch::x86_64::*;

pub const BATCH: usize = 64;
const LANES: usize = 16;

/// Validate and hash; look up; the whole chain.
pub const PARSE: u8 = 2;
pub const LOOK_UP: u8 = 3;
pub const ALL: u8 = 5;

/// A frame to work on.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Descriptor {
    /// From the first frame's place on, in bytes.
    pub offset: u32,
    pub len: u16,
    pub ingress: u16,
}

/// Packets and bytes.
#[derive(Clone, Copy, Default)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// What the chain needs besides table and frames.
pub struct Context {
    /// MACs of next hops: destination, source, and four bytes that are not used.
    next_hops: Vec<[u8; 16]>,
    pub rules: Vec<Count>,
    pub ports: Vec<Count>,
    pub now: u32,
    /// Packets that were not plain, or had no entry.
    pub exceptions: u64,
}

impl Context {
    pub fn new() -> Self {
        let next_hop = |n: u8| [2, 1, 0, 0, 0, n, 2, 2, 0, 0, 0, n, 0, 0, 0, 0];
        Self {
            next_hops: (0..=255).map(next_hop).collect(),
            rules: vec![Count::default(); 1000],
            ports: vec![Count::default(); 1 << 12],
            now: 1,
            exceptions: 0,
        }
    }
}

/// Frames in memory: an odd number of cache lines apart, so that they do not meet in few sets of the caches.
pub struct Frames(*mut u8);

const STRIDE: usize = 2112;
const HEADROOM: usize = 128;

impl Frames {
    pub fn new(count: usize) -> Self {
        Self(machine::memory(count * STRIDE + 4096))
    }

    pub fn offset(n: usize) -> u32 {
        (n * STRIDE + HEADROOM) as u32
    }

    /// A frame's bytes.
    pub fn frame(&mut self, offset: u32) -> &mut [u8] {
        // SAFETY: offsets come from `offset`, for frames of the count that was mapped, and a stride is longer.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset), crate::frame::LEN) }
    }

    #[inline(always)]
    fn at(&self, offset: u32) -> *mut u8 {
        self.0.wrapping_add(offset as usize)
    }
}

#[repr(C, align(64))]
struct Aligned<T>(T);

/// Sends frames through the chain up to `STEP`; `out` gets the ports they leave by.
///
/// # Safety
/// Every descriptor is of a frame of `frames`; there are as many of them as places in `out`, a multiple of [`BATCH`].
#[inline(never)]
pub unsafe fn run<const STEP: u8>(
    table: &Table,
    context: &mut Context,
    frames: &Frames,
    ring: &[Descriptor],
    out: &mut [u16],
) {
    // A hash is the lower half of what AES gives.
    let mut hashes = Aligned([[0u64; 2]; BATCH]);
    let mut guesses = [0u32; BATCH];
    for start in (0..ring.len()).step_by(BATCH) {
        let mut odd = 0;
        for at in (0..BATCH).step_by(LANES) {
            for n in start + BATCH + at..start + BATCH + at + LANES {
                // SAFETY: the index is in the ring, and a prefetch touches nothing.
                unsafe {
                    let next = ring.get_unchecked(n.min(ring.len() - 1));
                    // TCP's flags and checksum lie in the second line.
                    _mm_prefetch::<_MM_HINT_ET0>(frames.at(next.offset).cast());
                    _mm_prefetch::<_MM_HINT_ET0>(frames.at(next.offset).add(64).cast());
                }
            }
            // SAFETY: the ring is whole batches.
            let lanes = unsafe { &*ring.as_ptr().add(start + at).cast::<[Descriptor; LANES]>() };
            // SAFETY: as the caller promises; there is room for the hashes of a batch.
            odd |= unsafe { validate_and_hash(frames, lanes, hashes.0.as_mut_ptr().add(at).cast()) };
            if STEP >= LOOK_UP {
                hashes.0[at..at + LANES].iter().for_each(|hash| table.fetch_tags(hash[0]));
            }
        }
        if odd != 0 {
            // A product would sort them out here; the measured load has none.
            context.exceptions += 1;
        }
        if STEP == PARSE {
            std::hint::black_box(&mut hashes);
            continue;
        }
        for (guess, hash) in guesses.iter_mut().zip(&hashes.0) {
            *guess = table.guess(hash[0]);
        }
        for (n, guess) in guesses.iter().enumerate() {
            // SAFETY: ring and `out` have a whole batch from `start` on; frames are as the caller promises.
            unsafe {
                let descriptor = ring.get_unchecked(start + n);
                let frame = frames.at(descriptor.offset);
                let mut entry = table.entry(*guess);
                if !has_key(entry, frame, descriptor) {
                    match table.find(hashes.0[n][0], |entry| has_key(entry, frame, descriptor)) {
                        Some(found) => entry = found,
                        None => {
                            context.exceptions += 1;
                            continue;
                        }
                    }
                }
                *out.get_unchecked_mut(start + n) = (*entry).out;
                if STEP >= ALL {
                    rewrite(frame, &*entry, context);
                    count(&mut *entry, context, descriptor);
                }
            }
        }
    }
}

/// Hashes 16 packets, and tells which of them are not plain, a bit each.
///
/// Headers are read in rows, a packet's 16 bytes a row, and turned into columns, a field of all packets a register.
#[inline(always)]
unsafe fn validate_and_hash(frames: &Frames, lanes: &[Descriptor; LANES], hashes: *mut __m512i) -> u16 {
    // SAFETY: all reads are of headers of frames, within the first 70 bytes, or of the descriptors.
    unsafe {
        let bytes = |n: usize, at: usize| _mm_loadu_si128(frames.at(lanes[n].offset).add(at).cast());
        let rows = |n: [usize; 4], at: usize| {
            let row = _mm512_castsi128_si512(bytes(n[0], at));
            let row = _mm512_inserti32x4::<1>(row, bytes(n[1], at));
            let row = _mm512_inserti32x4::<2>(row, bytes(n[2], at));
            _mm512_inserti32x4::<3>(row, bytes(n[3], at))
        };
        // Quarter q of register k is packet 4q + k, so that columns come out in the order of packets.
        let spread = |at: usize| [0, 1, 2, 3].map(|k| rows([k, k + 4, k + 8, k + 12], at));

        let [r0, r1, r2, r3] = spread(12);
        let (low01, low23) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpacklo_epi32(r2, r3));
        let (high01, high23) = (_mm512_unpackhi_epi32(r0, r1), _mm512_unpackhi_epi32(r2, r3));
        let type_version = _mm512_unpacklo_epi64(low01, low23);
        let flow_length = _mm512_unpackhi_epi64(low01, low23);
        let protocol_hops = _mm512_unpacklo_epi64(high01, high23);
        let [r0, r1, r2, r3] = spread(54);
        let (low01, low23) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpacklo_epi32(r2, r3));
        let (high01, high23) = (_mm512_unpackhi_epi32(r0, r1), _mm512_unpackhi_epi32(r2, r3));
        let udp_length_sum = _mm512_unpackhi_epi64(low01, low23);
        let tcp_length_flags = _mm512_unpackhi_epi64(high01, high23);

        let odd_words = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
        let [first, second] = [0, 8].map(|n| _mm512_loadu_si512(lanes.as_ptr().add(n).cast()));
        let len_ingress = _mm512_permutex2var_epi32(first, odd_words, second);

        let all = |value: i32| _mm512_set1_epi32(value);
        let low16 = all(0xffff);
        let swapped = |x| _mm512_or_si512(_mm512_slli_epi16::<8>(x), _mm512_srli_epi16::<8>(x));
        let payload = _mm512_srli_epi32::<16>(swapped(flow_length));
        let udp = _mm512_and_si512(swapped(udp_length_sum), low16);
        let len = _mm512_and_si512(len_ingress, low16);
        let protocol = _mm512_and_si512(protocol_hops, all(0xff));
        let is_ipv6 = _mm512_and_si512(type_version, all(0x00f0_ffff));
        let is_tcp = _mm512_cmpeq_epi32_mask(protocol, all(TCP.into()));
        let is_udp = _mm512_cmpeq_epi32_mask(protocol, all(UDP.into()));
        // Bytes of the TCP header: four times the upper half of the first byte.
        let tcp = _mm512_and_si512(_mm512_srli_epi32::<2>(tcp_length_flags), all(0x3c));
        let header = _mm512_mask_mov_epi32(udp, is_tcp, tcp);
        let least = _mm512_mask_mov_epi32(all(8), is_tcp, all(20));
        let odd = _mm512_cmpneq_epi32_mask(is_ipv6, all(0x0060_dd86))
            | !(is_tcp | is_udp)
            | _mm512_mask_test_epi32_mask(is_tcp, tcp_length_flags, all(i32::from(FLAGS) << 8))
            | _mm512_testn_epi32_mask(protocol_hops, all(0xfe00))
            | _mm512_cmpgt_epu32_mask(_mm512_add_epi32(payload, all(54)), len)
            | _mm512_cmplt_epu32_mask(header, least)
            | _mm512_cmpgt_epu32_mask(header, payload);

        let scope = _mm512_or_si512(protocol, _mm512_andnot_si512(low16, len_ingress));
        let [s0, s1] =
            SEEDS.map(|(low, high)| _mm512_broadcast_i32x4(_mm_set_epi64x(high as i64, low as i64)));
        for group in 0..LANES / 4 {
            let first = 4 * group;
            let block = |at: usize| rows([first, first + 1, first + 2, first + 3], KEY + at);
            let f = first as i32;
            let own = _mm512_set_epi32(0, 0, 0, f + 3, 0, 0, 0, f + 2, 0, 0, 0, f + 1, 0, 0, 0, f);
            let head = _mm512_mask_permutexvar_epi32(block(0), 0x1111, own, scope);
            let mut x = _mm512_xor_si512(head, s0);
            for round in [block(16), block(24), s1, s0, s1] {
                x = _mm512_aesenc_epi128(x, round);
            }
            _mm512_store_si512(hashes.add(group), x);
        }
        odd
    }
}

/// Whether an entry has a packet's key.
#[inline(always)]
unsafe fn has_key(entry: *const Entry, frame: *const u8, descriptor: &Descriptor) -> bool {
    // SAFETY: the entry is one of the table's, the frame whole; loads need no alignment.
    unsafe {
        let key = (*entry).key.as_ptr();
        let packet = _mm256_loadu_si256(frame.add(KEY).cast());
        // All but the first word, which has the scope in its place.
        let differ = _mm256_mask_cmpneq_epi32_mask(0xfe, packet, _mm256_load_si256(key.cast()));
        let word = |at: *const u8| at.cast::<u64>().read_unaligned();
        let scope = u32::from(*frame.add(20)) | u32::from(descriptor.ingress) << 16;
        let tail = word(key.add(32)) ^ word(frame.add(KEY + 32));
        differ == 0 && tail == 0 && key.cast::<u32>().read() == scope
    }
}

/// Addresses, ports, hop limit, MACs, and the checksum by what the first two change.
#[inline(always)]
unsafe fn rewrite(frame: *mut u8, entry: &Entry, context: &Context) {
    // SAFETY: all of it lies in the frame's first 72 bytes; loads and stores need no alignment.
    unsafe {
        let edit = entry.edit.as_ptr();
        // Length, protocol and hop limit stand before the addresses: written with them, one hop less.
        let head = frame.add(KEY).cast::<u32>().read_unaligned() - (1 << 24);
        let start = _mm256_mask_set1_epi32(_mm256_load_si256(edit.cast()), 1, head as i32);
        _mm256_storeu_si256(frame.add(KEY).cast(), start);
        _mm_storeu_si128(frame.add(KEY + 24).cast(), _mm_loadu_si128(edit.add(24).cast()));

        let macs =
            _mm_loadu_si128(context.next_hops.get_unchecked(usize::from(entry.next_hop)).as_ptr().cast());
        let behind = frame.add(12).cast::<i32>().read_unaligned();
        _mm_storeu_si128(frame.cast(), _mm_insert_epi32::<3>(macs, behind));

        let proto = frame.add(20).read();
        let at = frame.add(sum_at(proto)).cast::<u16>();
        let old = at.read_unaligned();
        let sum = u32::from(!old) + u32::from(entry.sum_delta);
        let new = !((sum & 0xffff) + (sum >> 16)) as u16;
        // To UDP, zero says that there is none; a sum that comes out as zero is written as its other form.
        let new = if (old == 0 || new == 0) && proto == UDP { if old == 0 { 0 } else { 0xffff } } else { new };
        at.write_unaligned(new);
    }
}

/// The entry's own counters, the rule's and the port's.
#[inline(always)]
unsafe fn count(entry: &mut Entry, context: &mut Context, descriptor: &Descriptor) {
    let bytes = u64::from(descriptor.len);
    entry.last_seen = context.now;
    entry.packets += 1;
    entry.bytes += bytes;
    // SAFETY: entries have rules below 1,000, and ports are twelve bits.
    let both = unsafe {
        [
            context.rules.get_unchecked_mut(usize::from(entry.rule)) as *mut Count,
            context.ports.get_unchecked_mut(usize::from(descriptor.ingress & 0xfff)) as *mut Count,
        ]
    };
    for count in both {
        // SAFETY: they are of two vectors.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += bytes;
        }
    }
}

/// Hashes of a ring's packets, and whether each is other than plain: for the check.
pub fn validate_and_hash_all(frames: &Frames, ring: &[Descriptor]) -> Vec<(u64, bool)> {
    let mut all = Vec::new();
    for lanes in ring.as_chunks::<LANES>().0 {
        let mut hashes = Aligned([[0u64; 2]; LANES]);
        // SAFETY: the ring is of these frames; there is room for the hashes.
        let odd = unsafe { validate_and_hash(frames, lanes, hashes.0.as_mut_ptr().cast()) };
        all.extend(hashes.0.iter().zip(0..).map(|(hash, lane)| (hash[0], odd >> lane & 1 == 1)));
    }
    all
}
