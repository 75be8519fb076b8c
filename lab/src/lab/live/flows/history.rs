//! What has happened to connections lately: read from the workers' rings all the time, and kept for who asks.

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
    flows::{FlowNames, Missed, Record},
};

/// Records that are kept: 4 MB.
pub(super) const KEPT: usize = 1 << 14;

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

/// The last entries, counted from the first there ever was.
#[derive(Debug, Default)]
struct Kept {
    first: u64,
    entries: VecDeque<Entry>,
}

impl Kept {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn put(&mut self, entries: impl Iterator<Item = Entry>) {
        for entry in entries {
            if self.entries.len() >= KEPT {
                self.entries.pop_front();
                self.first += 1;
            }
            self.entries.push_back(entry);
        }
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

    /// A reader that begins with the oldest that is kept, and one past the newest.
    pub(super) fn reader(&self) -> (Reader, u64) {
        let kept = self.shared.kept();
        (Reader { shared: self.shared.clone(), next: kept.first }, kept.end())
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
    next: u64,
}

impl Reader {
    /// Goes on with the newest.
    pub(super) fn skip_to(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// Takes at most `most` entries, waiting for one `at_most` so long. How many were forgotten before they were read.
    pub(super) fn take(&mut self, into: &mut Vec<Entry>, most: usize, at_most: Duration) -> u64 {
        let kept = self.shared.kept();
        let waited = self.shared.more.wait_timeout_while(kept, at_most, |kept| kept.end() <= self.next);
        let (kept, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let lost = kept.first.saturating_sub(self.next);
        self.next += lost;
        let from = usize::try_from(self.next - kept.first).unwrap_or(usize::MAX);
        into.extend(kept.entries.iter().skip(from).take(most).cloned());
        self.next = kept.end().min(self.next + most as u64);
        lost
    }

    /// Where it is.
    pub(super) fn next(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(n: u64) -> Entry {
        Entry::Missed(Missed { time_micros: n, missed: 1, missed_denied: 0, repeated: 0 })
    }

    #[test]
    fn a_reader_that_lags_behind_is_told_and_goes_on() {
        let shared = Arc::<Shared>::default();
        let mut reader = Reader { shared: shared.clone(), next: 0 };
        let mut take = |most| {
            let mut entries = Vec::new();
            let lost = reader.take(&mut entries, most, Duration::ZERO);
            (lost, entries)
        };
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
        assert_eq!(shared.kept().entries.len(), KEPT);
    }
}
