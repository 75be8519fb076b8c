//! Tries many connections at once.
//!
//! ```text
//!   sources ──▶ THREADS threads, each in the namespace of one source after the other
//!                 └─ at most WINDOW sockets each (fewer if descriptors are few), waited for together
//! ```
//!
//! A connection that is denied costs its time, so many are under way at a time; one that contradicts what was
//! predicted is tried again with more time, for a busy machine is no difference.

use super::{
    attempt::{Attempt, Outcome},
    probes::{Expected, Probe},
    verdict::{Verdict, judge},
};
use crate::lab::{
    error::LabError,
    netns::{self, Netns},
};
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::Errno,
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs, io,
    os::fd::OwnedFd,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Sources at a time. They mostly wait.
const THREADS: usize = 24;
/// Sockets of a source at a time.
const WINDOW: usize = 256;
/// Tries of a connection that contradicts what was predicted.
const TRIES: u32 = 2;
/// Tries of a connection of which some members answer.
const PARTLY_TRIES: u32 = 4;
/// How much longer than the first a later try may take.
const LONGER: u32 = 5;
/// How long a source without any socket waits for those of others to be closed.
const STARVED: Duration = Duration::from_secs(10);
/// How long is waited at most before deadlines are looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// How far it is, and whether to go on.
#[derive(Debug, Default)]
pub(in crate::lab) struct Course {
    /// Probes done.
    pub(super) done: AtomicUsize,
    /// Breaks it off.
    pub(super) stop: AtomicBool,
    /// Every source is done with.
    pub(super) over: AtomicBool,
}

/// Tries all probes from within lab `lab`. What became of each, in their order; `None` where it was broken off.
///
/// # Errors
/// A namespace can't be entered, or the system gives no sockets to wait for.
pub(in crate::lab) fn run(
    lab: &str,
    probes: &[Probe],
    patience: Duration,
    course: &Course,
) -> Result<Vec<Option<Verdict>>, LabError> {
    let mut by_source: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (n, probe) in probes.iter().enumerate() {
        by_source.entry(&probe.from).or_default().push(n);
    }
    let size = window();
    let sources = Mutex::new(by_source.into_iter());
    let take = || sources.lock().ok().and_then(|mut s| s.next());
    let work = || -> Result<Vec<(usize, Verdict)>, LabError> {
        let mut all = Vec::new();
        while let Some((source, of_source)) = take() {
            let verdicts = Window::enter(lab, source, probes, patience)
                .and_then(|window| window.run(of_source, size, course))
                .map_err(|failure| failure.of(source));
            match verdicts {
                Ok(verdicts) => all.extend(verdicts),
                Err(e) => {
                    course.stop.store(true, Ordering::Relaxed);
                    return Err(e);
                }
            }
        }
        Ok(all)
    };
    let mut verdicts: Vec<Option<Verdict>> = probes.iter().map(|_| None).collect();
    let mut result = Ok(());
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(Ok(some)) => some.into_iter().for_each(|(n, verdict)| verdicts[n] = Some(verdict)),
                Ok(Err(e)) => result = Err(e),
                // It was reported when it happened.
                Err(_) => course.stop.store(true, Ordering::Relaxed),
            }
        }
    });
    course.over.store(true, Ordering::Relaxed);
    result.map(|()| verdicts)
}

/// Sockets that each source may have. The responder, with a socket for each, may be of the same process.
fn window() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let used = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    (limit.saturating_sub(used) / (2 * THREADS + 2)).clamp(1, WINDOW)
}

/// What the system refused.
struct Failure {
    what: &'static str,
    source: io::Error,
}

impl Failure {
    fn of(self, place: &str) -> LabError {
        LabError::System { place: place.to_owned(), what: self.what, source: self.source }
    }
}

/// The connections of one source that are under way.
struct Window<'a> {
    probes: &'a [Probe],
    patience: Duration,
    epoll: OwnedFd,
    /// By token.
    open: HashMap<u64, (Waiting, Attempt)>,
    next: u64,
}

/// A probe and how often it was tried.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    probe: usize,
    tried: u32,
}

impl<'a> Window<'a> {
    /// Moves the calling thread into the namespace of `source`.
    fn enter(lab: &str, source: &str, probes: &'a [Probe], patience: Duration) -> Result<Self, Failure> {
        let failed = |what| move |source| Failure { what, source };
        let netns = Netns::open(&netns::name(lab, source));
        netns.and_then(|n| n.enter()).map_err(failed("enter its network namespace"))?;
        let epoll = epoll::create(CreateFlags::CLOEXEC);
        let epoll = epoll.map_err(io::Error::from).map_err(failed("wait for sockets"))?;
        Ok(Self { probes, patience, epoll, open: HashMap::new(), next: 0 })
    }

    fn run(
        mut self,
        probes: Vec<usize>,
        size: usize,
        course: &Course,
    ) -> Result<Vec<(usize, Verdict)>, Failure> {
        let mut queue: VecDeque<Waiting> =
            probes.into_iter().map(|probe| Waiting { probe, tried: 0 }).collect();
        let mut verdicts = Vec::with_capacity(queue.len());
        let mut events = Vec::with_capacity(WINDOW);
        let mut fed = Instant::now();
        while !queue.is_empty() || !self.open.is_empty() {
            if course.stop.load(Ordering::Relaxed) {
                break;
            }
            let mut over: Vec<(Waiting, Outcome)> = Vec::new();
            while self.open.len() < size
                && let Some(waiting) = queue.pop_front()
            {
                match self.start(waiting) {
                    Ok(()) => fed = Instant::now(),
                    Err(Outcome::NoSocket) if !self.open.is_empty() || fed.elapsed() < STARVED => {
                        queue.push_front(waiting);
                        break;
                    }
                    Err(outcome) => over.push((waiting, outcome)),
                }
            }
            events.clear();
            let glance = if over.is_empty() { GLANCE } else { Duration::ZERO };
            let glance = Timespec { tv_sec: 0, tv_nsec: i64::from(glance.subsec_nanos()) };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&glance)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Failure { what: "wait for sockets", source: e.into() }),
            }
            over.extend(events.iter().filter_map(|event| self.go_on(event.data.u64())));
            over.extend(self.expire());
            for (waiting, outcome) in over {
                let tried = waiting.tried + 1;
                let verdict = judge(&self.probes[waiting.probe], &outcome);
                if Self::tries_again(&verdict, tried) {
                    queue.push_back(Waiting { tried, ..waiting });
                } else {
                    course.done.fetch_add(1, Ordering::Relaxed);
                    verdicts.push((waiting.probe, verdict));
                }
            }
        }
        Ok(verdicts)
    }

    fn tries_again(verdict: &Verdict, tried: u32) -> bool {
        match verdict {
            Verdict::AsPredicted | Verdict::Refused(_) => false,
            Verdict::Undecided => tried < PARTLY_TRIES,
            Verdict::Differs(_) => tried < TRIES,
        }
    }

    fn start(&mut self, waiting: Waiting) -> Result<(), Outcome> {
        let probe = &self.probes[waiting.probe];
        let partly = matches!(probe.expected, Expected::Partly { .. });
        let patience = if waiting.tried == 0 || partly { self.patience } else { self.patience * LONGER };
        let number = ((waiting.probe as u64) << 8) | u64::from(waiting.tried);
        let spoken = (probe.transport, probe.dns);
        let attempt = Attempt::start(spoken, (probe.source, probe.address), patience, number)?;
        let token = self.next;
        self.next += 1;
        epoll::add(&self.epoll, &attempt, EventData::new_u64(token), attempt.interest())
            .map_err(|e| Outcome::Failed(e.to_string()))?;
        self.open.insert(token, (waiting, attempt));
        Ok(())
    }

    fn go_on(&mut self, token: u64) -> Option<(Waiting, Outcome)> {
        let (waiting, attempt) = self.open.get_mut(&token)?;
        let waiting = *waiting;
        let outcome = match attempt.go_on() {
            Err(outcome) => outcome,
            Ok(interest) if interest == EventFlags::IN => {
                match epoll::modify(&self.epoll, &*attempt, EventData::new_u64(token), interest) {
                    Ok(()) => return None,
                    Err(e) => Outcome::Failed(e.to_string()),
                }
            }
            Ok(_) => return None,
        };
        // Closing the descriptor takes it off the list of those waited for.
        self.open.remove(&token);
        Some((waiting, outcome))
    }

    fn expire(&mut self) -> Vec<(Waiting, Outcome)> {
        let now = Instant::now();
        let mut over = Vec::new();
        self.open.retain(|_, (waiting, attempt)| match attempt.expire(now) {
            Some(outcome) => {
                over.push((*waiting, outcome));
                false
            }
            None => true,
        });
        over
    }
}
