//! A picture for Graphviz: `supernet plan -o dot | dot -Tsvg`.
//!
//! Namespaces, segments and groups are clusters. Graphviz draws edges between nodes only, so an edge to a cluster
//! goes to a node in it and is cut at the cluster's border (`compound`, `lhead`). It would put all pods of a segment
//! into one row; edges that nobody sees make rows of [`ROW`].

use super::{
    text::clean,
    words::{self, TITLE},
};
use std::{collections::HashMap, fmt::Write};
use supernet_control::analysis::topology::{Area, Group, Id, Open, Topology};

/// Pods side by side.
const ROW: usize = 4;

pub(super) fn draw(t: &Topology) -> String {
    let mut dot = Dot { out: String::new(), depth: 1, heads: HashMap::new() };
    dot.out.push_str("digraph supernet {\n");
    dot.line(
        "graph [compound=true, newrank=true, rankdir=TB, fontname=\"Helvetica\", fontsize=12, labelloc=t, labeljust=l, \
              nodesep=0.15, ranksep=0.45, color=\"#d3dce6\"]",
    );
    dot.line("node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\", fontsize=11, margin=\"0.12,0.06\", \
              color=\"#8796a8\", fillcolor=\"#ffffff\"]");
    dot.line("edge [color=\"#8796a8\", arrowhead=none]");
    let title = quote(&[TITLE.to_owned(), words::description(t)]);
    dot.line(&format!("label={title}"));
    let outside = ["Outside".to_owned(), words::learns(&t.outside)];
    dot.node(t.outside.id, &outside, &words::outside_tip(&t.outside), "style=\"rounded,dashed\"");
    for uplink in &t.uplinks {
        let mut label = vec![clean(&uplink.name)];
        label.extend(uplink.addresses.iter().map(ToString::to_string));
        dot.node(uplink.id, &label, &words::uplink_tip(uplink), "");
        dot.edge(t.outside.id, uplink.id, "");
        dot.edge(uplink.id, t.tier0.id, "");
    }
    let mut label = vec!["Tier-0".to_owned()];
    label.extend(t.tier0.routes.iter().map(words::route));
    let tier0 = "color=\"#1d4674\", fillcolor=\"#1d4674\", fontcolor=\"#ffffff\"";
    dot.node(t.tier0.id, &label, &words::tier0_tip(&t.tier0.routes), tier0);
    for tier1 in &t.tier1s {
        let label = ["Tier-1".to_owned(), words::tier1(tier1)];
        dot.node(tier1.id, &label, &words::tier1_tip(tier1), "color=\"#cfe0f3\", fillcolor=\"#cfe0f3\"");
        dot.edge(t.tier0.id, tier1.id, "");
        for area in &tier1.areas {
            match area {
                Area::Open(open) => dot.open(open, tier1.id),
                Area::Folded(folded) => {
                    let mut label = vec![words::folded(folded)];
                    label.extend(words::folded_lines(folded));
                    let look = "shape=box3d, style=filled, fillcolor=\"#f4f7fa\"";
                    dot.node(folded.id, &label, &words::folded_tip(folded), look);
                    dot.edge(tier1.id, folded.id, "");
                }
            }
        }
    }
    for link in &t.links {
        let lead = "color=\"#c58a26\", arrowhead=normal";
        match dot.heads.get(&link.to).copied() {
            Some(head) => dot.edge(link.from, head, &format!("{lead}, lhead=cluster_{}", link.to.0)),
            // Back up to the outside, which stays at the top.
            None if link.to == t.outside.id => {
                dot.edge(link.from, link.to, &format!("{lead}, constraint=false"));
            }
            None => dot.edge(link.from, link.to, lead),
        }
    }
    dot.out.push_str("}\n");
    dot.out
}

struct Dot {
    out: String,
    depth: usize,
    /// A node in every cluster that edges lead to.
    heads: HashMap<Id, Id>,
}

impl Dot {
    fn line(&mut self, text: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{:1$}{text}", "", self.depth * 2);
    }

    fn node(&mut self, id: Id, label: &[String], tip: &[String], look: &str) {
        let look = if look.is_empty() { String::new() } else { format!(", {look}") };
        self.line(&format!("n{} [label={}, tooltip={}{look}]", id.0, quote(label), quote(tip)));
    }

    fn edge(&mut self, from: Id, to: Id, look: &str) {
        let look = if look.is_empty() { String::new() } else { format!(" [{look}]") };
        self.line(&format!("n{} -> n{}{look}", from.0, to.0));
    }

    fn cluster(
        &mut self,
        id: Id,
        label: &[String],
        tip: &[String],
        look: &str,
        inside: impl FnOnce(&mut Self),
    ) {
        self.line(&format!("subgraph cluster_{} {{", id.0));
        self.depth += 1;
        let label = quote(label);
        self.line(&format!(
            "graph [label={label}, tooltip={}, style=\"rounded,filled\", {look}]",
            quote(tip)
        ));
        inside(self);
        self.depth -= 1;
        self.line("}");
    }

    fn open(&mut self, open: &Open, tier1: Id) {
        let mut label = vec![words::area(open), words::area_counts(open)];
        label.extend(Some(words::snat(open)).filter(|s| !s.is_empty()));
        self.cluster(open.id, &label, &words::area_tip(open), "fillcolor=\"#f4f7fa\"", |dot| {
            // What the Tier-1's edge leads to; above all else in the cluster.
            dot.line(&format!("n{} [shape=point, style=invis, label=\"\"]", open.id.0));
            for server in &open.servers {
                let mut label = vec![clean(&server.name)];
                label.extend(
                    server.listens.iter().map(|l| format!("{} {}", words::kind(l), words::listen(l))),
                );
                label.extend(words::leads(server));
                let look = "color=\"#dfa544\", fillcolor=\"#fff4df\"";
                dot.node(server.id, &label, &words::server_tip(server), look);
                dot.edge(open.id, server.id, "style=invis");
            }
            for segment in &open.segments {
                let mut label = vec![clean(&segment.name)];
                label.extend(words::blocks(segment));
                let tip = words::segment_tip(segment);
                dot.cluster(segment.id, &label, &tip, "fillcolor=\"#ffffff\"", |dot| {
                    if segment.groups.is_empty() {
                        dot.line(&format!(
                            "n{} [label=\"nobody is on it\", shape=plain, style=\"\"]",
                            segment.id.0
                        ));
                        dot.edge(open.id, segment.id, "style=invis");
                    }
                    let mut above = open.id;
                    for group in &segment.groups {
                        above = dot.group(group, above);
                    }
                });
            }
        });
        self.line(&format!("n{} -> n{} [lhead=cluster_{}]", tier1.0, open.id.0, open.id.0));
    }

    /// Draws a group below a node; returns the first node of its last row.
    fn group(&mut self, group: &Group, above: Id) -> Id {
        let border = if group.servers.is_empty() { "penwidth=0" } else { "color=\"#dfa544\"" };
        let look = format!("fillcolor=\"#ffffff\", {border}");
        self.cluster(group.id, &[], &[], &look, |dot| {
            for end in &group.ends {
                let mut label = vec![clean(&end.name)];
                label.extend(end.addresses.iter().map(ToString::to_string));
                let look = "color=\"#e8f0f9\", fillcolor=\"#e8f0f9\"";
                dot.node(end.id, &label, &words::end_tip(end), look);
            }
            for row in group.ends.chunks(ROW) {
                let ids: Vec<String> = row.iter().map(|end| format!("n{}", end.id.0)).collect();
                dot.line(&format!("{{ rank=same; {} }}", ids.join("; ")));
            }
            for (upper, lower) in group.ends.iter().zip(group.ends.iter().skip(ROW)) {
                dot.edge(upper.id, lower.id, "style=invis");
            }
            if let Some(first) = group.ends.first() {
                dot.edge(above, first.id, "style=invis");
            }
        });
        self.heads.extend(group.ends.first().map(|first| (group.id, first.id)));
        group.ends.chunks(ROW).last().and_then(|row| row.first()).map_or(above, |end| end.id)
    }
}

/// A quoted string of so many lines. Graphviz reads escapes and HTML entities in labels, so a backslash and an
/// ampersand have to stand for themselves.
fn quote(lines: &[String]) -> String {
    let mut out = String::from("\"");
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push_str("\\n");
        }
        for c in line.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '&' => out.push_str("&amp;"),
                c => out.push(c),
            }
        }
    }
    out.push('"');
    out
}
