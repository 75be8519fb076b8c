//! What has happened to connections lately: read from the workers' rings all the time, and kept for who asks.
//!
//! Connections that were not let in are kept apart, so that a flood of them pushes out none of the others.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use supernet::{
    FlowLog, Flows, Running,
    flows::{FlowNames, Missed, Record, What},
};

/// Records that are kept of either kind: 4 MB in all.
pub(super) const KEPT: usize = 1 << 13;

/// How often the rings are read.
const READ: Duration = Duration::from_millis(10);

/// One of what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// What happened to a connection.
    Record(Box<Record>),
    /// What could not be logged.
    Missed(Missed),
}

/// The history of a lab. Dropping it ends its log.
#[derive(Debug)]
pub(in crate::lab) struct History {
    shared: Arc<Shared>,
    names: FlowNames,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    kept: Mutex<Kept>,
    more: Condvar,
}

/// How far a reader is: entries of either kind, from the first there ever was.
pub(super) type At = [u64; 2];

/// The last entries, by kind: of what happened to connections, and of those that were not let in.
#[derive(Debug, Default)]
struct Kept {
    kinds: [Kind; 2],
    count: u64,
}

/// The last entries of a kind, each with its place among all.
#[derive(Debug, Default)]
struct Kind {
    first: u64,
    entries: VecDeque<(u64, Entry)>,
}

impl Kind {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The entry with this number, if it is kept.
    fn get(&self, number: u64) -> Option<&(u64, Entry)> {
        self.entries.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

impl Kept {
    fn end(&self) -> At {
        self.kinds.each_ref().map(Kind::end)
    }

    fn put(&mut self, entries: impl Iterator<Item = Entry>) {
        for entry in entries {
            let kind = &mut self.kinds[usize::from(entry.is_denied())];
            if kind.entries.len() >= KEPT {
                kind.entries.pop_front();
                kind.first += 1;
            }
            kind.entries.push_back((self.count, entry));
            self.count += 1;
        }
    }
}

impl Entry {
    fn is_denied(&self) -> bool {
        matches!(self, Self::Record(record) if matches!(record.what, What::Denied { lives: false, .. }))
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nobody leaves it half done.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// Logs what happens in `net` from now on.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(in crate::lab) fn begin(net: &Running) -> io::Result<Self> {
        let flows = net.flows(&FlowLog::default());
        let (shared, names) = (Arc::<Shared>::default(), flows.names().clone());
        let theirs = shared.clone();
        let thread = thread::Builder::new().name("flows".to_owned()).spawn(move || keep(flows, &theirs))?;
        Ok(Self { shared, names, thread: Some(thread) })
    }

    /// What puts names to records.
    pub(super) fn names(&self) -> FlowNames {
        self.names.clone()
    }

    /// A reader that begins with the oldest that is kept, and where it is past the newest.
    pub(super) fn reader(&self) -> (Reader, At) {
        let kept = self.shared.kept();
        let next = kept.kinds.each_ref().map(|kind| kind.first);
        (Reader { shared: self.shared.clone(), next }, kept.end())
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn keep(mut flows: Flows, shared: &Shared) {
    let mut new = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        while let Some(record) = flows.next_record() {
            new.push(Entry::Record(Box::new(record)));
        }
        new.extend(flows.missed().map(Entry::Missed));
        if !new.is_empty() {
            shared.kept().put(new.drain(..));
            shared.more.notify_all();
        }
        thread::sleep(READ);
    }
}

/// One that reads a history, at its own pace.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    next: At,
}

impl Reader {
    /// Goes on from there, unless it is further.
    pub(super) fn skip_to(&mut self, at: At) {
        self.next.iter_mut().zip(at).for_each(|(next, at)| *next = at.max(*next));
    }

    /// Takes at most `most` of what came before `until`, in order. `false`: there is nothing left.
    pub(super) fn take_until(&mut self, until: At, into: &mut Vec<Entry>, most: usize) -> (bool, u64) {
        let shared = self.shared.clone();
        let kept = shared.kept();
        let lost = self.pass(&kept, until);
        for _ in 0..most {
            let next = |kind: usize| {
                let number = self.next[kind];
                (number < until[kind]).then(|| kept.kinds[kind].get(number)).flatten().map(|e| (e.0, kind))
            };
            let Some((_, kind)) = (0..2).filter_map(next).min() else { return (false, lost) };
            into.extend(kept.kinds[kind].get(self.next[kind]).map(|(_, entry)| entry.clone()));
            self.next[kind] += 1;
        }
        (true, lost)
    }

    /// Takes at most `most` entries, in order, waiting for one `at_most` so long. How many were forgotten before they were
    /// read.
    pub(super) fn take(&mut self, into: &mut Vec<Entry>, most: usize, at_most: Duration) -> u64 {
        let shared = self.shared.clone();
        let nothing = |kept: &mut Kept| kept.end() == self.next;
        let waited = shared.more.wait_timeout_while(shared.kept(), at_most, nothing);
        let end = waited.unwrap_or_else(PoisonError::into_inner).0.end();
        self.take_until(end, into, most).1
    }

    /// Passes over what is forgotten: how many.
    fn pass(&mut self, kept: &Kept, until: At) -> u64 {
        let mut lost = 0;
        for ((next, kind), until) in self.next.iter_mut().zip(&kept.kinds).zip(until) {
            let gone = kind.first.min(until).saturating_sub(*next);
            lost += gone;
            *next += gone;
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use supernet::DropReason;
    use supernet_dataplane::{id::PortId, rewrite::Tuple, wire::Proto};

    fn missed(n: u64) -> Entry {
        Entry::Missed(Missed { time_micros: n, missed: 1, missed_denied: 0, repeated: 0 })
    }

    fn denied(n: u64) -> Entry {
        let (src, dst) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let original = Tuple { src, dst, proto: Proto::TCP, sport: 1, dport: 2 };
        let what = What::Denied { reason: DropReason::IngressDenied, lives: false };
        let at = supernet::Instant::from_micros(n);
        Entry::Record(Box::new(Record::new(at, (n, n), what, PortId(0), original)))
    }

    fn reader(shared: &Arc<Shared>) -> impl FnMut(usize) -> (u64, Vec<Entry>) {
        let mut reader = Reader { shared: shared.clone(), next: [0; 2] };
        move |most| {
            let mut entries = Vec::new();
            let lost = reader.take(&mut entries, most, Duration::ZERO);
            (lost, entries)
        }
    }

    #[test]
    fn a_reader_that_lags_behind_is_told_and_goes_on() {
        let shared = Arc::<Shared>::default();
        let mut take = reader(&shared);
        assert_eq!(take(10), (0, Vec::new()));
        shared.kept().put((0..5).map(missed));
        assert_eq!(take(2), (0, vec![missed(0), missed(1)]));
        let all = KEPT as u64 + 10;
        shared.kept().put((5..all).map(missed));
        let (lost, entries) = take(3);
        assert_eq!((lost, entries), (8, vec![missed(10), missed(11), missed(12)]));
        let (lost, entries) = take(usize::MAX);
        assert_eq!((lost, entries.len(), entries.last()), (0, KEPT - 3, Some(&missed(all - 1))));
        assert_eq!(take(10), (0, Vec::new()));
    }

    #[test]
    fn a_flood_of_denials_pushes_out_nothing_else_and_order_is_kept() {
        let shared = Arc::<Shared>::default();
        let mut take = reader(&shared);
        shared.kept().put([denied(0), missed(1), denied(2), denied(3), missed(4)].into_iter());
        assert_eq!(take(9).1, [denied(0), missed(1), denied(2), denied(3), missed(4)]);
        shared.kept().put([missed(5)].into_iter().chain((6..100_000).map(denied)).chain([missed(7)]));
        let (lost, entries) = take(usize::MAX);
        assert_eq!((lost, entries.len()), (99_994 - KEPT as u64, KEPT + 2));
        assert_eq!((&entries[0], entries.last()), (&missed(5), Some(&missed(7))));
        assert_eq!(entries[KEPT], denied(99_999));
    }
}
