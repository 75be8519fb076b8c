//! What can be said on the command line.

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use std::path::PathBuf;

/// The network of a Kubernetes Supervisor Cluster, on your laptop.
///
/// Exit status: 0 done, 1 error, 2 usage, 3 the traced packet was dropped, 4 something changes (diff), 5 a statement
/// does not hold (assert), or there are warnings (policy lint).
#[derive(Debug, Parser)]
#[command(name = "supernet", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell the story of a Supervisor Cluster with real connections in memory, and check every step
    Demo,
    /// Show the network that manifests give: segments, SNAT, virtual servers, firewall, pods, routes; or draw it
    Plan(PlanArgs),
    /// Send a synthetic packet through the real stages and say what happens to it
    Trace(TraceArgs),
    /// Show who reaches whom, on which ports
    Reach(ReachArgs),
    /// Show which connections become allowed or denied between two sets of manifests
    Diff(DiffArgs),
    /// Check statements about who reaches whom, kept in a file
    Assert(AssertArgs),
    /// Look at policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Run manifests as network namespaces on TAP devices
    #[command(subcommand)]
    Lab(LabCommand),
    /// Measure the pipeline in memory
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Kubernetes manifests: a file, a folder, or - for standard input; may be given several times
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables for people
    Table,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// How a plan is printed: as everything else, or as a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanFormat {
    /// Tables for people
    Table,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// A picture for browsers, in one file
    Svg,
    /// A picture for Graphviz
    Dot,
    /// A picture for Markdown
    Mermaid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FoldArg {
    /// When there are more than 50 pods
    Auto,
    /// However many pods there are
    Never,
    /// Even when there are few
    Always,
}

/// Examples of `plan`, for both its helps.
macro_rules! plan_examples {
    () => {
        "Examples:
  supernet plan -f shop.yaml
  supernet plan -f manifests/ -f policies/ -o json | jq '.virtualServers'
  supernet plan -f shop.yaml -o svg > shop.svg
  supernet plan -f manifests/ -o svg --namespace shop,data > shop.svg
  supernet plan -f manifests/ -o dot --fold always | dot -Tpdf > all.pdf
  kubectl get pods,svc,netpol -A -o yaml | supernet plan -f -"
    };
}

/// What the default Supervisor is, and how to have another one.
macro_rules! supervisor {
    () => {
        "
Without a `kind: Supervisor` among the manifests a default one is used: pods 10.244.0.0/16,
Services 10.96.0.0/16, ingress 192.168.80.0/24, egress 192.168.90.0/24, nodes 172.26.0.0/24 (three),
one uplink 192.168.100.1/24. Unlike in plain Kubernetes, nothing reaches a pod then unless a policy
allows it. For another one, add a document:
  apiVersion: supernet.dev/v1alpha1
  kind: Supervisor
  spec:
    ingressPosture: allow          # as plain Kubernetes; or deny, allowNamespace, allowCluster
    serviceCIDRs: [10.100.0.0/16]  # a Service network of another range
What is left out keeps its default; docs/supervisor.md has every field."
    };
}

mod bench;
// After the macro, which it uses.
mod lab;

pub(crate) use bench::{BenchArgs, Family, Row, Sharing};

pub(crate) use lab::{
    ApplyArgs, DEFAULT_LAB, DeleteArgs, FlowsArgs, LabCommand, LineFormat, PcapArgs, RulesArgs, SelftestArgs,
    StatusArgs,
};

#[derive(Debug, Args)]
#[command(
    after_help = concat!(plan_examples!(), "\nMore with --help: the default Supervisor, and how to have another one."),
    after_long_help = concat!(plan_examples!(), "\n", supervisor!())
)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) files: Files,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Table)]
    pub(crate) output: PlanFormat,
    /// In a picture, when a namespace is one box with counts
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) fold: Option<FoldArg>,
    /// In a picture, draw these namespaces in full and all others as one box
    #[arg(long, value_name = "NS,...", value_delimiter = ',', conflicts_with = "fold")]
    pub(crate) namespace: Vec<String>,
}

impl PlanArgs {
    /// What is wrong with the arguments together.
    ///
    /// # Errors
    /// What is drawn is asked for, but nothing is drawn.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        let asked = match self.fold {
            Some(_) => "--fold",
            None if !self.namespace.is_empty() => "--namespace",
            None => return Ok(()),
        };
        match self.output {
            PlanFormat::Svg | PlanFormat::Dot | PlanFormat::Mermaid => Ok(()),
            PlanFormat::Table | PlanFormat::Json | PlanFormat::Yaml => Err(Cli::command().error(
                ErrorKind::ArgumentConflict,
                format!("{asked} is for pictures: add -o svg, -o dot or -o mermaid"),
            )),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  supernet trace -f shop.yaml --from shop/web --to shop/svc/db --proto tcp --port 5432
  supernet trace -f shop.yaml --from outside --to shop/svc/web --port 80
  supernet trace -f shop.yaml --from shop/web-0 --to 203.0.113.7 --proto icmp
A workload's name, or a unique prefix of a pod's name, stands for a pod.")]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Where it starts: NS/POD, outside, or an address
    #[arg(long, value_name = "NS/POD|outside|IP")]
    pub(crate) from: String,
    /// Where it goes: NS/POD, NS/svc/NAME, or an address
    #[arg(long, value_name = "NS/POD|NS/svc/NAME|IP")]
    pub(crate) to: String,
    /// Its protocol
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    pub(crate) proto: Protocol,
    /// Its destination port; may be left out for icmp, and for a Service that has a single one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Short for --proto icmp
    #[arg(long, conflicts_with_all = ["port", "proto"])]
    pub(crate) icmp: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Find policies that do not do what they seem to be meant for
    Lint(LintArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  supernet policy lint -f manifests/
  supernet policy lint -f shop.yaml -f policies/ -o json | jq '.findings[] | select(.severity == \"warning\")'
Exit status: 0 no warnings, 5 warnings; notes alone do not count.")]
pub(crate) struct LintArgs {
    #[command(flatten)]
    pub(crate) files: Files,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  supernet reach -f shop.yaml
  supernet reach -f manifests/ -o json")]
pub(crate) struct ReachArgs {
    #[command(flatten)]
    pub(crate) files: Files,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  supernet diff -f shop.yaml --to shop-new.yaml
  supernet diff -f base/ --to base/ --to new-policy.yaml
  git show HEAD:shop.yaml | supernet diff -f - --to shop.yaml
  supernet diff -f old/ --to new/ -o json | jq '.rows[] | select(.change == \"allowed\")'
Exit status: 0 nothing changes, 4 something does, 1 error, 2 usage.
docs/whatif.md says how to read the tables.")]
pub(crate) struct DiffArgs {
    /// Kubernetes manifests as they are: a file, a folder, or - for standard input; may be given several times
    #[arg(short = 'f', long = "file", value_name = "OLD", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The manifests as they would be, all of them; may be given several times
    #[arg(short, long, value_name = "NEW", required = true)]
    pub(crate) to: Vec<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Examples of `assert`, for both its helps.
macro_rules! assert_examples {
    () => {
        "Examples:
  supernet assert -f manifests/ rules.txt
  supernet assert -f shop.yaml -f policies/ rules.txt more-rules.txt -o json
  echo 'nothing outside shop reaches shop/db' | supernet assert -f shop.yaml -
Exit status: 0 all hold, 5 some do not, 1 error (also a statement that speaks of nobody), 2 usage."
    };
}

/// The language of statements.
macro_rules! assert_language {
    () => {
        "
One statement a line; # begins a comment.
  WHO reaches WHOM [on PORTS]          every one of WHO reaches every one of WHOM
  WHO reaches only WHOM [on PORTS]     the same, and nothing else
  only WHO reaches WHOM [on PORTS]     the same, and nobody else does
  WHO does not reach WHOM [on PORTS]   none of WHO reaches any of WHOM
  nothing [outside WHO] reaches WHOM [on PORTS]
WHO and WHOM, several with commas:
  shop, shop/*           all pods of a namespace    * everyone nodes node/NAME
  shop/web               a workload, or a pod       outside       what is beyond the uplinks
  shop/web*              those that begin so        internet      the same without private ranges
  shop/[app=web,!canary] pods by their labels       10.0.0.0/8    whoever has these addresses
  shop/svc/web           a Service (WHOM only)      kube-api cli-tools
PORTS:
  443      TCP 80, 8000-8999      UDP 53, TCP 53      UDP      ICMP      everything
  ... only                  on these ports and no other
  ... over IPv6             in that family only
Without ports, `reaches` needs one port to be open, of a Service all of its ports, and `does not
reach` all to be closed. A pod that reaches itself, and nodes that reach the pods on them, count
for nothing. docs/whatif.md has all of it."
    };
}

#[derive(Debug, Args)]
#[command(
    after_help = concat!(assert_examples!(), "\nMore with --help: what can be said."),
    after_long_help = concat!(assert_examples!(), "\n", assert_language!())
)]
pub(crate) struct AssertArgs {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Statements: a file, or - for standard input
    #[arg(value_name = "RULES", required = true)]
    pub(crate) rules: Vec<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn icmp_is_said_once() {
        let trace = |more: &[&str]| {
            let common = ["supernet", "trace", "-f", "x.yaml", "--from", "a/b", "--to", "10.0.0.1"];
            Cli::try_parse_from(common.iter().chain(more)).map(drop)
        };
        trace(&["--icmp"]).unwrap();
        trace(&["--proto", "icmp"]).unwrap();
        let error = trace(&["--proto", "udp", "--icmp"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn what_is_drawn_is_asked_for_with_a_picture_only() {
        let plan = |more: &[&str]| {
            let common = ["supernet", "plan", "-f", "x.yaml"];
            match Cli::try_parse_from(common.iter().chain(more)).map(|cli| cli.command) {
                Ok(Command::Plan(args)) => args.check().map(|()| args.namespace),
                Ok(other) => panic!("{other:?}"),
                Err(e) => Err(e),
            }
        };
        assert_eq!(plan(&["-o", "svg", "--namespace", "a,b", "--namespace", "c"]).unwrap(), ["a", "b", "c"]);
        plan(&["-o", "dot", "--fold", "never"]).unwrap();
        for args in [&["--fold", "never"][..], &["-o", "json", "--namespace", "a"]] {
            let error = plan(args).unwrap_err();
            assert!(error.to_string().contains("is for pictures: add -o svg"), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        assert!(plan(&["-o", "svg", "--fold", "always", "--namespace", "a"]).is_err());
    }

    #[test]
    fn a_command_to_execute_may_follow_with_or_without_dashes() {
        let exec = |args: &[&str]| {
            let common = ["supernet", "lab", "exec"];
            match Cli::try_parse_from(common.iter().chain(args)).map(|cli| cli.command) {
                Ok(Command::Lab(LabCommand::Exec { name, target, command })) => (name, target, command),
                other => panic!("{other:?}"),
            }
        };
        let expected = |name: &str, command: &[&str]| {
            let command = command.iter().map(std::ffi::OsString::from).collect::<Vec<_>>();
            (name.to_owned(), "shop/web".to_owned(), command)
        };
        let ip = ["ip", "-br", "addr"];
        assert_eq!(exec(&["shop/web", "ip", "-br", "addr"]), expected(DEFAULT_LAB, &ip));
        assert_eq!(exec(&["shop/web", "--", "ip", "-br", "addr"]), expected(DEFAULT_LAB, &ip));
        assert_eq!(exec(&["shop/web", "--name", "a", "ip", "-br", "addr"]), expected("a", &ip));
        assert_eq!(
            exec(&["shop/web", "sh", "--name", "--", "b"]),
            expected(DEFAULT_LAB, &["sh", "--name", "--", "b"]),
            "what follows the command is the command's"
        );
    }
}
