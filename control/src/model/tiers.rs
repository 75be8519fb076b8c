//! Policies of administrators: ordered rules that allow and deny, in tiers.
//!
//! `SecurityPolicy` (`supernet.dev`, as NSX has them), ClusterNetworkPolicy, AdminNetworkPolicy and
//! BaselineAdminNetworkPolicy (`policy.networking.k8s.io`) are one thing here, [`TieredPolicy`]: a list of rules
//! with a place in the order of evaluation.

use super::{ObjectId, Peer, PolicyPort, Position};
use ipnet::IpNet;
use std::fmt;

/// Where ordered rules stand in the evaluation, first to last. NetworkPolicies come between `Admin` and
/// `Application`, the Supervisor's posture after everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// NSX's category for quarantine and the like.
    Emergency,
    /// Rules about shared services: DNS, NTP, directories.
    Infrastructure,
    /// Rules between zones: production and test.
    Environment,
    /// The Admin tier of ClusterNetworkPolicies, AdminNetworkPolicies among them.
    Admin,
    /// Rules of applications, for pods that no NetworkPolicy isolates.
    Application,
    /// The Baseline tier of ClusterNetworkPolicies, the BaselineAdminNetworkPolicy in it.
    Baseline,
}

impl Tier {
    /// All of them, in the order of evaluation.
    pub const ALL: [Self; 6] = [
        Self::Emergency,
        Self::Infrastructure,
        Self::Environment,
        Self::Admin,
        Self::Application,
        Self::Baseline,
    ];

    /// Its name, as NSX and Kubernetes write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Emergency => "Emergency",
            Self::Infrastructure => "Infrastructure",
            Self::Environment => "Environment",
            Self::Admin => "Admin",
            Self::Application => "Application",
            Self::Baseline => "Baseline",
        }
    }

    /// Whether NetworkPolicies are asked after it.
    pub fn is_before_network_policies(self) -> bool {
        self <= Self::Admin
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A policy of ordered rules. Of two in a tier the one with the lower priority comes first, of two with the same
/// priority that whose kind and name do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TieredPolicy {
    /// Its kind and name; it lies in no namespace.
    pub id: ObjectId,
    /// Its tier.
    pub tier: Tier,
    /// Its place in the tier: lower is earlier.
    pub priority: u32,
    /// The pods that have its rules; empty: all. Only [`Peer::Pods`], which name their namespaces.
    pub applied_to: Vec<Peer>,
    /// Its rules, first match first.
    pub rules: Vec<TieredRule>,
    /// It is judged without being enforced (`supernet.dev/staged`).
    pub staged: bool,
    /// Where it was written.
    pub at: Position,
}

/// A rule: who, to whom, on which services, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TieredRule {
    /// What it is called within its policy, unique there.
    pub name: String,
    /// What becomes of a connection that matches.
    pub verdict: Verdict,
    /// Which firewalls of the pods it applies to have it.
    pub directions: Directions,
    /// Where connections come from.
    pub sources: Ends,
    /// Where they go: behind any load balancer.
    pub destinations: Ends,
    /// Empty: everything.
    pub services: Vec<Service>,
    /// The pods that have it, if others than its policy's.
    pub applied_to: Option<Vec<Peer>>,
    /// The label of its log records.
    pub log_label: Option<String>,
}

/// What becomes of a connection that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It passes this firewall.
    Allow,
    /// It is dropped without a word.
    Drop,
    /// It is dropped, and its sender is told.
    Reject,
    /// The rules of this tier have no more to say: behind the Admin tier go NetworkPolicies, behind the Baseline
    /// tier the posture. NSX's JUMP_TO_APPLICATION, whose Application category begins with the NetworkPolicies.
    Pass,
}

/// Which firewalls have a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Directions {
    /// That for what reaches a pod.
    In,
    /// That for what it sends.
    Out,
    /// Both.
    InOut,
}

impl Directions {
    /// Whether the firewall for what reaches a pod has it.
    pub fn has_ingress(self) -> bool {
        self != Self::Out
    }

    /// Whether the firewall for what a pod sends has it.
    pub fn has_egress(self) -> bool {
        self != Self::In
    }
}

/// One side of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ends {
    /// Any of these; empty: everyone.
    pub peers: Vec<Peer>,
    /// Everyone but these.
    pub excluded: bool,
}

impl Ends {
    /// Everyone.
    pub const ALL: Self = Self { peers: Vec::new(), excluded: false };

    /// Any of these.
    pub fn any_of(peers: Vec<Peer>) -> Self {
        Self { peers, excluded: false }
    }

    /// Whether everyone is meant.
    pub fn is_everyone(&self) -> bool {
        self.peers.is_empty()
    }
}

/// What a rule tells connections apart by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Ports of TCP, UDP or SCTP.
    Ports(PolicyPort),
    /// ICMP, or ICMPv6; of a type, and a code of it, if these are given.
    Icmp {
        /// ICMPv6, and not ICMP.
        v6: bool,
        /// The type.
        kind: Option<u8>,
        /// The code. Only where there is a type.
        code: Option<u8>,
    },
}

/// Addresses under a name, for rules to refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressSet {
    /// Its name; it lies in no namespace.
    pub name: String,
    /// The addresses.
    pub ranges: Vec<IpNet>,
    /// Where it was written.
    pub at: Position,
}
