//! Distributed firewall: each workload's port has an ordered rule list for what it sends and one for what it
//! receives. A connection must pass both; answers belong to it and are not judged.

use super::{Judged, Stop};
use crate::{
    id::{IdentityId, RuleId},
    rewrite::Tuple,
    snapshot::{EndpointPort, FirewallAt, Snapshot},
    table::{
        classifier::{Action, icmp_port},
        firewall::Firewall,
    },
    verdict::DropReason,
    wire::{Packet, Proto},
};
use std::net::IpAddr;

/// What a firewall tells services apart by: the protocol, and the destination port or the ICMP type and code.
pub type Service = (Proto, u16);

/// The service of a connection. ICMP connections are opened by echo requests.
#[inline]
pub fn service<A>(tuple: &Tuple<A>) -> Service {
    match tuple.proto {
        Proto::ICMP => echo(true),
        Proto::ICMPV6 => echo(false),
        proto => (proto, tuple.dport),
    }
}

/// Echo requests, of ICMP or ICMPv6.
#[inline]
pub const fn echo(is_v4: bool) -> Service {
    if is_v4 { (Proto::ICMP, icmp_port(8, 0)) } else { (Proto::ICMPV6, icmp_port(128, 0)) }
}

/// The service of a packet that no connection is made of.
pub fn service_of(packet: &Packet) -> Service {
    let port =
        if packet.proto.is_icmp() { icmp_port(packet.icmp.kind, packet.icmp.code) } else { packet.dport };
    (packet.proto, port)
}

/// Judges what leaves a workload towards this destination.
pub fn egress(snap: &Snapshot, from: &EndpointPort, dst: IpAddr, service: Service) -> Judged {
    by_rules(from.egress.as_deref(), snap.index.of(dst).identity, service)
}

/// Judges what reaches a workload from this source, the real client.
pub fn ingress(snap: &Snapshot, to: &EndpointPort, src: IpAddr, service: Service) -> Judged {
    if to.node.contains(&src) {
        return Judged::OwnNode;
    }
    by_rules(to.ingress.as_deref(), snap.index.of(src).identity, service)
}

fn by_rules(firewall: Option<&Firewall>, peer: IdentityId, (proto, port): Service) -> Judged {
    match firewall {
        Some(firewall) => Judged::Rule(firewall.decide(peer, proto, port)),
        None => Judged::NoFirewall,
    }
}

/// Asks one firewall about a new connection with a peer of this identity.
#[inline]
pub(super) fn judge(
    snap: &Snapshot,
    firewall: Option<FirewallAt>,
    peer: IdentityId,
    (proto, port): Service,
) -> Judged {
    match firewall {
        Some(firewall) => Judged::Rule(snap.index.decide(firewall, peer, proto, port)),
        None => Judged::NoFirewall,
    }
}

impl Judged {
    /// The rule that allows it, if a rule decided.
    ///
    /// # Errors
    /// A rule drops or rejects it, for `reason`.
    pub fn allowed(self, reason: DropReason) -> Result<Option<RuleId>, Stop> {
        match self {
            Self::Rule(d) => match d.action {
                Action::Allow => Ok(Some(d.rule)),
                Action::Drop => Err(Stop::Drop(reason, Some(d.rule))),
                Action::Reject => Err(Stop::Reject(reason, d.rule)),
            },
            Self::NoFirewall | Self::SamePod | Self::OwnNode => Ok(None),
        }
    }
}
