//! The picture of a [`Plan`]: what is drawn as a box, what a box holds, and who leads to whom.
//!
//! ```text
//!   outside ── uplinks ── Tier-0 ─┬─ Tier-1 ─┬─ area: a namespace   servers ──▶ groups of pods in segments
//!                                 │          └─ area: a namespace, folded: one box with counts
//!                                 └─ Tier-1 ─── area: the nodes     servers ──▶ groups of nodes
//! ```
//!
//! It is data only, so that every way to draw it shows the same; sizes and words are the drawer's. What contains
//! what is the tree, [`Topology::links`] has the rest. Pods that the same virtual servers lead to are a
//! [`Group`]: one arrow to a group says exactly what an arrow to each of its pods would.
//!
//! Nothing depends on chance: lists are in the order of the plan, which is sorted, and an [`Id`] is a place in
//! the order in which boxes are made.

mod make;
#[cfg(test)]
mod tests;

use super::plan::{AdvertisedRoute, MemberPlan, Plan, RoutePlan, VirtualServerKind};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};

/// So many pods, or nodes, are still told apart in one picture.
pub const READABLE: usize = 50;

/// When a namespace becomes one box with counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fold {
    /// When the picture would have more than [`READABLE`] pods: then every namespace.
    #[default]
    Auto,
    /// Never; not even many nodes.
    Never,
    /// Always.
    Always,
}

/// What of a network is drawn in full.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// When namespaces are folded.
    pub fold: Fold,
    /// If not empty: these namespaces are drawn in full, and all others as one box.
    pub namespaces: BTreeSet<String>,
}

/// A view that cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// A namespace that is not there.
    #[error("there is no namespace `{name}`; {}", listed(known))]
    UnknownNamespace {
        /// The name that was given.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
}

fn listed(names: &[String]) -> String {
    const MOST: usize = 12;
    match names.len() {
        0 => "the network has none".to_owned(),
        n if n <= MOST + 1 => format!("there are {}", names.join(", ")),
        n => format!("there are {} and {} more", names[..MOST].join(", "), n - MOST),
    }
}

/// Names a box of one topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u32);

/// A network to be drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The world beyond the uplinks.
    pub outside: Outside,
    /// Interfaces of the Tier-0.
    pub uplinks: Vec<Uplink>,
    /// The Tier-0.
    pub tier0: Tier0,
    /// Gateways behind the Tier-0, by name.
    pub tier1s: Vec<Tier1>,
    /// From virtual servers to groups, to folded namespaces and to the outside; sorted.
    pub links: Vec<Link>,
    /// How many of what there are in all.
    pub totals: Counts,
    /// How many namespaces there are in all, and how many of them are not drawn in full.
    pub namespaces: (usize, usize),
}

/// The world beyond the uplinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Its box.
    pub id: Id,
    /// What it is told to route here.
    pub learns: Vec<AdvertisedRoute>,
}

/// An interface of the Tier-0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its box.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// Its addresses and connected prefixes.
    pub addresses: Vec<IpNet>,
    /// Its MAC.
    pub mac: String,
}

/// The Tier-0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier0 {
    /// Its box.
    pub id: Id,
    /// Its static routes.
    pub routes: Vec<RoutePlan>,
}

/// A Tier-1 gateway, or several that are drawn as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier1 {
    /// Its box.
    pub id: Id,
    /// The gateways it stands for; one unless namespaces were left out of the picture.
    pub names: Vec<String>,
    /// What is behind it.
    pub areas: Vec<Area>,
}

/// What is behind a Tier-1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Area {
    /// A namespace in full, or the nodes.
    Open(Open),
    /// Namespaces, or nodes, as one box.
    Folded(Folded),
}

impl Area {
    /// Its box.
    pub fn id(&self) -> Id {
        match self {
            Self::Open(open) => open.id,
            Self::Folded(folded) => folded.id,
        }
    }
}

/// A namespace, or the nodes with the default servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its box.
    pub id: Id,
    /// The namespace; `None`: the nodes.
    pub namespace: Option<String>,
    /// How many of what it has.
    pub counts: Counts,
    /// Names of its policies, as "NS/NAME".
    pub policies: Vec<String>,
    /// What its traffic to the outside comes from; none: pods keep their addresses.
    pub snat: Vec<IpAddr>,
    /// Its virtual servers.
    pub servers: Vec<Server>,
    /// Its segments.
    pub segments: Vec<Segment>,
}

/// Namespaces, or nodes, as one box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded {
    /// Its box.
    pub id: Id,
    /// The namespaces; none: the nodes.
    pub namespaces: Vec<String>,
    /// How many of what they have together.
    pub counts: Counts,
    /// Blocks of their segments.
    pub blocks: Vec<IpNet>,
    /// What their traffic to the outside comes from.
    pub snat: Vec<IpAddr>,
    /// Addresses of their virtual servers that the outside reaches.
    pub vips: Vec<IpAddr>,
}

/// How many of what there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Pods, those on their nodes' network included.
    pub pods: usize,
    /// Services with a virtual server.
    pub services: usize,
    /// Network policies.
    pub policies: usize,
    /// Nodes.
    pub nodes: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.pods += other.pods;
        self.services += other.services;
        self.policies += other.policies;
        self.nodes += other.nodes;
    }
}

/// An L2 segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its box.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// Its blocks.
    pub blocks: Vec<IpNet>,
    /// Its gateways.
    pub gateways: Vec<IpAddr>,
    /// Addresses of its IPv4 block that nobody has.
    pub free: Option<usize>,
    /// What is on it: what servers lead to in the servers' order, then the rest.
    pub groups: Vec<Group>,
}

/// Pods, or nodes, that the same virtual servers of their area lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its box.
    pub id: Id,
    /// Positions in [`Open::servers`]; none: no server leads here.
    pub servers: Vec<usize>,
    /// Who belongs to it.
    pub ends: Vec<End>,
}

/// A pod or a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its box.
    pub id: Id,
    /// Its name; a pod's is without its namespace.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its MAC.
    pub mac: String,
    /// The node a pod runs on; `None` for nodes.
    pub node: Option<String>,
    /// The workload a pod was made from.
    pub workload: Option<String>,
    /// Pods on a node's own network, as "NS/POD"; none for pods.
    pub guests: Vec<String>,
}

/// A Service's virtual servers, or a default server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its box.
    pub id: Id,
    /// The Service's name; "kube-api" and "cli-tools".
    pub name: String,
    /// What it listens on.
    pub listens: Vec<Listen>,
    /// To whom it leads; none: connections are refused.
    pub leads: Vec<Lead>,
    /// Its members, each once.
    pub members: Vec<MemberPlan>,
}

/// An address, port and protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// What it is for.
    pub kind: VirtualServerKind,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// "TCP", "UDP" or "SCTP".
    pub protocol: String,
}

/// Members of one sort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// What they are.
    pub to: LeadTo,
    /// Their names, addresses for those outside; each once.
    pub names: BTreeSet<String>,
    /// Their ports.
    pub ports: BTreeSet<u16>,
    /// How many of the names take no new connections.
    pub idle: usize,
}

/// What members are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeadTo {
    /// Pods.
    Pods,
    /// Nodes.
    Nodes,
    /// Addresses outside.
    Outside,
}

/// A server leads somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// A [`Server`].
    pub from: Id,
    /// A [`Group`], a [`Folded`] or the [`Outside`].
    pub to: Id,
}

impl Topology {
    /// The picture of a plan.
    ///
    /// # Errors
    /// The view names a namespace that is not there.
    pub fn of(plan: &Plan, view: &View) -> Result<Self, TopologyError> {
        make::topology(plan, view)
    }
}
