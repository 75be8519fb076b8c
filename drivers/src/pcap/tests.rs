use super::{
    write::{INBOUND, OUTBOUND},
    *,
};
use pcap_file::{
    pcap::{PcapHeader, PcapPacket, PcapWriter},
    pcapng::blocks::{
        enhanced_packet::EnhancedPacketOption, interface_description::InterfaceDescriptionOption,
        interface_statistics::InterfaceStatisticsOption,
    },
};
use proptest::prelude::*;
use supernet_dataplane::{
    buf::FRAME_CAPACITY,
    port::memory::{MemoryGuest, MemoryPort, memory},
};

/// A pcap file of frames `[n, n, ...]`, each `len` bytes long.
fn pcap(lens: &[usize], link: DataLink) -> Vec<u8> {
    let header = PcapHeader { datalink: link, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (n, len) in lens.iter().enumerate() {
        let data = vec![n as u8; *len];
        writer.write_packet(&PcapPacket::new(Duration::from_secs(n as u64), *len as u32, &data)).unwrap();
    }
    writer.into_writer()
}

fn pcapng(lens: &[usize]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pcapng");
    let pool = Pool::new(8);
    let mut opened = record(memory(8), &path, || Duration::from_secs(1)).unwrap().open(1, &pool).unwrap();
    let receiver = &mut opened.receivers[0];
    for (n, len) in lens.iter().enumerate() {
        opened.peer.peer.send(&vec![n as u8; *len]).unwrap();
        receiver.receive(&mut Vec::new(), 8, &pool).unwrap();
    }
    opened.peer.recording.flush().unwrap();
    std::fs::read(path).unwrap()
}

fn parse(file: &[u8]) -> Result<Replay, PcapError> {
    Replay::parse(Path::new("x.pcap"), file)
}

#[test]
fn frames_are_replayed_in_order_and_what_is_sent_is_counted() {
    for file in [pcap(&[60, 61, 62], DataLink::ETHERNET), pcapng(&[60, 61, 62])] {
        let pool = Pool::new(2);
        let mut opened = parse(&file).unwrap().open(2, &pool).unwrap();
        let mut frames = Vec::new();
        assert_eq!(opened.receivers[0].receive(&mut frames, 8, &pool).unwrap(), 2, "the pool has no more");
        assert_eq!(opened.peer.waiting(), 1);
        assert_eq!((frames[0].bytes(), frames[1].bytes()), (&[0; 60][..], &[1; 61][..]));
        opened.senders[1].transmit(&mut frames).unwrap();
        assert_eq!((opened.peer.discarded(), frames.len()), (2, 0));
        assert_eq!(opened.receivers[0].receive(&mut frames, 8, &pool).unwrap(), 1);
        assert_eq!(frames[0].bytes(), [2; 62]);
        assert_eq!(opened.receivers[0].receive(&mut frames, 8, &pool).unwrap(), 0, "over, but not gone");
        assert_eq!(opened.receivers[0].take_missed(), 0);
    }
}

#[test]
fn a_frame_that_is_too_long_is_missed() {
    let pool = Pool::new(8);
    let file = pcap(&[FRAME_CAPACITY + 1, FRAME_CAPACITY], DataLink::ETHERNET);
    let mut opened = parse(&file).unwrap().open(1, &pool).unwrap();
    let mut frames = Vec::new();
    assert_eq!(opened.receivers[0].receive(&mut frames, 8, &pool).unwrap(), 1);
    assert_eq!(frames[0].bytes()[0], 1);
    assert_eq!((opened.receivers[0].take_missed(), opened.receivers[0].take_missed()), (1, 0));
}

#[test]
fn the_worker_is_woken_while_frames_wait() {
    let pool = Pool::new(8);
    let mut opened = parse(&pcap(&[60, 60], DataLink::ETHERNET)).unwrap().open(1, &pool).unwrap();
    let woken = Arc::new(AtomicU64::new(0));
    let count = woken.clone();
    opened.receivers[0].set_waker(Waker::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let mut frames = Vec::new();
    opened.receivers[0].receive(&mut frames, 1, &pool).unwrap();
    opened.receivers[0].receive(&mut frames, 1, &pool).unwrap();
    assert_eq!(woken.load(Ordering::Relaxed), 2, "at first, and when one was left");
}

#[test]
fn a_file_that_is_cut_off_says_where() {
    for file in [pcap(&[60, 60], DataLink::ETHERNET), pcapng(&[60, 60])] {
        let error = parse(&file[..file.len() - 1]).unwrap_err();
        assert!(matches!(error, PcapError::Truncated { frame: 2, .. }), "{error}");
        assert!(error.to_string().contains("1-1"), "says how to keep the rest: {error}");
        assert!(matches!(parse(&file[..7]), Err(PcapError::NotPcap { .. })));
        assert!(matches!(parse(&[]), Err(PcapError::NotPcap { .. })));
    }
}

#[test]
fn what_is_no_ethernet_capture_is_refused() {
    let error = parse(&pcap(&[60], DataLink::LINUX_SLL)).unwrap_err();
    assert!(matches!(&error, PcapError::NotEthernet { frame: 1, .. }), "{error}");
    assert!(matches!(parse(b"#!/bin/sh\necho this is no capture\n"), Err(PcapError::NotPcap { .. })));
    assert!(matches!(replay("/nonexistent/x.pcap"), Err(PcapError::Read { .. })));
}

/// A port that loses frames of ones.
struct Loses(MemoryPort);

struct LosesSender(Box<dyn Transmit>);

impl Port for Loses {
    type Peer = MemoryGuest;

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<MemoryGuest>> {
        let Opened { receivers, senders, peer } = self.0.open(senders, pool)?;
        let sender = |inner| Box::new(LosesSender(inner)) as Box<dyn Transmit>;
        Ok(Opened { receivers, senders: senders.into_iter().map(sender).collect(), peer })
    }
}

impl Transmit for LosesSender {
    fn transmit(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        let (lost, mut good): (Vec<_>, Vec<_>) = frames.drain(..).partition(|f| f.bytes()[0] == 1);
        *frames = lost;
        self.0.transmit(&mut good)
    }
}

#[test]
fn what_a_port_lost_in_between_is_not_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pcapng");
    let pool = Pool::new(8);
    let mut opened =
        record(Loses(memory(8)), &path, || Duration::from_secs(1)).unwrap().open(1, &pool).unwrap();
    let mut frames: Vec<_> = [1, 2, 1, 3].map(|n| pool.copy(&[n; 60]).unwrap()).into();
    opened.senders[0].transmit(&mut frames).unwrap();
    assert_eq!(frames.len(), 2);
    opened.peer.recording.flush().unwrap();
    let mut replay = replay(&path).unwrap().open(1, &pool).unwrap();
    let mut frames = Vec::new();
    replay.receivers[0].receive(&mut frames, 8, &pool).unwrap();
    assert_eq!(frames.iter().map(|f| f.bytes()[0]).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn both_directions_are_recorded_but_not_what_the_port_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pcapng");
    let pool = Pool::new(8);
    let mut seconds = 0;
    let clock = move || {
        seconds += 1;
        Duration::from_secs(seconds)
    };
    let mut opened = record(memory(1), &path, clock).unwrap().open(1, &pool).unwrap();
    opened.peer.peer.send(&[1; 60]).unwrap();
    let mut frames = Vec::new();
    assert_eq!(opened.receivers[0].receive(&mut frames, 8, &pool).unwrap(), 1);
    assert_eq!(opened.receivers[0].receive(&mut frames, 8, &pool).unwrap(), 0);
    frames.push(pool.copy(&[2; 60]).unwrap());
    opened.senders[0].transmit(&mut frames).unwrap();
    assert_eq!(frames.len(), 1, "the port had room for one");
    opened.senders[0].transmit(&mut frames).unwrap();
    assert_eq!(opened.peer.recording.frames(), 2);
    opened.peer.recording.flush().unwrap();

    let file = std::fs::read(&path).unwrap();
    let (mut rest, mut parser) = PcapNgParser::new(&file).unwrap();
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let (after, block) = parser.next_block(rest).unwrap();
        if let Block::EnhancedPacket(p) = block {
            seen.push((p.timestamp.as_secs(), p.data[0], p.options));
        }
        rest = after;
    }
    assert_eq!(
        seen,
        [
            (1, 1, vec![EnhancedPacketOption::Flags(INBOUND)]),
            (2, 1, vec![EnhancedPacketOption::Flags(OUTBOUND)])
        ]
    );
}

#[test]
fn what_is_written_is_read_and_interfaces_may_come_late() {
    let mut writer = Writer::new(Vec::new(), Some("test 1")).unwrap();
    let at = Duration::new(1_790_000_000, 123_456_789);
    let packet = |interface, direction, comment| Packet {
        interface,
        at,
        direction,
        data: &[7; 21],
        len: 1500,
        comment,
    };
    assert_eq!(writer.interface("shop/web", "TAP eth0", 21).unwrap(), 0);
    writer.packet(&packet(0, Direction::In, "dropped: why; by whom, \u{2713}")).unwrap();
    assert!(writer.packet(&packet(1, Direction::Out, "")).is_err(), "not described before");
    assert_eq!(writer.interface("shop/db", "", 0).unwrap(), 1);
    writer.packet(&packet(1, Direction::Out, "")).unwrap();
    writer.statistics(0, at, 5, 4).unwrap();
    assert!(writer.statistics(2, at, 0, 0).is_err());
    writer.flush().unwrap();

    let file = writer.get_ref().clone();
    let (mut rest, mut parser) = PcapNgParser::new(&file).unwrap();
    let (mut names, mut packets, mut statistics) = (Vec::new(), Vec::new(), Vec::new());
    while !rest.is_empty() {
        let (after, block) = parser.next_block(rest).unwrap();
        match block {
            Block::InterfaceDescription(i) => names.extend(i.options.into_iter().filter_map(|o| match o {
                InterfaceDescriptionOption::IfName(name) => Some(name.into_owned()),
                _ => None,
            })),
            Block::EnhancedPacket(p) => {
                assert_eq!((p.timestamp, &*p.data, p.original_len), (at, &[7; 21][..], 1500));
                packets.push((p.interface_id, p.options));
            }
            Block::InterfaceStatistics(s) => {
                // The halves of the time, as they stand in the file.
                let time = (s.timestamp.rotate_left(32), at.as_nanos() as u64);
                assert_eq!(time.0, time.1);
                statistics.push((s.interface_id, s.options));
            }
            _ => {}
        }
        rest = after;
    }
    assert_eq!(names, ["shop/web", "shop/db"]);
    let comment = EnhancedPacketOption::Comment("dropped: why; by whom, \u{2713}".into());
    let expected = [
        (0, vec![EnhancedPacketOption::Flags(INBOUND), comment]),
        (1, vec![EnhancedPacketOption::Flags(OUTBOUND)]),
    ];
    assert_eq!(packets, expected);
    let counts = vec![InterfaceStatisticsOption::IsbIfRecv(5), InterfaceStatisticsOption::IsbIfDrop(4)];
    assert_eq!(statistics, [(0, counts)]);
    // What was written can be replayed.
    assert_eq!(Replay::parse(Path::new("x"), &file).unwrap().len(), 2);
}

#[test]
fn a_full_disk_ends_the_recording_and_not_the_traffic() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let pool = Pool::new(8);
    let mut opened = record(memory(8), "/dev/full", Duration::default).unwrap().open(1, &pool).unwrap();
    opened.peer.peer.send(&[1; 60]).unwrap();
    let mut frames = Vec::new();
    assert_eq!(opened.receivers[0].receive(&mut frames, 8, &pool).unwrap(), 1);
    let error = opened.peer.recording.flush().unwrap_err();
    assert!(matches!(&error, PcapError::Write { .. }), "{error}");
    opened.senders[0].transmit(&mut frames).unwrap();
    assert_eq!(opened.peer.peer.recv().unwrap().len(), 60);
    assert_eq!(opened.peer.recording.frames(), 1, "none after the failure");
}

proptest! {
    /// Broken files give errors or fewer frames, never a panic.
    #[test]
    fn no_file_panics(ng: bool, cut in 0_usize..400, changes in prop::collection::vec((0_usize..400, any::<u8>()), 0..8)) {
        let mut file = if ng { pcapng(&[60, 61]) } else { pcap(&[60, 61], DataLink::ETHERNET) };
        let len = file.len();
        for (at, value) in changes {
            file[at % len] = value;
        }
        file.truncate(len.saturating_sub(cut % len));
        if let Ok(replay) = parse(&file) {
            prop_assert!(replay.bytes.len() <= file.len());
        }
    }
}
