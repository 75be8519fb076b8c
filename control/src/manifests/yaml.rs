//! YAML text to a tree of values that know their place.
//!
//! serde's data model has no room for positions and stops at the first error, so the tree is built from the
//! parser's events. A document that is not YAML does not hide the ones after it. Always holds: keys of a map
//! are distinct, aliases and merge keys are written out, the tree is at most ~500 levels deep (the parser's
//! limits) and of at most [`MAX_VALUES`] values.

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput, Tag, options};
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

/// Values of a document.
const MAX_VALUES: usize = 4_000_000;
/// Values of a document that come from aliases: enough for hand-written ones, too few for a bomb.
const MAX_ALIASED_VALUES: usize = 100_000;

/// Duplicate keys of a document that are reported.
const MAX_FAULTS: usize = 1000;

/// Line and column, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl From<&Marker> for Place {
    fn from(m: &Marker) -> Self {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { line: narrow(m.line().max(1)), column: narrow(m.col()).saturating_add(1) }
    }
}

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

impl Node {
    /// The value of a key, if this is a map that has it.
    pub(super) fn field(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, v)| v),
            _ => None,
        }
    }
}

/// A value as Kubernetes' JSON would have it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// A number, as it was written.
    Number(String),
    String(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) text: String,
}

// Two values are equal wherever they stand.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    pub(super) place: Place,
    pub(super) kind: FaultKind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum FaultKind {
    Syntax(String),
    DuplicateKey { key: String, first: Place },
    KeyIsNotText,
    BadMerge,
    TooManyValues,
    TooManyAliases,
    SelfAlias,
}

/// Reads all documents of a text, handing over each one, or its fault, as soon as it is complete. Empty
/// documents are handed over as `Null`.
pub(super) fn parse(text: &str, mut take: impl FnMut(Result<Node, Fault>)) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut options = options! {};
    options.set_emit_comments(false);
    let mut parser = Parser::new_from_str_with_options(text, options);
    loop {
        let mut faults = Vec::new();
        let end = document(&mut parser, &mut faults, &mut take);
        for fault in faults {
            take(Err(fault));
        }
        match end {
            End::Stream => return,
            End::Document => {}
            End::Broken => match parser.proceed_next_document() {
                Ok(true) => {}
                Ok(false) => return,
                Err(e) => return take(Err(syntax(&e))),
            },
        }
    }
}

enum End {
    /// The document was read.
    Document,
    /// The document cannot be read any further.
    Broken,
    /// There are no more documents.
    Stream,
}

fn document<'a>(
    parser: &mut Parser<'a, StrInput<'a>>,
    faults: &mut Vec<Fault>,
    take: &mut impl FnMut(Result<Node, Fault>),
) -> End {
    let mut builder = Builder::default();
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(e) => e,
            Err(e) => {
                faults.push(syntax(&e));
                return End::Broken;
            }
        };
        let place = Place::from(&span.start);
        let step = match event {
            Event::StreamEnd => return End::Stream,
            Event::DocumentEnd => {
                if let Some(root) = builder.root.take() {
                    take(Ok(root));
                }
                return End::Document;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(text, style, tag.as_deref());
                let plain_merge =
                    style == ScalarStyle::Plain && matches!(&value, Value::String(s) if s == "<<");
                builder.node(Node { place, value }, anchor, plain_merge, faults)
            }
            Event::SequenceStart(_, anchor, _) => builder.open(place, anchor, Open::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => builder.open(place, anchor, Open::Map(OpenMap::default())),
            Event::SequenceEnd | Event::MappingEnd => builder.close(faults),
            Event::Alias(id) => builder.alias(id, place, faults),
            _ => Ok(()),
        };
        if let Err(kind) = step {
            faults.push(Fault { place, kind });
            return End::Broken;
        }
    }
    End::Stream
}

fn syntax(e: &ScanError) -> Fault {
    Fault { place: Place::from(e.marker()), kind: FaultKind::Syntax(e.info()) }
}

/// Collections that are not closed yet, innermost last.
#[derive(Default)]
struct Builder {
    stack: Vec<Frame>,
    root: Option<Node>,
    anchors: HashMap<usize, (Node, usize)>,
    values: usize,
    aliased: usize,
}

struct Frame {
    place: Place,
    anchor: usize,
    /// Values before this one, so that its own size is known when it closes.
    values_before: usize,
    open: Open,
}

enum Open {
    List(Vec<Node>),
    Map(OpenMap),
}

#[derive(Default)]
struct OpenMap {
    entries: Vec<(Key, Node)>,
    key: Option<PendingKey>,
    merged: Vec<Node>,
}

enum PendingKey {
    Key(Key),
    /// `<<`: the value's entries belong to this map.
    Merge,
    /// Was reported; its value is dropped.
    Faulty,
}

impl Builder {
    fn count(&mut self, values: usize) -> Result<(), FaultKind> {
        self.values += values;
        if self.values > MAX_VALUES { Err(FaultKind::TooManyValues) } else { Ok(()) }
    }

    fn open(&mut self, place: Place, anchor: usize, open: Open) -> Result<(), FaultKind> {
        let values_before = self.values;
        self.count(1)?;
        self.stack.push(Frame { place, anchor, values_before, open });
        Ok(())
    }

    fn close(&mut self, faults: &mut Vec<Fault>) -> Result<(), FaultKind> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let size = self.values - frame.values_before;
        let value = match frame.open {
            Open::List(items) => Value::List(items),
            Open::Map(map) => Value::Map(map.finish(faults)),
        };
        let node = Node { place: frame.place, value };
        self.remember(frame.anchor, &node, size)?;
        self.place(node, false, faults);
        Ok(())
    }

    fn node(
        &mut self,
        node: Node,
        anchor: usize,
        plain_merge: bool,
        faults: &mut Vec<Fault>,
    ) -> Result<(), FaultKind> {
        self.count(1)?;
        self.remember(anchor, &node, 1)?;
        self.place(node, plain_merge, faults);
        Ok(())
    }

    fn remember(&mut self, anchor: usize, node: &Node, size: usize) -> Result<(), FaultKind> {
        if anchor != 0 {
            // Anchors inside anchors are copied once a level, which must be bounded too.
            self.aliased += size;
            if self.aliased > MAX_ALIASED_VALUES {
                return Err(FaultKind::TooManyAliases);
            }
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, place: Place, faults: &mut Vec<Fault>) -> Result<(), FaultKind> {
        let Some((node, size)) = self.anchors.get(&id) else { return Err(FaultKind::SelfAlias) };
        self.aliased += size;
        if self.aliased > MAX_ALIASED_VALUES {
            return Err(FaultKind::TooManyAliases);
        }
        let (value, size) = (node.value.clone(), *size);
        self.count(size)?;
        self.place(Node { place, value }, false, faults);
        Ok(())
    }

    fn place(&mut self, node: Node, plain_merge: bool, faults: &mut Vec<Fault>) {
        match self.stack.last_mut().map(|f| &mut f.open) {
            None => self.root = Some(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map(map)) => match map.key.take() {
                None => map.key = Some(pending_key(node, plain_merge, faults)),
                Some(PendingKey::Key(key)) => map.entries.push((key, node)),
                Some(PendingKey::Merge) => map.merged.push(node),
                Some(PendingKey::Faulty) => {}
            },
        }
    }
}

fn pending_key(node: Node, plain_merge: bool, faults: &mut Vec<Fault>) -> PendingKey {
    if plain_merge {
        return PendingKey::Merge;
    }
    let text = match node.value {
        Value::String(text) | Value::Number(text) => text,
        Value::Bool(b) => b.to_string(),
        Value::Null => "null".to_owned(),
        Value::List(_) | Value::Map(_) => {
            faults.push(Fault { place: node.place, kind: FaultKind::KeyIsNotText });
            return PendingKey::Faulty;
        }
    };
    PendingKey::Key(Key { place: node.place, text })
}

impl OpenMap {
    /// Reports keys that occur twice and keeps the first of them; adds merged entries that are not overridden.
    fn finish(mut self, faults: &mut Vec<Fault>) -> Vec<(Key, Node)> {
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by(|a, b| self.entries[*a].0.text.cmp(&self.entries[*b].0.text));
        let mut repeated: HashSet<usize> = HashSet::new();
        let mut first = 0;
        for i in 1..order.len() {
            let (key, earlier) = (&self.entries[order[i]].0, &self.entries[order[first]].0);
            if key.text == earlier.text {
                let kind = FaultKind::DuplicateKey { key: key.text.clone(), first: earlier.place };
                if faults.len() < MAX_FAULTS {
                    faults.push(Fault { place: key.place, kind });
                }
                repeated.insert(order[i]);
            } else {
                first = i;
            }
        }
        if !repeated.is_empty() {
            let mut i = 0..;
            self.entries.retain(|_| i.next().is_none_or(|i| !repeated.contains(&i)));
        }
        if !self.merged.is_empty() {
            self.merge(faults);
        }
        self.entries
    }

    fn merge(&mut self, faults: &mut Vec<Fault>) {
        let mut known: HashSet<String> = self.entries.iter().map(|(k, _)| k.text.clone()).collect();
        let sources = std::mem::take(&mut self.merged).into_iter().flat_map(|node| match node.value {
            Value::List(items) => items,
            _ => vec![node],
        });
        for source in sources {
            match source.value {
                Value::Map(entries) => {
                    self.entries.extend(entries.into_iter().filter(|(k, _)| known.insert(k.text.clone())));
                }
                _ => faults.push(Fault { place: source.place, kind: FaultKind::BadMerge }),
            }
        }
    }
}

/// The value of a scalar, by YAML's core schema with the words for booleans of YAML 1.1, as kubectl reads it.
fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    match tag.and_then(Tag::core_suffix) {
        Some("str") => return Value::String(text.into_owned()),
        None if style != ScalarStyle::Plain => return Value::String(text.into_owned()),
        _ => {}
    }
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Value::Bool(false),
        t if is_number(t) => Value::Number(text.into_owned()),
        _ => Value::String(text.into_owned()),
    }
}

fn is_number(text: &str) -> bool {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(body, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = body.strip_prefix(prefix) {
            return !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
        }
    }
    // Rust also parses `inf` and `nan`, which YAML does not.
    body.starts_with(|c: char| c.is_ascii_digit() || c == '.') && body.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Result<Node, Fault>> {
        let mut out = Vec::new();
        parse(text, |r| out.push(r));
        out
    }

    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".into(),
            Value::Bool(b) => b.to_string(),
            Value::Number(n) => n.clone(),
            Value::String(s) => format!("{s:?}"),
            Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
            Value::Map(entries) => {
                let entry = |(k, v): &(Key, Node)| format!("{}={}", k.text, show(v));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn values_and_their_places() {
        let docs = all("a: 1\nb:\n  - x\n  - \"2\"\n---\n---\n{\"c\": true}\n");
        let docs: Vec<Node> = docs.into_iter().map(Result::unwrap).collect();
        let shown: Vec<String> = docs.iter().map(show).collect();
        assert_eq!(shown, ["{a=1 b=[\"x\" \"2\"]}", "null", "{c=true}"]);
        let Value::Map(entries) = &docs[0].value else { panic!("a map") };
        assert_eq!(entries[1].0.place, Place { line: 2, column: 1 });
        let Value::List(items) = &entries[1].1.value else { panic!("a list") };
        assert_eq!(items[1].place, Place { line: 4, column: 5 });
        assert_eq!(docs[2].place, Place { line: 7, column: 1 });
    }

    #[test]
    fn aliases_and_merges_are_written_out() {
        let docs = all("base: &b {x: 1, y: 2}\nuse: *b\nmore:\n  <<: *b\n  y: 3\n");
        assert_eq!(show(docs[0].as_ref().unwrap()), "{base={x=1 y=2} use={x=1 y=2} more={y=3 x=1}}");
    }

    #[test]
    fn a_broken_document_does_not_hide_the_next() {
        let docs = all("a: [1\n---\nb: 2\n---\nc: {\n");
        assert_eq!(docs.len(), 3, "{docs:?}");
        assert!(matches!(&docs[0], Err(Fault { kind: FaultKind::Syntax(_), .. })), "{docs:?}");
        assert_eq!(show(docs[1].as_ref().unwrap()), "{b=2}");
        assert!(docs[2].is_err());
    }

    #[test]
    fn duplicate_keys_name_both_places() {
        let docs = all("a: 1\nb: 2\na: 3\n");
        let faults: Vec<&Fault> = docs.iter().filter_map(|d| d.as_ref().err()).collect();
        let first = Place { line: 1, column: 1 };
        let kind = FaultKind::DuplicateKey { key: "a".into(), first };
        assert_eq!(faults, [&Fault { place: Place { line: 3, column: 1 }, kind }]);
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            text += &format!("a{i}: &a{i} [{refs}]\n");
        }
        let docs = all(&text);
        assert!(matches!(&docs[0], Err(Fault { kind: FaultKind::TooManyAliases, .. })), "{:?}", docs[0]);
        let nested = "[".repeat(100_000);
        assert!(matches!(&all(&nested)[0], Err(Fault { kind: FaultKind::Syntax(_), .. })));
        assert!(matches!(&all("a: &a [*a]")[0], Err(Fault { kind: FaultKind::SelfAlias, .. })));
    }

    #[test]
    fn scalars_as_kubectl_sees_them() {
        let docs = all(
            "[80, '80', 0x1F, 1.5, 1e3, .inf, inf, 1.2.3, 10.0.0.1, yes, Off, ~, null, '', !!str 80, v1, 5m, .5, 1_000, +1]",
        );
        let shown = show(docs[0].as_ref().unwrap());
        let expect = "[80 \"80\" 0x1F 1.5 1e3 .inf \"inf\" \"1.2.3\" \"10.0.0.1\" true false null null \"\" \"80\" \"v1\" \"5m\" .5 \"1_000\" +1]";
        assert_eq!(shown, expect);
    }
}
