//! Names in labs, as programs of the system look them up and as sockets ask for them.

mod own;

use super::{
    NOTHING, as_root, inside, lab_name,
    live::{apply, by_name},
    process::{LAB, this_program},
    traces_of, up,
};
use crate::{
    cli::{Cli, Command, Files, LabCommand},
    lab::{
        command::{Planned, Wanted},
        dns,
        live::{
            network::LiveNetwork,
            wire::{Answer, Ask, Delete},
        },
        net::LabNet,
        selftest::{self, How},
        state,
        supervise::{Signals, exec},
    },
};
use clap::Parser;
use std::{
    env,
    ffi::OsString,
    fs,
    io::{Read, Write},
    net::{IpAddr, TcpStream, UdpSocket},
    path::Path,
    time::Duration,
};
use supernet::model::Name;

const COMMAND: &str = "SUPERNET_TEST_COMMAND";
const TARGET: &str = "SUPERNET_TEST_TARGET";
const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));

const SHOP: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: test}
spec:
  podCIDRs: [10.244.0.0/20, 'fd00:244::/48']
  serviceCIDRs: [10.96.0.0/16, 'fd00:96::/108']
  nodes: 1
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, namespace: shop}
spec:
  serviceName: webs
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: c, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: webs, namespace: shop}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: shop, labels: {app: curl}}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: on-node, namespace: shop}
spec: {hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet, containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: configured, namespace: shop}
spec: {dnsPolicy: None, dnsConfig: {nameservers: [10.1.1.1], searches: [example.org]}, containers: [{name: c, image: c}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: http}]}]}
";

/// Keeps shop/curl from everything but the web pods.
const DENIED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: curl, namespace: shop}
spec: {podSelector: {matchLabels: {app: curl}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}
";

/// Lets it ask for names besides.
const ALLOWED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: curl-dns, namespace: shop}
spec:
  podSelector: {matchLabels: {app: curl}}
  policyTypes: [Egress]
  egress:
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{port: 53, protocol: UDP}, {port: 53}]
";

struct Lab {
    name: String,
    live: LiveNetwork,
    hosts: LabNet,
}

impl Lab {
    fn start(test: &str, yaml: &str, wanted: &Wanted<'_>) -> Self {
        let name = lab_name(test);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shop.yaml");
        fs::write(&file, yaml).unwrap();
        let planned = Planned::of(&Files { files: vec![file] }, &name, wanted).unwrap();
        let mut hosts = up(&name, &planned.spec);
        let live = planned.run(&name, hosts.take_taps()).unwrap();
        Self { name, live, hosts }
    }

    fn ask(&mut self, ask: Ask) -> Result<Vec<String>, String> {
        match self.live.ask(ask, &mut self.hosts, &|| false) {
            Answer::Changes(changes) => {
                assert_eq!(changes.warnings, NOTHING);
                let one = |o: &crate::lab::live::change::ObjectChange| {
                    format!("{} {} {}", o.change, o.kind, o.name)
                };
                Ok(changes.objects.iter().map(one).collect())
            }
            Answer::Error(error) => Err(error),
            other => panic!("not asked for: {other:?}"),
        }
    }

    fn apply(&mut self, yaml: &str) -> Vec<String> {
        self.ask(apply(yaml, false, false)).unwrap()
    }

    /// A program in a host, as `lab exec` runs it: its exit status, and what it says.
    fn run(&self, host: &str, command: &str) -> (Option<i32>, String) {
        let mut program = this_program(module_path!(), "executed", &self.name);
        let output = program.env(TARGET, host).env(COMMAND, command).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
        // The test program has said that it runs one test.
        let said = said.lines().filter(|l| !l.is_empty() && !l.starts_with("running "));
        (output.status.code(), said.collect::<Vec<_>>().join("\n"))
    }

    /// The addresses that a host finds for a name, sorted; `None`: there is no such name.
    fn look_up(&self, host: &str, name: &str) -> Option<Vec<String>> {
        let (status, said) = self.run(host, &format!("getent ahosts {name}"));
        let mut found: Vec<String> =
            said.lines().map(|l| l.split_whitespace().next().unwrap().to_owned()).collect();
        found.sort();
        found.dedup();
        match status {
            Some(0) => Some(found),
            Some(2) => None,
            other => panic!("getent: {other:?} {said}"),
        }
    }

    fn addresses(&self, of: &str) -> Vec<String> {
        let (namespace, name) = of.split_once('/').unwrap();
        let (name, all) = (Name::new(namespace, name), self.live.network().addressing());
        let pod = all.pods.get(&name).map(|p| p.addresses.clone());
        let found = pod.or_else(|| all.cluster_ips.get(&name).cloned()).unwrap();
        let mut texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    }

    fn end(self) {
        let Self { name, live, hosts } = self;
        drop((live, hosts));
        assert_eq!(traces_of(&name), NOTHING);
    }
}

#[test]
#[ignore = "started by the others"]
fn executed() {
    let Ok(lab) = env::var(LAB) else { return };
    let (target, command) = (env::var(TARGET).unwrap(), env::var(COMMAND).unwrap());
    let words: Vec<OsString> = command.split(' ').map(OsString::from).collect();
    panic!("{}", exec(&lab, &target, &words).unwrap_err());
}

/// Asks over a datagram who answers.
fn who(server: IpAddr) -> Option<String> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.connect((server, 53)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let mut buffer = [0; 1500];
    for id in 0..4 {
        // A first datagram may be lost while a neighbour is looked for.
        let _ = socket.send(&dns::who(id));
        if let Ok(length) = socket.recv(&mut buffer) {
            return Some(String::from_utf8(dns::said(id, &buffer[..length])?).unwrap());
        }
    }
    None
}

#[test]
fn programs_find_services_and_pods_by_name() {
    if !as_root() {
        return;
    }
    let lab = Lab::start("names", SHOP, &Wanted::default());
    let host = "shop/curl";
    let web = lab.addresses("shop/web");
    assert_eq!(web.len(), 2);
    for name in
        ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local", "WEB.shop.svc.cluster.local."]
    {
        assert_eq!(lab.look_up(host, name).as_ref(), Some(&web), "{name}");
    }
    // Of the headless Service the primary family; a pod behind it by its own name.
    let both: Vec<String> = ["shop/web-0", "shop/web-1"].map(|pod| lab.addresses(pod)[0].clone()).to_vec();
    assert_eq!(lab.look_up(host, "webs"), Some(both.clone()));
    assert_eq!(lab.look_up(host, "web-1.webs"), Some(vec![both[1].clone()]));
    for name in ["nobody", "web.nowhere", "example.com", "web-2.webs", "cluster.local."] {
        assert_eq!(lab.look_up(host, name), None, "{name}");
    }
    let (status, said) = lab.run(host, &format!("getent hosts {}", web[0]));
    assert_eq!(status, Some(0));
    assert!(said.ends_with(" web.shop.svc.cluster.local"), "{said}");
    let (status, said) = lab.run("shop/on-node", "getent ahosts web");
    assert!(status == Some(0) && said.contains(&web[0]), "ClusterFirstWithHostNet: {said}");
    assert_eq!(
        lab.run("shop/configured", "cat /etc/resolv.conf").1,
        "search example.org\nnameserver 10.1.1.1"
    );
    // Whom nobody answers is told at once.
    for other in ["outside", "node/node-1"] {
        assert_eq!(lab.look_up(other, "web.shop.svc.cluster.local"), None, "{other}");
    }

    let (status, said) = lab.run(host, "curl -s -m 20 http://web/");
    match status {
        Some(0) => assert!(said.contains("pod: web-") && said.contains("namespace: shop"), "{said}"),
        _ => {
            assert!(env::var_os("CI").is_none(), "curl: {said}");
            let _ = writeln!(std::io::stderr(), "\n*** SKIPPED: curl is not installed ***\n");
        }
    }
    lab.end();
}

#[test]
fn policies_count_for_names_and_changes_do_at_once() {
    if !as_root() {
        return;
    }
    let mut lab = Lab::start("policy", SHOP, &Wanted::default());
    let servers = lab.addresses("kube-system/kube-dns");
    let servers: Vec<IpAddr> = servers.iter().map(|a| a.parse().unwrap()).collect();
    assert_eq!(servers, ["10.96.0.10", "fd00:96::a"].map(|a| a.parse::<IpAddr>().unwrap()));
    let name = lab.name.clone();
    let asks = move || -> Vec<bool> {
        servers.iter().map(|&server| inside(&name, "shop/curl", || who(server)).is_some()).collect()
    };
    assert_eq!(asks(), [true, true]);
    lab.apply(DENIED);
    assert_eq!(asks(), [false, false]);
    let fast = "env RES_OPTIONS=timeout:1 getent hosts web.shop.svc.cluster.local.";
    assert_eq!(lab.run("shop/curl", fast).0, Some(2));
    lab.apply(ALLOWED);
    assert_eq!(asks(), [true, true]);
    let web = lab.addresses("shop/web");
    assert_eq!(lab.look_up("shop/curl", "web"), Some(web));

    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: new, namespace: shop}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n";
    assert_eq!(lab.look_up("shop/curl", "new"), None);
    assert_eq!(lab.apply(service), ["added Service new"]);
    let address = lab.addresses("shop/new");
    assert_eq!(lab.look_up("shop/curl", "new"), Some(address));
    lab.ask(Ask::Delete(by_name("Service", "shop", "new"))).unwrap();
    assert_eq!(lab.look_up("shop/curl", "new"), None);
    // What a policy says of the DNS itself counts for everybody, also for the lab's own.
    let closed = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: kube-system}\nspec: {podSelector: {}}\n";
    assert_eq!(lab.apply(closed), ["added Namespace kube-system", "added NetworkPolicy closed"]);
    assert_eq!(asks(), [false, false]);
    lab.ask(Ask::Delete(by_name("Namespace", "", "kube-system"))).unwrap();
    assert_eq!(asks(), [true, true]);

    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: late, namespace: late}\nspec: {containers: []}\n";
    lab.apply(pod);
    assert_eq!(lab.look_up("late/late", "web.shop"), Some(lab.addresses("shop/web")));
    assert!(state::resolv_conf(&lab.name, "late/late").exists());
    lab.ask(Ask::Delete(by_name("Namespace", "", "late"))).unwrap();
    assert!(!state::resolv_conf(&lab.name, "late/late").exists());
    lab.end();
}

#[test]
fn connections_carry_several_queries_and_end_with_nonsense() {
    if !as_root() {
        return;
    }
    let lab = Lab::start("stream", SHOP, &Wanted::default());
    let connect = || {
        let stream = inside(&lab.name, "shop/curl", || TcpStream::connect("10.96.0.10:53").unwrap());
        stream.set_read_timeout(PATIENCE).unwrap();
        stream
    };
    let read = |stream: &mut TcpStream| {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message).unwrap();
        message
    };
    // In portions that end anywhere, and more at once than are read or answered in one go.
    for (count, portion) in [(200, 777), (4000, usize::MAX)] {
        let mut stream = connect();
        let sent: Vec<u8> = (0..count).flat_map(|id| dns::frame(&dns::who(id)).unwrap()).collect();
        sent.chunks(portion).for_each(|bytes| stream.write_all(bytes).unwrap());
        for id in 0..count {
            assert!(dns::said(id, &read(&mut stream)).is_some(), "{id}, in order");
        }
    }
    let mut waiting = connect();
    waiting.write_all(&[0]).unwrap();
    for nonsense in [&[0, 0][..], &[0, 3, 1, 2, 3], &dns::frame(&[0xff; 40]).unwrap()] {
        let mut stream = connect();
        stream.write_all(nonsense).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "it is closed");
    }
    // Others are none the worse for it.
    waiting.write_all(&dns::frame(&dns::who(5)).unwrap()[1..]).unwrap();
    assert!(dns::said(5, &read(&mut waiting)).is_some());
    lab.end();
}
