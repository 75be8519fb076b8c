//! What can be said after `supernet lab`.

use super::{Files, Format};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use supernet::capture::Stage;

/// Examples of `lab up`, for both its helps.
macro_rules! up_examples {
    () => {
        "Examples:
  supernet lab up -f shop.yaml
  supernet lab up -f shop.yaml --detach --name shop
  supernet lab up -f shop.yaml --no-serve shop/web-0
Every containerPort is served by a built-in responder; --no-serve keeps it off a pod's ports."
    };
}

/// The name that a lab has when none is given.
pub(crate) const DEFAULT_LAB: &str = "supernet";

#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Start the network and stay in the foreground until Ctrl-C
    #[command(
        after_help = concat!(up_examples!(), "\nMore with --help: what the lab has and has not, and the Supervisor."),
        after_long_help = concat!(up_examples!(), "
A pod with hostNetwork is served on its node, and `lab exec` into it enters its node.

`outside` owns 203.0.113.10 and 2001:db8:ffff::10, each if an uplink has an address of that family.
Give it more addresses with
  supernet lab exec outside -- ip addr add 198.51.100.7/32 dev lo
Pods resolve names of Services and pods (web, web.shop, web.shop.svc.cluster.local): the lab has a
Service kube-system/kube-dns, with a pod coredns, unless the manifests have one. --no-dns leaves it out.
", supervisor!())
    )]
    Up {
        #[command(flatten)]
        files: Files,
        /// Return once the network runs; `lab down` ends it
        #[arg(long)]
        detach: bool,
        /// The lab's name; several may run at once
        #[arg(long, default_value = DEFAULT_LAB)]
        name: String,
        /// Leave this pod's ports to a server of your own; may be given several times
        #[arg(long, value_name = "NS/POD")]
        no_serve: Vec<String>,
        /// No DNS: pods keep the host's /etc/resolv.conf
        #[arg(long)]
        no_dns: bool,
        /// Threads that move packets; one for each processor, at most four, unless told otherwise
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
        workers: Option<u16>,
        /// Run as the background process of --detach
        #[arg(long, hide = true)]
        supervised: bool,
    },
    /// Add objects to a running lab or change them, while its traffic goes on
    Apply(ApplyArgs),
    /// Delete objects from a running lab, while its traffic goes on
    Delete(DeleteArgs),
    /// Show how a running lab is: hosts, traffic, sessions, drops
    Status(StatusArgs),
    /// Capture the traffic of a running lab, each packet with what became of it and why
    Pcap(PcapArgs),
    /// Show connections of a running lab: which began, ended or were denied, by whom and by which policy
    Flows(FlowsArgs),
    /// Show what each rule of a running lab's firewall has decided
    Rules(RulesArgs),
    /// Try every connection with real sockets, and compare with what `supernet reach` predicts
    Selftest(SelftestArgs),
    /// Run a command inside a pod, or in the world beyond the uplink
    #[command(after_help = "Examples:
  supernet lab exec shop/web-0 ip addr
  supernet lab exec shop/web-0 -- curl -s http://db.shop.svc.cluster.local:5432/
  supernet lab exec outside -- curl -s http://192.168.80.3/
In a pod, names are looked up as its dnsPolicy says, by default at the lab's DNS.")]
    Exec {
        /// The lab's name
        #[arg(long, default_value = DEFAULT_LAB)]
        name: String,
        /// NS/POD, NS/WORKLOAD (its first pod), a unique prefix, or outside
        #[arg(value_name = "NS/POD|outside")]
        target: String,
        /// The command and its arguments, after -- or not
        #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
        command: Vec<std::ffi::OsString>,
    },
    /// Open a shell inside a pod, or in the world beyond the uplink
    #[command(after_help = "Examples:
  supernet lab shell outside
  supernet lab shell shop/web

It is $SHELL, or /bin/sh without.")]
    Shell {
        /// The lab's name
        #[arg(long, default_value = DEFAULT_LAB)]
        name: String,
        /// NS/POD, NS/WORKLOAD (its first pod), a unique prefix, or outside
        #[arg(value_name = "NS/POD|outside")]
        target: String,
    },
    /// Run a network on TAPs in this namespace, for a harness that makes its own hosts
    #[command(after_help = "Examples:
  supernet lab attach --topology net.json

net.json:
  {\"ports\": [{\"tap\": \"t0\", \"pod\": \"web\", \"segment\": \"shop\", \"ip\": \"10.1.0.2\", \"mac\": \"02:00:00:00:00:01\"},
             {\"tap\": \"t1\", \"pod\": \"world\", \"segment\": \"wan\", \"ip\": \"203.0.113.10\"}],
   \"segments\": {\"shop\": {\"cidr\": \"10.1.0.0/24\", \"gw\": \"10.1.0.1\", \"gw_mac\": \"02:50:56:56:44:52\",
                         \"egress\": \"192.168.90.1\"},
                \"wan\": {\"cidr\": \"203.0.113.0/24\", \"gw\": \"203.0.113.1\"}},
   \"services\": [{\"vip\": \"10.96.0.1\", \"port\": 80, \"target_port\": 8080, \"proto\": \"tcp\",
                 \"backends\": [\"10.1.0.2\"], \"affinity\": \"ClientIP\"}],
   \"rules\": [{\"src\": \"10.1.0.0/24\", \"dst\": \"0.0.0.0/0\", \"proto\": \"tcp\", \"dport\": \"80-90\", \"action\": \"allow\"}],
   \"default\": \"allow\", \"snat_exempt\": [\"10.0.0.0/8\"]}

The first rule that matches decides. A segment without egress, whose range is not exempt, is outside if
any other one has an egress address. The last line of output is `ready`; then the TAPs are there, to be
moved into other namespaces. SIGTERM ends it, and the TAPs with it.")]
    Attach {
        /// The topology, as JSON
        #[arg(long, value_name = "FILE.json")]
        topology: std::path::PathBuf,
        /// Threads that move packets; one for each processor, at most four, unless told otherwise
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
        workers: Option<u16>,
    },
    /// End a lab and remove all it made
    Down {
        /// The lab's name
        #[arg(long, default_value = DEFAULT_LAB)]
        name: String,
        /// Kill it at once, and clean up after it
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  supernet lab apply -f shop.yaml
  supernet lab apply -f policies/ --dry-run
  supernet lab apply -f manifests/ --prune --name shop
  supernet lab apply --watch manifests/ --prune
Objects are added, or replaced if the lab has them; what is not named stays, but for pods that a
named workload has no more. All of it happens or nothing. Addresses of what stays stay, and
connections that the change does not concern lose no packet. Uplinks, strictTCP, and pools
that somebody has an address of can't be changed while it runs; the error says which.")]
pub(crate) struct ApplyArgs {
    /// Kubernetes manifests: a file, a folder, or - for standard input; may be given several times
    #[arg(short = 'f', long = "file", value_name = "FILE", required_unless_present = "watch")]
    pub(crate) files: Vec<PathBuf>,
    /// The lab's name
    #[arg(long, default_value = DEFAULT_LAB)]
    pub(crate) name: String,
    /// The files are the whole: objects that are not in them go (the Supervisor stays)
    #[arg(long)]
    pub(crate) prune: bool,
    /// Leave this pod's ports to a server of your own; may be given several times
    #[arg(long, value_name = "NS/POD")]
    pub(crate) no_serve: Vec<String>,
    /// Say what would be added, changed and removed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Follow the manifests of a folder until Ctrl-C; times are UTC
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["files", "dry_run"])]
    pub(crate) watch: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  supernet lab delete -f policies/
  supernet lab delete pod shop/curl shop/wget
  supernet lab delete deploy shop/web --dry-run
  supernet lab delete ns shop
A workload goes with its pods, a namespace with all that lies in it. Processes in the pods are
ended.")]
pub(crate) struct DeleteArgs {
    /// Manifests of what is to go: a file, a folder, or - for standard input; may be given several times
    #[arg(
        short = 'f',
        long = "file",
        value_name = "FILE",
        required_unless_present = "kind",
        conflicts_with = "kind"
    )]
    pub(crate) files: Vec<PathBuf>,
    /// pod, svc, netpol, ns, node, endpointslice, or a workload: deploy, sts, ds, rs, rc, job, cj
    #[arg(value_name = "KIND", requires = "names")]
    pub(crate) kind: Option<String>,
    /// The objects; NAME alone for kinds without namespace and for the namespace `default`
    #[arg(value_name = "NS/NAME")]
    pub(crate) names: Vec<String>,
    /// The lab's name
    #[arg(long, default_value = DEFAULT_LAB)]
    pub(crate) name: String,
    /// Pass over what is not there
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
    /// Say what would be removed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  supernet lab status
  supernet lab status --name shop --watch
  supernet lab status -o json | jq '.ports[] | select(.dropped > 0)'
In and out are the network's: in is what a host sent. Rates are those of the last second. With
--watch and -o json every second gives an object on a line of its own.")]
pub(crate) struct StatusArgs {
    /// The lab's name; may be left out when one lab runs, and when several do, they are listed
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Show it again every second until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// How what comes one by one is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LineFormat {
    /// A line each, for people
    Text,
    /// A line of JSON each
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  supernet lab pcap
  supernet lab pcap --drops
  supernet lab pcap --port shop/db --stage dfw-ingress -c 10
  supernet lab pcap -w shop.pcapng --for 60
  supernet lab pcap -w - | tcpdump -n -r - 'tcp port 5432'
  supernet lab pcap -o json --drops | jq -r '.reason'
In and out are the network's: in is what a host sent, as it sent it; out is what is handed to one.
In a pcapng file the ports are interfaces, and verdict, reason and rule stand in each packet's
comment. Packets that come faster than they are read are missed, and counted; nobody waits for the
capture. How much was captured is told on standard error.")]
pub(crate) struct PcapArgs {
    /// The lab's name
    #[arg(long, default_value = DEFAULT_LAB)]
    pub(crate) name: String,
    /// Only packets through this port, or dropped in front of it: NS/POD, NS/WORKLOAD (all its pods), a unique prefix,
    /// node/NAME, uplink/NAME, or outside (all uplinks); may be given several times
    #[arg(long = "port", value_name = "NS/POD")]
    pub(crate) ports: Vec<String>,
    /// Only packets that are dropped
    #[arg(long)]
    pub(crate) drops: bool,
    /// Only packets that this stage dropped, answered, rewrote or, of a connection's first packets, let pass; as
    /// `supernet trace` names it; may be given several times
    #[arg(long = "stage", value_name = "NAME")]
    pub(crate) stages: Vec<Stage>,
    /// Write pcapng to a file, or with - to standard output
    #[arg(short = 'w', long = "write", value_name = "FILE|-", conflicts_with = "output")]
    pub(crate) write: Option<PathBuf>,
    /// End after so many packets
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End after so many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub(crate) seconds: Option<u64>,
    /// Keep so many bytes of each packet; all unless told otherwise
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(14..=262_144))]
    pub(crate) snaplen: Option<u32>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = LineFormat::Text)]
    pub(crate) output: LineFormat,
}

impl PcapArgs {
    /// Where packets go, in words.
    pub(crate) fn place(&self) -> String {
        match &self.write {
            Some(path) if path.as_os_str() != "-" => path.display().to_string(),
            _ => "standard output".to_owned(),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  supernet lab flows
  supernet lab flows shop/curl --denied
  supernet lab flows shop --follow
  supernet lab flows --last 20 --follow --sample 10
  supernet lab flows -o json | jq -r 'select(.event == \"denied\") | .ingressRule'
A lab remembers the last 8,192 starts and ends, and as many denials, from its start on. A
connection is told of when it begins and when it is forgotten: some time after it was closed, or
after a silence. One that is denied is told of once a minute, however often it is tried. Times are
UTC; bytes are those of whole frames. What comes faster than it can be written down, or read, is
missed, and a line says how much.")]
pub(crate) struct FlowsArgs {
    /// Only from or to this: a namespace, NS/POD, NS/WORKLOAD (all its pods), a unique prefix, node/NAME, uplink/NAME, or
    /// outside
    #[arg(value_name = "POD|NAMESPACE")]
    pub(crate) target: Option<String>,
    /// The lab's name
    #[arg(long, default_value = DEFAULT_LAB)]
    pub(crate) name: String,
    /// Go on until Ctrl-C with what happens from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin with the last so many that are remembered; all of them unless told otherwise, and none with --follow
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) last: Option<u64>,
    /// Only one of so many connections: each with all that is known of it, or not at all
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sample: u32,
    /// Only connections that were denied
    #[arg(long)]
    pub(crate) denied: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = LineFormat::Text)]
    pub(crate) output: LineFormat,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  supernet lab rules
  supernet lab rules shop
  supernet lab rules shop/db-only
  supernet lab rules -o json | jq '.rules[] | select(.hits == 0) | .policy'
Hits are connections that the rule let pass, and packets that it denied: one that is tried again is
denied again. Packets and bytes are those of connections it let pass, both ways; sessions are
connections that live by it now, or are cut off by it. A rule without hits has decided nothing yet.")]
pub(crate) struct RulesArgs {
    /// Only rules of this policy, or of all policies of this namespace
    #[arg(value_name = "POLICY|NAMESPACE")]
    pub(crate) target: Option<String>,
    /// The lab's name
    #[arg(long, default_value = DEFAULT_LAB)]
    pub(crate) name: String,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  supernet lab selftest -f shop.yaml
  supernet lab selftest -f manifests/ -o json | jq -r '.differences[].text'
  supernet lab selftest --name shop
  supernet lab selftest -f big/ --sample 5000 --seed 7
With files, a lab of its own is brought up, tested and taken down; with a name alone, the
running lab of that name is tested as it is. Tried are, over TCP and UDP and in both families:
every pod to every port that a pod serves, every ClusterIP, every VIP from inside and outside,
the outside to pods, and pods to the outside, which must see the egress address of their
namespace. What contradicts the prediction is tried once more with five times the time. Servers
of your own (--no-serve) are left out.

Exit status: 0 all as predicted, 1 differences, 2 it could not be tested.")]
pub(crate) struct SelftestArgs {
    /// Kubernetes manifests: a file, a folder, or - for standard input; may be given several times, and left out with
    /// --name
    #[arg(short = 'f', long = "file", value_name = "FILE", required_unless_present = "name")]
    pub(crate) files: Vec<PathBuf>,
    /// The running lab to test; with files, what to call the one that is brought up
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Pick so many pairs of a source and a destination; above 100,000 pairs, 20,000 unless told otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sample: Option<u32>,
    /// Take all pairs, however many there are
    #[arg(long, conflicts_with_all = ["sample", "seed"])]
    pub(crate) all: bool,
    /// What the picking of pairs depends on; another one each time unless told otherwise
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// How long to wait for an answer before a connection counts as denied
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub(crate) timeout: u64,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}
