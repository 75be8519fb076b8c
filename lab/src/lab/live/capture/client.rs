//! `supernet lab pcap`: begins a capture, and writes down what comes.

use super::{
    sink::Sink,
    stream::{End, Item, Reader},
};
use crate::{
    cli::PcapArgs,
    lab::{
        live::{
            client::{self, ClientError},
            wire::{Answer, Ask, Capture},
        },
        supervise::Signals,
    },
};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::{
    error::Error,
    io::{self, Read},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

/// How long a lab has to say how a capture ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a capture ended too early. What came before is written.
#[derive(Debug, thiserror::Error)]
enum PcapError {
    #[error("lab {lab} ended the capture without a word ({why}); what came before is written")]
    Broken { lab: String, why: io::Error },
    #[error("can't write {place}: {source}")]
    Write { place: String, source: io::Error },
    #[error("{0}")]
    Sink(String),
}

/// `lab pcap`. The exit status to end with.
pub(in crate::lab) fn run(args: &PcapArgs) -> Result<u8, Box<dyn Error>> {
    let signals = Signals::catch()?;
    let ask = Ask::Capture(Capture {
        ports: args.ports.clone(),
        drops: args.drops,
        stages: args.stages.iter().map(|stage| stage.name().to_owned()).collect(),
        snaplen: args.snaplen,
    });
    Sink::check(args).map_err(PcapError::Sink)?;
    let (interfaces, connection) = match client::begin(&args.name, &ask)? {
        (Answer::Capturing(interfaces), connection) => (interfaces, connection),
        _ => return Err(ClientError::Unexpected { lab: args.name.clone() }.into()),
    };
    let failed = |source| PcapError::Write { place: args.place(), source };
    let mut sink = Sink::open(args).map_err(failed)?;
    for interface in &interfaces {
        sink.interface(interface).map_err(failed)?;
    }
    let mut session = Session {
        reader: Reader::default(),
        sink,
        left: args.count.unwrap_or(u64::MAX),
        taken: 0,
        deadline: args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
    };
    session.reader.push(connection.buffer());
    let stream = connection.into_inner();
    eprintln!("{}", session.greeting(args, interfaces.len()));
    let ended = session.follow(&stream, &signals);
    let result = match ended {
        Ok(None) => session.farewell(&stream),
        Ok(Some(end)) => Ok(Some(end)),
        Err(e) => Err(e),
    };
    session.end(args, result)
}

struct Session {
    reader: Reader,
    sink: Sink,
    /// Packets that are still wanted.
    left: u64,
    taken: u64,
    deadline: Option<Instant>,
}

/// What went wrong while packets came.
#[derive(Debug)]
enum Trouble {
    Connection(io::Error),
    Output(io::Error),
}

impl Session {
    fn greeting(&self, args: &PcapArgs, ports: usize) -> String {
        let of = if ports == 1 { "1 port".to_owned() } else { format!("{ports} ports") };
        let until = match (args.count, args.seconds) {
            (None, None) => "; Ctrl-C ends it",
            _ => "",
        };
        format!("capturing {} of lab {} to {}{until}", of, args.name, args.place())
    }

    /// Takes what comes until there is enough, which is `None`, or the lab ends it.
    fn follow(&mut self, stream: &UnixStream, signals: &Signals) -> Result<Option<End>, Trouble> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            if let Some(end) = self.take()? {
                return Ok(Some(end));
            }
            match self.sink.flush() {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(None),
                result => result.map_err(Trouble::Output)?,
            }
            if self.left == 0 || !self.wait(stream, signals)? {
                return Ok(None);
            }
            self.receive(stream, &mut buffer)?;
        }
    }

    /// Waits for packets. `false`: none are wanted any more, or nobody reads them.
    fn wait(&self, stream: &UnixStream, signals: &Signals) -> Result<bool, Trouble> {
        loop {
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) || signals.pending() {
                return Ok(false);
            }
            let timeout = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            let output = self.sink.watched();
            let mut fds = vec![PollFd::new(stream, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            // Nothing is asked of the output, so this is whether its reader has gone.
            fds.extend(output.as_ref().map(|fd| PollFd::new(fd, PollFlags::empty())));
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(Trouble::Connection(e.into())),
            }
            return Ok(fds[1..].iter().all(|fd| fd.revents().is_empty()));
        }
    }

    fn receive(&mut self, mut stream: &UnixStream, buffer: &mut [u8]) -> Result<(), Trouble> {
        match stream.read(buffer) {
            Ok(0) => {
                Err(Trouble::Connection(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed")))
            }
            Ok(n) => {
                self.reader.push(&buffer[..n]);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(Trouble::Connection(e)),
        }
    }

    /// Writes what has come as a whole.
    fn take(&mut self) -> Result<Option<End>, Trouble> {
        loop {
            let (item, data) = match self.reader.next() {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(None),
                Err(e) => return Err(Trouble::Connection(e)),
            };
            let written = match item {
                Item::End(end) => return Ok(Some(end)),
                Item::Interface(interface) => self.sink.interface(&interface),
                Item::Packet(_) if self.left == 0 => Ok(()),
                Item::Packet(note) => {
                    self.left -= 1;
                    self.taken += 1;
                    self.sink.packet(&note, data)
                }
            };
            match written {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.left = 0,
                result => result.map_err(Trouble::Output)?,
            }
        }
    }

    /// Says that there is enough, and takes what is on its way still.
    fn farewell(&mut self, stream: &UnixStream) -> Result<Option<End>, Trouble> {
        let _ = stream.shutdown(Shutdown::Write);
        let deadline = Instant::now() + FAREWELL;
        let mut buffer = vec![0; 256 << 10];
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            if let Some(end) = self.take()? {
                return Ok(Some(end));
            }
            if stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).is_err() {
                break;
            }
            match self.receive(stream, &mut buffer) {
                Err(Trouble::Connection(e)) if e.kind() == io::ErrorKind::WouldBlock => break,
                result => result?,
            }
        }
        Ok(None)
    }

    /// Completes what is written, and says what it was.
    fn end(mut self, args: &PcapArgs, result: Result<Option<End>, Trouble>) -> Result<u8, Box<dyn Error>> {
        let lab = || args.name.clone();
        let (end, trouble) = match result {
            Ok(end) => (end, None),
            Err(trouble) => (None, Some(trouble)),
        };
        let completed = match self.sink.end(end.as_ref()) {
            // Who read it has seen enough.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            completed => completed,
        };
        eprintln!("{}", said(self.taken, end.as_ref()));
        let failed = |source| PcapError::Write { place: args.place(), source };
        match trouble {
            Some(Trouble::Output(source)) => return Err(failed(source).into()),
            Some(Trouble::Connection(why)) => return Err(PcapError::Broken { lab: lab(), why }.into()),
            None => completed.map_err(failed)?,
        }
        if end.is_some_and(|end| end.lab_ends) {
            eprintln!("lab {} has ended", args.name);
        }
        Ok(0)
    }
}

/// How much it was.
fn said(taken: u64, end: Option<&End>) -> String {
    let packets = if taken == 1 { "1 packet".to_owned() } else { format!("{taken} packets") };
    let Some(end) = end else {
        return format!("{packets} captured; the lab did not say how many were missed");
    };
    let missed: u64 = end.ports.values().map(|count| count.missed).sum();
    if missed == 0 {
        return format!("{packets} captured, none missed");
    }
    let mut ports: Vec<_> = end.ports.iter().filter(|(_, count)| count.missed > 0).collect();
    ports.sort_by_key(|(_, count)| std::cmp::Reverse(count.missed));
    let ports = ports.into_iter().map(|(name, count)| format!("{name} {}", count.missed));
    format!(
        "{packets} captured, {missed} missed because they came faster than they were read: {} (--snaplen, --port and \
         --drops make it less to read)",
        crate::output::list(ports.collect::<Vec<_>>().into_iter(), 5)
    )
}

impl AsFd for Signals {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor()
    }
}
