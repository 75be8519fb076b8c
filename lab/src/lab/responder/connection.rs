//! A connection to a port that is served: requests in, answers out, one after the other, without waiting.

use super::http::{Head, Reading};
use super::{BATCH, Identity, Port};
use crate::lab::dns::{self, Frames, Zone};
use rustix::event::epoll::EventFlags;
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(120);
/// The same where names are asked for (RFC 7766, 6.2.3).
const IDLE_DNS: Duration = Duration::from_secs(10);
/// How long a connection that we have closed is read, so that no reset overtakes the answer.
const LINGER: Duration = Duration::from_secs(2);

/// A client's connection.
pub(super) struct Connection {
    stream: TcpStream,
    client: SocketAddr,
    port: Arc<Port>,
    talk: Talk,
    answer: Vec<u8>,
    sent: usize,
    state: Life,
    heard: Instant,
}

/// What is spoken on a connection, and what has come and is not answered yet.
enum Talk {
    Http(Reading),
    Dns(Frames),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Requests are read.
    Open,
    /// The answer being sent is the last.
    Last,
    /// Our side is closed, theirs not yet.
    Lingering,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, client: SocketAddr, port: Arc<Port>) -> Self {
        let talk = match port.dns {
            true => Talk::Dns(Frames::default()),
            false => Talk::Http(Reading::default()),
        };
        Self {
            stream,
            client: SocketAddr::new(client.ip().to_canonical(), client.port()),
            port,
            talk,
            answer: Vec::new(),
            sent: 0,
            state: Life::Open,
            heard: Instant::now(),
        }
    }

    /// The port that it belongs to.
    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// When something came last.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// Whether it has been silent for too long.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let limit = match (self.state, &self.talk) {
            (Life::Lingering, _) => LINGER,
            (_, Talk::Http(_)) => IDLE,
            (_, Talk::Dns(_)) => IDLE_DNS,
        };
        now.duration_since(self.heard) > limit
    }

    /// Sends and reads what can be without waiting. What to wait for next; `None`: the connection is done.
    pub(super) fn go_on(&mut self, zone: &Zone, buffer: &mut [u8]) -> Option<EventFlags> {
        for _ in 0..BATCH {
            if self.sent < self.answer.len() {
                match self.stream.write(&self.answer[self.sent..]) {
                    Ok(n) => self.sent += n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Some(EventFlags::OUT),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return None,
                }
                continue;
            }
            match self.state {
                Life::Last => {
                    self.stream.shutdown(Shutdown::Write).ok()?;
                    self.state = Life::Lingering;
                }
                // Requests sent ahead are answered one after the other.
                Life::Open => {
                    if self.respond(zone)? {
                        continue;
                    }
                }
                Life::Lingering => {}
            }
            match self.stream.read(buffer) {
                Ok(0) => return None,
                Ok(n) => {
                    if self.state == Life::Open {
                        self.heard = Instant::now();
                        match &mut self.talk {
                            Talk::Http(reading) => reading.push(&buffer[..n]),
                            Talk::Dns(frames) => frames.push(&buffer[..n]),
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Some(EventFlags::IN),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        // Others first. What was read already is not reported again, but that there is room for an answer is.
        Some(EventFlags::IN | EventFlags::OUT)
    }

    /// Answers the next request, if one is whole; whether it was. `None`: there is nothing to be said to this.
    fn respond(&mut self, zone: &Zone) -> Option<bool> {
        match &mut self.talk {
            Talk::Http(reading) => {
                let Some(head) = reading.next() else { return Some(false) };
                self.respond_to(head);
            }
            Talk::Dns(frames) => {
                let Some(message) = frames.next() else { return Some(false) };
                let answer = dns::answer(zone, &message, &self.port.asked(self.client))?;
                self.answer = dns::frame(&answer)?;
                self.sent = 0;
            }
        }
        Some(true)
    }

    fn respond_to(&mut self, head: Head) {
        let Identity { namespace, pod, .. } = &*self.port.identity;
        let body = format!("pod: {pod}\nnamespace: {namespace}\nclient: {}\n", self.client);
        self.answer = head.answer(&body);
        self.sent = 0;
        if !head.keep_alive() {
            self.state = Life::Last;
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use supernet_control::model::Protocol;

    #[test]
    fn who_is_silent_for_too_long_is_overdue() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let identity = Arc::new(Identity::of("shop/web", "shop/web"));
        let overdue = |dns: bool, after: u64| {
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, client) = listener.accept().unwrap();
            let port = Port { identity: identity.clone(), protocol: Protocol::Tcp, number: 53, dns };
            let connection = Connection::new(stream, client, Arc::new(port));
            connection.is_overdue(connection.heard() + Duration::from_secs(after))
        };
        assert!(overdue(true, 11) && !overdue(true, 9));
        assert!(overdue(false, 121) && !overdue(false, 119));
    }
}
