//! The language of statements.
//!
//! ```text
//!   statement = who "reaches" whom [on]
//!             | who "reaches only" whom [on]
//!             | "only" who "reaches" whom [on]
//!             | who "does not reach" whom [on]
//!             | "nothing" ["outside" who] "reaches" whom [on]
//!   on        = "on" ports ["only"] ["over" ("IPv4" | "IPv6")]
//!   ports     = [protocol] number ["-" number] | protocol | "ICMP" | "everything", with commas
//!   who, whom = end, with commas
//!   end       = "*" | "everyone" | "nodes" | "node/" name | "outside" | "internet" | address | range
//!             | namespace | namespace "/" ("*" | name | "[" labels "]") | namespace "/svc/" name
//!             | "kube-api" | "cli-tools"
//!   labels    = key | "!" key | key "=" value | key "!=" value, with commas
//! ```
//!
//! One statement a line; `#` begins a comment. A protocol holds until another one is named, TCP where none was.

use super::{Problem, Refused, Wrong};
use crate::{
    analysis::open::{Open, PROTOCOLS},
    compile::{CLI_TOOLS, KUBE_API},
    model::{IpFamily, Labels, Name, Operator, Position, Protocol, Requirement, Selector},
};
use ipnet::IpNet;
use std::{net::IpAddr, sync::Arc};

/// A statement as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) at: Position,
    pub(super) text: String,
    pub(super) who: Vec<End>,
    pub(super) verb: Verb,
    pub(super) whom: Vec<End>,
    /// `None`: whatever the port.
    pub(super) ports: Option<Open>,
    /// On these ports and no other.
    pub(super) only_ports: bool,
    pub(super) family: Option<IpFamily>,
}

/// What is said of sources and destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Every source reaches every destination.
    Reaches,
    /// The same, and no source reaches anything else.
    ReachesOnly,
    /// Every source reaches every destination, and nobody else does.
    OnlyTheyReach,
    /// No source reaches any destination.
    DoesNotReach,
    /// Nobody but the sources reaches any destination.
    NothingOutsideReaches,
}

/// Some ends, by a word, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) at: Position,
    pub(super) text: String,
    pub(super) meant: Meant,
}

/// Whom a word means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meant {
    /// Pods, nodes, and addresses outside.
    Everyone,
    /// Pods of a namespace (`None`: of all), by name or label.
    Pods(Option<String>, Pods),
    Nodes,
    Node(String),
    Outside,
    /// Addresses outside that are no private ones.
    Internet,
    /// Whoever has these addresses.
    Range(IpNet),
    Service(Name),
    /// One of the two servers that every Supervisor has, by its name.
    DefaultServer(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pods {
    All,
    /// A pod or workload.
    Named(String),
    /// Pods and workloads whose names begin so.
    Begin(String),
    Labelled(Selector),
}

/// Reads statements; all errors at once.
pub(super) fn read(file: &str, text: &str) -> Result<Vec<Statement>, Wrong> {
    let file: Arc<str> = file.into();
    let (mut statements, mut wrong) = (Vec::new(), Vec::new());
    for (line, number) in text.trim_start_matches('\u{feff}').lines().zip(1..) {
        let words = words(line, &file, number);
        if words.is_empty() {
            continue;
        }
        let end = Position::new(file.clone(), number, line.trim_end().chars().count() as u32 + 1);
        let text = words_of(line);
        match (Reader { words: &words, next: 0, end }).statement(text) {
            Ok(statement) => statements.push(statement),
            Err(refused) => wrong.push(refused),
        }
    }
    if wrong.is_empty() { Ok(statements) } else { Err(Wrong(wrong)) }
}

struct Word {
    text: String,
    at: Position,
}

/// A line without its comment.
fn words_of(line: &str) -> String {
    line.split('#').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Words and commas. Between brackets nothing is parted.
fn words(line: &str, file: &Arc<str>, number: u32) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let (mut depth, mut within) = (0u32, false);
    for (c, column) in line.chars().zip(1..) {
        match c {
            '#' => break,
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let apart = depth == 0 && (c.is_whitespace() || c == ',');
        if apart {
            within = false;
            if c == ',' {
                words.push(Word { text: ",".to_owned(), at: Position::new(file.clone(), number, column) });
            }
        } else if let (true, Some(last)) = (within, words.last_mut()) {
            last.text.push(c);
        } else {
            within = true;
            words.push(Word { text: c.to_string(), at: Position::new(file.clone(), number, column) });
        }
    }
    words
}

struct Reader<'w> {
    words: &'w [Word],
    next: usize,
    /// Behind the last word.
    end: Position,
}

impl Reader<'_> {
    fn statement(mut self, text: String) -> Result<Statement, Refused> {
        let at = self.at();
        let (who, verb);
        if self.take("nothing") {
            // "nothing outside reaches ...": the outside does not reach.
            if self.peek_is("outside") && self.word(1).is_some_and(|w| !is_verb(w)) {
                self.next += 1;
                who = self.ends()?;
                verb = Verb::NothingOutsideReaches;
                self.reaches("`reaches`")?;
            } else if self.peek_is("outside") {
                who = self.ends()?;
                verb = Verb::DoesNotReach;
                self.reaches("`reaches`")?;
            } else {
                self.reaches("`reaches` or `outside`")?;
                who = Vec::new();
                verb = Verb::NothingOutsideReaches;
            }
        } else if self.take("only") {
            who = self.ends()?;
            verb = Verb::OnlyTheyReach;
            self.reaches("`reaches`")?;
        } else {
            who = self.ends()?;
            let not =
                ["does", "do"].iter().any(|w| self.peek_is(w)) && self.word(1).is_some_and(|w| w == "not");
            if not {
                self.next += 2;
                self.reaches("`reach`")?;
                verb = Verb::DoesNotReach;
            } else {
                self.reaches("`reaches` or `does not reach`")?;
                verb = if self.take("only") { Verb::ReachesOnly } else { Verb::Reaches };
            }
        }
        let whom = self.ends()?;
        let (mut ports, mut only_ports, mut family) = (None, false, None);
        if self.take("on") {
            ports = self.ports()?;
            only_ports = self.take("only");
            let denies = matches!(verb, Verb::DoesNotReach | Verb::NothingOutsideReaches);
            if only_ports && (denies || ports.is_none()) {
                self.next -= 1;
                return Err(self.refuse(Problem::OnlyNothing));
            }
        }
        if self.take("over") {
            family = match self.words.get(self.next).map(|w| w.text.to_ascii_lowercase()).as_deref() {
                Some("ipv4") => Some(IpFamily::V4),
                Some("ipv6") => Some(IpFamily::V6),
                _ => return Err(self.expected("`IPv4` or `IPv6`")),
            };
            self.next += 1;
        }
        if self.next < self.words.len() {
            let more = if ports.is_none() {
                "`on` with ports, `over` with a family, or the end of the line"
            } else {
                "a comma, `only`, `over` with a family, or the end of the line"
            };
            return Err(self.expected(more));
        }
        Ok(Statement { at, text, who, verb, whom, ports, only_ports, family })
    }

    fn at(&self) -> Position {
        self.words.get(self.next).map_or_else(|| self.end.clone(), |word| word.at.clone())
    }

    fn word(&self, ahead: usize) -> Option<&str> {
        self.words.get(self.next + ahead).map(|word| &*word.text)
    }

    fn peek_is(&self, word: &str) -> bool {
        self.word(0) == Some(word)
    }

    fn take(&mut self, word: &str) -> bool {
        let there = self.peek_is(word);
        self.next += usize::from(there);
        there
    }

    fn refuse(&self, problem: Problem) -> Refused {
        Refused { at: self.at(), problem }
    }

    fn expected(&self, expected: &'static str) -> Refused {
        self.refuse(Problem::Expected { expected, found: self.word(0).map(str::to_owned) })
    }

    fn reaches(&mut self, expected: &'static str) -> Result<(), Refused> {
        if self.take("reaches") || self.take("reach") { Ok(()) } else { Err(self.expected(expected)) }
    }

    fn ends(&mut self) -> Result<Vec<End>, Refused> {
        let mut ends = Vec::new();
        loop {
            let Some(word) = self.words.get(self.next).filter(|w| w.text != "," && !is_keyword(&w.text))
            else {
                return Err(self.expected("the name of an end"));
            };
            let meant = meant(&word.text).map_err(|problem| self.refuse(problem))?;
            ends.push(End { at: word.at.clone(), text: word.text.clone(), meant });
            self.next += 1;
            if !self.take(",") {
                return Ok(ends);
            }
        }
    }

    /// `None`: everything.
    fn ports(&mut self) -> Result<Option<Open>, Refused> {
        if self.take("everything") {
            return Ok(None);
        }
        let mut open = Open::default();
        let mut protocol = Protocol::Tcp;
        loop {
            let word = self.word(0).unwrap_or_default().to_ascii_uppercase();
            let named = PROTOCOLS.into_iter().find(|p| p.to_string() == word);
            if word == "ICMP" {
                open.others = true;
                self.next += 1;
            } else if let Some(named) = named {
                protocol = named;
                self.next += 1;
                match self.word(0) {
                    Some(word) if word.starts_with(|c: char| c.is_ascii_digit()) => {
                        self.port(protocol, &mut open)?;
                    }
                    _ => open = open.or(protocol, (0, u16::MAX)),
                }
            } else {
                self.port(protocol, &mut open)?;
            }
            if !self.take(",") {
                return Ok(Some(open));
            }
        }
    }

    fn port(&mut self, protocol: Protocol, open: &mut Open) -> Result<(), Refused> {
        let word = self.word(0).unwrap_or_default();
        let (from, to) = word.split_once('-').unwrap_or((word, word));
        let number = |text: &str| text.parse::<u16>().ok().filter(|n| *n > 0);
        match (number(from), number(to)) {
            (Some(from), Some(to)) if from <= to => *open = open.or(protocol, (from, to)),
            (Some(_), Some(_)) => return Err(self.refuse(Problem::Backwards(word.to_owned()))),
            _ => return Err(self.expected("a port: 443, 8000-8999, TCP 443, UDP, ICMP or everything")),
        }
        self.next += 1;
        Ok(())
    }
}

fn is_verb(word: &str) -> bool {
    matches!(word, "reaches" | "reach")
}

fn is_keyword(word: &str) -> bool {
    is_verb(word) || matches!(word, "only" | "does" | "do" | "not" | "on" | "over" | "nothing")
}

fn meant(text: &str) -> Result<Meant, Problem> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Meant::Range(address.into()));
    }
    if let Ok(range) = text.parse::<IpNet>() {
        let trunc = range.trunc();
        return if trunc == range {
            Ok(Meant::Range(range))
        } else {
            Err(Problem::HostBits(text.to_owned(), trunc))
        };
    }
    let named = |namespace: &str, pods| {
        let namespace = Some(namespace).filter(|n| *n != "*").map(str::to_owned);
        Ok(Meant::Pods(namespace, pods))
    };
    // A label's key may have a slash of its own.
    if let Some((namespace, labels)) = text.split_once("/[") {
        let labels = labels.strip_suffix(']').ok_or_else(|| Problem::Labels(text.to_owned()))?;
        return match namespace {
            "" => Err(Problem::NoEnd(text.to_owned())),
            _ => named(
                namespace,
                Pods::Labelled(selector(labels).ok_or_else(|| Problem::Labels(text.to_owned()))?),
            ),
        };
    }
    let parts: Vec<&str> = text.split('/').collect();
    let fine =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    match *parts {
        ["*"] | ["*", "*"] => Ok(Meant::Pods(None, Pods::All)),
        ["everyone"] => Ok(Meant::Everyone),
        ["nodes"] => Ok(Meant::Nodes),
        ["outside"] => Ok(Meant::Outside),
        ["internet"] => Ok(Meant::Internet),
        [server @ (KUBE_API | CLI_TOOLS)] => Ok(Meant::DefaultServer(server.to_owned())),
        ["node", name] if fine(name) => Ok(Meant::Node(name.to_owned())),
        [namespace] if fine(namespace) => named(namespace, Pods::All),
        [namespace, "svc", name] if fine(namespace) && fine(name) => {
            Ok(Meant::Service(Name::new(namespace, name)))
        }
        [namespace, name] if fine(namespace) || namespace == "*" => match name.strip_suffix('*') {
            Some("") => named(namespace, Pods::All),
            Some(begin) if fine(begin) => named(namespace, Pods::Begin(begin.to_owned())),
            None if fine(name) => named(namespace, Pods::Named(name.to_owned())),
            _ => Err(Problem::NoEnd(text.to_owned())),
        },
        _ => Err(Problem::NoEnd(text.to_owned())),
    }
}

/// "app=web,tier!=db,canary,!legacy".
fn selector(text: &str) -> Option<Selector> {
    let mut requirements = Vec::new();
    let key =
        |text: &str| Some(text.trim().to_owned()).filter(|k| !k.is_empty() && !k.contains([' ', '[', ']']));
    for term in text.split(',') {
        let (text, operator) = if let Some((text, value)) = term.split_once("!=") {
            (text, Operator::NotIn(vec![value.trim().to_owned()]))
        } else if let Some((text, value)) = term.split_once('=') {
            (text, Operator::In(vec![value.trim_start_matches('=').trim().to_owned()]))
        } else if let Some(text) = term.trim().strip_prefix('!') {
            (text, Operator::DoesNotExist)
        } else {
            (term, Operator::Exists)
        };
        requirements.push(Requirement { key: key(text)?, operator });
    }
    Some(Selector { requirements })
}

impl Pods {
    /// Whether a pod with these names and labels is meant.
    pub(super) fn matches(&self, pod: &str, workload: &str, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Named(name) => pod == name || workload == name,
            Self::Begin(begin) => pod.starts_with(begin) || workload.starts_with(begin),
            Self::Labelled(selector) => selector.matches(labels),
        }
    }
}
