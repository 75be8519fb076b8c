//! Network policy conformance cases (JSON, one case a line) as models that can be compiled and played.
//!
//! A case brings its own addresses, so nothing is assigned: pods have the addresses the case gives them, in
//! segments that lie elsewhere. Plain Kubernetes is meant: pods that no policy isolates are open, nothing is
//! translated. The network's own ranges are taken from 100.64.0.0/10 and fd64::/16, which no case uses, so that
//! every other address is outside.

use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use supernet_control::{
    ipam::{Addressing, PodAddresses, SegmentBlock},
    manifests,
    model::{
        At, ContainerPort, IngressPosture, Labels, Mac, Model, Name, Namespace, NetworkPolicy, NextHop,
        Object, Operator, Peer, Pod, PolicyPort, PortMatch, Position, Protocol, Requirement, Rule, Selector,
        Snat, StaticRoute, Supervisor, Uplink,
    },
};

/// The uplink's name.
pub const UPLINK: &str = "outside";

/// The MAC of everything beyond the uplink.
pub const OUTSIDE_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);

/// One state of a cluster and the connections that are tried in it.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name, unique.
    pub id: String,
    /// Where it was taken from.
    pub source: String,
    /// What it is about.
    pub title: String,
    /// The objects.
    pub model: Model,
    /// The addresses they have.
    pub addressing: Addressing,
    /// The connections.
    pub probes: Vec<Probe>,
}

/// A new connection and what is to become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Who opens it.
    pub from: End,
    /// To whom.
    pub to: End,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its destination port.
    pub port: u16,
    /// Whether the destination may receive it.
    pub ingress: Option<bool>,
    /// Whether the source may send it.
    pub egress: Option<bool>,
    /// Whether it works.
    pub combined: bool,
}

/// One end of a probe and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The pod; `None`: an address outside the cluster.
    pub pod: Option<Name>,
    /// The address.
    pub address: IpAddr,
}

/// A case that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// Not JSON of the cases' schema.
    #[error("line {line}: {source}")]
    Json {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Well formed, but without meaning.
    #[error("line {line}, case {id}: {what}")]
    Meaning {
        /// The line, counted from 1.
        line: usize,
        /// The case.
        id: String,
        /// What is wrong.
        what: String,
    },
}

/// Reads cases, one JSON object a line.
///
/// # Errors
/// The first line that cannot be read.
pub fn read(text: &str) -> Result<Vec<Case>, CaseError> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(line, text)| {
            let raw: RawCase =
                serde_json::from_str(text).map_err(|source| CaseError::Json { line, source })?;
            let id = raw.id.clone();
            raw.into_case().map_err(|what| CaseError::Meaning { line, id, what })
        })
        .collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCase {
    id: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    title: String,
    cluster: RawCluster,
    policies: Option<Vec<RawPolicy>>,
    admin_policies: Option<Vec<serde_json::Value>>,
    probes: Vec<RawProbe>,
}

#[derive(Deserialize)]
struct RawCluster {
    namespaces: Vec<RawNamespace>,
    pods: Vec<RawPod>,
    #[serde(default)]
    nodes: Vec<RawNode>,
}

#[derive(Deserialize)]
struct RawNode {
    name: String,
    labels: Option<Labels>,
    ips: Vec<IpAddr>,
}

#[derive(Deserialize)]
struct RawNamespace {
    name: String,
    labels: Option<Labels>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPod {
    namespace: String,
    name: String,
    labels: Option<Labels>,
    ip: Option<IpAddr>,
    ips: Option<Vec<IpAddr>>,
    ports: Option<Vec<RawContainerPort>>,
    #[serde(default)]
    host_network: bool,
    node: Option<String>,
}

#[derive(Deserialize)]
struct RawContainerPort {
    name: Option<String>,
    port: u16,
    protocol: Option<RawProtocol>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
enum RawProtocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Deserialize)]
struct RawPolicy {
    metadata: RawMetadata,
    spec: RawSpec,
}

#[derive(Deserialize)]
struct RawMetadata {
    name: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    pod_selector: Option<RawSelector>,
    policy_types: Option<Vec<String>>,
    ingress: Option<Vec<RawRule>>,
    egress: Option<Vec<RawRule>>,
}

#[derive(Deserialize)]
struct RawRule {
    from: Option<Vec<RawPeer>>,
    to: Option<Vec<RawPeer>>,
    ports: Option<Vec<RawPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPeer {
    ip_block: Option<RawBlock>,
    pod_selector: Option<RawSelector>,
    namespace_selector: Option<RawSelector>,
}

#[derive(Deserialize)]
struct RawBlock {
    cidr: ipnet::IpNet,
    except: Option<Vec<ipnet::IpNet>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    protocol: Option<RawProtocol>,
    port: Option<RawNumber>,
    end_port: Option<u16>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum RawNumber {
    Number(u16),
    Name(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSelector {
    match_labels: Option<Labels>,
    match_expressions: Option<Vec<RawExpression>>,
}

#[derive(Deserialize)]
struct RawExpression {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawProbe {
    from: RawEnd,
    to: RawEnd,
    protocol: RawProtocol,
    port: RawNumber,
    ingress_allowed: Option<bool>,
    egress_allowed: Option<bool>,
    combined: bool,
}

#[derive(Deserialize)]
struct RawEnd {
    ns: Option<String>,
    pod: Option<String>,
    ip: Option<IpAddr>,
}

/// Where pods are whose node a case does not tell, if it tells others'. It has no address.
const ELSEWHERE: &str = "elsewhere";

impl RawCase {
    fn into_case(self) -> Result<Case, String> {
        let mut model = Model { supervisor: supervisor(), ..Model::default() };
        let mut addressing = Addressing::default();
        for raw in self.cluster.namespaces {
            let mut namespace = Namespace::named(&raw.name, Position::default());
            namespace.labels.extend(raw.labels.unwrap_or_default());
            model.insert(namespace.into());
        }
        let on_nodes = self.cluster.pods.iter().any(|p| p.host_network || p.node.is_some());
        let some_nodes = on_nodes || !self.cluster.nodes.is_empty();
        for raw in self.cluster.nodes {
            addressing.nodes.insert(raw.name.clone(), raw.ips);
            let labels = raw.labels.unwrap_or_default();
            let (addresses, at) = (Vec::new(), Position::default());
            model.insert(supernet_control::model::Node { name: raw.name, labels, addresses, at }.into());
        }
        for raw in self.cluster.pods {
            add_pod(raw, some_nodes, &mut model, &mut addressing)?;
        }
        for raw in self.policies.unwrap_or_default() {
            model.insert(Object::NetworkPolicy(raw.into_policy()?));
        }
        for object in admin_policies(self.admin_policies.unwrap_or_default(), &model)? {
            model.insert(object);
        }
        for (n, namespace) in (0u8..).zip(model.namespaces.values_mut()) {
            namespace.snat = Snat::None;
            addressing.segments.push(SegmentBlock {
                name: segment_name(&namespace.name),
                namespace: namespace.name.clone(),
                v4: ipnet::Ipv4Net::new(Ipv4Addr::new(100, 64, n, 0), 24).ok(),
                v6: ipnet::Ipv6Net::new(Ipv6Addr::new(0xfd64, 0, 0, n.into(), 0, 0, 0, 0), 64).ok(),
            });
        }
        let probes = self.probes.into_iter().map(|p| p.into_probe(&model)).collect::<Result<_, _>>()?;
        Ok(Case { id: self.id, source: self.source, title: self.title, model, addressing, probes })
    }
}

/// Policies of administrators, by the reader of manifests. Some cases leave out names.
fn admin_policies(mut raw: Vec<serde_json::Value>, model: &Model) -> Result<Vec<Object>, String> {
    for (n, policy) in raw.iter_mut().enumerate() {
        let baseline = policy["kind"] == "BaselineAdminNetworkPolicy";
        let name = &mut policy["metadata"]["name"];
        if baseline || !name.is_string() {
            *name = if baseline { "default".into() } else { format!("unnamed-{n}").into() };
        }
    }
    let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": raw });
    let read = manifests::read_objects("adminPolicies", &list.to_string(), model);
    read.map(|read| read.objects).map_err(|e| e.to_string())
}

/// The network around a case: one uplink with a default route, nothing closed, nothing translated.
fn supervisor() -> Supervisor {
    let nets = |v4: &str, v6: &str| {
        [v4, v6].into_iter().filter_map(|n| n.parse::<ipnet::IpNet>().ok()).map(At::from).collect()
    };
    let route = |prefix: ipnet::IpNet, hop: IpAddr| StaticRoute {
        prefix: prefix.into(),
        next_hops: vec![NextHop { address: hop.into(), mac: Some(OUTSIDE_MAC) }],
    };
    Supervisor {
        pod_cidrs: nets("100.64.0.0/16", "fd64::/48"),
        namespace_prefix: 24,
        service_cidrs: nets("100.96.0.0/16", "fd64:1::/112"),
        ingress_cidrs: nets("100.97.0.0/24", "fd64:2::/120"),
        egress_cidrs: Vec::new(),
        node_cidrs: nets("100.98.0.0/24", "fd64:3::/64"),
        uplinks: vec![Uplink {
            name: UPLINK.to_owned(),
            addresses: nets("100.127.0.1/24", "fd64:4::1/64"),
            mac: None,
            mtu: None,
            interface: None,
        }],
        static_routes: vec![
            route(ipnet::Ipv4Net::default().into(), Ipv4Addr::new(100, 127, 0, 254).into()),
            route(ipnet::Ipv6Net::default().into(), Ipv6Addr::new(0xfd64, 4, 0, 0, 0, 0, 0, 0xfe).into()),
        ],
        ingress_posture: IngressPosture::Allow,
        ..Supervisor::default()
    }
}

fn segment_name(namespace: &str) -> String {
    format!("{namespace}-0")
}

fn add_pod(
    raw: RawPod,
    some_nodes: bool,
    model: &mut Model,
    addressing: &mut Addressing,
) -> Result<(), String> {
    let mut pod = Pod::new(Name::new(raw.namespace, raw.name));
    let addresses = raw.ips.unwrap_or_else(|| raw.ip.into_iter().collect());
    if addresses.is_empty() {
        return Err(format!("pod {} has no address", pod.name));
    }
    pod.labels = raw.labels.unwrap_or_default();
    pod.host_network = raw.host_network;
    pod.addresses = addresses.iter().copied().map(At::from).collect();
    pod.ports = raw.ports.unwrap_or_default().into_iter().map(RawContainerPort::into_port).collect();
    if some_nodes {
        let own =
            || if raw.host_network { format!("node-of-{}", pod.name.name) } else { ELSEWHERE.to_owned() };
        let node = raw.node.unwrap_or_else(own);
        let known = addressing.nodes.entry(node.clone()).or_default();
        if raw.host_network {
            known.extend(addresses.iter().filter(|a| !known.contains(a)).copied().collect::<Vec<_>>());
        }
        pod.node = Some(node.into());
    }
    if !pod.host_network {
        let segment = segment_name(&pod.name.namespace);
        addressing.pods.insert(pod.name.clone(), PodAddresses { segment, addresses });
    }
    model.insert(pod.into());
    Ok(())
}

impl RawContainerPort {
    fn into_port(self) -> ContainerPort {
        ContainerPort {
            name: self.name.unwrap_or_default(),
            protocol: protocol(self.protocol),
            port: self.port,
        }
    }
}

fn protocol(raw: Option<RawProtocol>) -> Protocol {
    match raw {
        None | Some(RawProtocol::Tcp) => Protocol::Tcp,
        Some(RawProtocol::Udp) => Protocol::Udp,
        Some(RawProtocol::Sctp) => Protocol::Sctp,
    }
}

impl RawPolicy {
    /// Fills in the defaults of the API.
    fn into_policy(self) -> Result<NetworkPolicy, String> {
        let spec = self.spec;
        let types = spec.policy_types.unwrap_or_default();
        let egress_rules = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        let (ingress, egress) = if types.is_empty() {
            (true, egress_rules)
        } else {
            (types.iter().any(|t| t == "Ingress"), types.iter().any(|t| t == "Egress"))
        };
        let rules = |listed: bool, raw: Option<Vec<RawRule>>| {
            let rules = raw.unwrap_or_default();
            listed
                .then(|| rules.into_iter().map(RawRule::into_rule).collect::<Result<Vec<_>, _>>())
                .transpose()
        };
        Ok(NetworkPolicy {
            name: Name::new(
                self.metadata.namespace.unwrap_or_else(|| "default".to_owned()),
                self.metadata.name,
            ),
            pods: spec.pod_selector.map(RawSelector::into_selector).transpose()?.unwrap_or_default(),
            ingress: rules(ingress, spec.ingress)?,
            egress: rules(egress, spec.egress)?,
            staged: false,
            at: Position::default(),
        })
    }
}

impl RawRule {
    fn into_rule(self) -> Result<Rule, String> {
        let peers = self.from.or(self.to).unwrap_or_default();
        let ports = self.ports.unwrap_or_default();
        Ok(Rule {
            peers: peers.into_iter().map(RawPeer::into_peer).collect::<Result<_, _>>()?,
            ports: ports.into_iter().map(RawPort::into_port).collect::<Result<_, _>>()?,
        })
    }
}

impl RawPeer {
    fn into_peer(self) -> Result<Peer, String> {
        match self {
            Self { ip_block: Some(block), pod_selector: None, namespace_selector: None } => {
                Ok(Peer::Block { cidr: block.cidr, except: block.except.unwrap_or_default() })
            }
            Self { ip_block: None, pod_selector: None, namespace_selector: None } => {
                Err("a peer without anything".to_owned())
            }
            Self { ip_block: None, pod_selector, namespace_selector } => Ok(Peer::Pods {
                namespaces: namespace_selector.map(RawSelector::into_selector).transpose()?,
                pods: pod_selector.map(RawSelector::into_selector).transpose()?,
            }),
            Self { ip_block: Some(_), .. } => Err("a peer with an ipBlock and a selector".to_owned()),
        }
    }
}

impl RawPort {
    fn into_port(self) -> Result<PolicyPort, String> {
        let port = match (self.port, self.end_port) {
            (None, None) => PortMatch::All,
            (Some(RawNumber::Number(from)), to) => PortMatch::Numbers { from, to: to.unwrap_or(from) },
            (Some(RawNumber::Name(name)), None) => PortMatch::Named(name),
            (None | Some(RawNumber::Name(_)), Some(_)) => return Err("endPort without a number".to_owned()),
        };
        Ok(PolicyPort { protocol: protocol(self.protocol), port })
    }
}

impl RawSelector {
    fn into_selector(self) -> Result<Selector, String> {
        let mut selector = Selector::labels(self.match_labels.unwrap_or_default());
        for e in self.match_expressions.unwrap_or_default() {
            let values = e.values.unwrap_or_default();
            let operator = match e.operator.as_str() {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("operator {other}")),
            };
            selector.requirements.push(Requirement { key: e.key, operator });
        }
        Ok(selector)
    }
}

impl RawProbe {
    fn into_probe(self, model: &Model) -> Result<Probe, String> {
        let to = self.to.into_end(model)?;
        let protocol = protocol(Some(self.protocol));
        let port = match self.port {
            RawNumber::Number(port) => port,
            RawNumber::Name(name) => to
                .pod
                .as_ref()
                .and_then(|pod| model.pods.get(pod))
                .and_then(|pod| pod.ports.iter().find(|p| p.name == name && p.protocol == protocol))
                .map(|p| p.port)
                .ok_or_else(|| format!("a probe to port {name}, which its destination does not have"))?,
        };
        Ok(Probe {
            from: self.from.into_end(model)?,
            to,
            protocol,
            port,
            ingress: self.ingress_allowed,
            egress: self.egress_allowed,
            combined: self.combined,
        })
    }
}

impl RawEnd {
    fn into_end(self, model: &Model) -> Result<End, String> {
        match self {
            Self { ip: Some(address), .. } => Ok(End { pod: None, address }),
            Self { ns: Some(ns), pod: Some(pod), ip: None } => {
                let name = Name::new(ns, pod);
                let pod =
                    model.pods.get(&name).ok_or_else(|| format!("a probe of {name}, which is not there"))?;
                let address = pod.addresses.first().map(|a| a.value);
                Ok(End {
                    address: address.ok_or_else(|| format!("pod {name} has no address"))?,
                    pod: Some(name),
                })
            }
            _ => Err("an end that is neither a pod nor an address".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(policies: &str, probe: &str) -> String {
        format!(
            r#"{{"id":"t","cluster":{{"namespaces":[{{"name":"x"}}],"pods":[
                {{"namespace":"x","name":"a","ip":"10.0.0.1","ports":[{{"name":"http","port":8080}}]}},
                {{"namespace":"x","name":"h","ip":"10.9.0.1","hostNetwork":true}}]}},
                "policies":[{policies}],"probes":[{probe}]}}"#
        )
        .replace('\n', " ")
    }

    const PROBE: &str = r#"{"from":{"ip":"1.2.3.4"},"to":{"ns":"x","pod":"a"},"protocol":"TCP","port":"http","combined":true}"#;

    #[test]
    fn defaults_are_those_of_the_api() {
        let policy = r#"{"metadata":{"name":"p"},"spec":{"egress":[],"ingress":[{"ports":[{"port":5,"endPort":7},{}]}]}}"#;
        let cases = read(&case(policy, PROBE)).unwrap();
        let policy = &cases[0].model.policies[&Name::new("default", "p")];
        assert_eq!(policy.egress, None, "an empty list of egress rules isolates nothing");
        let ports: Vec<&PortMatch> =
            policy.ingress.as_ref().unwrap()[0].ports.iter().map(|p| &p.port).collect();
        assert_eq!(ports, [&PortMatch::Numbers { from: 5, to: 7 }, &PortMatch::All]);
    }

    #[test]
    fn addresses_are_those_of_the_case() {
        let cases = read(&case("", PROBE)).unwrap();
        let case = &cases[0];
        assert_eq!(case.probes[0].port, 8080, "a name is resolved at the destination");
        assert_eq!(
            case.addressing.pods[&Name::new("x", "a")].addresses,
            ["10.0.0.1".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(case.addressing.nodes["node-of-h"], ["10.9.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(case.addressing.nodes[ELSEWHERE], [] as [IpAddr; 0], "no node reaches pod a as its own");
        assert_eq!(case.model.namespaces["x"].snat, Snat::None);
    }

    #[test]
    fn what_has_no_meaning_is_refused_with_its_line() {
        let both = r#"{"metadata":{"name":"p"},"spec":{"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8"},"podSelector":{}}]}]}}"#;
        let error = read(&case(both, PROBE)).unwrap_err();
        assert_eq!(error.to_string(), "line 1, case t: a peer with an ipBlock and a selector");
        assert!(matches!(read("\n{").unwrap_err(), CaseError::Json { line: 2, .. }));
    }
}
