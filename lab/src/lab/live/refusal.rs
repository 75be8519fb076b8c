//! What a lab can't have changed while it runs.
//!
//! Everything else that the model can say, [`supernet::Handle`] takes on living connections. What is here is decided
//! when a lab starts: the world beyond its uplinks, the size of its buffers, how TCP is checked; and what pods and
//! Services have got addresses from.

use crate::lab::spec::{LabSpec, OutsideUplink};
use ipnet::IpNet;
use std::net::IpAddr;
use supernet_control::{
    ipam::Addressing,
    model::{At, Model, Name, Position, Supervisor, Uplink},
};
use supernet_dataplane::wire::ETHERNET;

/// A change that a running lab does not take. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{at}: uplink {uplink} {how}, but the uplinks of a lab stay as they are while it runs{RESTART}")]
    Uplink { at: Position, uplink: String, how: &'static str },
    #[error(
        "{at}: the next hops of staticRoutes give the router beyond uplink {uplink} other addresses, but the world beyond \
         the uplinks stays as it is while a lab runs{RESTART}"
    )]
    FarSide { at: Position, uplink: String },
    #[error("{at}: strictTCP is decided when a lab starts{RESTART}")]
    StrictTcp { at: Position },
    #[error(
        "{at}: {place} would have an MTU of {mtu}, but the buffers of this lab hold {most} at the most, as its MTUs were \
         when it started: use at most {most}, or end the lab and start it anew"
    )]
    Mtu { at: Position, place: String, mtu: u16, most: usize },
    #[error(
        "{at}: {owner} has {address} of {field} {pool}, which would be gone: keep that pool (others may be added), or \
         remove {owner} first"
    )]
    Pool { at: Position, owner: String, address: IpAddr, field: &'static str, pool: IpNet },
}

/// What to do where nothing else helps.
const RESTART: &str = ": leave them out of the change, or end the lab and start it anew";

/// A lab and its network, now or after a change.
pub(super) struct Side<'a> {
    pub(super) model: &'a Model,
    pub(super) addressing: &'a Addressing,
    pub(super) spec: &'a LabSpec,
}

/// Whether a lab can go from one to the other while it runs. Its buffers hold frames of `longest` bytes.
pub(super) fn check(was: &Side<'_>, is: &Side<'_>, longest: usize) -> Result<(), Refusal> {
    let at = &is.model.supervisor.at;
    check_uplinks(&was.model.supervisor, &is.model.supervisor)?;
    let far = |side: &Side<'_>| -> Vec<OutsideUplink> {
        // Their MTU is that of the uplink, which may change.
        side.spec.outside.uplinks.iter().map(|u| OutsideUplink { mtu: 0, ..u.clone() }).collect()
    };
    if let Some((_, uplink)) = far(was).into_iter().zip(far(is)).find(|(a, b)| a != b) {
        return Err(Refusal::FarSide { at: at.clone(), uplink: uplink.name });
    }
    if was.model.supervisor.strict_tcp != is.model.supervisor.strict_tcp {
        return Err(Refusal::StrictTcp { at: at.clone() });
    }
    check_mtus(is, longest)?;
    check_pools(was, is)
}

fn check_uplinks(before: &Supervisor, after: &Supervisor) -> Result<(), Refusal> {
    let refused = |uplink: &Uplink, how| {
        Err(Refusal::Uplink { at: after.at.clone(), uplink: uplink.name.clone(), how })
    };
    let (was, is) = (&before.uplinks, &after.uplinks);
    if let Some(gone) = was.iter().find(|u| !is.iter().any(|i| i.name == u.name)) {
        return refused(gone, "would be gone");
    }
    for (i, uplink) in is.iter().enumerate() {
        match was.get(i) {
            _ if !was.iter().any(|w| w.name == uplink.name) => return refused(uplink, "would be new"),
            Some(w) if w.name == uplink.name => {
                if w.addresses != uplink.addresses {
                    return refused(uplink, "would have other addresses");
                }
                if w.mac != uplink.mac {
                    return refused(uplink, "would have another MAC");
                }
                let on = |u: &Uplink| u.interface.as_ref().map(|on| (on.name.value.clone(), on.driver));
                if on(w) != on(uplink) {
                    return refused(uplink, "would be on another interface");
                }
                let (had, has) = (w.mtu.unwrap_or(before.mtu), uplink.mtu.unwrap_or(after.mtu));
                if uplink.interface.is_some() && had != has {
                    return refused(
                        uplink,
                        "would have another MTU, on an interface that was opened for this one",
                    );
                }
            }
            _ => return refused(uplink, "would stand in another place among the uplinks"),
        }
    }
    Ok(())
}

fn check_mtus(is: &Side<'_>, longest: usize) -> Result<(), Refusal> {
    let most = longest.saturating_sub(ETHERNET);
    let uplinks = is.spec.outside.uplinks.iter().map(|u| (format!("uplink {}", u.name), u.mtu, None));
    let endpoints = is.spec.endpoints.iter().map(|e| (e.name.clone(), e.mtu, e.name.split_once('/')));
    let too_large = uplinks.chain(endpoints).find(|(_, mtu, _)| usize::from(*mtu) > most);
    let Some((place, mtu, name)) = too_large else { return Ok(()) };
    let namespace = name.and_then(|(namespace, _)| is.model.namespaces.get(namespace));
    // What said so: the namespace's annotation, or else the Supervisor.
    let at = namespace.filter(|n| n.mtu.is_some()).map_or(&is.model.supervisor.at, |n| &n.at);
    Err(Refusal::Mtu { at: at.clone(), place, mtu, most })
}

/// Who stays keeps its addresses, unless it asks for others: none may lie in a pool that goes.
fn check_pools(was: &Side<'_>, is: &Side<'_>) -> Result<(), Refusal> {
    let (old, new) = (&was.model.supervisor, &is.model.supervisor);
    let (before, after) = (was.addressing, is.addressing);
    let pods = before.pods.iter().map(|(name, pod)| {
        let now = after.pods.get(name).map(|p| &p.addresses);
        (format!("pod {name}"), &pod.addresses, now)
    });
    let nodes = before.nodes.iter().map(|(name, had)| (format!("node {name}"), had, after.nodes.get(name)));
    let cluster = before.cluster_ips.iter().map(|(n, had)| (service(n), had, after.cluster_ips.get(n)));
    let ingress = before.ingress.iter().map(|(n, had)| (service(n), had, after.ingress.get(n)));
    let defaults = [
        ("the virtual server of the Kubernetes API".to_owned(), &before.kube_api, Some(&after.kube_api)),
        (
            "the virtual server of the command-line tools".to_owned(),
            &before.cli_tools,
            Some(&after.cli_tools),
        ),
    ];
    let egress = before.egress.iter().map(|(n, had)| (format!("namespace {n}"), had, after.egress.get(n)));
    let check = |field, was: &[At<IpNet>], is: &[At<IpNet>], owners: &mut dyn Iterator<Item = Owner<'_>>| {
        let gone: Vec<IpNet> =
            was.iter().map(|c| c.value).filter(|c| !is.iter().any(|i| i.value.contains(c))).collect();
        for (owner, had, has) in owners {
            let lost = had.iter().filter(|a| has.is_some_and(|has| !has.contains(a)));
            let mut in_gone = lost.filter_map(|a| Some((*a, *gone.iter().find(|c| c.contains(a))?)));
            if let Some((address, pool)) = in_gone.next() {
                return Err(Refusal::Pool { at: new.at.clone(), owner, address, field, pool });
            }
        }
        Ok(())
    };
    check("podCIDRs", &old.pod_cidrs, &new.pod_cidrs, &mut pods.into_iter())?;
    check("nodeCIDRs", &old.node_cidrs, &new.node_cidrs, &mut nodes.into_iter())?;
    check("serviceCIDRs", &old.service_cidrs, &new.service_cidrs, &mut cluster.into_iter())?;
    check("ingressCIDRs", &old.ingress_cidrs, &new.ingress_cidrs, &mut ingress.chain(defaults))?;
    check("egressCIDRs", &old.egress_cidrs, &new.egress_cidrs, &mut egress.into_iter())
}

/// Who has addresses: its name, those it has, and those it would have if it stays.
type Owner<'a> = (String, &'a Vec<IpAddr>, Option<&'a Vec<IpAddr>>);

fn service(name: &Name) -> String {
    format!("Service {name}")
}
