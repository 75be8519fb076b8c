//! Boxes of one layer in columns, and the wires that they hang on.

use super::{GAP, GUTTER};
use crate::picture::scene::Shape;

/// Wanted width to height, in tenths.
const ASPECT: i64 = 15;
/// More columns than this are never tried.
const MOST: usize = 40;
/// Where a wire meets a box whose side it comes to, below the box's top.
const ENTRY: i32 = 23;

/// Boxes in columns, each next one in the shortest.
pub(super) struct Columns {
    pub(super) w: i32,
    pub(super) h: i32,
    /// In the boxes' order.
    pub(super) places: Vec<(i32, i32)>,
    /// The wire of every column, and the heights at which boxes hang on it.
    drops: Vec<(i32, Vec<i32>)>,
}

/// Boxes of one width.
struct Section {
    w: i32,
    /// Positions among all boxes, and heights.
    boxes: Vec<(usize, i32)>,
    /// How high it is in 1, 2, ... columns.
    heights: Vec<i32>,
}

impl Columns {
    /// Boxes of one width, which is to say of one kind, are in columns beside each other. There are so many columns
    /// that the whole is as near to the wanted aspect as can be.
    pub(super) fn of(sizes: &[(i32, i32)]) -> Self {
        let mut sections: Vec<Section> = Vec::new();
        for (at, &(w, h)) in sizes.iter().enumerate() {
            match sections.iter_mut().find(|s| s.w == w) {
                Some(section) => section.boxes.push((at, h)),
                None => sections.push(Section { w, boxes: vec![(at, h)], heights: Vec::new() }),
            }
        }
        for section in &mut sections {
            let most = section.boxes.len().min(MOST);
            section.heights = (1..=most).map(|n| section.height(n)).collect();
        }
        // Every height that one of the sections can have is a height for all.
        let mut heights: Vec<i32> = sections.iter().flat_map(|s| s.heights.clone()).collect();
        heights.sort_unstable();
        heights.dedup();
        // A box alone needs no wire beside it.
        let gutter = if sizes.len() == 1 { 0 } else { GUTTER };
        let tried = heights.into_iter().map(|h| Self::with(&sections, h, gutter, sizes.len()));
        let best = tried.min_by_key(|c| (i64::from(c.w) * 10 - i64::from(c.h) * ASPECT).abs());
        best.unwrap_or(Self { w: 0, h: 0, places: Vec::new(), drops: Vec::new() })
    }

    fn with(sections: &[Section], height: i32, gutter: i32, boxes: usize) -> Self {
        let (mut places, mut drops) = (vec![(0, 0); boxes], Vec::new());
        let (mut x, mut h) = (0, 0);
        for section in sections {
            let fits = section.heights.iter().position(|h| *h <= height);
            let n = fits.map_or(section.heights.len(), |at| at + 1);
            let first = drops.len();
            let step = gutter + section.w + GAP;
            drops.extend((0..n as i32).map(|column| (x + column * step + gutter / 2, Vec::new())));
            section.place(n, |at, own_h, column, y| {
                places[at] = (x + column as i32 * step + gutter, y);
                drops[first + column].1.push(y + ENTRY.min(own_h / 2));
            });
            h = h.max(section.heights[n - 1]);
            x += n as i32 * step;
        }
        Self { w: x - GAP, h, places, drops }
    }

    /// Whether there is one box, which hangs on a wire from above.
    pub(super) fn is_single(&self) -> bool {
        self.places.len() == 1
    }

    /// Where the wires of the first and the last column are.
    pub(super) fn span(&self) -> Option<(i32, i32)> {
        Some((self.drops.first()?.0, self.drops.last()?.0))
    }

    /// Draws a wire down every column's gutter, beginning at some height, with a branch to each of its boxes.
    pub(super) fn hang(&self, (left, top): (i32, i32), from: i32, shape: &mut Shape) {
        for (x, entries) in &self.drops {
            let x = left + x;
            for y in entries {
                shape.wire(false, &[(x, top + y), (x + GUTTER - GUTTER / 2, top + y)]);
            }
            if let Some(last) = entries.last() {
                shape.wire(false, &[(x, from), (x, top + last)]);
            }
        }
    }
}

impl Section {
    fn height(&self, columns: usize) -> i32 {
        let mut height = 0;
        self.place(columns, |_, h, _, y| height = height.max(y + h));
        height
    }

    /// Says of every box which it is, its height, its column and its place in that.
    fn place(&self, columns: usize, mut each: impl FnMut(usize, i32, usize, i32)) {
        let mut next = vec![0; columns];
        for &(at, h) in &self.boxes {
            let (column, y) =
                next.iter().copied().enumerate().min_by_key(|(at, y)| (*y, *at)).unwrap_or((0, 0));
            each(at, h, column, y);
            next[column] = y + h + GAP;
        }
    }
}
