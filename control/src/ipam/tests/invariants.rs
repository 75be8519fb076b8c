//! Random histories, checked after every step against a slow account of who had what, and when.

use super::*;
use crate::model::{Change, ObjectKind};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

#[derive(Debug, Clone)]
enum Op {
    Pod(u8, u8, Option<String>),
    NoPod(u8, u8),
    Namespace(u8, Option<Snat>),
    Service(u8, Option<String>),
    NoService(u8),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let address = prop_oneof![
        6 => Just(None),
        1 => (0u8..128).prop_map(|i| Some(format!("10.244.0.{i}"))),
        1 => (1u8..4).prop_map(|i| Some(format!("203.0.113.{i}"))),
        1 => (0u8..4, 0u8..4).prop_map(|(net, host)| Some(format!("fd00:10:0:{net}::{host}"))),
    ];
    let ingress = prop_oneof![3 => Just(None), 1 => (0u8..9).prop_map(|i| Some(format!("192.168.80.{i}")))];
    let snat = prop_oneof![
        2 => Just(None),
        3 => Just(Some(Snat::Pool)),
        1 => Just(Some(Snat::None)),
        2 => (0u8..9).prop_map(|i| Some(Snat::Static(vec![asks(&format!("192.168.90.{i}"))]))),
    ];
    prop_oneof![
        10 => (0u8..5, 0u8..9, address).prop_map(|(ns, i, a)| Op::Pod(ns, i, a)),
        8 => (0u8..5, 0u8..9).prop_map(|(ns, i)| Op::NoPod(ns, i)),
        5 => (0u8..8, snat).prop_map(|(ns, snat)| Op::Namespace(ns, snat)),
        3 => (0u8..6, ingress).prop_map(|(i, a)| Op::Service(i, a)),
        2 => (0u8..6).prop_map(Op::NoService),
        6 => (1u64..45).prop_map(Op::Wait),
    ]
}

fn change(op: &Op) -> Change {
    match op {
        Op::Pod(ns, i, address) => Change::upsert(pod(
            &format!("n{ns}/p{i}"),
            &address.iter().map(String::as_str).collect::<Vec<_>>(),
        )),
        Op::NoPod(ns, i) => Change::delete(ObjectKind::Pod, name(&format!("n{ns}/p{i}"))),
        Op::Namespace(ns, Some(snat)) => Change::upsert(namespace(&format!("n{ns}"), snat.clone())),
        Op::Namespace(ns, None) => Change::delete(ObjectKind::Namespace, Name::new("", format!("n{ns}"))),
        Op::Service(i, address) => {
            let mut service = service(&format!("n0/s{i}"), ServiceKind::LoadBalancer);
            service.load_balancer_ip = address.as_deref().map(asks);
            Change::upsert(service)
        }
        Op::NoService(i) => Change::delete(ObjectKind::Service, name(&format!("n0/s{i}"))),
        Op::Wait(_) => Change::default(),
    }
}

/// Sixteen blocks of five pods, six egress and six ingress addresses: all of them run out.
fn small() -> Supervisor {
    Supervisor {
        pod_cidrs: nets(&["10.244.0.0/25", "fd00:10::/58"]),
        namespace_prefix: 29,
        egress_cidrs: nets(&["192.168.90.0/29", "fd00:90::/120"]),
        ingress_cidrs: nets(&["192.168.80.0/29"]),
        ..Supervisor::default()
    }
}

/// A store that remembers as long as the test runs.
#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<LeaseTable>>);

impl LeaseStore for Shared {
    fn load(&mut self) -> Result<LeaseTable, StoreError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn apply(&mut self, batch: &LeaseBatch) -> Result<(), StoreError> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (net, lease) in batch {
            match lease {
                Some(lease) => drop(table.insert(*net, lease.clone())),
                None => drop(table.remove(net)),
            }
        }
        Ok(())
    }
}

/// Somebody had something for a time.
#[derive(Debug, Clone)]
struct Episode {
    net: IpNet,
    owner: Owner,
    freed: Option<UnixSeconds>,
}

#[derive(Default)]
struct Account(Vec<Episode>);

impl Account {
    /// Whether somebody else may not have `net` yet, from the point of view of `owner`.
    fn conflict(&self, net: IpNet, owner: &Owner, now: UnixSeconds) -> Option<&Episode> {
        self.0.iter().find(|e| {
            let overlap = e.net.contains(&net) || net.contains(&e.net);
            let same = match (&e.owner, owner) {
                (Owner::Segment { namespace: a, .. }, Owner::Segment { namespace: b, .. }) => a == b,
                (Owner::Segment { namespace, .. }, Owner::Pod(pod))
                | (Owner::Pod(pod), Owner::Segment { namespace, .. }) => *namespace == pod.namespace,
                (a, b) => a == b,
            };
            overlap && !same && e.freed.is_none_or(|freed| now < freed.plus(60))
        })
    }

    fn record(&mut self, table: &LeaseTable, now: UnixSeconds) {
        let held: BTreeMap<IpNet, &Owner> =
            table.iter().filter(|(_, l)| l.is_held()).map(|(n, l)| (*n, &l.owner)).collect();
        for episode in self.0.iter_mut().filter(|e| e.freed.is_none()) {
            if held.get(&episode.net) != Some(&&episode.owner) {
                episode.freed = Some(now);
            }
        }
        for (net, owner) in held {
            if self.0.iter().any(|e| e.net == net && e.owner == *owner && e.freed.is_none()) {
                continue;
            }
            let conflict = self.conflict(net, owner, now);
            assert!(conflict.is_none(), "{owner} got {net} at {now} despite {conflict:?}");
            self.0.push(Episode { net, owner: owner.clone(), freed: None });
        }
    }

    /// The IPv4 egress addresses, worked out the slow way; `None` if somebody cannot have one.
    fn egress(&self, model: &Model, now: UnixSeconds) -> Option<BTreeMap<String, IpAddr>> {
        let pool: Vec<IpAddr> = (1..7).map(|i| ip(&format!("192.168.90.{i}"))).collect();
        let wish = |n: &Namespace| match &n.snat {
            Snat::Static(a) => Some(a[0].value),
            _ => None,
        };
        let mut given: BTreeMap<String, IpAddr> = BTreeMap::new();
        let wanting: Vec<&Namespace> = model.namespaces.values().filter(|n| n.snat != Snat::None).collect();
        for n in &wanting {
            let mut mine: Vec<&Episode> = (self.0.iter())
                .filter(|e| e.owner == Owner::Egress(n.name.clone()) && e.net.addr().is_ipv4())
                .filter(|e| e.freed.is_none_or(|freed| now < freed.plus(60)))
                .collect();
            mine.sort_by_key(|e| (e.freed.is_some(), e.net));
            let keep = mine.iter().map(|e| e.net.addr()).find(|a| wish(n).is_none_or(|w| w == *a));
            given.extend(keep.map(|a| (n.name.clone(), a)));
        }
        let free = |given: &BTreeMap<String, IpAddr>, n: &Namespace, a: IpAddr| {
            let gone: Vec<_> = self.0.iter().filter(|e| e.net == a.into()).collect();
            let rests = gone.iter().any(|e| {
                e.owner != Owner::Egress(n.name.clone()) && e.freed.is_none_or(|freed| now < freed.plus(60))
            });
            pool.contains(&a) && !rests && !given.values().any(|g| *g == a)
        };
        for n in &wanting {
            if let (false, Some(wish)) = (given.contains_key(&n.name), wish(n)) {
                if !free(&given, n, wish) {
                    return None;
                }
                given.insert(n.name.clone(), wish);
            }
        }
        for n in &wanting {
            if !given.contains_key(&n.name) {
                let next = pool.iter().copied().find(|a| free(&given, n, *a))?;
                given.insert(n.name.clone(), next);
            }
        }
        Some(given)
    }
}

fn check_addressing(model: &Model, got: &Addressing) {
    let mut all: Vec<IpAddr> = got.pods.values().flat_map(|p| p.addresses.clone()).collect();
    for list in [&got.kube_api, &got.cli_tools] {
        all.extend(list);
    }
    for lists in [got.cluster_ips.values(), got.ingress.values()] {
        all.extend(lists.flatten());
    }
    for lists in [got.egress.values(), got.nodes.values()] {
        all.extend(lists.flatten());
    }
    let blocks: Vec<IpNet> =
        got.segments.iter().flat_map(|s| [s.v4.map(IpNet::from), s.v6.map(IpNet::from)]).flatten().collect();
    for block in &blocks {
        let mut hosts = block.hosts();
        let gateway = if block.addr().is_ipv4() { hosts.next().unwrap() } else { hosts.nth(1).unwrap() };
        for reserved in [block.network(), gateway, block.broadcast()] {
            assert!(!all.contains(&reserved), "{reserved} of {block}");
        }
        assert_eq!(blocks.iter().filter(|b| b.contains(block)).count(), 1, "{block} lies in another one");
    }
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count, "an address twice: {got:?}");

    for namespace in model.namespaces.keys() {
        let numbers: Vec<_> = got.segments.iter().filter(|s| s.namespace == *namespace).collect();
        assert_eq!(numbers.first().map(|s| s.name.clone()), Some(format!("{namespace}-0")));
    }
    assert_eq!(got.pods.keys().collect::<Vec<_>>(), model.pods.keys().collect::<Vec<_>>());
    for (name, place) in &got.pods {
        let segment = got.segments.iter().find(|s| s.name == place.segment).unwrap();
        assert_eq!(segment.namespace, name.namespace);
        let families: Vec<bool> = place.addresses.iter().map(IpAddr::is_ipv4).collect();
        assert!(families == [true, false] || families == [false, true], "{place:?}");
        let asked = &model.pods[name].addresses;
        for address in &place.addresses {
            let around = got.segments.iter().find(|s| {
                s.v4.is_some_and(|n| IpNet::from(n).contains(address))
                    || s.v6.is_some_and(|n| IpNet::from(n).contains(address))
            });
            assert!(around.is_none_or(|s| s.namespace == name.namespace), "{name} in another's block");
            assert!(around.is_some() || asked.iter().any(|a| a.value == *address), "{name} outside");
        }
        for asked in asked {
            assert!(place.addresses.contains(&asked.value), "{name} asked for {}", asked.value);
        }
    }
    for (name, service) in &model.services {
        if let Some(asked) = &service.load_balancer_ip {
            assert_eq!(got.ingress[name], [asked.value]);
        }
        let (ingress, services) = ("192.168.80.0/29", "10.96.0.0/16");
        assert!(ingress.parse::<IpNet>().unwrap().contains(&got.ingress[name][0]));
        assert!(services.parse::<IpNet>().unwrap().contains(&got.cluster_ips[name][0]));
    }
}

/// Who asks for the same as before has the same as before.
fn check_sticky(before: (&Model, &Addressing), after: (&Model, &Addressing)) {
    for (name, old) in &before.1.pods {
        if after.0.pods.get(name).is_some_and(|p| p.addresses == before.0.pods[name].addresses) {
            assert_eq!(old.addresses, after.1.pods[name].addresses, "{name}");
        }
    }
    for (name, old) in &before.1.ingress {
        let wish = |m: &Model| m.services.get(name).map(|s| s.load_balancer_ip.clone());
        if wish(before.0) == wish(after.0) {
            assert_eq!(*old, after.1.ingress[name], "{name}");
        }
    }
    for segment in &before.1.segments {
        if segment.name.ends_with("-0") && after.0.namespaces.contains_key(&segment.namespace) {
            assert!(after.1.segments.contains(segment), "{segment:?} moved");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_leased_twice_and_all_that_is_free_is_leased(ops in prop::collection::vec(op(), 1..90)) {
        let store = Shared::default();
        let mut ipam = Ipam::new(Leases::load(store.clone()).unwrap());
        let mut now = NOW;
        let mut model = model(small(), []);
        let mut last = ipam.now(&model, now).unwrap();
        let mut account = Account::default();
        account.record(ipam.leases(), now);
        for op in &ops {
            if let Op::Wait(seconds) = op {
                now = now.plus(*seconds);
            }
            let Ok(next) = model.with(change(op)) else { continue };
            let egress = account.egress(&next, now);
            let before = ipam.leases().clone();
            match ipam.now(&next, now) {
                Ok(got) => {
                    check_addressing(&next, &got);
                    check_sticky((&model, &last), (&next, &got));
                    account.record(ipam.leases(), now);
                    let v4 = |(n, a): (&String, &Vec<IpAddr>)| (n.clone(), a[0]);
                    prop_assert_eq!(Some(got.egress.iter().map(v4).collect()), egress);
                    (model, last) = (next, got);
                }
                Err(errors) => {
                    prop_assert_eq!(ipam.leases(), &before);
                    let about_egress = errors.0.iter().any(|e| match e {
                        IpamError::Refused { owner, .. } | IpamError::Exhausted { owner, .. } => {
                            matches!(owner, Owner::Egress(_))
                        }
                        _ => false,
                    });
                    prop_assert_eq!(about_egress, egress.is_none(), "{}", errors);
                }
            }
            // The store has what memory has, and planning the same again changes nothing.
            let reopened = Ipam::new(Leases::load(store.clone()).unwrap());
            prop_assert_eq!(reopened.leases(), ipam.leases());
            let again = reopened.plan(&model, now, &IDLE).unwrap();
            prop_assert_eq!(again.addressing(), &last);
        }
    }
}
