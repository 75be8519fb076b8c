//! The built-in responder: what answers on a pod's ports, since no container runs.
//!
//! TCP: HTTP that says who answered and who asked. UDP: the datagram, echoed. Ports of the lab's DNS are answered by it
//! ([`super::dns`]). Sockets are bound by a thread
//! inside the pod's namespace ([`bind`]) and stay there; one thread serves the sockets of all pods, which may
//! come ([`Responder::add`]) and go ([`Responder::remove`]) at any time.
//!
//! A server of one's own that wants the same port in the pod can't have it while this one does:
//! `lab up --no-serve NS/POD` leaves a pod's ports alone.

mod connection;
mod http;

use super::dns::{self, Asked, Zone};
use connection::Connection;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use supernet_control::model::Protocol;

/// Who answers, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    /// The host in whose namespace the sockets are.
    pub(super) host: String,
    pub(super) namespace: String,
    pub(super) pod: String,
}

impl Identity {
    /// Of `name`, a pod's `NAMESPACE/POD` or another host's name, in `host`.
    pub(super) fn of(host: &str, name: &str) -> Self {
        let (namespace, pod) = name.split_once('/').unwrap_or(("", name));
        Self { host: host.to_owned(), namespace: namespace.to_owned(), pod: pod.to_owned() }
    }

    /// The name that this is the identity of.
    pub(super) fn name(&self) -> String {
        if self.namespace.is_empty() { self.pod.clone() } else { format!("{}/{}", self.namespace, self.pod) }
    }
}

/// A port of somebody's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) identity: Arc<Identity>,
    pub(super) protocol: Protocol,
    pub(super) number: u16,
    /// Names are answered there.
    pub(super) dns: bool,
}

impl Port {
    /// What a message of a client is asked as.
    fn asked(&self, client: SocketAddr) -> Asked<'_> {
        let Identity { namespace, pod, .. } = &*self.identity;
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        Asked { namespace, pod, client, stream: self.protocol == Protocol::Tcp }
    }
}

/// A bound port.
#[derive(Debug)]
pub(super) struct Served {
    port: Arc<Port>,
    socket: Socket,
}

impl Served {
    pub(super) fn port(&self) -> &Port {
        &self.port
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Binds a port on every address of the calling thread's namespace, of both families. `dns`: for names.
pub(super) fn bind(identity: &Arc<Identity>, protocol: Protocol, port: u16, dns: bool) -> io::Result<Served> {
    let any = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    // The first serves both families; the second is for a kernel without IPv6.
    let addresses = any.map(|a| SocketAddr::new(a, port));
    let socket = match protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(&addresses[..])?;
            listener.set_nonblocking(true)?;
            Socket::Tcp(listener)
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(&addresses[..])?;
            socket.set_nonblocking(true)?;
            Socket::Udp(socket)
        }
        Protocol::Sctp => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the responder does not speak SCTP"));
        }
    };
    Ok(Served { port: Arc::new(Port { identity: identity.clone(), protocol, number: port, dns }), socket })
}

/// The running responder. Dropping it closes every socket.
#[derive(Debug)]
pub(super) struct Responder {
    /// A byte wakes the thread to look at `commands`; closing this end ends it.
    bell: Option<UnixStream>,
    commands: mpsc::Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is asked for. It answers on the channel when it is done.
enum Command {
    Add(Vec<Served>, mpsc::Sender<io::Result<()>>),
    Remove(BTreeSet<Port>, mpsc::Sender<io::Result<()>>),
    HandOver(BTreeMap<Port, Arc<Port>>, mpsc::Sender<io::Result<()>>),
    Names(Arc<Zone>, mpsc::Sender<io::Result<()>>),
}

impl Responder {
    /// Serves the given ports from a thread of its own.
    pub(super) fn start(ports: Vec<Served>) -> io::Result<Self> {
        let (bell, rung) = UnixStream::pair()?;
        rung.set_nonblocking(true)?;
        let (commands, asked) = mpsc::channel();
        let mut server = Server {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            sources: HashMap::new(),
            next: BELL + 1,
            bound: 0,
            buffer: vec![0; 64 * 1024],
            rung,
            asked,
            zone: Arc::default(),
        };
        epoll::add(&server.epoll, &server.rung, EventData::new_u64(BELL), EventFlags::IN)?;
        server.add_all(ports)?;
        let thread = thread::Builder::new().name("responder".to_owned()).spawn(move || {
            if let Err(e) = server.run() {
                eprintln!("warning: the built-in responder ended: {e}");
            }
        })?;
        Ok(Self { bell: Some(bell), commands, thread: Some(thread) })
    }

    /// Also serves these ports. When it fails, some may be served; [`Responder::remove`] them then.
    pub(super) fn add(&self, ports: Vec<Served>) -> io::Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        self.ask(|done| Command::Add(ports, done))
    }

    /// Closes these ports, and the connections to them.
    pub(super) fn remove(&self, ports: BTreeSet<Port>) -> io::Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        self.ask(|done| Command::Remove(ports, done))
    }

    /// Answers on these ports as somebody else from now on. Connections to them are closed.
    pub(super) fn hand_over(&self, ports: BTreeMap<Port, Arc<Port>>) -> io::Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        self.ask(|done| Command::HandOver(ports, done))
    }

    /// Answers with these names from now on.
    pub(super) fn answer_from(&self, zone: Arc<Zone>) -> io::Result<()> {
        self.ask(|done| Command::Names(zone, done))
    }

    /// Has the thread do something and waits until it has.
    fn ask(&self, command: impl FnOnce(mpsc::Sender<io::Result<()>>) -> Command) -> io::Result<()> {
        let ended = || io::Error::other("the responder has ended");
        let (done, answer) = mpsc::channel();
        self.commands.send(command(done)).map_err(|_| ended())?;
        match &self.bell {
            Some(bell) => (&mut &*bell).write_all(&[1])?,
            None => return Err(ended()),
        }
        answer.recv().map_err(|_| ended())?
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.bell = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

/// The token of commands, and of the end of it all.
const BELL: u64 = 0;
/// With more connections than this, those that have been silent longest are closed.
const CONNECTIONS: usize = 4096;
/// Events, frames or connections handled before others get their turn.
const BATCH: usize = 64;

enum Source {
    Listener(TcpListener, Arc<Port>),
    Udp(UdpSocket, Arc<Port>),
    Connection(Connection),
}

impl Source {
    /// The port that it belongs to.
    fn port(&self) -> &Port {
        match self {
            Self::Listener(_, port) | Self::Udp(_, port) => port,
            Self::Connection(c) => c.port(),
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Listener(s, _) => s.as_fd(),
            Self::Udp(s, _) => s.as_fd(),
            Self::Connection(c) => c.as_fd(),
        }
    }
}

struct Server {
    epoll: OwnedFd,
    sources: HashMap<u64, Source>,
    next: u64,
    /// How many of them are bound ports.
    bound: usize,
    buffer: Vec<u8>,
    rung: UnixStream,
    asked: mpsc::Receiver<Command>,
    /// Names. A change brings another one, whole.
    zone: Arc<Zone>,
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(BATCH);
        let mut swept = Instant::now();
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&second)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in &events {
                let token = event.data.u64();
                if token != BELL {
                    self.ready(token);
                } else if !self.obey() {
                    return Ok(());
                }
            }
            let now = Instant::now();
            if now.duration_since(swept) >= Duration::from_secs(1) {
                swept = now;
                self.sources.retain(|_, s| !matches!(s, Source::Connection(c) if c.is_overdue(now)));
            }
        }
    }

    /// Does what was asked for. `false` when the end was.
    fn obey(&mut self) -> bool {
        match self.rung.read(&mut self.buffer) {
            Ok(0) => return false,
            Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return false;
            }
            _ => {}
        }
        while let Ok(command) = self.asked.try_recv() {
            // Who asked may have given up waiting.
            let _ = match command {
                Command::Add(ports, done) => done.send(self.add_all(ports)),
                Command::Remove(ports, done) => {
                    self.sources.retain(|_, s| !ports.contains(s.port()));
                    self.bound =
                        self.sources.values().filter(|s| !matches!(s, Source::Connection(_))).count();
                    done.send(Ok(()))
                }
                Command::HandOver(ports, done) => {
                    self.sources.retain(|_, source| match source {
                        Source::Connection(c) => !ports.contains_key(c.port()),
                        Source::Listener(_, port) | Source::Udp(_, port) => {
                            if let Some(new) = ports.get(&**port) {
                                *port = new.clone();
                            }
                            true
                        }
                    });
                    done.send(Ok(()))
                }
                Command::Names(zone, done) => {
                    self.zone = zone;
                    done.send(Ok(()))
                }
            };
        }
        true
    }

    fn add_all(&mut self, ports: Vec<Served>) -> io::Result<()> {
        self.bound += ports.len();
        ports.into_iter().try_for_each(|Served { port, socket }| {
            self.add(match socket {
                Socket::Tcp(listener) => Source::Listener(listener, port),
                Socket::Udp(socket) => Source::Udp(socket, port),
            })
        })
    }

    fn add(&mut self, source: Source) -> io::Result<()> {
        epoll::add(&self.epoll, &source, EventData::new_u64(self.next), EventFlags::IN)?;
        self.sources.insert(self.next, source);
        self.next += 1;
        Ok(())
    }

    fn ready(&mut self, token: u64) {
        match self.sources.get_mut(&token) {
            Some(Source::Udp(socket, port)) => answer_datagrams(socket, port, &self.zone, &mut self.buffer),
            Some(Source::Listener(listener, port)) => {
                let port = port.clone();
                let (accepted, short) = accept(listener);
                for (stream, client) in accepted {
                    let connection = Connection::new(stream, client, port.clone());
                    if self.sources.len() >= self.bound + CONNECTIONS {
                        self.drop_most_silent();
                    }
                    let _ = self.add(Source::Connection(connection));
                }
                if short {
                    self.drop_most_silent();
                }
            }
            Some(Source::Connection(connection)) => match connection.go_on(&self.zone, &mut self.buffer) {
                Some(interest) => {
                    let _ = epoll::modify(&self.epoll, &*connection, EventData::new_u64(token), interest);
                }
                // Closing the descriptor takes it off the list of those waited for.
                None => drop(self.sources.remove(&token)),
            },
            // Closed while handling an earlier event of the same batch.
            None => {}
        }
    }

    fn drop_most_silent(&mut self) {
        let oldest = self
            .sources
            .iter()
            .filter_map(|(token, s)| match s {
                Source::Connection(c) => Some((c.heard(), *token)),
                _ => None,
            })
            .min();
        match oldest {
            Some((_, token)) => drop(self.sources.remove(&token)),
            // Out of descriptors with none of ours to give: wait for others to close theirs.
            None => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Accepts what is waiting; whether it ended for lack of descriptors or memory.
fn accept(listener: &TcpListener) -> (Vec<(TcpStream, SocketAddr)>, bool) {
    let mut accepted = Vec::new();
    while accepted.len() < BATCH {
        match listener.accept() {
            Ok((stream, client)) => {
                if stream.set_nonblocking(true).is_ok() {
                    let _ = stream.set_nodelay(true);
                    accepted.push((stream, client));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return (accepted, false),
            // The client is gone already, or a signal came.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(_) => return (accepted, true),
        }
    }
    (accepted, false)
}

fn answer_datagrams(socket: &UdpSocket, port: &Port, zone: &Zone, buffer: &mut [u8]) {
    for _ in 0..BATCH {
        match socket.recv_from(buffer) {
            // An answer that can't be sent is a datagram lost, as datagrams may be.
            Ok((len, client)) if port.dns => {
                if let Some(answer) = dns::answer(zone, &buffer[..len], &port.asked(client)) {
                    drop(socket.send_to(&answer, client));
                }
            }
            Ok((len, client)) => drop(socket.send_to(&buffer[..len], client)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            // An ICMP error for an earlier answer; it does not concern the next datagram.
            Err(_) => {}
        }
    }
}
