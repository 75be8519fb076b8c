//! What a lab is made of, as plain values: who has which interface, and what lies beyond the uplinks.
//!
//! Whoever has planned a network writes this down; [`super::bring_up`] reads it. Nothing here knows of
//! manifests or of the dataplane.

use super::{dns::Names, error::LabError};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};
use supernet_control::model::{Mac, Protocol};

/// The name by which the world beyond the uplinks is entered.
pub(crate) const OUTSIDE: &str = "outside";

/// A whole lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabSpec {
    /// Pods, and nodes that are to be seen as hosts.
    pub(crate) endpoints: Vec<EndpointSpec>,
    /// The world beyond the uplinks.
    pub(crate) outside: OutsideSpec,
    /// Names, if the lab has a DNS.
    pub(crate) names: Option<Names>,
}

impl LabSpec {
    /// Leaves the ports of `target` to the user: `outside`, a pod, or what else stands for one. Its full name.
    ///
    /// # Errors
    /// Nothing, or more than one thing, is called that.
    pub(crate) fn without_responder(&mut self, lab: &str, target: &str) -> Result<String, LabError> {
        let mut all: Vec<(&str, Option<&str>, &mut Vec<_>)> = Vec::new();
        for EndpointSpec { name, workload, serve, hosted, .. } in &mut self.endpoints {
            all.push((name, workload.as_deref(), serve));
            all.extend(hosted.iter_mut().map(|h| (&*h.name, h.workload.as_deref(), &mut h.serve)));
        }
        all.push((OUTSIDE, None, &mut self.outside.serve));
        let found = resolve(lab, all.iter().map(|(name, workload, _)| (*name, *workload)), target)?;
        all[found].2.clear();
        Ok(all[found].0.to_owned())
    }

    /// Leaves the ports of all who are called so to the user.
    pub(super) fn silence(&mut self, names: &BTreeSet<String>) {
        for endpoint in &mut self.endpoints {
            if names.contains(&endpoint.name) {
                endpoint.serve.clear();
            }
            for hosted in endpoint.hosted.iter_mut().filter(|h| names.contains(&h.name)) {
                hosted.serve.clear();
            }
        }
        if names.contains(OUTSIDE) {
            self.outside.serve.clear();
        }
    }
}

/// Which of the hosts, given by name and workload, `target` stands for: its full name, the name of its workload
/// (whose first pod it then is), or a unique prefix of its name.
pub(super) fn resolve<'a>(
    lab: &str,
    hosts: impl Iterator<Item = (&'a str, Option<&'a str>)> + Clone,
    target: &str,
) -> Result<usize, LabError> {
    let mut all = hosts.clone();
    let named = all.position(|(name, _)| name == target);
    let mut all = hosts.clone();
    if let Some(i) = named.or_else(|| all.position(|(_, workload)| workload == Some(target))) {
        return Ok(i);
    }
    let (lab, target) = (lab.to_owned(), target.to_owned());
    let starting: Vec<(usize, &str)> =
        hosts.clone().map(|(name, _)| name).enumerate().filter(|(_, n)| n.starts_with(&target)).collect();
    let owned = |names: &mut dyn Iterator<Item = &'a str>| names.map(str::to_owned).collect();
    match starting[..] {
        [(i, _)] => Ok(i),
        [] => Err(LabError::UnknownTarget { lab, target, names: owned(&mut hosts.map(|(name, _)| name)) }),
        _ => {
            let candidates = owned(&mut starting.into_iter().map(|(_, name)| name));
            Err(LabError::AmbiguousTarget { lab, target, candidates })
        }
    }
}

/// A host with one interface, `eth0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointSpec {
    /// `NAMESPACE/POD`.
    pub(crate) name: String,
    /// The workload it belongs to, `NAMESPACE/NAME`; its name stands for the first of its pods.
    pub(crate) workload: Option<String>,
    /// The interface's MAC.
    pub(crate) mac: Mac,
    /// Its addresses with the length of the prefix that is on the link; /32 and /128 for an address outside
    /// the segment's block.
    pub(crate) addresses: Vec<IpNet>,
    /// Next hops of the default routes, at most one a family; on the link even when no prefix covers them.
    pub(crate) gateways: Vec<IpAddr>,
    /// MTU, bytes of IP packet.
    pub(crate) mtu: u16,
    /// Ports that the built-in responder serves.
    pub(crate) serve: Vec<(Protocol, u16)>,
    /// Those of them on which it speaks DNS.
    pub(crate) dns: Vec<(Protocol, u16)>,
    /// Pods that use this host's network instead of one of their own.
    pub(crate) hosted: Vec<HostedPod>,
}

/// A pod in the network namespace of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostedPod {
    /// `NAMESPACE/POD`.
    pub(crate) name: String,
    /// The workload it belongs to, as [`EndpointSpec::workload`].
    pub(crate) workload: Option<String>,
    /// Its ports that the built-in responder serves.
    pub(crate) serve: Vec<(Protocol, u16)>,
    /// Those of them on which it speaks DNS.
    pub(crate) dns: Vec<(Protocol, u16)>,
}

/// The world beyond the uplinks: one namespace with an interface to each uplink.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct OutsideSpec {
    /// The far side of every uplink.
    pub(crate) uplinks: Vec<OutsideUplink>,
    /// Addresses of its own, on the loopback: servers that pods reach by way of the uplinks.
    pub(crate) addresses: Vec<IpAddr>,
    /// What it reaches through the uplinks: pods, ingress and egress addresses.
    pub(crate) routes: Vec<OutsideRoute>,
    /// Ports that the built-in responder serves.
    pub(crate) serve: Vec<(Protocol, u16)>,
}

/// The physical router's interface towards one uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutsideUplink {
    /// The uplink's name.
    pub(crate) name: String,
    /// The interface's MAC; the kernel chooses when absent.
    pub(crate) mac: Option<Mac>,
    /// Its addresses: those that the Tier-0's static routes name as next hops.
    pub(crate) addresses: Vec<IpNet>,
    /// MTU, bytes of IP packet.
    pub(crate) mtu: u16,
}

/// A route into the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutsideRoute {
    /// The destination.
    pub(crate) prefix: IpNet,
    /// Several share the flows.
    pub(crate) via: Vec<Via>,
}

/// The uplink that a route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Via {
    /// Which of [`OutsideSpec::uplinks`] stands opposite of it. Its address does not tell: uplinks may share a
    /// network.
    pub(crate) uplink: usize,
    /// Its address.
    pub(crate) address: IpAddr,
}

/// Where a TAP is to be attached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// The port of this endpoint.
    Endpoint(String),
    /// The uplink of this name.
    Uplink(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [(&str, Option<&str>); 5] = [
        ("shop/web", None),
        ("shop/web-1", Some("shop/front")),
        ("shop/web-2", Some("shop/front")),
        ("shop/db-0", Some("shop/db")),
        (OUTSIDE, None),
    ];

    fn find(target: &str) -> Result<&'static str, String> {
        resolve("l", HOSTS.into_iter(), target).map(|i| HOSTS[i].0).map_err(|e| e.to_string())
    }

    #[test]
    fn a_workload_or_a_unique_prefix_stands_for_a_pod() {
        assert_eq!(find("shop/d"), Ok("shop/db-0"));
        assert_eq!(find("outside"), Ok("outside"));
        assert_eq!(find("shop/web"), Ok("shop/web"), "an exact name wins");
        assert_eq!(find("shop/front"), Ok("shop/web-1"), "the first of the workload");
    }

    #[test]
    fn what_does_not_resolve_says_what_there_is() {
        let error = find("shop/web-").unwrap_err();
        assert!(error.contains("could be shop/web-1, shop/web-2"), "{error}");
        let error = find("shop/cache").unwrap_err();
        assert!(error.contains("there is: shop/web, shop/web-1, "), "{error}");
    }
}
