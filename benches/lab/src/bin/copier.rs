//! The floor of the device: copies frames between two TAP devices, with their virtio headers, and does nothing else.
//! `copier TAP TAP` makes both, for someone else to move into namespaces, and runs until it is killed.

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    io::Errno,
    ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode},
};
use std::os::fd::OwnedFd;

const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: Opcode = opcode::write::<i32>(b'T', 208);
/// `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000;
/// Checksums, TCP over both families with ECN, UDP over both.
const OFFLOADS: usize = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40;

fn open(name: &str) -> OwnedFd {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).expect("/dev/net/tun");
    let mut request = [0u8; 40];
    request[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
    request[16..18].copy_from_slice(&FLAGS.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` of 40 bytes.
    unsafe { ioctl(&fd, Updater::<TUNSETIFF, [u8; 40]>::new(&mut request)) }.expect("TUNSETIFF");
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    unsafe { ioctl(&fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(OFFLOADS)) }.expect("TUNSETOFFLOAD");
    fd
}

/// Copies what waits; whether there was something.
fn copy(from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8]) -> bool {
    for n in 0..64 {
        match rustix::io::read(from, &mut *buffer) {
            // A device that is down, or full, loses it.
            Ok(len) => drop(rustix::io::write(to, &buffer[..len])),
            Err(Errno::AGAIN) => return n > 0,
            Err(e) => panic!("read: {e}"),
        }
    }
    true
}

fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let [a, b] = &names[..] else { panic!("copier TAP TAP") };
    let (a, b) = (open(a), open(b));
    println!("ready");
    let mut buffer = vec![0; 70_000];
    loop {
        if !(copy(&a, &b, &mut buffer) | copy(&b, &a, &mut buffer)) {
            let mut fds = [PollFd::new(&a, PollFlags::IN), PollFd::new(&b, PollFlags::IN)];
            let _ = poll(&mut fds, None);
        }
    }
}
