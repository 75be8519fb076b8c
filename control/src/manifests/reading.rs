//! Reading typed values off the tree, noting every error and going on.
//!
//! A reader of a value returns `None` when the value is unusable; the error is then already noted, with its
//! place. `null` is the same as a field that is left out, as in Kubernetes.

use super::{
    error::{ManifestError, Problem, Warning},
    schema::Schema,
    syntax,
    yaml::{Key, Node, Place, Value},
};
use crate::model::{At, Labels, Position, Protocol};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, sync::Arc};

/// Errors that are kept: nobody reads more, and a hostile text could give millions.
const MAX_ERRORS: usize = 1000;

/// The file that is being read, and what was noted so far in all files.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) file: Arc<str>,
    pub(super) errors: Vec<ManifestError>,
    pub(super) notes: Notes,
}

/// What becomes warnings.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) skipped: BTreeMap<String, usize>,
    pub(super) kinds: BTreeMap<String, usize>,
    pub(super) fields: BTreeMap<&'static str, Vec<(String, Position)>>,
    pub(super) finished: usize,
    pub(super) idle: Vec<(String, Position)>,
    pub(super) remarks: Vec<(Position, String)>,
}

impl Notes {
    pub(super) fn into_warnings(self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        if !self.skipped.is_empty() {
            warnings.push(Warning::Skipped(self.skipped));
        }
        if !self.kinds.is_empty() {
            warnings.push(Warning::KindsNotEnforced(self.kinds));
        }
        let fields = self.fields.into_iter();
        warnings.extend(fields.map(|(field, objects)| Warning::FieldNotEnforced { field, objects }));
        if self.finished > 0 {
            warnings.push(Warning::FinishedPods(self.finished));
        }
        if !self.idle.is_empty() {
            warnings.push(Warning::IdleServices(self.idle));
        }
        warnings.extend(self.remarks.into_iter().map(|(at, text)| Warning::Remark { at, text }));
        warnings
    }
}

/// A map whose fields are all known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'n> {
    pub(super) owner: &'static str,
    pub(super) place: Place,
    entries: &'n [(Key, Node)],
}

impl<'n> Fields<'n> {
    /// The field's value, if it is there and not null.
    pub(super) fn get(&self, field: &str) -> Option<&'n Node> {
        let (_, node) = self.entries.iter().find(|(k, _)| k.text == field)?;
        (node.value != Value::Null).then_some(node)
    }

    /// The same for fields whose empty text means that they are left out.
    pub(super) fn filled(&self, field: &str) -> Option<&'n Node> {
        self.get(field).filter(|n| n.value != Value::String(String::new()))
    }
}

impl Reading {
    pub(super) fn new() -> Self {
        Self { file: Arc::from(""), errors: Vec::new(), notes: Notes::default() }
    }

    pub(super) fn at(&self, place: Place) -> Position {
        Position::new(Arc::clone(&self.file), place.line, place.column)
    }

    /// Whether further errors are not kept.
    pub(super) fn is_full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }

    pub(super) fn error(&mut self, at: Position, problem: Problem) {
        if !self.is_full() {
            self.errors.push(ManifestError { at, problem });
        }
    }

    pub(super) fn invalid(&mut self, place: Place, what: impl Into<String>, advice: impl Into<String>) {
        let at = self.at(place);
        self.error(at, Problem::Invalid { what: what.into(), advice: advice.into() });
    }

    pub(super) fn not_enforced(&mut self, field: &'static str, object: &str, place: Place) {
        let at = self.at(place);
        self.notes.fields.entry(field).or_default().push((object.to_owned(), at));
    }

    pub(super) fn remark(&mut self, place: Place, text: impl Into<String>) {
        let at = self.at(place);
        self.notes.remarks.push((at, text.into()));
    }

    /// A map with the fields of `schema`; unknown ones are errors.
    pub(super) fn fields<'n>(&mut self, node: &'n Node, schema: &Schema) -> Fields<'n> {
        let entries = self.map(node);
        for (key, _) in entries {
            if !self.is_full() && !schema.fields.contains(&key.text.as_str()) {
                let at = self.at(key.place);
                let advice = schema.advice(&key.text);
                let owner = schema.owner;
                self.error(at, Problem::UnknownField { field: key.text.clone(), owner, advice });
            }
        }
        Fields { owner: schema.owner, place: node.place, entries }
    }

    /// The map under a field of `parent`, empty if the field is left out.
    pub(super) fn sub<'n>(&mut self, parent: &Fields<'n>, field: &str, schema: &Schema) -> Fields<'n> {
        match parent.get(field) {
            Some(node) => self.fields(node, schema),
            None => Fields { owner: schema.owner, place: parent.place, entries: &[] },
        }
    }

    /// A field that must be there.
    pub(super) fn required<'n>(&mut self, fields: &Fields<'n>, field: &'static str) -> Option<&'n Node> {
        let node = fields.get(field);
        if node.is_none() {
            let at = self.at(fields.place);
            self.error(at, Problem::MissingField { field, owner: fields.owner });
        }
        node
    }

    /// The entries of a map with any keys.
    pub(super) fn map<'n>(&mut self, node: &'n Node) -> &'n [(Key, Node)] {
        match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            _ => {
                self.type_error(node, "a map", "write `key: value` lines, indented below the field");
                &[]
            }
        }
    }

    /// The items under a field, none if it is left out.
    pub(super) fn list<'n>(&mut self, fields: &Fields<'n>, field: &str) -> &'n [Node] {
        match fields.get(field) {
            Some(node) => self.items(node),
            None => &[],
        }
    }

    /// Like `list`, for lists that are never long; longer ones are cut, with an error.
    pub(super) fn short_list<'n>(&mut self, fields: &Fields<'n>, field: &str, most: usize) -> &'n [Node] {
        let items = self.list(fields, field);
        match items.get(most) {
            Some(node) => {
                self.invalid(node.place, format!("`{field}` has more than {most} items"), "leave some out");
                &items[..most]
            }
            None => items,
        }
    }

    pub(super) fn items<'n>(&mut self, node: &'n Node) -> &'n [Node] {
        match &node.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => {
                self.type_error(node, "a list", "begin every item with `- `");
                &[]
            }
        }
    }

    pub(super) fn text<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        match &node.value {
            Value::String(s) => Some(s),
            Value::Number(_) | Value::Bool(_) => {
                self.type_error(node, "text", "put the value in quotes");
                None
            }
            _ => {
                self.type_error(node, "text", "write a single value");
                None
            }
        }
    }

    /// The text of a field, if it is there.
    pub(super) fn text_of<'n>(&mut self, fields: &Fields<'n>, field: &str) -> Option<&'n str> {
        fields.get(field).and_then(|n| self.text(n))
    }

    pub(super) fn bool_of(&mut self, fields: &Fields<'_>, field: &str) -> Option<bool> {
        let node = fields.get(field)?;
        match node.value {
            Value::Bool(b) => Some(b),
            _ => {
                self.type_error(node, "true or false", "write one of them, without quotes");
                None
            }
        }
    }

    pub(super) fn integer(&mut self, node: &Node, range: RangeInclusive<i64>) -> Option<i64> {
        let Value::Number(text) = &node.value else {
            self.type_error(node, "a number", "write digits, without quotes");
            return None;
        };
        let Ok(n) = text.parse::<i64>() else {
            self.invalid(node.place, format!("{text} is not a whole number"), "write digits only");
            return None;
        };
        if !range.contains(&n) {
            let advice = match *range.end() {
                i64::MAX => format!("use {} or more", range.start()),
                end => format!("use {} to {end}", range.start()),
            };
            self.invalid(node.place, format!("{n} is out of range"), advice);
            return None;
        }
        Some(n)
    }

    pub(super) fn port(&mut self, node: &Node) -> Option<u16> {
        self.integer(node, 1..=65535).and_then(|n| u16::try_from(n).ok())
    }

    /// A count of things that are made, bounded so that a slip of the finger does not fill the memory.
    pub(super) fn count_of(&mut self, fields: &Fields<'_>, field: &str) -> Option<u32> {
        let node = fields.get(field)?;
        self.integer(node, 0..=100_000).and_then(|n| u32::try_from(n).ok())
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(&mut self, node: &Node, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node)?;
        if let Some((_, value)) = words.iter().find(|(w, _)| *w == text) {
            return Some(*value);
        }
        let all: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
        self.invalid(node.place, format!("`{text}` is not known here"), format!("use {}", either(&all)));
        None
    }

    /// A protocol, TCP if the field is left out.
    pub(super) fn protocol(&mut self, fields: &Fields<'_>) -> Option<Protocol> {
        let Some(node) = fields.filled("protocol") else { return Some(Protocol::Tcp) };
        let all = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
        self.word(node, &all)
    }

    pub(super) fn checked_text<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        check: fn(&str) -> Result<(), &'static str>,
    ) -> Option<&'n str> {
        let text = self.text(node)?;
        match check(text) {
            Ok(()) => Some(text),
            Err(advice) => {
                self.invalid(node.place, format!("`{text}` cannot be {what}"), advice);
                None
            }
        }
    }

    /// Labels, or a selector of the old kind: a map of texts.
    pub(super) fn labels(&mut self, node: &Node) -> Labels {
        let mut labels = Labels::new();
        for (key, value) in self.map(node) {
            if let Err(advice) = syntax::label_key(&key.text) {
                self.invalid(key.place, format!("`{}` cannot be the key of a label", key.text), advice);
                continue;
            }
            let text = match &value.value {
                Value::Null => Some(""),
                _ => self.checked_text(value, "the value of a label", syntax::label_value),
            };
            if let Some(text) = text {
                labels.insert(key.text.clone(), text.to_owned());
            }
        }
        labels
    }

    pub(super) fn labels_of(&mut self, fields: &Fields<'_>, field: &str) -> Labels {
        fields.get(field).map_or_else(Labels::new, |n| self.labels(n))
    }

    pub(super) fn address(&mut self, node: &Node) -> Option<At<IpAddr>> {
        let text = self.text(node)?;
        self.address_from(text, node.place)
    }

    /// Addresses separated by commas, at most one a family.
    pub(super) fn addresses(&mut self, node: &Node) -> Vec<At<IpAddr>> {
        let Some(text) = self.text(node) else { return Vec::new() };
        let all: Vec<At<IpAddr>> =
            text.split(',').filter_map(|part| self.address_from(part.trim(), node.place)).collect();
        self.one_a_family(&all, node.place);
        all
    }

    pub(super) fn one_a_family(&mut self, addresses: &[At<IpAddr>], place: Place) {
        for is_v4 in [true, false] {
            if addresses.iter().filter(|a| a.value.is_ipv4() == is_v4).count() > 1 {
                let family = if is_v4 { "IPv4" } else { "IPv6" };
                self.invalid(place, format!("more than one {family} address"), "give at most one a family");
            }
        }
    }

    fn address_from(&mut self, text: &str, place: Place) -> Option<At<IpAddr>> {
        let parsed = text.parse::<IpAddr>().ok();
        let usable = parsed.filter(|a| !a.is_unspecified() && !a.is_multicast() && !a.is_loopback());
        if usable.is_none() {
            let what = match parsed {
                Some(_) => format!("{text} cannot be the address of a host"),
                None => format!("`{text}` is not an IP address"),
            };
            self.invalid(place, what, "write one like 10.0.0.7 or fd00::7");
        }
        usable.map(|a| At::new(a, self.at(place)))
    }

    /// A range of addresses, as written: bits below the prefix length are kept.
    pub(super) fn cidr(&mut self, node: &Node) -> Option<IpNet> {
        let text = self.text(node)?;
        let parsed = text.parse::<IpNet>().ok();
        if parsed.is_none() {
            let advice = match text.parse::<IpAddr>() {
                Ok(a) => format!("for this one address write {a}/{}", if a.is_ipv4() { 32 } else { 128 }),
                Err(_) => "write one like 10.0.0.0/8 or fd00::/64".to_owned(),
            };
            self.invalid(node.place, format!("`{text}` is not a CIDR"), advice);
        }
        parsed
    }

    fn type_error(&mut self, node: &Node, expected: &'static str, advice: &'static str) {
        let found = match &node.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(b) => format!("{b}"),
            Value::Number(n) => format!("the number {n}"),
            Value::String(s) => format!("the text \"{}\"", shorten(s)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        };
        let at = self.at(node.place);
        self.error(at, Problem::Type { expected, found, advice });
    }
}

/// `a, b or c`.
pub(super) fn either(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [init @ .., last] => format!("{} or {last}", init.join(", ")),
    }
}

fn shorten(s: &str) -> String {
    let line = s.lines().next().unwrap_or_default();
    match line.char_indices().nth(40) {
        Some((i, _)) => format!("{}…", &line[..i]),
        None if line.len() < s.len() => format!("{line}…"),
        None => line.to_owned(),
    }
}
