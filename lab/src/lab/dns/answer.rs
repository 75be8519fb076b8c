//! From the bytes of a query to those of its answer (RFC 1034, 1035; EDNS: RFC 6891).
//!
//! Whatever the bytes, there is an answer or none, and never more. Names that are in none of the zones do not exist:
//! the lab has no world beyond its own. That, and not a refusal, has resolvers give up at once; musl's would wait for
//! another answer to the end of its patience.

use super::zone::{Data, Found, Name, TTL, Zone};
use domain::{
    base::{
        Message, MessageBuilder, Question, Rtype,
        iana::{Class, Opcode, OptRcode, Rcode},
        message_builder::HashCompressor,
        name::{ParsedName, ToName},
        opt::{Opt, OptRecord},
    },
    rdata::Txt,
};
use std::net::SocketAddr;

/// Who answers whom, and how.
#[derive(Debug, Clone, Copy)]
pub(in crate::lab) struct Asked<'a> {
    /// The namespace of the pod that answers.
    pub(in crate::lab) namespace: &'a str,
    /// Its name.
    pub(in crate::lab) pod: &'a str,
    /// Who asks, as the pod sees it.
    pub(in crate::lab) client: SocketAddr,
    /// Over TCP, where answers may have 64 KB.
    pub(in crate::lab) stream: bool,
}

/// The longest datagram that is sent, and that we say we take: it fits every MTU of IPv6 (DNS flag day 2020).
const DATAGRAM: u16 = 1232;
/// What every client takes.
const LEAST: u16 = 512;
/// The length of an OPT record without options.
const OPT: usize = 11;
/// Aliases that are followed.
const ALIASES: usize = 8;

type Query<'a> = Message<&'a [u8]>;

/// The answer to a message. `None`: it is none that may be answered.
pub(in crate::lab) fn answer(zone: &Zone, message: &[u8], asked: &Asked<'_>) -> Option<Vec<u8>> {
    let query = Message::from_octets(message).ok()?;
    if query.header().qr() {
        return None;
    }
    if query.header().opcode() != Opcode::QUERY {
        return bare(&query, Rcode::NOTIMP);
    }
    let (Ok(question), Some(edns)) = (query.sole_question(), Edns::read(&query)) else {
        return bare(&query, Rcode::FORMERR);
    };
    let reply = match &edns {
        Some(edns) if edns.version > 0 => Reply::of(OptRcode::BADVERS),
        _ => Reply::to(zone, &question, asked, query.header().id()),
    };
    reply.compose(&query, edns.as_ref(), asked.stream)
}

/// An answer of nothing but a header.
fn bare(query: &Query<'_>, rcode: Rcode) -> Option<Vec<u8>> {
    let mut builder = MessageBuilder::from_target(Vec::new()).ok()?;
    let header = builder.header_mut();
    header.set_id(query.header().id());
    header.set_qr(true);
    header.set_opcode(query.header().opcode());
    header.set_rd(query.header().rd());
    header.set_ra(true);
    header.set_rcode(rcode);
    Some(builder.finish())
}

/// What the client says of itself by EDNS.
struct Edns {
    version: u8,
    size: u16,
    dnssec_ok: bool,
}

impl Edns {
    /// `None`: the records behind the question are none, or say so twice.
    fn read(query: &Query<'_>) -> Option<Option<Self>> {
        let mut found = None;
        for record in query.additional().ok()? {
            let record = record.ok()?;
            if record.rtype() != Rtype::OPT {
                continue;
            }
            if found.is_some() {
                return None;
            }
            let record = OptRecord::from(record.into_record::<Opt<_>>().ok()??);
            let (version, size) = (record.version(), record.udp_payload_size());
            found = Some(Self { version, size, dnssec_ok: record.dnssec_ok() });
        }
        Some(found)
    }
}

/// What is to be said.
struct Reply {
    rcode: OptRcode,
    /// From a zone of ours.
    authoritative: bool,
    class: Class,
    answers: Vec<(Name, Data)>,
    /// The zone that has nothing.
    negative: Option<(Name, Data)>,
    additional: Vec<(Name, Data)>,
}

impl Reply {
    fn of(rcode: OptRcode) -> Self {
        Self {
            rcode,
            authoritative: false,
            class: Class::IN,
            answers: Vec::new(),
            negative: None,
            additional: Vec::new(),
        }
    }

    fn to(zone: &Zone, question: &Question<ParsedName<&[u8]>>, asked: &Asked<'_>, id: u16) -> Self {
        let (name, rtype): (Name, Rtype) = (question.qname().to_vec(), question.qtype());
        match question.qclass() {
            Class::CH => return Self::about_ourselves(name, rtype, asked),
            Class::IN | Class::ANY => {}
            _ => return Self::of(OptRcode::REFUSED),
        }
        // Whole zones are given to nobody; nor is there mail.
        if matches!(rtype, Rtype::AXFR | Rtype::IXFR | Rtype::MAILA | Rtype::MAILB) {
            return Self::of(OptRcode::REFUSED);
        }
        let mut reply = Self::look_up(zone, name, rtype);
        reply.add_targets(zone);
        // Another endpoint first from query to query.
        let rotated = reply.answers.iter().rev().take_while(|(_, data)| is_address(data)).count();
        let start = reply.answers.len() - rotated;
        if rotated > 1 {
            reply.answers[start..].rotate_left(usize::from(id) % rotated);
        }
        reply
    }

    fn look_up(zone: &Zone, mut name: Name, rtype: Rtype) -> Self {
        let mut reply = Self::of(OptRcode::NOERROR);
        for _ in 0..=ALIASES {
            let (apex, records) = match zone.find(&name) {
                Found::Here(apex, records) => (apex, records),
                Found::Missing(apex) => {
                    reply.authoritative |= reply.answers.is_empty();
                    reply.rcode = OptRcode::NXDOMAIN;
                    reply.negative = zone.responsible(apex).map(|soa| (apex.clone(), soa.clone()));
                    return reply;
                }
                Found::Foreign => {
                    reply.rcode = OptRcode::NXDOMAIN;
                    return reply;
                }
            };
            reply.authoritative |= reply.answers.is_empty();
            let wanted = |data: &&Data| rtype == Rtype::ANY || type_of(data) == rtype;
            let found: Vec<&Data> = records.iter().filter(wanted).collect();
            if !found.is_empty() {
                reply.answers.extend(found.into_iter().map(|data| (name.clone(), data.clone())));
                return reply;
            }
            let alias = records.iter().find_map(|data| match data {
                Data::Cname(alias) => Some((data, alias.cname())),
                _ => None,
            });
            let Some((data, target)) = alias else {
                reply.negative = zone.responsible(apex).map(|soa| (apex.clone(), soa.clone()));
                return reply;
            };
            reply.answers.push((name, data.clone()));
            name = target.clone();
        }
        // Aliases in a circle.
        reply.rcode = OptRcode::SERVFAIL;
        reply
    }

    /// Adds the addresses of the servers that were found.
    fn add_targets(&mut self, zone: &Zone) {
        for (_, data) in &self.answers {
            let Data::Srv(srv) = data else { continue };
            let Found::Here(_, records) = zone.find(srv.target()) else { continue };
            let addresses = records.iter().filter(|data| is_address(data));
            for record in addresses.map(|data| (srv.target().clone(), data.clone())) {
                if !self.additional.contains(&record) {
                    self.additional.push(record);
                }
            }
        }
    }

    /// Who answers, and whom it sees (RFC 4892): how the lab is tested, and a way to find out what a Service does.
    fn about_ourselves(name: Name, rtype: Rtype, asked: &Asked<'_>) -> Self {
        let is = |text: &str| super::zone::name(text).is_some_and(|n| n == name);
        if !(is("id.server") || is("hostname.bind")) || !matches!(rtype, Rtype::TXT | Rtype::ANY) {
            return Self::of(OptRcode::REFUSED);
        }
        let lines = [
            format!("pod: {}", asked.pod),
            format!("namespace: {}", asked.namespace),
            format!("client: {}", asked.client),
        ];
        // Each a string of its own, of at most 255 bytes.
        let mut text = Vec::new();
        for line in lines {
            let line = &line.as_bytes()[..line.len().min(255)];
            text.push(u8::try_from(line.len()).unwrap_or(u8::MAX));
            text.extend_from_slice(line);
        }
        let mut reply = Self { authoritative: true, class: Class::CH, ..Self::of(OptRcode::NOERROR) };
        reply.answers.extend(Txt::from_octets(text).ok().map(|text| (name, text.into())));
        reply
    }

    /// The bytes of it. What does not fit is left out, and said to be.
    fn compose(&self, query: &Query<'_>, edns: Option<&Edns>, stream: bool) -> Option<Vec<u8>> {
        let most = match (stream, edns) {
            (true, _) => u16::MAX,
            (false, None) => LEAST,
            (false, Some(edns)) => edns.size.clamp(LEAST, DATAGRAM),
        };
        let most = usize::from(most);
        let target = HashCompressor::new(Vec::new());
        let mut builder = MessageBuilder::from_target(target).ok()?;
        builder.set_push_limit(most - if edns.is_some() { OPT } else { 0 });
        let mut answer = builder.start_answer(query, self.rcode.rcode()).ok()?;
        answer.header_mut().set_aa(self.authoritative);
        // All that there is to be found is found here.
        answer.header_mut().set_ra(true);
        let mut push = |record: &(Name, Data)| answer.push((&record.0, self.class, TTL, &record.1));
        let cut = self.answers.iter().any(|record| push(record).is_err());
        answer.header_mut().set_tc(cut);
        let mut authority = answer.authority();
        if let Some((apex, soa)) = &self.negative
            && authority.push((apex, self.class, TTL, soa)).is_err()
        {
            authority.header_mut().set_tc(true);
        }
        let mut additional = authority.additional();
        // These are a courtesy.
        let _ = self
            .additional
            .iter()
            .try_for_each(|(name, data)| additional.push((name, self.class, TTL, data)));
        if let Some(edns) = edns {
            additional.set_push_limit(most);
            let opt = additional.opt(|opt| {
                opt.set_udp_payload_size(DATAGRAM);
                opt.set_dnssec_ok(edns.dnssec_ok);
                opt.set_rcode(self.rcode);
                Ok(())
            });
            opt.ok()?;
        }
        Some(additional.finish().into_target())
    }
}

fn type_of(data: &Data) -> Rtype {
    domain::base::RecordData::rtype(data)
}

fn is_address(data: &Data) -> bool {
    matches!(data, Data::A(_) | Data::Aaaa(_))
}
