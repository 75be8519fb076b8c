//! Super-packets as captures see them: one frame as it came, what leaves as it leaves, checksums done.

use crate::offload::{ALL, CHECKSUM, Left, Net, leave};
use supernet_dataplane::{
    buf::Offloads,
    capture::{Capture, Direction, Filter, Limits, Record, Verdict},
    id::PortId,
    verdict::DropReason,
    wire::{Proto, checksum, offload, tcp_flags::*},
};
use supernet_testkit::packet::{Probe, sound};

fn records(capture: &Capture) -> Vec<Record> {
    std::iter::from_fn(|| capture.next()).collect()
}

/// A super-packet of an established connection from pod 0, and what is left to be done to it.
fn super_packet(net: &mut Net, to: &str, payload: usize, segment: u16) -> Left {
    let probe = Probe::new(0, Proto::TCP, "10.0.0.2:4000", to);
    let mut frame = net.established(0, &probe, ACK, &vec![5; payload]);
    let left = leave(&mut frame, segment);
    (frame, Some(left))
}

#[test]
fn one_came_and_as_many_leave_as_do() {
    for (offloads, pieces) in [(ALL, 1), (CHECKSUM, 5), (Offloads::NONE, 5)] {
        let mut net = Net::new(offloads, None);
        let (frame, left) = super_packet(&mut net, "10.0.0.18:80", 7000, 1400);
        let capture = net.dataplane.capture(Filter::default(), Limits::default());
        let out = net.send(0, vec![(frame.clone(), left)]);
        assert_eq!(out.len(), pieces);
        let seen = records(&capture);
        assert_eq!(seen.len(), 1 + pieces, "{seen:?}");
        let came = &seen[0];
        assert_eq!((came.direction, came.len, came.offload), (Direction::In, frame.len(), left));
        assert_eq!(came.verdict, Verdict::Forwarded(vec![PortId(2)]));
        // It is as it came, but for the checksum, which is right.
        let mut whole = frame;
        offload::complete(&mut whole, left.unwrap());
        assert_eq!(came.data, whole);
        for (record, (_, (frame, left))) in seen[1..].iter().zip(&out) {
            sound(&record.data);
            assert_eq!((record.offload, record.stages), (*left, came.stages));
            assert_eq!(record.verdict, Verdict::Sent { from: Some(PortId(0)) });
            let mut frame = frame.clone();
            left.iter().for_each(|left| offload::complete(&mut frame, *left));
            assert_eq!(record.data, frame);
        }
    }
}

#[test]
fn what_is_cut_short_is_not_touched() {
    let mut net = Net::new(ALL, None);
    let (frame, left) = super_packet(&mut net, "10.0.0.18:80", 7000, 1400);
    let capture = net.dataplane.capture(Filter { snaplen: 100, ..Filter::default() }, Limits::default());
    net.send(0, vec![(frame.clone(), left)]);
    let seen = records(&capture);
    assert_eq!((&seen[0].data[..], seen[0].len), (&frame[..100], frame.len()));
}

#[test]
fn a_piece_without_a_buffer_is_told_as_it_is_counted() {
    let mut net = Net::new(Offloads::NONE, None);
    let (frame, left) = super_packet(&mut net, "10.0.0.18:80", 7000, 1400);
    let capture = net.dataplane.capture(Filter::default(), Limits::default());
    // All but two buffers are elsewhere.
    let pool = net.dataplane.pool().clone();
    let mut elsewhere: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    elsewhere.truncate(elsewhere.len() - 2);
    assert_eq!(net.send(0, vec![(frame, left)]).len(), 2);
    let lost = net.counters().drops[&DropReason::NoBuffer];
    let seen = records(&capture);
    let told: Vec<_> = seen.iter().filter(|r| r.dropped() == Some(DropReason::NoBuffer)).collect();
    assert_eq!((lost, told.len()), (3, 3));
    for record in told {
        assert_eq!((record.port, record.direction), (PortId(2), Direction::Out));
        let reason = DropReason::NoBuffer;
        assert_eq!(record.verdict, Verdict::Dropped { reason, at: Some(PortId(0)) });
    }
    let sent = seen.iter().filter(|r| matches!(r.verdict, Verdict::Sent { .. })).count();
    assert_eq!(sent, 2);
}

#[test]
fn cut_to_a_smaller_mtu_it_leaves_in_pieces_of_the_same_packet() {
    let mut net = Net::new(ALL, Some(600));
    let (mut frame, left) = super_packet(&mut net, "10.0.0.18:80", 1200, 0);
    // It may be cut.
    frame[20] = 0;
    frame[24..26].fill(0);
    let sum = checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let capture = net.dataplane.capture(Filter::default(), Limits::default());
    let out = net.send(0, vec![(frame, left)]);
    assert!(out.len() > 1, "{out:?}");
    let seen = records(&capture);
    assert_eq!(seen.len(), 1 + out.len());
    assert!(seen[1..].iter().all(|r| r.verdict == Verdict::Sent { from: Some(PortId(0)) }), "{seen:?}");
}
