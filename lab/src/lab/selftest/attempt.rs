//! One try of a connection: a socket that never blocks, from opening to an answer or its deadline.
//!
//! TCP asks the responder who it is and whom it sees; whoever accepts and says nothing of that kind has answered
//! too. UDP sends a datagram that is this try's own, twice if need be, and wants it back. Where names are served, both
//! ask the DNS the same.

use super::facts::Transport;
use crate::lab::dns::{self, Frames};
use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt},
};
use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// What became of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Somebody answered.
    Answered(Answer),
    /// The other end refused it: it got through, and nobody listens.
    Refused,
    /// Nothing came back.
    Silent,
    /// The network said that it does not get there.
    Unreachable(String),
    /// There is no descriptor or memory for a socket now.
    NoSocket,
    /// It could not be tried.
    Failed(String),
}

/// Who answered, as far as it was said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Answer {
    /// "NAMESPACE/POD", "node/NODE" or "outside".
    pub(super) by: Option<String>,
    /// Whom it saw.
    pub(super) client: Option<IpAddr>,
    /// The address that the connection was opened from.
    pub(super) own: Option<IpAddr>,
}

/// What the responder is asked.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
/// The longest answer that is read.
const ANSWER_MAX: usize = 4096;

/// A connection being tried.
#[derive(Debug)]
pub(super) struct Attempt {
    socket: Socket,
    /// When a datagram is sent once more.
    again: Option<Instant>,
    deadline: Instant,
}

#[derive(Debug)]
enum Socket {
    /// `dns`: the number of a query to the DNS.
    Tcp {
        stream: TcpStream,
        connected: bool,
        heard: Vec<u8>,
        dns: Option<u16>,
    },
    Udp {
        socket: UdpSocket,
        token: Vec<u8>,
        dns: Option<u16>,
    },
}

impl Attempt {
    /// Opens a connection, perhaps one to the lab's DNS, from the calling thread's namespace. An outcome if there is one
    /// already.
    pub(super) fn start(
        (transport, dns): (Transport, bool),
        (source, to): (Option<IpAddr>, SocketAddr),
        patience: Duration,
        number: u64,
    ) -> Result<Self, Outcome> {
        let now = Instant::now();
        let opened = match transport {
            Transport::Tcp => tcp(source, to, dns.then_some(number as u16)),
            Transport::Udp => udp(source, to, number, dns),
        };
        let socket = opened.map_err(|e| outcome_of(&e))?;
        let again = (transport == Transport::Udp).then_some(now + patience / 2);
        Ok(Self { socket, again, deadline: now + patience })
    }

    /// What to wait for first.
    pub(super) fn interest(&self) -> EventFlags {
        match self.socket {
            Socket::Tcp { .. } => EventFlags::OUT,
            Socket::Udp { .. } => EventFlags::IN,
        }
    }

    /// Goes on after an event. The outcome, or what to wait for next.
    pub(super) fn go_on(&mut self) -> Result<EventFlags, Outcome> {
        match &mut self.socket {
            Socket::Tcp { stream, connected, heard, dns } => {
                if !*connected {
                    match stream.take_error() {
                        Ok(Some(e)) | Err(e) => return Err(outcome_of(&e)),
                        Ok(None) => *connected = true,
                    }
                    // It fits into an empty send buffer. What fails shows when the answer is read.
                    let _ = match *dns {
                        Some(id) => stream.write(&dns::frame(&dns::who(id)).unwrap_or_default()),
                        None => stream.write(REQUEST),
                    };
                }
                read(stream, heard, *dns)
            }
            Socket::Udp { socket, token, dns } => {
                let mut buffer = [0; 1024];
                match socket.recv(&mut buffer) {
                    Ok(n) if dns.is_some() => {
                        let id = dns.unwrap_or_default();
                        match dns::said(id, &buffer[..n]) {
                            Some(lines) => Err(answered(socket.local_addr(), &lines)),
                            None => Ok(EventFlags::IN),
                        }
                    }
                    Ok(n) if buffer[..n] == *token => {
                        let own = socket.local_addr().ok().map(|a| a.ip());
                        Err(Outcome::Answered(Answer { own, ..Answer::default() }))
                    }
                    Ok(_) => Ok(EventFlags::IN),
                    Err(e) if is_not_yet(&e) => Ok(EventFlags::IN),
                    Err(e) => Err(outcome_of(&e)),
                }
            }
        }
    }

    /// What has come of it by now, if its time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Outcome> {
        if let (Socket::Udp { socket, token, .. }, true) =
            (&self.socket, self.again.is_some_and(|at| now >= at))
        {
            // A first datagram may be lost while a neighbour is looked for.
            let _ = socket.send(token);
            self.again = None;
        }
        if now < self.deadline {
            return None;
        }
        Some(match &self.socket {
            // It was accepted, which is an answer.
            Socket::Tcp { stream, connected: true, heard, .. } => answered(stream.local_addr(), heard),
            _ => Outcome::Silent,
        })
    }
}

impl AsFd for Attempt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp { stream, .. } => stream.as_fd(),
            Socket::Udp { socket, .. } => socket.as_fd(),
        }
    }
}

fn tcp(source: Option<IpAddr>, to: SocketAddr, dns: Option<u16>) -> io::Result<Socket> {
    let socket = open(source, to, SocketType::STREAM)?;
    // Closed with a reset: neither end keeps it afterwards.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(Socket::Tcp { stream: socket.into(), connected: false, heard: Vec::new(), dns })
}

fn udp(source: Option<IpAddr>, to: SocketAddr, number: u64, dns: bool) -> io::Result<Socket> {
    let socket = open(source, to, SocketType::DGRAM)?;
    rustix::net::connect(&socket, &to)?;
    let socket = UdpSocket::from(socket);
    let mut token = *b"selftest........";
    token[8..].copy_from_slice(&number.to_be_bytes());
    let dns = dns.then_some(number as u16);
    let token = dns.map_or_else(|| token.to_vec(), dns::who);
    socket.send(&token)?;
    Ok(Socket::Udp { socket, token, dns })
}

fn open(source: Option<IpAddr>, to: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if to.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let protocol = if kind == SocketType::STREAM { ipproto::TCP } else { ipproto::UDP };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, kind, flags, Some(protocol))?;
    if let Some(source) = source {
        rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
    }
    Ok(socket)
}

/// Reads on, to the end of what the responder says.
fn read(stream: &mut TcpStream, heard: &mut Vec<u8>, dns: Option<u16>) -> Result<EventFlags, Outcome> {
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(answered(stream.local_addr(), heard)),
            Ok(n) => heard.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if is_not_yet(&e) => return Ok(EventFlags::IN),
            // It had been accepted.
            Err(_) => return Err(answered(stream.local_addr(), heard)),
        }
        if let Some(id) = dns {
            let mut frames = Frames::default();
            frames.push(heard);
            if let Some(lines) = frames.next().and_then(|message| dns::said(id, &message)) {
                return Err(answered(stream.local_addr(), &lines));
            }
        }
        if line(heard, "client: ").is_some() || heard.len() > ANSWER_MAX {
            return Err(answered(stream.local_addr(), heard));
        }
    }
}

fn answered(own: io::Result<SocketAddr>, heard: &[u8]) -> Outcome {
    let pod = line(heard, "pod: ");
    let by = pod.map(|pod| match line(heard, "namespace: ") {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}/{pod}"),
        _ => pod,
    });
    let client = line(heard, "client: ").and_then(|text| text.parse::<SocketAddr>().ok());
    let own = own.ok().map(|a| a.ip());
    Outcome::Answered(Answer { by, client: client.map(|c| c.ip()), own })
}

/// What stands after `start` on a line that is whole.
fn line(heard: &[u8], start: &str) -> Option<String> {
    let mut lines = heard.split_inclusive(|b| *b == b'\n').filter(|l| l.ends_with(b"\n"));
    let found = lines.find_map(|l| l.strip_prefix(start.as_bytes()))?;
    Some(String::from_utf8_lossy(found).trim().to_owned())
}

fn is_not_yet(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn outcome_of(e: &io::Error) -> Outcome {
    match e.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Outcome::Refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::TimedOut => {
            Outcome::Unreachable(e.to_string())
        }
        // An ICMP "administratively prohibited" and the like.
        io::ErrorKind::PermissionDenied => Outcome::Unreachable(e.to_string()),
        _ => match e.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN) => {
                Outcome::NoSocket
            }
            Some(Errno::PROTO | Errno::NOPROTOOPT | Errno::MSGSIZE) => Outcome::Unreachable(e.to_string()),
            _ => Outcome::Failed(e.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_line_by_line() {
        let text = b"HTTP/1.1 200 OK\r\n\r\npod: web-0\nnamespace: shop\nclient: 10.0.0.2:4";
        assert_eq!(line(text, "pod: ").as_deref(), Some("web-0"));
        assert_eq!(line(text, "namespace: ").as_deref(), Some("shop"));
        assert_eq!(line(text, "client: "), None, "it may go on");
        assert_eq!(line(b"\xff\nclient: \n", "client: ").as_deref(), Some(""));
    }
}
