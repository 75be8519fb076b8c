//! Where the boxes of a topology are.
//!
//! Layers from top to bottom: the outside, the Tier-0 with its uplinks, Tier-1 gateways, and what is behind each.
//! In a namespace, virtual servers stand left of the segments, and the pods of a segment in a grid. All grids have
//! cells of one size, so that they line up across namespaces. Boxes of one layer go into [`columns`]. Wires run in
//! gutters of their own, where no box ever is.

mod area;
mod columns;

use super::{
    scene::{Kind, Shape},
    text::{Font, clean},
    words,
};
use area::Grid;
use columns::Columns;
use supernet_control::analysis::topology::{Area, Outside, Tier0, Tier1, Topology, Uplink};

/// Around the picture.
const MARGIN: i32 = 28;
/// Between boxes of one layer.
const GAP: i32 = 20;
/// Left of a column, for the wire that its boxes hang on.
const GUTTER: i32 = 24;
/// Between layers.
const LAYER: i32 = 32;
/// From a box's edge to what is in it.
const PAD: i32 = 14;
/// Height of a Tier-1.
const TIER1_HEIGHT: i32 = 46;
/// Uplinks in a row.
const UPLINKS: usize = 8;
/// Static routes that are written out.
const ROUTES: usize = 5;

/// The whole picture.
pub(super) fn page(t: &Topology) -> Shape {
    let grid = Grid::of(t);
    let blocks: Vec<Shape> = t.tier1s.iter().map(|tier1| block(tier1, &grid)).collect();
    let sizes: Vec<(i32, i32)> = blocks.iter().map(|b| (b.w, b.h)).collect();
    let tier0 = tier0(&t.tier0, &t.uplinks, outside_width(&t.outside));
    let outside = outside(&t.outside, tier0.w);
    let columns = Columns::of(&sizes);

    let head = MARGIN + 52;
    let description = words::description(t);
    let wide = Font::Title.width(words::TITLE).max(Font::Remark.width(&description).min(900));
    let content = columns.w.max(tier0.w).max(wide);
    let center = MARGIN + content / 2;
    let (outside_y, tier0_y) = (head, head + outside.h + LAYER);
    let tier0_bottom = tier0_y + tier0.h;
    let left = MARGIN + (content - columns.w) / 2;
    let top = tier0_bottom + LAYER + if columns.is_single() { 0 } else { LAYER / 2 };
    let height = if blocks.is_empty() { tier0_bottom } else { top + columns.h };

    let mut page = Shape::new(Kind::Page, content + 2 * MARGIN, height + MARGIN, Vec::new());
    page.write(MARGIN, MARGIN + 16, Font::Title, content, words::TITLE);
    page.write(MARGIN, MARGIN + 36, Font::Remark, content, &description).quiet();
    let tier0_x = center - tier0.w / 2;
    to_uplinks(&mut page, &tier0, tier0_x, outside_y + outside.h, tier0_y);
    hang(&mut page, &columns, (left, top), (center, tier0_bottom));
    page.put(outside, tier0_x, outside_y);
    page.put(tier0, tier0_x, tier0_y);
    for (block, (x, y)) in blocks.into_iter().zip(columns.places) {
        // A block is no box: what is in it stands on the page.
        let (x, y) = (left + x, top + y);
        for wire in block.wires {
            let points: Vec<_> = wire.points.iter().map(|(px, py)| (px + x, py + y)).collect();
            page.wire(wire.leads, &points);
        }
        for child in block.children {
            let (cx, cy) = (child.x + x, child.y + y);
            page.put(child, cx, cy);
        }
    }
    page
}

fn outside_width(outside: &Outside) -> i32 {
    Font::Heading.width("Outside") + Font::Remark.width(&words::learns(outside)) + 3 * PAD
}

fn outside(outside: &Outside, w: i32) -> Shape {
    let mut shape = Shape::new(Kind::Outside, w, TIER1_HEIGHT, words::outside_tip(outside));
    let title = "Outside";
    let after = PAD + Font::Heading.width(title) + PAD;
    shape.write(PAD, 29, Font::Heading, w - 2 * PAD, title);
    shape.write(w - PAD, 29, Font::Remark, w - PAD - after, &words::learns(outside)).quiet().ending_here();
    shape
}

/// The Tier-0: its uplinks at the top, where the outside is, its name and static routes below.
fn tier0(tier0: &Tier0, uplinks: &[Uplink], least_w: i32) -> Shape {
    let lines = uplinks.iter().map(|u| u.addresses.len()).max().unwrap_or(0) as i32;
    let widths = uplinks.iter().flat_map(|u| {
        let addresses = u.addresses.iter().map(|a| Font::Address.width(&a.to_string()));
        addresses.chain([Font::End.width(&clean(&u.name))])
    });
    let (cell_w, cell_h) = (widths.max().unwrap_or(0).clamp(100, 240) + 2 * 10, 29 + 15 * lines);
    let columns = uplinks.len().clamp(1, UPLINKS) as i32;
    let rows = uplinks.len().div_ceil(UPLINKS) as i32;
    let routes: Vec<String> = tier0.routes.iter().map(words::route).collect();
    let shown = if routes.len() > ROUTES + 1 { ROUTES } else { routes.len() };
    let mut notes: Vec<String> = routes[..shown].to_vec();
    if shown < routes.len() {
        notes.push(format!("and {} more", routes.len() - shown));
    }
    let title_w = Font::Title.width("Tier-0") + 2 * PAD;
    let notes_w = notes.iter().map(|n| Font::Address.width(n)).max().unwrap_or(0).min(480);
    let grid_w = columns * (cell_w + GAP) - GAP + 2 * GUTTER;
    let w = grid_w.max(title_w + notes_w + 2 * PAD).max(least_w).max(380);
    let notes_y = PAD + rows * (cell_h + GAP) - if rows == 0 { 0 } else { GAP - PAD };
    let h = notes_y + (notes.len() as i32 * 16).max(24) + PAD - 2;

    let mut shape = Shape::new(Kind::Tier0, w, h, words::tier0_tip(&tier0.routes));
    shape.write(PAD, notes_y + 18, Font::Title, title_w, "Tier-0");
    for (y, note) in (notes_y + 15..).step_by(16).zip(&notes) {
        shape.write(w - PAD, y, Font::Address, w - title_w - 2 * PAD, note).quiet().ending_here();
    }
    let left = (w - columns * (cell_w + GAP) + GAP) / 2;
    for (at, uplink) in (0..).zip(uplinks) {
        let (column, row) = (at % UPLINKS as i32, at / UPLINKS as i32);
        let mut cell = Shape::new(Kind::Uplink, cell_w, cell_h, words::uplink_tip(uplink));
        cell.write(10, 20, Font::End, cell_w - 20, &clean(&uplink.name));
        for (y, address) in (36..).step_by(15).zip(&uplink.addresses) {
            cell.write(10, y, Font::Address, cell_w - 20, &address.to_string()).quiet();
        }
        shape.put(cell, left + column * (cell_w + GAP), PAD + row * (cell_h + GAP));
    }
    shape
}

/// Wires from the outside to the uplinks: from above to those of the first row, and down the gaps to the others.
fn to_uplinks(page: &mut Shape, tier0: &Shape, x: i32, from: i32, to: i32) {
    for (at, uplink) in tier0.children.iter().enumerate() {
        let middle = x + uplink.x + uplink.w / 2;
        if at < UPLINKS {
            page.wire(false, &[(middle, from), (middle, to + uplink.y)]);
        } else {
            let (gap, y) = (x + uplink.x - GAP / 2, to + uplink.y + uplink.h / 2);
            page.wire(false, &[(gap, from), (gap, y), (x + uplink.x, y)]);
        }
    }
}

/// A Tier-1 and what is behind it.
fn block(tier1: &Tier1, grid: &Grid) -> Shape {
    let areas: Vec<Shape> = tier1
        .areas
        .iter()
        .map(|area| match area {
            Area::Open(open) => grid.open(open),
            Area::Folded(folded) => grid.folded(folded),
        })
        .collect();
    let sizes: Vec<(i32, i32)> = areas.iter().map(|a| (a.w, a.h)).collect();
    let columns = Columns::of(&sizes);
    let title = "Tier-1";
    let title_w = Font::Heading.width(title) + 2 * PAD;
    let name = words::tier1(tier1);
    let w = columns.w.max(title_w + Font::Address.width(&name).min(200) + PAD);
    let mut head = Shape::new(Kind::Tier1, w, TIER1_HEIGHT, words::tier1_tip(tier1));
    head.write(PAD, 29, Font::Heading, title_w, title);
    head.write(w - PAD, 29, Font::End, w - title_w - PAD, &name).quiet().ending_here();
    let top = TIER1_HEIGHT + LAYER * 3 / 4;
    let mut block = Shape::new(Kind::Page, w, top + columns.h, Vec::new());
    block.put(head, 0, 0);
    if columns.is_single() {
        let x = columns.w / 2;
        block.wire(false, &[(x, TIER1_HEIGHT), (x, top)]);
    } else {
        columns.hang((0, top), TIER1_HEIGHT, &mut block);
    }
    for (area, (x, y)) in areas.into_iter().zip(columns.places) {
        block.put(area, x, top + y);
    }
    block
}

/// Connects the Tier-0, whose lower edge has its middle at `from`, to the columns that begin at `at`.
fn hang(page: &mut Shape, columns: &Columns, (left, top): (i32, i32), from: (i32, i32)) {
    let Some((first, last)) = columns.span() else { return };
    if columns.is_single() {
        page.wire(false, &[from, (from.0, top)]);
        return;
    }
    let bus = from.1 + LAYER / 2;
    page.wire(false, &[from, (from.0, bus)]);
    page.wire(false, &[((left + first).min(from.0), bus), ((left + last).max(from.0), bus)]);
    columns.hang((left, top), bus, page);
}
