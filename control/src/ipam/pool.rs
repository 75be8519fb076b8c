//! Ranges of addresses, and how the lowest free one is found.
//!
//! A pool is never enumerated: a [`Scan`] walks from the lowest usable address upwards, passes over what is
//! taken and never looks back. Within one plan nothing becomes free, so all scans together cost one look-up
//! an address that is given or passed over, however large the pool (an IPv6 pool has 2^64 addresses and more).

use crate::model::{At, IpFamily, Supervisor};
use ipnet::IpNet;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// What the addresses of a pool are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PoolKind {
    /// Blocks of segments (`podCIDRs`).
    Pods,
    /// ClusterIPs (`serviceCIDRs`).
    Services,
    /// LoadBalancer Services and the default virtual servers (`ingressCIDRs`).
    Ingress,
    /// SNAT (`egressCIDRs`).
    Egress,
    /// Nodes without an address of their own (`nodeCIDRs`).
    Nodes,
}

impl PoolKind {
    pub(super) const ALL: [Self; 5] = [Self::Pods, Self::Services, Self::Ingress, Self::Egress, Self::Nodes];

    /// The Supervisor's field that lists its ranges.
    pub fn field(self) -> &'static str {
        match self {
            Self::Pods => "podCIDRs",
            Self::Services => "serviceCIDRs",
            Self::Ingress => "ingressCIDRs",
            Self::Egress => "egressCIDRs",
            Self::Nodes => "nodeCIDRs",
        }
    }

    fn cidrs(self, supervisor: &Supervisor) -> &[At<IpNet>] {
        match self {
            Self::Pods => &supervisor.pod_cidrs,
            Self::Services => &supervisor.service_cidrs,
            Self::Ingress => &supervisor.ingress_cidrs,
            Self::Egress => &supervisor.egress_cidrs,
            Self::Nodes => &supervisor.node_cidrs,
        }
    }
}

impl fmt::Display for PoolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pods => "pods",
            Self::Services => "services",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Nodes => "nodes",
        })
    }
}

/// All pools of a Supervisor, one a kind and family.
#[derive(Debug)]
pub(super) struct Pools(Vec<Pool>);

impl Pools {
    pub(super) fn new(supervisor: &Supervisor) -> Self {
        let mut pools: Vec<Pool> = Vec::new();
        for kind in PoolKind::ALL {
            let first = pools.len();
            for cidr in kind.cidrs(supervisor) {
                let cidr = cidr.value.trunc();
                let family = IpFamily::of(cidr.addr());
                match pools[first..].iter_mut().find(|p| p.family == family) {
                    Some(pool) => pool.cidrs.push(cidr),
                    None => pools.push(Pool { kind, family, cidrs: vec![cidr], scan: Scan::default() }),
                }
            }
        }
        for pool in &mut pools {
            let (kind, family) = (pool.kind, pool.family);
            // The first IPv4 address of a node CIDR is left for the gateway of the nodes' segment.
            let ranges = pool.cidrs.iter().map(|cidr| match usable(cidr) {
                (first, last) if (kind, family) == (PoolKind::Nodes, IpFamily::V4) && last - first > 1 => {
                    (first + 1, last)
                }
                range => range,
            });
            pool.scan = Scan::new(family, ranges.collect());
        }
        Self(pools)
    }

    /// The families of a kind, in the order in which they were written.
    pub(super) fn families(&self, kind: PoolKind) -> impl Iterator<Item = IpFamily> {
        self.0.iter().filter(move |p| p.kind == kind).map(|p| p.family)
    }

    pub(super) fn get(&self, kind: PoolKind, family: IpFamily) -> Option<&Pool> {
        self.0.iter().find(|p| (p.kind, p.family) == (kind, family))
    }

    pub(super) fn get_mut(&mut self, kind: PoolKind, family: IpFamily) -> Option<&mut Pool> {
        self.0.iter_mut().find(|p| (p.kind, p.family) == (kind, family))
    }

    /// The pool of one of these kinds that an address lies in.
    pub(super) fn find(&self, kinds: &[PoolKind], address: IpAddr) -> Option<&Pool> {
        self.0.iter().find(|p| kinds.contains(&p.kind) && p.cidrs.iter().any(|c| c.contains(&address)))
    }
}

/// Addresses of one kind and family.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) kind: PoolKind,
    pub(super) family: IpFamily,
    pub(super) cidrs: Vec<IpNet>,
    scan: Scan,
}

impl Pool {
    /// Whether an address may be given, and if not, why.
    pub(super) fn place(&self, address: IpAddr) -> Place {
        match self.cidrs.iter().find(|c| c.contains(&address)) {
            None => Place::Outside,
            Some(cidr) => {
                let (first, last) = usable(cidr);
                let bits = bits(address);
                if bits < first {
                    Place::Reserved(
                        if address.is_ipv4() { "network" } else { "subnet-router anycast" },
                        *cidr,
                    )
                } else if bits > last {
                    Place::Reserved("broadcast", *cidr)
                } else {
                    Place::Usable
                }
            }
        }
    }

    /// How many addresses may be given.
    pub(super) fn size(&self) -> u128 {
        let count = |cidr| {
            let (first, last) = usable(cidr);
            (last - first).saturating_add(1)
        };
        self.cidrs.iter().map(count).fold(0, u128::saturating_add)
    }

    /// How many blocks of this length it can be cut into.
    pub(super) fn blocks(&self, length: u8) -> u128 {
        let count = |cidr: &IpNet| match length.checked_sub(cidr.prefix_len()) {
            Some(bits) => 1u128.checked_shl(bits.into()).unwrap_or(u128::MAX),
            None => 0,
        };
        self.cidrs.iter().map(count).fold(0, u128::saturating_add)
    }

    /// The lowest address that `is_free`. What it passes over is not looked at again.
    pub(super) fn next(&mut self, is_free: impl FnMut(IpAddr) -> bool) -> Option<IpAddr> {
        self.scan.next(is_free)
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        for (i, cidr) in self.cidrs.iter().enumerate() {
            write!(f, "{} {cidr}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Where an address stands in a pool or a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It may be given.
    Usable,
    /// It has this part to play in this prefix, and is given to nobody.
    Reserved(&'static str, IpNet),
    /// It is elsewhere.
    Outside,
}

/// A segment's block: the first address is the gateway, and in IPv4 the outermost two are not used.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) net: IpNet,
    hosts: Scan,
}

impl Block {
    pub(super) fn new(net: IpNet) -> Self {
        let (first, last) = ends(&net);
        let last = if net.addr().is_ipv4() { last - 1 } else { last };
        Self { net, hosts: Scan::new(IpFamily::of(net.addr()), vec![(first + 2, last)]) }
    }

    /// Whether a pod may have an address in a block.
    pub(super) fn place(net: &IpNet, address: IpAddr) -> Place {
        if !net.contains(&address) {
            return Place::Outside;
        }
        let (first, last) = ends(net);
        match (bits(address) - first, address.is_ipv4()) {
            (0, true) => Place::Reserved("network", *net),
            (0, false) => Place::Reserved("subnet-router anycast", *net),
            (1, _) => Place::Reserved("gateway", *net),
            (_, true) if bits(address) == last => Place::Reserved("broadcast", *net),
            _ => Place::Usable,
        }
    }

    /// The lowest pod address that `is_free`.
    pub(super) fn next(&mut self, is_free: impl FnMut(IpAddr) -> bool) -> Option<IpAddr> {
        self.hosts.next(is_free)
    }
}

/// Walks over ranges, upwards and once.
#[derive(Debug, Clone)]
struct Scan {
    family: IpFamily,
    /// Inclusive.
    ranges: Vec<(u128, u128)>,
    range: usize,
    /// The next address in that range to be looked at, or `None` for its first.
    next: Option<u128>,
}

impl Default for Scan {
    fn default() -> Self {
        Self::new(IpFamily::V4, Vec::new())
    }
}

impl Scan {
    fn new(family: IpFamily, ranges: Vec<(u128, u128)>) -> Self {
        Self { family, ranges, range: 0, next: None }
    }

    fn next(&mut self, mut is_free: impl FnMut(IpAddr) -> bool) -> Option<IpAddr> {
        while let Some(&(first, last)) = self.ranges.get(self.range) {
            let at = self.next.unwrap_or(first);
            if at > last {
                self.range += 1;
                self.next = None;
                continue;
            }
            match at.checked_add(1) {
                Some(next) => self.next = Some(next),
                None => {
                    self.range += 1;
                    self.next = None;
                }
            }
            let address = address(self.family, at);
            if is_free(address) {
                return Some(address);
            }
        }
        None
    }
}

/// The first and last address of a range that may be given: in IPv4 neither the network nor the broadcast
/// address, in IPv6 not the subnet-router anycast address (RFC 4291, 2.6.1). Ranges of one or two addresses
/// have none of these (RFC 3021, RFC 6164).
fn usable(cidr: &IpNet) -> (u128, u128) {
    let (first, last) = ends(cidr);
    match (cidr.max_prefix_len() - cidr.prefix_len() > 1, cidr.addr().is_ipv4()) {
        (false, _) => (first, last),
        (true, true) => (first + 1, last - 1),
        (true, false) => (first + 1, last),
    }
}

/// The first and last address of a prefix.
pub(super) fn ends(net: &IpNet) -> (u128, u128) {
    (bits(net.network()), bits(net.broadcast()))
}

pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// The address of these bits; of those of an IPv4 address, the lower 32.
pub(super) fn address(family: IpFamily, bits: u128) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::from_bits((bits & u128::from(u32::MAX)) as u32).into(),
        IpFamily::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

/// The prefix of this length around an address; no longer than the family allows.
pub(super) fn prefix(address: IpAddr, length: u8) -> IpNet {
    let whole = IpNet::from(address);
    IpNet::new(address, length).map_or(whole, |net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidrs: &[&str]) -> Pool {
        let ingress_cidrs = cidrs.iter().map(|c| At::from(c.parse::<IpNet>().unwrap())).collect();
        let supervisor = Supervisor { ingress_cidrs, ..Supervisor::default() };
        let mut pools = Pools::new(&supervisor);
        pools.0.remove(pools.0.iter().position(|p| p.kind == PoolKind::Ingress).unwrap())
    }

    fn all(cidrs: &[&str]) -> Vec<String> {
        let mut pool = pool(cidrs);
        std::iter::from_fn(|| pool.next(|_| true)).map(|a| a.to_string()).collect()
    }

    #[test]
    fn only_usable_addresses_are_given() {
        assert_eq!(all(&["10.0.0.0/30"]), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(all(&["10.0.0.4/31", "10.0.0.9/32"]), ["10.0.0.4", "10.0.0.5", "10.0.0.9"]);
        assert_eq!(all(&["255.255.255.255/32"]), ["255.255.255.255"]);
        assert_eq!(all(&["fd00::/126"]), ["fd00::1", "fd00::2", "fd00::3"]);
        assert_eq!(
            all(&["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"]).len(),
            2,
            "the last of all addresses"
        );
        for cidrs in [["10.0.0.0/30"], ["10.0.0.4/31"], ["fd00::/126"], ["fd00::/127"], ["10.0.0.1/32"]] {
            assert_eq!(pool(&cidrs).size(), all(&cidrs).len() as u128, "{cidrs:?}");
        }
        assert_eq!(pool(&["::/0"]).size(), u128::MAX);
    }

    #[test]
    fn a_scan_agrees_with_place() {
        for cidr in ["10.0.0.0/28", "10.0.0.0/30", "10.0.0.0/31", "fd00::/124"] {
            let given = all(&[cidr]);
            let net: IpNet = cidr.parse().unwrap();
            let placed: Vec<_> = net_addresses(&net)
                .filter(|a| pool(&[cidr]).place(*a) == Place::Usable)
                .map(|a| a.to_string())
                .collect();
            assert_eq!(given, placed, "{cidr}");
        }
        for cidr in ["10.0.0.0/28", "10.0.0.0/30", "255.255.255.252/30", "fd00::/124"] {
            let net: IpNet = cidr.parse().unwrap();
            let mut block = Block::new(net);
            let given: Vec<_> = std::iter::from_fn(|| block.next(|_| true)).collect();
            let placed: Vec<_> =
                net_addresses(&net).filter(|a| Block::place(&net, *a) == Place::Usable).collect();
            assert_eq!(given, placed, "{cidr}");
        }
    }

    #[test]
    fn a_block_of_28_holds_13_pods() {
        let net: IpNet = "10.244.0.16/28".parse().unwrap();
        let mut block = Block::new(net);
        let given: Vec<_> = std::iter::from_fn(|| block.next(|_| true)).collect();
        assert_eq!(given.len(), 13);
        assert_eq!(given[0].to_string(), "10.244.0.18");
        assert_eq!(given[12].to_string(), "10.244.0.30");
    }

    fn net_addresses(net: &IpNet) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, last) = ends(net);
        let family = IpFamily::of(net.addr());
        (first..=last).map(move |b| address(family, b))
    }
}
