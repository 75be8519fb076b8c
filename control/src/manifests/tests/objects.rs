//! What well-formed objects are read as.

use super::{bad, good, pod, pod_names, warnings};
use crate::{
    manifests::read_objects,
    model::{
        DnsPolicy, IpFamily, Name, NetworkPolicy, Object, ObjectKind, Operator, Peer, PodDns, PolicyPort,
        PortMatch, Protocol, Requirement, Rule, Selector, ServiceKind, Snat, TargetPort,
    },
};
use std::net::IpAddr;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn policy(spec: &str) -> NetworkPolicy {
    let text = format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: n}}, spec: {spec}}}"
    );
    good(&text).model.policies.remove(&Name::new("n", "p")).unwrap()
}

#[test]
fn policy_types_and_rules_default_as_in_kubernetes() {
    let all = || Some(vec![Rule { peers: vec![], ports: vec![] }]);
    for (spec, ingress, egress) in [
        ("{}", Some(vec![]), None),
        ("{podSelector: null, ingress: null, egress: null, policyTypes: null}", Some(vec![]), None),
        ("{ingress: [], egress: [], policyTypes: []}", Some(vec![]), None),
        ("{egress: [{}]}", Some(vec![]), all()),
        ("{policyTypes: [Egress]}", None, Some(vec![])),
        ("{policyTypes: [Egress], ingress: [{}]}", None, Some(vec![])),
        ("{policyTypes: [Ingress], egress: [{}]}", Some(vec![]), None),
        (
            "{policyTypes: [Ingress, Egress], ingress: [{from: [], ports: null}], egress: []}",
            all(),
            Some(vec![]),
        ),
        ("{ingress: [null]}", all(), None),
    ] {
        let p = policy(spec);
        assert_eq!((p.ingress, p.egress), (ingress, egress), "{spec}");
        assert_eq!(p.pods, Selector::ALL);
    }
    let m = good(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  policyTypes: [Egress]\n  ingress: [{}]\n",
    );
    assert_eq!(
        warnings(&m),
        ["net.yaml:6:12: policyTypes does not list ingress, so these rules have no effect"]
    );
}

#[test]
fn policy_peers_and_ports() {
    let p = policy(
        "{podSelector: {matchLabels: {a: \"\", b: null}, matchExpressions: [{key: c, operator: NotIn, values: [x, y]}, \
         {key: d, operator: DoesNotExist}]}, ingress: [{from: [{podSelector: {}}, {namespaceSelector: {}}, \
         {ipBlock: {cidr: 10.1.2.3/8, except: [10.9.0.0/16]}}], ports: [{}, {port: 80}, {port: 80, endPort: 90, \
         protocol: UDP}, {port: http, protocol: SCTP}]}]}",
    );
    let requirement = |key: &str, operator| Requirement { key: key.into(), operator };
    assert_eq!(
        p.pods.requirements,
        [
            requirement("a", Operator::In(vec![String::new()])),
            requirement("b", Operator::In(vec![String::new()])),
            requirement("c", Operator::NotIn(vec!["x".into(), "y".into()])),
            requirement("d", Operator::DoesNotExist),
        ]
    );
    let rule = &p.ingress.unwrap()[0];
    assert_eq!(
        rule.peers,
        [
            Peer::Pods { namespaces: None, pods: Some(Selector::ALL) },
            Peer::Pods { namespaces: Some(Selector::ALL), pods: None },
            Peer::Block { cidr: "10.0.0.0/8".parse().unwrap(), except: vec!["10.9.0.0/16".parse().unwrap()] },
        ]
    );
    let port = |protocol, port| PolicyPort { protocol, port };
    assert_eq!(
        rule.ports,
        [
            port(Protocol::Tcp, PortMatch::All),
            port(Protocol::Tcp, PortMatch::number(80)),
            port(Protocol::Udp, PortMatch::Numbers { from: 80, to: 90 }),
            port(Protocol::Sctp, PortMatch::Named("http".into())),
        ]
    );
}

#[test]
fn namespaces_are_made_where_they_are_missing() {
    let m = good(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nspec: {}\n---\napiVersion: v1\nkind: Pod\n\
         metadata: {name: b}\nspec: {}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: lab, labels: {x: y}}\n",
    );
    let names: Vec<&String> = m.model.namespaces.keys().collect();
    assert_eq!(names, ["default", "lab", "shop"]);
    assert_eq!(m.model.namespaces["shop"].at.to_string(), "net.yaml:1:1");
    for (name, ns) in &m.model.namespaces {
        assert_eq!(ns.labels.get("kubernetes.io/metadata.name"), Some(name));
    }
    assert!(!m.supervisor_given);
}

#[test]
fn snat_of_a_namespace() {
    let snat = |annotations: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: a, annotations: {{{annotations}}}}}}}"
        );
        good(&text).model.namespaces["a"].snat.clone()
    };
    assert_eq!(snat(""), Snat::Pool);
    assert_eq!(snat("supernet.dev/snat: \"false\""), Snat::None);
    assert_eq!(snat("ncp/no_snat: \"true\""), Snat::None);
    let both = snat("supernet.dev/snat-ip: \"192.168.90.7, fd00::7\"");
    assert_eq!(both, Snat::Static(vec![ip("192.168.90.7").into(), ip("fd00::7").into()]));
    assert_eq!(snat("ncp/static_snat_ip: 192.168.90.7"), Snat::Static(vec![ip("192.168.90.7").into()]));
}

#[test]
fn the_mtu_of_a_namespace() {
    let text = |mtu: &str| {
        format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: a, annotations: {{supernet.dev/mtu: {mtu}}}}}}}"
        )
    };
    assert_eq!(good(&text("\"1400\"")).model.namespaces["a"].mtu, Some(1400));
    for (mtu, error) in [
        ("\"+1400\"", "`+1400` is no MTU"),
        ("\"1279\"", "`1279` is no MTU"),
        ("\"lots\"", "`lots` is no MTU"),
        ("1400", "in quotes"),
    ] {
        let errors = crate::manifests::read_str("net.yaml", &text(mtu)).unwrap_err().to_string();
        assert!(errors.contains(error), "{errors}");
    }
}

#[test]
fn a_pod_as_kubectl_prints_it() {
    let m = good(
        r#"
apiVersion: v1
kind: Pod
metadata:
  annotations: {cni.projectcalico.org/podIP: 10.244.1.5/32}
  creationTimestamp: "2026-01-01T00:00:00Z"
  deletionTimestamp: "2026-01-02T00:00:00Z"
  managedFields:
  - apiVersion: v1
    fieldsV1: {"f:metadata": {"f:labels": {".": {}}}}
  name: web
  namespace: shop
  resourceVersion: "12"
  uid: 0d8e
spec:
  containers:
  - name: web
    image: nginx
    ports: [{containerPort: 80, name: http, protocol: TCP}, {containerPort: 53, protocol: UDP}]
  - name: other
    ports: [{containerPort: 81, hostPort: 81}]
  initContainers:
  - name: proxy
    restartPolicy: Always
    ports: [{containerPort: 15001}]
  - name: setup
    ports: [{containerPort: 1}]
  nodeName: worker-1
status:
  conditions: [{type: PodScheduled, status: "True"}, {type: Ready, status: "False", lastProbeTime: null}]
  hostIP: 172.26.0.9
  hostIPs: [{ip: 172.26.0.9}]
  phase: Running
  podIP: 10.244.1.5
  podIPs: [{ip: 10.244.1.5}, {ip: "fd00::5"}]
  qosClass: BestEffort
"#,
    );
    let p = pod(&m, "shop", "web");
    assert_eq!(p.ports.iter().map(|p| p.port).collect::<Vec<_>>(), [80, 53, 81, 15001]);
    assert_eq!(p.addresses, [ip("10.244.1.5").into(), ip("fd00::5").into()]);
    assert_eq!(p.addresses[0].at.to_string(), "net.yaml:35:17");
    assert!(!p.ready && p.terminating && !p.host_network);
    // No Node was declared: the one that the pod names stands, with the address that the status knows.
    let node = &m.model.nodes["worker-1"];
    assert_eq!(node.addresses, [ip("172.26.0.9").into()]);
    let warnings = warnings(&m);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("hostPort of Pod shop/web (net.yaml:21:43)"), "{warnings:?}");
    assert!(
        warnings[1].contains("no Node is declared; the nodes are those that pods name: worker-1"),
        "{warnings:?}"
    );
}

#[test]
fn addresses_asked_for_and_ended_pods() {
    let one = |name: &str, annotation: &str, rest: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, annotations: {{{annotation}}}}}, {rest}}}\n---\n"
        )
    };
    let text = one("a", "supernet.dev/ip: \"10.0.0.9,fd00::9\"", "spec: {}, status: {podIP: 10.0.0.1}")
        + &one("b", "", "spec: {hostNetwork: true}, status: {podIP: 172.26.0.1, hostIP: 172.26.0.1}")
        + &one("c", "", "spec: {}, status: {phase: Succeeded, podIP: 10.0.0.1}")
        + &one("d", "", "spec: {}, status: {phase: Failed}")
        + &one("e", "", "spec: {nodeName: \"\"}, status: {phase: Pending, podIP: \"\"}");
    let m = good(&text);
    assert_eq!(pod_names(&m), ["default/a", "default/b", "default/e"]);
    assert_eq!(pod(&m, "default", "a").addresses, [ip("10.0.0.9").into(), ip("fd00::9").into()]);
    let b = pod(&m, "default", "b");
    assert!(b.host_network && b.addresses.is_empty());
    assert!(pod(&m, "default", "e").node.is_none());
    assert_eq!(warnings(&m), ["2 pods have ended and are left out: they have no network"]);
    assert!(m.model.nodes.is_empty());
}

#[test]
fn services() {
    let m = good(
        r#"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: p, labels: {app: web}}, spec: {}}
- apiVersion: v1
  kind: Service
  metadata: {name: web}
  spec:
    type: LoadBalancer
    loadBalancerIP: 192.168.80.9
    clusterIP: 10.96.0.9
    clusterIPs: [10.96.0.9]
    ipFamilies: [IPv4]
    ipFamilyPolicy: SingleStack
    selector: {app: web}
    sessionAffinity: ClientIP
    externalTrafficPolicy: Cluster
    ports:
    - {name: http, port: 80, targetPort: web, nodePort: 30080}
    - {name: dns, port: 53, protocol: UDP}
    - {name: alt, port: 81, targetPort: 8081}
- {apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, selector: {app: nobody}}}
- {apiVersion: v1, kind: Service, metadata: {name: away}, spec: {type: ExternalName, externalName: example.org}}
- {apiVersion: v1, kind: Service, metadata: {name: dual}, spec: {ipFamilyPolicy: PreferDualStack, ports: [{port: 1}]}}
- {apiVersion: v1, kind: Service, metadata: {name: six}, spec: {ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6],
   ports: [{port: 1}]}}
"#,
    );
    let get = |name: &str| &m.model.services[&Name::new("default", name)];
    let web = get("web");
    assert_eq!(web.kind, ServiceKind::LoadBalancer);
    assert_eq!(web.cluster_ips, [ip("10.96.0.9").into()]);
    assert_eq!(web.load_balancer_ip.as_ref().unwrap().at.to_string(), "net.yaml:11:21");
    assert_eq!(web.families, [IpFamily::V4]);
    assert!(web.client_affinity && !get("dual").client_affinity);
    let targets: Vec<&TargetPort> = web.ports.iter().map(|p| &p.target).collect();
    assert_eq!(
        targets,
        [&TargetPort::Name("web".into()), &TargetPort::Number(53), &TargetPort::Number(8081)]
    );
    assert_eq!(web.ports[1].protocol, Protocol::Udp);
    assert_eq!(get("headless").kind, ServiceKind::Headless);
    assert_eq!(get("away").kind, ServiceKind::ExternalName);
    assert_eq!(get("away").external_name.as_deref(), Some("example.org"));
    assert_eq!(web.external_name, None);
    assert_eq!(get("dual").families, [IpFamily::V4, IpFamily::V6]);
    assert!(get("dual").prefer_dual_stack && !get("six").prefer_dual_stack);
    assert_eq!(get("six").families, [IpFamily::V6, IpFamily::V4]);
    assert_eq!(
        warnings(&m),
        [
            "not enforced yet: nodePort of Service default/web (net.yaml:20:57)",
            "no pod matches the selector, so nobody serves: Service default/headless (net.yaml:23:3)",
        ]
    );
}

#[test]
fn endpoint_slices() {
    let m = good(
        r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSliceList
items:
- metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  ports: [{name: "", port: 8080, protocol: TCP}, {name: all, port: null}]
  endpoints:
  - addresses: [10.0.0.1, 10.0.0.2]
  - {addresses: [10.0.0.3], conditions: {ready: null, serving: null, terminating: null}}
  - {addresses: [10.0.0.4], conditions: {ready: false}}
  - {addresses: [10.0.0.5], conditions: {ready: false, serving: true, terminating: true}}
- metadata: {name: web-2, labels: {kubernetes.io/service-name: web}}
  addressType: FQDN
  endpoints: [{addresses: [example.org]}]
"#,
    );
    let slice = &m.model.endpoint_slices[&Name::new("default", "web-1")];
    let conditions: Vec<_> = slice.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
    assert_eq!(
        conditions,
        [(true, true, false), (true, true, false), (false, false, false), (false, true, true)]
    );
    assert_eq!(slice.ports.iter().map(|p| p.port).collect::<Vec<_>>(), [Some(8080), None]);
    assert_eq!((m.model.endpoint_slices.len(), slice.service.as_str()), (1, "web"));
    assert_eq!(
        warnings(&m),
        ["net.yaml:18:3: EndpointSlice default/web-2 holds names, not addresses; it is skipped"]
    );
}

#[test]
fn objects_for_a_change_may_refer_to_what_is_there() {
    let base = good(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}\n---\n\
         {apiVersion: v1, kind: Node, metadata: {name: big}}\n",
    );
    let text = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, labels: \
                {kubernetes.io/service-name: web}}, addressType: IPv4, endpoints: []}\n---\n\
                {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: big}}\n";
    let objects = read_objects("more.yaml", text, &base.model).unwrap().objects;
    let kinds: Vec<ObjectKind> = objects.iter().map(|o| o.id().kind).collect();
    assert_eq!(kinds, [ObjectKind::Pod, ObjectKind::EndpointSlice]);
    assert!(objects.iter().all(|o: &Object| o.at().file() == Some("more.yaml")));
    let wrong = read_objects("more.yaml", &text.replace("nodeName: big", "nodeName: bog"), &base.model);
    assert_eq!(
        wrong.unwrap_err().to_string(),
        "more.yaml:3:67: Pod default/p refers to node bog, which does not exist; did you mean big?"
    );
    assert!(bad(text).contains("Service default/web, which does not exist"));
}

#[test]
fn endpoints_are_worth_a_word_where_they_alone_say_who_serves() {
    let service = |name: &str, rest: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{port: 80}}]{rest}}}}}\n---\n"
        )
    };
    let endpoints = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Endpoints, metadata: {{name: {name}}}, subsets: [{{addresses: [{{ip: 10.0.0.9}}]}}]}}\n---\n"
        )
    };
    let text = [
        service("db", ""),
        service("web", ", selector: {app: web}"),
        service("sliced", ""),
        service("named", ", clusterIP: None"),
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, labels: \
         {kubernetes.io/service-name: sliced}}, addressType: IPv4, endpoints: []}\n---\n"
            .to_owned(),
        "{apiVersion: v1, kind: Pod, metadata: {name: w, labels: {app: web}}, spec: {}}\n---\n".to_owned(),
    ]
    .concat();
    let all: String = ["db", "web", "sliced", "named", "gone"].map(endpoints).concat();
    assert_eq!(
        warnings(&good(&format!("{text}{all}"))),
        [
            "skipped, as the network does not need them: 4 Endpoints",
            "net.yaml:13:1: Endpoints default/db are not enforced yet, so nobody serves Service default/db; use an \
             EndpointSlice with the label kubernetes.io/service-name: db",
        ]
    );
}

#[test]
fn a_service_keeps_the_external_address_of_its_status_if_the_pool_has_it() {
    let service = |name: &str, spec: &str, ips: &[&str]| {
        let ingress: Vec<String> = ips.iter().map(|ip| format!("{{ip: \"{ip}\", ipMode: VIP}}")).collect();
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}, ports: [{{port: 1}}]}},\n  \
             status: {{loadBalancer: {{ingress: [{}]}}}}}}\n",
            ingress.join(", ")
        )
    };
    let balancer = "type: LoadBalancer";
    let m = good(
        &[
            service("kept", balancer, &["192.168.80.7"]),
            service("same", balancer, &["192.168.80.7"]),
            service("away", balancer, &["203.0.113.7"]),
            service("six", "type: LoadBalancer, ipFamilies: [IPv6]", &["192.168.80.8"]),
            service("two", balancer, &["192.168.80.9", "192.168.80.10"]),
            service("spec", "type: LoadBalancer, loadBalancerIP: 192.168.80.11", &["192.168.80.12"]),
            service("none", "type: ClusterIP", &["192.168.80.13"]),
        ]
        .concat(),
    );
    let asked: Vec<String> = m
        .model
        .services
        .values()
        .filter_map(|s| Some(format!("{} {}", s.name.name, s.load_balancer_ip.as_ref()?.value)))
        .collect();
    assert_eq!(asked, ["kept 192.168.80.7", "spec 192.168.80.11", "two 192.168.80.9"]);
    let told: Vec<String> = warnings(&m).into_iter().filter(|w| w.contains("status")).collect();
    assert_eq!(
        told,
        [
            "net.yaml:6:42: 192.168.80.7 in the status of Service default/same is not kept: another virtual server has it",
            "net.yaml:9:42: 203.0.113.7 in the status of Service default/away is not kept: it lies in no ingress pool",
            "net.yaml:12:42: 192.168.80.8 in the status of Service default/six is not kept: the Service is not of its family",
            "net.yaml:15:77: 192.168.80.10 in the status of Service default/two is not kept: a Service can only ask for one",
        ]
    );
}

#[test]
fn what_pods_are_called_and_whom_they_ask() {
    let m = good(
        "
apiVersion: v1
kind: Pod
metadata: {name: own, namespace: shop}
spec:
  hostname: one
  subdomain: ones
  dnsPolicy: None
  dnsConfig:
    nameservers: [10.1.1.1, 'fd00::1']
    searches: [example.org, _tcp.example.org., .]
    options: [{name: ndots, value: '2'}, {name: edns0}]
  containers: [{name: c, image: c}]
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: shop}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: data
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {dnsPolicy: ClusterFirstWithHostNet, hostname: ignored, containers: [{name: c, image: c}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: run, namespace: jobs}
spec:
  completions: 1
  completionMode: Indexed
  template: {spec: {subdomain: runs, containers: [{name: c, image: c}]}}
---
apiVersion: v1
kind: Service
metadata: {name: listed, namespace: shop}
spec: {clusterIP: None}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: listed-1, namespace: shop, labels: {kubernetes.io/service-name: listed}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], hostname: first}, {addresses: [10.0.0.2]}]
",
    );
    let text = |s: &str| Some(s.to_owned());
    let own = PodDns {
        hostname: text("one"),
        subdomain: text("ones"),
        policy: DnsPolicy::None,
        nameservers: vec![ip("10.1.1.1"), ip("fd00::1")],
        searches: ["example.org", "_tcp.example.org.", "."].map(str::to_owned).to_vec(),
        options: vec![("ndots".to_owned(), text("2")), ("edns0".to_owned(), None)],
    };
    assert_eq!(pod(&m, "shop", "own").dns, own);
    assert_eq!(pod(&m, "shop", "plain").dns, PodDns::default());
    let db = &pod(&m, "shop", "db-1").dns;
    assert_eq!((&db.hostname, &db.subdomain), (&text("db-1"), &text("data")));
    assert_eq!(db.policy, DnsPolicy::ClusterFirstWithHostNet);
    let run = m.model.pods.values().find(|pod| pod.name.namespace == "jobs").unwrap();
    assert_eq!((&run.dns.hostname, &run.dns.subdomain), (&text("run-0"), &text("runs")));
    let slice = &m.model.endpoint_slices[&Name::new("shop", "listed-1")];
    let names: Vec<Option<&str>> = slice.endpoints.iter().map(|e| e.hostname.as_deref()).collect();
    assert_eq!(names, [Some("first"), None]);
}
