use super::*;

fn record(port: u32, len: usize) -> (Record, Vec<u8>) {
    let record = Record {
        at: Instant::ZERO,
        port: PortId(port),
        direction: Direction::In,
        verdict: Verdict::Forwarded(vec![PortId(9)]),
        stages: Stages::NONE.with(Stage::Session),
        rules: (None, None),
        server: None,
        late: false,
        offload: None,
        len,
        data: Vec::new(),
        names: Arc::default(),
    };
    (record, vec![7; len])
}

fn offer(tap: &Tap, (record, data): &(Record, Vec<u8>)) {
    tap.offer(record, data);
}

#[test]
fn bytes_that_were_read_are_room_again() {
    let (tap, capture) = begin(Filter::default(), Limits { records: 8, bytes: 100 });
    for _ in 0..3 {
        offer(&tap, &record(1, 60));
        offer(&tap, &record(1, 60));
        assert_eq!(capture.next_within(Duration::ZERO).unwrap().data, [7; 60]);
        assert!(capture.next().is_none());
    }
    assert_eq!(capture.counts()[&PortId(1)], Captured { recorded: 3, missed: 3 });
}

#[test]
fn snaplen_is_what_counts_as_waiting() {
    let (tap, capture) = begin(Filter { snaplen: 10, ..Filter::default() }, Limits { records: 8, bytes: 30 });
    for _ in 0..4 {
        offer(&tap, &record(2, 60));
    }
    assert_eq!(capture.counts()[&PortId(2)], Captured { recorded: 3, missed: 1 });
    assert_eq!(capture.next().map(|r| (r.len, r.data.len())), Some((60, 10)));
}

#[test]
fn ports_need_no_order_and_others_are_not_counted() {
    let ports = Some(vec![PortId(5), PortId(1), PortId(3)]);
    let (tap, capture) = begin(Filter { ports, ..Filter::default() }, Limits::default());
    (0..7).for_each(|port| offer(&tap, &record(port, 60)));
    let (mut denied, data) = record(0, 60);
    denied.verdict = Verdict::Dropped { reason: DropReason::IngressDenied, at: Some(PortId(3)) };
    tap.offer(&denied, &data);
    let seen: Vec<u32> = std::iter::from_fn(|| capture.next()).map(|r| r.port.0).collect();
    assert_eq!(seen, [1, 3, 5, 0]);
    assert_eq!(capture.counts().len(), 4);
}

#[test]
fn nothing_is_told_once_it_is_stopped() {
    let (tap, capture) = begin(Filter::default(), Limits::default());
    offer(&tap, &record(1, 60));
    capture.stop();
    offer(&tap, &record(1, 60));
    assert!(tap.is_closed() && capture.next().is_some() && capture.next().is_none());
    assert_eq!(capture.counts()[&PortId(1)], Captured { recorded: 1, missed: 0 });
}
