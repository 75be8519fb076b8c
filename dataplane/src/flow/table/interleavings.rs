//! The table in orders of steps that shuttle chooses. What is asserted holds in every order.
//!
//! Keys collide: the connections of a test have keys of one bucket and of one tag, so that a reader which holds
//! one key's place reads another's entry there.

mod opening;

use super::{fixture::*, *};
use crate::{
    flow::epochs::NEVER,
    id::Generation,
    sync::{Mutex, explore, lock},
};
use shuttle::{
    sync::atomic::AtomicBool,
    thread::{self, JoinHandle},
};
use std::{collections::HashMap, sync::OnceLock};

const ITERATIONS: usize = 1000;
const SEED: u64 = 9;

/// A tag that no key of these tests has.
const TAKEN: u16 = 0xfffe;

/// A worker's loop over a batch or two, as a thread of its own.
fn spawn(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::spawn(work)
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// The fast path's way to an entry, which each family has its own of.
trait Opens<A: Address> {
    /// Guesses and opens an entry, and shows it as a look-up would have found it; then does with it what hits do.
    fn hit(&self, key: &FlowKey<A>, then: Then) -> Option<Found<A>>;
}

#[derive(Clone, Copy)]
enum Then {
    Nothing,
    Count(u64),
    /// Marks it as agreeing with this generation, if it is older and not denied.
    Stamp(Generation),
}

macro_rules! opens {
    ($a:ty, $hash:ident, $key:expr) => {
        impl Opens<$a> for FlowTable<$a> {
            fn hit(&self, key: &FlowKey<$a>, then: Then) -> Option<Found<$a>> {
                let words = $key(key);
                let mut guess = [NOWHERE];
                self.guess(&[self.engine.$hash(&words)], &mut guess);
                let open = self.open(guess[0], &words)?;
                let rewrite = open.rewrite()?;
                match then {
                    Then::Nothing => {}
                    Then::Count(bytes) => open.touch(Tick(9), bytes),
                    Then::Stamp(mine) if open.is_slow() || open.generation() >= mine => {}
                    Then::Stamp(generation) => open.stamp(generation),
                }
                let meta = meta_from(open.output, open.link);
                let got =
                    (open.generation(), open.adjacency(), open.hops(), open.is_switched(), open.tally());
                assert_eq!(got, (meta.generation, meta.adjacency, meta.hops, meta.switched, meta.tally));
                Some(Found { entry: EntryId(guess[0]), rewrite: Rewrite::from_words(&rewrite), meta })
            }
        }
    };
}

opens!(u32, hash_v4, |key: &FlowKey<u32>| key.v4());
opens!(u128, hash_v6, |key: &FlowKey<u128>| *key.v6());

/// Makes a table for this many workers, none of which has begun.
fn table<A: Address>(workers: usize) -> (Arc<FlowTable<A>>, Arc<Epochs>) {
    let epochs = Arc::new(Epochs::new(workers));
    (Arc::new(FlowTable::new(1, engine(SEED), epochs.clone())), epochs)
}

/// Numbers of connections whose keys have the same first buckets, and one tag on the way out.
fn twins<A: Address>(table: &FlowTable<A>) -> (u16, u16) {
    let place = |n| {
        let (out, back) = (table.hash(&key::<A>(n, false)), table.hash(&key::<A>(n, true)));
        (table.first_bucket(out), tag_of(out), table.first_bucket(back))
    };
    let mut seen = HashMap::new();
    // All tables hash alike.
    static FOUND: [OnceLock<(u16, u16)>; 2] = [const { OnceLock::new() }; 2];
    *FOUND[usize::from(A::LEN == 4)]
        .get_or_init(|| (0..u16::MAX).find_map(|n| seen.insert(place(n), n).map(|first| (first, n))).unwrap())
}

/// Leaves no lane free but those in use and those of entries that are removed.
fn leave_no_lane(table: &FlowTable<impl Address>) {
    (0..table.buckets).for_each(|bucket| leave_no_lane_in(table, bucket));
}

/// The same for one bucket.
fn leave_no_lane_in(table: &FlowTable<impl Address>, bucket: usize) {
    for (n, word) in table.tags[bucket].0.iter().enumerate() {
        // Nobody else is here yet.
        let tags = word.load(Ordering::Relaxed);
        let lane = |lane: usize| match (tags >> (16 * lane)) as u16 {
            FREE if n * 4 + lane < LANES => u64::from(TAKEN) << (16 * lane),
            tag => u64::from(tag) << (16 * lane),
        };
        word.store((0..4).map(lane).fold(0, |all, lane| all | lane), Ordering::Relaxed);
    }
}

/// A connection, and its lock: that of its session.
struct Connection<A> {
    forward: FlowKey<A>,
    reverse: FlowKey<A>,
    entries: Mutex<Option<(EntryId, EntryId)>>,
}

impl<A: Address> Connection<A> {
    fn new(n: u16) -> Arc<Self> {
        Arc::new(Self { forward: key(n, false), reverse: key(n, true), entries: Mutex::new(None) })
    }

    /// Adds it with the session locked, as commit does. Whether that was done.
    fn open(&self, table: &FlowTable<A>, generation: u32) -> bool {
        let mut entries = lock(&self.entries);
        match insert(table, &self.forward, &self.reverse, generation) {
            Ok(new) => *entries = Some(new),
            Err(Taken::Full) => return false,
            Err(taken) => panic!("nobody else adds it: {taken:?}"),
        }
        true
    }

    fn close(&self, table: &FlowTable<A>) {
        if let Some(entries) = lock(&self.entries).take() {
            table.remove_pair(entries);
        }
    }
}

fn assert_empty(table: &FlowTable<impl Address>) {
    assert_eq!((table.live(), overflows(table)), (0, 0), "nothing is left");
}

/// Two workers see the first packet of one connection at once, a third its second.
fn one_insert_wins<A: Address>()
where
    FlowTable<A>: Opens<A>,
{
    let (table, epochs) = table::<A>(3);
    let won = Arc::new(Mutex::new(Vec::new()));
    let (forward, reverse) = (key::<A>(1, false), key::<A>(1, true));
    let inserter = |index: usize| {
        let (table, epochs, won) = (table.clone(), epochs.clone(), won.clone());
        spawn(move || {
            epochs.begin(index);
            match insert(&table, &forward, &reverse, index as u32) {
                Ok(entries) => lock(&won).push(entries),
                Err(Taken::Forward(found)) => {
                    assert_whole(&forward, &found);
                    assert_eq!(found.meta.generation, Generation(1 - index as u32), "the winner's");
                }
                Err(taken) => panic!("{taken:?}"),
            }
            let found = [table.find(&forward), table.hit(&forward, Then::Nothing)].map(Option::unwrap);
            assert_eq!(found[0], found[1]);
            assert_whole(&reverse, &table.find(&reverse).unwrap());
            epochs.rest(index);
        })
    };
    let finder = {
        let (table, epochs) = (table.clone(), epochs.clone());
        spawn(move || {
            epochs.begin(2);
            let mut seen = false;
            for n in 0..4 {
                let found =
                    if n % 2 == 0 { table.find(&forward) } else { table.hit(&forward, Then::Nothing) };
                assert!(found.is_some() || !seen, "found, and then lost");
                seen = found.is_some();
                if let Some(found) = found {
                    assert_whole(&forward, &found);
                    // It is published after the other.
                    assert_whole(&reverse, &table.find(&reverse).unwrap());
                }
            }
            epochs.rest(2);
        })
    };
    join([inserter(0), inserter(1), finder]);
    let won = lock(&won).clone();
    let [(f, r)] = won[..] else { panic!("{} inserts won", won.len()) };
    assert_eq!(table.find(&forward).unwrap().entry, f);
    assert_eq!(table.live(), 2);
    table.remove_pair((f, r));
    assert_empty(&table);
}

/// Connections whose keys lie crosswise are added at once, and two that want the same answers.
fn inserts_do_not_wait_for_each_other<A: Address>() {
    let (table, epochs) = table::<A>(2);
    let bucket = |key: &FlowKey<A>| table.first_bucket(table.hash(key));
    let apart = |n: &u16| bucket(&key(*n, false)) != bucket(&key(*n, true));
    let first = (10..u16::MAX).find(apart).unwrap();
    let first = (key::<A>(first, false), key::<A>(first, true));
    let crossing = |n: &u16| {
        let (forward, reverse) = (key::<A>(*n, false), key::<A>(*n, true));
        bucket(&forward) == bucket(&first.1) && bucket(&reverse) == bucket(&first.0)
    };
    let n = (200..u16::MAX).find(crossing).unwrap();
    let pairs = [first, (key(n, false), key(n, true))];
    let answers = key::<A>(7, true);
    let work = |index: usize| {
        let (table, epochs) = (table.clone(), epochs.clone());
        let rival = key::<A>(100 + index as u16, false);
        thread::spawn(move || {
            epochs.begin(index);
            let (forward, reverse) = pairs[index];
            assert!(insert(&table, &forward, &reverse, 1).is_ok());
            let result = insert(&table, &rival, &answers, index as u32);
            assert!(matches!(result, Ok(_) | Err(Taken::Reverse)), "{result:?}");
            epochs.rest(index);
            result.is_ok()
        })
    };
    let threads = [work(0), work(1)];
    let won = threads.map(|thread| thread.join().unwrap()).into_iter().filter(|won| *won).count();
    assert_eq!((won, table.live()), (1, 6), "one holds the answers' key");
}

/// One worker opens a connection, one closes another of the same tag and opens it again, two look both up, and a
/// third that lies behind them and is there all the time.
fn an_entry_is_found_whole_or_not_at_all<A: Address>()
where
    FlowTable<A>: Opens<A>,
{
    let (table, epochs) = table::<A>(4);
    let (a, b) = twins(&table);
    let (opened, closed, stays) = (Connection::<A>::new(a), Connection::new(b), Connection::new(3));
    assert!(closed.open(&table, 1) && stays.open(&table, 1));
    // Of what is free now, only what `closed` leaves behind.
    leave_no_lane_in(&table, table.first_bucket(table.hash(&closed.forward)));
    let opener = {
        let (table, epochs, opened) = (table.clone(), epochs.clone(), opened.clone());
        spawn(move || {
            epochs.begin(0);
            assert!(opened.open(&table, 2));
            assert_whole(&opened.forward, &table.find(&opened.forward).unwrap());
            epochs.rest(0);
        })
    };
    let closer = {
        let (table, epochs, closed) = (table.clone(), epochs.clone(), closed.clone());
        spawn(move || {
            epochs.begin(1);
            closed.close(&table);
            assert_eq!(table.find(&closed.forward), None);
            epochs.begin(1);
            assert!(closed.open(&table, 3));
            assert_whole(&closed.reverse, &table.find(&closed.reverse).unwrap());
            epochs.rest(1);
        })
    };
    let finder = |index: usize| {
        let (table, epochs) = (table.clone(), epochs.clone());
        let connections = [opened.clone(), closed.clone()];
        let stays = stays.clone();
        spawn(move || {
            for connection in connections {
                epochs.begin(index);
                let look = |key| if index == 2 { table.find(key) } else { table.hit(key, Then::Nothing) };
                for key in [&connection.forward, &connection.reverse] {
                    if let Some(found) = look(key) {
                        assert_whole(key, &found);
                    }
                }
                assert_whole(&stays.forward, &table.find(&stays.forward).expect("never gone"));
            }
            epochs.rest(index);
        })
    };
    join([opener, closer, finder(2), finder(3)]);
    assert_eq!(table.live(), 6);
    [opened, closed, stays].iter().for_each(|connection| connection.close(&table));
    assert_empty(&table);
}

/// A worker counts into what it found earlier in its batch. Meanwhile the connection ends, and another wants the
/// slot.
fn nobody_counts_into_anothers_entry<A: Address>()
where
    FlowTable<A>: Opens<A>,
{
    const PACKET: usize = 1000;
    let (table, epochs) = table::<A>(3);
    let (a, b) = twins(&table);
    let (old, new) = (Connection::<A>::new(a), Connection::new(b));
    assert!(old.open(&table, 1));
    leave_no_lane(&table);
    let ended = Arc::new(AtomicBool::new(false));
    let counter = |index: usize| {
        let (table, epochs, old) = (table.clone(), epochs.clone(), old.clone());
        spawn(move || {
            for _ in 0..2 {
                epochs.begin(index);
                if index == 0 {
                    table.hit(&old.forward, Then::Count(PACKET as u64));
                } else if let Some(found) = table.find(&old.forward) {
                    thread::yield_now();
                    table.touch(found.entry, Tick(9), PACKET);
                }
            }
            epochs.rest(index);
        })
    };
    let opener = {
        let (table, epochs, new, ended) = (table.clone(), epochs.clone(), new.clone(), ended.clone());
        spawn(move || {
            for _ in 0..4 {
                epochs.begin(2);
                if new.open(&table, 2) {
                    assert!(ended.load(Ordering::SeqCst), "there was no slot");
                    break;
                }
                thread::yield_now();
            }
            epochs.rest(2);
        })
    };
    // Whoever detaches a port ends sessions, and is no worker.
    let closer = {
        let (table, old) = (table.clone(), old.clone());
        spawn(move || {
            ended.store(true, Ordering::SeqCst);
            old.close(&table);
        })
    };
    join([counter(0), counter(1), opener, closer]);
    if lock(&new.entries).is_none() {
        assert!(new.open(&table, 2), "the slots are free when all have passed a batch boundary");
    }
    let (forward, reverse) = lock(&new.entries).unwrap();
    for (entry, key) in [(forward, &new.forward), (reverse, &new.reverse)] {
        let used = table.usage(entry);
        assert_eq!((used.packets, used.bytes, used.last), (0, 0, Tick(7)), "another's packets");
        assert_whole(key, &table.find(key).unwrap());
    }
    new.close(&table);
    assert_eq!(table.live(), 0);
}

/// A slot is wanted by one who rests while another, who rests too, is about to remove what is in it.
fn a_slot_is_not_reused_before_it_is_unlinked<A: Address>() {
    let (table, _) = table::<A>(1);
    let (a, b) = twins(&table);
    let (old, new) = (Connection::<A>::new(a), Connection::new(b));
    assert!(old.open(&table, 1));
    leave_no_lane(&table);
    let closer = {
        let (table, old) = (table.clone(), old.clone());
        spawn(move || old.close(&table))
    };
    let opener = {
        let (table, new) = (table.clone(), new.clone());
        spawn(move || {
            (0..3).any(|_| new.open(&table, 2));
        })
    };
    join([closer, opener]);
    assert!(lock(&new.entries).is_some() || new.open(&table, 2));
    assert_whole(&new.forward, &table.find(&new.forward).expect("added"));
    assert_whole(&new.reverse, &table.find(&new.reverse).expect("added"));
}

/// A slot is free for one worker, who comes by late: another has used it and freed it again, and a third still
/// holds what was in it meanwhile.
fn a_slot_is_looked_at_again_when_it_is_taken<A: Address>() {
    const CLAIMED: u16 = 6;
    const LIVE: u16 = 7;
    let (table, epochs) = table::<A>(3);
    let slot = EntryId(5);
    let unlink = move |table: &FlowTable<A>, epochs: &Epochs| {
        table.entry(slot.0)(0).store(NEVER, Ordering::SeqCst);
        table.set_lane(slot, DEAD);
        table.entry(slot.0)(0).store(epochs.retire(), Ordering::SeqCst);
    };
    unlink(&table, &epochs);
    let held = Arc::new(AtomicBool::new(false));
    let late = {
        let (table, epochs, held) = (table.clone(), epochs.clone(), held.clone());
        spawn(move || {
            epochs.begin(0);
            if table.claim_dead(slot, CLAIMED) {
                assert!(!held.load(Ordering::SeqCst), "a worker holds what was here");
            }
            epochs.rest(0);
        })
    };
    let fast = {
        let (table, epochs) = (table.clone(), epochs.clone());
        spawn(move || {
            epochs.begin(1);
            if table.claim_dead(slot, CLAIMED) {
                table.set_lane(slot, LIVE);
                unlink(&table, &epochs);
            }
            epochs.rest(1);
        })
    };
    let holder = {
        let (table, epochs) = (table.clone(), epochs.clone());
        spawn(move || {
            epochs.begin(2);
            if vector::lanes(&table.tags[0], LIVE) >> slot.0 & 1 == 1 {
                held.store(true, Ordering::SeqCst);
                thread::yield_now();
                held.store(false, Ordering::SeqCst);
            }
            epochs.rest(2);
        })
    };
    join([late, fast, holder]);
}

/// A worker with snapshot 2 finds that an entry of snapshot 1 stands and stamps it, as the sweep of another does;
/// one with snapshot 3 denies the connection, or computes it anew.
fn a_newer_judgement_is_not_overwritten<A: Address>(deny: bool)
where
    FlowTable<A>: Opens<A>,
{
    let (table, epochs) = table::<A>(4);
    let connection = Connection::<A>::new(1);
    // The sweep passes entries of those who opened.
    let (rewrite, meta) = value(&connection.forward, 1);
    let meta = Meta { forward: true, ..meta };
    let (back, back_meta) = value(&connection.reverse, 1);
    let pair = ((&connection.forward, &rewrite, &meta), (&connection.reverse, &back, &back_meta));
    let spots = (table.hash(&connection.forward).into(), table.hash(&connection.reverse).into());
    let entry = table.insert_pair(pair.0, pair.1, spots, Tick(7)).unwrap().0;
    let forward = connection.forward;
    let second = value(&forward, 3);
    let second_meta = Meta { forward: true, ..second.1 };
    let assert_known = move |found: &Found<A>| {
        let known = |(rewrite, meta): (Rewrite<A>, Meta)| {
            let stamped = Meta { generation: found.meta.generation, denied: found.meta.denied, ..meta };
            let counted = if found.meta.denied { Meta { tally: 77, ..stamped } } else { stamped };
            (found.rewrite, found.meta) == (rewrite, Meta { forward: true, ..counted })
        };
        assert!(known((rewrite, meta)) || known((second.0, second_meta)), "torn: {found:?}");
    };
    let stamper = {
        let (table, epochs) = (table.clone(), epochs.clone());
        spawn(move || {
            epochs.begin(0);
            for _ in 0..2 {
                let found = table.hit(&forward, Then::Stamp(Generation(2)));
                found.iter().for_each(assert_known);
            }
            epochs.rest(0);
        })
    };
    let sweeper = {
        let (table, epochs) = (table.clone(), epochs.clone());
        let bucket = entry.0 as usize / LANES;
        spawn(move || {
            epochs.begin(1);
            table.pass(bucket, |passed| {
                thread::yield_now();
                assert!(passed.meta.generation <= Generation(3), "of an entry that was never there");
            });
            epochs.rest(1);
        })
    };
    let judge = {
        let (table, epochs, connection) = (table.clone(), epochs.clone(), connection.clone());
        spawn(move || {
            epochs.begin(2);
            let session = lock(&connection.entries);
            if deny {
                table.deny(entry, Generation(3), 77);
            } else {
                table.update(entry, &second.0, &second_meta);
            }
            drop(session);
            epochs.rest(2);
        })
    };
    // A packet that was no hit, judged in snapshot 2: the record tells it whether it may stamp.
    let slow = {
        let (table, epochs, connection) = (table.clone(), epochs.clone(), connection.clone());
        spawn(move || {
            epochs.begin(3);
            let session = lock(&connection.entries);
            let meta = table.meta(entry);
            if meta.generation < Generation(2) && !meta.denied {
                table.stamp(entry, Generation(2));
            }
            drop(session);
            let found = table.find(&connection.forward).unwrap();
            assert_known(&found);
            epochs.rest(3);
        })
    };
    join([stamper, sweeper, judge, slow]);
    let found = table.find(&forward).unwrap();
    let expected = if deny {
        (rewrite, Meta { generation: Generation(3), denied: true, tally: 77, ..meta })
    } else {
        (second.0, second_meta)
    };
    assert_eq!((found.rewrite, found.meta), expected);
}

/// Two workers open and close connections that find no room in their bucket; a third looks for one that did not
/// either.
fn overflow_counts_lose_nothing<A: Address>() {
    let (table, epochs) = table::<A>(3);
    let bucket = |n: u16| table.first_bucket(table.hash(&key::<A>(n, false)));
    let mut alike = (0..u16::MAX).filter(|n| bucket(*n) == bucket(0)).map(Connection::<A>::new);
    let stays = alike.next().unwrap();
    leave_no_lane_in(&table, bucket(0));
    let work = |index: usize, connection: Arc<Connection<A>>| {
        let (table, epochs) = (table.clone(), epochs.clone());
        spawn(move || {
            for round in 0..2 {
                epochs.begin(index);
                assert!(connection.open(&table, round));
                assert_whole(&connection.forward, &table.find(&connection.forward).expect("just added"));
                connection.close(&table);
            }
            epochs.rest(index);
        })
    };
    assert!(stays.open(&table, 1));
    let finder = {
        let (table, epochs, stays) = (table.clone(), epochs.clone(), stays.clone());
        spawn(move || {
            epochs.begin(2);
            for _ in 0..3 {
                assert_whole(&stays.forward, &table.find(&stays.forward).expect("never gone"));
            }
            epochs.rest(2);
        })
    };
    join([work(0, alike.next().unwrap()), work(1, alike.next().unwrap()), finder]);
    assert!(overflows(&table) > 0);
    stays.close(&table);
    assert_empty(&table);
}

macro_rules! in_both_families {
    ($($name:ident($($arg:expr),*) as $v4:ident, $v6:ident;)*) => {$(
        #[test]
        fn $v4() {
            explore(ITERATIONS, || $name::<u32>($($arg),*));
        }

        #[test]
        fn $v6() {
            explore(ITERATIONS, || $name::<u128>($($arg),*));
        }
    )*};
}

in_both_families! {
    one_insert_wins() as one_insert_wins_ipv4, one_insert_wins_ipv6;
    inserts_do_not_wait_for_each_other() as inserts_do_not_wait_for_each_other_ipv4,
        inserts_do_not_wait_for_each_other_ipv6;
    an_entry_is_found_whole_or_not_at_all() as an_entry_is_found_whole_or_not_at_all_ipv4,
        an_entry_is_found_whole_or_not_at_all_ipv6;
    nobody_counts_into_anothers_entry() as nobody_counts_into_anothers_entry_ipv4,
        nobody_counts_into_anothers_entry_ipv6;
    a_slot_is_not_reused_before_it_is_unlinked() as a_slot_is_not_reused_before_it_is_unlinked_ipv4,
        a_slot_is_not_reused_before_it_is_unlinked_ipv6;
    a_slot_is_looked_at_again_when_it_is_taken() as a_slot_is_looked_at_again_when_it_is_taken_ipv4,
        a_slot_is_looked_at_again_when_it_is_taken_ipv6;
    a_newer_judgement_is_not_overwritten(true) as a_denial_is_not_overwritten_ipv4,
        a_denial_is_not_overwritten_ipv6;
    a_newer_judgement_is_not_overwritten(false) as an_update_is_not_overwritten_ipv4,
        an_update_is_not_overwritten_ipv6;
    overflow_counts_lose_nothing() as overflow_counts_lose_nothing_ipv4, overflow_counts_lose_nothing_ipv6;
}
