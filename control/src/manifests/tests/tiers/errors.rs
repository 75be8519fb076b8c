//! Exact words and places of errors.

use super::{ADMIN, BASELINE, CLUSTER, SECURITY, SET};
use crate::manifests::read_str;

/// Asserts the errors of texts, all that are not as expected at once.
#[track_caller]
pub(super) fn say<'t>(cases: impl IntoIterator<Item = (String, &'t str)>) {
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|(text, error)| {
            let said =
                read_str("net.yaml", &text).map_or_else(|e| e.to_string(), |_| "it was read".to_owned());
            let expected: Vec<String> =
                error.lines().map(|line| format!("net.yaml:{}", line.trim())).collect();
            (said != expected.join("\n"))
                .then(|| format!("{text}\nsaid:\n{said}\nand not\n{}\n", expected.join("\n")))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn wrong_heads_of_policies() {
    let at = |head: &str, text: &str| format!("{head}{text}\n");
    say([
        (
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: AdminNetworkPolicy\n".to_owned(),
            "1:13: AdminNetworkPolicy is read as apiVersion policy.networking.k8s.io/v1alpha1, not policy.networking.k8s.io/v1alpha2; change apiVersion, and the fields that differ",
        ),
        (
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: ClusterNetworkPolicy\n".to_owned(),
            "1:13: ClusterNetworkPolicy is read as apiVersion policy.networking.k8s.io/v1alpha2, not policy.networking.k8s.io/v1alpha1; change apiVersion, and the fields that differ",
        ),
        (
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicies\n".to_owned(),
            "2:7: unknown kind `AdminNetworkPolicies`; did you mean `AdminNetworkPolicy`?",
        ),
        (
            BASELINE.replace("default", "base") + "  subject: {namespaces: {}}\n",
            "1:1: a BaselineAdminNetworkPolicy named `base`; there is one, and its name is `default`",
        ),
        (ADMIN.replace("spec:\n", ""), "1:1: an AdminNetworkPolicy needs `spec`; add it"),
        (
            at(ADMIN, "  ingress: []"),
            "5:3: an AdminNetworkPolicy's spec needs `priority`; add it\n 5:3: an AdminNetworkPolicy's spec needs `subject`; add it",
        ),
        (
            at(CLUSTER, "  subject: {namespaces: {}}"),
            "5:3: a ClusterNetworkPolicy's spec needs `tier`; add it\n 5:3: a ClusterNetworkPolicy's spec needs `priority`; add it",
        ),
        (
            at(CLUSTER, "  {tier: Application, priority: 1001, subject: {namespaces: {}}}"),
            "5:10: `Application` is not known here; use Admin or Baseline\n 5:33: 1001 is out of range; use 0 to 1000",
        ),
        (
            at(ADMIN, "  {tier: Admin, priority: -1, subject: {namespaces: {}}}"),
            "5:4: unknown field `tier` in an AdminNetworkPolicy's spec; use egress, ingress, priority or subject, or remove it\n 5:27: -1 is out of range; use 0 to 1000",
        ),
        (
            at(BASELINE, "  {priority: 1, subject: {namespaces: {}}}"),
            "5:4: unknown field `priority` in a BaselineAdminNetworkPolicy's spec; use egress, ingress or subject, or remove it",
        ),
        (
            at(ADMIN, "  {priority: 1, subject: {}}"),
            "5:26: a subject that names nobody; write namespaces, or pods with namespaceSelector and podSelector; `namespaces: {}` is every pod",
        ),
        (
            at(ADMIN, "  {priority: 1, subject: {podSelector: {}}}"),
            "5:26: a subject that names nobody; write namespaces, or pods with namespaceSelector and podSelector; `namespaces: {}` is every pod\n 5:27: unknown field `podSelector` in a subject; use namespaces or pods, or remove it",
        ),
        (
            at(ADMIN, "  {priority: 1, subject: {pods: {podSelector: {}}}}"),
            "5:33: pods needs `namespaceSelector`; add it",
        ),
        (
            at(
                ADMIN,
                "  {priority: 1, subject: {namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}}",
            ),
            "5:26: namespaces and pods in a subject; write one of them",
        ),
        (
            at(ADMIN, "  {priority: 1, subject: {namespaces: {matchLabels: {a: 1}}}}"),
            "5:57: expected text, found the number 1; put the value in quotes",
        ),
    ]);
}

#[test]
fn wrong_rules_of_admin_policies() {
    let ingress = |head: &str, rule: &str| {
        let tier = if head == CLUSTER { "  tier: Admin\n" } else { "" };
        let priority = if head == BASELINE { "" } else { "  priority: 1\n" };
        format!("{head}{tier}{priority}  subject: {{namespaces: {{}}}}\n  ingress:\n  - {rule}\n")
    };
    let egress = |rule: &str| ingress(ADMIN, rule).replace("ingress", "egress");
    let all = "from: [{namespaces: {}}]";
    say([
        (ingress(ADMIN, "{from: [{namespaces: {}}]}"), "8:5: an ingress rule needs `action`; add it"),
        (
            ingress(ADMIN, &format!("{{action: Accept, {all}}}")),
            "8:14: `Accept` is not known here; use Allow, Deny or Pass",
        ),
        (
            ingress(CLUSTER, &format!("{{action: Allow, {all}}}")),
            "9:14: `Allow` is not known here; use Accept, Deny or Pass",
        ),
        (
            ingress(BASELINE, &format!("{{action: Pass, {all}}}")),
            "7:14: `Pass` is not known here; use Allow or Deny",
        ),
        (ingress(ADMIN, "{action: Deny}"), "8:5: an ingress rule needs `from`; add it"),
        (
            ingress(ADMIN, "{action: Deny, from: []}"),
            "8:26: `from` without items; list whom it is about; `namespaces: {}` is every pod",
        ),
        (
            ingress(ADMIN, "{action: Deny, from: [{}]}"),
            "8:27: a peer that names nobody; write namespaces, or pods with namespaceSelector and podSelector; `namespaces: {}` is every pod",
        ),
        (
            ingress(ADMIN, "{action: Deny, from: [{namespaces: {}, pods: {}}]}"),
            "8:27: namespaces and pods in one peer; write two items",
        ),
        (
            ingress(ADMIN, "{action: Deny, from: [{networks: [10.0.0.0/8]}]}"),
            "8:28: unknown field `networks` in a peer; use namespaces or pods, or remove it",
        ),
        (
            ingress(ADMIN, "{action: Deny, to: [{namespaces: {}}]}"),
            "8:5: an ingress rule needs `from`; add it\n 8:20: unknown field `to` in an ingress rule; use action, from, name or ports, or remove it",
        ),
        (
            ingress(ADMIN, &format!("{{action: Deny, {all}, protocols: []}}")),
            "8:46: unknown field `protocols` in an ingress rule; use action, from, name or ports, or remove it",
        ),
        (
            ingress(CLUSTER, &format!("{{action: Deny, {all}, ports: []}}")),
            "9:46: unknown field `ports` in an ingress rule; use action, from, name or protocols, or remove it",
        ),
        (
            ingress(ADMIN, &format!("{{action: Deny, {all}, name: {}}}", "n".repeat(101))),
            "8:52: `nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn` is too long for a rule's name; use at most 100 characters",
        ),
        (
            egress("{action: Deny, to: [{networks: [10.0.0.1]}]}"),
            "8:37: `10.0.0.1` is not a CIDR; for this one address write 10.0.0.1/32",
        ),
        (
            egress("{action: Deny, to: [{networks: []}]}"),
            "8:36: `networks` without items; list whom the peer is, or remove the peer",
        ),
        (
            egress("{action: Deny, to: [{domainNames: []}]}"),
            "8:39: `domainNames` without items; list whom the peer is, or remove the peer",
        ),
        (
            egress("{action: Deny, to: [{networks: [10.0.0.0/8], nodes: {}}]}"),
            "8:25: nodes and networks in one peer; write two items",
        ),
        (
            egress("{action: Deny, to: [{nodes: {matchExpressions: [{key: a, operator: in}]}}]}"),
            "8:72: `in` is not known here; use In, NotIn, Exists or DoesNotExist",
        ),
    ]);
}

#[test]
fn wrong_ports_of_admin_policies() {
    let ports = |ports: &str| {
        format!(
            "{ADMIN}  priority: 1\n  subject: {{namespaces: {{}}}}\n  ingress:\n  - action: Allow\n    \
             from: [{{namespaces: {{}}}}]\n    ports: {ports}\n"
        )
    };
    let protocols = |protocols: &str| {
        format!(
            "{CLUSTER}  tier: Baseline\n  priority: 1\n  subject: {{namespaces: {{}}}}\n  ingress:\n  - action: Accept\n    \
             from: [{{namespaces: {{}}}}]\n    protocols: {protocols}\n"
        )
    };
    say([
        (ports("[]"), "10:12: `ports` without items; remove it to mean everything"),
        (
            ports("[{}]"),
            "10:13: an item of ports of no kind; write portNumber, portRange or namedPort, one an item",
        ),
        (
            ports("[{port: 80}]"),
            "10:13: an item of ports of no kind; write portNumber, portRange or namedPort, one an item\n 10:14: unknown field `port` in an item of ports; use namedPort, portNumber or portRange, or remove it",
        ),
        (
            ports("[{portNumber: 80}]"),
            "10:26: expected a map, found the number 80; write `key: value` lines, indented below the field\n 10:26: a portNumber needs `port`; add it",
        ),
        (ports("[{portNumber: {protocol: TCP}}]"), "10:26: a portNumber needs `port`; add it"),
        (
            ports("[{portNumber: {protocol: ICMP, port: 0}}]"),
            "10:37: `ICMP` is not known here; use TCP, UDP or SCTP\n 10:49: 0 is out of range; use 1 to 65535",
        ),
        (ports("[{portRange: {start: 9, end: 8}}]"), "10:41: end 8 is below start 9; swap them"),
        (ports("[{portRange: {start: 9}}]"), "10:25: a portRange needs `end`; add it"),
        (
            ports("[{namedPort: HTTP}]"),
            "10:25: `HTTP` cannot be the name of a port; use lower-case letters, digits and single - between them",
        ),
        (
            ports("[{portNumber: {port: 1}, namedPort: a}]"),
            "10:13: an item of ports of no kind; write portNumber, portRange or namedPort, one an item",
        ),
        (protocols("[]"), "11:16: `protocols` without items; remove it to mean everything"),
        (
            protocols("[{}]"),
            "11:17: an item of protocols of no kind; write tcp, udp, sctp or destinationNamedPort, one an item",
        ),
        (
            protocols("[{tcp: {}, udp: {}}]"),
            "11:17: an item of protocols of several kinds; write tcp, udp, sctp or destinationNamedPort, one an item",
        ),
        (
            protocols("[{icmp: {}}]"),
            "11:17: an item of protocols of no kind; write tcp, udp, sctp or destinationNamedPort, one an item\n 11:18: unknown field `icmp` in an item of protocols; use destinationNamedPort, sctp, tcp or udp, or remove it",
        ),
        (
            protocols("[{tcp: {destinationPort: {}}}]"),
            "11:41: a destinationPort of no kind; write number or range, one of them",
        ),
        (
            protocols("[{tcp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}]"),
            "11:41: a destinationPort of two kinds; write number or range, one of them",
        ),
        (
            protocols("[{tcp: {destinationPort: {number: 65536}}}]"),
            "11:50: 65536 is out of range; use 1 to 65535",
        ),
        (
            protocols("[{udp: {destinationPort: {range: {start: 5, end: 4}}}}]"),
            "11:65: end 4 is below start 5; swap them",
        ),
        (
            protocols("[{destinationNamedPort: \"80\"}]"),
            "11:40: `80` cannot be the name of a port; a port's number is written without quotes",
        ),
        (
            protocols("[{destinationPort: 80}]"),
            "11:17: an item of protocols of no kind; write tcp, udp, sctp or destinationNamedPort, one an item\n 11:18: unknown field `destinationPort` in an item of protocols; use destinationNamedPort, sctp, tcp or udp, or remove it",
        ),
    ]);
}

#[test]
fn wrong_security_policies() {
    let policy = |text: &str| format!("{SECURITY}{text}\n");
    let rule = |text: &str| {
        format!("{SECURITY}  category: Infrastructure\n  rules:\n  - {{action: ALLOW, {text}}}\n")
    };
    say([
        (policy("  rules: []"), "5:3: a SecurityPolicy's spec needs `category`; add it"),
        (
            policy("  category: Ethernet"),
            "5:13: `Ethernet` is not known here; use Emergency, Infrastructure, Environment or Application",
        ),
        (
            policy("  category: Emergency\n  priority: 1000000"),
            "6:13: 1000000 is out of range; use 0 to 999999",
        ),
        (
            policy("  category: Emergency\n  appliedTo: []"),
            "6:14: `appliedTo` without items; remove it to mean every pod",
        ),
        (
            policy("  category: Emergency\n  appliedTo: [{}]"),
            "6:15: an item that names nobody; write podSelector, namespaceSelector, or both; `namespaceSelector: {}` is every pod",
        ),
        (
            policy("  category: Emergency\n  appliedTo: [{cidr: 10.0.0.0/8}]"),
            "6:15: an item that names nobody; write podSelector, namespaceSelector, or both; `namespaceSelector: {}` is every pod\n 6:16: unknown field `cidr` in an item of appliedTo; use namespaceSelector or podSelector, or remove it",
        ),
        (policy("  category: Emergency\n  rules: [{name: a}]"), "6:11: a rule needs `action`; add it"),
        (
            policy("  category: Emergency\n  rules: [{action: Allow}]"),
            "6:20: `Allow` is not known here; use ALLOW, DROP, REJECT or JUMP_TO_APPLICATION",
        ),
        (
            policy("  category: Emergency\n  rules: [{action: JUMP_TO_APPLICATION}]"),
            "6:20: JUMP_TO_APPLICATION outside the category Environment; use ALLOW, DROP or REJECT, or move the policy to Environment",
        ),
        (
            policy("  category: Application\n  rules: [{action: JUMP_TO_APPLICATION}]"),
            "6:20: JUMP_TO_APPLICATION outside the category Environment; use ALLOW, DROP or REJECT, or move the policy to Environment",
        ),
        (
            policy(
                "  category: Emergency\n  rules: [{name: a, action: DROP}, {name: a, action: DROP, disabled: true}]",
            ),
            "6:36: two rules named `a`; give each its own name",
        ),
        (
            policy(
                "  category: Emergency\n  appliedTo: [{podSelector: {}}]\n  rules: [{action: DROP, appliedTo: [{podSelector: {}}]}]",
            ),
            "7:37: appliedTo of a rule whose policy has one; remove one of them: the policy's would override it, as in NSX",
        ),
        (rule("direction: in"), "7:32: `in` is not known here; use IN, OUT or IN_OUT"),
        (
            rule("stateful: maybe, disabled: 1"),
            "7:31: expected true or false, found the text \"maybe\"; write one of them, without quotes\n 7:48: expected true or false, found the number 1; write one of them, without quotes",
        ),
        (rule("sources: []"), "7:30: `sources` without items; remove it to mean everyone"),
        (
            rule("sources: [{}]"),
            "7:31: an item that names nobody; write podSelector, namespaceSelector, nodeSelector, addressSet or cidr",
        ),
        (
            rule("sourcesExcluded: true"),
            "7:38: sourcesExcluded without sources; list whom it excludes in sources",
        ),
        (
            rule("destinationsExcluded: true, destinations: []"),
            "7:63: `destinations` without items; remove it to mean everyone",
        ),
        (
            rule("sources: [{cidr: 10.0.0.0/8, podSelector: {}}]"),
            "7:31: several kinds of ends in one item; write an item for each",
        ),
        (
            rule("sources: [{cidr: 10.0.0.0/33}]"),
            "7:38: `10.0.0.0/33` is neither an address nor a CIDR; write one like 10.0.0.7, 10.0.0.0/8 or fd00::/64",
        ),
        (
            rule("sources: [{cidr: 10.0.0.0/8, except: [11.0.0.0/8, 10.0.0.0/7]}]"),
            "7:59: except 11.0.0.0/8 is not inside 10.0.0.0/8; write a smaller range\n 7:71: except 10.0.0.0/7 is not inside 10.0.0.0/8; write a smaller range",
        ),
        (
            rule("sources: [{addressSet: s, except: [11.0.0.0/8]}]"),
            "7:55: except without cidr; write the range it is taken from as cidr",
        ),
        (
            rule("sources: [{addressSet: s}]"),
            "7:44: SecurityPolicy p refers to AddressSet s, which does not exist; declare it, or write the addresses as cidr",
        ),
        (
            rule("sources: [{addressSet: Bad_Name}]"),
            "7:44: `Bad_Name` cannot be the name of an AddressSet; use lower-case letters, digits, - and ., with a letter or digit at both ends",
        ),
        (
            rule("sources: [{group: s}]"),
            "7:31: an item that names nobody; write podSelector, namespaceSelector, nodeSelector, addressSet or cidr\n 7:32: unknown field `group` in an end; use addressSet, cidr, except, namespaceSelector, nodeSelector or podSelector, or remove it",
        ),
        (
            rule(&format!("logLabel: {}", "l".repeat(40))),
            "7:31: `llllllllllllllllllllllllllllllllllllllll` is too long for a log label; use at most 39 characters",
        ),
    ]);
    say([(
        format!("{SET}  addresses: []\n---\n{}", rule("sources: [{addressSet: t}]")),
        "13:44: SecurityPolicy p refers to AddressSet t, which does not exist; did you mean s?",
    )]);
    say([(
        format!(
            "{}  addresses: []\n---\n{}",
            SET.replace("{name: s}", "{name: resolvers}"),
            rule("sources: [{addressSet: resolver}]")
        ),
        "13:44: SecurityPolicy p refers to AddressSet resolver, which does not exist; did you mean resolvers?",
    )]);
}

#[test]
fn wrong_services_of_security_policies() {
    let service = |text: &str| {
        format!("{SECURITY}  category: Infrastructure\n  rules:\n  - action: DROP\n    services: [{text}]\n")
    };
    say([
        (service("{}"), "8:16: a service needs `protocol`; add it"),
        (service(""), "8:15: `services` without items; remove it to mean everything"),
        (service("{protocol: tcp}"), "8:27: `tcp` is not known here; use TCP, UDP, SCTP, ICMP or ICMPv6"),
        (service("{protocol: TCP, ports: []}"), "8:39: `ports` without items; remove it to mean every port"),
        (service("{protocol: TCP, ports: [0]}"), "8:40: 0 is out of range; use 1 to 65535"),
        (
            service("{protocol: TCP, ports: [\"80\"]}"),
            "8:40: `80` cannot be the name of a port; a port's number is written without quotes",
        ),
        (
            service("{protocol: TCP, ports: [90-80]}"),
            "8:40: `90-80` is no range of ports; write one like 8000-8999",
        ),
        (
            service("{protocol: TCP, ports: [80-]}"),
            "8:40: `80-` is no range of ports; write one like 8000-8999",
        ),
        (
            service("{protocol: TCP, ports: [\"+80\"]}"),
            "8:40: `+80` cannot be the name of a port; use lower-case letters, digits and single - between them",
        ),
        (
            service("{protocol: TCP, ports: [8000-+8999]}"),
            "8:40: `8000-+8999` is no range of ports; write one like 8000-8999",
        ),
        (
            service("{protocol: TCP, ports: [\"+8000-8999\"]}"),
            "8:40: `+8000-8999` cannot be the name of a port; use lower-case letters, digits and single - between them",
        ),
        (
            service("{protocol: TCP, port: 80}"),
            "8:32: unknown field `port` in a service; did you mean `ports`?",
        ),
        (
            service("{protocol: UDP, icmpType: 8}"),
            "8:42: icmpType of another protocol; only ICMP and ICMPv6 have it",
        ),
        (
            service("{protocol: ICMP, ports: [80]}"),
            "8:40: ports of another protocol; only TCP, UDP and SCTP have it",
        ),
        (
            service("{protocol: ICMP, icmpCode: 0}"),
            "8:43: icmpCode without icmpType; write the type that it is a code of",
        ),
        (service("{protocol: ICMP, icmpType: 256, icmpCode: 0}"), "8:43: 256 is out of range; use 0 to 255"),
        (
            service("{protocol: ICMPv6, icmpType: echo}"),
            "8:45: expected a number, found the text \"echo\"; write digits, without quotes",
        ),
    ]);
}

#[test]
fn wrong_address_sets() {
    say([
        (SET.replace("spec:\n", ""), "1:1: an AddressSet needs `spec`; add it"),
        (
            format!("{SET}  addresses: [a, 10.0.0.0/33, 10.0.0.1-10.0.0.9]\n"),
            "5:15: `a` is neither an address nor a CIDR; write one like 10.0.0.7, 10.0.0.0/8 or fd00::/64\n 5:18: `10.0.0.0/33` is neither an address nor a CIDR; write one like 10.0.0.7, 10.0.0.0/8 or fd00::/64\n 5:31: `10.0.0.1-10.0.0.9` is neither an address nor a CIDR; write one like 10.0.0.7, 10.0.0.0/8 or fd00::/64",
        ),
        (
            format!("{SET}  ranges: []\n"),
            "5:3: unknown field `ranges` in an AddressSet's spec; use addresses, or remove it",
        ),
        (
            format!("{SET}  addresses: 10.0.0.1\n"),
            "5:14: expected a list, found the text \"10.0.0.1\"; begin every item with `- `",
        ),
        (
            format!("{SET}  addresses: []\n---\n{SET}  addresses: []\n"),
            "7:1: AddressSet s is already declared at net.yaml:1:1; remove or rename one of them",
        ),
    ]);
}

#[test]
fn a_policy_whose_address_set_is_gone_can_still_be_named_for_deletion() {
    // `lab delete -f` reads files in this way; the set was deleted before.
    let policy = "apiVersion: supernet.dev/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p}\nspec:\n  category: Emergency\n  \
                  rules: [{action: DROP, sources: [{addressSet: s}]}]\n";
    let set = "apiVersion: supernet.dev/v1alpha1\nkind: AddressSet\nmetadata: {name: s}\nspec: {addresses: [10.0.0.1]}\n";
    let mut base = crate::manifests::read_str("net.yaml", &format!("{policy}---\n{set}")).unwrap().model;
    let id = base.tiered_policies.keys().next().unwrap().clone();
    let set =
        crate::model::Change::delete(crate::model::ObjectKind::AddressSet, crate::model::Name::new("", "s"));
    let Ok(after) = base.with(set) else { return };
    base = after;
    let read = crate::manifests::read_objects("net.yaml", policy, &base);
    assert!(read.is_ok(), "{id} cannot be named: {}", read.unwrap_err());
}
