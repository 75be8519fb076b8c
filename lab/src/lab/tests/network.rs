//! A lab on the real network: three replicas behind a LoadBalancer Service, a policy, and the world outside,
//! which is reached by two uplinks in one prefix.

use super::{NOTHING, as_root, get, inside, lab_name, traces_of, up};
use crate::lab::{
    from_network::WORLD,
    spec::{LabSpec, Place},
};
use std::{
    collections::BTreeSet,
    io::Write,
    net::{IpAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant as Clock},
};
use supernet_control::{
    compile::compile,
    intern::Interner,
    ipam::{Addressing, Ipam, Leases},
    manifests,
    model::{Name, Protocol},
    store::UnixSeconds,
};
use supernet_dataplane::{
    state::Config,
    time::Instant,
    worker::{Dataplane, Worker},
};

const SHOP: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: edge}
spec:
  podCIDRs: [10.244.0.0/16, 'fd00:1::/48']
  uplinks:
  - {name: edge-a, addresses: [192.168.100.1/24, 'fd00:cafe:4::1/64']}
  - {name: edge-b, addresses: [192.168.100.2/24, 'fd00:cafe:4::2/64']}
  staticRoutes:
  - {prefix: 0.0.0.0/0, nextHops: [192.168.100.254]}
  - {prefix: '::/0', nextHops: ['fd00:cafe:4::fe']}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 8080}, {port: 8000}, {port: 5201}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: office}
spec: {containers: [{name: client, image: client, ports: [{containerPort: 22}]}]}
";

fn run(mut workers: Vec<Worker>, stop: &AtomicBool) {
    let began = Clock::now();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::from_micros(began.elapsed().as_micros() as u64);
        if workers.iter_mut().map(|w| w.poll(now).frames).sum::<usize>() == 0 {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// A program inside a host of the lab, ended when dropped.
struct Program(Child);

impl Program {
    /// `None`, said loudly, where it is not installed; a failure in CI.
    fn start(lab: &str, host: &str, command: &[&str]) -> Option<Self> {
        let start = || {
            let mut program = Command::new(command[0]);
            program.args(&command[1..]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
        };
        match inside(lab, host, start) {
            Ok(child) => Some(Self(child)),
            Err(e) => {
                assert!(std::env::var_os("CI").is_none(), "{}: {e}", command[0]);
                let _ = writeln!(std::io::stderr(), "\n*** SKIPPED: {} is not installed ***\n", command[0]);
                None
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something listens in `host` itself, without a frame on the network.
fn wait_for(lab: &str, host: &str, port: u16) {
    let deadline = Clock::now() + Duration::from_secs(10);
    while inside(lab, host, || TcpStream::connect(("127.0.0.1", port)).is_err()) {
        assert!(Clock::now() < deadline, "nothing listens on port {port} of {host}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// iperf3 from one host to an address of another: more than a trickle must come through.
fn throughput(lab: &str, server: &str, client: &str, address: IpAddr) {
    let Some(_server) = Program::start(lab, server, &["iperf3", "-s"]) else { return };
    wait_for(lab, server, 5201);
    let address = address.to_string();
    let run = || Command::new("iperf3").args(["-J", "-t", "1", "-c", &address]).output().unwrap();
    let deadline = Clock::now() + Duration::from_secs(20);
    loop {
        let output = inside(lab, client, run);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        // It was still busy with the connection that found it listening.
        if report["error"].as_str().is_some_and(|e| e.contains("busy")) && Clock::now() < deadline {
            thread::sleep(Duration::from_millis(100));
            continue;
        }
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        assert!(bits.is_some_and(|b| b > 1e7), "{client} to {server}: {bits:?} {}", report["error"]);
        return;
    }
}

#[test]
fn a_service_is_reached_from_outside_and_from_pods() {
    if !as_root() {
        return;
    }
    let model = manifests::read_str("shop.yaml", SHOP).unwrap().model;
    let mut ipam = Ipam::new(Leases::memory());
    let proposal = ipam.plan(&model, UnixSeconds(0), &BTreeSet::new()).unwrap();
    let addressing = ipam.commit(proposal).unwrap();
    let mut interner = Interner::default();
    let snapshot = compile(&model, &addressing, &mut interner).unwrap();
    let mut spec = LabSpec::of(&model, &snapshot, &[]);
    spec.outside.serve = vec![(Protocol::Tcp, 80)];

    let lab = lab_name("network");
    let mut net = up(&lab, &spec);
    let (dataplane, workers) = Dataplane::new(Config { workers: 2, ..Config::default() });
    dataplane.publish(snapshot);
    for (place, tap) in net.take_taps() {
        let port = match place {
            Place::Endpoint(name) => interner.port(&name),
            Place::Uplink(name) => interner.port(&format!("uplink/{name}")),
        };
        dataplane.attach(port, tap).unwrap();
    }
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        s.spawn(|| run(workers, &stop));
        // Also when a check fails, or the scope would wait for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check(&lab, &addressing);
            check_uplinks(&dataplane);
        }));
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    drop((dataplane, net));
    assert_eq!(traces_of(&lab), NOTHING);
}

/// Both uplinks had their share of what went out.
fn check_uplinks(dataplane: &Dataplane) {
    let (snapshot, counters) = (dataplane.snapshot(), dataplane.counters());
    let sent: Vec<u64> = snapshot.tier0.uplinks.iter().map(|id| counters.ports[id].sent).collect();
    assert!(sent.len() == 2 && sent.iter().all(|n| *n > 20), "{sent:?}");
}

fn check(lab: &str, addressing: &Addressing) {
    let vip = addressing.ingress[&Name::new("shop", "web")][0];
    let cluster_ip = addressing.cluster_ips[&Name::new("shop", "web")][0];
    let egress = addressing.egress["office"][0];
    let client = addressing.pods[&Name::new("office", "client")].addresses[0];
    let answered = |text: &str| text.lines().find_map(|l| l.strip_prefix("pod: ")).unwrap().to_owned();
    // The client's address is kept, and every replica has its share.
    let mut pods = BTreeSet::new();
    for _ in 0..40 {
        let (text, from) = inside(lab, "outside", || get(&format!("{vip}:80")));
        assert_eq!(from.ip(), WORLD[0], "the address that a trace gives the outside");
        assert!(text.contains(&format!("client: {from}\n")), "{text}");
        pods.insert(answered(&text));
    }
    assert_eq!(pods.len(), 3, "{pods:?}");
    let first = Name::new("shop", pods.first().unwrap());
    let [web, web_v6] = addressing.pods[&first].addresses[..] else { panic!("two families") };
    let (text, from) = inside(lab, "outside", || get(&format!("[{web_v6}]:8080")));
    assert_eq!(from.ip(), WORLD[1]);
    assert!(text.contains(&format!("client: {from}\n")), "{text}");

    let (text, from) = inside(lab, "office/client", || get(&format!("{cluster_ip}:80")));
    assert!(text.contains(&format!("client: {client}:{}\n", from.port())), "no SNAT inside: {text}");

    // Several connections, for each uplink to have some.
    for _ in 0..16 {
        let (text, _) = inside(lab, "office/client", || get(&format!("{}:80", WORLD[0])));
        assert!(text.contains(&format!("client: {egress}:")), "the namespace's egress address: {text}");
    }

    // No policy opens this pod, and by default nothing else does.
    let refused = inside(lab, "outside", || {
        TcpStream::connect_timeout(&(client, 22).into(), Duration::from_millis(500)).is_err()
    });
    assert!(refused);

    // Programs of one's own: an HTTP server in a pod, and throughput between pods and through SNAT.
    let real = format!("shop/{}", pods.first().unwrap());
    if let Some(_server) = Program::start(lab, &real, &["python3", "-m", "http.server", "8000"]) {
        wait_for(lab, &real, 8000);
        let (text, _) = inside(lab, "outside", || get(&format!("{web}:8000")));
        assert!(text.starts_with("HTTP/1.0 200 OK\r\n"), "{text}");
    }
    throughput(lab, &real, "office/client", web);
    throughput(lab, "outside", "office/client", WORLD[0]);
}
