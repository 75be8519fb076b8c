//! TAP devices against the kernel's own stack, each test in a network namespace of its own. As root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    io::Write,
    net::UdpSocket,
    os::fd::AsFd,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use supernet_dataplane::{
    buf::{FRAME_CAPACITY, Frame, Large, Pool},
    port::{Port, Receive, Transmit},
};
use supernet_drivers::tap::{self, Tap, TapError};

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TAP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A network namespace that the calling thread is in, removed when dropped.
struct Netns {
    name: String,
    /// The thread's own, to return to.
    before: File,
}

impl Netns {
    /// `None`, said loudly, where the test can't run; a failure in CI.
    fn enter() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let missing = if !rustix::process::geteuid().is_root() {
            "not root"
        } else if !Path::new("/dev/net/tun").exists() {
            "no /dev/net/tun"
        } else {
            let name = format!("taptest-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            ip(&format!("netns add {name}"));
            let before = File::open("/proc/thread-self/ns/net").unwrap();
            let netns = File::open(format!("/run/netns/{name}")).unwrap();
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            return Some(Self { name, before });
        };
        assert!(std::env::var_os("CI").is_none(), "TAP tests can't run in CI: {missing}");
        // Straight to the descriptor: what a test prints is otherwise shown only when it fails.
        let _ = writeln!(std::io::stderr(), "\n*** SKIPPED: this TAP test can't run here: {missing} ***\n");
        None
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = move_into_link_name_space(self.before.as_fd(), None);
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Runs one `ip` command in the calling thread's namespace.
fn ip(command: &str) {
    let output = Command::new("ip").args(command.split(' ')).output().expect("ip (iproute2) is installed");
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A TAP that is up and has an address, split up.
struct Up {
    pool: Pool,
    receiver: Box<dyn Receive>,
    sender: Box<dyn Transmit>,
}

fn up(tap: Tap) -> Up {
    // Without IPv6 the kernel has nothing to say by itself.
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", tap.name()), "1").unwrap();
    ip(&format!("link set dev {} address 02:00:00:00:00:02 up", tap.name()));
    ip(&format!("address add 10.0.0.2/24 dev {}", tap.name()));
    let pool = Pool::new(16);
    let mut opened = tap.open(2, &pool).unwrap();
    Up { pool, receiver: opened.receiver, sender: opened.senders.pop().unwrap() }
}

impl Up {
    fn send(&mut self, bytes: &[u8]) {
        let mut frames = vec![self.pool.copy(bytes).unwrap()];
        self.sender.transmit(&mut frames).unwrap();
        assert!(frames.is_empty(), "the kernel took it");
    }

    /// The next frame of an EtherType; others are passed over.
    fn recv(&mut self, ethertype: u16) -> Frame {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut frames = Vec::new();
        while Instant::now() < deadline {
            self.receiver.receive(&mut frames, 1, &self.pool).unwrap();
            match frames.pop() {
                Some(frame) if frame.bytes()[12..14] == ethertype.to_be_bytes() => return frame,
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("no frame of type {ethertype:#06x} came");
    }
}

fn ethernet(dst: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &OUR_MAC, &ethertype.to_be_bytes(), payload].concat()
}

/// An ARP message from 10.0.0.1 about 10.0.0.2.
fn arp(operation: u8, dst: [u8; 6]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    ethernet(dst, 0x0806, &[&head[..], &OUR_MAC, &[10, 0, 0, 1], &TAP_MAC, &[10, 0, 0, 2]].concat())
}

fn sum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An echo request from 10.0.0.1 to 10.0.0.2.
fn ping(payload: &[u8]) -> Vec<u8> {
    let mut icmp = [&[8, 0, 0, 0, 0x12, 0x34, 0, 1], payload].concat();
    let check = sum(&icmp);
    icmp[2..4].copy_from_slice(&check);
    let total = (20 + icmp.len() as u16).to_be_bytes();
    let mut header = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let check = sum(&header);
    header[10..12].copy_from_slice(&check);
    ethernet(TAP_MAC, 0x0800, &[&header[..], &icmp].concat())
}

#[test]
fn the_kernel_answers_arp_and_echo() {
    let Some(_netns) = Netns::enter() else { return };
    let mut tap = up(tap::open("eth0").unwrap());
    assert!(tap.receiver.as_fd().is_some());

    tap.send(&arp(1, [0xff; 6]));
    let reply = tap.recv(0x0806);
    assert_eq!(reply.bytes()[..6], OUR_MAC);
    assert_eq!(reply.bytes()[20..22], [0, 2], "a reply");
    assert_eq!(reply.bytes()[22..28], TAP_MAC);

    let request = ping(b"supernet");
    tap.send(&request);
    let reply = tap.recv(0x0800);
    let bytes = reply.bytes();
    assert_eq!((bytes.len(), bytes[34]), (request.len(), 0), "an echo reply");
    assert_eq!(&bytes[42..], b"supernet");
    assert_eq!(sum(&bytes[34..]), [0, 0], "the kernel has filled in the checksum");
}

#[test]
fn a_device_that_is_down_swallows_frames_and_comes_back() {
    let Some(_netns) = Netns::enter() else { return };
    let mut tap = up(tap::open("eth0").unwrap());
    ip("link set dev eth0 down");
    tap.send(&arp(1, [0xff; 6]));
    tap.send(&[0; 5]);
    let mut frames = Vec::new();
    assert_eq!(tap.receiver.receive(&mut frames, 8, &tap.pool).unwrap(), 0);
    ip("link set dev eth0 up");
    tap.send(&arp(1, [0xff; 6]));
    tap.recv(0x0806);
}

#[test]
fn a_frame_too_long_for_a_buffer_is_missed() {
    let Some(_netns) = Netns::enter() else { return };
    let mut tap = up(tap::open("eth0").unwrap());
    ip("link set dev eth0 mtu 9000");
    ip("neighbour replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0");
    let socket = UdpSocket::bind("10.0.0.2:0").unwrap();
    let fits = FRAME_CAPACITY - 14 - 20 - 8;
    for len in [fits + 1, fits, 1] {
        socket.send_to(&vec![7; len], "10.0.0.1:9").unwrap();
    }
    assert_eq!(tap.recv(0x0800).len(), FRAME_CAPACITY);
    assert_eq!(tap.recv(0x0800).len(), 14 + 20 + 8 + 1);
    assert_eq!((tap.receiver.take_missed(), tap.receiver.take_missed()), (1, 0));
}

#[test]
fn jumbo_frames_come_and_go_where_the_pool_has_buffers_for_them() {
    let Some(_netns) = Netns::enter() else { return };
    let mut tap = up(tap::open("eth0").unwrap());
    tap.pool = Pool::with_large(16, 2, Large::Jumbo);
    ip("link set dev eth0 mtu 9000");
    ip("neighbour replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0");
    let socket = UdpSocket::bind("10.0.0.2:0").unwrap();
    let headers = 14 + 20 + 8;
    let fits = FRAME_CAPACITY - headers;
    for (n, len) in [fits, fits + 1, 9000 - 28, 1].into_iter().enumerate() {
        let payload: Vec<u8> = (0..len).map(|byte| (byte + n) as u8).collect();
        socket.send_to(&payload, "10.0.0.1:9").unwrap();
        let frame = tap.recv(0x0800);
        assert_eq!(frame.bytes()[headers..], payload);
    }
    assert_eq!(tap.receiver.take_missed(), 0);
    let request = ping(&[7; 8000]);
    tap.send(&request);
    assert_eq!(tap.recv(0x0800).bytes()[42..], [7; 8000]);
}

#[test]
fn without_buffers_frames_wait_in_the_kernel() {
    let Some(_netns) = Netns::enter() else { return };
    let mut tap = up(tap::open("eth0").unwrap());
    let held: Vec<Frame> = std::iter::from_fn(|| tap.pool.take()).collect();
    ip("neighbour replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0");
    UdpSocket::bind("10.0.0.2:0").unwrap().send_to(b"x", "10.0.0.1:9").unwrap();
    assert_eq!(tap.receiver.receive(&mut Vec::new(), 8, &tap.pool).unwrap(), 0);
    drop(held);
    assert_eq!(tap.recv(0x0800).len(), 14 + 20 + 8 + 1);
    assert_eq!(tap.receiver.take_missed(), 0);
}

#[test]
fn a_deleted_device_is_an_error_and_a_dropped_port_deletes_it() {
    let Some(_netns) = Netns::enter() else { return };
    let mut tap = up(tap::open("eth0").unwrap());
    ip("link del dev eth0");
    assert!(tap.receiver.receive(&mut Vec::new(), 8, &tap.pool).is_err());
    let mut frames = vec![tap.pool.copy(&arp(1, [0xff; 6])).unwrap()];
    assert!(tap.sender.transmit(&mut frames).is_err());
    assert_eq!(frames.len(), 1, "what was not taken is left");
    drop(tap);

    // The name is free again, and so it is after a drop.
    drop(up(tap::open("eth0").unwrap()));
    assert!(!Command::new("ip").args(["link", "show", "eth0"]).output().unwrap().status.success());
}

#[test]
fn a_name_in_use_is_refused_and_a_descriptor_may_come_from_elsewhere() {
    let Some(_netns) = Netns::enter() else { return };
    let first = tap::open("eth0").unwrap();
    for name in ["eth0", "lo"] {
        let error = tap::open(name).unwrap_err();
        assert!(matches!(error, TapError::Busy { .. }), "{name}: {error}");
    }
    let again = Tap::from_fd(first.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(again.name(), "eth0");
    drop(first);
    let mut tap = up(again);
    tap.send(&arp(1, [0xff; 6]));
    tap.recv(0x0806);
}

#[test]
fn an_idle_port_keeps_no_jumbo_buffer() {
    let Some(_netns) = Netns::enter() else { return };
    let mut tap = up(tap::open("eth0").unwrap());
    tap.pool = Pool::with_large(16, 1, Large::Jumbo);
    let mut frames = Vec::new();
    tap.receiver.receive(&mut frames, 1, &tap.pool).unwrap();
    assert!(tap.pool.take_for(9000).is_some(), "an idle port holds the only one");
}
