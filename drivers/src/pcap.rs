//! Capture files: replayed as a port, or recorded from one.
//!
//! [`replay`] reads a pcap or pcapng file whole and checks it before the first frame is sent, so that nothing
//! on the packet path reads from disk or finds a broken file. Frames are received in the file's order as fast
//! as they are polled; its times are not kept to. What is sent to the port is discarded and counted.
//!
//! [`record`] wraps any port and writes every frame that passes, in both directions, to a pcapng file. That is
//! for looking at traffic, not for speed: all halves of the port share one lock and one buffered file. Times
//! come from a function that the caller gives; it is called once a batch. A file that can't be written ends
//! the recording, never the traffic.
//!
//! [`Writer`] writes pcapng files of whatever origin.

mod write;

pub use write::{Direction, Packet, Writer};

use pcap_file::{
    DataLink,
    pcap::PcapParser,
    pcapng::{Block, PcapNgParser},
};
use std::{
    fs::File,
    io::{self, BufWriter},
    ops::Range,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use supernet_dataplane::{
    buf::{Frame, Pool},
    port::{Bell, Opened, Port, Receive, Transmit, Waker},
};

/// Why a capture file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// The file could not be read.
    #[error("can't read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a pcap or pcapng file: {reason}", .path.display())]
    NotPcap {
        /// The file.
        path: PathBuf,
        /// What is wrong with its beginning.
        reason: String,
    },
    /// The capture is of another link layer.
    #[error(
        "{}: frame {frame} is of link type {found}, not Ethernet: capture on an Ethernet interface, not on `any`",
        .path.display()
    )]
    NotEthernet {
        /// The file.
        path: PathBuf,
        /// The frame, counted from 1.
        frame: usize,
        /// The link type it has.
        found: String,
    },
    /// The file ends within a frame.
    #[error(
        "{0} ends within frame {frame}: keep the whole ones with `editcap -r {0} whole.pcap 1-{1}`",
        .path.display(), .frame.saturating_sub(1)
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The frame, counted from 1.
        frame: usize,
    },
    /// The file contradicts itself.
    #[error("{} is corrupt at frame {frame}: {reason}", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The frame, counted from 1.
        frame: usize,
        /// What is wrong.
        reason: String,
    },
    /// The file could not be written; frames after this are not recorded.
    #[error("can't write {}: {reason}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

/// Reads the capture file at `path`, pcap or pcapng, to be attached as a port.
///
/// It is held in memory until the port is detached. Frames longer than the pool's buffers count as missed;
/// frames that were captured in part are replayed as captured.
///
/// # Errors
/// See [`PcapError`].
pub fn replay(path: impl AsRef<Path>) -> Result<Replay, PcapError> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|source| PcapError::Read { path: path.to_owned(), source })?;
    Replay::parse(path, &bytes)
}

/// The frames of a capture file, as a port that is not attached yet.
#[derive(Debug, Clone)]
pub struct Replay {
    bytes: Vec<u8>,
    frames: Vec<Range<usize>>,
}

impl Replay {
    /// The frames of a capture file's contents. Errors name it `path`.
    ///
    /// # Errors
    /// See [`PcapError`].
    pub fn parse(path: &Path, file: &[u8]) -> Result<Self, PcapError> {
        let mut replay = Self { bytes: Vec::with_capacity(file.len()), frames: Vec::new() };
        // The block type of a section header reads the same in both byte orders.
        if file.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
            replay.read_pcapng(path, file)?;
        } else {
            replay.read_pcap(path, file)?;
        }
        Ok(replay)
    }

    /// Frames in the file.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether the file has no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    fn push(&mut self, frame: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(frame);
        self.frames.push(start..self.bytes.len());
    }

    fn read_pcap(&mut self, path: &Path, file: &[u8]) -> Result<(), PcapError> {
        let (mut rest, parser) = PcapParser::new(file).map_err(|e| not_pcap(path, &e))?;
        let link = parser.header().datalink;
        while !rest.is_empty() {
            self.check_link(path, link)?;
            // The raw packet: its time is of no interest, and need not make sense.
            let (after, packet) = parser.next_raw_packet(rest).map_err(|e| self.broken(path, &e))?;
            self.push(&packet.data);
            rest = after;
        }
        Ok(())
    }

    fn read_pcapng(&mut self, path: &Path, file: &[u8]) -> Result<(), PcapError> {
        let (mut rest, mut parser) = PcapNgParser::new(file).map_err(|e| not_pcap(path, &e))?;
        while !rest.is_empty() {
            let (after, block) = parser.next_block(rest).map_err(|e| self.broken(path, &e))?;
            let (interface, data) = match &block {
                Block::EnhancedPacket(p) => (p.interface_id as usize, &p.data[..]),
                Block::Packet(p) => (usize::from(p.interface_id), &p.data[..]),
                // Its data is padded to a multiple of four.
                Block::SimplePacket(p) => (0, &p.data[..p.data.len().min(p.original_len as usize)]),
                _ => {
                    rest = after;
                    continue;
                }
            };
            let Some(interface) = parser.interfaces().get(interface) else {
                let reason = format!("it is of interface {interface}, which is not described before it");
                return Err(PcapError::Corrupt { path: path.to_owned(), frame: self.len() + 1, reason });
            };
            self.check_link(path, interface.linktype)?;
            self.push(data);
            rest = after;
        }
        Ok(())
    }

    fn check_link(&self, path: &Path, link: DataLink) -> Result<(), PcapError> {
        if link == DataLink::ETHERNET {
            return Ok(());
        }
        let (frame, found) = (self.len() + 1, format!("{link:?}"));
        Err(PcapError::NotEthernet { path: path.to_owned(), frame, found })
    }

    fn broken(&self, path: &Path, error: &pcap_file::PcapError) -> PcapError {
        let (path, frame) = (path.to_owned(), self.len() + 1);
        match error {
            pcap_file::PcapError::IncompleteBuffer => PcapError::Truncated { path, frame },
            e => PcapError::Corrupt { path, frame, reason: e.to_string() },
        }
    }
}

fn not_pcap(path: &Path, error: &pcap_file::PcapError) -> PcapError {
    let reason = match error {
        pcap_file::PcapError::IncompleteBuffer => "it is too short for a file header".to_owned(),
        e => e.to_string(),
    };
    PcapError::NotPcap { path: path.to_owned(), reason }
}

impl Port for Replay {
    type Peer = Replaying;

    fn open(self, senders: usize, _pool: &Pool) -> io::Result<Opened<Replaying>> {
        let counts = Arc::new(Counts::default());
        counts.waiting.store(self.frames.len() as u64, Ordering::Relaxed);
        let sender = || Box::new(Discard(counts.clone())) as Box<dyn Transmit>;
        Ok(Opened {
            senders: (0..senders).map(|_| sender()).collect(),
            peer: Replaying(counts.clone()),
            receivers: vec![Box::new(ReplayReceiver {
                replay: self,
                next: 0,
                missed: 0,
                waker: None,
                counts,
            })],
        })
    }
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicU64,
    discarded: AtomicU64,
}

/// How far a replay is.
#[derive(Debug, Clone)]
pub struct Replaying(Arc<Counts>);

impl Replaying {
    /// Frames of the file that were not received yet; zero when the replay is over.
    pub fn waiting(&self) -> u64 {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Frames that the network sent to the port.
    pub fn discarded(&self) -> u64 {
        self.0.discarded.load(Ordering::Relaxed)
    }
}

struct ReplayReceiver {
    replay: Replay,
    next: usize,
    missed: u64,
    waker: Option<Waker>,
    counts: Arc<Counts>,
}

impl Receive for ReplayReceiver {
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> io::Result<usize> {
        let mut received = 0;
        while let Some(range) = self.replay.frames.get(self.next).filter(|_| received < max) {
            let bytes = &self.replay.bytes[range.clone()];
            if bytes.len() > pool.longest() {
                self.missed += 1;
            } else {
                // Without a free buffer the file can wait.
                let Some(frame) = pool.copy(bytes) else { break };
                into.push(frame);
                received += 1;
            }
            self.next += 1;
        }
        let waiting = self.replay.frames.len() - self.next;
        self.counts.waiting.store(waiting as u64, Ordering::Relaxed);
        if let Some(waker) = self.waker.as_ref().filter(|_| waiting > 0) {
            waker.wake();
        }
        Ok(received)
    }

    fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    fn set_waker(&mut self, waker: Waker) {
        waker.wake();
        self.waker = Some(waker);
    }
}

struct Discard(Arc<Counts>);

impl Transmit for Discard {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        self.0.discarded.fetch_add(frames.len() as u64, Ordering::Relaxed);
        frames.clear();
        Ok(())
    }
}

/// The time of day, as a recording's clock.
pub fn wall_clock() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Records what passes `port` in a pcapng file at `path`, which is overwritten. `clock` says what time it is,
/// counted from 1970: [`wall_clock`], or a test's own.
///
/// Frames count as received when the port received them and as sent when the port took them, so a frame that
/// a full port left is not in the file.
///
/// ```no_run
/// use supernet_dataplane::{buf::Pool, port::{Port, memory}};
/// use supernet_drivers::pcap;
///
/// let port = pcap::record(memory(512), "web-0.pcapng", pcap::wall_clock)?.open(1, &Pool::new(1024))?;
/// let (guest, recording) = (port.peer.peer, port.peer.recording);
/// # drop(guest);
/// println!("{} frames so far", recording.frames());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The file can't be made.
pub fn record<P: Port>(
    port: P,
    path: impl AsRef<Path>,
    clock: impl FnMut() -> Duration + Send + 'static,
) -> Result<Recorder<P>, PcapError> {
    let path = path.as_ref();
    let failed = |reason: String| PcapError::Write { path: path.to_owned(), reason };
    let file = File::create(path).map_err(|e| failed(e.to_string()))?;
    let begin = || {
        let mut writer = Writer::new(BufWriter::new(file), None)?;
        writer.interface("", "", 0)?;
        Ok::<_, io::Error>(writer)
    };
    let writer = begin().map_err(|e| failed(e.to_string()))?;
    let log = Log { path: path.to_owned(), state: State::Open(writer), frames: 0, clock: Box::new(clock) };
    Ok(Recorder { port, recording: Recording(Arc::new(Mutex::new(log))) })
}

/// A port whose traffic is recorded; see [`record`].
#[derive(Debug)]
pub struct Recorder<P> {
    port: P,
    recording: Recording,
}

/// The other side of a recorded port.
#[derive(Debug)]
pub struct Recorded<Peer> {
    /// The other side of the port itself.
    pub peer: Peer,
    /// The file.
    pub recording: Recording,
}

/// A file that is being recorded. What is buffered is written when the last handle and the port are gone, or
/// by [`Recording::flush`].
#[derive(Clone)]
pub struct Recording(Arc<Mutex<Log>>);

struct Log {
    path: PathBuf,
    state: State,
    frames: u64,
    clock: Box<dyn FnMut() -> Duration + Send>,
}

enum State {
    Open(Writer<BufWriter<File>>),
    Failed(String),
}

impl Recording {
    /// Frames recorded.
    pub fn frames(&self) -> u64 {
        self.lock().frames
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// Something could not be written, now or before; the recording ended there.
    pub fn flush(&self) -> Result<(), PcapError> {
        let mut log = self.lock();
        if let State::Open(writer) = &mut log.state
            && let Err(e) = writer.flush()
        {
            log.state = State::Failed(e.to_string());
        }
        match &log.state {
            State::Open(_) => Ok(()),
            State::Failed(reason) => Err(PcapError::Write { path: log.path.clone(), reason: reason.clone() }),
        }
    }

    fn write<'a>(&self, direction: Direction, frames: impl Iterator<Item = &'a [u8]>) {
        let mut log = self.lock();
        let Log { state, frames: count, clock, .. } = &mut *log;
        let State::Open(writer) = state else { return };
        let at = clock();
        for bytes in frames {
            let len = bytes.len() as u32;
            let packet = Packet { interface: 0, at, direction, data: bytes, len, comment: "" };
            if let Err(e) = writer.packet(&packet) {
                *state = State::Failed(e.to_string());
                return;
            }
            *count += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        // A panic of another holder (the clock's, say) leaves at worst half a block in the file.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let log = self.lock();
        write!(f, "Recording({}, {} frames)", log.path.display(), log.frames)
    }
}

impl<P: Port> Port for Recorder<P> {
    type Peer = Recorded<P::Peer>;

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<Self::Peer>> {
        let Self { port, recording } = self;
        let Opened { receivers, senders, peer } = port.open(senders, pool)?;
        let receiver =
            |inner| Box::new(RecordingReceiver { inner, recording: recording.clone() }) as Box<dyn Receive>;
        let sender = |inner| {
            let recording = recording.clone();
            Box::new(RecordingSender { inner, recording, copies: Vec::new(), ends: Vec::new() })
                as Box<dyn Transmit>
        };
        Ok(Opened {
            senders: senders.into_iter().map(sender).collect(),
            receivers: receivers.into_iter().map(receiver).collect(),
            peer: Recorded { peer, recording },
        })
    }
}

struct RecordingReceiver {
    inner: Box<dyn Receive>,
    recording: Recording,
}

impl Receive for RecordingReceiver {
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> io::Result<usize> {
        let before = into.len();
        let result = self.inner.receive(into, max, pool);
        if into.len() > before {
            self.recording.write(Direction::In, into[before..].iter().map(Frame::bytes));
        }
        result
    }

    fn take_missed(&mut self) -> u64 {
        self.inner.take_missed()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_fd()
    }

    fn set_bell(&mut self, bell: Bell) -> bool {
        self.inner.set_bell(bell)
    }

    fn set_waker(&mut self, waker: Waker) {
        self.inner.set_waker(waker);
    }
}

struct RecordingSender {
    inner: Box<dyn Transmit>,
    recording: Recording,
    /// The frames of a batch one after the other, since the port keeps those it takes.
    copies: Vec<u8>,
    /// Where each ends there, and where the frame itself lies.
    ends: Vec<(usize, usize)>,
}

impl Transmit for RecordingSender {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        self.copies.clear();
        self.ends.clear();
        for frame in frames.iter() {
            self.copies.extend_from_slice(frame.bytes());
            self.ends.push((self.copies.len(), frame.place()));
        }
        let result = self.inner.transmit(frames);
        if self.ends.len() > frames.len() {
            let mut start = 0;
            let all = self.ends.iter().map(|&(end, place)| (std::mem::replace(&mut start, end)..end, place));
            let taken = all.filter(|(_, place)| frames.iter().all(|left| left.place() != *place));
            self.recording.write(Direction::Out, taken.map(|(range, _)| &self.copies[range]));
        }
        result
    }
}

#[cfg(test)]
mod tests;
