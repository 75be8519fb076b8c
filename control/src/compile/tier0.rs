//! The Tier-0 gateway: connected prefixes and static routes.

use super::{CompileError, ports::uplink_name};
use crate::{intern::Interner, model::Model};
use ipnet::IpNet;
use std::collections::BTreeMap;
use supernet_dataplane::{
    id::{Generation, PortId},
    snapshot::{Neighbor, Tier0},
    table::lpm::Lpm,
};

pub(super) fn tier0(model: &Model, interner: &mut Interner) -> Result<Tier0, CompileError> {
    let mut uplinks = Vec::new();
    let mut connected: Vec<(IpNet, PortId)> = Vec::new();
    for uplink in &model.supervisor.uplinks {
        let port = interner.port(&uplink_name(&uplink.name));
        uplinks.push(port);
        connected.extend(uplink.addresses.iter().map(|a| (a.value.trunc(), port)));
    }
    let mut routes: BTreeMap<IpNet, Vec<Neighbor>> = BTreeMap::new();
    for route in &model.supervisor.static_routes {
        let prefix = route.prefix.value.trunc();
        let hops = routes.entry(prefix).or_default();
        for hop in &route.next_hops {
            let address = hop.address.value;
            let at = || match hop.address.at.file() {
                Some(_) => hop.address.at.clone(),
                None => model.supervisor.at.clone(),
            };
            if address.is_ipv4() != prefix.addr().is_ipv4() {
                return Err(CompileError::NextHopFamily { address, prefix, at: at() });
            }
            let holds = |net: &IpNet| net.contains(&address);
            let longest =
                connected.iter().map(|(net, _)| net).filter(|net| holds(net)).max_by_key(|n| n.prefix_len());
            let longest = *longest.ok_or_else(|| CompileError::NextHop { address, at: at() })?;
            // Every uplink that stands in that prefix shares the flows to the next hop.
            for (_, port) in connected.iter().filter(|(net, _)| *net == longest) {
                let neighbor = Neighbor { port: *port, address, mac: hop.mac };
                if !hops.contains(&neighbor) {
                    hops.push(neighbor);
                }
            }
        }
    }
    let mut connected_table = Lpm::default();
    // Neighbours that are no next hop are reached by the first uplink of their prefix.
    for (net, port) in connected.into_iter().rev() {
        connected_table.insert(net, port);
    }
    Ok(Tier0 {
        routes: routes.into_iter().collect(),
        connected: connected_table,
        uplinks,
        since: Generation::default(),
    })
}
