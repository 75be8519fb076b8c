//! Inside a namespace: virtual servers, then wires, then segments with their pods in a grid.

use super::{GAP, PAD};
use crate::picture::{
    scene::{Kind, Shape},
    text::{Font, clean},
    words,
};
use std::collections::BTreeMap;
use supernet_control::analysis::{
    plan::VirtualServerKind,
    topology::{Area, End, Folded, Group, Listen, Open, Segment, Server, Topology},
};

/// Between pods.
const CELL_GAP: i32 = 8;
/// Between virtual servers.
const SERVER_GAP: i32 = 10;
/// Between a line of an address and the next.
const LINE: i32 = 15;
/// Height of an area's own words.
const HEAD: i32 = 56;
/// Where a server's wire leaves it, and where the first one enters a group, below its top.
const PORT: i32 = 18;
/// Between wires beside each other.
const TRACK: i32 = 8;
/// Wires of more servers than this share their tracks.
const MOST_TRACKS: usize = 12;
/// What a virtual server listens on, in lines, before the rest is only counted.
const LISTENS: usize = 6;
/// Width of "ClusterIP" with what separates it from the address.
const TAG: i32 = 74;
/// Around the cells of a group.
const FRAME: i32 = 8;

/// Sizes that all areas of one picture share.
pub(super) struct Grid {
    cell_w: i32,
    columns: i32,
    server_w: i32,
    /// Between virtual servers and segments.
    gutter: i32,
    tracks: usize,
    folded_w: i32,
}

impl Grid {
    pub(super) fn of(t: &Topology) -> Self {
        let areas = || t.tier1s.iter().flat_map(|t| &t.areas);
        let open: Vec<&Open> = areas()
            .filter_map(|area| match area {
                Area::Open(open) => Some(open),
                Area::Folded(_) => None,
            })
            .collect();
        let ends = open.iter().flat_map(|o| &o.segments).flat_map(|s| &s.groups).flat_map(|g| &g.ends);
        let cell = ends.map(end_width).max().unwrap_or(0).clamp(110, 200) + 2 * 9;
        let most = open.iter().flat_map(|o| &o.segments).map(|s| s.groups.iter().map(|g| g.ends.len()).sum());
        let columns = match most.max().unwrap_or(0usize) {
            0..=2 => 2,
            3..=15 => 3,
            16..=60 => 4,
            61..=200 => 6,
            _ => 10,
        };
        let servers = open.iter().flat_map(|o| &o.servers);
        let server_w = servers.map(server_width).max().map_or(0, |w| w.clamp(140, 300) + 2 * 10);
        let tracks = open.iter().map(|o| o.servers.len()).max().unwrap_or(0).min(MOST_TRACKS);
        let gutter = if tracks == 0 { 0 } else { 24 + TRACK * tracks as i32 };
        let folded = areas().filter_map(|area| match area {
            Area::Folded(folded) => Some(folded_width(folded)),
            Area::Open(_) => None,
        });
        let folded_w = folded.max().unwrap_or(0).clamp(150, 320) + 2 * PAD;
        Self { cell_w: cell, columns, server_w, gutter, tracks, folded_w }
    }

    fn segment_w(&self, columns: i32) -> i32 {
        columns * (self.cell_w + CELL_GAP) - CELL_GAP + 2 * (FRAME + PAD)
    }

    fn area_w(&self) -> i32 {
        PAD + self.server_w + self.gutter + self.segment_w(self.columns) + PAD
    }

    /// Namespaces in one box.
    pub(super) fn folded(&self, folded: &Folded) -> Shape {
        let lines = words::folded_lines(folded);
        let w = self.folded_w;
        // The one behind it shows at the lower and the right edge.
        let (inner, h) = (w - 2 * PAD - 4, 52 + LINE * (lines.len() as i32 - 1) + 10);
        let mut shape = Shape::new(Kind::Folded, w, h, words::folded_tip(folded));
        shape.write(PAD, 25, Font::Heading, inner, &words::folded(folded));
        for (at, (y, line)) in (45..).step_by(LINE as usize).zip(&lines).enumerate() {
            let font = if at == 0 { Font::Remark } else { Font::Address };
            shape.write(PAD, y + i32::from(at > 0) * 2, font, inner, line).quiet();
        }
        shape
    }

    /// A namespace, or the nodes.
    pub(super) fn open(&self, open: &Open) -> Shape {
        let w = self.area_w();
        let mut shape = Shape::new(Kind::Area, w, HEAD, words::area_tip(open));
        let half = (w - 2 * PAD) / 2;
        shape.write(PAD, 27, Font::Heading, half - PAD, &words::area(open));
        shape.write(w - PAD, 26, Font::Address, half, &words::snat(open)).quiet().ending_here();
        shape.write(PAD, 45, Font::Remark, w - 2 * PAD, &words::area_counts(open)).quiet();
        shape.texts.retain(|t| !t.content.is_empty());

        // Without servers the segments have their room too.
        let beside = if open.servers.is_empty() { 0 } else { self.server_w + self.gutter };
        let segment_w = w - 2 * PAD - beside;
        let columns = (segment_w - 2 * (FRAME + PAD) + CELL_GAP) / (self.cell_w + CELL_GAP);
        let mut servers = Column::of(open.servers.iter().map(|s| self.server(s)).collect());
        let mut y = HEAD;
        let mut served = Vec::new();
        for plan in &open.segments {
            let segment = self.segment(plan, (segment_w, columns), y, &mut servers);
            let groups = plan.groups.iter().zip(&segment.children);
            served.extend(groups.map(|(group, s)| Target {
                servers: &group.servers,
                x: PAD + beside + s.x,
                y: y + s.y,
                h: s.h,
            }));
            let h = segment.h;
            shape.put(segment, PAD + beside, y);
            y += h + GAP / 2;
        }
        servers.place_all();
        self.wires(&servers.places, &served, &mut shape);
        let bottom = (y - GAP / 2).max(servers.y - SERVER_GAP);
        for (server, y) in servers.shapes.into_iter().zip(servers.places) {
            shape.put(server, PAD, y);
        }
        shape.h = if shape.children.is_empty() { HEAD + 2 } else { bottom + PAD };
        shape
    }

    /// A segment at some height in its area.
    fn segment(&self, segment: &Segment, (w, columns): (i32, i32), top: i32, servers: &mut Column) -> Shape {
        let lines = words::blocks(segment);
        let mut shape = Shape::new(Kind::Segment, w, 0, words::segment_tip(segment));
        let name = clean(&segment.name);
        let named = Font::Name.width(&name).min(w / 2);
        shape.write(PAD + FRAME, 23, Font::Name, named, &name);
        let x = w - PAD - FRAME;
        for (y, line) in (22..).step_by(LINE as usize).zip(&lines) {
            let room = w - named - 2 * (PAD + FRAME) - PAD;
            shape.write(x, y, Font::Address, room, line).quiet().ending_here();
        }
        let mut y = 34 + LINE * (lines.len() as i32 - 1).max(0);
        if segment.groups.is_empty() {
            shape.write(PAD + FRAME, y + 12, Font::Remark, w - 2 * (PAD + FRAME), "nobody is on it").quiet();
            y += 14;
        }
        for group in &segment.groups {
            // Beside its first server, so that most wires are straight.
            y = group.servers.first().and_then(|s| servers.place(*s, top + y)).map_or(y, |at| at - top);
            let group = self.group(group, w - 2 * PAD, columns);
            let h = group.h;
            shape.put(group, PAD, y);
            y += h + CELL_GAP;
        }
        // Nobody sees where an unserved group ends.
        let last =
            shape.children.last().map_or(CELL_GAP, |g| if g.kind == Kind::Unserved { -FRAME } else { 0 });
        shape.h = y - CELL_GAP + last + PAD;
        for group in shape.children.iter_mut().filter(|g| g.kind == Kind::Unserved) {
            group.h -= FRAME;
        }
        shape
    }

    fn group(&self, group: &Group, w: i32, columns: i32) -> Shape {
        let kind = if group.servers.is_empty() { Kind::Unserved } else { Kind::Served };
        let lines = group.ends.iter().map(lines_of).max().unwrap_or(0);
        let cell_h = 28 + LINE * lines;
        let rows = (group.ends.len() as i32 + columns - 1) / columns;
        let h = rows * (cell_h + CELL_GAP) - CELL_GAP + 2 * FRAME;
        let mut shape = Shape::new(kind, w, h, Vec::new());
        for (at, end) in (0..).zip(&group.ends) {
            let cell = self.end(end, cell_h);
            let (x, y) = (at % columns * (self.cell_w + CELL_GAP), at / columns * (cell_h + CELL_GAP));
            shape.put(cell, FRAME + x, FRAME + y);
        }
        shape
    }

    fn end(&self, end: &End, h: i32) -> Shape {
        let room = self.cell_w - 2 * 9;
        let mut shape = Shape::new(Kind::End, self.cell_w, h, words::end_tip(end));
        shape.write(9, 19, Font::End, room, &clean(&end.name));
        let mut y = 19 + LINE;
        for address in &end.addresses {
            shape.write(9, y, Font::Address, room, &address.to_string()).quiet();
            y += LINE;
        }
        if !end.guests.is_empty() {
            shape.write(9, y, Font::Address, room, &guests(end)).quiet();
        }
        shape
    }

    /// Each server has a track of its own, as long as there are no more than [`MOST_TRACKS`]. Where there is room, a
    /// wire does not enter a group at the height at which another one leaves its server: it would seem to come
    /// from there.
    fn wires(&self, servers: &[i32], targets: &[Target<'_>], area: &mut Shape) {
        let exits: Vec<i32> = servers.iter().map(|y| y + PORT).collect();
        let mut taken: BTreeMap<i32, usize> = exits.iter().enumerate().map(|(at, y)| (*y, at)).collect();
        for target in targets {
            let (top, bottom) = (target.y + PORT, target.y + target.h - 4);
            let step = ((target.h - 2 * PORT) / (target.servers.len() as i32).max(1)).clamp(1, TRACK);
            for (n, &server) in (0..).zip(target.servers) {
                let exit = exits[server];
                let from = (PAD + self.server_w, exit);
                if exit == top {
                    area.wire(true, &[from, (target.x, exit)]);
                    continue;
                }
                let mut y = (top + n * step).min(bottom);
                while y + TRACK / 2 <= bottom && taken.get(&y).is_some_and(|other| *other != server) {
                    y += TRACK / 2;
                }
                taken.insert(y, server);
                // Most wires go down, and cross the least when upper servers have the tracks on the right.
                let track = self.tracks.saturating_sub(1) - server % self.tracks.max(1);
                let x = PAD + self.server_w + 12 + TRACK * track as i32;
                area.wire(true, &[from, (x, exit), (x, y), (target.x, y)]);
            }
        }
    }

    fn server(&self, server: &Server) -> Shape {
        let (listens, leads) = (listens(server), words::leads(server));
        let h = 32 + LINE * (listens.len() + leads.len()) as i32 + 5;
        let mut shape = Shape::new(Kind::Server, self.server_w, h, words::server_tip(server));
        let room = self.server_w - 2 * 10;
        shape.write(10, 22, Font::Name, room, &clean(&server.name));
        let mut y = 24 + LINE;
        for (kind, address) in &listens {
            if !kind.is_empty() {
                shape.write(10, y, Font::Address, TAG - 6, kind).quiet();
            }
            shape.write(10 + TAG, y, Font::Address, room - TAG, address);
            y += LINE;
        }
        for lead in &leads {
            shape.write(10, y + 2, Font::Remark, room, lead).quiet();
            y += LINE;
        }
        shape
    }
}

/// Virtual servers, placed from top to bottom in their order.
struct Column {
    shapes: Vec<Shape>,
    /// Of those that have a place.
    places: Vec<i32>,
    /// Where the next one can be.
    y: i32,
}

impl Column {
    fn of(shapes: Vec<Shape>) -> Self {
        Self { shapes, places: Vec::new(), y: HEAD }
    }

    /// Gives a server a place that is not above `y`, and those before it theirs; `None`: it had one.
    fn place(&mut self, server: usize, y: i32) -> Option<i32> {
        let mut at = None;
        while let Some(next) = self.shapes.get(self.places.len()).filter(|_| self.places.len() <= server) {
            let place = if self.places.len() == server { self.y.max(y) } else { self.y };
            self.places.push(place);
            self.y = place + next.h + SERVER_GAP;
            at = Some(place);
        }
        at
    }

    fn place_all(&mut self) {
        if let Some(last) = self.shapes.len().checked_sub(1) {
            self.place(last, 0);
        }
    }
}

/// A group, where it is in its area.
struct Target<'a> {
    servers: &'a [usize],
    x: i32,
    y: i32,
    h: i32,
}

/// What a server listens on: what the outside reaches comes first.
fn listens(server: &Server) -> Vec<(&'static str, String)> {
    let (inner, outer): (Vec<&Listen>, Vec<&Listen>) =
        server.listens.iter().partition(|l| l.kind == VirtualServerKind::ClusterIP);
    let all: Vec<&Listen> = outer.into_iter().chain(inner).collect();
    let shown = if all.len() > LISTENS + 1 { LISTENS } else { all.len() };
    let mut lines: Vec<_> = all[..shown].iter().map(|l| (words::kind(l), words::listen(l))).collect();
    if shown < all.len() {
        lines.push(("", format!("and {} more", all.len() - shown)));
    }
    lines
}

fn server_width(server: &Server) -> i32 {
    let name = Font::Name.width(&clean(&server.name));
    let listens = listens(server).into_iter().map(|(_, address)| TAG + Font::Address.width(&address));
    let leads = words::leads(server).into_iter().map(|lead| Font::Remark.width(&lead));
    listens.chain(leads).max().unwrap_or(0).max(name)
}

fn end_width(end: &End) -> i32 {
    let addresses = end.addresses.iter().map(|a| Font::Address.width(&a.to_string()));
    let guests = (!end.guests.is_empty()).then(|| Font::Address.width(&guests(end)));
    addresses.chain(guests).max().unwrap_or(0).max(Font::End.width(&clean(&end.name)))
}

fn folded_width(folded: &Folded) -> i32 {
    let lines = words::folded_lines(folded).into_iter().map(|line| Font::Remark.width(&line));
    lines.max().unwrap_or(0).max(Font::Heading.width(&words::folded(folded))) + 4
}

fn lines_of(end: &End) -> i32 {
    end.addresses.len() as i32 + i32::from(!end.guests.is_empty())
}

fn guests(end: &End) -> String {
    format!("host network: {}", words::number(end.guests.len(), "pod"))
}
