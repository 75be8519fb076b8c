//! The logical pipeline: what the network decides about a connection.
//!
//! A stage is a function of the snapshot and the connection's first packet; none changes anything. [`walk`]
//! runs them in the order in which a packet meets them and returns a [`Path`], the whole intent, or where the
//! packet stopped. A [`plan`] puts a path into numbers, and only [`commit`] makes a session of it. The same walk
//! judges new connections, judges living ones again (with their [`Binding`] kept), and traces.
//!
//! ```text
//!   pod:    spoof guard ─ DLB ─ DFW egress ─ router ─┬─ DFW ingress                 (east-west)
//!                                                    └─ SNAT ─ Tier-0               (to the outside)
//!   uplink: uRPF ─ VIP ─ router ─ DFW ingress
//! ```

pub mod commit;
pub mod dfw;
pub mod dlb;
pub mod judge;
pub mod log;
pub mod plan;
pub mod quota;
pub mod router;
pub mod segment;
pub mod snat;
pub mod spoof_guard;
pub mod tier0;
pub mod vip;

use crate::{
    flow::Binding,
    id::{IdentityId, PortId, RuleId, ServerId, Tier1Id},
    rewrite::Tuple,
    snapshot::{Facts, Neighbor, PortRow, Role, Snapshot},
    table::classifier::Decision,
    verdict::DropReason,
    wire::{AnyAddress, Mac},
};
use std::net::{IpAddr, SocketAddr};

/// The packet that opens a connection, or stands for one that did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct First<A = IpAddr> {
    /// The port it came in by.
    pub ingress: PortId,
    /// Its addresses and ports.
    pub tuple: Tuple<A>,
    /// Its TTL or hop limit.
    pub ttl: u8,
    /// The MAC it was sent to: the gateway's, or that of a port in the segment.
    pub dst_mac: Mac,
    /// A hash of the tuple: picks a member and one of several routes.
    pub hash: u64,
    /// Whether it is an echo request, which gateways and virtual servers answer.
    pub echo: bool,
}

/// What becomes of a connection's packets: the intent of all stages together.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Path<A = IpAddr> {
    /// Where they leave by.
    pub out: Next,
    /// Where answers leave by.
    pub back: Next,
    /// The virtual server that they were balanced by.
    pub server: Option<ServerId>,
    /// What happens to their source.
    pub source: Source<A>,
    /// Their destination afterwards: of a virtual server, the member.
    pub dst: (A, u16),
    /// Routers on the way; each takes one off the TTL.
    pub hops: u8,
    /// They stay in their segment: MACs are kept.
    pub switched: bool,
    /// The rule that let them leave, if a firewall stands there.
    pub egress_rule: Option<RuleId>,
    /// The rule that let them in, if a firewall stands there.
    pub ingress_rule: Option<RuleId>,
    /// Firewall identities of destination and source.
    pub identities: (IdentityId, IdentityId),
}

/// What happens to a connection's source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source<A = IpAddr> {
    /// It is kept.
    Keep,
    /// It becomes this egress address, and a port of it that commit claims.
    Egress(A),
    /// The pod reaches itself through a virtual server: it becomes that server's address, the port is kept.
    Hairpin(A),
}

/// Where packets leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// To a workload's port.
    Port(PortId),
    /// To a next hop beyond an uplink.
    Neighbor(Neighbor),
}

impl Next {
    /// The port they leave by.
    pub fn port(&self) -> PortId {
        match self {
            Self::Port(port) => *port,
            Self::Neighbor(neighbor) => neighbor.port,
        }
    }
}

/// Where a packet stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Dropped without a word; by a firewall rule, if one is named.
    Drop(DropReason, Option<RuleId>),
    /// Dropped by a firewall rule that says so: TCP gets a reset, everything else ICMP's administratively
    /// prohibited.
    Reject(DropReason, RuleId),
    /// Refused: TCP gets a reset, everything else an ICMP port unreachable.
    Refuse(DropReason),
    /// No route: the sender gets an ICMP error from this router.
    NoRoute(IpAddr),
    /// The TTL ended at the router with this address.
    TimeExceeded(IpAddr),
    /// The router with this address cannot pass on more than so many bytes, and may not cut the packet.
    TooBig(IpAddr, u16),
    /// An echo request to a gateway or virtual server, to be answered in its name.
    EchoReply,
}

impl Stop {
    /// The firewall rule that stopped it, if one did.
    pub fn rule(&self) -> Option<RuleId> {
        match self {
            Self::Drop(_, rule) => *rule,
            Self::Reject(_, rule) => Some(*rule),
            _ => None,
        }
    }

    /// The reason under which the packet is counted; `None` for one that is answered in place.
    pub fn reason(&self) -> Option<DropReason> {
        match self {
            Self::Drop(reason, _) | Self::Reject(reason, _) | Self::Refuse(reason) => Some(*reason),
            Self::NoRoute(_) => Some(DropReason::NoRoute),
            Self::TimeExceeded(_) => Some(DropReason::TtlExceeded),
            Self::TooBig(..) => Some(DropReason::TooBig),
            Self::EchoReply => None,
        }
    }
}

impl From<DropReason> for Stop {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason, None)
    }
}

/// What a stage has to tell to whoever follows a packet.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Event {
    /// The packet came in, and its source belongs to the port.
    Arrived(PortId),
    /// Its source is routable and not one of ours (uRPF).
    ReversePathChecked(PortId),
    /// Sent to a member of a virtual server on the Tier-1 or, distributed, at the port.
    Balanced {
        /// The server.
        server: ServerId,
        /// The member that was picked.
        member: SocketAddr,
    },
    /// A firewall judged, where the packet leaves its source or reaches its destination.
    Judged {
        /// At the source's port; else at the destination's.
        egress: bool,
        /// The port whose firewall it is.
        port: PortId,
        /// What it said.
        judged: Judged,
    },
    /// A Tier-1's distributed router passed it on.
    Routed {
        /// The router.
        tier1: Tier1Id,
    },
    /// The Tier-1 gave it the namespace's egress address.
    SourceTranslated {
        /// The egress address.
        to: IpAddr,
    },
    /// Its source became the virtual server, because the member is the client itself.
    Hairpinned,
    /// The Tier-0 passed it between a Tier-1 and the outside, or between Tier-1s.
    Tier0 {
        /// Where it goes beyond an uplink, if it leaves.
        neighbor: Option<Neighbor>,
    },
    /// Handed to a workload's port.
    Delivered(PortId),
}

/// How a firewall came to its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judged {
    /// By a rule.
    Rule(Decision),
    /// No firewall stands at this port.
    NoFirewall,
    /// The pod reaches itself.
    SamePod,
    /// The node a pod runs on always reaches it.
    OwnNode,
}

/// Follows a packet through the stages.
pub trait Observer {
    /// A stage did its part; `tuple` is the packet's afterwards.
    fn see(&mut self, event: Event, tuple: &Tuple);
}

/// Nobody follows.
impl Observer for () {
    #[inline(always)]
    fn see(&mut self, _: Event, _: &Tuple) {}
}

/// Takes a connection's first packet through every stage.
///
/// With a `binding`, member and source are those of the living session, and only firewall and routing are
/// decided anew.
///
/// # Errors
/// Where and why the packet stopped.
pub fn walk<A: AnyAddress>(
    snap: &Snapshot,
    first: &First<A>,
    binding: Option<&Binding>,
    seen: &mut impl Observer,
) -> Result<Path<A>, Stop> {
    let port = snap.index.port(first.ingress).ok_or(DropReason::NotReady)?;
    match port.role {
        Role::Uplink => from_uplink(snap, first, binding, seen),
        Role::Endpoint | Role::Absent => from_endpoint(snap, first, port, binding, seen),
    }
}

/// The virtual server and member of a connection, and what is known of the member's address.
struct Balanced<A> {
    server: ServerId,
    member: (A, u16),
    facts: Facts,
}

fn from_endpoint<A: AnyAddress>(
    snap: &Snapshot,
    first: &First<A>,
    from: &PortRow,
    binding: Option<&Binding>,
    seen: &mut impl Observer,
) -> Result<Path<A>, Stop> {
    let index = &*snap.index;
    // As it came in; `tuple` is what becomes of it.
    let original = &first.tuple;
    let src = index.of(original.src);
    if !index.holds(snap, first.ingress, original.src.ip(), &src) {
        return Err(DropReason::SpoofedAddress.into());
    }
    spoof_guard::server(snap, original)?;
    router::check_destination(original.dst.ip())?;
    let mut tuple = *original;
    seen.see(Event::Arrived(first.ingress), &tuple.ip());

    let mut dst = index.of(original.dst);
    let mut server = None;
    if let Some(balanced) = dlb::balance(snap, first, &dst, binding)? {
        (tuple.dst, tuple.dport) = balanced.member;
        dst = balanced.facts;
        server = Some(balanced.server);
        let member = SocketAddr::new(tuple.dst.ip(), tuple.dport);
        seen.see(Event::Balanced { server: balanced.server, member }, &tuple.ip());
    }

    let same_pod = index.holds(snap, first.ingress, tuple.dst.ip(), &dst);
    let judged = if same_pod {
        Judged::SamePod
    } else {
        dfw::judge(snap, from.egress, dst.identity, dfw::service(&tuple))
    };
    seen.see(Event::Judged { egress: true, port: first.ingress, judged }, &tuple.ip());
    let egress_rule = judged.allowed(DropReason::EgressDenied)?;

    let is_gateway = || from.segment.is_some_and(|segment| router::is_gateway(snap, segment, tuple.dst.ip()));
    if first.echo && (dst.is_tier0() || dst.server().is_some() || is_gateway()) {
        return Err(Stop::EchoReply);
    }
    if dst.is_tier0() {
        return Err(DropReason::NoEndpoint.into());
    }
    let back = Next::Port(first.ingress);
    let identities = (dst.identity, src.identity);
    let mut source = Source::Keep;
    let mut routers = router::Hops::new(first.ttl);
    let Some((to, dest)) = dst.port().and_then(|id| Some((id, index.port(id)?))) else {
        // Out into the world.
        router::not_ours_of(tuple.dst.ip(), &dst)?;
        let tier1 = router::leave(snap, from, tuple.dst.ip(), &mut routers)?;
        seen.see(Event::Routed { tier1 }, &tuple.ip());
        let Some(neighbor) = index.next_hop(tuple.dst.ip(), &dst, first.hash, None) else {
            return Err(Stop::NoRoute(tier0::address(snap, tuple.dst.ip())));
        };
        if let Some(address) = egress_address(from, &tuple, binding)? {
            source = Source::Egress(address);
            tuple.src = address;
            seen.see(Event::SourceTranslated { to: address.ip() }, &tuple.ip());
        }
        routers.pass(|| tier0::address(snap, tuple.dst.ip()))?;
        seen.see(Event::Tier0 { neighbor: Some(neighbor) }, &tuple.ip());
        return Ok(Path {
            out: Next::Neighbor(neighbor),
            back,
            server,
            source,
            dst: (tuple.dst, tuple.dport),
            hops: routers.count(),
            switched: false,
            egress_rule,
            ingress_rule: None,
            identities,
        });
    };

    if dest.role != Role::Endpoint {
        return Err(DropReason::NoEndpoint.into());
    }
    let switched = server.is_none() && first.dst_mac != crate::snapshot::GATEWAY_MAC;
    if switched {
        if dest.segment != from.segment || first.dst_mac != dest.mac {
            return Err(DropReason::UnknownMac.into());
        }
    } else {
        router::east_west(snap, from, dest, &mut routers, &tuple, seen)?;
    }
    if server.is_some() && same_pod {
        source = Source::Hairpin(original.dst);
        tuple.src = original.dst;
        seen.see(Event::Hairpinned, &tuple.ip());
    }
    let judged =
        if same_pod { Judged::SamePod } else { dfw_ingress(snap, (to, dest), (original.src, &src), &tuple) };
    seen.see(Event::Judged { egress: false, port: to, judged }, &tuple.ip());
    let ingress_rule = judged.allowed(DropReason::IngressDenied)?;
    seen.see(Event::Delivered(to), &tuple.ip());
    Ok(Path {
        out: Next::Port(to),
        back,
        server,
        source,
        dst: (tuple.dst, tuple.dport),
        hops: routers.count(),
        switched,
        egress_rule,
        ingress_rule,
        identities,
    })
}

/// Judges what reaches a workload from `src`, the real client, of which `facts` are known.
fn dfw_ingress<A: AnyAddress>(
    snap: &Snapshot,
    (to, dest): (PortId, &PortRow),
    (src, facts): (A, &Facts),
    tuple: &Tuple<A>,
) -> Judged {
    if snap.index.is_node_of(snap, to, src.ip(), facts) {
        return Judged::OwnNode;
    }
    dfw::judge(snap, dest.ingress, facts.identity, dfw::service(tuple))
}

/// The egress address of a new connection; a living one keeps being translated or not, as it began.
#[inline]
fn egress_address<A: AnyAddress>(
    from: &PortRow,
    tuple: &Tuple<A>,
    binding: Option<&Binding>,
) -> Result<Option<A>, Stop> {
    let now = snat::egress_address(from, tuple.dst);
    match binding.map(|b| A::of(b.source.0).filter(|_| b.translated)) {
        None => Ok(now),
        Some(None) => Ok(None),
        Some(kept) if kept == now => Ok(kept),
        Some(_) => Err(DropReason::BindingGone.into()),
    }
}

fn from_uplink<A: AnyAddress>(
    snap: &Snapshot,
    first: &First<A>,
    binding: Option<&Binding>,
    seen: &mut impl Observer,
) -> Result<Path<A>, Stop> {
    let index = &*snap.index;
    // As it came in; `tuple` is what becomes of it.
    let original = &first.tuple;
    router::check_destination(original.dst.ip())?;
    let src = index.of(original.src);
    tier0::reverse_path_of(original.src.ip(), &src)?;
    let mut tuple = *original;
    seen.see(Event::ReversePathChecked(first.ingress), &tuple.ip());
    let mut dst = index.of(original.dst);
    if dst.is_tier0() {
        return Err(if first.echo { Stop::EchoReply } else { DropReason::NoEndpoint.into() });
    }
    let mut routers = router::Hops::new(first.ttl);
    routers.pass(|| tier0::address(snap, tuple.src.ip()))?;
    seen.see(Event::Tier0 { neighbor: None }, &tuple.ip());

    let mut server = None;
    if let Some(balanced) = vip::balance(snap, first, &dst, binding)? {
        (tuple.dst, tuple.dport) = balanced.member;
        dst = balanced.facts;
        server = Some(balanced.server);
        let member = SocketAddr::new(tuple.dst.ip(), tuple.dport);
        seen.see(Event::Balanced { server: balanced.server, member }, &tuple.ip());
    }
    if server.is_none() && dst.is_egress() {
        return Err(DropReason::NoNatSession.into());
    }
    let Some((to, dest)) = dst.port().and_then(|id| Some((id, index.port(id)?))) else {
        router::not_ours_of(tuple.dst.ip(), &dst)?;
        return Err(DropReason::Transit.into());
    };
    if dest.role != Role::Endpoint {
        return Err(DropReason::NoEndpoint.into());
    }
    let tier1 = router::enter(snap, dest, tuple.dst.ip(), &mut routers)?;
    seen.see(Event::Routed { tier1 }, &tuple.ip());
    let judged = dfw_ingress(snap, (to, dest), (original.src, &src), &tuple);
    seen.see(Event::Judged { egress: false, port: to, judged }, &tuple.ip());
    let ingress_rule = judged.allowed(DropReason::IngressDenied)?;
    let back = index
        .next_hop(original.src.ip(), &src, first.hash, Some(first.ingress))
        .ok_or(DropReason::NoRoute)?;
    seen.see(Event::Delivered(to), &tuple.ip());
    Ok(Path {
        out: Next::Port(to),
        back: Next::Neighbor(back),
        server,
        source: Source::Keep,
        dst: (tuple.dst, tuple.dport),
        hops: routers.count(),
        switched: false,
        egress_rule: None,
        ingress_rule,
        identities: (dst.identity, src.identity),
    })
}
