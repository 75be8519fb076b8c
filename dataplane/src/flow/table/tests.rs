use super::{fixture::*, *};
use crate::{id::Generation, sync::Mutex, time::Duration};
use proptest::{collection::vec, prelude::*};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::AtomicBool,
};

#[derive(Debug, Clone)]
enum Op {
    Insert(u16, u16),
    Remove(u16),
    Update(u16),
    Deny(u16, bool),
    Touch(u16),
    BatchBoundary,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    // More pairs than there is room for, so that buckets overflow and the table fills up.
    let n = || 0..160u16;
    let op = prop_oneof![
        12 => (n(), n()).prop_map(|(f, r)| Op::Insert(f, r)),
        12 => n().prop_map(|n| Op::Insert(n, n)),
        5 => n().prop_map(Op::Remove),
        3 => n().prop_map(Op::Update),
        2 => (n(), any::<bool>()).prop_map(|(n, denied)| Op::Deny(n, denied)),
        2 => n().prop_map(Op::Touch),
        1 => Just(Op::BatchBoundary),
    ];
    vec(op, 1..900)
}

/// A connection in the oracle: its answers' key, its entries, and what they say.
struct Live {
    answers: u16,
    entries: (EntryId, EntryId),
    generation: u32,
    denied: bool,
    packets: u64,
}

/// Plays the operations on a table of 8 buckets and on maps.
fn agrees_with_maps<A: Address>(ops: &[Op]) {
    let epochs = Arc::new(Epochs::new(1));
    let table = FlowTable::<A>::new(1, engine(42), epochs.clone());
    let (mut live, mut answers) = (BTreeMap::<u16, Live>::new(), BTreeSet::new());
    // Entries removed since the last batch boundary: the worker may still hold them.
    let mut held = BTreeSet::new();
    epochs.begin(0);
    for (n, op) in (1..).zip(ops) {
        match *op {
            Op::Insert(f, r) => match insert(&table, &key(f, false), &key(r, true), n) {
                Ok(entries) => {
                    for entry in [entries.0, entries.1] {
                        assert!(!held.contains(&entry.0), "reused while a worker may hold it");
                    }
                    assert!(answers.insert(r));
                    let new = Live { answers: r, entries, generation: n, denied: false, packets: 0 };
                    assert!(live.insert(f, new).is_none());
                }
                Err(Taken::Forward(found)) => {
                    assert_eq!(found.entry, live[&f].entries.0);
                    assert_whole(&key(f, false), &found);
                }
                Err(Taken::Reverse) => assert!(!live.contains_key(&f) && answers.contains(&r)),
                // A key sees 7 buckets of the 8 at least.
                Err(Taken::Full) => assert!(table.live() + held.len() + 1 >= 7 * LANES, "full too early"),
            },
            Op::Remove(f) => {
                if let Some(gone) = live.remove(&f) {
                    answers.remove(&gone.answers);
                    table.remove_pair(gone.entries);
                    held.extend([gone.entries.0.0, gone.entries.1.0]);
                }
            }
            Op::Update(f) => {
                if let Some(l) = live.get_mut(&f) {
                    (l.generation, l.denied) = (n, false);
                    for (entry, key) in
                        [(l.entries.0, key::<A>(f, false)), (l.entries.1, key(l.answers, true))]
                    {
                        let (rewrite, meta) = value(&key, n);
                        table.update(entry, &rewrite, &meta);
                    }
                }
            }
            Op::Deny(f, denied) => {
                if let Some(l) = live.get_mut(&f) {
                    l.denied = denied;
                    let tally = value(&key::<A>(f, false), l.generation).1.tally;
                    if denied {
                        table.deny(l.entries.0, Generation(l.generation), tally);
                        table.deny(l.entries.1, Generation(l.generation), tally);
                    } else {
                        l.denied = table.meta(l.entries.0).denied;
                        table.stamp(l.entries.0, Generation(l.generation));
                        table.stamp(l.entries.1, Generation(l.generation));
                    }
                }
            }
            Op::Touch(f) => {
                if let Some(l) = live.get_mut(&f) {
                    l.packets += 1;
                    table.touch(l.entries.0, Tick(9), 100);
                }
            }
            Op::BatchBoundary => {
                epochs.begin(0);
                held.clear();
            }
        }
        assert_eq!(table.live(), 2 * live.len());
    }
    for n in 0..160 {
        let found = table.find(&key(n, false));
        assert_eq!(found.is_some(), live.contains_key(&n));
        assert_eq!(table.find(&key(n, true)).is_some(), answers.contains(&n));
        if let Some((found, l)) = found.zip(live.get(&n)) {
            assert_whole(&key(n, false), &found);
            assert_eq!((found.meta.generation.0, found.meta.denied), (l.generation, l.denied));
            let usage = table.usage(found.entry);
            let last = if l.packets > 0 { 9 } else { 7 };
            assert_eq!((usage.packets, usage.bytes), (l.packets, 100 * l.packets));
            assert_eq!(usage.last, Tick(last));
        }
    }
    for l in live.values() {
        table.remove_pair(l.entries);
    }
    assert_eq!((table.live(), overflows(&table)), (0, 0), "nothing is left");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_maps_ipv4(ops in ops()) {
        agrees_with_maps::<u32>(&ops);
    }

    #[test]
    fn agrees_with_maps_ipv6(ops in ops()) {
        agrees_with_maps::<u128>(&ops);
    }

    #[test]
    fn ticks_are_compared_across_their_end(start: u32, ticks in 0..0x7f_ffffu32) {
        let earlier = Tick(start & 0xff_ffff);
        let later = Tick(earlier.0.wrapping_add(ticks) & 0xff_ffff);
        prop_assert_eq!(earlier.until(later), Duration::from_micros(u64::from(ticks) << 16));
        prop_assert_eq!(later.until(earlier), Duration::ZERO, "a tick ahead is now");
    }
}

#[test]
fn a_full_table_refuses_and_has_room_again_after_a_batch_boundary() {
    let epochs = Arc::new(Epochs::new(1));
    let table = FlowTable::<u32>::new(1, engine(1), epochs.clone());
    epochs.begin(0);
    let mut held: Vec<_> =
        (0..).map_while(|n| insert(&table, &key(n, false), &key(n, true), 1).ok()).collect();
    assert!(held.len() > 100 && overflows(&table) > 0, "{} pairs", held.len());
    let next = held.len() as u16;
    table.remove_pair(held.swap_remove(3));
    let mut refused = (0..8).map(|n| insert(&table, &key(next + n, false), &key(next + n, true), 1));
    assert!(refused.all(|result| result == Err(Taken::Full)), "a worker may still hold the two slots");
    epochs.begin(0);
    let mut tried = (0..200).map(|n| insert(&table, &key(next + n, false), &key(next + n, true), 1));
    assert!(tried.any(|result| result.is_ok()));
}

const THREADS: usize = 4;
const PAIRS: u16 = 24;
const ROUNDS: u32 = 20_000;

/// Threads insert, find, change and remove the same few connections.
fn stress<A: Address>() {
    let epochs = Arc::new(Epochs::new(THREADS));
    let table = FlowTable::<A>::new(4, engine(3), epochs.clone());
    // A connection's lock, as that of a session: held to change or remove, not to insert.
    let places: Vec<Mutex<Option<(EntryId, EntryId, u32)>>> = (0..PAIRS).map(|_| Mutex::new(None)).collect();
    let exists: Vec<AtomicBool> = (0..PAIRS).map(|_| AtomicBool::new(false)).collect();
    let worker = |index: usize| {
        let mut random = 0x9e37_79b9_7f4a_7c15 ^ index as u64;
        for round in 1..=ROUNDS {
            if round % 16 == 1 {
                epochs.begin(index);
            }
            // xorshift64
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let n = (random >> 32) as u16 % PAIRS;
            let (forward, reverse) = (key::<A>(n, false), key::<A>(n, true));
            let place = &places[usize::from(n)];
            match random % 8 {
                0 | 1 => match insert(&table, &forward, &reverse, round) {
                    Ok((f, r)) => {
                        assert!(!exists[usize::from(n)].swap(true, Ordering::SeqCst), "admitted twice");
                        assert!(place.lock().unwrap().replace((f, r, round)).is_none());
                    }
                    Err(Taken::Forward(found)) => assert_whole(&forward, &found),
                    // Its removal is half done.
                    Err(Taken::Reverse) => {}
                    // Slots wait for a batch boundary of a thread that is not running.
                    Err(Taken::Full) => std::thread::yield_now(),
                },
                2 => {
                    let mut place = place.lock().unwrap();
                    if let Some((f, r, _)) = place.take() {
                        exists[usize::from(n)].store(false, Ordering::SeqCst);
                        table.remove_pair((f, r));
                    }
                }
                3 => {
                    if let Some((f, r, generation)) = &mut *place.lock().unwrap() {
                        *generation = round;
                        for (entry, key) in [(*f, &forward), (*r, &reverse)] {
                            let (rewrite, meta) = value(key, round);
                            table.update(entry, &rewrite, &meta);
                        }
                    }
                }
                4 => {
                    if let Some((f, _, generation)) = *place.lock().unwrap() {
                        let tally = value(&forward, generation).1.tally;
                        if round % 2 == 0 {
                            table.deny(f, Generation(generation), tally);
                        } else {
                            table.stamp(f, Generation(generation));
                        }
                    }
                }
                _ => {
                    for key in [&forward, &reverse] {
                        if let Some(found) = table.find(key) {
                            assert_whole(key, &found);
                            table.touch(found.entry, Tick(round), 60);
                        }
                    }
                }
            }
        }
        epochs.rest(index);
    };
    std::thread::scope(|scope| {
        (0..THREADS).for_each(|index| drop(scope.spawn(move || worker(index))));
    });
    for (f, r, _) in places.iter().filter_map(|place| place.lock().unwrap().take()) {
        table.remove_pair((f, r));
    }
    assert_eq!((table.live(), overflows(&table)), (0, 0), "nothing is left");
    for n in 0..PAIRS {
        assert_eq!((table.find(&key(n, false)), table.find(&key(n, true))), (None, None));
        assert!(insert(&table, &key(n, false), &key(n, true), 1).is_ok(), "every slot can be used again");
    }
}

#[test]
fn racing_threads_see_whole_entries_ipv4() {
    stress::<u32>();
}

#[test]
fn racing_threads_see_whole_entries_ipv6() {
    stress::<u128>();
}

/// One thread changes a single entry without a pause, others read it.
fn one_version_at_a_time<A: Address>() {
    let table = FlowTable::<A>::new(1, engine(5), Arc::new(Epochs::new(1)));
    let (forward, reverse) = (key::<A>(1, false), key::<A>(1, true));
    let (entry, _) = insert(&table, &forward, &reverse, 0).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) {
                    let found = table.find(&forward).expect("never absent");
                    assert_whole(&forward, &found);
                    assert!(found.meta.generation.0 >= seen, "never older than before");
                    seen = found.meta.generation.0;
                }
            });
        }
        for generation in 1..=100_000 {
            let (rewrite, meta) = value(&forward, generation);
            table.update(entry, &rewrite, &meta);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn readers_see_one_version_at_a_time_ipv4() {
    one_version_at_a_time::<u32>();
}

#[test]
fn readers_see_one_version_at_a_time_ipv6() {
    one_version_at_a_time::<u128>();
}
