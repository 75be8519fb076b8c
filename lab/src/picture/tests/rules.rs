//! What holds for every picture. Each rule is checked the slow way, on what is drawn.

use crate::picture::{
    Drawing, draw, layout,
    scene::{Anchor, Kind, Shape, Text},
};
use std::collections::BTreeSet;
use supernet_control::analysis::topology::{Area, Topology};

pub(super) fn hold(t: &Topology) -> Result<(), String> {
    let page = layout::page(t);
    boxes_are_apart(&page)?;
    texts_fit(&page)?;
    wires_keep_out_of_boxes(&page)?;
    for drawing in [Drawing::Svg, Drawing::Dot, Drawing::Mermaid] {
        let drawn = draw(t, drawing);
        if drawn != draw(t, drawing) {
            return Err(format!("{drawing:?} differs from itself"));
        }
        match drawing {
            Drawing::Svg => svg_is_xml(&drawn, &page)?,
            Drawing::Dot => dot_is_dot(&drawn, t)?,
            Drawing::Mermaid => mermaid_is_mermaid(&drawn)?,
        }
    }
    Ok(())
}

/// Left, top, right, bottom.
type Rect = (i32, i32, i32, i32);

fn apart(a: Rect, b: Rect) -> bool {
    a.2 <= b.0 || b.2 <= a.0 || a.3 <= b.1 || b.3 <= a.1
}

fn within(inner: Rect, outer: Rect) -> bool {
    inner.0 >= outer.0 && inner.1 >= outer.1 && inner.2 <= outer.2 && inner.3 <= outer.3
}

fn rect(s: &Shape) -> Rect {
    (s.x, s.y, s.x + s.w, s.y + s.h)
}

/// Boxes beside each other do not overlap, and each is in the box that holds it.
fn boxes_are_apart(s: &Shape) -> Result<(), String> {
    for (at, child) in s.children.iter().enumerate() {
        if !within(rect(child), (0, 0, s.w, s.h)) {
            return Err(format!(
                "{:?} {:?} leaves its {:?} {:?}",
                child.kind,
                rect(child),
                s.kind,
                (s.w, s.h)
            ));
        }
        if let Some(other) = s.children[..at].iter().find(|other| !apart(rect(child), rect(other))) {
            let (a, b) = (rect(child), rect(other));
            return Err(format!("{:?} {a:?} overlaps {:?} {b:?}", child.kind, other.kind));
        }
        boxes_are_apart(child)?;
    }
    Ok(())
}

fn extent(t: &Text) -> Rect {
    let (w, size) = (t.font.width(&t.content), t.font.size());
    let x = match t.anchor {
        Anchor::Start => t.x,
        Anchor::End => t.x - w,
    };
    (x, t.y - size * 4 / 5, x + w, t.y + size / 4)
}

/// Every text is in its box, and neither another text nor another box is where it is.
fn texts_fit(s: &Shape) -> Result<(), String> {
    for (at, text) in s.texts.iter().enumerate() {
        let here = extent(text);
        if !within(here, (0, 0, s.w, s.h)) {
            return Err(format!("{:?} {here:?} leaves its {:?} {:?}", text.content, s.kind, (s.w, s.h)));
        }
        if let Some(other) = s.texts[..at].iter().find(|other| !apart(here, extent(other))) {
            return Err(format!("{:?} is written over {:?} in {:?}", text.content, other.content, s.kind));
        }
        if let Some(child) = s.children.iter().find(|child| !apart(here, rect(child))) {
            return Err(format!("{:?} of {:?} is under {:?}", text.content, s.kind, child.kind));
        }
    }
    s.children.iter().try_for_each(texts_fit)
}

/// A wire only enters boxes that hold one of its ends.
fn wires_keep_out_of_boxes(page: &Shape) -> Result<(), String> {
    let mut boxes = Vec::new();
    let mut wires = Vec::new();
    collect(page, (0, 0), &mut boxes, &mut wires);
    for (kind, owner, points) in &wires {
        let ends = [points[0], points[points.len() - 1]];
        for leg in points.windows(2) {
            let ((ax, ay), (bx, by)) = (leg[0], leg[1]);
            if ax != bx && ay != by {
                return Err(format!("a wire of {kind:?} is oblique: {points:?}"));
            }
            // As an area, so that a wire along an edge is outside.
            let leg = (ax.min(bx), ay.min(by), ax.max(bx).max(ax + 1), ay.max(by).max(ay + 1));
            for (other, at) in boxes.iter().filter(|(_, at)| !within(*owner, *at)) {
                let holds = |(x, y): (i32, i32)| x >= at.0 && x <= at.2 && y >= at.1 && y <= at.3;
                if !apart(leg, *at) && !ends.iter().any(|end| holds(*end)) {
                    return Err(format!("a wire of {kind:?} {points:?} runs through {other:?} {at:?}"));
                }
            }
        }
    }
    Ok(())
}

type Wires = Vec<(Kind, Rect, Vec<(i32, i32)>)>;

fn collect(s: &Shape, origin: (i32, i32), boxes: &mut Vec<(Kind, Rect)>, wires: &mut Wires) {
    let (x, y) = (origin.0 + s.x, origin.1 + s.y);
    let at = (x, y, x + s.w, y + s.h);
    boxes.push((s.kind, at));
    for wire in &s.wires {
        wires.push((s.kind, at, wire.points.iter().map(|(px, py)| (x + px, y + py)).collect()));
    }
    s.children.iter().for_each(|child| collect(child, (x, y), boxes, wires));
}

/// It parses, the page has its size, and the texts are those of the scene.
fn svg_is_xml(svg: &str, page: &Shape) -> Result<(), String> {
    let document = roxmltree::Document::parse(svg).map_err(|e| e.to_string())?;
    let root = document.root_element();
    let viewbox = format!("0 0 {} {}", page.w, page.h);
    if root.attribute("viewBox") != Some(&viewbox) {
        return Err("the view is not the page".to_owned());
    }
    let known = ["svg", "title", "desc", "style", "g", "rect", "text", "path"];
    if let Some(other) =
        document.descendants().find(|n| n.is_element() && !known.contains(&n.tag_name().name()))
    {
        return Err(format!("<{}> is none of ours", other.tag_name().name()));
    }
    let mut expected = Vec::new();
    contents(page, &mut expected);
    let texts = document.descendants().filter(|n| n.tag_name().name() == "text");
    let texts: Vec<String> = texts.map(|n| n.text().unwrap_or_default().to_owned()).collect();
    if texts == expected { Ok(()) } else { Err(format!("{texts:?} is not {expected:?}")) }
}

fn contents(s: &Shape, all: &mut Vec<String>) {
    all.extend(s.texts.iter().map(|t| t.content.clone()));
    s.children.iter().for_each(|child| contents(child, all));
}

/// A reader of what we write of Graphviz's grammar: statements on lines, quoted strings, braces in pairs.
fn dot_is_dot(dot: &str, t: &Topology) -> Result<(), String> {
    let mut depth = 0i32;
    let mut nodes = BTreeSet::new();
    let mut used = BTreeSet::new();
    for line in dot.lines() {
        let bare = without_strings(line)?;
        let odd = |c: char| !c.is_ascii_alphanumeric() && !" _[]{}=,;->.".contains(c);
        if let Some(c) = bare.chars().find(|c| odd(*c)) {
            return Err(format!("{c:?} stands outside of a string: {line}"));
        }
        depth += bare.matches('{').count() as i32 - bare.matches('}').count() as i32;
        let words: Vec<&str> = bare.split_whitespace().collect();
        let is_node = |word: &str| word.strip_prefix('n').is_some_and(|id| id.parse::<u32>().is_ok());
        match words.as_slice() {
            [from, "->", to, ..] => used.extend([(*from).to_owned(), (*to).to_owned()]),
            [node, ..] if is_node(node) && !nodes.insert((*node).to_owned()) => {
                return Err(format!("{node} is there twice"));
            }
            _ => {}
        }
    }
    if depth != 0 {
        return Err("braces do not match".to_owned());
    }
    if let Some(missing) = used.iter().find(|node| !nodes.contains(*node)) {
        return Err(format!("{missing} has an edge but no label"));
    }
    let areas = t.tier1s.iter().flat_map(|t| &t.areas);
    let pods = areas.map(|area| match area {
        Area::Open(open) => open.segments.iter().flat_map(|s| &s.groups).map(|g| g.ends.len()).sum(),
        Area::Folded(_) => 0usize,
    });
    if nodes.len() < pods.sum() { Err("pods are missing".to_owned()) } else { Ok(()) }
}

fn without_strings(line: &str) -> Result<String, String> {
    let (mut bare, mut inside, mut chars) = (String::new(), false, line.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => inside = !inside,
            '\\' if inside => match chars.next() {
                Some('n' | '"' | '\\') => {}
                other => return Err(format!("an escape of {other:?}")),
            },
            '&' if inside && !chars.as_str().starts_with("amp;") => return Err("an entity".to_owned()),
            c if !inside => bare.push(c),
            _ => {}
        }
    }
    if inside { Err(format!("a string without end: {line}")) } else { Ok(bare) }
}

/// Every line is one of the statements that we write, with harmless labels.
fn mermaid_is_mermaid(chart: &str) -> Result<(), String> {
    let (_, body) = chart.split_once("\nflowchart TB\n").ok_or("no flowchart")?;
    let mut depth = 0i32;
    for line in body.lines().map(str::trim) {
        let id = |word: &str| {
            word.strip_prefix('n').is_some_and(|id| id.trim_end_matches(['e', 's']).parse::<u32>().is_ok())
        };
        if let Some(at) = line.find("[\"") {
            let (head, rest) = (&line[..at], &line[at + 2..]);
            let (label, tail) = rest.split_once("\"]").ok_or_else(|| format!("no end: {line}"))?;
            let name = head.strip_prefix("subgraph ").unwrap_or(head);
            let tail = tail.strip_prefix(":::").unwrap_or(tail);
            if !id(name) || !tail.chars().all(|c| c.is_ascii_alphanumeric()) {
                return Err(format!("an odd line: {line}"));
            }
            let label = label.replace("<br>", "");
            let odd = |c: char| !c.is_alphanumeric() && !" .,/-:#;".contains(c);
            if label.contains(odd) || label.contains("style") && label.contains(':') {
                return Err(format!("an odd label: {label}"));
            }
            depth += i32::from(head.starts_with("subgraph "));
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["end"] => depth -= 1,
            [from, "---" | "-->" | "~~~", to] if id(from) && id(to) => {}
            ["class", of, _] if id(of) => {}
            ["accTitle:" | "accDescr:" | "classDef", ..] => {}
            _ => return Err(format!("an odd line: {line}")),
        }
    }
    if depth == 0 { Ok(()) } else { Err("subgraphs do not match".to_owned()) }
}
