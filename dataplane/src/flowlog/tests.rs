use super::*;
use crate::wire::Proto;
use std::net::IpAddr;

fn tuple(n: u32) -> Tuple {
    let dst = IpAddr::from([10, 0, 0, 1]);
    Tuple { src: IpAddr::from(n.to_be_bytes()), dst, proto: Proto::TCP, sport: 40_000, dport: 80 }
}

fn record(at: Instant, n: u32, what: What) -> Record {
    let original = tuple(n);
    Record::new(at, (original.flow_hash(7), u64::from(n)), what, PortId(1), original)
}

/// A log, and the logs of as many threads.
fn logs(options: &FlowLog, threads: usize) -> (Vec<Desks>, FlowReader) {
    let (desks, reader) = begin(options, threads);
    let open = |desk| {
        let mut desks = Desks::default();
        assert!(desks.is_off());
        desks.add(desk, Instant::ZERO);
        desks
    };
    (desks.into_iter().map(open).collect(), reader)
}

fn deny(logs: &Desks, now: Instant, n: u32, rule: u32) {
    let (reason, original) = (DropReason::IngressDenied, tuple(n));
    logs.set_now(now);
    logs.tell_denied(original.flow_hash(7), (reason, Some(RuleId(rule))), |now| {
        record(now, n, What::Denied { reason, lives: false })
    });
}

fn read(reader: &mut FlowReader) -> Vec<Record> {
    let mut records = Vec::new();
    reader.read(&mut records);
    records
}

#[test]
fn records_of_several_threads_come_in_order_of_time() {
    let (logs, mut reader) = logs(&FlowLog::default(), 2);
    assert_eq!(reader.begun(), 2);
    for (n, at) in [(0, 5), (1, 3), (0, 7), (1, 6)] {
        logs[n].set_now(Instant::from_micros(at));
        logs[n].tell(|now| Some(record(now, at as u32, What::Started)));
    }
    let times: Vec<u64> = read(&mut reader).iter().map(|record| record.at.micros()).collect();
    assert_eq!(times, [3, 5, 6, 7]);
    assert_eq!(reader.counts(), FlowCounts { recorded: 4, ..FlowCounts::default() });
}

/// Beginnings and ends of one connection are of one sample, which is about as large as it is to be.
#[test]
fn a_sample_has_whole_connections() {
    for one_of in [1, 2, 7, 100] {
        let options = FlowLog { sample: one_of, ..FlowLog::default() };
        let (logs, mut reader) = logs(&options, 1);
        let mut sampled = 0;
        for n in 0..20_000 {
            logs[0].tell(|now| Some(record(now, n, What::Started)));
            let reason = DropReason::NoRoute;
            logs[0].tell(|now| Some(record(now, n, What::Denied { reason, lives: true })));
            let records = read(&mut reader);
            assert!(records.is_empty() || records.len() == 2 && records[0].id == records[1].id);
            assert!(records.iter().all(|record| record.is_sampled(one_of)));
            sampled += records.len() / 2;
        }
        let expected = 20_000 / one_of as usize;
        assert!(sampled.abs_diff(expected) < expected / 4 + 1, "{sampled} of one in {one_of}");
    }
}

#[test]
fn what_finds_no_room_is_counted_and_later_records_are_read() {
    let (logs, mut reader) = logs(&FlowLog { records: 8, ..FlowLog::default() }, 1);
    (0..20).for_each(|n| logs[0].tell(|now| Some(record(now, n, What::Started))));
    assert_eq!(read(&mut reader).len(), 8);
    logs[0].tell(|now| Some(record(now, 20, What::Started)));
    assert_eq!(read(&mut reader).len(), 1);
    assert_eq!(reader.counts(), FlowCounts { recorded: 9, missed: 12, ..FlowCounts::default() });
}

/// However many are denied, half of the ring is left to what happens to connections.
#[test]
fn a_flood_of_denials_leaves_room() {
    let (logs, mut reader) = logs(&FlowLog { records: 64, ..FlowLog::default() }, 1);
    (0..100_000).for_each(|n| deny(&logs[0], Instant::from_secs(1), n, 3));
    (0..32).for_each(|n| logs[0].tell(|now| Some(record(now, n, What::Started))));
    let records = read(&mut reader);
    let started = records.iter().filter(|record| record.what == What::Started).count();
    assert_eq!((started, records.len()), (32, 64));
    let counts = reader.counts();
    assert_eq!((counts.recorded, counts.missed, counts.missed_denied), (64, 0, 100_000 - 32));
}

/// Who tries again is told of once a minute, and of another rule at once.
#[test]
fn repeated_denials_are_counted_and_not_told() {
    let (logs, mut reader) = logs(&FlowLog::default(), 1);
    let mut told = |second: u64, rule| {
        deny(&logs[0], Instant::from_secs(second), 5, rule);
        read(&mut reader).len()
    };
    assert_eq!([told(1, 1), told(2, 1), told(4, 1), told(8, 1), told(59, 1)], [1, 0, 0, 0, 0]);
    assert_eq!([told(62, 1), told(63, 1), told(63, 2), told(64, 2)], [1, 0, 1, 0]);
    assert_eq!(reader.counts(), FlowCounts { recorded: 3, repeated: 6, ..FlowCounts::default() });
}

#[test]
fn a_log_of_denials_has_nothing_else() {
    let (logs, mut reader) = logs(&FlowLog { denied: true, ..FlowLog::default() }, 1);
    logs[0].tell(|now| Some(record(now, 1, What::Started)));
    let reason = DropReason::EgressDenied;
    logs[0].tell(|now| Some(record(now, 1, What::Denied { reason, lives: true })));
    deny(&logs[0], Instant::from_secs(1), 2, 1);
    let records = read(&mut reader);
    assert!(records.len() == 2 && records.iter().all(|r| matches!(r.what, What::Denied { .. })));
}

#[test]
fn a_log_that_nobody_reads_is_let_go_of_and_another_goes_on() {
    let (mut all, first) = logs(&FlowLog::default(), 1);
    let (mut more, mut second) = begin(&FlowLog::default(), 1);
    let mut desks = all.remove(0);
    desks.add(more.remove(0), Instant::ZERO);
    drop(first);
    desks.tend(Instant::from_secs(1));
    desks.tell(|now| Some(record(now, 1, What::Started)));
    assert_eq!(read(&mut second).len(), 1);
    second.stop();
    desks.tell(|now| Some(record(now, 2, What::Started)));
    assert!(read(&mut second).is_empty());
    desks.tend(Instant::from_secs(2));
    assert!(desks.is_off());
}
