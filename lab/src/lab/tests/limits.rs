//! A lab in which one tenant floods, with real sockets.

use super::{NOTHING, as_root, get, inside, lab_name, traces_of, up};
use crate::lab::{
    live::{
        network::LiveNetwork,
        status::Status,
        wire::{Answer, Apply, Ask, File},
    },
    net::LabNet,
    spec::{LabSpec, Place},
};
use std::{
    collections::BTreeSet,
    net::{TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use supernet::{Supernet, manifests};

const SESSIONS: usize = 600;

const TENANTS: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: test}
spec:
  ingressPosture: allow
  nodes: 1
  limits:
    namespace: {connections: 200, halfOpen: 20}
---
apiVersion: v1
kind: Pod
metadata: {name: flood, namespace: bad}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: good}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: better}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 8080}]}]}
";

/// SYNs that nobody answers, and datagrams to many ports, until told to stop.
fn flood(stop: &AtomicBool) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut n = 0_u16;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..50 {
            n = n.wrapping_add(1);
            // What the network refuses is lost on its way; what the socket refuses is tried again.
            let _ = socket.send_to(b"x", ("203.0.113.10", n | 1));
        }
        let nobody = ([203, 0, 113, 200], 1024 + n % 50_000).into();
        let _ = TcpStream::connect_timeout(&nobody, Duration::from_millis(1));
    }
}

/// Has the flood end, be it by a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn status(live: &mut LiveNetwork, hosts: &mut LabNet) -> Status {
    match live.ask(Ask::Status, hosts, &|| false) {
        Answer::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tenant_that_floods_leaves_the_table_to_others() {
    if !as_root() {
        return;
    }
    let name = lab_name("limits");
    let model = manifests::read_str("tenants.yaml", TENANTS).unwrap().model;
    let net = Supernet::builder().workers(2).sessions(SESSIONS).frames(2048).build(model).unwrap();
    let spec = LabSpec::of(&net.model(), &net.snapshot(), &net.plan().unwrap().pods);
    let mut hosts = up(&name, &spec);
    for (place, tap) in hosts.take_taps() {
        match place {
            Place::Endpoint(name) => net.attach(&name, tap).unwrap(),
            Place::Uplink(name) => net.attach_uplink(&name, tap).unwrap(),
        }
    }
    let mut live = LiveNetwork::new(&name, net.spawn().unwrap(), spec, BTreeSet::new(), None);
    let addressing = live.network().addressing();
    let web = addressing.pods[&supernet::model::Name::new("better", "web")].addresses[0];

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        (0..3).for_each(|_| drop(scope.spawn(|| inside(&name, "bad/flood", || flood(&stop)))));
        // As soon as the flood is at its limits, others call.
        let of_bad = |status: &Status| {
            let of = status.limits.iter().find(|l| l.name == "namespace bad").unwrap();
            (of.connections, of.half_open, of.refused)
        };
        while of_bad(&status(&mut live, &mut hosts)).0 < 200 {
            thread::sleep(Duration::from_millis(5));
        }
        inside(&name, "good/client", || {
            for n in 0..100 {
                let (answer, _) = get(&format!("{web}:8080"));
                assert!(answer.contains("pod: web"), "{n}: {answer}");
            }
        });
        let seen = status(&mut live, &mut hosts);
        let (connections, half_open, refused) = of_bad(&seen);
        assert!(connections <= 200 && half_open <= 20 && refused > 0, "{seen:?}");
        let dropped = |reason: &str| seen.drops.iter().any(|d| d.reason == reason);
        assert!(dropped("NamespaceConnections") && !dropped("SessionTableFull"), "{:?}", seen.drops);
        let good = seen.limits.iter().find(|l| l.name == "namespace good").unwrap();
        assert_eq!((good.connections, good.refused), (100, 0), "who calls pays");

        // The limit is raised for one, while the flood goes on.
        let raised = "{apiVersion: v1, kind: Namespace, metadata: {name: bad, annotations: \
                      {supernet.dev/max-connections: \"300\"}}}";
        let files = vec![File { name: "raised.yaml".to_owned(), text: raised.to_owned() }];
        let ask = Ask::Apply(Apply { files, prune: false, no_serve: Vec::new(), dry_run: false });
        assert!(matches!(live.ask(ask, &mut hosts, &|| false), Answer::Changes(_)));
        while of_bad(&status(&mut live, &mut hosts)).0 < 300 {
            thread::sleep(Duration::from_millis(5));
        }
    });
    drop((live, hosts));
    assert_eq!(traces_of(&name), NOTHING);
}
