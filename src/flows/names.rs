//! What the numbers of flow records are called.

use super::{Carried, Connection, Denied, Ended, Flow, Place, Record, What};
use crate::{
    Handle,
    dataplane::{
        flowlog::End,
        id::{Generation, PortId, RuleId, ServerId},
        rewrite::Tuple,
        snapshot::{RuleName, Snapshot},
        time::Instant,
    },
};
use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    net::IpAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Names of ports, rules and servers, also of those that are gone: no number is ever another's.
#[derive(Debug, Clone)]
pub struct FlowNames {
    handle: Handle,
    /// The time of day at which the workers' clock began.
    origin: Option<SystemTime>,
    snapshot: Arc<Snapshot>,
    gone: Gone,
}

/// Names of what the newest snapshot no longer has, as of some snapshot.
#[derive(Debug, Clone, Default)]
struct Gone {
    generation: Generation,
    ports: HashMap<PortId, String>,
    rules: HashMap<RuleId, RuleName>,
    labels: HashMap<RuleId, String>,
    servers: HashMap<ServerId, String>,
}

impl FlowNames {
    pub(crate) fn new(handle: Handle, origin: Option<SystemTime>) -> Self {
        let snapshot = handle.snapshot();
        Self { handle, origin, snapshot, gone: Gone::default() }
    }

    /// A record by name.
    pub fn flow(&mut self, record: &Record) -> Flow {
        self.snapshot = self.handle.snapshot();
        let connection = self.connection(record);
        match record.what {
            What::Started => Flow::Started(connection),
            What::Ended(End { reason, lasted, forward, reverse }) => Flow::Ended(Ended {
                connection,
                reason: reason.name().to_owned(),
                duration_micros: lasted.as_micros() as u64,
                forward: Carried::from(forward),
                reverse: Carried::from(reverse),
            }),
            What::Denied { reason, lives } => Flow::Denied(Denied {
                connection,
                reason: reason.name().to_owned(),
                meaning: reason.text().to_owned(),
                lives,
            }),
        }
    }

    fn connection(&mut self, record: &Record) -> Connection {
        let Record { original, translated, .. } = record;
        let place = |name, address: IpAddr, port| Place { name, address, port };
        let source = place(Some(self.port(record.ingress)), original.src, original.sport);
        let translates =
            |of: fn(&Tuple) -> (IpAddr, u16)| (of(original) != of(translated)).then(|| of(translated));
        let translated_source = translates(|t| (t.src, t.sport)).map(|(a, port)| place(None, a, port));
        // Who was to be reached, also if it never came so far.
        let out = record.out.or_else(|| self.snapshot.endpoints.get(&translated.dst).copied());
        let reached = out.map(|id| self.port(id));
        let translated_to = translates(|t| (t.dst, t.dport));
        let named = |is: bool| reached.clone().filter(|_| is);
        Connection {
            time_micros: self.time(record.at),
            id: format!("{:016x}", record.id),
            protocol: original.proto.to_string(),
            source,
            destination: place(named(translated_to.is_none()), original.dst, original.dport),
            translated_source,
            translated_destination: translated_to.map(|(a, port)| place(named(true), a, port)),
            server: record.server.map(|id| self.server(id)),
            egress_rule: record.rules.0.map(|id| self.rule(id)),
            ingress_rule: record.rules.1.map(|id| self.rule(id)),
            labels: self.labels(record.rules),
        }
    }

    /// A time as logs have it, microseconds: since 1970, if the time of day is known at all.
    fn time(&self, at: Instant) -> u64 {
        let since = self.origin.and_then(|origin| origin.duration_since(UNIX_EPOCH).ok());
        since.map_or(0, |since| since.as_micros() as u64) + at.micros()
    }

    /// What time it is now; 0 where only the embedder knows.
    pub(super) fn now(&self) -> u64 {
        let now = self.origin.and_then(|_| SystemTime::now().duration_since(UNIX_EPOCH).ok());
        now.map_or(0, |now| now.as_micros() as u64)
    }

    fn port(&mut self, id: PortId) -> String {
        let known = self.snapshot.names.ports.get(&id).cloned();
        known.unwrap_or_else(|| called(&self.gone().ports, id))
    }

    fn server(&mut self, id: ServerId) -> String {
        let known = self.snapshot.names.servers.get(&id).cloned();
        known.unwrap_or_else(|| called(&self.gone().servers, id))
    }

    fn rule(&mut self, id: RuleId) -> String {
        let known = self.snapshot.names.rules.get(&id).map(ToString::to_string);
        known.unwrap_or_else(|| called(&self.gone().rules, id))
    }

    fn labels(&mut self, (egress, ingress): (Option<RuleId>, Option<RuleId>)) -> Vec<String> {
        let of = |id| {
            let names = self.snapshot.names.clone();
            if names.rules.contains_key(&id) {
                return names.log_labels.get(&id).cloned();
            }
            self.gone().labels.get(&id).cloned()
        };
        let mut labels: Vec<String> = [egress, ingress].into_iter().flatten().filter_map(of).collect();
        labels.dedup();
        labels
    }

    fn gone(&mut self) -> &Gone {
        let generation = self.snapshot.generation;
        if self.gone.generation != generation {
            self.gone = self.handle.with_interner(|interner| Gone {
                generation,
                ports: interner.ports().map(|(id, name)| (id, name.to_owned())).collect(),
                rules: interner.rules().map(|(id, name)| (id, name.clone())).collect(),
                labels: interner.log_labels().map(|(id, label)| (id, label.to_owned())).collect(),
                servers: interner.servers().map(|(id, name)| (id, name.to_owned())).collect(),
            });
        }
        &self.gone
    }
}

fn called<I: Hash + Eq + Debug, N: ToString>(names: &HashMap<I, N>, id: I) -> String {
    names.get(&id).map_or_else(|| format!("{id:?}"), ToString::to_string)
}
