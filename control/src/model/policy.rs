//! `networking.k8s.io/v1` NetworkPolicy, with its defaults filled in.

use super::{Name, Position, Protocol, Selector};
use ipnet::IpNet;
use std::ops::RangeInclusive;

/// A NetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its name; it selects pods of this namespace.
    pub name: Name,
    /// Which pods it applies to.
    pub pods: Selector,
    /// What may reach them. `None`: the policy says nothing about ingress and does not isolate it.
    pub ingress: Option<Vec<Rule>>,
    /// What they may reach. `None`: the policy says nothing about egress and does not isolate it.
    pub egress: Option<Vec<Rule>>,
    /// It is judged without being enforced (`supernet.dev/staged`).
    pub staged: bool,
    /// Where it was written.
    pub at: Position,
}

/// Allows any of the peers on any of the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The other ends; empty means everyone.
    pub peers: Vec<Peer>,
    /// Destination ports; empty means everything, also what has no ports.
    pub ports: Vec<PolicyPort>,
}

/// A group of other ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Addresses in `cidr` and in none of `except`, pods included.
    Block {
        /// The range.
        cidr: IpNet,
        /// What is taken out of it.
        except: Vec<IpNet>,
    },
    /// Pods, by labels; never addresses outside the cluster nor host-networked pods.
    Pods {
        /// Which namespaces; `None` is the policy's own.
        namespaces: Option<Selector>,
        /// Which pods in them; `None` is all.
        pods: Option<Selector>,
    },
    /// Nodes, by labels, and with them the pods that use their network.
    Nodes(Selector),
    /// Domains by name. Which addresses they have is not known, so this matches nothing.
    Domains(Vec<String>),
    /// The addresses of the AddressSet of this name, pods included.
    Set(String),
}

/// A protocol and the destination ports of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports.
    pub port: PortMatch,
}

/// Destination ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Every port of the protocol.
    All,
    /// Numbers, inclusive.
    Numbers {
        /// The first.
        from: u16,
        /// The last.
        to: u16,
    },
    /// The containerPorts of this name and the same protocol on the destination pod.
    Named(String),
}

impl PortMatch {
    /// A single number.
    pub fn number(port: u16) -> Self {
        Self::Numbers { from: port, to: port }
    }

    /// The numbers, if they do not depend on a pod.
    pub fn range(&self) -> Option<RangeInclusive<u16>> {
        match self {
            Self::All => Some(0..=u16::MAX),
            Self::Numbers { from, to } => Some(*from..=*to),
            Self::Named(_) => None,
        }
    }
}
