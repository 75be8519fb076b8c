//! Which names there are: the examples of the specification, in its order, and what it leaves to be decided.

use super::*;

/// Of the specification's examples; both families.
const SPEC: &str = "
apiVersion: supernet.dev/v1alpha1
kind: Supervisor
metadata: {name: test}
spec:
  podCIDRs: [10.244.0.0/20, 'fd00:244::/48']
  serviceCIDRs: [10.3.0.0/24, 'fd00:96::/108']
  nodes: 1
---
apiVersion: v1
kind: Service
metadata: {name: kubernetes, namespace: default}
spec:
  clusterIPs: [10.3.0.1, 'fd00:96::1']
  ipFamilyPolicy: RequireDualStack
  selector: {app: api}
  ports: [{name: https, port: 443}, {name: udp, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: default}
spec: {clusterIP: 10.3.0.2, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: default}
spec: {clusterIP: None, ipFamilyPolicy: PreferDualStack, selector: {app: pet}, ports: [{name: https, port: 443, targetPort: web}, {name: raw, port: 9}]}
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: default, labels: {app: pet}, annotations: {supernet.dev/ip: '10.244.0.5, fd00:244::5'}}
spec: {hostname: my-pet, subdomain: headless, containers: [{name: c, image: c, ports: [{name: web, containerPort: 8443}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two, namespace: default, labels: {app: pet}, annotations: {supernet.dev/ip: '10.244.0.6, fd00:244::6'}}
spec: {hostname: my-pet-2, subdomain: other, containers: [{name: c, image: c, ports: [{name: web, containerPort: 9443}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ill, namespace: default, labels: {app: pet}, annotations: {supernet.dev/ip: '10.244.0.7, fd00:244::7'}}
spec: {hostname: my-pet-3, subdomain: headless, containers: [{name: c, image: c}]}
status: {conditions: [{type: Ready, status: 'False'}]}
---
apiVersion: v1
kind: Service
metadata: {name: all, namespace: default}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: pet}, ports: [{port: 443}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: default}
spec: {clusterIP: None, selector: {app: nobody}, ports: [{name: https, port: 443}]}
---
apiVersion: v1
kind: Service
metadata: {name: foo, namespace: default}
spec: {type: ExternalName, externalName: www.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: near, namespace: default}
spec: {type: ExternalName, externalName: kubernetes.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: nowhere, namespace: default}
spec: {type: ExternalName, externalName: gone.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: circle, namespace: default}
spec: {type: ExternalName, externalName: circle.default.svc.cluster.local.}
---
apiVersion: v1
kind: Service
metadata: {name: listed, namespace: default}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: listed-1, namespace: default, labels: {kubernetes.io/service-name: listed}}
addressType: IPv4
endpoints:
- {addresses: [192.0.2.1], hostname: first}
- {addresses: [192.0.2.2], conditions: {ready: false}}
- {addresses: [192.0.2.3]}
ports: [{name: sql, port: 6432}]
---
apiVersion: v1
kind: Namespace
metadata: {name: empty}
";

#[test]
fn the_examples_of_the_specification() {
    let zone = Net::of(SPEC).zone();
    let found = |name: &str, rtype| records(&zone, name, rtype);
    // 2.2
    assert_eq!(found("dns-version.cluster.local", Rtype::TXT), ["dns-version.cluster.local TXT \"1.1.0\""]);
    // 2.3.1
    let kubernetes = "kubernetes.default.svc.cluster.local";
    assert_eq!(found(kubernetes, Rtype::A), [format!("{kubernetes} A 10.3.0.1")]);
    assert_eq!(found(kubernetes, Rtype::AAAA), [format!("{kubernetes} AAAA fd00:96::1")]);
    // 2.3.2
    let https = format!("_https._tcp.{kubernetes}");
    let said = ask(&zone, &https, Rtype::SRV);
    assert_eq!(said.answers, [format!("{https} SRV 10 100 443 {kubernetes}")]);
    let addresses = [format!("{kubernetes} A 10.3.0.1"), format!("{kubernetes} AAAA fd00:96::1")];
    assert_eq!(said.additional, addresses, "what it points to comes along");
    let udp = format!("_udp._udp.{kubernetes}");
    assert_eq!(found(&udp, Rtype::SRV), [format!("{udp} SRV 10 100 53 {kubernetes}")]);
    missing(&zone, &format!("_udp._tcp.{kubernetes}"));
    missing(&zone, "_tcp.plain.default.svc.cluster.local");
    // 2.3.3
    assert_eq!(
        found("1.0.3.10.in-addr.arpa", Rtype::PTR),
        [format!("1.0.3.10.in-addr.arpa PTR {kubernetes}.")]
    );
    let reverse = domain::base::Name::<Vec<u8>>::reverse_from_addr("fd00:96::1".parse().unwrap()).unwrap();
    assert_eq!(found(&reverse.to_string(), Rtype::PTR), [format!("{reverse} PTR {kubernetes}.")]);
    // 2.4.1
    let headless = "headless.default.svc.cluster.local";
    let both = [format!("{headless} A 10.244.0.5"), format!("{headless} A 10.244.0.6")];
    assert_eq!(found(headless, Rtype::A), both, "the ready ones");
    let both = [format!("{headless} AAAA fd00:244::5"), format!("{headless} AAAA fd00:244::6")];
    assert_eq!(found(headless, Rtype::AAAA), both);
    let pet = format!("my-pet.{headless}");
    assert_eq!(found(&pet, Rtype::A), [format!("{pet} A 10.244.0.5")]);
    assert_eq!(found(&pet, Rtype::AAAA), [format!("{pet} AAAA fd00:244::5")]);
    // 2.4.2: with the port that is listened on.
    let https = format!("_https._tcp.{headless}");
    let servers = |pairs: &[(&str, u16)]| {
        let text = |(host, port): &(&str, u16)| format!("{https} SRV 10 100 {port} {host}.{headless}");
        let mut all: Vec<String> = pairs.iter().map(text).collect();
        all.sort();
        all
    };
    let four = [("my-pet", 8443), ("fd00-244--6", 9443), ("10-244-0-6", 9443)];
    assert_eq!(
        found(&https, Rtype::SRV),
        servers(&four),
        "a hostname below another Service's name is not used"
    );
    // 2.4.3
    let five = "5.0.244.10.in-addr.arpa";
    let pointers = found(five, Rtype::PTR);
    assert_eq!(
        pointers,
        [format!("{five} PTR 10-244-0-5.all.default.svc.cluster.local."), format!("{five} PTR {pet}.")]
    );
    // 2.5
    let said = ask(&zone, "foo.default.svc.cluster.local", Rtype::CNAME);
    assert_eq!(said.answers, ["foo.default.svc.cluster.local CNAME www.example.com."]);
    // 2.6
    let pod = "10-244-0-5.default.pod.cluster.local";
    assert_eq!(found(pod, Rtype::A), [format!("{pod} A 10.244.0.5")]);
    no_data(&zone, pod, Rtype::AAAA);
    let pod = "fd00-244--5.default.pod.cluster.local";
    assert_eq!(found(pod, Rtype::AAAA), [format!("{pod} AAAA fd00:244::5")]);
}

#[test]
fn what_is_not_there_is_told_from_what_has_nothing() {
    let zone = Net::of(SPEC).zone();
    let names = [
        "gone.default.svc.cluster.local",
        "kubernetes.gone.svc.cluster.local",
        "gone.svc.cluster.local",
        "gone.cluster.local",
        // As the search list has it, from inside.
        "kubernetes.default.svc.cluster.local.default.svc.cluster.local",
        "example.com.svc.cluster.local",
        // Without ready endpoints.
        "nobody.default.svc.cluster.local",
        "_https._tcp.nobody.default.svc.cluster.local",
        "my-pet-3.headless.default.svc.cluster.local",
        "10-244-0-5.gone.pod.cluster.local",
        "10-244-0.default.pod.cluster.local",
        "10.244.0.5.default.pod.cluster.local",
        "x.10-244-0-5.default.pod.cluster.local",
        "10-244-0-5.kubernetes.default.svc.cluster.local",
        "9.0.3.10.in-addr.arpa",
        "x.1.0.3.10.in-addr.arpa",
    ];
    names.into_iter().for_each(|name| missing(&zone, name));
    let there = [
        "cluster.local",
        "svc.cluster.local",
        "default.svc.cluster.local",
        "empty.svc.cluster.local",
        "empty.pod.cluster.local",
        "_tcp.kubernetes.default.svc.cluster.local",
        "in-addr.arpa",
        "0.3.10.in-addr.arpa",
        "ip6.arpa",
        "dns-version.cluster.local",
    ];
    there.into_iter().for_each(|name| no_data(&zone, name, Rtype::A));
    no_data(&zone, "plain.default.svc.cluster.local", Rtype::AAAA);
    no_data(&zone, "kubernetes.default.svc.cluster.local", Rtype::MX);
    let said = ask(&zone, "gone.cluster.local", Rtype::A);
    let server = "kube-dns.kube-system.svc.cluster.local.";
    assert_eq!(
        said.authority,
        [format!("cluster.local SOA {server} hostmaster.cluster.local. 7 7200 1800 86400 5")]
    );
    let said = ask(&zone, "9.0.3.10.in-addr.arpa", Rtype::PTR);
    assert!(said.authority[0].starts_with("in-addr.arpa SOA "), "{said:?}");
    assert_eq!(records(&zone, "cluster.local", Rtype::NS), [format!("cluster.local NS {server}")]);
}

#[test]
fn there_is_no_world_beyond() {
    let zone = Net::of(SPEC).zone();
    for name in ["example.com", "local", "arpa", "xcluster.local", "com", "cluster.local.example.com"] {
        let said = ask(&zone, name, Rtype::A);
        assert_eq!((said.rcode, &*said.flags), (Rcode::NXDOMAIN, "rd"), "{name}");
        assert!(said.answers.is_empty() && said.authority.is_empty(), "nobody is said to be responsible");
    }
}

#[test]
fn aliases_are_followed() {
    let zone = Net::of(SPEC).zone();
    let near = "near.default.svc.cluster.local";
    let kubernetes = "kubernetes.default.svc.cluster.local";
    let alias = format!("{near} CNAME {kubernetes}.");
    assert_eq!(records(&zone, near, Rtype::A), [format!("{kubernetes} A 10.3.0.1"), alias.clone()]);
    assert_eq!(ask(&zone, near, Rtype::A).answers[0], alias, "first");
    assert_eq!(records(&zone, near, Rtype::CNAME)[..], [&*alias]);
    let said = ask(&zone, near, Rtype::MX);
    assert_eq!((said.rcode, said.answers), (Rcode::NOERROR, vec![alias]), "its target has none");
    assert!(said.authority[0].contains(" SOA "));
    let said = ask(&zone, "foo.default.svc.cluster.local", Rtype::A);
    assert_eq!((said.rcode, said.answers.len(), said.authority.len()), (Rcode::NXDOMAIN, 1, 0));
    let said = ask(&zone, "nowhere.default.svc.cluster.local", Rtype::A);
    assert_eq!((said.rcode, said.answers.len(), said.authority.len()), (Rcode::NXDOMAIN, 1, 1));
    let said = ask(&zone, "circle.default.svc.cluster.local", Rtype::A);
    assert_eq!(said.rcode, Rcode::SERVFAIL);
}

#[test]
fn what_is_not_ready_may_be_published_and_slices_are_read() {
    let zone = Net::of(SPEC).zone();
    let all = "all.default.svc.cluster.local";
    let three = ["5", "6", "7"].map(|n| format!("{all} A 10.244.0.{n}"));
    assert_eq!(records(&zone, all, Rtype::A), three);
    no_data(&zone, all, Rtype::AAAA);
    let listed = "listed.default.svc.cluster.local";
    assert_eq!(
        records(&zone, listed, Rtype::A),
        [format!("{listed} A 192.0.2.1"), format!("{listed} A 192.0.2.3")]
    );
    assert_eq!(
        records(&zone, &format!("_sql._tcp.{listed}"), Rtype::SRV),
        [
            format!("_sql._tcp.{listed} SRV 10 100 6432 192-0-2-3.{listed}"),
            format!("_sql._tcp.{listed} SRV 10 100 6432 first.{listed}"),
        ]
    );
}

#[test]
fn stateful_pods_have_their_names() {
    let zone = Net::of(
        "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: data
  replicas: 2
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: c}]}}
---
apiVersion: v1
kind: Service
metadata: {name: data, namespace: shop}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 5432}]}
",
    )
    .zone();
    for n in 0..2 {
        let name = format!("db-{n}.data.shop.svc.cluster.local");
        assert_eq!(records(&zone, &name, Rtype::A), [format!("{name} A 10.244.0.{}", n + 2)]);
    }
    missing(&zone, "db-2.data.shop.svc.cluster.local");
}
