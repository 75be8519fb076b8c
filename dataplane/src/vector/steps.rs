//! A batch in steps of as many packets as a register holds.

use super::{Header, Scan};

/// Runs `step` over a scan, `N` packets at a time. The last ones, if fewer, make a step of their own, filled up
/// with frames of no length. Inputs and outputs are of one length, at most 64.
#[inline(always)]
pub(super) fn steps<const N: usize, K: Copy>(
    scan: &Scan<'_>,
    keys: &mut [K],
    hashes: &mut [u64],
    no_key: K,
    step: impl Fn(&[&Header; N], &[u16; N], &[u32; N], &mut [K; N], &mut [u64; N]) -> u64,
) -> u64 {
    let (header_steps, headers) = scan.headers.as_chunks::<N>();
    let (len_steps, lens) = scan.lens.as_chunks::<N>();
    let (origin_steps, origins) = scan.origins.as_chunks::<N>();
    let (key_steps, keys) = keys.as_chunks_mut::<N>();
    let (hash_steps, hashes) = hashes.as_chunks_mut::<N>();
    let inputs = header_steps.iter().zip(len_steps).zip(origin_steps);
    let outputs = key_steps.iter_mut().zip(hash_steps);
    let mut plain = 0;
    for (n, (((headers, lens), origins), (keys, hashes))) in inputs.zip(outputs).enumerate() {
        plain |= step(headers, lens, origins, keys, hashes) << (N * n);
    }
    if let Some(last) = headers.last() {
        let rest = headers.len();
        let (mut all_headers, mut all_lens, mut all_origins) = ([*last; N], [0; N], [0; N]);
        let (mut all_keys, mut all_hashes) = ([no_key; N], [0; N]);
        all_headers[..rest].copy_from_slice(headers);
        all_lens[..rest].copy_from_slice(lens);
        all_origins[..rest].copy_from_slice(origins);
        let answer = step(&all_headers, &all_lens, &all_origins, &mut all_keys, &mut all_hashes);
        plain |= answer << (N * header_steps.len());
        keys.copy_from_slice(&all_keys[..rest]);
        hashes.copy_from_slice(&all_hashes[..rest]);
    }
    plain
}
