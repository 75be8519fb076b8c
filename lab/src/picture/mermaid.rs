//! A flowchart for Markdown: what GitHub, GitLab and many editors draw between three backticks and `mermaid`.
//!
//! Namespaces, segments and groups are subgraphs. Mermaid reads much inside of labels (Markdown, HTML, directives,
//! entities), so every character that is not known to be harmless is written as an entity.

use super::{text::clean, words};
use std::fmt::Write;
use supernet_control::analysis::topology::{Area, Group, Id, Open, Topology};

/// Labels have their lines from us, and what is in a subgraph is not drawn over its title.
const HEAD: &str = "\
---
config:
  flowchart:
    wrappingWidth: 600
    subGraphTitleMargin:
      top: 8
      bottom: 16
---
flowchart TB
";

/// Pods side by side.
const ROW: usize = 4;

pub(super) fn draw(t: &Topology) -> String {
    let mut chart = Chart { out: String::from(HEAD), depth: 1, classes: Vec::new() };
    chart.line(&format!("accTitle: {}", words::TITLE));
    chart.line(&format!("accDescr: {}", words::description(t)));
    chart.node(t.outside.id, "outside", &["Outside".to_owned(), words::learns(&t.outside)]);
    for uplink in &t.uplinks {
        let mut label = vec![clean(&uplink.name)];
        label.extend(uplink.addresses.iter().map(ToString::to_string));
        chart.node(uplink.id, "uplink", &label);
        chart.edge(t.outside.id, "---", uplink.id);
        chart.edge(uplink.id, "---", t.tier0.id);
    }
    let mut label = vec!["Tier-0".to_owned()];
    label.extend(t.tier0.routes.iter().map(words::route));
    chart.node(t.tier0.id, "tier0", &label);
    for tier1 in &t.tier1s {
        chart.node(tier1.id, "tier1", &["Tier-1".to_owned(), words::tier1(tier1)]);
        chart.edge(t.tier0.id, "---", tier1.id);
        for area in &tier1.areas {
            match area {
                Area::Open(open) => chart.open(open),
                Area::Folded(folded) => {
                    let mut label = vec![words::folded(folded)];
                    label.extend(words::folded_lines(folded));
                    chart.node(folded.id, "folded", &label);
                }
            }
            chart.edge(tier1.id, "---", area.id());
        }
    }
    for link in &t.links {
        chart.edge(link.from, "-->", link.to);
    }
    // An edge to a subgraph makes Mermaid forget the class that it had, so classes come after all edges.
    for (id, class) in std::mem::take(&mut chart.classes) {
        chart.line(&format!("class {id} {class}"));
    }
    for (class, look) in CLASSES {
        chart.line(&format!("classDef {class} {look}"));
    }
    chart.out
}

/// Blue is the network, amber what leads elsewhere; each with its own ink, since a page may be dark.
const CLASSES: [(&str, &str); 11] = [
    ("outside", "fill:#ffffff,stroke:#8796a8,color:#18222e,stroke-dasharray:5 4"),
    ("uplink", "fill:#ffffff,stroke:#1d4674,color:#18222e"),
    ("tier0", "fill:#1d4674,stroke:#1d4674,color:#ffffff"),
    ("tier1", "fill:#cfe0f3,stroke:#8fb2d8,color:#18222e"),
    ("area", "fill:#f4f7fa,stroke:#d3dce6,color:#18222e"),
    ("head", "fill:#f4f7fa,stroke:#f4f7fa,color:#18222e,font-weight:bold"),
    ("folded", "fill:#f4f7fa,stroke:#8796a8,color:#18222e"),
    ("segment", "fill:#ffffff,stroke:#d3dce6,color:#18222e"),
    ("served", "fill:#ffffff,stroke:#dfa544,color:#18222e"),
    ("pod", "fill:#e8f0f9,stroke:#e8f0f9,color:#18222e"),
    ("server", "fill:#fff4df,stroke:#dfa544,color:#18222e"),
];

struct Chart {
    out: String,
    depth: usize,
    /// Of subgraphs.
    classes: Vec<(String, &'static str)>,
}

impl Chart {
    fn line(&mut self, text: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{:1$}{text}", "", self.depth * 2);
    }

    fn node(&mut self, id: Id, class: &str, label: &[String]) {
        self.line(&format!("n{}[{}]:::{class}", id.0, quote(label)));
    }

    fn edge(&mut self, from: Id, arrow: &str, to: Id) {
        self.line(&format!("n{} {arrow} n{}", from.0, to.0));
    }

    /// Mermaid keeps room for one line of a title.
    fn subgraph(&mut self, id: &str, class: &'static str, title: &str, inside: impl FnOnce(&mut Self)) {
        self.line(&format!("subgraph {id}[{}]", quote(&[title.to_owned()])));
        self.depth += 1;
        inside(self);
        self.depth -= 1;
        self.line("end");
        self.classes.push((id.to_owned(), class));
    }

    /// What a namespace is stands in a node of its own: Mermaid would draw a segment over a title.
    fn open(&mut self, open: &Open) {
        let mut label = vec![words::area(open), words::area_counts(open)];
        label.extend(Some(words::snat(open)).filter(|s| !s.is_empty()));
        self.subgraph(&format!("n{}s", open.id.0), "area", " ", |chart| {
            chart.node(open.id, "head", &label);
            for server in &open.servers {
                let mut label = vec![clean(&server.name)];
                label.extend(
                    server.listens.iter().map(|l| format!("{} {}", words::kind(l), words::listen(l))),
                );
                label.extend(words::leads(server));
                chart.node(server.id, "server", &label);
                chart.edge(open.id, "~~~", server.id);
            }
            for segment in &open.segments {
                let title = format!("{}: {}", clean(&segment.name), words::blocks(segment).join(", "));
                chart.edge(open.id, "~~~", segment.id);
                chart.subgraph(&format!("n{}", segment.id.0), "segment", &title, |chart| {
                    if segment.groups.is_empty() {
                        // A subgraph without nodes would be a node, and its label would be in the middle.
                        chart.line(&format!("n{}e[\"nobody is on it\"]", segment.id.0));
                    }
                    segment.groups.iter().for_each(|group| chart.group(group));
                });
            }
        });
    }

    /// A group that no server leads to needs no frame.
    fn group(&mut self, group: &Group) {
        if group.servers.is_empty() {
            return self.ends(group);
        }
        self.subgraph(&format!("n{}", group.id.0), "served", " ", |chart| chart.ends(group));
    }

    fn ends(&mut self, group: &Group) {
        for end in &group.ends {
            let mut label = vec![clean(&end.name)];
            label.extend(end.addresses.iter().map(ToString::to_string));
            self.node(end.id, "pod", &label);
        }
        for (upper, lower) in group.ends.iter().zip(group.ends.iter().skip(ROW)) {
            self.edge(upper.id, "~~~", lower.id);
        }
    }
}

/// A quoted label of so many lines.
fn quote(lines: &[String]) -> String {
    // Mermaid takes `style...:...#...;` for a statement, even in a label, and drops its semicolon.
    let is_colon_safe = !lines.iter().any(|line| line.contains("style") || line.contains("classDef"));
    let mut out = String::from("\"");
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push_str("<br>");
        }
        for c in line.chars() {
            match c {
                ':' if is_colon_safe => out.push(c),
                ' ' | '.' | ',' | '/' | '-' => out.push(c),
                c if c.is_alphanumeric() => out.push(c),
                c => {
                    let _ = write!(out, "#{};", u32::from(c));
                }
            }
        }
    }
    out.push('"');
    out
}
