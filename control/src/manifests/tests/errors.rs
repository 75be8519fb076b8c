//! Exact words and places of errors.

use super::{bad, good, warnings};
use crate::manifests::{Reader, read};

/// Asserts the error of a text, and that there is no other.
#[track_caller]
fn says(text: &str, error: &str) {
    assert_eq!(bad(text), error, "for:\n{text}");
}

const HEAD: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n";
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n";

#[test]
fn documents_and_headers() {
    says(
        "- a\n",
        "net.yaml:1:1: expected a map, found a list; write `key: value` lines, indented below the field",
    );
    says("kind: Pod\nmetadata: {name: a}\n", "net.yaml:1:1: a Kubernetes object needs `apiVersion`; add it");
    says(
        "apiVersion: extensions/v1beta1\nkind: Deployment\n",
        "net.yaml:1:13: Deployment is read as apiVersion apps/v1, not extensions/v1beta1; change apiVersion, and \
         the fields that differ",
    );
    says("apiVersion: v1\nkind: Servcie\n", "net.yaml:2:7: unknown kind `Servcie`; did you mean `Service`?");
    let slip = bad("apiVersion: app/v1\nkind: Deployment\n");
    assert!(slip.contains("Deployment is read as apiVersion apps/v1, not app/v1;"), "{slip}");
    says(
        "apiVersion: supernet.dev/v1alpha1\nkind: Zone\n",
        "net.yaml:2:7: unknown kind `Zone` of supernet.dev; use Supervisor, SecurityPolicy or AddressSet",
    );
    says(
        "a: [1\n",
        "net.yaml:1:4: not valid YAML: unclosed bracket '['; check indentation, colons and quotes here and just above",
    );
    says(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  name: b\nspec: {}\n",
        "net.yaml:5:3: `name` is already given at net.yaml:4:3; remove one of them",
    );
    let template = bad("apiVersion: v1\nkind: Pod\nmetadata: {name: {{ .Values.name }}}\nspec: {}\n");
    assert!(template.contains("it looks like a template: render it first"), "{template}");
}

#[test]
fn metadata() {
    says("apiVersion: v1\nkind: Pod\nspec: {}\n", "net.yaml:1:1: a Pod needs `metadata`; add it");
    says(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  generateName: a-\nspec: {}\n",
        "net.yaml:4:17: generateName gives a new name every time; write metadata.name, so that the same text gives \
         the same network",
    );
    says(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: Web\nspec: {}\n",
        "net.yaml:4:9: `Web` cannot be a name; use lower-case letters, digits, - and ., with a letter or digit at \
         both ends",
    );
    says(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels: {version: 1.0, -x: y}\n",
        "net.yaml:5:21: expected text, found the number 1.0; put the value in quotes\n\
         net.yaml:5:26: `-x` cannot be the key of a label; use letters, digits, -, _ and ., with a letter or digit at \
         both ends",
    );
    says(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {supernet.dev/snat: maybe}}\n",
        "net.yaml:3:54: `maybe` is not known here; use true, false, True or False",
    );
    says(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {ncp/static_snat_ip: 1.2.3, \
         ncp/no_snat: \"true\"}}\n",
        "net.yaml:3:55: `1.2.3` is not an IP address; write one like 10.0.0.7 or fd00::7\n\
         net.yaml:3:55: a SNAT address for a namespace without SNAT; keep one of the annotations",
    );
}

#[test]
fn unknown_annotations_of_our_own() {
    let on = |kind: &str, annotation: &str| {
        format!(
            "{{apiVersion: v1, kind: {kind}, metadata: {{name: a, annotations: {{{annotation}: x}}}}, spec: {{}}}}"
        )
    };
    let check = |kind: &str, annotation: &str, error: &str| {
        let column =
            format!("{{apiVersion: v1, kind: {kind}, metadata: {{name: a, annotations: {{").len() + 1;
        says(
            &on(kind, annotation),
            &format!("net.yaml:1:{column}: unknown annotation `{annotation}` on {error}"),
        );
    };
    check("Namespace", "supernet.dev/snatip", "a Namespace; did you mean `supernet.dev/snat-ip`?");
    check(
        "Namespace",
        "supernet.dev/egress",
        "a Namespace; use supernet.dev/max-connections, supernet.dev/max-half-open, supernet.dev/max-new-per-second, \
         supernet.dev/mtu, supernet.dev/snat or supernet.dev/snat-ip, or remove it",
    );
    check("Namespace", "supernet.dev/ip", "a Namespace; it belongs on a Pod, a pod template or a Node");
    check("Pod", "supernet.dev/ips", "a Pod; did you mean `supernet.dev/ip`?");
    check("Pod", "supernet.dev/snat-ip", "a Pod; it belongs on a Namespace");
    let service = bad(&on("Service", "supernet.dev/vip"));
    assert!(service.contains("unknown annotation `supernet.dev/vip` on a Service; remove it"), "{service}");
    says(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {a: b}}\n  \
         template: {metadata: {labels: {a: b}, annotations: {supernet.dev/IP: 10.0.0.1}}, spec: {}}\n",
        "net.yaml:6:55: unknown annotation `supernet.dev/IP` on a pod template; did you mean `supernet.dev/ip`?",
    );
    good(&on("Pod", "example.com/supernet.dev"));
}

#[test]
fn unknown_fields() {
    let check = |text: &str, error: &str| says(text, &format!("net.yaml:{error}"));
    check(
        &format!("{POD}spec: {{}}\nlabels: {{}}\n"),
        "5:1: unknown field `labels` in a Pod; it belongs below `metadata`",
    );
    check(
        &format!("{POD}spec:\n  containers:\n  - port: []\n"),
        "6:5: unknown field `port` in a container; did you mean `ports`?",
    );
    check(
        &format!("{POD}spec:\n  flavour: sweet\n"),
        "5:3: unknown field `flavour` in a pod's spec; check its spelling and indentation, or remove it",
    );
    check(
        &format!("{HEAD}  podSelector: {{app: web}}\n"),
        "5:17: unknown field `app` in a label selector; use matchExpressions or matchLabels, or remove it",
    );
    check(
        &format!("{HEAD}  ingress: [{{to: []}}]\n"),
        "5:14: unknown field `to` in an ingress rule; use from or ports, or remove it",
    );
}

#[test]
fn policies() {
    let check = |text: &str, error: &str| says(&format!("{HEAD}{text}"), &format!("net.yaml:{error}"));
    let rule = |item: &str| format!("  ingress:\n  - from:\n    - {item}\n");
    let port = |item: &str| format!("  egress:\n  - ports:\n    - {item}\n");
    check("  policyTypes: [ingress]\n", "5:17: `ingress` is not known here; use Ingress or Egress");
    let empty = "7:7: an empty peer; write ipBlock, podSelector or namespaceSelector; `podSelector: {}` is every pod \
                 of the namespace, leaving the list out is everyone";
    check(&rule("{}"), empty);
    check(&rule(""), empty);
    check(&rule("{podSelector: null}"), empty);
    check(
        &rule("{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}"),
        "7:17: ipBlock beside a selector in one peer; write two items, one with ipBlock and one with the selectors",
    );
    check(
        &rule("{ipBlock: {cidr: 10.0.0.1}}"),
        "7:24: `10.0.0.1` is not a CIDR; for this one address write 10.0.0.1/32",
    );
    for except in ["10.0.0.0/8", "11.0.0.0/16", "fd00::/64", "10.0.0.0/7"] {
        let shown = except.parse::<ipnet::IpNet>().unwrap();
        check(
            &rule(&format!("{{ipBlock: {{cidr: 10.0.0.0/8, except: [{except}]}}}}")),
            &format!(
                "7:45: except {shown} is not strictly inside 10.0.0.0/8; write a smaller range of the same family, \
                 inside cidr"
            ),
        );
    }
    let expression = |e: &str| rule(&format!("{{podSelector: {{matchExpressions: [{{key: a, {e}}}]}}}}"));
    check(&expression("operator: In"), "7:41: operator In without values; list the values it compares with");
    check(&expression("operator: Exists, values: [x]"), "7:76: operator Exists takes no values; remove them");
    check(&expression("operator: Is"), "7:60: `Is` is not known here; use In, NotIn, Exists or DoesNotExist");
    check(&port("{port: 0}"), "7:14: 0 is out of range; use 1 to 65535");
    check(&port("{port: 65536}"), "7:14: 65536 is out of range; use 1 to 65535");
    check(
        &port("{port: \"80\"}"),
        "7:14: `80` cannot be the name of a port; a port's number is written without quotes",
    );
    check(&port("{port: 90, endPort: 80}"), "7:27: endPort 80 is below port 90; swap them");
    let needs = "endPort without a numeric port; write port as the range's first number";
    check(&port("{port: http, endPort: 80}"), &format!("7:29: {needs}"));
    check(&port("{endPort: 80}"), &format!("7:17: {needs}"));
    check(&port("{protocol: tcp}"), "7:18: `tcp` is not known here; use TCP, UDP or SCTP");
    check("  egress: {}\n", "5:11: expected a list, found a map; begin every item with `- `");
}

#[test]
fn services_and_slices() {
    let check = |text: &str, error: &str| says(&format!("{SERVICE}{text}"), &format!("net.yaml:{error}"));
    check("  selector: {a: b}\n", "5:3: a Service's spec needs `ports`; add it");
    check(
        "  ports: [{port: 1}, {port: 2, name: a}]\n",
        "5:11: a port without a name beside others; add `name` to each of them",
    );
    check(
        "  ports: [{port: 1, name: a}, {port: 1, name: b}]\n",
        "5:31: port 1/TCP is listed twice; remove one",
    );
    check(
        "  ports: [{port: 1, name: a}, {port: 2, name: a}]\n",
        "5:31: two ports are named `a`; give each its own name",
    );
    check("  ports: [{port: 80, targetPort: 70000}]\n", "5:34: 70000 is out of range; use 1 to 65535");
    check(
        "  ports: [{port: 80}]\n  clusterIP: 10.0.0.300\n",
        "6:14: `10.0.0.300` is not an IP address; write one like 10.0.0.7 or fd00::7",
    );
    check(
        "  ports: [{port: 80}]\n  type: LoadBalancer\n  clusterIP: None\n",
        "7:14: clusterIP None with a type that needs an address; use type ClusterIP",
    );
    check(
        "  ports: [{port: 80}]\n  ipFamilies: [IPv6]\n  clusterIP: 10.96.0.9\n",
        "7:14: clusterIP 10.96.0.9 is not of the family that ipFamilies gives it; put both in the same order",
    );
    check("  type: ExternalName\n", "5:3: a Service's spec needs `externalName`; add it");
    check(
        "  type: ExternalName\n  externalName: Web_1\n",
        "6:17: `Web_1` cannot be an externalName; use lower-case letters, digits, - and ., with a letter or digit at both \
         ends",
    );

    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s-1, labels: \
                 {kubernetes.io/service-name: webb}}\naddressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]\n";
    let error =
        "net.yaml:1:1: EndpointSlice default/s-1 refers to Service default/webb, which does not exist";
    says(slice, &format!("{error}; declare that Service, or remove the slice"));
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";
    says(&format!("{slice}{service}"), &format!("{error}; did you mean web?"));
    says(
        &slice
            .replace("10.0.0.1", "fd00::1")
            .replace("webb", "web")
            .replace("endpoints", "ports: []\nendpoints"),
        "net.yaml:1:1: EndpointSlice default/s-1 refers to Service default/web, which does not exist; declare that \
         Service, or remove the slice\n\
         net.yaml:6:26: fd00::1 is not of the slice's addressType; put it into a slice of its own family",
    );
}

#[test]
fn pods_and_nodes() {
    let check = |text: &str, error: &str| says(&format!("{POD}{text}"), &format!("net.yaml:{error}"));
    check("spec: {containers: [{ports: [{containerPort: 0}]}]}\n", "4:46: 0 is out of range; use 1 to 65535");
    check(
        "spec: {containers: [{ports: [{name: a}]}]}\n",
        "4:30: a container's port needs `containerPort`; add it",
    );
    check(
        "spec: {hostNetwork: \"true\"}\n",
        "4:21: expected true or false, found the text \"true\"; write one of them, \
           without quotes",
    );
    check(
        "spec: {nodeName: node-7}\n---\n{apiVersion: v1, kind: Node, metadata: {name: node-1}}\n",
        "4:18: Pod default/p refers to node node-7, which does not exist; did you mean node-1?",
    );
    says(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    supernet.dev/ip: 10.0.0.1, 10.0.0.2\nspec: {}\n",
        "net.yaml:6:22: more than one IPv4 address; give at most one a family",
    );
    says(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    supernet.dev/ip: 10.0.0.1\nspec: {hostNetwork: true}\n",
        "net.yaml:6:22: supernet.dev/ip on a pod with hostNetwork, which has its node's addresses; remove the \
         annotation",
    );
}

#[test]
fn workloads() {
    let deployment =
        |spec: &str| format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec:\n{spec}");
    let template = "  template: {metadata: {labels: {a: b}}, spec: {}}\n";
    says(&deployment(template), "net.yaml:5:3: a Deployment's spec needs `selector`; add it");
    says(
        &deployment("  selector: {matchLabels: {a: b}}\n"),
        "net.yaml:5:3: a Deployment's spec needs `template`; add it",
    );
    says(
        &deployment(&format!("{template}  selector: {{matchLabels: {{a: c}}}}\n")),
        "net.yaml:6:13: spec.selector does not match the labels of spec.template; give the template the labels that \
         the selector asks for",
    );
    says(
        &deployment(&format!("{template}  selector: {{matchLabels: {{a: b}}}}\n  replicas: -1\n")),
        "net.yaml:7:13: -1 is out of range; use 0 to 100000",
    );
    let pinned = "  template:\n    metadata: {labels: {a: b}, annotations: {supernet.dev/ip: 10.0.0.1}}\n    spec: {}\n";
    says(
        &deployment(&format!("{pinned}  selector: {{matchLabels: {{a: b}}}}\n  replicas: 2\n")),
        "net.yaml:6:63: Deployment default/d asks for one address for 2 pods; remove supernet.dev/ip from its \
         template, or make it one pod",
    );
    let many = deployment(&format!("{template}  selector: {{matchLabels: {{a: b}}}}\n  replicas: 100000\n"));
    says(
        &format!("{many}---\n{}", many.replace("name: d", "name: e")),
        "net.yaml:9:1: Deployment default/e makes more than 150000 pods in all; lower the replicas",
    );
    says(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {a: b}}\n  \
         template: {metadata: {labels: {a: b}}, spec: {}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: d-0}\nspec: {}\n",
        "net.yaml:1:1: Pod default/d-0 (of StatefulSet default/d) is already declared at net.yaml:8:1; remove or \
         rename one of them",
    );
}

#[test]
fn duplicates_name_both_places_also_over_files() {
    let mut reader = Reader::new();
    reader.text("b.yaml", &format!("{POD}spec: {{}}\n")).text("a.yaml", &format!("\n{POD}spec: {{}}\n"));
    let error = reader.finish().unwrap_err().to_string();
    assert_eq!(
        error,
        "a.yaml:2:1: Pod default/p is already declared at b.yaml:1:1; remove or rename one of them"
    );
}

#[test]
fn all_errors_are_told_in_the_order_of_the_text() {
    let text = format!(
        "{POD}spec: {{nodeName: x}}\n---\na: [\n---\n{{apiVersion: v1, kind: Node, metadata: {{name: N}}}}\n---\n{SERVICE}  \
         ports: 80\n---\n{{apiVersion: v1, kind: Node, metadata: {{name: y}}}}\n"
    );
    let lines: Vec<u32> = bad(&text).lines().map(|l| l.split(':').nth(1).unwrap().parse().unwrap()).collect();
    assert_eq!(lines, [4, 6, 8, 14]);
}

#[test]
fn a_file_that_is_named_twice_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("p.yaml"), folder.path().join("q.yaml"));
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {}}\n";
    std::fs::write(&file, text).unwrap();
    let around = folder.path().join(".").join("p.yaml");
    let read_all = || read([folder.path(), &file, &around, folder.path()]);
    assert_eq!(read_all().unwrap().model.pods.len(), 1);
    std::fs::write(&copy, text).unwrap();
    let error = read_all().unwrap_err().to_string();
    assert!(error.contains("q.yaml:1:1: Pod default/p is already declared at"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn files_and_folders() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("sub")).unwrap();
    let pod = |name: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{}}}}");
    for (file, name) in [("b.yaml", "b"), ("a.yml", "a"), ("sub/c.json", "c"), ("note.txt", "!")] {
        std::fs::write(at(file), pod(name)).unwrap();
    }
    let names: Vec<String> =
        read([folder.path()]).unwrap().model.pods.keys().map(|n| n.name.clone()).collect();
    assert_eq!(names, ["a", "b", "c"]);

    std::fs::write(at("bytes.yaml"), b"a: b\nc: \xff\n").unwrap();
    let error = read([at("bytes.yaml")]).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{}:2:4: not valid YAML: this byte is not UTF-8; save the file as UTF-8",
            at("bytes.yaml").display()
        )
    );
    let empty = tempfile::tempdir().unwrap();
    let error = read([empty.path(), &at("missing.yaml")]).unwrap_err().to_string();
    let expected = format!(
        "{}: the folder holds no *.yaml, *.yml or *.json file; name another one\n{}: cannot be read: No such file or \
         directory (os error 2); check the path and its permissions",
        empty.path().display(),
        at("missing.yaml").display()
    );
    assert_eq!(error, expected);
}

#[test]
fn nothing_read_is_worth_a_word() {
    let nothing = "no object of a network was read: is this the right file?";
    for text in ["", "---\n---\n# nothing\n", "{apiVersion: v1, kind: List, items: []}"] {
        assert_eq!(warnings(&good(text)), [nothing]);
    }
    let skipped = "skipped, as the network does not need them: 1 Secret";
    assert_eq!(warnings(&good("{apiVersion: v1, kind: Secret}")), [nothing, skipped]);
}

#[test]
fn foreign_and_unneeded_kinds_are_counted() {
    let m = good(
        "{apiVersion: v1, kind: Secret, metadata: {name: a}, anything: 1}\n---\n{apiVersion: v1, kind: ConfigMap}\n---\n\
         {apiVersion: v1, kind: Secret}\n---\n{apiVersion: serving.knative.dev/v1, kind: Service}\n---\n\
         {apiVersion: networking.k8s.io/v1, kind: Ingress}\n---\n{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy}\n\
         ---\n{apiVersion: security.antrea.tanzu.vmware.com/v1alpha1, kind: ClusterNetworkPolicy}\n---\n\
         {apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute}\n---\n\
         {apiVersion: crd.projectcalico.org/v1, kind: NetworkPolicy}\n---\n",
    );
    assert_eq!(
        warnings(&m),
        [
            "no object of a network was read: is this the right file?",
            "skipped, as the network does not need them: 1 ConfigMap, 2 Secret, 1 Service (serving.knative.dev)",
            "not enforced yet, and left out of the network: 1 CiliumNetworkPolicy, 1 ClusterNetworkPolicy \
             (security.antrea.tanzu.vmware.com), 1 HTTPRoute, 1 Ingress, 1 NetworkPolicy (crd.projectcalico.org)",
        ]
    );
}

#[test]
fn names_of_pods_and_whom_they_ask() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n";
    let check = |text: &str, error: &str| says(&format!("{pod}{text}"), &format!("net.yaml:{error}"));
    check(
        "  dnsPolicy: None\n",
        "5:14: dnsPolicy None without nameservers; name at least one in dnsConfig.nameservers",
    );
    check(
        "  dnsPolicy: Clusterfirst\n",
        "5:14: `Clusterfirst` is not known here; use ClusterFirst, ClusterFirstWithHostNet, Default or None",
    );
    check(
        "  dnsConfig: {nameservers: [dns]}\n",
        "5:29: `dns` is not an IP address; write one like 10.0.0.7 or fd00::7",
    );
    let says_of = |text: &str, start: &str| {
        let said = super::bad(&format!("{pod}{text}"));
        assert!(said.starts_with(&format!("net.yaml:{start}")), "{said}");
    };
    says_of("  hostname: a.b\n", "5:13: `a.b` cannot be a pod's hostname; ");
    says_of("  subdomain: A\n", "5:14: `A` cannot be a pod's subdomain; ");
    says_of("  dnsConfig: {searches: [\"a\\nnameserver\"]}\n", "5:26: ");
    says_of("  dnsConfig: {options: [{name: 'a b'}]}\n", "5:32: `a b` cannot be an option of resolvers; ");
    says_of("  dnsConfig: {options: [{name: a, value: \"1\\n2\"}]}\n", "5:42: ");
    says_of("  dnsConfig: {options: [{value: a}]}\n", "5:25: an option of dnsConfig needs `name`");
}
