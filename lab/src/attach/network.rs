//! What a topology file comes to: a snapshot, by hand, as no Kubernetes object stands behind it.
//!
//! A segment with an egress address is inside, and so is one that is exempt from translation. Any other one is outside, if
//! there is translation at all: its ports are uplinks, and the gateway is the Tier-0's address there.

use super::file::{File, Rule};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use supernet_dataplane::{
    id::{Generation, IdentityId, NamespaceId, PortId, RuleId, SegmentId, ServerId, Tier1Id},
    snapshot::{
        EndpointPort, GATEWAY_V6, Namespace, Neighbor, PortEntry, PortRole, RuleName, Segment, ServerKind,
        Snapshot, UplinkPort, VirtualServer,
    },
    table::{
        classifier::{Action, Clause, Decision, Effect, Peers, RuleSet, Service, Shapes},
        firewall::Firewall,
        maglev::Maglev,
    },
    wire::{Mac, Proto},
};

const MTU: u16 = 1500;

/// Why a topology can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TopologyError {
    #[error("port {port}: there is no segment {segment}")]
    NoSegment { port: String, segment: String },
    #[error("{what} is given to both {first} and {second}")]
    Twice { what: String, first: String, second: String },
    #[error("segment {segment}: {what}")]
    Segment { segment: String, what: String },
    #[error("port {port}: {what}")]
    Port { port: String, what: String },
    #[error("service {service}: {what}")]
    Service { service: String, what: String },
}

/// A network, and what its ports are called outside.
pub(super) struct Network {
    pub(super) snapshot: Snapshot,
    /// In the order of their ids.
    pub(super) ports: Vec<Line>,
    pub(super) warnings: Vec<String>,
}

/// One port and its TAP.
pub(super) struct Line {
    pub(super) tap: String,
    pub(super) name: String,
    pub(super) mac: Mac,
    /// The MAC that the guest knows its gateway by, if that is not ours.
    pub(super) gateway: Option<Mac>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) is_outside: bool,
}

/// Compiles a topology.
///
/// # Errors
/// See [`TopologyError`].
pub(super) fn compile(file: &File) -> Result<Network, TopologyError> {
    let mut network = Network { snapshot: Snapshot::default(), ports: Vec::new(), warnings: Vec::new() };
    let outside = outside(file);
    let mut names = supernet_dataplane::snapshot::Names::default();
    let mut places = HashMap::new();
    for (name, segment) in &file.segments {
        if outside.contains(name.as_str()) {
            continue;
        }
        let id = SegmentId(network.snapshot.segments.len() as u32);
        let mut compiled =
            Segment { id, tier1: Tier1Id(0), gateway_v4: None, prefix_v6: None, mtu: MTU, ports: Vec::new() };
        let wrong = |what: String| TopologyError::Segment { segment: name.clone(), what };
        for net in &segment.cidr {
            let gateway = gateway_in(net, &segment.gw);
            match (net, gateway) {
                (IpNet::V4(_), IpAddr::V4(_)) if compiled.gateway_v4.is_some() => {
                    return Err(wrong("it can have one IPv4 range; make another segment".to_owned()));
                }
                (IpNet::V4(net), IpAddr::V4(gateway)) => {
                    compiled.gateway_v4 = Ipv4Net::new(gateway, net.prefix_len()).ok();
                }
                (IpNet::V6(net), gateway) => {
                    if segment.gw.iter().any(|gw| gw.is_ipv6()) && gateway != IpAddr::V6(GATEWAY_V6) {
                        return Err(wrong(format!(
                            "IPv6 hosts have the gateway {GATEWAY_V6} here, not {gateway}"
                        )));
                    }
                    compiled.prefix_v6 = Some(*net);
                }
                (IpNet::V4(_), IpAddr::V6(_)) => {}
            }
            network.snapshot.owned.insert(*net, ());
        }
        let mut namespace =
            Namespace { id: NamespaceId(id.0), egress_v4: None, egress_v6: None, since: Generation(0) };
        for address in &segment.egress {
            network.snapshot.owned.insert(IpNet::from(*address), ());
            match address {
                IpAddr::V4(a) => namespace.egress_v4 = Some(*a),
                IpAddr::V6(a) => namespace.egress_v6 = Some(*a),
            }
        }
        names.segments.insert(id, name.clone());
        names.namespaces.insert(namespace.id, name.clone());
        places.insert(name.as_str(), id);
        network.snapshot.namespaces.push(Some(Arc::new(namespace)));
        network.snapshot.segments.push(Some(Arc::new(compiled)));
    }
    let firewall = Rulebook::new(file);
    network.snapshot.identities.ranges = firewall.nets.iter().map(|(net, id)| (*net, *id)).collect();
    let (mut rule_sets, mut taps) = (RuleSets::default(), BTreeMap::new());
    for port in &file.ports {
        let id = PortId(network.snapshot.ports.len() as u32);
        let name = port.name().to_owned();
        let wrong = |what: &str| TopologyError::Port { port: name.clone(), what: what.to_owned() };
        let Some(segment) = file.segments.get(&port.segment) else {
            return Err(TopologyError::NoSegment { port: name, segment: port.segment.clone() });
        };
        if port.ip.is_empty() {
            return Err(wrong("it has no IP address"));
        }
        if let Some(first) = taps.insert(port.tap.clone(), name.clone()) {
            return Err(TopologyError::Twice { what: format!("TAP {}", port.tap), first, second: name });
        }
        let inside = places.get(port.segment.as_str()).copied();
        let made_up = Mac([0x02, 0x50, 0x56, 0x80, (id.0 >> 8) as u8, id.0 as u8]);
        let mac = port.mac.unwrap_or(made_up);
        let role = match inside {
            Some(segment) => {
                for address in &port.ip {
                    if let Some(first) = network.snapshot.endpoints.insert(*address, id) {
                        let first =
                            network.ports.get(first.index()).map_or_else(String::new, |l| l.name.clone());
                        return Err(TopologyError::Twice { what: address.to_string(), first, second: name });
                    }
                }
                if let Some(Some(segment)) = network.snapshot.segments.get_mut(segment.index()) {
                    Arc::make_mut(segment).ports.push(id);
                }
                let (egress, ingress) = firewall.of(&port.ip, &mut rule_sets);
                PortRole::Endpoint(EndpointPort {
                    segment,
                    namespace: Some(NamespaceId(segment.0)),
                    addresses: port.ip.clone(),
                    node: Vec::new(),
                    egress,
                    ingress,
                    staged: None,
                })
            }
            None => {
                let tier0 = &mut network.snapshot.tier0;
                tier0.uplinks.push(id);
                for net in &segment.cidr {
                    if tier0.connected.get(net.network()).is_none() {
                        tier0.connected.insert(*net, id);
                    }
                }
                for address in &port.ip {
                    tier0.connected.insert(IpNet::from(*address), id);
                    // Whatever else there is lies behind the first.
                    let all = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
                    if let Ok(all) = all.parse()
                        && tier0.routes.get(address_of(all)).is_none()
                    {
                        tier0
                            .routes
                            .insert(all, vec![Neighbor { port: id, address: *address, mac: port.mac }]);
                    }
                }
                let own = |net: &IpNet| IpNet::new(gateway_in(net, &segment.gw), net.prefix_len()).ok();
                PortRole::Uplink(UplinkPort { addresses: segment.cidr.iter().filter_map(own).collect() })
            }
        };
        let entry_mac = match inside {
            Some(_) => mac,
            None => segment.gw_mac.unwrap_or(Mac([0x02, 0x50, 0x56, 0x56, 0x45, id.0 as u8])),
        };
        let mtu = port.mtu.unwrap_or(MTU);
        let entry = PortEntry { id, mac: entry_mac, mtu, role, since: Generation(0) };
        network.snapshot.ports.push(Some(Arc::new(entry)));
        names.ports.insert(id, name.clone());
        network.ports.push(Line {
            tap: port.tap.clone(),
            name,
            mac,
            gateway: segment.gw_mac.filter(|_| inside.is_some()),
            addresses: port.ip.clone(),
            is_outside: inside.is_none(),
        });
    }
    network.warnings.extend(untranslated(file, &outside));
    services(file, &mut network, &mut names)?;
    for (n, rule) in file.rules.iter().enumerate() {
        let what = if rule.action.denies { "deny" } else { "allow" };
        let name = RuleName { tier: "rules", policy: format!("rules[{n}]"), rule: what.to_owned() };
        names.rules.insert(RuleId(n as u32), name);
    }
    let name = RuleName { tier: "rules", policy: "default".to_owned(), rule: String::new() };
    names.rules.insert(RuleId(file.rules.len() as u32), name);
    network.snapshot.names = Arc::new(names);
    Ok(network)
}

/// The segments outside.
fn outside(file: &File) -> BTreeSet<&str> {
    let translates = file.segments.values().any(|segment| !segment.egress.is_empty());
    let exempt = |net: &IpNet| file.snat_exempt.iter().any(|all| all.contains(net));
    let segments = file
        .segments
        .iter()
        .filter(|(_, segment)| translates && segment.egress.is_empty() && !segment.cidr.iter().all(exempt));
    segments.map(|(name, _)| name.as_str()).collect()
}

/// A warning where a file asks for translation between segments inside.
fn untranslated(file: &File, outside: &BTreeSet<&str>) -> Option<String> {
    let exempt = |net: &IpNet| file.snat_exempt.iter().any(|all| all.contains(net));
    let inside = file.segments.iter().filter(|(name, _)| !outside.contains(name.as_str()));
    let asked =
        |segment: &super::file::Segment| !segment.egress.is_empty() && !segment.cidr.iter().all(exempt);
    let names: Vec<&str> =
        inside.filter(|(_, segment)| asked(segment)).map(|(name, _)| name.as_str()).collect();
    (names.len() > 1).then(|| {
        let names = names.join(", ");
        format!("between {names} nothing is translated, as if `snat_exempt` named them: that is for the way outside")
    })
}

/// The gateway of a range: the one that is named, or the first address.
fn gateway_in(net: &IpNet, named: &[IpAddr]) -> IpAddr {
    let own = named.iter().find(|gw| net.contains(*gw) || (gw.is_ipv6() && net.addr().is_ipv6()));
    own.copied().or_else(|| net.hosts().next()).unwrap_or_else(|| net.addr())
}

fn address_of(net: IpNet) -> IpAddr {
    net.network()
}

fn services(
    file: &File,
    network: &mut Network,
    names: &mut supernet_dataplane::snapshot::Names,
) -> Result<(), TopologyError> {
    let servers = &mut network.snapshot.servers;
    for service in &file.services {
        let protocols = if service.proto.is_empty() { &[Proto::TCP][..] } else { &service.proto };
        for proto in protocols {
            let at = SocketAddr::new(service.vip, service.port);
            let name = format!("{at}/{proto}");
            let member = |b: &super::file::Backend| {
                SocketAddr::new(b.ip, b.port.or(service.target_port).unwrap_or(service.port))
            };
            let active: Vec<SocketAddr> =
                service.backends.iter().map(member).collect::<BTreeSet<_>>().into_iter().collect();
            if active.iter().any(|member| member.is_ipv4() != service.vip.is_ipv4()) {
                let what = "a backend is of the other family".to_owned();
                return Err(TopologyError::Service { service: name, what });
            }
            let maglev = Maglev::new(&active);
            if maglev.is_none() && !active.is_empty() {
                let what = format!("{} backends are too many", active.len());
                return Err(TopologyError::Service { service: name, what });
            }
            let id = ServerId(servers.listening.len() as u32);
            let server = VirtualServer {
                id,
                kind: ServerKind::Server,
                tier1: Tier1Id(0),
                address: service.vip,
                proto: *proto,
                port: service.port,
                active,
                draining: Vec::new(),
                by_client: service.affinity,
                maglev,
                since: Generation(0),
            };
            if servers.listening.insert((service.vip, *proto, service.port), Arc::new(server)).is_some() {
                return Err(TopologyError::Service { service: name, what: "it is there twice".to_owned() });
            }
            names.servers.insert(id, name);
        }
        servers.addresses.insert(service.vip, ServerKind::Server);
        network.snapshot.owned.insert(IpNet::from(service.vip), ());
    }
    Ok(())
}

/// The rules, and the classes of addresses that they tell apart.
struct Rulebook<'a> {
    rules: &'a [Rule],
    default: Action,
    /// Every range that a rule names; each has a class of its own, of what no smaller one holds.
    nets: BTreeMap<IpNet, IdentityId>,
}

/// Compiled rules, by which rules they are.
#[derive(Default)]
struct RuleSets {
    sets: HashMap<(bool, Vec<usize>), Option<Arc<Firewall>>>,
    shapes: Shapes,
}

impl<'a> Rulebook<'a> {
    fn new(file: &'a File) -> Self {
        let named = file.rules.iter().flat_map(|r| r.src.iter().chain(&r.dst)).copied();
        // All that no rule names, too, by family: a rule about one has nothing to say of the other.
        let nets: BTreeSet<IpNet> = named.chain(everything()).collect();
        // Class 0 is of nobody.
        let nets = nets.into_iter().zip((1..).map(IdentityId)).collect();
        Self { rules: &file.rules, default: action(file.default), nets }
    }

    /// What a port with these addresses may send, and what it may be sent.
    fn of(&self, ips: &[IpAddr], sets: &mut RuleSets) -> (Option<Arc<Firewall>>, Option<Arc<Firewall>>) {
        let names =
            |nets: &[IpNet]| nets.is_empty() || nets.iter().any(|net| ips.iter().any(|ip| net.contains(ip)));
        let own = |of: fn(&Rule) -> &Vec<IpNet>| -> Vec<usize> {
            let rules = self.rules.iter().enumerate();
            rules.filter(|(_, rule)| names(of(rule))).map(|(n, _)| n).collect()
        };
        let (egress, ingress) = (own(|rule| &rule.src), own(|rule| &rule.dst));
        (self.set(true, egress, sets), self.set(false, ingress, sets))
    }

    fn set(&self, is_egress: bool, rules: Vec<usize>, sets: &mut RuleSets) -> Option<Arc<Firewall>> {
        let RuleSets { sets, shapes } = sets;
        let mut compile = |rules: &[usize]| {
            if rules.is_empty() && self.default == Action::Allow {
                return None;
            }
            let rules = rules.iter().map(|n| self.rule(*n, is_egress)).collect();
            let default = Decision { rule: RuleId(self.rules.len() as u32), action: self.default };
            Some(Arc::new(Firewall::new([Arc::new(RuleSet::sharing(rules, shapes))], default)))
        };
        let key = (is_egress, rules);
        if let Some(set) = sets.get(&key) {
            return set.clone();
        }
        let set = compile(&key.1);
        sets.insert(key, set.clone());
        set
    }

    fn rule(&self, n: usize, is_egress: bool) -> supernet_dataplane::table::classifier::Rule {
        let rule = &self.rules[n];
        let (own, peers) = if is_egress { (&rule.src, &rule.dst) } else { (&rule.dst, &rule.src) };
        // Who names addresses of a family at one end means that family at the other.
        let is_meant = |all: &IpNet| own.iter().any(|own| own.addr().is_ipv4() == all.addr().is_ipv4());
        let families: Vec<IpNet> = everything().into_iter().filter(is_meant).collect();
        let peers = if peers.is_empty() { &families } else { peers };
        let clause = Clause { peers: self.peers(peers), services: services_of(rule) };
        supernet_dataplane::table::classifier::Rule {
            id: RuleId(n as u32),
            effect: Effect::Decide(action(rule.action)),
            clauses: vec![clause],
        }
    }

    /// The classes of addresses in these ranges.
    fn peers(&self, nets: &[IpNet]) -> Peers {
        if nets.is_empty() {
            return Peers::Any;
        }
        // In order, ranges within another follow it.
        let within = |net: IpNet| self.nets.range(net..).take_while(move |(inner, _)| net.contains(*inner));
        Peers::of(nets.iter().flat_map(|net| within(*net)).map(|(_, id)| *id))
    }
}

/// Every address, by family: the default range of either is all of it.
fn everything() -> [IpNet; 2] {
    [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]
}

fn action(written: super::file::Action) -> Action {
    if written.denies { Action::Drop } else { Action::Allow }
}

fn services_of(rule: &Rule) -> Vec<Service> {
    let with_ports = [Proto::TCP, Proto::UDP, Proto::SCTP];
    let protocols = match (&rule.proto[..], &rule.dport[..]) {
        ([], []) => return Vec::new(),
        // Only these have ports.
        ([], _) => &with_ports[..],
        (protocols, _) => protocols,
    };
    let of = |proto: &Proto| match &rule.dport[..] {
        ports if !ports.is_empty() && with_ports.contains(proto) => {
            ports.iter().map(|ports| Service { proto: *proto, ports: ports.clone() }).collect()
        }
        _ => vec![Service::all(*proto)],
    };
    protocols.iter().flat_map(of).collect()
}
