//! What stays in a segment: ARP, ND, multicast; and ARP and ND towards next hops.

use super::{Arrival, Output, Pipeline};
use crate::{
    capture::Stage,
    id::PortId,
    snapshot::{GATEWAY_MAC, GATEWAY_V6, PortRole},
    stage::{
        Stop, dfw,
        segment::{self, Answer, Local},
    },
    time::Instant,
    verdict::DropReason,
    wire::{Mac, arp, nd},
};
use std::net::{IpAddr, Ipv6Addr};

impl Pipeline {
    /// Finishes a frame that is the segment's matter.
    #[inline(never)]
    pub(super) fn local(&mut self, arrival: Arrival, now: Instant, out: &mut Output) {
        let Some(port) = self.snapshot.port(arrival.port).cloned() else {
            return self.drop_frame(arrival.port, DropReason::NotReady, arrival.frame);
        };
        match segment::local(&self.snapshot, &port, arrival.frame.bytes(), &arrival.packet) {
            Local::Answer(answer) => self.answer(arrival, answer, out),
            Local::Drop(reason) => self.drop_frame(arrival.port, reason, arrival.frame),
            Local::Learn(address, mac) => {
                self.state.neighbors.learn(arrival.port, address, mac, now);
                self.drop_frame(arrival.port, DropReason::Absorbed, arrival.frame);
            }
            Local::LearnAndAnswer(address, mac, answer) => {
                self.state.neighbors.learn(arrival.port, address, mac, now);
                self.answer(arrival, answer, out);
            }
            Local::Flood => self.flood(arrival, now, out),
        }
    }

    /// Asks for the MACs of next hops that are not known, or not for certain any more, on ports that are
    /// `attached`.
    pub fn ask_neighbors(&mut self, now: Instant, attached: impl Fn(PortId) -> bool, out: &mut Output) {
        for (port, address) in self.state.neighbors.due(now) {
            if !attached(port) {
                continue;
            }
            let Some(entry) = self.snapshot.port(port) else { continue };
            let PortRole::Uplink(uplink) = &entry.role else { continue };
            // From the subnet of the next hop: some answer nobody else.
            let on_link = uplink.addresses.iter().find(|net| net.contains(&address));
            let same_family = || uplink.addresses.iter().find(|n| n.addr().is_ipv4() == address.is_ipv4());
            let own = on_link.or_else(same_family).map(ipnet::IpNet::addr);
            let Some(mut frame) = self.pool.take() else { return };
            let len = match (own, address) {
                (Some(IpAddr::V4(own)), IpAddr::V4(target)) => {
                    frame.set_len(arp::FRAME);
                    arp::request(frame.bytes_mut(), (entry.mac, own), target);
                    arp::FRAME
                }
                (Some(IpAddr::V6(own)), IpAddr::V6(target)) => {
                    frame.set_len(nd::FRAME);
                    nd::solicitation(frame.bytes_mut(), (entry.mac, own), target)
                }
                _ => continue,
            };
            frame.set_len(len);
            self.counters.generated.add(1);
            out.push(port, frame);
        }
    }

    /// Answers in the frame the question came in.
    fn answer(&mut self, arrival: Arrival, answer: Answer, out: &mut Output) {
        if let Some(watch) = &self.watch {
            watch.answered(Stage::Segment);
        }
        let Arrival { mut frame, packet, port } = arrival;
        let asker = |packet: &crate::wire::Packet| match packet.src {
            IpAddr::V6(a) => a,
            IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
        };
        match answer {
            Answer::Arp { request, mac } => arp::reply_in_place(frame.bytes_mut(), &request, mac),
            Answer::Neighbor { target, mac, router } => {
                frame.set_len(nd::FRAME);
                let to: (Mac, Ipv6Addr) = (packet.src_mac, asker(&packet));
                let len = nd::advertisement(frame.bytes_mut(), (mac, target), to, router);
                frame.set_len(len);
            }
            Answer::Router { prefix, mtu } => {
                frame.set_len(nd::FRAME + 64);
                let router = (GATEWAY_MAC, GATEWAY_V6);
                let to = (packet.src_mac, asker(&packet));
                let len = nd::router_advertisement(frame.bytes_mut(), router, to, prefix, mtu);
                frame.set_len(len);
            }
        }
        out.push(port, frame);
    }

    /// Copies a multicast to every other port of the segment whose firewall lets it in.
    fn flood(&mut self, arrival: Arrival, now: Instant, out: &mut Output) {
        let (packet, service) = (&arrival.packet, dfw::service_of(&arrival.packet));
        let snap = &self.snapshot;
        let Some(PortRole::Endpoint(from)) = snap.port(arrival.port).map(|p| &p.role) else {
            return self.drop_frame(arrival.port, DropReason::NotReady, arrival.frame);
        };
        // Many may hear it, so its sender is told nothing.
        if let Err(stop) = dfw::egress(snap, from, packet.dst, service).allowed(DropReason::EgressDenied) {
            let stop = Stop::Drop(DropReason::EgressDenied, stop.rule());
            return self.stop(arrival, stop, now, out);
        }
        let mut none = DropReason::NoReceiver;
        let receivers: Vec<PortId> = segment::receivers(snap, arrival.port, from)
            .filter(|id| {
                let Some(port) = snap.port(*id) else { return false };
                let PortRole::Endpoint(to) = &port.role else { return false };
                let judged = dfw::ingress(snap, to, packet.src, service).allowed(DropReason::IngressDenied);
                if let Err(stop) = judged {
                    self.count_denied(DropReason::IngressDenied, stop.rule());
                    none = DropReason::IngressDenied;
                    return false;
                }
                let fits = arrival.packet.largest <= port.mtu;
                if !fits {
                    none = DropReason::TooBig;
                }
                fits
            })
            .collect();
        let Some((last, others)) = receivers.split_last() else {
            return self.drop_frame(arrival.port, none, arrival.frame);
        };
        for port in others {
            self.counters.generated.add(1);
            match self.pool.copy_of(&arrival.frame) {
                Some(copy) => out.push(*port, copy),
                None => {
                    self.counters.drops[DropReason::NoBuffer as usize].add(1);
                    if let Some(watch) = &self.watch {
                        watch.lost(*port, &arrival.frame, 1);
                    }
                }
            }
        }
        out.push(*last, arrival.frame);
    }
}
