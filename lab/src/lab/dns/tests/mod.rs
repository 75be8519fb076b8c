//! Names of networks, asked for with messages as resolvers send them.

mod messages;
mod names;
mod objects;

use super::{Asked, Zone, answer, fill, zone::name};
use domain::{
    base::{
        Message, MessageBuilder, RecordData, Rtype,
        iana::{Class, Rcode},
    },
    rdata::AllRecordData,
};
use supernet::{
    Leases, Plan,
    control::{analysis::plan::PodPlan, network::Network, store::UnixSeconds},
    manifests,
    model::Model,
};

/// A network with its plan.
struct Net {
    model: Model,
    network: Network,
    pods: Vec<PodPlan>,
}

impl Net {
    fn of(yaml: &str) -> Self {
        let model = manifests::read_str("x.yaml", yaml).unwrap().model;
        let mut network = Network::new(model.clone(), Leases::memory(), UnixSeconds(0)).unwrap();
        let Plan { pods, .. } = network.plan().unwrap();
        Self { model, network, pods }
    }

    fn zone(&self) -> Zone {
        let server = "kube-dns.kube-system.svc.cluster.local";
        fill::zone(&self.model, self.network.addressing(), &self.pods, server, 7)
    }
}

fn asked(stream: bool) -> Asked<'static> {
    let client = "10.0.0.9:4711".parse().unwrap();
    Asked { namespace: "kube-system", pod: "coredns", client, stream }
}

/// A query as stub resolvers send it.
fn query(text: &str, rtype: Rtype, edns: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x1234);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name(text).unwrap(), rtype, Class::IN)).unwrap();
    let mut builder = builder.additional();
    if let Some(size) = edns {
        builder
            .opt(|opt| {
                opt.set_udp_payload_size(size);
                Ok(())
            })
            .unwrap();
    }
    builder.finish()
}

/// An answer as text: its code, flags, and the records of each section.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    rcode: Rcode,
    flags: String,
    answers: Vec<String>,
    authority: Vec<String>,
    additional: Vec<String>,
}

fn read(message: &[u8]) -> Said {
    let message = Message::from_octets(message).unwrap();
    let header = message.header();
    assert!(header.qr() && header.ra() && !header.z());
    let flags = [("aa", header.aa()), ("tc", header.tc()), ("rd", header.rd())];
    let flags: Vec<&str> = flags.into_iter().filter(|(_, set)| *set).map(|(flag, _)| flag).collect();
    let (_, answer, authority, additional) = message.sections().unwrap();
    let texts = |section: domain::base::message::RecordSection<'_, &[u8]>| -> Vec<String> {
        let records = section.map(|record| record.unwrap());
        let texts = records.filter(|r| r.rtype() != Rtype::OPT).map(|record| {
            let record = record.into_any_record::<AllRecordData<_, _>>().unwrap();
            assert_eq!(record.class(), Class::IN);
            format!("{} {} {}", record.owner(), record.data().rtype(), record.data())
        });
        texts.collect()
    };
    Said {
        rcode: header.rcode(),
        flags: flags.join(" "),
        answers: texts(answer),
        authority: texts(authority),
        additional: texts(additional),
    }
}

fn ask(zone: &Zone, name: &str, rtype: Rtype) -> Said {
    read(&answer(zone, &query(name, rtype, None), &asked(false)).unwrap())
}

/// The records that are found, sorted.
fn records(zone: &Zone, name: &str, rtype: Rtype) -> Vec<String> {
    let said = ask(zone, name, rtype);
    assert_eq!((said.rcode, &*said.flags), (Rcode::NOERROR, "aa rd"), "{name} {rtype}");
    assert!(said.authority.is_empty());
    let mut answers = said.answers;
    answers.sort();
    answers
}

/// Asserts that a name is there, without records of this type.
fn no_data(zone: &Zone, name: &str, rtype: Rtype) {
    let said = ask(zone, name, rtype);
    assert_eq!((said.rcode, &*said.flags), (Rcode::NOERROR, "aa rd"), "{name} {rtype}: {said:?}");
    assert!(said.answers.is_empty() && said.authority[0].contains(" SOA "), "{name} {rtype}: {said:?}");
}

/// Asserts that a name of our zones does not exist.
fn missing(zone: &Zone, name: &str) {
    for rtype in [Rtype::A, Rtype::AAAA, Rtype::SRV, Rtype::TXT, Rtype::PTR, Rtype::ANY] {
        let said = ask(zone, name, rtype);
        assert_eq!((said.rcode, &*said.flags), (Rcode::NXDOMAIN, "aa rd"), "{name} {rtype}: {said:?}");
        assert!(said.answers.is_empty() && said.authority[0].contains(" SOA "), "{name} {rtype}: {said:?}");
    }
}
