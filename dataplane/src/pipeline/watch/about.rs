//! What is known of a frame that went through the pipeline: the stages that had to do with it, and whose firewall
//! denied it. It is asked for afterwards, so that nothing on the way has to say it.

use super::{Current, Watch};
use crate::{
    capture::{Stage, Stages},
    flow::{FlowKey, Meta},
    id::{PortId, RuleId},
    pipeline::has_session,
    rewrite::Tuple,
    snapshot::PortRole,
    stage::{
        Event, First, Judged,
        plan::{self, Adjacency},
    },
    state::State,
    trace::Trace,
    verdict::DropReason,
    wire::{L3, Packet},
};

impl Watch {
    /// The entry of a packet's session.
    pub(super) fn session(&self, state: &State, packet: &Packet, port: PortId) -> Option<Meta> {
        if !has_session(packet) || packet.is_fragment() {
            return None;
        }
        let scope = plan::scope(&self.snapshot, port);
        match packet.l3 {
            L3::V4 => Some(state.v4.find(&FlowKey::of(packet, scope)?)?.meta),
            L3::V6 => Some(state.v6.find(&FlowKey::of(packet, scope)?)?.meta),
            L3::Arp | L3::Other => None,
        }
    }

    /// What the stages say of a packet that opens a connection.
    fn walk(&self, state: &State, packet: &Packet, port: PortId) -> Trace {
        let tuple = Tuple::of(packet);
        let first = First {
            ingress: port,
            tuple,
            ttl: packet.ttl,
            dst_mac: packet.dst_mac,
            hash: tuple.flow_hash(state.config.seed),
            echo: packet.is_echo_request(),
        };
        Trace::of(&self.snapshot, first)
    }

    /// Whose firewall denied a packet.
    pub(super) fn denied_at(
        &self,
        state: &State,
        current: &Current,
        (port, reason): (PortId, DropReason),
        meta: Option<Meta>,
    ) -> Option<PortId> {
        let at_source = match reason {
            DropReason::EgressDenied => true,
            DropReason::IngressDenied => false,
            _ => return None,
        };
        match meta.filter(|meta| meta.denied) {
            // What belongs to a connection is denied where that is, in either direction.
            Some(meta) if meta.forward == at_source => Some(port),
            Some(meta) => match Adjacency::of(meta.adjacency) {
                Adjacency::Port(to) => Some(to),
                Adjacency::NextHop(_) => None,
            },
            None if at_source => Some(port),
            None => {
                let trace = self.walk(state, current.packet.as_ref()?, port);
                trace.events.iter().rev().find_map(|(event, _)| match event {
                    Event::Judged { egress: false, port, .. } => Some(*port),
                    _ => None,
                })
            }
        }
    }

    /// The stages that have to do with a packet that goes on.
    pub(super) fn stages(
        &self,
        state: &State,
        current: &Current,
        port: PortId,
        known: bool,
        sent: Option<(PortId, Packet)>,
    ) -> Stages {
        let stages = Stages::NONE.with(Stage::Deliver);
        let Some(packet) = &current.packet else { return stages };
        if current.opened {
            let trace = self.walk(state, packet, port);
            let walked = trace.events.iter().filter_map(|(event, _)| self.stage_of(event, port));
            return walked.fold(stages.with(Stage::Commit), Stages::with);
        }
        if packet.dst_mac.is_multicast() {
            return stages.with(Stage::Segment);
        }
        let stages = if packet.is_fragment() { stages.with(Stage::Fragments) } else { stages };
        let stages = if known || packet.is_icmp_error() { stages.with(Stage::Session) } else { stages };
        let Some((to, sent)) = sent else { return stages };
        self.rewritten((port, packet), (to, &sent)).fold(stages, Stages::with)
    }

    fn stage_of(&self, event: &Event, ingress: PortId) -> Option<Stage> {
        Some(match event {
            Event::Arrived(_) => Stage::SpoofGuard,
            Event::ReversePathChecked(_) => Stage::Urpf,
            Event::Balanced { .. } if self.is_uplink(ingress) => Stage::Vip,
            Event::Balanced { .. } | Event::Hairpinned => Stage::Dlb,
            Event::Judged { egress: true, judged: Judged::Rule(_), .. } => Stage::DfwEgress,
            Event::Judged { egress: false, judged: Judged::Rule(_), .. } => Stage::DfwIngress,
            Event::Judged { .. } => return None,
            Event::Routed { .. } => Stage::Router,
            Event::SourceTranslated { .. } => Stage::Snat,
            Event::Tier0 { .. } => Stage::Tier0,
            Event::Delivered(_) => Stage::Deliver,
        })
    }

    /// The stages by whose word a packet of a connection left otherwise than it came.
    fn rewritten(
        &self,
        (from, came): (PortId, &Packet),
        (to, left): (PortId, &Packet),
    ) -> impl Iterator<Item = Stage> + use<> {
        let (by_uplink, to_uplink) = (self.is_uplink(from), self.is_uplink(to));
        // Ports stand in the first of several fragments only, and an ICMP error has none.
        let ports = !came.is_fragment() && !came.is_icmp_error();
        let dst = came.dst != left.dst || (ports && came.dport != left.dport);
        let src = came.src != left.src || (ports && came.sport != left.sport);
        let is_egress = |address| self.snapshot.egress.contains_key(&address);
        let dst = dst.then(|| match by_uplink {
            true if is_egress(came.dst) => Stage::Snat,
            true => Stage::Vip,
            false => Stage::Dlb,
        });
        let src = src.then(|| match to_uplink {
            true if is_egress(left.src) => Stage::Snat,
            true => Stage::Vip,
            false => Stage::Dlb,
        });
        let hops = came.ttl.saturating_sub(left.ttl);
        let routed = (hops > 0).then_some(Stage::Router);
        let outside = (by_uplink || to_uplink || hops > 2).then_some(Stage::Tier0);
        [dst, src, routed, outside].into_iter().flatten()
    }

    pub(super) fn is_uplink(&self, port: PortId) -> bool {
        matches!(self.snapshot.port(port).map(|p| &p.role), Some(PortRole::Uplink(_)))
    }
}

/// Where the rule stands that denied a packet.
pub(super) fn rules_of(reason: DropReason, rule: Option<RuleId>) -> (Option<RuleId>, Option<RuleId>) {
    match reason {
        DropReason::EgressDenied => (rule, None),
        DropReason::IngressDenied => (None, rule),
        _ => (None, None),
    }
}
