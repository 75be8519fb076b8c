//! Statements about who may reach whom, kept in a file and checked against a network.
//!
//! ```text
//!   # one statement a line
//!   nothing outside shop reaches shop/db
//!   web/* reaches internet on 443 only
//! ```
//!
//! [`Assertions`] are read once and can be checked against any network. Every connection that a statement speaks of
//! is asked about, at every port and in both families; nothing is sampled. One that fails names a packet that goes
//! against it, the rule that decides about that packet, and a probe that shows it.
//!
//! What always holds: a statement that speaks of nobody is an error, never a pass. What no rule decides is not held
//! against a statement: a pod reaching itself, and nodes reaching the pods that run on them.
//!
//! The language is that of `assert/grammar.rs`, told in docs/whatif.md.

mod evaluate;
mod grammar;
mod resolve;
#[cfg(test)]
mod tests;

use super::view::View;
use crate::model::Position;
use grammar::Statement;
use ipnet::IpNet;
use serde::Serialize;
use std::fmt;

/// Statements, read and not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertions {
    statements: Vec<Statement>,
}

impl Assertions {
    /// Reads statements; `file` is what errors call the text.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(file: &str, text: &str) -> Result<Self, Wrong> {
        Ok(Self { statements: grammar::read(file, text)? })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.statements.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// Adds those of another text.
    pub fn extend(&mut self, other: Self) {
        self.statements.extend(other.statements);
    }

    /// Checks all statements against a network.
    ///
    /// # Errors
    /// A statement names what is not there, or speaks of nobody. Nothing was checked then.
    pub fn check(&self, view: &View<'_>) -> Result<Report, Wrong> {
        evaluate::check(&self.statements, view)
    }
}

/// What became of statements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How many hold.
    pub held: usize,
    /// How many do not.
    pub failed: usize,
    /// Each, in the order in which they were written.
    pub statements: Vec<Outcome>,
}

impl Report {
    /// Whether every statement holds.
    pub fn holds(&self) -> bool {
        self.failed == 0
    }
}

/// What became of a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The statement, without comment.
    pub statement: String,
    /// The file that it is written in; `null` if it has none.
    pub file: Option<String>,
    /// The line, counted from 1.
    pub line: u32,
    /// Whether it holds.
    pub holds: bool,
    /// How many pairs of ends it speaks of.
    pub pairs: usize,
    /// A packet that goes against it; absent if it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counterexample: Option<Counterexample>,
}

/// A packet that goes against a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counterexample {
    /// Who sends it: "shop/web-0", "node/node-1", an address outside.
    pub from: String,
    /// From which address.
    pub from_address: String,
    /// To whom.
    pub to: String,
    /// To which address.
    pub to_address: String,
    /// The Service whose member this is, if the statement speaks of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// "TCP", "UDP", "SCTP", "ICMP" or "ICMPv6".
    pub protocol: String,
    /// Its destination port; `null` for ICMP.
    pub port: Option<u16>,
    /// What becomes of it: it is delivered, or dropped.
    pub delivered: bool,
    /// The rules that decide: the one that drops it, or those that let it out and in.
    pub rules: Vec<String>,
    /// One sentence, that of `trace`.
    pub verdict: String,
    /// What shows it, as arguments of `supernet trace`, without the manifests.
    pub trace: Vec<String>,
}

/// What is wrong with statements, in the order of the text. Prints one error a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong(pub Vec<Refused>);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::text::join(self.0.iter(), "\n"))
    }
}

impl std::error::Error for Wrong {}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct Refused {
    /// Where.
    pub at: Position,
    /// What.
    pub problem: Problem,
}

/// What is wrong with a statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Something else belongs here.
    #[error("expected {}{}", expected, say_found(.found))]
    Expected {
        /// What belongs here.
        expected: &'static str,
        /// What stands here; `None`: the line ends.
        found: Option<String>,
    },
    /// Not an end.
    #[error(
        "`{0}` is no end; write NS, NS/NAME, NS/*, NS/[LABEL=VALUE], NS/svc/NAME, nodes, outside, internet, an \
         address or a range"
    )]
    NoEnd(String),
    /// Not labels.
    #[error("`{0}` is no selection by labels; write NS/[KEY=VALUE,KEY!=VALUE,KEY,!KEY]")]
    Labels(String),
    /// A range with bits beyond its length.
    #[error("`{0}` has bits set beyond its length; write {1}, or the address alone")]
    HostBits(String, IpNet),
    /// The last port comes before the first.
    #[error("`{0}` ends before it begins; write the smaller port first")]
    Backwards(String),
    /// "only" where it says nothing.
    #[error("`only` says nothing here; remove it")]
    OnlyNothing,
    /// Nothing of this name.
    #[error("there is no {kind} {name}{}", say_near(.near))]
    Unknown {
        /// "namespace", "pod or workload", "node", "Service".
        kind: &'static str,
        /// The name.
        name: String,
        /// The name that was probably meant, or what there is.
        near: Vec<String>,
    },
    /// Nobody is meant.
    #[error("`{name}` is nobody: {why}; correct it, or remove the statement")]
    Nobody {
        /// The end.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// A Service cannot send.
    #[error("a connection cannot begin at Service {0}; name its pods")]
    FromService(String),
    /// A Service without virtual server.
    #[error("Service {0} has no virtual server (it is headless or an ExternalName); name its pods")]
    NoVirtualServer(String),
    /// A Service does not listen there.
    #[error("Service {service} has no port {port}; it has {has}")]
    NoServicePort {
        /// The Service.
        service: String,
        /// The port.
        port: String,
        /// Its ports.
        has: String,
    },
    /// No pair is left.
    #[error(
        "the statement speaks of nobody: its ends share no address family, or are a pod and itself, a node and its \
         pods, or both outside; correct it, or remove it"
    )]
    Vacuous,
}

fn say_found(found: &Option<String>) -> String {
    found.as_ref().map_or_else(|| ", but the line ends here".to_owned(), |found| format!(", found `{found}`"))
}

fn say_near(near: &[String]) -> String {
    match near {
        [] => String::new(),
        [one] => format!("; did you mean {one}?"),
        several => format!("; there are {}", several.join(", ")),
    }
}
