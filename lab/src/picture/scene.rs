//! Where everything is: boxes in boxes, texts and wires, in pixels relative to the box they are in.

use super::text::Font;
use std::borrow::Cow;

/// What a box stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Page,
    Outside,
    Uplink,
    Tier0,
    Tier1,
    Area,
    Folded,
    Segment,
    /// A group that virtual servers lead to.
    Served,
    /// A group that none leads to.
    Unserved,
    End,
    Server,
}

/// A box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: Kind,
    pub(super) x: i32,
    pub(super) y: i32,
    pub(super) w: i32,
    pub(super) h: i32,
    /// Lines of its tooltip.
    pub(super) tip: Vec<String>,
    pub(super) texts: Vec<Text>,
    /// Drawn above its children, since they may end in one.
    pub(super) wires: Vec<Wire>,
    pub(super) children: Vec<Shape>,
}

/// Where a text's position is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    End,
}

/// A line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) x: i32,
    /// Its base line.
    pub(super) y: i32,
    pub(super) font: Font,
    pub(super) anchor: Anchor,
    pub(super) quiet: bool,
    pub(super) content: String,
}

/// A line with corners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wire {
    pub(super) points: Vec<(i32, i32)>,
    /// Whether it has an arrow at its end: a virtual server leads there. Others connect gateways.
    pub(super) leads: bool,
}

impl Shape {
    pub(super) fn new(kind: Kind, w: i32, h: i32, tip: Vec<String>) -> Self {
        let (texts, wires, children) = (Vec::new(), Vec::new(), Vec::new());
        Self { kind, x: 0, y: 0, w, h, tip, texts, wires, children }
    }

    /// Puts a box into this one.
    pub(super) fn put(&mut self, mut child: Self, x: i32, y: i32) {
        (child.x, child.y) = (x, y);
        self.children.push(child);
    }

    /// Writes into the box, in no more than so many pixels.
    pub(super) fn write(&mut self, x: i32, y: i32, font: Font, room: i32, content: &str) -> &mut Text {
        let content = match font.shorten(content, room) {
            Cow::Borrowed(whole) => whole.to_owned(),
            Cow::Owned(short) => short,
        };
        let at = self.texts.len();
        self.texts.push(Text { x, y, font, anchor: Anchor::Start, quiet: false, content });
        &mut self.texts[at]
    }

    /// Draws a line in the box.
    pub(super) fn wire(&mut self, leads: bool, points: &[(i32, i32)]) {
        self.wires.push(Wire { points: points.to_vec(), leads });
    }
}

impl Text {
    /// It matters less than what stands beside it.
    pub(super) fn quiet(&mut self) -> &mut Self {
        self.quiet = true;
        self
    }

    /// It ends where it would otherwise begin.
    pub(super) fn ending_here(&mut self) -> &mut Self {
        self.anchor = Anchor::End;
        self
    }
}
