//! Threads that poll workers: one each, asleep while there is nothing to do.
//!
//! A worker that found nothing for a while waits for its ports' descriptors, an event descriptor of its own
//! (which ports without descriptor and the control side ring) and its deadline.

use crate::dataplane::{
    port::Waker,
    time::Instant,
    worker::{Dataplane, Worker},
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant as Clock,
};

/// Polls without a frame before a worker goes to sleep.
const PATIENCE: u32 = 64;

/// Threads that run the workers of a [`Dataplane`] that was made by hand, as [`Supernet::spawn`](crate::Supernet::spawn)
/// does for one that was built. Dropping it stops and joins them.
#[derive(Debug)]
pub struct Threads {
    stop: Arc<AtomicBool>,
    alarms: Vec<Arc<Alarm>>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Runs each worker on a thread of its own, which sleeps while there is nothing to do.
    ///
    /// # Errors
    /// A thread or its event descriptor could not be made.
    pub fn spawn(dataplane: &Dataplane, workers: Vec<Worker>) -> io::Result<Self> {
        let mut all = Self { stop: Arc::default(), alarms: Vec::new(), threads: Vec::new() };
        let began = Clock::now();
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
    let mut idle = 0;
    while !stop.load(Ordering::Relaxed) {
        if worker.poll(now()).frames > 0 {
            idle = 0;
            continue;
        }
        idle += 1;
        if idle < PATIENCE {
            std::thread::yield_now();
            continue;
        }
        alarm.asleep.store(true, Ordering::SeqCst);
        // Whatever arrived before the alarm was watched is found by this poll.
        let polled = worker.poll(now());
        if polled.frames == 0 {
            let wait = polled.next.since(now());
            alarm.wait(&worker, wait);
        }
        alarm.asleep.store(false, Ordering::SeqCst);
        idle = 0;
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

    fn wait(&self, worker: &Worker, at_most: std::time::Duration) {
        let mut fds = vec![PollFd::from_borrowed_fd(self.event.as_fd(), PollFlags::IN)];
        fds.extend(worker.descriptors().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        // An interrupted wait is a short one.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }
}
