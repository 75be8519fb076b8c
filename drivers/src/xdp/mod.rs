//! AF_XDP sockets on an interface that is there already: its frames go past the kernel's stack, to the network and from it.
//!
//! ```text
//!   the wire ══ eth1 ── XDP program ──▶ socket of queue 0 ── Receive ──▶ a worker
//!                │                 └──▶ socket of queue 1 ── Receive ──▶ another one
//!                └──────────────────────── both ◀── Transmit ◀── every worker
//! ```
//!
//! The interface is the network's alone: its kernel hears nothing on it any more. Both go with the port, also when the
//! process is killed. Every queue has a socket; workers that send share one when there are more of them than queues.
//!
//! Drivers that can't do XDP themselves are served by the kernel (generic XDP). Frames are whole, checked by the interface
//! before and summed here after, with one exception: what comes over a veth was not on any wire, and its sender may have left
//! its checksums undone, without XDP telling. They are all taken for undone and computed where that is needed. The other
//! end of a veth has to take whole frames of its MTU: the kernel sees to it as long as the program is attached.
//!
//! Kinds of interfaces whose frames need not have been on any wire either, and may be merged as well, are refused: bridges,
//! TAPs, macvlan, macvtap, ipvlan, VLANs, teams and dummies. A port on one of them is a packet socket's
//! ([`packet`](crate::packet)), which is told of both.

mod program;
mod socket;

use crate::interface::{self, Interface, InterfaceError};
use aya::{
    Ebpf, EbpfError,
    maps::{MapError, XskMap},
    programs::{ProgramError, Xdp as Program, xdp::XdpMode},
};
use rustix::io::Errno;
use socket::{LONGEST, NoSocket, Socket};
use std::{
    error::Error,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use supernet_dataplane::{
    buf::{Frame, Pool},
    port::{Opened, Port, Receive, Transmit},
};

/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;

/// Drivers of interfaces over which hosts of this machine talk: their frames may be super-packets, which XDP loses without a
/// word, and their checksums left undone.
const SOFT: [&str; 8] =
    ["bridge", "tun", "macvlan", "macvtap", "ipvlan", "802.1Q VLAN Support", "team", "dummy"];

/// Opens a socket on every queue of `interface`, and has its frames go there from now on.
///
/// # Errors
/// See [`InterfaceError`]; the interface is as it was.
pub fn open(interface: &Interface) -> Result<Xdp, InterfaceError> {
    let most = LONGEST as u32 - ETHERNET;
    if interface.mtu() > most {
        return Err(InterfaceError::TooLong {
            name: interface.name().to_owned(),
            mtu: interface.mtu(),
            most,
        });
    }
    if SOFT.contains(&interface.driver()) {
        let (name, kind) = (interface.name().to_owned(), interface.driver().to_owned());
        return Err(InterfaceError::Soft { name, kind });
    }
    let (receive, send) = interface.queues();
    let longest = (interface.mtu() + ETHERNET) as usize;
    // Its other end is on this machine.
    let undone = interface.driver() == "veth";
    let system =
        |call| move |source| InterfaceError::System { name: interface.name().to_owned(), call, source };
    let all = interface::listen_to_all(interface.index()).map_err(system("PACKET_ADD_MEMBERSHIP"))?;
    let sockets: Vec<_> =
        (0..receive).map(|queue| open_socket(interface, queue, longest, undone)).collect::<Result<_, _>>()?;
    let program = attach(interface, &sockets)?;
    // A queue that only receives can't be sent by.
    let senders = receive.min(send) as usize;
    Ok(Xdp { sockets, senders, attached: Attached { program, all }, interface: interface.clone() })
}

/// How long the kernel may take to be done with a socket that was closed.
const AFTERMATH: Duration = Duration::from_secs(2);

fn open_socket(
    interface: &Interface,
    queue: u32,
    longest: usize,
    undone: bool,
) -> Result<Socket, InterfaceError> {
    let deadline = Instant::now() + AFTERMATH;
    loop {
        match Socket::open(interface.index(), queue, longest, undone) {
            Err(e) if e.errno() == Some(Errno::BUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other.map_err(|e| no_socket(interface, queue, e)),
        }
    }
}

/// Sockets on an interface that are not attached yet.
pub struct Xdp {
    sockets: Vec<Socket>,
    /// The first so many can send.
    senders: usize,
    attached: Attached,
    interface: Interface,
}

/// What holds the interface.
struct Attached {
    #[allow(dead_code, reason = "attached as long as it is there")]
    program: Ebpf,
    #[allow(dead_code, reason = "the interface takes frames for every MAC as long as it is open")]
    all: OwnedFd,
}

impl std::fmt::Debug for Xdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Xdp({}, {} queues)", self.interface.name(), self.sockets.len())
    }
}

impl Xdp {
    /// The interface they are on, as it was when they were opened.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// How many queues it has.
    pub fn queues(&self) -> usize {
        self.sockets.len()
    }
}

impl Port for Xdp {
    type Peer = ();

    fn open(self, senders: usize, _pool: &Pool) -> io::Result<Opened<()>> {
        let attached = Arc::new(Mutex::new(self.attached));
        let queues = self
            .sockets
            .into_iter()
            .map(|socket| {
                let fd = socket.fd().try_clone_to_owned()?;
                Ok(Arc::new(Queue { socket: Mutex::new(socket), fd, _attached: attached.clone() }))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let receiver =
            |queue: &Arc<Queue>| Box::new(Receiver { queue: queue.clone(), missed: 0 }) as Box<dyn Receive>;
        let sender = |queue: &Arc<Queue>| Box::new(Sender(queue.clone())) as Box<dyn Transmit>;
        Ok(Opened {
            receivers: queues.iter().map(receiver).collect(),
            senders: queues.iter().take(self.senders).cycle().take(senders).map(sender).collect(),
            peer: (),
        })
    }
}

/// A socket that a receiver and senders share.
struct Queue {
    /// Before the program: it is closed first.
    socket: Mutex<Socket>,
    fd: OwnedFd,
    /// As long as any half is left.
    _attached: Arc<Mutex<Attached>>,
}

impl Queue {
    /// Held for a batch. A panic elsewhere leaves the rings whole.
    fn lock(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Receiver {
    queue: Arc<Queue>,
    missed: u64,
}

impl Receive for Receiver {
    fn receive(&mut self, into: &mut Vec<Frame>, max: usize, pool: &Pool) -> io::Result<usize> {
        let before = into.len();
        self.missed += self.queue.lock().receive(into, max, pool);
        Ok(into.len() - before)
    }

    fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.queue.fd.as_fd())
    }
}

struct Sender(Arc<Queue>);

impl Transmit for Sender {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        self.0.lock().transmit(frames)
    }
}

/// Loads the program and attaches it.
fn attach(interface: &Interface, sockets: &[Socket]) -> Result<Ebpf, InterfaceError> {
    let failed = |what, source: Box<dyn Error + Send + Sync>| {
        let name = interface.name().to_owned();
        match errno(&*source) {
            Some(Errno::PERM | Errno::ACCESS) => not_permitted(name),
            Some(Errno::BUSY | Errno::EXIST) => {
                InterfaceError::Taken { name, what: "an XDP program".to_owned() }
            }
            _ => InterfaceError::Unsupported { name, what, source },
        }
    };
    let loaded = |e: Box<dyn Error + Send + Sync>| failed("an XDP program", e);
    let elf = program::elf(sockets.len() as u32).map_err(|e| loaded(e.into()))?;
    let mut ebpf = Ebpf::load(&elf).map_err(|e: EbpfError| loaded(e.into()))?;
    let missing = |name: &str| loaded(format!("the object has no {name}").into());
    let map = ebpf.map_mut(program::SOCKETS).ok_or_else(|| missing(program::SOCKETS))?;
    let mut map = XskMap::try_from(map).map_err(|e: MapError| loaded(e.into()))?;
    for (queue, socket) in (0..).zip(sockets) {
        map.set(queue, socket.fd(), 0).map_err(|e| loaded(e.into()))?;
    }
    let program = ebpf.program_mut(program::PROGRAM).ok_or_else(|| missing(program::PROGRAM))?;
    let program: &mut Program = program.try_into().map_err(|e: ProgramError| loaded(e.into()))?;
    program.load().map_err(|e| loaded(e.into()))?;
    let index = interface.index();
    let attached = program.attach_to_if_index(index, XdpMode::Default);
    // What the interface's driver can't do, the kernel does for it: with frames of this length, for example.
    let attached = match attached {
        Err(e) if !matches!(errno(&e), Some(Errno::PERM | Errno::ACCESS | Errno::BUSY | Errno::EXIST)) => {
            program.attach_to_if_index(index, XdpMode::Skb)
        }
        other => other,
    };
    attached.map_err(|e| failed("an XDP program", e.into()))?;
    Ok(ebpf)
}

fn no_socket(interface: &Interface, queue: u32, error: NoSocket) -> InterfaceError {
    let name = interface.name().to_owned();
    match error.errno() {
        Some(Errno::PERM | Errno::ACCESS) => not_permitted(name),
        // The memory of a socket is locked.
        Some(Errno::NOBUFS) => {
            let capabilities = "CAP_IPC_LOCK, or more than 8 MiB a queue by `ulimit -l`";
            InterfaceError::NotPermitted { name, what: "AF_XDP sockets", capabilities }
        }
        Some(Errno::BUSY) => {
            InterfaceError::Taken { name, what: format!("an AF_XDP socket on its queue {queue}") }
        }
        _ => InterfaceError::Unsupported { name, what: "an AF_XDP socket", source: error.into() },
    }
}

fn not_permitted(name: String) -> InterfaceError {
    let capabilities = "CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF";
    InterfaceError::NotPermitted { name, what: "AF_XDP sockets", capabilities }
}

/// What the kernel said, somewhere down the chain.
fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Errno::from_io_error(error);
        }
        next = error.source();
    }
    None
}
