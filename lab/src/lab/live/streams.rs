//! Connections that go on after their answer: each has a thread of its own, so that no other request waits for it.

use super::socket::Stream;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long one waits for something to say, or for its client to take some, before it looks whether it is to end.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// How long a client has to take the rest when the lab ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// Connections of one kind that go on. Dropping them ends them, and waits for that.
#[derive(Debug, Default)]
pub(super) struct Streams {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Streams {
    /// How many go on.
    pub(super) fn count(&mut self) -> usize {
        self.threads.retain(|thread| !thread.is_finished());
        self.threads.len()
    }

    /// What becomes of a connection once its answer is written: `serve` has it, on a thread of this name.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn begin(
        &mut self,
        name: &str,
        serve: impl FnOnce(&mut Outlet) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Stream> {
        // The thread waits for its connection, so that who holds this can wait for the thread.
        let (give, take) = mpsc::channel();
        let stop = self.stop.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match take.recv_timeout(LOOK) {
                    Ok(stream) => {
                        // Nobody is there to be told what goes wrong but the client, and that is gone then.
                        let _ = Outlet::new(stream, stop).and_then(|mut outlet| serve(&mut outlet));
                        return;
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    // It has gone before it was answered.
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        self.threads.push(thread);
        Ok(Box::new(move |stream| _ = give.send(stream)))
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// The lab's side of such a connection.
#[derive(Debug)]
pub(super) struct Outlet {
    stream: UnixStream,
    stop: Arc<AtomicBool>,
    /// Until when a client that does not read is waited for, once the lab ends.
    patience: Option<Instant>,
}

impl Outlet {
    fn new(stream: UnixStream, stop: Arc<AtomicBool>) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(LOOK))?;
        Ok(Self { stream, stop, patience: None })
    }

    /// Whether the lab ends.
    pub(super) fn lab_ends(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the client has said something, or closed its side: there is nothing to be said but that it has enough.
    pub(super) fn has_spoken(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&now)), Ok(1..))
    }

    /// Writes what there is, and leaves nothing of it. A client that does not read is waited for as long as the lab runs,
    /// and a little longer.
    ///
    /// # Errors
    /// The client is gone, or has had its time.
    pub(super) fn send(&mut self, chunk: &mut Vec<u8>) -> io::Result<()> {
        let mut sent = 0;
        while sent < chunk.len() {
            match self.stream.write(&chunk[sent..]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.is_patient() => {}
                Err(e) => return Err(e),
            }
        }
        chunk.clear();
        Ok(())
    }

    fn is_patient(&mut self) -> bool {
        let now = Instant::now();
        !self.lab_ends() || now < *self.patience.get_or_insert(now + FAREWELL)
    }
}
