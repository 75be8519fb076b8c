//! Labs that are changed while traffic runs through them.

use super::{NOTHING, as_root, get, inside, lab_name, sleep_in, traces_of, unlocked, up};
use crate::lab::{
    live::{
        change::Changes,
        network::LiveNetwork,
        wire::{Answer, Apply, Ask, Delete, File, Target},
    },
    net::LabNet,
    netns,
    spec::{LabSpec, Place},
    supervise::Supervised,
};
use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};
use supernet::{Running, Supernet, manifests, model::Name, port};
use supernet_dataplane::id::PortId;

const SHOP: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: test}
spec: {podCIDRs: [10.244.0.0/20, 'fd00:244::/48'], ingressPosture: allowCluster, nodes: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {containers: [{name: c, image: c}]}
";

pub(super) const CURL: &str = "
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: tools}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 9000}]}]}
";

/// Isolates shop/web but for what the streams of the tests use.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 5001}, {port: 5002, protocol: UDP}]}]}
";

pub(super) const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: front, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: front}}
  template:
    metadata: {labels: {app: front}}
    spec: {containers: [{name: c, image: c, ports: [{containerPort: 8080}]}]}
";

pub(super) fn network(
    lab: &str,
) -> (LabSpec, impl FnOnce(Vec<(Place, supernet_drivers::tap::Tap)>) -> LiveNetwork + use<'_>) {
    let model = manifests::read_str("shop.yaml", SHOP).unwrap().model;
    let net = Supernet::builder().workers(2).sessions(1024).frames(2048).build(model).unwrap();
    let spec = LabSpec::of(&net.model(), &net.snapshot(), &net.plan().unwrap().pods);
    let hosts = spec.clone();
    (spec, move |taps| {
        for (place, tap) in taps {
            match place {
                Place::Endpoint(name) => net.attach(&name, tap).unwrap(),
                Place::Uplink(name) => net.attach_uplink(&name, tap).unwrap(),
            }
        }
        LiveNetwork::new(lab, net.spawn().unwrap(), hosts, BTreeSet::new(), None)
    })
}

/// A lab of this process.
struct Lab {
    name: String,
    live: LiveNetwork,
    hosts: LabNet,
}

impl Lab {
    fn start(test: &str) -> Self {
        let name = lab_name(test);
        let (spec, attach) = network(&name);
        let mut hosts = up(&name, &spec);
        let live = attach(hosts.take_taps());
        Self { name: name.clone(), live, hosts }
    }

    fn net(&self) -> &Running {
        self.live.network()
    }

    fn try_ask(&mut self, ask: Ask) -> Result<Changes, String> {
        match self.live.ask(ask, &mut self.hosts, &|| false) {
            Answer::Changes(changes) => Ok(changes),
            Answer::Error(error) => Err(error),
            other => panic!("not asked for: {other:?}"),
        }
    }

    fn apply(&mut self, text: &str) -> Result<Vec<String>, String> {
        self.try_ask(apply(text, false, false)).map(|changes| short(&changes))
    }

    fn delete(&mut self, text: &str) -> Result<Vec<String>, String> {
        let delete = Delete { files: vec![file(text)], ..by_name("", "", "") };
        self.try_ask(Ask::Delete(Delete { objects: Vec::new(), ..delete })).map(|changes| short(&changes))
    }

    fn address(&self, pod: &str) -> IpAddr {
        let (namespace, name) = pod.split_once('/').unwrap();
        self.net().addressing().pods[&Name::new(namespace, name)].addresses[0]
    }

    fn has(&self, host: &str) -> bool {
        netns::path(&netns::name(&self.name, host)).exists()
    }

    fn end(self) {
        let Self { name, live, hosts } = self;
        drop((live, hosts));
        assert_eq!(traces_of(&name), NOTHING);
    }
}

fn file(text: &str) -> File {
    File { name: "change.yaml".to_owned(), text: text.to_owned() }
}

pub(super) fn apply(text: &str, prune: bool, dry_run: bool) -> Ask {
    Ask::Apply(Apply { files: vec![file(text)], prune, no_serve: Vec::new(), dry_run })
}

pub(super) fn by_name(kind: &str, namespace: &str, name: &str) -> Delete {
    let (kind, namespace, name) = (kind.to_owned(), namespace.to_owned(), name.to_owned());
    let objects = vec![Target { kind, namespace, name }];
    Delete { files: Vec::new(), objects, ignore_not_found: false, dry_run: false }
}

fn short(changes: &Changes) -> Vec<String> {
    assert_eq!(changes.warnings, NOTHING);
    let one = |o: &crate::lab::live::change::ObjectChange| {
        format!("{} {} {}/{}", o.change, o.kind, o.namespace.as_deref().unwrap_or_default(), o.name)
    };
    changes.objects.iter().map(one).collect()
}

/// A TCP stream (IPv4) and a stream of numbered datagrams (IPv6) from shop/client to shop/web, checked until they are ended.
fn under_traffic(lab: &mut Lab, change: impl FnOnce(&mut Lab, &dyn Fn())) {
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));
    let name = lab.name.clone();
    let [web, web_v6] = lab.net().addressing().pods[&Name::new("shop", "web")].addresses[..] else {
        panic!()
    };
    let listener = inside(&name, "shop/web", || TcpListener::bind((web, 5001)).unwrap());
    let sink = inside(&name, "shop/web", || UdpSocket::bind((web_v6, 5002)).unwrap());
    let (source, mut out) = inside(&name, "shop/client", || {
        let source = UdpSocket::bind("[::]:0").unwrap();
        source.connect((web_v6, 5002)).unwrap();
        (source, TcpStream::connect_timeout(&(web, 5001).into(), Duration::from_secs(5)).unwrap())
    });
    let (mut into, _) = listener.accept().unwrap();
    sink.set_read_timeout(PATIENCE).unwrap();
    into.set_read_timeout(PATIENCE).unwrap();
    out.set_read_timeout(PATIENCE).unwrap();
    let (stop, rounds, datagrams) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|s| {
        s.spawn(|| {
            // The other side closes when it has enough.
            let mut number = [0; 8];
            while into.read_exact(&mut number).is_ok() {
                into.write_all(&number).unwrap();
            }
        });
        s.spawn(|| {
            let mut n = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                out.write_all(&n.to_be_bytes()).unwrap();
                let mut back = [0; 8];
                out.read_exact(&mut back).unwrap();
                assert_eq!(u64::from_be_bytes(back), n);
                n += 1;
                rounds.store(n, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
            drop(out);
        });
        s.spawn(|| {
            let mut n = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                source.send(&n.to_be_bytes()).unwrap();
                n += 1;
                thread::sleep(Duration::from_millis(2));
            }
            source.send(&u64::MAX.to_be_bytes()).unwrap();
        });
        s.spawn(|| {
            loop {
                let mut number = [0; 8];
                sink.recv(&mut number).unwrap();
                match u64::from_be_bytes(number) {
                    u64::MAX => return,
                    n => assert_eq!(n, datagrams.fetch_add(1, Ordering::Relaxed), "a datagram was lost"),
                }
            }
        });
        // A while of traffic that goes on.
        let pass = || {
            let before = (rounds.load(Ordering::Relaxed), datagrams.load(Ordering::Relaxed));
            let deadline = Instant::now() + Duration::from_secs(10);
            while rounds.load(Ordering::Relaxed) < before.0 + 20
                || datagrams.load(Ordering::Relaxed) < before.1 + 20
            {
                assert!(Instant::now() < deadline, "the streams stand still");
                thread::sleep(Duration::from_millis(5));
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pass();
            change(lab, &pass);
            pass();
        }));
        // Also when a check fails, or the scope would wait for ever.
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
}

#[test]
fn pods_and_policies_come_and_go_under_traffic_and_nothing_is_lost() {
    if !as_root() {
        return;
    }
    let mut lab = Lab::start("live");
    let web = lab.address("shop/web");
    under_traffic(&mut lab, |lab, pass| {
        for round in 0..3 {
            let both = format!("{CURL}---{POLICY}");
            let namespace = if round == 0 { &["added Namespace /tools"][..] } else { &[] };
            let expected = [namespace, &["added Pod tools/curl", "added NetworkPolicy shop/web"]].concat();
            assert_eq!(lab.apply(&both).unwrap(), expected);
            pass();
            // The new pod is served, has a way to others, and the policy counts for it.
            let (name, curl) = (lab.name.clone(), lab.address("tools/curl"));
            let (text, _) = inside(&name, "shop/client", || get(&format!("{curl}:9000")));
            assert!(text.contains("pod: curl\nnamespace: tools\n"), "{text}");
            let web = (web, 8080).into();
            let reaches = |host: &str| {
                inside(&name, host, || TcpStream::connect_timeout(&web, Duration::from_millis(300)).is_ok())
            };
            assert!(!reaches("tools/curl"), "isolated");
            assert_eq!(lab.delete(POLICY).unwrap(), ["removed NetworkPolicy shop/web"]);
            assert!(reaches("tools/curl"), "open again");
            pass();
            let mut child = sleep_in(&netns::name(&name, "tools/curl"));
            assert_eq!(lab.delete(CURL).unwrap(), ["removed Pod tools/curl"]);
            assert!(!super::is_running(&mut child), "its processes go with it");
            assert!(!lab.has("tools/curl"));
            pass();
        }
    });
    assert_eq!(lab.address("shop/web"), web);
    lab.end();
}

#[test]
fn a_workload_keeps_the_pods_it_still_has() {
    if !as_root() {
        return;
    }
    let mut lab = Lab::start("workload");
    assert_eq!(lab.apply(DEPLOYMENT).unwrap().len(), 2);
    let pods = |lab: &Lab| lab.net().addressing().pods.clone();
    let two = pods(&lab);
    let fewer = lab.apply(&DEPLOYMENT.replace("replicas: 2", "replicas: 1")).unwrap();
    assert!(fewer.len() == 1 && fewer[0].starts_with("removed Pod shop/front-"), "{fewer:?}");
    assert!(pods(&lab).iter().all(|(name, has)| two[name] == *has));
    let more = lab.apply(&DEPLOYMENT.replace("replicas: 2", "replicas: 3")).unwrap();
    assert!(more.len() == 2 && more.iter().all(|l| l.starts_with("added Pod shop/front-")), "{more:?}");
    assert!(two.iter().all(|(name, had)| pods(&lab)[name] == *had), "the second has its address back");

    // Another port of every pod is another template, hence other pods.
    let other = lab.apply(&DEPLOYMENT.replace("8080", "8081")).unwrap();
    assert_eq!(other.iter().filter(|l| l.starts_with("removed")).count(), 3, "{other:?}");
    assert_eq!(other.iter().filter(|l| l.starts_with("added")).count(), 2, "{other:?}");

    // A pod keeps its namespace when its ports change.
    let pod = SHOP.split("---").nth(1).unwrap();
    assert_eq!(lab.apply(&pod.replace("8080", "8082")).unwrap(), ["changed Pod shop/web"]);
    let (name, web) = (lab.name.clone(), lab.address("shop/web"));
    assert!(inside(&name, "shop/client", || get(&format!("{web}:8082"))).0.contains("pod: web\n"));
    assert!(inside(&name, "shop/client", || TcpStream::connect((web, 8080)).is_err()), "refused");

    let gone = lab.try_ask(Ask::Delete(by_name("Deployment", "shop", "front"))).unwrap();
    assert_eq!(short(&gone).len(), 2);
    let error = lab.try_ask(Ask::Delete(by_name("Deployment", "shop", "front"))).unwrap_err();
    assert!(
        error.contains("deployment/front in namespace shop") && error.contains("--ignore-not-found"),
        "{error}"
    );

    // The files are the whole; a namespace goes with all in it; the Supervisor stays.
    assert_eq!(lab.apply(CURL).unwrap().len(), 2);
    let whole = lab.try_ask(apply(CURL, true, false)).unwrap();
    assert_eq!(short(&whole), ["removed Namespace /shop", "removed Pod shop/client", "removed Pod shop/web"]);
    let rest = lab.try_ask(Ask::Delete(by_name("Namespace", "", "tools"))).unwrap();
    assert_eq!(short(&rest), ["removed Namespace /tools", "removed Pod tools/curl"]);
    assert_eq!(lab.net().model().supervisor.name, "test");
    lab.end();
}

#[test]
fn a_dry_run_and_what_is_refused_change_nothing() {
    if !as_root() {
        return;
    }
    let mut lab = Lab::start("refused");
    let state = format!("/run/supernet/{}/state.json", lab.name);
    let before = (lab.net().model(), lab.net().addressing(), fs::read(&state).unwrap(), traces_of(&lab.name));
    let generation = lab.net().snapshot().generation;

    let would = lab.try_ask(apply(CURL, false, true)).unwrap();
    assert!(would.dry_run && !would.objects[1].addresses.is_empty(), "{would:?}");
    assert_eq!(short(&would), ["added Namespace /tools", "added Pod tools/curl"]);

    let supervisor = SHOP.split("---").next().unwrap();
    let uplink = "uplinks: [{name: other, addresses: [192.168.100.1/24]}], ingressPosture";
    let on_one = "uplinks: [{name: uplink-1, addresses: [192.168.100.1/24, 'fd00:cafe:4::1/64'], interface: eth7}], ingressPosture";
    let cases = [
        (supervisor.replace("ingressPosture", uplink), "change.yaml:2:1: uplink uplink-1 would be gone"),
        (supervisor.replace("ingressPosture", on_one), "uplink-1 would be on another interface"),
        (
            supervisor.replace("ingressPosture", "strictTCP: true, ingressPosture"),
            "change.yaml:2:1: strictTCP is decided",
        ),
        (supervisor.replace("ingressPosture", "mtu: 9000, ingressPosture"), "would have an MTU of 9000"),
        (
            supervisor.replace("10.244.0.0/20", "10.99.0.0/20"),
            "of podCIDRs 10.244.0.0/20, which would be gone",
        ),
        (CURL.replace("kind: Pod", "kind: Podd"), "change.yaml:"),
        (format!("{CURL}\n---\n{CURL}"), "change.yaml:9:1: "),
        (
            CURL.replace("{name: curl,", "{name: curl, annotations: {supernet.dev/ip: 10.244.0.2},"),
            "10.244.0.2",
        ),
    ];
    for (text, said) in cases {
        let error = lab.apply(&text).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
    let error = lab.delete(CURL).unwrap_err();
    assert!(error.contains("Pod tools/curl"), "{error}");

    // A name that is taken, and a port that can't be attached.
    let foreign = netns::name(&lab.name, "tools/curl");
    netns::create(std::slice::from_ref(&foreign), &unlocked()).unwrap();
    let error = lab.apply(CURL).unwrap_err();
    assert!(
        error.contains("exists and is not of this lab") && error.ends_with("; the lab is as it was"),
        "{error}"
    );
    netns::remove(&foreign).unwrap();
    lab.apply(CURL).unwrap();
    let id = lab.net().port_called("tools/curl").unwrap().id;
    lab.try_ask(Ask::Delete(by_name("Namespace", "", "tools"))).unwrap();
    let _guest = lab.net().dataplane().attach(id, port::memory(4)).unwrap();
    let other = CURL.replace("name: curl", "name: aaa");
    let error = lab.apply(&format!("{other}---{CURL}")).unwrap_err();
    assert!(error.starts_with("cannot attach tools/curl: the port is attached already"), "{error}");
    assert!(!lab.net().dataplane().is_attached(PortId(id.0 + 1)), "what was attached before it is let go");

    let after = (lab.net().model(), lab.net().addressing(), fs::read(&state).unwrap(), traces_of(&lab.name));
    assert!(before.0 == after.0 && before.1 == after.1 && before.3 == after.3);
    assert_eq!(String::from_utf8(before.2).unwrap(), String::from_utf8(after.2).unwrap());
    assert!(lab.net().snapshot().generation.0 > generation.0, "the change that was taken back");
    lab.net().dataplane().release(id);
    lab.apply(&format!("{other}---{CURL}")).unwrap();
    lab.end();
}

#[test]
fn more_pools_and_another_posture_are_taken() {
    if !as_root() {
        return;
    }
    let mut lab = Lab::start("pools");
    let supervisor = SHOP.split("---").next().unwrap();
    let wider = supervisor
        .replace("[10.244.0.0/20,", "[10.244.0.0/20, 10.77.0.0/20,")
        .replace("allowCluster", "deny");
    assert_eq!(lab.apply(&wider).unwrap(), ["changed Supervisor /test"]);
    let (name, web) = (lab.name.clone(), lab.address("shop/web"));
    let routes = inside(&name, "outside", || {
        String::from_utf8(std::process::Command::new("ip").arg("route").output().unwrap().stdout).unwrap()
    });
    assert!(routes.contains("10.77.0.0/20 via 192.168.100.1"), "the outside knows the way: {routes}");
    let open = |name: &str| {
        inside(name, "shop/client", || {
            TcpStream::connect_timeout(&(web, 8080).into(), Duration::from_millis(300)).is_ok()
        })
    };
    assert!(!open(&name));
    assert_eq!(lab.apply(supervisor).unwrap(), ["changed Supervisor /test"]);
    assert!(open(&name));

    // A smaller MTU, at every host and on both sides of the uplink.
    lab.apply(&supervisor.replace("ingressPosture", "mtu: 1400, ingressPosture")).unwrap();
    for (host, device) in [("shop/web", "eth0"), ("node/node-1", "eth0"), ("outside", "up0")] {
        let link = inside(&name, host, || {
            let output = std::process::Command::new("ip").args(["link", "show", "dev", device]).output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        });
        assert!(link.contains(" mtu 1400 "), "{host}: {link}");
    }
    assert!(open(&name));
    lab.end();
}

#[test]
fn ports_on_a_node_go_from_pod_to_pod_and_ports_of_one_s_own_are_left_alone() {
    if !as_root() {
        return;
    }
    let mut lab = Lab::start("handed");
    let agent = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: shop}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {hostNetwork: true, containers: [{name: c, image: c, ports: [{containerPort: 9100}]}]}
";
    let name = lab.name.clone();
    let answered = |what: &str| {
        let (text, _) = inside(&name, "node/node-1", || get("127.0.0.1:9100"));
        text.lines().find_map(|l| l.strip_prefix("pod: ")).map(str::to_owned).expect(what)
    };
    lab.apply(agent).unwrap();
    let first = answered("the first");
    let changes =
        lab.apply(&agent.replace("labels: {app: agent}}\n", "labels: {app: agent, v: b}}\n")).unwrap();
    assert_eq!(changes.len(), 2, "another template, another pod: {changes:?}");
    assert_ne!(answered("its successor"), first);
    lab.try_ask(Ask::Delete(by_name("DaemonSet", "shop", "agent"))).unwrap();
    assert!(inside(&name, "node/node-1", || TcpStream::connect("127.0.0.1:9100").is_err()));

    let own = |text: &str| {
        let no_serve = vec!["tools/curl".to_owned()];
        Ask::Apply(Apply { files: vec![file(text)], prune: false, no_serve, dry_run: false })
    };
    lab.try_ask(own(CURL)).unwrap();
    let bind = || inside(&name, "tools/curl", || TcpListener::bind("0.0.0.0:9000").map(drop));
    bind().unwrap();
    lab.apply(&CURL.replace("9000}", "9000}, {containerPort: 9001}")).unwrap();
    bind().expect("it stays so");
    lab.try_ask(Ask::Delete(by_name("Pod", "tools", "curl"))).unwrap();
    assert!(lab.try_ask(own(SHOP)).unwrap_err().contains("nothing in lab"), "it is not there");
    lab.end();
}

#[test]
fn the_status_tells_what_runs() {
    if !as_root() {
        return;
    }
    let mut lab = Lab::start("status");
    let (name, web) = (lab.name.clone(), lab.address("shop/web"));
    lab.live.tick();
    inside(&name, "shop/client", || get(&format!("{web}:8080")));
    thread::sleep(Duration::from_millis(50));
    lab.live.tick();
    let Answer::Status(status) = lab.live.ask(Ask::Status, &mut lab.hosts, &|| false) else { panic!() };
    assert_eq!((&*status.lab, status.pid, status.workers), (&*name, std::process::id(), 2));
    let hosts: Vec<&str> = status.hosts.iter().map(|h| &*h.name).collect();
    assert_eq!(hosts, ["shop/client", "shop/web", "node/node-1"]);
    assert!(status.hosts.iter().all(|h| h.attached));
    let port = |name: &str| status.ports.iter().find(|p| p.name == name).unwrap();
    let client = port("shop/client");
    assert!(
        client.input.packets >= 4 && client.input.bytes > 200 && client.input.packets_per_second > 1.0,
        "{client:?}"
    );
    assert!(port("shop/web").output.packets >= 4 && port("uplink/uplink-1").attached);
    assert_eq!(status.sessions.kinds[0].protocol, "TCP");
    assert_eq!(status.frames.all, 2048);
    lab.end();
}
