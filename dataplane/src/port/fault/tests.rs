//! What becomes of frames.

mod contracts;

use super::*;
use crate::port::memory::{MemoryGuest, memory};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Visits after which nothing is held any more.
const ENOUGH: usize = 64;

/// A memory port with faults, split up.
struct Rig {
    pool: Pool,
    opened: Opened<MemoryGuest>,
    counters: FaultCounters,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Receive,
    Transmit,
}

const WAYS: [Way; 2] = [Way::Receive, Way::Transmit];

impl Rig {
    fn new(seed: u64, rates: Rates) -> Self {
        Self::with(1024, 512, Faults { seed, receive: rates, transmit: rates })
    }

    fn with(frames: usize, depth: usize, faults: Faults) -> Self {
        let pool = Pool::new(frames);
        let port = wrap(memory(depth), faults);
        let counters = port.counters();
        Self { opened: port.open(2, &pool).unwrap(), pool, counters }
    }

    fn counts(&self, way: Way) -> FaultCounts {
        match way {
            Way::Receive => self.counters.receive(),
            Way::Transmit => self.counters.transmit(),
        }
    }

    /// A visit that wants up to `max` frames.
    fn visit(&mut self, max: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        let count = self.opened.receivers[0].receive(&mut frames, max, &self.pool).unwrap();
        assert_eq!(frames.len(), count);
        assert!(count <= max);
        frames
    }

    /// Sends frames to the port; what was left of them.
    fn send(&mut self, lane: usize, frames: &[&[u8]]) -> Vec<Frame> {
        let mut frames = frames.iter().map(|f| self.pool.copy(f).unwrap()).collect();
        self.opened.senders[lane].transmit(&mut frames).unwrap();
        frames
    }

    /// Passes frames in one direction, some at a time, and visits until nothing is held. What came out.
    fn play(&mut self, way: Way, frames: &[Vec<u8>], batch: usize) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        // Room for the copies too.
        let most = 2 * batch;
        let mut take = |rig: &mut Self| match way {
            Way::Receive => out.extend(rig.visit(most).iter().map(|f| f.bytes().to_vec())),
            Way::Transmit => {
                assert!(rig.visit(most).is_empty());
                out.extend(std::iter::from_fn(|| rig.opened.peer.recv()).map(|b| b.to_vec()));
            }
        };
        for some in frames.chunks(batch) {
            match way {
                Way::Receive => some.iter().for_each(|frame| self.opened.peer.send(frame).unwrap()),
                Way::Transmit => {
                    let some: Vec<&[u8]> = some.iter().map(Vec::as_slice).collect();
                    assert!(self.send(0, &some).is_empty());
                }
            }
            take(self);
        }
        for _ in 0..ENOUGH + frames.len() {
            take(self);
        }
        assert_eq!(self.counts(way).held(), 0);
        assert_eq!(self.pool.available(), self.pool.capacity(), "every buffer is back");
        out
    }
}

/// Frames that say which they are.
fn numbered(count: u16) -> Vec<Vec<u8>> {
    (0..count).map(|n| [&n.to_be_bytes()[..], &[7; 58]].concat()).collect()
}

fn number(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[0], frame[1]])
}

fn numbers(frames: &[Vec<u8>]) -> Vec<u16> {
    frames.iter().map(|frame| number(frame)).collect()
}

#[test]
fn without_faults_nothing_happens_to_a_frame() {
    assert_eq!((Rates::default().overtakers, Rates::default().visits), (3, 16));
    for way in WAYS {
        let mut rig = Rig::new(1, Rates::default());
        assert_eq!(rig.play(way, &numbered(200), 64), numbered(200));
        assert_eq!(rig.counts(way), FaultCounts { taken: 200, passed: 200, ..FaultCounts::default() });
        let other = if way == Way::Receive { Way::Transmit } else { Way::Receive };
        assert_eq!(rig.counts(other), FaultCounts::default());
    }
}

#[test]
fn a_rate_of_one_is_every_frame() {
    for way in WAYS {
        let mut rig = Rig::new(1, Rates { loss: 1.0, ..Rates::default() });
        assert!(rig.play(way, &numbered(200), 64).is_empty());
        assert_eq!(rig.counts(way), FaultCounts { taken: 200, lost: 200, ..FaultCounts::default() });

        let all = Rates { duplication: 1.0, corruption: 1.0, delay: 1.0, ..Rates::default() };
        let mut rig = Rig::new(1, all);
        assert_eq!(rig.play(way, &numbered(100), 16).len(), 200);
        let (taken, passed, twice) = (100, 200, 200);
        let counts = FaultCounts {
            taken,
            passed,
            duplicated: 100,
            corrupted: twice,
            delayed: twice,
            ..FaultCounts::default()
        };
        assert_eq!(rig.counts(way), counts);
    }
}

#[test]
fn rates_are_kept_to() {
    let rates = Rates {
        loss: 0.3,
        duplication: 0.2,
        corruption: 0.1,
        reordering: 0.4,
        delay: 0.25,
        ..Rates::default()
    };
    for way in WAYS {
        let mut rig = Rig::new(1, rates);
        rig.play(way, &numbered(20_000), 64);
        let counts = rig.counts(way);
        let near = |count: u64, of: u64, rate: f64| {
            let found = count as f64 / of as f64;
            assert!((found - rate).abs() < 0.02, "{found} for {rate}: {counts:?}");
        };
        let left = counts.taken - counts.lost;
        let both = left + counts.duplicated;
        near(counts.lost, counts.taken, 0.3);
        near(counts.duplicated, left, 0.2);
        near(counts.corrupted, both, 0.1);
        near(counts.delayed, both, 0.25);
        near(counts.reordered, both - counts.delayed, 0.4);
    }
}

#[test]
fn a_rate_that_is_none_is_refused() {
    let none = [f64::NAN, -0.1, 1.1, f64::INFINITY];
    let wrong = none.into_iter().flat_map(|rate| {
        [
            Rates { loss: rate, ..Rates::default() },
            Rates { duplication: rate, ..Rates::default() },
            Rates { corruption: rate, ..Rates::default() },
            Rates { reordering: rate, ..Rates::default() },
            Rates { delay: rate, ..Rates::default() },
        ]
    });
    let zero =
        [Rates { overtakers: 0, ..Rates::default() }, Rates { visits: 0, ..Rates::default() }].into_iter();
    for rates in wrong.chain(zero) {
        let good = Faults::default();
        for faults in [Faults { receive: rates, ..good }, Faults { transmit: rates, ..good }] {
            let error = wrap(memory(1), faults).open(1, &Pool::new(1)).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        }
    }
    let rates = Rates { loss: 1.5, ..Rates::default() };
    let error = rates.check().unwrap_err().to_string();
    assert_eq!(error, "loss is 1.5: a rate is a number from 0 to 1");
}

#[test]
fn a_lone_frame_that_is_held_back_comes_out_by_visits_alone() {
    const VISITS: u32 = 5;
    let overtaken = Rates { reordering: 1.0, visits: VISITS, ..Rates::default() };
    let late = Rates { delay: 1.0, visits: VISITS, ..Rates::default() };
    for (rates, way) in [overtaken, late].into_iter().flat_map(|rates| WAYS.map(|way| (rates, way))) {
        let mut waited = [0; VISITS as usize + 1];
        let mut rig = Rig::new(3, rates);
        for _ in 0..100 {
            match way {
                Way::Receive => {
                    rig.opened.peer.send(&[1; 60]).unwrap();
                    assert!(rig.visit(8).is_empty(), "not by the visit that takes it");
                }
                Way::Transmit => assert!(rig.send(1, &[&[1; 60]]).is_empty()),
            }
            assert_eq!(rig.counts(way).held(), 1);
            let mut visits = 0;
            loop {
                let received = rig.visit(8).len();
                visits += 1;
                if received + usize::from(rig.opened.peer.recv().is_some()) == 1 {
                    break;
                }
            }
            waited[visits] += 1;
        }
        if rates.delay > 0.0 {
            assert!(waited[0] == 0 && waited[1..].iter().all(|times| *times > 5), "{waited:?}");
        } else {
            assert_eq!(waited, [0, 0, 0, 0, 0, 100], "as long as somebody may come");
        }
    }
}

#[test]
fn who_is_to_be_overtaken_lets_as_many_go_first_as_was_drawn() {
    for way in WAYS {
        let rates = Rates { reordering: 0.4, ..Rates::default() };
        let mut rig = Rig::new(5, rates);
        let out = numbers(&rig.play(way, &numbered(5000), 64));
        // By how many that came after it each was overtaken.
        let mut by = [0; 4];
        for (at, n) in out.iter().enumerate() {
            by[out[at.saturating_sub(99)..at].iter().filter(|before| *before > n).count()] += 1;
        }
        let reordered = rig.counts(way).reordered;
        assert!(reordered - by[1..].iter().sum::<u64>() < 3, "others came, but for the last: {by:?}");
        assert!(by[1..].iter().all(|count| (count * 3).abs_diff(reordered) < reordered / 6), "{by:?}");
    }
}

#[test]
fn who_is_late_is_late_however_many_pass() {
    let mut rig = Rig::new(5, Rates { delay: 0.2, ..Rates::default() });
    numbered(300).iter().for_each(|frame| rig.opened.peer.send(frame).unwrap());
    let on_time = rig.visit(512).len() as u64;
    let FaultCounts { delayed, .. } = rig.counters.receive();
    assert!(delayed > 30);
    assert_eq!((on_time, rig.counters.receive().held()), (300 - delayed, delayed));
}

#[test]
fn one_bit_anywhere_is_flipped() {
    for way in WAYS {
        let mut rig = Rig::new(9, Rates { corruption: 1.0, ..Rates::default() });
        let original = vec![0x5a; 20];
        let mut flipped = BTreeMap::<usize, usize>::new();
        for frame in rig.play(way, &vec![original.clone(); 4000], 64) {
            assert_eq!(frame.len(), original.len());
            let bits = (0..160).filter(|bit| (frame[bit / 8] ^ 0x5a) >> (bit % 8) & 1 == 1);
            let bits: Vec<usize> = bits.collect();
            assert_eq!(bits.len(), 1);
            *flipped.entry(bits[0]).or_default() += 1;
        }
        assert_eq!(flipped.len(), 160, "every one of them some time");
        assert!(flipped.values().all(|times| *times < 80), "{flipped:?}");
    }
    let mut rig = Rig::new(9, Rates { corruption: 1.0, ..Rates::default() });
    assert_eq!(rig.play(Way::Receive, &[Vec::new()], 1), [Vec::new()]);
    assert_eq!(rig.counters.receive().corrupted, 0, "it has no bit");
}

#[test]
fn of_a_frame_and_its_copy_one_may_be_damaged_or_late() {
    for way in WAYS {
        let rates = Rates { duplication: 1.0, corruption: 0.5, reordering: 0.5, ..Rates::default() };
        let mut rig = Rig::new(2, rates);
        let mut whole = BTreeMap::<u16, usize>::new();
        let frames = numbered(400);
        for frame in rig.play(way, &frames, 16) {
            *whole.entry(number(&frame)).or_default() += usize::from(frames.contains(&frame));
        }
        for count in 0..3 {
            assert!(whole.values().filter(|n| **n == count).count() > 50, "{count} whole: {whole:?}");
        }
        let counts = rig.counts(way);
        assert!((300..500).contains(&counts.reordered), "{counts:?}");
    }
}

#[test]
fn one_fault_moves_no_other() {
    let arrived = |rates: Rates| {
        let mut rig = Rig::new(4, rates);
        let mut arrived = numbers(&rig.play(Way::Receive, &numbered(500), 64));
        arrived.sort_unstable();
        arrived.dedup();
        arrived
    };
    let loss = Rates { loss: 0.2, ..Rates::default() };
    let plain = arrived(loss);
    assert!((350..450).contains(&plain.len()));
    assert_eq!(arrived(Rates { reordering: 0.5, delay: 0.5, duplication: 0.5, ..loss }), plain);
    assert_eq!(arrived(Rates { overtakers: 9, visits: 3, reordering: 0.1, ..loss }), plain);
    assert_ne!(arrived(Rates { loss: 0.25, ..loss }), plain);
    let copies = |rates| {
        let mut rig = Rig::new(4, rates);
        let mut all = numbers(&rig.play(Way::Receive, &numbered(500), 64));
        all.sort_unstable();
        all
    };
    let twice = Rates { duplication: 0.2, ..Rates::default() };
    assert_eq!(copies(Rates { reordering: 0.5, delay: 0.5, ..twice }), copies(twice));
}

#[test]
fn lines_do_not_share_their_fates() {
    let rates = Rates { loss: 0.5, ..Rates::default() };
    let both = |lanes: &[usize]| {
        let mut rig = Rig::new(6, rates);
        let mut passed = [Vec::new(), Vec::new()];
        let mut sent = [0; 2];
        for lane in lanes {
            rig.send(*lane, &[&[1; 60]]);
            if rig.opened.peer.recv().is_some() {
                passed[*lane].push(sent[*lane]);
            }
            sent[*lane] += 1;
        }
        passed
    };
    let turns: Vec<usize> = (0..200).map(|n| n % 2).collect();
    let [a, b] = both(&turns);
    assert_ne!(a, b, "workers");
    assert_eq!(both(&[vec![1; 100], vec![0; 100]].concat()), [a.clone(), b], "whoever comes first");
    let mut rig = Rig::new(6, rates);
    let received = numbers(&rig.play(Way::Receive, &numbered(100), 64));
    assert_ne!(received, a, "directions");
}

fn rates() -> impl Strategy<Value = Rates> {
    let rate = || prop_oneof![Just(0.0), 0.0..0.5, Just(1.0)];
    let parts = (rate(), rate(), rate(), rate(), rate(), 1..6_u32, 1..20_u32);
    parts.prop_map(|(loss, duplication, corruption, reordering, delay, overtakers, visits)| Rates {
        loss,
        duplication,
        corruption,
        reordering,
        delay,
        overtakers,
        visits,
    })
}

proptest! {
    /// Whatever the rates: what comes out is what went in, without what was lost, and with the copies; in order if
    /// nothing is held back; nobody is overtaken by more than may go first.
    #[test]
    fn frames_are_passed_lost_or_doubled(
        rates in rates(),
        seed in any::<u64>(),
        batch in 1..65_usize,
        way in proptest::sample::select(&WAYS[..]),
    ) {
        let rates = Rates { corruption: 0.0, ..rates };
        let frames = numbered(150);
        let mut rig = Rig::new(seed, rates);
        let out = rig.play(way, &frames, batch);
        prop_assert!(out.iter().all(|frame| frames.contains(frame)));
        let out = numbers(&out);
        let counts = rig.counts(way);
        let mut times = [0; 150];
        out.iter().for_each(|n| times[usize::from(*n)] += 1);
        let of = |wanted| times.iter().filter(|n| **n == wanted).count() as u64;
        prop_assert_eq!(of(0) + of(1) + of(2), 150);
        prop_assert_eq!((of(0), of(2)), (counts.lost, counts.duplicated));
        prop_assert_eq!((counts.taken, counts.passed), (150, out.len() as u64));
        prop_assert_eq!((counts.refused, counts.corrupted), (0, 0));
        if rates.reordering == 0.0 && rates.delay == 0.0 {
            prop_assert!(out.is_sorted());
        }
        if rates.delay == 0.0 && rates.duplication == 0.0 {
            let overtakers = |at: usize| out[..at].iter().filter(|before| **before > out[at]).count();
            prop_assert!((0..out.len()).all(|at| overtakers(at) <= rates.overtakers as usize));
        }
    }

    #[test]
    fn the_same_seed_is_the_same_weather(
        rates in rates(),
        seed in any::<u64>(),
        way in proptest::sample::select(&WAYS[..]),
    ) {
        let play = |seed| {
            let mut rig = Rig::new(seed, rates);
            (rig.play(way, &numbered(100), 16), rig.counts(way))
        };
        prop_assert_eq!(play(seed), play(seed));
        let some = Rates { loss: 0.5, ..rates };
        let lost = |seed| Rig::new(seed, some).play(way, &numbered(100), 16);
        prop_assert_ne!(lost(seed), lost(seed.wrapping_add(1)));
    }
}
