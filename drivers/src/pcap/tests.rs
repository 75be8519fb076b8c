use super::*;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use proptest::prelude::*;
use supernet_dataplane::buf::FRAME_CAPACITY;
use supernet_dataplane::port::memory;

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
