//! Ports that come, go and share the workers.

use super::*;
use crate::port::memory;

/// A device of several queues, each of which has a frame.
struct Queues(usize);

struct Queue(bool);

impl Port for Queues {
    type Peer = ();

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<()>> {
        let receiver = |_| Box::new(Queue(true)) as Box<dyn Receive>;
        let senders = memory(8).open(senders, pool)?.senders;
        Ok(Opened { receivers: (0..self.0).map(receiver).collect(), senders, peer: () })
    }
}

impl Receive for Queue {
    fn receive(&mut self, into: &mut Vec<Frame>, _: usize, pool: &Pool) -> io::Result<usize> {
        let frame = if std::mem::take(&mut self.0) { pool.copy(&[0; 60]) } else { None };
        into.extend(frame);
        Ok(into.len())
    }
}

#[test]
fn queues_of_a_device_are_dealt_out_to_the_workers() {
    for (queues, expected) in [(1, [0, 1, 0]), (2, [0, 1, 1]), (3, [1, 1, 1]), (6, [2, 2, 2]), (7, [2, 3, 2])]
    {
        let config = Config { workers: 3, frames: 64, ..Config::default() };
        let (dataplane, mut workers) = Dataplane::new(config);
        // The first has one already.
        let _guest = dataplane.attach(PortId(0), memory(8)).unwrap();
        dataplane.attach(PortId(1), Queues(queues)).unwrap();
        let mut received = workers.iter_mut().map(|worker| worker.poll(Instant::from_secs(1)).frames);
        assert_eq!(std::array::from_fn(|_| received.next().unwrap()), expected, "{queues} queues");
        assert_eq!(dataplane.counters().ports[&PortId(1)].received, queues as u64);
        dataplane.detach(PortId(1));
        assert!(!dataplane.is_attached(PortId(1)));
        dataplane.attach(PortId(1), Queues(queues)).unwrap();
        let again: usize = workers.iter_mut().map(|worker| worker.poll(Instant::from_secs(2)).frames).sum();
        assert_eq!(again, queues, "none of the old ones");
        assert_eq!(workers.iter().map(|worker| worker.receivers.len()).sum::<usize>(), queues + 1);
    }
    let (dataplane, _workers) = Dataplane::new(Config { workers: 1, frames: 64, ..Config::default() });
    assert!(dataplane.attach(PortId(1), Queues(0)).is_err());
    assert!(!dataplane.is_attached(PortId(1)));
}

#[test]
fn a_port_that_fills_every_batch_keeps_none_waiting() {
    let (dataplane, mut workers) = Dataplane::new(Config { workers: 1, frames: 1024, ..Config::default() });
    let attach = |p| dataplane.attach(PortId(p), memory(4 * BATCH)).unwrap();
    let guests: Vec<_> = (0..4).map(attach).collect();
    for round in 0..20 {
        // The first two always have more than a batch, the others a frame each.
        for greedy in &guests[..2] {
            while greedy.send(&[0; 60]).is_ok() {}
        }
        for modest in &guests[2..] {
            modest.send(&[0; 60]).unwrap();
        }
        let received = (0..4).map(|_| workers[0].poll(Instant::from_secs(1)).frames).sum::<usize>();
        assert_eq!(received, 4 * BATCH);
        let ports = dataplane.counters().ports;
        for modest in [2, 3] {
            assert_eq!(ports[&PortId(modest)].received, round + 1, "port {modest}");
        }
        let (a, b) = (ports[&PortId(0)].received, ports[&PortId(1)].received);
        assert!(a.abs_diff(b) <= 2 * BATCH as u64, "{a} and {b} frames of two that always have some");
    }
}

/// A device whose queues do whatever `ask` does with their numbers.
#[derive(Clone)]
struct Asked {
    queues: usize,
    ask: Arc<dyn Fn(usize) -> io::Result<()> + Send + Sync>,
}

struct AskedQueue(usize, Asked);

impl Asked {
    fn new(queues: usize, ask: impl Fn(usize) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { queues, ask: Arc::new(ask) }
    }
}

impl Port for Asked {
    type Peer = ();

    fn open(self, senders: usize, pool: &Pool) -> io::Result<Opened<()>> {
        let receiver = |n| Box::new(AskedQueue(n, self.clone())) as Box<dyn Receive>;
        let senders = memory(8).open(senders, pool)?.senders;
        Ok(Opened { receivers: (0..self.queues).map(receiver).collect(), senders, peer: () })
    }
}

impl Receive for AskedQueue {
    fn receive(&mut self, _: &mut Vec<Frame>, _: usize, _: &Pool) -> io::Result<usize> {
        (self.1.ask)(self.0).map(|()| 0)
    }
}

/// Sender n sends by queue n, so the answers come to who sent.
#[test]
fn the_workers_have_a_devices_queues_in_their_order() {
    for queues in [2, 4] {
        let (dataplane, mut workers) = Dataplane::new(Config { workers: 2, frames: 64, ..Config::default() });
        // The first has one already.
        let _guest = dataplane.attach(PortId(0), memory(8)).unwrap();
        let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
        let asked = seen.clone();
        let port = Asked::new(queues, move |n| {
            lock(&asked).push(n);
            Ok(())
        });
        dataplane.attach(PortId(1), port).unwrap();
        for (n, worker) in workers.iter_mut().enumerate() {
            worker.poll(Instant::from_secs(1));
            let expected: Vec<usize> = (n..queues).step_by(2).collect();
            assert_eq!(std::mem::take(&mut *lock(&seen)), expected, "worker {n}");
        }
    }
}

/// Its queues fail one after the other; meanwhile another is attached in its place.
#[test]
fn what_is_gone_takes_no_other_along() {
    let (dataplane, mut workers) = Dataplane::new(Config { workers: 2, frames: 64, ..Config::default() });
    let other = dataplane.clone();
    let guest = Arc::new(Mutex::new(None));
    let attached = guest.clone();
    let port = Asked::new(2, move |n| {
        if n == 1 {
            // As by other threads: the other queue has failed, and somebody has seen it.
            other.release(PortId(1));
            *lock(&attached) = Some(other.attach(PortId(1), memory(8))?);
        }
        Err(io::Error::other("gone"))
    });
    dataplane.attach(PortId(1), port).unwrap();
    for seconds in 1..4 {
        // The second first, so that it has not been told when its queue fails.
        for worker in workers.iter_mut().rev() {
            worker.poll(Instant::from_secs(seconds));
        }
        assert!(dataplane.is_attached(PortId(1)), "the new one");
    }
    lock(&guest).as_ref().unwrap().send(&[0; 60]).unwrap();
    let received: usize = workers.iter_mut().map(|worker| worker.poll(Instant::from_secs(5)).frames).sum();
    assert_eq!(received, 1);
    assert!(workers.iter().all(|worker| worker.senders[1].is_some()));

    // Who detaches it means whatever is there.
    dataplane.detach(PortId(1));
    assert!(!dataplane.is_attached(PortId(1)));
    for worker in &mut workers {
        worker.poll(Instant::from_secs(6));
        assert!(worker.senders[1].is_none());
        assert_eq!(worker.receivers.len(), 0);
    }
}

/// A worker that is dropped lets go of what it receives from, and of nothing else.
#[test]
fn a_worker_that_is_dropped_takes_its_ports_along() {
    let (dataplane, mut workers) = Dataplane::new(Config { workers: 2, frames: 64, ..Config::default() });
    let _guests = [0, 1].map(|n| dataplane.attach(PortId(n), memory(8)).unwrap());
    dataplane.attach(PortId(2), Queues(4)).unwrap();
    drop(workers.remove(0));
    assert_eq!([0, 1, 2].map(|n| dataplane.is_attached(PortId(n))), [false, true, false]);
    dataplane.attach(PortId(2), Queues(4)).unwrap();
    assert_eq!(workers[0].poll(Instant::from_secs(1)).frames, 4, "it has them all");
}
