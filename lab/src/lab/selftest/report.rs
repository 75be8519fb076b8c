//! What a test found, for people and for programs.

use super::{
    facts::LeftOut,
    probes::{Expected, Kind, Probe},
    verdict::Verdict,
};
use crate::output::{Listing, Style, list};
use serde::Serialize;
use std::{collections::BTreeMap, net::IpAddr};

/// What a test found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// The lab.
    pub(in crate::lab) lab: String,
    /// How many pairs were tried, of all; absent where all were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::lab) sample: Option<Sample>,
    /// Seconds to bring the lab up; `null` for one that ran.
    pub(in crate::lab) up_seconds: Option<f64>,
    /// Seconds that the connections took.
    pub(in crate::lab) seconds: f64,
    /// Connections that were tried.
    pub(in crate::lab) probes: usize,
    /// What did not go as predicted.
    pub(in crate::lab) differences: Vec<Difference>,
    /// Connections by what they connect.
    pub(in crate::lab) kinds: Vec<Count>,
    pub(in crate::lab) left_out: LeftOut,
}

/// Pairs that were picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    pub(in crate::lab) pairs: usize,
    pub(in crate::lab) of: usize,
    pub(in crate::lab) seed: u64,
}

/// A connection that did not go as predicted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Difference {
    /// All of it, in a sentence.
    pub(in crate::lab) text: String,
    pub(in crate::lab) from: String,
    pub(in crate::lab) to: String,
    pub(in crate::lab) protocol: String,
    pub(in crate::lab) port: u16,
    /// Where the connection was sent.
    pub(in crate::lab) address: IpAddr,
    /// "open", "denied by shop/db".
    pub(in crate::lab) predicted: String,
    /// What happened instead.
    pub(in crate::lab) but: String,
}

/// Connections of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Count {
    pub(in crate::lab) kind: &'static str,
    pub(in crate::lab) probes: usize,
    /// Predicted to be open.
    pub(in crate::lab) open: usize,
    /// Predicted to be denied.
    pub(in crate::lab) denied: usize,
    /// Predicted to reach some members of a Service only.
    pub(in crate::lab) partly: usize,
    pub(in crate::lab) differences: usize,
}

/// Differences that people are shown one by one.
const MOST: usize = 40;

impl Report {
    /// Probes by kind.
    pub(super) fn count(probes: &[Probe], verdicts: &[Option<Verdict>]) -> Vec<Count> {
        let mut kinds: BTreeMap<Kind, Count> = BTreeMap::new();
        for (probe, verdict) in probes.iter().zip(verdicts) {
            let count = kinds.entry(probe.kind).or_insert_with(|| Count {
                kind: probe.kind.name(),
                probes: 0,
                open: 0,
                denied: 0,
                partly: 0,
                differences: 0,
            });
            count.probes += 1;
            match probe.expected {
                Expected::Open { .. } => count.open += 1,
                Expected::Denied => count.denied += 1,
                Expected::Partly { .. } => count.partly += 1,
            }
            count.differences += usize::from(matches!(verdict, Some(Verdict::Differs(_))));
        }
        kinds.into_values().collect()
    }

    /// For people.
    pub(in crate::lab) fn tables(&self, style: Style) -> String {
        [self.differences(style), self.counts(style), self.summary(style)].concat()
    }

    fn differences(&self, style: Style) -> String {
        let columns = ["CONNECTION", "ADDRESS", "PREDICTED", "BUT"];
        let mut table = Listing::new("Differences", &columns, style);
        for d in self.differences.iter().take(MOST) {
            let connection = format!("{} -> {} {} {}", d.from, d.to, d.protocol, d.port);
            table.row([connection, d.address.to_string(), d.predicted.clone(), d.but.clone()]);
        }
        let mut text = table.render();
        let more = self.differences.len().saturating_sub(MOST);
        if more > 0 {
            text.push_str(&format!("and {more} more (-o json has all of them)\n\n"));
            text.push_str(&self.places(style));
        }
        text
    }

    /// Where many differences are.
    fn places(&self, style: Style) -> String {
        let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for d in &self.differences {
            *places.entry((&d.to, &d.but)).or_default() += 1;
        }
        let mut places: Vec<_> = places.into_iter().collect();
        places.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut table = Listing::new("Where they are", &["TO", ">DIFFERENCES", "BUT"], style);
        for ((to, but), count) in places.into_iter().take(MOST) {
            table.row([to.to_owned(), count.to_string(), but.to_owned()]);
        }
        table.render()
    }

    fn counts(&self, style: Style) -> String {
        let columns = ["CONNECTIONS", ">TRIED", ">OPEN", ">DENIED", ">PARTLY", ">DIFFERENCES"];
        let mut table = Listing::new("Tried, and predicted", &columns, style);
        for c in &self.kinds {
            let numbers = [c.probes, c.open, c.denied, c.partly, c.differences];
            table.row([c.kind.to_owned()].into_iter().chain(numbers.map(|n| n.to_string())));
        }
        table.render()
    }

    fn summary(&self, style: Style) -> String {
        let mut text = String::new();
        if let Some(Sample { pairs, of, seed }) = self.sample {
            text.push_str(&format!(
                "{pairs} of {of} pairs were picked; --sample {pairs} --seed {seed} picks them again, --all takes all\n"
            ));
        }
        let LeftOut { sctp_ports, node_pods, unserved_servers } = self.left_out;
        let counted = [
            (sctp_ports, "ports that speak SCTP"),
            (node_pods, "pods in the network of their node"),
            (unserved_servers, "virtual servers whose members the lab does not serve"),
        ];
        let left_out: Vec<String> =
            counted.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if !left_out.is_empty() {
            text.push_str(&format!("left out: {}\n", list(left_out.into_iter(), counted.len())));
        }
        let up = self.up_seconds.map_or_else(String::new, |s| format!(" (and {s:.1} s to bring the lab up)"));
        let tried = format!("{} connections in {:.1} s{up}", self.probes, self.seconds);
        text.push_str(&match self.differences.len() {
            0 => style.green(&format!("✓ all as predicted: {tried}")),
            1 => style.red(&format!("✗ 1 difference among {tried}")),
            n => style.red(&format!("✗ {n} differences among {tried}")),
        });
        text + "\n"
    }
}

impl Difference {
    /// Of a probe that went otherwise; `denied_by` tells what denies it, if that is predicted and known.
    pub(super) fn of(probe: &Probe, but: &str, denied_by: Option<&str>) -> Self {
        let predicted = match (&probe.expected, denied_by) {
            (Expected::Open { .. }, _) => "open".to_owned(),
            (Expected::Partly { .. }, _) => "open to some members".to_owned(),
            (Expected::Denied, Some(rule)) => format!("denied by {rule}"),
            (Expected::Denied, None) => "denied".to_owned(),
        };
        let Probe { from, to, address, transport, .. } = probe;
        let port = address.port();
        Self {
            text: format!("{from} -> {to} {transport} {port}: predicted {predicted}, but {but}"),
            from: from.clone(),
            to: to.clone(),
            protocol: transport.to_string(),
            port,
            address: address.ip(),
            predicted,
            but: but.to_owned(),
        }
    }
}
