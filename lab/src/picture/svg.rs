//! A picture for browsers: one file, no scripts, no fonts, nothing to fetch.
//!
//! Colours are those of a page in light or dark, as the viewer prefers. Tooltips are `<title>` elements. A viewer
//! that knows nothing of `prefers-color-scheme` shows the light one.

use super::{
    layout,
    scene::{Anchor, Kind, Shape, Text, Wire},
    text::Font,
    words,
};
use std::fmt::Write;
use supernet_control::analysis::topology::Topology;

/// Blue is the network, amber what leads elsewhere. Names begin with `sn-` since styles of a picture in a page are
/// the page's.
const STYLE: &str = "\
.sn{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}
.sn-page{fill:#ffffff}
.sn text{fill:#18222e}
.sn .sn-quiet{fill:#566373}
.sn-title{font-size:18px;font-weight:700}
.sn-heading{font-size:15px;font-weight:700}
.sn-name{font-size:13px;font-weight:700}
.sn-remark{font-size:12px}
.sn-end,.sn-address{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
.sn-end{font-size:12px}
.sn-address{font-size:11px}
.sn-outside{fill:#ffffff;stroke:#8796a8;stroke-dasharray:5 4}
.sn-tier0{fill:#1d4674;stroke:#1d4674}
.sn-tier1{fill:#cfe0f3;stroke:#cfe0f3}
.sn-uplink{fill:#ffffff;stroke:none}
.sn-area,.sn-folded{fill:#f4f7fa;stroke:#d3dce6}
.sn-segment{fill:#ffffff;stroke:#d3dce6}
.sn-served{fill:none;stroke:#dfa544}
.sn-unserved{fill:none;stroke:none}
.sn-box{fill:#e8f0f9;stroke:none}
.sn-server{fill:#fff4df;stroke:#dfa544}
.sn .sn-ontier0{fill:#ffffff}
.sn .sn-ontier0.sn-quiet{fill:#cfdff0}
.sn-wire,.sn-lead{fill:none;stroke:#8796a8;stroke-width:1.5;stroke-linejoin:round}
.sn-lead{stroke:#c58a26;stroke-width:1.25}
.sn-arrow{fill:#c58a26}
@media (prefers-color-scheme:dark){
.sn-page{fill:#10161d}
.sn text{fill:#e6edf4}
.sn .sn-quiet{fill:#9dabba}
.sn-outside{fill:#10161d;stroke:#6d7d8f}
.sn-tier0{fill:#2a5f99;stroke:#2a5f99}
.sn-tier1{fill:#23405f;stroke:#23405f}
.sn-uplink{fill:#10161d}
.sn-area,.sn-folded{fill:#17202a;stroke:#2f3d4c}
.sn-segment{fill:#10161d;stroke:#2f3d4c}
.sn-served{stroke:#a3762c}
.sn-box{fill:#1d2c3c}
.sn-server{fill:#30260f;stroke:#a3762c}
.sn-wire{stroke:#6d7d8f}
.sn-lead{stroke:#d09a3c}
.sn-arrow{fill:#d09a3c}
}
";

pub(super) fn draw(t: &Topology) -> String {
    let page = layout::page(t);
    let (w, h) = (page.w, page.h);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"sn\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" \
         height=\"{h}\" role=\"img\" aria-labelledby=\"supernet-title supernet-desc\">\n\
         <title id=\"supernet-title\">{}</title>\n<desc id=\"supernet-desc\">{}</desc>\n<style>\n{STYLE}</style>\n",
        words::TITLE,
        escape(&words::description(t)),
    );
    body(&page, &mut out);
    out.push_str("</svg>\n");
    out
}

fn shape(s: &Shape, out: &mut String) {
    // Writing to a string cannot fail, here and below.
    let _ = write!(out, "<g transform=\"translate({} {})\">", s.x, s.y);
    if !s.tip.is_empty() {
        let tip: Vec<String> = s.tip.iter().map(|line| escape(line)).collect();
        let _ = write!(out, "<title>{}</title>", tip.join("\n"));
    }
    out.push('\n');
    body(s, out);
    out.push_str("</g>\n");
}

fn body(s: &Shape, out: &mut String) {
    let (class, radius) = look(s.kind);
    let mut rect = |x: i32, y: i32, w: i32, h: i32| {
        let _ = writeln!(
            out,
            "<rect class=\"sn-{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"{radius}\"/>"
        );
    };
    if s.kind == Kind::Folded {
        rect(4, 4, s.w - 4, s.h - 4);
        rect(0, 0, s.w - 4, s.h - 4);
    } else if s.kind != Kind::Unserved {
        rect(0, 0, s.w, s.h);
    }
    s.texts.iter().for_each(|t| text(t, s.kind, out));
    // Wires to uplinks and groups end inside other boxes, so they are above all boxes.
    s.children.iter().for_each(|child| shape(child, out));
    s.wires.iter().for_each(|w| wire(w, out));
}

/// A box's class and the radius of its corners.
fn look(kind: Kind) -> (&'static str, i32) {
    match kind {
        Kind::Page => ("page", 0),
        Kind::Outside => ("outside", 23),
        Kind::Uplink => ("uplink", 5),
        Kind::Tier0 => ("tier0", 10),
        Kind::Tier1 => ("tier1", 8),
        Kind::Area => ("area", 10),
        Kind::Folded => ("folded", 8),
        Kind::Segment => ("segment", 7),
        Kind::Served => ("served", 6),
        Kind::Unserved => ("unserved", 6),
        Kind::End => ("box", 4),
        Kind::Server => ("server", 6),
    }
}

fn text(t: &Text, on: Kind, out: &mut String) {
    let font = match t.font {
        Font::Title => "title",
        Font::Heading => "heading",
        Font::Name => "name",
        Font::End => "end",
        Font::Address => "address",
        Font::Remark => "remark",
    };
    let quiet = if t.quiet { " sn-quiet" } else { "" };
    let on = if on == Kind::Tier0 { " sn-ontier0" } else { "" };
    let anchor = match t.anchor {
        Anchor::Start => "",
        Anchor::End => " text-anchor=\"end\"",
    };
    let content = escape(&t.content);
    let (x, y) = (t.x, t.y);
    let _ =
        writeln!(out, "<text class=\"sn-{font}{quiet}{on}\" x=\"{x}\" y=\"{y}\"{anchor}>{content}</text>");
}

fn wire(w: &Wire, out: &mut String) {
    let class = if w.leads { "lead" } else { "wire" };
    let mut points = w.points.clone();
    let tip = points.last().copied();
    if let (true, Some(last)) = (w.leads, points.last_mut()) {
        // The arrow's point, not the line's end, touches the box.
        last.0 -= 5;
    }
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x} {y}")).collect();
    let _ = writeln!(out, "<path class=\"sn-{class}\" d=\"M{}\"/>", path.join("L"));
    if let (true, Some((x, y))) = (w.leads, tip) {
        let _ = writeln!(out, "<path class=\"sn-arrow\" d=\"M{x} {y}l-7 -3.5v7z\"/>");
    }
}

/// Text that XML takes for nothing else.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
