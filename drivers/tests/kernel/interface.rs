//! Packet sockets and AF_XDP on one end of a veth; the kernel has the other.

use super::{KERNEL_MAC, Netns, OUR_MAC, Up, answers, arp, ethernet, ip, ping, settle, sum};
use std::{net::UdpSocket, process::Command, time::Duration};
use supernet_dataplane::{
    buf::{Large, Offloads, Pool},
    port::{Opened, Port},
    wire::{Mac, offload},
};
use supernet_drivers::{
    interface::{Interface, InterfaceError},
    packet, tap, xdp,
};

/// A driver of interfaces.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Driver {
    Packet,
    Xdp,
}

use Driver::{Packet, Xdp};

impl Driver {
    fn open(self, name: &str) -> Result<Attachable, InterfaceError> {
        let interface = Interface::find(name)?;
        match self {
            Packet => packet::open(&interface).map(Attachable::Packet),
            Xdp => xdp::open(&interface).map(Attachable::Xdp),
        }
    }
}

#[derive(Debug)]
enum Attachable {
    Packet(packet::Packet),
    Xdp(xdp::Xdp),
}

impl Port for Attachable {
    type Peer = ();

    fn open(self, senders: usize, pool: &Pool) -> std::io::Result<Opened<()>> {
        match self {
            Self::Packet(port) => port.open(senders, pool),
            Self::Xdp(port) => port.open(senders, pool),
        }
    }
}

/// A veth: the port's end `eth1`, without addresses, and the kernel's, `peer`.
fn veth(options: &str) {
    ip(format!("link add eth1{options} type veth peer name peer{options}").trim());
    std::fs::write("/proc/sys/net/ipv6/conf/eth1/disable_ipv6", "1").unwrap();
    ip("link set dev eth1 address 02:00:00:00:00:77 up");
    settle("peer");
    ip("neighbor replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev peer");
}

fn up(driver: Driver) -> Up {
    Up::open(driver.open("eth1").unwrap(), Pool::with_large(64, 8, Large::Super))
}

/// For each driver, in a namespace of its own.
fn each(test: impl Fn(Driver)) {
    for driver in [Packet, Xdp] {
        let Some(_netns) = Netns::enter() else { return };
        veth("");
        test(driver);
    }
}

/// A UDP datagram from 10.0.0.1 port 7 to 10.0.0.2 `port`, whose checksum is left undone.
fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len() as u16).to_be_bytes();
    let total = (28 + payload.len() as u16).to_be_bytes();
    let mut header = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let check = sum(&header);
    header[10..12].copy_from_slice(&check);
    let udp = [&[0, 7], &port.to_be_bytes()[..], &len, &[0xba, 0xad], payload].concat();
    ethernet(KERNEL_MAC, 0x0800, &[&header[..], &udp].concat())
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("10.0.0.2:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

#[test]
fn the_kernel_answers_arp_and_echo() {
    each(|driver| {
        let mut port = up(driver);
        assert!(port.receiver.as_fd().is_some());
        answers(&mut port);
    });
}

#[test]
fn interfaces_are_described() {
    let Some(_netns) = Netns::enter() else { return };
    veth(" mtu 1400");
    let peer = Interface::find("peer").unwrap();
    assert_eq!((peer.name(), peer.mac(), peer.mtu(), peer.driver()), ("peer", Mac(KERNEL_MAC), 1400, "veth"));
    assert_eq!(peer.addresses().map(|a| a.to_string()).collect::<Vec<_>>(), ["10.0.0.2"]);
    assert_ne!(peer.index(), Interface::find("eth1").unwrap().index());
}

/// What one veth's end leaves undone, nobody may take for done.
#[test]
fn checksums_that_were_left_undone_are_known() {
    each(|driver| {
        let mut port = up(driver);
        socket().send_to(b"some payload", "10.0.0.1:99").unwrap();
        let mut frame = port.recv(0x0800);
        let undone = frame.offload().expect("the kernel leaves checksums to a veth");
        offload::complete(frame.bytes_mut(), undone);
        let bytes = frame.bytes();
        let pseudo = [&bytes[26..34], &[0, 17], &bytes[38..40], &bytes[34..]].concat();
        assert_eq!(sum(&pseudo), [0, 0], "{driver:?}");
        // The echo reply of a kernel is whole.
        port.send(&ping(b"whole"));
        assert_eq!(port.recv(0x0800).offload(), None, "{driver:?}");
    });
}

#[test]
fn what_is_left_undone_is_done_on_the_way_out() {
    each(|driver| {
        let mut port = up(driver);
        let (socket, mut bytes) = (socket(), [0; 100]);
        let frame = datagram(socket.local_addr().unwrap().port(), b"undone");
        let mut frames = vec![port.pool.copy(&frame).unwrap()];
        let undone = offload_of(&frame);
        frames[0].set_offload(undone);
        offload::lower(&mut frames, port.sender.offloads(), &port.pool);
        assert_eq!(frames[0].offload().is_some(), driver == Packet, "the kernel does it, or we do");
        port.sender.transmit(&mut frames).unwrap();
        let (len, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..len], from.to_string().as_str()), (&b"undone"[..], "10.0.0.1:7"));
        assert_eq!(up_offloads(driver).checksum, driver == Packet);
    });
}

fn offload_of(frame: &[u8]) -> Option<supernet_dataplane::buf::Offload> {
    supernet_dataplane::buf::Offload::of_any_plain(frame)
}

fn up_offloads(driver: Driver) -> Offloads {
    // On a socket of its own; XDP's is taken.
    if driver == Xdp { Offloads::NONE } else { up(driver).sender.offloads() }
}

/// More than the kernel sends in one call, and more than a ring holds in all.
#[test]
fn bursts_arrive_in_order() {
    each(|driver| {
        let mut port = up(driver);
        let (socket, mut bytes) = (socket(), [0; 100]);
        let to = socket.local_addr().unwrap().port();
        for burst in 0..60u16 {
            let numbers = (0..60).map(|n| burst * 60 + n);
            let mut frames: Vec<_> = numbers
                .clone()
                .map(|n| {
                    let mut frame = port.pool.copy(&datagram(to, &n.to_be_bytes())).unwrap();
                    offload::complete(
                        frame.bytes_mut(),
                        offload_of(&datagram(to, &n.to_be_bytes())).unwrap(),
                    );
                    frame
                })
                .collect();
            port.sender.transmit(&mut frames).unwrap();
            assert!(frames.is_empty(), "{driver:?} took {} of burst {burst}", 60 - frames.len());
            for n in numbers {
                assert_eq!(socket.recv(&mut bytes).unwrap(), 2);
                assert_eq!(bytes[..2], n.to_be_bytes(), "{driver:?}");
            }
        }
        // And the other way.
        for burst in 0..60u16 {
            let numbers = (0..60).map(|n| burst * 60 + n);
            numbers
                .clone()
                .for_each(|n| assert_eq!(socket.send_to(&n.to_be_bytes(), "10.0.0.1:99").unwrap(), 2));
            for n in numbers {
                assert_eq!(port.recv(0x0800).bytes()[42..44], n.to_be_bytes(), "{driver:?}");
            }
        }
        assert_eq!(port.receiver.take_missed(), 0);
        assert_eq!(port.pool.available(), port.pool.capacity());
    });
}

#[test]
fn without_buffers_frames_wait_in_the_kernel() {
    each(|driver| {
        let mut port = up(driver);
        let all: Vec<_> = std::iter::from_fn(|| port.pool.take()).collect();
        socket().send_to(b"wait", "10.0.0.1:99").unwrap();
        let mut frames = Vec::new();
        assert_eq!(port.receiver.receive(&mut frames, 8, &port.pool).unwrap(), 0);
        drop(all);
        assert_eq!(&port.recv(0x0800).bytes()[42..46], b"wait", "{driver:?}");
        assert_eq!(port.receiver.take_missed(), 0);
    });
}

/// What the rings had no room for meanwhile is told of at once, and not when there are buffers again.
#[test]
fn what_overflows_while_there_are_no_buffers_is_missed() {
    let Some(_netns) = Netns::enter() else { return };
    veth("");
    let mut port = up(Xdp);
    let all: Vec<_> = std::iter::from_fn(|| port.pool.take()).collect();
    let socket = socket();
    let sent = 5000;
    (0..sent).for_each(|_| assert_eq!(socket.send_to(b"much", "10.0.0.1:99").unwrap(), 4));
    assert_eq!(port.receiver.receive(&mut Vec::new(), 8, &port.pool).unwrap(), 0);
    let missed = port.receiver.take_missed();
    assert!(missed > 0);
    drop(all);
    let mut received = 0;
    loop {
        let mut frames = Vec::new();
        match port.receiver.receive(&mut frames, 60, &port.pool).unwrap() {
            0 => break,
            count => received += count as u64,
        }
    }
    assert_eq!(received + missed + port.receiver.take_missed(), sent);
}

/// An interface that is down takes nothing and comes back; one that is gone is an error.
#[test]
fn interfaces_go_down_and_away() {
    each(|driver| {
        let mut port = up(driver);
        ip("link set dev eth1 down");
        if driver == Xdp {
            // By this it hears of it.
            port.send(&arp(1, [0xff; 6]));
        }
        port.is_refused(&arp(1, [0xff; 6]));
        assert_eq!(port.receiver.receive(&mut Vec::new(), 8, &port.pool).unwrap(), 0, "{driver:?}");
        ip("link set dev eth1 up");
        ip("neighbor replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev peer");
        answers(&mut port);
        ip("link del dev eth1");
        let mut frames = vec![port.pool.copy(&arp(1, [0xff; 6])).unwrap()];
        let is_gone = port.sender.transmit(&mut frames).is_err();
        let is_gone_for_good = port.receiver.receive(&mut Vec::new(), 8, &port.pool).is_err();
        assert!(is_gone || is_gone_for_good, "{driver:?}");
    });
}

#[test]
fn a_packet_socket_hears_neither_this_machine_nor_tagged_frames() {
    let Some(_netns) = Netns::enter() else { return };
    veth("");
    let mut port = up(Packet);
    // From this machine, through the port's own interface.
    ip("address add 10.9.0.1/24 dev eth1");
    ip("neighbor replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev eth1");
    UdpSocket::bind("10.9.0.1:0").unwrap().send_to(b"outgoing", "10.9.0.2:9").unwrap();
    // Tagged, by a packet socket on the other end.
    let other = packet::open(&Interface::find("peer").unwrap()).unwrap();
    let mut other = Up::open(other, Pool::new(16));
    other.send(&ethernet(OUR_MAC, 0x8100, &[&[0, 5, 8, 0], &[0x45; 46][..]].concat()));
    other.send(&ethernet(OUR_MAC, 0x88b5, &[7; 46]));
    let mut frames = Vec::new();
    while frames.is_empty() {
        port.receiver.receive(&mut frames, 8, &port.pool).unwrap();
    }
    assert_eq!((frames.len(), &frames[0].bytes()[12..16]), (1, &[0x88, 0xb5, 7, 7][..]));
}

/// A super-packet of a kind that virtio headers can't tell of: one frame is missed, and the port goes on.
#[test]
fn a_frame_that_no_header_tells_of_is_missed() {
    let Some(_netns) = Netns::enter() else { return };
    let tap = tap::Options::new().offloads(true).open("eth1").unwrap();
    settle("eth1");
    let mut port = up(Packet);
    let mut frame = datagram(9, &[7; 4000]);
    let half = |n: u16| n.to_ne_bytes();
    // NEEDS_CSUM and GSO_UDP: fragments of UDP, as guests of virtual machines send them.
    let header = [&[1u8, 3][..], &half(42), &half(1480), &half(34), &half(6)].concat();
    frame.splice(..0, header);
    rustix::io::write(&tap, &frame).unwrap();
    let plain = ethernet(KERNEL_MAC, 0x88b5, &[7; 46]);
    rustix::io::write(&tap, &[&[0; 10][..], &plain].concat()).unwrap();
    assert_eq!(port.recv(0x88b5).bytes(), plain);
    assert_eq!(port.receiver.take_missed(), 1);
    assert_eq!(port.pool.available(), port.pool.capacity());
}

/// Few of them fill the socket's room, and few end a visit.
#[test]
fn super_packets_that_found_no_room_are_missed() {
    let Some(_netns) = Netns::enter() else { return };
    let tap = tap::Options::new().offloads(true).open("eth1").unwrap();
    settle("eth1");
    let mut port = Up::open(Packet.open("eth1").unwrap(), Pool::with_large(256, 128, Large::Super));
    let mut frame = datagram(9, &[7; 60_000]);
    // Of TCP, with a header of 20 bytes.
    frame[23] = 6;
    frame[46] = 0x50;
    let half = |n: u16| n.to_ne_bytes();
    // NEEDS_CSUM and GSO_TCPV4.
    let header = [&[1u8, 1][..], &half(54), &half(1448), &half(34), &half(16)].concat();
    frame.splice(..0, header);
    let sent = 1000;
    (0..sent).for_each(|_| assert_eq!(rustix::io::write(&tap, &frame).unwrap(), frame.len()));
    let mut received = 0;
    loop {
        let mut frames = Vec::new();
        if port.receiver.receive(&mut frames, 64, &port.pool).unwrap() == 0 {
            break;
        }
        assert!(frames.iter().all(|f| f.len() == frame.len() - 10 && f.offload().is_some()));
        received += frames.len() as u64;
    }
    let missed = port.receiver.take_missed();
    assert!(received > 0 && missed > 0, "{received} received, {missed} missed");
    assert_eq!(received + missed, sent);
}

#[test]
fn nothing_is_left_of_xdp_when_the_port_is_dropped() {
    let Some(_netns) = Netns::enter() else { return };
    veth("");
    let link = || {
        String::from_utf8(Command::new("ip").args(["-d", "link", "show", "eth1"]).output().unwrap().stdout)
    };
    let port = up(Xdp);
    assert!(link().unwrap().contains("xdp"), "{}", link().unwrap());
    assert!(matches!(Xdp.open("eth1"), Err(InterfaceError::Taken { .. })));
    drop(port);
    assert!(!link().unwrap().contains("xdp"), "{}", link().unwrap());
    answers(&mut up(Xdp));
}

/// An interface of several queues: every frame comes by one of them, and all that are sent leave.
#[test]
fn every_queue_of_an_interface_has_a_socket() {
    let Some(_netns) = Netns::enter() else { return };
    veth(" numrxqueues 3 numtxqueues 3");
    let port = xdp::open(&Interface::find("eth1").unwrap()).unwrap();
    assert_eq!(port.queues(), 3);
    let pool = Pool::new(64);
    let mut opened = port.open(5, &pool).unwrap();
    assert_eq!((opened.receivers.len(), opened.senders.len()), (3, 5));
    let (socket, mut bytes) = (socket(), [0; 100]);
    let to = socket.local_addr().unwrap().port();
    for (n, sender) in opened.senders.iter_mut().enumerate() {
        let mut frame = pool.copy(&datagram(to, &[n as u8])).unwrap();
        let undone = offload_of(frame.bytes()).unwrap();
        offload::complete(frame.bytes_mut(), undone);
        sender.transmit(&mut vec![frame]).unwrap();
        assert_eq!((socket.recv(&mut bytes).unwrap(), bytes[0]), (1, n as u8));
    }
    // Of many connections, some are in each queue.
    let mut received = [0; 3];
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while received.contains(&0) && std::time::Instant::now() < deadline {
        UdpSocket::bind("10.0.0.2:0").unwrap().send_to(b"hello", "10.0.0.1:99").unwrap();
        for (receiver, count) in opened.receivers.iter_mut().zip(&mut received) {
            let mut frames = Vec::new();
            *count += receiver.receive(&mut frames, 8, &pool).unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!received.contains(&0), "{received:?}");
}

#[test]
fn what_a_port_cannot_be_on_is_said() {
    let Some(_netns) = Netns::enter() else { return };
    veth("");
    let error = |driver: Driver, name: &str| driver.open(name).unwrap_err();
    ip("link set dev lo up");
    assert!(matches!(error(Packet, "lo"), InterfaceError::NotEthernet { .. }));
    let missing = error(Packet, "eth7");
    assert_eq!(missing.to_string().split("; ").next(), Some("there is no interface eth7"));
    assert!(matches!(&missing, InterfaceError::Missing { known, .. } if known.contains(&"eth1".to_owned())));
    ip("link set dev eth1 down");
    assert!(matches!(error(Xdp, "eth1"), InterfaceError::Down { .. }));
    ip("link set dev eth1 mtu 9000 up");
    let error = error(Xdp, "eth1");
    assert!(matches!(error, InterfaceError::TooLong { mtu: 9000, .. }), "{error}");
}

fn details(interface: &str) -> String {
    let output = Command::new("ip").args(["-d", "link", "show", interface]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// An uplink has a MAC of its own, and hardware filters.
#[test]
fn an_interface_listens_to_every_mac_as_long_as_the_port_is_there() {
    each(|driver| {
        assert!(details("eth1").contains("promiscuity 0"));
        let port = up(driver);
        assert!(!details("eth1").contains("promiscuity 0"), "{driver:?}: {}", details("eth1"));
        drop(port);
        assert!(details("eth1").contains("promiscuity 0"), "{driver:?}");
    });
}

#[test]
fn xdp_is_not_for_interfaces_whose_frames_were_on_no_wire() {
    let Some(_netns) = Netns::enter() else { return };
    ip("link add name br0 type bridge");
    ip("link set dev br0 up");
    let error = Xdp.open("br0").unwrap_err();
    assert!(matches!(&error, InterfaceError::Soft { kind, .. } if kind == "bridge"), "{error}");
    Packet.open("br0").unwrap();
}

/// What a driver can't do itself, the kernel does for it.
#[test]
fn frames_as_long_as_a_buffer_pass_xdp() {
    let Some(_netns) = Netns::enter() else { return };
    veth(" mtu 3826");
    let mut port = up(Xdp);
    let long: Vec<u8> = (0..3798u32).map(|n| n as u8).collect();
    let socket = socket();
    socket.send_to(&long, "10.0.0.1:99").unwrap();
    assert_eq!(port.recv(0x0800).bytes()[42..], long[..]);
    port.send(&ping(&long));
    assert_eq!(port.recv(0x0800).bytes()[42..], long[..]);
}

/// What is too long for the kernel's memory was not sent, and whoever counts is told so; the rest leaves, in order.
#[test]
fn frames_too_long_for_xdp_are_left_to_the_sender() {
    let Some(_netns) = Netns::enter() else { return };
    veth("");
    let mut port = up(Xdp);
    let (socket, mut bytes) = (socket(), [0; 100]);
    let to = socket.local_addr().unwrap().port();
    let long = |n: u8| {
        let mut frame = port.pool.take_for(5000).unwrap();
        frame.set_len(5000);
        frame.bytes_mut().fill(n);
        frame
    };
    let short = |n: u8| whole(&port.pool, to, &[n]);
    let mut frames = vec![short(1), long(2), short(3), short(4), long(5), short(6)];
    port.sender.transmit(&mut frames).unwrap();
    assert_eq!(frames.iter().map(|f| (f.len(), f.bytes()[0])).collect::<Vec<_>>(), [(5000, 2), (5000, 5)]);
    for n in [1, 3, 4, 6] {
        assert_eq!((socket.recv(&mut bytes).unwrap(), bytes[0]), (1, n));
    }
    // Nothing but such.
    port.sender.transmit(&mut frames).unwrap();
    assert_eq!(frames.len(), 2);
    frames.clear();
    // None of the kernel's memory is lost to them.
    for _ in 0..5000 {
        let mut frames = vec![long(7)];
        port.sender.transmit(&mut frames).unwrap();
        assert_eq!(frames.len(), 1);
    }
    answers(&mut port);
    assert_eq!(port.pool.available(), port.pool.capacity());
}

fn whole(pool: &Pool, to: u16, payload: &[u8]) -> supernet_dataplane::buf::Frame {
    let mut frame = pool.copy(&datagram(to, payload)).unwrap();
    let undone = offload_of(frame.bytes()).unwrap();
    offload::complete(frame.bytes_mut(), undone);
    frame
}

/// What is sent into a line that is not plugged in does not wait there for the day that it is.
#[test]
fn what_was_sent_while_the_line_was_down_is_not_sent_later() {
    for unplugged in ["eth1", "peer"] {
        let Some(_netns) = Netns::enter() else { return };
        veth("");
        let mut port = up(Xdp);
        let (socket, mut bytes) = (socket(), [0; 100]);
        let to = socket.local_addr().unwrap().port();
        ip(&format!("link set dev {unplugged} down"));
        for _ in 0..100 {
            let mut frames: Vec<_> = (0..30).map(|_| whole(&port.pool, to, b"stale")).collect();
            port.sender.transmit(&mut frames).unwrap();
        }
        ip(&format!("link set dev {unplugged} up"));
        ip("neighbor replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev peer");
        // A carrier takes a moment; each try is new.
        let (mut stale, mut tries) = (0, 0);
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        'new: while tries < 100 {
            tries += 1;
            port.sender.transmit(&mut vec![whole(&port.pool, to, b"new")]).unwrap();
            while let Ok(len) = socket.recv(&mut bytes) {
                if &bytes[..len] == b"new" {
                    break 'new;
                }
                stale += 1;
            }
        }
        // Those whose sending told that it is down.
        assert!(tries < 100 && stale <= 30, "{unplugged}: {stale} stale, then a new one at try {tries}");
    }
}

/// A queue that frames come by, and none leave.
#[test]
fn nobody_sends_by_a_queue_that_only_receives() {
    let Some(_netns) = Netns::enter() else { return };
    veth(" numrxqueues 2 numtxqueues 1");
    let port = xdp::open(&Interface::find("eth1").unwrap()).unwrap();
    assert_eq!(port.queues(), 2);
    let pool = Pool::new(64);
    let mut opened = port.open(2, &pool).unwrap();
    let (socket, mut bytes) = (socket(), [0; 100]);
    let to = socket.local_addr().unwrap().port();
    for (n, sender) in opened.senders.iter_mut().enumerate() {
        sender.transmit(&mut vec![whole(&pool, to, &[n as u8])]).unwrap();
        assert_eq!((socket.recv(&mut bytes).unwrap(), bytes[0]), (1, n as u8));
    }
}
