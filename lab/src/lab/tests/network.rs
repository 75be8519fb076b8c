//! A lab on the real network: three replicas behind a LoadBalancer Service, a policy, and the world outside.

use super::{NOTHING, as_root, get, inside, lab_name, traces_of, up};
use crate::lab::{LabSpec, Place, WORLD};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant as Clock},
};
use supernet_control::{
    compile::compile,
    intern::Interner,
    ipam::{Ipam, Leases},
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
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 8080}]}]}
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

#[test]
fn a_service_is_reached_from_outside_and_from_pods() {
    if !as_root() {
        return;
    }
    let model = manifests::read_str("shop.yaml", SHOP).unwrap().model;
    let mut ipam = Ipam::new(Leases::memory());
    let proposal = ipam.plan(&model, UnixSeconds(0), &|_| false).unwrap();
    let addressing = ipam.commit(proposal).unwrap();
    let mut interner = Interner::default();
    let snapshot = compile(&model, &addressing, &mut interner).unwrap();
    let mut spec = LabSpec::of(&model, &snapshot);
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
            let vip = addressing.ingress[&Name::new("shop", "web")][0];
            let cluster_ip = addressing.cluster_ips[&Name::new("shop", "web")][0];
            let router = spec.outside.uplinks[0].addresses[0].addr();
            let egress = addressing.egress["office"][0];
            let client = addressing.pods[&Name::new("office", "client")].addresses[0];
            check(&lab, vip, cluster_ip, router, egress, client);
        }));
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    drop((dataplane, net));
    assert_eq!(traces_of(&lab), NOTHING);
}

fn check(lab: &str, vip: IpAddr, cluster_ip: IpAddr, router: IpAddr, egress: IpAddr, client: IpAddr) {
    let answered = |text: &str| text.lines().find_map(|l| l.strip_prefix("pod: ")).unwrap().to_owned();
    // The client's address is kept, and every replica has its share.
    let mut pods = BTreeSet::new();
    for _ in 0..40 {
        let (text, from) = inside(lab, "outside", || get(&format!("{vip}:80")));
        assert_eq!(from.ip(), router);
        assert!(text.contains(&format!("client: {from}\n")), "{text}");
        pods.insert(answered(&text));
    }
    assert_eq!(pods.len(), 3, "{pods:?}");

    let (text, from) = inside(lab, "office/client", || get(&format!("{cluster_ip}:80")));
    assert!(text.contains(&format!("client: {client}:{}\n", from.port())), "no SNAT inside: {text}");

    let (text, _) = inside(lab, "office/client", || get(&format!("{}:80", WORLD[0])));
    assert!(text.contains(&format!("client: {egress}:")), "the namespace's egress address: {text}");

    // No policy opens this pod, and by default nothing else does.
    let refused = inside(lab, "outside", || {
        std::net::TcpStream::connect_timeout(&(client, 22).into(), Duration::from_millis(500)).is_err()
    });
    assert!(refused);
}
