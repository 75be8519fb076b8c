//! `supernet demo`: the story of a Supervisor Cluster, told with real connections and checked step by step.
//!
//! A built-in Supervisor runs on memory ports: every pod is a host with a real TCP/IP stack, so is the world
//! beyond the uplink, and several workers carry the frames. No root, no files, no sockets.

mod stage;

use crate::output::{Listing, Style};
use stage::{OUTSIDE, Stage};
use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, Write},
    net::SocketAddr,
};
use supernet::{
    DropReason,
    control::analysis::plan::{Plan, VirtualServerKind},
    model::{Change, Name, ObjectKind},
};

const SUPERVISOR: &str = include_str!("supervisor.yaml");
const POLICY: &str = include_str!("policy.yaml");

/// Workers that carry the frames.
const WORKERS: usize = 2;

/// Connections that are spread over a Service's members.
const SPREAD: usize = 60;

/// Words that are said on a connection to see which path its packets take.
const WORDS: u64 = 20;

/// Tells the story; the status to end with.
pub(crate) fn run() -> Result<u8, Box<dyn Error>> {
    let style = Style::detect();
    let mut story = Story { style, step: 0, passed: 0, failed: 0, written: Ok(()) };
    let mut stage = Stage::set(SUPERVISOR, WORKERS)?;
    let plan = stage.net.plan()?;
    story.say(format!(
        "{}\n{}\n",
        style.bold("The network of a Supervisor Cluster"),
        style.dim(&format!(
            "3 namespaces, {} pods, {WORKERS} workers, IPv4 and IPv6; every pod is a host with its own TCP/IP stack"
        , plan.pods.len()))
    ));
    segments(&mut story, &plan);
    east_west(&mut story, &mut stage);
    egress(&mut story, &mut stage, &plan);
    cluster_ip(&mut story, &mut stage, &plan);
    let connection = ingress(&mut story, &mut stage, &plan)?;
    living_connection(&mut story, &mut stage, connection)?;
    books(&mut story, &mut stage, &plan)?;
    let last = format!("{} checks passed, {} failed", story.passed, story.failed);
    story.say(last);
    match story.written {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(format!("cannot write the story: {e}").into()),
        // Or whoever reads it has seen enough (`| head`).
        _ => Ok(u8::from(story.failed > 0)),
    }
}

/// Counts checks and prints the story.
struct Story {
    style: Style,
    step: usize,
    passed: usize,
    failed: usize,
    /// Whether all of it could be printed.
    written: io::Result<()>,
}

impl Story {
    /// Prints a line; once that failed, nothing more.
    fn say(&mut self, line: String) {
        if self.written.is_ok() {
            let mut out = io::stdout().lock();
            self.written = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    }

    fn chapter(&mut self, title: &str, text: &str) {
        self.step += 1;
        self.say(self.style.bold(&format!("{}. {title}", self.step)));
        for line in text.lines() {
            self.say(format!("   {}", self.style.dim(line.trim())));
        }
        self.say(String::new());
    }

    fn check(&mut self, holds: bool, what: impl AsRef<str>) {
        if holds {
            self.passed += 1;
            self.say(format!("   {} {}", self.style.green("✓"), what.as_ref()));
        } else {
            self.failed += 1;
            self.say(format!("   {} {}", self.style.red("✗ FAILED:"), what.as_ref()));
        }
    }

    fn table(&mut self, columns: &[&str], rows: Vec<Vec<String>>) {
        let table = Listing::rows(columns, rows, self.style);
        self.say(table.trim_end().to_owned() + "\n");
    }

    fn end(&mut self) {
        self.say(String::new());
    }
}

fn segments(story: &mut Story, plan: &Plan) {
    story.chapter(
        "A segment for every namespace",
        "Each namespace gets a block of the pod CIDRs and an L2 segment. The first address of the block is the
         gateway, the same virtual router everywhere.",
    );
    let rows = plan.segments.iter().filter(|s| s.namespace.is_some()).map(|s| {
        let all = |items: &[String]| items.join("  ");
        let cidrs: Vec<String> = s.cidrs.iter().map(ToString::to_string).collect();
        let gateways: Vec<String> = s.gateways.iter().map(ToString::to_string).collect();
        vec![s.name.clone(), all(&cidrs), all(&gateways), s.pods.to_string()]
    });
    story.table(&["SEGMENT", "BLOCKS", "GATEWAYS", ">PODS"], rows.collect());
    let namespaces: Vec<_> = plan.segments.iter().filter_map(|s| s.namespace.as_deref()).collect();
    story.check(namespaces == ["data", "ops", "shop"], "each of the three namespaces has a segment");
    let blocks = plan.segments.iter().filter(|s| s.namespace.is_some()).flat_map(|s| &s.cidrs);
    let sizes: Vec<u8> = blocks.map(ipnet_len).collect();
    story.check(sizes.iter().all(|l| [28, 64].contains(l)), "a /28 of IPv4 and a /64 of IPv6 each");
    story.end();
}

fn ipnet_len(cidr: &impl ToString) -> u8 {
    cidr.to_string().rsplit('/').next().and_then(|l| l.parse().ok()).unwrap_or(0)
}

fn east_west(story: &mut Story, stage: &mut Stage) {
    story.chapter(
        "East-west: routed, never translated",
        "The shop talks to its database in another namespace. The distributed router carries it; the database
         sees the pod's own address.",
    );
    for family in ["IPv4", "IPv6"] {
        let db = stage.address("data/db", family == "IPv6", 5432);
        let web = stage.address("shop/web-0", family == "IPv6", 0);
        let saw = stage.ask("shop/web-0", db);
        story.check(
            saw.as_ref().is_some_and(|s| s.client.ip() == web.ip()),
            format!(
                "{family}: shop/web-0 reaches data/db at {db}, which saw {}",
                words(saw.map(|s| s.client.ip()))
            ),
        );
    }
    let db = stage.address("data/db", false, 5432);
    let denied = stage.denied("ops/shell", db, DropReason::IngressDenied);
    story.check(denied, "ops/shell does not: policy data/db-from-shop isolates the database");
    story.end();
}

fn egress(story: &mut Story, stage: &mut Stage, plan: &Plan) {
    story.chapter(
        "Egress: one address a namespace",
        "Towards the outside the Tier-1 translates every pod of a namespace to the namespace's own /32.",
    );
    let mut rows = Vec::new();
    let mut seen = BTreeMap::new();
    for (pod, namespace) in
        [("shop/web-0", "shop"), ("shop/web-1", "shop"), ("data/db", "data"), ("ops/shell", "ops")]
    {
        for v6 in [false, true] {
            let server = stage.outside(v6, 443);
            let saw = stage.ask(pod, server).map(|s| s.client.ip());
            let leased = plan
                .snat
                .iter()
                .find(|s| s.namespace == namespace && s.address.is_ipv6() == v6)
                .map(|s| s.address);
            let own = stage.address(pod, v6, 0).ip();
            rows.push(vec![pod.to_owned(), own.to_string(), words(saw), words(leased)]);
            seen.insert((pod, v6), saw.is_some() && saw == leased);
        }
    }
    story.table(&["POD", "ITS ADDRESS", "THE SERVER OUTSIDE SAW", "LEASED TO THE NAMESPACE"], rows);
    story.check(
        seen.values().all(|same| *same),
        "the server saw the namespace's egress address, and only that",
    );
    story.end();
}

fn cluster_ip(story: &mut Story, stage: &mut Stage, plan: &Plan) {
    let vip = virtual_server(plan, VirtualServerKind::ClusterIP, false);
    story.chapter(
        "A ClusterIP, spread over its members",
        "The distributed load balancer sits at the client's port and picks a member for every connection. The
         server still sees the client's own address.",
    );
    let shell = stage.address("ops/shell", false, 0).ip();
    let mut served: BTreeMap<String, usize> = BTreeMap::new();
    let mut kept = true;
    for _ in 0..SPREAD {
        if let Some(saw) = stage.ask("ops/shell", vip) {
            kept &= saw.client.ip() == shell;
            *served.entry(saw.server).or_default() += 1;
        }
    }
    let bar = |n: usize| "█".repeat(n);
    let rows = served.iter().map(|(pod, n)| vec![pod.clone(), n.to_string(), bar(*n)]).collect();
    story.table(&["MEMBER", ">CONNECTIONS", ""], rows);
    let total: usize = served.values().sum();
    story.check(total == SPREAD, format!("all {SPREAD} connections from ops/shell to {vip} were served"));
    story.check(served.len() == 3, "all three members had their share");
    story.check(kept, format!("every member saw the client as {shell}"));
    let vip6 = virtual_server(plan, VirtualServerKind::ClusterIP, true);
    let saw = stage.ask("ops/shell", vip6);
    story.check(saw.is_some(), format!("IPv6: {vip6} is served by {}", words(saw.map(|s| s.server))));
    let own = stage.ask("shop/web-0", vip).is_some();
    story.check(own, "shop/web-0 can use the Service that it is itself a member of");
    story.end();
}

fn ingress(story: &mut Story, stage: &mut Stage, plan: &Plan) -> Result<stage::Connection, Box<dyn Error>> {
    let vip = virtual_server(plan, VirtualServerKind::LoadBalancer, false);
    story.chapter(
        "A VIP: closed by default, opened by a policy",
        "The Tier-1 has an L4 virtual server for the LoadBalancer Service. By default nothing may enter a
         Supervisor's workloads; a NetworkPolicy opens the door.",
    );
    let denied = stage.denied(OUTSIDE, vip, DropReason::IngressDenied);
    story.check(denied, format!("before: {OUTSIDE} cannot reach {vip}; counted as IngressDenied"));
    stage.net.apply(stage.change(POLICY)?)?;
    story.check(true, "NetworkPolicy shop/web-from-outside is applied while packets run");
    for v6 in [false, true] {
        let vip = virtual_server(plan, VirtualServerKind::LoadBalancer, v6);
        let client = stage.outside(v6, 0).ip();
        let saw = stage.ask(OUTSIDE, vip);
        let kept = saw.as_ref().is_some_and(|s| s.client.ip() == client);
        let by = words(saw.as_ref().map(|s| &s.server));
        let as_who = words(saw.as_ref().map(|s| s.client.ip()));
        story.check(kept, format!("after: {vip} answers by {by}, which saw the client as {as_who}"));
    }
    let connection = stage.open(OUTSIDE, vip).ok_or("the VIP does not answer")?;
    let works = stage.exchange(&connection, "first").is_some();
    story.check(works, "a connection is opened and stays open");
    story.end();
    Ok(connection)
}

fn living_connection(
    story: &mut Story,
    stage: &mut Stage,
    connection: stage::Connection,
) -> Result<(), Box<dyn Error>> {
    story.chapter(
        "A policy change takes effect on living connections",
        "Sessions are judged again when a new snapshot is published, with their binding kept: no new member, no new
         port, only the verdict changes.",
    );
    let policy = Name::new("shop", "web-from-outside");
    stage.net.apply(Change::delete(ObjectKind::NetworkPolicy, policy))?;
    let cut = stage.cut(&connection, "second", DropReason::IngressDenied);
    story.check(cut, "the policy is removed: the next packet of the living connection is dropped");
    stage.net.apply(stage.change(POLICY)?)?;
    let answer = stage.exchange(&connection, "third");
    story.check(answer.is_some(), "the policy is back: the same connection goes on with the same member");
    story.end();
    Ok(())
}

fn books(story: &mut Story, stage: &mut Stage, plan: &Plan) -> Result<(), Box<dyn Error>> {
    story.chapter(
        "The books balance",
        "Every frame that came in or was made went out or has one drop reason.",
    );
    let counters = stage.settled();
    let mut rows = vec![
        vec!["received".to_owned(), counters.received.to_string()],
        vec!["generated".to_owned(), counters.generated.to_string()],
        vec!["sent".to_owned(), counters.sent.to_string()],
    ];
    let drops = counters.drops.iter();
    rows.extend(drops.map(|(reason, n)| vec![format!("dropped, {}", reason.name()), n.to_string()]));
    rows.push(vec!["of the received, by the fast path".to_owned(), counters.hits.to_string()]);
    story.table(&["FRAMES", ">COUNT"], rows);
    story.check(counters.conserved(), "received + generated = sent + dropped");
    // What opens and ends connections takes the slow path; all between does not.
    let server = virtual_server(plan, VirtualServerKind::ClusterIP, false);
    let connection = stage.open("ops/shell", server).ok_or("the ClusterIP does not answer")?;
    let before = stage.settled();
    let answered = (0..WORDS).all(|n| stage.exchange(&connection, &format!("word-{n}")).is_some());
    let after = stage.settled();
    let (received, hits) = (after.received - before.received, after.hits - before.hits);
    let all_fast = answered && received >= 2 * WORDS && received == hits;
    let said = format!(
        "{WORDS} words and their answers on one connection: {hits} of {received} packets took the fast path"
    );
    story.check(all_fast, said);
    story.end();
    Ok(())
}

fn virtual_server(plan: &Plan, kind: VirtualServerKind, v6: bool) -> SocketAddr {
    let server = plan.virtual_servers.iter().find(|s| s.kind == kind && s.vip.is_ipv6() == v6);
    server.map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |s| SocketAddr::new(s.vip, s.port))
}

fn words(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "nobody".to_owned(), |v| v.to_string())
}
