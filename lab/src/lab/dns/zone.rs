//! Which names there are, and what is known of each.
//!
//! What always holds: a name that has records, or has names below it, is there, so asking it for records that it has
//! not gives "no data"; all other names of a zone do not exist. Resolvers that try a list of domains go by the
//! difference. Names are compared without regard to case.

use domain::{
    base::{Serial, Ttl},
    rdata::{Aaaa, Cname, Ns, Ptr, Soa, Srv, Txt, ZoneRecordData},
};
use std::{
    borrow::Cow,
    collections::HashMap,
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A name, from the root.
pub(super) type Name = domain::base::Name<Vec<u8>>;
/// What a record says.
pub(super) type Data = ZoneRecordData<Vec<u8>, Name>;

/// The cluster's domain.
pub(super) const CLUSTER: &str = "cluster.local";
/// The version of the Kubernetes DNS specification.
const SCHEMA: &str = "1.1.0";
/// Domains of which everything is known here.
const APEXES: [&str; 3] = [CLUSTER, "in-addr.arpa", "ip6.arpa"];
/// How long records, and that there are none, may be remembered, in seconds. That of CoreDNS.
pub(super) const TTL: u32 = 5;

/// All names of a network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::lab) struct Zone {
    /// By the names' bytes in lower case.
    names: HashMap<Vec<u8>, Vec<Data>>,
    apexes: Vec<Name>,
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// It is there; what it has, perhaps nothing. Of the zone that begins at this name.
    Here(&'a Name, Cow<'a, [Data]>),
    /// It does not exist.
    Missing(&'a Name),
    /// It is in no zone of ours.
    Foreign,
}

impl Zone {
    /// The zones with what is in them whatever the network: `server` is the name of who answers, `serial` counts the
    /// states of the network.
    pub(super) fn new(server: &str, serial: u32) -> Self {
        let mut zone = Self { apexes: APEXES.into_iter().filter_map(name).collect(), ..Self::default() };
        let text = |text: &str| name(text).unwrap_or_else(Name::root_vec);
        for apex in APEXES {
            let seconds = Ttl::from_secs;
            let soa = Soa::new(
                text(server),
                text(&format!("hostmaster.{CLUSTER}")),
                Serial(serial),
                seconds(7200),
                seconds(1800),
                seconds(86400),
                seconds(TTL),
            );
            zone.add(apex, soa.into());
            zone.add(apex, Ns::new(text(server)).into());
        }
        zone.add_text(&format!("dns-version.{CLUSTER}"), SCHEMA);
        zone
    }

    /// Adds an address. A name that is none, or in none of the zones, is passed over, here and below.
    pub(super) fn add_address(&mut self, owner: &str, address: IpAddr) {
        self.add(owner, address_data(address));
    }

    pub(super) fn add_alias(&mut self, owner: &str, target: &str) {
        if let Some(target) = name(target) {
            self.add(owner, Cname::new(target).into());
        }
    }

    pub(super) fn add_server(&mut self, owner: &str, port: u16, target: &str) {
        if let Some(target) = name(target) {
            // Priority and weight of no meaning, those of the specification's examples.
            self.add(owner, Srv::new(10, 100, port, target).into());
        }
    }

    /// Says whose an address is.
    pub(super) fn add_pointer(&mut self, address: IpAddr, target: &str) {
        let (owner, target) = (Name::reverse_from_addr(address), name(target));
        if let (Ok(owner), Some(target)) = (owner, target) {
            self.insert(owner, Some(Ptr::new(target).into()));
        }
    }

    fn add_text(&mut self, owner: &str, text: &str) {
        if let Ok(text) = Txt::build_from_slice(text.as_bytes()) {
            self.add(owner, text.into());
        }
    }

    /// Makes a name that has nothing but, perhaps, names below it.
    pub(super) fn add_name(&mut self, owner: &str) {
        if let Some(owner) = name(owner) {
            self.insert(owner, None);
        }
    }

    fn add(&mut self, owner: &str, data: Data) {
        if let Some(owner) = name(owner) {
            self.insert(owner, Some(data));
        }
    }

    fn insert(&mut self, owner: Name, data: Option<Data>) {
        let owner = key(&owner);
        if let Some(records) = self.names.get_mut(&owner) {
            records.extend(data);
            return;
        }
        let Some(apex) = self.apex(&owner).map(|apex| apex.len()) else { return };
        // Names between it and the zone's are there too. Those above one that is there are.
        for above in suffixes(&owner).skip(1).take_while(|above| above.len() >= apex) {
            if self.names.contains_key(above) {
                break;
            }
            self.names.insert(above.to_vec(), Vec::new());
        }
        self.names.insert(owner, data.into_iter().collect());
    }

    /// The zone that a name is in.
    fn apex(&self, key: &[u8]) -> Option<&Name> {
        suffixes(key).find_map(|suffix| self.apexes.iter().find(|apex| apex.as_slice() == suffix))
    }

    /// Has every record be there once.
    pub(super) fn finish(mut self) -> Self {
        for records in self.names.values_mut() {
            records.sort();
            records.dedup();
        }
        self
    }

    /// What is known of a name.
    pub(super) fn find(&self, name: &Name) -> Found<'_> {
        let key = key(name);
        let Some(apex) = self.apex(&key) else { return Found::Foreign };
        if let Some(records) = self.names.get(&key) {
            return Found::Here(apex, Cow::Borrowed(records));
        }
        match self.pod(&key) {
            Some(address) => Found::Here(apex, Cow::Owned(vec![address_data(address)])),
            None => Found::Missing(apex),
        }
    }

    /// The records of a zone's beginning: those of who is responsible for it.
    pub(super) fn responsible(&self, apex: &Name) -> Option<&Data> {
        self.names.get(apex.as_slice())?.iter().find(|data| matches!(data, Data::Soa(_)))
    }

    /// The address that a pod's name says: `10-244-0-5.shop.pod.cluster.local`. As the specification has it, that is
    /// so for every address, whether a pod has it or not; but the namespace must be there.
    fn pod(&self, key: &[u8]) -> Option<IpAddr> {
        let mut above = suffixes(key).skip(1);
        let (namespace, pods) = (above.next()?, above.next()?);
        if name(&format!("pod.{CLUSTER}"))?.as_slice() != pods || !self.names.contains_key(namespace) {
            return None;
        }
        let label = std::str::from_utf8(&key[1..key.len() - namespace.len()]).ok()?;
        if label.contains(['.', ':']) {
            return None;
        }
        let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
        v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
    }
}

/// A name's bytes, in lower case.
fn key(name: &Name) -> Vec<u8> {
    name.as_slice().to_ascii_lowercase()
}

/// A name, and what is left of it when labels are taken away from the front, to the root.
fn suffixes(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(key).filter(|key| !key.is_empty());
    iter::from_fn(move || {
        let suffix = rest?;
        let (length, labels) = suffix.split_first()?;
        rest = labels.get(usize::from(*length)..).filter(|rest| !rest.is_empty());
        Some(suffix)
    })
}

/// The name that a text without a dot at its end says; `None` if it can't be one.
pub(super) fn name(text: &str) -> Option<Name> {
    Name::vec_from_str(text).ok()
}

/// What an endpoint without a hostname is called, as CoreDNS has it.
pub(super) fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn address_data(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(address) => domain::rdata::A::new(address).into(),
        IpAddr::V6(address) => Aaaa::new(address).into(),
    }
}
