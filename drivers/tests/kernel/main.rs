//! Ports against the kernel's own stack, each test in a network namespace of its own. As root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod interface;
mod tap;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    io::Write,
    os::fd::AsFd,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use supernet_dataplane::{
    buf::{Frame, Pool},
    port::{Port, Receive, Transmit},
};

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The kernel's side of the port.
const KERNEL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

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
            let name = format!("porttest-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            ip(&format!("netns add {name}"));
            let before = File::open("/proc/thread-self/ns/net").unwrap();
            let netns = File::open(format!("/run/netns/{name}")).unwrap();
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            return Some(Self { name, before });
        };
        assert!(std::env::var_os("CI").is_none(), "tests of ports can't run in CI: {missing}");
        // Straight to the descriptor: what a test prints is otherwise shown only when it fails.
        let _ = writeln!(std::io::stderr(), "\n*** SKIPPED: this test can't run here: {missing} ***\n");
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

/// Sets the kernel's interface up, with its address. Without IPv6 the kernel has nothing to say by itself.
fn settle(interface: &str) {
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1").unwrap();
    ip(&format!("link set dev {interface} address 02:00:00:00:00:02 up"));
    ip(&format!("address add 10.0.0.2/24 dev {interface}"));
}

/// A port whose other side is the kernel's, split up: [`KERNEL_MAC`], 10.0.0.2.
struct Up {
    pool: Pool,
    receiver: Box<dyn Receive>,
    sender: Box<dyn Transmit>,
}

impl Up {
    fn open<P: Port>(port: P, pool: Pool) -> Self {
        let mut opened = port.open(2, &pool).unwrap();
        Self { pool, receiver: opened.receivers.remove(0), sender: opened.senders.pop().unwrap() }
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut frames = vec![self.pool.copy(bytes).unwrap()];
        self.sender.transmit(&mut frames).unwrap();
        assert!(frames.is_empty(), "the kernel took it");
    }

    fn is_refused(&mut self, bytes: &[u8]) {
        let mut frames = vec![self.pool.copy(bytes).unwrap()];
        self.sender.transmit(&mut frames).unwrap();
        assert_eq!(frames.len(), 1, "the kernel did not take it");
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
    ethernet(dst, 0x0806, &[&head[..], &OUR_MAC, &[10, 0, 0, 1], &KERNEL_MAC, &[10, 0, 0, 2]].concat())
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
    ethernet(KERNEL_MAC, 0x0800, &[&header[..], &icmp].concat())
}

/// The kernel answers ARP and echo.
fn answers(port: &mut Up) {
    port.send(&arp(1, [0xff; 6]));
    let reply = port.recv(0x0806);
    assert_eq!(reply.bytes()[..6], OUR_MAC);
    assert_eq!(reply.bytes()[20..22], [0, 2], "a reply");
    assert_eq!(reply.bytes()[22..28], KERNEL_MAC);

    let request = ping(b"supernet");
    port.send(&request);
    let reply = port.recv(0x0800);
    let bytes = reply.bytes();
    assert_eq!((bytes.len(), bytes[34]), (request.len(), 0), "an echo reply");
    assert_eq!(&bytes[42..], b"supernet");
    assert_eq!(sum(&bytes[34..]), [0, 0], "the kernel has filled in the checksum");
}
