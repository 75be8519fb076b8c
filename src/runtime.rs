//! Threads that poll workers: one each, asleep while there is nothing to do.
//!
//! Before each poll, a worker is told which of its ports' descriptors are readable (epoll), so that ports which have
//! nothing cost nothing. One that finds nothing waits for its ports' descriptors, an event descriptor of its own (which
//! ports without descriptor and the control side ring) and its deadline. It does so at once: where hosts share the
//! processors with it, they are faster for every microsecond that it does not spend looking (`benches/lab`).

use crate::dataplane::{
    port::Waker,
    time::Instant,
    worker::{BATCH, Dataplane, Worker},
};
use rustix::{
    buffer::spare_capacity,
    event::{
        EventfdFlags, Timespec,
        epoll::{self, Event, EventData, EventFlags},
    },
};
use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant as Clock, SystemTime},
};

/// Threads that run the workers of a [`Dataplane`] that was made by hand, as [`Supernet::spawn`](crate::Supernet::spawn)
/// does for one that was built. Dropping it stops and joins them.
#[derive(Debug)]
pub struct Threads {
    stop: Arc<AtomicBool>,
    alarms: Vec<Arc<Alarm>>,
    threads: Vec<JoinHandle<()>>,
    began: Clock,
}

impl Threads {
    /// Runs each worker on a thread of its own, which sleeps while there is nothing to do.
    ///
    /// # Errors
    /// A thread or its event descriptor could not be made.
    pub fn spawn(dataplane: &Dataplane, workers: Vec<Worker>) -> io::Result<Self> {
        let began = Clock::now();
        let mut all = Self { stop: Arc::default(), alarms: Vec::new(), threads: Vec::new(), began };
        for worker in workers {
            let alarm = Arc::new(Alarm::new()?);
            let ring = alarm.clone();
            dataplane.set_waker(worker.index(), Waker::new(move || ring.ring()));
            all.alarms.push(alarm.clone());
            let stop = all.stop.clone();
            let name = format!("supernet-{}", worker.index());
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                run(worker, &alarm, &stop, || Instant::from_micros(began.elapsed().as_micros() as u64));
            })?;
            all.threads.push(thread);
        }
        Ok(all)
    }

    /// The time of day at [`Instant::ZERO`], from which the workers count.
    pub fn origin(&self) -> SystemTime {
        SystemTime::now() - self.began.elapsed()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for alarm in &self.alarms {
            alarm.ring_always();
        }
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

fn run(mut worker: Worker, alarm: &Alarm, stop: &AtomicBool, now: impl Fn() -> Instant) {
    let mut watch = Watch::default();
    worker.watch();
    while !stop.load(Ordering::Relaxed) {
        let polled = worker.poll(now());
        if polled.frames >= BATCH {
            // More of the same waits, and perhaps something of others.
            watch.look(&mut worker, alarm, Duration::ZERO);
            continue;
        }
        // What others ring for from here on wakes this thread; whatever they rang for before is found by this poll.
        alarm.asleep.store(true, Ordering::SeqCst);
        let polled = worker.poll(now());
        let wait = if polled.frames > 0 { Duration::ZERO } else { polled.next.since(now()) };
        watch.look(&mut worker, alarm, wait);
        alarm.asleep.store(false, Ordering::SeqCst);
    }
}

/// The descriptors of a worker's ports, and its alarm.
#[derive(Default)]
struct Watch {
    /// `None`: watching was not possible, which is tried again.
    epoll: Option<OwnedFd>,
    /// The ports that it watches are those after so many changes.
    changes: u64,
    events: Vec<Event>,
    /// Ports whose descriptors cannot be watched, as those of files.
    unwatched: Vec<usize>,
}

/// How long ports that cannot be watched wait for the worker at most.
const UNWATCHED: Duration = Duration::from_millis(1);

/// The alarm's token.
const ALARM: u64 = u64::MAX;

impl Watch {
    /// Tells the worker whose frames wait; if nobody's do, waits for some, or the alarm, `at_most` so long.
    fn look(&mut self, worker: &mut Worker, alarm: &Alarm, at_most: Duration) {
        if self.epoll.is_none() || self.changes != worker.changes() {
            self.changes = worker.changes();
            self.unwatched.clear();
            self.epoll = self.watch(worker, alarm).ok();
            self.events.reserve(64);
        }
        let Some(epoll) = &self.epoll else {
            // Out of descriptors: every port is asked, now and then.
            let tokens: Vec<usize> = worker.descriptors().map(|(token, _)| token).collect();
            tokens.into_iter().for_each(|token| worker.ready(token));
            std::thread::sleep(at_most.min(UNWATCHED));
            return;
        };
        self.events.clear();
        let at_most = if self.unwatched.is_empty() { at_most } else { at_most.min(UNWATCHED) };
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        // An interrupted wait is a short one.
        let _ = epoll::wait(epoll, spare_capacity(&mut self.events), Some(&timeout));
        for event in &self.events {
            match event.data.u64() {
                ALARM => drop(rustix::io::read(&alarm.event, &mut [0u8; 8])),
                token => worker.ready(token as usize),
            }
        }
        self.unwatched.iter().for_each(|token| worker.ready(*token));
    }

    fn watch(&mut self, worker: &Worker, alarm: &Alarm) -> io::Result<OwnedFd> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &alarm.event, EventData::new_u64(ALARM), EventFlags::IN)?;
        for (token, fd) in worker.descriptors() {
            if epoll::add(&epoll, fd, EventData::new_u64(token as u64), EventFlags::IN).is_err() {
                self.unwatched.push(token);
            }
        }
        Ok(epoll)
    }
}

/// Wakes one worker.
#[derive(Debug)]
struct Alarm {
    asleep: AtomicBool,
    event: OwnedFd,
}

impl Alarm {
    fn new() -> io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { asleep: AtomicBool::new(false), event })
    }

    /// Costs one load while the worker is awake.
    fn ring(&self) {
        if self.asleep.load(Ordering::SeqCst) {
            self.ring_always();
        }
    }

    fn ring_always(&self) {
        // Fails only when the counter is full, and then the alarm is ringing anyway.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}
