//! Packets cut into fragments, and put together again: the slow way, for comparison.

use std::ops::Range;
use supernet_dataplane::wire::{ETHERNET, checksum, ethertype};

/// Offset of the bytes behind the network header of an untagged frame without options.
fn body_of(frame: &[u8]) -> usize {
    ETHERNET + if is_v4(frame) { 20 } else { 40 }
}

fn is_v4(frame: &[u8]) -> bool {
    frame[12..14] == ethertype::IPV4.to_be_bytes()
}

/// Bytes behind the network header of an untagged frame without options.
pub fn body_len(frame: &[u8]) -> usize {
    frame.len() - body_of(frame)
}

/// The fragment with these bytes of the packet in `frame`, which is the last unless `more` follow. Nothing is checked:
/// what no sender makes can be made.
pub fn piece(frame: &[u8], bytes: Range<usize>, more: bool, id: u32) -> Vec<u8> {
    let body = body_of(frame);
    let (offset, more) = (bytes.start as u16, u16::from(more));
    let mut out = frame[..body].to_vec();
    if is_v4(frame) {
        out[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        out[20..22].copy_from_slice(&((offset / 8) | (more << 13)).to_be_bytes());
    } else {
        out[20] = 44;
        out.extend([frame[20], 0]);
        out.extend((offset & !7 | more).to_be_bytes());
        out.extend(id.to_be_bytes());
    }
    out.extend(&frame[body..][bytes]);
    mend(&mut out);
    out
}

/// All of a packet, cut behind each of `cuts`, which are counted from the end of the network header.
pub fn cut(frame: &[u8], cuts: &[usize], id: u32) -> Vec<Vec<u8>> {
    let end = body_len(frame);
    let mut from = 0;
    let ends = cuts.iter().copied().filter(|cut| *cut > 0 && *cut < end).chain([end]);
    ends.map(|to| {
        let fragment = piece(frame, from..to, to < end, id);
        from = to;
        fragment
    })
    .collect()
}

/// The packet whose fragments these are, in any order; `None` if one is missing or two overlap. Of what fragments
/// differ in, the packet has what the first has.
pub fn join(fragments: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut parts: Vec<(usize, bool, &[u8])> = fragments.iter().map(|fragment| part(fragment)).collect();
    parts.sort_by_key(|(offset, ..)| *offset);
    let first = fragments.iter().find(|fragment| part(fragment).0 == 0)?;
    let mut out = first[..body_of(first)].to_vec();
    if is_v4(first) {
        out[20..22].fill(0);
    } else {
        out[20] = first[body_of(first)];
    }
    let (mut at, mut complete) = (0, false);
    for (offset, more, bytes) in parts {
        if offset != at || complete {
            return None;
        }
        out.extend(bytes);
        at += bytes.len();
        complete = !more;
    }
    mend(&mut out);
    complete.then_some(out)
}

/// Where the bytes of a fragment belong, whether more follow, and the bytes.
fn part(fragment: &[u8]) -> (usize, bool, &[u8]) {
    let word = |at: usize| u16::from_be_bytes([fragment[at], fragment[at + 1]]);
    let body = body_of(fragment);
    if is_v4(fragment) {
        let end = ETHERNET + usize::from(word(16));
        (usize::from(word(20) & 0x1fff) * 8, word(20) & 0x2000 != 0, &fragment[body..end])
    } else {
        let end = body + usize::from(word(18));
        let field = word(body + 2);
        (usize::from(field & !7), field & 1 != 0, &fragment[body + 8..end])
    }
}

/// Writes the length, and the checksum of an IPv4 header.
fn mend(frame: &mut [u8]) {
    if is_v4(frame) {
        let len = (frame.len() - ETHERNET) as u16;
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum::of(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        let len = (frame.len() - ETHERNET - 40) as u16;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
    }
}
