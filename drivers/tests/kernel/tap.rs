//! TAP devices.

use super::{Netns, Up, answers, arp, ip, ping, settle};
use std::{collections::HashMap, net::UdpSocket, os::fd::AsFd, process::Command};
use supernet_dataplane::{
    buf::{FRAME_CAPACITY, Frame, Large, Pool},
    port::Port,
};
use supernet_drivers::tap::{self, Options, Tap, TapError};

fn up(tap: Tap) -> Up {
    settle(tap.name());
    Up::open(tap, Pool::new(16))
}

#[test]
fn the_kernel_answers_arp_and_echo() {
    let Some(_netns) = Netns::enter() else { return };
    let mut tap = up(tap::open("eth0").unwrap());
    assert!(tap.receiver.as_fd().is_some());
    answers(&mut tap);
}

#[test]
fn a_device_that_is_down_takes_nothing_and_comes_back() {
    let Some(_netns) = Netns::enter() else { return };
    let mut tap = up(tap::open("eth0").unwrap());
    ip("link set dev eth0 down");
    tap.is_refused(&arp(1, [0xff; 6]));
    tap.is_refused(&[0; 5]);
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

/// Opened elsewhere with a virtio header, it comes with one here, and goes on as if it had been opened here.
#[test]
fn a_descriptor_with_offloads_may_come_from_elsewhere() {
    let Some(_netns) = Netns::enter() else { return };
    let opened = Options::new().offloads(true).open("eth0").unwrap();
    let tap = Tap::from_fd(opened.as_fd().try_clone_to_owned().unwrap()).unwrap();
    drop(opened);
    settle("eth0");
    let mut tap = Up::open(tap, Pool::with_large(16, 4, Large::Super));
    assert!(tap.sender.offloads().take_all());
    answers(&mut tap);
    ip("neighbor replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0");
    UdpSocket::bind("10.0.0.2:0").unwrap().send_to(b"undone", "10.0.0.1:9").unwrap();
    assert!(tap.recv(0x0800).offload().is_some());
}

/// Each connection comes by one queue: the one that its answers were written to.
#[test]
fn connections_keep_to_their_queue() {
    let Some(_netns) = Netns::enter() else { return };
    let tap = Options::new().queues(3).open("eth0").unwrap();
    settle("eth0");
    ip("neighbor replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0");
    let pool = Pool::new(64);
    let mut opened = tap.open(4, &pool).unwrap();
    assert_eq!((opened.receivers.len(), opened.senders.len()), (3, 4));
    let sockets: Vec<_> = (0..24).map(|_| UdpSocket::bind("10.0.0.2:0").unwrap()).collect();
    // By the client's port: the queues it came by.
    let mut queues: HashMap<u16, Vec<usize>> = HashMap::new();
    for _ in 0..4 {
        sockets.iter().for_each(|socket| assert_eq!(socket.send_to(b"hello", "10.0.0.1:9").unwrap(), 5));
        let mut received = 0;
        while received < sockets.len() {
            for (queue, receiver) in opened.receivers.iter_mut().enumerate() {
                let mut frames = Vec::new();
                received += receiver.receive(&mut frames, 8, &pool).unwrap();
                for frame in frames {
                    let port = u16::from_be_bytes([frame.bytes()[34], frame.bytes()[35]]);
                    queues.entry(port).or_default().push(queue);
                }
            }
        }
    }
    assert!(queues.values().all(|by| by.len() == 4 && by.iter().all(|queue| *queue == by[0])), "{queues:?}");
    let used = |queue: usize| queues.values().any(|by| by[0] == queue);
    assert!((0..3).all(used), "{queues:?}");
}
