//! Why a pod's firewall lets a connection pass or not, and what would have to differ for it to pass.
//!
//! The decision is that of the compiled firewall. What would have to differ is found by walking that firewall's
//! rules in order with a connection that differs a little: in a label of the other end's pod or namespace, in its
//! service, in its address. A difference is told only if the walk says that the connection would be allowed by the
//! rule that is named, so no earlier rule stands in its way.

mod nearest;
#[cfg(test)]
mod tests;
mod walk;
mod words;

use crate::{
    ipam::Addressing,
    model::{Model, Name, Protocol, Tier},
    policy::{NETWORK_POLICY, POSTURE},
};
use ipnet::IpNet;
use serde::Serialize;
use std::{fmt, net::IpAddr};
use supernet_dataplane::{
    snapshot::{RuleName, Snapshot},
    table::classifier::Action,
    wire::Proto,
};
use walk::Walk;

/// A firewall rule by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleRef {
    /// Where it stands in the order of evaluation: "Emergency", "Admin", "NetworkPolicy", "posture".
    pub tier: String,
    /// "shop/allow-web", "SecurityPolicy zones", or "posture" for what the Supervisor decides.
    pub policy: String,
    /// `ingress[0]`, `isolation`, `deny`, or its own name.
    pub rule: String,
}

impl From<&RuleName> for RuleRef {
    fn from(name: &RuleName) -> Self {
        Self { tier: name.tier.to_owned(), policy: name.policy.clone(), rule: name.rule.clone() }
    }
}

impl RuleRef {
    /// Whether it is of a policy of an administrator.
    pub fn is_tiered(&self) -> bool {
        self.tier != NETWORK_POLICY
            && self.tier != POSTURE
            && Tier::ALL.iter().any(|t| t.as_str() == self.tier)
    }
}

impl fmt::Display for RuleRef {
    /// `shop/allow-web ingress[0]`; `Emergency rule quarantine (SecurityPolicy isolate)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_tiered() {
            write!(f, "{} rule {} ({})", self.tier, self.rule, self.policy)
        } else {
            write!(f, "{} {}", self.policy, self.rule)
        }
    }
}

/// What is asked: a connection, at the firewall of one of its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// At the firewall for what the pod sends; else at that for what reaches it.
    pub egress: bool,
    /// The pod's address.
    pub own: IpAddr,
    /// The other end's: of egress the destination behind any load balancer, of ingress the real client.
    pub peer: IpAddr,
    /// The protocol.
    pub proto: Proto,
    /// The destination port; of ICMP and ICMPv6 type and code as the firewall takes them.
    pub port: u16,
}

/// How a firewall came to its word about a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// "egress": where it leaves the pod; "ingress": in front of it.
    pub direction: &'static str,
    /// The pod: "shop/web-0".
    pub at: String,
    /// "allow", "drop" or "reject".
    pub action: &'static str,
    /// The rule that decided.
    pub rule: RuleRef,
    /// Rules that matched before it and passed it on to the next tiers.
    pub passed: Vec<RuleRef>,
    /// Of a denial: what would have to differ for it to be allowed, if anything near would do.
    pub nearest: Option<Nearest>,
    /// Of a denial by a policy of an administrator: the rule behind it that would allow it if that did not match.
    pub overridden: Option<RuleRef>,
    /// Of a denial: all this in a sentence, without its full stop.
    pub advice: Option<String>,
}

/// The rule that would allow a connection that differs least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Nearest {
    /// The rule.
    pub rule: RuleRef,
    /// What would have to differ, all of it.
    pub differences: Vec<Difference>,
}

/// What would have to differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Difference {
    /// A label of the other end's pod.
    PodLabel {
        /// The pod.
        pod: String,
        /// The label's key.
        key: String,
        /// Its value; `null`: it should not be there.
        value: Option<String>,
        /// Any other value would do as well.
        any: bool,
    },
    /// A label of the namespace that the other end's pod lies in.
    NamespaceLabel {
        /// The namespace.
        namespace: String,
        /// The label's key.
        key: String,
        /// Its value; `null`: it should not be there.
        value: Option<String>,
        /// Any other value would do as well.
        any: bool,
    },
    /// The namespace of the other end's pod.
    Namespace {
        /// The pod.
        pod: String,
        /// Where it should be.
        namespace: String,
    },
    /// The protocol, or the destination port.
    Service {
        /// "TCP", "UDP", "SCTP", "ICMP" or "ICMPv6".
        protocol: String,
        /// Ports that would do, first and last; of ICMP type and code in one number.
        ports: (u16, u16),
    },
    /// The other end's address.
    Address {
        /// One that would do.
        address: IpAddr,
        /// The range of the rule that it lies in.
        within: IpNet,
        /// What the rule takes out of it.
        except: Vec<IpNet>,
    },
}

impl Explanation {
    /// Explains what a pod's firewall says; `None` where no firewall is asked: `own` is no pod's, or it is the pod's
    /// own node that speaks to it.
    ///
    /// The snapshot has to be compiled from the model and the addressing.
    pub fn of(
        model: &Model,
        addressing: &Addressing,
        snapshot: &Snapshot,
        question: &Question,
    ) -> Option<Self> {
        let walk = Walk::of(model, addressing, snapshot, question)?;
        let decision = walk.compiled();
        let rule = walk.rule(decision.rule);
        let passed = walk.passed();
        let mut explanation = Self {
            direction: if question.egress { "egress" } else { "ingress" },
            at: walk.pod.name.to_string(),
            action: match decision.action {
                Action::Allow => "allow",
                Action::Drop => "drop",
                Action::Reject => "reject",
            },
            rule,
            passed,
            nearest: None,
            overridden: None,
            advice: None,
        };
        if decision.action != Action::Allow {
            explanation.nearest = nearest::of(&walk);
            explanation.overridden =
                explanation.rule.is_tiered().then(|| walk.without(decision.rule)).flatten();
            explanation.advice = words::advice(&explanation, question, &walk);
        }
        Some(explanation)
    }
}

/// The transport protocol of a packet, if policies can name its ports.
fn transport(proto: Proto) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| Proto::from(*p) == proto)
}

/// Who has an address.
fn owner(addressing: &Addressing, address: IpAddr) -> Option<&Name> {
    let pods = addressing.pods.iter();
    pods.filter(|(_, pod)| pod.addresses.contains(&address)).map(|(name, _)| name).next()
}
