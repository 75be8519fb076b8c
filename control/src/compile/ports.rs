//! Ports of pods, nodes and uplinks, and who has which address.

use super::{CompileError, segments::NODES_SEGMENT};
use crate::{
    intern::Interner,
    ipam::Addressing,
    model::{Mac, Model, Name, Position},
    place::Places,
    policy::Firewalls,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};
use supernet_dataplane::{
    id::{Generation, PortId},
    snapshot::{EndpointPort, GATEWAY_MAC, Names, PortEntry, PortRole, Segment, UplinkPort},
};

/// Every port, and whom addresses belong to.
pub(super) struct Ports {
    pub(super) entries: Vec<PortEntry>,
    pub(super) endpoints: BTreeMap<IpAddr, PortId>,
}

/// Makes all ports and attaches them to their segments.
pub(super) fn ports(
    model: &Model,
    addressing: &Addressing,
    places: &Places<'_>,
    firewalls: &Firewalls<'_>,
    segments: &mut [Segment],
    interner: &mut Interner,
    names: &mut Names,
) -> Result<Ports, CompileError> {
    let mtu = model.supervisor.mtu;
    let mut builder =
        Builder { ports: Ports { entries: Vec::new(), endpoints: BTreeMap::new() }, mtu, interner, names };
    let segment_ids: HashMap<String, usize> = segments
        .iter()
        .enumerate()
        .filter_map(|(at, s)| Some((builder.names.segments.get(&s.id)?.clone(), at)))
        .collect();
    for (name, place) in &places.pods {
        let Some(segment) = place.segment else { continue };
        let &segment = segment_ids.get(segment).ok_or_else(|| CompileError::NoSegment {
            pod: (*name).clone(),
            segment: segment.to_owned(),
            at: place.pod.at.clone(),
        })?;
        let node = place.node.and_then(|node| addressing.nodes.get(node)).cloned().unwrap_or_default();
        let rules = firewalls.pods.get(name);
        let endpoint = EndpointPort {
            segment: segments[segment].id,
            namespace: Some(builder.interner.namespace(&name.namespace)),
            addresses: place.addresses.to_vec(),
            node,
            egress: rules.map(|r| r.egress.clone()),
            ingress: rules.map(|r| r.ingress.clone()),
            staged: rules.and_then(|r| r.staged.clone()),
        };
        let mtu = segments[segment].mtu;
        let id = builder.endpoint(name.to_string(), endpoint, mtu, &place.pod.at)?;
        segments[segment].ports.push(id);
    }
    for (name, addresses) in &addressing.nodes {
        // There is a node, so there is a segment for nodes.
        let Some(&segment) = segment_ids.get(NODES_SEGMENT) else { continue };
        let endpoint = EndpointPort {
            segment: segments[segment].id,
            namespace: None,
            addresses: addresses.clone(),
            node: Vec::new(),
            egress: None,
            ingress: None,
            staged: None,
        };
        check_no_pod(places, "node", name)?;
        let at = model.nodes.get(name).map(|n| n.at.clone()).unwrap_or_default();
        let mtu = segments[segment].mtu;
        let id = builder.endpoint(format!("node/{name}"), endpoint, mtu, &at)?;
        segments[segment].ports.push(id);
    }
    for segment in segments {
        segment.ports.sort_unstable();
    }
    for uplink in &model.supervisor.uplinks {
        check_no_pod(places, "uplink", &uplink.name)?;
    }
    builder.uplinks(model)?;
    Ok(builder.ports)
}

/// No pod's port is called as that of a node or uplink is.
fn check_no_pod(places: &Places<'_>, kind: &'static str, name: &str) -> Result<(), CompileError> {
    let pod = Name::new(kind, name);
    // A pod that uses its node's network has no port.
    match places.pods.get(&pod).filter(|place| place.segment.is_some()) {
        Some(place) => Err(CompileError::PodNameTaken { at: place.pod.at.clone(), pod, kind }),
        None => Ok(()),
    }
}

struct Builder<'a> {
    ports: Ports,
    mtu: u16,
    interner: &'a mut Interner,
    names: &'a mut Names,
}

impl Builder<'_> {
    fn endpoint(
        &mut self,
        name: String,
        endpoint: EndpointPort,
        mtu: u16,
        at: &Position,
    ) -> Result<PortId, CompileError> {
        let id = self.id(&name, at)?;
        for &address in &endpoint.addresses {
            if let Some(first) = self.ports.endpoints.insert(address, id) {
                let first = self.names.ports.get(&first).cloned().unwrap_or_default();
                return Err(CompileError::AddressTaken { address, first, second: name, at: at.clone() });
            }
        }
        self.add(id, mac_of(id), mtu, PortRole::Endpoint(endpoint));
        Ok(id)
    }

    fn uplinks(&mut self, model: &Model) -> Result<(), CompileError> {
        let at = &model.supervisor.at;
        let mut taken: BTreeSet<Mac> = self.ports.entries.iter().map(|p| p.mac).collect();
        for uplink in &model.supervisor.uplinks {
            let id = self.id(&uplink_name(&uplink.name), at)?;
            let mac = uplink.mac.unwrap_or(mac_of(id));
            let refused = if mac.is_multicast() {
                Some("which is a group address")
            } else if mac == Mac::default() {
                Some("which is no address")
            } else if mac == GATEWAY_MAC {
                Some("which the gateways of all segments have")
            } else if !taken.insert(mac) {
                Some("which another port has")
            } else {
                None
            };
            if let Some(why) = refused {
                let uplink = uplink.name.clone();
                return Err(CompileError::UplinkMac { uplink, mac, why, at: at.clone() });
            }
            let addresses = uplink.addresses.iter().map(|a| a.value).collect();
            let mtu = uplink.mtu.unwrap_or(self.mtu);
            self.add(id, mac, mtu, PortRole::Uplink(UplinkPort { addresses }));
        }
        Ok(())
    }

    fn id(&mut self, name: &str, at: &Position) -> Result<PortId, CompileError> {
        let id = self.interner.port(name);
        if id.0 >= PortId::MAX {
            return Err(CompileError::TooManyPorts { max: PortId::MAX });
        }
        if self.names.ports.insert(id, name.to_owned()).is_some() {
            return Err(CompileError::NameTaken { name: name.to_owned(), at: at.clone() });
        }
        Ok(id)
    }

    fn add(&mut self, id: PortId, mac: Mac, mtu: u16, role: PortRole) {
        self.ports.entries.push(PortEntry { id, mac, mtu, role, since: Generation::default() });
    }
}

/// The name of an uplink's port.
pub(super) fn uplink_name(uplink: &str) -> String {
    format!("uplink/{uplink}")
}

/// A locally administered address beside the gateways' one: their fourth byte has the top bit
/// clear, and ids leave it free.
fn mac_of(id: PortId) -> Mac {
    let [_, b, c, d] = id.0.to_be_bytes();
    Mac([0x02, 0x50, 0x56, b | 0x80, c, d])
}
