//! The lab's own DNS, and what manifests declare in its place.

use super::*;

/// A cluster's own, with two pods, one of which is a server of its own until then.
const OWN_SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {selector: {app: names}, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]}
";
const OWN_POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: names, namespace: kube-system, labels: {app: names}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 53, protocol: UDP}, {containerPort: 53}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: names, namespace: kube-system}
spec: {podSelector: {matchLabels: {app: names}}, ingress: [{}]}
";

#[test]
fn the_labs_own_dns_stays_and_gives_way_to_what_is_declared() {
    if !as_root() {
        return;
    }
    let mut lab = Lab::start("own", SHOP, &Wanted::default());
    let lab_name = lab.name.clone();
    let answers = |server: &str| {
        let said = inside(&lab_name, "shop/curl", || who(server.parse().unwrap()));
        said.map(|text| text.lines().next().unwrap().to_owned())
    };
    for (kind, namespace, name) in [
        ("Pod", "kube-system", "coredns"),
        ("Service", "kube-system", "kube-dns"),
        ("NetworkPolicy", "kube-system", "kube-dns"),
        ("Namespace", "", "kube-system"),
    ] {
        for ignore_not_found in [false, true] {
            let delete = Delete { ignore_not_found, ..by_name(kind, namespace, name) };
            let error = lab.ask(Ask::Delete(delete)).unwrap_err();
            assert!(error.contains("part of the lab's own DNS") && error.contains("--no-dns"), "{error}");
        }
    }
    assert_eq!(lab.ask(apply(SHOP, true, false)).unwrap(), NOTHING, "--prune leaves it");
    assert_eq!(answers("10.96.0.10").as_deref(), Some("pod: coredns"));

    // A pod that is a server of its own, until the Service makes it one of names.
    lab.apply(OWN_POD);
    let names = lab.addresses("kube-system/names")[0].clone();
    let echoed = inside(&lab.name, "shop/curl", || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((&*names, 53)).unwrap();
        socket.set_read_timeout(PATIENCE).unwrap();
        socket.send(b"hello").unwrap();
        let mut buffer = [0; 16];
        let length = socket.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    });
    assert_eq!(echoed, b"hello");
    assert_eq!(lab.apply(OWN_SERVICE), ["added Service kube-dns"]);
    assert_eq!(answers(&names).as_deref(), Some("pod: names"));
    assert_eq!(answers("10.96.0.10").as_deref(), Some("pod: names"), "the address stays");
    assert!(!Path::new("/run/netns").join(format!("{}.kube-system.coredns", lab.name)).exists());
    assert_eq!(lab.look_up("shop/curl", "web"), Some(lab.addresses("shop/web")));

    let answered = lab.ask(Ask::Delete(by_name("Service", "kube-system", "kube-dns"))).unwrap();
    assert_eq!(answered, ["removed Service kube-dns"]);
    assert_eq!(answers("10.96.0.10").as_deref(), Some("pod: coredns"), "what is missing comes back");
    assert_eq!(lab.look_up("shop/curl", "web"), Some(lab.addresses("shop/web")));
    lab.end();
}

#[test]
fn a_dns_that_has_to_move_moves() {
    if !as_root() {
        return;
    }
    let supervisor = |services: &str| {
        format!(
            "apiVersion: supernet.dev/v1alpha1\nkind: Supervisor\nmetadata: {{name: test}}\n\
             spec: {{serviceCIDRs: [{services}], nodes: 1}}\n"
        )
    };
    let pod =
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: curl, namespace: shop}\nspec: {containers: []}\n";
    let mut lab = Lab::start("moved", &(supervisor("10.96.0.0/16") + pod), &Wanted::default());
    let resolv = |lab: &Lab| lab.run("shop/curl", "cat /etc/resolv.conf").1;
    assert!(resolv(&lab).contains("nameserver 10.96.0.10\n"));
    lab.apply(&supervisor("10.97.0.0/16"));
    assert!(resolv(&lab).contains("nameserver 10.97.0."), "{}", resolv(&lab));
    let server = lab.addresses("kube-system/kube-dns")[0].parse().unwrap();
    assert!(inside(&lab.name, "shop/curl", || who(server)).is_some());
    lab.apply(&supervisor("10.97.0.0/16, 'fd00:97::/112'"));
    assert_eq!(lab.addresses("kube-system/kube-dns").len(), 2);
    lab.end();
}

#[test]
fn selftest_speaks_to_the_dns() {
    if !as_root() {
        return;
    }
    for (test, more) in [("selfdns", String::new()), ("selfown", format!("---{OWN_POD}---{OWN_SERVICE}"))] {
        let mut lab = Lab::start(test, &format!("{SHOP}---{DENIED}{more}"), &Wanted::default());
        let signals = Signals::catch().unwrap();
        let words = ["supernet", "lab", "selftest", "-f", "x", "--timeout", "500"];
        let Ok(Cli { command: Command::Lab(LabCommand::Selftest(args)) }) = Cli::try_parse_from(words) else {
            panic!("{words:?}")
        };
        let name = lab.name.clone();
        let mut ask = |ask| Ok(lab.live.ask(ask, &mut lab.hosts, &|| false));
        let report = selftest::test(&name, &How::of(&args), &mut ask, &signals).unwrap();
        let texts: Vec<&String> = report.differences.iter().map(|d| &d.text).collect();
        assert!(texts.is_empty(), "{texts:#?}");
        lab.end();
    }
}

#[test]
fn a_lab_without_names_has_nothing_of_it() {
    if !as_root() {
        return;
    }
    let lab = Lab::start("nodns", SHOP, &Wanted { dns: false, ..Wanted::default() });
    assert!(!lab.live.network().model().namespaces.contains_key("kube-system"));
    assert!(!Path::new("/run/supernet").join(&lab.name).join("resolv").exists());
    let system = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(lab.run("shop/curl", "cat /etc/resolv.conf").1, system.trim_end());
    lab.end();
}
