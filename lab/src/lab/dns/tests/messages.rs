//! Messages: whatever comes, what may be said to it.

use super::*;
use domain::base::{Name, iana::Opcode, name::ToName};
use proptest::prelude::*;
use std::{fmt::Write, sync::LazyLock};

/// A headless Service with 200 endpoints.
fn many() -> Zone {
    let mut yaml = "
apiVersion: v1
kind: Service
metadata: {name: many, namespace: shop}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.7, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: many-1, namespace: shop, labels: {kubernetes.io/service-name: many}}
addressType: IPv4
ports: [{name: sql, port: 5432}]
endpoints:
"
    .to_owned();
    for n in 1..=200 {
        writeln!(yaml, "- {{addresses: [192.0.2.{n}]}}").unwrap();
    }
    Net::of(&yaml).zone()
}

const WEB: &str = "web.shop.svc.cluster.local";
const MANY: &str = "many.shop.svc.cluster.local";

fn udp(zone: &Zone, message: &[u8]) -> Option<Vec<u8>> {
    answer(zone, message, &asked(false))
}

/// The question as it stands in a message.
fn question(message: &[u8]) -> String {
    let message = Message::from_octets(message).unwrap();
    let question = message.sole_question().unwrap();
    format!("{} {} {}", question.qname(), question.qtype(), question.qclass())
}

#[test]
fn the_questions_case_is_kept() {
    let zone = many();
    let asked = "wEb.SHOP.svc.Cluster.lOcal";
    let said = udp(&zone, &query(asked, Rtype::A, None)).unwrap();
    assert_eq!(question(&said), format!("{asked} A IN"));
    assert_eq!(read(&said).answers, [format!("{asked} A 10.96.0.7")], "and the answer has it");
    let said = udp(&zone, &query("No.Such.Cluster.Local", Rtype::A, None)).unwrap();
    assert_eq!(question(&said), "No.Such.Cluster.Local A IN");
    assert!(read(&said).authority[0].to_lowercase().starts_with("cluster.local soa "));
}

#[test]
fn what_does_not_fit_a_datagram_is_had_by_tcp() {
    let zone = many();
    for (edns, most) in
        [(None, 512), (Some(100), 512), (Some(900), 900), (Some(4096), 1232), (Some(65535), 1232)]
    {
        let said = udp(&zone, &query(MANY, Rtype::A, edns)).unwrap();
        assert!(said.len() <= most && said.len() + 27 > most, "{edns:?}: {} of {most}", said.len());
        let had_opt = Message::from_octets(&said[..]).unwrap().opt().is_some();
        assert_eq!(had_opt, edns.is_some());
        let read = read(&said);
        assert_eq!((read.rcode, &*read.flags), (Rcode::NOERROR, "aa tc rd"));
        assert!(read.answers.len() > 20, "old resolvers make do with some");
    }
    let whole = answer(&zone, &query(MANY, Rtype::A, None), &asked(true)).unwrap();
    let whole = read(&whole);
    assert_eq!((whole.answers.len(), &*whole.flags), (200, "aa rd"));
    let servers =
        answer(&zone, &query(&format!("_sql._tcp.{MANY}"), Rtype::SRV, None), &asked(true)).unwrap();
    let servers = read(&servers);
    assert_eq!((servers.answers.len(), servers.additional.len(), &*servers.flags), (200, 200, "aa rd"));
}

#[test]
fn another_endpoint_comes_first_from_query_to_query() {
    let zone = many();
    let first = |id: u16| {
        let mut query = query(MANY, Rtype::A, None);
        query[..2].copy_from_slice(&id.to_be_bytes());
        let whole = read(&answer(&zone, &query, &asked(true)).unwrap()).answers;
        assert_eq!(whole.len(), 200);
        whole[0].clone()
    };
    assert_ne!(first(1), first(2));
    assert_eq!(first(3), first(3));
}

#[test]
fn what_is_no_query_is_told_so_or_passed_over() {
    let zone = many();
    let good = query(WEB, Rtype::A, None);
    let header = |message: &[u8]| {
        let said = udp(&zone, message)?;
        let header = Message::from_octets(&said[..]).unwrap().header_section();
        Some((header.header().id(), header.header().rcode()))
    };
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut message = good.clone();
        change(&mut message);
        header(&message)
    };
    let id = 0x1234;
    assert_eq!(with(&|_| ()), Some((id, Rcode::NOERROR)));
    assert_eq!(with(&|m| m[2] |= 0x80), None, "a response");
    assert_eq!(with(&|m| m.truncate(11)), None, "no header");
    assert_eq!(header(&[]), None);
    for opcode in [1, 2, 4, 5, 15] {
        assert_eq!(with(&|m| m[2] |= opcode << 3), Some((id, Rcode::NOTIMP)), "opcode {opcode}");
    }
    assert_eq!(with(&|m| m.truncate(12)), Some((id, Rcode::FORMERR)), "no question");
    assert_eq!(with(&|m| m.truncate(20)), Some((id, Rcode::FORMERR)), "half a question");
    assert_eq!(with(&|m| m[5] = 0), Some((id, Rcode::FORMERR)), "none");
    assert_eq!(with(&|m| m[5] = 2), Some((id, Rcode::FORMERR)), "two, and there is one");
    assert_eq!(with(&|m| m[12] = 0x80), Some((id, Rcode::FORMERR)), "a label of no kind");
    assert_eq!(with(&|m| m[12..14].copy_from_slice(&[0xc0, 12])), Some((id, Rcode::FORMERR)), "to itself");
    assert_eq!(with(&|m| m[11] = 1), Some((id, Rcode::FORMERR)), "a record that is not there");
    let class = good.len() - 1;
    assert_eq!(with(&|m| m[class] = 255), Some((id, Rcode::NOERROR)), "any class");
    assert_eq!(with(&|m| m[class] = 4), Some((id, Rcode::REFUSED)), "Hesiod");
    assert_eq!(with(&|m| m[class] = 3), Some((id, Rcode::REFUSED)), "Chaos has no such name");
    for kind in [251, 252, 253, 254] {
        assert_eq!(with(&|m| m[class - 2] = kind), Some((id, Rcode::REFUSED)), "type {kind}");
    }
}

#[test]
fn edns_is_of_version_0_and_there_once() {
    let zone = many();
    let good = query(WEB, Rtype::A, Some(1400));
    let said = udp(&zone, &good).unwrap();
    let opt = Message::from_octets(&said[..]).unwrap().opt().unwrap();
    assert_eq!((opt.version(), opt.udp_payload_size(), opt.dnssec_ok()), (0, 1232, false));
    let mut version_1 = good.clone();
    let at = version_1.len() - 11;
    version_1[at + 6] = 1;
    let said = udp(&zone, &version_1).unwrap();
    let message = Message::from_octets(&said[..]).unwrap();
    assert_eq!(message.opt_rcode(), domain::base::iana::OptRcode::BADVERS);
    assert_eq!(message.opt().unwrap().version(), 0);
    let mut twice = good.clone();
    twice.extend_from_slice(&good[at..]);
    twice[11] = 2;
    assert_eq!(
        Message::from_octets(&udp(&zone, &twice).unwrap()[..]).unwrap().header().rcode(),
        Rcode::FORMERR
    );
}

#[test]
fn who_answers_says_so_and_whom_it_sees() {
    let zone = many();
    for stream in [false, true] {
        let said = answer(&zone, &super::super::who(99), &asked(stream)).unwrap();
        let lines = super::super::said(99, &said).unwrap();
        let expected = "pod: coredns\nnamespace: kube-system\nclient: 10.0.0.9:4711\n";
        assert_eq!(String::from_utf8(lines).unwrap(), expected);
        assert_eq!(super::super::said(98, &said), None, "another's answer");
        assert_eq!(super::super::said(99, &super::super::who(99)), None, "no answer");
    }
}

static ZONE: LazyLock<Zone> = LazyLock::new(many);

/// Labels that lie near to what there is, and such that do not.
fn label() -> impl Strategy<Value = Vec<u8>> {
    let near = [
        "web", "many", "shop", "svc", "pod", "cluster", "local", "_tcp", "_http", "in-addr", "arpa",
        "10-0-0-1",
    ];
    prop_oneof![
        8 => proptest::sample::select(near.to_vec()).prop_map(|label| label.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 1..=63),
    ]
}

fn any_name() -> impl Strategy<Value = Name<Vec<u8>>> {
    proptest::collection::vec(label(), 0..9).prop_filter_map("255 bytes", |labels| {
        let mut bytes = Vec::new();
        for label in labels {
            bytes.push(label.len() as u8);
            bytes.extend(label);
        }
        bytes.push(0);
        Name::from_octets(bytes).ok()
    })
}

proptest! {
    #[test]
    fn any_bytes_have_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..600), stream in any::<bool>()) {
        check(&bytes, stream)?;
    }

    #[test]
    fn queries_that_were_damaged_have_an_answer_or_none(
        name in any_name(),
        rtype in any::<u16>(),
        edns in any::<Option<u16>>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        stream in any::<bool>(),
    ) {
        let mut message = query("x", Rtype::from_int(rtype), edns);
        message.splice(12..15, name.as_slice().iter().copied());
        check(&message, stream)?;
        for (at, byte) in damage {
            let at = at.index(message.len());
            message[at] = byte;
        }
        check(&message, stream)?;
    }

    #[test]
    fn every_question_has_an_answer_that_repeats_it(name in any_name(), rtype in 1u16..60, edns in any::<Option<u16>>()) {
        let mut message = query("x", Rtype::from_int(rtype), edns);
        message.splice(12..15, name.as_slice().iter().copied());
        let said = udp(&ZONE, &message).unwrap();
        let most = usize::from(edns.unwrap_or(0).clamp(512, 1232));
        prop_assert!(said.len() <= most);
        let (said, asked) = (Message::from_octets(said).unwrap(), Message::from_octets(message).unwrap());
        prop_assert!(said.is_answer(&asked));
        let (one, other) = (said.sole_question().unwrap(), asked.sole_question().unwrap());
        prop_assert_eq!(one.qname().to_vec().into_octets(), other.qname().to_vec().into_octets(), "in its case");
        let read = read(said.as_slice());
        let negative = read.answers.is_empty();
        prop_assert!(read.rcode == Rcode::NOERROR || negative, "{:?}", read);
        prop_assert_eq!(read.authority.len(), usize::from(negative && read.flags.contains("aa")));
    }
}

/// That an answer is a message, and the answer to this one.
fn check(message: &[u8], stream: bool) -> Result<(), TestCaseError> {
    let Some(said) = answer(&ZONE, message, &asked(stream)) else {
        // Nothing is said to what is no message, or an answer itself.
        prop_assert!(message.len() < 12 || message[2] & 0x80 != 0);
        return Ok(());
    };
    let said = Message::from_octets(said).unwrap();
    prop_assert!(said.header().qr());
    prop_assert_eq!(&said.as_slice()[..2], &message[..2]);
    prop_assert_eq!(said.header().opcode(), Opcode::from_int((message[2] >> 3) & 15));
    let (questions, answer, authority, additional) = said.sections().unwrap();
    let questions: Vec<_> = questions.map(|q| q.unwrap()).collect();
    prop_assert!(questions.len() <= 1);
    for section in [answer, authority, additional] {
        for record in section {
            prop_assert!(record.is_ok());
        }
    }
    Ok(())
}
