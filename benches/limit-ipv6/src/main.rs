//! How fast this machine can do the chain for IPv6: see the README.

#[cfg(not(all(target_arch = "x86_64", target_feature = "avx512bw", target_feature = "vaes")))]
compile_error!("this measures what AVX-512 and VAES can do: build it on a machine that has them");

mod chain;
mod check;
mod frame;
mod machine;
mod table;

use chain::{ALL, BATCH, Context, Descriptor, Frames, LOOK_UP, PARSE};
use frame::connection;
use machine::{Clocks, Random};
use table::Table;

const USAGE: &str = "limit-ipv6 chain CONNECTIONS uni|zipf ROUNDS\nlimit-ipv6 check";

/// Frames between two looks at the clock, and passes over them in a sample.
const RING: usize = 4096;
const PASSES: usize = 16;

/// A sample counts when the core was as free, before and after, as it was at its best, to within this.
const CLEAN: f64 = 0.92;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    machine::pin(1);
    match args[..] {
        ["chain", connections, distribution @ ("uni" | "zipf"), rounds] => {
            match (connections.parse(), rounds.parse()) {
                (Ok(connections), Ok(rounds)) if connections > 0 => {
                    check::run();
                    chain(connections, distribution == "zipf", rounds);
                }
                _ => eprintln!("{USAGE}"),
            }
        }
        ["check"] => check::run(),
        _ => eprintln!("{USAGE}"),
    }
}

/// Which connection a packet is of, and which way it goes.
struct Load {
    random: Random,
    connections: u32,
    zipf: bool,
}

impl Load {
    fn pick(&mut self) -> (u32, bool) {
        let count = self.connections;
        let n = if self.zipf {
            let below = (f64::from(count) + 1.0).ln() * self.random.unit();
            (below.exp() as u32).saturating_sub(1).min(count - 1)
        } else {
            self.random.below(count.into()) as u32
        };
        (n, self.random.next() & 1 == 1)
    }
}

struct Bench {
    frames: Frames,
    ring: Vec<Descriptor>,
    out: Vec<u16>,
    /// What is in the ring.
    sent: Vec<(u32, bool)>,
}

impl Bench {
    fn new() -> Self {
        let descriptor = |n| Descriptor { offset: Frames::offset(n), len: frame::LEN as u16, ingress: 0 };
        Self {
            frames: Frames::new(RING),
            ring: (0..RING).map(descriptor).collect(),
            out: vec![0; RING],
            sent: vec![(0, false); RING],
        }
    }

    fn fill(&mut self, load: &mut Load) {
        for (descriptor, sent) in self.ring.iter_mut().zip(&mut self.sent) {
            *sent = load.pick();
            let (from, _) = connection(sent.0, sent.1);
            descriptor.ingress = from.ingress;
            frame::write(self.frames.frame(descriptor.offset), &from);
        }
    }

    /// Panics unless every frame in the ring is what it should have become.
    fn verify(&mut self) {
        for (descriptor, sent) in self.ring.iter().zip(&self.sent) {
            let (_, to) = connection(sent.0, sent.1);
            let frame = self.frames.frame(descriptor.offset);
            assert!(frame::is_rewritten(frame, &to), "connection {sent:?} became {frame:02x?}");
        }
    }

    /// Ticks a packet, the clock's own taken off.
    fn sample(&mut self, step: u8, table: &Table, context: &mut Context, load: &mut Load) -> f64 {
        let clock = (0..1000).map(|_| machine::tsc().abs_diff(machine::tsc())).min().unwrap_or(0);
        let mut ticks = 0;
        for _ in 0..PASSES {
            self.fill(load);
            let from = machine::tsc();
            let (frames, ring, out) = (&self.frames, &self.ring, &mut self.out[..]);
            // SAFETY: the ring is of these frames, whole batches, and as long as `out`.
            unsafe {
                match step {
                    PARSE => chain::run::<PARSE>(table, context, frames, ring, out),
                    LOOK_UP => chain::run::<LOOK_UP>(table, context, frames, ring, out),
                    _ => chain::run::<ALL>(table, context, frames, ring, out),
                }
            }
            ticks += (machine::tsc() - from).saturating_sub(clock);
            if step == ALL {
                self.verify();
            }
        }
        ticks as f64 / (PASSES * RING) as f64
    }
}

/// A step's samples: ticks a packet, and how free the core was then.
struct Row {
    step: u8,
    name: String,
    samples: Vec<(f64, f64)>,
}

fn chain(connections: u32, zipf: bool, rounds: u64) {
    let clocks = machine::clocks();
    let (tsc, core) = (clocks.tsc / 1e9, clocks.core / 1e9);
    println!("# tsc {tsc:.3} GHz core {core:.3} GHz (from dependent adds)");
    let table = Table::of(connections);
    let distribution = if zipf { "Zipf" } else { "Uni" };
    println!("conns={connections} {distribution}: tag31 {:.1} B per conn", table.bytes_each(connections));
    let mut context = Context::new();
    let mut bench = Bench::new();
    let row = |(step, name)| Row { step, name: format!("{name} Ring({RING})"), samples: Vec::new() };
    let steps = [
        (PARSE, "2 parse+hash simd".to_owned()),
        (LOOK_UP, format!("3 tag31 simd B{BATCH}")),
        (ALL, format!("5 tag31 simd B{BATCH}")),
    ];
    let mut rows = steps.map(row);
    for round in 0..rounds {
        let mut load = Load { random: Random(100 + round), connections, zipf };
        for row in &mut rows {
            let before = machine::probe();
            // The first round warms the caches up.
            bench.sample(row.step, &table, &mut context, &mut load);
            let ticks = bench.sample(row.step, &table, &mut context, &mut load);
            row.samples.push((ticks, before.min(machine::probe())));
        }
    }
    assert_eq!(context.exceptions, 0, "every packet has a session and is plain");
    let counted: u64 = context.rules.iter().map(|c| c.packets).sum();
    assert_eq!(counted, context.ports.iter().map(|c| c.packets).sum::<u64>());
    report(&clocks, &rows);
}

fn report(clocks: &Clocks, rows: &[Row]) {
    let samples = || rows.iter().flat_map(|row| &row.samples);
    let best = samples().map(|(_, free)| *free).fold(0.0, f64::max);
    let is_clean = |(_, free): &&(f64, f64)| *free > best * CLEAN;
    for row in rows {
        let clean = min_and_median(row.samples.iter().filter(is_clean).map(|(ticks, _)| *ticks));
        let all = min_and_median(row.samples.iter().map(|(ticks, _)| *ticks));
        let ns = |ticks: f64| ticks / clocks.tsc * 1e9;
        let Some((_, _, all)) = all else { continue };
        let all = ns(all);
        match clean {
            Some((count, min, median)) => {
                let (min, median) = (ns(min), ns(median));
                let (cycles, mpps) = (median * clocks.core / 1e9, 1e3 / median);
                println!(
                    "{:<64} clean n={count:<2} min {min:6.2} med {median:6.2} ns = {cycles:6.1} cyc {mpps:7.2} Mpps | all med {all:6.2} ns",
                    row.name
                );
            }
            None => println!("{:<64} NO CLEAN SAMPLE; all: med {all:.2} ns", row.name),
        }
    }
    let clean = samples().filter(is_clean).count();
    let ipc = best * clocks.tsc / clocks.core;
    println!("# clean samples {clean} of {}; best probe IPC {ipc:.2}", samples().count());
}

fn min_and_median(values: impl Iterator<Item = f64>) -> Option<(usize, f64, f64)> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    Some((values.len(), *values.first()?, values[values.len() / 2]))
}
