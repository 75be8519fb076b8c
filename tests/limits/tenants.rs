//! Limits as a user has them: from manifests, changed while connections live, seen in stats and traces.

use supernet::{
    Supernet,
    control::{analysis::trace::TraceReport, manifests::read_str},
    dataplane::{snapshot::PortRole, verdict::DropReason},
    model::Change,
    port,
};
use supernet_dataplane::{
    snapshot::GATEWAY_MAC,
    time::Instant,
    wire::{Mac, Proto},
};
use supernet_testkit::packet::Probe;

fn manifests(of_namespace: &str) -> String {
    let pod = |namespace: &str, name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{containers: [{{name: c, image: i}}]}}\n"
        )
    };
    format!(
        "apiVersion: supernet.dev/v1alpha1\nkind: Supervisor\nspec:\n  ingressPosture: allow\n  limits:\n    \
         pod: {{connections: 50}}\n    namespace: {{connections: 80}}\n---\napiVersion: v1\nkind: Namespace\n\
         metadata:\n  name: bad\n  annotations: {{supernet.dev/max-connections: \"{of_namespace}\"}}\n{}{}{}",
        pod("bad", "a"),
        pod("bad", "b"),
        pod("good", "c"),
    )
}

#[test]
fn a_tenant_is_held_to_what_its_manifests_say() {
    let model = |of_namespace| read_str("net.yaml", &manifests(of_namespace)).unwrap().model;
    let builder = Supernet::builder().sessions(150).frames(512).seed(7);
    let net = builder.build(model("60")).unwrap();
    let names = ["bad/a", "bad/b", "good/c"];
    let guests = names.map(|name| net.attach(name, port::memory(64)).unwrap());
    let (net, mut workers) = net.into_parts();
    let port = |n: usize| net.port_called(names[n]).unwrap();
    let address = |n: usize| match &port(n).role {
        PortRole::Endpoint(endpoint) => endpoint.addresses[0].to_string(),
        PortRole::Uplink(_) => unreachable!("a pod"),
    };
    let addresses: Vec<String> = (0..3).map(address).collect();
    let macs: Vec<Mac> = (0..3).map(|n| port(n).mac).collect();
    let now = Instant::from_secs(5);
    let mut call = |from: usize, to: usize, sport: u32| {
        let (src, dst) = (format!("{}:{sport}", addresses[from]), format!("{}:7", addresses[to]));
        let probe =
            Probe { src_mac: macs[from], dst_mac: GATEWAY_MAC, ..Probe::new(0, Proto::UDP, &src, &dst) };
        guests[from].send(&probe.frame()).unwrap();
        while workers[0].poll(now).frames > 0 {}
        let delivered = guests[to].recv().is_some();
        guests.iter().for_each(|guest| while guest.recv().is_some() {});
        delivered
    };
    let passed = |from: usize, to: usize, first: u32, call: &mut dyn FnMut(usize, usize, u32) -> bool| {
        (first..first + 200).filter(|sport| call(from, to, *sport)).count()
    };
    assert_eq!(passed(0, 2, 1000, &mut call), 50, "the Supervisor's limit of a pod");
    assert_eq!(passed(1, 2, 1000, &mut call), 10, "the namespace's own, of both pods together");
    assert_eq!(passed(2, 0, 1000, &mut call), 50, "others have theirs whole");
    let stats = net.stats();
    let has = |name: &str| {
        let quota = stats.quotas[name];
        (quota.usage.connections, quota.limits.connections.map_or(0, |n| n.get()), quota.usage.refused)
    };
    assert_eq!(has("bad/a"), (50, 50, 150));
    assert_eq!(has("bad/b"), (10, 50, 0));
    assert_eq!(has("namespace bad"), (60, 60, 190));
    assert_eq!(has("namespace good"), (50, 80, 0));
    assert_eq!(stats.drops[&DropReason::NamespaceConnections], 190);

    let trace = |text: &str| -> TraceReport { net.trace(&text.parse().unwrap()).unwrap() };
    let t = trace("bad/b -> good/c UDP 7");
    assert!(!t.delivered());
    assert_eq!(t.drop_reason.as_deref(), Some("NamespaceConnections"));
    assert_eq!(
        t.verdict,
        "UDP 7 from bad/b to good/c is dropped now: the namespace has as many connections as it may have."
    );
    let limits = t.steps.last().unwrap();
    assert_eq!((&*limits.stage, &*limits.at), ("limits", "bad/b"));
    assert_eq!(
        limits.did,
        "counts for bad/b (10 of 50 connections) and namespace bad (60 of 60 connections)"
    );
    assert_eq!(trace("bad/a -> good/c UDP 7").drop_reason.as_deref(), Some("PodConnections"));

    // A change of the namespace alone; what lives is kept, and counts.
    let namespace = |of_namespace| Change::upsert(model(of_namespace).namespaces["bad"].clone());
    net.apply(namespace("65")).unwrap();
    assert_eq!(passed(1, 2, 2000, &mut call), 5);
    net.apply(namespace("3")).unwrap();
    assert_eq!(passed(1, 2, 3000, &mut call), 0);
    assert_eq!(net.stats().quotas["namespace bad"].usage.connections, 65);
    assert!(call(1, 2, 2000), "a connection that lives");
    net.apply(namespace("unlimited")).unwrap();
    assert_eq!(passed(1, 2, 3000, &mut call), 35, "up to the pod's");
    assert!(!net.stats().quotas.contains_key("namespace bad"), "it has no limit");
    assert!(net.detach("bad/b"));
    assert_eq!(net.stats().quotas["bad/b"].usage.connections, 0);
}
