//! Flow logs as an embedder has them: names of pods, policies and servers, also of those that are gone; addresses before
//! and after translation; readers that are too slow. That each beginning has one end, and all is counted, is played in
//! `tests/sequences.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::{BTreeMap, HashMap},
    thread,
    time::{Duration as Time, Instant as Clock},
};
use supernet::{
    Flow, FlowLog, Flows, Handle, Instant, Supernet, Worker,
    flows::{Denied, Ended, Missed},
    manifests,
    model::{Change, Name, ObjectId, ObjectKind},
    port,
};
use supernet_dataplane::{
    port::memory::MemoryGuest,
    time::Duration,
    wire::{Proto, tcp_flags::*},
};
use supernet_testkit::packet::Probe;

const SHOP: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: test}
spec: {podCIDRs: [10.244.0.0/20], ingressPosture: allowCluster}
---
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: shop, labels: {app: curl}}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 5432}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-only, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
";

fn named(pod: &str) -> Name {
    let (namespace, name) = pod.split_once('/').unwrap();
    Name::new(namespace, name)
}

const PODS: [&str; 3] = ["shop/curl", "shop/db", "shop/web"];

/// The shop with its workers polled by hand, and a log of it.
struct Shop {
    net: Handle,
    workers: Vec<Worker>,
    guests: HashMap<&'static str, MemoryGuest>,
    now: Instant,
}

impl Shop {
    fn new() -> Self {
        let model = manifests::read_str("shop.yaml", SHOP).unwrap().model;
        let net = Supernet::builder().workers(2).sessions(256).frames(512).seed(1).build(model).unwrap();
        let (net, workers) = net.into_parts();
        let guests = PODS.map(|pod| (pod, net.attach(pod, port::memory(128)).unwrap()));
        let mut shop = Self { net, workers, guests: guests.into(), now: Instant::from_secs(1) };
        shop.poll();
        shop
    }

    fn log(&mut self, log: &FlowLog) -> Flows {
        let flows = self.net.flows(log);
        self.poll();
        assert_eq!(flows.begun(), self.workers.len() + 1);
        flows
    }

    fn address(&self, pod: &str) -> String {
        self.net.addressing().pods[&named(pod)].addresses[0].to_string()
    }

    fn poll(&mut self) {
        for _ in 0..4 {
            self.workers.iter_mut().for_each(|worker| _ = worker.poll(self.now));
        }
    }

    /// What arrives, and where.
    fn send(&mut self, pod: &str, probe: Probe) -> Option<(&'static str, Vec<u8>)> {
        let src_mac = self.net.port_called(pod).unwrap().mac;
        self.guests[pod].send(&Probe { src_mac, ..probe }.frame()).unwrap();
        self.poll();
        PODS.iter().find_map(|pod| Some((*pod, self.guests[pod].recv()?.to_vec())))
    }

    fn open(&mut self, proto: Proto, pod: &str, sport: u16, to: &str) -> Option<(&'static str, Vec<u8>)> {
        let from = format!("{}:{sport}", self.address(pod));
        self.send(pod, Probe::new(0, proto, &from, to))
    }

    /// Silence for so long, in small steps, so that the sweep comes by.
    fn silence(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now + Duration::from_secs(1);
            self.poll();
        }
    }
}

fn denied(flow: &Flow) -> &Denied {
    let Flow::Denied(denied) = flow else { panic!("{flow:?}") };
    denied
}

fn ended(flow: &Flow) -> &Ended {
    let Flow::Ended(ended) = flow else { panic!("{flow:?}") };
    ended
}

#[test]
fn a_connection_begins_and_ends_under_its_names() {
    let mut shop = Shop::new();
    let mut flows = shop.log(&FlowLog::default());
    let (pod, frame) = shop.open(Proto::TCP, "shop/curl", 4000, "10.96.0.10:80").unwrap();
    assert_eq!(pod, "shop/web");
    let begun = flows.drain();
    let [Flow::Started(start)] = &begun[..] else { panic!("{begun:?}") };
    let web = shop.address("shop/web");
    assert_eq!(start.source.name.as_deref(), Some("shop/curl"));
    assert_eq!((start.destination.name.as_deref(), start.destination.port), (None, 80));
    assert_eq!(start.destination.address.to_string(), "10.96.0.10");
    assert_eq!(start.reached().name.as_deref(), Some("shop/web"));
    assert_eq!((start.reached().address.to_string(), start.reached().port), (web, 8080));
    assert_eq!((start.translated_source.as_ref(), start.server.as_deref()), (None, Some("shop/web:80/TCP")));
    assert_eq!(start.ingress_rule.as_deref(), Some("posture allowCluster"));
    assert_eq!((start.time_micros, start.protocol.as_str()), (1_000_000, "TCP"));
    // A handshake, some data, and FIN from either side.
    let answer = |flags| Probe::answer(&frame, flags);
    let from = format!("{}:4000", shop.address("shop/curl"));
    let ours = |flags, payload| Probe { flags, payload, ..Probe::new(0, Proto::TCP, &from, "10.96.0.10:80") };
    shop.send("shop/web", answer(SYN | ACK)).unwrap();
    for (flags, payload) in [(ACK, 100), (ACK, 0)] {
        shop.send("shop/curl", ours(flags, payload)).unwrap();
    }
    shop.now = shop.now + Duration::from_secs(3);
    shop.send("shop/web", answer(FIN | ACK)).unwrap();
    shop.send("shop/curl", ours(FIN | ACK, 0)).unwrap();
    assert!(flows.drain().is_empty(), "its last packets may still come");
    shop.silence(60);
    let end = flows.drain();
    assert_eq!(end.len(), 1, "{end:?}");
    let end = ended(&end[0]);
    assert_eq!((end.reason.as_str(), &end.connection.id), ("closed", &start.id));
    assert_eq!((end.forward.packets, end.reverse.packets), (4, 2));
    assert!((2_900_000..3_100_000).contains(&end.duration_micros), "{end:?}");
    let all = shop.net.counters().connections;
    assert_eq!(end.forward.bytes + end.reverse.bytes, all.bytes);
    // All of it is one line of JSON, with what it is at the top.
    let json = serde_json::to_value(Flow::Ended(end.clone())).unwrap();
    assert_eq!(
        (&json["event"], &json["reason"], &json["source"]["name"]),
        (&"end".into(), &"closed".into(), &"shop/curl".into())
    );
    assert_eq!(serde_json::from_value::<Flow>(json).unwrap(), Flow::Ended(end.clone()));
}

#[test]
fn what_is_denied_is_told_once_with_the_policy() {
    let mut shop = Shop::new();
    let mut flows = shop.log(&FlowLog { denied: true, ..FlowLog::default() });
    let db = format!("{}:5432", shop.address("shop/db"));
    for _ in 0..5 {
        assert!(shop.open(Proto::TCP, "shop/curl", 41_000, &db).is_none());
    }
    assert!(shop.open(Proto::TCP, "shop/web", 4000, &db).is_some());
    let told = flows.drain();
    assert_eq!(told.len(), 1, "{told:?}");
    let Denied { connection, reason, lives, .. } = denied(&told[0]);
    assert_eq!((reason.as_str(), *lives), ("IngressDenied", false));
    assert_eq!(connection.ingress_rule.as_deref(), Some("shop/db-only isolation"));
    assert_eq!(connection.destination.name.as_deref(), Some("shop/db"));
    assert_eq!((flows.counts().recorded, flows.counts().repeated), (1, 4));
    // Not by a policy: nobody has it, and nobody listens.
    assert!(shop.open(Proto::UDP, "shop/curl", 41_000, "10.244.15.1:53").is_none());
    let _reset = shop.open(Proto::TCP, "shop/curl", 41_001, "10.96.0.10:81");
    let told = flows.drain();
    let reasons: Vec<&str> = told.iter().map(|flow| &*denied(flow).reason).collect();
    assert_eq!(reasons, ["NoEndpoint", "NoServer"], "{told:?}");
    // A segment of no connection, and an answer to nothing: nobody was kept from anything.
    let from = shop.address("shop/curl");
    let stray = Probe { flags: ACK, ..Probe::new(0, Proto::TCP, &format!("{from}:1"), &db) };
    assert!(shop.send("shop/curl", stray).is_none());
    assert!(flows.drain().is_empty());
    let rules: BTreeMap<String, _> = shop.net.rules().into_iter().map(|r| (r.name.to_string(), r)).collect();
    let isolation = &rules["shop/db-only isolation"];
    assert_eq!((isolation.traffic.denied, isolation.traffic.connections, isolation.sessions), (5, 0, 0));
    let allowed = &rules["shop/db-only ingress[0]"];
    assert_eq!((allowed.hits(), allowed.traffic.packets, allowed.sessions), (1, 1, 1));
}

/// A policy that comes cuts off who is in, and a pod that goes ends what it has; both keep their names.
#[test]
fn changes_of_the_network_are_told() {
    let mut shop = Shop::new();
    let mut flows = shop.log(&FlowLog::default());
    let web = format!("{}:8080", shop.address("shop/web"));
    shop.open(Proto::UDP, "shop/curl", 4000, &web).unwrap();
    let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}}
";
    let mut model = shop.net.model();
    let shut = manifests::read_str("shut.yaml", &[SHOP, policy].join("---")).unwrap().model;
    model.policies = shut.policies;
    shop.net.replace(model).unwrap();
    assert!(shop.open(Proto::UDP, "shop/curl", 4000, &web).is_none());
    let told = flows.drain();
    let Flow::Started(start) = &told[0] else { panic!("{told:?}") };
    let cut_off = denied(&told[1]);
    assert_eq!((told.len(), cut_off.lives, &cut_off.connection.id), (2, true, &start.id));
    assert_eq!(cut_off.connection.ingress_rule.as_deref(), Some("shop/shut isolation"));
    let rules = shop.net.rules();
    let isolation = rules.iter().find(|r| r.name.to_string() == "shop/shut isolation").unwrap();
    assert_eq!((isolation.sessions, isolation.traffic.denied), (1, 1));
    // Pod and policy go; the connection is told of by the names they had.
    let pod = ObjectId { kind: ObjectKind::Pod, name: Name::new("shop", "web") };
    let gone = ObjectId { kind: ObjectKind::NetworkPolicy, name: Name::new("shop", "shut") };
    shop.net.apply(Change { upsert: Vec::new(), delete: vec![pod, gone] }).unwrap();
    shop.silence(5);
    let told = flows.drain();
    assert_eq!(told.len(), 1, "{told:?}");
    let end = ended(&told[0]);
    assert_eq!((end.reason.as_str(), &end.connection.id), ("gone", &start.id));
    assert_eq!(end.connection.destination.name.as_deref(), Some("shop/web"));
    assert_eq!(end.connection.ingress_rule.as_deref(), Some("shop/shut isolation"));
    // What is detached ends at once, without a worker.
    let db = format!("{}:5432", shop.address("shop/db"));
    let policy = ObjectId { kind: ObjectKind::NetworkPolicy, name: Name::new("shop", "db-only") };
    shop.net.apply(Change { upsert: Vec::new(), delete: vec![policy] }).unwrap();
    shop.open(Proto::UDP, "shop/curl", 4001, &db).unwrap();
    shop.silence(1);
    assert!(shop.net.detach("shop/db"));
    let told = flows.drain();
    assert_eq!(ended(&told[1]).reason, "gone");
    assert!(
        told[1].connection().unwrap().time_micros >= 1_000_000 + told[0].connection().unwrap().time_micros
    );
}

/// Who reads too slowly misses some, and is told how many; the network goes on.
#[test]
fn a_slow_reader_is_told_what_it_missed() {
    let mut shop = Shop::new();
    let mut flows = shop.log(&FlowLog { records: 16, ..FlowLog::default() });
    let (web, db) = (shop.address("shop/web"), shop.address("shop/db"));
    for sport in 0..100 {
        assert!(shop.open(Proto::UDP, "shop/curl", 5000 + sport, &format!("{web}:8080")).is_some());
        assert!(shop.open(Proto::TCP, "shop/curl", 5000 + sport, &format!("{db}:5432")).is_none());
    }
    let told = flows.drain();
    let counts = flows.counts();
    let Some(Flow::Missed(missed)) = told.last() else { panic!("{told:?}") };
    let Missed { missed, missed_denied, .. } = *missed;
    assert_eq!((missed, missed_denied), (counts.missed, counts.missed_denied));
    assert!(missed > 50 && missed_denied > 50, "{counts:?}");
    assert_eq!(counts.recorded as usize, told.len() - 1);
    assert_eq!(counts.recorded + missed + missed_denied, 200);
    assert!(flows.drain().is_empty(), "and is told once");
    // It catches up.
    shop.open(Proto::UDP, "shop/curl", 6000, &format!("{web}:8080")).unwrap();
    assert_eq!(flows.drain().len(), 1);
    // Who has gone holds nothing up.
    drop(flows);
    shop.silence(1);
    shop.open(Proto::UDP, "shop/curl", 6001, &format!("{web}:8080")).unwrap();
}

/// A background thread reads while workers run: nothing is lost, in order, with the time of day.
#[test]
fn threads_are_read_while_they_run() {
    let model = manifests::read_str("shop.yaml", SHOP).unwrap().model;
    let net = Supernet::builder().workers(2).sessions(4096).frames(512).build(model).unwrap();
    let guests = PODS.map(|pod| net.attach(pod, port::memory(128)).unwrap());
    let address = |pod: &str| net.addressing().pods[&named(pod)].addresses[0];
    let (curl, web) = (address("shop/curl"), address("shop/web"));
    let src_mac = net.port_called("shop/curl").unwrap().mac;
    let net = net.spawn().unwrap();
    let mut flows = net.flows(&FlowLog::default());
    let deadline = Clock::now() + Time::from_secs(30);
    while flows.begun() < 3 {
        assert!(Clock::now() < deadline, "a worker did not begin");
        thread::sleep(Time::from_millis(1));
    }
    let reader = thread::spawn(move || {
        let mut told = Vec::new();
        while told.len() < 2000 && Clock::now() < deadline {
            told.extend(flows.next_within(Time::from_millis(100)));
        }
        told
    });
    for sport in 0..2000 {
        let probe = Probe {
            src_mac,
            ..Probe::new(0, Proto::UDP, &format!("{curl}:{}", 2000 + sport), &format!("{web}:8080"))
        };
        while guests[0].send(&probe.frame()).is_err() {
            thread::yield_now();
        }
        while guests[2].recv().is_some() {}
    }
    let told = reader.join().unwrap();
    assert_eq!(told.len(), 2000);
    let times: Vec<u64> = told.iter().map(|flow| flow.connection().unwrap().time_micros).collect();
    assert!(times.is_sorted());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64;
    assert!(times[0] < now + 1_000_000 && times[0] + 600_000_000 > now, "{} is not now", times[0]);
}

const ZONES: &str = "
apiVersion: supernet.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: zones}
spec:
  category: Environment
  rules:
  - {name: all, action: ALLOW, logLabel: zone}
";

fn labelled() -> (Shop, Flows, String) {
    let mut shop = Shop::new();
    shop.net.replace(manifests::read_str("shop.yaml", &[SHOP, ZONES].join("---")).unwrap().model).unwrap();
    let flows = shop.log(&FlowLog::default());
    let web = format!("{}:8080", shop.address("shop/web"));
    (shop, flows, web)
}

#[test]
fn a_rule_that_decides_at_both_ends_marks_a_record_once() {
    let (mut shop, mut flows, web) = labelled();
    shop.open(Proto::UDP, "shop/curl", 4000, &web).unwrap();
    let told = flows.drain();
    assert_eq!(told[0].connection().unwrap().labels, ["zone"]);
}

#[test]
fn labels_of_rules_that_are_gone_are_known_as_their_names_are() {
    let (mut shop, mut flows, web) = labelled();
    shop.open(Proto::UDP, "shop/curl", 4000, &web).unwrap();
    let gone = ObjectId { kind: ObjectKind::SecurityPolicy, name: Name::new("", "zones") };
    // Nobody has looked yet.
    shop.net.apply(Change { upsert: Vec::new(), delete: vec![gone] }).unwrap();
    let told = flows.drain();
    let start = told[0].connection().unwrap();
    assert_eq!(start.ingress_rule.as_deref(), Some("SecurityPolicy zones all"));
    assert_eq!(start.labels, ["zone"]);
}

#[test]
fn nothing_is_told_of_staged_policies_once_there_are_none() {
    let mut shop = Shop::new();
    let staged = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: shop, annotations: {supernet.dev/staged: 'true'}}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]}
";
    let replace = |shop: &Shop, policy: &str| {
        shop.net
            .replace(manifests::read_str("shop.yaml", &[SHOP, policy].join("---")).unwrap().model)
            .unwrap();
    };
    let told = |shop: &Shop| -> u64 {
        shop.net.rules().iter().map(|r| r.staged.would_deny + r.staged.would_allow).sum()
    };
    replace(&shop, staged);
    shop.poll();
    let web = format!("{}:8080", shop.address("shop/web"));
    shop.open(Proto::UDP, "shop/curl", 4000, &web).unwrap();
    assert_eq!(told(&shop), 1);
    // Now it is enforced: there is nothing left that would be otherwise.
    replace(&shop, &staged.replace("'true'", "'false'"));
    shop.poll();
    assert_eq!(told(&shop), 0);
}
