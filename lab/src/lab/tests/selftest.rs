//! `lab selftest`: on labs that do as is predicted, and on some that were made to do otherwise.

use super::{NOTHING, as_root, inside, lab_name, live_process::start, traces_of, up};
use crate::{
    cli::{Cli, Command, Files, LabCommand, SelftestArgs},
    lab::{
        command::{Planned, Wanted},
        live::{
            client::ClientError,
            network::LiveNetwork,
            wire::{Answer, Apply, Ask, Delete, File},
        },
        net::LabNet,
        netns,
        selftest::{self, How, Report},
        supervise::{Signals, down},
    },
    output::Style,
};
use clap::Parser;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{self, Stdio},
};

/// Both families; two policies, one of which a test takes away behind the prediction's back.
const SHOP: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: test}
spec:
  ingressPosture: allowCluster
  podCIDRs: [10.244.0.0/20, 'fd00:244::/48']
  serviceCIDRs: [10.96.0.0/16, 'fd00:96::/108']
  nodes: 1
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 8080}, {containerPort: 53, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 5432}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: desk, namespace: office}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

const ISOLATION: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-isolation, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}
";

fn args(words: &str) -> SelftestArgs {
    match Cli::try_parse_from(["supernet", "lab", "selftest"].into_iter().chain(words.split(' '))) {
        Ok(Cli { command: Command::Lab(LabCommand::Selftest(args)) }) => args,
        other => panic!("{other:?}"),
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// Texts of the differences, sorted.
fn texts(report: &Report) -> Vec<&str> {
    let mut texts: Vec<&str> = report.differences.iter().map(|d| &*d.text).collect();
    texts.sort_unstable();
    texts
}

#[test]
fn the_examples_are_as_predicted() {
    if !as_root() {
        return;
    }
    for name in ["guestbook", "boutique"] {
        let lab = lab_name(name);
        let words = format!("-f {} --name {lab} --timeout 500", example(name).display());
        let report = selftest::tested(&args(&words)).unwrap();
        assert_eq!(texts(&report), [""; 0], "{name}");
        let tried =
            |kind: &str| report.kinds.iter().find(|k| k.kind == kind).map_or(0, |k| k.open.min(k.denied));
        for kind in ["pod to pod", "pod to ClusterIP", "pod to VIP", "outside to pod", "pod to outside"] {
            assert!(tried(kind) > 0, "{name}: {kind}: {:?}", report.kinds);
        }
        assert_eq!(traces_of(&lab), NOTHING);
    }
}

/// What is done to a lab before it is asked something, and after it has answered.
type Around = [Option<Ask>; 2];

/// Tests a lab of this process, which is changed `around` its answers.
fn with_lab(test: &str, around: impl Fn(&str, &Ask) -> Around) -> Report {
    let lab = lab_name(test);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    fs::write(&file, format!("{SHOP}---{ISOLATION}")).unwrap();
    let planned =
        Planned::of(&Files { files: vec![file] }, &lab, &Wanted { dns: false, ..Wanted::default() }).unwrap();
    let mut hosts: LabNet = up(&lab, &planned.spec);
    let mut network = planned.run(&lab, hosts.take_taps()).unwrap();
    let signals = Signals::catch().unwrap();
    let mut ask = |ask: Ask| -> Result<Answer, ClientError> {
        let change = |change: Option<Ask>, hosts: &mut LabNet, network: &mut LiveNetwork| {
            if let Some(change) = change {
                let done = network.ask(change, hosts, &|| false);
                assert!(matches!(done, Answer::Changes(_)), "{done:?}");
            }
        };
        let [before, after] = around(&lab, &ask);
        change(before, &mut hosts, &mut network);
        let answer = network.ask(ask, &mut hosts, &|| false);
        change(after, &mut hosts, &mut network);
        Ok(answer)
    };
    let report = selftest::test(&lab, &How::of(&args("-f x --timeout 500")), &mut ask, &signals).unwrap();
    drop((network, hosts));
    assert_eq!(traces_of(&lab), NOTHING);
    report
}

/// Runs `nft` in a host of the lab. `false`, said loudly, where it is not installed; a failure in CI.
fn nft(lab: &str, host: &str, rules: &str) -> bool {
    let started =
        inside(lab, host, || process::Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn());
    let Ok(mut child) = started else {
        assert!(std::env::var_os("CI").is_none(), "nft is not installed");
        let _ = writeln!(std::io::stderr(), "\n*** SKIPPED: nft is not installed ***\n");
        return false;
    };
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
    true
}

#[test]
fn what_a_pod_drops_or_refuses_is_reported_and_nothing_else() {
    if !as_root() {
        return;
    }
    let installed = std::cell::Cell::new(true);
    let report = with_lab("selfdrop", |lab, ask| {
        if *ask == Ask::Facts {
            let rules = "add table inet t
                add chain inet t in { type filter hook input priority 0; }
                add rule inet t in tcp dport 8080 drop
                add rule inet t in ip6 version 6 udp dport 53 reject\n";
            installed.set(nft(lab, "shop/web", rules));
        }
        [None, None]
    });
    if !installed.get() {
        return;
    }
    // From both other pods, in both families; the pod itself reaches itself through its Service.
    let silent = |from: &str, to: &str| format!("{from} -> {to}: predicted open, but there was no answer");
    let mut expected: Vec<String> = ["office/desk", "shop/db"]
        .iter()
        .flat_map(|from| {
            let one = [silent(from, "shop/web TCP 8080"), silent(from, "shop/svc/web TCP 80")];
            let refused = format!(
                "{from} -> shop/web UDP 53: predicted open, but the port is closed: it got there, and nobody listens"
            );
            one.iter().chain(&one).cloned().chain([refused]).collect::<Vec<_>>()
        })
        .collect();
    let hairpin = silent("shop/web", "shop/svc/web TCP 80");
    expected.extend([hairpin.clone(), hairpin]);
    expected.sort_unstable();
    assert_eq!(texts(&report), expected);
    let text = report.tables(Style::PLAIN);
    assert!(text.starts_with("Differences\n  CONNECTION "), "{text}");
    assert!(text.contains("✗ 12 differences among "), "{text}");
}

#[test]
fn a_policy_that_does_not_hold_is_named() {
    if !as_root() {
        return;
    }
    // The prediction is made with the policy, and reasons are told with it, but meanwhile there is none.
    let files = || vec![File { name: "isolation.yaml".to_owned(), text: ISOLATION.to_owned() }];
    let report = with_lab("selfopen", |_, ask| match ask {
        Ask::Facts => {
            let (objects, ignore_not_found, dry_run) = (Vec::new(), false, false);
            [None, Some(Ask::Delete(Delete { files: files(), objects, ignore_not_found, dry_run }))]
        }
        Ask::Explain(_) => {
            let (no_serve, prune, dry_run) = (Vec::new(), false, false);
            [Some(Ask::Apply(Apply { files: files(), prune, no_serve, dry_run })), None]
        }
        _ => [None, None],
    });
    let text = |from: &str| {
        format!("{from} -> shop/db TCP 5432: predicted denied by shop/db-isolation, but it answered")
    };
    let (desk, web) = (text("office/desk"), text("shop/web"));
    assert_eq!(texts(&report), [&desk, &desk, &web, &web]);
}

#[test]
fn a_lab_of_another_process_is_tested_by_its_name() {
    if !as_root() {
        return;
    }
    let lab = lab_name("selfname");
    let mut child = start(&lab);
    let report = selftest::tested(&args(&format!("--name {lab} --timeout 500"))).unwrap();
    assert_eq!(texts(&report), [""; 0]);
    assert!(report.probes > 0 && report.kinds.iter().any(|k| k.kind == "pod to pod"), "{report:?}");
    assert!(netns::path(&netns::name(&lab, "outside")).exists(), "it goes on");
    down(&lab, false).unwrap();
    child.wait().unwrap();
    assert_eq!(traces_of(&lab), NOTHING);
    assert_eq!(selftest::run(&args(&format!("--name {lab}"))), 2, "it is gone");
}

#[test]
fn a_sample_depends_on_its_seed_alone() {
    if !as_root() {
        return;
    }
    let report = |seed: u64| {
        let lab = lab_name(&format!("selfsample{seed}"));
        let files = example("guestbook");
        let words = format!("-f {} --name {lab} --timeout 500 --sample 20 --seed {seed}", files.display());
        selftest::tested(&args(&words)).unwrap()
    };
    let (one, same, other) = (report(1), report(1), report(2));
    assert_eq!(one.kinds, same.kinds);
    assert_ne!(one.kinds, other.kinds);
    assert_eq!(one.sample.map(|s| (s.pairs, s.seed)), Some((20, 1)));
    let text = one.tables(Style::PLAIN);
    assert!(text.contains("--sample 20 --seed 1 picks them again"), "{text}");
}

#[test]
fn a_lab_or_files_are_to_be_named() {
    let parse = |words: &[&str]| Cli::try_parse_from(["supernet", "lab", "selftest"].iter().chain(words));
    for good in [&["-f", "a"][..], &["--name", "a"], &["-f", "a", "--name", "b", "--all"]] {
        assert!(parse(good).is_ok(), "{good:?}");
    }
    for bad in [&[][..], &["--all"], &["-f", "a", "--all", "--sample", "3"], &["-f", "a", "--sample", "0"]] {
        assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad:?}");
    }
}

#[test]
fn a_connection_that_a_policy_rejects_is_denied_as_predicted() {
    if !as_root() {
        return;
    }
    let rejecting = "
apiVersion: supernet.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: edge}
spec:
  category: Emergency
  appliedTo: [{podSelector: {matchLabels: {app: web}}}]
  rules: [{name: scans, action: REJECT, direction: IN}]
---
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: rejected}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: rejected, labels: {app: web}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 8080}]}]}
";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rejecting.yaml");
    fs::write(&file, rejecting).unwrap();
    let words = format!("-f {} --name {} --timeout 500", file.display(), lab_name("rejecting"));
    let report = selftest::tested(&args(&words)).unwrap();
    assert_eq!(texts(&report), [""; 0]);
}
