//! What can be said after `supernet bench`.

use super::Cli;
use clap::{Args, CommandFactory, ValueEnum, error::ErrorKind};
use std::path::PathBuf;

/// Examples of `bench`, for both its helps.
macro_rules! bench_examples {
    () => {
        "Examples:
  supernet bench
  supernet bench --row full-chain --flows 1k,10k,100k,1M,4M --limit limit/target/release/limit
  supernet bench --row full-chain --workers 1,2 --sharing disjoint,directions,same --flows 1M
  supernet bench --row new-connections --family ipv4 --policies 10000 --seconds 5 --json"
    };
}

/// What `bench` measures and prints.
macro_rules! bench_columns {
    () => {
        "
Every row is measured for both families and each of --flows, --workers and --sharing that it can be
measured with. A packet's time is what a worker takes for it, in batches of 64 from a ring of 4,096
buffers, from received frames to rewritten ones grouped by output port; putting the frames together
is not counted. Threads are kept on processors of their own. An arithmetic probe runs before and
after each sample: samples of a processor that is more than 8 % slower than it can be are counted
and set aside (slow_samples; a row that has no others is marked with *).

In the tables, NS/PACKET is a worker's time for a packet, MPPS millions of packets a second of all
workers together, HITS the share that took the cached way, ALLOCS heap allocations a packet, BYTES/CONN
the memory of a connection; NS/NEW and NEW/S are a new connection's time and how many were opened a
second among all packets, RULES the rules of all firewalls; P50 and P99 are of batches, QUIET before
anything was published, PUBLISHED how many snapshots were. `median_tsc` is NS/PACKET in cycles of the
time stamp counter. Rows that publish, and churn, run for a second or two at the least.

With one worker --sharing says nothing, and --policies says nothing to rows of established connections;
rows of one worker leave other --workers out.

Counters prove what is measured: a row of established connections that does not hit with every
packet, or new-connections that does, is an error and prints no number. `allocations` are heap
allocations a packet. `bytes_per_connection` is the memory of both flow entries, their tags and the
table's free room, and the cold record; `huge_pages` the bytes of the process in huge pages.

`ns_per_new_connection` is what a packet that opens a connection takes; in new-sparse and churn, what
rings with such packets take beyond the same without, and in churn also what ending them takes. Time
passes faster there than on the clock, so that as many connections time out as are opened.

--limit names a program that does the least that a packet chain has to, and is run as
  PATH chain FLOWS uni 12
once for each number of connections, just before its rows. `ratio` is our time by the program's, the
median of the line that does the same: \"2 parse+hash simd Ring(4096)\" for parse, \"3 tag31 simd B64
Ring(4096)\" for look-up, \"5 tag31 simd B64 Ring(4096)\" for packets of established connections. It runs
on one processor: with several workers, the ratio is that of one of ours beside the others."
    };
}

#[derive(Debug, Args)]
#[command(
    after_help = concat!(bench_examples!(), "\nMore with --help: what is measured, and what the columns are."),
    after_long_help = concat!(bench_examples!(), "\n", bench_columns!())
)]
pub(crate) struct BenchArgs {
    /// Only these rows
    #[arg(long, value_enum, value_name = "ROW,...", value_delimiter = ',')]
    pub(crate) row: Vec<Row>,
    /// Only this address family
    #[arg(long, value_enum)]
    pub(crate) family: Option<Family>,
    /// Connections; k and M are thousands and millions
    #[arg(long, value_name = "N,...", default_value = "10k", value_delimiter = ',', value_parser = count, allow_negative_numbers = true)]
    pub(crate) flows: Vec<usize>,
    /// Workers, one thread each; no more than there are connections and processors
    #[arg(long, value_name = "N,...", default_value = "1", value_delimiter = ',', value_parser = count, allow_negative_numbers = true)]
    pub(crate) workers: Vec<usize>,
    /// Which of several workers gets which packets of established connections
    #[arg(long, value_enum, value_name = "HOW,...", default_value = "disjoint", value_delimiter = ',')]
    pub(crate) sharing: Vec<Sharing>,
    /// NetworkPolicies in the network of rows with new connections: five for each of its namespaces, or more
    #[arg(long, value_name = "N", default_value = "1000", value_parser = policies, allow_negative_numbers = true)]
    pub(crate) policies: usize,
    /// The limit program to compare with (IPv4)
    #[arg(long, value_name = "PATH")]
    pub(crate) limit: Option<PathBuf>,
    /// The limit program to compare IPv6 with
    #[arg(long, value_name = "PATH")]
    pub(crate) limit_ipv6: Option<PathBuf>,
    /// Seconds a row is measured for
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) seconds: f64,
    /// One JSON object a line instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

impl BenchArgs {
    /// What is wrong with the arguments together.
    ///
    /// # Errors
    /// There are more workers than connections, or nothing would be measured.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        let error = |message| Err(Cli::command().error(ErrorKind::ValueValidation, message));
        let workers = self.workers.iter().max().copied().unwrap_or(1);
        let flows = self.flows.iter().min().copied().unwrap_or(1);
        if workers > flows {
            return error(format!(
                "--workers {workers} is more than --flows {flows}: every worker needs a connection of its own; \
                 give fewer workers or more flows"
            ));
        }
        match self.row.iter().find(|row| row.is_for_one()) {
            Some(row) if !self.workers.contains(&1) => {
                let name = row.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
                error(format!("--row {name} is measured with one worker: have 1 among --workers"))
            }
            _ => Ok(()),
        }
    }
}

/// A whole number above zero; `k` stands for thousands and `M` for millions.
fn count(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1000),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    match digits.parse::<usize>().ok().and_then(|n| n.checked_mul(unit)) {
        Some(0) => Err("give at least 1".to_owned()),
        Some(n) => Ok(n),
        None => Err("give a whole number, at least 1, such as 1000, 10k or 4M".to_owned()),
    }
}

/// A network with a hundred thousand takes ten seconds to make.
const MOST_POLICIES: usize = 200_000;

fn policies(text: &str) -> Result<usize, String> {
    match count(text)? {
        n if n > MOST_POLICIES => Err(format!("give at most {MOST_POLICIES}")),
        n => Ok(n),
    }
}

/// A day is more than anybody measures a row for.
const LONGEST: f64 = 86_400.0;

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "give a number of seconds, such as 0.5".to_owned())?;
    if seconds > LONGEST {
        Err(format!("give at most {LONGEST} (a day)"))
    } else if seconds >= 1e-9 {
        Ok(seconds)
    } else {
        Err("give a time above zero, such as 0.5".to_owned())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Only read the headers
    Parse,
    /// Only read the headers and find the connection
    LookUp,
    /// Pod to a pod of another namespace, through both firewalls
    EastWest,
    /// Pod to a ClusterIP whose members are pods of another namespace
    ClusterIp,
    /// Pod to an address outside: DFW, routing, SNAT
    Snat,
    /// Outside to a VIP
    Vip,
    /// Pod to a ClusterIP whose members are outside: DLB, DFW, routing, SNAT
    FullChain,
    /// Every packet opens a connection, through the full chain
    NewConnections,
    /// One packet of a hundred opens a connection, the others hit
    NewSparse,
    /// One packet of a hundred, and of ten, opens a connection, and as many time out; with and without a pod
    /// that comes or goes every 100 ms
    Churn,
    /// A pod that nobody talks to comes or goes every 100 ms while packets hit
    Publication,
    /// The full chain from memory port to memory port, through a worker's whole loop
    RingToRing,
}

impl Row {
    /// Whether it is measured with one worker only.
    pub(crate) fn is_for_one(self) -> bool {
        matches!(self, Self::NewSparse | Self::Churn | Self::Publication | Self::RingToRing)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sharing {
    /// All packets of a connection reach one worker
    Disjoint,
    /// Its two directions reach different workers, as with NAT
    Directions,
    /// Every packet may reach any worker
    Same,
}

#[cfg(test)]
mod tests {
    use super::{super::Command, *};
    use clap::Parser;

    #[test]
    fn a_bench_that_can_t_be_is_a_usage_error() {
        let bench = |args: &[&str]| match Cli::try_parse_from(["supernet", "bench"].iter().chain(args)) {
            Ok(Cli { command: Command::Bench(args) }) => args.check(),
            Ok(other) => panic!("{other:?}"),
            Err(e) => Err(e),
        };
        bench(&["--workers", "2", "--flows", "2", "--seconds", "0.1"]).unwrap();
        bench(&["--workers", "1,2", "--row", "churn,full-chain", "--flows", "1k,4M"]).unwrap();
        let cases: [(&[&str], &str); 12] = [
            (&["--flows", "-5"], "a whole number"),
            (&["--policies", "1M"], "at most 200000"),
            (&["--seconds", "1e20"], "at most 86400 (a day)"),
            (&["--seconds", "0"], "a time above zero"),
            (&["--seconds=-1"], "a time above zero"),
            (&["--seconds", "nan"], "a time above zero"),
            (&["--workers", "0"], "at least 1"),
            (&["--flows", "x"], "a whole number"),
            (&["--flows", "1k,M"], "a whole number"),
            (&["--policies", "99999999999999999M"], "a whole number"),
            (&["--workers", "100000"], "--workers 100000 is more than --flows 10000"),
            (&["--workers", "2", "--row", "churn"], "--row churn is measured with one worker"),
        ];
        for (args, said) in cases {
            let error = bench(args).unwrap_err();
            assert!(error.to_string().contains(said), "{args:?}: {error}");
            assert_eq!(error.exit_code(), 2, "{args:?}");
        }
    }

    #[test]
    fn numbers_may_end_in_their_thousands() {
        let numbers = ["7", "10k", "1K", "4M", "2m"].map(|text| count(text).unwrap());
        assert_eq!(numbers, [7, 10_000, 1000, 4_000_000, 2_000_000]);
    }
}
