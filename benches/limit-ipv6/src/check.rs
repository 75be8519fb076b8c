//! The vector pass against its twins in plain code, before anything is measured.

use crate::{
    chain::{self, BATCH, Context, Descriptor, Frames},
    frame::{self, KEY, KEY_LEN, connection},
    table::Table,
};

/// Panics when the chain does not do what the plain code says.
pub fn run() {
    let mut frames = Frames::new(BATCH);
    let mut ring: Vec<Descriptor> = (0..BATCH)
        .map(|n| Descriptor { offset: Frames::offset(n), len: frame::LEN as u16, ingress: 0 })
        .collect();
    for (n, descriptor) in (0..).zip(&mut ring) {
        let (from, _) = connection(n * 71, n % 2 == 1);
        descriptor.ingress = from.ingress;
        frame::write(frames.frame(descriptor.offset), &from);
        let bytes = frames.frame(descriptor.offset);
        assert_eq!(bytes[KEY + 4..KEY + KEY_LEN], frame::key(&from)[4..]);
    }
    for (n, (hash, odd)) in (0..).zip(chain::validate_and_hash_all(&frames, &ring)) {
        let (from, _) = connection(n * 71, n % 2 == 1);
        assert_eq!(hash, frame::hash(&frame::key(&from)), "hash of packet {n}");
        assert!(!odd, "packet {n} is plain");
    }
    // Every bit of the headers flipped, one at a time, and frames cut short.
    let mut refused = 0;
    for n in 0..BATCH {
        let offset = ring[n].offset;
        for bit in 12 * 8..72 * 8 {
            frames.frame(offset)[bit / 8] ^= 1 << (bit % 8);
            let expected = !frame::is_plain(frames.frame(offset), frame::LEN);
            assert_eq!(chain::validate_and_hash_all(&frames, &ring)[n].1, expected, "packet {n} bit {bit}");
            refused += u32::from(expected);
            frames.frame(offset)[bit / 8] ^= 1 << (bit % 8);
        }
        for len in [0, 53, 83, 84, 85] {
            ring[n].len = len;
            let expected = !frame::is_plain(frames.frame(offset), len.into());
            assert_eq!(
                chain::validate_and_hash_all(&frames, &ring)[n].1,
                expected,
                "packet {n} length {len}"
            );
        }
        ring[n].len = frame::LEN as u16;
    }
    assert!(refused > 0);
    counts();
    println!("# checked: hashes, validity ({refused} headers refused), counters");
}

/// Every packet is counted once with its entry, rule and port.
fn counts() {
    let connections = 5000;
    let table = Table::of(connections);
    let mut context = Context::new();
    let mut frames = Frames::new(BATCH);
    let mut out = [0; BATCH];
    for start in (0..connections).step_by(BATCH) {
        let numbers = (0..BATCH as u32).map(|n| ((start + n) % connections, n % 2 == 1));
        let ring: Vec<Descriptor> = numbers
            .clone()
            .zip(0..)
            .map(|((n, back), place)| {
                let (from, _) = connection(n, back);
                let offset = Frames::offset(place);
                frame::write(frames.frame(offset), &from);
                Descriptor { offset, len: frame::LEN as u16, ingress: from.ingress }
            })
            .collect();
        // SAFETY: the ring is one batch of these frames, as is `out`.
        unsafe { chain::run::<{ chain::ALL }>(&table, &mut context, &frames, &ring, &mut out) };
        for ((n, back), descriptor) in numbers.zip(&ring) {
            let (from, to) = connection(n, back);
            assert!(frame::is_rewritten(frames.frame(descriptor.offset), &to), "connection {n}");
            let hash = frame::hash(&frame::key(&from));
            // SAFETY: entries that the table gives out are in its memory.
            let is = |entry: *mut crate::table::Entry| unsafe { (*entry).key == frame::key(&from) };
            let entry = table.find(hash, is).expect("it was inserted");
            // SAFETY: as above.
            let (packets, bytes) = unsafe { ((*entry).packets, (*entry).bytes) };
            assert_eq!(u64::from(packets) * frame::LEN as u64, bytes);
            assert!(packets >= 1);
        }
    }
    let batches = u64::from(connections).div_ceil(BATCH as u64) * BATCH as u64;
    for counts in [&context.rules, &context.ports] {
        assert_eq!(counts.iter().map(|c| c.packets).sum::<u64>(), batches);
        assert_eq!(counts.iter().map(|c| c.bytes).sum::<u64>(), batches * frame::LEN as u64);
    }
    assert_eq!(context.exceptions, 0);
}
