//! The lab's socket: who may ask, how much, and for how long.
//!
//! One thread waits for all of it: signals that end the lab, new clients, and bytes from and to those there are.
//! A request is answered as soon as its line is whole. A client has [`PATIENCE`] to send its line and the same to
//! fetch its answer, then it is dropped; there are at most [`CLIENTS`] at a time, the others wait to be accepted. What
//! goes on after its answer, as a capture does, is taken off this thread ([`Stream`]).

use super::wire::REQUEST_MAX;
use crate::lab::error::LabError;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::Mode,
};
use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    time::{Duration, Instant},
};

/// Clients at a time.
const CLIENTS: usize = 16;

/// How long a client may take for its request, and for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often [`Service::tick`] is called.
const TICK: Duration = Duration::from_secs(1);

/// Who answers.
pub(crate) trait Service {
    /// The answer to a request, which is a line. `None`: the line is longer than [`REQUEST_MAX`].
    fn answer(&mut self, request: Option<&[u8]>) -> Reply;

    /// Called about once a second.
    fn tick(&mut self);
}

/// What goes on with a connection once its answer is written. It is not to wait.
pub(crate) type Stream = Box<dyn FnOnce(UnixStream) + Send>;

/// An answer.
pub(crate) struct Reply {
    /// A line.
    pub(crate) line: Vec<u8>,
    /// `None`: the connection is closed then.
    pub(crate) stream: Option<Stream>,
}

impl From<Vec<u8>> for Reply {
    fn from(line: Vec<u8>) -> Self {
        Self { line, stream: None }
    }
}

/// A socket that is listened on.
pub(crate) struct Socket {
    listener: UnixListener,
    clients: Vec<Client>,
}

impl Socket {
    /// Listens at `path`, for root alone.
    ///
    /// # Errors
    /// See [`LabError::System`].
    pub(crate) fn bind(path: &Path) -> Result<Self, LabError> {
        let bind = || {
            // One that was killed may have left it; the lab's lock says that nobody listens there.
            let _ = fs::remove_file(path);
            // Nobody else may connect in the moment before the mode is set.
            let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
            let listener = UnixListener::bind(path);
            rustix::process::umask(mask);
            let listener = listener?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = bind().map_err(|source| LabError::System {
            place: path.display().to_string(),
            what: "listen for requests",
            source,
        })?;
        Ok(Self { listener, clients: Vec::new() })
    }

    /// Serves until `end` is readable.
    pub(crate) fn serve(mut self, end: impl AsFd, service: &mut impl Service) {
        let mut tick = Instant::now();
        loop {
            let now = Instant::now();
            if now >= tick {
                service.tick();
                tick = now + TICK;
            }
            self.clients.retain(|client| now < client.deadline);
            let next = self.clients.iter().map(|c| c.deadline).fold(tick, Instant::min);
            match self.wait(end.as_fd(), next.saturating_duration_since(now)) {
                Some(Ready { end: true, .. }) => return,
                Some(ready) => self.go_on(&ready, service),
                None => {}
            }
        }
    }

    /// Waits until something can go on. `None`: nothing can yet.
    fn wait(&self, end: BorrowedFd<'_>, at_most: Duration) -> Option<Ready> {
        let accepting = self.clients.len() < CLIENTS;
        let interest = if accepting { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = vec![
            PollFd::from_borrowed_fd(end, PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), interest),
        ];
        fds.extend(self.clients.iter().map(|c| {
            let interest = if c.answer.is_some() { PollFlags::OUT } else { PollFlags::IN };
            PollFd::from_borrowed_fd(c.stream.as_fd(), interest)
        }));
        // A millisecond more: not to wake just before it is time.
        let at_most = at_most + Duration::from_millis(1);
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(1..) => {
                let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
                let (end, new) = (ready.next()?, ready.next()?);
                Some(Ready { end, new: new && accepting, clients: ready.collect() })
            }
            _ => None,
        }
    }

    fn go_on(&mut self, ready: &Ready, service: &mut impl Service) {
        let began = Instant::now();
        let mut ready_clients = ready.clients.iter();
        self.clients
            .retain_mut(|client| !ready_clients.next().copied().unwrap_or(false) || client.go_on(service));
        // What the others waited while one was answered is not their fault.
        let spent = began.elapsed();
        self.clients.iter_mut().for_each(|client| client.deadline += spent);
        if !ready.new {
            return;
        }
        match self.listener.accept() {
            Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                let deadline = Instant::now() + PATIENCE;
                self.clients.push(Client {
                    stream,
                    request: Vec::new(),
                    answer: None,
                    then: None,
                    sent: 0,
                    deadline,
                });
            }
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
                // Out of descriptors, say. It goes on waiting to be accepted, and this must not become a loop.
                std::thread::sleep(Duration::from_millis(50));
            }
            _ => {}
        }
    }
}

/// What can go on.
struct Ready {
    end: bool,
    new: bool,
    clients: Vec<bool>,
}

struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    /// Once the request is whole.
    answer: Option<Vec<u8>>,
    /// What comes after that.
    then: Option<Stream>,
    sent: usize,
    deadline: Instant,
}

impl Client {
    /// Reads or writes what can be without waiting. `false`: it is done with, or gone.
    fn go_on(&mut self, service: &mut impl Service) -> bool {
        if self.answer.is_none() && !self.read(service) {
            return false;
        }
        let Some(answer) = &self.answer else { return true };
        while self.sent < answer.len() {
            match self.stream.write(&answer[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        if let (Some(then), Ok(stream)) = (self.then.take(), self.stream.try_clone()) {
            then(stream);
        }
        false
    }

    /// Reads on, and has the request answered when it is whole. `false`: the client is gone.
    fn read(&mut self, service: &mut impl Service) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let (whole, seen) = match self.stream.read(&mut buffer) {
                // It may have ended its side instead of its line.
                Ok(0) if self.request.is_empty() => return false,
                Ok(0) => (true, 0),
                Ok(n) => (buffer[..n].contains(&b'\n'), n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            self.request.extend_from_slice(&buffer[..seen]);
            if !whole && self.request.len() <= REQUEST_MAX {
                continue;
            }
            let line = self.request.split(|b| *b == b'\n').next().unwrap_or_default();
            let reply = service.answer((line.len() <= REQUEST_MAX).then_some(line));
            (self.answer, self.then) = (Some(reply.line), reply.stream);
            self.request = Vec::new();
            self.deadline = Instant::now() + PATIENCE;
            return true;
        }
    }
}
