//! Snapshots written down by hand, for tests that want to know every id in them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use supernet_dataplane::{
    id::{Generation, NamespaceId, PortId, RuleId, SegmentId, ServerId, Tier1Id},
    snapshot::{
        EndpointPort, Namespace, Neighbor, PortEntry, PortRole, Segment, ServerKind, Snapshot, UplinkPort,
        VirtualServer,
    },
    table::{classifier::Action, firewall::Firewall, maglev::Maglev},
    wire::{Mac, Proto},
};

/// A network in the making. Ids are given in order of the calls, each kind from 0.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    snapshot: Snapshot,
    servers: u32,
}

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    #[expect(clippy::unwrap_used, reason = "test input is written by hand")]
    text.parse().unwrap()
}

/// The MAC of the port with this number.
pub fn mac(port: u32) -> Mac {
    Mac::from_u64(0x0200_0000_0000 | u64::from(port + 1))
}

/// A firewall that does one thing with everything.
pub fn every(action: Action, rule: u32) -> Arc<Firewall> {
    Arc::new(Firewall::every(action, RuleId(rule)))
}

impl Topology {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A segment: its gateways' networks, such as "10.0.0.1/28" and "fd00::/64", on a Tier-1.
    #[must_use]
    pub fn segment(mut self, networks: &[&str], tier1: u32) -> Self {
        let mut segment = Segment {
            id: SegmentId(self.snapshot.segments.len() as u32),
            tier1: Tier1Id(tier1),
            gateway_v4: None,
            prefix_v6: None,
            mtu: 1500,
            ports: Vec::new(),
        };
        for network in networks {
            let network: ipnet::IpNet = parse(network);
            self.snapshot.owned.insert(network, ());
            match network {
                ipnet::IpNet::V4(n) => segment.gateway_v4 = Some(n),
                ipnet::IpNet::V6(n) => segment.prefix_v6 = Some(n),
            }
        }
        self.snapshot.segments.push(Some(Arc::new(segment)));
        self
    }

    /// A namespace with these egress addresses.
    #[must_use]
    pub fn namespace(mut self, egress: &[&str]) -> Self {
        let mut namespace = Namespace {
            id: NamespaceId(self.snapshot.namespaces.len() as u32),
            egress_v4: None,
            egress_v6: None,
            since: Generation(0),
        };
        for address in egress {
            match parse(address) {
                IpAddr::V4(a) => namespace.egress_v4 = Some(a),
                IpAddr::V6(a) => namespace.egress_v6 = Some(a),
            }
        }
        self.snapshot.namespaces.push(Some(Arc::new(namespace)));
        self
    }

    /// A workload in the segment and namespace made last, without firewall.
    #[must_use]
    pub fn pod(mut self, addresses: &[&str]) -> Self {
        let id = PortId(self.snapshot.ports.len() as u32);
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| parse(a)).collect();
        let segment = self.snapshot.segments.len() - 1;
        if let Some(Some(segment)) = self.snapshot.segments.get_mut(segment) {
            Arc::make_mut(segment).ports.push(id);
        }
        self.snapshot.endpoints.extend(addresses.iter().map(|a| (*a, id)));
        let namespace = self.snapshot.namespaces.len().checked_sub(1).map(|n| NamespaceId(n as u32));
        let role = PortRole::Endpoint(EndpointPort {
            segment: SegmentId(segment as u32),
            namespace,
            addresses,
            node: Vec::new(),
            egress: None,
            ingress: None,
            staged: None,
        });
        self.push_port(id, role)
    }

    /// An uplink with this address and network, and a default route to each of `next_hops`. Next hops given as
    /// "address mac" need not be asked for.
    #[must_use]
    pub fn uplink(mut self, network: &str, next_hops: &[&str]) -> Self {
        let id = PortId(self.snapshot.ports.len() as u32);
        let network: ipnet::IpNet = parse(network);
        let hops = next_hops.iter().map(|hop| {
            let (address, mac) = hop.split_once(' ').map_or((*hop, None), |(a, m)| (a, Some(parse(m))));
            Neighbor { port: id, address: parse(address), mac }
        });
        let default = if network.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        let mut all = self.snapshot.tier0.routes.get(network.addr()).cloned().unwrap_or_default();
        all.extend(hops);
        if !all.is_empty() {
            self.snapshot.tier0.routes.insert(parse(default), all);
        }
        self.snapshot.tier0.connected.insert(network, id);
        self.snapshot.tier0.uplinks.push(id);
        self.push_port(id, PortRole::Uplink(UplinkPort { addresses: vec![network] }))
    }

    /// A virtual server: "10.96.0.1:80", and its members.
    #[must_use]
    pub fn server(mut self, kind: ServerKind, address: &str, proto: Proto, members: &[&str]) -> Self {
        let address: SocketAddr = parse(address);
        let active: Vec<SocketAddr> = members.iter().map(|m| parse(m)).collect();
        let server = VirtualServer {
            id: ServerId(self.servers),
            kind,
            tier1: Tier1Id(0),
            address: address.ip(),
            proto,
            port: address.port(),
            maglev: Maglev::new(&active),
            active,
            draining: Vec::new(),
            by_client: false,
            since: Generation(0),
        };
        self.servers += 1;
        self.snapshot.servers.addresses.insert(address.ip(), kind);
        self.snapshot.servers.listening.insert((address.ip(), proto, address.port()), Arc::new(server));
        self
    }

    /// A range that belongs to the network.
    #[must_use]
    pub fn owned(mut self, range: &str) -> Self {
        self.snapshot.owned.insert(parse(range), ());
        self
    }

    /// Changes the workload at port `port`.
    #[must_use]
    pub fn edit(mut self, port: u32, change: impl FnOnce(&mut EndpointPort)) -> Self {
        if let Some(Some(entry)) = self.snapshot.ports.get_mut(port as usize)
            && let PortRole::Endpoint(endpoint) = &mut Arc::make_mut(entry).role
        {
            change(endpoint);
        }
        self
    }

    /// The snapshot, to be changed in ways this builder has no word for.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Snapshot)) -> Self {
        change(&mut self.snapshot);
        self
    }

    /// The snapshot.
    pub fn build(self) -> Snapshot {
        self.snapshot
    }

    fn push_port(mut self, id: PortId, role: PortRole) -> Self {
        let entry = PortEntry { id, mac: mac(id.0), mtu: 1500, role, since: Generation(0) };
        self.snapshot.ports.push(Some(Arc::new(entry)));
        self
    }
}
