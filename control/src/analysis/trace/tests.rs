//! Traces of a small shop, from manifest objects to sentences.

use super::{End, Probe, TraceError, TraceReport};
use crate::{
    compile,
    intern::Interner,
    ipam::{Ipam, Leases},
    model::{
        ContainerPort, IngressPosture, Labels, Limit, LimitSettings, Model, Name, Namespace, NetworkPolicy,
        Peer, Pod, PolicyPort, PortMatch, Position, Protocol, Rule, Selector, Service, ServiceKind,
        ServicePort, TargetPort,
    },
    store::UnixSeconds,
};
use supernet_dataplane::wire::Proto;

fn labels(app: &str) -> Labels {
    Labels::from([("app".to_owned(), app.to_owned())])
}

fn pod(namespace: &str, name: &str, app: &str) -> Pod {
    let port = ContainerPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 };
    Pod {
        labels: labels(app),
        ports: vec![port],
        owner: Some(format!("deployment/{app}")),
        ..Pod::new(Name::new(namespace, name))
    }
}

fn shop() -> Model {
    let mut model = Model::default();
    for pod in [pod("shop", "web-1", "web"), pod("shop", "web-2", "web"), pod("shop", "db-1", "db")] {
        model.insert(pod.into());
    }
    model.insert(pod("other", "curl", "curl").into());
    model.insert(
        Service {
            name: Name::new("shop", "web"),
            kind: ServiceKind::LoadBalancer,
            selector: Some(labels("web")),
            ports: vec![ServicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                target: TargetPort::Name("http".into()),
            }],
            cluster_ips: Vec::new(),
            load_balancer_ip: None,
            families: Vec::new(),
            prefer_dual_stack: false,
            publish_not_ready: false,
            external_name: None,
            client_affinity: false,
            at: Position::default(),
        }
        .into(),
    );
    model.insert(
        NetworkPolicy {
            name: Name::new("shop", "web"),
            pods: Selector::labels([("app", "web")]),
            ingress: Some(vec![Rule {
                peers: vec![
                    Peer::Pods {
                        namespaces: Some(Selector::ALL),
                        pods: Some(Selector::labels([("app", "curl")])),
                    },
                    Peer::Block { cidr: "203.0.113.0/24".parse().unwrap(), except: Vec::new() },
                ],
                ports: vec![PolicyPort { protocol: Protocol::Tcp, port: PortMatch::Named("http".into()) }],
            }]),
            egress: None,
            staged: false,
            at: Position::default(),
        }
        .into(),
    );
    model
}

fn trace(
    model: &Model,
    from: &str,
    to: &str,
    proto: Proto,
    port: Option<u16>,
) -> Result<TraceReport, TraceError> {
    let mut interner = Interner::default();
    let ipam = Ipam::new(Leases::memory());
    let proposal = ipam.plan(model, UnixSeconds(0), &std::collections::BTreeSet::new()).unwrap();
    let snapshot = compile::compile(model, proposal.addressing(), &mut interner).unwrap();
    let probe = Probe { from: from.parse()?, to: to.parse()?, proto, port };
    // Publishing fills in what look-ups need.
    let snapshot = snapshot.succeed(&Default::default());
    TraceReport::of(&probe, model, proposal.addressing(), &snapshot, &mut interner, 0, None)
}

fn tcp(from: &str, to: &str, port: u16) -> TraceReport {
    trace(&shop(), from, to, Proto::TCP, Some(port)).unwrap()
}

#[test]
fn a_service_from_an_allowed_pod() {
    let t = tcp("other/curl", "shop/svc/web", 80);
    assert!(t.delivered(), "{t}");
    let stages: Vec<&str> = t.steps.iter().map(|s| &*s.stage).collect();
    assert_eq!(stages, ["spoof-guard", "dlb", "dfw-egress", "router", "dfw-ingress", "deliver"]);
    assert!(t.verdict.ends_with("allowed by posture egress and shop/web ingress[0]."), "{}", t.verdict);
    assert_eq!(t.reply.last().unwrap().after, "10.96.0.1:80 > 10.244.0.2:49152 TCP");
}

#[test]
fn limits_are_told_where_there_are_some() {
    let mut model = shop();
    let at_most = |n| std::num::NonZeroU32::new(n).map(Limit::AtMost);
    model.supervisor.limits.pod = LimitSettings { connections: at_most(100), ..Default::default() };
    let namespace = model.namespaces.entry("other".into());
    let namespace = namespace.or_insert_with(|| Namespace::named("other", Position::default()));
    namespace.limits =
        LimitSettings { half_open: at_most(20), new_per_second: at_most(5), ..Default::default() };
    let said = |from: &str, to: &str, proto| {
        let t = trace(&model, from, to, proto, Some(80)).unwrap();
        assert!(t.delivered(), "{t}");
        let limits = t.steps.iter().find(|s| s.stage == "limits").map(|s| (s.at.clone(), s.did.clone()));
        let last = &t.steps.last().unwrap().stage;
        assert!(last == if to == "outside" { "tier-0" } else { "deliver" }, "{t}");
        limits
    };
    let (at, did) = said("other/curl", "shop/svc/web", Proto::TCP).unwrap();
    assert_eq!(at, "other/curl");
    assert_eq!(
        did,
        "counts for other/curl (at most 100 connections) and namespace other (at most 20 half open, at most 5 new a \
         second)"
    );
    let (at, did) = said("outside", "shop/svc/web", Proto::TCP).unwrap();
    assert!(
        at.starts_with("shop/web-") && did == format!("counts for {at} (at most 100 connections)"),
        "{did}"
    );
    assert!(said("other/curl", "outside", Proto::UDP).is_some());
    assert_eq!(said("node/node-1", "outside", Proto::UDP), None, "nodes count for nobody");
}

#[test]
fn denials_name_who_denies() {
    let t = tcp("shop/db", "shop/web", 8080);
    assert_eq!(
        t.verdict,
        "TCP 8080 from shop/db-1 to shop/web-1 is dropped in front of shop/web-1: shop/web isolates it, and no \
         rule allows this. shop/web ingress[0] would allow TCP 8080 if pod shop/db-1 had label app=curl."
    );
    assert_eq!(t.denied_by.unwrap().policy, "shop/web");
    let t = tcp("shop/web", "shop/db", 8080);
    assert!(
        t.verdict.contains("no NetworkPolicy selects it, and the Supervisor lets nothing in"),
        "{}",
        t.verdict
    );
    assert_eq!(t.drop_reason.as_deref(), Some("IngressDenied"));
}

#[test]
fn tiers_are_named_with_what_they_do() {
    let mut model = shop();
    let policies = "
apiVersion: supernet.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: zones}
spec:
  category: Environment
  rules:
  - {name: quarantine, action: DROP, direction: IN, sources: [{podSelector: {matchLabels: {app: db}}}]}
  - {name: web, action: REJECT, direction: OUT, sources: [{podSelector: {matchLabels: {app: web}}}]}
  - {name: rest, action: JUMP_TO_APPLICATION}
";
    let read = crate::manifests::read_str("zones.yaml", policies).unwrap().model;
    read.tiered_policies.into_values().for_each(|policy| model.insert(policy.into()));
    let verdict = |from: &str, to: &str, proto, port| trace(&model, from, to, proto, port).unwrap().verdict;
    assert_eq!(
        verdict("shop/db", "shop/web", Proto::TCP, Some(8080)),
        "TCP 8080 from shop/db-1 to shop/web-1 is dropped in front of shop/web-1: denied by Environment rule \
         quarantine (SecurityPolicy zones). shop/web ingress[0] would allow TCP 8080 if pod shop/db-1 had label \
         app=curl."
    );
    assert_eq!(
        verdict("shop/web", "outside", Proto::TCP, Some(443)),
        "TCP 443 from shop/web-1 to outside is rejected where it leaves shop/web-1: rejected by Environment rule web \
         (SecurityPolicy zones); its sender gets a reset. That rule would have to be changed: behind it \
         posture egress would allow this."
    );
    let ping = verdict("shop/web", "outside", Proto::ICMP, None);
    assert!(ping.contains("; its sender is told that it is administratively prohibited (ICMP). "), "{ping}");
    let passed = trace(&model, "other/curl", "shop/web", Proto::TCP, Some(8080)).unwrap();
    assert!(passed.delivered(), "{passed}");
    let said = "Environment rule rest (SecurityPolicy zones) passes it on; shop/web ingress[0] allows it";
    assert!(passed.steps.iter().any(|step| step.did == said), "{passed}");
    let told = &passed.explanations;
    assert_eq!(
        told.iter().map(|e| (e.direction, &*e.at)).collect::<Vec<_>>(),
        [("egress", "other/curl"), ("ingress", "shop/web-1")]
    );
    assert_eq!(told[1].rule.tier, "NetworkPolicy");
}

#[test]
fn outside_in_and_out() {
    let t = tcp("outside", "shop/svc/web", 80);
    assert!(t.delivered(), "{t}");
    assert!(t.steps.iter().any(|s| s.stage == "vip"), "{t}");
    assert!(t.steps.last().unwrap().after.starts_with("203.0.113.10:49152"), "the client is kept: {t}");
    let t = tcp("shop/db", "198.51.100.1", 443);
    assert!(t.verdict.contains("seen there as 192.168.90.2"), "{}", t.verdict);
    assert!(tcp("shop/db", "shop/svc/web", 81).verdict.contains("is refused"));
    let icmp = trace(&shop(), "shop/db", "10.244.0.17", Proto::ICMP, None).unwrap();
    assert!(icmp.delivered(), "{icmp}");
}

#[test]
fn a_service_whose_members_do_not_fare_alike() {
    let mut model = shop();
    model.policies.get_mut(&Name::new("shop", "web")).unwrap().pods = Selector { requirements: Vec::new() };
    let mut open = pod("shop", "web-3", "web");
    open.labels.insert("open".into(), "yes".into());
    model.insert(open.into());
    let policy = |name: &str, pods| NetworkPolicy {
        name: Name::new("shop", name),
        pods,
        ingress: Some(vec![Rule { peers: Vec::new(), ports: Vec::new() }]),
        egress: None,
        staged: false,
        at: Position::default(),
    };
    model.insert(policy("open", Selector::labels([("open", "yes")])).into());
    let t = trace(&model, "shop/db", "shop/svc/web", Proto::TCP, Some(80)).unwrap();
    let members = t.members.unwrap();
    assert_eq!((members.active, members.reached), (3, 1));
    assert!(t.verdict.ends_with("Only 1 of the 3 members can be reached."), "{}", t.verdict);
}

#[test]
fn an_address_outside_is_outside() {
    let t = tcp("198.51.100.9", "shop/svc/web", 80);
    assert!(t.packet.contains("192.168.80."), "the VIP: {}", t.packet);
    let t = tcp("198.51.100.9", "10.96.0.1", 80);
    assert!(t.verdict.ends_with("is dropped: a ClusterIP has no meaning outside."), "{}", t.verdict);
}

#[test]
fn a_posture_that_allows() {
    let mut model = shop();
    model.supervisor.ingress_posture = IngressPosture::AllowNamespace;
    assert!(trace(&model, "shop/web", "shop/db", Proto::TCP, Some(1)).unwrap().delivered());
    assert!(!trace(&model, "other/curl", "shop/db", Proto::TCP, Some(1)).unwrap().delivered());
}

#[test]
fn names_that_stand_for_nothing() {
    let fails = |from: &str, to: &str| trace(&shop(), from, to, Proto::TCP, Some(1)).unwrap_err().to_string();
    assert_eq!(fails("shop/nobody", "outside"), "there is no pod shop/nobody; there are shop/db, shop/web");
    assert_eq!(
        fails("shop/we", "outside"),
        "shop/we stands for several pods: shop/web-1, shop/web-2; name one of them"
    );
    assert_eq!(
        fails("shop/svc/web", "outside"),
        "a packet cannot start at a Service; name one of the pods of shop/web"
    );
    let mut model = shop();
    model.supervisor.uplinks.clear();
    model.supervisor.static_routes.clear();
    let error = trace(&model, "shop/db", "outside", Proto::TCP, Some(1)).unwrap_err().to_string();
    assert_eq!(
        error,
        "203.0.113.10 is outside and no uplink leads there; give the Supervisor an uplink and a route"
    );
    assert!(tcp("node/node-3", "shop/web-1", 8080).delivered(), "its own node reaches a pod");
    assert!(fails("a/b/c/d", "outside").contains("is no end of a packet"));
    assert_eq!(fails("web", "outside"), "there is no pod default/web; there are shop/web");
    assert!(fails("shop/db", "10.96.0.4/32").contains("is no end of a packet"));
    assert_eq!(fails("shop/db", "shop/svc/x"), "there is no Service shop/x; there are shop/web");
    assert!(matches!("10.0.0.1".parse(), Ok(End::Address(_))));
}
